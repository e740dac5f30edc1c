//! How the local server answers one request.
//!
//! ureq does the HTTP. What it would do by itself and must not (follow redirects, decode bodies, add
//! headers, look at proxies) is switched off; what it cannot do is in the [transport] below it: hearing a
//! server that answers before it has read the whole request, telling a reset from an end, and knowing
//! whether a request may safely be sent once more.

mod clients;
mod target;
mod transport;

use std::io::{self, Read};
use std::time::Duration;

use http::header::{self, HeaderValue};
use http::{Method, Uri};

use self::clients::{Client, Clients};
pub use self::target::{InvalidLocalUrl, LocalUrl};
use self::transport::{Connector, Trace};
use crate::link::tls::ClientTls;
use crate::service::{Body, Failure, FailureKind, Request, Response, Service};

/// Limits towards the local server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// For the connection, with TLS; 5 s by default.
    pub connect: Duration,
    /// Until the first byte of the answer; 30 s by default.
    pub response: Duration,
    /// Between two bytes of the answer, and for a write without progress; 30 s by default.
    pub idle: Duration,
}

impl Timeouts {
    /// Longer than anybody means it, and short enough for the clock: 24 h.
    pub const MAX: Duration = Duration::from_secs(24 * 3600);

    fn clamped(self) -> Self {
        let Timeouts { connect, response, idle } = self;
        Timeouts {
            connect: connect.min(Self::MAX),
            response: response.min(Self::MAX),
            idle: idle.min(Self::MAX),
        }
    }
}

impl Default for Timeouts {
    fn default() -> Self {
        let half_a_minute = Duration::from_secs(30);
        Timeouts { connect: Duration::from_secs(5), response: half_a_minute, idle: half_a_minute }
    }
}

/// Forwards requests to a local HTTP server.
pub struct Origin {
    local: LocalUrl,
    host: Option<HeaderValue>,
    timeouts: Timeouts,
    clients: Clients,
}

impl Origin {
    /// Forwards to the server at `local`. `host` replaces each request's `Host` header; `tls` is needed
    /// exactly when the URL is secure. No time-out is longer than [`Timeouts::MAX`].
    pub fn new(
        local: LocalUrl,
        host: Option<HeaderValue>,
        tls: Option<ClientTls>,
        timeouts: Timeouts,
    ) -> Self {
        let timeouts = timeouts.clamped();
        let connector = Connector::new(&local, tls, timeouts);
        Origin { local, host, timeouts, clients: Clients::new(connector) }
    }

    fn forward(&self, request: Request) -> Result<Response, Failure> {
        let (mut head, mut body) = request.into_parts();
        if self.local.is_left_by(head.uri.path()) {
            let text = "the path leads out of the local server's base path";
            return Err(Failure::new(FailureKind::BadRequest, text));
        }
        head.uri = self.local.join(&head.uri).map_err(|what| Failure::new(FailureKind::BadRequest, what))?;
        self.prepare(&mut head, &body);
        let client = self.clients.take();
        let mut trace = Trace::begin();
        let mut result = send(&client, &head, &mut body);
        if result.is_err() && trace.was_stale() && is_idempotent(&head.method) && body.as_bytes().is_some() {
            // The server had closed the idle connection before it saw the request. The next one is new.
            trace = Trace::begin_fresh();
            result = send(&client, &head, &mut body);
        }
        let response = result.map_err(|error| self.explain(error, &trace))?;
        Ok(self.adopt(response, client))
    }

    /// Sets what depends on the local server: its name, and the true length of the body.
    fn prepare(&self, head: &mut http::request::Parts, body: &Body) {
        head.version = http::Version::HTTP_11;
        head.headers.remove(header::EXPECT);
        if let Some(host) = &self.host {
            head.headers.insert(header::HOST, host.clone());
        }
        let had_length = head.headers.remove(header::CONTENT_LENGTH).is_some();
        let expects_body = matches!(head.method, Method::POST | Method::PUT | Method::PATCH);
        match body.length() {
            Some(0) if !had_length && !expects_body => {}
            Some(length) => drop(head.headers.insert(header::CONTENT_LENGTH, length.into())),
            None => drop(head.headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"))),
        }
    }

    /// Makes the local server's response ours: its body is read through, and failures in it are explained.
    fn adopt(&self, response: http::Response<ureq::Body>, client: Client) -> Response {
        let (head, body) = response.into_parts();
        let length = body.content_length();
        let reader = ResponseBody { reader: body.into_reader(), idle: self.timeouts.idle, _client: client };
        Response::from_parts(head, Body::from_reader(reader, length))
    }

    fn explain(&self, error: ureq::Error, trace: &Trace) -> Failure {
        if self.clients.are_stopped() {
            return Failure::new(FailureKind::Internal, "given up, since the agent is stopping");
        }
        let (kind, text) = match error {
            ureq::Error::Io(error) if !trace.connected() => match error.kind() {
                io::ErrorKind::TimedOut => {
                    let text = format!("no connection to {} within {:?}", self.local, self.timeouts.connect);
                    (FailureKind::Unreachable, text)
                }
                _ => (FailureKind::Unreachable, error.to_string()),
            },
            ureq::Error::Io(error) if error.kind() == io::ErrorKind::TimedOut => {
                let text = match trace.received() {
                    false => format!(
                        "it did not answer within {:?} (see --response-timeout)",
                        self.timeouts.response
                    ),
                    true => format!("its answer stalled for {:?} (see --idle-timeout)", self.timeouts.idle),
                };
                (FailureKind::Timeout, text)
            }
            ureq::Error::Io(error) => {
                let when =
                    if trace.received() { "in the middle of its answer" } else { "before it answered" };
                (FailureKind::Truncated, format!("it closed the connection {when}: {error}"))
            }
            ureq::Error::LargeResponseHeader(_, max) => {
                (FailureKind::TooLarge, format!("the headers of its answer are larger than {max} bytes"))
            }
            ureq::Error::Protocol(error) => {
                (FailureKind::Protocol, format!("its answer is no valid HTTP/1.1 ({error})"))
            }
            other => (FailureKind::Protocol, other.to_string()),
        };
        Failure::new(kind, text)
    }
}

impl Service for Origin {
    fn call(&self, request: Request) -> Result<Response, Failure> {
        self.forward(request)
    }

    fn interrupt(&self) {
        self.clients.shutdown();
    }
}

fn send(
    client: &Client,
    head: &http::request::Parts,
    body: &mut Body,
) -> Result<http::Response<ureq::Body>, ureq::Error> {
    match body.as_bytes() {
        Some([]) => client.http.run(request(head, ())),
        Some(mut bytes) => client.http.run(request(head, ureq::SendBody::from_reader(&mut bytes))),
        None => client.http.run(request(head, ureq::SendBody::from_reader(body))),
    }
}

fn request<B>(head: &http::request::Parts, body: B) -> http::Request<B> {
    let mut request = http::Request::new(body);
    *request.method_mut() = head.method.clone();
    *request.uri_mut() = head.uri.clone();
    *request.headers_mut() = head.headers.clone();
    request
}

/// RFC 9110 §9.2.2.
fn is_idempotent(method: &Method) -> bool {
    matches!(
        *method,
        Method::GET | Method::HEAD | Method::PUT | Method::DELETE | Method::OPTIONS | Method::TRACE
    )
}

/// The body of the local server's response, with errors that say what went wrong.
struct ResponseBody {
    reader: ureq::BodyReader<'static>,
    idle: Duration,
    /// Not for anybody else before the body is done.
    _client: Client,
}

impl Read for ResponseBody {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.reader.read(buffer).map_err(|error| {
            if error.kind() != io::ErrorKind::TimedOut {
                return error;
            }
            let text = format!("the response body stalled for {:?} (see --idle-timeout)", self.idle);
            io::Error::other(Failure::new(FailureKind::Timeout, text))
        })
    }
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
