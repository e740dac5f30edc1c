//! A whole session: an agent, and a gateway that says arbitrary things to it. Whatever they are, the agent dials
//! again, and answers a request on its next session.
#![no_main]

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::OnceLock;
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use tungstenite::{Bytes, Message, WebSocket};
use tunnel_agent::{Agent, BackoffConfig, Body, Failure, Request, Response, RunningAgent};

const WELCOME: &str =
    r#"{"message_type":"welcome","payload":{"protocol":"mux/2","window":16384,"max_streams":8}}"#;
const PROBE: &str = r#"{"message_type":"request","payload":{"method":"GET","path":"/probe"}}"#;

/// How long the agent may take for anything.
const LIMIT: Duration = Duration::from_secs(10);

struct Bench {
    gateway: TcpListener,
    _agent: RunningAgent,
}

/// Answers with what it reads.
fn echo(request: Request) -> Result<Response, Failure> {
    let mut body = Vec::new();
    let _ = request.into_body().take(1 << 20).read_to_end(&mut body);
    Ok(Response::new(Body::from(body)))
}

fn bench() -> &'static Bench {
    static BENCH: OnceLock<Bench> = OnceLock::new();
    BENCH.get_or_init(|| {
        let gateway = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("ws://{}", gateway.local_addr().unwrap());
        let short = Duration::from_millis(1);
        let agent = Agent::builder("agent_550e8400-e29b-41d4-a716-446655440000_fuzz".parse().unwrap())
            .gateway(url.parse().unwrap())
            .backoff(BackoffConfig { min: short, max: short, max_retries: 0 })
            .service(echo)
            .workers(2)
            .max_streams(4)
            .handover_drain(Duration::ZERO)
            .build()
            .unwrap();
        Bench { gateway, _agent: agent.spawn().unwrap() }
    })
}

/// Takes the agent's next session, up to its handshake. `None` when it is one that was given up meanwhile: a
/// successor, say, of a session that has ended.
fn accept(gateway: &TcpListener) -> Option<WebSocket<TcpStream>> {
    let (socket, _) = gateway.accept().unwrap();
    socket.set_read_timeout(Some(LIMIT)).unwrap();
    let mut socket = tungstenite::accept(socket).ok()?;
    socket.read().ok()?;
    Some(socket)
}

fuzz_target!(|data: &[u8]| {
    let bench = bench();
    let Some(mut session) = accept(&bench.gateway) else { return };
    say(&mut session, data);
    drop(session);
    // It comes back, and works.
    for _ in 0..3 {
        let Some(mut session) = accept(&bench.gateway) else { continue };
        session.send(Message::text(PROBE)).unwrap();
        let answer = session.read().expect("an answer to the probe");
        assert!(answer.to_text().is_ok_and(|text| text.contains("\"response\"")), "{answer:?}");
        return;
    }
    panic!("the agent does not come back");
});

/// Says what the input holds: each message has its kind and its length in front. The last kind is bytes as they
/// are, which may break the WebSocket itself.
fn say(session: &mut WebSocket<TcpStream>, mut data: &[u8]) {
    if data.first().is_some_and(|first| first & 1 == 1) {
        let _ = session.send(Message::text(WELCOME));
    }
    while let [kind, low, high, rest @ ..] = data {
        let length = usize::from(u16::from_le_bytes([*low, high & 0x3f]));
        let (payload, rest) = rest.split_at(rest.len().min(length));
        data = rest;
        let message = match kind >> 5 {
            0..=3 => Message::Binary(Bytes::copy_from_slice(payload)),
            4 | 5 => Message::text(String::from_utf8_lossy(payload).into_owned()),
            6 => Message::Ping(Bytes::copy_from_slice(&payload[..payload.len().min(125)])),
            _ => {
                let _ = session.get_mut().write_all(payload);
                continue;
            }
        };
        if session.send(message).is_err() {
            return;
        }
    }
}
