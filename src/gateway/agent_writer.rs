//! The thread that writes what is sent to one agent.

use std::io;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use log::warn;
use tungstenite::Bytes;

use super::agent_session::{AgentSession, Queued};
use crate::link::{MessageSink, Outbound, WRITE_BATCH};

/// Between two pings to an agent.
const PING_INTERVAL: Duration = Duration::from_secs(20);

/// Writes what is queued, and pings, until the queue or the connection ends.
pub(super) fn write(agent: &AgentSession, queue: &Receiver<Queued>, sink: Box<MessageSink>) {
    let mut sink = Some(sink);
    let mut next = queue.recv_timeout(PING_INTERVAL);
    loop {
        // What the threads of visitors wrote meanwhile went out through it.
        let Some(mut own) = sink.take().or_else(|| agent.mux().and_then(|mux| mux.reclaim())) else { return };
        match next {
            Ok(queued) => push(agent, &mut own, queued),
            Err(RecvTimeoutError::Timeout) => own.push(&Outbound::Ping(Bytes::new())),
            Err(RecvTimeoutError::Disconnected) => return drop(own.finish()),
        }
        sink = match write_all(agent, queue, own) {
            Ok(sink) => sink,
            Err(error) => {
                warn!("cannot write to agent {}: {error}", agent.handshake.tunnel_id);
                agent.end();
                return agent.close();
            }
        };
        next = queue.recv_timeout(PING_INTERVAL);
    }
}

/// Writes until nothing is queued. The streams have the sink then, if there are any. What they have to send goes out before
/// the queue is waited for again: a full queue takes no word of it.
fn write_all(
    agent: &AgentSession,
    queue: &Receiver<Queued>,
    mut sink: Box<MessageSink>,
) -> io::Result<Option<Box<MessageSink>>> {
    loop {
        while sink.waiting() < WRITE_BATCH
            && let Ok(queued) = queue.try_recv()
        {
            push(agent, &mut sink, queued);
        }
        if let Some(mux) = agent.mux() {
            mux.collect(&mut sink, WRITE_BATCH);
        }
        if !sink.is_empty() {
            sink.write_all()?;
            continue;
        }
        match agent.mux() {
            None => return Ok(Some(sink)),
            Some(mux) => match mux.lend(sink) {
                Ok(()) => return Ok(None),
                Err(returned) => sink = returned,
            },
        }
    }
}

fn push(agent: &AgentSession, sink: &mut MessageSink, queued: Queued) {
    let Queued::Message(message) = queued else { return };
    // A GOAWAY comes before the end that it announces; and a pong tells that what was opened before is on its way.
    if let (Outbound::Close(..) | Outbound::Pong(_), Some(mux)) = (&message, agent.mux()) {
        mux.collect_control(sink);
    }
    agent.record_taken(&message);
    sink.push(&message);
}
