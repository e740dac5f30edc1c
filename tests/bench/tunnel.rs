//! What the agent costs: a simulated gateway keeps K requests outstanding over one WebSocket, a keep-alive
//! local server answers 512 bytes, and in the same run plain ureq threads send as many requests straight to
//! that server. Run it with `make bench`; `BENCH_SECONDS` sets how long each measurement takes.
//!
//! Ratios within a run can be compared, seconds between machines cannot.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Barrier, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use tungstenite::protocol::Role;
use tunnel_agent::link::{FrameReader, FrameWriter, Incoming, Outgoing, Socket, frames};

const TUNNEL_ID: &str = "agent_550e8400-e29b-41d4-a716-446655440000_bench";
const BODY: usize = 512;
const OUTSTANDING: [usize; 3] = [1, 16, 64];
const WARM_UP: Duration = Duration::from_millis(500);

fn main() {
    let seconds: f64 = std::env::var("BENCH_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(3.0);
    let time = Duration::from_secs_f64(seconds);
    let local = start_local_server();
    println!("512-byte answers, {seconds} s each; CPU is user + system of the agent's process per request");
    println!("   K   direct/s   tunnel/s  ratio   p50 µs   p99 µs   CPU µs (user + sys)  RSS MiB  threads");
    for outstanding in OUTSTANDING {
        let direct = measure_direct(local, outstanding, time);
        let tunnel = measure_tunnel(local, outstanding, time);
        println!(
            "{outstanding:4} {direct:10.0} {:10.0}  {:5.2} {:8.0} {:8.0}   {:6.1} ({:.1} + {:.1}) {:8.1} {:8}",
            tunnel.per_second,
            tunnel.per_second / direct,
            tunnel.p50.as_secs_f64() * 1e6,
            tunnel.p99.as_secs_f64() * 1e6,
            tunnel.user + tunnel.system,
            tunnel.user,
            tunnel.system,
            tunnel.rss_mib,
            tunnel.threads,
        );
    }
}

/// A server that keeps connections alive and answers every request head with the same bytes.
fn start_local_server() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut response =
        format!("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {BODY}\r\n\r\n");
    response.push_str(&"x".repeat(BODY));
    let response: Arc<str> = response.into();
    thread::spawn(move || {
        for socket in listener.incoming().flatten() {
            let response = response.clone();
            thread::spawn(move || answer_all(socket, &response));
        }
    });
    port
}

fn answer_all(mut socket: TcpStream, response: &str) {
    socket.set_nodelay(true).unwrap();
    let mut buffer = [0; 4096];
    let mut filled = 0;
    while let Ok(read @ 1..) = socket.read(&mut buffer[filled..]) {
        filled += read;
        if buffer[..filled].ends_with(b"\r\n\r\n") {
            filled = 0;
            if socket.write_all(response.as_bytes()).is_err() {
                return;
            }
        }
    }
}

/// Requests per second of so many threads with one ureq agent each.
fn measure_direct(port: u16, threads: usize, time: Duration) -> f64 {
    let url: Arc<str> = format!("http://127.0.0.1:{port}/bench").into();
    let (stop, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let start = Arc::new(Barrier::new(threads + 1));
    let workers: Vec<_> = (0..threads)
        .map(|_| {
            let (url, stop, count, start) = (url.clone(), stop.clone(), count.clone(), start.clone());
            thread::spawn(move || {
                let agent = ureq::Agent::new_with_defaults();
                start.wait();
                while !stop.load(Ordering::Relaxed) {
                    let body = agent.get(&*url).call().unwrap().into_body().read_to_vec().unwrap();
                    assert_eq!(body.len(), BODY);
                    count.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    start.wait();
    thread::sleep(WARM_UP);
    let (from, began) = (count.load(Ordering::Relaxed), Instant::now());
    thread::sleep(time);
    let done = count.load(Ordering::Relaxed) - from;
    let per_second = done as f64 / began.elapsed().as_secs_f64();
    stop.store(true, Ordering::Relaxed);
    workers.into_iter().for_each(|worker| worker.join().unwrap());
    per_second
}

struct Measured {
    per_second: f64,
    p50: Duration,
    p99: Duration,
    /// Microseconds per request.
    user: f64,
    system: f64,
    rss_mib: f64,
    threads: usize,
}

fn measure_tunnel(local: u16, outstanding: usize, time: Duration) -> Measured {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut agent = start_agent(listener.local_addr().unwrap().port(), local);
    let (socket, _) = listener.accept().unwrap();
    let mut websocket = accept(socket);
    let mut half = websocket.get_mut().split().unwrap();
    let mut reader = FrameReader::new(websocket);

    let (send, to_send) = mpsc::channel::<u64>();
    let writer = thread::spawn(move || {
        let mut frames = FrameWriter::new(Role::Server);
        while let Ok(id) = to_send.recv() {
            frames.push(request(id));
            while let Ok(id) = to_send.try_recv() {
                frames.push(request(id));
            }
            while !frames.is_empty() && frames.write_step(&mut half).is_ok() {}
        }
    });
    let mut sent_at = vec![Instant::now(); outstanding];
    (0..outstanding as u64).for_each(|id| send.send(id).unwrap());
    let mut run = |time: Duration, latencies: &mut Vec<Duration>| {
        let began = Instant::now();
        while began.elapsed() < time {
            let id = next_id(&mut reader);
            let now = Instant::now();
            latencies.push(now - sent_at[id as usize]);
            sent_at[id as usize] = now;
            send.send(id).unwrap();
        }
        began.elapsed()
    };
    run(WARM_UP, &mut Vec::new());
    let mut latencies = Vec::with_capacity(1 << 20);
    let before = cpu(agent.id());
    let took = run(time, &mut latencies);
    let after = cpu(agent.id());
    let (rss_mib, threads) = memory_and_threads(agent.id());
    drop(send);
    writer.join().unwrap();
    agent.kill().unwrap();
    agent.wait().unwrap();

    latencies.sort_unstable();
    let requests = latencies.len() as f64;
    Measured {
        per_second: requests / took.as_secs_f64(),
        p50: latencies[latencies.len() / 2],
        p99: latencies[latencies.len() * 99 / 100],
        user: (after.0 - before.0) * 1e6 / requests,
        system: (after.1 - before.1) * 1e6 / requests,
        rss_mib,
        threads,
    }
}

fn start_agent(gateway: u16, local: u16) -> Child {
    let agent = std::env::var("BENCH_AGENT").unwrap_or_else(|_| env!("CARGO_BIN_EXE_agent").to_owned());
    Command::new(agent)
        .args(["--tunnel-id", TUNNEL_ID, "--gateway", &format!("ws://127.0.0.1:{gateway}")])
        .args(["--local", &format!("http://127.0.0.1:{local}")])
        .env("RUST_LOG", "warn")
        .stdin(Stdio::null())
        .spawn()
        .unwrap()
}

fn accept(socket: TcpStream) -> tungstenite::WebSocket<Socket> {
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
    let socket = Socket::plain(socket).unwrap();
    tungstenite::WebSocket::from_partially_read(socket, rest, Role::Server, Some(frames::config(1 << 20)))
}

fn request(id: u64) -> Outgoing {
    let payload = format!(
        "{{\\\"id\\\":{id},\\\"method\\\":\\\"GET\\\",\\\"path\\\":\\\"/bench\\\",\\\"headers\\\":[[\\\"host\\\",\\\"localhost\\\"],\
         [\\\"accept\\\",\\\"*/*\\\"],[\\\"user-agent\\\",\\\"bench\\\"]],\\\"body\\\":\\\"\\\"}}"
    );
    Outgoing::Text(format!("{{\"message_type\":\"request\",\"payload\":\"{payload}\"}}").into_bytes().into())
}

/// Waits for the next response; its ID stands first in its payload.
fn next_id(reader: &mut FrameReader) -> u64 {
    loop {
        let Incoming::Text(text) = reader.read().unwrap() else { continue };
        let Some(at) = text.find("{\\\"id\\\":") else { continue };
        assert!(text.contains("\\\"status_code\\\":200"), "{}", text.as_str());
        let digits = &text[at + 8..];
        return digits[..digits.find(',').unwrap()].parse().unwrap();
    }
}

/// Seconds of user and system time that a process has used (Linux).
fn cpu(pid: u32) -> (f64, f64) {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields: Vec<f64> = stat
        .rsplit(')')
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .map(|field| field.parse().unwrap_or_default())
        .collect();
    // Ticks of USER_HZ, which is 100 on every Linux that this runs on.
    let seconds = |index: usize| fields.get(index).copied().unwrap_or_default() / 100.0;
    (seconds(11), seconds(12))
}

fn memory_and_threads(pid: u32) -> (f64, usize) {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
        line.split_whitespace().next().and_then(|number| number.parse::<f64>().ok()).unwrap_or_default()
    };
    (field("VmRSS:") / 1024.0, field("Threads:") as usize)
}
