//! How an agent is stopped, whatever it is doing.

use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use crate::session::outbox::Outbox;

/// Shared between the agent's thread and those who may stop it.
#[derive(Debug, Default)]
pub(super) struct Control {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Set when the agent is to stop: until when it may finish what runs.
    drain_until: Option<Instant>,
    /// The session that runs.
    session: Option<Outbox>,
}

impl Control {
    pub(super) fn shutdown(&self, drain: Duration) {
        let mut state = self.lock();
        let now = Instant::now();
        let until = now.checked_add(drain).unwrap_or_else(|| now + FAR_AWAY);
        let until = state.drain_until.map_or(until, |earlier| earlier.min(until));
        state.drain_until = Some(until);
        if let Some(session) = &state.session {
            session.drain(until);
        }
        self.changed.notify_all();
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.lock().drain_until.is_some()
    }

    pub(super) fn attach(&self, session: Outbox) {
        let mut state = self.lock();
        if let Some(until) = state.drain_until {
            session.drain(until);
        }
        state.session = Some(session);
    }

    pub(super) fn detach(&self) {
        self.lock().session = None;
    }

    /// Waits this long, or until the agent is to stop.
    pub(super) fn wait(&self, delay: Duration) {
        // Neither poisoning nor the time-out changes what the caller looks at next.
        let _ = self.changed.wait_timeout_while(self.lock(), delay, |state| state.drain_until.is_none());
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while the lock is held.
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// Stands for a drain that is longer than the clock can tell.
const FAR_AWAY: Duration = Duration::from_secs(365 * 24 * 3600);
