//! Where requests go: the local server's URL, and nowhere else.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use http::Uri;
use http::uri::{PathAndQuery, Scheme};

use crate::http1::has_host_and_port;
use crate::http1::path::climbs;

/// The local server: `http://` or `https://`, a host, perhaps a port and a base path.
///
/// ```
/// use tunnel_agent::LocalUrl;
///
/// let local: LocalUrl = "http://127.0.0.1:8000".parse()?;
/// assert_eq!(local.to_string(), "http://127.0.0.1:8000");
/// # Ok::<(), tunnel_agent::InvalidLocalUrl>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalUrl {
    root: Uri,
    /// Without a slash at its end; empty when there is none.
    base_path: String,
}

/// Why a text is no [`LocalUrl`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InvalidLocalUrl {
    /// It is no URL with a host and a valid port.
    Syntax,
    /// It does not begin with `http://` or `https://`.
    Scheme,
    /// It holds a user name or password: the agent adds nothing to what clients send.
    UserInfo,
    /// It holds a query, which could not be joined with a request's own.
    Query,
    /// It holds a fragment, which is never sent.
    Fragment,
}

impl fmt::Display for InvalidLocalUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            InvalidLocalUrl::Syntax => {
                "not a URL with a valid host and port; expected something like http://127.0.0.1:8000"
            }
            InvalidLocalUrl::Scheme => {
                "it does not begin with http:// or https://; expected something like http://127.0.0.1:8000"
            }
            InvalidLocalUrl::UserInfo => "it holds a user name, which would not be sent",
            InvalidLocalUrl::Query => "it holds a query, which would not be sent",
            InvalidLocalUrl::Fragment => "it holds a fragment (#), which a server never sees",
        })
    }
}

impl std::error::Error for InvalidLocalUrl {}

impl FromStr for LocalUrl {
    type Err = InvalidLocalUrl;

    fn from_str(text: &str) -> Result<Self, InvalidLocalUrl> {
        let uri: Uri = text.parse().map_err(|_| InvalidLocalUrl::Syntax)?;
        let scheme = uri.scheme().ok_or(InvalidLocalUrl::Scheme)?;
        if *scheme != Scheme::HTTP && *scheme != Scheme::HTTPS {
            return Err(InvalidLocalUrl::Scheme);
        }
        if super::authority(&uri).contains('@') {
            return Err(InvalidLocalUrl::UserInfo);
        }
        if !has_host_and_port(uri.authority().ok_or(InvalidLocalUrl::Syntax)?) {
            return Err(InvalidLocalUrl::Syntax);
        }
        if text.contains('#') {
            return Err(InvalidLocalUrl::Fragment);
        }
        if uri.query().is_some() {
            return Err(InvalidLocalUrl::Query);
        }
        let base_path = uri.path().trim_end_matches('/').to_owned();
        let root = format!("{scheme}://{}/", super::authority(&uri));
        Ok(LocalUrl { root: root.parse().map_err(|_| InvalidLocalUrl::Syntax)?, base_path })
    }
}

impl fmt::Display for LocalUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.is_secure() { "https" } else { "http" };
        write!(f, "{scheme}://{}{}", super::authority(&self.root), self.base_path)
    }
}

impl LocalUrl {
    /// Host and port as they were given: the `Host` header of a request that has none.
    pub(in crate::upstream) fn authority(&self) -> &str {
        super::authority(&self.root)
    }

    pub(in crate::upstream) fn scheme(&self) -> &'static str {
        if self.is_secure() { "https" } else { "http" }
    }

    /// Whether the connection is encrypted.
    pub fn is_secure(&self) -> bool {
        self.root.scheme() == Some(&Scheme::HTTPS)
    }

    /// The host, an IPv6 address in its brackets.
    pub fn host(&self) -> &str {
        self.root.host().unwrap_or_default()
    }

    /// The port: the URL's, else 80 or 443.
    pub fn port(&self) -> u16 {
        self.root.port_u16().unwrap_or(if self.is_secure() { 443 } else { 80 })
    }

    /// The URL of a request's target on this server. Nothing in the target can change the server, or leave
    /// the base path.
    pub(super) fn join(&self, target: &Uri) -> Result<Uri, &'static str> {
        const WHAT: &str = "the path cannot be joined with the local server's URL";
        let path = target.path_and_query().map_or("/", PathAndQuery::as_str);
        let mut parts = self.root.clone().into_parts();
        parts.path_and_query = Some(if self.base_path.is_empty() {
            target.path_and_query().cloned().unwrap_or(PathAndQuery::from_static("/"))
        } else {
            format!("{}{path}", self.base_path).parse().map_err(|_| WHAT)?
        });
        Uri::from_parts(parts).map_err(|_| WHAT)
    }

    /// The target of a request as it is sent to this server.
    pub(super) fn target<'a>(&self, target: &'a str) -> Cow<'a, str> {
        if self.base_path.is_empty() { target.into() } else { format!("{}{target}", self.base_path).into() }
    }

    /// Whether a path could lead out of the base path for some server, however it decodes and normalises.
    pub(super) fn is_left_by(&self, path: &str) -> bool {
        !self.base_path.is_empty() && climbs(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn local(url: &str) -> LocalUrl {
        url.parse().unwrap()
    }

    #[test]
    fn other_urls_are_refused() {
        for (text, error) in [
            ("", InvalidLocalUrl::Syntax),
            ("8000", InvalidLocalUrl::Scheme),
            ("localhost:8000", InvalidLocalUrl::Scheme),
            ("http://:8000", InvalidLocalUrl::Syntax),
            ("/app", InvalidLocalUrl::Scheme),
            ("ftp://localhost", InvalidLocalUrl::Scheme),
            ("ws://localhost", InvalidLocalUrl::Scheme),
            ("http://localhost:99999", InvalidLocalUrl::Syntax),
            ("http://localhost:", InvalidLocalUrl::Syntax),
            ("http://localhost/#x", InvalidLocalUrl::Fragment),
            ("http://me:secret@localhost", InvalidLocalUrl::UserInfo),
            ("http://localhost/?a=b", InvalidLocalUrl::Query),
        ] {
            assert_eq!(text.parse::<LocalUrl>(), Err(error), "{text}");
        }
    }

    #[test]
    fn a_target_is_joined_with_the_base_path() {
        for (url, target, joined) in [
            ("http://127.0.0.1:8000", "/", "http://127.0.0.1:8000/"),
            ("http://127.0.0.1:8000/", "/a?b=c", "http://127.0.0.1:8000/a?b=c"),
            ("http://127.0.0.1:8000/app/", "/a?b=c", "http://127.0.0.1:8000/app/a?b=c"),
            ("https://[::1]/app", "/", "https://[::1]/app/"),
            ("http://localhost", "/@evil/../x", "http://localhost/@evil/../x"),
        ] {
            assert_eq!(local(url).join(&target.parse().unwrap()).unwrap(), joined);
        }
    }

    #[test]
    fn paths_that_leave_the_base_path_are_seen_through() {
        let local = local("http://localhost/app");
        for path in [
            "/..",
            "/../",
            "/../etc/passwd",
            "/a/../../x",
            "/./../x",
            "/%2e%2e/x",
            "/%2E./x",
            "/.%2e/x",
            "/..%2fx",
            "/..%5cx",
            "/..\\x",
            "/\\..\\x",
            "/%5c..%5cx",
            "/a//../../x",
            "/..;/x",
            "/..;a=b/x",
            "/%252e%252e/x",
            "/%25252e%25252e%25252fx",
            "/%2525252525252e",
            "/a/%2e%2e%2f%2e%2e/x",
        ] {
            assert!(local.is_left_by(path), "{path}");
        }
        for path in
            ["/", "/a/..", "/a/../b", "/...", "/..a", "/a../b", "/%2", "/%zz", "/a%2fb", "/.well-known/x"]
        {
            assert!(!local.is_left_by(path), "{path}");
        }
    }

    #[test]
    fn without_a_base_path_there_is_nothing_to_leave() {
        assert!(!local("http://localhost/").is_left_by("/../x"));
    }
}
