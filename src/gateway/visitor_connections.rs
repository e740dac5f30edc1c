//! The visitors' connections: how many there may be, whose place a new one takes, and how far each is.
//!
//! A place is worth most to a connection that uses it. When all are taken, the connection that has been longest without a complete
//! request makes room; when all have requests under way, the slowest does, if it is slower than any visitor needs to be. Where
//! none does, a new one may still say in the anteroom what it wants: it may be an agent.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use crate::http1::Persistence;
use crate::net::{Closer, Traffic};
use crate::sync::lock;

/// Between two looks at how much each connection has moved.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// For so long a connection must have moved little to make room.
const SLOW_FOR: Duration = Duration::from_secs(10);

/// Bytes in a second below which it is little.
const SLOW: u64 = 1 << 10;

/// Connections beyond the places that are read: agents come in, and requests for the gateway's own pages; others are
/// told that there is no place.
const ANTEROOM: usize = 32;

/// Looks that are remembered: the oldest is at least [`SLOW_FOR`] old when there are as many.
const LOOKS: usize = 3;

/// All visitors' connections.
pub(super) struct VisitorConnections {
    state: Mutex<State>,
    changed: Condvar,
    limits: VisitorLimits,
}

/// How many connections there may be.
#[derive(Debug, Clone, Copy)]
pub(super) struct VisitorLimits {
    pub(super) places: usize,
    pub(super) per_address: usize,
}

/// The visitors' connections in numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Census {
    pub(super) connections: usize,
    /// Those that have a place.
    pub(super) placed: usize,
    /// Those that have a request.
    pub(super) requests: usize,
    /// Bytes from visitors since the start.
    pub(super) received: u64,
    /// Bytes to them.
    pub(super) sent: u64,
}

#[derive(Default)]
struct State {
    draining: bool,
    next_id: u64,
    /// The bytes that connections that have ended had received and sent.
    received_before: u64,
    sent_before: u64,
    list: BTreeMap<u64, Entry>,
    looked: Option<Instant>,
}

struct Entry {
    place: Arc<ConnectionPlace>,
    /// The address that is counted; none where connections are not limited.
    address: Option<IpAddr>,
    stage: Stage,
    /// It is in the anteroom: there was no place for it.
    is_guest: bool,
    /// A trusted proxy's: its address is that of whose request it carries, for as long as it does.
    is_proxied: bool,
    /// Since when there has been no complete request.
    waiting_since: Instant,
    traffic: Arc<Traffic>,
    /// When it was looked at, and what it had moved by then; the newest first.
    looks: Vec<(Instant, u64)>,
}

/// The state that a connection's thread shares with the registry.
struct ConnectionPlace {
    closer: Closer,
    /// Another connection has its place.
    evicted: AtomicBool,
    /// A response has begun.
    responding: AtomicBool,
}

/// How far a connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// It waits for another request.
    Idle,
    /// A request arrives.
    Arriving,
    /// Its head is complete, and no agent has it yet.
    Received,
    /// A request is being answered.
    Served,
    /// A response that may be silent for as long as it likes is sent: another protocol, or an event stream.
    Lasting,
}

impl Stage {
    fn has_request(self) -> bool {
        matches!(self, Stage::Received | Stage::Served | Stage::Lasting)
    }
}

/// One connection, for as long as it is a visitor's.
pub(super) struct VisitorConnection {
    visitors: Arc<VisitorConnections>,
    place: Arc<ConnectionPlace>,
    id: u64,
}

impl Entry {
    /// Bytes in a second that it has moved lately, when it is known for long enough.
    fn rate(&self, now: Instant) -> Option<u64> {
        let is_old = |(at, _): &&(Instant, u64)| now.saturating_duration_since(*at) >= SLOW_FOR;
        let (at, bytes) = self.looks.iter().find(is_old)?;
        let seconds = now.saturating_duration_since(*at).as_secs().max(1);
        Some(self.traffic.bytes().saturating_sub(*bytes) / seconds)
    }

    /// Ends a connection whose place is another's now.
    fn evict(self) {
        self.place.evicted.store(true, Ordering::SeqCst);
        if !self.stage.has_request() {
            self.place.closer.close();
        } else if self.place.responding.load(Ordering::SeqCst) {
            self.place.closer.abort();
        } else {
            // Its thread notices, and tells the visitor.
            self.place.closer.stop_reading();
        }
    }
}

impl State {
    /// Connections that have a place.
    fn placed(&self) -> usize {
        self.list.values().filter(|entry| !entry.is_guest).count()
    }

    fn count_of(&self, address: IpAddr) -> usize {
        self.list.values().filter(|entry| entry.address == Some(address)).count()
    }

    /// Forgets a connection, but for what it has moved.
    fn remove(&mut self, id: u64) -> Option<Entry> {
        let entry = self.list.remove(&id)?;
        self.received_before += entry.traffic.received();
        self.sent_before += entry.traffic.sent();
        Some(entry)
    }

    /// Frees a place of a connection that `may` give its own. False when there is none to be had.
    fn make_room(&mut self, may: impl Fn(&Entry) -> bool, now: Instant) -> bool {
        let candidates = || self.list.iter().filter(|(_, entry)| may(entry));
        let longest = candidates()
            .filter(|(_, entry)| !entry.stage.has_request())
            .min_by_key(|(_, entry)| entry.waiting_since)
            .map(|(id, _)| *id);
        let slowest = || {
            let rates = candidates()
                .filter(|(_, entry)| matches!(entry.stage, Stage::Received | Stage::Served))
                .filter_map(|(id, entry)| Some((entry.rate(now)?, *id)));
            rates.min().filter(|(rate, _)| *rate < SLOW).map(|(_, id)| id)
        };
        let Some(entry) = longest.or_else(slowest).and_then(|id| self.remove(id)) else { return false };
        entry.evict();
        true
    }

    /// Looks at what each connection has moved, now and then.
    fn look(&mut self, now: Instant) {
        if self.looked.is_some_and(|last| now.saturating_duration_since(last) < LOOK_EVERY) {
            return;
        }
        self.looked = Some(now);
        for entry in self.list.values_mut() {
            entry.looks.insert(0, (now, entry.traffic.bytes()));
            entry.looks.truncate(LOOKS);
        }
    }
}

impl VisitorConnections {
    pub(super) fn new(limits: VisitorLimits) -> Self {
        VisitorConnections { state: Mutex::default(), changed: Condvar::new(), limits }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Gives a new connection a place, another's if need be, else one in the anteroom. Its first request is on its way.
    /// `None` when it cannot have one.
    pub(super) fn enter(
        self: &Arc<Self>,
        closer: Closer,
        traffic: Arc<Traffic>,
        address: Option<IpAddr>,
        now: Instant,
    ) -> Option<VisitorConnection> {
        let VisitorLimits { places, per_address } = self.limits;
        let mut state = self.state();
        if state.list.len() > places / 2 {
            state.look(now);
        }
        if address.is_some_and(|address| state.count_of(address) >= per_address)
            && !state.make_room(|entry| entry.address == address, now)
        {
            return None;
        }
        let is_full = state.list.len() >= places && state.placed() >= places;
        let is_guest = is_full && !state.make_room(|entry| !entry.is_guest, now);
        if is_guest
            && state.list.len() - state.placed() >= ANTEROOM
            && !state.make_room(|entry| entry.is_guest, now)
        {
            return None;
        }
        let id = state.next_id;
        state.next_id += 1;
        let place = Arc::new(ConnectionPlace {
            closer,
            evicted: AtomicBool::new(false),
            responding: AtomicBool::new(false),
        });
        let entry = Entry {
            place: place.clone(),
            address,
            stage: Stage::Arriving,
            is_guest,
            is_proxied: false,
            waiting_since: now,
            traffic,
            looks: Vec::new(),
        };
        state.list.insert(id, entry);
        Some(VisitorConnection { visitors: self.clone(), place, id })
    }

    /// Ends the connection that has been longest without a request: the system gives no more.
    pub(super) fn make_room(&self) {
        self.state().make_room(|_| true, Instant::now());
    }

    /// Whether places are short, so that each step of an unknown connection has less time.
    pub(super) fn are_short(&self) -> bool {
        self.state().list.len() > self.limits.places / 4 * 3
    }

    /// How many places there are.
    pub(super) fn places(&self) -> usize {
        self.limits.places
    }

    /// All connections in numbers.
    pub(super) fn census(&self) -> Census {
        let state = self.state();
        let mut census =
            Census { received: state.received_before, sent: state.sent_before, ..Census::default() };
        for entry in state.list.values() {
            census.connections += 1;
            census.placed += usize::from(!entry.is_guest);
            census.requests += usize::from(entry.stage.has_request());
            census.received += entry.traffic.received();
            census.sent += entry.traffic.sent();
        }
        census
    }

    /// Whether the gateway is about to stop.
    pub(super) fn are_draining(&self) -> bool {
        self.state().draining
    }

    /// Lets each connection end with its next response.
    pub(super) fn drain(&self) {
        self.state().draining = true;
    }

    /// Waits until no connection is in one of these stages, no longer than until this time.
    pub(super) fn wait_for_none(&self, stages: &[Stage], until: Instant) {
        let some = |state: &mut State| state.list.values().any(|entry| stages.contains(&entry.stage));
        let limit = until.saturating_duration_since(Instant::now());
        // Whether they were in time changes nothing: the gateway stops.
        let _ = self.changed.wait_timeout_while(self.state(), limit, some);
    }

    /// Breaks all connections off, so that no response that is cut looks whole.
    pub(super) fn abort_all(&self) {
        self.state().list.values().for_each(|entry| entry.place.closer.abort());
    }

    fn changed(&self, state: MutexGuard<'_, State>) {
        let draining = state.draining;
        drop(state);
        if draining {
            self.changed.notify_all();
        }
    }
}

impl VisitorConnection {
    /// Records how far the connection is.
    pub(super) fn enter(&self, stage: Stage) {
        let mut state = self.visitors.state();
        if let Some(entry) = state.list.get_mut(&self.id) {
            if entry.stage.has_request() && !stage.has_request() {
                entry.waiting_since = Instant::now();
                self.place.responding.store(false, Ordering::SeqCst);
            }
            if entry.is_proxied && !stage.has_request() {
                entry.address = None;
            }
            entry.stage = stage;
        }
        self.visitors.changed(state);
    }

    /// Takes a place for a request, if the connection has none and there is one. Whether it has one now.
    pub(super) fn settle(&self) -> bool {
        let mut state = self.visitors.state();
        // One that is not in the list has lost its place to another.
        let is_guest = |state: &State| state.list.get(&self.id).is_none_or(|entry| entry.is_guest);
        if is_guest(&state) && state.placed() < self.visitors.limits.places {
            if let Some(entry) = state.list.get_mut(&self.id) {
                entry.is_guest = false;
            }
        }
        !is_guest(&state)
    }

    /// Counts the connection, a proxy's, as this address's until its request is answered, unless that has as many as it may
    /// have already.
    pub(super) fn count_as(&self, address: Option<IpAddr>) -> bool {
        let mut state = self.visitors.state();
        if let Some(entry) = state.list.get_mut(&self.id) {
            entry.is_proxied = true;
            entry.address = None;
        }
        if address.is_some_and(|address| state.count_of(address) >= self.visitors.limits.per_address) {
            return false;
        }
        if let Some(entry) = state.list.get_mut(&self.id) {
            entry.address = address;
        }
        true
    }

    /// Records that a response begins. Returns whether the connection may carry another request behind it.
    pub(super) fn begin_response(&self) -> Persistence {
        self.place.responding.store(true, Ordering::SeqCst);
        let state = self.visitors.state();
        let has_place = state.list.get(&self.id).is_none_or(|entry| !entry.is_guest);
        Persistence::from(!state.draining && has_place)
    }

    /// Whether another connection has its place.
    pub(super) fn is_evicted(&self) -> bool {
        self.place.evicted.load(Ordering::SeqCst)
    }
}

impl Drop for VisitorConnection {
    fn drop(&mut self) {
        let mut state = self.visitors.state();
        state.remove(self.id);
        self.visitors.changed(state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::net::{TcpListener, TcpStream};

    use crate::net::Socket;

    struct Test {
        visitors: Arc<VisitorConnections>,
        listener: TcpListener,
        start: Instant,
    }

    /// A visitor's place, its end of the connection, and the gateway's.
    type ConnectionPlace = (VisitorConnection, TcpStream, Socket);

    impl Test {
        fn new(places: usize, per_address: usize) -> Self {
            let visitors = Arc::new(VisitorConnections::new(VisitorLimits { places, per_address }));
            Test { visitors, listener: TcpListener::bind("127.0.0.1:0").unwrap(), start: Instant::now() }
        }

        fn comes(&self, second: u64, address: Option<&str>) -> Option<ConnectionPlace> {
            let outside = TcpStream::connect(self.listener.local_addr().unwrap()).unwrap();
            let socket = Socket::plain(self.listener.accept().unwrap().0).unwrap();
            let now = self.start + Duration::from_secs(second);
            let address = address.map(|address| address.parse().unwrap());
            let visitor = self.visitors.enter(socket.closer(), socket.traffic(), address, now)?;
            Some((visitor, outside, socket))
        }
    }

    #[track_caller]
    fn has_ended(place: &mut ConnectionPlace) {
        assert!(place.0.is_evicted());
        // The end, or a reset.
        assert!(!matches!(place.1.read(&mut [0]), Ok(1)));
    }

    #[test]
    fn whoever_has_waited_longest_without_a_request_makes_room() {
        let test = Test::new(3, 3);
        let mut first = test.comes(0, None).unwrap();
        let mut second = test.comes(1, None).unwrap();
        let third = test.comes(2, None).unwrap();
        first.0.enter(Stage::Served);
        let _fourth = test.comes(3, None).unwrap();
        has_ended(&mut second);
        // It waits again only since its request was answered.
        third.0.enter(Stage::Served);
        first.0.enter(Stage::Idle);
        assert!(!first.0.is_evicted() && !third.0.is_evicted());
        let _fifth = test.comes(4, None).unwrap();
        assert!(!third.0.is_evicted());
        has_ended(&mut first);
    }

    #[test]
    fn when_all_have_requests_the_slowest_makes_room_if_it_is_slow() {
        let test = Test::new(3, 3);
        let mut places: Vec<_> = (0..3).map(|_| test.comes(0, None).unwrap()).collect();
        places[0].0.enter(Stage::Lasting);
        places[1].0.enter(Stage::Served);
        places[2].0.enter(Stage::Served);
        // No connection is known for long enough.
        assert!([5, 9].iter().all(|&second| !test.comes(second, None).unwrap().0.settle()));
        std::io::Write::write_all(&mut places[1].1, &[0; 40_000]).unwrap();
        let mut rest = 40_000;
        while rest > 0 {
            rest -= places[1].2.read(&mut [0; 40_000]).unwrap();
        }
        assert!(test.comes(15, None).unwrap().0.settle());
        assert_eq!([0, 1, 2].map(|index: usize| places[index].0.is_evicted()), [false, false, true]);
        // It can still be told so.
        assert!(places[2].2.read(&mut [0]).is_ok_and(|read| read == 0));
        std::io::Write::write_all(&mut places[2].2, b"x").unwrap();
        assert_eq!(places[2].1.read(&mut [0]).unwrap(), 1);
    }

    #[test]
    fn an_address_has_its_share_and_makes_room_for_itself() {
        let test = Test::new(10, 2);
        let one = Some("192.0.2.1");
        let mut first = test.comes(0, one).unwrap();
        let second = test.comes(1, one).unwrap();
        second.0.enter(Stage::Served);
        let other = test.comes(2, Some("192.0.2.2")).unwrap();
        let third = test.comes(3, one).unwrap();
        has_ended(&mut first);
        third.0.enter(Stage::Served);
        assert!(test.comes(4, one).is_none());
        assert!(!other.0.is_evicted() && test.comes(5, None).is_some());
        drop(third);
        assert!(test.comes(6, one).is_some());
    }

    #[test]
    fn where_nobody_makes_room_a_new_one_may_say_what_it_wants() {
        let test = Test::new(2, 100);
        let mut lasting: Vec<_> = (0..2).map(|_| test.comes(0, None).unwrap()).collect();
        lasting.iter().for_each(|place| place.0.enter(Stage::Lasting));
        let mut guests: Vec<_> =
            (0..ANTEROOM as u64).map(|second| test.comes(second, None).unwrap()).collect();
        assert!(!guests[1].0.settle() && guests[1].0.begin_response() == Persistence::Close);
        // The one that has been there longest without a request makes room for another.
        let _another = test.comes(100, None).unwrap();
        has_ended(&mut guests[0]);
        assert!(lasting.iter().all(|place| !place.0.is_evicted()));
        // An agent, or a visitor that disconnects, frees a place.
        drop(lasting.pop());
        assert!(guests[1].0.settle() && guests[1].0.begin_response() == Persistence::KeepAlive);
        assert!(!guests[2].0.settle());
    }

    #[test]
    fn who_waits_for_an_agent_has_a_request() {
        let test = Test::new(2, 2);
        let received = test.comes(0, None).unwrap();
        received.0.enter(Stage::Received);
        let mut silent = test.comes(1, None).unwrap();
        let _next = test.comes(2, None).unwrap();
        assert!(!received.0.is_evicted());
        has_ended(&mut silent);
    }

    #[test]
    fn behind_a_proxy_a_request_counts_for_its_visitor() {
        let test = Test::new(10, 2);
        let one = Some("192.0.2.1".parse().unwrap());
        let through: Vec<_> = (0..3).map(|_| test.comes(0, None).unwrap()).collect();
        assert_eq!([0, 1, 2].map(|index: usize| through[index].0.count_as(one)), [true, true, false]);
        // The visitor's next request on the connection is in its own place.
        assert!(through[1].0.count_as(one));
        // And a connection that waits for another request is counted for no visitor.
        through[0].0.enter(Stage::Served);
        through[0].0.enter(Stage::Idle);
        assert!(through[2].0.count_as(one));
    }

    #[test]
    fn places_are_short_when_three_quarters_are_taken() {
        let test = Test::new(4, 4);
        let mut places = Vec::new();
        for short in [false, false, false, true] {
            places.push(test.comes(0, None).unwrap());
            assert_eq!(test.visitors.are_short(), short);
        }
        places.pop();
        assert!(!test.visitors.are_short());
    }
}
