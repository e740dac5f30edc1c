//! Locks and condition variables without poison.
//!
//! A lock is poisoned when a thread panics while it holds the guard. No code of this crate panics there: what is
//! done under a lock moves values and changes numbers, and every hook, service and system call runs without one.
//! So the data behind a poisoned lock is whole, and one failed request is no reason to end all others.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{
    Arc, Condvar, LockResult, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
};
use std::time::Duration;

fn recover<G>(result: LockResult<G>) -> G {
    result.unwrap_or_else(PoisonError::into_inner)
}

/// Locks a mutex.
pub(crate) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    recover(mutex.lock())
}

/// Locks for reading.
pub(crate) fn read<T: ?Sized>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    recover(lock.read())
}

/// Locks for writing.
pub(crate) fn write<T: ?Sized>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    recover(lock.write())
}

/// Waits for a notification.
pub(crate) fn wait<'a, T>(condvar: &Condvar, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
    recover(condvar.wait(guard))
}

/// Waits for a notification, at most `timeout`.
pub(crate) fn wait_timeout<'a, T>(
    condvar: &Condvar,
    guard: MutexGuard<'a, T>,
    timeout: Duration,
) -> MutexGuard<'a, T> {
    recover(condvar.wait_timeout(guard, timeout)).0
}

/// Waits while `condition` holds.
pub(crate) fn wait_while<'a, T>(
    condvar: &Condvar,
    guard: MutexGuard<'a, T>,
    condition: impl FnMut(&mut T) -> bool,
) -> MutexGuard<'a, T> {
    recover(condvar.wait_while(guard, condition))
}

/// Waits while `condition` holds, at most `timeout`.
pub(crate) fn wait_timeout_while<'a, T>(
    condvar: &Condvar,
    guard: MutexGuard<'a, T>,
    timeout: Duration,
    condition: impl FnMut(&mut T) -> bool,
) -> MutexGuard<'a, T> {
    recover(condvar.wait_timeout_while(guard, timeout, condition)).0
}

/// A value that is replaced as a whole while others use it: each keeps the value that it has got.
#[derive(Debug)]
pub(crate) struct Replaceable<T>(RwLock<Arc<T>>);

impl<T> Replaceable<T> {
    pub(crate) fn new(value: Arc<T>) -> Self {
        Replaceable(RwLock::new(value))
    }

    /// The current value.
    pub(crate) fn get(&self) -> Arc<T> {
        read(&self.0).clone()
    }

    /// Makes this the current value. Returns the one before.
    pub(crate) fn replace(&self, value: Arc<T>) -> Arc<T> {
        std::mem::replace(&mut *write(&self.0), value)
    }
}

/// A condition variable that knows whether a thread waits: a notification without one would still be a system call.
#[derive(Debug, Default)]
pub(crate) struct Waiters {
    changed: Condvar,
    /// Threads that wait. It changes only under the lock that they wait with.
    count: AtomicUsize,
}

impl Waiters {
    /// Whether a thread waits. To be asked under the lock, after the change that it waits for.
    pub(crate) fn are_any(&self) -> bool {
        self.count.load(Ordering::Relaxed) > 0
    }

    /// Wakes all of them. Better done without the lock, which the first of them takes at once.
    pub(crate) fn notify(&self) {
        self.changed.notify_all();
    }

    /// Lets go of the lock, and wakes those that wait, if any do.
    pub(crate) fn release<T>(&self, guard: MutexGuard<'_, T>) {
        let is_due = self.are_any();
        drop(guard);
        if is_due {
            self.notify();
        }
    }

    /// Waits for a notification, at most `timeout` where there is one.
    pub(crate) fn wait<'a, T>(
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

    /// Waits while `condition` holds.
    #[cfg(feature = "gateway")]
    pub(crate) fn wait_while<'a, T>(
        &self,
        mut guard: MutexGuard<'a, T>,
        mut condition: impl FnMut(&mut T) -> bool,
    ) -> MutexGuard<'a, T> {
        while condition(&mut guard) {
            guard = self.wait(guard, None);
        }
        guard
    }
}
