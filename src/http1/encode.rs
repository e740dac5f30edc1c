//! Heads and bodies as bytes of HTTP/1.1. Pure; the twin of [`decode`](super::decode).

use http::header::{self, HeaderMap, HeaderValue};
use http::response::Parts;
use http::{Method, StatusCode, Version};
use time::OffsetDateTime;

use super::decode::Framing;
use super::fields::{keep_one_length, remove_hop_by_hop};
use super::head::{Head, Persistence};
use super::response::{Reason, has_no_body};

/// The end of a line, and behind the last header that of a head.
const LINE_END: &[u8] = b"\r\n";

/// Writes a request line (RFC 9112 §3).
pub fn write_request_line(out: &mut Vec<u8>, method: &Method, target: &str) {
    for part in [method.as_str(), " ", target, " HTTP/1.1\r\n"] {
        out.extend_from_slice(part.as_bytes());
    }
}

/// Writes a header line (RFC 9112 §5).
pub fn write_header(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    for part in [name.as_bytes(), b": ", value, LINE_END] {
        out.extend_from_slice(part);
    }
}

/// Writes the empty line behind the last header.
pub fn end_head(out: &mut Vec<u8>) {
    out.extend_from_slice(LINE_END);
}

/// Writes header lines, and the empty line behind them.
fn write_headers(out: &mut Vec<u8>, headers: &HeaderMap) {
    headers.iter().for_each(|(name, value)| write_header(out, name.as_str(), value.as_bytes()));
    end_head(out);
}

/// Writes a request's head.
pub fn write_request_head(out: &mut Vec<u8>, method: &Method, target: &str, headers: &HeaderMap) {
    write_request_line(out, method, target);
    write_headers(out, headers);
}

/// Writes a response's head.
pub fn write_response_head(out: &mut Vec<u8>, parts: &http::response::Parts) {
    let usual = parts.status.canonical_reason().unwrap_or_default().as_bytes();
    let reason = parts.extensions.get::<Reason>().map_or(usual, |reason| &reason.0);
    for part in [b"HTTP/1.1 ", parts.status.as_str().as_bytes(), b" ", reason, b"\r\n"] {
        out.extend_from_slice(part);
    }
    write_headers(out, &parts.headers);
}

/// Writes a chunk of a body (RFC 9112 §7.1); one without bytes would end it.
pub fn write_chunk(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(format!("{:x}\r\n", bytes.len()).as_bytes());
    out.extend_from_slice(bytes);
    out.extend_from_slice(LINE_END);
}

/// The end of a chunked body (RFC 9112 §7.1).
pub const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// A response whose head is encoded.
#[derive(Debug)]
pub(super) struct EncodedHead {
    pub(super) bytes: Vec<u8>,
    /// `None` when there is no body, whatever the head says.
    pub(super) framing: Option<Framing>,
    pub(super) persistence: Persistence,
}

/// Encodes the head of a response whose body has this length, or one that is not known yet. Its hop-by-hop headers and
/// framing are replaced. The connection is closed behind it where only its end can end the body.
pub(super) fn encode_head(
    to: Option<&Head>,
    mut parts: Parts,
    length: Option<u64>,
    persistence: Persistence,
) -> EncodedHead {
    // A 426 names the protocol that is required (RFC 9110 §15.5.22).
    let is_required = parts.status == StatusCode::UPGRADE_REQUIRED;
    let upgrade = parts.headers.remove(header::UPGRADE).filter(|_| is_required);
    let method = to.map_or(&Method::GET, |head| head.request.method());
    let version = to.map_or(Version::HTTP_11, |head| head.request.version());
    let framing = frame_response(&mut parts, length, method, version);
    let ends_body = Persistence::from(framing != Some(Framing::UntilEnd));
    let persistence = persistence.and(ends_body);
    let connection = match (persistence, version) {
        (Persistence::Close, _) => Some("close"),
        (Persistence::KeepAlive, Version::HTTP_10) => Some("keep-alive"),
        (Persistence::KeepAlive, _) => None,
    };
    if let Some(value) = connection {
        parts.headers.insert(header::CONNECTION, HeaderValue::from_static(value));
    }
    // A recipient with a clock adds the date of a response that has none (RFC 9110 §6.6.1).
    if !parts.headers.contains_key(header::DATE) && !parts.status.is_informational() {
        parts.headers.insert(header::DATE, date(OffsetDateTime::now_utc()));
    }
    if let Some(protocols) = upgrade {
        parts.headers.insert(header::UPGRADE, protocols);
        parts.headers.append(header::CONNECTION, HeaderValue::from_static("upgrade"));
    }
    let mut bytes = Vec::with_capacity(512);
    write_response_head(&mut bytes, &parts);
    EncodedHead { bytes, framing, persistence }
}

/// Leaves only the headers that describe the response, and its one true framing. `None` when it has no body.
fn frame_response(
    parts: &mut Parts,
    length: Option<u64>,
    method: &Method,
    version: Version,
) -> Option<Framing> {
    remove_hop_by_hop(&mut parts.headers);
    let headers = &mut parts.headers;
    if *method == Method::HEAD || has_no_body(parts.status) {
        // It tells what a GET would have brought, if it tells one number.
        keep_one_length(headers);
        if parts.status.is_informational() || parts.status == StatusCode::NO_CONTENT {
            headers.remove(header::CONTENT_LENGTH);
        }
        return None;
    }
    headers.remove(header::CONTENT_LENGTH);
    Some(match length {
        Some(length) => {
            headers.insert(header::CONTENT_LENGTH, length.into());
            Framing::Length(length)
        }
        None if version == Version::HTTP_10 => Framing::UntilEnd,
        None => {
            headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
            Framing::Chunked
        }
    })
}

/// A date as HTTP writes it (RFC 9110 §5.6.7).
fn date(now: OffsetDateTime) -> HeaderValue {
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    const DAYS: [&str; 7] = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];
    let weekday = DAYS[usize::from(now.weekday().number_days_from_monday())];
    let month = MONTHS[usize::from(u8::from(now.month()) - 1)];
    let (day, year, hour, minute, second) = (now.day(), now.year(), now.hour(), now.minute(), now.second());
    let text = format!("{weekday}, {day:02} {month} {year:04} {hour:02}:{minute:02}:{second:02} GMT");
    // Letters, digits and blanks are a header value.
    HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_written_as_http_does() {
        let at = |seconds| date(OffsetDateTime::from_unix_timestamp(seconds).unwrap());
        assert_eq!(at(784_111_777), "Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(at(1_709_164_800), "Thu, 29 Feb 2024 00:00:00 GMT");
    }

    #[test]
    fn a_response_has_one_true_framing() {
        let frame = |status: u16, stated: Option<&'static str>, length, method, version| {
            let mut parts = http::Response::new(()).into_parts().0;
            parts.status = StatusCode::from_u16(status).unwrap();
            if let Some(stated) = stated {
                parts.headers.insert(header::CONTENT_LENGTH, HeaderValue::from_static(stated));
            }
            parts.headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("gzip"));
            let framing = frame_response(&mut parts, length, &method, version);
            let header = |name| parts.headers.get(name).map(|value| value.to_str().unwrap().to_owned());
            (framing, header(header::CONTENT_LENGTH), header(header::TRANSFER_ENCODING))
        };
        let text = |text: &str| Some(text.to_owned());
        let length = |length: u64| (Some(Framing::Length(length)), text(&length.to_string()), None);
        assert_eq!(frame(200, Some("99"), Some(3), Method::GET, Version::HTTP_11), length(3));
        assert_eq!(frame(200, None, Some(3), Method::GET, Version::HTTP_10), length(3));
        assert_eq!(frame(200, None, Some(0), Method::GET, Version::HTTP_11), length(0));
        assert_eq!(
            frame(200, Some("99"), None, Method::GET, Version::HTTP_11),
            (Some(Framing::Chunked), None, text("chunked"))
        );
        assert_eq!(
            frame(200, None, None, Method::GET, Version::HTTP_10),
            (Some(Framing::UntilEnd), None, None)
        );
        assert_eq!(frame(200, Some("99"), Some(0), Method::HEAD, Version::HTTP_11), (None, text("99"), None));
        assert_eq!(frame(204, Some("99"), Some(0), Method::GET, Version::HTTP_11), (None, None, None));
        assert_eq!(frame(304, Some("99"), None, Method::GET, Version::HTTP_11), (None, text("99"), None));
        assert_eq!(frame(304, Some("abc"), None, Method::GET, Version::HTTP_11), (None, None, None));
    }
}
