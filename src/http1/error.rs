//! The reason why no request can be read.

use std::{fmt, io};

use http::StatusCode;

use super::decode::InvalidBody;

/// Why there is no request.
#[derive(Debug)]
pub enum RequestError {
    /// The client is to be told, and the connection ended.
    Refused(StatusCode, &'static str),
    /// The client was too slow.
    TimedOut,
    /// The connection failed or ended in the middle of something.
    Io(io::Error),
}

impl fmt::Display for RequestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RequestError::Refused(status, what) => write!(f, "{status}: {what}"),
            RequestError::TimedOut => f.write_str("the client was too slow"),
            RequestError::Io(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for RequestError {}

impl From<io::Error> for RequestError {
    fn from(error: io::Error) -> Self {
        let invalid = error.get_ref().and_then(|inner| inner.downcast_ref::<InvalidBody>());
        match invalid {
            Some(InvalidBody::Framing(what)) => bad(what),
            Some(InvalidBody::TooLarge) => TOO_LARGE,
            None if error.kind() == io::ErrorKind::TimedOut => RequestError::TimedOut,
            None => RequestError::Io(error),
        }
    }
}

const TOO_LARGE: RequestError = RequestError::Refused(StatusCode::PAYLOAD_TOO_LARGE, "the body is too large");

pub(super) const fn bad(what: &'static str) -> RequestError {
    RequestError::Refused(StatusCode::BAD_REQUEST, what)
}
