//! `request`: what a client asked, from the gateway to the agent.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::envelope::{self, Envelope};
use super::id::RequestId;
use super::text::{self, Pair, Pairs, Text};

/// `message_type` of this message.
pub const TYPE: &str = "request";

/// A request as the gateway wrote it: well-formed as a message, and nothing more is known of it yet.
#[derive(Debug, PartialEq, Eq)]
pub struct RequestMessage<'a> {
    /// By which the gateway knows it; without one, order alone tells which answer is whose.
    pub id: Option<RequestId>,
    /// The method.
    pub method: Cow<'a, str>,
    /// The request target: path and query.
    pub path: Cow<'a, str>,
    /// Names and values, order and repeats kept.
    pub headers: Vec<(Cow<'a, str>, Cow<'a, str>)>,
    /// The body's bytes, whichever encoding they came in.
    pub body: Vec<u8>,
    /// The encoding was named, which only gateways that know part 2 do.
    pub names_encoding: bool,
}

/// A `request` that cannot be read. It takes its place in the order of answers all the same.
#[derive(Debug, PartialEq, Eq)]
pub struct MalformedRequest {
    /// The ID, if one can be read.
    pub id: Option<RequestId>,
    /// The fault.
    pub reason: String,
}

#[derive(Deserialize)]
struct RequestIn<'a> {
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    #[serde(borrow)]
    method: Text<'a>,
    #[serde(borrow)]
    path: Text<'a>,
    #[serde(borrow)]
    headers: Option<Pairs<'a>>,
    #[serde(borrow)]
    body: Option<Text<'a>>,
    #[serde(borrow)]
    body_encoding: Option<Text<'a>>,
}

/// Reads the payload of a `request` envelope.
///
/// `payload` is what [`Envelope::payload`] gave; it is passed beside the envelope so that the result can
/// borrow from it.
pub fn decode<'a>(
    envelope: &Envelope<'_>,
    payload: Option<&'a str>,
) -> Result<RequestMessage<'a>, MalformedRequest> {
    let Some(payload) = payload else {
        // The string itself is broken; its raw text is escaped JSON, in which no field can be found.
        debug_assert!(!envelope.raw_payload().is_empty());
        return Err(MalformedRequest { id: None, reason: "payload is not a valid JSON string".to_owned() });
    };
    decode_payload(payload).map_err(|reason| MalformedRequest { id: find_id(payload), reason })
}

fn decode_payload(payload: &str) -> Result<RequestMessage<'_>, String> {
    let wire: RequestIn<'_> = serde_json::from_str(payload).map_err(|error| describe(&error))?;
    let id = match wire.id {
        None => None,
        Some(raw) if raw.get() == "null" => None,
        Some(raw) => {
            Some(RequestId::from_json(raw).ok_or("id is neither a string nor a number, or too long")?)
        }
    };
    let headers = wire.headers.unwrap_or_default();
    let names_encoding = wire.body_encoding.is_some();
    Ok(RequestMessage {
        id,
        method: wire.method.0,
        path: wire.path.0,
        headers: headers.0.into_iter().map(|(name, value)| (name.0, value.0)).collect(),
        body: text::body_from_text(wire.body, wire.body_encoding)?,
        names_encoding,
    })
}

/// The words of serde_json, without its quotations from the input: those may be secrets.
fn describe(error: &serde_json::Error) -> String {
    let kind = match error.classify() {
        serde_json::error::Category::Data => "a field is missing, repeated or of the wrong type",
        _ => "not valid JSON",
    };
    format!("payload: {kind} (line {}, column {})", error.line(), error.column())
}

/// How a body that is no text travels in an envelope.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyEncoding {
    /// As base64.
    Base64,
    /// As text all the same.
    Text,
}

/// Writes the envelope of a request.
///
/// With [`BodyEncoding::Text`] bytes that are not UTF-8 are replaced by U+FFFD, as the oldest gateways do.
pub fn encode(
    id: Option<&RequestId>,
    head: &http::request::Parts,
    body: &[u8],
    encoding: BodyEncoding,
    max: usize,
) -> Result<Vec<u8>, super::EnvelopeTooLarge> {
    #[derive(Serialize)]
    struct RequestOut<'a> {
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<&'a RequestId>,
        method: &'a str,
        path: &'a str,
        headers: Vec<Pair<'a>>,
        body: Cow<'a, str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        body_encoding: Option<&'static str>,
    }
    let (body, body_encoding) = match encoding {
        BodyEncoding::Base64 => text::body_to_text(body),
        BodyEncoding::Text => (String::from_utf8_lossy(body), None),
    };
    let path = crate::http1::target(&head.uri, &head.extensions);
    let headers = text::pairs(&head.headers);
    let out = RequestOut { id, method: head.method.as_str(), path, headers, body, body_encoding };
    envelope::nested(TYPE, &out, max).ok_or(super::EnvelopeTooLarge { max })
}

/// Looks for an `id` in a payload that is otherwise broken, up to the place where it breaks.
pub(super) fn find_id(payload: &str) -> Option<RequestId> {
    let mut found = None;
    let mut deserializer = serde_json::Deserializer::from_str(payload);
    // The error is why we are here; what was found before it is what counts.
    let _ = deserializer.deserialize_map(FindId(&mut found));
    found
}

struct FindId<'f>(&'f mut Option<RequestId>);

impl<'de> Visitor<'de> for FindId<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a request")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<Text<'de>>()? {
            if key.0 == "id" {
                *self.0 = RequestId::from_json(map.next_value()?);
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(())
    }
}
