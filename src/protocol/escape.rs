//! JSON inside a JSON string, written in one pass.

use std::io::{self, Write};

/// Escapes what is written through it for the inside of a JSON string, and refuses to let the output grow
/// past a limit.
///
/// It is fed by serde_json, which has escaped every control character already: only quotes and backslashes
/// are left to do.
pub(super) struct Escaped<'a> {
    out: &'a mut Vec<u8>,
    max: usize,
}

impl<'a> Escaped<'a> {
    pub(super) fn new(out: &'a mut Vec<u8>, max: usize) -> Self {
        Escaped { out, max }
    }
}

impl Write for Escaped<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // Checked before the bytes are taken, so the overshoot is one write of serde_json: a run of
        // unescaped text, at most doubled.
        if self.out.len() + bytes.len() > self.max {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let mut rest = bytes;
        while let Some(at) = rest.iter().position(|&b| b == b'"' || b == b'\\') {
            self.out.extend_from_slice(&rest[..at]);
            self.out.extend_from_slice(&[b'\\', rest[at]]);
            rest = &rest[at + 1..];
        }
        self.out.extend_from_slice(rest);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn twice_escaped_is_what_serde_json_makes_in_two_passes() {
        let inner = serde_json::json!({"a": "q\"b\\ \n\u{1}é\u{1F600}"});
        let mut out = Vec::new();
        serde_json::to_writer(Escaped::new(&mut out, 1000), &inner).unwrap();
        let expected = serde_json::to_string(&inner.to_string()).unwrap();
        assert_eq!(format!("\"{}\"", String::from_utf8(out).unwrap()), expected);
    }

    #[test]
    fn stops_at_its_limit() {
        let mut out = Vec::new();
        assert!(serde_json::to_writer(Escaped::new(&mut out, 50), &"x".repeat(51)).is_err());
        assert!(out.len() <= 50);
    }
}
