//! One binary WebSocket message: type, flags, stream, payload.

use std::fmt::{self, Write};

use tungstenite::Bytes;

use crate::http1::MUX_HEAD_MAX;

/// Bytes before the payload: type, flags, and the stream's number, big endian.
pub const HEADER: usize = 6;

/// Most bytes of the text of a RESET or GOAWAY; what is longer is cut.
pub const TEXT_MAX: usize = 1 << 10;

/// Most bytes of a message that keeps to the protocol.
pub const MESSAGE_MAX: usize = HEADER + MUX_HEAD_MAX;

// Every frame fits into the smallest limit of a message that a connection may have.
const _: () = assert!(MESSAGE_MAX <= crate::link::message::MESSAGE_MIN);

const HEAD: u8 = 1;
const DATA: u8 = 2;
const RESET: u8 = 3;
const WINDOW: u8 = 4;
const GOAWAY: u8 = 5;

/// The flag for "this direction is finished".
const END: u8 = 1;

/// Whether a frame is the last of its direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fin {
    /// More follows.
    More,
    /// Nothing follows.
    Last,
}

impl From<bool> for Fin {
    /// `true` is [`Last`](Fin::Last).
    fn from(is_last: bool) -> Self {
        if is_last { Fin::Last } else { Fin::More }
    }
}

/// A frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// An HTTP/1.1 head: opens a stream, or begins its response.
    Head {
        /// Which stream.
        stream: u32,
        /// Whether there is no body.
        fin: Fin,
        /// The bytes as on the wire, with the empty line.
        head: Bytes,
    },
    /// Bytes of a body.
    Data {
        /// Which stream.
        stream: u32,
        /// Whether they are the last.
        fin: Fin,
        /// The bytes.
        body: Bytes,
    },
    /// The end of a stream, in both directions.
    Reset {
        /// Which stream.
        stream: u32,
        /// Why.
        reset: Reset,
    },
    /// So many more bytes of body may be sent.
    Window {
        /// Which stream.
        stream: u32,
        /// How many bytes.
        grant: u32,
    },
    /// The sender opens, or takes, no more streams.
    GoAway {
        /// From the agent, the last stream that it serves.
        last: u32,
        /// Why.
        text: String,
    },
    /// A frame of a known type whose payload cannot be read.
    Malformed {
        /// Which stream.
        stream: u32,
    },
    /// A type that is not known: to be ignored.
    Unknown,
}

/// Why a stream was ended before its time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reset {
    /// The kind of reason.
    pub code: ResetCode,
    /// The reason, for people.
    pub text: String,
}

impl Reset {
    /// A reason with its text.
    pub fn new(code: ResetCode, text: impl Into<String>) -> Self {
        Reset { code, text: text.into() }
    }
}

impl fmt::Display for Reset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: ", self.code)?;
        // A quote is harmless, and has no backslash.
        self.text.chars().try_for_each(|c| match c {
            '\'' | '"' => f.write_char(c),
            c => c.escape_debug().try_for_each(|c| f.write_char(c)),
        })
    }
}

/// The kind of reason for a [`Reset`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResetCode {
    /// 1: the client disconnected.
    Cancelled,
    /// 2: no connection to the local server.
    Unreachable,
    /// 3: a timeout elapsed.
    Timeout,
    /// 4: the source broke off.
    Truncated,
    /// 5: not processed, and safe to try elsewhere.
    Refused,
    /// 6: the rules of the protocol were broken.
    Protocol,
    /// 7: more than what can be passed on.
    TooLarge,
    /// 8: anything else.
    Internal,
    /// A code that this version does not know.
    Other(u8),
}

impl ResetCode {
    fn from_byte(byte: u8) -> Self {
        match byte {
            1 => ResetCode::Cancelled,
            2 => ResetCode::Unreachable,
            3 => ResetCode::Timeout,
            4 => ResetCode::Truncated,
            5 => ResetCode::Refused,
            6 => ResetCode::Protocol,
            7 => ResetCode::TooLarge,
            8 => ResetCode::Internal,
            other => ResetCode::Other(other),
        }
    }

    fn byte(self) -> u8 {
        match self {
            ResetCode::Cancelled => 1,
            ResetCode::Unreachable => 2,
            ResetCode::Timeout => 3,
            ResetCode::Truncated => 4,
            ResetCode::Refused => 5,
            ResetCode::Protocol => 6,
            ResetCode::TooLarge => 7,
            ResetCode::Internal => 8,
            ResetCode::Other(byte) => byte,
        }
    }
}

/// A violation that ends the connection, with close code 1002.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProtocolError(pub &'static str);

impl fmt::Display for ProtocolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for ProtocolError {}

impl Frame {
    /// Reads a message. Unknown flags are ignored.
    pub fn decode(message: &Bytes) -> Result<Frame, ProtocolError> {
        let Some((&[kind, flags, a, b, c, d], payload)) = message.split_first_chunk::<HEADER>() else {
            return Err(ProtocolError("a frame shorter than its header"));
        };
        let stream = u32::from_be_bytes([a, b, c, d]);
        if stream == 0 && (HEAD..GOAWAY).contains(&kind) {
            return Err(ProtocolError("a frame of stream 0"));
        }
        let fin = Fin::from(flags & END != 0);
        Ok(match kind {
            HEAD => Frame::Head { stream, fin, head: message.slice(HEADER..) },
            DATA => Frame::Data { stream, fin, body: message.slice(HEADER..) },
            RESET => match payload.split_first() {
                Some((&code, text)) => {
                    let reset = Reset { code: ResetCode::from_byte(code), text: read_text(text) };
                    Frame::Reset { stream, reset }
                }
                None => Frame::Malformed { stream },
            },
            WINDOW => match payload.try_into() {
                Ok(grant) => Frame::Window { stream, grant: u32::from_be_bytes(grant) },
                Err(_) => Frame::Malformed { stream },
            },
            GOAWAY => Frame::GoAway { last: stream, text: read_text(payload) },
            _ => Frame::Unknown,
        })
    }

    /// Writes a message.
    pub fn encode(&self) -> Bytes {
        self.to_vec().into()
    }

    /// Writes a message into memory that can be used again.
    pub(super) fn to_vec(&self) -> Vec<u8> {
        match self {
            Frame::Head { stream, fin, head } => frame(HEAD, *fin, *stream, &[head]),
            Frame::Data { stream, fin, body } => frame(DATA, *fin, *stream, &[body]),
            Frame::Reset { stream, reset } => {
                frame(RESET, Fin::More, *stream, &[&[reset.code.byte()], cut(&reset.text).as_bytes()])
            }
            Frame::Window { stream, grant } => frame(WINDOW, Fin::More, *stream, &[&grant.to_be_bytes()]),
            Frame::GoAway { last, text } => frame(GOAWAY, Fin::More, *last, &[cut(text).as_bytes()]),
            Frame::Malformed { stream } => frame(RESET, Fin::More, *stream, &[]),
            Frame::Unknown => frame(0, Fin::More, 0, &[]),
        }
    }
}

fn frame(kind: u8, fin: Fin, stream: u32, payload: &[&[u8]]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER + payload.iter().map(|part| part.len()).sum::<usize>());
    bytes.extend_from_slice(&header(kind, fin, stream));
    payload.iter().for_each(|part| bytes.extend_from_slice(part));
    bytes
}

fn header(kind: u8, fin: Fin, stream: u32) -> [u8; HEADER] {
    let [a, b, c, d] = stream.to_be_bytes();
    [kind, if fin == Fin::Last { END } else { 0 }, a, b, c, d]
}

fn read_text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(TEXT_MAX)]).into_owned()
}

/// As much of a text as fits, in whole characters.
fn cut(text: &str) -> &str {
    let mut end = text.len().min(TEXT_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// The bytes that a frame occupies while it is queued, with what surrounds it.
pub(super) fn weight(frame: &[u8]) -> usize {
    frame.len() + 64
}

/// Room for a DATA frame, into which a body is read without another copy.
#[derive(Debug)]
pub struct DataBuffer(Vec<u8>);

impl DataBuffer {
    /// Room for so many bytes of body.
    pub fn new(size: usize) -> Self {
        DataBuffer(vec![0; HEADER + size])
    }

    /// A buffer in memory that was used before; what is still in it is not sent.
    pub(crate) fn again(mut memory: Vec<u8>, size: usize) -> Self {
        memory.resize(HEADER + size, 0);
        DataBuffer(memory)
    }

    /// A buffer that holds these bytes.
    pub fn copy_of(bytes: &[u8]) -> Self {
        let mut buffer = DataBuffer::new(bytes.len());
        buffer.space().copy_from_slice(bytes);
        buffer
    }

    /// Its memory.
    pub(crate) fn into_memory(self) -> Vec<u8> {
        self.0
    }

    /// Where the body goes.
    pub fn space(&mut self) -> &mut [u8] {
        &mut self.0[HEADER..]
    }

    /// The frame, with the first `length` bytes of the space as its body.
    pub(super) fn finish(mut self, stream: u32, length: usize, fin: Fin) -> Vec<u8> {
        let room = self.0.len();
        self.0.truncate(HEADER + length);
        self.0[..HEADER].copy_from_slice(&header(DATA, fin, stream));
        if room > 2 * self.0.len() {
            // A queued frame occupies the bytes that it is accounted for.
            self.0.shrink_to_fit();
        }
        self.0
    }
}
