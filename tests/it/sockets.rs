//! Local servers at Unix sockets, with the real programs.
#![cfg(unix)]

use std::io::{BufReader, Write};
use std::net::SocketAddr;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use tungstenite::Message;

use crate::support::{Folder, Program, TUNNEL_ID, get, http, ok, page_websocket, read_request, split, until};

/// A server at this path whose every connection is handled by `handle`.
fn serve_at(path: &Path, handle: impl Fn(UnixStream) + Send + Sync + 'static) {
    let listener = UnixListener::bind(path).unwrap();
    let handle = Arc::new(handle);
    thread::spawn(move || {
        for socket in listener.incoming().flatten() {
            let handle = handle.clone();
            thread::spawn(move || handle(socket));
        }
    });
}

/// An HTTP server that tells the request line, the host, and how long the body is. Returns the number of requests.
fn tell(mut socket: UnixStream) -> usize {
    let mut count = 0;
    let mut reader = BufReader::new(socket.try_clone().unwrap());
    while let Some(request) = read_request(&mut reader) {
        let line = request.head.lines().next().unwrap();
        let text = format!("{line}\n{}\n{}", request.header("host").unwrap(), request.body.len());
        if socket.write_all(&ok(&text)).is_err() {
            break;
        }
        count += 1;
    }
    count
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
    let folder = Folder::new();
    let connections = Arc::new(AtomicUsize::new(0));
    let counted = connections.clone();
    serve_at(&folder.path("app.sock"), move |socket| {
        // One without a request only asks whether anything listens.
        if tell(socket) > 0 {
            counted.fetch_add(1, Ordering::SeqCst);
        }
    });
    let local = format!("unix:{}", folder.path("app.sock").display());
    let (_gateway, address, mut agent) = start(&local, &[]);
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
    // Its connections end with it.
    agent.signal("TERM");
    agent.wait();
    until("the connection has ended", || connections.load(Ordering::SeqCst) > 0);
    assert_eq!(connections.load(Ordering::SeqCst), 1);
}

#[test]
fn an_answer_that_precedes_the_end_of_an_upload_passes_and_one_that_is_cut_does_not_look_whole() {
    let folder = Folder::new();
    serve_at(&folder.path("app.sock"), |mut socket| {
        let mut head = String::new();
        let mut reader = BufReader::new(socket.try_clone().unwrap());
        while !head.ends_with("\r\n\r\n")
            && matches!(std::io::BufRead::read_line(&mut reader, &mut head), Ok(1..))
        {}
        // It reads nothing of the body.
        let answer: &[u8] = match head.starts_with("POST") {
            true => b"HTTP/1.1 413 Too Large\r\nContent-Length: 5\r\nConnection: close\r\n\r\nlarge",
            false => b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\ncut",
        };
        let _ = socket.write_all(answer);
    });
    let (_gateway, address, _agent) = start(&format!("unix:{}", folder.path("app.sock").display()), &[]);
    let head = "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 20000000\r\nConnection: close\r\n\r\n";
    let (mut visitor, mut reader) = crate::support::visit(address, head);
    let sending = thread::spawn(move || drop(visitor.write_all(&vec![b'x'; 20_000_000])));
    let head = crate::support::read_head(&mut reader);
    assert!(head.starts_with("http/1.1 413"), "{head}");
    let mut body = [0; 5];
    std::io::Read::read_exact(&mut reader, &mut body).unwrap();
    assert_eq!(&body, b"large");
    drop(reader);
    sending.join().unwrap();
    // Its end is a reset, or comes before the stated length; or it was known before the head had passed.
    let (status, body) = split(&http(address, b"GET / HTTP/1.0\r\n\r\n"));
    assert!(status == 502 || body.len() < 100, "{status} {body}");
}

#[test]
fn a_base_path_comes_behind_the_sockets_own() {
    let folder = Folder::new();
    serve_at(&folder.path("app.sock"), |socket| {
        tell(socket);
    });
    let (_gateway, address, _agent) =
        start(&format!("unix:{}:/base/", folder.path("app.sock").display()), &[]);
    assert_eq!(get(address, "/a").1, "GET /base/a HTTP/1.1\nlocalhost\n0");
    assert_eq!(get(address, "/../a").0, 400);
}

#[test]
fn a_websocket_passes_through_a_unix_socket() {
    let folder = Folder::new();
    serve_at(&folder.path("app.sock"), |socket| {
        let mut websocket = tungstenite::accept(socket).unwrap();
        while let Ok(message) = websocket.read() {
            let Message::Text(text) = message else { break };
            websocket.send(Message::text(format!("echo {text}"))).unwrap();
        }
        let _ = websocket.close(None);
        while websocket.read().is_ok() {}
    });
    let (_gateway, address, _agent) = start(&format!("unix:{}", folder.path("app.sock").display()), &[]);
    let stream = std::net::TcpStream::connect(address).unwrap();
    let (mut websocket, _) = page_websocket("ws://site.test/chat", stream, &[("connection", "Upgrade")]);
    for text in ["one", "two"] {
        websocket.send(Message::text(text)).unwrap();
        assert_eq!(websocket.read().unwrap(), Message::text(format!("echo {text}")));
    }
}

#[test]
fn a_socket_that_is_missing_or_refuses_is_named_in_the_log_and_found_when_it_is_there() {
    let folder = Folder::new();
    let path = folder.path("app.sock");
    let local = format!("unix:{}", path.display());
    let (_gateway, address, mut agent) = start(&local, &["--breaker-failures", "0"]);
    let wanted = format!(
        "{local} takes no connections yet: No such file or directory (os error 2); start the local server"
    );
    if !agent.log.iter().any(|line| line.contains(&wanted)) {
        agent.wait_for(&wanted);
    }
    let (status, body) = get(address, "/");
    assert_eq!(status, 502);
    // A visitor is told no path.
    assert!(body.contains("No such file or directory") && !body.contains("app.sock"), "{body}");
    let line = agent.wait_for("No such file or directory");
    assert!(line.contains(&path.display().to_string()), "{line}");
    drop(UnixListener::bind(&path).unwrap());
    assert!(get(address, "/").1.contains("Connection refused"));
    std::fs::remove_file(&path).unwrap();
    serve_at(&path, |socket| {
        tell(socket);
    });
    assert_eq!(get(address, "/").0, 200);
}

#[test]
fn a_server_that_accepts_nothing_is_given_up_in_time() {
    let folder = Folder::new();
    let path = folder.path("app.sock");
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
    let folder = Folder::new();
    // One connection each, so that a check meets what is at the path now.
    serve_at(&folder.path("app.sock"), |mut socket| {
        read_request(&mut BufReader::new(socket.try_clone().unwrap()));
        let _ = socket.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    });
    let local = format!("unix:{}", folder.path("app.sock").display());
    let (_gateway, _, mut agent) = start(&local, &["--health-path", "/up", "--health-interval", "10ms"]);
    std::fs::rename(folder.path("app.sock"), folder.0.join("other.sock")).unwrap();
    agent.wait_for(&format!("local server {local} is down"));
    std::fs::rename(folder.0.join("other.sock"), folder.path("app.sock")).unwrap();
    agent.wait_for(&format!("local server {local} is up again"));

    let (_gateway, address) = Program::gateway(&[]);
    let url = format!("ws://{address}");
    let check = ["check", &local, "--tunnel-id", TUNNEL_ID, "--gateway", &url];
    let agent = std::process::Command::new(env!("CARGO_BIN_EXE_agent"));
    let output = { agent }.env_clear().args(check).output().unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{printed}");
    for said in ["is a Unix socket", "PASS  socket ", "HEAD / is answered with 200 OK"] {
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
