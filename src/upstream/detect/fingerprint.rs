//! The fingerprint of a local server: name, title, framework.

use std::io::Read;
use std::net::SocketAddr;

use http::Method;
use http::header::{HeaderMap, HeaderName, HeaderValue, SERVER, SET_COOKIE};

use super::LocalServer;
use crate::protocol::{X_TUNNEL_SEARCH, X_TUNNEL_SOURCE};
use crate::service::{Body, Request, Service};
use crate::upstream::origin::Origin;

/// Longest `Server` that is shown, in characters: the width of its column.
const SERVER_MAX: usize = 28;

/// Longest title that is shown, in characters.
const TITLE_MAX: usize = 40;

/// Bytes of a page that are searched for its title, at most.
const PAGE_MAX: usize = 64 << 10;

/// The fingerprint of the server at an address. `None` when it does not speak HTTP, or is a part of a tunnel.
pub(super) fn identify(origin: &Origin, address: SocketAddr) -> Option<LocalServer> {
    let request = |method| {
        let mut request = Request::new(Body::empty());
        *request.method_mut() = method;
        request.headers_mut().insert(X_TUNNEL_SEARCH, HeaderValue::from_static("1"));
        origin.call(request)
    };
    let head = request(Method::HEAD).ok()?;
    if head.headers().contains_key(X_TUNNEL_SOURCE) {
        // A gateway, with or without an agent behind it, or an agent's own page.
        return None;
    }
    let page = request(Method::GET).ok();
    let headers = page.as_ref().map_or(head.headers(), |page| page.headers()).clone();
    let page = page.map(|page| first_bytes(page.into_body())).unwrap_or_default();
    let text = String::from_utf8_lossy(&page);
    Some(LocalServer {
        address,
        status: head.status(),
        server: headers
            .get(SERVER)
            .map(|value| shown(&String::from_utf8_lossy(value.as_bytes()), SERVER_MAX)),
        title: title(&text),
        framework: framework(&headers, &text),
    })
}

fn first_bytes(body: Body) -> Vec<u8> {
    let mut bytes = Vec::new();
    // Where it breaks off, what came before will do.
    let _ = body.take(PAGE_MAX as u64).read_to_end(&mut bytes);
    bytes
}

fn title(page: &str) -> Option<String> {
    // Upper and lower case of ASCII have the same length.
    let lower = page.to_ascii_lowercase();
    let start = lower.find("<title")?;
    let start = start + lower[start..].find('>')? + 1;
    let end = start + lower[start..].find("</title")?;
    let title = page[start..end].split_whitespace().collect::<Vec<_>>().join(" ");
    let title = shown(&title, TITLE_MAX);
    (!title.is_empty()).then_some(title)
}

/// A text as it is shown on one line of a terminal: without characters that command a terminal or turn a line round.
fn shown(text: &str, max: usize) -> String {
    let is_unseen = |c: &char| {
        let marks = matches!(c, '\u{ad}' | '\u{61c}' | '\u{feff}' | '\u{e0000}'..='\u{e007f}');
        marks || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}')
    };
    text.chars().filter(|c| !c.is_control() && !is_unseen(c)).take(max).collect()
}

/// The framework that a server is probably made with, by its headers and its page.
fn framework(headers: &HeaderMap, page: &str) -> Option<&'static str> {
    let has = |name: HeaderName, text: &str| {
        headers.get_all(name).iter().any(|value| String::from_utf8_lossy(value.as_bytes()).contains(text))
    };
    const POWERED_BY: HeaderName = HeaderName::from_static("x-powered-by");
    let cookie = |name: &str| has(SET_COOKIE, name);
    let guesses = [
        (cookie("laravel_session=") || (cookie("XSRF-TOKEN=") && cookie("_session=")), "Laravel"),
        (page.contains("/@vite/client"), "Vite"),
        (has(POWERED_BY, "Next.js"), "Next.js"),
        (has(POWERED_BY, "Express"), "Express"),
        (cookie("csrftoken=") || has(SERVER, "WSGIServer"), "Django"),
        (headers.contains_key("x-runtime") && headers.contains_key("x-request-id"), "Rails"),
        (page.contains("/wp-content/"), "WordPress"),
        (has(POWERED_BY, "PHP") || cookie("PHPSESSID="), "PHP"),
        (has(SERVER, "SimpleHTTP"), "Python http.server"),
    ];
    guesses.into_iter().find(|(fits, _)| *fits).map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_title_is_one_short_line() {
        for (page, expected) in [
            ("<html><head><TITLE lang=en>\n My\t site </Title>", Some("My site")),
            ("<title>a\u{1b}[31mb</title>", Some("a[31mb")),
            ("<title>\u{202e}txt.exe</title>", Some("txt.exe")),
            ("<title>a\u{200b}\u{feff}\u{61c}\u{e0041}b</title>", Some("ab")),
            ("<title>\u{1}</title>", None),
            ("<title></title>", None),
            ("<title>never ends", None),
            ("none", None),
        ] {
            assert_eq!(title(page).as_deref(), expected, "{page}");
        }
        assert_eq!(title(&format!("<title>{}</title>", "é".repeat(100))).unwrap().chars().count(), TITLE_MAX);
    }

    #[test]
    fn frameworks_are_known_by_what_they_say() {
        for (headers, page, expected) in [
            (&[("set-cookie", "laravel_session=x"), ("x-powered-by", "PHP/8.3")][..], "", Some("Laravel")),
            (&[("set-cookie", "XSRF-TOKEN=x"), ("set-cookie", "shop_session=y")], "", Some("Laravel")),
            (&[("x-powered-by", "PHP/8.3")], "", Some("PHP")),
            (&[], "<script src=\"/@vite/client\">", Some("Vite")),
            (&[("set-cookie", "csrftoken=x")], "", Some("Django")),
            (&[("x-runtime", "0.1"), ("x-request-id", "1")], "", Some("Rails")),
            (&[("server", "nginx")], "", None),
        ] {
            let mut map = HeaderMap::new();
            for (name, value) in headers {
                map.append(*name, HeaderValue::from_static(value));
            }
            assert_eq!(framework(&map, page), expected, "{headers:?}");
        }
    }
}
