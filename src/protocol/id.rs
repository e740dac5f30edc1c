//! The names of requests and of connections.

use std::fmt;
use std::hash::{BuildHasher, RandomState};

use serde::Serialize;
use serde_json::value::RawValue;

/// The name of a request: the first eight digits of its connection's ID, and its number on that connection. Both programs
/// know it, so that an answer that one of them made of itself leads to the line in the other's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestName {
    /// See [`connection_number`].
    pub connection: u32,
    /// The number of its stream, or what its ID says; else which of the connection's requests it is.
    pub number: u64,
}

impl fmt::Display for RequestName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}-{}", self.connection, self.number)
    }
}

/// The first eight digits of a connection's ID. `None` when it is no UUID.
pub fn connection_number(id: &str) -> Option<u32> {
    let (first, rest) = id.split_at_checked(8)?;
    let is_hex = first.bytes().all(|byte| byte.is_ascii_hexdigit());
    if is_hex && rest.starts_with('-') && id.len() == 36 { u32::from_str_radix(first, 16).ok() } else { None }
}

/// The number or string by which a gateway knows a request. The answer carries it back unchanged, to the
/// letter: `7`, `7.0` and `"7"` are three different IDs.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RequestId(Box<RawJson>);

/// JSON text, one value.
type RawJson = str;

/// Most bytes of an ID: it is sent back even where nothing else of a request is.
const ID_MAX: usize = 1 << 10;

impl RequestId {
    /// Reads an ID. `None` when the value is neither a string nor a number.
    pub(super) fn from_json(raw: &RawValue) -> Option<Self> {
        let text = raw.get();
        let first = text.bytes().next().filter(|_| text.len() <= ID_MAX)?;
        (first == b'"' || first == b'-' || first.is_ascii_digit()).then(|| RequestId(text.into()))
    }

    /// The ID as JSON.
    pub fn as_json(&self) -> &str {
        &self.0
    }

    /// The ID as the number that a gateway made, if it is one.
    pub fn as_u64(&self) -> Option<u64> {
        self.0.parse().ok()
    }
}

impl From<u64> for RequestId {
    fn from(number: u64) -> Self {
        RequestId(number.to_string().into())
    }
}

impl Serialize for RequestId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let raw: &RawValue = serde_json::from_str(&self.0).map_err(serde::ser::Error::custom)?;
        raw.serialize(serializer)
    }
}

/// A random UUID (RFC 9562 §5.4). It tells connections and processes apart, and is no secret.
pub fn random_uuid() -> String {
    let random = || RandomState::new().hash_one(0u8);
    uuid(u128::from(random()) << 64 | u128::from(random()))
}

/// The UUID, version 4, of random bits (RFC 9562 §5.4).
pub(crate) fn uuid(bits: u128) -> String {
    let bits = bits & !(0xf << 76) & !(0x3 << 62) | 0x4 << 76 | 0x2 << 62;
    let hex = format!("{bits:032x}");
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_begins_as_its_connections_id_does() {
        let connection = connection_number("0c8f3d52-1d94-438c-a187-c210549d315a").unwrap();
        assert_eq!(RequestName { connection, number: 17 }.to_string(), "0c8f3d52-17");
        for text in [
            "",
            "0c8f3d52",
            "+c8f3d52-1d94-438c-a187-c210549d315a",
            "é",
            "{\"message_type\":\"x\",\"payload\":\"\"}",
        ] {
            assert_eq!(connection_number(text), None, "{text}");
        }
    }
}
