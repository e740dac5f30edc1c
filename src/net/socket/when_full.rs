//! Writes that wait for room in the kernel, and writes that do not.

use std::io::{self, Write};

use super::system::SystemSocket;

/// Whether a write waits when the kernel has no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WhenFull {
    /// As long as the socket's time-out says.
    Wait,
    /// It fails at once, with [`io::ErrorKind::TimedOut`] as if the time were over.
    Fail,
}

impl WhenFull {
    /// Writes what the kernel takes. A full socket is [`io::ErrorKind::TimedOut`].
    pub(super) fn send(self, stream: &SystemSocket, bytes: &[u8]) -> io::Result<usize> {
        #[cfg(any(target_os = "linux", target_os = "android"))]
        if self == WhenFull::Fail {
            // std has no flags: these are `MSG_DONTWAIT` and `MSG_NOSIGNAL`, the same on every architecture.
            const FLAGS: i32 = 0x40 | 0x4000;
            return super::retry(|| stream.settings().send_with_flags(bytes, FLAGS));
        }
        let mut stream = stream;
        super::retry(|| stream.write(bytes))
    }
}

/// Whether a write can be made that does not wait. Where it cannot, nothing but the connection's writer may write.
pub(crate) const CAN_WRITE_WITHOUT_WAITING: bool = cfg!(any(target_os = "linux", target_os = "android"));
