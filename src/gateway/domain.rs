//! The domain of tunnels, and host names as they stand in `Host`.

use std::fmt;
use std::str::FromStr;

use http::HeaderValue;

use super::forwarded::Scheme;
use crate::http1::is_host;

/// The domain under which tunnels have their host names: `tunnel.example`, `https://tunnel.example` or
/// `tunnel.example:8443`.
///
/// Scheme and port are those that visitors use, perhaps through a proxy. Without a scheme they are those of the gateway's
/// own address; with a scheme alone the port is the scheme's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Domain {
    pub(super) scheme: Option<Scheme>,
    pub(super) name: String,
    pub(super) port: Option<u16>,
}

/// The error of a text that is no [`Domain`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InvalidDomain;

impl fmt::Display for InvalidDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("expected a host name such as tunnel.example, https://tunnel.example or localhost:3000")
    }
}

impl std::error::Error for InvalidDomain {}

impl FromStr for Domain {
    type Err = InvalidDomain;

    fn from_str(text: &str) -> Result<Self, InvalidDomain> {
        let (scheme, authority) = match text.split_once("://") {
            None => (None, text),
            Some(("http", rest)) => (Some(Scheme::Http), rest),
            Some(("https", rest)) => (Some(Scheme::Https), rest),
            Some(_) => return Err(InvalidDomain),
        };
        let (name, port) = match authority.split_once(':') {
            None => (authority, None),
            Some((name, port)) => {
                (name, Some(port.parse().ok().filter(|port| *port > 0).ok_or(InvalidDomain)?))
            }
        };
        Ok(Domain { scheme, name: host_name(name).ok_or(InvalidDomain)?, port })
    }
}

/// A host name in its usual form: in lower case, without a dot at its end. `None` where it is an address, or no name.
pub(super) fn host_name(text: &str) -> Option<String> {
    let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
    let is_label = |label: &str| {
        let is_inner = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        (1..=63).contains(&label.len()) && label.bytes().all(is_inner) && label.trim_matches('-') == label
    };
    // Browsers take a name that ends in a number for an address.
    let last = name.rsplit('.').next().unwrap_or_default();
    let ends_in_number = last.bytes().all(|byte| byte.is_ascii_digit()) || last.starts_with("0x");
    let is_name = name.len() <= 253 && name.split('.').all(is_label) && !ends_in_number;
    is_name.then_some(name)
}

/// The name in a `Host` field.
pub(super) fn name_in(host: &HeaderValue) -> Option<String> {
    let host = host.to_str().ok().filter(|host| is_host(host.as_bytes()))?;
    host_name(host.split_once(':').map_or(host, |(name, _)| name))
}
