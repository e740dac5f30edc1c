//! Proxies on the way to a gateway: what one is, which gateways it is for, and how it is asked for a connection.
//!
//! Local servers are never reached through a proxy.

mod choice;
mod pass;

use std::fmt;
use std::str::FromStr;

use http::uri::Authority;

pub use self::choice::{InvalidVariable, Proxies, SourcedProxy};
pub use self::pass::ProxyRefusal;
use crate::http1::has_host_and_port;
use crate::http1::path::percent_decoded;

/// Most bytes of a user name, and of a password (RFC 1929 §2).
const CREDENTIAL_MAX: usize = 255;

/// A proxy: `http://HOST[:PORT]` (asked with CONNECT, RFC 9110 §9.3.6) or `socks5://HOST[:PORT]` (RFC 1928), perhaps with
/// `USER:PASSWORD@` before the host, percent-encoded where need be. The ports are 80 and 1080 unless they are given;
/// `socks5h` means the same as `socks5`: the proxy resolves the gateway's name.
///
/// ```
/// use tunnel_agent::Proxy;
///
/// let proxy: Proxy = "http://me:s3cret@proxy.example:3128".parse()?;
/// assert_eq!(proxy.to_string(), "http://proxy.example:3128"); // never the password
/// # Ok::<(), tunnel_agent::InvalidProxy>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Proxy {
    protocol: ProxyProtocol,
    host: String,
    port: u16,
    credentials: Option<ProxyCredentials>,
}

/// How a proxy is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ProxyProtocol {
    Http,
    Socks5,
}

impl ProxyProtocol {
    fn scheme(self) -> &'static str {
        match self {
            ProxyProtocol::Http => "http",
            ProxyProtocol::Socks5 => "socks5",
        }
    }

    fn default_port(self) -> u16 {
        match self {
            ProxyProtocol::Http => 80,
            ProxyProtocol::Socks5 => 1080,
        }
    }
}

/// User name and password, as bytes.
#[derive(Clone, PartialEq, Eq)]
struct ProxyCredentials {
    user: Vec<u8>,
    password: Vec<u8>,
}

/// The reason why a text is no [`Proxy`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InvalidProxy {
    /// It is no URL with a host and a valid port.
    Syntax,
    /// It has a scheme other than `http`, `socks5` and `socks5h`.
    Scheme,
    /// User name or password are empty, too long, or hold a line end.
    Credentials,
    /// It has a path, a query or a fragment, which mean nothing to a proxy.
    Path,
}

impl fmt::Display for InvalidProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            InvalidProxy::Syntax => {
                "not a proxy with a valid host and port; expected something like http://proxy.example:3128"
            }
            InvalidProxy::Scheme => "a proxy begins with http:// or socks5://; others, such as https://, are not supported",
            InvalidProxy::Credentials => {
                "the proxy's user name is empty or holds a colon, or its password cannot be used: both have 255 bytes at \
                 most, no line end, and %25 for a % (and %40 for an @)"
            }
            InvalidProxy::Path => "a proxy has no path; expected something like http://proxy.example:3128",
        })
    }
}

impl std::error::Error for InvalidProxy {}

impl FromStr for Proxy {
    type Err = InvalidProxy;

    fn from_str(text: &str) -> Result<Self, InvalidProxy> {
        // As with curl, a proxy without a scheme is an HTTP one.
        let (scheme, rest) = text.split_once("://").unwrap_or(("http", text));
        let protocol = match scheme.to_ascii_lowercase().as_str() {
            "http" => ProxyProtocol::Http,
            "socks5" | "socks5h" => ProxyProtocol::Socks5,
            _ => return Err(InvalidProxy::Scheme),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (credentials, server) = match rest.rsplit_once('@') {
            Some((credentials, server)) => (Some(ProxyCredentials::parse(credentials)?), server),
            None => (None, rest),
        };
        if server.contains(['/', '?', '#']) {
            return Err(InvalidProxy::Path);
        }
        let authority: Authority = server.parse().map_err(|_| InvalidProxy::Syntax)?;
        if !has_host_and_port(&authority) {
            return Err(InvalidProxy::Syntax);
        }
        let port = authority.port_u16().unwrap_or(protocol.default_port());
        Ok(Proxy { protocol, host: authority.host().to_owned(), port, credentials })
    }
}

impl ProxyCredentials {
    fn parse(text: &str) -> Result<Self, InvalidProxy> {
        let is_encoded = |rest: &str| {
            rest.get(..2).is_some_and(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()))
        };
        if !text.split('%').skip(1).all(is_encoded) {
            return Err(InvalidProxy::Credentials);
        }
        let (user, password) = text.split_once(':').unwrap_or((text, ""));
        let (user, password) = (percent_decoded(user.as_bytes()), percent_decoded(password.as_bytes()));
        let is_usable =
            |bytes: &[u8]| bytes.len() <= CREDENTIAL_MAX && !bytes.iter().any(u8::is_ascii_control);
        // Basic takes no colon in a user name (RFC 7617 §2).
        if user.is_empty() || user.contains(&b':') || !is_usable(&user) || !is_usable(&password) {
            return Err(InvalidProxy::Credentials);
        }
        Ok(ProxyCredentials { user, password })
    }
}

impl Proxy {
    /// The host, an IPv6 address in its brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Whether a user name, and perhaps a password, go with it.
    pub fn has_credentials(&self) -> bool {
        self.credentials.is_some()
    }
}

impl fmt::Display for Proxy {
    /// The proxy without its credentials.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}:{}", self.protocol.scheme(), self.host, self.port)
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Proxy({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_is_shown_without_its_credentials() {
        for (text, shown) in [
            ("proxy", "http://proxy:80"),
            ("proxy:3128", "http://proxy:3128"),
            ("HTTP://proxy:3128/", "http://proxy:3128"),
            ("http://me:s3cret@proxy:3128", "http://proxy:3128"),
            ("http://me@proxy", "http://proxy:80"),
            ("socks5://10.0.0.1", "socks5://10.0.0.1:1080"),
            ("socks5h://[::1]:9050", "socks5://[::1]:9050"),
            ("http://m%40x:a%3ab%2fs3cret@proxy", "http://proxy:80"),
        ] {
            let proxy: Proxy = text.parse().unwrap();
            assert_eq!(proxy.to_string(), shown);
            assert_eq!(format!("{proxy:?}"), format!("Proxy({shown})"));
            assert_eq!(proxy.has_credentials(), text.contains('@'));
        }
    }

    #[test]
    fn other_texts_are_refused() {
        let long = format!("http://me:{}@proxy", "x".repeat(256));
        for (text, error) in [
            ("", InvalidProxy::Syntax),
            ("http://", InvalidProxy::Syntax),
            ("http://:3128", InvalidProxy::Syntax),
            ("http://proxy:", InvalidProxy::Syntax),
            ("http://proxy:0", InvalidProxy::Syntax),
            ("http://proxy:99999", InvalidProxy::Syntax),
            ("http://pro xy", InvalidProxy::Syntax),
            ("https://proxy", InvalidProxy::Scheme),
            ("socks4://proxy", InvalidProxy::Scheme),
            ("ftp://proxy", InvalidProxy::Scheme),
            ("http://proxy/path", InvalidProxy::Path),
            ("http://proxy?x", InvalidProxy::Path),
            ("http://proxy#x", InvalidProxy::Path),
            ("http://@proxy", InvalidProxy::Credentials),
            ("http://:word@proxy", InvalidProxy::Credentials),
            ("http://me:a%0d%0ab@proxy", InvalidProxy::Credentials),
            ("http://m%3ae:word@proxy", InvalidProxy::Credentials),
            ("http://me:100%@proxy", InvalidProxy::Credentials),
            ("http://me:%4@proxy", InvalidProxy::Credentials),
            ("http://me:%zz@proxy", InvalidProxy::Credentials),
            (&long, InvalidProxy::Credentials),
        ] {
            assert_eq!(text.parse::<Proxy>(), Err(error), "{text}");
        }
    }
}
