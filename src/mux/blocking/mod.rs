//! The streams of one connection as blocking readers and writers, for either side.
//!
//! [`Mux`] holds the pure state, [`Streams`], behind one lock that is never held over I/O. The connection's
//! reader feeds it, its writer empties it, and the owner of a [`Stream`] reads and writes it and waits as long
//! as it must.

mod stream;

use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

use tungstenite::Bytes;

use self::stream::StreamCore;
pub use self::stream::{Stream, StreamError};
use super::{
    Closing, DataBuffer, Fin, MuxEvent, MuxLimits, OpenError, ProtocolError, Reset, ResetCode, Side,
    StreamEnd, Streams,
};
use crate::service::{CancelReason, Cancellation};
use crate::sync::lock;

/// A stream whose other side grants no more window for this long, while data waits for it, is given up.
pub(crate) const WINDOW_WAIT: Duration = Duration::from_secs(60);

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
            // Some of them may have ended.
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
        let mut shared = StreamCore::new(self, 0);
        let opened = self.act(|streams| streams.open(shared.attached(), head, fin, closing));
        shared.number = opened?;
        Ok(Stream(Arc::new(shared)))
    }

    /// Takes on a stream.
    pub fn accept(self: &Arc<Self>, number: u32, fin: Fin) -> Option<Stream> {
        let stream = StreamCore::new(self, number);
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

    /// Records that the connection has ended, and with it every open stream.
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

/// The reason to cancel a request whose stream ended like this.
fn cause(over: Option<StreamEnd>) -> CancelReason {
    match over {
        Some(StreamEnd::ByPeer(Reset { code: ResetCode::Timeout, .. })) => CancelReason::GatewayTimeout,
        _ => CancelReason::ClientGone,
    }
}

impl fmt::Debug for Mux {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Mux({} streams)", self.open_count())
    }
}
