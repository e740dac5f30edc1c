//! What answers requests: a local server, or the embedding program itself.

use std::fmt;
use std::io::{self, Read};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tungstenite::Bytes;

/// A request of a client, as the gateway passed it on: hop-by-hop headers are gone (RFC 9110 §7.6.1), the path is in
/// origin form (RFC 9112 §3.2.1).
pub type Request = http::Request<Body>;

/// The answer to a [`Request`].
pub type Response = http::Response<Body>;

/// Answers requests. Called from several worker threads at once, so it may block.
///
/// [`Origin`](crate::Origin) forwards to a local HTTP server; a closure answers by itself:
///
/// ```
/// use tunnel_agent::{Body, Failure, Request, Response, Service};
///
/// let hello = |request: Request| -> Result<Response, Failure> {
///     Ok(Response::new(Body::from(format!("you asked for {}", request.uri().path()))))
/// };
/// let request = Request::new(Body::empty());
/// let answer = hello.call(request).unwrap().into_body().read_to_end_limited(100).unwrap();
/// assert_eq!(answer, b"you asked for /");
/// ```
///
/// A panic inside `call` becomes one failed answer; the worker goes on.
pub trait Service: Send + Sync + 'static {
    /// Answers one request, or says why it could not be answered.
    fn call(&self, request: Request) -> Result<Response, Failure>;

    /// Called once, when the agent stops and the time to finish is over: calls that still block should
    /// return soon, since the agent waits for them. Does nothing by default.
    fn interrupt(&self) {}
}

impl<F> Service for F
where
    F: Fn(Request) -> Result<Response, Failure> + Send + Sync + 'static,
{
    fn call(&self, request: Request) -> Result<Response, Failure> {
        self(request)
    }
}

/// A body: a stream of bytes, whose length may be known.
pub struct Body(Source);

enum Source {
    Bytes(Bytes),
    Stream { reader: Box<dyn Read + Send>, length: Option<u64> },
}

impl Body {
    /// No bytes.
    pub fn empty() -> Self {
        Body::from(Vec::new())
    }

    /// The bytes that `reader` gives until it ends. When `length` is stated and the reader ends before it,
    /// the body counts as broken off; so does one that goes on past it, unless it leaves as a stream, which is
    /// over once it has its length.
    pub fn from_reader(reader: impl Read + Send + 'static, length: Option<u64>) -> Self {
        Body(Source::Stream { reader: Box::new(reader), length })
    }

    /// How many bytes are still to be read, if that is known.
    pub fn length(&self) -> Option<u64> {
        match &self.0 {
            Source::Bytes(bytes) => Some(bytes.len() as u64),
            Source::Stream { length, .. } => *length,
        }
    }

    /// What is still to be read, when all of it is in memory. Such a body can be sent a second time.
    pub fn as_bytes(&self) -> Option<&[u8]> {
        match &self.0 {
            Source::Bytes(bytes) => Some(bytes),
            Source::Stream { .. } => None,
        }
    }

    /// The same body once more, when all of it is in memory.
    pub(crate) fn replay(&self) -> Option<Body> {
        match &self.0 {
            Source::Bytes(bytes) => Some(Body(Source::Bytes(bytes.clone()))),
            Source::Stream { .. } => None,
        }
    }

    /// A body that breaks off at once.
    pub(crate) fn broken(error: io::Error, length: u64) -> Self {
        struct Broken(Option<io::Error>);
        impl Read for Broken {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(self.0.take().unwrap_or_else(|| io::ErrorKind::UnexpectedEof.into()))
            }
        }
        Body::from_reader(Broken(Some(error)), Some(length))
    }

    /// Reads the body to its end, or fails with [`FailureKind::TooLarge`] past `max` bytes.
    pub fn read_to_end_limited(self, max: usize) -> Result<Vec<u8>, Failure> {
        let too_large = || {
            let text = format!("the response body is larger than {max} bytes");
            Failure::new(FailureKind::TooLarge, text).with_hint("(see --max-body)".to_owned())
        };
        let (mut reader, length) = match self.0 {
            // Without a copy, when nobody else holds them.
            Source::Bytes(bytes) => {
                return if bytes.len() > max { Err(too_large()) } else { Ok(bytes.into()) };
            }
            Source::Stream { reader, length } => (reader, length),
        };
        if length.is_some_and(|length| length > max as u64) {
            return Err(too_large());
        }
        // With room to spare, or `read_to_end` makes a small read to see whether it can stop.
        let mut bytes = Vec::with_capacity(length.map_or(0, |length| (length as usize).saturating_add(32)));
        // One byte more than there should be: it tells a body at its limit from one past it, and lets the
        // reader see its end, without which a connection below it is not used again.
        let wanted = length.unwrap_or(max as u64).saturating_add(1);
        let result = reader.by_ref().take(wanted).read_to_end(&mut bytes);
        result.map_err(|error| Failure::broken_off(bytes.len(), length, error))?;
        match length {
            Some(length) if (bytes.len() as u64) < length => {
                Err(Failure::broken_off(bytes.len(), Some(length), io::ErrorKind::UnexpectedEof.into()))
            }
            Some(length) if (bytes.len() as u64) > length => Err(longer_than(length)),
            None if bytes.len() > max => Err(too_large()),
            _ => Ok(bytes),
        }
    }
}

fn longer_than(length: u64) -> Failure {
    Failure::new(FailureKind::Truncated, format!("the body is longer than its stated {length} bytes"))
}

impl Read for Body {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.0 {
            Source::Bytes(bytes) => {
                let read = buffer.len().min(bytes.len());
                buffer[..read].copy_from_slice(&bytes.split_to(read));
                Ok(read)
            }
            Source::Stream { reader, length: None } => reader.read(buffer),
            Source::Stream { reader, length: Some(0) } => match reader.read(&mut [0])? {
                0 => Ok(0),
                _ => Err(io::Error::other(longer_than(0))),
            },
            Source::Stream { reader, length: Some(left) } => {
                let most = buffer.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                let read = reader.read(&mut buffer[..most])?;
                if read == 0 && most > 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                *left -= read as u64;
                Ok(read)
            }
        }
    }
}

impl From<Vec<u8>> for Body {
    fn from(bytes: Vec<u8>) -> Self {
        Body(Source::Bytes(bytes.into()))
    }
}

impl From<String> for Body {
    fn from(text: String) -> Self {
        Body::from(text.into_bytes())
    }
}

impl From<&str> for Body {
    fn from(text: &str) -> Self {
        Body::from(text.as_bytes().to_vec())
    }
}

impl Default for Body {
    fn default() -> Self {
        Body::empty()
    }
}

impl fmt::Debug for Body {
    /// The length alone: a body may hold secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.length() {
            Some(length) => write!(f, "Body({length} bytes)"),
            None => f.write_str("Body(a stream)"),
        }
    }
}

/// Why a request got no response. The client's gateway is told the text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    kind: FailureKind,
    text: String,
    retry_after: Option<Duration>,
    /// For the log alone: where it was, and what a person might try.
    hint: Option<String>,
}

/// What the log adds where the local server stands still.
pub(crate) const SEE_IDLE_TIMEOUT: &str = "(see --idle-timeout)";

/// What kind of [`Failure`] it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum FailureKind {
    /// No connection to the local server.
    Unreachable,
    /// The local server has failed before, and was not asked this time.
    Unavailable,
    /// The system gives the agent no more connections. The local server was not asked.
    Exhausted,
    /// The local server did not answer in time.
    Timeout,
    /// The local server broke off before its response was complete.
    Truncated,
    /// The response is larger than what can be passed on.
    TooLarge,
    /// What the local server sent is no HTTP response.
    Protocol,
    /// The gateway knows no responses but texts, and this is none.
    TextOnly,
    /// The request itself is at fault. It is answered with a response of status 400.
    BadRequest,
    /// The service failed for a reason of its own.
    Internal,
}

impl FailureKind {
    /// All that [`code`](Self::code) gives.
    pub(crate) const CODES: [&str; 10] = [
        "unreachable",
        "circuit_open",
        "exhausted",
        "timeout",
        "truncated",
        "response_too_large",
        "bad_response",
        "text_only_gateway",
        "bad_request",
        "internal",
    ];

    /// Its stable name, for programs.
    pub(crate) fn code(self) -> &'static str {
        match self {
            FailureKind::Unreachable => "unreachable",
            FailureKind::Unavailable => "circuit_open",
            FailureKind::Exhausted => "exhausted",
            FailureKind::Timeout => "timeout",
            FailureKind::Truncated => "truncated",
            FailureKind::TooLarge => "response_too_large",
            FailureKind::Protocol => "bad_response",
            FailureKind::TextOnly => "text_only_gateway",
            FailureKind::BadRequest => "bad_request",
            FailureKind::Internal => "internal",
        }
    }
}

impl Failure {
    /// A failure of this kind. The text is one line for a person, without secrets.
    pub fn new(kind: FailureKind, text: impl Into<String>) -> Self {
        Failure { kind, text: text.into(), retry_after: None, hint: None }
    }

    /// The same, with the time after which another try may do better. A response that is made of it says so in
    /// its `Retry-After` (RFC 9110 §10.2.3).
    pub fn with_retry_after(self, time: Duration) -> Self {
        Failure { retry_after: Some(time), ..self }
    }

    /// The time after which another try may do better, if that is known.
    pub fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }

    /// The same, with where it was and what the agent's owner might try, which visitors are not told.
    pub(crate) fn with_hint(self, hint: String) -> Self {
        Failure { hint: Some(hint), ..self }
    }

    /// Where it was, and what the agent's owner might try.
    pub(crate) fn hint(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    /// What kind it is.
    pub fn kind(&self) -> FailureKind {
        self.kind
    }

    /// The request's own body broke off.
    pub(crate) fn of_request_body(error: io::Error) -> Self {
        match error.get_ref().and_then(|inner| inner.downcast_ref::<Failure>()) {
            Some(failure) => failure.clone(),
            None => Failure::new(FailureKind::Truncated, format!("the request's body broke off: {error}")),
        }
    }

    /// The local server takes nothing of the request.
    pub(crate) fn stalled() -> Self {
        Failure::new(FailureKind::Timeout, "it stopped reading the request")
            .with_hint(SEE_IDLE_TIMEOUT.to_owned())
    }

    pub(crate) fn broken_off(read: usize, length: Option<u64>, error: io::Error) -> Self {
        // A service's own failure, such as a time-out, travels through `io::Error` when it comes up while
        // the body is read.
        if let Some(failure) = error.get_ref().and_then(|inner| inner.downcast_ref::<Failure>()) {
            return failure.clone();
        }
        let of = length.map(|length| format!(" of {length}")).unwrap_or_default();
        let text = format!("the response body broke off after {read}{of} bytes: {error}");
        Failure::new(FailureKind::Truncated, text)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Failure {}

/// Tells a service that nobody waits for its answer any more: the client has left, or the session is over.
/// Found in a request's [`extensions`](http::Request::extensions), when whoever sent it can tell.
///
/// A call that notices may end as it likes; what it returns is dropped.
#[derive(Clone, Default)]
pub struct Cancellation(Arc<Mutex<Cancelled>>);

struct Cancelled {
    /// When the request came.
    since: Instant,
    cause: Option<Cause>,
    hook: Option<Box<dyn FnOnce() + Send>>,
}

impl Default for Cancelled {
    fn default() -> Self {
        Cancelled { since: Instant::now(), cause: None, hook: None }
    }
}

/// Why nobody waits any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    /// The client has left, or the session is over.
    Left,
    /// The answer was waited for in vain.
    TooSlow,
}

impl Cancellation {
    /// Whether nobody waits any more.
    pub fn is_cancelled(&self) -> bool {
        self.cause().is_some()
    }

    /// How long ago the request came.
    pub(crate) fn age(&self) -> Duration {
        self.lock().since.elapsed()
    }

    /// Why nobody waits any more, when that is so.
    pub(crate) fn cause(&self) -> Option<Cause> {
        self.lock().cause
    }

    /// Runs `hook` when nobody waits any more, at once if that is so already; it takes the place of an
    /// earlier one. It runs on a thread that must not wait: let it close a socket, or set a flag.
    pub fn on_cancel(&self, hook: impl FnOnce() + Send + 'static) {
        let mut state = self.lock();
        if state.cause.is_some() {
            drop(state);
            hook();
        } else {
            state.hook = Some(Box::new(hook));
        }
    }

    /// Forgets the hook: what it would end is over, and may serve somebody else. False when it has run.
    pub(crate) fn disarm(&self) -> bool {
        let mut state = self.lock();
        state.hook = None;
        state.cause.is_none()
    }

    /// Tells that nobody waits any more.
    pub fn cancel(&self) {
        self.cancel_because(Cause::Left);
    }

    /// The same, and why; the first reason stays.
    pub(crate) fn cancel_because(&self, cause: Cause) {
        let hook = {
            let mut state = self.lock();
            state.cause.get_or_insert(cause);
            state.hook.take()
        };
        if let Some(hook) = hook {
            hook();
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Cancelled> {
        // Nothing panics while the lock is held.
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl fmt::Debug for Cancellation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Cancellation({})", self.is_cancelled())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(body: Body, max: usize, expected: Result<&[u8], FailureKind>) {
        let got = body.read_to_end_limited(max);
        assert_eq!(got.as_deref().map_err(Failure::kind), expected);
    }

    #[test]
    fn reads_up_to_the_limit_and_no_further() {
        check(Body::from("four"), 4, Ok(b"four"));
        check(Body::from("fiver"), 4, Err(FailureKind::TooLarge));
        check(Body::from_reader(&b"four"[..], None), 4, Ok(b"four"));
        check(Body::from_reader(&b"four"[..], None), usize::MAX, Ok(b"four"));
        check(Body::from_reader(io::repeat(b'x'), None), 4, Err(FailureKind::TooLarge));
        check(Body::from_reader(io::repeat(b'x'), Some(5)), 4, Err(FailureKind::TooLarge));
        check(Body::from_reader(&b"four"[..], Some(4)), 4, Ok(b"four"));
    }

    #[test]
    fn a_body_longer_than_stated_is_refused() {
        check(Body::from_reader(io::repeat(b'x'), Some(4)), 10, Err(FailureKind::Truncated));
        let mut body = Body::from_reader(io::repeat(b'x'), Some(4));
        assert!(body.read_to_end(&mut Vec::new()).is_err());
    }

    #[test]
    fn the_reader_sees_its_end() {
        /// Notes that it was asked for more than it had.
        struct Ends<'a>(&'a [u8], std::sync::Arc<std::sync::atomic::AtomicBool>);
        impl Read for Ends<'_> {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                let read = self.0.read(buffer)?;
                self.1.fetch_or(read == 0, std::sync::atomic::Ordering::Relaxed);
                Ok(read)
            }
        }
        for length in [None, Some(4)] {
            let ended = std::sync::Arc::default();
            check(Body::from_reader(Ends(b"four", std::sync::Arc::clone(&ended)), length), 10, Ok(b"four"));
            assert!(ended.load(std::sync::atomic::Ordering::Relaxed), "{length:?}");
        }
    }

    #[test]
    fn a_body_shorter_than_stated_is_broken_off() {
        check(Body::from_reader(&b"fo"[..], Some(4)), 10, Err(FailureKind::Truncated));
        let mut body = Body::from_reader(&b"fo"[..], Some(4));
        let error = body.read_to_end(&mut Vec::new()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn debug_shows_no_bytes() {
        assert_eq!(format!("{:?}", Body::from("secret")), "Body(6 bytes)");
    }
}
