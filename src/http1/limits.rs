//! The limits of heads and of transfers, in one place: what one hop reads, the next must be able to take.
//!
//! A visitor's head is read within [`HEAD_MAX`] and [`HEADERS_MAX`]; the gateway adds a few fields, so the agent takes
//! somewhat more. What is refused for its size is still read, so that it can be refused by name.

use std::time::Duration;

/// Most bytes of a head that is read from a socket.
pub const HEAD_MAX: usize = 64 << 10;

/// Most headers of a head that is read from a socket.
pub const HEADERS_MAX: usize = 128;

/// Most headers of a request that is forwarded: a visitor's, and what a gateway adds.
pub const FORWARDED_HEADERS_MAX: usize = HEADERS_MAX + 16;

/// Most bytes of the names and values of a request that is forwarded.
pub const FORWARDED_HEADER_BYTES_MAX: usize = 64 << 10;

/// Most bytes of one header, and of the path, of a request that is forwarded.
pub const FORWARDED_LINE_MAX: usize = 30 << 10;

/// Most headers that are read of a message of the tunnel.
pub const READ_HEADERS_MAX: usize = 2 * HEADERS_MAX;

/// Most bytes of the head in a HEAD frame (mux.md).
pub const MUX_HEAD_MAX: usize = 72 << 10;

/// Most bytes of the head that answers a WebSocket upgrade.
pub const UPGRADE_HEAD_MAX: usize = 16 << 10;

/// Most bytes of a chunk's size line with its extensions, and of all trailers.
pub(super) const CHUNK_LINE_MAX: usize = 4 << 10;

/// How long a body may take in any case; a transfer may take longer, if it keeps up [`RATE_MIN`].
const BODY_TIME: Duration = Duration::from_secs(30);

/// Slowest transfer that is not cut off, in bytes per second.
const RATE_MIN: u64 = 16 << 10;

/// The time that a transfer of so many bytes may take.
pub(super) fn transfer_time(bytes: usize) -> Duration {
    BODY_TIME + Duration::from_secs(bytes as u64 / RATE_MIN)
}
