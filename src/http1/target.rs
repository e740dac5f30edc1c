//! Request targets in origin form (RFC 9112 §3.2.1), and hosts.

use std::borrow::Cow;

use http::uri::{Authority, PathAndQuery};
use http::{Extensions, HeaderValue, Uri};

use crate::net::local::is_loopback;

/// A request target as it came, where a [`Uri`] cannot hold it: browsers and scripts send some characters as they are that
/// RFC 3986 wants encoded. Found in a request's extensions; the request's URI then holds them encoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawTarget(String);

/// Reads a target in origin form. Nothing in it is decoded, encoded or merged on its way: what a [`Uri`] cannot hold comes
/// beside it. `None` when it is none: a fragment never travels, and parties disagree on where a path with one ends.
pub fn parse_target(target: &str) -> Option<(PathAndQuery, Option<RawTarget>)> {
    let is_odd = |byte: u8| byte <= b' ' || byte == b'#' || byte == 0x7f;
    if !target.starts_with('/') || target.bytes().any(is_odd) {
        return None;
    }
    match target.parse() {
        Ok(path) => Some((path, None)),
        Err(_) => Some((encoded(target).parse().ok()?, Some(RawTarget(target.to_owned())))),
    }
}

/// With what a [`Uri`] does not take percent-encoded.
fn encoded(target: &str) -> String {
    let mut out = String::with_capacity(target.len() + 16);
    for c in target.chars() {
        match c {
            '"' | '<' | '>' | '`' => out.push_str(&format!("%{:02X}", u32::from(c))),
            other => out.push(other),
        }
    }
    out
}

/// The target of a request as it came.
pub fn target<'a>(uri: &'a Uri, extensions: &'a Extensions) -> &'a str {
    raw_target(extensions).unwrap_or_else(|| uri.path_and_query().map_or("/", PathAndQuery::as_str))
}

/// The target as it came, where a [`Uri`] cannot hold it.
pub fn raw_target(extensions: &Extensions) -> Option<&str> {
    extensions.get::<RawTarget>().map(|RawTarget(target)| target.as_str())
}

/// Most bytes of a path that are logged: strangers choose how long it is.
const SHOWN_PATH_MAX: usize = 500;

/// A path as the log shows it: cut where it is very long.
pub fn shown_path(path: &str) -> Cow<'_, str> {
    if path.len() <= SHOWN_PATH_MAX {
        return path.into();
    }
    let cut = (0..=SHOWN_PATH_MAX).rev().find(|index| path.is_char_boundary(*index)).unwrap_or(0);
    format!("{}…", &path[..cut]).into()
}

/// Whether this is a host, perhaps with a port, and no more (RFC 9110 §7.2).
pub fn is_host(bytes: &[u8]) -> bool {
    let is_name = |host: &[u8]| !host.contains(&b'@') && Authority::try_from(host).is_ok();
    let port_at = match bytes.first() {
        Some(b'[') => bytes.iter().position(|&byte| byte == b']').map(|end| end + 1),
        _ if bytes.contains(&b'[') => None,
        _ => bytes.iter().position(|&byte| byte == b':').or(Some(bytes.len())),
    };
    let Some((host, port)) = port_at.map(|at| bytes.split_at(at)) else { return false };
    is_name(host) && (port.is_empty() || is_port(&port[1..]) && port[0] == b':')
}

/// Whether a `Host` names this machine by an address of loopback or as `localhost`. A page in a browser whose own name was
/// made to lead here sends that name.
pub fn names_loopback(host: &HeaderValue) -> bool {
    let Ok(authority) = Authority::try_from(host.as_bytes()) else { return false };
    is_loopback(authority.host())
}

/// A port as RFC 3986 §3.2.3 has it, which may be empty, and no larger than ports are.
fn is_port(digits: &[u8]) -> bool {
    let is_number = digits.iter().all(u8::is_ascii_digit);
    let number = || std::str::from_utf8(digits).ok()?.parse::<u16>().ok();
    is_number && (digits.is_empty() || number().is_some())
}

/// Whether there is a host, and no port or one from 1 to 65535. [`http::Uri`] takes any text for a port, and then says
/// that there is none.
pub fn has_host_and_port(authority: &http::uri::Authority) -> bool {
    let after_host = authority.as_str().strip_prefix(authority.host()).unwrap_or_default();
    !authority.host().is_empty()
        && (after_host.is_empty() || authority.port_u16().is_some_and(|port| port != 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_path_is_cut_in_the_log() {
        assert_eq!(shown_path(&format!("/{}", "a".repeat(499))), format!("/{}", "a".repeat(499)));
        assert_eq!(shown_path(&format!("/{}", "é".repeat(300))), format!("/{}…", "é".repeat(249)));
    }

    #[test]
    fn targets_are_kept_byte_for_byte() {
        for text in [
            "/",
            "//",
            "///",
            "//x/y",
            "/a//b",
            "/?",
            "/a?b=c&d=//e",
            "/@evil",
            "/a/../b",
            "/%2e%2e/x",
            "/%zz%",
            "/{id}|é",
            "/:80",
            "/a\"b",
            "/a?q=\"x\"",
            "/a<b>",
            "/a`b",
            "/?<a>",
            "/?{\"a\":1}",
            "/größe/✓?q=ß",
            "/a\\b",
            "/a?x=^`|{}",
            "/a;b=c",
        ] {
            let (path, raw) = parse_target(text).unwrap_or_else(|| panic!("{text}"));
            let mut extensions = Extensions::new();
            raw.map(|raw| extensions.insert(raw));
            let uri = Uri::from(path);
            assert_eq!(target(&uri, &extensions), text);
            assert_eq!((uri.scheme(), uri.authority()), (None, None), "{text}");
        }
        for text in [
            "",
            "*",
            "x",
            "?q",
            "http://x/",
            "/a b",
            "/a#b",
            "/#",
            "/a?b#c",
            "/\0",
            "/\u{7f}",
            "/\t",
            "/\r\n",
        ] {
            assert_eq!(parse_target(text), None, "{text:?}");
        }
    }

    #[test]
    fn hosts_have_a_port_that_there_can_be() {
        for host in ["x", "x:80", "x:", "[::1]", "[::1]:8080", "127.0.0.1:65535", "exa_mple.test", "x:080"] {
            assert!(is_host(host.as_bytes()), "{host}");
        }
        for host in [
            "", "x:99999", "x:65536", "x:abc", "x:-1", "x:+1", "[::1]x", "[::1", "a[b]", "u@x", "a b", "a/b",
            "a?b", "a#b", "x:80:80", "<a>",
        ] {
            assert!(!is_host(host.as_bytes()), "{host}");
        }
    }
}
