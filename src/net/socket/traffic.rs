//! How much a connection has moved.

use std::sync::atomic::{AtomicU64, Ordering};

/// How much a connection has moved, in both directions.
#[derive(Debug, Default)]
pub struct Traffic {
    received: AtomicU64,
    sent: AtomicU64,
}

// Only numbers are passed on, no other memory depends on them: relaxed everywhere.
impl Traffic {
    pub(super) fn add_received(&self, bytes: usize) {
        self.received.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn add_sent(&self, bytes: usize) {
        self.sent.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Bytes that were received so far.
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Bytes that were sent so far.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Bytes so far, either way.
    pub fn bytes(&self) -> u64 {
        self.received() + self.sent()
    }
}
