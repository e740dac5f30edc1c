//! A request's head, and what it means for the framing of its body.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::uri::Uri;
use http::{Method, Request, StatusCode, Version};
use httparse::Status;

use super::body::{Framing, has_bare_line_feed};
use super::server::{Error, bad};
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
    /// Whether the client wants to send another request after this one.
    pub keep_alive: bool,
}

/// Reads a head and its length. `None` when it is not complete yet.
pub(super) fn parse(bytes: &[u8]) -> Result<Option<(usize, Head)>, Error> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut parsed = httparse::Request::new(&mut headers);
    let length = match parsed.parse(bytes) {
        Ok(Status::Complete(length)) if length <= HEAD_MAX => length,
        Ok(Status::Complete(_)) | Err(httparse::Error::TooManyHeaders) => {
            return Err(Error::Refused(
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
                "too many or too long headers",
            ));
        }
        Ok(Status::Partial) => return Ok(None),
        Err(httparse::Error::Version) => {
            return Err(Error::Refused(StatusCode::HTTP_VERSION_NOT_SUPPORTED, "only HTTP/1.0 and HTTP/1.1"));
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
    *request.headers_mut() = header_map(parsed.headers).map_err(bad)?;
    set_target(&mut request, parsed.path.unwrap_or_default())?;
    let framing = framing(request.version(), request.headers())?;
    let expects_continue = request.version() == Version::HTTP_11
        && has_token(request.headers(), &header::EXPECT, "100-continue");
    let keep_alive = wants_keep_alive(&request);
    Ok(Some((length, Head { request, framing, expects_continue, keep_alive })))
}

/// What httparse found as a map, or what HTTP does not allow in it.
pub(super) fn header_map(parsed: &[httparse::Header<'_>]) -> Result<HeaderMap, &'static str> {
    let mut headers = HeaderMap::with_capacity(parsed.len());
    for header in parsed {
        let name =
            HeaderName::from_bytes(header.name.as_bytes()).map_err(|_| "a header name is not a token")?;
        let value =
            HeaderValue::from_bytes(header.value).map_err(|_| "a header value holds a control character")?;
        headers.append(name, value);
    }
    Ok(headers)
}

/// Takes the origin form, and the absolute form, whose authority stands for the `Host` header (RFC 9112
/// §3.2.2).
fn set_target(request: &mut Request<()>, target: &str) -> Result<(), Error> {
    const WHAT: Error = bad("the request target is neither a path nor a URL");
    let hosts = request.headers().get_all(header::HOST).iter().count();
    if hosts > 1 || (hosts == 0 && request.version() == Version::HTTP_11) {
        return Err(bad("not exactly one Host header"));
    }
    if request.method() == Method::CONNECT {
        return Err(Error::Refused(StatusCode::NOT_IMPLEMENTED, "CONNECT cannot be forwarded"));
    }
    let path = if target.starts_with('/') {
        target.parse().map_err(|_| WHAT)?
    } else {
        let url: Uri = target.parse().map_err(|_| WHAT)?;
        let (Some(_), Some(authority)) = (url.scheme(), url.authority()) else { return Err(WHAT) };
        let host = HeaderValue::from_str(authority.as_str()).map_err(|_| WHAT)?;
        request.headers_mut().insert(header::HOST, host);
        url.path_and_query().cloned().ok_or(WHAT)?
    };
    *request.uri_mut() = Uri::from(path);
    Ok(())
}

/// RFC 9112 §6.3, with everything ambiguous refused.
fn framing(version: Version, headers: &HeaderMap) -> Result<Framing, Error> {
    let mut lengths = headers.get_all(header::CONTENT_LENGTH).iter();
    let length = lengths.next();
    if lengths.next().is_some() {
        return Err(bad("more than one Content-Length"));
    }
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    match (codings.next(), codings.next()) {
        (None, _) => {}
        (Some(_), _) if length.is_some() => return Err(bad("both Content-Length and Transfer-Encoding")),
        (Some(_), _) if version == Version::HTTP_10 => return Err(bad("Transfer-Encoding in HTTP/1.0")),
        (Some(coding), None) if coding.as_bytes().eq_ignore_ascii_case(b"chunked") => {
            return Ok(Framing::Chunked);
        }
        _ => return Err(Error::Refused(StatusCode::NOT_IMPLEMENTED, "a transfer coding other than chunked")),
    }
    let Some(length) = length else { return Ok(Framing::Length(0)) };
    number(length).map(Framing::Length).ok_or(bad("Content-Length is not a number"))
}

/// Whether a value is digits and nothing else: `u64` would take a plus sign too.
pub(super) fn is_number(value: &HeaderValue) -> bool {
    !value.is_empty() && value.as_bytes().iter().all(u8::is_ascii_digit)
}

/// The number that a value like that of `Content-Length` states.
pub fn number(value: &HeaderValue) -> Option<u64> {
    value.to_str().ok().filter(|_| is_number(value))?.parse().ok()
}

fn wants_keep_alive(request: &Request<()>) -> bool {
    let says = |token| has_token(request.headers(), &header::CONNECTION, token);
    if request.version() == Version::HTTP_10 { says("keep-alive") && !says("close") } else { !says("close") }
}

/// Whether a header that is a list of tokens holds this one.
pub fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    let values = headers.get_all(name).iter();
    values
        .flat_map(|value| value.as_bytes().split(|&b| b == b','))
        .any(|item| item.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Option<(usize, Head)>, Error> {
        super::parse(text.as_bytes())
    }

    #[track_caller]
    fn refused(text: &str, status: u16) {
        match parse(text) {
            Err(Error::Refused(got, _)) => assert_eq!(got, status, "{text:?}"),
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
        for coding in [
            "gzip, chunked",
            "identity",
            "chunked, chunked",
            "xchunked",
            "chunked\r\nTransfer-Encoding: chunked",
        ] {
            refused(&format!("POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: {coding}\r\n\r\n"), 501);
        }
        refused("GET / HTTP/1.1\nHost: x\r\n\r\n", 400);
        refused("GET / HTTP/1.1\r\nHost: x\n\r\n", 400);
        refused("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", 400);
        refused("GET / HTTP/1.1\r\n\r\n", 400);
        refused("GET / HTTP/2.0\r\nHost: x\r\n\r\n", 505);
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
    }

    #[test]
    fn keep_alive_depends_on_the_version() {
        assert!(head("GET / HTTP/1.1\r\nHost: x\r\n\r\n").keep_alive);
        assert!(!head("GET / HTTP/1.1\r\nHost: x\r\nConnection: x, Close\r\n\r\n").keep_alive);
        assert!(!head("GET / HTTP/1.0\r\n\r\n").keep_alive);
        assert!(head("GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n").keep_alive);
    }
}
