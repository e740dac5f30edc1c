//! The visitors' connections, and how far each is: what the gateway must know to stop without a failed request.

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

use tunnel_agent::link::Closer;

/// All visitors' connections.
#[derive(Default)]
pub struct Clients {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    draining: bool,
    next_id: u64,
    list: HashMap<u64, (Closer, Stage)>,
}

/// How far a connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// It waits for another request.
    Idle,
    /// A request arrives, and has not been given to an agent.
    Arriving,
    /// A request is being answered.
    Served,
}

/// One connection, for as long as it is a visitor's.
pub struct Client {
    clients: Arc<Clients>,
    id: u64,
}

impl Clients {
    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while the lock is held.
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Takes note of a new connection. Its first request is on its way.
    pub fn enter(self: &Arc<Self>, closer: Closer) -> Client {
        let mut state = self.state();
        let id = state.next_id;
        state.next_id += 1;
        state.list.insert(id, (closer, Stage::Arriving));
        Client { clients: self.clone(), id }
    }

    /// Whether no more requests are taken.
    pub fn is_draining(&self) -> bool {
        self.state().draining
    }

    /// Takes no more requests, and ends the connections on which there is none.
    pub fn drain(&self) {
        let mut state = self.state();
        state.draining = true;
        let idle = state.list.values().filter(|(_, stage)| *stage == Stage::Idle);
        idle.for_each(|(closer, _)| closer.close());
    }

    /// Waits until no connection is in this stage, or the time is over.
    pub fn wait_for_none(&self, stage: Stage, limit: Duration) {
        let some = |state: &mut State| state.list.values().any(|(_, other)| *other == stage);
        // Whether they were in time changes nothing: the gateway stops.
        let _ = self.changed.wait_timeout_while(self.state(), limit, some);
    }
}

impl Client {
    /// Takes note of how far the connection is. False when it is to end instead: no more requests are taken.
    pub fn is_now(&self, stage: Stage) -> bool {
        let mut state = self.clients.state();
        let before = state.list.get_mut(&self.id).map(|entry| std::mem::replace(&mut entry.1, stage));
        let draining = state.draining;
        drop(state);
        if draining {
            self.clients.changed.notify_all();
        }
        !draining || stage == Stage::Served || before == Some(stage)
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let mut state = self.clients.state();
        state.list.remove(&self.id);
        let draining = state.draining;
        drop(state);
        if draining {
            self.clients.changed.notify_all();
        }
    }
}
