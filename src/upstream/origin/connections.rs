//! The connections to the local server: those that wait for a request, and those that are busy.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use super::client::Connection;
use crate::net::Closer;
use crate::sync::lock;

/// Idle connections at most; one more takes the place of the one that has been idle for longest.
const IDLE_COUNT_MAX: usize = 64;

/// An idle connection that a quieter time does not need is closed after this time, as soon as there is another
/// request, or [`close_idle`](Connections::close_idle).
const IDLE_MAX: Duration = Duration::from_secs(60);

/// All connections. Clones share them.
#[derive(Debug, Clone, Default)]
pub(super) struct Connections(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    /// The last was used last, and is used next.
    idle: VecDeque<(Connection, Instant)>,
    busy: BTreeMap<u64, Closer>,
    next_id: u64,
    stopped: bool,
}

impl Connections {
    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.0)
    }

    /// A connection that can carry another request, if there is one.
    pub(super) fn take(&self) -> Option<Connection> {
        loop {
            let (mut connection, since) = self.state().idle.pop_back()?;
            // One that the server is about to close is not used: it could not be told whether it got the request.
            let is_kept = connection.keeps_for.is_none_or(|time| since.elapsed() < time);
            if is_kept && connection.check_quiet() && self.begin(connection.id, &connection.closer) {
                return Some(connection);
            }
        }
    }

    /// The number of a new connection.
    pub(super) fn next_id(&self) -> u64 {
        let mut state = self.state();
        state.next_id += 1;
        state.next_id
    }

    /// Records a busy connection. False when all are stopped.
    pub(super) fn begin(&self, id: u64, closer: &Closer) -> bool {
        let mut state = self.state();
        if !state.stopped {
            state.busy.insert(id, closer.clone());
        }
        !state.stopped
    }

    /// The connection is done with, and gone.
    pub(super) fn end(&self, id: u64) {
        self.state().busy.remove(&id);
    }

    /// The connection can carry another request.
    pub(super) fn put(&self, connection: Connection) {
        let mut state = self.state();
        state.busy.remove(&connection.id);
        let now = Instant::now();
        // One at a time is enough: each request puts one back.
        let is_full = state.idle.len() >= IDLE_COUNT_MAX;
        let is_unneeded = state.idle.front().is_some_and(|(_, since)| is_full || now - *since > IDLE_MAX);
        let unneeded = if is_unneeded { state.idle.pop_front() } else { None };
        if !state.stopped {
            state.idle.push_back((connection, now));
        }
        drop(state);
        // Closed without the lock.
        drop(unneeded);
    }

    /// Closes those that have been idle for too long by now.
    pub(super) fn close_idle(&self, now: Instant) {
        let mut state = self.state();
        let is_needed = |(connection, since): &(Connection, Instant)| {
            let most = connection.keeps_for.unwrap_or(IDLE_MAX).min(IDLE_MAX);
            now.saturating_duration_since(*since) <= most
        };
        let (needed, unneeded): (VecDeque<_>, VecDeque<_>) =
            std::mem::take(&mut state.idle).into_iter().partition(is_needed);
        state.idle = needed;
        drop(state);
        // Closed without the lock.
        drop(unneeded);
    }

    /// Whether none is busy.
    pub(super) fn are_idle(&self) -> bool {
        self.state().busy.is_empty()
    }

    /// Whether [`stop`](Self::stop) was called.
    pub(super) fn are_stopped(&self) -> bool {
        self.state().stopped
    }

    /// Ends all requests that run, and all that come.
    pub(super) fn stop(&self) {
        let mut state = self.state();
        state.stopped = true;
        std::mem::take(&mut state.busy).into_values().for_each(|closer| closer.close());
        let idle = std::mem::take(&mut state.idle);
        drop(state);
        drop(idle);
    }
}
