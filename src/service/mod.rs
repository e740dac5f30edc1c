//! The service that answers requests: a local server, or the embedding program itself.

mod body;
mod cancellation;
mod failure;
mod trace;

pub use self::body::Body;
pub(crate) use self::cancellation::CancelReason;
pub use self::cancellation::Cancellation;
pub(crate) use self::failure::FORWARD_FAILED;
pub use self::failure::{Failure, FailureKind};
pub(crate) use self::trace::{AnswerTrace, Answered};

/// A request of a client, as the gateway passed it on: hop-by-hop headers are gone (RFC 9110 §7.6.1), the path is in
/// origin form (RFC 9112 §3.2.1), and a `HEAD` is one. The visitor's address, scheme and host are in the headers that the
/// gateway sets (`X-Real-IP`, `X-Forwarded-For`, `-Proto`, `-Host`). The [extensions](http::Request::extensions) hold a
/// [`Cancellation`] where requests come in streams. The body may still be on its way: reading it waits, and fails when the
/// visitor disconnects.
pub type Request = http::Request<Body>;

/// The answer to a [`Request`]. Its hop-by-hop headers are dropped, and its `Content-Length` is that of the [`Body`]; no
/// `Content-Type` is added. A 101 in answer to a request with `Upgrade` turns both bodies into the two directions of the new
/// protocol, where requests come in streams.
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
/// let answer = hello.call(request).unwrap().into_body().into_bytes(100).unwrap();
/// assert_eq!(answer, b"you asked for /");
/// ```
///
/// A panic inside `call` becomes one failed answer, and the worker goes on, unless panics abort the program.
pub trait Service: Send + Sync + 'static {
    /// Answers one request.
    ///
    /// # Errors
    ///
    /// [`Failure`] says why it could not be answered.
    fn call(&self, request: Request) -> Result<Response, Failure>;

    /// Called once, after the last session has ended: the agent stops, has given up, or has ended its check. Calls
    /// that still block should return, since the agent waits for them; it may be called while they run. Does nothing by
    /// default.
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
