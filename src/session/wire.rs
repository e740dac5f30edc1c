//! The way out: the queue of the thread that writes, and budgets in bytes that hold workers back.
//!
//! | message | budget | waits |
//! | --- | --- | --- |
//! | answers with an ID, and the one whose turn it is | 2 × max-message | workers |
//! | answers held back for their turn | 2 × max-message of their own | workers |
//! | control: pongs, refusals of requests with an ID | [`CONTROL_MAX`], then the session ends | no thread |
//! | refusals of requests without an ID | their number | no thread |
//!
//! One answer always fits, and the answer whose turn it is never waits: those behind it could keep it out otherwise.
//! Workers that wait are woken when the session ends.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::{Duration, Instant};

use http::{HeaderMap, HeaderName};
use tungstenite::Bytes;

use super::SessionEnd;
use super::credit::{BudgetKind, Credit};
use crate::mux::{Mux, MuxLimits, Side};
use crate::protocol::{RequestId, RequestName, TunnelUrl};
use crate::sync::{Waiters, lock};

/// More queued control than this, in bytes, means that the gateway has stopped reading.
pub(super) const CONTROL_MAX: usize = 1 << 20;

/// The field in which a gateway names the visitor's address.
const X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");

/// The bytes that an event takes up beside its payload, rounded up.
const EVENT_BYTES: usize = 128;

/// An event for the thread that writes.
#[derive(Debug)]
pub(super) enum WireEvent {
    /// A request was answered.
    Answer(EncodedReply),
    /// The gateway pinged.
    Ping(Bytes, Reservation),
    /// The session ends: a close frame was received, for example, or nothing more can be.
    End(SessionEnd),
    /// The pong came of a ping that was sent so long after the session's start.
    Pong(Duration),
    /// Finish until this time at most, and why.
    Drain(Instant, Departure, &'static str),
    /// The gateway has told where visitors reach the tunnel.
    Named(TunnelUrl),
    /// The gateway takes requests for this session, or may do so from now on.
    Opened,
    /// The gateway is about to stop.
    GoesAway(String),
    /// The session is to have a successor.
    Renew,
    /// Streams have something to send.
    Streams,
}

/// An encoded answer on its way out.
#[derive(Debug)]
pub(super) struct EncodedReply {
    /// The request's place in the order of those without an ID.
    pub(super) place: Option<u64>,
    pub(super) text: Bytes,
    /// The room that the answer takes up until it is written; that of control is given back when the writer has it.
    pub(super) room: Option<Reservation>,
}

/// Bytes of a budget, given back when it is dropped.
#[derive(Debug)]
pub(super) struct Reservation {
    session: SessionHandle,
    budget: BudgetKind,
    bytes: usize,
}

impl Reservation {
    /// Whether the bytes are of the budget for control.
    pub(super) fn is_control(&self) -> bool {
        self.budget == BudgetKind::Control
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        match self.budget {
            BudgetKind::Control => {
                self.session.shared.control_bytes.fetch_sub(self.bytes, Ordering::Relaxed);
            }
            BudgetKind::Direct => self.session.change(|credit| credit.direct -= self.bytes),
            BudgetKind::Held => self.session.change(|credit| credit.held -= self.bytes),
        }
    }
}

/// Why a session ends in good order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Departure {
    /// The agent stops.
    Stop,
    /// Another session has its place.
    HandOver,
}

/// A session as its threads, its workers and the agent hold it. Clones belong to the same session.
#[derive(Debug, Clone)]
pub(crate) struct SessionHandle {
    events: Sender<WireEvent>,
    shared: Arc<SessionShared>,
}

/// The writer's side. Dropping it ends the session for every holder of a [`SessionHandle`].
#[derive(Debug)]
pub(super) struct Inbox {
    pub(super) events: Receiver<WireEvent>,
    pub(super) session: SessionHandle,
}

#[derive(Debug)]
struct SessionShared {
    credit: Mutex<Credit>,
    freed: Waiters,
    /// The largest envelope, in bytes.
    max_message: usize,
    control_bytes: AtomicUsize,
    alive: AtomicBool,
    /// The gateway was told to send no more requests.
    leaving: AtomicBool,
    /// The time for a `welcome` has elapsed.
    settled: AtomicBool,
    /// New requests are refused.
    draining: AtomicBool,
    /// Requests that came in, each of which sends exactly one answer.
    issued: AtomicU64,
    /// Places given out to requests without an ID.
    places: AtomicU64,
    /// The gateway's number for the connection, in short; zero until it has come.
    connection: AtomicU32,
    /// The gateway has shown that it knows part 2 of the protocol, and with it base64.
    base64: AtomicBool,
    /// The gateway always sets `X-Real-IP` itself.
    names_visitors: AtomicBool,
    /// The streams, once the gateway has switched mux/2 on.
    mux: OnceLock<Arc<Mux>>,
}

/// The queue of a new session.
pub(super) fn channel(max_message: usize) -> Inbox {
    let (sender, events) = mpsc::channel();
    let shared = Arc::new(SessionShared {
        credit: Mutex::default(),
        freed: Waiters::default(),
        max_message,
        control_bytes: AtomicUsize::new(0),
        alive: AtomicBool::new(true),
        leaving: AtomicBool::new(false),
        settled: AtomicBool::new(false),
        draining: AtomicBool::new(false),
        issued: AtomicU64::new(0),
        places: AtomicU64::new(0),
        connection: AtomicU32::new(0),
        base64: AtomicBool::new(false),
        names_visitors: AtomicBool::new(false),
        mux: OnceLock::new(),
    });
    Inbox { events, session: SessionHandle { events: sender, shared } }
}

impl SessionHandle {
    /// Lets the session finish what runs, until this time at most; then it ends. A later call can only shorten that.
    /// Requests are refused from now on, but for streams that the gateway opened before it heard of it.
    /// A gateway that is about to send a `welcome` may send requests right behind it: they are served before.
    pub(crate) fn drain(&self, until: Instant, why: &'static str) {
        if self.is_settled() {
            self.leave(Departure::Stop, why);
        }
        self.tell(WireEvent::Drain(until, Departure::Stop, why));
    }

    /// Drains a session that has a successor: a gateway that cannot be told of that goes on to be served until nothing
    /// is under way.
    pub(crate) fn hand_over(&self, until: Instant, why: &'static str) {
        self.tell(WireEvent::Drain(until, Departure::HandOver, why));
    }

    /// Whether it is known how requests come: a `welcome`, or a request, has come, or none came in time.
    pub(super) fn is_settled(&self) -> bool {
        self.is_streaming() || self.issued() > 0 || self.shared.settled.load(Ordering::Acquire)
    }

    /// Records that no `welcome` came in time.
    pub(super) fn set_settled(&self) {
        self.shared.settled.store(true, Ordering::Release);
    }

    /// Tells the gateway that the session takes no more requests.
    pub(super) fn leave(&self, departure: Departure, why: &'static str) {
        if !self.shared.leaving.swap(true, Ordering::AcqRel) {
            match self.mux() {
                Some(mux) => mux.go_away(u32::MAX, why),
                None if departure == Departure::HandOver => {}
                None => self.refuse_more(),
            }
        }
    }

    /// Has the session's owner open a successor, which takes its place.
    pub(crate) fn renew(&self) {
        self.tell(WireEvent::Renew);
    }

    /// Whether both are handles of one session.
    pub(crate) fn is_of_session(&self, other: &SessionHandle) -> bool {
        Arc::ptr_eq(&self.shared, &other.shared)
    }

    /// The largest envelope either way, in bytes.
    pub(super) fn max_message(&self) -> usize {
        self.shared.max_message
    }

    /// Whether requests come as streams.
    pub(crate) fn is_streaming(&self) -> bool {
        self.mux().is_some()
    }

    /// Whether the gateway has shown that it is one: it has named the connection, or switched mux/2 on.
    pub(crate) fn is_identified(&self) -> bool {
        self.shared.connection.load(Ordering::Relaxed) != 0 || self.is_streaming()
    }

    pub(super) fn is_alive(&self) -> bool {
        self.shared.alive.load(Ordering::Acquire)
    }

    /// Tells the writer. When the session has ended, the message is dropped.
    pub(super) fn tell(&self, event: WireEvent) {
        let _ = self.events.send(event);
    }

    /// Tells the writer of a ping. Fails when too much control is queued.
    pub(super) fn tell_ping(&self, payload: &[u8]) -> Result<(), SessionEnd> {
        let (room, fits) = self.reserve_control(payload.len() + EVENT_BYTES);
        // A copy: the original keeps the reader's whole buffer alive.
        self.tell(WireEvent::Ping(Bytes::copy_from_slice(payload), room));
        fits
    }

    /// Tells the writer of a pong, where it waits for one.
    pub(super) fn tell_pong(&self, sent: Duration) {
        if self.shared.leaving.load(Ordering::Acquire) {
            self.tell(WireEvent::Pong(sent));
        }
    }

    // Facts that the gateway has told of itself.

    /// The name of the connection's request of this number.
    pub(super) fn name(&self, number: u64) -> RequestName {
        RequestName { connection: self.shared.connection.load(Ordering::Relaxed), number }
    }

    /// Records the gateway's number for the connection.
    pub(super) fn set_connection(&self, number: u32) {
        self.shared.connection.store(number, Ordering::Relaxed);
    }

    /// Whether the gateway reads base64.
    pub(super) fn reads_base64(&self) -> bool {
        self.shared.base64.load(Ordering::Relaxed)
    }

    /// Records that the gateway reads base64.
    pub(super) fn set_reads_base64(&self) {
        self.shared.base64.store(true, Ordering::Relaxed);
    }

    /// Records that the gateway sets `X-Real-IP` in every request.
    pub(super) fn set_names_visitors(&self) {
        self.shared.names_visitors.store(true, Ordering::Relaxed);
    }

    /// Whether the gateway vouches for the visitors' addresses.
    pub(crate) fn names_visitors(&self) -> bool {
        self.shared.names_visitors.load(Ordering::Relaxed)
    }

    /// The visitor's address, where the gateway vouches for it: elsewhere a visitor may have written it.
    pub(super) fn visitor_in(&self, headers: &HeaderMap) -> Option<IpAddr> {
        let value = headers.get(X_REAL_IP).filter(|_| self.names_visitors())?;
        value.to_str().ok()?.parse().ok()
    }

    /// The streams, if mux/2 is on.
    pub(super) fn mux(&self) -> Option<&Arc<Mux>> {
        self.shared.mux.get()
    }

    /// Switches mux/2 on. False when it is on already, or a request came before.
    pub(super) fn start_mux(&self, limits: MuxLimits) -> bool {
        let events = self.events.clone();
        // When the session has ended, the message is dropped.
        let wake = move || drop(events.send(WireEvent::Streams));
        self.issued() == 0 && self.shared.mux.set(Mux::new(Side::Agent, limits, wake)).is_ok()
    }

    // Which requests there are.

    /// Counts a request that came in. Returns its number, and its place where it has no ID.
    pub(super) fn count_request(&self, id: Option<&RequestId>) -> (u64, Option<u64>) {
        let count = self.shared.issued.fetch_add(1, Ordering::AcqRel) + 1;
        (count, id.is_none().then(|| self.shared.places.fetch_add(1, Ordering::AcqRel)))
    }

    /// Requests that came in so far.
    pub(super) fn issued(&self) -> u64 {
        self.shared.issued.load(Ordering::Acquire)
    }

    /// The last place that was given out.
    pub(super) fn newest(&self) -> u64 {
        self.shared.places.load(Ordering::Acquire).saturating_sub(1)
    }

    /// Requests without an ID whose answer has not gone out.
    pub(super) fn waiting_without_id(&self) -> u64 {
        self.shared.places.load(Ordering::Acquire) - self.credit().turn
    }

    /// Whether new requests are refused.
    pub(super) fn is_draining(&self) -> bool {
        self.shared.draining.load(Ordering::Acquire)
    }

    fn refuse_more(&self) {
        self.shared.draining.store(true, Ordering::Release);
    }

    /// Refuses streams from now on, and tells the gateway which is the last that is served.
    pub(super) fn name_last_stream(&self, why: &'static str) {
        self.refuse_more();
        // One that the reader is just accepting may be above it, and is served all the same.
        self.mux().inspect(|mux| mux.go_away(mux.last(), why));
    }

    // Room for answers and control that wait to be written.

    fn credit(&self) -> MutexGuard<'_, Credit> {
        lock(&self.shared.credit)
    }

    /// Changes the credit, and wakes the workers that wait for it.
    fn change(&self, change: impl FnOnce(&mut Credit)) {
        let mut credit = self.credit();
        change(&mut credit);
        self.shared.freed.release(credit);
    }

    /// Records that it is this place's turn.
    pub(super) fn set_turn(&self, turn: u64) {
        self.change(|credit| credit.turn = turn);
    }

    /// Waits for room. `None` when the session ended meanwhile.
    pub(super) fn reserve(&self, place: Option<u64>, bytes: usize) -> Option<Reservation> {
        let mut credit = self.credit();
        while self.is_alive() {
            if let Some(budget) = credit.take(place, bytes, self.shared.max_message.saturating_mul(2)) {
                return Some(Reservation { session: self.clone(), budget, bytes });
            }
            credit = self.shared.freed.wait(credit, None);
        }
        None
    }

    /// Takes room for control. Fails when the gateway has stopped reading: more is queued than may be. Never blocks.
    pub(super) fn reserve_control(&self, bytes: usize) -> (Reservation, Result<(), SessionEnd>) {
        let queued = self.shared.control_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let fits = if queued <= CONTROL_MAX { Ok(()) } else { Err(SessionEnd::NotReading) };
        (Reservation { session: self.clone(), budget: BudgetKind::Control, bytes }, fits)
    }
}

impl Drop for Inbox {
    fn drop(&mut self) {
        // Under the lock, so that no worker misses it between looking and waiting.
        self.session.change(|_| self.session.shared.alive.store(false, Ordering::Release));
        self.session.mux().inspect(|mux| mux.close());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: usize = 100;

    #[test]
    fn one_answer_always_fits_and_more_up_to_the_limit() {
        let mut credit = Credit::default();
        assert_eq!(credit.take(None, 1000, MAX), Some(BudgetKind::Direct));
        assert_eq!(credit.take(None, 1, MAX), None);
        credit.direct = 99;
        assert_eq!(credit.take(None, 1, MAX), Some(BudgetKind::Direct));
        assert_eq!(credit.take(None, 1, MAX), None);
    }

    #[test]
    fn held_answers_have_a_budget_of_their_own() {
        let mut credit = Credit { direct: MAX, turn: 3, ..Credit::default() };
        assert_eq!(credit.take(Some(5), 60, MAX), Some(BudgetKind::Held));
        assert_eq!(credit.take(Some(4), 60, MAX), None);
        assert_eq!(credit.take(None, 1, MAX), None);
    }

    #[test]
    fn the_answer_whose_turn_it_is_never_waits() {
        let mut credit = Credit { direct: MAX, held: MAX, turn: 3 };
        assert_eq!(credit.take(Some(3), 1000, MAX), Some(BudgetKind::Direct));
        assert_eq!(credit.take(Some(4), 1, MAX), None);
        credit.turn = 4;
        assert_eq!(credit.take(Some(4), 1, MAX), Some(BudgetKind::Direct));
    }

    #[test]
    fn control_is_counted_until_it_has_reached_the_writer() {
        let inbox = channel(10);
        let mut sent = 0;
        while inbox.session.tell_ping(b"payload").is_ok() {
            sent += 7 + EVENT_BYTES;
        }
        assert!((CONTROL_MAX - 7 - EVENT_BYTES..=CONTROL_MAX).contains(&sent), "{sent}");
        inbox.events.try_iter().for_each(drop);
        assert!(inbox.session.tell_ping(b"payload").is_ok());
    }
}
