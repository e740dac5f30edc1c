//! One agent's session: what is sent to it, and which answer belongs to which request.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::{Duration, Instant};

use http::{Response, request};
use log::debug;
use tungstenite::Bytes;

use super::PLACES;
use super::budget::{BodyBudget, Share};
use super::responses::NoAnswer;
use crate::link::Outbound;
use crate::mux::{Closing, Fin, Mux, MuxLimits, OpenError, Side, Stream};
use crate::net::Closer;
use crate::protocol::name::URL_CAPABILITY;
use crate::protocol::request::{self as message, BodyEncoding};
use crate::protocol::{
    DecodedAnswer, Handshake, MUX_PROTOCOL, RequestId, RequestName, TunnelUrl, connection_number,
};
use crate::sync::lock;

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

/// How much of the protocol a gateway speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    /// Part 1 alone, as the oldest gateways do.
    Legacy,
    Full,
}

/// Whether an agent was given requests until now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Retirement {
    New,
    Already,
}

/// The session of an agent.
#[derive(Debug)]
pub(super) struct AgentSession {
    pub(super) connection_id: String,
    /// The connection number, which its requests' names begin with.
    connection: u32,
    pub(super) handshake: Handshake,
    /// Where its visitors come to, as it was told.
    pub(super) url: Option<String>,
    pub(super) since: Instant,
    dialect: Dialect,
    closer: Closer,
    /// Its streams, if it speaks mux/2.
    mux: Option<Arc<Mux>>,
    /// It takes, or is to get, no more requests.
    leaving: AtomicBool,
    /// When it could not answer a request, in milliseconds after its beginning; 0 when the last answer was good.
    failed_at: AtomicU64,
    /// Bytes that wait to be sent.
    outgoing_bytes: AtomicUsize,
    pending: Mutex<PendingRequests>,
}

/// The result of a request: a response, with its share of the memory for bodies, or why there is none.
pub(super) type AgentReply = Result<(Response<Vec<u8>>, Share), NoReply>;

/// Why a reply has no response.
#[derive(Debug)]
pub(super) enum NoReply {
    /// The agent says this.
    Failed(String),
    /// There was no memory for the response.
    OutOfMemory,
}

/// The limits of envelopes.
pub(super) struct EnvelopeLimits<'a> {
    pub(super) max_message: usize,
    pub(super) timeout: Duration,
    pub(super) budget: &'a BodyBudget,
}

/// A message to a connection's writer.
#[derive(Debug)]
pub(super) enum Queued {
    Message(Outbound),
    /// There is something to send on the streams.
    Streams,
}

/// The visitors that wait for answers. A visitor that disconnects keeps its place in the order: its answer
/// still comes, and belongs to no other visitor.
#[derive(Debug)]
struct PendingRequests {
    /// `None` when the connection has ended.
    outgoing: Option<SyncSender<Queued>>,
    next_id: u64,
    by_id: HashMap<u64, Waiter>,
    in_order: VecDeque<Waiter>,
}

/// A visitor that waits for an answer, and the memory that the answer may take up.
#[derive(Debug)]
struct Waiter {
    reply: SyncSender<AgentReply>,
    budget: BodyBudget,
}

impl Waiter {
    fn answer(self, result: Result<Response<Vec<u8>>, String>) {
        let mut share = self.budget.share();
        let reply = match result {
            Ok(response) if share.grow(response.body().len()) => Ok((response, share)),
            Ok(_) => Err(NoReply::OutOfMemory),
            Err(text) => Err(NoReply::Failed(text)),
        };
        // The visitor may have disconnected meanwhile.
        let _ = self.reply.try_send(reply);
    }
}

impl AgentSession {
    /// A connection whose handshake is done, and the queue of what is to be sent to it.
    pub(super) fn new(
        connection_id: String,
        handshake: Handshake,
        dialect: Dialect,
        closer: Closer,
        url: Option<&TunnelUrl>,
    ) -> (Arc<Self>, Receiver<Queued>) {
        let (outgoing, queue) = mpsc::sync_channel(OUTGOING_MAX);
        let pending = Mutex::new(PendingRequests {
            outgoing: Some(outgoing),
            next_id: 1,
            by_id: HashMap::new(),
            in_order: VecDeque::new(),
        });
        let agent = Arc::new_cyclic(|agent: &Weak<AgentSession>| {
            let agent = agent.clone();
            let wake = move || {
                if let Some(agent) = agent.upgrade() {
                    agent.queue(Queued::Streams);
                }
            };
            let speaks_mux = dialect == Dialect::Full && handshake.can(MUX_PROTOCOL);
            AgentSession {
                connection: connection_number(&connection_id).unwrap_or_default(),
                connection_id,
                handshake,
                url: url.map(|told| told.url.clone()),
                since: Instant::now(),
                dialect,
                closer,
                mux: speaks_mux.then(|| Mux::new(Side::Gateway, mux_limits(), wake)),
                leaving: AtomicBool::new(false),
                failed_at: AtomicU64::new(0),
                outgoing_bytes: AtomicUsize::new(0),
                pending,
            }
        });
        if agent.mux.is_some() {
            agent.control(Outbound::Text(mux_limits().encode_welcome(url).into()));
        } else if dialect == Dialect::Full && agent.handshake.can(URL_CAPABILITY) {
            if let Some(url) = url {
                agent.control(Outbound::Text(url.encode().into()));
            }
        }
        (agent, queue)
    }

    fn pending(&self) -> MutexGuard<'_, PendingRequests> {
        lock(&self.pending)
    }

    /// Whether answers carry the ID of their request.
    pub(super) fn has_ids(&self) -> bool {
        self.dialect == Dialect::Full && self.handshake.can("id")
    }

    /// Its streams, if it speaks mux/2.
    pub(super) fn mux(&self) -> Option<&Arc<Mux>> {
        self.mux.as_ref()
    }

    /// The name of one of its requests.
    pub(super) fn request_name(&self, number: u64) -> RequestName {
        RequestName { connection: self.connection, number }
    }

    /// Records that the agent has answered a request.
    pub(super) fn record_success(&self) {
        self.failed_at.store(0, Ordering::Relaxed);
    }

    /// Records that the agent could not answer a request.
    pub(super) fn record_failure(&self) {
        let now = u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX).max(1);
        // Only a time is passed on, no other memory depends on it.
        self.failed_at.store(now, Ordering::Relaxed);
    }

    /// Whether it could not answer a short time ago. After that it may be asked again, like any other: what it gives back
    /// goes to the next.
    pub(super) fn is_failing(&self) -> bool {
        let failed_at = self.failed_at.load(Ordering::Relaxed);
        failed_at > 0 && self.since.elapsed() < Duration::from_millis(failed_at) + FAILING_FOR
    }

    /// Requests that wait for an answer, or are being answered.
    pub(super) fn in_flight(&self) -> usize {
        let pending = self.pending();
        let waiting = pending.by_id.len() + pending.in_order.len();
        drop(pending);
        waiting + self.mux.as_ref().map_or(0, |mux| mux.open_count())
    }

    /// Gives it no more requests. Returns what it was before.
    pub(super) fn retire(&self) -> Retirement {
        if self.leaving.swap(true, Ordering::Relaxed) { Retirement::Already } else { Retirement::New }
    }

    /// Whether it gets no more requests.
    pub(super) fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::Relaxed)
    }

    /// Whether both are the same session of the same process.
    pub(super) fn is_succeeded_by(&self, other: &AgentSession) -> bool {
        let identity = |agent: &AgentSession| agent.handshake.instance.clone().zip(agent.handshake.slot);
        let (ours, theirs) = (identity(self), identity(other));
        ours.is_some() && ours == theirs && self.handshake.tunnel_id == other.handshake.tunnel_id
    }

    /// Opens a stream for a request, and sends as much of its body as fits. Returns how much that was.
    pub(super) fn open(
        &self,
        head: Bytes,
        body: &[u8],
        fin: Fin,
        closing: Closing,
    ) -> Result<(Stream, usize), NoAnswer> {
        let mux = self.mux.as_ref().ok_or(NoAnswer::Gone)?;
        if mux.control_bytes() > CONTROL_BYTES_MAX {
            return Err(NoAnswer::Busy);
        }
        mux.open(head, body, fin, closing).map_err(|error| match error {
            OpenError::Full => NoAnswer::Busy,
            OpenError::Lost | OpenError::GoesAway => NoAnswer::Gone,
        })
    }

    /// Sends a request with this number and waits for its answer.
    pub(super) fn forward(
        &self,
        number: u64,
        head: &request::Parts,
        body: Vec<u8>,
        limits: &EnvelopeLimits<'_>,
    ) -> Result<AgentReply, NoAnswer> {
        let id = self.has_ids().then_some(number);
        let reads_base64 = self.dialect == Dialect::Full && self.handshake.can("base64");
        let encoding = if reads_base64 { BodyEncoding::Base64 } else { BodyEncoding::Text };
        let text =
            message::encode(id.map(RequestId::from).as_ref(), head, &body, encoding, limits.max_message);
        let text = text.map_err(|_| NoAnswer::TooLarge)?;
        // The envelope waits in the body's place.
        let mut share = limits.budget.share();
        if !body.is_empty() && !share.grow(text.len()) {
            return Err(NoAnswer::OutOfMemory);
        }
        drop(body);
        let (reply, answer) = mpsc::sync_channel(1);
        let waiting = Waiter { reply, budget: limits.budget.clone() };
        self.send(id, Outbound::Text(text.into()), waiting)?;
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
    pub(super) fn take_number(&self) -> u64 {
        let mut pending = self.pending();
        let id = pending.next_id;
        pending.next_id += 1;
        id
    }

    /// Queues a request and its waiter in one step: the order of both is the same.
    fn send(&self, id: Option<u64>, text: Outbound, reply: Waiter) -> Result<(), NoAnswer> {
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

    /// Passes an answer on to the visitor that waits for it.
    pub(super) fn answered(&self, answer: DecodedAnswer) {
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

    /// Records that a message was taken off the queue.
    pub(super) fn record_taken(&self, message: &Outbound) {
        self.outgoing_bytes.fetch_sub(length(message), Ordering::Relaxed);
    }

    /// Closes the connection.
    pub(super) fn close(&self) {
        self.closer.close();
    }

    /// Sends a control frame, unless too much waits already.
    pub(super) fn control(&self, frame: Outbound) {
        self.queue(Queued::Message(frame));
    }

    fn queue(&self, what: Queued) {
        if let Some(outgoing) = &self.pending().outgoing {
            let _ = outgoing.try_send(what);
        }
    }

    /// Ends the connection's queue: visitors that wait for answers get none, and queued messages are still sent.
    pub(super) fn end(&self) {
        let mut pending = self.pending();
        pending.outgoing = None;
        pending.by_id.clear();
        pending.in_order.clear();
        drop(pending);
        self.mux.as_ref().inspect(|mux| mux.close());
    }
}

/// The limits of this gateway, for its agents.
fn mux_limits() -> MuxLimits {
    // As many as there can be visitors: the agent knows what it can take.
    MuxLimits { max_streams: PLACES as u32, ..MuxLimits::default() }
}

/// The bytes that a request takes up while it waits; those of control are not worth counting.
fn length(message: &Outbound) -> usize {
    if let Outbound::Text(text) = message { text.len() } else { 0 }
}
