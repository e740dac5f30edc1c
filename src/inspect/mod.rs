//! The inspector: records of the exchanges that pass, in a ring with a budget.
//!
//! ```text
//! Exchange ── Recording ──▶ ring: the oldest records go first ──▶ admin server, `Inspector::exchanges`
//!                └── taps on both bodies ──▶ decoders: WebSocket messages, server-sent events
//! ```
//!
//! A recording never waits for a reader, and fails no request: where there is no room, the record is what is lost.

mod entry;
mod events;
#[cfg_attr(not(feature = "inspect"), allow(dead_code, reason = "the admin server shows it"))]
mod history;
mod mask;
mod record;
mod recording;
#[cfg(feature = "inspect")]
mod replay;
mod ring;
mod websocket;

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
#[cfg(feature = "inspect")]
use std::time::Duration;
use std::time::Instant;

use http::HeaderName;

use self::entry::RecordEntry;
use self::history::History;
#[cfg(feature = "inspect")]
pub(crate) use self::history::HistorySample;
use self::mask::Mask;
pub use self::record::{
    ExchangeTimings, InspectedBody, InspectedExchange, InspectedHeaders, InspectedMessage, InspectedOutcome,
    MessageDirection, MessageKind,
};
pub(crate) use self::recording::{RecordedRequest, Recording};
#[cfg(feature = "inspect")]
pub(crate) use self::replay::{NotReplayable, Replay};
use self::ring::Ring;
use crate::sync::lock;
#[cfg(feature = "inspect")]
use crate::sync::wait_timeout_while;

/// How much an [`Inspector`] keeps, and what it does not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InspectorConfig {
    /// The memory of all records, in bytes, from 1 MiB on; 16 MiB by default. The oldest records go first.
    pub memory: usize,
    /// The beginning of each body that is kept, in bytes, at most an eighth of the memory; 64 KiB by default. Of the messages
    /// of a WebSocket and of the events of a stream, the newest ones are kept within as many bytes.
    pub body: usize,
    /// Header fields whose values are not kept, beside `Authorization`, `Proxy-Authorization`, `Cookie` and `Set-Cookie`.
    /// None by default.
    pub hidden: Vec<HeaderName>,
}

impl InspectorConfig {
    /// The least memory for records, in bytes.
    pub(crate) const MEMORY_MIN: usize = 1 << 20;

    /// The most bytes of a body that may be kept, in this memory.
    pub(crate) fn body_max(&self) -> usize {
        self.memory / 8
    }
}

impl Default for InspectorConfig {
    fn default() -> Self {
        InspectorConfig { memory: 16 << 20, body: 64 << 10, hidden: Vec::new() }
    }
}

/// Records the exchanges of an agent as they pass. Clones are handles of the same records.
///
/// ```
/// use tunnel_agent::{Agent, Inspector, InspectorConfig};
///
/// let inspector = Inspector::new(InspectorConfig::default());
/// inspector.on_finished(|exchange| println!("{} {} {:?}", exchange.method, exchange.url, exchange.status));
/// let agent = Agent::builder("agent_550e8400-e29b-41d4-a716-446655440000_prod".parse()?)
///     .inspect(inspector.clone())
///     .build()?;
/// assert!(inspector.exchanges().is_empty());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Inspector(Arc<InspectorShared>);

type FinishedHook = Arc<dyn Fn(&InspectedExchange) + Send + Sync>;

struct InspectorShared {
    config: InspectorConfig,
    mask: Mask,
    state: Mutex<InspectorState>,
    changed: Condvar,
    hooks: Mutex<Vec<FinishedHook>>,
}

struct InspectorState {
    ring: Ring,
    history: History,
    /// Requests that were sent again.
    replays: u64,
    /// Threads that wait for a change: without one, a notification would be a system call for nothing.
    waiting: usize,
}

impl Inspector {
    /// An inspector without records. Limits out of their range are taken for the nearest in it.
    pub fn new(mut config: InspectorConfig) -> Self {
        config.memory = config.memory.max(InspectorConfig::MEMORY_MIN);
        config.body = config.body.min(config.body_max());
        let mask = Mask::new(&config.hidden);
        let (ring, history) = (Ring::new(config.memory), History::new(Instant::now()));
        let state = InspectorState { ring, history, replays: 0, waiting: 0 };
        Inspector(Arc::new(InspectorShared {
            config,
            mask,
            state: Mutex::new(state),
            changed: Condvar::new(),
            hooks: Mutex::default(),
        }))
    }

    /// The limits that it was made with.
    pub fn config(&self) -> &InspectorConfig {
        &self.0.config
    }

    /// Copies of the exchanges that are kept, the oldest first.
    pub fn exchanges(&self) -> Vec<InspectedExchange> {
        self.state().ring.entries().map(RecordEntry::exchange).collect()
    }

    /// A copy of the exchange with this number, if it is kept.
    pub fn exchange(&self, id: u64) -> Option<InspectedExchange> {
        self.state().ring.get(id).map(RecordEntry::exchange)
    }

    /// Forgets all records.
    pub fn clear(&self) {
        self.change(|state| state.ring.clear());
    }

    /// Calls `hook` with each exchange that has ended, on the thread that answered it: it should not take long. A panic in it
    /// is caught.
    pub fn on_finished(&self, hook: impl Fn(&InspectedExchange) + Send + Sync + 'static) {
        lock(&self.0.hooks).push(Arc::new(hook));
    }

    fn state(&self) -> MutexGuard<'_, InspectorState> {
        lock(&self.0.state)
    }

    /// Changes the records, and wakes those that wait for a change.
    fn change<T>(&self, change: impl FnOnce(&mut InspectorState) -> T) -> T {
        let mut state = self.state();
        let result = change(&mut state);
        let is_awaited = state.waiting > 0;
        drop(state);
        if is_awaited {
            self.0.changed.notify_all();
        }
        result
    }

    /// Calls the hooks for an exchange that has ended.
    fn finished(&self, exchange: impl FnOnce() -> Option<InspectedExchange>) {
        let hooks = lock(&self.0.hooks).clone();
        if hooks.is_empty() {
            return;
        }
        let Some(exchange) = exchange() else { return };
        for hook in hooks {
            // The panic hook has reported it.
            let _ = catch_unwind(AssertUnwindSafe(|| hook(&exchange)));
        }
    }
}

#[cfg(feature = "inspect")]
impl Inspector {
    /// Waits until there is a change behind this version, at most `timeout`. Returns the current version.
    pub(crate) fn wait_changed(&self, version: u64, timeout: Duration) -> u64 {
        let mut state = self.state();
        state.waiting += 1;
        let is_same = |state: &mut InspectorState| state.ring.version() <= version;
        state = wait_timeout_while(&self.0.changed, state, timeout, is_same);
        state.waiting -= 1;
        state.ring.version()
    }

    /// Applies `summary` to the exchanges that have changed behind this version, at most `max` of them and the newest
    /// ones, the oldest first; with the current version, and the number of the oldest exchange that is kept.
    pub(crate) fn changed_since<T>(
        &self,
        version: u64,
        max: usize,
        summary: impl Fn(&InspectedExchange) -> T,
    ) -> (Vec<T>, u64, u64) {
        let state = self.state();
        let changed = state.ring.entries().rev().filter(|entry| entry.version > version).take(max);
        let mut summaries: Vec<T> = changed.map(|entry| summary(entry.peek())).collect();
        summaries.reverse();
        (summaries, state.ring.version(), state.ring.first_id())
    }

    /// Applies `view` to the exchange with this number, if it is kept.
    pub(crate) fn view<T>(&self, id: u64, view: impl FnOnce(&InspectedExchange) -> T) -> Option<T> {
        self.state().ring.get(id).map(|entry| view(entry.peek()))
    }

    /// Applies `summary` to at most `max` exchanges before this number, the newest first.
    pub(crate) fn before<T>(&self, id: u64, max: usize, summary: impl Fn(&InspectedExchange) -> T) -> Vec<T> {
        let state = self.state();
        let before = state.ring.entries().rev().map(RecordEntry::peek).filter(|exchange| exchange.id < id);
        before.take(max).map(summary).collect()
    }

    /// Bytes that the records take up, and how many records went to make room.
    pub(crate) fn usage(&self) -> (usize, u64) {
        let state = self.state();
        (state.ring.used(), state.ring.evicted())
    }

    /// Requests that were sent again.
    pub(crate) fn replays(&self) -> u64 {
        self.state().replays
    }

    /// Requests, failures, bytes and latencies of the last 15 minutes.
    pub(crate) fn history(&self) -> Vec<HistorySample> {
        self.state().history.samples(Instant::now())
    }
}

impl fmt::Debug for Inspector {
    /// The number of records alone: they may hold secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Inspector({} exchanges)", self.state().ring.entries().count())
    }
}

impl PartialEq for Inspector {
    /// Whether both are handles of the same records.
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Inspector {}
