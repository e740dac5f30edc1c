//! How a service learns that its answer is not awaited any more.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use crate::sync::lock;

/// A token that tells a service that its answer is not wanted any more: the client disconnected, the gateway's time
/// limit expired, or the session ended. It is in the [`extensions`](http::Request::extensions) of requests that come
/// in streams (mux/2).
///
/// A call that notices may end as it likes; what it returns is dropped.
#[derive(Clone, Default)]
pub struct Cancellation(Arc<Mutex<Cancelled>>);

struct Cancelled {
    /// When the request came.
    since: Instant,
    reason: Option<CancelReason>,
    hook: Option<Box<dyn FnOnce() + Send>>,
}

impl Default for Cancelled {
    fn default() -> Self {
        Cancelled { since: Instant::now(), reason: None, hook: None }
    }
}

/// The reason of a cancellation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CancelReason {
    /// The client disconnected, or the session ended.
    ClientGone,
    /// The answer was waited for in vain.
    GatewayTimeout,
}

impl Cancellation {
    /// Whether the answer is not wanted any more.
    pub fn is_cancelled(&self) -> bool {
        self.reason().is_some()
    }

    /// How long ago the request came.
    pub(crate) fn age(&self) -> Duration {
        self.lock().since.elapsed()
    }

    /// The reason of the cancellation, if there was one.
    pub(crate) fn reason(&self) -> Option<CancelReason> {
        self.lock().reason
    }

    /// Runs `hook` on cancellation, at once if that has happened already; it takes the place of an
    /// earlier one. It runs on a thread that must not wait: let it close a socket, or set a flag.
    pub fn on_cancel(&self, hook: impl FnOnce() + Send + 'static) {
        let mut state = self.lock();
        if state.reason.is_some() {
            drop(state);
            hook();
        } else {
            state.hook = Some(Box::new(hook));
        }
    }

    /// Drops the hook: what it would end may serve another request. False when it has run.
    pub(crate) fn disarm(&self) -> bool {
        let mut state = self.lock();
        state.hook = None;
        state.reason.is_none()
    }

    /// Sets the token and runs the hook, as the agent does: for tests, and for a service that calls another one. It does not
    /// end the request.
    pub fn cancel(&self) {
        self.cancel_for(CancelReason::ClientGone);
    }

    /// Cancels the request for this reason; the first reason stays.
    pub(crate) fn cancel_for(&self, reason: CancelReason) {
        let hook = {
            let mut state = self.lock();
            state.reason.get_or_insert(reason);
            state.hook.take()
        };
        if let Some(hook) = hook {
            hook();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Cancelled> {
        lock(&self.0)
    }
}

impl fmt::Debug for Cancellation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Cancellation({})", self.is_cancelled())
    }
}
