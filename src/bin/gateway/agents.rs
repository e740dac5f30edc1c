//! The agents that are connected, and which of them a request goes to.

use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

use tunnel_agent::TunnelId;
use tunnel_agent::link::Outgoing;

use super::agent::Agent;

/// The close code for a session that a newer one has replaced.
const REPLACED: u16 = 4000;

const STOPPING: &str = "the gateway is stopping";

/// All agents.
pub struct Agents {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    list: Vec<Arc<Agent>>,
    /// Whose turn it is.
    next: usize,
    /// The gateway is about to stop.
    leaving: bool,
}

impl Agents {
    pub fn new() -> Self {
        Agents {
            state: Mutex::new(State { list: Vec::new(), next: 0, leaving: false }),
            changed: Condvar::new(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while the lock is held.
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Lets an agent take requests, in the place of an older session that it succeeds. False when the gateway
    /// is stopping.
    pub fn add(&self, agent: &Arc<Agent>) -> bool {
        let mut state = self.state();
        if state.leaving {
            return false;
        }
        let replaced =
            state.list.iter().position(|other| !other.is_leaving() && other.is_succeeded_by(agent));
        let replaced = replaced.map(|index| state.list.remove(index));
        state.list.push(agent.clone());
        drop(state);
        if let Some(replaced) = replaced {
            replaced.control(Outgoing::Close(REPLACED, "replaced by a newer connection of the same agent"));
            replaced.end();
        }
        true
    }

    pub fn remove(&self, agent: &Arc<Agent>) {
        self.state().list.retain(|other| !Arc::ptr_eq(other, agent));
        self.changed.notify_all();
    }

    pub fn count(&self) -> usize {
        self.state().list.len()
    }

    pub fn list(&self) -> Vec<Arc<Agent>> {
        self.state().list.clone()
    }

    /// The agent of this tunnel, or of any, that has the least to do; among equals they take turns. Not one
    /// of those that were `tried`.
    pub fn choose(&self, tunnel_id: Option<&TunnelId>, tried: &[Arc<Agent>]) -> Option<Arc<Agent>> {
        let mut state = self.state();
        let count = state.list.len();
        let fits = |agent: &Arc<Agent>| {
            !agent.is_leaving()
                && tunnel_id.is_none_or(|id| *id == agent.handshake.tunnel_id)
                && !tried.iter().any(|other| Arc::ptr_eq(other, agent))
        };
        let in_turn = (0..count).map(|step| (state.next + step) % count);
        let index = in_turn
            .filter(|&index| fits(&state.list[index]))
            .min_by_key(|&index| state.list[index].in_flight())?;
        state.next = index + 1;
        Some(state.list[index].clone())
    }

    /// Tells all agents that they get no more requests here, and may look for another gateway.
    pub fn go_away(&self) {
        let mut state = self.state();
        state.leaving = true;
        for agent in &state.list {
            agent.leaves();
            if let Some(mux) = agent.mux() {
                mux.go_away(0, STOPPING);
            }
        }
    }

    /// Says goodbye to all agents, and waits for them to leave.
    pub fn close_all(&self, wait: Duration) {
        let state = self.state();
        for agent in &state.list {
            agent.control(Outgoing::Close(1001, STOPPING));
        }
        // Whether they left in time changes nothing: the process ends.
        let _ = self.changed.wait_timeout_while(state, wait, |state| !state.list.is_empty());
    }
}
