//! Responses on their way out: whole, or as they are made.

use std::io;
use std::time::{Duration, Instant};

use http::header::{self, HeaderValue};
use http::response::Parts;
use http::{Method, StatusCode, Version};
use time::OffsetDateTime;

use super::body::{Framing, LAST_CHUNK, chunk_head};
use super::head::Head;
use super::server::time_for;
use super::{has_no_body, write_response_head};
use crate::headers::{keep_one_length, remove_hop_by_hop};
use crate::link::WriteHalf;

/// The side of a connection on which responses go out.
#[derive(Debug)]
pub struct Output(WriteHalf);

impl Output {
    /// Writes to this half of a socket.
    pub fn new(half: WriteHalf) -> Self {
        Output(half)
    }

    /// Lets a write fail when the client takes nothing for this long.
    pub fn set_timeout(&self, timeout: Duration) -> io::Result<()> {
        self.0.set_timeout(timeout)
    }

    /// Sends bytes as they are, no slower than a transfer may be.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.send_all_until(bytes, Some(Instant::now() + time_for(bytes.len())))
    }

    /// Ends the writing direction.
    pub fn finish(&mut self) -> io::Result<()> {
        self.0.finish()
    }

    /// The writing half of the socket.
    pub fn into_half(self) -> WriteHalf {
        self.0
    }

    /// Begins a response whose body has this length, or one that is not known yet. Its hop-by-hop headers and
    /// framing are replaced; without `keep_alive`, or where only the connection's end can end the body, it is
    /// the last on its connection. Nothing is sent before [`BodyWriter::flush`] or the first bytes of the body.
    pub fn start(
        &mut self,
        to: Option<&Head>,
        mut parts: Parts,
        length: Option<u64>,
        keep_alive: bool,
    ) -> BodyWriter<'_> {
        // Which protocol is required is said to whoever asked (RFC 9110 §15.5.22).
        let is_required = parts.status == StatusCode::UPGRADE_REQUIRED;
        let upgrade = parts.headers.remove(header::UPGRADE).filter(|_| is_required);
        let head_only = to.is_some_and(|head| head.request.method() == Method::HEAD);
        let is_http_10 = to.is_some_and(|head| head.request.version() == Version::HTTP_10);
        let framing = frame_response(&mut parts, length, head_only, is_http_10);
        let keep_alive = keep_alive && framing != Some(Framing::UntilEnd);
        let connection = match (keep_alive, is_http_10) {
            (false, _) => Some("close"),
            (true, true) => Some("keep-alive"),
            (true, false) => None,
        };
        if let Some(value) = connection {
            parts.headers.insert(header::CONNECTION, HeaderValue::from_static(value));
        }
        // A recipient with a clock says when a response came that does not (RFC 9110 §6.6.1).
        if !parts.headers.contains_key(header::DATE) && !parts.status.is_informational() {
            parts.headers.insert(header::DATE, date(OffsetDateTime::now_utc()));
        }
        if let Some(protocols) = upgrade {
            parts.headers.insert(header::UPGRADE, protocols);
            parts.headers.append(header::CONNECTION, HeaderValue::from_static("upgrade"));
        }
        let mut waiting = Vec::with_capacity(512);
        write_response_head(&mut waiting, &parts);
        BodyWriter { output: self, framing, keep_alive, waiting }
    }
}

/// RFC 9110 §5.6.7.
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

/// A response of which the head is settled. Unless it is [finished](Self::finish), its connection must be
/// broken, so that it does not look whole.
#[derive(Debug)]
pub struct BodyWriter<'a> {
    output: &'a mut Output,
    /// `None` when there is no body, whatever the head says.
    framing: Option<Framing>,
    keep_alive: bool,
    /// The head, until it is sent.
    waiting: Vec<u8>,
}

impl BodyWriter<'_> {
    /// Sends the head, when it has not gone out with the first bytes of the body.
    pub fn flush(&mut self) -> io::Result<()> {
        if !self.waiting.is_empty() {
            self.output.send(&self.waiting)?;
            self.waiting.clear();
        }
        Ok(())
    }

    /// Sends bytes of the body, never more than the head says. Those of a response without a body are dropped.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.framing {
            None => return Ok(()),
            _ if bytes.is_empty() => return Ok(()),
            Some(Framing::Length(left)) => {
                let too_long = || io::Error::other("the response is longer than it says");
                *left = left.checked_sub(bytes.len() as u64).ok_or_else(too_long)?;
                self.waiting.extend_from_slice(bytes);
            }
            Some(Framing::UntilEnd) => self.waiting.extend_from_slice(bytes),
            Some(Framing::Chunked) => {
                self.waiting.extend_from_slice(chunk_head(bytes.len()).as_bytes());
                self.waiting.extend_from_slice(bytes);
                self.waiting.extend_from_slice(b"\r\n");
            }
        }
        self.flush()
    }

    /// Ends the response. Returns whether the connection can take another request.
    pub fn finish(mut self) -> io::Result<bool> {
        match self.framing {
            Some(Framing::Length(1..)) => {
                return Err(io::Error::other("the response is shorter than it says"));
            }
            Some(Framing::Chunked) => self.waiting.extend_from_slice(LAST_CHUNK),
            _ => {}
        }
        self.flush()?;
        Ok(self.keep_alive)
    }
}

/// Leaves only the headers that describe the response, and the one true framing of it. `None` when it has no
/// body.
fn frame_response(
    parts: &mut Parts,
    length: Option<u64>,
    head_only: bool,
    is_http_10: bool,
) -> Option<Framing> {
    remove_hop_by_hop(&mut parts.headers);
    let headers = &mut parts.headers;
    if head_only || has_no_body(parts.status) {
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
        None if is_http_10 => Framing::UntilEnd,
        None => {
            headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
            Framing::Chunked
        }
    })
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
        let frame = |status: u16, stated: Option<&'static str>, length, head_only, is_http_10| {
            let mut parts = http::Response::new(()).into_parts().0;
            parts.status = StatusCode::from_u16(status).unwrap();
            if let Some(stated) = stated {
                parts.headers.insert(header::CONTENT_LENGTH, HeaderValue::from_static(stated));
            }
            parts.headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("gzip"));
            let framing = frame_response(&mut parts, length, head_only, is_http_10);
            let header = |name| parts.headers.get(name).map(|value| value.to_str().unwrap().to_owned());
            (framing, header(header::CONTENT_LENGTH), header(header::TRANSFER_ENCODING))
        };
        let text = |text: &str| Some(text.to_owned());
        let length = |length: u64| (Some(Framing::Length(length)), text(&length.to_string()), None);
        assert_eq!(frame(200, Some("99"), Some(3), false, false), length(3));
        assert_eq!(frame(200, None, Some(3), false, true), length(3));
        assert_eq!(frame(200, None, Some(0), false, false), length(0));
        assert_eq!(
            frame(200, Some("99"), None, false, false),
            (Some(Framing::Chunked), None, text("chunked"))
        );
        assert_eq!(frame(200, None, None, false, true), (Some(Framing::UntilEnd), None, None));
        assert_eq!(frame(200, Some("99"), Some(0), true, false), (None, text("99"), None));
        assert_eq!(frame(204, Some("99"), Some(0), false, false), (None, None, None));
        assert_eq!(frame(304, Some("99"), None, false, false), (None, text("99"), None));
        assert_eq!(frame(304, Some("abc"), None, false, false), (None, None, None));
    }
}
