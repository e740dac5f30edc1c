//! The agent alone: a simulated gateway keeps K requests outstanding over one WebSocket.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use tungstenite::protocol::Role;
use tunnel_agent::unversioned::link::{MessageReader, MessageWriter, Outbound, Received};
use tunnel_agent::unversioned::mux::{Fin, Frame, MuxLimits};
use tunnel_agent::unversioned::net::Socket;

use crate::process::Program;
use crate::{Latencies, WARM_UP};

/// How requests travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wire {
    Envelopes,
    Mux,
}

pub(crate) struct Measured {
    pub(crate) per_second: f64,
    pub(crate) latencies: Latencies,
    /// Microseconds per request.
    pub(crate) user: f64,
    pub(crate) system: f64,
    pub(crate) memory: f64,
    pub(crate) threads: usize,
}

pub(crate) fn measure(wire: Wire, local: SocketAddr, outstanding: usize, time: Duration) -> Measured {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let agent = Program::agent(listener.local_addr().unwrap(), local, &[]);
    let (socket, _) = listener.accept().unwrap();
    let (mut socket, rest) = accept(socket);
    let mut half = socket.split().unwrap();
    let mut reader = MessageReader::new(socket, rest, Role::Server, 1 << 20);

    let (send, to_send) = mpsc::channel::<u32>();
    let writer = thread::spawn(move || {
        let mut frames = MessageWriter::new(Role::Server);
        if wire == Wire::Mux {
            frames.push(&Outbound::Text(MuxLimits::default().encode_welcome(None).into()));
        }
        while let Ok(number) = to_send.recv() {
            frames.push(&wire.request(number));
            while let Ok(number) = to_send.try_recv() {
                frames.push(&wire.request(number));
            }
            while !frames.is_empty() && frames.write_step(&mut half).is_ok() {}
        }
    });
    let mut next = 1;
    let mut sent_at = HashMap::new();
    let mut ask = |sent_at: &mut HashMap<u32, Instant>| {
        sent_at.insert(next, Instant::now());
        send.send(next).unwrap();
        next += 1;
    };
    (0..outstanding).for_each(|_| ask(&mut sent_at));
    let mut run = |time: Duration, latencies: &mut Vec<Duration>| {
        let began = Instant::now();
        while began.elapsed() < time {
            let number = wire.next_done(&mut reader);
            latencies.push(sent_at.remove(&number).unwrap().elapsed());
            ask(&mut sent_at);
        }
        began.elapsed()
    };
    run(WARM_UP, &mut Vec::new());
    let mut latencies = Vec::with_capacity(1 << 20);
    let before = agent.cpu();
    let took = run(time, &mut latencies);
    let after = agent.cpu();
    let measured = Measured {
        per_second: latencies.len() as f64 / took.as_secs_f64(),
        user: (after.0 - before.0) * 1e6 / latencies.len() as f64,
        system: (after.1 - before.1) * 1e6 / latencies.len() as f64,
        latencies: Latencies::new(latencies),
        memory: agent.memory().0,
        threads: agent.threads(),
    };
    drop(send);
    writer.join().unwrap();
    measured
}

impl Wire {
    fn request(self, number: u32) -> Outbound {
        match self {
            Wire::Envelopes => envelope(number),
            Wire::Mux => {
                let head =
                    "GET /bench HTTP/1.1\r\nhost: localhost\r\naccept: */*\r\nuser-agent: bench\r\n\r\n";
                let frame = Frame::Head { stream: number, fin: Fin::Last, head: head.into() };
                Outbound::Binary(frame.encode())
            }
        }
    }

    /// Waits for the end of the next response.
    fn next_done(self, reader: &mut MessageReader) -> u32 {
        loop {
            let done = match reader.read().expect("the agent goes on") {
                Received::Text(text) if self == Wire::Envelopes => id_of(&text),
                Received::Binary(message) => match Frame::decode(&message).expect("frames") {
                    Frame::Head { head, .. } => {
                        assert!(head.starts_with(b"HTTP/1.1 200 "));
                        None
                    }
                    Frame::Data { stream, fin, .. } => (fin == Fin::Last).then_some(stream),
                    other => panic!("{other:?}"),
                },
                _ => None,
            };
            if let Some(done) = done {
                return done;
            }
        }
    }
}

fn accept(socket: TcpStream) -> (Socket, Vec<u8>) {
    let mut reader = BufReader::new(socket.try_clone().unwrap());
    let mut key = String::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("sec-websocket-key:") {
            key = line[line.len() - value.len()..].trim().to_owned();
        }
        if line == "\r\n" {
            break;
        }
    }
    let accept = tungstenite::handshake::derive_accept_key(key.as_bytes());
    let head = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket";
    write!(&socket, "{head}\r\nSec-WebSocket-Accept: {accept}\r\n\r\n").unwrap();
    let rest = reader.buffer().to_vec();
    (Socket::plain(socket).unwrap(), rest)
}

fn envelope(id: u32) -> Outbound {
    let payload = format!(
        "{{\\\"id\\\":{id},\\\"method\\\":\\\"GET\\\",\\\"path\\\":\\\"/bench\\\",\\\"headers\\\":[[\\\"host\\\",\\\"localhost\\\"],\
         [\\\"accept\\\",\\\"*/*\\\"],[\\\"user-agent\\\",\\\"bench\\\"]],\\\"body\\\":\\\"\\\"}}"
    );
    Outbound::Text(format!("{{\"message_type\":\"request\",\"payload\":\"{payload}\"}}").into_bytes().into())
}

/// The ID of a response, which stands first in its payload.
fn id_of(text: &str) -> Option<u32> {
    let digits = &text[text.find("{\\\"id\\\":")? + 8..];
    assert!(text.contains("\\\"status_code\\\":200"), "{text}");
    digits[..digits.find(',')?].parse().ok()
}
