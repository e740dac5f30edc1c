//! Where requests go: the local server's URL, and nowhere else.

use std::borrow::Cow;
use std::fmt;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

use http::Uri;
use http::uri::{PathAndQuery, Scheme};

use crate::http1::has_host_and_port;
use crate::http1::path::climbs;
use crate::net::resolve::Resolver;

/// Most bytes of a Unix socket's path: what systems have room for, less the zero behind it.
const SOCKET_PATH_MAX: usize = 103;

/// The name of the server at a Unix socket, which has none of its own.
const NAME_AT_SOCKET: &str = "localhost";

/// The local server: `http://` or `https://`, a host, perhaps a port and a base path; or `unix:`, the path of a Unix
/// socket, at most 103 bytes of it, and perhaps a colon and a base path.
///
/// ```
/// use tunnel_agent::LocalUrl;
///
/// let local: LocalUrl = "http://127.0.0.1:8000".parse()?;
/// assert_eq!(local.to_string(), "http://127.0.0.1:8000");
/// let local: LocalUrl = "unix:/run/app.sock:/base".parse()?;
/// assert_eq!(local.socket_path(), Some("/run/app.sock".as_ref()));
/// # Ok::<(), tunnel_agent::InvalidLocalUrl>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalUrl {
    root: Uri,
    /// The Unix socket at which the server listens, unless it is a port.
    socket: Option<Arc<Path>>,
    /// Without a slash at its end; empty when there is none.
    base_path: String,
}

/// Why a text is no [`LocalUrl`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InvalidLocalUrl {
    /// It is no URL with a host and a valid port.
    Syntax,
    /// It does not begin with `http://`, `https://` or `unix:`.
    Scheme,
    /// It names a Unix socket, and this system has none.
    NoSockets,
    /// The path of its Unix socket does not begin with a slash, is a folder's, or is longer than systems allow.
    Socket,
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
                "it does not begin with http://, https:// or unix:; expected something like http://127.0.0.1:8000 or \
                 unix:/run/app.sock"
            }
            InvalidLocalUrl::NoSockets => "this system has no Unix sockets",
            InvalidLocalUrl::Socket => {
                "the path of a Unix socket begins with a slash and has 103 bytes at most; expected something like \
                 unix:/run/app.sock, or unix:/run/app.sock:/base with a base path"
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
        let parts = text.split_once(':');
        if let Some((_, rest)) = parts.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("unix")) {
            return LocalUrl::at_socket(rest);
        }
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
        Ok(LocalUrl { root: root.parse().map_err(|_| InvalidLocalUrl::Syntax)?, socket: None, base_path })
    }
}

impl fmt::Display for LocalUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, base_path) = (self.scheme(), &self.base_path);
        match &self.socket {
            Some(path) if base_path.is_empty() => write!(f, "unix:{}", path.display()),
            Some(path) => write!(f, "unix:{}:{base_path}", path.display()),
            None => write!(f, "{scheme}://{}{base_path}", super::authority(&self.root)),
        }
    }
}

impl LocalUrl {
    /// The URL behind `unix:`.
    fn at_socket(text: &str) -> Result<Self, InvalidLocalUrl> {
        if !cfg!(unix) {
            return Err(InvalidLocalUrl::NoSockets);
        }
        // `unix:///run/app.sock` is meant as well.
        let text = text.strip_prefix("//").unwrap_or(text);
        let (path, base_path) = match text.find(":/") {
            Some(at) => (&text[..at], &text[at + 1..]),
            None => (text, ""),
        };
        if !path.starts_with('/')
            || path.ends_with('/')
            || path.contains('\0')
            || path.len() > SOCKET_PATH_MAX
        {
            return Err(InvalidLocalUrl::Socket);
        }
        // The base path is judged as one of a URL.
        let url: LocalUrl = format!("http://{NAME_AT_SOCKET}{base_path}").parse()?;
        Ok(LocalUrl { socket: Some(Path::new(path).into()), ..url })
    }

    /// The path of the Unix socket at which the server listens, if it is one.
    pub fn socket_path(&self) -> Option<&Path> {
        self.socket.as_deref()
    }

    /// Finds the server's address.
    pub(super) fn resolver(&self) -> Resolver {
        match &self.socket {
            Some(path) => Resolver::unix(path.clone(), NAME_AT_SOCKET),
            None => Resolver::new(self.host(), self.port().unwrap_or_default()),
        }
    }

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

    /// The host, an IPv6 address in its brackets; `localhost` at a Unix socket.
    pub fn host(&self) -> &str {
        self.root.host().unwrap_or_default()
    }

    /// The port: the URL's, else 80 or 443. A Unix socket has none.
    pub fn port(&self) -> Option<u16> {
        let port = self.root.port_u16().unwrap_or(if self.is_secure() { 443 } else { 80 });
        self.socket.is_none().then_some(port)
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
            ("unix:", InvalidLocalUrl::Socket),
            ("unix:app.sock", InvalidLocalUrl::Socket),
            ("unix:/", InvalidLocalUrl::Socket),
            ("unix:/run/", InvalidLocalUrl::Socket),
            ("unix:/run/app.sock:/a?b", InvalidLocalUrl::Query),
            ("unix:/run/app.sock:/a#b", InvalidLocalUrl::Fragment),
            (&format!("unix:/{}", "x".repeat(SOCKET_PATH_MAX)), InvalidLocalUrl::Socket),
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
            ("unix:/run/app.sock", "/a?b=c", "http://localhost/a?b=c"),
            ("unix:/run/app.sock:/app/", "/a?b=c", "http://localhost/app/a?b=c"),
        ] {
            assert_eq!(local(url).join(&target.parse().unwrap()).unwrap(), joined);
        }
    }

    #[test]
    fn a_unix_socket_has_a_path_and_no_port() {
        for (text, shown, path) in [
            ("unix:/run/app.sock", "unix:/run/app.sock", "/run/app.sock"),
            ("unix:///run/app.sock", "unix:/run/app.sock", "/run/app.sock"),
            ("UNIX:/run/app.sock:/", "unix:/run/app.sock", "/run/app.sock"),
            ("unix:/run/a:b.sock:/app/", "unix:/run/a:b.sock:/app", "/run/a:b.sock"),
        ] {
            let url = local(text);
            assert_eq!(url.to_string(), shown);
            assert_eq!(local(shown), url);
            assert_eq!(url.socket_path(), Some(Path::new(path)));
            assert_eq!((url.host(), url.port(), url.is_secure()), ("localhost", None, false));
        }
        assert_eq!(local("http://localhost").socket_path(), None);
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
