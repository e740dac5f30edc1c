//! How the local server answers one request.
//!
//! ureq speaks HTTP/1.1, with nothing added and nothing decoded, over connections of [our own](transport). The request's
//! head goes out with its body when that is small; a large or a streaming body goes out on a [thread of its own](upload),
//! so that the worker hears a server that answers before it has read everything.

mod attempt;
mod channel;
mod client;
mod connections;
mod exchange_error;
mod handoff;
mod response;
mod transport;
mod upload;
mod url;

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::header::{self, HeaderValue};
use http::{Method, StatusCode, Uri};

use self::attempt::source_of_slowness;
pub(crate) use self::attempt::{AttemptError, ErrorSource};
use self::client::{Begun, Connection, FailedExchange, OutgoingRequest};
use self::connections::Connections;
use self::exchange_error::ExchangeError;
use self::response::{ResponseBody, ResponseSource};
pub use self::url::{InvalidLocalUrl, LocalUrl};
use crate::advice::Advice;
use crate::http1::fields::Upgrade;
use crate::http1::{BadResponse, Framing, raw_target};
use crate::net::TrustStore;
use crate::net::connect::{self, ConnectError, Endpoint, Peer};
use crate::net::resolve::Resolver;
use crate::service::{
    AnswerTrace, Body, CancelReason, Cancellation, Failure, FailureKind, Request, Response, Service,
};

/// Time limits of connections and bodies, each from 1 ms to 24 h.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// For a connection to a gateway or a local server, with TLS and upgrade; 5 s by default.
    pub connect: Duration,
    /// Until the first byte of a local server's response; 30 s by default.
    pub response: Duration,
    /// Between two reads of a body, the visitor's or the local server's, and for a write without progress; 30 s by
    /// default.
    pub idle: Duration,
}

impl Timeouts {
    /// The longest limit: 24 h, which no clock overflows with.
    pub const MAX: Duration = Duration::from_secs(24 * 3600);

    /// The shortest limit: 1 ms, the shortest that a socket takes.
    pub const MIN: Duration = Duration::from_millis(1);

    fn clamped(self) -> Self {
        let clamp = |timeout: Duration| timeout.clamp(Self::MIN, Self::MAX);
        let Timeouts { connect, response, idle } = self;
        Timeouts { connect: clamp(connect), response: clamp(response), idle: clamp(idle) }
    }
}

impl Default for Timeouts {
    fn default() -> Self {
        let half_a_minute = Duration::from_secs(30);
        Timeouts { connect: Duration::from_secs(5), response: half_a_minute, idle: half_a_minute }
    }
}

/// Forwards requests to a local HTTP server.
///
/// A request with an `Upgrade` header asks the server to change to another protocol (RFC 9110 §7.8). When it does,
/// the response has status 101, its body carries the bytes from the server in that protocol, and the request's body
/// those to it. When it does not, the request's body is not sent.
pub struct Origin {
    local: LocalUrl,
    /// The URL as text, for the inspector.
    name: Arc<str>,
    host: Option<HeaderValue>,
    tls: Option<TrustStore>,
    resolver: Resolver,
    timeouts: Timeouts,
    connections: Connections,
}

impl Origin {
    /// Forwards to the server at `local`. `host` replaces each request's `Host` header; `tls` is needed
    /// exactly when the URL is secure. Time-outs are taken for no shorter than [`Timeouts::MIN`] and no longer
    /// than [`Timeouts::MAX`].
    pub fn new(
        local: LocalUrl,
        host: Option<HeaderValue>,
        tls: Option<TrustStore>,
        timeouts: Timeouts,
    ) -> Self {
        let resolver = local.resolver();
        Origin {
            name: local.to_string().into(),
            local,
            host,
            tls,
            resolver,
            timeouts: timeouts.clamped(),
            connections: Connections::default(),
        }
    }

    /// Has a request answered. One that was not sent at all, since there is no connection, comes back. Tells when the
    /// server is `reached`, on a connection that was not idle before.
    pub(crate) fn attempt(&self, request: Request, reached: impl Fn()) -> Result<Response, AttemptError> {
        let asked = Instant::now();
        let trace = request.extensions().get::<AnswerTrace>().cloned();
        trace.iter().for_each(|trace| trace.asked(self.name.clone()));
        let connect = || {
            let begun = Instant::now();
            let connection = self.connect();
            trace.iter().for_each(|trace| trace.connected(begun.elapsed()));
            connection
        };
        let url = self.target(request.uri()).map_err(AttemptError::other)?;
        let upgrade = Upgrade::named_in(request.headers());
        // An upgrade takes its connection with it; it gets one of its own.
        let idle = if upgrade.is_some() { None } else { self.connections.take() };
        let was_idle = idle.is_some();
        let connection = match idle.map_or_else(connect, Ok) {
            Ok(connection) => connection,
            Err(failure) => return Err(AttemptError::not_sent(failure, request)),
        };
        if !was_idle {
            reached();
        }
        let (mut head, body) = request.into_parts();
        self.prepare(&mut head, &body, upgrade.as_ref());
        let cancellation = head.extensions.remove::<Cancellation>().unwrap_or_default();
        let raw = raw_target(&head.extensions).map(|target| self.local.target(target).into_owned());
        head.extensions.clear();
        head.uri = url;
        let send = |connection: Connection, head, body, sent| {
            let (id, closer) = (connection.id, connection.closer.clone());
            let hook = closer.clone();
            cancellation.on_cancel(move || hook.close());
            let (target, upgrade) = (raw.as_deref(), upgrade.as_ref());
            connection.exchange(OutgoingRequest { head, target, body, upgrade, sent }).inspect_err(|_| {
                // An upload that goes on learns of it here.
                closer.close();
                self.connections.end(id);
            })
        };
        let replay = if was_idle && is_idempotent(&head.method) { body.replay() } else { None };
        let replay = replay.map(|body| (method_and_url(&head), body));
        let begun = match (send(connection, head, body, None), replay) {
            // The server had closed the idle connection before it saw the request.
            (Err(FailedExchange { error, sent }), Some((head, body)))
                if error.may_be_stale() && !cancellation.is_cancelled() =>
            {
                match connect() {
                    Ok(connection) => {
                        reached();
                        send(connection, head, body, Some(sent))
                    }
                    // The server may have had the request before it went away: no other server is to get it.
                    Err(gone) => return Err(AttemptError::sent(error.explain(&self.timeouts), &gone)),
                }
            }
            (result, _) => result,
        };
        match begun {
            Ok(begun) => Ok(self.adopt(begun, &cancellation)),
            Err(FailedExchange { error, .. }) => Err(self.failed(error, &cancellation, asked)),
        }
    }

    /// The URL of a request's target, which lies under the base path.
    fn target(&self, uri: &Uri) -> Result<Uri, Failure> {
        if self.local.is_left_by(uri.path()) {
            let text = "the path leads out of the local server's base path";
            return Err(Failure::new(FailureKind::BadRequest, text));
        }
        self.local.join(uri).map_err(|what| Failure::new(FailureKind::BadRequest, what))
    }

    /// The URL of a request without a body, whose header fields become those that would be sent.
    pub(crate) fn explain(&self, head: &mut http::request::Parts) -> Result<String, Failure> {
        head.uri = self.target(&head.uri)?;
        self.prepare(head, &Body::empty(), None);
        Ok(match self.local.socket_path() {
            Some(path) => format!("{} at the Unix socket {}", head.uri, path.display()),
            None => head.uri.to_string(),
        })
    }

    pub(crate) fn endpoint(&self) -> Endpoint<'_> {
        let tls = self.tls.as_ref().map(TrustStore::client);
        Endpoint { resolver: &self.resolver, name: self.resolver.host(), tls, timeout: self.timeouts.connect }
    }

    /// Closes connections that have been idle for a minute by now. Else they are as further requests come.
    pub(crate) fn close_idle(&self, now: Instant) {
        self.connections.close_idle(now);
    }

    /// Whether no request is under way.
    pub(crate) fn is_idle(&self) -> bool {
        self.connections.are_idle()
    }

    fn failed(&self, broken: ExchangeError, cancellation: &Cancellation, asked: Instant) -> AttemptError {
        let (failure, source) = match (cancellation.reason(), broken) {
            _ if self.connections.are_stopped() => (given_up(), ErrorSource::Other),
            (Some(CancelReason::GatewayTimeout), _) => {
                let text = "it did not answer for as long as the gateway waits";
                let source = source_of_slowness(asked.elapsed(), cancellation.age());
                (Failure::new(FailureKind::Timeout, text), source)
            }
            (_, broken @ ExchangeError::BadResponse(BadResponse::Invalid(_))) => {
                let failure = broken.explain(&self.timeouts);
                let detail = format!("at {}", self.local);
                (failure.with_detail(detail).with_advice(Advice::NotHttp), ErrorSource::Other)
            }
            (None, broken @ ExchangeError::Stalled(_)) => {
                (broken.explain(&self.timeouts), ErrorSource::Upstream)
            }
            (_, broken) => (broken.explain(&self.timeouts), ErrorSource::Other),
        };
        AttemptError::Failed { failure, source }
    }

    /// Sets what depends on the local server: its name, and the true length of the body.
    fn prepare(&self, head: &mut http::request::Parts, body: &Body, upgrade: Option<&Upgrade>) {
        let headers = &mut head.headers;
        headers.remove(header::EXPECT);
        if let Some(host) = &self.host {
            headers.insert(header::HOST, host.clone());
        } else if !headers.contains_key(header::HOST) {
            if let Ok(host) = HeaderValue::from_str(self.local.authority()) {
                headers.insert(header::HOST, host);
            }
        }
        let had_length = headers.remove(header::CONTENT_LENGTH).is_some();
        headers.remove(header::TRANSFER_ENCODING);
        let expects_body = matches!(head.method, Method::POST | Method::PUT | Method::PATCH);
        match body.length() {
            _ if upgrade.is_some() => {}
            Some(0) if !had_length && !expects_body => {}
            Some(length) => drop(headers.insert(header::CONTENT_LENGTH, length.into())),
            None => drop(headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"))),
        }
    }

    fn connect(&self) -> Result<Connection, Failure> {
        let deadline = Instant::now() + self.timeouts.connect;
        let socket = self.open(deadline).map_err(|error| self.unreachable(error))?;
        let id = self.connections.next_id();
        let connection = Connection::new(id, socket, &self.timeouts)
            .map_err(|error| self.unreachable(ConnectError::Socket(error)))?;
        if self.connections.begin(id, &connection.closer) { Ok(connection) } else { Err(given_up()) }
    }

    fn open(&self, deadline: Instant) -> Result<crate::net::Socket, ConnectError> {
        let (name, tls) = (self.resolver.host(), self.tls.as_ref().map(TrustStore::client));
        let known = self.resolver.cached(self.timeouts.connect).map_err(ConnectError::Resolve)?;
        connect::open(&known, name, tls.as_ref(), deadline).or_else(|error| {
            // The name may have moved since it was looked up.
            let remaining = deadline.saturating_duration_since(Instant::now());
            match self.resolver.look_up(remaining) {
                Ok(now) if now != known => connect::open(&now, name, tls.as_ref(), deadline),
                _ => Err(error),
            }
        })
    }

    /// The failure of a connection. Its text holds the system's error alone, and nothing of where the server is or
    /// what certificate it shows; the log is.
    fn unreachable(&self, error: ConnectError) -> Failure {
        let why = error.io();
        if is_exhausted(why) {
            let text = format!("this machine gives the agent no more connections: {why}");
            return Failure::new(FailureKind::Exhausted, text)
                .with_retry_after(Duration::from_secs(1))
                .with_advice(Advice::OpenFiles);
        }
        let advice = error.advice(Peer::LocalServer);
        let local = self.local.to_string();
        let detail = match &error {
            // The text says why.
            ConnectError::Connect(address, _) if local.contains(&address.to_string()) => {
                format!("at {local}")
            }
            ConnectError::Connect(address, _) => format!("at {local} ({address})"),
            error => format!("at {local} ({error})"),
        };
        let text = match error {
            ConnectError::Connect(_, error) if error.kind() == io::ErrorKind::TimedOut => {
                format!("no connection within {:?}", self.timeouts.connect)
            }
            ConnectError::Connect(_, error) => error.to_string(),
            ConnectError::Resolve(_) => "its name cannot be resolved".to_owned(),
            ConnectError::Tls(_) => "TLS failed".to_owned(),
            ConnectError::Socket(_) => "the connection failed at once".to_owned(),
        };
        Failure::new(FailureKind::Unreachable, text).with_detail(detail).with_advice(advice)
    }

    /// Makes the local server's response ours.
    fn adopt(&self, begun: Begun, cancellation: &Cancellation) -> Response {
        let Begun { head, body, connection, upload } = begun;
        let (parts, ()) = head.response.into_parts();
        let switched = parts.status == StatusCode::SWITCHING_PROTOCOLS;
        let channel = if switched { connection.take_channel() } else { None };
        let source = match (channel, body) {
            (Some(channel), _) => ResponseSource::Switched(channel),
            (None, Some(reader)) => ResponseSource::Http(Box::new(reader)),
            (None, None) => ResponseSource::Nothing,
        };
        let remaining = match head.framing {
            Framing::Length(length) if !switched => Some(length),
            _ => None,
        };
        let body = ResponseBody {
            source,
            remaining,
            persistence: head.persistence,
            connection: Some(connection),
            upload,
            idle: self.timeouts.idle,
            connections: self.connections.clone(),
            cancellation: cancellation.clone(),
        };
        Response::from_parts(parts, body.into_body())
    }
}

fn given_up() -> Failure {
    Failure::new(FailureKind::Internal, "given up, since the agent is stopping")
}

impl Service for Origin {
    fn call(&self, request: Request) -> Result<Response, Failure> {
        self.attempt(request, || ()).map_err(|error| match error {
            AttemptError::NotSent { failure, .. } | AttemptError::Failed { failure, .. } => failure,
        })
    }

    fn interrupt(&self) {
        self.connections.stop();
    }
}

/// Whether it is this machine that has no more to give: open files, ports, memory or threads.
fn is_exhausted(error: &io::Error) -> bool {
    /// `ENFILE` and `EMFILE`, on Linux, macOS and the BSDs alike.
    const TOO_MANY_FILES: [i32; 2] = [23, 24];
    let is_files = cfg!(unix) && error.raw_os_error().is_some_and(|code| TOO_MANY_FILES.contains(&code));
    let kinds = [io::ErrorKind::AddrNotAvailable, io::ErrorKind::OutOfMemory, io::ErrorKind::WouldBlock];
    is_files || kinds.contains(&error.kind())
}

/// The parts that ureq has to know of a request whose head was encoded before.
fn method_and_url(head: &http::request::Parts) -> http::request::Parts {
    let (mut parts, ()) = http::Request::new(()).into_parts();
    (parts.method, parts.uri) = (head.method.clone(), head.uri.clone());
    parts
}

/// RFC 9110 §9.2.2.
fn is_idempotent(method: &Method) -> bool {
    matches!(
        *method,
        Method::GET | Method::HEAD | Method::PUT | Method::DELETE | Method::OPTIONS | Method::TRACE
    )
}

impl std::fmt::Debug for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Origin({})", self.local)
    }
}

/// The authority of a URL that is known to have one.
fn authority(uri: &Uri) -> &str {
    uri.authority().map_or("", |authority| authority.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::Address;
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::thread;

    /// Answers one request.
    fn answer(socket: &mut TcpStream) {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            socket.read_exact(&mut byte).unwrap();
            head.push(byte[0]);
        }
        socket.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").unwrap();
    }

    #[test]
    fn connections_that_are_idle_for_too_long_are_closed() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let local = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
        let server = thread::spawn(move || {
            let (mut socket, _) = listener.accept().unwrap();
            answer(&mut socket);
            answer(&mut socket);
            socket.read(&mut [0]).unwrap()
        });
        let origin = Origin::new(local, None, None, Timeouts::default());
        let call = || assert!(origin.call(Request::new(Body::empty())).is_ok());
        call();
        origin.close_idle(Instant::now() + Duration::from_secs(59));
        // On the same connection.
        call();
        origin.close_idle(Instant::now() + Duration::from_secs(61));
        assert_eq!(server.join().unwrap(), 0, "the end of the connection");
    }

    /// Checks the source of a failure, for a server that begins like this, keeps the connection or not, and does no more.
    #[track_caller]
    fn check_source(
        begin: fn(TcpStream) -> Option<TcpStream>,
        body: Body,
        reason: Option<CancelReason>,
        expected: ErrorSource,
    ) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let local = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
        let cancellation = Cancellation::default();
        let cancelled = cancellation.clone();
        let server = thread::spawn(move || {
            let (socket, _) = listener.accept().unwrap();
            // Most of the request's time is the server's.
            let accepted = Instant::now();
            while accepted.elapsed() < cancelled.age() / 2 {
                thread::yield_now();
            }
            if let Some(reason) = reason {
                cancelled.cancel_for(reason);
            }
            begin(socket)
        });
        // Nothing but a time-out ends the wait for one that is too slow.
        let is_slow = expected == ErrorSource::Upstream && reason.is_none();
        let time = if is_slow { Duration::from_millis(20) } else { Timeouts::MAX };
        let timeouts = Timeouts { response: time, idle: time, ..Timeouts::default() };
        let mut request = Request::new(body);
        *request.method_mut() = Method::POST;
        request.extensions_mut().insert(cancellation);
        let error = Origin::new(local, None, None, timeouts).attempt(request, || ()).unwrap_err();
        let AttemptError::Failed { failure, source } = error else { panic!("{error:?}") };
        assert_eq!(source, expected, "{failure}");
        drop(server.join().unwrap());
    }

    #[test]
    fn a_machine_without_descriptors_is_not_the_servers_fault() {
        let origin = Origin::new("http://10.0.0.5:8000".parse().unwrap(), None, None, Timeouts::default());
        let address = || Address::Tcp("10.0.0.5:8000".parse().unwrap());
        let unreachable = |error| {
            let gone = origin.unreachable(ConnectError::Connect(address(), error));
            AttemptError::sent(gone.clone(), &gone)
        };
        let failed = |error| match unreachable(error) {
            AttemptError::Failed { failure, source } => (failure, source),
            AttemptError::NotSent { .. } => panic!("the request is not known here"),
        };
        let (exhausted, source) = failed(io::Error::from_raw_os_error(24));
        assert_eq!((exhausted.kind(), source), (FailureKind::Exhausted, ErrorSource::Other));
        let text = exhausted.to_string();
        assert!(text.contains("no more connections") && !text.contains("10.0.0.5"), "{text}");
        let (refused, source) = failed(io::Error::from_raw_os_error(111));
        assert_eq!((refused.kind(), source), (FailureKind::Unreachable, ErrorSource::Upstream));
    }

    #[test]
    fn visitors_are_told_no_address_and_no_option() {
        let origin =
            Origin::new("https://intern.test:8443".parse().unwrap(), None, None, Timeouts::default());
        let address = || Address::Tcp("10.0.0.5:8443".parse().unwrap());
        let wrong =
            || io::Error::other("certificate not valid for name \"intern.test\" (see --connect-timeout)");
        for error in [
            ConnectError::Connect(address(), io::ErrorKind::TimedOut.into()),
            ConnectError::Connect(address(), io::Error::from_raw_os_error(111)),
            ConnectError::Resolve(wrong()),
            ConnectError::Tls(wrong()),
        ] {
            let failure = origin.unreachable(error);
            let (text, detail) = (failure.to_string(), failure.detail().unwrap());
            assert!(
                !["intern", "10.0.0.5", "--", "8443"].iter().any(|secret| text.contains(secret)),
                "{text}"
            );
            assert!(detail.contains("at https://intern.test:8443"), "{detail}");
        }
    }

    #[test]
    fn time_in_the_agents_queue_is_not_the_servers() {
        for (asked, age, blame) in [
            (30.0, 30.0, ErrorSource::Upstream),
            (16.0, 30.0, ErrorSource::Upstream),
            (14.0, 30.0, ErrorSource::Other),
            // A wait that short explains nothing.
            (0.001, 0.9, ErrorSource::Upstream),
            (0.001, 1.1, ErrorSource::Other),
        ] {
            let got = source_of_slowness(Duration::from_secs_f64(asked), Duration::from_secs_f64(age));
            assert_eq!(got, blame, "{asked} of {age}");
        }
    }

    #[test]
    fn only_a_server_that_is_too_slow_is_to_blame() {
        fn say(mut socket: TcpStream, bytes: &[u8]) -> Option<TcpStream> {
            socket.write_all(bytes).unwrap();
            Some(socket)
        }
        let large = Body::from(vec![0; 64 << 20]);
        let broken = Body::from_reader(io::empty(), Some(1 << 20));
        check_source(Some, Body::empty(), None, ErrorSource::Upstream);
        check_source(
            |socket| say(socket, b"HTTP/1.1 200 OK\r\n"),
            Body::empty(),
            None,
            ErrorSource::Upstream,
        );
        check_source(Some, large, None, ErrorSource::Upstream);
        check_source(Some, Body::empty(), Some(CancelReason::GatewayTimeout), ErrorSource::Upstream);
        check_source(Some, Body::empty(), Some(CancelReason::ClientGone), ErrorSource::Other);
        check_source(|_| None, Body::empty(), None, ErrorSource::Other);
        check_source(|socket| say(socket, b"garbage\r\n\r\n"), Body::empty(), None, ErrorSource::Other);
        check_source(Some, broken, None, ErrorSource::Other);
    }
}
