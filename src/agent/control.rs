//! How an agent is stopped, or hurried, whatever it is doing.

use std::collections::HashMap;
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant, SystemTime};

use crate::clock::{Clocks, LOOK_EVERY};
use crate::session::outbox::Outbox;

/// What the gateway and its log are told when the agent stops.
const STOPPING: &str = "the agent is stopping";

/// Shared between the agent's threads and those who may stop it.
#[derive(Debug, Default)]
pub(super) struct Control {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Set when the agent is to stop: until when it may finish what runs.
    drain_until: Option<Instant>,
    /// The sessions that run.
    sessions: HashMap<u64, Outbox>,
    next_id: u64,
    /// How often the agent was told not to wait.
    hurried: u64,
}

impl Control {
    pub(super) fn shutdown(&self, drain: Duration) {
        let mut state = self.lock();
        let until = after(drain);
        let until = state.drain_until.map_or(until, |earlier| earlier.min(until));
        state.drain_until = Some(until);
        state.sessions.values().for_each(|session| session.drain(until, STOPPING));
        self.changed.notify_all();
    }

    pub(super) fn hurry(&self) {
        self.lock().hurried += 1;
        self.changed.notify_all();
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.lock().drain_until.is_some()
    }

    /// Takes note of a session, for as long as it is not [detached](Self::detach).
    pub(super) fn attach(&self, session: Outbox) -> u64 {
        let mut state = self.lock();
        if let Some(until) = state.drain_until {
            session.drain(until, STOPPING);
        }
        state.next_id += 1;
        let id = state.next_id;
        state.sessions.insert(id, session);
        id
    }

    pub(super) fn detach(&self, id: u64) {
        self.lock().sessions.remove(&id);
    }

    /// Waits this long, or until the agent is to stop or to hurry, or until its machine wakes up. Returns
    /// why it waited no longer, if it did not.
    pub(super) fn wait(&self, delay: Duration) -> Option<&'static str> {
        let until = after(delay);
        let mut clocks = Clocks::new(SystemTime::now(), Instant::now());
        let mut state = self.lock();
        let before = state.hurried;
        while state.drain_until.is_none() {
            let now = Instant::now();
            if state.hurried != before {
                return Some("asked not to wait");
            }
            if clocks.slept(SystemTime::now(), now) {
                return Some("this machine seems to have slept");
            }
            let left = until.saturating_duration_since(now);
            if left.is_zero() {
                break;
            }
            let waited = self.changed.wait_timeout(state, left.min(LOOK_EVERY));
            state = waited.unwrap_or_else(|poisoned| poisoned.into_inner()).0;
        }
        None
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while the lock is held.
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// So long after now.
pub(super) fn after(time: Duration) -> Instant {
    let now = Instant::now();
    now.checked_add(time).unwrap_or_else(|| now + FAR_AWAY)
}

/// Stands for a time that is longer than the clock can tell.
const FAR_AWAY: Duration = Duration::from_secs(365 * 24 * 3600);
