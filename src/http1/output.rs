//! Responses on their way out: whole, or as they are made.

use std::io;
use std::time::{Duration, Instant};

use http::response::Parts;

use super::decode::Framing;
use super::encode::{EncodedHead, LAST_CHUNK, encode_head, write_chunk};
use super::head::{Head, Persistence};
use super::limits::transfer_time;
use crate::net::WriteHalf;

/// The side of a connection on which responses go out.
#[derive(Debug)]
pub struct Output(WriteHalf);

impl Output {
    /// Writes to this half of a socket.
    pub fn new(half: WriteHalf) -> Self {
        Output(half)
    }

    /// Lets a write fail when the client takes nothing for this long.
    pub fn set_timeout(&self, timeout: Duration) -> io::Result<()> {
        self.0.set_timeout(timeout)
    }

    /// Sends bytes as they are, no slower than a transfer may be.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.send_all_until(bytes, Some(Instant::now() + transfer_time(bytes.len())))
    }

    /// Ends the writing direction.
    pub fn finish(&mut self) -> io::Result<()> {
        self.0.finish()
    }

    /// The writing half of the socket.
    pub fn into_half(self) -> WriteHalf {
        self.0
    }

    /// Starts a response whose body has this length, or one that is not known yet. Its hop-by-hop headers and framing
    /// are replaced. The head is sent with the first bytes of the body, or by [`BodyWriter::flush`].
    pub fn start(
        &mut self,
        to: Option<&Head>,
        parts: Parts,
        length: Option<u64>,
        persistence: Persistence,
    ) -> BodyWriter<'_> {
        let EncodedHead { bytes, framing, persistence } = encode_head(to, parts, length, persistence);
        BodyWriter { output: self, framing, persistence, waiting: bytes }
    }
}

/// A response of which the head is settled. Unless it is [finished](Self::finish), its connection must be
/// broken, so that it does not look whole.
#[derive(Debug)]
pub struct BodyWriter<'a> {
    output: &'a mut Output,
    /// `None` when there is no body, whatever the head says.
    framing: Option<Framing>,
    persistence: Persistence,
    /// The head, until it is sent.
    waiting: Vec<u8>,
}

impl BodyWriter<'_> {
    /// Sends the head, when it has not gone out with the first bytes of the body.
    pub fn flush(&mut self) -> io::Result<()> {
        if !self.waiting.is_empty() {
            self.output.send(&self.waiting)?;
            self.waiting.clear();
        }
        Ok(())
    }

    /// Sends bytes of the body, never more than the head says. Those of a response without a body are dropped.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.framing {
            None => return Ok(()),
            _ if bytes.is_empty() => return Ok(()),
            Some(Framing::Length(remaining)) => {
                let too_long = || io::Error::other("the response is longer than it says");
                *remaining = remaining.checked_sub(bytes.len() as u64).ok_or_else(too_long)?;
            }
            Some(Framing::UntilEnd) => {}
            Some(Framing::Chunked) => {
                write_chunk(&mut self.waiting, bytes);
                return self.flush();
            }
        }
        if self.waiting.is_empty() {
            return self.output.send(bytes);
        }
        self.waiting.extend_from_slice(bytes);
        self.flush()
    }

    /// Ends the response. Returns whether the connection can take another request.
    pub fn finish(mut self) -> io::Result<Persistence> {
        match self.framing {
            Some(Framing::Length(1..)) => {
                return Err(io::Error::other("the response is shorter than it says"));
            }
            Some(Framing::Chunked) => self.waiting.extend_from_slice(LAST_CHUNK),
            _ => {}
        }
        self.flush()?;
        Ok(self.persistence)
    }
}
