//! The meanings of a path for a server that decodes and normalises it.

/// Decodes a path that every decoder reads in one way, or says why it is ambiguous.
pub(crate) fn decode(path: &str) -> Result<String, &'static str> {
    let raw = path.as_bytes();
    let mut decoded = Vec::with_capacity(raw.len());
    let mut rest = raw;
    while let [first, tail @ ..] = rest {
        rest = tail;
        if *first != b'%' {
            decoded.push(*first);
            continue;
        }
        let digit = |index: usize| rest.get(index).and_then(|byte| (*byte as char).to_digit(16));
        let (Some(high), Some(low)) = (digit(0), digit(1)) else {
            return Err("a % without two hexadecimal digits");
        };
        // Two digits are a byte.
        decoded.push((high * 16 + low) as u8);
        rest = &rest[2..];
    }
    if let Some(why) = ambiguity(raw, &decoded) {
        return Err(why);
    }
    String::from_utf8(decoded).map_err(|_| "an encoding that is not UTF-8")
}

/// The reason why a path is ambiguous, given as it came and decoded.
pub(crate) fn ambiguity(raw: &[u8], decoded: &[u8]) -> Option<&'static str> {
    let slashes = |bytes: &[u8]| bytes.iter().filter(|byte| **byte == b'/').count();
    let mut segments = decoded.strip_prefix(b"/").unwrap_or(decoded).split(|byte| *byte == b'/').rev();
    // A slash at the end leaves an empty last segment.
    let last = segments.next().unwrap_or_default();
    let is_dots = |segment: &[u8]| segment == b"." || segment == b"..";
    let double = |bytes: &[u8]| bytes[0] == b'%' && bytes[1..].iter().all(u8::is_ascii_hexdigit);
    if slashes(raw) != slashes(decoded) {
        Some("an encoded slash")
    } else if decoded.contains(&b'\\') {
        Some("a backslash")
    } else if decoded.contains(&0) {
        Some("a NUL")
    } else if decoded.iter().any(u8::is_ascii_control) {
        Some("a control character")
    } else if decoded.contains(&b';') {
        Some("a `;`, which some servers cut the segment at")
    } else if decoded.iter().any(|byte| matches!(byte, b'?' | b'#')) {
        Some("an encoded `?` or `#`, which some servers cut the path at")
    } else if decoded.windows(3).any(double) {
        Some("a double encoding")
    } else if is_dots(last) || segments.clone().any(is_dots) {
        Some("a dot segment")
    } else if segments.any(<[u8]>::is_empty) {
        Some("an empty segment")
    } else {
        None
    }
}

/// Most rounds of percent-decoding that a path is looked at through.
const DECODE_ROUNDS: usize = 4;

/// Whether any reading of the path climbs above its root: raw, or percent-decoded once or more.
pub(crate) fn climbs(path: &str) -> bool {
    let mut path = path.as_bytes().to_vec();
    for _ in 0..DECODE_ROUNDS {
        if climbs_as_it_is(&path) {
            return true;
        }
        let decoded = percent_decoded(&path);
        if decoded == path {
            return false;
        }
        path = decoded;
    }
    // Encoded more often than anybody has a reason to.
    true
}

fn climbs_as_it_is(path: &[u8]) -> bool {
    let mut depth = 0_i32;
    for segment in path.split(|&b| b == b'/' || b == b'\\') {
        // Some servers cut parameters off a segment before they look at it, and most merge slashes.
        match segment.split(|&b| b == b';').next().unwrap_or_default() {
            b"" | b"." => {}
            b".." => depth -= 1,
            _ => depth += 1,
        }
        if depth < 0 {
            return true;
        }
    }
    false
}

pub(crate) fn percent_decoded(path: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(path.len());
    let mut rest = path;
    while let Some((&first, tail)) = rest.split_first() {
        let byte = match tail {
            [high, low, ..] if first == b'%' => hex(*high).zip(hex(*low)).map(|(high, low)| high << 4 | low),
            _ => None,
        };
        out.push(byte.unwrap_or(first));
        rest = if byte.is_some() { &tail[2..] } else { tail };
    }
    out
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}
