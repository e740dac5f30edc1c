//! `response` and `error`: what became of a request, from the agent to the gateway.

use std::borrow::Cow;

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use time::OffsetDateTime;

use super::envelope::{self, Envelope, EnvelopeTooLarge};
use super::id::RequestId;
use super::text::{self, Pair, Pairs, Text};
use crate::http1::HEADERS_MAX;

/// `message_type` of a response, the local server's or the agent's own.
pub const RESPONSE: &str = "response";

/// `message_type` of a failure to forward; from a gateway, of its giving up on the connection.
pub const ERROR: &str = "error";

#[derive(Serialize)]
struct ResponseOut<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a RequestId>,
    status: &'static str,
    message: &'a str,
    data: DataOut<'a>,
}

#[derive(Serialize)]
struct DataOut<'a> {
    status_code: u16,
    headers: Vec<Pair<'a>>,
    body: Cow<'a, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    body_encoding: Option<&'static str>,
    timestamp: &'a str,
    agent_version: &'static str,
}

/// A response, as its envelope carries it.
#[derive(Debug, Clone, Copy)]
pub struct ResponseMessage<'a> {
    /// The ID of its request, if that has one.
    pub id: Option<&'a RequestId>,
    /// The head.
    pub head: &'a http::response::Parts,
    /// The whole body.
    pub body: &'a [u8],
    /// The agent's own words, of a response of its own; else the documented sentence for a response of the local
    /// server.
    pub message: Option<&'a str>,
}

impl ResponseMessage<'_> {
    /// Writes the envelope, with `at` as its timestamp.
    ///
    /// # Errors
    ///
    /// The envelope would be larger than `max` bytes. JSON inside JSON can make a body seven times longer.
    pub fn encode(&self, at: OffsetDateTime, max: usize) -> Result<Vec<u8>, EnvelopeTooLarge> {
        let status = self.head.status;
        let (body, body_encoding) = text::body_to_text(self.body);
        let message = self.message.map_or_else(|| sentence(status), Cow::Borrowed);
        let out = ResponseOut {
            id: self.id,
            status: if status.as_u16() < 400 { "success" } else { "error" },
            message: &message,
            data: DataOut {
                status_code: status.as_u16(),
                headers: text::pairs(&self.head.headers),
                body,
                body_encoding,
                timestamp: &timestamp(at),
                agent_version: env!("CARGO_PKG_VERSION"),
            },
        };
        envelope::nested(RESPONSE, &out, max).ok_or(EnvelopeTooLarge { max })
    }
}

/// The envelope's sentence about a response of the local server.
fn sentence(status: StatusCode) -> Cow<'static, str> {
    if status.as_u16() < 400 {
        return Cow::Borrowed("Request processed successfully");
    }
    let reason = status.canonical_reason().unwrap_or_default();
    Cow::Owned(
        format!("Local server responded with status {} {reason}", status.as_u16()).trim_end().to_owned(),
    )
}

/// UTC, RFC 3339, six fractional digits, `Z`.
fn timestamp(at: OffsetDateTime) -> String {
    let at = at.to_offset(time::UtcOffset::UTC);
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:06}Z",
        at.year(),
        u8::from(at.month()),
        at.day(),
        at.hour(),
        at.minute(),
        at.second(),
        at.microsecond()
    )
}

/// Writes the envelope of a failure to forward.
pub fn encode_error(id: Option<&RequestId>, text: &str) -> Vec<u8> {
    envelope::plain(ERROR, id, text)
}

/// An agent's answer, as the gateway reads it.
#[derive(Debug)]
pub struct DecodedAnswer {
    /// The request's ID, when it had one.
    pub id: Option<RequestId>,
    /// A response with its body, or why there is none.
    pub result: Result<http::Response<Vec<u8>>, String>,
}

#[derive(Deserialize)]
struct ResponseIn<'a> {
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    #[serde(borrow)]
    data: DataIn<'a>,
}

#[derive(Deserialize)]
struct DataIn<'a> {
    status_code: u16,
    #[serde(borrow)]
    headers: Option<Pairs<'a>>,
    #[serde(borrow)]
    body: Option<Text<'a>>,
    #[serde(borrow)]
    body_encoding: Option<Text<'a>>,
}

impl DecodedAnswer {
    /// Reads a `response` or an `error`. `None` for any other message. A response that cannot be read is
    /// still an answer: its result says so.
    pub fn decode(envelope: &Envelope<'_>) -> Option<DecodedAnswer> {
        let payload = envelope.payload();
        match envelope.message_type.as_ref() {
            ERROR => {
                let text = payload.map(Cow::into_owned).unwrap_or_default();
                Some(DecodedAnswer { id: envelope.id.clone(), result: Err(text) })
            }
            RESPONSE => {
                let payload = payload.unwrap_or_default();
                Some(match serde_json::from_str::<ResponseIn<'_>>(&payload) {
                    Ok(wire) => {
                        let id = wire.id.and_then(RequestId::from_json);
                        DecodedAnswer { id, result: response(wire.data).map_err(str::to_owned) }
                    }
                    // Not why: that quotes the response.
                    Err(_) => {
                        let text = "the agent's response cannot be read".to_owned();
                        DecodedAnswer { id: super::request::find_id(&payload), result: Err(text) }
                    }
                })
            }
            _ => None,
        }
    }
}

fn response(data: DataIn<'_>) -> Result<http::Response<Vec<u8>>, &'static str> {
    let mut headers = HeaderMap::new();
    let pairs = data.headers.unwrap_or_default().0;
    if pairs.len() > HEADERS_MAX {
        return Err("too many headers");
    }
    for (name, value) in pairs {
        let name =
            HeaderName::from_bytes(name.0.as_bytes()).map_err(|_| "header name not allowed in HTTP")?;
        // Sent on as its UTF-8 bytes, like a request's value towards the local server: what was no UTF-8
        // at its origin arrives as UTF-8 of the same characters.
        let value =
            HeaderValue::from_bytes(value.0.as_bytes()).map_err(|_| "header value not allowed in HTTP")?;
        headers.append(name, value);
    }
    // Interim responses are not passed on, so one in the place of a final response is none.
    let status = StatusCode::from_u16(data.status_code).ok().filter(|status| !status.is_informational());
    let status = status.ok_or("no such status")?;
    let mut response = http::Response::new(text::body_from_text(data.body, data.body_encoding)?);
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_have_six_fractional_digits() {
        let at = OffsetDateTime::from_unix_timestamp_nanos(1_739_650_129_472_112_345).unwrap();
        assert_eq!(timestamp(at), "2025-02-15T20:08:49.472112Z");
        assert_eq!(timestamp(OffsetDateTime::UNIX_EPOCH), "1970-01-01T00:00:00.000000Z");
    }

    #[test]
    fn sentences_follow_the_status() {
        let sentence = |code| sentence(StatusCode::from_u16(code).unwrap());
        assert_eq!(sentence(302), "Request processed successfully");
        assert_eq!(sentence(404), "Local server responded with status 404 Not Found");
        assert_eq!(sentence(799), "Local server responded with status 799");
    }
}
