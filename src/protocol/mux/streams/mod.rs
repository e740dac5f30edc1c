//! The state of all streams of one connection, for one of its sides. Pure: frames and calls go in, events and
//! frames come out.
//!
//! | what is bounded | by |
//! | --- | --- |
//! | received and not read yet, per stream | the window |
//! | waiting to be sent, per stream | 128 KiB, and the other side's window |
//! | heads, resets and windows that wait | [`control_bytes`](Streams::control_bytes), which the caller limits |

mod halves;
mod receive;
mod send;

use std::collections::{HashMap, VecDeque};

use tungstenite::Bytes;

use self::halves::{Incoming, Outgoing};
use super::frame::{DataBuffer, Frame, Reset};
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
    /// The other side takes leave, and serves only what was on its way.
    GoesAway,
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
    /// Streams whose first data waits. They come before those whose turn it is.
    beginners: VecDeque<u32>,
    /// The other streams with data that waits, in the order of their turns.
    turns: VecDeque<u32>,
    /// Bytes of body in one frame that is sent.
    frame_max: usize,
    /// The other side takes leave.
    goes_away: bool,
    lost: bool,
}

/// What goes out before data.
#[derive(Debug)]
enum Control {
    Frame(Vec<u8>),
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
            beginners: VecDeque::new(),
            turns: VecDeque::new(),
            frame_max: limits.max_frame as usize,
            goes_away: false,
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

    /// Makes frames no larger than this from now on, and no larger than the other side takes: on a slow connection a
    /// large one delays all that come behind it.
    pub fn limit_frames(&mut self, bytes: usize) {
        self.frame_max = bytes.min(self.limits.max_frame as usize);
    }

    /// Opens a stream.
    pub fn open(&mut self, attached: T, head: Bytes, end: bool, upgrade: bool) -> Result<u32, OpenError> {
        debug_assert_eq!(self.side, Side::Gateway);
        if self.lost {
            return Err(OpenError::Lost);
        }
        if self.goes_away {
            return Err(OpenError::GoesAway);
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
        self.push_control(Frame::Head { stream: number, end, head }.to_vec());
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
        self.push_control(Frame::Reset { stream, reset }.to_vec());
    }

    /// Sends the head of a response. With `end` there is no body; a 101 has one that never counts as done
    /// before both sides have ended it.
    pub fn send_head(&mut self, stream: u32, head: Bytes, end: bool) -> Result<(), Over> {
        let state = self.get(stream)?;
        debug_assert!(!state.outgoing.has_head, "a response has one head");
        state.outgoing.has_head = true;
        state.switched = is_switch(&head) && !end;
        self.push_control(Frame::Head { stream, end, head }.to_vec());
        if end {
            self.sent_end(stream);
        }
        Ok(())
    }

    /// How many bytes of body may be queued now.
    pub fn capacity(&mut self, stream: u32) -> Result<usize, Over> {
        let max_frame = self.frame_max;
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
        let begins = !state.outgoing.has_begun;
        match state.outgoing.push(buffer.finish(stream, length, end), length, end) {
            // What has just begun is not kept waiting by what lasts.
            true if begins => self.beginners.push_back(stream),
            true => self.turns.push_back(stream),
            false => {}
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
            self.push_control(Frame::Reset { stream, reset: reset.clone() }.to_vec());
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
        self.push_control(Frame::GoAway { last, text: text.to_owned() }.to_vec());
    }

    /// The connection is lost: ends the streams that are not over, and names them. What came of the others
    /// can still be read.
    pub fn lose(&mut self) -> Vec<u32> {
        self.lost = true;
        self.control.clear();
        self.control_bytes = 0;
        self.beginners.clear();
        self.turns.clear();
        let open = self.table.iter().filter(|(_, state)| state.over.is_none());
        let open: Vec<u32> = open.map(|(stream, _)| *stream).collect();
        open.iter().for_each(|stream| self.end(*stream, Over::Lost));
        open
    }

    /// Whether there is nothing to send.
    pub fn is_idle(&self) -> bool {
        self.control.is_empty() && self.beginners.is_empty() && self.turns.is_empty()
    }

    /// How the stream ended, if it has.
    pub fn over(&self, stream: u32) -> Option<Over> {
        self.table.get(&stream).map_or(Some(Over::Ended), |state| state.over.clone())
    }

    /// Bytes of body that a stream has received so far.
    pub fn received(&self, stream: u32) -> u64 {
        self.table.get(&stream).map_or(0, |state| state.incoming.total)
    }

    /// Whether the other side has granted more than the first window of a stream.
    pub fn is_granted(&self, stream: u32) -> bool {
        self.table.get(&stream).is_some_and(|state| state.outgoing.is_granted)
    }

    /// Whether all of a stream's incoming body is there to be read.
    pub fn is_complete(&self, stream: u32) -> bool {
        let in_order = |state: &Stream<T>| matches!(state.over, None | Some(Over::Ended));
        self.table.get(&stream).is_some_and(|state| state.incoming.ended && in_order(state))
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

    fn push_control(&mut self, frame: Vec<u8>) {
        if self.lost {
            return;
        }
        self.control_bytes += weight(&frame);
        self.control.push_back(Control::Frame(frame));
    }
}

/// What a frame takes up while it waits, with what surrounds it.
fn weight(frame: &[u8]) -> usize {
    frame.len() + 64
}

/// Whether a response's head changes the protocol.
fn is_switch(head: &[u8]) -> bool {
    head.get(8..12) == Some(b" 101")
}
