//! WebSocket messages on the two halves of a [`Socket`].

use std::io::{self, Read, Write};
use std::time::Duration;

use tungstenite::protocol::frame::coding::{CloseCode, Data, OpCode};
use tungstenite::protocol::frame::{CloseFrame, Frame};
use tungstenite::protocol::{Role, WebSocketConfig};
use tungstenite::{Bytes, Error, Message, Utf8Bytes, WebSocket};

use super::duplex::Socket;

/// What is read from a socket at once.
const READ_BUFFER: usize = 16 << 10;

/// What is handed to the kernel at once, so that progress is seen in steps of this size.
const WRITE_STEP: usize = 64 << 10;

/// A write buffer that has grown past this is given back when it is empty.
const WRITE_BUFFER_KEPT: usize = 256 << 10;

/// Least `max_message`, in bytes: a refusal has to fit, and every frame of mux/2.
pub const MESSAGE_MIN: usize = 80 << 10;

const _: () = assert!(MESSAGE_MIN >= crate::protocol::mux::MESSAGE_MAX);

/// The settings of both sides. A frame's header makes tungstenite reserve the whole payload, so `max_message`
/// is a promise about memory.
pub fn config(max_message: usize) -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER)
        .write_buffer_size(0)
        .max_message_size(Some(max_message))
        .max_frame_size(Some(max_message))
}

/// What the other side sent.
#[derive(Debug)]
pub enum Incoming {
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
pub struct FrameReader<S = Socket>(WebSocket<S>);

impl FrameReader {
    /// Lets [`read`](Self::read) fail when nothing at all comes for this long, and no more at a deadline.
    pub fn set_timeout(&mut self, timeout: Duration) -> io::Result<()> {
        self.0.get_mut().set_deadline(None)?;
        self.0.get_ref().set_read_timeout(Some(timeout))
    }

    /// Reads and throws away what still comes, so that a close frame of ours is not overtaken by a reset.
    pub fn discard(mut self, max: usize) {
        self.0.get_mut().discard(max);
    }
}

impl<S: Read + Write> FrameReader<S> {
    /// Reads from a WebSocket whose stream drops what is written to it, as a [`Socket`] does that has been
    /// split.
    pub fn new(socket: WebSocket<S>) -> Self {
        FrameReader(socket)
    }

    /// Waits for the next message.
    pub fn read(&mut self) -> Result<Incoming, ReadError> {
        match self.0.read() {
            Ok(Message::Text(text)) => Ok(Incoming::Text(text)),
            Ok(Message::Binary(bytes)) => Ok(Incoming::Binary(bytes)),
            Ok(Message::Ping(payload)) => Ok(Incoming::Ping(payload)),
            Ok(Message::Pong(payload)) => Ok(Incoming::Pong(payload)),
            // Reading brings none.
            Ok(Message::Frame(_)) => Ok(Incoming::Pong(Bytes::new())),
            Ok(Message::Close(frame)) => {
                Ok(Incoming::Close(frame.map(|frame| (frame.code.into(), frame.reason.to_string()))))
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

/// What is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outgoing {
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
#[derive(Debug)]
pub struct FrameWriter {
    role: Role,
    encoder: WebSocket<Collected>,
    /// How much of what is collected is written.
    written: usize,
    /// How much was written before that.
    written_before: u64,
}

impl FrameWriter {
    /// Frames as this side of a WebSocket sends them.
    pub fn new(role: Role) -> Self {
        let encoder = WebSocket::from_raw_socket(Collected(Vec::new()), role, Some(config(usize::MAX)));
        FrameWriter { role, encoder, written: 0, written_before: 0 }
    }

    /// Adds a frame to what is waiting.
    pub fn push(&mut self, message: Outgoing) {
        let frame = match message {
            Outgoing::Text(text) => Frame::message(text, OpCode::Data(Data::Text), true),
            Outgoing::Binary(bytes) => Frame::message(bytes, OpCode::Data(Data::Binary), true),
            Outgoing::Ping(payload) => Frame::ping(payload),
            Outgoing::Pong(payload) => Frame::pong(payload),
            Outgoing::Close(code, reason) => {
                Frame::close(Some(CloseFrame { code: code.into(), reason: Utf8Bytes::from_static(reason) }))
            }
        };
        // It goes to memory, which takes everything.
        let _ = self.encoder.write(Message::Frame(frame));
    }

    /// Whether all of it is written and has gone out.
    pub fn is_empty(&self) -> bool {
        self.encoder.get_ref().0.is_empty()
    }

    /// How many bytes wait to be written.
    pub fn waiting(&self) -> usize {
        self.encoder.get_ref().0.len() - self.written
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
        let collected = &self.encoder.get_ref().0;
        let end = collected.len().min(self.written + WRITE_STEP);
        if self.written < end {
            match half.write(&collected[self.written..end])? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                taken => self.written += taken,
            }
        }
        if self.written == collected.len() {
            // Under TLS, what was taken may still wait to go out; until then this is not empty.
            half.flush()?;
            self.clear();
        }
        Ok(())
    }

    fn clear(&mut self) {
        self.written_before += self.written as u64;
        self.written = 0;
        let collected = &mut self.encoder.get_mut().0;
        collected.clear();
        if collected.capacity() > WRITE_BUFFER_KEPT {
            // The encoder has a buffer of that size too.
            *self = FrameWriter { written_before: self.written_before, ..FrameWriter::new(self.role) };
        }
    }

    /// What is waiting, as bytes.
    #[cfg(test)]
    fn bytes(&self) -> &[u8] {
        &self.encoder.get_ref().0[self.written..]
    }
}

#[derive(Debug)]
struct Collected(Vec<u8>);

impl Write for Collected {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Read for Collected {
    fn read(&mut self, _buffer: &mut [u8]) -> io::Result<usize> {
        // Never called: this object only encodes.
        Err(io::ErrorKind::Unsupported.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_sends_frames_as_rfc_6455_writes_them() {
        let mut frames = FrameWriter::new(Role::Server);
        frames.push(Outgoing::Text(Bytes::from_static(b"Hello")));
        frames.push(Outgoing::Ping(Bytes::new()));
        frames.push(Outgoing::Pong(Bytes::from_static(b"x")));
        frames.push(Outgoing::Close(1001, "bye"));
        let expected = b"\x81\x05Hello\x89\x00\x8a\x01x\x88\x05\x03\xe9bye";
        assert_eq!(frames.bytes(), expected);
    }

    #[test]
    fn a_client_masks_every_frame() {
        let mut frames = FrameWriter::new(Role::Client);
        frames.push(Outgoing::Text(Bytes::from_static(b"Hello")));
        let bytes = frames.bytes();
        assert_eq!(bytes[..2], [0x81, 0x85]);
        let unmasked: Vec<u8> = (0..5).map(|i| bytes[6 + i] ^ bytes[2 + i % 4]).collect();
        assert_eq!(unmasked, b"Hello");
    }

    /// A stream that gives these bytes in pieces of one size, and then ends.
    struct Scripted<'a>(&'a [u8], usize);

    impl Read for Scripted<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let most = buffer.len().min(self.1);
            self.0.read(&mut buffer[..most])
        }
    }

    impl Write for Scripted<'_> {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn reader(bytes: &[u8], piece: usize) -> FrameReader<Scripted<'_>> {
        let stream = Scripted(bytes, piece);
        FrameReader::new(WebSocket::from_raw_socket(stream, Role::Client, Some(config(1000))))
    }

    /// Two whole messages, one of them in two fragments with a ping between them, and a close frame.
    const TRANSCRIPT: &[u8] = b"\x81\x05Hello\x01\x03Hel\x89\x01p\x80\x02lo\x88\x05\x03\xe8bye";

    #[test]
    fn messages_are_read_whole_however_they_arrive() {
        for piece in 1..=TRANSCRIPT.len() {
            let mut reader = reader(TRANSCRIPT, piece);
            assert!(matches!(reader.read(), Ok(Incoming::Text(text)) if text == "Hello"));
            assert!(matches!(reader.read(), Ok(Incoming::Ping(payload)) if payload == "p"));
            assert!(matches!(reader.read(), Ok(Incoming::Text(text)) if text == "Hello"));
            assert!(matches!(reader.read(), Ok(Incoming::Close(Some((1000, reason)))) if reason == "bye"));
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
                    Ok(Incoming::Text(text)) => whole.push(text),
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
        let mut frames = FrameWriter::new(Role::Server);
        frames.push(Outgoing::Ping(Bytes::new()));
        // Nothing goes out, then a part of it, then the rest.
        let error = frames.write_step(&mut half).unwrap_err();
        assert_eq!((error.kind(), frames.is_empty(), frames.written()), (io::ErrorKind::TimedOut, false, 2));
        assert!(frames.write_step(&mut half).is_ok() && !frames.is_empty());
        assert!(frames.write_step(&mut half).is_ok() && frames.is_empty());
        assert_eq!((frames.pushed(), frames.written()), (2, 2));
    }
}
