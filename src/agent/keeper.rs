//! The keeper of a slot's session: with one gateway, one session after the other.
//!
//! ```text
//!  dial ──▶ session ──▶ lost ──▶ backoff ──▶ dial …
//!              │
//!              └─ GOAWAY: a successor, on a thread of its own, takes over the slot; the old session finishes its
//!                 streams once the successor is open, and its thread ends
//! ```

use std::sync::Arc;
use std::time::{Duration, Instant};

use log::{info, warn};

use super::RunError;
use super::control::Control;
use super::slot::{Slot, SlotDemand};
use super::threads::SessionThreads;
use super::tunnel::{Grace, Tunnel, TunnelSettings};
use crate::advice::Advice;
use crate::backoff::{self, Backoff};
use crate::link::{DialError, Link};
use crate::protocol::{TunnelUrl, Wanted};
use crate::session::{Session, SessionHandle, Supervisor, WorkQueue};
use crate::vitals::{Pulse, Vitals};

/// A session that ends sooner than this, before it served anything, was probably refused.
const REFUSED_WITHIN: Duration = Duration::from_secs(2);

/// The name of a keeper's thread in reports that it is stuck.
pub(super) const KEEPER: &str = "a thread that keeps a session up";

/// The keeper of a slot's session, which has a thread of its own.
#[derive(Clone)]
pub(super) struct SlotKeeper {
    pub(super) control: Arc<Control>,
    pub(super) threads: Arc<SessionThreads>,
    pub(super) tunnel: Arc<Tunnel>,
    pub(super) slot: Arc<Slot>,
    pub(super) queue: WorkQueue,
    pub(super) vitals: Arc<Vitals>,
    /// How its thread says that it goes on.
    pub(super) pulse: Arc<Pulse>,
}

/// How a slot's thread begins.
struct SlotStart {
    backoff: Backoff,
    /// The time before the first dial.
    delay: Duration,
    /// The slot's number in the handshake. A gateway ends a session at once for another one with its number, unless it has
    /// sent it GOAWAY: a successor that was not asked for has another number.
    number: u32,
    /// How long the sessions before may finish once there is another one.
    grace: Grace,
}

/// Why a dial or a session ended.
struct Setback {
    /// How long the session lived; nothing for a failed dial.
    lived: Duration,
    text: String,
    advice: Option<Advice>,
}

impl SlotKeeper {
    /// Starts to keep the session up.
    pub(super) fn start(&self) -> std::io::Result<()> {
        self.spawn(self.fresh_start())
    }

    fn fresh_start(&self) -> SlotStart {
        let backoff = Backoff::new(self.tunnel.settings().source.backoff);
        let number = self.tunnel.next_number();
        SlotStart { backoff, delay: Duration::ZERO, number, grace: Grace::Long }
    }

    /// Starts a thread that keeps the session up.
    fn spawn(&self, start: SlotStart) -> std::io::Result<()> {
        let keeper = SlotKeeper { pulse: self.vitals.pulse(KEEPER), ..self.clone() };
        self.threads.spawn(move || keeper.keep_up(start))
    }

    fn keep_up(&self, mut start: SlotStart) {
        loop {
            let Err((error, settings)) = self.supervise(start) else { return };
            // This thread is one of them.
            let remaining = self.threads.running() - 1;
            if remaining > 0 {
                let advice = error.advice().map_or("", Advice::name);
                warn!(advice; "{}: {error}; sessions that go on: {remaining}", self.url());
            }
            self.slot.give_up(error);
            // A configuration that came meanwhile may do better. If another thread has taken the failure, it does this.
            if Arc::ptr_eq(&settings, &self.tunnel.settings()) || self.slot.take_failure().is_none() {
                return;
            }
            start = self.fresh_start();
        }
    }

    /// The beginning of the log's lines of one of several tunnels.
    fn of_tunnel(&self) -> String {
        let label = self.tunnel.settings().source.label.clone();
        label.map(|label| format!("{label}: ")).unwrap_or_default()
    }

    fn url(&self) -> &str {
        &self.slot.key.0
    }

    /// Keeps the session up until it is not wanted any more. An error comes with the settings that led to it.
    fn supervise(&self, start: SlotStart) -> Result<(), (RunError, Arc<TunnelSettings>)> {
        let SlotStart { mut backoff, delay, mut number, grace } = start;
        let control = &self.control;
        if !delay.is_zero() {
            self.pulse.expect_within(delay);
            control.wait(delay);
        }
        while !control.is_stopping() && !self.slot.is_retired() {
            let settings = self.tunnel.settings();
            let Some(dialer) = settings.dialer(self.url()) else { return Ok(()) };
            backoff.configure(settings.source.backoff);
            // A name's look-up has that time, too.
            self.pulse.expect_within(settings.source.timeouts.connect.saturating_mul(2));
            let setback = match control.dial(|opened| dialer.dial_watched(opened)) {
                Ok(link) => match self.serve(link, &settings, (number, grace), &backoff) {
                    Some(setback) => setback,
                    // The successor has given up meanwhile, and there is no session any more.
                    None if self.slot.take_failure().is_some() => {
                        SlotStart { backoff, number, .. } = self.fresh_start();
                        continue;
                    }
                    // The slot is the successor's.
                    None => return Ok(()),
                },
                Err(_) if control.is_stopping() => break,
                // The configuration that failed has been replaced.
                Err(_) if !Arc::ptr_eq(&settings, &self.tunnel.settings()) => {
                    backoff = Backoff::new(self.tunnel.settings().source.backoff);
                    continue;
                }
                Err(error) => self.dial_failed(&error).map_err(|error| (error, settings.clone()))?,
            };
            if control.is_stopping() || self.slot.is_retired() {
                break;
            }
            self.wait(&mut backoff, setback).map_err(|error| (error, settings))?;
        }
        Ok(())
    }

    fn dial_failed(&self, error: &DialError) -> Result<Setback, RunError> {
        self.tunnel.metrics.dial_failed(error.kind());
        if let DialError::Upgrade(error) = error {
            if let Some(status) = error.refusal() {
                return Err(RunError::Refused(status));
            }
        }
        let text = format!("cannot reach gateway {}: {error}", self.url());
        Ok(Setback { lived: Duration::ZERO, text, advice: Some(error.advice()) })
    }

    /// Waits out the backoff, or gives up.
    fn wait(&self, backoff: &mut Backoff, setback: Setback) -> Result<(), RunError> {
        let Setback { lived, text, advice } = setback;
        self.tunnel.metrics.retried();
        let (advice, of) = (advice.map_or("", Advice::name), self.of_tunnel());
        let Some(delay) = backoff.failed(lived, backoff::chance()) else {
            warn!(advice; "{of}{text}; no tries left");
            return Err(RunError::GaveUp(text));
        };
        let tries = match backoff.remaining() {
            None => String::new(),
            Some(0) => ", for the last time".to_owned(),
            Some(remaining) => format!("; tries left: {remaining}"),
        };
        warn!(advice; "{of}{text}; trying again in {:.1} s{tries}", delay.as_secs_f64());
        self.pulse.expect_within(delay);
        if let Some(why) = self.control.wait(delay) {
            info!("{why}: trying again at once");
        }
        Ok(())
    }

    /// Serves one session. Returns how it ended; `None` when a successor has the slot.
    fn serve(
        &self,
        link: Link,
        settings: &Arc<TunnelSettings>,
        (number, grace): (u32, Grace),
        backoff: &Backoff,
    ) -> Option<Setback> {
        let (tunnel, url) = (&self.tunnel, self.url());
        let (start, metrics) = (Instant::now(), &tunnel.metrics);
        info!("{}connected to {url}", self.of_tunnel());
        metrics.session_began(start, link.heard.clone());
        let answered = metrics.status().served;
        let mut active = ActiveSession {
            keeper: self,
            number,
            settings,
            start,
            backoff: backoff.clone(),
            session: None,
            grace,
            future: Future::Open,
        };
        let session = Session {
            slot: number,
            config: &settings.session,
            exchanges: &tunnel.exchanges,
            submitter: self.queue.clone(),
            metrics,
            pulse: &self.pulse,
        };
        let end = session.run(link, &mut active);
        if let Some((id, session)) = &active.session {
            self.control.detach(*id);
            self.slot.ended(session);
        }
        metrics.session_ended(start);
        let lived = start.elapsed();
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
        let is_refused = settings.dialer(url).is_none_or(|dialer| dialer.proxy().is_none())
            && end.is_unexplained()
            && lived < REFUSED_WITHIN
            && answered == metrics.status().served;
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
struct ActiveSession<'a> {
    keeper: &'a SlotKeeper,
    /// The slot's number in the handshake.
    number: u32,
    /// The settings that the session began with.
    settings: &'a Arc<TunnelSettings>,
    start: Instant,
    /// The backoff, as the dials before left it.
    backoff: Backoff,
    /// The session, and its number among those that [`Control`](super::control::Control) stops.
    session: Option<(u64, SessionHandle)>,
    /// How long the sessions before may finish once this one is open.
    grace: Grace,
    future: Future,
}

impl ActiveSession<'_> {
    /// Lets the session finish: it is to have a successor.
    fn hand_over(&self) {
        self.session().inspect(|session| self.keeper.tunnel.end_replaced(session, Grace::Drain));
    }

    fn session(&self) -> Option<&SessionHandle> {
        self.session.as_ref().map(|(_, session)| session)
    }

    /// Opens a successor. It takes over the slot.
    fn open_successor(&mut self, start: SlotStart) {
        match self.keeper.spawn(start) {
            Ok(()) => self.future = Future::Succeeded,
            Err(error) => {
                warn!("no thread for another session: {error}");
                // This one's thread dials when it has ended.
                self.hand_over();
            }
        }
    }

    /// Whether nothing is decided yet of what comes after the session.
    fn is_open(&self) -> bool {
        self.future == Future::Open && !self.keeper.control.is_stopping()
    }
}

impl Supervisor for ActiveSession<'_> {
    fn began(&mut self, session: SessionHandle) {
        let SlotKeeper { control, tunnel, slot, .. } = self.keeper;
        let id = control.attach(session.clone());
        self.session = Some((id, session.clone()));
        // The configuration may have changed while the gateway was dialled.
        if slot.began(session.clone()) == SlotDemand::NoMore {
            tunnel.end_replaced(&session, Grace::Drain);
        } else if !tunnel.settings().keeps_sessions_of(self.settings) {
            session.renew();
        }
    }

    fn named(&mut self, told: &TunnelUrl) {
        let tunnel = &self.keeper.tunnel;
        tunnel.metrics.url_told(self.start, &told.url);
        let settings = tunnel.settings();
        info!("{} is open → {}", told.url, settings.served_by);
        if let Some(name) = self.settings.session.name.as_ref().filter(|_| told.wanted == Wanted::Taken) {
            warn!(advice = Advice::TunnelName.name();
                "the name {name} is another tunnel's, or the gateway's own: this one is {}", told.url);
        }
    }

    fn opened(&mut self) {
        let (tunnel, url) = (&self.keeper.tunnel, self.keeper.url());
        tunnel.metrics.session_taken(self.start);
        if let Some(session) = self.session() {
            if !session.is_identified() {
                let advice = Advice::GatewayPath.name();
                warn!(advice; "nothing at {url} has identified itself as a gateway yet");
            }
            if tunnel.exchanges.get().gate.needs_addresses() && !session.names_visitors() {
                warn!("gateway {url} does not vouch for its visitors' addresses: every request is refused");
            }
        }
        let before = self.session().map(|session| self.keeper.slot.opened(session)).unwrap_or_default();
        before.iter().for_each(|session| tunnel.end_replaced(session, self.grace));
    }

    fn goes_away(&mut self, reason: &str) {
        if !self.is_open() {
            return;
        }
        let url = self.keeper.url();
        // A gateway that sends GOAWAY at once, again and again, meets the backoff like one that does not accept.
        let mut backoff = self.backoff.clone();
        let Some(delay) = backoff.goes_away(self.start.elapsed(), backoff::chance()) else {
            warn!("gateway {url} goes away again: {}", reason.escape_debug());
            self.future = Future::RetriesExhausted;
            return self.hand_over();
        };
        let when = if delay.is_zero() { String::new() } else { format!(" in {:.1} s", delay.as_secs_f64()) };
        info!("gateway {url} goes away: {}; opening another session{when}", reason.escape_debug());
        self.open_successor(SlotStart { backoff, delay, number: self.number, grace: Grace::Drain });
    }

    fn renew(&mut self) {
        // One that was handed to another gateway's slot is replaced by that.
        if self.is_open() && !self.keeper.slot.is_retired() {
            let of = self.keeper.of_tunnel();
            info!("{of}opening another session with {}, as it is configured now", self.keeper.url());
            let start = self.keeper.fresh_start();
            self.open_successor(SlotStart { backoff: self.backoff.clone(), ..start });
        }
    }
}
