//! The writing half of a socket.

use std::io::{self, Write};
use std::net::Shutdown;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::system::SystemSocket;
use super::timeouts::SetTimeout;
#[cfg(feature = "tls")]
use super::tls;
use super::when_full::WhenFull;
use super::{Traffic, keep_unsent};

/// The writing half of a [`Socket`](super::Socket).
#[derive(Debug)]
pub struct WriteHalf {
    pub(super) stream: Arc<SystemSocket>,
    pub(super) traffic: Arc<Traffic>,
    pub(super) timeout: SetTimeout,
    #[cfg(feature = "tls")]
    pub(super) tls: Option<tls::Writing>,
}

impl WriteHalf {
    /// Ends the writing direction, with a TLS goodbye where there is TLS.
    pub fn finish(&mut self) -> io::Result<()> {
        #[cfg(feature = "tls")]
        if let Some(tls) = &mut self.tls {
            tls.finish(&self.stream)?;
        }
        self.stream.shutdown(Shutdown::Write)
    }

    /// Keeps what the kernel holds back unsent below so many bytes, where the system has such a setting.
    pub(crate) fn keep_unsent(&self, max: u32) {
        keep_unsent(&self.stream, max);
    }

    /// Lets the system end the connection when the other side acknowledges nothing of what was sent for this long.
    /// Where it has no such setting, it waits as long as it likes.
    pub fn set_user_timeout(&self, timeout: Duration) {
        #[cfg(any(target_os = "linux", target_os = "android"))]
        let _ = self.stream.tcp().map(|tcp| socket2::SockRef::from(tcp).set_tcp_user_timeout(Some(timeout)));
        #[cfg(not(any(target_os = "linux", target_os = "android")))]
        let _ = timeout;
    }

    /// Lets a write fail when it makes no progress for this long.
    pub fn set_timeout(&self, timeout: Duration) -> io::Result<()> {
        self.timeout.set(Some(timeout), |timeout| self.stream.set_write_timeout(timeout))
    }

    /// Writes all of it, or fails with [`io::ErrorKind::TimedOut`] when it makes no progress.
    pub fn send_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.send_all_until(bytes, None)
    }

    /// Sends all bytes, until `deadline` at most, and not much longer than a write may make no progress.
    pub fn send_all_until(&mut self, mut bytes: &[u8], deadline: Option<Instant>) -> io::Result<()> {
        while !bytes.is_empty() {
            if deadline.is_some_and(|deadline| Instant::now() > deadline) {
                return Err(io::ErrorKind::TimedOut.into());
            }
            match self.write(bytes) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => bytes = &bytes[written..],
                // Under TLS a part of a record went out.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        loop {
            match self.flush() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                other => return other,
            }
        }
    }
}

/// A [`WriteHalf`] whose writes fail with [`io::ErrorKind::TimedOut`] where they would wait.
#[derive(Debug)]
pub(crate) struct WithoutWaiting<'a>(&'a mut WriteHalf);

impl WriteHalf {
    /// The writing half for writes that do not wait.
    pub(crate) fn without_waiting(&mut self) -> WithoutWaiting<'_> {
        WithoutWaiting(self)
    }

    fn write_when(&mut self, bytes: &[u8], full: WhenFull) -> io::Result<usize> {
        #[cfg(feature = "tls")]
        if let Some(tls) = &mut self.tls {
            return tls.write(&self.stream, bytes, full).inspect(|written| self.traffic.add_sent(*written));
        }
        full.send(&self.stream, bytes).inspect(|written| self.traffic.add_sent(*written))
    }

    fn flush_when(&mut self, full: WhenFull) -> io::Result<()> {
        #[cfg(feature = "tls")]
        if let Some(tls) = &mut self.tls {
            return tls.flush(&self.stream, full);
        }
        let _ = full;
        Ok(())
    }
}

impl Write for WriteHalf {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_when(bytes, WhenFull::Wait)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.flush_when(WhenFull::Wait)
    }
}

impl Write for WithoutWaiting<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write_when(bytes, WhenFull::Fail)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush_when(WhenFull::Fail)
    }
}
