//! What several tests need: a local server that does as a test says, a gateway by script, and programs that
//! are watched through their log. Nothing here sleeps; every wait ends with an event, or fails the test.
#![allow(dead_code)] // Each test uses a part of it.

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use tungstenite::{Message, WebSocket};

/// How long anything may take before the test counts as failed.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

pub(crate) const TUNNEL_ID: &str = "agent_550e8400-e29b-41d4-a716-446655440000_prod";
pub(crate) const OTHER_TUNNEL_ID: &str = "agent_123e4567-e89b-12d3-a456-426614174000_other";

/// A request as a local server of these tests reads it.
#[derive(Debug, Clone)]
pub(crate) struct Received {
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Received {
    /// The value of a header, which comes once.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (found, value) = line.split_once(':')?;
            found.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }
}

/// Reads one request with a `Content-Length` or without a body. `None` when there is no more.
pub(crate) fn read_request(reader: &mut impl BufRead) -> Option<Received> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head).ok()? == 0 {
            return None;
        }
    }
    let mut received = Received { head, body: Vec::new() };
    let length = received.header("content-length").map_or(0, |length| length.parse().unwrap());
    received.body.resize(length, 0);
    reader.read_exact(&mut received.body).ok()?;
    Some(received)
}

/// A server on loopback whose every connection is handled by `handle`.
pub(crate) fn serve(handle: impl Fn(TcpStream) + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let handle = Arc::new(handle);
    thread::spawn(move || {
        for socket in listener.incoming().flatten() {
            let handle = handle.clone();
            thread::spawn(move || handle(socket));
        }
    });
    address
}

/// A well-behaved HTTP server that keeps connections alive.
pub(crate) fn serve_http(answer: impl Fn(&Received) -> Vec<u8> + Send + Sync + 'static) -> SocketAddr {
    serve(move |socket| {
        let mut reader = BufReader::new(socket.try_clone().unwrap());
        let mut socket = socket;
        while let Some(request) = read_request(&mut reader) {
            if socket.write_all(&answer(&request)).is_err() {
                return;
            }
        }
    })
}

/// A response with this body.
pub(crate) fn ok(body: &str) -> Vec<u8> {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

/// A value that one thread sets and another waits for.
pub(crate) struct Signal<T>(mpsc::Sender<T>, Mutex<Receiver<T>>);

impl<T> Signal<T> {
    pub(crate) fn new() -> Arc<Self> {
        let (sender, receiver) = mpsc::channel();
        Arc::new(Signal(sender, Mutex::new(receiver)))
    }

    pub(crate) fn send(&self, value: T) {
        self.0.send(value).unwrap();
    }

    #[track_caller]
    pub(crate) fn wait(&self) -> T {
        self.1.lock().unwrap().recv_timeout(LIMIT).expect("the signal comes")
    }
}

/// A gateway whose part a test plays.
pub(crate) struct ScriptedGateway(TcpListener);

impl ScriptedGateway {
    pub(crate) fn start() -> Self {
        ScriptedGateway(TcpListener::bind("127.0.0.1:0").unwrap())
    }

    pub(crate) fn url(&self) -> String {
        format!("ws://{}/ws", self.0.local_addr().unwrap())
    }

    pub(crate) fn port(&self) -> u16 {
        self.0.local_addr().unwrap().port()
    }

    /// Takes a connection as it is.
    pub(crate) fn accept_raw(&self) -> TcpStream {
        let socket = self.0.accept().unwrap().0;
        socket.set_read_timeout(Some(LIMIT)).unwrap();
        socket
    }

    /// Takes an agent up to its handshake.
    pub(crate) fn accept(&self) -> ScriptedSession {
        self.accept_with_handshake().0
    }

    pub(crate) fn accept_with_handshake(&self) -> (ScriptedSession, serde_json::Value) {
        let mut session = ScriptedSession(tungstenite::accept(self.accept_raw()).unwrap());
        let handshake = session.receive();
        assert!(handshake.starts_with("{\"tunnel_id\":\"agent_"), "{handshake}");
        (session, serde_json::from_str(&handshake).unwrap())
    }
}

/// A session with an agent.
pub(crate) struct ScriptedSession(pub(crate) WebSocket<TcpStream>);

impl ScriptedSession {
    pub(crate) fn send(&mut self, text: &str) {
        self.0.send(Message::text(text)).unwrap();
    }

    /// Sends a request whose payload is this JSON.
    pub(crate) fn request(&mut self, payload: &str) {
        self.send(&format!("{{\"message_type\":\"request\",\"payload\":{payload}}}"));
    }

    pub(crate) fn get(&mut self, path: &str) {
        self.request(&format!("{{\"method\":\"GET\",\"path\":\"{path}\"}}"));
    }

    /// The next text message.
    #[track_caller]
    pub(crate) fn receive(&mut self) -> String {
        loop {
            match self.0.read().expect("a message") {
                Message::Text(text) => return text.to_string(),
                Message::Ping(_) | Message::Pong(_) => {}
                other => panic!("not a text message: {other:?}"),
            }
        }
    }

    /// The next answer.
    #[track_caller]
    pub(crate) fn answer(&mut self) -> Reply {
        Reply::read(&self.receive())
    }

    /// The code of the close frame that comes next, behind whatever else does.
    #[track_caller]
    pub(crate) fn close_code(&mut self) -> u16 {
        loop {
            if let Message::Close(frame) = self.0.read().expect("a close frame") {
                return frame.map_or(0, |frame| frame.code.into());
            }
        }
    }
}

/// An answer, read with nothing of the crate's own.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Reply {
    pub(crate) id: Option<serde_json::Value>,
    pub(crate) status: Option<u64>,
    pub(crate) text: String,
    pub(crate) json: serde_json::Value,
}

impl Reply {
    pub(crate) fn read(frame: &str) -> Reply {
        let envelope: serde_json::Value = serde_json::from_str(frame).unwrap();
        let payload = envelope["payload"].as_str().unwrap();
        if envelope["message_type"] == "error" {
            return Reply {
                id: envelope.get("id").cloned(),
                status: None,
                text: payload.to_owned(),
                json: envelope,
            };
        }
        assert_eq!(envelope["message_type"], "response", "{frame}");
        let json: serde_json::Value = serde_json::from_str(payload).unwrap();
        Reply {
            id: json.get("id").cloned(),
            status: json["data"]["status_code"].as_u64(),
            text: json["data"]["body"].as_str().unwrap().to_owned(),
            json,
        }
    }

    /// The value of a response's header.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let headers = self.json["data"]["headers"].as_array()?;
        headers.iter().find(|pair| pair[0] == name).and_then(|pair| pair[1].as_str())
    }
}

/// A folder of a test's own, removed when the test is done with it. Its path is short, for sockets.
pub(crate) struct Folder(pub(crate) PathBuf);

impl Folder {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("ta-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        // What another process of that number left.
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Writes a file of the user's alone, whole: nobody reads half of it.
    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        let (draft, path) = (self.path("draft"), self.path(name));
        fs::write(&draft, text).unwrap();
        #[cfg(unix)]
        fs::set_permissions(&draft, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        fs::rename(draft, &path).unwrap();
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A program of this crate, watched through what it logs. It is killed when the test is done with it.
pub(crate) struct Program {
    child: Child,
    lines: Receiver<String>,
    pub(crate) log: Vec<String>,
}

impl Program {
    #[track_caller]
    pub(crate) fn start(binary: &str, arguments: &[&str], environment: &[(&str, &str)]) -> Program {
        let mut command = Command::new(binary);
        // Nothing from outside changes what a test sees.
        command.env_clear().args(arguments).envs(environment.iter().copied());
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it starts");
        let stderr = child.stderr.take().unwrap();
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Program { child, lines, log: Vec::new() }
    }

    pub(crate) fn agent(arguments: &[&str]) -> Program {
        Program::start(env!("CARGO_BIN_EXE_agent"), arguments, &[])
    }

    /// A gateway on a free port, and its address.
    pub(crate) fn gateway(arguments: &[&str]) -> (Program, SocketAddr) {
        Program::gateway_with(arguments, &[])
    }

    /// The same, with this environment.
    pub(crate) fn gateway_with(arguments: &[&str], environment: &[(&str, &str)]) -> (Program, SocketAddr) {
        let arguments = [&["--listen", "127.0.0.1:0"], arguments].concat();
        let mut gateway = Program::start(env!("CARGO_BIN_EXE_gateway"), &arguments, environment);
        let line = gateway.wait_for("listening on ");
        let url = line.split("listening on ").nth(1).unwrap().split(';').next().unwrap();
        let address = url.split("://").nth(1).unwrap().parse().unwrap();
        (gateway, address)
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits for a line that holds this text.
    #[track_caller]
    pub(crate) fn wait_for(&mut self, text: &str) -> String {
        let deadline = Instant::now() + LIMIT;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) => {
                    self.log.push(line.clone());
                    if line.contains(text) {
                        return line;
                    }
                }
                Err(_) => panic!("no line with {text:?} in:\n{}", self.log.join("\n")),
            }
        }
    }

    /// The address of its admin server.
    #[track_caller]
    pub(crate) fn admin(&mut self) -> SocketAddr {
        let said = "admin at http://";
        let line = self.log.iter().find(|line| line.contains(said)).cloned();
        let line = line.unwrap_or_else(|| self.wait_for(said));
        line.split(said).nth(1).unwrap().split(": ").next().unwrap().parse().unwrap()
    }

    pub(crate) fn signal(&self, name: &str) {
        let status = Command::new("kill").args(["-s", name, &self.id().to_string()]).status().unwrap();
        assert!(status.success());
    }

    /// Waits for its end, and for the rest of its log.
    #[track_caller]
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let deadline = Instant::now() + LIMIT;
        // Its log ends when it does.
        while let Ok(line) = self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            self.log.push(line);
        }
        assert!(Instant::now() < deadline, "it does not end; its log:\n{}", self.log.join("\n"));
        self.child.wait().unwrap()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Asks again and again until it is so.
#[track_caller]
pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !holds() {
        assert!(Instant::now() < deadline, "never: {what}");
    }
}

/// A visitor's connection, on which this was sent.
pub(crate) fn visit(address: SocketAddr, request: &str) -> (TcpStream, BufReader<TcpStream>) {
    let mut socket = TcpStream::connect(address).unwrap();
    socket.set_read_timeout(Some(LIMIT)).unwrap();
    socket.write_all(request.as_bytes()).unwrap();
    let reader = BufReader::new(socket.try_clone().unwrap());
    (socket, reader)
}

/// A head with its empty line, lower-cased.
#[track_caller]
pub(crate) fn read_head(reader: &mut impl BufRead) -> String {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        assert_ne!(reader.read_line(&mut head).expect("a head"), 0, "cut in {head:?}");
    }
    head.to_ascii_lowercase()
}

/// Asks on this stream for the WebSocket of a page of `site.test`, with these fields beside the usual ones.
pub(crate) fn page_websocket(
    url: &str,
    stream: TcpStream,
    fields: &[(&str, &str)],
) -> (WebSocket<TcpStream>, tungstenite::handshake::client::Response) {
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    let usual = http::Request::get(url)
        .header("host", "site.test")
        .header("upgrade", "websocket")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
        .header("origin", "http://site.test");
    let request = fields.iter().fold(usual, |request, (name, value)| request.header(*name, *value));
    tungstenite::client(request.body(()).unwrap(), stream).unwrap()
}

/// A client's request over a connection of its own; the response, head and body, as bytes.
pub(crate) fn http(address: SocketAddr, request: &[u8]) -> Vec<u8> {
    let mut socket = TcpStream::connect(address).unwrap();
    socket.set_read_timeout(Some(LIMIT)).unwrap();
    socket.write_all(request).unwrap();
    let mut response = Vec::new();
    // A reset behind the response is as good as an end.
    let _ = socket.read_to_end(&mut response);
    response
}

/// A `GET` that closes its connection; status and body.
pub(crate) fn get(address: SocketAddr, path: &str) -> (u16, String) {
    let response = http(
        address,
        format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").as_bytes(),
    );
    split(&response)
}

/// Status and body of a response.
pub(crate) fn split(response: &[u8]) -> (u16, String) {
    let text = String::from_utf8_lossy(response);
    let status = text.get(9..12).and_then(|status| status.parse().ok());
    let status = status.unwrap_or_else(|| panic!("not a response: {text:?}"));
    let body = text.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default();
    (status, body)
}

/// Threads and open descriptors of a process (Linux).
pub(crate) fn threads_and_descriptors(pid: u32) -> (usize, usize) {
    let count = |what: &str| std::fs::read_dir(format!("/proc/{pid}/{what}")).unwrap().count();
    (count("task"), count("fd"))
}

/// All samples by name and labels. Checks what the text format asks for: each family with its help and its type
/// before its samples, once, and no sample twice.
#[track_caller]
pub(crate) fn metrics(address: SocketAddr, prefix: &str) -> HashMap<String, f64> {
    let (status, page) = get(address, "/metrics");
    assert_eq!(status, 200);
    let mut family = String::new();
    let mut families = Vec::new();
    let mut samples = HashMap::new();
    for line in page.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            family = help.split(' ').next().unwrap().to_owned();
            assert!(family.starts_with(&format!("{prefix}_")) && !families.contains(&family), "{line}");
            families.push(family.clone());
        } else if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').unwrap();
            assert_eq!(name, family);
            assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
        } else {
            let (sample, value) = line.rsplit_once(' ').unwrap();
            let name = sample.split('{').next().unwrap();
            let suffixes = ["", "_bucket", "_sum", "_count"];
            assert!(suffixes.iter().any(|suffix| name == format!("{family}{suffix}")), "{line} of {family}");
            assert_eq!(samples.insert(sample.to_owned(), value.parse().unwrap()), None, "{line}");
        }
    }
    samples
}
