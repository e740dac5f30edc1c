//! Addresses as people type them: a port alone means this machine.

use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// The URL of a local server that was typed as `8000`, `:8000` or `host:8000`. What has a scheme stays as it is.
pub(crate) fn local_url(text: &str) -> Cow<'_, str> {
    if text.contains("://") || is_socket(text) {
        return text.into();
    }
    let (authority, path) = text.split_at(text.find('/').unwrap_or(text.len()));
    match host_and_port(authority) {
        Some(("", port)) => format!("http://127.0.0.1:{port}{path}").into(),
        Some((host, port)) => format!("http://{host}:{port}{path}").into(),
        None => text.into(),
    }
}

/// Whether a word is the address of a local server, and cannot be anything else.
#[cfg_attr(not(feature = "cli"), allow(dead_code, reason = "words are typed"))]
pub(crate) fn is_local(text: &str) -> bool {
    let scheme = text.split_once("://").map(|(scheme, _)| scheme.to_ascii_lowercase());
    let authority = text.split('/').next().unwrap_or_default();
    matches!(scheme.as_deref(), Some("http" | "https"))
        || is_socket(text)
        || host_and_port(authority).is_some()
}

/// Whether a text names a Unix socket.
pub(crate) fn is_socket(text: &str) -> bool {
    text.get(..5).is_some_and(|scheme| scheme.eq_ignore_ascii_case("unix:"))
}

/// The URL of a gateway, of which visitors may know it by another scheme: `https://` means `wss://`.
pub(crate) fn gateway_url(text: &str) -> Cow<'_, str> {
    let Some((scheme, rest)) = text.split_once("://") else { return text.into() };
    match scheme.to_ascii_lowercase().as_str() {
        "https" => format!("wss://{rest}").into(),
        "http" => format!("ws://{rest}").into(),
        _ => text.into(),
    }
}

/// An address to listen at: an IP address and a port, or `3000`, `:3000` or `localhost:3000` for this machine alone.
pub(crate) fn listen(text: &str) -> Result<SocketAddr, &'static str> {
    match host_and_port(text) {
        Some(("" | "localhost", port)) => Ok(SocketAddr::new(LOCALHOST, port)),
        _ => text
            .parse()
            .map_err(|_| "expected an IP address and a port up to 65535, such as 127.0.0.1:9180, or a port"),
    }
}

/// Host and port of `host:8000`, with an empty host of `:8000` or `8000`.
fn host_and_port(text: &str) -> Option<(&str, u16)> {
    let (host, port) = text.rsplit_once(':').unwrap_or(("", text));
    let is_of_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.');
    let v6 = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let is_host = host.bytes().all(is_of_name) || v6.is_some_and(|v6| v6.parse::<Ipv6Addr>().is_ok());
    let is_number = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    let port = port.parse().ok().filter(|_| is_number)?;
    is_host.then_some((host, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_alone_means_this_machine() {
        for (typed, url) in [
            ("8000", "http://127.0.0.1:8000"),
            (":8000", "http://127.0.0.1:8000"),
            ("localhost:8000", "http://localhost:8000"),
            ("10.0.0.7:80", "http://10.0.0.7:80"),
            ("[::1]:8000", "http://[::1]:8000"),
            ("localhost:8000/app", "http://localhost:8000/app"),
            ("8000/app", "http://127.0.0.1:8000/app"),
            ("HTTP://localhost:8000", "HTTP://localhost:8000"),
            ("https://localhost:8443/app", "https://localhost:8443/app"),
            ("unix:/run/app.sock", "unix:/run/app.sock"),
            ("unix:/run/app.sock:/base", "unix:/run/app.sock:/base"),
        ] {
            assert_eq!(local_url(typed), url);
            assert!(is_local(typed), "{typed}");
        }
        let others = [
            "auto",
            "check",
            "agent_550e8400_prod",
            "65536",
            "",
            ":",
            "x:",
            "a/b:1",
            "-1",
            "s3cret",
            "u@h:1",
            "[junk]:8000",
        ];
        for other in others {
            assert!(!is_local(other), "{other}");
            assert_eq!(local_url(other), other);
        }
        let at = |text: &str| listen(text).map(|address| address.to_string());
        for typed in ["3000", ":3000", "localhost:3000", "127.0.0.1:3000"] {
            assert_eq!(at(typed).as_deref(), Ok("127.0.0.1:3000"));
        }
        assert_eq!(at("0.0.0.0:3000").as_deref(), Ok("0.0.0.0:3000"));
        assert_eq!(at("[::]:3000").as_deref(), Ok("[::]:3000"));
        assert!(at("example.org:3000").is_err() && at("127.0.0.1").is_err());
    }

    #[test]
    fn a_gateway_is_meant_by_the_url_that_its_visitors_use() {
        assert_eq!(gateway_url("https://gw.example/x"), "wss://gw.example/x");
        assert_eq!(gateway_url("HTTP://gw.example"), "ws://gw.example");
        assert_eq!(gateway_url("wss://gw.example"), "wss://gw.example");
    }
}
