//! Why an exchange with the local server has no response.

use std::io;

use super::Timeouts;
use crate::advice::Advice;
use crate::http1::BadResponse;
use crate::service::{Failure, FailureKind};

/// Why there is no response.
#[derive(Debug)]
pub(super) enum ExchangeError {
    /// The server closed the connection, or it failed.
    Closed { received: bool, error: io::Error },
    /// The server was too slow.
    Stalled(Stalled),
    /// The server sent something that is no response.
    BadResponse(BadResponse),
    /// There is something wrong with the request's body.
    Request(Failure),
}

/// The step that the server was too slow with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stalled {
    /// With reading the request.
    Reading,
    /// With the first byte of its answer.
    Answering,
    /// With the rest of its answer's head.
    Going,
}

impl ExchangeError {
    /// Whether it failed as a request does on an idle connection that the server has closed. One that the
    /// server is slow to answer is not: it may well be at work on it.
    pub(super) fn may_be_stale(&self) -> bool {
        matches!(self, ExchangeError::Closed { received: false, .. })
    }

    pub(super) fn explain(self, timeouts: &Timeouts) -> Failure {
        let stalled = if let ExchangeError::Stalled(stalled) = &self { Some(*stalled) } else { None };
        let (kind, text) = match self {
            ExchangeError::Stalled(Stalled::Reading) => return Failure::stalled(),
            ExchangeError::Stalled(Stalled::Answering) => {
                (FailureKind::Timeout, format!("it did not answer within {:?}", timeouts.response))
            }
            ExchangeError::Stalled(Stalled::Going) => {
                (FailureKind::Timeout, format!("its answer stalled for {:?}", timeouts.idle))
            }
            ExchangeError::Closed { received, error } => {
                let when = if received { "in the middle of its answer" } else { "before it answered" };
                (FailureKind::Truncated, format!("it closed the connection {when}: {error}"))
            }
            ExchangeError::BadResponse(BadResponse::TooLarge) => {
                (FailureKind::TooLarge, format!("its answer cannot be passed on: {}", BadResponse::TooLarge))
            }
            ExchangeError::BadResponse(error) => {
                (FailureKind::Protocol, format!("its answer is no valid HTTP/1.1 ({error})"))
            }
            ExchangeError::Request(failure) => return failure,
        };
        let failure = Failure::new(kind, text);
        match stalled {
            Some(Stalled::Answering) => failure.with_advice(Advice::ResponseTimeout),
            Some(_) => failure.with_advice(Advice::IdleTimeout),
            None => failure,
        }
    }
}
