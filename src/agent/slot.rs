//! One of the sessions that an agent keeps up: with one gateway, one after the other.
//!
//! ```text
//!  dial ──▶ session ──▶ lost ──▶ backoff ──▶ dial …
//!              │
//!              └─ GOAWAY: a successor, on a thread of its own, takes over the slot; the old session finishes its
//!                 streams once the successor is open, and its thread ends
//! ```

use std::sync::Mutex;
use std::thread::{self, Scope};
use std::time::{Duration, Instant};

use log::{info, warn};

use super::{Agent, RunError};
use crate::advice::Advice;
use crate::backoff::{self, Backoff};
use crate::clock::after;
use crate::link::{DialError, Dialer, Link};
use crate::protocol::{TunnelUrl, Wanted};
use crate::session::{Session, SessionHandle, Supervisor, WorkQueue};
use crate::sync::{into_inner, lock};

/// A session that ends sooner than this, before it served anything, was probably refused.
const REFUSED_WITHIN: Duration = Duration::from_secs(2);

/// The reason with which a session is closed that has a successor.
const MOVED: &str = "the agent has opened another session";

/// What all slots of an agent share.
pub(super) struct Slots<'a> {
    agent: &'a Agent,
    queue: WorkQueue,
    count: usize,
    /// Why slots have given up.
    failures: Mutex<Vec<RunError>>,
}

/// One of the slots.
#[derive(Clone, Copy)]
struct Slot<'a> {
    slots: &'a Slots<'a>,
    dialer: &'a Dialer,
    number: u32,
}

impl<'a> Slots<'a> {
    pub(super) fn new(agent: &'a Agent, queue: WorkQueue) -> Self {
        let count = agent.dialers.len() * agent.sessions_per_gateway;
        Slots { agent, queue, count, failures: Mutex::default() }
    }

    /// Keeps all sessions up until the agent stops, or all slots have given up. One slot lives on this thread.
    pub(super) fn run(self) -> Result<(), RunError> {
        let agent = self.agent;
        let slot = |number: usize| {
            // There are a few hundred at most.
            let dialer = &agent.dialers[number / agent.sessions_per_gateway];
            Slot { slots: &self, dialer, number: u32::try_from(number).unwrap_or(u32::MAX) }
        };
        thread::scope(|scope| {
            for number in 1..self.count {
                slot(number).spawn(scope, SlotStart::first(agent)).map_err(|error| {
                    // The others end.
                    agent.control.shutdown(Duration::ZERO);
                    RunError::Threads(error)
                })?;
            }
            slot(0).keep_up(scope, SlotStart::first(agent));
            Ok(())
        })?;
        let failures = into_inner(self.failures);
        if failures.len() < self.count || agent.control.is_stopping() {
            return Ok(());
        }
        // A refusal is final only when no other gateway might accept another time.
        let is_refusal = |error: &RunError| matches!(error, RunError::Refused(_));
        let worst = failures.into_iter().min_by_key(is_refusal);
        worst.map_or(Ok(()), Err)
    }
}

/// How a slot's thread begins.
struct SlotStart {
    backoff: Backoff,
    /// The time before the first dial.
    delay: Duration,
    /// The session that finishes once there is another one.
    predecessor: Option<SessionHandle>,
}

impl SlotStart {
    fn first(agent: &Agent) -> Self {
        SlotStart { backoff: Backoff::new(agent.backoff), delay: Duration::ZERO, predecessor: None }
    }
}

/// Why a dial or a session ended.
struct Setback {
    /// How long the session lived; nothing for a failed dial.
    lived: Duration,
    text: String,
    advice: Option<Advice>,
}

impl<'scope, 'a: 'scope> Slot<'a> {
    /// Starts a thread that keeps the session up.
    fn spawn(self, scope: &'scope Scope<'scope, '_>, start: SlotStart) -> std::io::Result<()> {
        let thread = thread::Builder::new().name("session".to_owned());
        thread.spawn_scoped(scope, move || self.keep_up(scope, start)).map(drop)
    }

    fn keep_up(self, scope: &'scope Scope<'scope, '_>, start: SlotStart) {
        if let Err(error) = self.supervise(scope, start) {
            let mut failures = lock(&self.slots.failures);
            failures.push(error);
            let remaining = self.slots.count.saturating_sub(failures.len());
            if remaining > 0
                && let Some(error) = failures.last()
            {
                let advice = error.advice().map_or("", Advice::name);
                warn!(advice; "{}: {error}; sessions that go on: {remaining}", self.dialer.url());
            }
        }
    }

    fn supervise(self, scope: &'scope Scope<'scope, '_>, start: SlotStart) -> Result<(), RunError> {
        let agent = self.slots.agent;
        let SlotStart { mut backoff, delay, mut predecessor } = start;
        if !delay.is_zero() {
            agent.control.wait(delay);
        }
        while !agent.control.is_stopping() {
            let setback = match self.dialer.dial() {
                Ok(link) => match self.serve(link, scope, &mut predecessor, &backoff) {
                    Some(setback) => setback,
                    // The slot is the successor's.
                    None => return Ok(()),
                },
                Err(error) => self.dial_failed(&error)?,
            };
            if agent.control.is_stopping() {
                break;
            }
            self.wait(&mut backoff, setback)?;
        }
        Ok(())
    }

    fn dial_failed(self, error: &DialError) -> Result<Setback, RunError> {
        self.slots.agent.metrics.dial_failed(error.kind());
        if let DialError::Upgrade(error) = error
            && let Some(status) = error.refusal()
        {
            return Err(RunError::Refused(status));
        }
        let text = format!("cannot reach gateway {}: {error}", self.dialer.url());
        Ok(Setback { lived: Duration::ZERO, text, advice: Some(error.advice()) })
    }

    /// Waits out the backoff, or gives up.
    fn wait(self, backoff: &mut Backoff, setback: Setback) -> Result<(), RunError> {
        let agent = self.slots.agent;
        let Setback { lived, text, advice } = setback;
        agent.metrics.retried();
        let advice = advice.map_or("", Advice::name);
        let Some(delay) = backoff.failed(lived, backoff::chance()) else {
            warn!(advice; "{text}; no tries left");
            return Err(RunError::GaveUp(text));
        };
        let tries = match backoff.remaining() {
            None => String::new(),
            Some(0) => ", for the last time".to_owned(),
            Some(remaining) => format!("; tries left: {remaining}"),
        };
        warn!(advice; "{text}; trying again in {:.1} s{tries}", delay.as_secs_f64());
        if let Some(why) = agent.control.wait(delay) {
            info!("{why}: trying again at once");
        }
        Ok(())
    }

    /// Serves one session. Returns how it ended; `None` when a successor has the slot.
    fn serve(
        self,
        link: Link,
        scope: &'scope Scope<'scope, '_>,
        predecessor: &mut Option<SessionHandle>,
        backoff: &Backoff,
    ) -> Option<Setback> {
        let agent = self.slots.agent;
        let (start, url) = (Instant::now(), self.dialer.url());
        info!("connected to {url}");
        agent.metrics.session_began(start, link.heard.clone());
        let answered = agent.metrics.status().served;
        let mut active = ActiveSession {
            slot: self,
            scope,
            start,
            backoff: backoff.clone(),
            session: None,
            predecessor: predecessor.take(),
            future: Future::Open,
        };
        let session = Session {
            slot: self.number,
            config: &agent.session,
            submitter: self.slots.queue.clone(),
            metrics: &agent.metrics,
        };
        let end = session.run(link, &mut active);
        active.session.inspect(|(id, _)| agent.control.detach(*id));
        agent.metrics.session_ended(start);
        let lived = start.elapsed();
        *predecessor = active.predecessor;
        match active.future {
            Future::Succeeded => {
                info!("the old session with {url} ended after {:.1} s: {end}", lived.as_secs_f64());
                return None;
            }
            Future::RetriesExhausted => {
                let text = format!("gateway {url} goes away each time");
                return Some(Setback { lived: Duration::ZERO, text, advice: None });
            }
            Future::Open => {}
        }
        let text = format!("session with {url} ended after {:.1} s: {end}", lived.as_secs_f64());
        // A gateway that does not know the tunnel ID ends the session at once, and does not say why.
        let is_refused =
            end.is_unexplained() && lived < REFUSED_WITHIN && answered == agent.metrics.status().served;
        Some(Setback { lived, text, advice: is_refused.then_some(Advice::TunnelId) })
    }
}

/// The future of a slot after its session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Future {
    /// The slot dials again.
    Open,
    /// A successor has the slot.
    Succeeded,
    /// The gateway has sent GOAWAY once too often.
    RetriesExhausted,
}

/// The supervisor of a session that is served.
struct ActiveSession<'scope, 'env, 'a> {
    slot: Slot<'a>,
    scope: &'scope Scope<'scope, 'env>,
    start: Instant,
    /// The backoff, as the dials before left it.
    backoff: Backoff,
    /// The session, and its number among those that [`Control`](super::control::Control) stops.
    session: Option<(u64, SessionHandle)>,
    /// The session that this one replaces, until this one is open.
    predecessor: Option<SessionHandle>,
    future: Future,
}

impl ActiveSession<'_, '_, '_> {
    /// Lets a session finish: it has a successor, or is to have one.
    fn hand_over(&self, session: Option<&SessionHandle>) {
        let drain = self.slot.slots.agent.handover_drain;
        session.inspect(|session| session.drain(after(drain), MOVED));
    }

    fn session(&self) -> Option<&SessionHandle> {
        self.session.as_ref().map(|(_, session)| session)
    }
}

impl<'scope, 'a: 'scope> Supervisor for ActiveSession<'scope, '_, 'a> {
    fn began(&mut self, session: SessionHandle) {
        let id = self.slot.slots.agent.control.attach(session.clone());
        self.session = Some((id, session));
    }

    fn named(&mut self, told: &TunnelUrl) {
        let agent = self.slot.slots.agent;
        agent.metrics.url_told(self.start, &told.url);
        info!("{} is open → {}", told.url, agent.served_by);
        if told.wanted == Wanted::Taken
            && let Some(name) = &agent.session.name
        {
            warn!(advice = Advice::TunnelName.name();
                "the name {name} is another tunnel's, or the gateway's own: this one is {}", told.url);
        }
    }

    fn opened(&mut self) {
        self.slot.slots.agent.metrics.session_taken(self.start);
        if self.session().is_some_and(|session| !session.is_identified()) {
            let url = self.slot.dialer.url();
            warn!(advice = Advice::GatewayPath.name(); "nothing at {url} has identified itself as a gateway yet");
        }
        let needs_addresses = self.slot.slots.agent.session.gate.needs_addresses();
        if needs_addresses && self.session().is_some_and(|session| !session.names_visitors()) {
            let url = self.slot.dialer.url();
            warn!("gateway {url} does not vouch for its visitors' addresses: every request is refused");
        }
        let predecessor = self.predecessor.take();
        self.hand_over(predecessor.as_ref());
    }

    fn goes_away(&mut self, reason: &str) {
        let url = self.slot.dialer.url();
        if self.future != Future::Open || self.slot.slots.agent.control.is_stopping() {
            return;
        }
        // A gateway that sends GOAWAY at once, again and again, meets the backoff like one that does not accept.
        let mut backoff = self.backoff.clone();
        let Some(delay) = backoff.goes_away(self.start.elapsed(), backoff::chance()) else {
            warn!("gateway {url} goes away again: {}", reason.escape_debug());
            self.future = Future::RetriesExhausted;
            return self.hand_over(self.session());
        };
        let when = if delay.is_zero() { String::new() } else { format!(" in {:.1} s", delay.as_secs_f64()) };
        info!("gateway {url} goes away: {}; opening another session{when}", reason.escape_debug());
        let start = SlotStart { backoff, delay, predecessor: self.session().cloned() };
        match self.slot.spawn(self.scope, start) {
            Ok(()) => self.future = Future::Succeeded,
            Err(error) => {
                warn!("no thread for another session: {error}");
                // This one's thread dials when it has ended.
                self.hand_over(self.session());
            }
        }
    }
}
