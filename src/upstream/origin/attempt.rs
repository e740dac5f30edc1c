//! Why a request to the local server has no response, and where that comes from.

use std::time::Duration;

use crate::service::{Failure, FailureKind, Request};

/// The wait in the agent's queue up to which a timeout is the local server's.
const QUEUED_LITTLE: Duration = Duration::from_secs(1);

/// Why there is no response.
#[derive(Debug)]
pub(crate) enum AttemptError {
    /// Nothing of the request was sent: another server may have it.
    NotSent { failure: Failure, request: Box<Request> },
    /// The request was sent, at least in part, or is itself at fault.
    Failed { failure: Failure, source: ErrorSource },
}

/// Where a failure comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ErrorSource {
    /// The server cannot be reached, or is too slow.
    Upstream,
    /// Something that says nothing about how the next request would fare.
    Other,
}

impl AttemptError {
    pub(super) fn other(failure: Failure) -> Self {
        AttemptError::Failed { failure, source: ErrorSource::Other }
    }

    /// A request that was sent, on a connection behind which there was no other: `gone` tells why.
    pub(super) fn sent(failure: Failure, gone: &Failure) -> Self {
        let is_unreachable = gone.kind() == FailureKind::Unreachable;
        let source = if is_unreachable { ErrorSource::Upstream } else { ErrorSource::Other };
        AttemptError::Failed { failure, source }
    }

    pub(super) fn not_sent(failure: Failure, request: Request) -> Self {
        match failure.kind() {
            FailureKind::Unreachable => AttemptError::NotSent { failure, request: Box::new(request) },
            // An agent that stops, or whose machine gives no more connections, asks no other server.
            _ => AttemptError::other(failure),
        }
    }
}

/// The source of a timeout: the local server, unless the request had waited in the agent's queue for long.
pub(super) fn source_of_slowness(asked: Duration, age: Duration) -> ErrorSource {
    let queued = age.saturating_sub(asked);
    if queued <= asked.max(QUEUED_LITTLE) { ErrorSource::Upstream } else { ErrorSource::Other }
}
