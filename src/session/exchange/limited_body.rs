//! The limit of a streamed body.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::advice::Advice;
use crate::metrics::Metrics;
use crate::service::{Failure, FailureKind};

/// A request's body that may have so many more bytes, and is counted.
pub(super) struct LimitedBody<R> {
    pub(super) reader: R,
    pub(super) remaining: u64,
    pub(super) metrics: Arc<Metrics>,
    /// Set when the limit is exceeded, whatever the service makes of that.
    pub(super) has_exceeded: Arc<AtomicBool>,
}

impl<R: Read> Read for LimitedBody<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.reader.read(buffer)?;
        self.metrics.received(read);
        let Some(remaining) = self.remaining.checked_sub(read as u64) else {
            self.has_exceeded.store(true, Ordering::Release);
            return Err(io::Error::other(too_large("request")));
        };
        self.remaining = remaining;
        Ok(read)
    }
}

pub(super) fn exceeds(length: u64, max: Option<u64>) -> bool {
    max.is_some_and(|max| length > max)
}

pub(super) fn too_large(what: &str) -> Failure {
    let text = format!("the body of the {what} is larger than the tunnel lets pass");
    Failure::new(FailureKind::TooLarge, text).with_advice(Advice::StreamedBody)
}
