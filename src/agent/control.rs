//! How an agent is stopped, or hurried, whatever it is doing.

use std::collections::HashMap;
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant, SystemTime};

use crate::clock::{Clocks, LOOK_EVERY, after};
use crate::net::Closer;
use crate::session::SessionHandle;
use crate::sync::{lock, wait_timeout};

/// The reason that the agent gives when it stops.
const STOPPING: &str = "the agent is stopping";

/// Shared between the agent's threads and its handles.
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
    sessions: HashMap<u64, SessionHandle>,
    /// The connections that are to become sessions.
    dials: HashMap<u64, Closer>,
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
        let sessions: Vec<_> = state.sessions.values().cloned().collect();
        // There is nothing to finish yet.
        state.dials.values().for_each(Closer::close);
        drop(state);
        self.changed.notify_all();
        sessions.iter().for_each(|session| session.drain(until, STOPPING));
    }

    pub(super) fn hurry(&self) {
        self.lock().hurried += 1;
        self.changed.notify_all();
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.lock().drain_until.is_some()
    }

    /// Registers a session until it is [detached](Self::detach).
    pub(super) fn attach(&self, session: SessionHandle) -> u64 {
        let mut state = self.lock();
        state.next_id += 1;
        let id = state.next_id;
        state.sessions.insert(id, session.clone());
        let drain_until = state.drain_until;
        drop(state);
        if let Some(until) = drain_until {
            session.drain(until, STOPPING);
        }
        id
    }

    /// Calls this, which opens a connection and says so: a stop ends it meanwhile.
    pub(super) fn dial<T>(&self, dial: impl FnOnce(&dyn Fn(Closer)) -> T) -> T {
        let id = {
            let mut state = self.lock();
            state.next_id += 1;
            state.next_id
        };
        let dialled = dial(&|closer| {
            let mut state = self.lock();
            if state.drain_until.is_some() {
                closer.close();
            }
            state.dials.insert(id, closer);
        });
        self.lock().dials.remove(&id);
        dialled
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
            if clocks.take_sleep(SystemTime::now(), now) {
                return Some("this machine seems to have slept");
            }
            let remaining = until.saturating_duration_since(now);
            if remaining.is_zero() {
                break;
            }
            state = wait_timeout(&self.changed, state, remaining.min(LOOK_EVERY));
        }
        None
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}
