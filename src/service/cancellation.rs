//! How a service learns that its answer is not awaited any more.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use crate::sync::lock;

/// Tells a service that nobody waits for its answer any more: the client has left, or the session is over.
/// Found in a request's [`extensions`](http::Request::extensions), when whoever sent it can tell.
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

/// Why nobody waits any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CancelReason {
    /// The client has left, or the session is over.
    ClientGone,
    /// The answer was waited for in vain.
    GatewayTimeout,
}

impl Cancellation {
    /// Whether nobody waits any more.
    pub fn is_cancelled(&self) -> bool {
        self.reason().is_some()
    }

    /// How long ago the request came.
    pub(crate) fn age(&self) -> Duration {
        self.lock().since.elapsed()
    }

    /// Why nobody waits any more, when that is so.
    pub(crate) fn reason(&self) -> Option<CancelReason> {
        self.lock().reason
    }

    /// Runs `hook` when nobody waits any more, at once if that is so already; it takes the place of an
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

    /// Forgets the hook: what it would end is over, and may serve somebody else. False when it has run.
    pub(crate) fn disarm(&self) -> bool {
        let mut state = self.lock();
        state.hook = None;
        state.reason.is_none()
    }

    /// Tells that nobody waits any more.
    pub fn cancel(&self) {
        self.cancel_for(CancelReason::ClientGone);
    }

    /// The same, and why; the first reason stays.
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
