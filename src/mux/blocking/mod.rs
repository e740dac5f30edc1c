//! The streams of one connection as blocking readers and writers, for either side.
//!
//! [`Mux`] holds the pure state, [`Streams`], behind one lock that is never held over I/O. The connection's
//! reader feeds it, and the owner of a [`Stream`] reads and writes it and waits as long as it must. Which thread writes
//! what is queued is decided in [`transmit`].

mod stream;
mod transmit;

use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

use tungstenite::Bytes;

use self::stream::StreamCore;
pub use self::stream::{Stream, StreamError};
use self::transmit::{SinkPlace, WriterState};
use super::{
    Closing, DataBuffer, Fin, MuxEvent, MuxLimits, OpenError, ProtocolError, Reset, ResetCode, Side,
    StreamEnd, Streams,
};
use crate::service::{CancelReason, Cancellation};
use crate::sync::{Waiters, lock};

/// A stream whose other side grants no more window for this long, while data waits for it, is given up.
pub(crate) const WINDOW_WAIT: Duration = Duration::from_secs(60);

/// All streams of one connection.
pub struct Mux {
    state: Mutex<State>,
    /// Tells the connection's writer that there is something for it to do.
    wake: Box<dyn Fn() + Send + Sync>,
    /// The sink was given back, for which the connection's writer waits.
    sink_returned: Condvar,
    spares: Spares,
}

/// A pool of buffers for large frames. Without it one thread would allocate what another frees, and the allocator
/// would keep memory that it cannot reuse.
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
    sink: SinkPlace,
    writer: WriterState,
    /// Threads that wait for a stream that has changed, and do not know of it yet.
    unannounced: Option<Arc<Waiters>>,
    acceptance: Acceptance,
}

/// Whether this side still takes streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Acceptance {
    Accepting,
    /// It has sent GOAWAY: the connection's writer waits for the last stream to end.
    Leaving,
}

#[derive(Debug, Default)]
struct Attached {
    waiters: Arc<Waiters>,
    cancellation: Cancellation,
}

impl Mux {
    /// The streams of a new connection. `wake` is called, without a lock, when there is something for the connection's
    /// writer to do again.
    pub fn new(side: Side, limits: MuxLimits, wake: impl Fn() + Send + Sync + 'static) -> Arc<Self> {
        let state = State {
            streams: Streams::new(side, limits),
            sink: SinkPlace::AtWriter,
            writer: WriterState::Waiting,
            unannounced: None,
            acceptance: Acceptance::Accepting,
        };
        Arc::new(Mux {
            state: Mutex::new(state),
            wake: Box::new(wake),
            sink_returned: Condvar::new(),
            spares: Spares::default(),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Takes a message that was received. A stream that it opens is to be [accepted](Self::accept) or
    /// [refused](Self::refuse). Threads that wait for it may hear of it only when it is [announced](Self::announce), so
    /// that a head and the data behind it wake one thread once.
    pub fn receive(&self, message: &Bytes) -> Result<MuxEvent, ProtocolError> {
        let mut state = self.state();
        let event = state.streams.receive(message)?;
        match event {
            // Some streams may have ended.
            MuxEvent::GoAway { .. } => {
                let waiting: Vec<_> = state.streams.all_attached().filter_map(Attached::waiting).collect();
                drop(state);
                waiting.iter().for_each(|waiters| waiters.notify());
            }
            MuxEvent::Changed(stream) => {
                let waiting = state.streams.attached(stream).and_then(Attached::waiting);
                let others = waiting.and_then(|waiting| state.postpone(waiting));
                self.wake_writer(state);
                others.inspect(|waiters| waiters.notify());
            }
            MuxEvent::Reset(stream) => {
                let attached = state.streams.attached(stream);
                let waiting = attached.and_then(Attached::waiting);
                let cancellation = attached.map(|attached| attached.cancellation.clone());
                let reason = cancel_reason(state.streams.end(stream));
                self.wake_writer(state);
                waiting.inspect(|waiters| waiters.notify());
                cancellation.inspect(|cancellation| cancellation.cancel_for(reason));
            }
            MuxEvent::Nothing | MuxEvent::Opened { .. } => {}
        }
        Ok(event)
    }

    /// Wakes the threads that wait for what was received. Due before the reader waits for more.
    pub fn announce(&self) {
        let waiting = self.state().unannounced.take();
        waiting.inspect(|waiters| waiters.notify());
    }

    /// Takes the memory of a message back that was sent.
    pub fn recycle(&self, message: Vec<u8>) {
        self.spares.put(message);
    }

    /// Makes frames no larger than this from now on.
    pub fn limit_frames(&self, bytes: usize) {
        self.state().streams.limit_frames(bytes);
    }

    /// Opens a stream for a request, and sends its head with as much of its body as fits; returns how much that was. With
    /// [`Fin::Last`] nothing follows the bytes of `body`.
    pub fn open(
        self: &Arc<Self>,
        head: Bytes,
        body: &[u8],
        fin: Fin,
        closing: Closing,
    ) -> Result<(Stream, usize), OpenError> {
        let mut core = StreamCore::new(self, 0);
        let head_fin = if body.is_empty() { fin } else { Fin::More };
        let opened = self.act(|streams| {
            let number = streams.open(core.attached(), head, head_fin, closing)?;
            Ok((number, streams.send_some(number, body, fin).unwrap_or_default()))
        });
        let (number, sent) = opened?;
        core.number = number;
        Ok((Stream(Arc::new(core)), sent))
    }

    /// Takes on a stream.
    pub fn accept(self: &Arc<Self>, number: u32, fin: Fin) -> Option<Stream> {
        let stream = StreamCore::new(self, number);
        let is_taken = self.state().streams.accept(number, stream.attached(), fin);
        is_taken.then(|| Stream(Arc::new(stream)))
    }

    /// Refuses a stream with a RESET, which the connection's writer sends.
    pub fn refuse(&self, stream: u32, reset: Reset) {
        self.act_for_writer(|streams| streams.refuse(stream, reset));
    }

    /// Answers a stream that was opened with a response in memory, and reads nothing of its request's body. The connection's
    /// writer sends it.
    pub fn answer(&self, number: u32, fin: Fin, head: Bytes, body: &[u8]) {
        self.act_for_writer(|streams| {
            if streams.accept(number, Attached::default(), fin) {
                // A response that fails, or does not fit into the first window, ends with the reset of what is given up.
                let _ = streams.send_head_with(number, head, body);
                streams.release(number, given_up());
            }
        });
    }

    /// Tells the other side that streams above `last` are not served, or that none will be opened.
    pub fn go_away(&self, last: u32, text: &str) {
        let mut state = self.state();
        state.acceptance = Acceptance::Leaving;
        state.streams.go_away(last, text);
        self.transmit(state);
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
        let ended: Vec<_> =
            attached.map(|attached| (attached.waiting(), attached.cancellation.clone())).collect();
        drop(state);
        for (waiting, cancellation) in ended {
            waiting.inspect(|waiters| waiters.notify());
            cancellation.cancel();
        }
    }
}

impl State {
    /// Keeps threads for the next announcement. Returns those of another stream, whose turn has come.
    fn postpone(&mut self, waiting: Arc<Waiters>) -> Option<Arc<Waiters>> {
        let others = self.unannounced.replace(waiting)?;
        let is_same = self.unannounced.as_ref().is_some_and(|waiting| Arc::ptr_eq(waiting, &others));
        (!is_same).then_some(others)
    }
}

impl Attached {
    /// The threads that wait for the stream, if any do.
    fn waiting(&self) -> Option<Arc<Waiters>> {
        self.waiters.are_any().then(|| self.waiters.clone())
    }
}

/// The reset of a stream that is dropped before its end.
fn given_up() -> Reset {
    Reset::new(ResetCode::Internal, "given up")
}

/// The reason to cancel a request whose stream ended like this.
fn cancel_reason(end: Option<StreamEnd>) -> CancelReason {
    match end {
        Some(StreamEnd::ByPeer(Reset { code: ResetCode::Timeout, .. })) => CancelReason::GatewayTimeout,
        _ => CancelReason::ClientGone,
    }
}

impl fmt::Debug for Mux {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Mux({} streams)", self.open_count())
    }
}
