//! The system's socket under a [`Socket`](super::Socket): TCP, or a Unix socket of this machine.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
#[cfg(unix)]
use std::os::unix::net::UnixStream;
use std::time::Duration;

use socket2::SockRef;

/// A connected socket of the system.
#[derive(Debug)]
pub(super) enum SystemSocket {
    Tcp(TcpStream),
    #[cfg(unix)]
    Unix(UnixStream),
}

/// Calls the same method of either.
macro_rules! either {
    ($stream:expr, $name:ident => $call:expr) => {
        match $stream {
            SystemSocket::Tcp($name) => $call,
            #[cfg(unix)]
            SystemSocket::Unix($name) => $call,
        }
    };
}

impl SystemSocket {
    pub(super) fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        either!(self, stream => stream.shutdown(how))
    }

    pub(super) fn set_read_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        either!(self, stream => stream.set_read_timeout(timeout))
    }

    pub(super) fn set_write_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        either!(self, stream => stream.set_write_timeout(timeout))
    }

    /// The socket for settings that std does not have.
    pub(super) fn settings(&self) -> SockRef<'_> {
        either!(self, stream => SockRef::from(stream))
    }

    /// The socket where it is TCP, for settings of TCP.
    pub(super) fn tcp(&self) -> Option<&TcpStream> {
        match self {
            SystemSocket::Tcp(tcp) => Some(tcp),
            #[cfg(unix)]
            SystemSocket::Unix(_) => None,
        }
    }

    /// The other end's address, which a Unix socket does not have.
    pub(super) fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.tcp().ok_or(io::ErrorKind::AddrNotAvailable)?.peer_addr()
    }
}

impl Read for &SystemSocket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        either!(self, stream => (&*stream).read(buffer))
    }
}

impl Write for &SystemSocket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        either!(self, stream => (&*stream).write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
