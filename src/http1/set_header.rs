//! A header that is set because an operator says so.

use std::fmt;
use std::str::FromStr;

use http::header::{self, HeaderName, HeaderValue};

/// A header that messages get: `X-Api-Key: value`.
///
/// ```
/// let header: tunnel_agent::SetHeader = "X-Env: tunnel".parse()?;
/// # Ok::<(), tunnel_agent::InvalidHeader>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct SetHeader {
    pub(crate) name: HeaderName,
    pub(crate) value: HeaderValue,
}

/// Why a header cannot be set or removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InvalidHeader {
    /// It is no name, or no name and value with a colon between them.
    Syntax,
    /// It frames the message or belongs to the connection, which the agent sees to.
    Framing,
    /// It is `Host`, which has an option of its own.
    Host,
}

impl fmt::Display for InvalidHeader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            InvalidHeader::Syntax => {
                "expected a name and a value, such as 'X-Env: tunnel', or to remove it its name, such as X-Env"
            }
            InvalidHeader::Framing => "that header frames the message or belongs to the connection",
            InvalidHeader::Host => "Host has an option of its own",
        })
    }
}

impl std::error::Error for InvalidHeader {}

impl FromStr for SetHeader {
    type Err = InvalidHeader;

    fn from_str(text: &str) -> Result<Self, InvalidHeader> {
        let (name, value) = text.split_once(':').ok_or(InvalidHeader::Syntax)?;
        let value = HeaderValue::from_str(value.trim()).map_err(|_| InvalidHeader::Syntax)?;
        Ok(SetHeader { name: header_name(name)?, value })
    }
}

impl fmt::Debug for SetHeader {
    /// The name alone: a value may be a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SetHeader({})", self.name)
    }
}

/// The name of a header that may be changed.
pub(crate) fn header_name(text: &str) -> Result<HeaderName, InvalidHeader> {
    const FRAMING: [HeaderName; 7] = [
        header::CONNECTION,
        header::CONTENT_LENGTH,
        header::EXPECT,
        header::TE,
        header::TRAILER,
        header::TRANSFER_ENCODING,
        header::UPGRADE,
    ];
    let name = HeaderName::from_bytes(text.as_bytes()).map_err(|_| InvalidHeader::Syntax)?;
    match name {
        header::HOST => Err(InvalidHeader::Host),
        name if FRAMING.contains(&name) => Err(InvalidHeader::Framing),
        name => Ok(name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_agent_sees_to_is_refused() {
        for (text, error) in [
            ("no colon", InvalidHeader::Syntax),
            ("a b: c", InvalidHeader::Syntax),
            (": c", InvalidHeader::Syntax),
            ("a: b\r\nc: d", InvalidHeader::Syntax),
            ("host: x", InvalidHeader::Host),
            ("Content-Length: 1", InvalidHeader::Framing),
            ("transfer-encoding: chunked", InvalidHeader::Framing),
            ("Connection: close", InvalidHeader::Framing),
        ] {
            assert_eq!(text.parse::<SetHeader>(), Err(error), "{text:?}");
        }
        assert_eq!(format!("{:?}", "a: s3cret".parse::<SetHeader>().unwrap()), "SetHeader(a)");
    }
}
