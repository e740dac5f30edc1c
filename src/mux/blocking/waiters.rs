//! The threads that wait for one stream.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, MutexGuard};
use std::time::Duration;

use crate::sync::{wait, wait_timeout};

/// A condition variable that knows whether a thread waits: a notification without one would still be a system call.
#[derive(Debug, Default)]
pub(super) struct Waiters {
    changed: Condvar,
    /// Threads that wait. It changes only under the lock that they wait with.
    count: AtomicUsize,
}

impl Waiters {
    /// Whether a thread waits. To be asked under the lock, after the change that it waits for.
    pub(super) fn are_any(&self) -> bool {
        self.count.load(Ordering::Relaxed) > 0
    }

    /// Wakes all of them. Better done without the lock, which the first of them takes at once.
    pub(super) fn notify(&self) {
        self.changed.notify_all();
    }

    /// Waits for a notification, at most `timeout` where there is one.
    pub(super) fn wait<'a, T>(
        &self,
        guard: MutexGuard<'a, T>,
        timeout: Option<Duration>,
    ) -> MutexGuard<'a, T> {
        self.count.fetch_add(1, Ordering::Relaxed);
        let guard = match timeout {
            None => wait(&self.changed, guard),
            Some(timeout) => wait_timeout(&self.changed, guard, timeout),
        };
        self.count.fetch_sub(1, Ordering::Relaxed);
        guard
    }
}
