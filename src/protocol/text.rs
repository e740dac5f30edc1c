//! Bodies and header values as JSON text, and back.

use std::borrow::Cow;
use std::fmt;

use data_encoding::BASE64;
use serde::de::{Deserializer, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};

use crate::http1::READ_HEADERS_MAX;

/// The only value of `body_encoding`.
pub(super) const BASE64_NAME: &str = "base64";

/// A string that is borrowed from the JSON where nothing in it is escaped.
#[derive(Deserialize, Serialize)]
#[serde(transparent)]
pub(crate) struct Text<'a>(#[serde(borrow)] pub(crate) Cow<'a, str>);

/// A header as it travels: a name and a value.
pub(super) type Pair<'a> = (Text<'a>, Text<'a>);

/// A list of headers, of which [`READ_HEADERS_MAX`] are kept: a long list must not cost more memory than its text.
#[derive(Default)]
pub(super) struct Pairs<'a>(pub(super) Vec<Pair<'a>>);

impl<'de: 'a, 'a> Deserialize<'de> for Pairs<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(PairsVisitor).map(Pairs)
    }
}

struct PairsVisitor;

impl<'de> Visitor<'de> for PairsVisitor {
    type Value = Vec<Pair<'de>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of headers")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let mut pairs = Vec::new();
        while let Some(pair) = list.next_element::<Pair<'de>>()? {
            if pairs.len() < READ_HEADERS_MAX {
                pairs.push(pair);
            }
        }
        Ok(pairs)
    }
}

/// Writes a body as text: itself when it is UTF-8, else as padded base64, and whether it is the latter.
pub(super) fn body_to_text(body: &[u8]) -> (Cow<'_, str>, Option<&'static str>) {
    match std::str::from_utf8(body) {
        Ok(text) => (Cow::Borrowed(text), None),
        Err(_) => (Cow::Owned(BASE64.encode(body)), Some(BASE64_NAME)),
    }
}

/// Reads a body that was written by [`body_to_text`], or says what is wrong with it.
pub(super) fn body_from_text(
    text: Option<Text<'_>>,
    encoding: Option<Text<'_>>,
) -> Result<Vec<u8>, &'static str> {
    let text = text.map_or(Cow::Borrowed(""), |text| text.0);
    match encoding.as_ref().map(|encoding| encoding.0.as_ref()) {
        None => Ok(text.into_owned().into_bytes()),
        Some(BASE64_NAME) => BASE64.decode(text.as_bytes()).map_err(|_| "body is not standard padded base64"),
        Some(_) => Err("body_encoding is not `base64`"),
    }
}

/// A header value as text: itself when it is UTF-8, else one character U+0000–U+00FF per byte.
pub(super) fn value_to_text(value: &[u8]) -> Cow<'_, str> {
    match std::str::from_utf8(value) {
        Ok(text) => Cow::Borrowed(text),
        Err(_) => Cow::Owned(value.iter().map(|&byte| char::from(byte)).collect()),
    }
}

/// The pairs of a header map, in the order of each name.
pub(super) fn pairs(headers: &http::HeaderMap) -> Vec<Pair<'_>> {
    headers
        .iter()
        .map(|(name, value)| (Text(name.as_str().into()), Text(value_to_text(value.as_bytes()))))
        .collect()
}
