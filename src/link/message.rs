//! WebSocket messages on the two halves of a [`Socket`].

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Read, Write};
use std::time::Duration;

use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::{CloseCode, Control, Data, OpCode};
use tungstenite::protocol::{Role, WebSocketConfig};
use tungstenite::{Bytes, Error, Message, Utf8Bytes, WebSocket};

use crate::net::socket::Socket;

/// The size of a read from a socket, in bytes.
const READ_BUFFER: usize = 16 << 10;

/// The size of a write, in bytes, so that progress is seen in steps of this size.
const WRITE_STEP: usize = 64 << 10;

/// A write buffer that has grown past this is given back when it is empty.
const WRITE_BUFFER_KEPT: usize = 256 << 10;

/// Least `max_message`, in bytes: a refusal has to fit, and every frame of mux/2.
pub const MESSAGE_MIN: usize = 80 << 10;

/// The settings of both sides. A frame's header makes tungstenite reserve the whole payload, so `max_message`
/// is a promise about memory.
fn config(max_message: usize) -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER)
        .write_buffer_size(0)
        .max_message_size(Some(max_message))
        .max_frame_size(Some(max_message))
}

/// A message that the other side sent.
#[derive(Debug)]
pub enum Received {
    /// A text message.
    Text(Utf8Bytes),
    /// A binary message.
    Binary(Bytes),
    /// A ping, to be answered with a pong of the same payload.
    Ping(Bytes),
    /// A pong, with its ping's payload.
    Pong(Bytes),
    /// A close frame: code and reason, if it has them.
    Close(Option<(u16, String)>),
}

/// Why nothing more can be read.
#[derive(Debug)]
pub enum ReadError {
    /// The connection ended without a close frame.
    Eof,
    /// The connection failed.
    Io(io::Error),
    /// The other side broke the WebSocket protocol: the close code to answer with, and what it did.
    Violation(u16, String),
}

/// The reading side of a WebSocket. It never writes, not even pongs.
#[derive(Debug)]
pub struct MessageReader<S = Socket>(WebSocket<HookedStream<S>>);

/// A stream that does something before each read, which may wait.
struct HookedStream<S> {
    stream: S,
    before_read: Option<Box<dyn Fn() + Send>>,
}

impl<S: fmt::Debug> fmt::Debug for HookedStream<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.stream.fmt(f)
    }
}

impl<S: Read> Read for HookedStream<S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if let Some(hook) = &self.before_read {
            hook();
        }
        self.stream.read(buffer)
    }
}

/// Discards what tungstenite writes by itself, such as pongs and close replies.
impl<S> Write for HookedStream<S> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MessageReader {
    /// Lets [`read`](Self::read) fail when nothing at all comes for this long, and no more at a deadline.
    pub fn set_timeout(&mut self, timeout: Duration) -> io::Result<()> {
        let socket = &mut self.0.get_mut().stream;
        socket.set_deadline(None)?;
        socket.set_read_timeout(Some(timeout))
    }

    /// Takes no larger messages than this from now on.
    pub fn limit(&mut self, max_message: usize) {
        self.0.set_config(|config| *config = self::config(max_message));
    }

    /// Reads and throws away what still comes, so that a close frame of ours is not overtaken by a reset.
    pub fn discard(mut self, max: usize) {
        self.0.get_mut().stream.discard(max);
    }
}

impl<S: Read> MessageReader<S> {
    /// Reads as this side of a WebSocket, behind the `rest` that came with its handshake, and takes no larger messages than
    /// this.
    pub fn new(stream: S, rest: Vec<u8>, role: Role, max_message: usize) -> Self {
        let input = HookedStream { stream, before_read: None };
        MessageReader(WebSocket::from_partially_read(input, rest, role, Some(config(max_message))))
    }

    /// Calls `hook` whenever all that was read is used, and more is to be waited for.
    pub fn before_waiting(&mut self, hook: impl Fn() + Send + 'static) {
        self.0.get_mut().before_read = Some(Box::new(hook));
    }

    /// Waits for the next message.
    pub fn read(&mut self) -> Result<Received, ReadError> {
        match self.0.read() {
            Ok(Message::Text(text)) => Ok(Received::Text(text)),
            Ok(Message::Binary(bytes)) => Ok(Received::Binary(bytes)),
            Ok(Message::Ping(payload)) => Ok(Received::Ping(payload)),
            Ok(Message::Pong(payload)) => Ok(Received::Pong(payload)),
            // ReadMode brings none.
            Ok(Message::Frame(_)) => Ok(Received::Pong(Bytes::new())),
            Ok(Message::Close(frame)) => {
                Ok(Received::Close(frame.map(|frame| (frame.code.into(), frame.reason.to_string()))))
            }
            Err(error) => Err(classify(error)),
        }
    }
}

fn classify(error: Error) -> ReadError {
    use tungstenite::error::ProtocolError::ResetWithoutClosingHandshake;
    match error {
        Error::Io(error) if error.kind() == io::ErrorKind::UnexpectedEof => ReadError::Eof,
        Error::Io(error) => ReadError::Io(error),
        Error::ConnectionClosed | Error::AlreadyClosed => ReadError::Eof,
        Error::Protocol(ResetWithoutClosingHandshake) => ReadError::Eof,
        Error::Capacity(error) => ReadError::Violation(CloseCode::Size.into(), error.to_string()),
        Error::Utf8(_) => {
            ReadError::Violation(CloseCode::Invalid.into(), "text that is not UTF-8".to_owned())
        }
        other => ReadError::Violation(CloseCode::Protocol.into(), other.to_string()),
    }
}

/// A message to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outbound {
    /// A text message; its maker vouches for the UTF-8.
    Text(Bytes),
    /// A binary message.
    Binary(Bytes),
    /// A ping with a payload of 125 bytes at most.
    Ping(Bytes),
    /// A pong.
    Pong(Bytes),
    /// A close frame.
    Close(u16, &'static str),
}

/// Collects frames, masked for a client, and hands them to the kernel in steps.
///
/// The buffer holds what waits to be written and at most as much again of what is written already, however long frames
/// are added faster than the kernel takes them.
#[derive(Debug)]
pub struct MessageWriter {
    /// The masks of a client; a server sends frames without one (RFC 6455 §5.1).
    masks: Option<Masks>,
    buffer: Vec<u8>,
    /// How much of the buffer is written.
    written: usize,
    /// How much was written before that.
    written_before: u64,
}

impl MessageWriter {
    /// Frames as this side of a WebSocket sends them.
    pub fn new(role: Role) -> Self {
        let masks = (role == Role::Client).then(Masks::new);
        MessageWriter { masks, buffer: Vec::new(), written: 0, written_before: 0 }
    }

    /// Adds a frame to what is waiting.
    pub fn push(&mut self, message: &Outbound) {
        match message {
            Outbound::Text(text) => self.add(OpCode::Data(Data::Text), &[text]),
            Outbound::Binary(bytes) => self.push_binary(bytes),
            Outbound::Ping(payload) => self.add(OpCode::Control(Control::Ping), &[payload]),
            Outbound::Pong(payload) => self.add(OpCode::Control(Control::Pong), &[payload]),
            Outbound::Close(code, reason) => {
                self.add(OpCode::Control(Control::Close), &[&code.to_be_bytes(), reason.as_bytes()]);
            }
        }
    }

    /// Adds a binary message to what is waiting.
    pub fn push_binary(&mut self, message: &[u8]) {
        self.add(OpCode::Data(Data::Binary), &[message]);
    }

    fn add(&mut self, opcode: OpCode, payload: &[&[u8]]) {
        let mask = self.masks.as_mut().map(Masks::next);
        let header = FrameHeader { opcode, mask, ..FrameHeader::default() };
        let length = payload.iter().map(|part| part.len()).sum::<usize>();
        self.buffer.reserve(header.len(length as u64) + length);
        // It goes to memory, which takes everything.
        let _ = header.format(length as u64, &mut self.buffer);
        let start = self.buffer.len();
        payload.iter().for_each(|part| self.buffer.extend_from_slice(part));
        if let Some(mask) = mask {
            apply_mask(&mut self.buffer[start..], mask);
        }
    }

    /// Whether all of it is written and has gone out.
    pub fn is_empty(&self) -> bool {
        self.buffer.is_empty()
    }

    /// How many bytes wait to be written.
    pub fn waiting(&self) -> usize {
        self.buffer.len() - self.written
    }

    /// How many bytes were added so far, in all.
    pub fn pushed(&self) -> u64 {
        self.written() + self.waiting() as u64
    }

    /// How many bytes were written so far, in all.
    pub fn written(&self) -> u64 {
        self.written_before + self.written as u64
    }

    /// Writes one step of what is waiting. `Ok` means progress; [`io::ErrorKind::TimedOut`] that nothing went
    /// out for as long as `half` waits, and that another step may be tried.
    pub fn write_step(&mut self, half: &mut impl Write) -> io::Result<()> {
        match self.write_and_flush(half) {
            // Under TLS a part of a record went out.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            other => other,
        }
    }

    fn write_and_flush(&mut self, half: &mut impl Write) -> io::Result<()> {
        let end = self.buffer.len().min(self.written + WRITE_STEP);
        if self.written < end {
            match half.write(&self.buffer[self.written..end])? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                taken => self.written += taken,
            }
        }
        if self.written == self.buffer.len() {
            // Under TLS, what was taken may still wait to go out; until then this is not empty.
            half.flush()?;
            self.drop_written();
            if self.buffer.capacity() > WRITE_BUFFER_KEPT {
                self.buffer = Vec::new();
            }
        } else if self.written > self.waiting() {
            // Each byte is moved once at most for one that is written.
            self.drop_written();
        }
        Ok(())
    }

    fn drop_written(&mut self) {
        self.written_before += self.written as u64;
        self.buffer.drain(..self.written);
        self.written = 0;
    }

    /// The waiting messages, as bytes.
    #[cfg(test)]
    fn bytes(&self) -> &[u8] {
        &self.buffer[self.written..]
    }
}

/// Masks that cannot be predicted from those before (RFC 6455 §10.3): numbers through SipHash, whose key is the
/// system's chance.
struct Masks {
    keyed: RandomState,
    number: u64,
}

impl Masks {
    fn new() -> Self {
        Masks { keyed: RandomState::new(), number: 0 }
    }

    fn next(&mut self) -> [u8; 4] {
        self.number += 1;
        let [a, b, c, d, ..] = self.keyed.hash_one(self.number).to_ne_bytes();
        [a, b, c, d]
    }
}

impl fmt::Debug for Masks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Masks(…)")
    }
}

/// RFC 6455 §5.3, eight bytes at a time.
fn apply_mask(payload: &mut [u8], mask: [u8; 4]) {
    let [a, b, c, d] = mask;
    let wide = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let mut words = payload.chunks_exact_mut(8);
    for word in &mut words {
        // A chunk of eight is eight bytes.
        let plain = u64::from_ne_bytes(word.try_into().unwrap_or_default());
        word.copy_from_slice(&(plain ^ wide).to_ne_bytes());
    }
    words.into_remainder().iter_mut().zip(mask.into_iter().cycle()).for_each(|(byte, key)| *byte ^= key);
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn a_server_sends_frames_as_rfc_6455_writes_them() {
        let mut frames = MessageWriter::new(Role::Server);
        frames.push(&Outbound::Text(Bytes::from_static(b"Hello")));
        frames.push(&Outbound::Ping(Bytes::new()));
        frames.push(&Outbound::Pong(Bytes::from_static(b"x")));
        frames.push(&Outbound::Close(1001, "bye"));
        let expected = b"\x81\x05Hello\x89\x00\x8a\x01x\x88\x05\x03\xe9bye";
        assert_eq!(frames.bytes(), expected);
    }

    #[test]
    fn a_client_masks_every_frame() {
        let mut frames = MessageWriter::new(Role::Client);
        let text = b"Hello, a text that is longer than a few words";
        for length in 0..text.len() {
            let before = frames.bytes().len();
            frames.push(&Outbound::Text(Bytes::from_static(&text[..length])));
            let bytes = &frames.bytes()[before..];
            assert_eq!(bytes[..2], [0x81, 0x80 | length as u8]);
            let unmasked: Vec<u8> = (0..length).map(|i| bytes[6 + i] ^ bytes[2 + i % 4]).collect();
            assert_eq!(unmasked, text[..length]);
        }
    }

    #[test]
    fn no_two_masks_are_alike_and_no_two_connections() {
        let masks = |mut masks: Masks| (0..100).map(move |_| masks.next());
        let all: std::collections::HashSet<_> = masks(Masks::new()).chain(masks(Masks::new())).collect();
        assert!(all.len() > 195, "{}", all.len());
    }

    /// Takes what a kernel with a full buffer takes of each write.
    struct Narrow(usize);

    impl Write for Narrow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            Ok(bytes.len().min(self.0))
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_is_written_takes_up_no_memory_however_long_more_is_added() {
        let mut frames = MessageWriter::new(Role::Client);
        let message = Outbound::Binary(vec![0; 64 << 10].into());
        for _ in 0..2_000 {
            while frames.waiting() < 64 << 10 {
                frames.push(&message);
            }
            frames.write_step(&mut Narrow(50_000)).unwrap();
            assert!(frames.buffer.capacity() <= 512 << 10, "{}", frames.buffer.capacity());
        }
        assert_eq!(
            (frames.written(), frames.pushed() - frames.written()),
            (100_000_000, frames.waiting() as u64)
        );
    }

    /// A stream that gives these bytes in pieces of one size, and then ends.
    struct Scripted<'a>(&'a [u8], usize);

    impl Read for Scripted<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let most = buffer.len().min(self.1);
            self.0.read(&mut buffer[..most])
        }
    }

    fn reader(bytes: &[u8], piece: usize) -> MessageReader<Scripted<'_>> {
        let stream = Scripted(bytes, piece);
        MessageReader::new(stream, Vec::new(), Role::Client, 1000)
    }

    #[test]
    fn the_hook_runs_once_for_all_that_is_read_together() {
        let waits = Arc::new(AtomicUsize::new(0));
        let counted = waits.clone();
        let mut reader = reader(TRANSCRIPT, TRANSCRIPT.len());
        reader.before_waiting(move || {
            counted.fetch_add(1, Ordering::Relaxed);
        });
        for _ in 0..4 {
            reader.read().unwrap();
        }
        assert_eq!(waits.load(Ordering::Relaxed), 1);
        assert!(reader.read().is_err());
        assert_eq!(waits.load(Ordering::Relaxed), 2);
    }

    /// Two whole messages, one of them in two fragments with a ping between them, and a close frame.
    const TRANSCRIPT: &[u8] = b"\x81\x05Hello\x01\x03Hel\x89\x01p\x80\x02lo\x88\x05\x03\xe8bye";

    #[test]
    fn messages_are_read_whole_however_they_arrive() {
        for piece in 1..=TRANSCRIPT.len() {
            let mut reader = reader(TRANSCRIPT, piece);
            assert!(matches!(reader.read(), Ok(Received::Text(text)) if text == "Hello"));
            assert!(matches!(reader.read(), Ok(Received::Ping(payload)) if payload == "p"));
            assert!(matches!(reader.read(), Ok(Received::Text(text)) if text == "Hello"));
            assert!(matches!(reader.read(), Ok(Received::Close(Some((1000, reason)))) if reason == "bye"));
            assert!(matches!(reader.read(), Err(ReadError::Eof)));
        }
    }

    #[test]
    fn a_stream_that_is_cut_anywhere_is_an_end_and_never_a_message() {
        for cut in 0..TRANSCRIPT.len() {
            let mut reader = reader(&TRANSCRIPT[..cut], 7);
            let mut whole = Vec::new();
            let end = loop {
                match reader.read() {
                    Ok(Received::Text(text)) => whole.push(text),
                    Ok(_) => {}
                    Err(end) => break end,
                }
            };
            assert!(matches!(end, ReadError::Eof), "cut after {cut}: {end:?}");
            assert!(whole.iter().all(|text| *text == "Hello"), "cut after {cut}: {whole:?}");
        }
    }

    #[test]
    fn violations_have_their_close_codes() {
        let long = [b"\x81\x7e\x03\xe9".as_slice(), &[b'x'; 1001]].concat();
        let huge = b"\x82\x7f\xff\xff\xff\xff\xff\xff\xff\xff".as_slice();
        for (bytes, code) in [
            (b"\x81\x01\xff".as_slice(), 1007),
            (&long, 1009),
            (huge, 1009),
            (b"\x81\x85....\0\0\0\0\0", 1002),
            (b"\xc1\x00", 1002),
            (b"\x83\x00", 1002),
            (b"\x80\x00", 1002),
            (b"\x09\x00", 1002),
            (&[b"\x89\x7e\x00\x7e".as_slice(), &[b'x'; 126]].concat(), 1002),
            (b"\x88\x01\x03", 1002),
        ] {
            match reader(bytes, 1000).read() {
                Err(ReadError::Violation(got, _)) => assert_eq!(got, code, "{bytes:?}"),
                other => panic!("{bytes:?}: {other:?}"),
            }
        }
    }

    /// A stream under TLS: it takes everything, and what it took goes out as its flushes say.
    struct Encrypting(Vec<io::Result<()>>);

    impl Write for Encrypting {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            self.0.pop().unwrap_or(Ok(()))
        }
    }

    #[test]
    fn nothing_is_done_before_what_was_taken_has_gone_out() {
        let stalled = || Err(io::ErrorKind::TimedOut.into());
        let partly = || Err(io::ErrorKind::WouldBlock.into());
        let mut half = Encrypting(vec![partly(), stalled()]);
        let mut frames = MessageWriter::new(Role::Server);
        frames.push(&Outbound::Ping(Bytes::new()));
        // Nothing goes out, then a part of it, then the rest.
        let error = frames.write_step(&mut half).unwrap_err();
        assert_eq!((error.kind(), frames.is_empty(), frames.written()), (io::ErrorKind::TimedOut, false, 2));
        assert!(frames.write_step(&mut half).is_ok() && !frames.is_empty());
        assert!(frames.write_step(&mut half).is_ok() && frames.is_empty());
        assert_eq!((frames.pushed(), frames.written()), (2, 2));
    }
}
