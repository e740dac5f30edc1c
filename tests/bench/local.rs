//! The local server, and visitors that go straight to it or through the tunnel.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Barrier, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use crate::{BODY, Latencies, WARM_UP};

/// What is sent and received at once.
const PIECE: usize = 64 << 10;

/// When the last event was written, for each `/events` in turn.
pub(crate) type Written = Arc<Mutex<Vec<Instant>>>;

/// A server that keeps connections alive: `/bench` is 512 bytes, `/download/N` so many, an upload is read and
/// thanked for, `/events/N` sends N events, one each millisecond, and then nothing.
pub(crate) fn start(written: Written) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for socket in listener.incoming().flatten() {
            let written = written.clone();
            let thread = thread::Builder::new().stack_size(256 << 10);
            thread.spawn(move || drop(answer_all(socket, &written))).unwrap();
        }
    });
    address
}

fn answer_all(mut socket: TcpStream, written: &Written) -> std::io::Result<()> {
    socket.set_nodelay(true)?;
    let small = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {BODY}\r\n\r\n{}",
        "x".repeat(BODY)
    );
    let mut reader = BufReader::with_capacity(PIECE, socket.try_clone()?);
    while let Some((path, length)) = read_head(&mut reader)? {
        let (kind, number) = path.rsplit_once('/').unwrap_or_default();
        let number: u64 = number.parse().unwrap_or_default();
        match kind {
            "/download" => {
                write!(socket, "HTTP/1.1 200 OK\r\nContent-Length: {number}\r\n\r\n")?;
                send(&mut socket, number)?;
            }
            "/events" => {
                socket.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")?;
                for _ in 0..number {
                    thread::sleep(Duration::from_millis(1));
                    written.lock().unwrap().push(Instant::now());
                    socket.write_all(b"data: event\n\n")?;
                }
                // Until the visitor leaves.
                return reader.read(&mut [0]).map(drop);
            }
            _ => {
                std::io::copy(&mut reader.by_ref().take(length), &mut std::io::sink())?;
                socket.write_all(small.as_bytes())?;
            }
        }
    }
    Ok(())
}

fn send(socket: &mut TcpStream, length: u64) -> std::io::Result<()> {
    let piece = [b'x'; PIECE];
    let mut left = length;
    while left > 0 {
        let now = left.min(PIECE as u64);
        socket.write_all(&piece[..now as usize])?;
        left -= now;
    }
    Ok(())
}

/// The second word of a head, and its `Content-Length`.
fn read_head(reader: &mut impl BufRead) -> std::io::Result<Option<(String, u64)>> {
    let (mut word, mut length, mut line) = (None, 0, String::new());
    loop {
        line.clear();
        if reader.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        if line == "\r\n" {
            return Ok(word.map(|word| (word, length)));
        }
        match line.to_ascii_lowercase().strip_prefix("content-length:") {
            Some(value) => length = value.trim().parse().unwrap_or_default(),
            None if word.is_none() => word = line.split(' ').nth(1).map(str::to_owned),
            None => {}
        }
    }
}

/// A visitor with a connection that is kept alive.
pub(crate) struct Visitor {
    socket: TcpStream,
    reader: BufReader<TcpStream>,
}

impl Visitor {
    pub(crate) fn new(address: SocketAddr) -> Visitor {
        let socket = TcpStream::connect(address).unwrap();
        socket.set_nodelay(true).unwrap();
        let reader = BufReader::with_capacity(PIECE, socket.try_clone().unwrap());
        Visitor { socket, reader }
    }

    /// Asks, and returns the length of the answer when its head has come.
    pub(crate) fn ask(&mut self, path: &str) -> u64 {
        write!(self.socket, "GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        self.read_head()
    }

    fn read_head(&mut self) -> u64 {
        let (status, length) = read_head(&mut self.reader).unwrap().expect("an answer");
        assert_eq!(status, "200");
        length
    }

    /// Asks, and reads all of the answer.
    pub(crate) fn get(&mut self, path: &str) -> u64 {
        let length = self.ask(path);
        let read = std::io::copy(&mut self.reader.by_ref().take(length), &mut std::io::sink());
        assert_eq!(read.unwrap(), length);
        length
    }

    pub(crate) fn upload(&mut self, length: u64) {
        write!(self.socket, "PUT /upload HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n").unwrap();
        send(&mut self.socket, length).unwrap();
        let length = self.read_head();
        std::io::copy(&mut self.reader.by_ref().take(length), &mut std::io::sink()).unwrap();
    }

    /// Waits for an event, however it is framed.
    pub(crate) fn wait_for_event(&mut self) -> Instant {
        let mut line = String::new();
        while !line.starts_with("data:") {
            line.clear();
            assert_ne!(self.reader.read_line(&mut line).unwrap(), 0, "the events end");
        }
        Instant::now()
    }
}

/// The status of an answer, if there is one.
pub(crate) fn status(address: SocketAddr, path: &str) -> Option<u16> {
    let mut socket = TcpStream::connect(address).ok()?;
    write!(socket, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").ok()?;
    let (status, _) = read_head(&mut BufReader::new(socket)).ok()??;
    status.parse().ok()
}

/// So many visitors ask for the small answer, one request after the other each. Returns requests per second, and
/// how long each took.
pub(crate) fn measure(
    address: SocketAddr,
    visitors: usize,
    time: Duration,
    began: impl FnOnce(),
) -> (f64, Latencies) {
    let (stop, counts) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let start = Arc::new(Barrier::new(visitors + 1));
    let done = Arc::new(AtomicU64::new(0));
    let threads: Vec<_> = (0..visitors)
        .map(|_| {
            let (stop, counts, start, done) = (stop.clone(), counts.clone(), start.clone(), done.clone());
            let run = move || {
                let mut visitor = Visitor::new(address);
                let mut latencies = Vec::new();
                start.wait();
                while !stop.load(Ordering::Relaxed) {
                    let began = Instant::now();
                    assert_eq!(visitor.get("/bench"), BODY as u64);
                    if counts.load(Ordering::Relaxed) {
                        latencies.push(began.elapsed());
                        done.fetch_add(1, Ordering::Relaxed);
                    }
                }
                latencies
            };
            thread::Builder::new().stack_size(256 << 10).spawn(run).unwrap()
        })
        .collect();
    start.wait();
    thread::sleep(WARM_UP);
    began();
    let from = Instant::now();
    counts.store(true, Ordering::Relaxed);
    thread::sleep(time);
    let per_second = done.load(Ordering::Relaxed) as f64 / from.elapsed().as_secs_f64();
    stop.store(true, Ordering::Relaxed);
    let all = threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
    (per_second, Latencies::new(all))
}

/// Requests per second of so many threads with one ureq agent each.
pub(crate) fn measure_ureq(address: SocketAddr, threads: usize, time: Duration) -> f64 {
    let url: Arc<str> = format!("http://{address}/bench").into();
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
