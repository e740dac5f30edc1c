//! The rules of HTTP for a request, and the limits of its size. Pure; for both ways in which a request comes.

use http::header::{self, HeaderMap, HeaderName, HeaderValue, InvalidHeaderValue};
use http::uri::PathAndQuery;
use http::{Method, Uri};
use tungstenite::Bytes;

use super::refusal::Refusal;
use crate::http1::{
    FORWARDED_HEADER_BYTES_MAX, FORWARDED_HEADERS_MAX, FORWARDED_LINE_MAX, RawTarget, is_host, parse_target,
};
use crate::mux::RequestHead;
use crate::protocol::{RequestMessage, X_TUNNEL_SEARCH};
use crate::service::{Body, Request};

/// Turns a message into a request that HTTP allows, or says why it is none.
pub(crate) fn validate(message: RequestMessage<'_>, body_max: usize) -> Result<Request, Refusal> {
    let method = method(&message.method)?;
    let (path, raw) = path(&message.path)?;
    let pairs = message.headers.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes()));
    let headers = headers(pairs, HeaderValue::from_bytes)?;
    if message.body.len() > body_max {
        return Err(Refusal::BodyTooLarge(body_max as u64));
    }
    let mut request = Request::new(Body::from(message.body));
    *request.method_mut() = method;
    *request.uri_mut() = Uri::from(path);
    *request.headers_mut() = headers;
    raw.map(|raw| request.extensions_mut().insert(raw));
    Ok(request)
}

/// Turns the head of a stream into one that HTTP allows, or says why it is none. Its body is still to come.
pub(crate) fn validate_head(head: &RequestHead<'_>) -> Result<http::request::Parts, Refusal> {
    let (mut parts, ()) = http::Request::new(()).into_parts();
    parts.method = method(head.method)?;
    let (path, raw) = path(head.target)?;
    parts.uri = Uri::from(path);
    raw.map(|raw| parts.extensions.insert(raw));
    let pairs = head.headers.iter().map(|(name, value)| (name.as_bytes(), value));
    parts.headers = headers(pairs, |value: &Bytes| HeaderValue::from_maybe_shared(value.clone()))?;
    Ok(parts)
}

fn method(name: &str) -> Result<Method, Refusal> {
    match Method::from_bytes(name.as_bytes()) {
        Ok(Method::CONNECT) => Err(Refusal::MethodNotSupported),
        Ok(method) => Ok(method),
        Err(_) => Err(Refusal::bad_request("the method is not a token (RFC 9110 §9.1)")),
    }
}

/// Takes a request target in origin form (RFC 9112 §3.2.1) and nothing else.
fn path(target: &str) -> Result<(PathAndQuery, Option<RawTarget>), Refusal> {
    const WHAT: &str =
        "the path does not begin with /, or holds a blank, a # or a control character (RFC 9112 §3.2.1)";
    if target.len() > FORWARDED_LINE_MAX {
        return Err(Refusal::PathTooLong);
    }
    parse_target(target).ok_or(Refusal::bad_request(WHAT))
}

fn headers<'a, V: AsRef<[u8]> + ?Sized + 'a>(
    pairs: impl ExactSizeIterator<Item = (&'a [u8], &'a V)> + Clone,
    value_of: impl Fn(&'a V) -> Result<HeaderValue, InvalidHeaderValue>,
) -> Result<HeaderMap, Refusal> {
    let lengths = || pairs.clone().map(|(name, value)| name.len() + value.as_ref().len());
    let too_long = lengths().any(|length| length > FORWARDED_LINE_MAX);
    if too_long
        || pairs.len() > FORWARDED_HEADERS_MAX
        || lengths().sum::<usize>() > FORWARDED_HEADER_BYTES_MAX
    {
        return Err(Refusal::HeadersTooLarge);
    }
    let mut headers = HeaderMap::with_capacity(pairs.len());
    for (name, value) in pairs {
        let name = HeaderName::from_bytes(name)
            .map_err(|_| Refusal::bad_request("a header name is not a token (RFC 9110 §5.1)"))?;
        let value = value_of(value)
            .map_err(|_| Refusal::bad_request("a header value holds a control character (RFC 9110 §5.5)"))?;
        headers.append(name, value);
    }
    if headers.contains_key(X_TUNNEL_SEARCH) {
        return Err(Refusal::bad_request("a search for local servers does not go through a tunnel"));
    }
    check_host(&headers)?;
    Ok(headers)
}

/// RFC 9112 §3.2: more than one `Host`, or an invalid one, is answered 400.
fn check_host(headers: &HeaderMap) -> Result<(), Refusal> {
    let mut hosts = headers.get_all(header::HOST).iter();
    let Some(host) = hosts.next() else { return Ok(()) };
    if hosts.next().is_some() {
        return Err(Refusal::bad_request("more than one Host header"));
    }
    let valid = host.is_empty() || is_host(host.as_bytes());
    if valid { Ok(()) } else { Err(Refusal::bad_request("the Host header is no host and port")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message<'a>(method: &'a str, path: &'a str, headers: &[(&'a str, &'a str)]) -> RequestMessage<'a> {
        RequestMessage {
            id: None,
            method: method.into(),
            path: path.into(),
            headers: headers.iter().map(|&(name, value)| (name.into(), value.into())).collect(),
            body: b"body".to_vec(),
            names_encoding: false,
        }
    }

    #[track_caller]
    fn refused(message: RequestMessage<'_>) -> &'static str {
        validate(message, 4).unwrap_err().code()
    }

    #[test]
    fn paths_that_are_not_origin_form_are_refused() {
        let paths = [
            "",
            "*",
            "x",
            "?q",
            "http://evil/",
            "\\\\evil\\",
            "/a b",
            "/a\r\nHost: x",
            "/a\0",
            "/a\u{7f}",
            "/a\tb",
            "/a#b",
            "evil:80",
            "@evil/",
            " /",
            "/\u{1}",
        ];
        for path in paths {
            assert_eq!(refused(message("GET", path, &[])), "bad_request", "{path:?}");
        }
    }

    #[test]
    fn paths_in_origin_form_pass_unchanged() {
        for path in [
            "/",
            "/a//b",
            "//evil/",
            "///",
            "/?",
            "/a?b=c&d=//e",
            "/@evil",
            "/a/../b",
            "/%2e%2e/x",
            "/{id}|é",
            "/:80",
        ] {
            let request = validate(message("GET", path, &[]), 4).unwrap();
            assert_eq!(request.uri().path_and_query().unwrap().as_str(), path);
            assert_eq!((request.uri().scheme(), request.uri().authority()), (None, None));
        }
    }

    #[test]
    fn any_token_is_a_method_but_connect() {
        for method in ["GET", "get", "PROPFIND", "M-SEARCH", "x!"] {
            assert!(validate(message(method, "/", &[]), 4).is_ok(), "{method}");
        }
        assert_eq!(refused(message("CONNECT", "/", &[])), "method_not_supported");
        for method in ["", "G T", "GET\r\n", "GÉT", "GET/"] {
            assert_eq!(refused(message(method, "/", &[])), "bad_request", "{method:?}");
        }
    }

    #[test]
    fn header_names_and_values_that_http_does_not_allow_are_refused() {
        for (name, value) in [
            ("", "x"),
            ("a b", "x"),
            ("a:", "x"),
            ("é", "x"),
            ("a\r\nb", "x"),
            ("a", "x\r\ny: z"),
            ("a", "\0"),
            ("a", "\u{7f}"),
            ("host", "a b"),
            ("host", "a@b"),
            ("host", "a/b"),
            ("host", "a:99999"),
        ] {
            assert_eq!(refused(message("GET", "/", &[(name, value)])), "bad_request", "{name:?}: {value:?}");
        }
        assert_eq!(refused(message("GET", "/", &[("host", "a"), ("Host", "b")])), "bad_request");
    }

    #[test]
    fn header_order_repeats_and_utf8_are_kept() {
        let pairs = [("X-A", "2"), ("x-a", "1"), ("Host", "localhost:8000"), ("x-b", "é")];
        let request = validate(message("GET", "/", &pairs), 4).unwrap();
        let values: Vec<_> = request.headers().get_all("x-a").iter().collect();
        assert_eq!(values, ["2", "1"]);
        assert_eq!(request.headers()["x-b"].as_bytes(), "é".as_bytes());
    }

    #[test]
    fn limits_are_refused_by_name() {
        let mut large = message("POST", "/", &[]);
        large.body = b"fiver".to_vec();
        assert_eq!(refused(large), "body_too_large");
        let many = vec![("a", "b"); FORWARDED_HEADERS_MAX + 1];
        assert_eq!(refused(message("GET", "/", &many)), "headers_too_large");
        let long = "x".repeat(FORWARDED_LINE_MAX);
        assert_eq!(refused(message("GET", "/", &[("a", &long)])), "headers_too_large");
        let pairs = [("a", &long[1..]), ("b", &long[1..])];
        assert!(validate(message("GET", "/", &pairs), 4).is_ok());
        let pairs = [("a", &long[1..]), ("b", &long[1..]), ("c", &long[1..])];
        assert_eq!(refused(message("GET", "/", &pairs)), "headers_too_large");
        assert_eq!(refused(message("GET", &format!("/{long}"), &[])), "path_too_long");
    }
}
