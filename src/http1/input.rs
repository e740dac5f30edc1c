//! Bytes that came over a connection and are not used yet.

use std::io::{self, Read};
use std::ops::Range;

use super::decode::Decoder;
use crate::net::Socket;

/// The size of a read when it is not known how much to expect, in bytes.
const STEP: usize = 16 << 10;

/// The size of a read while a connection is idle, and of the buffer that it keeps, in bytes: most heads fit.
const IDLE_STEP: usize = 2 << 10;

/// The reading side of a connection.
#[derive(Debug)]
pub struct Input {
    socket: Socket,
    /// It keeps its length from one read to the next: to clear it each time would cost more than to parse what comes.
    buffer: Vec<u8>,
    /// Where in `buffer` the unread bytes are.
    unread: Range<usize>,
}

/// The result of a read of another protocol than HTTP: its end is one with TLS's close_notify and without, which many
/// servers and browsers do not send. Such a protocol says itself whether it is complete.
pub fn or_end(read: io::Result<usize>) -> io::Result<usize> {
    read.or_else(|error| if error.kind() == io::ErrorKind::UnexpectedEof { Ok(0) } else { Err(error) })
}

impl Input {
    /// Reads from this socket.
    pub fn new(socket: Socket) -> Self {
        Input { socket, buffer: Vec::new(), unread: 0..0 }
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
        self.buffer.truncate(self.unread.end);
        self.buffer.drain(..self.unread.start);
        (self.socket, self.buffer)
    }

    /// The bytes that were read and not used yet.
    pub fn unread(&self) -> &[u8] {
        &self.buffer[self.unread.clone()]
    }

    /// The bytes that were read and not used yet, to be changed in place.
    pub fn unread_mut(&mut self) -> &mut [u8] {
        &mut self.buffer[self.unread.clone()]
    }

    /// Marks so many bytes as used.
    pub fn consume(&mut self, bytes: usize) {
        self.unread.start += bytes;
        debug_assert!(self.unread.start <= self.unread.end);
        if self.unread.is_empty() {
            self.unread = 0..0;
        }
    }

    /// Reads more. `Ok(0)` is the end.
    pub fn fill(&mut self) -> io::Result<usize> {
        self.fill_by(STEP)
    }

    /// Reads at most so many bytes more. `Ok(0)` is the end.
    pub fn fill_by(&mut self, step: usize) -> io::Result<usize> {
        self.buffer.copy_within(self.unread.clone(), 0);
        self.unread = 0..self.unread.len();
        let filled = self.unread.end;
        if self.buffer.len() < filled + step {
            self.buffer.resize(filled + step, 0);
        }
        let read = self.socket.read(&mut self.buffer[filled..filled + step])?;
        self.unread.end += read;
        Ok(read)
    }

    /// Reads the first bytes behind a pause, for which little memory is kept. `Ok(0)` is the end.
    pub fn fill_after_pause(&mut self) -> io::Result<usize> {
        self.shrink();
        self.fill_by(IDLE_STEP)
    }

    /// Reads more, or fails at the end.
    pub fn fill_some(&mut self) -> io::Result<()> {
        match self.fill()? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }

    /// Gives the memory of a large buffer back while nothing is in it: a stream may be idle for hours.
    pub fn shrink(&mut self) {
        self.shrink_above(IDLE_STEP);
    }

    /// Gives the buffer's memory back while nothing is in it, where it is more than this.
    pub fn shrink_above(&mut self, kept: usize) {
        if self.unread.is_empty() && self.buffer.len() > kept {
            self.buffer = Vec::new();
        }
    }

    /// Reads bytes of a body, without its framing. `Ok(0)` when it is complete, which a body without a
    /// length is at the end of the connection. Broken framing is an error with [`InvalidBody`](super::decode::InvalidBody) in it.
    pub fn read_body(&mut self, decoder: &mut Decoder, out: &mut [u8]) -> io::Result<usize> {
        loop {
            let step = decoder.decode(self.unread(), out.len())?;
            out[..step.take].copy_from_slice(&self.unread()[step.skip..step.skip + step.take]);
            self.consume(step.skip + step.take);
            if step.take > 0 || decoder.is_done() || out.is_empty() {
                return Ok(step.take);
            }
            // Past the buffer, where all that comes is body.
            if let Some(most) = decoder.raw().filter(|_| self.unread().is_empty()) {
                let most = usize::try_from(most).unwrap_or(usize::MAX).min(out.len());
                let read = self.socket.read(&mut out[..most])?;
                decoder.advance_raw(read)?;
                return Ok(read);
            }
            self.fill_some()?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn what_is_not_used_stands_before_what_comes_next() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let mut input = Input::new(Socket::plain(listener.accept().unwrap().0).unwrap());
        let mut comes = |input: &mut Input, bytes: &[u8]| {
            peer.write_all(bytes).unwrap();
            let filled = input.unread().len() + bytes.len();
            while input.unread().len() < filled {
                input.fill_some().unwrap();
            }
        };
        comes(&mut input, b"abc");
        input.consume(1);
        comes(&mut input, &[b'd'; 2 * STEP]);
        assert_eq!(input.unread(), [b"bc".as_slice(), &[b'd'; 2 * STEP]].concat());
        input.consume(2 + 2 * STEP);
        input.shrink();
        assert_eq!(input.unread(), b"");
        comes(&mut input, b"ef");
        input.consume(1);
        assert_eq!(input.into_parts().1, b"f");
    }
}
