//! The agents that are connected, and which answer belongs to whom.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use http::{Response, StatusCode, request};
use log::{debug, warn};
use tungstenite::protocol::Role;
use tunnel_agent::TunnelId;
use tunnel_agent::link::{Closer, FrameWriter, Outgoing, WriteHalf};
use tunnel_agent::protocol::{Answer, Handshake, RequestId, request as message};

/// Messages that may wait to be sent to one agent.
const OUTGOING_MAX: usize = 256;

/// Bytes of them; one message always fits.
const OUTGOING_BYTES_MAX: usize = 64 << 20;

/// Requests that may wait for the answers of one agent.
const PENDING_MAX: usize = 1024;

/// Between two pings to an agent.
const PING_INTERVAL: Duration = Duration::from_secs(20);

/// Frames are collected up to this many bytes before they are written.
const BATCH: usize = 64 << 10;

/// An agent's connection.
#[derive(Debug)]
pub struct Agent {
    pub connection_id: String,
    pub handshake: Handshake,
    pub since: Instant,
    legacy: bool,
    closer: Closer,
    /// Bytes that wait to be sent.
    outgoing_bytes: AtomicUsize,
    pending: Mutex<Pending>,
}

/// What came of a request.
pub type Reply = Result<Response<Vec<u8>>, String>;

/// Why an agent gave no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoAnswer {
    /// Too many requests wait for this agent.
    Busy,
    /// The request does not fit into a message.
    TooLarge,
    /// Its connection ended.
    Gone,
    /// It took too long.
    TimedOut,
}

impl NoAnswer {
    /// Status, code and text of the response that tells the client.
    pub fn tell(self) -> (StatusCode, &'static str, &'static str) {
        match self {
            NoAnswer::Busy => {
                (StatusCode::SERVICE_UNAVAILABLE, "agent_busy", "too many requests wait for the agent")
            }
            NoAnswer::TooLarge => (
                StatusCode::PAYLOAD_TOO_LARGE,
                "message_too_large",
                "the request does not fit into one message",
            ),
            NoAnswer::Gone => (StatusCode::BAD_GATEWAY, "agent_gone", "the agent's connection ended"),
            NoAnswer::TimedOut => {
                (StatusCode::GATEWAY_TIMEOUT, "timeout", "the agent did not answer in time")
            }
        }
    }
}

/// Who waits for an answer. A client that does not wait any more keeps its place in the order: its answer
/// still comes, and is nobody else's.
#[derive(Debug)]
struct Pending {
    /// `None` when the connection has ended.
    outgoing: Option<SyncSender<Outgoing>>,
    next_id: u64,
    by_id: HashMap<u64, SyncSender<Reply>>,
    in_order: VecDeque<SyncSender<Reply>>,
}

impl Agent {
    /// A connection whose handshake is done, and the queue of what is to be sent to it.
    pub fn new(
        connection_id: String,
        handshake: Handshake,
        legacy: bool,
        closer: Closer,
    ) -> (Arc<Self>, Receiver<Outgoing>) {
        let (outgoing, queue) = mpsc::sync_channel(OUTGOING_MAX);
        let pending = Mutex::new(Pending {
            outgoing: Some(outgoing),
            next_id: 1,
            by_id: HashMap::new(),
            in_order: VecDeque::new(),
        });
        let agent = Agent {
            connection_id,
            handshake,
            since: Instant::now(),
            legacy,
            closer,
            outgoing_bytes: AtomicUsize::new(0),
            pending,
        };
        (Arc::new(agent), queue)
    }

    fn pending(&self) -> MutexGuard<'_, Pending> {
        // Nothing panics while the lock is held.
        self.pending.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Whether answers carry the ID of their request.
    pub fn has_ids(&self) -> bool {
        !self.legacy && self.handshake.can("id")
    }

    /// Requests that wait for an answer.
    pub fn in_flight(&self) -> usize {
        let pending = self.pending();
        pending.by_id.len() + pending.in_order.len()
    }

    /// Sends a request and waits for its answer.
    pub fn forward(
        &self,
        head: &request::Parts,
        body: &[u8],
        max_message: usize,
        timeout: Duration,
    ) -> Result<Reply, NoAnswer> {
        let id = self.has_ids().then(|| self.take_id());
        let base64 = !self.legacy && self.handshake.can("base64");
        let text = message::encode(id.map(RequestId::from).as_ref(), head, body, base64, max_message);
        let text = text.map_err(|_| NoAnswer::TooLarge)?;
        let (reply, answer) = mpsc::sync_channel(1);
        self.send(id, Outgoing::Text(text.into()), reply)?;
        answer.recv_timeout(timeout).map_err(|error| {
            if let Some(id) = id {
                self.pending().by_id.remove(&id);
            }
            match error {
                RecvTimeoutError::Timeout => NoAnswer::TimedOut,
                RecvTimeoutError::Disconnected => NoAnswer::Gone,
            }
        })
    }

    fn take_id(&self) -> u64 {
        let mut pending = self.pending();
        let id = pending.next_id;
        pending.next_id += 1;
        id
    }

    /// Queues a request and takes note of who waits for it, in one step: the order of both is the same.
    fn send(&self, id: Option<u64>, text: Outgoing, reply: SyncSender<Reply>) -> Result<(), NoAnswer> {
        let mut pending = self.pending();
        let pending = &mut *pending;
        let Some(outgoing) = &pending.outgoing else { return Err(NoAnswer::Gone) };
        let (bytes, waiting) = (length(&text), self.outgoing_bytes.load(Ordering::Relaxed));
        let heavy = waiting > 0 && waiting + bytes > OUTGOING_BYTES_MAX;
        if heavy || pending.by_id.len() + pending.in_order.len() >= PENDING_MAX {
            return Err(NoAnswer::Busy);
        }
        self.outgoing_bytes.fetch_add(bytes, Ordering::Relaxed);
        outgoing.try_send(text).map_err(|error| {
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
            // The client may have left meanwhile.
            Some(waiting) => drop(waiting.try_send(answer.result)),
            None => debug!("agent {} answered what nobody asked", self.handshake.tunnel_id),
        }
    }

    /// Sends a control frame, unless too much waits already.
    pub fn control(&self, frame: Outgoing) {
        if let Some(outgoing) = &self.pending().outgoing {
            let _ = outgoing.try_send(frame);
        }
    }

    /// Ends the connection's queue: those who wait for answers are told, and what is queued is still sent.
    pub fn end(&self) {
        let mut pending = self.pending();
        pending.outgoing = None;
        pending.by_id.clear();
        pending.in_order.clear();
    }
}

/// What a request takes up while it waits; control takes up nothing worth counting.
fn length(message: &Outgoing) -> usize {
    if let Outgoing::Text(text) = message { text.len() } else { 0 }
}

/// Writes what is queued, and pings, until the queue or the connection ends.
pub fn write(agent: &Agent, queue: &Receiver<Outgoing>, mut half: WriteHalf) {
    let mut frames = FrameWriter::new(Role::Server);
    let push = |frames: &mut FrameWriter, message| {
        agent.outgoing_bytes.fetch_sub(length(&message), Ordering::Relaxed);
        frames.push(message);
    };
    loop {
        match queue.recv_timeout(PING_INTERVAL) {
            Ok(message) => push(&mut frames, message),
            Err(RecvTimeoutError::Timeout) => frames.push(Outgoing::Ping),
            Err(RecvTimeoutError::Disconnected) => return drop(half.finish()),
        }
        while frames.waiting() < BATCH {
            let Ok(message) = queue.try_recv() else { break };
            push(&mut frames, message);
        }
        while !frames.is_empty() {
            if let Err(error) = frames.write_step(&mut half) {
                warn!("cannot write to agent {}: {error}", agent.handshake.tunnel_id);
                agent.end();
                return agent.closer.close();
            }
        }
    }
}

/// All agents.
pub struct Agents {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    list: Vec<Arc<Agent>>,
    /// Whose turn it is.
    next: usize,
    stopping: bool,
}

impl Agents {
    pub fn new() -> Self {
        Agents {
            state: Mutex::new(State { list: Vec::new(), next: 0, stopping: false }),
            changed: Condvar::new(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while the lock is held.
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Lets an agent take requests. False when the gateway is stopping.
    pub fn add(&self, agent: &Arc<Agent>) -> bool {
        let mut state = self.state();
        if !state.stopping {
            state.list.push(agent.clone());
        }
        !state.stopping
    }

    pub fn remove(&self, agent: &Arc<Agent>) {
        self.state().list.retain(|other| !Arc::ptr_eq(other, agent));
        self.changed.notify_all();
    }

    pub fn count(&self) -> usize {
        self.state().list.len()
    }

    pub fn list(&self) -> Vec<Arc<Agent>> {
        self.state().list.clone()
    }

    /// The next agent of this tunnel, or of any.
    pub fn choose(&self, tunnel_id: Option<&TunnelId>) -> Option<Arc<Agent>> {
        let mut state = self.state();
        let count = state.list.len();
        let fits = |agent: &Agent| tunnel_id.is_none_or(|id| *id == agent.handshake.tunnel_id);
        let index =
            (0..count).map(|step| (state.next + step) % count).find(|&index| fits(&state.list[index]))?;
        state.next = index + 1;
        Some(state.list[index].clone())
    }

    /// Says goodbye to all agents, and waits for them to leave.
    pub fn close_all(&self, wait: Duration) {
        let mut state = self.state();
        state.stopping = true;
        for agent in &state.list {
            agent.control(Outgoing::Close(1001, "the gateway is stopping"));
        }
        // Whether they left in time changes nothing: the process ends.
        let _ = self.changed.wait_timeout_while(state, wait, |state| !state.list.is_empty());
    }
}
