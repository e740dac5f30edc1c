//! What a request is called in what both programs say of it.

use std::fmt;

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
