//! A response's head, as a client reads it, and what it means for the framing of its body.

use std::fmt;

use http::header;
use http::{Extensions, Method, Response, StatusCode, Version};
use httparse::Status;
use tungstenite::Bytes;

use super::decode::Framing;
use super::fields::{has_token, number};
use super::head::{Persistence, header_map};
use super::{HEAD_MAX, HEADERS_MAX};

/// A response's head, and how its body is framed.
#[derive(Debug)]
pub struct ResponseHead {
    /// Status, version and headers, as the server sent them.
    pub response: Response<()>,
    /// The framing of the body.
    pub framing: Framing,
    /// Whether the connection can carry another request.
    pub persistence: Persistence,
}

/// Why bytes are no response's head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BadResponse {
    /// It is longer than [`HEAD_MAX`], or has more headers than [`HEADERS_MAX`].
    TooLarge,
    /// It is no HTTP/1.1; the text says what is wrong.
    Invalid(&'static str),
}

impl fmt::Display for BadResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BadResponse::TooLarge => {
                write!(f, "the head has more than {HEADERS_MAX} headers or {} KiB", HEAD_MAX >> 10)
            }
            BadResponse::Invalid(what) => f.write_str(what),
        }
    }
}

impl std::error::Error for BadResponse {}

impl ResponseHead {
    /// Judges the head of a response to a request with this method: how its body is framed, and whether another response
    /// may follow.
    pub fn judge(response: Response<()>, method: &Method) -> Result<Self, BadResponse> {
        let framing = framing(&response, method)?;
        let says = |token| has_token(response.headers(), &header::CONNECTION, token);
        let asked = if response.version() == Version::HTTP_10 { says("keep-alive") } else { true };
        let is_persistent =
            asked && !says("close") && framing != Framing::UntilEnd && is_unambiguous(&response);
        Ok(ResponseHead { response, framing, persistence: Persistence::from(is_persistent) })
    }
}

/// Mends the head of a response at the beginning of what was received, once it is complete: what clients overlook and a
/// strict parser refuses. A control character becomes a blank (RFC 9110 §5.5), and a blank before a colon goes behind it
/// (RFC 9112 §5.1).
pub fn mend_head(received: &mut [u8]) -> Result<(), BadResponse> {
    let HeadScan { length, lines, looks_odd } = scan(received);
    // A status line before the fields, and an empty line behind them.
    let is_too_large = lines > HEADERS_MAX + 2 || length.unwrap_or(received.len()) > HEAD_MAX;
    if is_too_large {
        return Err(BadResponse::TooLarge);
    }
    if let Some(length) = length.filter(|_| looks_odd) {
        let head = &mut received[..length];
        head.split_mut(|byte| *byte == b'\n').skip(1).for_each(mend_colon);
        head.iter_mut().filter(|byte| is_control(**byte)).for_each(|byte| *byte = b' ');
    }
    Ok(())
}

/// The part of a head that has come.
struct HeadScan {
    /// Its length with the empty line, if that has come.
    length: Option<usize>,
    /// The number of its lines so far.
    lines: usize,
    /// Whether there is a control character, or a blank before a colon.
    looks_odd: bool,
}

/// Looks at each byte of a head once.
fn scan(received: &[u8]) -> HeadScan {
    let (mut lines, mut looks_odd) = (0, false);
    let (mut start, mut last) = (0, 0);
    for (at, &byte) in received.iter().enumerate() {
        match byte {
            b'\n' => {
                lines += 1;
                if at == start || (at == start + 1 && last == b'\r') {
                    return HeadScan { length: Some(at + 1), lines, looks_odd };
                }
                start = at + 1;
            }
            b':' => looks_odd |= matches!(last, b' ' | b'\t'),
            byte => looks_odd |= is_control(byte),
        }
        last = byte;
    }
    HeadScan { length: None, lines, looks_odd }
}

/// Moves the blanks before the first colon of a line behind it.
fn mend_colon(line: &mut [u8]) {
    let Some(colon) = line.iter().position(|byte| *byte == b':') else { return };
    let name = line[..colon].trim_ascii_end().len();
    if 0 < name && name < colon {
        line[name] = b':';
        line[name + 1..=colon].fill(b' ');
    }
}

/// Whether a byte is a control character that no line ends with, or seems to.
fn is_control(byte: u8) -> bool {
    matches!(byte, 1..=8 | 0x0b | 0x0c | 0x0e..=0x1f | 0x7f)
}

/// Whether a head is that of an interim response, which a final one follows (RFC 9110 §15.2).
pub fn is_interim(head: &[u8]) -> bool {
    let code = head.get(9..12);
    code.is_some_and(|code| code[0] == b'1' && code != b"101")
}

/// Records the reason phrase of a head that begins like this, where it is not the usual one of the status.
pub fn keep_reason(extensions: &mut Extensions, status: StatusCode, head: &[u8]) {
    let reason = reason_of(head);
    if reason != status.canonical_reason().unwrap_or_default().as_bytes() {
        extensions.insert(Reason(reason.to_vec()));
    }
}

/// Reads the head of a response of at most `max` bytes, and its length. `None` when it is not complete yet.
pub fn parse_response(bytes: &Bytes, max: usize) -> Result<Option<(usize, Response<()>)>, BadResponse> {
    match parse_as_it_is(bytes, max) {
        Err(BadResponse::Invalid(ODD_BYTES)) => parse_as_it_is(&without_controls(bytes), max),
        other => other,
    }
}

/// Why a head may be read after all, without its control characters.
const ODD_BYTES: &str = "a header value holds a control character";

/// With a blank in the place of each control character (RFC 9110 §5.5).
fn without_controls(bytes: &[u8]) -> Bytes {
    bytes.iter().map(|&byte| if is_control(byte) { b' ' } else { byte }).collect()
}

fn parse_as_it_is(bytes: &Bytes, max: usize) -> Result<Option<(usize, Response<()>)>, BadResponse> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut parsed = httparse::Response::new(&mut headers);
    // A blank before the colon is to be removed (RFC 9112 §5.1).
    let mut config = httparse::ParserConfig::default();
    config.allow_spaces_after_header_name_in_responses(true);
    let length = match config.parse_response(&mut parsed, bytes) {
        Ok(Status::Complete(length)) if length <= max => length,
        Ok(Status::Partial) if bytes.len() <= max => return Ok(None),
        Ok(_) | Err(httparse::Error::TooManyHeaders) => return Err(BadResponse::TooLarge),
        Err(httparse::Error::Version) => {
            return Err(BadResponse::Invalid("its version is not 1.0 or 1.1"));
        }
        Err(httparse::Error::HeaderValue | httparse::Error::Status) => {
            return Err(BadResponse::Invalid(ODD_BYTES));
        }
        Err(_) => return Err(BadResponse::Invalid("its head cannot be read")),
    };
    let mut response = Response::new(());
    let version = if parsed.version == Some(0) { Version::HTTP_10 } else { Version::HTTP_11 };
    *response.version_mut() = version;
    *response.status_mut() = StatusCode::from_u16(parsed.code.unwrap_or_default())
        .map_err(|_| BadResponse::Invalid("no such status"))?;
    *response.headers_mut() = header_map(parsed.headers, bytes, bytes).map_err(BadResponse::Invalid)?;
    let status = response.status();
    keep_reason(response.extensions_mut(), status, &bytes[..length]);
    Ok(Some((length, response)))
}

/// A reason phrase that is not the usual one of its status (RFC 9112 §4). Found in a response's extensions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reason(pub(super) Vec<u8>);

/// The reason phrase in a head that is known to be one: what httparse does not give when it is no ASCII.
fn reason_of(head: &[u8]) -> &[u8] {
    let line = head.split(|&byte| byte == b'\n').next().unwrap_or_default();
    let phrase = line.splitn(3, |&byte| byte == b' ').nth(2).unwrap_or_default();
    phrase.trim_ascii_end()
}

/// RFC 9112 §6.3.
fn framing(response: &Response<()>, method: &Method) -> Result<Framing, BadResponse> {
    let (status, headers) = (response.status(), response.headers());
    if *method == Method::HEAD || has_no_body(status) {
        return Ok(Framing::Length(0));
    }
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    if let Some(coding) = codings.next() {
        let chunked = coding.as_bytes().eq_ignore_ascii_case(b"chunked") && codings.next().is_none();
        if response.version() == Version::HTTP_10 {
            // Its framing counts as faulty (RFC 9112 §6.1).
            return Err(BadResponse::Invalid("a transfer coding in HTTP/1.0, which has none"));
        }
        let other = BadResponse::Invalid("a transfer coding other than chunked, which nobody asked for");
        return if chunked { Ok(Framing::Chunked) } else { Err(other) };
    }
    let mut lengths = headers.get_all(header::CONTENT_LENGTH).iter();
    let Some(length) = lengths.next() else { return Ok(Framing::UntilEnd) };
    if lengths.any(|other| other != length) {
        return Err(BadResponse::Invalid("more than one Content-Length"));
    }
    number(length).map(Framing::Length).ok_or(BadResponse::Invalid("Content-Length is not a number"))
}

/// Whether the end of the response is unambiguous. Else what follows may be the
/// rest of it (RFC 9112 §6.1, §6.3).
fn is_unambiguous(response: &Response<()>) -> bool {
    let length = response.headers().get(header::CONTENT_LENGTH);
    let coded = response.headers().contains_key(header::TRANSFER_ENCODING);
    if response.status() == StatusCode::NO_CONTENT {
        return !coded && length.is_none_or(|length| number(length) == Some(0));
    }
    !coded || (length.is_none() && response.version() == Version::HTTP_11)
}

/// Statuses whose responses never have a body (RFC 9112 §6.3).
pub fn has_no_body(status: StatusCode) -> bool {
    status.is_informational() || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str, method: Method) -> Result<ResponseHead, BadResponse> {
        let mut bytes = text.as_bytes().to_vec();
        mend_head(&mut bytes)?;
        let (length, response) =
            parse_response(&Bytes::copy_from_slice(&bytes), HEAD_MAX)?.expect("it is complete");
        let (mut parts, ()) = response.into_parts();
        parts.extensions.clear();
        keep_reason(&mut parts.extensions, parts.status, &bytes[..length]);
        ResponseHead::judge(Response::from_parts(parts, ()), &method)
    }

    #[test]
    fn the_body_ends_as_the_head_says() {
        for (status, headers, method, framing, keep_alive) in [
            ("HTTP/1.1 200 OK", "Content-Length: 5\r\n", Method::GET, Framing::Length(5), true),
            ("HTTP/1.1 200", "Content-Length: 5\r\n", Method::HEAD, Framing::Length(0), true),
            ("HTTP/1.1 304 ", "Content-Length: 5\r\n", Method::GET, Framing::Length(0), true),
            (
                "HTTP/1.1 200 OK",
                "Transfer-Encoding: Chunked\r\nContent-Length: 5\r\n",
                Method::GET,
                Framing::Chunked,
                false,
            ),
            ("HTTP/1.1 200 OK", "Transfer-Encoding: chunked\r\n", Method::GET, Framing::Chunked, true),
            ("HTTP/1.1 200 OK", "Transfer-Encoding: chunked\r\n", Method::HEAD, Framing::Length(0), true),
            ("HTTP/1.1 204 ", "", Method::GET, Framing::Length(0), true),
            ("HTTP/1.1 204 ", "Content-Length: 0\r\n", Method::GET, Framing::Length(0), true),
            ("HTTP/1.1 204 ", "Content-Length: 5\r\n", Method::GET, Framing::Length(0), false),
            ("HTTP/1.1 204 ", "Transfer-Encoding: chunked\r\n", Method::GET, Framing::Length(0), false),
            ("HTTP/1.1 200 OK", "", Method::GET, Framing::UntilEnd, false),
            (
                "HTTP/1.1 200 OK",
                "Content-Length: 5\r\nContent-Length: 5\r\n",
                Method::GET,
                Framing::Length(5),
                true,
            ),
            (
                "HTTP/1.1 200 OK",
                "Content-Length: 5\r\nConnection: x, Close\r\n",
                Method::GET,
                Framing::Length(5),
                false,
            ),
            ("HTTP/1.0 200 OK", "Content-Length: 5\r\n", Method::GET, Framing::Length(5), false),
            (
                "HTTP/1.0 200 OK",
                "Content-Length: 5\r\nConnection: keep-alive\r\n",
                Method::GET,
                Framing::Length(5),
                true,
            ),
        ] {
            let head = parse(&format!("{status}\r\n{headers}\r\n"), method).unwrap();
            assert_eq!(
                (head.framing, head.persistence),
                (framing, Persistence::from(keep_alive)),
                "{status} {headers}"
            );
        }
    }

    #[test]
    fn a_reason_phrase_is_kept_and_what_clients_overlook_is_mended() {
        for (line, written) in [
            ("HTTP/1.1 200 OK", "HTTP/1.1 200 OK"),
            ("HTTP/1.1 200 Fine By Me", "HTTP/1.1 200 Fine By Me"),
            ("HTTP/1.1 200 ", "HTTP/1.1 200 "),
            ("HTTP/1.1 200", "HTTP/1.1 200 "),
            ("HTTP/1.1 599 Sch\u{f6}n", "HTTP/1.1 599 Sch\u{f6}n"),
            ("HTTP/1.1 203 Non-Authoritative Information", "HTTP/1.1 203 Non-Authoritative Information"),
        ] {
            let head = parse(&format!("{line}\r\nContent-Length: 0\r\n\r\n"), Method::GET).unwrap();
            let mut bytes = Vec::new();
            crate::http1::write_response_head(&mut bytes, &head.response.into_parts().0);
            assert!(bytes.starts_with(format!("{written}\r\n").as_bytes()), "{line}: {bytes:?}");
        }
        let head = parse("HTTP/1.1 200 OK\r\nX-A : b\r\nX-B: a\u{1}b\u{7f}\r\n\r\n", Method::GET).unwrap();
        assert_eq!(
            (&head.response.headers()["x-a"], &head.response.headers()["x-b"]),
            (&"b".parse().unwrap(), &"a b".parse().unwrap())
        );
    }

    #[test]
    fn what_is_ambiguous_or_too_long_is_refused() {
        for headers in [
            "Content-Length: 5\r\nContent-Length: 6\r\n",
            "Content-Length: +5\r\n",
            "Content-Length: 99999999999999999999\r\n",
            "Transfer-Encoding: gzip, chunked\r\n",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
            "X: \0\r\n",
            "X: a\rb\r\n",
            "X: a\r\n folded\r\n",
        ] {
            let error = parse(&format!("HTTP/1.1 200 OK\r\n{headers}\r\n"), Method::GET).unwrap_err();
            assert!(matches!(error, BadResponse::Invalid(_)), "{headers}");
        }
        let many = format!("HTTP/1.1 200 OK\r\n{}", "x: y\r\n".repeat(HEADERS_MAX + 1));
        assert_eq!(parse(&many, Method::GET).unwrap_err(), BadResponse::TooLarge);
        let mut long = format!("HTTP/1.1 200 OK\r\nx: {}", "y".repeat(HEAD_MAX)).into_bytes();
        assert_eq!(mend_head(&mut long), Err(BadResponse::TooLarge));
        let old = parse("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", Method::GET).unwrap_err();
        assert!(matches!(old, BadResponse::Invalid(_)));
    }
}
