//! What an agent's owner changes in the headers of requests.

use std::fmt;
use std::str::FromStr;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};

use crate::http1::fields::remove_spellings;

/// A header that requests get: `X-Api-Key: value`.
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

/// All changes: what is removed goes first, and what is set takes the place of what was there, in all its spellings.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct HeaderRewrite {
    pub(crate) set: Vec<SetHeader>,
    pub(crate) remove: Vec<HeaderName>,
}

impl HeaderRewrite {
    pub(super) fn apply(&self, headers: &mut HeaderMap) {
        for name in self.remove.iter().chain(self.set.iter().map(|header| &header.name)) {
            remove_spellings(headers, name);
        }
        for SetHeader { name, value } in &self.set {
            headers.append(name, value.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_set_takes_the_place_of_what_was_there() {
        let edits = HeaderRewrite {
            set: ["X-A: 1", "x-a:2", "X-New:  a b "].map(|text| text.parse().unwrap()).into(),
            remove: vec![header_name("Cookie").unwrap()],
        };
        let mut headers = HeaderMap::new();
        for (name, value) in
            [("x-a", "old"), ("x_a", "forged"), ("cookie", "a=1"), ("cookie", "b=2"), ("x-kept", "yes")]
        {
            headers.append(name, HeaderValue::from_static(value));
        }
        edits.apply(&mut headers);
        let left: Vec<_> = headers.iter().map(|(name, value)| format!("{name}: {value:?}")).collect();
        assert_eq!(left.len(), 4, "{left:?}");
        assert_eq!(headers.get_all("x-a").iter().collect::<Vec<_>>(), ["1", "2"]);
        assert_eq!(
            (&headers["x-new"], &headers["x-kept"]),
            (&"a b".parse().unwrap(), &"yes".parse().unwrap())
        );
    }

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
