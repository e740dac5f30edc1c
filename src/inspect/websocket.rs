//! The messages in one direction of a WebSocket (RFC 6455 §5), read from its bytes as they pass. Pure.

use super::record::MessageKind;

/// The longest head of a frame, in bytes: two, a length of eight, and a mask.
const HEAD_MAX: usize = 14;

/// A message, as far as it is kept.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct DecodedMessage {
    pub(super) kind: MessageKind,
    pub(super) data: Vec<u8>,
    pub(super) length: u64,
}

/// Reads frames from bytes, however they are cut.
#[derive(Debug)]
pub(super) struct WebSocketDecoder {
    /// The bytes of a message that are kept, at most.
    max: usize,
    head: Vec<u8>,
    frame: Option<FrameHead>,
    /// The message that has begun, whose last frame has not come.
    message: Option<DecodedMessage>,
    /// A control frame may stand between the frames of a message.
    control: Option<DecodedMessage>,
    is_dead: bool,
}

#[derive(Debug, Clone, Copy)]
struct FrameHead {
    is_final: bool,
    is_control: bool,
    remaining: u64,
    mask: [u8; 4],
    /// The place in the mask of the next byte.
    at: usize,
}

impl WebSocketDecoder {
    pub(super) fn new(max: usize) -> Self {
        WebSocketDecoder { max, head: Vec::new(), frame: None, message: None, control: None, is_dead: false }
    }

    /// Reads bytes, and passes on each message that ends in them.
    pub(super) fn feed(&mut self, mut bytes: &[u8], mut ended: impl FnMut(DecodedMessage)) {
        while !self.is_dead && (!bytes.is_empty() || self.frame.is_some_and(|frame| frame.remaining == 0)) {
            match self.frame {
                Some(frame) => {
                    let length = usize::try_from(frame.remaining).unwrap_or(usize::MAX).min(bytes.len());
                    let (payload, rest) = bytes.split_at(length);
                    bytes = rest;
                    self.take_payload(frame, payload, &mut ended);
                }
                None => {
                    self.head.push(bytes[0]);
                    bytes = &bytes[1..];
                    self.take_head(&mut ended);
                }
            }
        }
    }

    fn take_payload(&mut self, mut frame: FrameHead, payload: &[u8], ended: &mut impl FnMut(DecodedMessage)) {
        let message = if frame.is_control { &mut self.control } else { &mut self.message };
        if let Some(message) = message {
            let room = self.max.saturating_sub(message.data.len());
            let kept = payload.iter().take(room).enumerate();
            message.data.extend(kept.map(|(index, byte)| byte ^ frame.mask[(frame.at + index) % 4]));
            message.length += payload.len() as u64;
        }
        frame.at = (frame.at + payload.len()) % 4;
        frame.remaining -= payload.len() as u64;
        self.frame = (frame.remaining > 0).then_some(frame);
        if frame.remaining == 0 && frame.is_final {
            message.take().map(ended);
        }
    }

    /// Begins a frame when all of its head is there.
    fn take_head(&mut self, ended: &mut impl FnMut(DecodedMessage)) {
        let [first, second, rest @ ..] = self.head.as_slice() else { return };
        let (is_final, opcode, is_masked) = (first & 0x80 != 0, first & 0x0f, second & 0x80 != 0);
        let length_bytes = match second & 0x7f {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        let mask_bytes = if is_masked { 4 } else { 0 };
        debug_assert!(self.head.len() <= HEAD_MAX);
        if rest.len() < length_bytes + mask_bytes {
            return;
        }
        let number = rest[..length_bytes].iter().fold(0, |number, byte| number << 8 | u64::from(*byte));
        let remaining = if length_bytes == 0 { u64::from(second & 0x7f) } else { number };
        let mut mask = [0; 4];
        mask[..mask_bytes].copy_from_slice(&rest[length_bytes..]);
        let is_control = opcode >= 8;
        let is_changed = first & 0x70 != 0;
        // Only the first frame of a message is changed by an extension, and control is short (RFC 6455 §5.2, §5.5).
        let is_wrong = (is_changed && !matches!(opcode, 1 | 2))
            || (is_control && remaining > 125)
            || remaining >> 63 != 0;
        let kind = match opcode {
            _ if is_wrong => return self.die(ended),
            0 if self.message.is_some() => None,
            1 | 2 if self.message.is_none() && is_changed => Some(MessageKind::Compressed),
            1 if self.message.is_none() => Some(MessageKind::Text),
            2 if self.message.is_none() => Some(MessageKind::Binary),
            8 if is_final => Some(MessageKind::Close),
            9 if is_final => Some(MessageKind::Ping),
            10 if is_final => Some(MessageKind::Pong),
            _ => return self.die(ended),
        };
        if let Some(kind) = kind {
            let begun = Some(DecodedMessage { kind, data: Vec::new(), length: 0 });
            *if is_control { &mut self.control } else { &mut self.message } = begun;
        }
        self.head.clear();
        self.frame = Some(FrameHead { is_final, is_control, remaining, mask, at: 0 });
    }

    /// Reads nothing more: these are no frames.
    fn die(&mut self, ended: &mut impl FnMut(DecodedMessage)) {
        self.is_dead = true;
        (self.message, self.control, self.head) = (None, None, Vec::new());
        ended(DecodedMessage { kind: MessageKind::Invalid, data: Vec::new(), length: 0 });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The messages in bytes, given at once and byte by byte.
    #[track_caller]
    fn check(bytes: &[u8], expected: &[(MessageKind, &[u8], u64)]) {
        for step in [bytes.len(), 1] {
            let (mut decoder, mut messages) = (WebSocketDecoder::new(8), Vec::new());
            for piece in bytes.chunks(step) {
                decoder.feed(piece, |message| messages.push(message));
            }
            let messages: Vec<_> =
                messages.iter().map(|message| (message.kind, &*message.data, message.length)).collect();
            assert_eq!(messages, expected, "in steps of {step}");
        }
    }

    #[test]
    fn the_examples_of_rfc_6455() {
        use MessageKind::{Ping, Pong, Text};
        check(b"\x81\x05Hello", &[(Text, b"Hello", 5)]);
        check(b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58", &[(Text, b"Hello", 5)]);
        check(b"\x01\x03Hel\x80\x02lo", &[(Text, b"Hello", 5)]);
        check(b"\x89\x05Hello", &[(Ping, b"Hello", 5)]);
        check(b"\x8a\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58", &[(Pong, b"Hello", 5)]);
        let long = [b"\x82\x7e\x01\x00".as_slice(), &[7; 256]].concat();
        check(&long, &[(MessageKind::Binary, &[7; 8], 256)]);
        let longer = [b"\x82\x7f\0\0\0\0\0\x01\0\0".as_slice(), &[7; 65_536], b"\x81\x01x"].concat();
        check(&longer, &[(MessageKind::Binary, &[7; 8], 65_536), (Text, b"x", 1)]);
    }

    #[test]
    fn control_stands_between_fragments_and_the_empty_is_a_message() {
        use MessageKind::{Close, Compressed, Ping, Text};
        check(
            b"\x01\x01a\x89\x00\x00\x01b\x80\x00\x88\x02\x03\xe8",
            &[(Ping, b"", 0), (Text, b"ab", 2), (Close, b"\x03\xe8", 2)],
        );
        check(b"\x81\x00", &[(Text, b"", 0)]);
        check(b"\xc1\x02xy", &[(Compressed, b"xy", 2)]);
        check(b"\x41\x01x\x80\x01y", &[(Compressed, b"xy", 2)]);
    }

    #[test]
    fn bytes_that_are_no_frames_end_it() {
        for bytes in [
            b"\x89\x7e\x00\x7e".as_slice(),
            b"\xc9\x00",
            b"\x82\xff\x80\0\0\0\0\0\0\0\0\0\0\0",
            b"\x80\x01x\x81\x01y",
            b"\x83\x00\x81\x01y",
            b"\x01\x01a\x81\x01y",
            b"\x09\x00",
        ] {
            check(bytes, &[(MessageKind::Invalid, b"", 0)]);
        }
    }
}
