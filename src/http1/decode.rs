//! Where the body is in a stream of bytes: RFC 9112 §6 and §7, without I/O.

use std::{fmt, io};

use httparse::Status;

use super::limits::{CHUNK_LINE_MAX, HEADERS_MAX};

/// How a body is framed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// So many bytes.
    Length(u64),
    /// Chunks.
    Chunked,
    /// Whatever comes until the connection ends. Responses only.
    UntilEnd,
}

/// Takes the framing off a body.
#[derive(Debug)]
pub struct Decoder {
    state: State,
    /// How much longer the body may become.
    room: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Length(u64),
    ChunkSize,
    Chunk(u64),
    ChunkEnd,
    Trailers,
    UntilEnd,
    Done,
}

/// The meaning of the next bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DecodeStep {
    /// Framing.
    pub skip: usize,
    /// Body, behind what is to be skipped.
    pub take: usize,
}

/// Why a body cannot be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InvalidBody {
    /// Its framing is broken; the text says how.
    Framing(&'static str),
    /// It says that it is larger than it may be.
    TooLarge,
}

impl fmt::Display for InvalidBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            InvalidBody::Framing(what) => what,
            InvalidBody::TooLarge => "the body is too large",
        })
    }
}

impl std::error::Error for InvalidBody {}

impl From<InvalidBody> for io::Error {
    fn from(invalid: InvalidBody) -> Self {
        io::Error::new(io::ErrorKind::InvalidData, invalid)
    }
}

impl Decoder {
    /// For a body that begins with the next byte.
    pub fn new(framing: Framing) -> Self {
        let state = match framing {
            Framing::Length(0) => State::Done,
            Framing::Length(length) => State::Length(length),
            Framing::Chunked => State::ChunkSize,
            Framing::UntilEnd => State::UntilEnd,
        };
        Decoder { state, room: u64::MAX }
    }

    /// A decoder for a body that may have `max` bytes and says beforehand how many it has, as a whole or chunk
    /// by chunk.
    pub fn limited(framing: Framing, max: u64) -> Result<Self, InvalidBody> {
        match framing {
            Framing::Length(length) if length > max => Err(InvalidBody::TooLarge),
            _ => Ok(Decoder { room: max, ..Decoder::new(framing) }),
        }
    }

    /// Whether the body is complete.
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// How many bytes are still to come, when that is known.
    pub fn remaining(&self) -> Option<u64> {
        match self.state {
            State::Done => Some(0),
            State::Length(left) => Some(left),
            _ => None,
        }
    }

    /// How many of the next bytes are body and nothing else.
    pub(super) fn raw(&self) -> Option<u64> {
        match self.state {
            State::Length(left) | State::Chunk(left) => Some(left),
            State::UntilEnd => Some(u64::MAX),
            _ => None,
        }
    }

    /// Records that so many raw bytes were read; none means that the connection ended.
    pub(super) fn advance_raw(&mut self, bytes: usize) -> io::Result<()> {
        match &mut self.state {
            State::UntilEnd if bytes == 0 => self.state = State::Done,
            _ if bytes == 0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            _ => self.advance(bytes as u64),
        }
        Ok(())
    }

    fn advance(&mut self, bytes: u64) {
        self.state = match self.state {
            State::Length(left) if left <= bytes => State::Done,
            State::Length(left) => State::Length(left - bytes),
            State::Chunk(left) if left <= bytes => State::ChunkEnd,
            State::Chunk(left) => State::Chunk(left - bytes),
            other => other,
        };
    }

    /// Looks at the next bytes, up to `max` bytes of body. When it takes none and is not done, more input is
    /// needed behind what it skips.
    pub fn decode(&mut self, input: &[u8], max: usize) -> Result<DecodeStep, InvalidBody> {
        let mut skip = 0;
        loop {
            let rest = &input[skip..];
            match self.state {
                State::Done => return Ok(DecodeStep { skip, take: 0 }),
                State::Length(left) | State::Chunk(left) => {
                    let take = rest.len().min(max).min(usize::try_from(left).unwrap_or(usize::MAX));
                    self.advance(take as u64);
                    return Ok(DecodeStep { skip, take });
                }
                State::UntilEnd => return Ok(DecodeStep { skip, take: rest.len().min(max) }),
                State::ChunkSize => match chunk_size(rest)? {
                    None => return Ok(DecodeStep { skip, take: 0 }),
                    Some((_, size)) if size > self.room => return Err(InvalidBody::TooLarge),
                    Some((length, size)) => {
                        skip += length;
                        self.room -= size;
                        self.state = if size == 0 { State::Trailers } else { State::Chunk(size) };
                    }
                },
                State::ChunkEnd if rest.len() < 2 => return Ok(DecodeStep { skip, take: 0 }),
                State::ChunkEnd if !rest.starts_with(b"\r\n") => {
                    return Err(InvalidBody::Framing("a chunk is longer than its size"));
                }
                State::ChunkEnd => {
                    skip += 2;
                    self.state = State::ChunkSize;
                }
                State::Trailers => match trailers(rest)? {
                    None => return Ok(DecodeStep { skip, take: 0 }),
                    Some(length) => {
                        skip += length;
                        self.state = State::Done;
                    }
                },
            }
        }
    }
}

fn chunk_size(input: &[u8]) -> Result<Option<(usize, u64)>, InvalidBody> {
    const UNREADABLE: InvalidBody = InvalidBody::Framing("a chunk size cannot be read");
    // httparse takes a line without a digit for a size of 0.
    if input.first().is_some_and(|first| !first.is_ascii_hexdigit()) {
        return Err(UNREADABLE);
    }
    match httparse::parse_chunk_size(input) {
        Ok(Status::Complete((length, size))) => {
            // Extensions are not looked at; a line end in one would be seen by some and not by others.
            let line = &input[..length - 2];
            let clean = !line.iter().any(|&byte| byte.is_ascii_control() && byte != b'\t');
            if clean { Ok(Some((length, size))) } else { Err(UNREADABLE) }
        }
        Ok(Status::Partial) if input.len() < CHUNK_LINE_MAX => Ok(None),
        Ok(Status::Partial) | Err(_) => Err(UNREADABLE),
    }
}

/// Trailers are not passed on.
fn trailers(input: &[u8]) -> Result<Option<usize>, InvalidBody> {
    const UNREADABLE: InvalidBody = InvalidBody::Framing("the trailers cannot be read");
    let mut trailers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    match httparse::parse_headers(input, &mut trailers) {
        Ok(Status::Complete((length, _))) if has_bare_line_feed(&input[..length]) => Err(UNREADABLE),
        Ok(Status::Complete((length, _))) => Ok(Some(length)),
        Ok(Status::Partial) if input.len() < CHUNK_LINE_MAX => Ok(None),
        Ok(Status::Partial) | Err(_) => Err(UNREADABLE),
    }
}

/// Whether a line ends without a carriage return. httparse takes that for a line's end; other parsers do not.
pub(super) fn has_bare_line_feed(lines: &[u8]) -> bool {
    lines.first() == Some(&b'\n') || lines.windows(2).any(|pair| pair[1] == b'\n' && pair[0] != b'\r')
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Decodes input that arrives in pieces of one size.
    fn decode(framing: Framing, input: &[u8], piece: usize) -> Result<(Vec<u8>, usize, bool), InvalidBody> {
        let mut decoder = Decoder::new(framing);
        let (mut body, mut used, mut there) = (Vec::new(), 0, 0);
        loop {
            let step = decoder.decode(&input[used..there], 3)?;
            used += step.skip;
            body.extend_from_slice(&input[used..used + step.take]);
            used += step.take;
            if decoder.is_done() || (step.take == 0 && there == input.len()) {
                return Ok((body, used, decoder.is_done()));
            }
            if step.take == 0 {
                there = input.len().min(there + piece);
            }
        }
    }

    #[test]
    fn bodies_are_found_however_they_arrive() {
        let chunked = b"3\r\nabc\r\n4;x=\"y\"\r\ndefg\r\n0\r\nTrailer: x\r\n\r\nGET";
        for piece in 1..=chunked.len() {
            let (body, used, done) = decode(Framing::Chunked, chunked, piece).unwrap();
            assert_eq!((body.as_slice(), used, done), (&b"abcdefg"[..], chunked.len() - 3, true));
            let (body, used, done) = decode(Framing::Length(7), b"abcdefgGET", piece).unwrap();
            assert_eq!((body.as_slice(), used, done), (&b"abcdefg"[..], 7, true));
            let (body, _, done) = decode(Framing::UntilEnd, b"abcdefg", piece).unwrap();
            assert_eq!((body.as_slice(), done), (&b"abcdefg"[..], false));
        }
    }

    #[test]
    fn a_body_that_is_cut_is_not_done() {
        let chunked = b"3\r\nabc\r\n0\r\n\r\n";
        for cut in 0..chunked.len() {
            assert!(!decode(Framing::Chunked, &chunked[..cut], 5).unwrap().2, "{cut}");
        }
        assert!(!decode(Framing::Length(7), b"abcdef", 5).unwrap().2);
        let mut decoder = Decoder::new(Framing::Length(1));
        assert_eq!(decoder.advance_raw(0).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        let mut decoder = Decoder::new(Framing::UntilEnd);
        assert!(decoder.advance_raw(0).is_ok() && decoder.is_done());
    }

    #[test]
    fn broken_framing_is_seen() {
        let long = [b"1;".as_slice(), &[b'x'; CHUNK_LINE_MAX]].concat();
        let mut limited = Decoder::limited(Framing::Chunked, 4).unwrap();
        assert_eq!(limited.decode(b"3\r\nabc\r\n2\r\n", 3), Ok(DecodeStep { skip: 3, take: 3 }));
        assert_eq!(limited.decode(b"\r\n2\r\n", 3), Err(InvalidBody::TooLarge));
        assert_eq!(Decoder::limited(Framing::Length(5), 4).unwrap_err(), InvalidBody::TooLarge);
        for input in [
            &b"x\r\n"[..],
            b"3\r\nabcd\r\n",
            b"1;\x01\r\na\r\n",
            b"\r\n\r\n",
            b";x\r\n\r\n",
            b" \r\n\r\n",
            b"0\r\n\n",
            b"0\r\nX: y\n\n",
            b"0\r\nX: y\n\r\n",
            b"0\r\n bad\r\n\r\n",
            &long,
        ] {
            assert!(decode(Framing::Chunked, input, 1000).is_err(), "{input:?}");
        }
    }
}
