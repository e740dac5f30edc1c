//! The events of a `text/event-stream` (the HTML standard, §9.2.6), read from its bytes as they pass. Pure.

/// Bytes of an event's name that are kept.
const NAME_MAX: usize = 256;

/// An event, as far as it is kept.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct DecodedEvent {
    pub(super) name: Option<String>,
    pub(super) data: Vec<u8>,
    pub(super) length: u64,
}

/// Reads events from bytes, however they are cut.
#[derive(Debug)]
pub(super) struct EventDecoder {
    /// The bytes of a line and of an event that are kept, at most.
    max: usize,
    line: Vec<u8>,
    line_length: u64,
    /// The last byte was a CR: an LF behind it belongs to it.
    is_behind_cr: bool,
    event: DecodedEvent,
    has_data: bool,
    /// No line has ended so far.
    is_first: bool,
}

impl EventDecoder {
    pub(super) fn new(max: usize) -> Self {
        EventDecoder {
            max,
            line: Vec::new(),
            line_length: 0,
            is_behind_cr: false,
            event: DecodedEvent::default(),
            has_data: false,
            is_first: true,
        }
    }

    /// Reads bytes, and passes on each event that ends in them.
    pub(super) fn feed(&mut self, bytes: &[u8], mut ended: impl FnMut(DecodedEvent)) {
        for &byte in bytes {
            match byte {
                b'\n' if std::mem::take(&mut self.is_behind_cr) => {}
                b'\r' | b'\n' => {
                    self.is_behind_cr = byte == b'\r';
                    self.end_line(&mut ended);
                }
                _ => {
                    self.is_behind_cr = false;
                    self.line_length += 1;
                    if self.line.len() < self.max {
                        self.line.push(byte);
                    }
                }
            }
        }
    }

    fn end_line(&mut self, ended: &mut impl FnMut(DecodedEvent)) {
        let (line, length) = (std::mem::take(&mut self.line), std::mem::take(&mut self.line_length));
        if length == 0 {
            let event = std::mem::take(&mut self.event);
            // Without data it is none.
            if std::mem::take(&mut self.has_data) {
                ended(event);
            }
            return;
        }
        // A mark of the byte order may be at the beginning.
        let mark: &[u8] = if std::mem::take(&mut self.is_first) { b"\xef\xbb\xbf" } else { b"" };
        let stripped = line.strip_prefix(mark).unwrap_or(&line);
        let (line, length) = (stripped, length - (line.len() - stripped.len()) as u64);
        let colon = line.iter().position(|&byte| byte == b':').unwrap_or(line.len());
        let value = line.get(colon + 1..).unwrap_or_default();
        let value = value.strip_prefix(b" ").unwrap_or(value);
        match &line[..colon] {
            b"data" => {
                if std::mem::replace(&mut self.has_data, true) {
                    self.event.length += 1;
                    self.event.data.push(b'\n');
                }
                self.event.length += length - (line.len() - value.len()) as u64;
                self.event.data.extend_from_slice(value);
                self.event.data.truncate(self.max);
            }
            b"event" => {
                let name = &value[..value.len().min(NAME_MAX)];
                self.event.name = Some(String::from_utf8_lossy(name).into_owned());
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: &[(Option<&str>, &str, u64)]) {
        for step in [text.len(), 1] {
            let (mut decoder, mut events) = (EventDecoder::new(12), Vec::new());
            for piece in text.as_bytes().chunks(step) {
                decoder.feed(piece, |event| events.push(event));
            }
            let events: Vec<_> = events
                .iter()
                .map(|event| (event.name.as_deref(), std::str::from_utf8(&event.data).unwrap(), event.length))
                .collect();
            assert_eq!(events, expected, "{text:?} in steps of {step}");
        }
    }

    #[test]
    fn an_empty_line_ends_an_event() {
        check("data: a\n\ndata:b\r\n\r\ndata: c\r\r", &[(None, "a", 1), (None, "b", 1), (None, "c", 1)]);
        check("event: tick\nid: 7\ndata: a\ndata: b\n\n", &[(Some("tick"), "a\nb", 3)]);
        check(": a comment\n\nevent: x\n\nretry: 5\n\n", &[]);
        check("data\n\n", &[(None, "", 0)]);
        check("\u{feff}data: a\n\n", &[(None, "a", 1)]);
        check("data: not over", &[]);
    }

    #[test]
    fn what_is_long_is_cut_and_counted() {
        check("data: 0123456789\n\n", &[(None, "012345", 10)]);
        check("data: 01\ndata: 23\ndata: 45\ndata: 67\ndata: 89\n\n", &[(None, "01\n23\n45\n67\n", 14)]);
    }
}
