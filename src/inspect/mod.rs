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
#[cfg(feature = "inspect")]
use std::time::SystemTime;

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

/// Exchanges that have changed.
#[cfg(feature = "inspect")]
pub(crate) struct Changes<T> {
    pub(crate) exchanges: Vec<T>,
    /// The version of the records up to which these are all.
    pub(crate) version: u64,
    /// The number of the oldest exchange that is kept.
    pub(crate) oldest: u64,
}

/// Records the exchanges of one agent as they pass. Clones are handles of the same records.
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

/// Records that are searched while the lock is held.
#[cfg(feature = "inspect")]
const LOOKED_AT_ONCE: usize = 4;

type FinishedHook = Arc<dyn Fn(&InspectedExchange) + Send + Sync>;

struct InspectorShared {
    config: InspectorConfig,
    /// When it was made: numbers begin anew with each.
    #[cfg(feature = "inspect")]
    began: SystemTime,
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
            #[cfg(feature = "inspect")]
            began: SystemTime::now(),
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

    /// Calls `hook` with each exchange that has ended and whose record is still kept. **It must not wait:** it runs on the thread
    /// that answered the request, or that reads from the gateway, for a request that was refused. A panic in it is caught.
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

    /// When it was made: one of a later agent has other exchanges with the same numbers.
    pub(crate) fn began(&self) -> SystemTime {
        self.0.began
    }

    /// Applies `summary` to the newest exchanges, at most `max`, the oldest first.
    pub(crate) fn newest<T>(&self, max: usize, summary: impl Fn(&InspectedExchange) -> T) -> Changes<T> {
        let state = self.state();
        let newest = state.ring.entries().rev().take(max).map(|entry| summary(entry.peek()));
        let mut exchanges: Vec<T> = newest.collect();
        exchanges.reverse();
        Changes { exchanges, version: state.ring.version(), oldest: state.ring.first_id() }
    }

    /// Applies `summary` to the exchanges that have changed behind this version. Of more than `max` those that changed first:
    /// the others have changed behind the version that is returned.
    pub(crate) fn changed_since<T>(
        &self,
        version: u64,
        max: usize,
        summary: impl Fn(&InspectedExchange) -> T,
    ) -> Changes<T> {
        let state = self.state();
        let (ring, mut until) = (&state.ring, state.ring.version());
        let mut versions: Vec<u64> =
            ring.entries().map(|entry| entry.version).filter(|at| *at > version).collect();
        if versions.len() > max {
            versions.sort_unstable();
            until = versions[max - 1];
        }
        let changed = ring.entries().filter(|entry| entry.version > version && entry.version <= until);
        let exchanges = changed.map(|entry| summary(entry.peek())).collect();
        Changes { exchanges, version: until, oldest: ring.first_id() }
    }

    /// Applies `view` to the exchange with this number, if it is kept.
    pub(crate) fn view<T>(&self, id: u64, view: impl FnOnce(&InspectedExchange) -> T) -> Option<T> {
        self.state().ring.get(id).map(|entry| view(entry.peek()))
    }

    /// Applies `summary` to the exchanges before this number, the newest first, and returns up to `max` of what it makes of
    /// them. A few at a time are looked at with the lock: it may take long, and requests do not wait for it.
    pub(crate) fn find_before<T>(
        &self,
        mut id: u64,
        max: usize,
        summary: impl Fn(&InspectedExchange) -> Option<T>,
    ) -> Vec<T> {
        let mut found = Vec::new();
        while found.len() < max {
            let state = self.state();
            let before = state.ring.entries_before(id).take(LOOKED_AT_ONCE);
            let mut lowest = None;
            for exchange in before.map(RecordEntry::peek) {
                lowest = Some(exchange.id);
                found.extend(summary(exchange));
            }
            let Some(lowest) = lowest else { break };
            id = lowest;
        }
        found.truncate(max);
        found
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

#[cfg(all(test, feature = "inspect"))]
mod tests {
    use std::borrow::Cow;

    use http::Method;

    use super::*;
    use crate::protocol::RequestName;

    fn visit(inspector: &Inspector, url: &str) -> Recording {
        inspector.record(&RecordedRequest {
            name: RequestName { connection: 1, number: 2 },
            tunnel: None,
            method: &Method::GET,
            url,
            headers: None,
            verdict: Cow::Borrowed(""),
            replay_of: None,
        })
    }

    #[test]
    fn a_reader_of_changes_misses_none_however_many_there_are() {
        let inspector = Inspector::new(InspectorConfig::default());
        let recordings: Vec<_> = (0..10).map(|number| visit(&inspector, &format!("/{number}"))).collect();
        let mut seen = inspector.newest(3, |exchange| exchange.id);
        assert_eq!((seen.exchanges.as_slice(), seen.oldest), (&[8, 9, 10][..], 1));
        for recording in [&recordings[7], &recordings[1], &recordings[4], &recordings[1]] {
            recording.finished(InspectedOutcome::Answered);
        }
        let mut read = Vec::new();
        for _ in 0..3 {
            seen = inspector.changed_since(seen.version, 2, |exchange| exchange.id);
            read.push(seen.exchanges);
        }
        // In the order of their last changes, but by number in one answer.
        assert_eq!(read, [vec![5, 8], vec![2], vec![]]);
    }

    #[test]
    fn a_search_goes_back_in_steps_and_finds_each_once() {
        let inspector = Inspector::new(InspectorConfig::default());
        (0..100).for_each(|number| drop(visit(&inspector, if number % 2 == 0 { "/even" } else { "/odd" })));
        let odd = |exchange: &InspectedExchange| (exchange.url == "/odd").then_some(exchange.id);
        let all = inspector.find_before(u64::MAX, 1000, odd);
        assert_eq!((all.len(), all[0], all[49]), (50, 100, 2));
        assert_eq!(inspector.find_before(10, 3, odd), [8, 6, 4]);
        assert!(inspector.find_before(1, 3, odd).is_empty());
    }
}
