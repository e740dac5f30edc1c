//! From a gateway's URL to an open WebSocket, within one time limit.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::header::{self, HeaderMap};
use http::{StatusCode, Uri};
use tungstenite::WebSocket;
use tungstenite::handshake::client::generate_key;
use tungstenite::handshake::derive_accept_key;
use tungstenite::protocol::Role;

use super::credentials::{Token, TokenSource, TrustStore};
use super::duplex::{Closer, Heard, Socket, WriteHalf};
use super::frames::{self, FrameReader};
use super::resolve::Resolver;
use super::tls::{self, ClientTls, Flaw};
use crate::headers::has_token;
use crate::http1::parse_response;

/// What to do about a certificate that is over, or seems not to have begun.
const OUT_OF_DATE: &str = "renew the certificate, or set this machine's clock";

/// Most bytes of the head that answers an upgrade.
const HEAD_MAX: usize = 16 << 10;

/// A write that makes no progress for this long ends the session.
pub const WRITE_STALL: Duration = Duration::from_secs(10);

/// A write that makes no progress returns after this time, so that a session can look at what else happens.
pub const WRITE_STEP_TIME: Duration = Duration::from_millis(500);

/// Where a gateway takes agents: `ws://` or `wss://`. A URL without a path means `/ws`.
///
/// ```
/// use tunnel_agent::link::GatewayUrl;
///
/// let url: GatewayUrl = "wss://gateway.example".parse()?;
/// assert_eq!(url.to_string(), "wss://gateway.example/ws");
/// # Ok::<(), tunnel_agent::link::dial::InvalidUrl>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GatewayUrl {
    uri: Uri,
    secure: bool,
}

/// Why a text is no [`GatewayUrl`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InvalidUrl {
    /// It is no URL with a scheme and a host.
    Syntax,
    /// Its scheme is not `ws` or `wss`.
    Scheme,
    /// It holds a user name or password, which would be sent nowhere.
    UserInfo,
    /// It holds a query, which would be a place for secrets.
    Query,
    /// It holds a fragment, which is never sent.
    Fragment,
}

impl fmt::Display for InvalidUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            InvalidUrl::Syntax => {
                "not a URL with a valid host and port; expected something like wss://gateway.example/ws"
            }
            InvalidUrl::Scheme => {
                "its scheme is not ws://, which stands for http://, or wss://, for https://"
            }
            InvalidUrl::UserInfo => "it holds a user name; a gateway's token goes into --token-file or TOKEN",
            InvalidUrl::Fragment => "it holds a fragment (#), which a gateway never sees",
            InvalidUrl::Query => "it holds a query; a gateway's token goes into --token-file or TOKEN",
        })
    }
}

impl std::error::Error for InvalidUrl {}

impl FromStr for GatewayUrl {
    type Err = InvalidUrl;

    fn from_str(text: &str) -> Result<Self, InvalidUrl> {
        let uri: Uri = text.parse().map_err(|_| InvalidUrl::Syntax)?;
        let secure = match uri.scheme_str() {
            Some("ws") => false,
            Some("wss") => true,
            Some(_) => return Err(InvalidUrl::Scheme),
            None => return Err(InvalidUrl::Syntax),
        };
        let authority = uri.authority().ok_or(InvalidUrl::Syntax)?;
        if authority.as_str().contains('@') {
            return Err(InvalidUrl::UserInfo);
        }
        if !has_valid_port(authority) {
            return Err(InvalidUrl::Syntax);
        }
        if text.contains('#') {
            return Err(InvalidUrl::Fragment);
        }
        if uri.query().is_some() {
            return Err(InvalidUrl::Query);
        }
        let path = if uri.path() == "/" { "/ws" } else { uri.path() };
        let text = format!("{}://{authority}{path}", if secure { "wss" } else { "ws" });
        Ok(GatewayUrl { uri: text.parse().map_err(|_| InvalidUrl::Syntax)?, secure })
    }
}

/// Whether there is no port, or one from 1 to 65535. [`http::Uri`] takes any text for a port, and then says
/// that there is none.
pub(crate) fn has_valid_port(authority: &http::uri::Authority) -> bool {
    let after_host = authority.as_str().strip_prefix(authority.host()).unwrap_or_default();
    after_host.is_empty() || authority.port_u16().is_some_and(|port| port != 0)
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

    /// Whether it is on this machine.
    pub fn is_loopback(&self) -> bool {
        super::resolve::is_this_machine(self.host())
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

/// Opens sessions with one gateway.
#[derive(Debug)]
pub struct Dialer {
    url: GatewayUrl,
    token: Option<TokenSource>,
    tls: Option<TrustStore>,
    timeout: Duration,
    max_message: usize,
    resolver: Resolver,
}

/// An open WebSocket, in the two halves that its two threads own.
#[derive(Debug)]
pub struct Link {
    /// For the reading thread.
    pub reader: FrameReader,
    /// For the writing thread.
    pub writer: WriteHalf,
    /// When something was last heard.
    pub heard: Arc<Heard>,
    /// Ends the connection.
    pub closer: Closer,
}

/// Why a gateway could not be reached.
#[derive(Debug)]
pub enum DialError {
    /// Its name has no address, or nobody would tell.
    Resolve(io::Error),
    /// No TCP connection to this address, the last that was tried.
    Connect(SocketAddr, io::Error),
    /// No TLS.
    Tls(io::Error),
    /// It answered the upgrade with this status instead of 101.
    Status(StatusCode),
    /// It said no to a token that the file does not hold any more.
    OldToken(StatusCode),
    /// It answered the upgrade with something that is no WebSocket.
    NotWebSocket(String),
    /// The connection failed during the upgrade.
    Upgrade(io::Error),
}

impl DialError {
    /// Whether trying again is pointless: the gateway knows who asks, and says no.
    pub fn is_final(&self) -> bool {
        matches!(self, DialError::Status(StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN))
    }

    /// The system's error in it, if there is one.
    pub(crate) fn io(&self) -> Option<&io::Error> {
        match self {
            DialError::Resolve(error)
            | DialError::Connect(_, error)
            | DialError::Tls(error)
            | DialError::Upgrade(error) => Some(error),
            DialError::Status(_) | DialError::OldToken(_) | DialError::NotWebSocket(_) => None,
        }
    }

    /// All that [`kind`](Self::kind) gives.
    pub(crate) const KINDS: [&str; 6] = ["resolve", "connect", "tls", "status", "not_websocket", "upgrade"];

    /// The name of its kind, for programs.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            DialError::Resolve(_) => "resolve",
            DialError::Connect(..) => "connect",
            DialError::Tls(_) => "tls",
            DialError::Status(_) | DialError::OldToken(_) => "status",
            DialError::NotWebSocket(_) => "not_websocket",
            DialError::Upgrade(_) => "upgrade",
        }
    }

    /// What a person might try.
    pub fn hint(&self) -> &'static str {
        match self {
            DialError::Resolve(_) => "check the host name in --gateway",
            DialError::Connect(..) => "check --gateway, and that the gateway is running",
            DialError::Tls(error) if tls::is_not_tls(error) => "if it is not meant to speak TLS, use ws://",
            DialError::Tls(error) => match tls::flaw(error) {
                Some(Flaw::WrongName) => "give in --gateway a name that the certificate has",
                Some(Flaw::Expired | Flaw::NotYetValid) => OUT_OF_DATE,
                None => "check the certificate, or name its authority with --ca-file",
            },
            DialError::Status(StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => {
                "check the token (--token-file or TOKEN)"
            }
            DialError::OldToken(_) => "its file has another one by now",
            DialError::Status(_) => "check the path in --gateway, usually /ws",
            DialError::NotWebSocket(_) => {
                "if it speaks TLS, use wss://; else check the port and path in --gateway"
            }
            DialError::Upgrade(_) => {
                "check that --gateway names a gateway, with ws:// or wss:// as it expects and its path, usually /ws"
            }
        }
    }
}

impl DialError {
    /// What a person might try where it is the local server that is not reached.
    pub(crate) fn local_hint(&self) -> &'static str {
        match self {
            DialError::Resolve(_) => "check the host name",
            DialError::Tls(error) if tls::is_not_tls(error) => "if it is not meant to speak TLS, use http://",
            DialError::Tls(error) => match tls::flaw(error) {
                Some(Flaw::WrongName) => "give a name that the certificate has",
                Some(Flaw::Expired | Flaw::NotYetValid) => OUT_OF_DATE,
                None => "check the certificate, or name its authority with --local-ca-file",
            },
            _ => "start the local server, or check its address (--local, --route)",
        }
    }
}

impl fmt::Display for DialError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DialError::Resolve(error) => write!(f, "its name cannot be resolved: {error}"),
            DialError::Connect(address, error) => write!(f, "cannot connect to {address}: {error}"),
            DialError::Tls(error) => write!(f, "TLS failed: {}", tls::describe(error)),
            DialError::Status(status) => write!(f, "it answered the WebSocket upgrade with {status}"),
            DialError::OldToken(status) => write!(f, "it refused the token with {status}"),
            DialError::NotWebSocket(what) => write!(f, "it does not speak WebSocket there: {what}"),
            DialError::Upgrade(error) => write!(f, "the WebSocket upgrade failed: {error}"),
        }
    }
}

impl std::error::Error for DialError {}

impl Dialer {
    /// For this gateway. `tls` is needed exactly when the URL is secure; `timeout` is for everything from
    /// the name's look-up to the upgrade.
    pub fn new(
        url: GatewayUrl,
        token: Option<TokenSource>,
        tls: Option<TrustStore>,
        timeout: Duration,
        max_message: usize,
    ) -> Self {
        let resolver = Resolver::new(url.host(), url.port());
        Dialer { url, token, tls, timeout, max_message, resolver }
    }

    /// The gateway's URL.
    pub fn url(&self) -> &GatewayUrl {
        &self.url
    }

    /// Connects, and waits for the upgrade. Blocks for at most the time-out.
    pub fn dial(&self) -> Result<Link, DialError> {
        let deadline = Instant::now() + self.timeout;
        self.tls.as_ref().inspect(|tls| tls.reload());
        let endpoint = self.endpoint();
        let addresses = endpoint.resolve()?;
        let socket = open(&addresses, self.resolver.host(), endpoint.tls.as_ref(), deadline)?;
        self.upgrade(socket, deadline)
    }

    pub(crate) fn endpoint(&self) -> Endpoint<'_> {
        let tls = self.tls.as_ref().map(TrustStore::client);
        Endpoint { resolver: &self.resolver, tls, timeout: self.timeout }
    }

    /// Asks on this connection for a WebSocket.
    pub(crate) fn upgrade(&self, mut socket: Socket, deadline: Instant) -> Result<Link, DialError> {
        let failed = |error| DialError::Upgrade(named(error));
        socket.set_deadline(Some(deadline)).map_err(failed)?;
        let (key, token) = (generate_key(), self.token());
        let request = self.upgrade_request(&key, token.as_ref());
        socket.write_all(&request).and_then(|()| socket.flush()).map_err(failed)?;
        let rest = read_upgrade(&mut socket, &key).map_err(|error| match error {
            DialError::Status(status) if error.is_final() && self.token() != token => {
                DialError::OldToken(status)
            }
            error => error,
        })?;
        socket.set_deadline(None).map_err(failed)?;
        let (heard, closer) = (socket.heard(), socket.closer());
        let writer = socket.split().ok_or_else(|| failed(io::ErrorKind::NotConnected.into()))?;
        writer.set_timeout(WRITE_STEP_TIME).map_err(failed)?;
        let config = Some(frames::config(self.max_message));
        let websocket = WebSocket::from_partially_read(socket, rest, Role::Client, config);
        Ok(Link { reader: FrameReader::new(websocket), writer, heard, closer })
    }

    /// The token, as it is now.
    fn token(&self) -> Option<Token> {
        self.token.as_ref().map(TokenSource::read)
    }

    /// RFC 6455 §4.1.
    fn upgrade_request(&self, key: &str, token: Option<&Token>) -> Vec<u8> {
        let uri = &self.url.uri;
        let host = uri.authority().map_or("", |authority| authority.as_str());
        let mut request = format!(
            "GET {} HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n",
            uri.path()
        )
        .into_bytes();
        if let Some(token) = token {
            request.extend_from_slice(b"Authorization: ");
            request.extend_from_slice(token.header().as_bytes());
            request.extend_from_slice(b"\r\n");
        }
        request.extend_from_slice(b"\r\n");
        request
    }
}

/// Reads the answer to an upgrade with this key. Returns what came behind its head.
fn read_upgrade(socket: &mut impl Read, key: &str) -> Result<Vec<u8>, DialError> {
    let (mut bytes, mut buffer) = (Vec::new(), [0; 1 << 10]);
    loop {
        match parse_response(&bytes, HEAD_MAX) {
            Ok(Some((length, response))) => {
                check_upgrade(response.status(), response.headers(), key)?;
                return Ok(bytes.split_off(length));
            }
            Ok(None) => {}
            Err(error) => return Err(DialError::NotWebSocket(error.to_string())),
        }
        match socket.read(&mut buffer) {
            Ok(0) => return Err(DialError::Upgrade(named(io::ErrorKind::UnexpectedEof.into()))),
            Ok(read) => bytes.extend_from_slice(&buffer[..read]),
            Err(error) => return Err(DialError::Upgrade(named(error))),
        }
    }
}

/// Whether the head of an answer opens a WebSocket, as RFC 6455 §4.1 asks for.
fn check_upgrade(status: StatusCode, headers: &HeaderMap, key: &str) -> Result<(), DialError> {
    if status != StatusCode::SWITCHING_PROTOCOLS {
        return Err(DialError::Status(status));
    }
    let accept = headers.get(header::SEC_WEBSOCKET_ACCEPT).map(|value| value.as_bytes());
    let checks = [
        (has_token(headers, &header::UPGRADE, "websocket"), "its 101 has no `Upgrade: websocket`"),
        (has_token(headers, &header::CONNECTION, "upgrade"), "its 101 has no `Connection: Upgrade`"),
        (
            accept == Some(derive_accept_key(key.as_bytes()).as_bytes()),
            "the Sec-WebSocket-Accept of its 101 is missing or wrong",
        ),
        (!headers.contains_key(header::SEC_WEBSOCKET_EXTENSIONS), "its 101 names an extension unasked"),
        (!headers.contains_key(header::SEC_WEBSOCKET_PROTOCOL), "its 101 names a subprotocol unasked"),
    ];
    match checks.into_iter().find(|(holds, _)| !holds) {
        Some((_, what)) => Err(DialError::NotWebSocket(what.to_owned())),
        None => Ok(()),
    }
}

/// Where to connect to, and how; for who takes one step at a time.
#[derive(Debug, Clone)]
pub(crate) struct Endpoint<'a> {
    pub(crate) resolver: &'a Resolver,
    pub(crate) tls: Option<ClientTls>,
    /// For each step.
    pub(crate) timeout: Duration,
}

impl Endpoint<'_> {
    pub(crate) fn resolve(&self) -> Result<Vec<SocketAddr>, DialError> {
        self.resolver.look_up(self.timeout).map_err(|error| DialError::Resolve(named(error)))
    }

    pub(crate) fn connect(&self, addresses: &[SocketAddr]) -> Result<Socket, DialError> {
        connect(addresses, Instant::now() + self.timeout)
    }

    pub(crate) fn start_tls(&self, socket: Socket, tls: &ClientTls) -> Result<Socket, DialError> {
        secure(socket, self.resolver.host(), tls, Instant::now() + self.timeout)
    }
}

/// Connects to one of these addresses, with TLS if it is given, and leaves the socket without a deadline.
pub fn open(
    addresses: &[SocketAddr],
    name: &str,
    tls: Option<&ClientTls>,
    deadline: Instant,
) -> Result<Socket, DialError> {
    let socket = connect(addresses, deadline)?;
    match tls {
        Some(tls) => secure(socket, name, tls, deadline),
        None => Ok(socket),
    }
}

fn secure(mut socket: Socket, name: &str, tls: &ClientTls, deadline: Instant) -> Result<Socket, DialError> {
    socket.set_deadline(Some(deadline)).map_err(DialError::Tls)?;
    let mut socket = socket.start_tls(name, tls).map_err(|error| DialError::Tls(named(error)))?;
    socket.set_deadline(None).map_err(DialError::Tls)?;
    Ok(socket)
}

/// Tries one address after the other; each gets an equal share of the time that is left.
fn connect(addresses: &[SocketAddr], deadline: Instant) -> Result<Socket, DialError> {
    let mut last = DialError::Resolve(io::ErrorKind::NotFound.into());
    for (index, &address) in addresses.iter().enumerate() {
        let left = deadline.saturating_duration_since(Instant::now());
        let share = left / u32::try_from(addresses.len() - index).unwrap_or(u32::MAX);
        if share.is_zero() {
            return Err(DialError::Connect(address, named(io::ErrorKind::TimedOut.into())));
        }
        match TcpStream::connect_timeout(&address, share) {
            Ok(tcp) => return Socket::plain(tcp).map_err(DialError::Upgrade),
            Err(error) => last = DialError::Connect(address, named(error)),
        }
    }
    Err(last)
}

/// A time-out says so in words; other errors keep the system's.
fn named(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::TimedOut => {
            io::Error::new(io::ErrorKind::TimedOut, "no answer in time (see --connect-timeout)")
        }
        io::ErrorKind::UnexpectedEof => {
            io::Error::new(io::ErrorKind::UnexpectedEof, "the connection was closed")
        }
        _ => error,
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
            ("", InvalidUrl::Syntax),
            ("localhost:3000", InvalidUrl::Syntax),
            ("/ws", InvalidUrl::Syntax),
            ("http://localhost", InvalidUrl::Scheme),
            ("ws://localhost:99999", InvalidUrl::Syntax),
            ("ws://localhost:0", InvalidUrl::Syntax),
            ("ws://localhost:", InvalidUrl::Syntax),
            ("ws://localhost:abc", InvalidUrl::Syntax),
            ("ws://[::1]:x", InvalidUrl::Syntax),
            ("ws://localhost/ws#x", InvalidUrl::Fragment),
            ("ws://me:secret@localhost", InvalidUrl::UserInfo),
            ("ws://localhost/ws?token=secret", InvalidUrl::Query),
        ] {
            assert_eq!(text.parse::<GatewayUrl>(), Err(error), "{text}");
        }
    }

    #[test]
    fn an_upgrade_is_judged_by_what_rfc_6455_asks_for_and_no_more() {
        const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
        const ACCEPT: &str = "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n";
        let plain = format!("Upgrade: websocket\r\nConnection: Upgrade\r\n{ACCEPT}");
        for (headers, wrong) in [
            (plain.clone(), ""),
            (format!("upgrade: WebSocket\r\nconnection: upgrade\r\n{ACCEPT}"), ""),
            (format!("Upgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n{ACCEPT}"), ""),
            (format!("Upgrade: websocket\r\nConnection: Upgrade, Keep-Alive\r\n{ACCEPT}"), ""),
            (format!("Connection: keep-alive\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n{ACCEPT}"), ""),
            (format!("Connection: Upgrade\r\n{ACCEPT}"), "no `Upgrade: websocket`"),
            (format!("Upgrade: websocket\r\nConnection: keep-alive\r\n{ACCEPT}"), "no `Connection: Upgrade`"),
            ("Upgrade: websocket\r\nConnection: Upgrade\r\n".to_owned(), "Sec-WebSocket-Accept"),
            (plain.replace("s3pP", "S3PP"), "Sec-WebSocket-Accept"),
            (format!("{plain}Sec-WebSocket-Extensions: permessage-deflate\r\n"), "extension"),
            (format!("{plain}Sec-WebSocket-Protocol: chat\r\n"), "subprotocol"),
        ] {
            let answer = format!("HTTP/1.1 101 Switching Protocols\r\n{headers}\r\n\u{81}");
            match read_upgrade(&mut answer.as_bytes(), KEY) {
                Ok(rest) => assert!(wrong.is_empty() && rest == "\u{81}".as_bytes(), "{headers}"),
                Err(error) => {
                    assert!(!wrong.is_empty() && error.to_string().contains(wrong), "{headers}: {error}")
                }
            }
            // Cut anywhere before its end, it is none.
            let head = answer.find("\r\n\r\n").unwrap() + 4;
            for cut in 0..head {
                let error = read_upgrade(&mut &answer.as_bytes()[..cut], KEY).unwrap_err();
                assert!(matches!(error, DialError::Upgrade(_)), "{cut}: {error}");
            }
        }
        let endless = [b"HTTP/1.1 101 X\r\nX: ".as_slice(), &[b'x'; HEAD_MAX]].concat();
        for (answer, wrong) in [
            (&b"HTTP/1.1 404 Not Found\r\n\r\n"[..], "404"),
            (b"SSH-2.0-OpenSSH\r\n", "does not speak WebSocket"),
            (&endless, "does not speak WebSocket"),
        ] {
            let error = read_upgrade(&mut { answer }, KEY).unwrap_err().to_string();
            assert!(error.contains(wrong), "{error}");
        }
    }

    #[test]
    fn only_401_and_403_are_final() {
        for (status, is_final) in [(401, true), (403, true), (404, false), (500, false), (503, false)] {
            let status = StatusCode::from_u16(status).unwrap();
            assert_eq!(DialError::Status(status).is_final(), is_final, "{status}");
        }
    }
}
