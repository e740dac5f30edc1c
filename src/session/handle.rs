//! The way out: a session as its threads, its workers and the agent hold it, and the queue of the thread that writes.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use http::HeaderMap;
use tungstenite::Bytes;

use super::SessionEnd;
use super::credit::{Credits, Reservation};
use crate::http1::fields::X_REAL_IP;
use crate::mux::{Mux, MuxLimits, Side};
use crate::protocol::{RequestId, RequestName, TunnelUrl};

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
    Pong(Duration, Reservation),
    /// Finish until this time at most, and why.
    Drain(Instant, DrainReason, &'static str),
    /// The gateway has told where visitors reach the tunnel.
    Named(TunnelUrl, Reservation),
    /// The gateway takes requests for this session, or may do so from now on.
    Opened,
    /// The gateway is about to stop.
    GoesAway(String, Reservation),
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

/// Why a session ends in good order; the greater reason counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum DrainReason {
    /// Another session has its place.
    HandOver,
    /// The agent stops.
    Stop,
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
    credits: Arc<Credits>,
    alive: AtomicBool,
    /// The gateway was told to send no more requests.
    leaving: AtomicBool,
    /// The time for a `welcome` has elapsed.
    welcome_overdue: AtomicBool,
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
        credits: Credits::new(max_message),
        alive: AtomicBool::new(true),
        leaving: AtomicBool::new(false),
        welcome_overdue: AtomicBool::new(false),
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
        if self.is_protocol_known() {
            self.leave(DrainReason::Stop, why);
        }
        self.tell(WireEvent::Drain(until, DrainReason::Stop, why));
    }

    /// Drains a session that has a successor: a gateway that cannot be told of that goes on to be served until nothing
    /// is under way.
    pub(crate) fn hand_over(&self, until: Instant, why: &'static str) {
        self.tell(WireEvent::Drain(until, DrainReason::HandOver, why));
    }

    /// Whether it is known how requests come: a `welcome`, or a request, has come, or none came in time.
    pub(super) fn is_protocol_known(&self) -> bool {
        self.is_streaming() || self.issued() > 0 || self.shared.welcome_overdue.load(Ordering::Acquire)
    }

    /// Records that no `welcome` came in time.
    pub(super) fn set_welcome_overdue(&self) {
        self.shared.welcome_overdue.store(true, Ordering::Release);
    }

    /// Tells the gateway that the session takes no more requests.
    pub(super) fn leave(&self, reason: DrainReason, why: &'static str) {
        let is_first = !self.shared.leaving.swap(true, Ordering::AcqRel);
        match self.mux() {
            Some(mux) if is_first => mux.go_away(u32::MAX, why),
            Some(_) => {}
            // It cannot be told, and goes on to be served until the agent stops.
            None if reason == DrainReason::HandOver => {}
            None => self.refuse_more(),
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
        self.shared.credits.max_message()
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

    /// Tells the writer of something that the gateway may send as often as it likes, with this many bytes. Fails when too
    /// much of it is queued.
    pub(super) fn tell_control(
        &self,
        bytes: usize,
        event: impl FnOnce(Reservation) -> WireEvent,
    ) -> Result<(), SessionEnd> {
        let (room, fits) = self.credits().reserve_control(bytes + EVENT_BYTES);
        self.tell(event(room));
        fits
    }

    /// Tells the writer of a ping. Fails when too much control is queued.
    pub(super) fn tell_ping(&self, payload: &[u8]) -> Result<(), SessionEnd> {
        // A copy: the original keeps the reader's whole buffer alive.
        self.tell_control(payload.len(), |room| WireEvent::Ping(Bytes::copy_from_slice(payload), room))
    }

    /// Tells the writer of a pong, where it waits for one. Fails when too much control is queued.
    pub(super) fn tell_pong(&self, sent: Duration) -> Result<(), SessionEnd> {
        if !self.shared.leaving.load(Ordering::Acquire) {
            return Ok(());
        }
        self.tell_control(0, |room| WireEvent::Pong(sent, room))
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
        self.shared.places.load(Ordering::Acquire) - self.shared.credits.turn()
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

    /// The room for answers and control that wait to be written.
    pub(super) fn credits(&self) -> &Arc<Credits> {
        &self.shared.credits
    }
}

impl Drop for Inbox {
    fn drop(&mut self) {
        self.session.shared.alive.store(false, Ordering::Release);
        self.session.shared.credits.close();
        self.session.mux().inspect(|mux| mux.close());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::credit::CONTROL_MAX;

    #[test]
    fn an_agent_that_stops_refuses_requests_of_a_session_that_was_handed_over() {
        let inbox = channel(10);
        let until = Instant::now();
        inbox.session.leave(DrainReason::HandOver, "moved");
        assert!(!inbox.session.is_draining());
        inbox.session.count_request(None);
        inbox.session.drain(until, "the agent is stopping");
        assert!(inbox.session.is_draining());
    }

    #[test]
    fn control_is_counted_until_it_has_reached_the_writer() {
        let inbox = channel(10);
        let goes_away = |room| WireEvent::GoesAway("payload".to_owned(), room);
        for tell in
            [&(|| inbox.session.tell_ping(b"payload")) as &dyn Fn() -> Result<(), SessionEnd>, &|| {
                inbox.session.tell_control(7, goes_away)
            }]
        {
            let mut sent = 0;
            while tell().is_ok() {
                sent += 7 + EVENT_BYTES;
            }
            assert!((CONTROL_MAX - 7 - EVENT_BYTES..=CONTROL_MAX).contains(&sent), "{sent}");
            inbox.events.try_iter().for_each(drop);
            assert!(tell().is_ok());
            inbox.events.try_iter().for_each(drop);
        }
    }
}
