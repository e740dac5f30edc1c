//! One agent's connection: what is sent to it, and which answer belongs to whom.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::{Duration, Instant};

use http::{Response, request};
use log::{debug, warn};
use tungstenite::Bytes;
use tungstenite::protocol::Role;
use tunnel_agent::link::{Closer, FrameWriter, Outgoing, WriteHalf};
use tunnel_agent::mux::{Mux, Stream};
use tunnel_agent::protocol::mux::{self, OpenError, PROTOCOL, Side};
use tunnel_agent::protocol::{
    Answer, Handshake, RequestId, RequestName, connection_number, request as message,
};

use super::PLACES;
use super::budget::{Budget, Share};
use super::problems::NoAnswer;

/// Messages that may wait to be sent to one agent.
const OUTGOING_MAX: usize = 256;

/// Bytes of them; one message always fits.
const OUTGOING_BYTES_MAX: usize = 64 << 20;

/// Requests that may wait for the answers of one agent.
const PENDING_MAX: usize = 1024;

/// Bytes of control that may wait to be sent to one agent before it gets no more streams.
const CONTROL_BYTES_MAX: usize = 1 << 20;

/// After a request that it could not answer, an agent is asked for so long only where there is no other.
const FAILING_FOR: Duration = Duration::from_secs(1);

/// Between two pings to an agent.
const PING_INTERVAL: Duration = Duration::from_secs(20);

/// Frames are collected up to this many bytes before they are written.
const BATCH: usize = 64 << 10;

/// An agent's connection.
#[derive(Debug)]
pub struct Agent {
    pub connection_id: String,
    /// What the names of its requests begin with.
    connection: u32,
    pub handshake: Handshake,
    pub since: Instant,
    legacy: bool,
    closer: Closer,
    /// Its streams, if it speaks mux/2.
    mux: Option<Arc<Mux>>,
    /// It takes, or is to get, no more requests.
    leaving: AtomicBool,
    /// When it could not answer a request, in milliseconds after its beginning; 0 when the last answer was good.
    failed_at: AtomicU64,
    /// Bytes that wait to be sent.
    outgoing_bytes: AtomicUsize,
    pending: Mutex<Pending>,
}

/// What came of a request: a response, with its share of the memory for bodies, or why there is none.
pub type Reply = Result<(Response<Vec<u8>>, Share), NoReply>;

/// Why a reply has no response.
#[derive(Debug)]
pub enum NoReply {
    /// The agent says this.
    Failed(String),
    /// There was no memory for the response.
    OutOfMemory,
}

/// What envelopes may take up.
pub struct Limits<'a> {
    pub max_message: usize,
    pub timeout: Duration,
    pub budget: &'a Budget,
}

/// What a connection's writer is told.
#[derive(Debug)]
pub enum Queued {
    Message(Outgoing),
    /// There is something to send on the streams.
    Streams,
}

/// Who waits for an answer. A client that does not wait any more keeps its place in the order: its answer
/// still comes, and is nobody else's.
#[derive(Debug)]
struct Pending {
    /// `None` when the connection has ended.
    outgoing: Option<SyncSender<Queued>>,
    next_id: u64,
    by_id: HashMap<u64, Waiting>,
    in_order: VecDeque<Waiting>,
}

/// Somebody who waits for an answer, and the memory that it may take up.
#[derive(Debug)]
struct Waiting {
    reply: SyncSender<Reply>,
    budget: Budget,
}

impl Waiting {
    fn answer(self, result: Result<Response<Vec<u8>>, String>) {
        let mut share = self.budget.share();
        let reply = match result {
            Ok(response) if share.grow(response.body().len()) => Ok((response, share)),
            Ok(_) => Err(NoReply::OutOfMemory),
            Err(text) => Err(NoReply::Failed(text)),
        };
        // The client may have left meanwhile.
        let _ = self.reply.try_send(reply);
    }
}

/// Whether an agent could answer a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Could {
    Yes,
    No,
}

impl Agent {
    /// A connection whose handshake is done, and the queue of what is to be sent to it.
    pub fn new(
        connection_id: String,
        handshake: Handshake,
        legacy: bool,
        closer: Closer,
    ) -> (Arc<Self>, Receiver<Queued>) {
        let (outgoing, queue) = mpsc::sync_channel(OUTGOING_MAX);
        let pending = Mutex::new(Pending {
            outgoing: Some(outgoing),
            next_id: 1,
            by_id: HashMap::new(),
            in_order: VecDeque::new(),
        });
        let agent = Arc::new_cyclic(|agent: &Weak<Agent>| {
            let agent = agent.clone();
            let wake = move || {
                if let Some(agent) = agent.upgrade() {
                    agent.queue(Queued::Streams);
                }
            };
            let speaks_mux = !legacy && handshake.can(PROTOCOL);
            Agent {
                connection: connection_number(&connection_id).unwrap_or_default(),
                connection_id,
                handshake,
                since: Instant::now(),
                legacy,
                closer,
                mux: speaks_mux.then(|| Mux::new(Side::Gateway, mux_limits(), wake)),
                leaving: AtomicBool::new(false),
                failed_at: AtomicU64::new(0),
                outgoing_bytes: AtomicUsize::new(0),
                pending,
            }
        });
        if agent.mux.is_some() {
            agent.control(Outgoing::Text(mux_limits().encode_welcome().into()));
        }
        (agent, queue)
    }

    fn pending(&self) -> MutexGuard<'_, Pending> {
        // Nothing panics while the lock is held.
        self.pending.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Whether answers carry the ID of their request.
    pub fn has_ids(&self) -> bool {
        !self.legacy && self.handshake.can("id")
    }

    /// Its streams, if it speaks mux/2.
    pub fn mux(&self) -> Option<&Arc<Mux>> {
        self.mux.as_ref()
    }

    /// The name of one of its requests.
    pub fn request_name(&self, number: u64) -> RequestName {
        RequestName { connection: self.connection, number }
    }

    /// Records whether it could answer a request.
    pub fn could_answer(&self, could: Could) {
        let now = u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX).max(1);
        // Only a time is passed on, no other memory depends on it.
        self.failed_at.store(if could == Could::Yes { 0 } else { now }, Ordering::Relaxed);
    }

    /// Whether it could not answer a short time ago. After that it may be asked again, like any other: what it gives back
    /// goes to the next.
    pub fn is_failing(&self) -> bool {
        let failed_at = self.failed_at.load(Ordering::Relaxed);
        failed_at > 0 && self.since.elapsed() < Duration::from_millis(failed_at) + FAILING_FOR
    }

    /// Requests that wait for an answer, or are being answered.
    pub fn in_flight(&self) -> usize {
        let pending = self.pending();
        let waiting = pending.by_id.len() + pending.in_order.len();
        drop(pending);
        waiting + self.mux.as_ref().map_or(0, |mux| mux.open_count())
    }

    /// It gets no more requests.
    pub fn leaves(&self) {
        self.leaving.store(true, Ordering::Relaxed);
    }

    /// Whether it gets no more requests.
    pub fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::Relaxed)
    }

    /// Whether both are the same session of the same process.
    pub fn is_succeeded_by(&self, other: &Agent) -> bool {
        let identity = |agent: &Agent| agent.handshake.instance.clone().zip(agent.handshake.slot);
        let (ours, theirs) = (identity(self), identity(other));
        ours.is_some() && ours == theirs && self.handshake.tunnel_id == other.handshake.tunnel_id
    }

    /// Opens a stream for a request.
    pub fn open(&self, head: Bytes, end: bool, upgrade: bool) -> Result<Stream, NoAnswer> {
        let mux = self.mux.as_ref().ok_or(NoAnswer::Gone)?;
        if mux.control_bytes() > CONTROL_BYTES_MAX {
            return Err(NoAnswer::Busy);
        }
        mux.open(head, end, upgrade).map_err(|error| match error {
            OpenError::Full => NoAnswer::Busy,
            OpenError::Lost | OpenError::GoesAway => NoAnswer::Gone,
        })
    }

    /// Sends a request with this number and waits for its answer.
    pub fn forward(
        &self,
        number: u64,
        head: &request::Parts,
        body: Vec<u8>,
        limits: &Limits<'_>,
    ) -> Result<Reply, NoAnswer> {
        let id = self.has_ids().then_some(number);
        let base64 = !self.legacy && self.handshake.can("base64");
        let text = message::encode(id.map(RequestId::from).as_ref(), head, &body, base64, limits.max_message);
        let text = text.map_err(|_| NoAnswer::TooLarge)?;
        // The envelope waits in the body's place.
        let mut share = limits.budget.share();
        if !body.is_empty() && !share.grow(text.len()) {
            return Err(NoAnswer::OutOfMemory);
        }
        drop(body);
        let (reply, answer) = mpsc::sync_channel(1);
        let waiting = Waiting { reply, budget: limits.budget.clone() };
        self.send(id, Outgoing::Text(text.into()), waiting)?;
        answer.recv_timeout(limits.timeout).map_err(|error| {
            if let Some(id) = id {
                self.pending().by_id.remove(&id);
            }
            match error {
                RecvTimeoutError::Timeout => NoAnswer::TimedOut,
                RecvTimeoutError::Disconnected => NoAnswer::Gone,
            }
        })
    }

    /// The number of another request in envelopes.
    pub fn take_number(&self) -> u64 {
        let mut pending = self.pending();
        let id = pending.next_id;
        pending.next_id += 1;
        id
    }

    /// Queues a request and takes note of who waits for it, in one step: the order of both is the same.
    fn send(&self, id: Option<u64>, text: Outgoing, reply: Waiting) -> Result<(), NoAnswer> {
        let mut pending = self.pending();
        let pending = &mut *pending;
        let Some(outgoing) = &pending.outgoing else { return Err(NoAnswer::Gone) };
        let (bytes, waiting) = (length(&text), self.outgoing_bytes.load(Ordering::Relaxed));
        let heavy = waiting > 0 && waiting + bytes > OUTGOING_BYTES_MAX;
        if heavy || pending.by_id.len() + pending.in_order.len() >= PENDING_MAX {
            return Err(NoAnswer::Busy);
        }
        self.outgoing_bytes.fetch_add(bytes, Ordering::Relaxed);
        outgoing.try_send(Queued::Message(text)).map_err(|error| {
            self.outgoing_bytes.fetch_sub(bytes, Ordering::Relaxed);
            match error {
                mpsc::TrySendError::Full(_) => NoAnswer::Busy,
                mpsc::TrySendError::Disconnected(_) => NoAnswer::Gone,
            }
        })?;
        match id {
            Some(id) => drop(pending.by_id.insert(id, reply)),
            None => pending.in_order.push_back(reply),
        }
        Ok(())
    }

    /// Passes an answer on to whoever waits for it.
    pub fn answered(&self, answer: Answer) {
        let waiting = {
            let mut pending = self.pending();
            match answer.id.as_ref().filter(|_| self.has_ids()) {
                Some(id) => id.as_u64().and_then(|id| pending.by_id.remove(&id)),
                None => pending.in_order.pop_front(),
            }
        };
        match waiting {
            Some(waiting) => waiting.answer(answer.result),
            None => debug!("agent {} answered what nobody asked", self.handshake.tunnel_id),
        }
    }

    /// Sends a control frame, unless too much waits already.
    pub fn control(&self, frame: Outgoing) {
        self.queue(Queued::Message(frame));
    }

    fn queue(&self, what: Queued) {
        if let Some(outgoing) = &self.pending().outgoing {
            let _ = outgoing.try_send(what);
        }
    }

    /// Ends the connection's queue: those who wait for answers are told, and what is queued is still sent.
    pub fn end(&self) {
        let mut pending = self.pending();
        pending.outgoing = None;
        pending.by_id.clear();
        pending.in_order.clear();
        drop(pending);
        self.mux.as_ref().inspect(|mux| mux.close());
    }
}

/// What an agent is told of this gateway's limits.
fn mux_limits() -> mux::Limits {
    // As many as there can be visitors: it is the agent who knows what it can take.
    mux::Limits { max_streams: PLACES as u32, ..mux::Limits::default() }
}

/// What a request takes up while it waits; control takes up nothing worth counting.
fn length(message: &Outgoing) -> usize {
    if let Outgoing::Text(text) = message { text.len() } else { 0 }
}

/// Writes what is queued, and pings, until the queue or the connection ends.
pub fn write(agent: &Agent, queue: &Receiver<Queued>, mut half: WriteHalf) {
    let mut frames = FrameWriter::new(Role::Server);
    let push = |frames: &mut FrameWriter, queued| {
        if let Queued::Message(message) = queued {
            // A GOAWAY comes before the end that it announces; and a pong tells that what was opened before is on its way.
            if let (Outgoing::Close(..) | Outgoing::Pong(_), Some(mux)) = (&message, &agent.mux) {
                mux.take_control(|control| frames.push_binary(control));
            }
            agent.outgoing_bytes.fetch_sub(length(&message), Ordering::Relaxed);
            frames.push(&message);
        }
    };
    loop {
        match queue.recv_timeout(PING_INTERVAL) {
            Ok(queued) => push(&mut frames, queued),
            Err(RecvTimeoutError::Timeout) => frames.push(&Outgoing::Ping(Bytes::new())),
            Err(RecvTimeoutError::Disconnected) => return drop(half.finish()),
        }
        // What streams have to send goes out before the queue is waited for again: a full queue takes no word
        // of it.
        while collect(agent, queue, &mut frames, push) {
            while !frames.is_empty() {
                if let Err(error) = frames.write_step(&mut half) {
                    warn!("cannot write to agent {}: {error}", agent.handshake.tunnel_id);
                    agent.end();
                    return agent.closer.close();
                }
            }
        }
    }
}

/// Collects what waits, up to a batch. False when that is nothing.
fn collect(
    agent: &Agent,
    queue: &Receiver<Queued>,
    frames: &mut FrameWriter,
    push: impl Fn(&mut FrameWriter, Queued),
) -> bool {
    while frames.waiting() < BATCH {
        if let Ok(queued) = queue.try_recv() {
            push(frames, queued);
        } else if let Some(mux) = &agent.mux
            && let Some(message) = mux.next_message()
        {
            frames.push_binary(&message);
            mux.recycle(message);
        } else {
            break;
        }
    }
    !frames.is_empty()
}
