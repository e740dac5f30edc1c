//! From a gateway's URL to an open WebSocket, within one time limit.

use std::fmt;
use std::io::{self, Read, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::header::{self, HeaderMap, HeaderName};
use http::{Method, StatusCode};
use tungstenite::Bytes;
use tungstenite::handshake::client::generate_key;
use tungstenite::handshake::derive_accept_key;
use tungstenite::protocol::Role;

use super::message::MessageReader;
use super::proxy::{ProxyRefusal, SourcedProxy};
use super::secret::SecretSource;
use super::token::Token;
use super::upgrade_headers::UpgradeHeaders;
use super::url::GatewayUrl;
use crate::advice::Advice;
use crate::clock::SharedInstant;
use crate::http1::fields::has_token;
use crate::http1::{UPGRADE_HEAD_MAX, end_head, parse_response, write_header, write_request_line};
use crate::net::connect::{self, ConnectError, Endpoint, Peer, named};
use crate::net::local::without_brackets;
use crate::net::resolve::Resolver;
use crate::net::{Closer, Socket, TrustStore, WriteHalf, tls};

/// A write that makes no progress for this long ends the session.
pub const WRITE_STALL: Duration = Duration::from_secs(10);

/// A write that makes no progress returns after this time, so that a session can look at what else happens.
pub const WRITE_STEP_TIME: Duration = Duration::from_millis(500);

/// Opens sessions with one gateway.
#[derive(Debug)]
pub struct Dialer {
    config: DialConfig,
    /// Of the proxy, where there is one.
    resolver: Resolver,
}

/// The parts of a dial.
#[derive(Debug)]
pub struct DialConfig {
    /// The gateway's URL.
    pub url: GatewayUrl,
    /// The proxy on the way.
    pub proxy: Option<SourcedProxy>,
    /// The token that the upgrade shows.
    pub token: Option<SecretSource<Token>>,
    /// Further header fields of the upgrade. An `Authorization` among them gives way to the token.
    pub upgrade_headers: Option<SecretSource<UpgradeHeaders>>,
    /// The certificate authorities; needed exactly when the URL is secure.
    pub tls: Option<TrustStore>,
    /// The time for everything from the name's look-up to the upgrade.
    pub timeout: Duration,
    /// The largest message, in bytes.
    pub max_message: usize,
}

/// The token, and the headers for an access gateway.
type UpgradeSecrets = (Option<Token>, Option<UpgradeHeaders>);

/// An open WebSocket, in the two halves that its two threads own.
#[derive(Debug)]
pub struct Link {
    /// For the reading thread.
    pub reader: MessageReader,
    /// For the writing thread.
    pub writer: WriteHalf,
    /// When something was last heard.
    pub heard: Arc<SharedInstant>,
    /// Ends the connection.
    pub closer: Closer,
}

/// Why there is no session with a gateway.
#[derive(Debug)]
pub enum DialError {
    /// There is no connection.
    Connect(ConnectError),
    /// There is no connection to this proxy.
    ReachProxy(String, ConnectError),
    /// This proxy gives no connection to the gateway.
    Proxy(String, ProxyRefusal),
    /// The connection did not become a WebSocket.
    Upgrade(UpgradeError),
}

/// Why a connection did not become a WebSocket.
#[derive(Debug)]
pub enum UpgradeError {
    /// The gateway answered the upgrade with this status instead of 101.
    Status(StatusCode),
    /// The gateway refused a token or headers whose file has been renewed since.
    OldToken(StatusCode),
    /// The gateway answered the upgrade with something that opens no WebSocket.
    NotWebSocket(String),
    /// The connection failed during the upgrade.
    Io(io::Error),
}

impl From<ConnectError> for DialError {
    fn from(error: ConnectError) -> Self {
        DialError::Connect(error)
    }
}

impl From<UpgradeError> for DialError {
    fn from(error: UpgradeError) -> Self {
        DialError::Upgrade(error)
    }
}

impl UpgradeError {
    /// The status with which the gateway refused the credentials, so that another try is pointless.
    pub fn refusal(&self) -> Option<StatusCode> {
        match self {
            UpgradeError::Status(status @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN)) => {
                Some(*status)
            }
            _ => None,
        }
    }

    /// The stable name of the kind, for metrics.
    fn kind(&self) -> &'static str {
        match self {
            UpgradeError::Status(_) | UpgradeError::OldToken(_) => "status",
            UpgradeError::NotWebSocket(_) => "not_websocket",
            UpgradeError::Io(_) => "upgrade",
        }
    }

    /// A remedy that an operator might try.
    pub(crate) fn advice(&self) -> Advice {
        match self {
            error if error.refusal().is_some() => Advice::AgentToken,
            UpgradeError::OldToken(_) => Advice::TokenRenewed,
            UpgradeError::Status(StatusCode::MISDIRECTED_REQUEST) => Advice::AgentsElsewhere,
            // A login's page, or a balancer without a gateway.
            UpgradeError::Status(status) if status.is_redirection() => Advice::UpgradeHeaders,
            UpgradeError::Status(status) if status.is_server_error() => Advice::GatewayAddress,
            UpgradeError::Status(_) => Advice::GatewayPath,
            UpgradeError::NotWebSocket(_) => Advice::GatewayIsTls,
            UpgradeError::Io(error) if error.kind() == io::ErrorKind::TimedOut => Advice::GatewayTimeout,
            UpgradeError::Io(error) if tls::wants_certificate(error) => Advice::ClientCertificate,
            UpgradeError::Io(_) => Advice::GatewayUrl,
        }
    }
}

impl DialError {
    /// Every name that [`kind`](Self::kind) gives.
    pub(crate) const KINDS: [&str; 7] =
        ["resolve", "connect", "proxy", "tls", "status", "not_websocket", "upgrade"];

    /// The stable name of the kind, for metrics.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            DialError::Connect(error) => error.kind(),
            DialError::ReachProxy(..) | DialError::Proxy(..) => "proxy",
            DialError::Upgrade(error) => error.kind(),
        }
    }

    /// A remedy that an operator might try.
    pub(crate) fn advice(&self) -> Advice {
        match self {
            DialError::Connect(error) => error.advice(Peer::Gateway),
            DialError::ReachProxy(_, error) => error.advice(Peer::Proxy),
            DialError::Proxy(_, refusal) => refusal.advice(),
            DialError::Upgrade(error) => error.advice(),
        }
    }
}

impl fmt::Display for UpgradeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            UpgradeError::Status(status) => write!(f, "it answered the WebSocket upgrade with {status}"),
            UpgradeError::OldToken(status) => write!(f, "it refused the token or the headers with {status}"),
            UpgradeError::NotWebSocket(what) => write!(f, "it does not speak WebSocket there: {what}"),
            UpgradeError::Io(error) => write!(f, "the WebSocket upgrade failed: {error}"),
        }
    }
}

impl std::error::Error for UpgradeError {}

impl fmt::Display for DialError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DialError::Connect(error) => error.fmt(f),
            DialError::ReachProxy(proxy, error) => write!(f, "the proxy {proxy}: {error}"),
            DialError::Proxy(proxy, refusal) => write!(f, "the proxy {proxy}: {refusal}"),
            DialError::Upgrade(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for DialError {}

impl Dialer {
    /// For this gateway.
    pub fn new(config: DialConfig) -> Self {
        let resolver = match &config.proxy {
            Some(SourcedProxy { proxy, .. }) => Resolver::new(proxy.host(), proxy.port()),
            None => Resolver::new(config.url.host(), config.url.port()),
        };
        Dialer { config, resolver }
    }

    /// The gateway's URL.
    pub fn url(&self) -> &GatewayUrl {
        &self.config.url
    }

    /// The proxy on the way, if there is one.
    pub(crate) fn proxy(&self) -> Option<&SourcedProxy> {
        self.config.proxy.as_ref()
    }

    /// Connects, and waits for the upgrade. Blocks for at most the time-out.
    pub fn dial(&self) -> Result<Link, DialError> {
        self.dial_watched(|_| ())
    }

    /// Connects, and waits for the upgrade, as [`Dialer::dial`] does. `opened` gets what ends the connection, and with it
    /// the dial, as soon as there is one.
    pub(crate) fn dial_watched(&self, opened: impl FnOnce(Closer)) -> Result<Link, DialError> {
        let deadline = Instant::now() + self.config.timeout;
        self.config.tls.as_ref().inspect(|tls| tls.reload());
        let endpoint = self.endpoint();
        let open = || connect::connect(&endpoint.resolve()?, deadline);
        let mut socket = open().map_err(|error| match self.proxy() {
            Some(sourced) => DialError::ReachProxy(sourced.to_string(), error),
            None => error.into(),
        })?;
        opened(socket.closer());
        self.pass_proxy(&mut socket, deadline)?;
        if let Some(tls) = &endpoint.tls {
            socket = connect::secure(socket, endpoint.name, tls, deadline)?;
        }
        Ok(self.upgrade(socket, deadline)?)
    }

    /// Where to connect to: the proxy, or else the gateway.
    pub(crate) fn endpoint(&self) -> Endpoint<'_> {
        let tls = self.config.tls.as_ref().map(TrustStore::client);
        Endpoint { resolver: &self.resolver, name: self.host(), tls, timeout: self.config.timeout }
    }

    /// The gateway's host, an IPv6 address without its brackets.
    fn host(&self) -> &str {
        without_brackets(self.config.url.host())
    }

    /// Has the proxy, if there is one at the other end, connect to the gateway.
    pub(crate) fn pass_proxy(&self, socket: &mut Socket, deadline: Instant) -> Result<(), DialError> {
        let Some(sourced) = self.proxy() else { return Ok(()) };
        let (host, port) = (self.config.url.host(), self.config.url.port());
        let passed = socket
            .set_deadline(Some(deadline))
            .map_err(ProxyRefusal::from)
            .and_then(|()| sourced.proxy.pass(socket, host, port));
        passed.map_err(|refusal| DialError::Proxy(sourced.to_string(), refusal))?;
        socket.set_deadline(None).map_err(|error| ConnectError::Socket(error).into())
    }

    /// Asks on this connection for a WebSocket.
    pub(crate) fn upgrade(&self, mut socket: Socket, deadline: Instant) -> Result<Link, UpgradeError> {
        let failed = |error| UpgradeError::Io(named(error));
        socket.set_deadline(Some(deadline)).map_err(failed)?;
        let (key, secrets) = (generate_key(), self.secrets());
        let request = self.upgrade_request(&key, &secrets);
        socket.write_all(&request).and_then(|()| socket.flush()).map_err(failed)?;
        let rest = read_upgrade(&mut socket, &key).map_err(|error| match error {
            UpgradeError::Status(status) if error.refusal().is_some() && self.secrets() != secrets => {
                UpgradeError::OldToken(status)
            }
            error => error,
        })?;
        socket.set_deadline(None).map_err(failed)?;
        let (heard, closer) = (socket.heard(), socket.closer());
        let writer = socket.split().ok_or_else(|| failed(io::ErrorKind::NotConnected.into()))?;
        writer.set_timeout(WRITE_STEP_TIME).map_err(failed)?;
        let reader = MessageReader::new(socket, rest, Role::Client, self.config.max_message);
        Ok(Link { reader, writer, heard, closer })
    }

    /// The credentials of the upgrade, as they are now.
    fn secrets(&self) -> UpgradeSecrets {
        (
            self.config.token.as_ref().map(SecretSource::read),
            self.config.upgrade_headers.as_ref().map(SecretSource::read),
        )
    }

    /// RFC 6455 §4.1.
    fn upgrade_request(&self, key: &str, (token, headers): &UpgradeSecrets) -> Vec<u8> {
        let (host, path) = (self.config.url.authority(), self.config.url.path());
        let mut request = Vec::new();
        write_request_line(&mut request, &Method::GET, path);
        for (name, value) in [
            ("Host", host),
            ("Connection", "Upgrade"),
            ("Upgrade", "websocket"),
            ("Sec-WebSocket-Version", "13"),
            ("Sec-WebSocket-Key", key),
        ] {
            write_header(&mut request, name, value.as_bytes());
        }
        let beside_token = |name: &HeaderName| token.is_none() || *name != header::AUTHORIZATION;
        for header in
            headers.iter().flat_map(UpgradeHeaders::iter).filter(|header| beside_token(&header.name))
        {
            write_header(&mut request, header.name.as_str(), header.value.as_bytes());
        }
        if let Some(token) = token {
            write_header(&mut request, "Authorization", token.header().as_bytes());
        }
        end_head(&mut request);
        request
    }
}

/// Reads the answer to an upgrade with this key. Returns what came behind its head.
fn read_upgrade(socket: &mut impl Read, key: &str) -> Result<Vec<u8>, UpgradeError> {
    let (mut bytes, mut buffer) = (Vec::new(), [0; 1 << 10]);
    loop {
        match parse_response(&Bytes::copy_from_slice(&bytes), UPGRADE_HEAD_MAX) {
            Ok(Some((length, response))) => {
                check_upgrade(response.status(), response.headers(), key)?;
                return Ok(bytes.split_off(length));
            }
            Ok(None) => {}
            Err(error) => return Err(UpgradeError::NotWebSocket(error.to_string())),
        }
        match socket.read(&mut buffer) {
            Ok(0) => return Err(UpgradeError::Io(named(io::ErrorKind::UnexpectedEof.into()))),
            Ok(read) => bytes.extend_from_slice(&buffer[..read]),
            Err(error) => return Err(UpgradeError::Io(named(error))),
        }
    }
}

/// Whether the head of an answer opens a WebSocket, as RFC 6455 §4.1 asks for.
fn check_upgrade(status: StatusCode, headers: &HeaderMap, key: &str) -> Result<(), UpgradeError> {
    if status != StatusCode::SWITCHING_PROTOCOLS {
        return Err(UpgradeError::Status(status));
    }
    let accept = headers.get(header::SEC_WEBSOCKET_ACCEPT).map(http::HeaderValue::as_bytes);
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
        Some((_, what)) => Err(UpgradeError::NotWebSocket(what.to_owned())),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
                    assert!(!wrong.is_empty() && error.to_string().contains(wrong), "{headers}: {error}");
                }
            }
            // Cut anywhere before its end, it is none.
            let head = answer.find("\r\n\r\n").unwrap() + 4;
            for cut in 0..head {
                let error = read_upgrade(&mut &answer.as_bytes()[..cut], KEY).unwrap_err();
                assert!(matches!(error, UpgradeError::Io(_)), "{cut}: {error}");
            }
        }
        let endless = [b"HTTP/1.1 101 X\r\nX: ".as_slice(), &[b'x'; UPGRADE_HEAD_MAX]].concat();
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
            assert_eq!(UpgradeError::Status(status).refusal().is_some(), is_final, "{status}");
        }
    }
}
