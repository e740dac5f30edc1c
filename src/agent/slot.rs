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

/// A session that a tunnel keeps up.
pub(super) struct Slot {
    /// The URL of its gateway, and its number among the slots with this gateway.
    pub(super) key: (String, usize),
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// It is not wanted any more.
    is_retired: bool,
    /// The session that runs, the newest of several.
    session: Option<SessionHandle>,
    failure: Option<RunError>,
    has_given_up: bool,
}

impl Slot {
    pub(super) fn new(key: (String, usize)) -> Self {
        Slot { key, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// The session that runs.
    pub(super) fn session(&self) -> Option<SessionHandle> {
        self.state().session.clone()
    }

    /// Opens no further session. Returns the one that runs.
    pub(super) fn retire(&self) -> Option<SessionHandle> {
        let mut state = self.state();
        state.is_retired = true;
        state.session.clone()
    }

    pub(super) fn is_retired(&self) -> bool {
        self.state().is_retired
    }

    /// Takes a session for the newest. Returns whether it is wanted.
    pub(super) fn began(&self, session: SessionHandle) -> SlotDemand {
        let mut state = self.state();
        state.session = Some(session);
        if state.is_retired { SlotDemand::NoMore } else { SlotDemand::Still }
    }

    /// Forgets a session that has ended.
    pub(super) fn ended(&self, session: &SessionHandle) {
        self.state().session.take_if(|newest| newest.is_of_session(session));
    }

    /// Begins anew.
    pub(super) fn begin(&self) {
        let mut state = self.state();
        (state.has_given_up, state.failure) = (false, None);
    }

    /// Gives up.
    pub(super) fn give_up(&self, failure: RunError) {
        let mut state = self.state();
        (state.has_given_up, state.failure) = (true, Some(failure));
    }

    /// Whether its retries are used up, or it was refused.
    pub(super) fn has_given_up(&self) -> bool {
        self.state().has_given_up
    }

    /// Why it has given up.
    pub(super) fn take_failure(&self) -> Option<RunError> {
        self.state().failure.take()
    }
}
