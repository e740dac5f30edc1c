//! One stream, read and written by blocking threads.

use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{fmt, io};

use tungstenite::Bytes;

use super::{Attached, Mux, SPARE_MIN, WINDOW_WAIT, given_up};
use crate::mux::{DataBuffer, Fin, ReadOutcome, Reset, StreamEnd, Streams};
use crate::service::{Cancellation, Failure, FailureKind};
use crate::sync::Waiters;

/// One stream. Dropping the last clone ends it.
#[derive(Clone)]
pub struct Stream(pub(super) Arc<StreamCore>);

pub(super) struct StreamCore {
    pub(super) mux: Arc<Mux>,
    pub(super) number: u32,
    pub(super) waiters: Arc<Waiters>,
    pub(super) cancellation: Cancellation,
}

/// Why nothing more can be done with a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StreamError {
    /// It has ended.
    Closed(StreamEnd),
    /// The other side sends nothing, or grants no window.
    TimedOut,
}

impl fmt::Display for StreamError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StreamError::Closed(StreamEnd::Ended) => f.write_str("the stream has ended"),
            StreamError::Closed(StreamEnd::ByPeer(reset) | StreamEnd::ByUs(reset)) => {
                write!(f, "the stream was reset: {reset}")
            }
            StreamError::Closed(StreamEnd::Lost) => f.write_str("the tunnel's connection was lost"),
            StreamError::TimedOut => f.write_str("the other side of the tunnel stalled"),
        }
    }
}

impl std::error::Error for StreamError {}

impl From<StreamEnd> for StreamError {
    fn from(over: StreamEnd) -> Self {
        StreamError::Closed(over)
    }
}

impl StreamCore {
    pub(super) fn new(mux: &Arc<Mux>, number: u32) -> Self {
        StreamCore {
            mux: mux.clone(),
            number,
            waiters: Arc::default(),
            cancellation: Cancellation::default(),
        }
    }

    pub(super) fn attached(&self) -> Attached {
        Attached { waiters: self.waiters.clone(), cancellation: self.cancellation.clone() }
    }
}

impl Drop for StreamCore {
    fn drop(&mut self) {
        // The reader may be what drops it, which does not write. Mostly there is nothing to send.
        self.mux.act_for_writer(|streams| streams.release(self.number, given_up()));
    }
}

impl Stream {
    /// Fires when the other side resets the stream, or the connection has ended.
    pub fn cancellation(&self) -> &Cancellation {
        &self.0.cancellation
    }

    /// Waits until `look` finds something, at most for `timeout`.
    fn wait<R>(
        &self,
        timeout: Option<Duration>,
        mut look: impl FnMut(&mut Streams<Attached>) -> Result<Option<R>, StreamError>,
    ) -> Result<R, StreamError> {
        let until = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let mut state = self.0.mux.state();
        loop {
            if let Some(found) = look(&mut state.streams)? {
                return Ok(found);
            }
            let remaining = until.map(|until| until.saturating_duration_since(Instant::now()));
            if remaining == Some(Duration::ZERO) {
                return Err(StreamError::TimedOut);
            }
            state = self.0.waiters.wait(state, remaining);
        }
    }

    /// Waits for the response's head, as long as `timeout` says.
    pub fn head(&self, timeout: Duration) -> Result<Bytes, StreamError> {
        self.wait(Some(timeout), |streams| Ok(streams.take_head(self.0.number)?))
    }

    /// Waits for bytes, as long as `timeout` says. `Ok(0)` is the end.
    pub fn read(&self, buffer: &mut [u8], timeout: Option<Duration>) -> Result<usize, StreamError> {
        let read = self.wait(timeout, |streams| match streams.read(self.0.number, buffer)? {
            ReadOutcome::Data(read) => Ok(Some(read)),
            ReadOutcome::Eof => Ok(Some(0)),
            ReadOutcome::WouldBlock => Ok(None),
        })?;
        // A window, perhaps.
        self.0.mux.transmit(self.0.mux.state());
        Ok(read)
    }

    /// All of the body, when its end has come already.
    pub fn whole(&self) -> Option<Vec<u8>> {
        self.0.mux.state().streams.take_rest(self.0.number)
    }

    /// Sends a response's head.
    pub fn send_head(&self, head: Bytes, fin: Fin) -> Result<(), StreamError> {
        Ok(self.act(|streams| streams.send_head(self.0.number, head, fin))?)
    }

    /// Sends a response's head and as much of its body as fits, in one go. Returns how much that was.
    pub fn send_head_with(&self, head: Bytes, body: &[u8]) -> Result<usize, StreamError> {
        Ok(self.act(|streams| streams.send_head_with(self.0.number, head, body))?)
    }

    /// Does something that may end the stream, and lets the threads that wait for it know.
    fn act<R>(&self, act: impl FnOnce(&mut Streams<Attached>) -> R) -> R {
        let (result, is_awaited) = self.0.mux.act(|streams| (act(streams), self.0.waiters.are_any()));
        if is_awaited {
            self.0.waiters.notify();
        }
        result
    }

    /// Waits for room to send.
    pub fn capacity(&self) -> Result<usize, StreamError> {
        let number = self.0.number;
        self.wait(Some(WINDOW_WAIT), |streams| Ok(Some(streams.capacity(number)?).filter(|room| *room > 0)))
    }

    /// Sends bytes, waiting for room as often as it takes, and perhaps the end with the last of them.
    pub fn send_all(&self, mut bytes: &[u8], fin: Fin) -> Result<(), StreamError> {
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(self.capacity()?.min(bytes.len()));
            let fin = if later.is_empty() { fin } else { Fin::More };
            self.send(self.copy_of(now), now.len(), fin)?;
            bytes = later;
        }
        Ok(())
    }

    /// Room for so many bytes of body.
    pub fn buffer(&self, size: usize) -> DataBuffer {
        self.0.mux.spares.take(size)
    }

    fn copy_of(&self, bytes: &[u8]) -> DataBuffer {
        let mut buffer = self.buffer(bytes.len());
        buffer.space().copy_from_slice(bytes);
        buffer
    }

    /// Sends the end of a body alone.
    pub fn send_end(&self) -> Result<(), StreamError> {
        self.send(DataBuffer::new(0), 0, Fin::Last)
    }

    /// Sends the first `length` bytes of a buffer, for which there must be [room](Self::capacity).
    pub fn send(&self, mut buffer: DataBuffer, length: usize, fin: Fin) -> Result<(), StreamError> {
        let number = self.0.number;
        let room = buffer.space().len();
        if room >= SPARE_MIN && length < room / 2 {
            // Shrinks the buffer, so that a queued frame takes up the bytes that it counts as.
            let few = DataBuffer::copy_of(&buffer.space()[..length]);
            self.0.mux.recycle(std::mem::replace(&mut buffer, few).into_memory());
        }
        let sent = self.0.mux.act(|streams| streams.send_data(number, buffer, length, fin));
        Ok(sent?)
    }

    /// Whether both are the same stream.
    pub fn is_same(&self, other: &Stream) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// The stream's number.
    pub fn number(&self) -> u32 {
        self.0.number
    }

    /// Whether the other side has granted more than the first window: it has begun to read what was sent.
    pub fn is_granted(&self) -> bool {
        self.0.mux.state().streams.is_granted(self.0.number)
    }

    /// How the other side ended the stream before its time, or lost the connection, if it has.
    pub fn abandoned(&self) -> Option<StreamEnd> {
        let over = self.0.mux.state().streams.end(self.0.number);
        over.filter(|over| matches!(over, StreamEnd::ByPeer(_) | StreamEnd::Lost))
    }

    /// Waits for the end of the stream, and tells how it ended.
    pub fn ended(&self) -> StreamError {
        let end = self.wait(None, |streams| Ok(streams.end(self.0.number)));
        end.map_or_else(|error| error, StreamError::Closed)
    }

    /// Waits for the end of the stream. False when nothing came on it for this long.
    pub fn ends_within(&self, idle: Duration) -> bool {
        let mut seen = None;
        loop {
            let look = self.wait(Some(idle), |streams| {
                let received = streams.received(self.0.number);
                let is_over = streams.end(self.0.number).is_some();
                Ok((is_over || seen != Some(received)).then_some((is_over, received)))
            });
            match look {
                Ok((true, _)) => return true,
                Ok((false, received)) => seen = Some(received),
                Err(_) => return false,
            }
        }
    }

    /// Ends the stream before its time.
    pub fn reset(&self, reset: Reset) {
        self.act(|streams| streams.reset(self.0.number, reset));
    }

    /// Ends the stream before its time. The connection's writer sends word of it.
    pub fn reset_by_writer(&self, reset: Reset) {
        self.0.mux.act_for_writer(|streams| streams.reset(self.0.number, reset));
    }

    /// The received data, as a body that waits for more as long as `timeout` says.
    pub fn reader(&self, timeout: Option<Duration>) -> impl io::Read + Send + 'static {
        StreamReader { stream: self.clone(), timeout }
    }
}

struct StreamReader {
    stream: Stream,
    timeout: Option<Duration>,
}

impl io::Read for StreamReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.read(buffer, self.timeout).map_err(|error| {
            let kind = match &error {
                StreamError::TimedOut => FailureKind::Timeout,
                _ => FailureKind::Truncated,
            };
            io::Error::other(Failure::new(kind, error.to_string()))
        })
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Stream({})", self.0.number)
    }
}
