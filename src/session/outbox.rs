//! The way to the writer: events in one queue, and a budget in bytes that holds workers back.
//!
//! | what | budget | who waits |
//! | --- | --- | --- |
//! | answers with an ID, and the one whose turn it is | 2 × max-message | workers |
//! | answers held back for their turn | 2 × max-message of their own | workers |
//! | control: pongs, refusals of requests with an ID | [`CONTROL_MAX`], then the session ends | nobody |
//! | refusals of requests without one | their number | nobody |
//!
//! One answer always fits, and the answer whose turn it is never waits, or those behind it could keep it
//! out. Whoever waits is woken when the session dies.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock};
use std::time::{Duration, Instant};

use http::Method;
use tungstenite::Bytes;

use super::End;
use crate::admission::Refusal;
use crate::mux::Mux;
use crate::protocol::mux::{Limits, Side};
use crate::protocol::{RequestId, RequestName, answer};

/// More control than this waiting means that the gateway has stopped reading.
pub(super) const CONTROL_MAX: usize = 1 << 20;

/// What an event takes up beside its payload, rounded up.
const EVENT_BYTES: usize = 128;

/// What happened, for the writer.
#[derive(Debug)]
pub(super) enum Event {
    /// A request was answered.
    Answer(Answer),
    /// The gateway pinged.
    Ping(Bytes, Room),
    /// The gateway sent a close frame.
    Close(Option<(u16, String)>),
    /// The gateway broke the protocol.
    Violation(u16, String),
    /// The gateway gave up.
    GatewayError(String),
    /// The reader read its last.
    ReaderEnded(End),
    /// The pong came of a ping that was sent so long after the session's start.
    Pong(Duration),
    /// Finish until this time at most, and why.
    Drain(Instant, &'static str),
    /// The gateway takes requests for this session, or may do so from now on.
    Opened,
    /// The gateway is about to stop.
    GoesAway(String),
    /// Streams have something to send.
    Streams,
}

/// An encoded answer on its way out.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) place: Option<u64>,
    pub(super) text: Bytes,
    /// Until it is written; what is control stops waiting when it reaches the writer.
    pub(super) room: Option<Room>,
}

/// The room in a budget that something takes up, given back when it is dropped.
#[derive(Debug)]
pub(super) struct Room {
    shared: Arc<Shared>,
    budget: Budget,
    bytes: usize,
}

impl Room {
    /// Whether it is of the budget for control.
    pub(super) fn is_control(&self) -> bool {
        self.budget == Budget::Control
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        match self.budget {
            Budget::Control => {
                self.shared.control_bytes.fetch_sub(self.bytes, Ordering::Relaxed);
            }
            Budget::Direct => self.shared.change(|credit| credit.direct -= self.bytes),
            Budget::Held => self.shared.change(|credit| credit.held -= self.bytes),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Budget {
    Direct,
    Held,
    Control,
}

/// The sending side. Clones belong to the same session.
#[derive(Debug, Clone)]
pub(crate) struct Outbox {
    events: Sender<Event>,
    shared: Arc<Shared>,
}

/// The writer's side. Dropping it kills the session for everyone who still holds an [`Outbox`].
#[derive(Debug)]
pub(super) struct Inbox {
    pub(super) events: Receiver<Event>,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    credit: Mutex<Credit>,
    freed: Condvar,
    answer_bytes_max: usize,
    control_bytes: AtomicUsize,
    alive: AtomicBool,
    /// The gateway is told to send no more requests.
    leaving: AtomicBool,
    /// New requests are refused.
    draining: AtomicBool,
    /// Requests that came in, each of which sends exactly one answer.
    issued: AtomicU64,
    /// Places given out to requests without an ID.
    places: AtomicU64,
    /// What the gateway calls the connection, in short; zero until it has said so.
    connection: AtomicU32,
    /// The gateway has shown that it knows part 2 of the protocol, and with it bodies that are no texts.
    knows_base64: AtomicBool,
    /// The streams, once the gateway has switched mux/2 on.
    mux: OnceLock<Arc<Mux>>,
}

#[derive(Debug, Default)]
struct Credit {
    direct: usize,
    held: usize,
    /// The place whose turn it is.
    turn: u64,
    /// Workers that wait for room. Waking nobody would still be a system call.
    waiting: usize,
}

impl Credit {
    /// Takes from the budget of an answer to the request at this place, if there is enough of it.
    fn take(&mut self, place: Option<u64>, bytes: usize, max: usize) -> Option<Budget> {
        let held_back = place.is_some_and(|place| place > self.turn);
        let its_turn = place.is_some_and(|place| place <= self.turn);
        let (used, budget) =
            if held_back { (&mut self.held, Budget::Held) } else { (&mut self.direct, Budget::Direct) };
        let fits = its_turn || *used == 0 || *used + bytes <= max;
        fits.then(|| {
            *used += bytes;
            budget
        })
    }
}

/// A new session's queue.
pub(super) fn channel(max_message: usize) -> (Outbox, Inbox) {
    let (sender, receiver) = mpsc::channel();
    let shared = Arc::new(Shared {
        credit: Mutex::default(),
        freed: Condvar::new(),
        answer_bytes_max: max_message.saturating_mul(2),
        control_bytes: AtomicUsize::new(0),
        alive: AtomicBool::new(true),
        leaving: AtomicBool::new(false),
        draining: AtomicBool::new(false),
        issued: AtomicU64::new(0),
        places: AtomicU64::new(0),
        connection: AtomicU32::new(0),
        knows_base64: AtomicBool::new(false),
        mux: OnceLock::new(),
    });
    (Outbox { events: sender, shared: shared.clone() }, Inbox { events: receiver, shared })
}

impl Shared {
    fn credit(&self) -> MutexGuard<'_, Credit> {
        // Nothing panics while the lock is held.
        self.credit.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Changes the credit, and wakes those who wait for that.
    fn change(&self, change: impl FnOnce(&mut Credit)) {
        let mut credit = self.credit();
        change(&mut credit);
        if credit.waiting > 0 {
            self.freed.notify_all();
        }
    }

    fn is_alive(&self) -> bool {
        self.alive.load(Ordering::Acquire)
    }

    /// Waits for room. `None` when the session died meanwhile.
    fn take_room(self: &Arc<Self>, place: Option<u64>, bytes: usize) -> Option<Room> {
        let mut credit = self.credit();
        while self.is_alive() {
            if let Some(budget) = credit.take(place, bytes, self.answer_bytes_max) {
                return Some(Room { shared: self.clone(), budget, bytes });
            }
            credit.waiting += 1;
            credit = self.freed.wait(credit).unwrap_or_else(|poisoned| poisoned.into_inner());
            credit.waiting -= 1;
        }
        None
    }

    /// Takes room for control without waiting, and whether there was any.
    fn take_control_room(self: &Arc<Self>, bytes: usize) -> (Room, bool) {
        let waiting = self.control_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        (Room { shared: self.clone(), budget: Budget::Control, bytes }, waiting <= CONTROL_MAX)
    }
}

impl Outbox {
    /// Whether requests come as streams.
    pub(crate) fn is_streaming(&self) -> bool {
        self.mux().is_some()
    }

    /// Takes note of a request that came in. Its ticket is the means of its one answer.
    pub(super) fn issue(&self, id: Option<RequestId>) -> Ticket {
        let count = self.shared.issued.fetch_add(1, Ordering::AcqRel) + 1;
        let place = id.is_none().then(|| self.shared.places.fetch_add(1, Ordering::AcqRel));
        let name = self.name(id.as_ref().and_then(RequestId::as_u64).unwrap_or(count));
        Ticket { outbox: self.clone(), id, name, place, answered: false }
    }

    /// The name of the connection's request of this number.
    pub(super) fn name(&self, number: u64) -> RequestName {
        RequestName { connection: self.shared.connection.load(Ordering::Relaxed), number }
    }

    /// Takes note that the gateway knows bodies that are no texts.
    pub(super) fn set_knows_base64(&self) {
        self.shared.knows_base64.store(true, Ordering::Relaxed);
    }

    /// Takes note of what the gateway calls the connection.
    pub(super) fn set_connection(&self, number: u32) {
        self.shared.connection.store(number, Ordering::Relaxed);
    }

    /// Requests without an ID that are not done with yet.
    pub(super) fn unnumbered(&self) -> u64 {
        self.shared.places.load(Ordering::Acquire) - self.shared.credit().turn
    }

    /// Tells the writer. Nobody listens when the session is over, and nobody needs to.
    pub(super) fn tell(&self, event: Event) {
        let _ = self.events.send(event);
    }

    /// Tells the writer of a ping. False when too much control waits already.
    pub(super) fn tell_ping(&self, payload: &[u8]) -> bool {
        let (room, fits) = self.shared.take_control_room(payload.len() + EVENT_BYTES);
        // A copy: the original keeps the reader's whole buffer alive.
        self.tell(Event::Ping(Bytes::copy_from_slice(payload), room));
        fits
    }

    /// Tells the writer of a pong, where it waits for one.
    pub(super) fn tell_pong(&self, sent: Duration) {
        if self.shared.leaving.load(Ordering::Acquire) {
            self.tell(Event::Pong(sent));
        }
    }

    /// Finish until this time at most. What comes from now on is refused; streams that were opened before the gateway
    /// heard of it are served.
    pub(crate) fn drain(&self, until: Instant, why: &'static str) {
        if !self.shared.leaving.swap(true, Ordering::AcqRel) {
            match self.mux() {
                Some(mux) => mux.go_away(u32::MAX, why),
                None => self.refuse_more(),
            }
        }
        self.tell(Event::Drain(until, why));
    }

    fn refuse_more(&self) {
        self.shared.draining.store(true, Ordering::Release);
    }

    /// Refuses streams from now on, and tells the gateway which is the last that is served.
    pub(super) fn name_last_stream(&self, why: &'static str) {
        self.refuse_more();
        // One that the reader is just taking on may be above it, and is served all the same.
        self.mux().inspect(|mux| mux.go_away(mux.last(), why));
    }

    /// Switches mux/2 on. False when it is on already, or a request came before.
    pub(super) fn start_mux(&self, limits: Limits) -> bool {
        let events = self.events.clone();
        // Nobody listens when the session is over, and nobody needs to.
        let wake = move || drop(events.send(Event::Streams));
        self.shared.issued.load(Ordering::Acquire) == 0
            && self.shared.mux.set(Mux::new(Side::Agent, limits, wake)).is_ok()
    }

    /// The streams, if mux/2 is on.
    pub(super) fn mux(&self) -> Option<&Arc<Mux>> {
        self.shared.mux.get()
    }

    /// Whether new requests are to be refused.
    pub(super) fn is_draining(&self) -> bool {
        self.shared.draining.load(Ordering::Acquire)
    }
}

impl Inbox {
    /// Requests that came in so far.
    pub(super) fn issued(&self) -> u64 {
        self.shared.issued.load(Ordering::Acquire)
    }

    /// The streams, if mux/2 is on.
    pub(super) fn mux(&self) -> Option<&Arc<Mux>> {
        self.shared.mux.get()
    }

    /// The last place that was given out.
    pub(super) fn newest(&self) -> u64 {
        self.shared.places.load(Ordering::Acquire).saturating_sub(1)
    }

    /// From now on it is this place's turn.
    pub(super) fn set_turn(&self, turn: u64) {
        self.shared.change(|credit| credit.turn = turn);
    }
}

impl Drop for Inbox {
    fn drop(&mut self) {
        // Under the lock, so that nobody misses it between looking and waiting.
        self.shared.change(|_| self.shared.alive.store(false, Ordering::Release));
        if let Some(mux) = self.mux() {
            mux.close();
        }
    }
}

/// The right and the duty to answer one request, once.
///
/// Answering consumes it; dropping it unanswered answers `error`, so that no request is ever left without
/// an answer. It holds the queue of its own session: an answer cannot reach another one.
#[derive(Debug)]
pub(crate) struct Ticket {
    outbox: Outbox,
    id: Option<RequestId>,
    name: RequestName,
    place: Option<u64>,
    answered: bool,
}

impl Ticket {
    /// Whether the session is over, and with it everyone who waits for this answer.
    pub(super) fn is_dead(&self) -> bool {
        !self.outbox.shared.is_alive()
    }

    /// Tells, for as long as it lives, whether the session is over.
    pub(super) fn watch(&self) -> Watch {
        Watch(self.outbox.shared.clone())
    }

    /// The request's ID, which its answer must carry.
    pub(super) fn id(&self) -> Option<&RequestId> {
        self.id.as_ref()
    }

    /// Whether the gateway knows bodies that are no texts.
    pub(super) fn takes_base64(&self) -> bool {
        self.outbox.shared.knows_base64.load(Ordering::Relaxed)
    }

    /// The request's name, for people.
    pub(super) fn name(&self) -> RequestName {
        self.name
    }

    /// Answers with an encoded envelope. Blocks while there is no room for it. False when the session was
    /// over before.
    pub(super) fn answer(mut self, envelope: Vec<u8>) -> bool {
        let room = self.outbox.shared.take_room(self.place, envelope.len());
        self.answered = true;
        let Some(room) = room else { return false };
        self.send(envelope, Some(room));
        true
    }

    /// Answers with the agent's own response, as [`answer`](Self::answer) does: for those who may wait.
    pub(super) fn answer_refusal(self, refusal: &Refusal, method: &Method) -> bool {
        let envelope = refusal_envelope(self.id.as_ref(), self.name, refusal, method);
        self.answer(envelope)
    }

    /// Answers with the agent's own response. Never blocks. False when too much of that waits already: then the
    /// session is to end.
    #[must_use]
    pub(super) fn refuse(mut self, refusal: &Refusal, method: &Method) -> bool {
        let envelope = refusal_envelope(self.id.as_ref(), self.name, refusal, method);
        self.answer_as_control(envelope)
    }

    fn answer_as_control(&mut self, envelope: Vec<u8>) -> bool {
        self.answered = true;
        // Those that have a place are limited by number, and may have to wait for it for long.
        if self.place.is_some() {
            self.send(envelope, None);
            return true;
        }
        let (room, fits) = self.outbox.shared.take_control_room(envelope.len());
        self.send(envelope, Some(room));
        fits
    }

    fn send(&self, envelope: Vec<u8>, room: Option<Room>) {
        self.outbox.tell(Event::Answer(Answer { place: self.place, text: envelope.into(), room }));
    }
}

/// See [`Ticket::watch`].
#[derive(Debug)]
pub(super) struct Watch(Arc<Shared>);

impl Watch {
    /// Whether the session is over.
    pub(super) fn is_over(&self) -> bool {
        !self.0.is_alive()
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if !self.answered {
            let text = "Failed to forward request to local server: the agent failed while answering it";
            let envelope = answer::encode_error(self.id.as_ref(), text);
            self.answer_as_control(envelope);
        }
    }
}

/// The envelope of a response that the agent itself makes, to a request with this method.
fn refusal_envelope(
    id: Option<&RequestId>,
    name: RequestName,
    refusal: &Refusal,
    method: &Method,
) -> Vec<u8> {
    let message = refusal.message();
    let (head, body) = refusal.response(name).into_parts();
    let body = body.as_bytes().filter(|_| *method != Method::HEAD).unwrap_or_default();
    let now = time::OffsetDateTime::now_utc();
    answer::encode_response(id, &head, body, Some(&message), now, usize::MAX)
        .unwrap_or_else(|error| answer::encode_error(id, &error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    const MAX: usize = 100;

    #[test]
    fn one_answer_always_fits_and_more_up_to_the_limit() {
        let mut credit = Credit::default();
        assert_eq!(credit.take(None, 1000, MAX), Some(Budget::Direct));
        assert_eq!(credit.take(None, 1, MAX), None);
        credit.direct = 99;
        assert_eq!(credit.take(None, 1, MAX), Some(Budget::Direct));
        assert_eq!(credit.take(None, 1, MAX), None);
    }

    #[test]
    fn held_answers_have_a_budget_of_their_own() {
        let mut credit = Credit { direct: MAX, turn: 3, ..Credit::default() };
        assert_eq!(credit.take(Some(5), 60, MAX), Some(Budget::Held));
        assert_eq!(credit.take(Some(4), 60, MAX), None);
        assert_eq!(credit.take(None, 1, MAX), None);
    }

    #[test]
    fn the_answer_whose_turn_it_is_never_waits() {
        let mut credit = Credit { direct: MAX, held: MAX, turn: 3, ..Credit::default() };
        assert_eq!(credit.take(Some(3), 1000, MAX), Some(Budget::Direct));
        assert_eq!(credit.take(Some(4), 1, MAX), None);
        credit.turn = 4;
        assert_eq!(credit.take(Some(4), 1, MAX), Some(Budget::Direct));
    }

    /// The next answer's text.
    #[track_caller]
    fn next(inbox: &Inbox) -> (Bytes, Option<Room>) {
        match inbox.events.recv() {
            Ok(Event::Answer(answer)) => (answer.text, answer.room),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn who_waits_for_room_goes_on_when_there_is_some() {
        let (outbox, inbox) = channel(10);
        let id = RequestId::from(1);
        assert!(outbox.issue(Some(id.clone())).answer(vec![b'a'; 20]));
        let waiting = outbox.issue(Some(id));
        let waiter = thread::spawn(move || waiting.answer(vec![b'b'; 20]));
        let (text, room) = next(&inbox);
        assert_eq!(text, [b'a'; 20].as_slice());
        drop(room);
        assert_eq!(next(&inbox).0, [b'b'; 20].as_slice());
        assert!(waiter.join().unwrap());
    }

    #[test]
    fn who_waits_for_room_is_woken_when_the_session_dies() {
        let (outbox, inbox) = channel(10);
        let ticket = || outbox.issue(Some(RequestId::from(1)));
        let (first, second, third) = (ticket(), ticket(), ticket());
        assert!(first.answer(vec![0; 20]));
        let waiter = thread::spawn(move || second.answer(vec![0; 20]));
        drop(inbox);
        assert!(!waiter.join().unwrap());
        assert!(third.is_dead() && !third.answer(Vec::new()));
    }

    #[test]
    fn a_refusal_by_a_worker_waits_for_room_as_any_answer_does() {
        let (outbox, inbox) = channel(10);
        let ticket = || outbox.issue(Some(RequestId::from(1)));
        assert!(ticket().answer(vec![0; 20]));
        let waiting = ticket();
        let waiter = thread::spawn(move || waiting.answer_refusal(&Refusal::QueueFull, &Method::GET));
        let (_, room) = next(&inbox);
        assert!(room.as_ref().is_some_and(|room| !room.is_control()));
        drop(room);
        let (_, room) = next(&inbox);
        assert!(room.is_some_and(|room| !room.is_control()));
        assert!(waiter.join().unwrap());
    }

    #[test]
    fn a_ticket_that_is_dropped_answers() {
        let (outbox, inbox) = channel(10);
        drop(outbox.issue(Some(RequestId::from(7))));
        let (text, room) = next(&inbox);
        assert!(text.starts_with(br#"{"message_type":"error","id":7,"payload":"Failed to forward"#));
        assert!(room.is_some_and(|room| room.is_control()));
    }

    #[test]
    fn refusals_that_have_a_place_are_limited_by_number_alone() {
        let (outbox, inbox) = channel(10);
        for _ in 0..20_000 {
            assert!(outbox.issue(None).refuse(&Refusal::QueueFull, &Method::GET));
        }
        assert!(next(&inbox).1.is_none());
        let refuse = || outbox.issue(Some(RequestId::from(1))).refuse(&Refusal::QueueFull, &Method::GET);
        assert!((0..20_000).any(|_| !refuse()));
    }

    #[test]
    fn control_is_counted_until_it_has_reached_the_writer() {
        let (outbox, inbox) = channel(10);
        let mut sent = 0;
        while outbox.tell_ping(b"payload") {
            sent += 7 + EVENT_BYTES;
        }
        assert!((CONTROL_MAX - 7 - EVENT_BYTES..=CONTROL_MAX).contains(&sent), "{sent}");
        inbox.events.try_iter().for_each(drop);
        assert!(outbox.tell_ping(b"payload"));
    }
}
