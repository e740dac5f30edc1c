//! One of the sessions that an agent keeps up: to one gateway, one after the other.
//!
//! ```text
//!  dial ──▶ session ──▶ lost ──▶ backoff ──▶ dial …
//!              │
//!              └─ the gateway is about to stop: a successor, on a thread of its own, takes the slot over;
//!                 the old session finishes its streams once the successor is open, and its thread ends
//! ```

use std::cell::{Cell, RefCell};
use std::sync::Mutex;
use std::thread::{self, Scope};
use std::time::{Duration, Instant};

use log::{info, warn};

use super::control::after;
use super::{Agent, RunError};
use crate::backoff::{self, Backoff};
use crate::link::{DialError, Dialer, Link};
use crate::pool::Intake;
use crate::session::job::Job;
use crate::session::outbox::Outbox;
use crate::session::{self, Supervisor};

/// A session that ends sooner than this, before it served anything, was probably refused.
const REFUSED_WITHIN: Duration = Duration::from_secs(2);

/// What a gateway is told when the agent has gone elsewhere.
const MOVED: &str = "the agent has opened another session";

/// What all slots of an agent share.
pub(super) struct Slots<'a> {
    pub(super) agent: &'a Agent,
    pub(super) intake: Intake<Job>,
    /// How many there are.
    pub(super) count: usize,
    /// Why those ended that have given up.
    failures: Mutex<Vec<RunError>>,
}

/// One of them.
#[derive(Clone, Copy)]
struct Slot<'a> {
    slots: &'a Slots<'a>,
    dialer: &'a Dialer,
    number: u32,
}

impl<'a> Slots<'a> {
    pub(super) fn new(agent: &'a Agent, intake: Intake<Job>) -> Self {
        let count = agent.dialers.len() * agent.connections;
        Slots { agent, intake, count, failures: Mutex::default() }
    }

    /// Keeps all sessions up until the agent stops, or all have given up. One of them lives on this thread.
    pub(super) fn run(self) -> Result<(), RunError> {
        let agent = self.agent;
        let slot = |number: usize| {
            // There are a few hundred at most.
            let dialer = &agent.dialers[number / agent.connections];
            Slot { slots: &self, dialer, number: u32::try_from(number).unwrap_or(u32::MAX) }
        };
        thread::scope(|scope| {
            for number in 1..self.count {
                slot(number).spawn(scope, Start::first(agent)).map_err(|error| {
                    // The others end.
                    agent.control.shutdown(Duration::ZERO);
                    RunError::Threads(error)
                })?;
            }
            slot(0).keep_up(scope, Start::first(agent));
            Ok(())
        })?;
        let failures = self.failures.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
        if failures.len() < self.count || agent.control.is_stopping() {
            return Ok(());
        }
        // A gateway that says no is final only when none of the others might say yes another time.
        let is_refusal = |error: &RunError| matches!(error, RunError::Refused(_));
        let worst = failures.into_iter().min_by_key(is_refusal);
        worst.map_or(Ok(()), Err)
    }
}

/// How a slot's thread begins.
struct Start {
    backoff: Backoff,
    /// Before the first dial.
    delay: Duration,
    /// The session that finishes once there is another one.
    predecessor: Option<Outbox>,
}

impl Start {
    fn first(agent: &Agent) -> Self {
        Start { backoff: Backoff::new(agent.backoff), delay: Duration::ZERO, predecessor: None }
    }
}

impl<'scope, 'a: 'scope> Slot<'a> {
    /// Starts a thread that keeps the session up.
    fn spawn(self, scope: &'scope Scope<'scope, '_>, start: Start) -> std::io::Result<()> {
        let thread = thread::Builder::new().name("session".to_owned());
        thread.spawn_scoped(scope, move || self.keep_up(scope, start)).map(drop)
    }

    fn keep_up(self, scope: &'scope Scope<'scope, '_>, start: Start) {
        if let Err(error) = self.supervise(scope, start) {
            let mut failures = self.slots.failures.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            failures.push(error);
            let left = self.slots.count.saturating_sub(failures.len());
            if left > 0
                && let Some(error) = failures.last()
            {
                warn!("{}: {error}; sessions that go on: {left}", self.dialer.url());
            }
        }
    }

    fn supervise(self, scope: &'scope Scope<'scope, '_>, start: Start) -> Result<(), RunError> {
        let agent = self.slots.agent;
        let Start { mut backoff, delay, mut predecessor } = start;
        if !delay.is_zero() {
            agent.control.wait(delay);
        }
        while !agent.control.is_stopping() {
            let (lived, what) = match self.dialer.dial() {
                Ok(link) => match self.serve(link, scope, &mut predecessor, &backoff) {
                    Some(end) => end,
                    // The slot is the successor's.
                    None => return Ok(()),
                },
                Err(error) => {
                    agent.counters.dial_failed(&error);
                    if let (true, DialError::Status(status)) = (error.is_final(), &error) {
                        return Err(RunError::Refused(*status));
                    }
                    let what = format!("cannot reach gateway {}: {error}", self.dialer.url());
                    (Duration::ZERO, format!("{what}; {}", error.hint()))
                }
            };
            if agent.control.is_stopping() {
                break;
            }
            agent.counters.retried();
            let Some(delay) = backoff.failed(lived, backoff::chance()) else {
                return Err(RunError::GaveUp(what));
            };
            let tries = match backoff.left() {
                None => String::new(),
                Some(0) => ", for the last time".to_owned(),
                Some(left) => format!("; tries left: {left}"),
            };
            warn!("{what}; trying again in {:.1} s{tries}", delay.as_secs_f64());
            if let Some(why) = agent.control.wait(delay) {
                info!("{why}: trying again at once");
            }
        }
        Ok(())
    }

    /// Serves one session. Returns how long it lived, and why it ended; nothing when a successor has taken the
    /// slot over.
    fn serve(
        self,
        link: Link,
        scope: &'scope Scope<'scope, '_>,
        predecessor: &mut Option<Outbox>,
        backoff: &Backoff,
    ) -> Option<(Duration, String)> {
        let agent = self.slots.agent;
        let (start, url) = (Instant::now(), self.dialer.url());
        info!("connected to {url}");
        agent.counters.session_began(start, link.heard.clone());
        let answered = agent.counters.status().served;
        let sitting = Sitting {
            slot: self,
            scope,
            start,
            backoff: backoff.clone(),
            id: Cell::new(None),
            predecessor: RefCell::new(predecessor.take()),
            has_successor: Cell::new(false),
            has_had_enough: Cell::new(false),
        };
        let (config, intake) = (&agent.session, self.slots.intake.clone());
        let end = session::run(link, self.number, config, intake, &agent.counters, &sitting);
        sitting.id.get().inspect(|id| agent.control.detach(*id));
        agent.counters.session_ended(start);
        let lived = start.elapsed();
        if sitting.has_successor.get() {
            info!("the old session with {url} ended after {:.1} s: {end}", lived.as_secs_f64());
            return None;
        }
        *predecessor = sitting.predecessor.take();
        if sitting.has_had_enough.get() {
            return Some((Duration::ZERO, format!("gateway {url} takes its leave each time")));
        }
        let mut what = format!("session with {url} ended after {:.1} s: {end}", lived.as_secs_f64());
        // Not when it said why: that it goes away, say.
        if end.is_unexplained() && lived < REFUSED_WITHIN && answered == agent.counters.status().served {
            what.push_str(
                "; a gateway that does this at once does not know this tunnel ID: check --tunnel-id",
            );
        }
        Some((lived, what))
    }
}

/// A session while it is served.
struct Sitting<'scope, 'env, 'a> {
    slot: Slot<'a>,
    scope: &'scope Scope<'scope, 'env>,
    start: Instant,
    /// What went before.
    backoff: Backoff,
    /// What [`Control`](super::control::Control) knows it by.
    id: Cell<Option<u64>>,
    /// The session in whose place this one comes, until it may finish.
    predecessor: RefCell<Option<Outbox>>,
    has_successor: Cell<bool>,
    /// The gateway has taken its leave once too often.
    has_had_enough: Cell<bool>,
}

impl<'scope, 'a: 'scope> Supervisor for Sitting<'scope, '_, 'a> {
    fn began(&self, outbox: &Outbox) {
        self.id.set(Some(self.slot.slots.agent.control.attach(outbox.clone())));
    }

    fn opened(&self) {
        if let Some(predecessor) = self.predecessor.take() {
            predecessor.drain(after(self.slot.slots.agent.drain), MOVED);
        }
    }

    fn goes_away(&self, outbox: &Outbox, reason: &str) {
        let url = self.slot.dialer.url();
        if self.has_successor.get() || self.slot.slots.agent.control.is_stopping() {
            return;
        }
        // One that leaves at once, again and again, must meet the backoff, too.
        let mut backoff = self.backoff.clone();
        let Some(delay) = backoff.leaves(self.start.elapsed(), backoff::chance()) else {
            warn!("gateway {url} takes its leave again: {}", reason.escape_debug());
            self.has_had_enough.set(true);
            return outbox.drain(after(self.slot.slots.agent.drain), MOVED);
        };
        let when = if delay.is_zero() { String::new() } else { format!(" in {:.1} s", delay.as_secs_f64()) };
        info!("gateway {url} takes its leave: {}; opening another session{when}", reason.escape_debug());
        let start = Start { backoff, delay, predecessor: Some(outbox.clone()) };
        match self.slot.spawn(self.scope, start) {
            Ok(()) => self.has_successor.set(true),
            Err(error) => {
                warn!("no thread for another session: {error}");
                // This one's thread dials when it has ended.
                outbox.drain(after(self.slot.slots.agent.drain), MOVED);
            }
        }
    }
}
