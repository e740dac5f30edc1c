//! Why a request got no response.

use std::time::Duration;
use std::{fmt, io};

use crate::advice::Advice;

/// A reason why a request got no response. Its text reaches the visitor, behind "Failed to forward request to local
/// server: ". Your own service mostly needs the kinds `Internal`, `Timeout` and `BadRequest`; the others are about local
/// servers. To answer with another status, return a response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    kind: FailureKind,
    text: String,
    retry_after: Option<Duration>,
    /// Where it happened, for the log alone: visitors are not told where the local server is.
    detail: Option<String>,
    advice: Option<Advice>,
}

/// The words before the reason of every failure to forward.
pub(crate) const FORWARD_FAILED: &str = "Failed to forward request to local server";

/// The kind of a [`Failure`], with the status of the response that [`FailureReply::Response`](crate::FailureReply)
/// makes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum FailureKind {
    /// No connection to the local server: 502.
    Unreachable,
    /// The circuit breaker of the local server is open, which was not asked: 503.
    Unavailable,
    /// The system gives the agent no more sockets. The local server was not asked: 503.
    Exhausted,
    /// The local server did not answer in time: 504.
    Timeout,
    /// The body ended before it was complete: 502.
    Truncated,
    /// The body is larger than what can be passed on: 502.
    TooLarge,
    /// The local server sent no valid HTTP response: 502.
    Protocol,
    /// The gateway takes bodies in UTF-8 alone, and this one is not: 502, as a response in any case.
    TextOnly,
    /// The request is invalid: 400, as a response in any case.
    BadRequest,
    /// The service failed for a reason of its own: 502.
    Internal,
}

impl FailureKind {
    /// All that [`code`](Self::code) gives.
    pub(crate) const CODES: [&str; 10] = [
        "unreachable",
        "circuit_open",
        "exhausted",
        "timeout",
        "truncated",
        "response_too_large",
        "bad_response",
        "text_only_gateway",
        "bad_request",
        "internal",
    ];

    /// Its stable name, for programs.
    pub(crate) fn code(self) -> &'static str {
        match self {
            FailureKind::Unreachable => "unreachable",
            FailureKind::Unavailable => "circuit_open",
            FailureKind::Exhausted => "exhausted",
            FailureKind::Timeout => "timeout",
            FailureKind::Truncated => "truncated",
            FailureKind::TooLarge => "response_too_large",
            FailureKind::Protocol => "bad_response",
            FailureKind::TextOnly => "text_only_gateway",
            FailureKind::BadRequest => "bad_request",
            FailureKind::Internal => "internal",
        }
    }
}

impl Failure {
    /// A failure of this kind. The text is one line for a person, without secrets.
    pub fn new(kind: FailureKind, text: impl Into<String>) -> Self {
        Failure { kind, text: text.into(), retry_after: None, detail: None, advice: None }
    }

    /// A failure with the time after which another attempt may succeed. It is sent as `Retry-After` (RFC 9110
    /// §10.2.3) where the failure becomes a response, see [`FailureReply`](crate::FailureReply).
    #[must_use]
    pub fn with_retry_after(self, time: Duration) -> Self {
        Failure { retry_after: Some(time), ..self }
    }

    /// The time after which another try may do better, if that is known.
    pub fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }

    /// Adds where it happened, for the log alone.
    pub(crate) fn with_detail(self, detail: String) -> Self {
        Failure { detail: Some(detail), ..self }
    }

    /// Where it happened, for the log alone.
    pub(crate) fn detail(&self) -> Option<&str> {
        self.detail.as_deref()
    }

    /// Adds what an operator might do.
    pub(crate) fn with_advice(self, advice: Advice) -> Self {
        Failure { advice: Some(advice), ..self }
    }

    /// A remedy that an operator might try.
    pub(crate) fn advice(&self) -> Option<Advice> {
        self.advice
    }

    /// The kind of the failure.
    pub fn kind(&self) -> FailureKind {
        self.kind
    }

    /// The request's own body broke off.
    pub(crate) fn of_request_body(error: io::Error) -> Self {
        match error.get_ref().and_then(|inner| inner.downcast_ref::<Failure>()) {
            Some(failure) => failure.clone(),
            None => Failure::new(FailureKind::Truncated, format!("the request's body broke off: {error}")),
        }
    }

    /// The local server takes nothing of the request.
    pub(crate) fn stalled() -> Self {
        Failure::new(FailureKind::Timeout, "it stopped reading the request").with_advice(Advice::IdleTimeout)
    }

    pub(crate) fn broken_off(read: usize, length: Option<u64>, error: io::Error) -> Self {
        // A service's own failure, such as a time-out, travels through `io::Error` when it comes up while
        // the body is read.
        if let Some(failure) = error.get_ref().and_then(|inner| inner.downcast_ref::<Failure>()) {
            return failure.clone();
        }
        let of = length.map(|length| format!(" of {length}")).unwrap_or_default();
        let text = format!("the body broke off after {read}{of} bytes: {error}");
        Failure::new(FailureKind::Truncated, text)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Failure {}
