//! A request's head, and what it means for the framing of its body.

use std::borrow::Cow;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::uri::Uri;
use http::{Method, Request, StatusCode, Version};
use httparse::Status;
use tungstenite::Bytes;

use super::decode::{Framing, has_bare_line_feed};
use super::error::{RequestError, bad};
use super::fields::{has_token, number};
use super::target::{is_host, parse_target};
use super::{HEAD_MAX, HEADERS_MAX};

/// A request's head, and how its body is framed.
#[derive(Debug)]
pub struct Head {
    /// Method, path and headers, as the client sent them.
    pub request: Request<()>,
    /// The framing of the body; never [`Framing::UntilEnd`].
    pub framing: Framing,
    /// Whether the client waits to be told that it may send its body.
    pub expects_continue: bool,
    /// Whether the client may send another request behind this one.
    pub persistence: Persistence,
}

/// Whether a connection may carry another request (RFC 9112 §9.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Persistence {
    /// It may.
    KeepAlive,
    /// It is closed.
    Close,
}

impl From<bool> for Persistence {
    /// `true` is [`KeepAlive`](Persistence::KeepAlive).
    fn from(is_persistent: bool) -> Self {
        if is_persistent { Persistence::KeepAlive } else { Persistence::Close }
    }
}

impl Persistence {
    /// Keeps a connection only where both keep it.
    #[must_use]
    pub fn and(self, other: Persistence) -> Persistence {
        if self == Persistence::KeepAlive { other } else { self }
    }
}

/// Reads a head and its length. `None` when it is not complete yet.
pub(super) fn parse(bytes: &[u8]) -> Result<Option<(usize, Head)>, RequestError> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut parsed = httparse::Request::new(&mut headers);
    let length = match parsed.parse(bytes) {
        Ok(Status::Complete(length)) if length <= HEAD_MAX => length,
        Ok(Status::Complete(_)) | Err(httparse::Error::TooManyHeaders) => {
            return Err(RequestError::Refused(
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
                "too many or too long headers",
            ));
        }
        Ok(Status::Partial) => return Ok(None),
        // A blank too many moves the version out of its place.
        Err(httparse::Error::Version) if blanks(bytes) == 2 => {
            return Err(RequestError::Refused(
                StatusCode::HTTP_VERSION_NOT_SUPPORTED,
                "only HTTP/1.0 and HTTP/1.1",
            ));
        }
        Err(_) => return Err(bad("not an HTTP/1.1 request")),
    };
    if has_bare_line_feed(&bytes[..length]) {
        return Err(bad("a line that ends without a carriage return"));
    }
    let mut request = Request::new(());
    *request.version_mut() = if parsed.version == Some(0) { Version::HTTP_10 } else { Version::HTTP_11 };
    *request.method_mut() = Method::from_bytes(parsed.method.unwrap_or_default().as_bytes())
        .map_err(|_| bad("the method is not a token"))?;
    let kept = Bytes::copy_from_slice(&bytes[..length]);
    *request.headers_mut() = header_map(parsed.headers, bytes, &kept).map_err(bad)?;
    set_target(&mut request, parsed.path.unwrap_or_default())?;
    let framing = framing(request.version(), request.headers())?;
    let expects_continue = request.version() == Version::HTTP_11
        && has_token(request.headers(), &header::EXPECT, "100-continue");
    let persistence = persistence(&request);
    Ok(Some((length, Head { request, framing, expects_continue, persistence })))
}

/// Blanks in the first line.
fn blanks(bytes: &[u8]) -> usize {
    bytes.iter().take_while(|&&byte| byte != b'\n').filter(|&&byte| byte == b' ').count()
}

/// The fields that httparse found in these bytes as a map, or the fault that HTTP does not allow. The values are parts of
/// `kept`, which is the same bytes: they share its memory.
pub(super) fn header_map(
    parsed: &[httparse::Header<'_>],
    bytes: &[u8],
    kept: &Bytes,
) -> Result<HeaderMap, &'static str> {
    let mut headers = HeaderMap::with_capacity(parsed.len());
    for header in parsed {
        let name =
            HeaderName::from_bytes(header.name.as_bytes()).map_err(|_| "a header name is not a token")?;
        let start = header.value.as_ptr().addr() - bytes.as_ptr().addr();
        let value = kept.slice(start..start + header.value.len());
        let value =
            HeaderValue::from_maybe_shared(value).map_err(|_| "a header value holds a control character")?;
        headers.append(name, value);
    }
    Ok(headers)
}

/// Takes the origin form, and the absolute form, whose authority stands for the `Host` header (RFC 9112
/// §3.2.2).
fn set_target(request: &mut Request<()>, target: &str) -> Result<(), RequestError> {
    const WHAT: RequestError = bad("the request target is neither a path nor a URL");
    let hosts = request.headers().get_all(header::HOST).iter().count();
    if hosts > 1 || (hosts == 0 && request.version() == Version::HTTP_11) {
        return Err(bad("not exactly one Host header"));
    }
    if request.method() == Method::CONNECT {
        return Err(RequestError::Refused(StatusCode::NOT_IMPLEMENTED, "CONNECT cannot be forwarded"));
    }
    // Also where the target's takes its place. An empty one is that of a request without an authority (RFC 9110 §7.2).
    let host = request.headers().get(header::HOST).map(http::HeaderValue::as_bytes).unwrap_or_default();
    if !host.is_empty() && !is_host(host) {
        return Err(bad("the Host header is no host and port"));
    }
    let path = match target.split_once("://") {
        Some((scheme, rest)) if !target.starts_with('/') => {
            Cow::Borrowed(absolute(scheme, rest, request).ok_or(WHAT)?)
        }
        _ if target.starts_with('/') => Cow::Borrowed(target),
        _ => return Err(WHAT),
    };
    if request.method() == Method::OPTIONS && path.is_empty() {
        // It asks about the server, as `*` does (RFC 9112 §3.2.4), and not about any page.
        return Err(WHAT);
    }
    let path = if path.starts_with('/') { path } else { Cow::Owned(format!("/{path}")) };
    let (path, raw) = parse_target(&path).ok_or(WHAT)?;
    *request.uri_mut() = Uri::from(path);
    raw.map(|raw| request.extensions_mut().insert(raw));
    Ok(())
}

/// Takes the authority out of a target behind its scheme, for the `Host` header. Returns the path.
fn absolute<'a>(scheme: &str, rest: &'a str, request: &mut Request<()>) -> Option<&'a str> {
    let is_scheme = ["http", "https"].iter().any(|known| scheme.eq_ignore_ascii_case(known));
    let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    if !is_scheme || !is_host(authority.as_bytes()) {
        return None;
    }
    request.headers_mut().insert(header::HOST, HeaderValue::from_str(authority).ok()?);
    Some(path)
}

/// RFC 9112 §6.3, with everything ambiguous refused.
fn framing(version: Version, headers: &HeaderMap) -> Result<Framing, RequestError> {
    let mut lengths = headers.get_all(header::CONTENT_LENGTH).iter();
    let length = lengths.next();
    if lengths.next().is_some() {
        return Err(bad("more than one Content-Length"));
    }
    if headers.contains_key(header::TRANSFER_ENCODING) {
        return match length {
            Some(_) => Err(bad("both Content-Length and Transfer-Encoding")),
            None if version == Version::HTTP_10 => Err(bad("Transfer-Encoding in HTTP/1.0")),
            None => coded(headers),
        };
    }
    let Some(length) = length else { return Ok(Framing::Length(0)) };
    number(length).map(Framing::Length).ok_or(bad("Content-Length is not a number"))
}

/// The framing by transfer codings, of which the last must be chunked, and be it once (RFC 9112 §6.1, §6.3).
fn coded(headers: &HeaderMap) -> Result<Framing, RequestError> {
    let values = headers.get_all(header::TRANSFER_ENCODING).iter();
    let codings =
        values.flat_map(|value| value.as_bytes().split(|&byte| byte == b',')).map(<[u8]>::trim_ascii);
    let is_chunked: Vec<bool> = codings.map(|coding| coding.eq_ignore_ascii_case(b"chunked")).collect();
    match is_chunked.split_last() {
        Some((true, [])) => Ok(Framing::Chunked),
        Some((true, others)) if !others.contains(&true) => {
            Err(RequestError::Refused(StatusCode::NOT_IMPLEMENTED, "a transfer coding beside chunked"))
        }
        _ => Err(bad("Transfer-Encoding does not end with chunked, once")),
    }
}

fn persistence(request: &Request<()>) -> Persistence {
    let says = |token| has_token(request.headers(), &header::CONNECTION, token);
    let is_persistent = !says("close") && (request.version() == Version::HTTP_11 || says("keep-alive"));
    Persistence::from(is_persistent)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Option<(usize, Head)>, RequestError> {
        super::parse(text.as_bytes())
    }

    #[track_caller]
    fn refused(text: &str, status: u16) {
        match parse(text) {
            Err(RequestError::Refused(got, _)) => assert_eq!(got, status, "{text:?}"),
            other => panic!("{text:?}: {other:?}"),
        }
    }

    #[track_caller]
    fn head(text: &str) -> Head {
        let (length, head) = parse(text).unwrap().unwrap();
        assert_eq!(length, text.len());
        head
    }

    #[test]
    fn a_head_is_read_when_it_is_complete() {
        let text = "POST /a?b=c HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nX-A: 2\r\nX-A: 1\r\n\r\n";
        for end in 0..text.len() {
            assert!(parse(&text[..end]).unwrap().is_none(), "{end}");
        }
        let head = head(text);
        assert_eq!(head.request.uri(), "/a?b=c");
        assert_eq!(head.framing, Framing::Length(5));
        assert_eq!(head.request.headers().get_all("x-a").iter().collect::<Vec<_>>(), ["2", "1"]);
    }

    #[test]
    fn what_can_be_read_in_two_ways_is_refused() {
        for headers in [
            "Content-Length: 5\r\nContent-Length: 5",
            "Content-Length: 5, 5",
            "Content-Length: +5",
            "Content-Length: 5 5",
            "Content-Length: -1",
            "Content-Length: 0x5",
            "Content-Length: ",
            "Content-Length: 99999999999999999999",
            "Content-Length: 5\r\nTransfer-Encoding: chunked",
            "Host: y",
            "X y: z",
            "X : y",
            "X: a\r\n folded",
            "X: \0",
        ] {
            refused(&format!("POST / HTTP/1.1\r\nHost: x\r\n{headers}\r\n\r\n"), 400);
        }
        for (coding, status) in [
            ("gzip, chunked", 501),
            ("gzip\r\nTransfer-Encoding: chunked", 501),
            ("identity", 400),
            ("chunked, chunked", 400),
            ("chunked, gzip", 400),
            ("chunked;q=1", 400),
            ("\"chunked\"", 400),
            ("", 400),
            ("xchunked", 400),
            ("chunked\r\nTransfer-Encoding: chunked", 400),
        ] {
            refused(&format!("POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: {coding}\r\n\r\n"), status);
        }
        refused("GET / HTTP/1.1\nHost: x\r\n\r\n", 400);
        refused("GET / HTTP/1.1\r\nHost: x\n\r\n", 400);
        refused("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", 400);
        refused("GET / HTTP/1.1\r\n\r\n", 400);
        refused("GET / HTTP/2.0\r\nHost: x\r\n\r\n", 505);
        refused("GET /a b HTTP/1.1\r\nHost: x\r\n\r\n", 400);
        for target in [
            "/a#x",
            "/#",
            "/a?b#c",
            "http://x/a#b",
            "http://x:abc/",
            "http://x:99999/",
            "ftp://x/",
            "http://",
        ] {
            refused(&format!("GET {target} HTTP/1.1\r\nHost: x\r\n\r\n"), 400);
        }
        for host in ["x:99999", "x:abc", "u@x", "[::1]x", "a b"] {
            refused(&format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"), 400);
        }
        refused("GET nowhere HTTP/1.1\r\nHost: x\r\n\r\n", 400);
        refused("OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", 400);
        refused("CONNECT x:80 HTTP/1.1\r\nHost: x\r\n\r\n", 501);
        refused(&format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(129)), 431);
    }

    #[test]
    fn without_framing_headers_there_is_no_body() {
        assert_eq!(head("POST / HTTP/1.1\r\nHost: x\r\n\r\n").framing, Framing::Length(0));
        assert_eq!(head("GET / HTTP/1.0\r\n\r\n").framing, Framing::Length(0));
        let chunked = head("DELETE / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: Chunked\r\n\r\n");
        assert_eq!(chunked.framing, Framing::Chunked);
    }

    #[test]
    fn the_absolute_form_names_the_host() {
        let head = head("GET http://example.org:81/a?b HTTP/1.1\r\nHost: other\r\n\r\n");
        assert_eq!(
            (head.request.uri().to_string().as_str(), &head.request.headers()["host"]),
            ("/a?b", &HeaderValue::from_static("example.org:81"))
        );
        for (target, path) in [
            ("http://example.org", "/"),
            ("http://example.org?q", "/?q"),
            ("HTTP://example.org//x", "//x"),
            ("http://example.org/?u=http://x/", "/?u=http://x/"),
        ] {
            let head = self::head(&format!("GET {target} HTTP/1.1\r\nHost: other\r\n\r\n"));
            assert_eq!(head.request.uri(), path, "{target}");
            assert_eq!(head.request.headers()["host"], "example.org");
        }
        assert_eq!(
            self::head("GET /?u=http://x/ HTTP/1.1\r\nHost: other\r\n\r\n").request.headers()["host"],
            "other"
        );
    }

    #[test]
    fn keep_alive_depends_on_the_version() {
        assert_eq!(head("GET / HTTP/1.1\r\nHost: x\r\n\r\n").persistence, Persistence::KeepAlive);
        assert_eq!(
            head("GET / HTTP/1.1\r\nHost: x\r\nConnection: x, Close\r\n\r\n").persistence,
            Persistence::Close
        );
        assert_eq!(head("GET / HTTP/1.0\r\n\r\n").persistence, Persistence::Close);
        assert_eq!(
            head("GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n").persistence,
            Persistence::KeepAlive
        );
    }
}
