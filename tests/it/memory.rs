//! What strangers send, and what passes through, does not make the programs grow: each way is flooded, with the real
//! binaries, and the peak of their memory looked at.

#![cfg(target_os = "linux")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use crate::support::{
    LIMIT, Program, ScriptedGateway, Signal, TUNNEL_ID, get, ok, serve, serve_http, threads_and_descriptors,
};

const MIB: u64 = 1 << 20;

/// More than a program takes up that has little to do, with its threads.
const IDLE: u64 = 24 * MIB;

/// A field of a process' memory, in bytes: `VmHWM`, its peak, or `VmRSS`.
#[track_caller]
fn memory(program: &Program, field: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", program.id())).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix(field)).expect("the field");
    let number = line.trim_start_matches(':').trim().trim_end_matches(" kB");
    number.parse::<u64>().expect("a number") << 10
}

#[track_caller]
fn peaks_below(program: &Program, limit: u64) {
    let peak = memory(program, "VmHWM");
    assert!(peak < limit, "{} MiB, not below {}", peak / MIB, limit / MIB);
}

/// Reads up to this, and with it.
fn read_until(socket: &mut TcpStream, end: &[u8]) -> Vec<u8> {
    let mut seen = Vec::new();
    while !seen.ends_with(end) {
        let mut byte = [0];
        socket.read_exact(&mut byte).unwrap();
        seen.push(byte[0]);
    }
    seen
}

/// Opens a WebSocket as an agent does.
fn dial(address: SocketAddr) -> TcpStream {
    let mut socket = TcpStream::connect(address).unwrap();
    socket.set_read_timeout(Some(LIMIT)).unwrap();
    socket.set_write_timeout(Some(LIMIT)).unwrap();
    let request = "GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                   Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    socket.write_all(request.as_bytes()).unwrap();
    assert!(read_until(&mut socket, b"\r\n\r\n").starts_with(b"HTTP/1.1 101 "));
    socket
}

/// The head of a final frame of a client, whose mask changes nothing (RFC 6455 §5.2).
fn frame_head(opcode: u8, length: u64) -> Vec<u8> {
    let mut head = vec![0x80 | opcode, 0x80 | 127];
    head.extend(length.to_be_bytes());
    head.extend([0; 4]);
    head
}

/// Sends so many bytes of nothing in particular, or as many as are taken.
fn send_as_much(socket: &mut TcpStream, mut bytes: u64) {
    let piece = [b' '; 64 << 10];
    while bytes > 0 && socket.write_all(&piece).is_ok() {
        bytes = bytes.saturating_sub(piece.len() as u64);
    }
}

/// Sends the handshake of an agent that speaks mux/2, and waits for what it is answered with.
fn shake_hands(socket: &mut TcpStream) {
    let text = format!(r#"{{"tunnel_id":"{TUNNEL_ID}","agent_version":"1","capabilities":["id","mux/2"]}}"#);
    socket.write_all(&[frame_head(1, text.len() as u64), text.into_bytes()].concat()).unwrap();
    read_until(socket, b"welcome");
}

#[test]
fn a_stranger_who_has_not_said_which_agent_it_is_holds_no_memory() {
    let (gateway, address) = Program::gateway(&["--hold", "0s"]);
    let mut strangers: Vec<_> = (0..30).map(|_| dial(address)).collect();
    for socket in &mut strangers {
        let _ = socket.write_all(&frame_head(1, 15 * MIB));
        send_as_much(socket, 6 * MIB);
    }
    assert_eq!(get(address, "/").0, 503);
    peaks_below(&gateway, IDLE);
}

#[test]
fn an_agent_that_speaks_in_streams_sends_no_larger_messages_than_they_have() {
    let (gateway, address) = Program::gateway(&[]);
    let mut agents: Vec<_> = (0..20).map(|_| dial(address)).collect();
    for socket in &mut agents {
        shake_hands(socket);
        let _ = socket.write_all(&frame_head(2, 15 * MIB));
        send_as_much(socket, 6 * MIB);
    }
    assert_eq!(get(address, "/.tunnel/health").0, 200);
    peaks_below(&gateway, IDLE);
}

#[test]
fn a_large_welcome_costs_the_agent_nothing() {
    let gateway = ScriptedGateway::start();
    let url = gateway.url();
    let mut agent = Program::agent(&["--tunnel-id", TUNNEL_ID, "--gateway", &url]);
    let mut session = gateway.accept();
    let list = "1,".repeat(6 << 20);
    session.send(&format!(r#"{{"message_type":"welcome","payload":"{{\"window\":[{list}1]}}"}}"#));
    agent.wait_for("`welcome` is longer than 4 KiB");
    // What one message may take, and what it came in.
    peaks_below(&agent, 48 * MIB);
}

#[test]
fn whole_bodies_for_agents_without_streams_share_one_budget() {
    let (mut gateway, address) = Program::gateway(&["--legacy"]);
    let url = format!("ws://{address}");
    let _agent = Program::agent(&["--tunnel-id", TUNNEL_ID, "--gateway", &url]);
    gateway.wait_for("connected");
    let mut visitors: Vec<_> = (0..25)
        .map(|_| {
            thread::spawn(move || {
                let mut socket = TcpStream::connect(address).unwrap();
                let length = 9 * MIB;
                let head = format!("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n");
                socket.write_all(head.as_bytes()).unwrap();
                // But for the last byte.
                send_as_much(&mut socket, length - (64 << 10));
                let _ = socket.write_all(&vec![b' '; (64 << 10) - 1]);
                socket
            })
        })
        .collect();
    let _sockets: Vec<TcpStream> = visitors.drain(..).map(|visitor| visitor.join().unwrap()).collect();
    // Those for whom there is no memory are told so.
    gateway.wait_for("503 out_of_memory");
    // The allocator keeps some of what those held that were refused; all 25 bodies are 225 MiB.
    peaks_below(&gateway, 64 * MIB + 3 * IDLE);
}

#[test]
fn requests_for_upgrades_that_are_refused_use_up_no_connections() {
    let site = serve(|mut socket| {
        let mut seen = Vec::new();
        let mut byte = [0];
        while socket.read(&mut byte).is_ok_and(|read| read == 1) {
            seen.push(byte[0]);
            if seen.ends_with(b"\r\n\r\n") {
                seen.clear();
                let _ = socket.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nno");
            }
        }
    });
    let (mut gateway, address) = Program::gateway(&[]);
    let (url, local) = (format!("ws://{address}"), format!("http://{site}"));
    let agent = Program::agent(&["--tunnel-id", TUNNEL_ID, "--gateway", &url, "--local", &local]);
    gateway.wait_for("connected");
    let request = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: chat\r\n\r\n";
    let mut socket = TcpStream::connect(address).unwrap();
    socket.set_read_timeout(Some(LIMIT)).unwrap();
    for _ in 0..300 {
        socket.write_all(request).unwrap();
        read_until(&mut socket, b"\r\n\r\nno");
    }
    let (_, descriptors) = threads_and_descriptors(agent.id());
    assert!(descriptors < 64, "{descriptors}");
}

#[test]
fn what_passes_through_leaves_nothing_behind() {
    let site = serve(|mut socket| {
        let _ = socket.read(&mut [0; 4 << 10]);
        let _ = socket.write_all(b"HTTP/1.1 200 OK\r\n\r\n");
        while socket.write_all(&[b'x'; 64 << 10]).is_ok() {}
    });
    let (mut gateway, address) = Program::gateway(&[]);
    let (url, local) = (format!("ws://{address}"), format!("http://{site}"));
    let agent = Program::agent(&["--tunnel-id", TUNNEL_ID, "--gateway", &url, "--local", &local]);
    gateway.wait_for("connected");
    let (total, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let more = Signal::new();
    let visitors: Vec<_> = (0..12)
        .map(|_| {
            let (total, stop, more) = (total.clone(), stop.clone(), more.clone());
            thread::spawn(move || {
                let mut socket = TcpStream::connect(address).unwrap();
                socket.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
                let mut buffer = vec![0; 64 << 10];
                while !stop.load(Ordering::Relaxed) {
                    let read = socket.read(&mut buffer).unwrap() as u64;
                    let before = total.fetch_add(read, Ordering::Relaxed);
                    if before / (16 * MIB) != (before + read) / (16 * MIB) {
                        more.send(());
                    }
                }
            })
        })
        .collect();
    let wait_for = |bytes: u64| (0..bytes / (16 * MIB)).for_each(|_| more.wait());
    wait_for(64 * MIB);
    let before = [memory(&agent, "VmHWM"), memory(&gateway, "VmHWM")];
    wait_for(256 * MIB);
    let after = [memory(&agent, "VmHWM"), memory(&gateway, "VmHWM")];
    stop.store(true, Ordering::Relaxed);
    visitors.into_iter().for_each(|visitor| visitor.join().unwrap());
    for (before, after) in before.into_iter().zip(after) {
        assert!(after - before < 3 * MIB, "{} KiB more", (after - before) >> 10);
    }
}

#[test]
fn downloads_that_are_cancelled_leave_nothing_behind() {
    let site = serve_http(|_| ok(&"x".repeat(1 << 20)));
    let (mut gateway, address) = Program::gateway(&[]);
    let (url, local) = (format!("ws://{address}"), format!("http://{site}"));
    let agent = Program::agent(&["--tunnel-id", TUNNEL_ID, "--gateway", &url, "--local", &local]);
    gateway.wait_for("connected");
    let round = || {
        for _ in 0..10 {
            let sockets: Vec<_> = (0..30)
                .map(|_| {
                    let mut socket = TcpStream::connect(address).unwrap();
                    socket.set_read_timeout(Some(LIMIT)).unwrap();
                    socket.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
                    socket
                })
                .collect();
            sockets.into_iter().for_each(|mut socket| socket.read_exact(&mut [0; 100]).unwrap());
        }
        get(address, "/");
        memory(&agent, "VmHWM")
    };
    // The first rounds find out how many buffers are in use at once.
    let first = (0..2).map(|_| round()).max().unwrap();
    let last = (0..4).map(|_| round()).max().unwrap();
    assert!(last - first < 6 * MIB, "{} KiB more", (last - first) >> 10);
}
