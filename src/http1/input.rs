//! Bytes that came over a connection and are not used yet.

use std::io::{self, Read};

use super::body::Decoder;
use crate::link::Socket;

/// What is read at once when it is not known how much to expect.
const STEP: usize = 16 << 10;

/// The reading side of a connection.
#[derive(Debug)]
pub struct Input {
    socket: Socket,
    buffer: Vec<u8>,
    /// Where in `buffer` the unread bytes begin.
    start: usize,
}

impl Input {
    /// Reads from this socket.
    pub fn new(socket: Socket) -> Self {
        Input { socket, buffer: Vec::new(), start: 0 }
    }

    /// The socket.
    pub fn socket(&self) -> &Socket {
        &self.socket
    }

    /// The socket, to set its time limits and the like.
    pub fn socket_mut(&mut self) -> &mut Socket {
        &mut self.socket
    }

    /// Gives the socket back, and what was read from it and not used.
    pub fn into_parts(mut self) -> (Socket, Vec<u8>) {
        self.buffer.drain(..self.start);
        (self.socket, self.buffer)
    }

    /// What was read and not used yet.
    pub fn unread(&self) -> &[u8] {
        &self.buffer[self.start..]
    }

    /// Takes note that this much of it is used.
    pub fn consume(&mut self, bytes: usize) {
        self.start += bytes;
        debug_assert!(self.start <= self.buffer.len());
        if self.start == self.buffer.len() {
            self.buffer.clear();
            self.start = 0;
        }
    }

    /// Reads more. `Ok(0)` is the end.
    pub fn fill(&mut self) -> io::Result<usize> {
        self.buffer.drain(..self.start);
        self.start = 0;
        let filled = self.buffer.len();
        self.buffer.resize(filled + STEP, 0);
        let read = self.socket.read(&mut self.buffer[filled..]);
        self.buffer.truncate(filled + read.as_ref().copied().unwrap_or(0));
        read
    }

    /// Reads more, or fails at the end.
    pub fn fill_some(&mut self) -> io::Result<()> {
        match self.fill()? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }

    /// Gives the buffer's memory back while nothing is in it: a stream may be idle for hours.
    pub fn shrink(&mut self) {
        if self.buffer.is_empty() {
            self.buffer = Vec::new();
        }
    }

    /// Reads bytes of a body, without its framing. `Ok(0)` when it is complete, which a body without a
    /// length is at the end of the connection. Broken framing is an error with [`Invalid`](super::body::Invalid) in it.
    pub fn read_body(&mut self, decoder: &mut Decoder, out: &mut [u8]) -> io::Result<usize> {
        loop {
            let step = decoder.decode(self.unread(), out.len())?;
            let body = self.start + step.skip;
            if step.take > 0 {
                out[..step.take].copy_from_slice(&self.buffer[body..body + step.take]);
            }
            self.consume(step.skip + step.take);
            if step.take > 0 || decoder.is_done() || out.is_empty() {
                return Ok(step.take);
            }
            // Past the buffer, where all that comes is body.
            if let Some(most) = decoder.raw().filter(|_| self.unread().is_empty()) {
                let most = usize::try_from(most).unwrap_or(usize::MAX).min(out.len());
                let read = self.socket.read(&mut out[..most])?;
                decoder.took(read)?;
                return Ok(read);
            }
            self.fill_some()?;
        }
    }
}
