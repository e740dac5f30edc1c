//! Why a session ends.

use std::fmt;
use std::time::Duration;

/// Why a session ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum SessionEnd {
    /// It was asked to.
    Shutdown,
    /// The gateway sent a close frame.
    ClosedByGateway(Option<(u16, String)>),
    /// The gateway sent `error`: it gives up on this connection.
    GatewayError(String),
    /// The gateway broke the protocol: the close code it was told, and what it did.
    Violation(u16, String),
    /// Nothing was heard for this long.
    Silent(Duration),
    /// The gateway does not read: nothing could be written for a while, or too much waits to be.
    NotReading,
    /// The connection ended without a close frame.
    Eof,
    /// The connection failed, with the system's words.
    Lost(String),
}

impl fmt::Display for SessionEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SessionEnd::Shutdown => f.write_str("asked to stop"),
            SessionEnd::ClosedByGateway(None) => f.write_str("the gateway closed it"),
            SessionEnd::ClosedByGateway(Some((code, reason))) if reason.is_empty() => {
                write!(f, "the gateway closed it with code {code}")
            }
            SessionEnd::ClosedByGateway(Some((code, reason))) => {
                write!(f, "the gateway closed it with code {code}: {}", reason.escape_debug())
            }
            SessionEnd::GatewayError(text) => {
                write!(f, "the gateway reported an error: {}", text.escape_debug())
            }
            SessionEnd::Violation(code, what) => {
                write!(f, "the gateway broke the protocol (close code {code}): {what}")
            }
            SessionEnd::Silent(time) => write!(f, "nothing heard for {time:.1?}"),
            SessionEnd::NotReading => f.write_str("the gateway does not read what is sent to it"),
            SessionEnd::Eof => f.write_str("the gateway ended the connection without a close frame"),
            SessionEnd::Lost(error) => write!(f, "the connection failed: {error}"),
        }
    }
}

impl SessionEnd {
    /// Whether the gateway ended it without a word why.
    pub(crate) fn is_unexplained(&self) -> bool {
        match self {
            SessionEnd::Eof | SessionEnd::Lost(_) | SessionEnd::ClosedByGateway(None) => true,
            SessionEnd::ClosedByGateway(Some((_, reason))) => reason.is_empty(),
            _ => false,
        }
    }
}
