//! The envelope around every message: `{"message_type":"…","payload":…}`.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::id::RequestId;

/// An envelope whose payload is not looked into yet. Fields that a reader does not know are ignored, and of
/// a field that comes twice the last counts, so that no envelope with a readable `message_type` is lost.
#[derive(Debug)]
pub struct Envelope<'a> {
    /// The type of the payload: `request`, `response`, `error`, …
    pub message_type: Cow<'a, str>,
    /// The `id` beside `message_type`, which only an `error` of an agent carries.
    pub id: Option<RequestId>,
    payload: Option<&'a RawValue>,
}

impl<'a> Envelope<'a> {
    /// Reads one text message. `None` when it is no envelope: not a JSON object, or one without a
    /// `message_type` that is a string.
    pub fn parse(message: &'a str) -> Option<Self> {
        let fields: Fields<'a> = serde_json::from_str(message).ok()?;
        Some(Envelope {
            message_type: string(fields.message_type?)?,
            id: fields.id.and_then(RequestId::from_json),
            payload: fields.payload,
        })
    }

    /// The payload as JSON or plain text: the content when it is a string, its JSON when it is anything
    /// else, empty when it is missing, and `None` when it is a string that cannot be read (a lone
    /// surrogate).
    pub fn payload(&self) -> Option<Cow<'a, str>> {
        match self.payload {
            None => Some(Cow::Borrowed("")),
            Some(raw) if raw.get().starts_with('"') => string(raw),
            Some(raw) => Some(Cow::Borrowed(raw.get())),
        }
    }

    /// The payload's JSON as it stands, for a last look at one that [`payload`](Self::payload) cannot read.
    pub(super) fn raw_payload(&self) -> &'a str {
        self.payload.map_or("", RawValue::get)
    }
}

/// Reads a JSON string, borrowed where nothing in it is escaped.
fn string(raw: &RawValue) -> Option<Cow<'_, str>> {
    serde_json::from_str::<super::text::Text<'_>>(raw.get()).ok().map(|text| text.0)
}

/// Writes an envelope around a payload that is plain text.
pub(super) fn plain(message_type: &str, id: Option<&RequestId>, payload: &str) -> Vec<u8> {
    #[derive(Serialize)]
    struct Plain<'a> {
        message_type: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<&'a RequestId>,
        payload: &'a str,
    }
    // Strings and numbers into memory: there is nothing in it that could fail.
    serde_json::to_vec(&Plain { message_type, id, payload }).unwrap_or_default()
}

/// Writes an envelope around a payload that is JSON itself, or fails when it grows past `max` bytes.
pub(crate) fn nested(message_type: &str, payload: &impl Serialize, max: usize) -> Option<Vec<u8>> {
    const TAIL: &[u8] = b"\"}";
    let mut out = format!("{{\"message_type\":\"{message_type}\",\"payload\":\"").into_bytes();
    let room = max.saturating_sub(TAIL.len());
    serde_json::to_writer(super::escape::Escaped::new(&mut out, room), payload).ok()?;
    out.extend_from_slice(TAIL);
    (out.len() <= max).then_some(out)
}

#[derive(Default)]
struct Fields<'a> {
    message_type: Option<&'a RawValue>,
    payload: Option<&'a RawValue>,
    id: Option<&'a RawValue>,
}

impl<'de: 'a, 'a> Deserialize<'de> for Fields<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(FieldsVisitor)
    }
}

struct FieldsVisitor;

impl<'de> Visitor<'de> for FieldsVisitor {
    type Value = Fields<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an envelope")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields<'de>, A::Error> {
        let mut fields = Fields::default();
        while let Some(key) = map.next_key::<super::text::Text<'de>>()? {
            match key.0.as_ref() {
                "message_type" => fields.message_type = Some(map.next_value()?),
                "payload" => fields.payload = Some(map.next_value()?),
                "id" => fields.id = Some(map.next_value()?),
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(fields)
    }
}

/// An envelope would be larger than the limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EnvelopeTooLarge {
    /// The limit, in bytes.
    pub max: usize,
}

impl fmt::Display for EnvelopeTooLarge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "its envelope would be larger than {} bytes", self.max)
    }
}

impl std::error::Error for EnvelopeTooLarge {}
