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

/// Writes what is queued, and pings, until the queue or the connection ends. Behind a close frame it writes nothing more.
pub(super) fn write(agent: &AgentSession, queue: &Receiver<Queued>, sink: Box<MessageSink>) {
    let mut sink = Some(sink);
    let mut next = queue.recv_timeout(PING_INTERVAL);
    loop {
        // The threads of visitors wrote through it meanwhile.
        let Some(mut own) = sink.take().or_else(|| agent.mux().and_then(|mux| mux.reclaim())) else { return };
        let pushed = match next {
            Ok(queued) => push(agent, &mut own, queued),
            Err(RecvTimeoutError::Timeout) => {
                own.push(&Outbound::Ping(Bytes::new()));
                Pushed::More
            }
            Err(RecvTimeoutError::Disconnected) => return drop(own.finish()),
        };
        sink = match write_all(agent, queue, own, pushed) {
            Ok(WrittenAll::Open(sink)) => sink,
            Ok(WrittenAll::Closed(mut own)) => {
                while queue.recv().is_ok() {}
                return drop(own.finish());
            }
            Err(error) => {
                warn!("cannot write to agent {}: {error}", agent.handshake.tunnel_id);
                agent.end();
                return agent.close();
            }
        };
        next = queue.recv_timeout(PING_INTERVAL);
    }
}

/// Whether anything may follow what was pushed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pushed {
    More,
    /// It was a close frame.
    Last,
}

/// Everything is written.
enum WrittenAll {
    /// The streams have the sink now, if there are any.
    Open(Option<Box<MessageSink>>),
    /// Nothing may follow a close frame (RFC 6455 §5.5.1).
    Closed(Box<MessageSink>),
}

/// Writes until nothing is queued. What the streams have to send goes out before the queue is waited for again: a full
/// queue takes no word of it.
fn write_all(
    agent: &AgentSession,
    queue: &Receiver<Queued>,
    mut sink: Box<MessageSink>,
    mut pushed: Pushed,
) -> io::Result<WrittenAll> {
    loop {
        while pushed == Pushed::More && sink.waiting() < WRITE_BATCH {
            let Ok(queued) = queue.try_recv() else { break };
            pushed = push(agent, &mut sink, queued);
        }
        if pushed == Pushed::Last {
            sink.write_all()?;
            return Ok(WrittenAll::Closed(sink));
        }
        if let Some(mux) = agent.mux() {
            mux.collect(&mut sink, WRITE_BATCH);
        }
        if !sink.is_empty() {
            sink.write_all()?;
            continue;
        }
        match agent.mux() {
            None => return Ok(WrittenAll::Open(Some(sink))),
            Some(mux) => match mux.lend(sink) {
                Ok(()) => return Ok(WrittenAll::Open(None)),
                Err(returned) => sink = returned,
            },
        }
    }
}

fn push(agent: &AgentSession, sink: &mut MessageSink, queued: Queued) -> Pushed {
    let Queued::Message(message) = queued else { return Pushed::More };
    // A GOAWAY comes before the end that it announces; and a pong tells that what was opened before is on its way.
    if let (Outbound::Close(..) | Outbound::Pong(_), Some(mux)) = (&message, agent.mux()) {
        mux.collect_control(sink);
    }
    agent.record_taken(&message);
    sink.push(&message);
    if let Outbound::Close(..) = message { Pushed::Last } else { Pushed::More }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::{TcpListener, TcpStream};

    use tungstenite::protocol::Role;

    use super::super::agent_session::Dialect;
    use super::*;
    use crate::net::Socket;
    use crate::protocol::{Handshake, TunnelUrl, Wanted};

    #[test]
    fn nothing_follows_a_close_frame() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let mut socket = Socket::plain(listener.accept().unwrap().0).unwrap();
        let sink = Box::new(MessageSink::new(Role::Server, socket.split().unwrap()));
        let handshake = r#"{"tunnel_id":"agent_550e8400-e29b-41d4-a716-446655440000_prod","agent_version":"1","capabilities":["mux/2"]}"#;
        let handshake = Handshake::decode(handshake).unwrap();
        let url = TunnelUrl { url: "http://x.localhost".to_owned(), wanted: Wanted::Granted };
        let (agent, queue) =
            AgentSession::new(String::new(), handshake, Dialect::Full, socket.closer(), Some(&url));
        agent.control(Outbound::Close(4000, ""));
        agent.control(Outbound::Ping(Bytes::new()));
        agent.end();
        write(&agent, &queue, sink);
        let mut received = Vec::new();
        peer.read_to_end(&mut received).unwrap();
        assert!(received.ends_with(&[0x88, 2, 0x0f, 0xa0]), "{received:?}");
    }
}
