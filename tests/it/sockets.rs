//! Local servers at Unix sockets, with the real programs.
#![cfg(unix)]

use std::io::{BufReader, Write};
use std::net::SocketAddr;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use tungstenite::Message;

use crate::support::{Program, TUNNEL_ID, get, http, ok, page_websocket, read_request, split};

/// A folder for sockets, with a short path.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("ta-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        Folder(folder)
    }

    fn socket(&self) -> PathBuf {
        self.0.join("app.sock")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A server at this path whose every connection is handled by `handle`. Returns the number of its connections.
fn serve_at(path: &Path, handle: impl Fn(UnixStream) + Send + Sync + 'static) -> Arc<AtomicUsize> {
    let listener = UnixListener::bind(path).unwrap();
    let (handle, count) = (Arc::new(handle), Arc::new(AtomicUsize::new(0)));
    let counted = count.clone();
    thread::spawn(move || {
        for socket in listener.incoming().flatten() {
            counted.fetch_add(1, Ordering::SeqCst);
            let handle = handle.clone();
            thread::spawn(move || handle(socket));
        }
    });
    count
}

/// An HTTP server that tells the request line, the host, and how long the body is.
fn tell(mut socket: UnixStream) {
    let mut reader = BufReader::new(socket.try_clone().unwrap());
    while let Some(request) = read_request(&mut reader) {
        let line = request.head.lines().next().unwrap();
        let text = format!("{line}\n{}\n{}", request.header("host").unwrap(), request.body.len());
        if socket.write_all(&ok(&text)).is_err() {
            return;
        }
    }
}

fn start(local: &str, options: &[&str]) -> (Program, SocketAddr, Program) {
    let (gateway, address) = Program::gateway(&["--hold", "0s"]);
    let url = format!("ws://{address}");
    let usual = ["--tunnel-id", TUNNEL_ID, "--gateway", &url, "--local", local];
    let mut agent = Program::agent(&[&usual, options].concat());
    agent.wait_for(" is open → ");
    (gateway, address, agent)
}

#[test]
fn requests_and_uploads_reach_a_unix_socket_over_one_connection() {
    let folder = Folder::new("requests");
    let connections = serve_at(&folder.socket(), tell);
    let local = format!("unix:{}", folder.socket().display());
    let (_gateway, address, agent) = start(&local, &[]);
    assert!(agent.log.last().unwrap().ends_with(&local), "{:?}", agent.log);
    for _ in 0..3 {
        assert_eq!(get(address, "/a?b=c"), (200, "GET /a?b=c HTTP/1.1\nlocalhost\n0".to_owned()));
    }
    for length in [5, 3_000_000] {
        let head = format!(
            "POST /up HTTP/1.1\r\nHost: site.test\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
        );
        let response = http(address, &[head.as_bytes(), &vec![b'x'; length]].concat());
        assert_eq!(split(&response), (200, format!("POST /up HTTP/1.1\nsite.test\n{length}")));
    }
    assert_eq!(connections.load(Ordering::SeqCst), 1);
}

#[test]
fn a_base_path_comes_behind_the_sockets_own() {
    let folder = Folder::new("base");
    serve_at(&folder.socket(), tell);
    let (_gateway, address, _agent) = start(&format!("unix:{}:/base/", folder.socket().display()), &[]);
    assert_eq!(get(address, "/a").1, "GET /base/a HTTP/1.1\nlocalhost\n0");
    assert_eq!(get(address, "/../a").0, 400);
}

#[test]
fn a_websocket_passes_through_a_unix_socket() {
    let folder = Folder::new("websocket");
    serve_at(&folder.socket(), |socket| {
        let mut websocket = tungstenite::accept(socket).unwrap();
        while let Ok(message) = websocket.read() {
            let Message::Text(text) = message else { break };
            websocket.send(Message::text(format!("echo {text}"))).unwrap();
        }
        let _ = websocket.close(None);
        while websocket.read().is_ok() {}
    });
    let (_gateway, address, _agent) = start(&format!("unix:{}", folder.socket().display()), &[]);
    let stream = std::net::TcpStream::connect(address).unwrap();
    let (mut websocket, _) = page_websocket("ws://site.test/chat", stream, &[("connection", "Upgrade")]);
    for text in ["one", "two"] {
        websocket.send(Message::text(text)).unwrap();
        assert_eq!(websocket.read().unwrap(), Message::text(format!("echo {text}")));
    }
}

#[test]
fn a_socket_that_is_missing_or_refuses_is_named_in_the_log_and_found_when_it_is_there() {
    let folder = Folder::new("missing");
    let path = folder.socket();
    let local = format!("unix:{}", path.display());
    let (_gateway, address, mut agent) = start(&local, &["--breaker-failures", "0"]);
    let wanted = format!("nothing listens at {local} yet");
    assert!(agent.log.iter().any(|line| line.contains(&wanted)), "{:?}", agent.log);
    let (status, body) = get(address, "/");
    assert_eq!(status, 502);
    // A visitor is told no path.
    assert!(body.contains("No such file or directory") && !body.contains("app.sock"), "{body}");
    let line = agent.wait_for("No such file or directory");
    assert!(line.contains(&path.display().to_string()), "{line}");
    drop(UnixListener::bind(&path).unwrap());
    assert!(get(address, "/").1.contains("Connection refused"));
    std::fs::remove_file(&path).unwrap();
    serve_at(&path, tell);
    assert_eq!(get(address, "/").0, 200);
}

#[test]
fn a_server_that_accepts_nothing_is_given_up_in_time() {
    let folder = Folder::new("full");
    let path = folder.socket();
    let listener = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None).unwrap();
    listener.bind(&socket2::SockAddr::unix(&path).unwrap()).unwrap();
    listener.listen(0).unwrap();
    // Its queue has room for one.
    let _waits = UnixStream::connect(&path).unwrap();
    let local = format!("unix:{}", path.display());
    let (_gateway, address, _agent) = start(&local, &["--connect-timeout", "200ms"]);
    let (status, body) = get(address, "/");
    assert_eq!(status, 502);
    assert!(body.contains("no connection within 200ms"), "{body}");
}

#[test]
fn health_checks_and_a_rehearsal_go_to_the_socket() {
    let folder = Folder::new("check");
    // One connection each, so that a check meets what is at the path now.
    serve_at(&folder.socket(), |mut socket| {
        read_request(&mut BufReader::new(socket.try_clone().unwrap()));
        let _ = socket.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    });
    let local = format!("unix:{}", folder.socket().display());
    let (_gateway, _, mut agent) = start(&local, &["--health-path", "/up", "--health-interval", "10ms"]);
    std::fs::rename(folder.socket(), folder.0.join("other.sock")).unwrap();
    agent.wait_for(&format!("local server {local} is down"));
    std::fs::rename(folder.0.join("other.sock"), folder.socket()).unwrap();
    agent.wait_for(&format!("local server {local} is up again"));

    let (_gateway, address) = Program::gateway(&[]);
    let url = format!("ws://{address}");
    let check = ["check", &local, "--tunnel-id", TUNNEL_ID, "--gateway", &url];
    let agent = std::process::Command::new(env!("CARGO_BIN_EXE_agent"));
    let output = { agent }.env_clear().args(check).output().unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{printed}");
    for said in ["localhost is at ", "PASS  socket ", "HEAD / is answered with 200 OK"] {
        assert!(printed.contains(said), "{printed}");
    }
}

#[test]
fn a_path_that_cannot_be_one_is_refused() {
    for local in ["unix:app.sock", "unix:", &format!("unix:/{}", "x".repeat(200))] {
        let mut agent = Program::agent(&[local, "--gateway", "ws://127.0.0.1:1"]);
        assert_eq!(agent.wait().code(), Some(2));
        let log = agent.log.join("\n");
        assert!(
            log.contains("the path of a Unix socket begins with a slash and has 103 bytes at most"),
            "{log}"
        );
    }
}
