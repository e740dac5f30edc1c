//! Texts in the character sets of the web's first decade, for gateways that know no bodies but UTF-8.

use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderValue};

/// Characters of Windows-1252 at 0x80–0x9F, where ISO-8859-1 has controls that no page means.
const WINDOWS_1252: [char; 32] = [
    '€', '\u{81}', '‚', 'ƒ', '„', '…', '†', '‡', 'ˆ', '‰', 'Š', '‹', 'Œ', '\u{8d}', 'Ž', '\u{8f}', '\u{90}',
    '‘', '’', '“', '”', '•', '–', '—', '˜', '™', 'š', '›', 'œ', '\u{9d}', 'ž', 'Ÿ',
];

/// Where ISO-8859-15 differs from ISO-8859-1.
const ISO_8859_15: [(u8, char); 8] =
    [(0xa4, '€'), (0xa6, 'Š'), (0xa8, 'š'), (0xb4, 'Ž'), (0xb8, 'ž'), (0xbc, 'Œ'), (0xbd, 'œ'), (0xbe, 'Ÿ')];

/// Writes a body in UTF-8 whose `Content-Type` names a character set of one byte a character, and has it name UTF-8. False
/// when it names none that is known: the body and its headers are as before.
///
/// ISO-8859-1 and US-ASCII are read as Windows-1252, as every browser reads them.
pub fn make_utf8(headers: &mut HeaderMap, body: &mut Vec<u8>) -> bool {
    let Some((before, charset, after)) = charset(headers) else { return false };
    let decode: fn(u8) -> char = match charset.to_ascii_lowercase().as_str() {
        "iso-8859-1" | "latin1" | "windows-1252" | "cp1252" | "us-ascii" | "ascii" => windows_1252,
        "iso-8859-15" => iso_8859_15,
        _ => return false,
    };
    let Ok(value) = HeaderValue::try_from(format!("{before}UTF-8{after}")) else { return false };
    headers.insert(CONTENT_TYPE, value);
    *body = body.iter().map(|&byte| decode(byte)).collect::<String>().into_bytes();
    if headers.contains_key(CONTENT_LENGTH) {
        headers.insert(CONTENT_LENGTH, body.len().into());
    }
    true
}

/// The character set that a `Content-Type` names (RFC 9110 §8.3.2), what stands before it and what behind. `None` when the
/// body is compressed, too.
fn charset(headers: &HeaderMap) -> Option<(String, String, String)> {
    if headers.contains_key(CONTENT_ENCODING) {
        return None;
    }
    let value = headers.get(CONTENT_TYPE)?.to_str().ok()?;
    let start = value.to_ascii_lowercase().find("charset=")? + "charset=".len();
    let (before, rest) = value.split_at(start);
    let end = rest.find([';', ' ']).unwrap_or(rest.len());
    let (name, after) = rest.split_at(end);
    Some((before.to_owned(), name.trim_matches('"').to_owned(), after.to_owned()))
}

fn windows_1252(byte: u8) -> char {
    match byte {
        0x80..=0x9f => WINDOWS_1252[usize::from(byte - 0x80)],
        _ => char::from(byte),
    }
}

fn iso_8859_15(byte: u8) -> char {
    let other = ISO_8859_15.iter().find(|(at, _)| *at == byte);
    other.map_or(char::from(byte), |(_, char)| *char)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(content_type: &str, body: &[u8], expected: Option<(&str, &str)>) {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, content_type.parse().unwrap());
        headers.insert(CONTENT_LENGTH, body.len().into());
        let mut text = body.to_vec();
        let known = make_utf8(&mut headers, &mut text);
        let (expected_type, expected_body) = match expected {
            Some((content_type, body)) => (content_type, body.as_bytes()),
            None => (content_type, body),
        };
        assert_eq!((known, text.as_slice()), (expected.is_some(), expected_body), "{content_type}");
        assert_eq!(headers[CONTENT_TYPE], expected_type);
        assert_eq!(headers[CONTENT_LENGTH], expected_body.len().to_string());
    }

    #[test]
    fn known_character_sets_become_utf8() {
        check("text/html; charset=ISO-8859-1", b"caf\xe9 \x80", Some(("text/html; charset=UTF-8", "café €")));
        check(
            "text/html;Charset=\"windows-1252\"; x=y",
            b"\x93a\x94",
            Some(("text/html;Charset=UTF-8; x=y", "“a”")),
        );
        check(
            "text/plain; charset=iso-8859-15",
            b"\xa4\xe9\x80",
            Some(("text/plain; charset=UTF-8", "€é\u{80}")),
        );
        check("text/plain; charset=us-ascii", b"\xff", Some(("text/plain; charset=UTF-8", "ÿ")));
    }

    #[test]
    fn what_is_not_known_stays_as_it_is() {
        check("text/html; charset=utf-16", b"\xff\xfe", None);
        check("text/html", b"\xff", None);
        check("image/png", b"\x89PNG", None);
        check("text/html; charset=", b"\xff", None);
    }

    #[test]
    fn what_is_compressed_stays_as_it_is() {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/html; charset=iso-8859-1"));
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        assert!(!make_utf8(&mut headers, &mut vec![0x1f, 0x8b]));
    }
}
