//! The streams of one connection as blocking readers and writers, for either side.
//!
//! [`Mux`] holds the pure state, [`Streams`], behind one lock that is never held over I/O. The connection's
//! reader feeds it, its writer empties it, and whoever has a [`Stream`] reads and writes it and waits as long
//! as it must.

use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};
use std::{fmt, io};

use tungstenite::Bytes;

use super::{
    Closing, DataBuffer, Fin, MuxEvent, MuxLimits, OpenError, ProtocolError, ReadOutcome, Reset, ResetCode,
    Side, StreamEnd, Streams,
};
use crate::service::{CancelReason, Cancellation, Failure, FailureKind};
use crate::sync::{lock, wait, wait_timeout};

/// A stream whose other side grants no more window for this long, while data waits for it, is given up.
pub const WINDOW_WAIT: Duration = Duration::from_secs(60);

/// All streams of one connection.
pub struct Mux {
    state: Mutex<State>,
    /// Tells the connection's writer that there is something to send.
    wake: Box<dyn Fn() + Send + Sync>,
    spares: Spares,
}

/// Memory of large frames that were sent, for those that come. Else one thread would allocate what another frees, and
/// the allocator keep what it cannot put together again.
#[derive(Debug, Default)]
struct Spares(Mutex<Vec<Vec<u8>>>);

/// Spares that are kept: what a few streams at full speed have under way.
const SPARES_MAX: usize = 16;

/// Smaller buffers are not worth keeping.
const SPARE_MIN: usize = 32 << 10;

impl Spares {
    fn state(&self) -> MutexGuard<'_, Vec<Vec<u8>>> {
        lock(&self.0)
    }

    fn take(&self, size: usize) -> DataBuffer {
        let spare = if size < SPARE_MIN { None } else { self.state().pop() };
        spare.map_or_else(|| DataBuffer::new(size), |memory| DataBuffer::again(memory, size))
    }

    fn put(&self, memory: Vec<u8>) {
        if memory.capacity() >= SPARE_MIN {
            let mut spares = self.state();
            if spares.len() < SPARES_MAX {
                spares.push(memory);
            }
        }
    }
}

struct State {
    streams: Streams<Attached>,
    /// The writer has seen that there is nothing to send, and is to be told when there is.
    writer_waits: bool,
}

#[derive(Debug)]
struct Attached {
    changed: Arc<Condvar>,
    cancellation: Cancellation,
}

/// One stream, as whoever serves it sees it. When the last clone is dropped, the stream is over.
#[derive(Clone)]
pub struct Stream(Arc<Shared>);

struct Shared {
    mux: Arc<Mux>,
    number: u32,
    changed: Arc<Condvar>,
    cancellation: Cancellation,
}

/// Why nothing more can be done with a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StreamError {
    /// It is over.
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

impl Mux {
    /// For a new connection. `wake` is called, without a lock, when there is something to send again.
    pub fn new(side: Side, limits: MuxLimits, wake: impl Fn() + Send + Sync + 'static) -> Arc<Self> {
        let state = State { streams: Streams::new(side, limits), writer_waits: true };
        Arc::new(Mux { state: Mutex::new(state), wake: Box::new(wake), spares: Spares::default() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Lets go of the state, and wakes the writer if it waits.
    fn wake(&self, mut state: MutexGuard<'_, State>) {
        let waits = std::mem::take(&mut state.writer_waits);
        drop(state);
        if waits {
            (self.wake)();
        }
    }

    /// Does something that may leave something to send, or let the connection end.
    fn act<R>(&self, act: impl FnOnce(&mut Streams<Attached>) -> R) -> R {
        let mut state = self.state();
        let result = act(&mut state.streams);
        self.wake(state);
        result
    }

    /// Takes a message that was received. A stream that it opens is to be [accepted](Self::accept) or
    /// [refused](Self::refuse).
    pub fn receive(&self, message: &Bytes) -> Result<MuxEvent, ProtocolError> {
        let mut state = self.state();
        let streams = &mut state.streams;
        let event = streams.receive(message)?;
        if let MuxEvent::GoAway { .. } = event {
            // Some of them may be over.
            streams.all_attached().for_each(|attached| attached.changed.notify_all());
        }
        let (MuxEvent::Changed(stream) | MuxEvent::Reset(stream)) = event else { return Ok(event) };
        let attached = streams.attached(stream);
        attached.inspect(|attached| attached.changed.notify_all());
        if let MuxEvent::Reset(_) = event {
            let cancellation = attached.map(|attached| attached.cancellation.clone());
            let cause = cause(streams.end(stream));
            self.wake(state);
            cancellation.inspect(|cancellation| cancellation.cancel_for(cause));
        }
        Ok(event)
    }

    /// Takes the memory of a message back that was sent.
    pub fn recycle(&self, message: Vec<u8>) {
        self.spares.put(message);
    }

    /// Makes frames no larger than this from now on.
    pub fn limit_frames(&self, bytes: usize) {
        self.state().streams.limit_frames(bytes);
    }

    /// The next message to send. When there is none, the writer will be woken.
    pub fn next_message(&self) -> Option<Vec<u8>> {
        let mut state = self.state();
        match state.streams.next_message() {
            Some((message, roomier)) => {
                if let Some(attached) = roomier.and_then(|stream| state.streams.attached(stream)) {
                    attached.changed.notify_all();
                }
                Some(message)
            }
            None => {
                state.writer_waits = true;
                None
            }
        }
    }

    /// Takes all the control that waits to be sent: what comes next must not overtake it.
    pub fn take_control(&self, mut send: impl FnMut(&[u8])) {
        while self.control_bytes() > 0
            && let Some(message) = self.next_message()
        {
            send(&message);
            self.recycle(message);
        }
    }

    /// Wakes the writer when something was left to send, a window, say.
    fn wake_for_output(&self) {
        let state = self.state();
        if !state.streams.is_idle() {
            self.wake(state);
        }
    }

    /// Opens a stream for a request. With `end` it has no body; with `upgrade` it may end as an upgrade.
    pub fn open(self: &Arc<Self>, head: Bytes, fin: Fin, closing: Closing) -> Result<Stream, OpenError> {
        let mut shared = Shared::new(self, 0);
        let opened = self.act(|streams| streams.open(shared.attached(), head, fin, closing));
        shared.number = opened?;
        Ok(Stream(Arc::new(shared)))
    }

    /// Takes on a stream.
    pub fn accept(self: &Arc<Self>, number: u32, fin: Fin) -> Option<Stream> {
        let stream = Shared::new(self, number);
        let is_taken = self.act(|streams| streams.accept(number, stream.attached(), fin));
        is_taken.then(|| Stream(Arc::new(stream)))
    }

    /// Does not take on a stream.
    pub fn refuse(&self, stream: u32, reset: Reset) {
        self.act(|streams| streams.refuse(stream, reset));
    }

    /// Tells the other side that streams above `last` are not served, or that none will be opened.
    pub fn go_away(&self, last: u32, text: &str) {
        self.act(|streams| streams.go_away(last, text));
    }

    /// Streams that are open.
    pub fn open_count(&self) -> usize {
        self.state().streams.open_count()
    }

    /// The last stream that was opened.
    pub fn last(&self) -> u32 {
        self.state().streams.last()
    }

    /// Bytes of control that wait to be sent.
    pub fn control_bytes(&self) -> usize {
        self.state().streams.control_bytes()
    }

    /// The connection is over, and with it every stream that has not ended before.
    pub fn close(&self) {
        let mut state = self.state();
        let lost = state.streams.lose();
        let attached = lost.iter().filter_map(|stream| state.streams.attached(*stream));
        let cancelled: Vec<_> = attached
            .map(|attached| {
                attached.changed.notify_all();
                attached.cancellation.clone()
            })
            .collect();
        drop(state);
        cancelled.iter().for_each(Cancellation::cancel);
    }
}

/// Why nobody waits for a response any more whose stream ended like this.
fn cause(over: Option<StreamEnd>) -> CancelReason {
    match over {
        Some(StreamEnd::ByPeer(Reset { code: ResetCode::Timeout, .. })) => CancelReason::GatewayTimeout,
        _ => CancelReason::ClientGone,
    }
}

impl Shared {
    fn new(mux: &Arc<Mux>, number: u32) -> Self {
        Shared { mux: mux.clone(), number, changed: Arc::default(), cancellation: Cancellation::default() }
    }

    fn attached(&self) -> Attached {
        Attached { changed: self.changed.clone(), cancellation: self.cancellation.clone() }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let reset = Reset::new(ResetCode::Internal, "given up");
        self.mux.act(|streams| streams.release(self.number, reset));
    }
}

impl Stream {
    /// Fires when the other side ends the stream before its time, or the connection is over.
    pub fn cancellation(&self) -> &Cancellation {
        &self.0.cancellation
    }

    /// Waits until `look` finds something, at most so long without a change.
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
            let changed = &self.0.changed;
            state = match until.map(|until| until.saturating_duration_since(Instant::now())) {
                None => wait(changed, state),
                Some(Duration::ZERO) => return Err(StreamError::TimedOut),
                Some(left) => wait_timeout(changed, state, left),
            };
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
        self.0.mux.wake_for_output();
        Ok(read)
    }

    /// All of the body, when its end has come already.
    pub fn whole(&self) -> Option<Vec<u8>> {
        let number = self.0.number;
        let mut body = Vec::new();
        let mut state = self.0.mux.state();
        if !state.streams.is_complete(number) {
            return None;
        }
        let mut buffer = [0; 4096];
        while let Ok(ReadOutcome::Data(read)) = state.streams.read(number, &mut buffer) {
            body.extend_from_slice(&buffer[..read]);
        }
        Some(body)
    }

    /// Sends a response's head.
    pub fn send_head(&self, head: Bytes, fin: Fin) -> Result<(), StreamError> {
        let number = self.0.number;
        let sent = self.0.mux.act(|streams| streams.send_head(number, head, fin));
        self.notify();
        Ok(sent?)
    }

    /// Sends a response's head and as much of its body as fits, in one go. Returns how much that was.
    pub fn send_head_with(&self, head: Bytes, body: &[u8]) -> Result<usize, StreamError> {
        let number = self.0.number;
        let sent = self.0.mux.act(|streams| {
            streams.send_head(number, head, Fin::from(body.is_empty()))?;
            let length = if body.is_empty() { 0 } else { streams.capacity(number)?.min(body.len()) };
            if length > 0 {
                let buffer = DataBuffer::copy_of(&body[..length]);
                streams.send_data(number, buffer, length, Fin::from(length == body.len()))?;
            }
            Ok::<_, StreamEnd>(length)
        });
        self.notify();
        Ok(sent?)
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
            // What waits takes up what it counts for.
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
        let number = self.0.number;
        self.0.mux.act(|streams| streams.reset(number, reset));
        self.notify();
    }

    /// Lets whoever waits for this stream look again: it may be over.
    fn notify(&self) {
        self.0.changed.notify_all();
    }

    /// What was received, as a body that waits for what comes, as long as `timeout` says.
    pub fn reader(&self, timeout: Option<Duration>) -> impl io::Read + Send + 'static {
        Reader { stream: self.clone(), timeout }
    }
}

struct Reader {
    stream: Stream,
    timeout: Option<Duration>,
}

impl io::Read for Reader {
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

impl fmt::Debug for Mux {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Mux({} streams)", self.open_count())
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Stream({})", self.0.number)
    }
}
