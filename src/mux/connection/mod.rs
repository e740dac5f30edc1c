//! All streams of one connection, for one of its sides. Pure: frames and calls go in, events and frames come out.
//!
//! | what is bounded | by |
//! | --- | --- |
//! | received and not read yet, per stream | the window |
//! | queued for sending, per stream | 128 KiB, and the peer's window |
//! | heads, resets and windows in the queue | [`control_bytes`](Streams::control_bytes), which the caller limits |

mod entry;
mod receive;
mod send;

use std::collections::{BTreeMap, VecDeque};

use tungstenite::Bytes;

use self::entry::{Ownership, StreamEntry};
use super::frame::{DataBuffer, Fin, Frame, Reset, weight};
use super::stream::{Closing, Side, StreamEnd, StreamState};
use super::welcome::MuxLimits;
use crate::mux::head::closing_behind;

/// The effect of a frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MuxEvent {
    /// Nothing that a caller waits for.
    Nothing,
    /// The gateway opened a stream: [`accept`](Streams::accept) or [`refuse`](Streams::refuse) it.
    Opened {
        /// Which stream.
        stream: u32,
        /// The request's head.
        head: Bytes,
        /// Whether there is no body.
        fin: Fin,
    },
    /// There is something to read on this stream, or room to send.
    Changed(u32),
    /// This stream was reset, or refused since the peer holds more open than it may.
    Reset(u32),
    /// The peer accepts or opens no more streams.
    GoAway {
        /// From an agent, the last stream that it serves.
        last: u32,
        /// Why.
        text: String,
    },
}

/// Why no stream can be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenError {
    /// The connection is lost.
    Lost,
    /// The peer has sent GOAWAY: it serves only what was on its way.
    GoesAway,
    /// As many streams are open as may be.
    Full,
}

/// The outcome of a read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReadOutcome {
    /// So many bytes.
    Data(usize),
    /// The peer's end.
    Eof,
    /// Nothing yet.
    WouldBlock,
}

/// All streams of a connection. `T` is what the caller attaches to each.
#[derive(Debug)]
pub struct Streams<T> {
    side: Side,
    limits: MuxLimits,
    /// The last stream that was opened.
    last: u32,
    table: BTreeMap<u32, StreamEntry<T>>,
    /// The number of open streams.
    open: usize,
    control: VecDeque<ControlFrame>,
    control_bytes: usize,
    /// Streams whose first data is queued. They precede those whose turn it is.
    beginners: VecDeque<u32>,
    /// The other streams with queued data, in the order of their turns.
    turns: VecDeque<u32>,
    /// Bytes of body in one frame that is sent.
    frame_max: usize,
    link: LinkState,
}

/// The state of the connection, as far as it concerns new streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LinkState {
    Usable,
    /// The peer has sent GOAWAY.
    GoesAway,
    Lost,
}

/// A queued frame that precedes data.
#[derive(Debug)]
enum ControlFrame {
    Encoded(Vec<u8>),
    /// The WINDOW of this stream, with the credit at the time when it is sent.
    Window(u32),
}

impl<T> Streams<T> {
    /// The streams of a new connection: none.
    pub fn new(side: Side, limits: MuxLimits) -> Self {
        Streams {
            side,
            limits,
            last: 0,
            table: BTreeMap::new(),
            open: 0,
            control: VecDeque::new(),
            control_bytes: 0,
            beginners: VecDeque::new(),
            turns: VecDeque::new(),
            frame_max: limits.max_frame as usize,
            link: LinkState::Usable,
        }
    }

    /// The connection's limits.
    pub fn limits(&self) -> MuxLimits {
        self.limits
    }

    /// The last stream that was opened; 0 before the first.
    pub fn last(&self) -> u32 {
        self.last
    }

    /// The number of open streams.
    pub fn open_count(&self) -> usize {
        self.open
    }

    /// The value that the caller attached to a stream.
    pub fn attached(&self, stream: u32) -> Option<&T> {
        self.table.get(&stream).map(|entry| &entry.attached)
    }

    /// The values that the caller attached to all streams.
    pub fn all_attached(&self) -> impl Iterator<Item = &T> {
        self.table.values().map(|entry| &entry.attached)
    }

    /// Bytes of queued control, each frame with a little on top.
    pub fn control_bytes(&self) -> usize {
        self.control_bytes
    }

    /// Limits frames to this size from now on, and to what the peer accepts: on a slow connection a large frame delays
    /// all that follow it.
    pub fn limit_frames(&mut self, bytes: usize) {
        self.frame_max = bytes.min(self.limits.max_frame as usize);
    }

    /// Opens a stream, and queues its HEAD.
    pub fn open(&mut self, attached: T, head: Bytes, fin: Fin, closing: Closing) -> Result<u32, OpenError> {
        debug_assert_eq!(self.side, Side::Gateway);
        match self.link {
            LinkState::Usable => {}
            LinkState::GoesAway => return Err(OpenError::GoesAway),
            LinkState::Lost => return Err(OpenError::Lost),
        }
        let has_room = self.open < self.limits.max_streams as usize;
        let number = self.last.checked_add(1).filter(|_| has_room).ok_or(OpenError::Full)?;
        self.last = number;
        let entry = StreamEntry::new(attached, StreamState::opened(fin, closing), self.limits.window);
        self.table.insert(number, entry);
        self.open += 1;
        self.push_control(Frame::Head { stream: number, fin, head }.to_vec());
        Ok(number)
    }

    /// Accepts a stream that was [opened](MuxEvent::Opened). False when the connection is lost.
    pub fn accept(&mut self, number: u32, attached: T, fin: Fin) -> bool {
        if self.link == LinkState::Lost {
            return false;
        }
        let entry = StreamEntry::new(attached, StreamState::accepted(fin), self.limits.window);
        self.table.insert(number, entry);
        self.open += 1;
        true
    }

    /// Refuses a stream that was [opened](MuxEvent::Opened).
    pub fn refuse(&mut self, stream: u32, reset: Reset) {
        self.push_control(Frame::Reset { stream, reset }.to_vec());
    }

    /// Queues the head of a response. With [`Fin::Last`] there is no body; a 101 has one, and its stream closes with
    /// the end of both directions.
    pub fn send_head(&mut self, stream: u32, head: Bytes, fin: Fin) -> Result<(), StreamEnd> {
        let entry = self.open_entry(stream)?;
        debug_assert!(entry.state.awaits_head_of_ours(), "a response has one head");
        entry.state.head_sent(fin, closing_behind(&head, fin));
        self.push_control(Frame::Head { stream, fin, head }.to_vec());
        self.settle(stream);
        Ok(())
    }

    /// How many bytes of body may be queued now.
    pub fn capacity(&mut self, stream: u32) -> Result<usize, StreamEnd> {
        let max_frame = self.frame_max;
        Ok(self.open_entry(stream)?.send.capacity(max_frame))
    }

    /// Queues the first `length` bytes of a buffer, at most the [`capacity`](Self::capacity). An end without
    /// bytes always fits.
    pub fn send_data(
        &mut self,
        stream: u32,
        buffer: DataBuffer,
        length: usize,
        fin: Fin,
    ) -> Result<(), StreamEnd> {
        let entry = self.open_entry(stream)?;
        debug_assert!(!entry.state.is_end_queued(), "nothing follows the end");
        let begins = !entry.send.has_begun();
        let was_empty = entry.send.push(buffer.finish(stream, length, fin), length);
        if fin == Fin::Last {
            entry.state.end_queued();
        }
        match was_empty {
            // A response that begins does not wait behind those that last.
            true if begins => self.beginners.push_back(stream),
            true => self.turns.push_back(stream),
            false => {}
        }
        Ok(())
    }

    /// The response's head, once.
    pub fn take_head(&mut self, stream: u32) -> Result<Option<Bytes>, StreamEnd> {
        let Some(entry) = self.table.get_mut(&stream) else { return Err(StreamEnd::Ended) };
        match (entry.head.take(), entry.state.end()) {
            (Some(head), None | Some(StreamEnd::Ended)) => Ok(Some(head)),
            (_, Some(end)) => Err(end.clone()),
            _ => Ok(None),
        }
    }

    /// Reads what was received. Data that preceded an end in good order can be read after it.
    pub fn read(&mut self, stream: u32, buffer: &mut [u8]) -> Result<ReadOutcome, StreamEnd> {
        let Some(entry) = self.table.get_mut(&stream) else { return Err(StreamEnd::Ended) };
        if let Some(end) = entry.state.end().filter(|end| **end != StreamEnd::Ended) {
            return Err(end.clone());
        }
        let read = entry.receive.read(buffer);
        if read == 0 {
            return match entry.state.end() {
                _ if entry.state.is_received() => Ok(ReadOutcome::Eof),
                Some(end) => Err(end.clone()),
                None => Ok(ReadOutcome::WouldBlock),
            };
        }
        if entry.state.is_open() && !entry.state.is_received() && entry.receive.queue_grant() {
            self.control.push_back(ControlFrame::Window(stream));
        }
        Ok(ReadOutcome::Data(read))
    }

    /// Resets a stream, unless it is closed.
    pub fn reset(&mut self, stream: u32, reset: Reset) {
        if self.table.get(&stream).is_some_and(|entry| entry.state.is_open()) {
            self.push_control(Frame::Reset { stream, reset: reset.clone() }.to_vec());
            self.close(stream, StreamEnd::ByUs(reset));
        }
    }

    /// Forgets a stream that the caller does not hold any more, and resets it when it is open. A response whose end
    /// is queued still goes out.
    pub fn release(&mut self, stream: u32, reset: Reset) {
        let Some(entry) = self.table.get_mut(&stream) else { return };
        entry.ownership = Ownership::Released;
        if self.side == Side::Agent && entry.state.is_end_queued() {
            return;
        }
        self.reset(stream, reset);
        self.table.remove(&stream);
    }

    /// Queues a GOAWAY: no stream above `last` is served, or with 0 none will be opened.
    pub fn go_away(&mut self, last: u32, text: &str) {
        self.push_control(Frame::GoAway { last, text: text.to_owned() }.to_vec());
    }

    /// Records that the connection is lost: closes the open streams, and returns them. What closed streams have
    /// received can still be read.
    pub fn lose(&mut self) -> Vec<u32> {
        self.link = LinkState::Lost;
        self.control.clear();
        self.control_bytes = 0;
        self.beginners.clear();
        self.turns.clear();
        let open = self.table.iter().filter(|(_, entry)| entry.state.is_open());
        let open: Vec<u32> = open.map(|(stream, _)| *stream).collect();
        open.iter().for_each(|stream| self.close(*stream, StreamEnd::Lost));
        open
    }

    /// Whether there is nothing to send.
    pub fn is_idle(&self) -> bool {
        self.control.is_empty() && self.beginners.is_empty() && self.turns.is_empty()
    }

    /// Why the stream is closed, if it is.
    pub fn end(&self, stream: u32) -> Option<StreamEnd> {
        self.table.get(&stream).map_or(Some(StreamEnd::Ended), |entry| entry.state.end().cloned())
    }

    /// Bytes of body that a stream has received so far.
    pub fn received(&self, stream: u32) -> u64 {
        self.table.get(&stream).map_or(0, |entry| entry.receive.total())
    }

    /// Whether the peer has granted more than the first window of a stream.
    pub fn is_granted(&self, stream: u32) -> bool {
        self.table.get(&stream).is_some_and(|entry| entry.send.is_granted())
    }

    /// The unread rest of a stream's body, once all of it has come.
    pub fn take_rest(&mut self, stream: u32) -> Option<Vec<u8>> {
        let entry = self.table.get_mut(&stream)?;
        entry.state.is_received().then(|| entry.receive.take())
    }

    fn open_entry(&mut self, stream: u32) -> Result<&mut StreamEntry<T>, StreamEnd> {
        let entry = self.table.get_mut(&stream).ok_or(StreamEnd::Ended)?;
        match entry.state.end() {
            Some(end) => Err(end.clone()),
            None => Ok(entry),
        }
    }

    fn close(&mut self, stream: u32, end: StreamEnd) {
        if let Some(entry) = self.table.get_mut(&stream).filter(|entry| entry.state.is_open()) {
            entry.state.close(end);
            self.settle(stream);
        }
    }

    /// Counts a stream as closed that was open and may have just closed.
    fn settle(&mut self, stream: u32) {
        let Some(entry) = self.table.get_mut(&stream) else { return };
        if !entry.state.is_open() {
            entry.clear();
            self.open -= 1;
            if entry.ownership == Ownership::Released {
                self.table.remove(&stream);
            }
        }
    }

    fn push_control(&mut self, frame: Vec<u8>) {
        if self.link != LinkState::Lost {
            self.control_bytes += weight(&frame);
            self.control.push_back(ControlFrame::Encoded(frame));
        }
    }
}
