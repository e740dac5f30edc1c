//! The URL of a gateway.

use std::fmt;
use std::str::FromStr;

use http::Uri;

use crate::http1::has_host_and_port;
use crate::net::local::is_this_machine;

/// The URL at which a gateway takes agents: `ws://` or `wss://`. An empty path, or `/`, means `/ws`; the port is 80
/// or 443 unless it is given.
///
/// ```
/// use tunnel_agent::GatewayUrl;
///
/// let url: GatewayUrl = "wss://gateway.example".parse()?;
/// assert_eq!(url.to_string(), "wss://gateway.example/ws");
/// # Ok::<(), tunnel_agent::InvalidGatewayUrl>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GatewayUrl {
    uri: Uri,
    secure: bool,
}

/// The reason why a text is no [`GatewayUrl`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InvalidGatewayUrl {
    /// It is no URL with a host and a valid port.
    Syntax,
    /// It does not begin with `ws://` or `wss://`.
    Scheme,
    /// It holds a user name or password, which would be sent nowhere.
    UserInfo,
    /// It holds a query, which would be a place for secrets.
    Query,
    /// It holds a fragment, which is never sent.
    Fragment,
}

impl fmt::Display for InvalidGatewayUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            InvalidGatewayUrl::Syntax => {
                "not a URL with a valid host and port; expected something like wss://gateway.example/ws"
            }
            InvalidGatewayUrl::Scheme => {
                "it does not begin with ws://, which stands for http://, or wss://, which stands for https://"
            }
            InvalidGatewayUrl::UserInfo => "it holds a user name, which would be sent nowhere",
            InvalidGatewayUrl::Fragment => "it holds a fragment (#), which a gateway never sees",
            InvalidGatewayUrl::Query => "it holds a query, which is no place for a token",
        })
    }
}

impl std::error::Error for InvalidGatewayUrl {}

impl FromStr for GatewayUrl {
    type Err = InvalidGatewayUrl;

    fn from_str(text: &str) -> Result<Self, InvalidGatewayUrl> {
        let uri: Uri = text.parse().map_err(|_| InvalidGatewayUrl::Syntax)?;
        let secure = match uri.scheme_str() {
            Some("ws") => false,
            Some("wss") => true,
            Some(_) => return Err(InvalidGatewayUrl::Scheme),
            None => return Err(InvalidGatewayUrl::Scheme),
        };
        let authority = uri.authority().ok_or(InvalidGatewayUrl::Syntax)?;
        if authority.as_str().contains('@') {
            return Err(InvalidGatewayUrl::UserInfo);
        }
        if !has_host_and_port(authority) {
            return Err(InvalidGatewayUrl::Syntax);
        }
        if text.contains('#') {
            return Err(InvalidGatewayUrl::Fragment);
        }
        if uri.query().is_some() {
            return Err(InvalidGatewayUrl::Query);
        }
        let path = if uri.path() == "/" { "/ws" } else { uri.path() };
        let text = format!("{}://{authority}{path}", if secure { "wss" } else { "ws" });
        Ok(GatewayUrl { uri: text.parse().map_err(|_| InvalidGatewayUrl::Syntax)?, secure })
    }
}

impl fmt::Display for GatewayUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.uri.fmt(f)
    }
}

impl GatewayUrl {
    /// Whether the connection is encrypted.
    pub fn is_secure(&self) -> bool {
        self.secure
    }

    /// Whether the host is `localhost`, a loopback address or the unspecified one.
    pub fn is_loopback(&self) -> bool {
        is_this_machine(self.host())
    }

    /// Host and port, as they were given.
    pub(super) fn authority(&self) -> &str {
        self.uri.authority().map_or("", |authority| authority.as_str())
    }

    /// The path of the upgrade request.
    pub(super) fn path(&self) -> &str {
        self.uri.path()
    }

    /// The host, an IPv6 address in its brackets.
    pub fn host(&self) -> &str {
        self.uri.host().unwrap_or_default()
    }

    /// The port: the URL's, else 80 or 443.
    pub fn port(&self) -> u16 {
        self.uri.port_u16().unwrap_or(if self.secure { 443 } else { 80 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_without_a_path_means_ws() {
        for (text, full, port) in [
            ("ws://localhost:3000", "ws://localhost:3000/ws", 3000),
            ("wss://gateway.example/", "wss://gateway.example/ws", 443),
            ("ws://[::1]/agents", "ws://[::1]/agents", 80),
        ] {
            let url: GatewayUrl = text.parse().unwrap();
            assert_eq!((url.to_string().as_str(), url.port()), (full, port));
        }
    }

    #[test]
    fn other_urls_are_refused() {
        for (text, error) in [
            ("", InvalidGatewayUrl::Syntax),
            ("localhost:3000", InvalidGatewayUrl::Scheme),
            ("ws://:3000/", InvalidGatewayUrl::Syntax),
            ("/ws", InvalidGatewayUrl::Scheme),
            ("http://localhost", InvalidGatewayUrl::Scheme),
            ("ws://localhost:99999", InvalidGatewayUrl::Syntax),
            ("ws://localhost:0", InvalidGatewayUrl::Syntax),
            ("ws://localhost:", InvalidGatewayUrl::Syntax),
            ("ws://localhost:abc", InvalidGatewayUrl::Syntax),
            ("ws://[::1]:x", InvalidGatewayUrl::Syntax),
            ("ws://localhost/ws#x", InvalidGatewayUrl::Fragment),
            ("ws://me:secret@localhost", InvalidGatewayUrl::UserInfo),
            ("ws://localhost/ws?token=secret", InvalidGatewayUrl::Query),
        ] {
            assert_eq!(text.parse::<GatewayUrl>(), Err(error), "{text}");
        }
    }
}
