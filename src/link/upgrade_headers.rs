//! The header fields that an upgrade request carries for what stands before a gateway.

use std::path::Path;
use std::str::FromStr;
use std::{fmt, io};

use http::header::{self, HeaderName};

use super::secret::{SecretFile, read_secret};
use crate::http1::{InvalidHeader, SetHeader};

/// Most fields.
const FIELDS_MAX: usize = 32;

/// Header fields of the upgrade request, for an access gateway in front of the gateway: a line each, `Name: value`. Empty
/// lines, and those that begin with `#`, are left out. Never shown.
///
/// ```
/// let headers: tunnel_agent::UpgradeHeaders = "CF-Access-Client-Id: 7f3a\nCF-Access-Client-Secret: s3cret".parse()?;
/// assert_eq!(format!("{headers:?}"), "UpgradeHeaders([cf-access-client-id, cf-access-client-secret])");
/// # Ok::<(), tunnel_agent::InvalidUpgradeHeaders>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct UpgradeHeaders(Vec<SetHeader>);

/// The reason why a text is no [`UpgradeHeaders`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InvalidUpgradeHeaders {
    /// This line, from 1, is no header, or none that may be set.
    Line(usize, InvalidHeader),
    /// This line, from 1, sets what the WebSocket's handshake is made of.
    Handshake(usize),
    /// There is no field.
    Empty,
    /// There are more than 32 fields.
    TooMany,
}

impl fmt::Display for InvalidUpgradeHeaders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            InvalidUpgradeHeaders::Line(line, InvalidHeader::Syntax) => {
                write!(f, "line {line} is no header; expected a name and a value, such as 'X-Access: key'")
            }
            InvalidUpgradeHeaders::Line(line, InvalidHeader::Host) => {
                write!(f, "line {line} sets Host, which is the gateway's own name")
            }
            InvalidUpgradeHeaders::Line(line, error) => write!(f, "line {line}: {error}"),
            InvalidUpgradeHeaders::Handshake(line) => {
                write!(f, "line {line} sets a header of the WebSocket handshake, which the agent sees to")
            }
            InvalidUpgradeHeaders::Empty => f.write_str("there is no header in it"),
            InvalidUpgradeHeaders::TooMany => write!(f, "there may be {FIELDS_MAX} headers at most"),
        }
    }
}

impl std::error::Error for InvalidUpgradeHeaders {}

impl FromStr for UpgradeHeaders {
    type Err = InvalidUpgradeHeaders;

    fn from_str(text: &str) -> Result<Self, InvalidUpgradeHeaders> {
        let mut headers = Vec::new();
        for (line, text) in (1..).zip(text.lines()) {
            let text = text.trim();
            if text.is_empty() || text.starts_with('#') {
                continue;
            }
            let header: SetHeader = text.parse().map_err(|error| InvalidUpgradeHeaders::Line(line, error))?;
            if is_of_handshake(&header.name) {
                return Err(InvalidUpgradeHeaders::Handshake(line));
            }
            headers.push(header);
        }
        match headers.len() {
            0 => Err(InvalidUpgradeHeaders::Empty),
            1..=FIELDS_MAX => Ok(UpgradeHeaders(headers)),
            _ => Err(InvalidUpgradeHeaders::TooMany),
        }
    }
}

/// RFC 6455 §4.1; an `Origin` would make a browser's page of the agent.
fn is_of_handshake(name: &HeaderName) -> bool {
    name.as_str().starts_with("sec-websocket-") || *name == header::ORIGIN
}

impl UpgradeHeaders {
    /// Whether a field has this name.
    pub(crate) fn has(&self, name: &HeaderName) -> bool {
        self.0.iter().any(|header| header.name == *name)
    }

    /// The fields, in the order in which they were given.
    pub(super) fn iter(&self) -> impl Iterator<Item = &SetHeader> {
        self.0.iter()
    }
}

impl SecretFile for UpgradeHeaders {
    const NAME: &str = "list of upgrade headers";

    fn from_file(path: &Path) -> io::Result<Self> {
        let text = read_secret(path)?;
        text.parse().map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
    }
}

impl fmt::Debug for UpgradeHeaders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.0.iter().map(|header| header.name.as_str()).collect();
        write!(f, "UpgradeHeaders([{}])", names.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_a_field() {
        let text = "# for the access gateway\r\nCF-Access-Client-Id: 7f3a\r\n\n  authorization:Basic bWU6c2VjcmV0  \n";
        let headers: UpgradeHeaders = text.parse().unwrap();
        let fields: Vec<_> =
            headers.iter().map(|header| (header.name.as_str(), header.value.to_str().unwrap())).collect();
        assert_eq!(fields, [("cf-access-client-id", "7f3a"), ("authorization", "Basic bWU6c2VjcmV0")]);
        assert!(!format!("{headers:?}").contains("7f3a"));
    }

    #[test]
    fn other_lines_are_refused_and_not_shown() {
        let many = "X-A: s3cret\n".repeat(FIELDS_MAX + 1);
        for (text, error) in [
            ("", InvalidUpgradeHeaders::Empty),
            ("# nothing\n", InvalidUpgradeHeaders::Empty),
            ("X-A: s3cret\ns3cret", InvalidUpgradeHeaders::Line(2, InvalidHeader::Syntax)),
            ("\nX A: s3cret", InvalidUpgradeHeaders::Line(2, InvalidHeader::Syntax)),
            ("Host: s3cret", InvalidUpgradeHeaders::Line(1, InvalidHeader::Host)),
            ("Connection: s3cret", InvalidUpgradeHeaders::Line(1, InvalidHeader::Framing)),
            ("Upgrade: s3cret", InvalidUpgradeHeaders::Line(1, InvalidHeader::Framing)),
            ("Sec-WebSocket-Key: s3cret", InvalidUpgradeHeaders::Handshake(1)),
            ("Origin: s3cret", InvalidUpgradeHeaders::Handshake(1)),
            (&many, InvalidUpgradeHeaders::TooMany),
        ] {
            assert_eq!(text.parse::<UpgradeHeaders>(), Err(error), "{text:?}");
            assert!(!error.to_string().contains("s3cret"));
        }
    }
}
