//! The request to stop a gateway, and the threads that wait for it.

use std::sync::{Condvar, Mutex};
use std::time::Duration;

use crate::sync::{lock, wait_timeout_while, wait_while};

/// How far a shutdown is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stopping {
    #[default]
    No,
    Draining,
    Aborted,
}

/// The request to stop, and the threads that wait for it.
#[derive(Debug, Default)]
pub(super) struct Shutdown {
    stopping: Mutex<Stopping>,
    changed: Condvar,
}

impl Shutdown {
    pub(super) fn advance(&self, to: Stopping) {
        let mut stopping = lock(&self.stopping);
        *stopping = to.max(*stopping);
        drop(stopping);
        self.changed.notify_all();
    }

    pub(super) fn wait(&self) {
        drop(wait_while(&self.changed, lock(&self.stopping), |stopping| *stopping == Stopping::No));
    }

    pub(super) fn is_aborted(&self) -> bool {
        *lock(&self.stopping) == Stopping::Aborted
    }

    /// Waits so long, unless the shutdown is not to wait for anything.
    pub(super) fn wait_for_abort(&self, limit: Duration) {
        let is_patient = |stopping: &mut Stopping| *stopping != Stopping::Aborted;
        drop(wait_timeout_while(&self.changed, lock(&self.stopping), limit, is_patient));
    }
}
