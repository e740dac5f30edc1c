//! The state of all streams of one connection, for one of its sides. Pure: frames and calls go in, events and
//! frames come out.
//!
//! | what is bounded | by |
//! | --- | --- |
//! | received and not read yet, per stream | the window |
//! | waiting to be sent, per stream | 128 KiB, and the other side's window |
//! | heads, resets and windows that wait | [`control_bytes`](Streams::control_bytes), which the caller limits |

mod halves;

use std::collections::{HashMap, VecDeque};

use tungstenite::Bytes;

use self::halves::{Incoming, Outgoing};
use super::frame::{DataBuffer, Frame, Reset, ResetCode, Violation};
use super::welcome::Limits;

/// Which side of the connection this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Answers streams.
    Agent,
    /// Opens streams.
    Gateway,
}

/// What a frame came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Nothing that anybody waits for.
    Nothing,
    /// The gateway opened a stream: [`accept`](Streams::accept) or [`refuse`](Streams::refuse) it.
    Opened {
        /// Which stream.
        stream: u32,
        /// The request's head.
        head: Bytes,
        /// Whether there is no body.
        end: bool,
    },
    /// There is something to read on this stream, or room to send.
    Changed(u32),
    /// This stream is over before its time.
    Reset(u32),
    /// The other side takes or opens no more streams.
    GoAway {
        /// From an agent, the last stream that it serves.
        last: u32,
        /// Why.
        text: String,
    },
}

/// Why nothing can be done with a stream any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Over {
    /// Both directions are finished, or the agent's is and that was enough.
    Ended,
    /// The other side ended it before its time.
    ByPeer(Reset),
    /// This side did.
    ByUs(Reset),
    /// The connection was lost.
    Lost,
}

/// Why no stream can be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenError {
    /// The connection is lost.
    Lost,
    /// As many are open as may be.
    Full,
}

/// What there was to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Read {
    /// So many bytes.
    Bytes(usize),
    /// The end.
    End,
    /// Nothing yet.
    Wait,
}

/// All streams of a connection. `T` is what the caller keeps with each.
#[derive(Debug)]
pub struct Streams<T> {
    side: Side,
    limits: Limits,
    /// The last stream that was opened.
    last: u32,
    table: HashMap<u32, Stream<T>>,
    /// Streams that are not over yet.
    open: usize,
    control: VecDeque<Control>,
    control_bytes: usize,
    /// Streams with data that waits, in the order of their turns.
    turns: VecDeque<u32>,
    lost: bool,
}

/// What goes out before data.
#[derive(Debug)]
enum Control {
    Frame(Bytes),
    /// The window of this stream, as it is when its turn comes.
    Window(u32),
}

#[derive(Debug)]
struct Stream<T> {
    attached: T,
    /// The response's head, until it is taken.
    head: Option<Bytes>,
    incoming: Incoming,
    outgoing: Outgoing,
    /// An upgrade was asked for; with a 101 each direction ends by itself.
    switched: bool,
    over: Option<Over>,
    /// The caller is done with it.
    released: bool,
}

impl<T> Stream<T> {
    fn new(attached: T, window: u32) -> Self {
        Stream {
            attached,
            head: None,
            incoming: Incoming::new(window),
            outgoing: Outgoing::new(window),
            switched: false,
            over: None,
            released: false,
        }
    }
}

impl<T> Streams<T> {
    /// For a new connection.
    pub fn new(side: Side, limits: Limits) -> Self {
        Streams {
            side,
            limits,
            last: 0,
            table: HashMap::new(),
            open: 0,
            control: VecDeque::new(),
            control_bytes: 0,
            turns: VecDeque::new(),
            lost: false,
        }
    }

    /// The connection's limits.
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// The last stream that was opened; 0 before the first.
    pub fn last(&self) -> u32 {
        self.last
    }

    /// Streams that are not over yet.
    pub fn open_count(&self) -> usize {
        self.open
    }

    /// What the caller keeps with a stream.
    pub fn attached(&self, stream: u32) -> Option<&T> {
        self.table.get(&stream).map(|stream| &stream.attached)
    }

    /// What the caller keeps with all streams.
    pub fn all_attached(&self) -> impl Iterator<Item = &T> {
        self.table.values().map(|stream| &stream.attached)
    }

    /// Bytes of control that wait to be sent, each frame with a little on top.
    pub fn control_bytes(&self) -> usize {
        self.control_bytes
    }

    // -------------------------------------------------------------------------------------------- what comes in

    /// Takes a message that was received.
    pub fn receive(&mut self, message: &Bytes) -> Result<Event, Violation> {
        if self.lost {
            return Ok(Event::Nothing);
        }
        match Frame::decode(message)? {
            Frame::Head { stream, end, head } => self.receive_head(stream, end, head),
            Frame::Data { stream, end, body } => {
                self.on_stream(stream, |streams| streams.receive_data(stream, end, &body))
            }
            Frame::Reset { stream, reset } => self.on_stream(stream, |streams| {
                streams.end(stream, Over::ByPeer(reset));
                Event::Reset(stream)
            }),
            Frame::Window { stream, grant } => {
                self.on_stream(stream, |streams| streams.receive_window(stream, grant))
            }
            Frame::Malformed { stream } => {
                self.on_stream(stream, |streams| streams.break_off(stream, "a frame that cannot be read"))
            }
            Frame::GoAway { last, text } => {
                if self.side == Side::Gateway {
                    self.end_above(last);
                }
                Ok(Event::GoAway { last, text })
            }
            Frame::Unknown => Ok(Event::Nothing),
        }
    }

    /// Ends the streams that the agent does not serve any more.
    fn end_above(&mut self, last: u32) {
        let above: Vec<u32> = self.table.keys().copied().filter(|stream| *stream > last).collect();
        for stream in above {
            self.end(stream, Over::ByPeer(Reset::new(ResetCode::Refused, "the agent is stopping")));
        }
    }

    /// Handles a frame of a stream that is open, ignores one of a stream that has ended, and refuses one of a
    /// stream that never was.
    fn on_stream(
        &mut self,
        stream: u32,
        handle: impl FnOnce(&mut Self) -> Event,
    ) -> Result<Event, Violation> {
        if stream > self.last {
            return Err(Violation("a frame of a stream that was never opened"));
        }
        let is_open = self.table.get(&stream).is_some_and(|stream| stream.over.is_none());
        Ok(if is_open { handle(self) } else { Event::Nothing })
    }

    fn receive_head(&mut self, stream: u32, end: bool, head: Bytes) -> Result<Event, Violation> {
        let is_open = self.table.get(&stream).is_some_and(|stream| stream.over.is_none());
        if self.side == Side::Agent && !is_open {
            if stream <= self.last {
                return Err(Violation("a new stream whose number is not above the last"));
            }
            self.last = stream;
            return Ok(Event::Opened { stream, head, end });
        }
        self.on_stream(stream, |streams| {
            let Some(state) = streams.table.get_mut(&stream) else { return Event::Nothing };
            if state.incoming.has_head {
                return streams.break_off(stream, "a second head");
            }
            if head.len() > super::HEAD_MAX {
                return streams.break_off(stream, "a head that is too large");
            }
            state.incoming.has_head = true;
            state.switched &= is_switch(&head) && !end;
            state.head = Some(head);
            if end {
                streams.receive_end(stream);
            }
            Event::Changed(stream)
        })
    }

    fn receive_data(&mut self, stream: u32, end: bool, body: &[u8]) -> Event {
        let max_frame = self.limits.max_frame as usize;
        let Some(state) = self.table.get_mut(&stream) else { return Event::Nothing };
        if let Err(what) = state.incoming.take(body, max_frame) {
            return self.break_off(stream, what);
        }
        if end {
            self.receive_end(stream);
        }
        Event::Changed(stream)
    }

    fn receive_end(&mut self, stream: u32) {
        let Some(state) = self.table.get_mut(&stream) else { return };
        state.incoming.ended = true;
        let enough = self.side == Side::Gateway && !state.switched;
        if enough || state.outgoing.ended && state.outgoing.is_empty() {
            self.end(stream, Over::Ended);
        }
    }

    fn receive_window(&mut self, stream: u32, grant: u32) -> Event {
        let Some(state) = self.table.get_mut(&stream) else { return Event::Nothing };
        if !state.outgoing.add_credit(grant) {
            return self.break_off(stream, "a window above 2^31-1");
        }
        Event::Changed(stream)
    }

    /// Ends a stream because of what was received on it.
    fn break_off(&mut self, stream: u32, what: &'static str) -> Event {
        self.reset(stream, Reset::new(ResetCode::Protocol, what));
        Event::Reset(stream)
    }

    // -------------------------------------------------------------------------------------------- what is done

    /// Opens a stream.
    pub fn open(&mut self, attached: T, head: Bytes, end: bool, upgrade: bool) -> Result<u32, OpenError> {
        debug_assert_eq!(self.side, Side::Gateway);
        if self.lost {
            return Err(OpenError::Lost);
        }
        let has_room = self.open < self.limits.max_streams as usize;
        let number = self.last.checked_add(1).filter(|_| has_room).ok_or(OpenError::Full)?;
        self.last = number;
        let mut stream = Stream::new(attached, self.limits.window);
        stream.switched = upgrade;
        stream.outgoing.has_head = true;
        stream.outgoing.ended = end;
        self.table.insert(number, stream);
        self.open += 1;
        self.push_control(Frame::Head { stream: number, end, head }.encode());
        Ok(number)
    }

    /// Takes on a stream that was [opened](Event::Opened). False when the connection is lost.
    pub fn accept(&mut self, number: u32, attached: T, end: bool) -> bool {
        if self.lost {
            return false;
        }
        let mut stream = Stream::new(attached, self.limits.window);
        stream.incoming.has_head = true;
        stream.incoming.ended = end;
        self.table.insert(number, stream);
        self.open += 1;
        true
    }

    /// Does not take on a stream that was [opened](Event::Opened).
    pub fn refuse(&mut self, stream: u32, reset: Reset) {
        self.push_control(Frame::Reset { stream, reset }.encode());
    }

    /// Sends the head of a response. With `end` there is no body; a 101 has one that never counts as done
    /// before both sides have ended it.
    pub fn send_head(&mut self, stream: u32, head: Bytes, end: bool) -> Result<(), Over> {
        let state = self.get(stream)?;
        debug_assert!(!state.outgoing.has_head, "a response has one head");
        state.outgoing.has_head = true;
        state.switched = is_switch(&head) && !end;
        self.push_control(Frame::Head { stream, end, head }.encode());
        if end {
            self.sent_end(stream);
        }
        Ok(())
    }

    /// How many bytes of body may be queued now.
    pub fn capacity(&mut self, stream: u32) -> Result<usize, Over> {
        let max_frame = self.limits.max_frame as usize;
        Ok(self.get(stream)?.outgoing.capacity(max_frame))
    }

    /// Whether it is the other side that has to make room.
    pub fn is_out_of_credit(&mut self, stream: u32) -> bool {
        self.get(stream).is_ok_and(|state| state.outgoing.credit() == 0)
    }

    /// Queues the first `length` bytes of a buffer, at most the [`capacity`](Self::capacity). An end without
    /// bytes always fits.
    pub fn send_data(
        &mut self,
        stream: u32,
        buffer: DataBuffer,
        length: usize,
        end: bool,
    ) -> Result<(), Over> {
        let state = self.get(stream)?;
        if state.outgoing.push(buffer.finish(stream, length, end), length, end) {
            self.turns.push_back(stream);
        }
        Ok(())
    }

    /// The response's head, once.
    pub fn take_head(&mut self, stream: u32) -> Result<Option<Bytes>, Over> {
        let Some(state) = self.table.get_mut(&stream) else { return Err(Over::Ended) };
        match (state.head.take(), &state.over) {
            (Some(head), None | Some(Over::Ended)) => Ok(Some(head)),
            (_, Some(over)) => Err(over.clone()),
            _ => Ok(None),
        }
    }

    /// Reads what was received. Data that came before an end in good order can be read after it.
    pub fn read(&mut self, stream: u32, buffer: &mut [u8]) -> Result<Read, Over> {
        let Some(state) = self.table.get_mut(&stream) else { return Err(Over::Ended) };
        if let Some(over) = state.over.as_ref().filter(|over| **over != Over::Ended) {
            return Err(over.clone());
        }
        let read = state.incoming.read(buffer);
        if read == 0 {
            return match &state.over {
                _ if state.incoming.ended => Ok(Read::End),
                Some(over) => Err(over.clone()),
                None => Ok(Read::Wait),
            };
        }
        if state.over.is_none() && state.incoming.wants_to_grant() {
            self.control.push_back(Control::Window(stream));
        }
        Ok(Read::Bytes(read))
    }

    /// Ends a stream before its time.
    pub fn reset(&mut self, stream: u32, reset: Reset) {
        if self.table.get(&stream).is_some_and(|state| state.over.is_none()) {
            self.push_control(Frame::Reset { stream, reset: reset.clone() }.encode());
            self.end(stream, Over::ByUs(reset));
        }
    }

    /// The caller is done with a stream: ends it with this reason when it is not over, and forgets it. A response
    /// whose end is queued still goes out.
    pub fn release(&mut self, stream: u32, reset: Reset) {
        let Some(state) = self.table.get_mut(&stream) else { return };
        state.released = true;
        if self.side == Side::Agent && state.over.is_none() && state.outgoing.ended {
            return;
        }
        self.reset(stream, reset);
        self.table.remove(&stream);
    }

    /// Tells the other side that no stream above this one is served, or with 0 that none will be opened.
    pub fn go_away(&mut self, last: u32, text: &str) {
        self.push_control(Frame::GoAway { last, text: text.to_owned() }.encode());
    }

    /// The connection is lost: ends the streams that are not over, and names them. What came of the others
    /// can still be read.
    pub fn lose(&mut self) -> Vec<u32> {
        self.lost = true;
        self.control.clear();
        self.control_bytes = 0;
        self.turns.clear();
        let open = self.table.iter().filter(|(_, state)| state.over.is_none());
        let open: Vec<u32> = open.map(|(stream, _)| *stream).collect();
        open.iter().for_each(|stream| self.end(*stream, Over::Lost));
        open
    }

    /// Whether there is nothing to send.
    pub fn is_idle(&self) -> bool {
        self.control.is_empty() && self.turns.is_empty()
    }

    /// How the stream ended, if it has.
    pub fn over(&self, stream: u32) -> Option<Over> {
        self.table.get(&stream).map_or(Some(Over::Ended), |state| state.over.clone())
    }

    /// Whether all of a stream's incoming body is there to be read.
    pub fn is_complete(&self, stream: u32) -> bool {
        let in_order = |state: &Stream<T>| matches!(state.over, None | Some(Over::Ended));
        self.table.get(&stream).is_some_and(|state| state.incoming.ended && in_order(state))
    }

    // -------------------------------------------------------------------------------------------- what goes out

    /// The next message to be sent: control first, then the data of one stream after the other. The number is
    /// that of a stream that has room again.
    pub fn next_message(&mut self) -> Option<(Bytes, Option<u32>)> {
        while let Some(control) = self.control.pop_front() {
            match control {
                Control::Frame(frame) => {
                    self.control_bytes -= weight(&frame);
                    return Some((frame, None));
                }
                Control::Window(stream) => {
                    if let Some(frame) = self.grant(stream) {
                        return Some((frame, None));
                    }
                }
            }
        }
        while let Some(stream) = self.turns.pop_front() {
            let Some(state) = self.table.get_mut(&stream) else { continue };
            let Some(frame) = state.outgoing.pop() else { continue };
            if !state.outgoing.is_empty() {
                self.turns.push_back(stream);
            } else if state.outgoing.ended {
                self.sent_end(stream);
            }
            return Some((frame, Some(stream)));
        }
        None
    }

    fn grant(&mut self, stream: u32) -> Option<Bytes> {
        let state = self.table.get_mut(&stream).filter(|state| state.over.is_none())?;
        let grant = state.incoming.grant()?;
        Some(Frame::Window { stream, grant }.encode())
    }

    /// Our end is on its way: after the agent's nothing more follows, but for an upgrade.
    fn sent_end(&mut self, stream: u32) {
        let Some(state) = self.table.get_mut(&stream) else { return };
        state.outgoing.ended = true;
        let enough = self.side == Side::Agent && !state.switched;
        let released = state.released;
        if enough || state.incoming.ended {
            self.end(stream, Over::Ended);
        } else if released {
            self.reset(stream, Reset::new(ResetCode::Cancelled, "nobody listens any more"));
        }
    }

    fn get(&mut self, stream: u32) -> Result<&mut Stream<T>, Over> {
        let state = self.table.get_mut(&stream).ok_or(Over::Ended)?;
        match &state.over {
            Some(over) => Err(over.clone()),
            None => Ok(state),
        }
    }

    fn end(&mut self, stream: u32, over: Over) {
        let Some(state) = self.table.get_mut(&stream).filter(|state| state.over.is_none()) else { return };
        if over != Over::Ended {
            state.incoming.forget();
        }
        state.outgoing.forget();
        state.over = Some(over);
        self.open -= 1;
        if state.released {
            self.table.remove(&stream);
        }
    }

    fn push_control(&mut self, frame: Bytes) {
        if self.lost {
            return;
        }
        self.control_bytes += weight(&frame);
        self.control.push_back(Control::Frame(frame));
    }
}

/// What a frame takes up while it waits, with what surrounds it.
fn weight(frame: &Bytes) -> usize {
    frame.len() + 64
}

/// Whether a response's head changes the protocol.
fn is_switch(head: &[u8]) -> bool {
    head.get(8..12) == Some(b" 101")
}
