//! The thread that writes what is sent to one agent.

use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use log::warn;
use tungstenite::Bytes;
use tungstenite::protocol::Role;

use super::agent_session::{AgentSession, Queued};
use crate::link::{MessageWriter, Outbound};
use crate::net::WriteHalf;

/// Frames are collected up to this many bytes before they are written.
const BATCH: usize = 64 << 10;

/// Between two pings to an agent.
const PING_INTERVAL: Duration = Duration::from_secs(20);

/// Writes what is queued, and pings, until the queue or the connection ends.
pub(super) fn write(agent: &AgentSession, queue: &Receiver<Queued>, mut half: WriteHalf) {
    let mut frames = MessageWriter::new(Role::Server);
    let push = |frames: &mut MessageWriter, queued| {
        if let Queued::Message(message) = queued {
            // A GOAWAY comes before the end that it announces; and a pong tells that what was opened before is on its way.
            if let (Outbound::Close(..) | Outbound::Pong(_), Some(mux)) = (&message, agent.mux()) {
                mux.take_control(|control| frames.push_binary(control));
            }
            agent.record_taken(&message);
            frames.push(&message);
        }
    };
    loop {
        match queue.recv_timeout(PING_INTERVAL) {
            Ok(queued) => push(&mut frames, queued),
            Err(RecvTimeoutError::Timeout) => frames.push(&Outbound::Ping(Bytes::new())),
            Err(RecvTimeoutError::Disconnected) => return drop(half.finish()),
        }
        // What streams have to send goes out before the queue is waited for again: a full queue takes no word
        // of it.
        while collect(agent, queue, &mut frames, push) {
            while !frames.is_empty() {
                if let Err(error) = frames.write_step(&mut half) {
                    warn!("cannot write to agent {}: {error}", agent.handshake.tunnel_id);
                    agent.end();
                    return agent.close();
                }
            }
        }
    }
}

/// Collects what waits, up to a batch. False when that is nothing.
fn collect(
    agent: &AgentSession,
    queue: &Receiver<Queued>,
    frames: &mut MessageWriter,
    push: impl Fn(&mut MessageWriter, Queued),
) -> bool {
    while frames.waiting() < BATCH {
        if let Ok(queued) = queue.try_recv() {
            push(frames, queued);
        } else if let Some(mux) = agent.mux()
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
