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
    pub(super) exceeded: BodyLimitFlag,
}

/// Set when a request's body exceeds its limit, whatever the service makes of that.
#[derive(Debug, Clone, Default)]
pub(super) struct BodyLimitFlag(Arc<AtomicBool>);

impl BodyLimitFlag {
    pub(super) fn set(&self) {
        self.0.store(true, Ordering::Release);
    }

    pub(super) fn is_exceeded(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

impl<R: Read> Read for LimitedBody<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.reader.read(buffer)?;
        self.metrics.received(read);
        let Some(remaining) = self.remaining.checked_sub(read as u64) else {
            self.exceeded.set();
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
