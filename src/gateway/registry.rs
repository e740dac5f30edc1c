//! The agents that are connected, and which of them a request goes to.

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use super::PLACES;
use super::agent_session::AgentSession;
use crate::link::{Outbound, close};
use crate::sync::{lock, wait_timeout_while};
use crate::tunnel_id::TunnelId;

const STOPPING: &str = "the gateway is stopping";

/// For so long after its last session a tunnel is remembered: whose it was is not another's.
const REMEMBERED: Duration = Duration::from_secs(600);

/// Tunnels that are remembered; with more than one it matters little which.
const REMEMBERED_MAX: usize = 1024;

/// Requests that wait for an agent at once: some places remain for other visitors.
const WAITING_MAX: usize = PLACES * 3 / 4;

/// All agents.
pub(super) struct Registry {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// The tunnels with a session.
    tunnels: HashMap<TunnelId, TunnelSessions>,
    /// The number of all sessions.
    count: usize,
    /// The gateway is about to stop.
    leaving: bool,
    /// Tunnels without a session, and when the last one ended.
    gone: HashMap<TunnelId, Instant>,
    /// Requests that wait for an agent.
    waiting: usize,
    /// How often an agent has come or gone.
    changes: u64,
}

/// The sessions of one tunnel.
#[derive(Default)]
struct TunnelSessions {
    list: Vec<Arc<AgentSession>>,
    /// Whose turn it is.
    next: usize,
}

/// Why an agent may not take requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unwelcome {
    /// The gateway is stopping.
    Stopping,
    /// There are as many as may be.
    Full,
}

/// The tunnels that there are for a request that names none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Tunnels {
    None,
    One(TunnelId),
    Several,
}

impl TunnelSessions {
    /// Whether one takes requests.
    fn have_any(&self) -> bool {
        self.list.iter().any(|agent| !agent.is_leaving())
    }

    /// The index of the session that has the least to do, of those whose last answers were good if there is one; among
    /// equals they take turns. Not one of those that were `tried`, nor after them one without streams.
    fn find(&self, tried: &[Arc<AgentSession>]) -> Option<usize> {
        let count = self.list.len();
        let fits = |agent: &Arc<AgentSession>| {
            !agent.is_leaving()
                && (tried.is_empty() || agent.mux().is_some())
                && !tried.iter().any(|other| Arc::ptr_eq(other, agent))
        };
        let in_turn =
            (0..count).map(|step| (self.next + step) % count).filter(|&index| fits(&self.list[index]));
        in_turn.min_by_key(|&index| (self.list[index].is_failing(), self.list[index].in_flight()))
    }
}

impl State {
    /// Whether there is an agent of this tunnel that takes requests, or of any.
    fn has_any(&self, tunnel_id: Option<&TunnelId>) -> bool {
        match tunnel_id {
            Some(id) => self.tunnels.get(id).is_some_and(TunnelSessions::have_any),
            None => self.tunnels.values().any(TunnelSessions::have_any),
        }
    }

    /// All sessions, the oldest first.
    fn list(&self) -> Vec<Arc<AgentSession>> {
        let mut list: Vec<_> =
            self.tunnels.values().flat_map(|sessions| sessions.list.iter().cloned()).collect();
        list.sort_by_key(|agent| agent.since);
        list
    }

    /// Forgets a session. False when there is none such.
    fn remove(&mut self, agent: &Arc<AgentSession>) -> bool {
        let id = &agent.handshake.tunnel_id;
        let Some(sessions) = self.tunnels.get_mut(id) else { return false };
        let Some(index) = sessions.list.iter().position(|other| Arc::ptr_eq(other, agent)) else {
            return false;
        };
        sessions.list.remove(index);
        if sessions.list.is_empty() {
            self.tunnels.remove(id);
        }
        self.count -= 1;
        true
    }
}

impl Registry {
    pub(super) fn new() -> Self {
        Registry { state: Mutex::default(), changed: Condvar::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Lets an agent take requests, in the place of an older session that it succeeds.
    pub(super) fn add(&self, agent: &Arc<AgentSession>) -> Result<(), Unwelcome> {
        let mut state = self.state();
        if state.leaving {
            return Err(Unwelcome::Stopping);
        }
        let id = &agent.handshake.tunnel_id;
        let sessions = state.tunnels.get(id).map_or(&[][..], |sessions| &sessions.list);
        let is_replaced = |other: &&Arc<AgentSession>| !other.is_leaving() && other.is_succeeded_by(agent);
        let replaced = sessions.iter().find(is_replaced).cloned();
        if let Some(replaced) = &replaced {
            state.remove(replaced);
        }
        if state.count >= PLACES {
            return Err(Unwelcome::Full);
        }
        state.gone.remove(id);
        state.tunnels.entry(id.clone()).or_default().list.push(agent.clone());
        state.count += 1;
        state.changes += 1;
        drop(state);
        self.changed.notify_all();
        if let Some(replaced) = replaced {
            replaced.control(Outbound::Close(
                close::REPLACED,
                "replaced by a newer connection of the same agent",
            ));
            replaced.end();
        }
        Ok(())
    }

    pub(super) fn remove(&self, agent: &Arc<AgentSession>) {
        let mut state = self.state();
        let id = &agent.handshake.tunnel_id;
        state.remove(agent);
        state.changes += 1;
        if !state.tunnels.contains_key(id) {
            state.gone.retain(|_, since| since.elapsed() < REMEMBERED);
            if state.gone.len() < REMEMBERED_MAX {
                state.gone.insert(id.clone(), Instant::now());
            }
        }
        drop(state);
        self.changed.notify_all();
    }

    pub(super) fn count(&self) -> usize {
        self.state().count
    }

    /// Whether there is an agent that takes requests.
    pub(super) fn has_any(&self) -> bool {
        self.state().has_any(None)
    }

    pub(super) fn list(&self) -> Vec<Arc<AgentSession>> {
        self.state().list()
    }

    /// The number of tunnels that have a session.
    pub(super) fn tunnel_count(&self) -> usize {
        self.state().tunnels.len()
    }

    /// The tunnels that are connected, or were a short time ago.
    pub(super) fn tunnels(&self) -> Tunnels {
        let state = self.state();
        let connected = state.tunnels.keys();
        let gone = state.gone.iter().filter(|(_, since)| since.elapsed() < REMEMBERED).map(|(id, _)| id);
        let mut all = connected.chain(gone);
        let Some(first) = all.next() else { return Tunnels::None };
        if all.all(|other| other == first) { Tunnels::One(first.clone()) } else { Tunnels::Several }
    }

    /// The agent of this tunnel that is to be asked next. Not one of those that were `tried`, nor after them one that does
    /// not speak mux/2.
    pub(super) fn choose(
        &self,
        tunnel_id: &TunnelId,
        tried: &[Arc<AgentSession>],
    ) -> Option<Arc<AgentSession>> {
        let mut state = self.state();
        let sessions = state.tunnels.get_mut(tunnel_id)?;
        let index = sessions.find(tried)?;
        sessions.next = index + 1;
        Some(sessions.list[index].clone())
    }

    /// Waits until there is an agent of this tunnel, or of any, no longer than until this time. False when there is none
    /// then, or too many others wait.
    pub(super) fn wait_for(&self, tunnel_id: Option<&TunnelId>, until: Instant) -> bool {
        let mut state = self.state();
        let limit = until.saturating_duration_since(Instant::now());
        if state.waiting >= WAITING_MAX || limit.is_zero() {
            return false;
        }
        state.waiting += 1;
        let is_missing = |state: &State| !state.has_any(tunnel_id);
        let is_awaited = |state: &mut State| !state.leaving && is_missing(state);
        let mut state = wait_timeout_while(&self.changed, state, limit, is_awaited);
        state.waiting -= 1;
        !is_missing(&state)
    }

    /// How often an agent has come or gone.
    pub(super) fn changes(&self) -> u64 {
        self.state().changes
    }

    /// Waits until an agent has come or gone since there were so many changes, no longer than until this time. False when
    /// none has, or too many others wait.
    pub(super) fn wait_for_change(&self, before: u64, until: Instant) -> bool {
        let mut state = self.state();
        let limit = until.saturating_duration_since(Instant::now());
        if state.waiting >= WAITING_MAX || limit.is_zero() {
            return false;
        }
        state.waiting += 1;
        let is_same = |state: &mut State| !state.leaving && state.changes == before;
        let mut state = wait_timeout_while(&self.changed, state, limit, is_same);
        state.waiting -= 1;
        state.changes != before
    }

    /// Whether agents are taken.
    pub(super) fn accepts_agents(&self) -> bool {
        !self.state().leaving
    }

    /// Takes no more agents: they are to look for another gateway.
    pub(super) fn refuse_more(&self) {
        self.state().leaving = true;
        self.changed.notify_all();
    }

    /// Tells all agents that they get no more requests here, and may look for another gateway.
    pub(super) fn go_away(&self) {
        for agent in self.list() {
            agent.retire();
            if let Some(mux) = agent.mux() {
                mux.go_away(0, STOPPING);
            }
        }
    }

    /// Closes the sessions of all agents, and waits for them to leave.
    pub(super) fn close_all(&self, wait: Duration) {
        for agent in self.list() {
            agent.control(Outbound::Close(close::GOING_AWAY, STOPPING));
        }
        // Whether they disconnected in time changes nothing: the gateway ends.
        drop(wait_timeout_while(&self.changed, self.state(), wait, |state| state.count > 0));
    }

    /// Breaks off the sessions of all agents.
    pub(super) fn abort_all(&self) {
        self.list().iter().for_each(|agent| agent.close());
    }
}
