//! One of the sessions that a tunnel keeps up, as the agent knows it.

use std::sync::{Mutex, MutexGuard};

use super::RunError;
use crate::session::SessionHandle;
use crate::sync::lock;

/// Whether a slot is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SlotDemand {
    Still,
    NoMore,
}

/// A session that a tunnel keeps up. While it is replaced there are several: each that opens ends those before it.
pub(super) struct Slot {
    /// The URL of its gateway, and its number among the slots with this gateway.
    pub(super) key: (String, usize),
    state: Mutex<State>,
}

struct State {
    demand: SlotDemand,
    /// The sessions that run, the oldest first, but for those that end.
    sessions: Vec<SessionHandle>,
    /// Why nothing keeps it up any more.
    failure: Option<RunError>,
}

impl Slot {
    /// A slot that takes the place of one with these sessions.
    pub(super) fn new(key: (String, usize), sessions: Vec<SessionHandle>) -> Self {
        let state = State { demand: SlotDemand::Still, sessions, failure: None };
        Slot { key, state: Mutex::new(state) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// The newest session.
    pub(super) fn newest(&self) -> Option<SessionHandle> {
        self.state().sessions.last().cloned()
    }

    /// Opens no further session. Returns those that run.
    pub(super) fn retire(&self) -> Vec<SessionHandle> {
        let mut state = self.state();
        state.demand = SlotDemand::NoMore;
        std::mem::take(&mut state.sessions)
    }

    pub(super) fn is_retired(&self) -> bool {
        self.state().demand == SlotDemand::NoMore
    }

    /// Adds a session. Returns whether it is wanted; else it is to end.
    pub(super) fn began(&self, session: SessionHandle) -> SlotDemand {
        let mut state = self.state();
        if state.demand == SlotDemand::Still {
            state.sessions.push(session);
        }
        state.demand
    }

    /// Returns the sessions before one that is open, which are to end.
    pub(super) fn opened(&self, session: &SessionHandle) -> Vec<SessionHandle> {
        let mut state = self.state();
        let at = state.sessions.iter().position(|other| other.is_of_session(session));
        // One that is not among them has been replaced by a newer one.
        state.sessions.drain(..at.unwrap_or(0)).collect()
    }

    /// Forgets a session that has ended.
    pub(super) fn ended(&self, session: &SessionHandle) {
        self.state().sessions.retain(|other| !other.is_of_session(session));
    }

    /// Gives up: nothing keeps it up any more, since its retries are used up, it was refused, or there was no thread.
    pub(super) fn give_up(&self, failure: RunError) {
        self.state().failure = Some(failure);
    }

    /// The reason why it has given up. The caller keeps it up again, or ends the agent.
    pub(super) fn take_failure(&self) -> Option<RunError> {
        self.state().failure.take()
    }
}
