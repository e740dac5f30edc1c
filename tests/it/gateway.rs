//! The reference gateway as those see it who run it: how it starts and stops, whom it asks again, which paths are its own,
//! whom it believes. With the real binaries.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use crate::support::{
    LIMIT, OTHER_TUNNEL_ID, Program, Signal, TUNNEL_ID, get, http, ok, page_websocket, read_head,
    read_request, serve, serve_http, split, visit,
};
use serde_json::Value;
use tungstenite::Message;

fn agent(tunnel_id: &str, gateway: SocketAddr, local: &str, more: &[&str]) -> Program {
    let url = format!("ws://{gateway}");
    let options = ["--tunnel-id", tunnel_id, "--gateway", &url, "--local", local, "--backoff-min", "50ms"];
    Program::agent(&[&options, more].concat())
}

fn site(name: &'static str) -> String {
    format!("http://{}", serve_http(move |_| ok(name)))
}

/// An address where nobody listens.
fn nobody() -> String {
    format!("http://{}", TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap())
}

/// A response of the gateway's own, as JSON.
fn problem(response: (u16, String)) -> (u16, Value) {
    (response.0, serde_json::from_str(&response.1).unwrap_or_default())
}

/// Asks until it holds.
#[track_caller]
fn wait_until(mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !holds() {
        assert!(Instant::now() < deadline, "in vain");
    }
}

/// An agent that the test plays: it speaks mux/2.
struct Played(tungstenite::WebSocket<TcpStream>);

impl Played {
    fn connect(gateway: SocketAddr) -> Played {
        let stream = TcpStream::connect(gateway).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        let (mut socket, _) = tungstenite::client(format!("ws://{gateway}/ws"), stream).unwrap();
        let handshake =
            format!(r#"{{"tunnel_id":"{TUNNEL_ID}","agent_version":"1","capabilities":["id","mux/2"]}}"#);
        socket.send(Message::text(handshake)).unwrap();
        while !socket.read().unwrap().to_text().unwrap().contains("welcome") {}
        let welcome = r#"{"message_type":"welcome","payload":"{\"protocol\":\"mux/2\",\"window\":262144,\"max_frame\":65536,\"max_streams\":100}"}"#;
        socket.send(Message::text(welcome)).unwrap();
        Played(socket)
    }

    /// Waits for the head of a stream, and returns its number.
    fn stream(&mut self) -> u32 {
        loop {
            match self.0.read().unwrap() {
                Message::Binary(frame) if frame[0] == 1 => {
                    return u32::from_be_bytes(frame[2..6].try_into().unwrap());
                }
                _ => {}
            }
        }
    }
}

// ------------------------------------------------------------------------------------------- start and stop

#[test]
fn a_gateway_that_has_just_started_holds_requests_until_an_agent_is_there() {
    let (mut gateway, address) = Program::gateway(&["--hold", "50s"]);
    let visitor = thread::spawn(move || get(address, "/"));
    wait_until(|| get(address, "/.tunnel/health").0 == 200);
    let (status, ready) = problem(get(address, "/.tunnel/ready"));
    assert_eq!((status, &ready["because"][0]), (503, &"no agent is connected".into()));
    let _agent = agent(TUNNEL_ID, address, &site("late"), &[]);
    gateway.wait_for("connected");
    assert_eq!(visitor.join().unwrap(), (200, "late".to_owned()));
    assert_eq!(get(address, "/.tunnel/ready").0, 200);
}

#[test]
fn a_gateway_about_to_stop_says_so_and_goes_on_taking_requests() {
    let (mut gateway, address) = Program::gateway(&["--drain-delay", "50s"]);
    let _agent = agent(TUNNEL_ID, address, &site("served"), &[]);
    gateway.wait_for("connected");
    let (_socket, mut kept) = visit(address, "GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    assert!(!read_head(&mut kept).contains("connection: close"));
    gateway.signal("TERM");
    wait_until(|| get(address, "/.tunnel/ready").0 == 503);
    let (_socket, mut asked) = visit(address, "GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    let head = read_head(&mut asked);
    assert!(head.starts_with("http/1.1 200 ") && head.contains("connection: close"), "{head}");
    // Agents that come now would have to leave at once.
    let refused = http(
        address,
        b"GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
          Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
    );
    assert_eq!(split(&refused).0, 503);
    gateway.signal("TERM");
    assert_eq!(gateway.wait().code(), Some(0));
}

#[test]
fn what_is_cut_when_the_gateway_stops_does_not_look_whole() {
    for signals in [1, 2] {
        let begun = Signal::new();
        let begins = begun.clone();
        let local = serve(move |mut socket| {
            let _ = socket.read(&mut [0; 1 << 10]);
            // Without a length: for HTTP/1.0 the end of the connection is the end of the body.
            let _ = socket.write_all(b"HTTP/1.1 200 OK\r\n\r\nhalf");
            begins.send(());
            let _ = socket.read_to_end(&mut Vec::new());
        });
        let drain = if signals == 1 { "0s" } else { "50s" };
        let (mut gateway, address) = Program::gateway(&["--drain-delay", "0s", "--drain", drain]);
        let _agent = agent(TUNNEL_ID, address, &format!("http://{local}"), &[]);
        gateway.wait_for("connected");
        let (_socket, mut reader) = visit(address, "GET / HTTP/1.0\r\n\r\n");
        begun.wait();
        read_head(&mut reader);
        let mut body = [0; 4];
        reader.read_exact(&mut body).unwrap();
        for _ in 0..signals {
            gateway.signal("TERM");
            gateway.wait_for(if signals == 2 { "stop" } else { "stopping" });
        }
        let end = reader.read_to_end(&mut Vec::new());
        assert_eq!(end.map_err(|error| error.kind()), Err(std::io::ErrorKind::ConnectionReset));
        assert_eq!(gateway.wait().code(), Some(0));
    }
}

#[test]
fn a_log_that_nobody_reads_stops_nothing() {
    let mut gateway = Command::new(env!("CARGO_BIN_EXE_gateway"))
        .env_clear()
        .args(["--listen", "127.0.0.1:0", "--hold", "0s"])
        .env("RUST_LOG", "debug")
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut log = BufReader::new(gateway.stderr.take().unwrap());
    let mut line = String::new();
    log.read_line(&mut line).unwrap();
    let address: SocketAddr =
        line.split("http://").nth(1).unwrap().split(';').next().unwrap().parse().unwrap();
    // Each of these leaves a line; a pipe takes 64 KiB.
    let path = "x".repeat(500);
    for _ in 0..600 {
        assert_eq!(get(address, &format!("/{path}")).0, 503);
    }
    let _ = Command::new("kill").args(["-s", "TERM", &gateway.id().to_string()]).status();
    wait_until(|| gateway.try_wait().unwrap().is_some());
}

// ------------------------------------------------------------------------------------------- agents

#[test]
fn a_request_that_an_agent_gives_back_goes_to_the_next_with_its_body() {
    let (mut gateway, address) = Program::gateway(&[]);
    let echo = serve_http(|request| ok(&String::from_utf8_lossy(&request.body)));
    let _alive = agent(TUNNEL_ID, address, &format!("http://{echo}"), &[]);
    let _dead = agent(TUNNEL_ID, address, &nobody(), &["--breaker-failures", "3"]);
    gateway.wait_for("connected");
    gateway.wait_for("connected");
    let body = "b".repeat(100_000);
    for _ in 0..40 {
        let request = format!(
            "POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let (status, got) = split(&http(address, request.as_bytes()));
        assert!(status == 200 && got == body, "{status}");
    }
}

#[test]
fn what_may_have_been_sent_is_not_sent_to_another() {
    let (mut gateway, address) = Program::gateway(&[]);
    let count = Arc::new(AtomicUsize::new(0));
    let seen = count.clone();
    // It reads the request, and answers none.
    let broken = serve(move |socket| {
        read_request(&mut BufReader::new(socket));
        seen.fetch_add(1, Ordering::SeqCst);
    });
    let local = format!("http://{broken}");
    let _agents = [0, 1].map(|_| agent(TUNNEL_ID, address, &local, &["--breaker-failures", "0"]));
    gateway.wait_for("connected");
    gateway.wait_for("connected");
    for _ in 0..10 {
        let request = b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 1\r\n\r\nx";
        assert_eq!(split(&http(address, request)).0, 502);
    }
    assert_eq!(count.load(Ordering::SeqCst), 10);
}

#[test]
fn an_agent_that_breaks_the_protocol_before_its_head_leaves_no_visitor_without_an_answer() {
    let frame = |kind: u8, stream: u32, payload: &[u8]| {
        [&[kind, 0], stream.to_be_bytes().as_slice(), payload].concat()
    };
    type Break<'a> = &'a dyn Fn(u32) -> Vec<u8>;
    let breaks: [Break<'_>; 3] = [
        &|stream| frame(2, stream, b"data before the head"),
        &|stream| frame(4, stream, &u32::MAX.to_be_bytes()),
        &|stream| frame(3, stream, b""),
    ];
    for of in breaks {
        let (mut gateway, address) = Program::gateway(&[]);
        let mut played = Played::connect(address);
        gateway.wait_for("connected");
        let visitor = thread::spawn(move || get(address, "/"));
        let stream = played.stream();
        played.0.send(Message::binary(of(stream))).unwrap();
        let (status, why) = problem(visitor.join().unwrap());
        assert_eq!((status, why["code"].as_str()), (502, Some("agent_error")), "{why}");
        assert!(why["request"].as_str().unwrap().ends_with(&format!("-{stream}")), "{why}");
    }
}

#[test]
fn a_request_that_names_no_tunnel_among_several_is_nobodys() {
    let (mut gateway, address) = Program::gateway(&[]);
    let _one = agent(TUNNEL_ID, address, &site("one"), &[]);
    gateway.wait_for("connected");
    assert_eq!(get(address, "/"), (200, "one".to_owned()));
    let mut two = agent(OTHER_TUNNEL_ID, address, &site("two"), &[]);
    gateway.wait_for("other connected");
    for _ in 0..2 {
        assert_eq!(problem(get(address, "/")).1["code"], "which_tunnel");
        // The other tunnel is remembered while it is away.
        two.signal("KILL");
        gateway.wait_for("other disconnected");
        two = agent(OTHER_TUNNEL_ID, address, &site("two"), &[]);
        gateway.wait_for("other connected");
    }
}

#[test]
fn a_request_that_was_held_stays_with_the_tunnel_that_it_was_given_to() {
    let (mut gateway, address) = Program::gateway(&["--hold", "50s"]);
    let visitor = thread::spawn(move || get(address, "/"));
    wait_until(|| get(address, "/.tunnel/health").0 == 200);
    let mut one = Played::connect(address);
    let stream = one.stream();
    let _two = agent(OTHER_TUNNEL_ID, address, &site("two"), &[]);
    gateway.wait_for("other connected");
    // Its server cannot be reached.
    let reset = [&[3, 0][..], &stream.to_be_bytes(), &[2]].concat();
    one.0.send(Message::binary(reset)).unwrap();
    let (status, why) = problem(visitor.join().unwrap());
    assert_eq!((status, why["code"].as_str()), (502, Some("agent_error")), "{why}");
}

#[test]
fn a_gateway_that_stops_takes_leave_before_it_closes() {
    let (mut gateway, address) = Program::gateway(&["--drain-delay", "0s"]);
    let mut played = Played::connect(address);
    gateway.wait_for("connected");
    gateway.signal("TERM");
    let goaway = loop {
        match played.0.read().unwrap() {
            Message::Binary(frame) => break frame,
            Message::Close(_) => panic!("closed before"),
            _ => {}
        }
    };
    assert_eq!(goaway[0], 5);
    assert_eq!(gateway.wait().code(), Some(0));
}

#[test]
fn a_default_tunnel_gets_what_names_none() {
    let (mut gateway, address) = Program::gateway(&["--default-tunnel", TUNNEL_ID, "--hold", "0s"]);
    let _two = agent(OTHER_TUNNEL_ID, address, &site("two"), &[]);
    gateway.wait_for("connected");
    assert_eq!(get(address, "/").0, 503);
    let _one = agent(TUNNEL_ID, address, &site("one"), &[]);
    gateway.wait_for("prod connected");
    assert_eq!(get(address, "/"), (200, "one".to_owned()));
}

#[test]
fn a_token_that_is_renewed_in_its_file_is_taken_without_a_restart() {
    let folder = std::env::temp_dir().join(format!("tunnel-agent-gateway-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join("token").display().to_string();
    std::fs::write(&path, "first\n").unwrap();
    let (mut gateway, address) = Program::gateway(&["--token-file", &path]);
    let mut agent = agent(TUNNEL_ID, address, &site("x"), &["--token-file", &path]);
    gateway.wait_for("connected");
    std::fs::write(&path, "second\n").unwrap();
    gateway.signal("HUP");
    gateway.wait_for("read the token again");
    // Only the new one is taken from now on.
    let upgrade = |token: &str| {
        let request = format!(
            "GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nAuthorization: Bearer {token}\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        let (_socket, mut reader) = visit(address, &request);
        read_head(&mut reader)[9..12].to_owned()
    };
    assert_eq!((upgrade("first").as_str(), upgrade("second").as_str()), ("403", "101"));
    let mut relay = agent_log(&mut agent);
    gateway.signal("KILL");
    relay("trying again");
    let arguments = ["--listen", &address.to_string(), "--token-file", &path];
    let mut gateway = Program::start(env!("CARGO_BIN_EXE_gateway"), &arguments, &[]);
    gateway.wait_for("connected");
    std::fs::remove_dir_all(folder).unwrap();
}

/// Waits for lines of an agent's log.
fn agent_log(agent: &mut Program) -> impl FnMut(&str) {
    move |text| drop(agent.wait_for(text))
}

// ------------------------------------------------------------------------------------------- paths

#[test]
fn the_applications_own_websocket_at_the_agents_path_is_the_applications() {
    let local = serve(|socket| {
        if let Ok(mut socket) = tungstenite::accept(socket) {
            let _ = socket.send(Message::text("the application"));
            let _ = socket.read();
        }
    });
    let (mut gateway, address) = Program::gateway(&[]);
    let _agent = agent(TUNNEL_ID, address, &format!("http://{local}"), &[]);
    gateway.wait_for("connected");
    let stream = TcpStream::connect(address).unwrap();
    let (mut socket, _) = page_websocket(&format!("ws://{address}/ws"), stream, &[("connection", "Upgrade")]);
    assert_eq!(socket.read().unwrap(), Message::text("the application"));
}

#[test]
fn what_a_page_asks_for_at_the_old_paths_is_the_applications() {
    let local =
        format!("http://{}", serve_http(|request| ok(request.head.lines().next().unwrap_or_default())));
    let (mut gateway, address) = Program::gateway(&[]);
    let _agent = agent(TUNNEL_ID, address, &local, &[]);
    gateway.wait_for("connected");
    for line in
        ["GET /health HTTP/1.1", "POST /forward HTTP/1.1", "GET /connections HTTP/1.1", "GET /ws HTTP/1.1"]
    {
        let request = format!("{line}\r\nHost: x\r\nOrigin: http://x\r\nConnection: close\r\n\r\n");
        assert_eq!(split(&http(address, request.as_bytes())), (200, line.to_owned()));
    }
}

#[test]
fn with_the_new_paths_alone_the_application_has_the_old_ones() {
    let local =
        format!("http://{}", serve_http(|request| ok(request.head.lines().next().unwrap_or_default())));
    let (mut gateway, address) = Program::gateway(&["--own-paths", "new", "--agent-path", "/agents"]);
    let url = format!("ws://{address}/agents");
    let _agent = Program::agent(&["--tunnel-id", TUNNEL_ID, "--gateway", &url, "--local", &local]);
    gateway.wait_for("connected");
    for path in ["/health", "/connections", "/ws", "/forward"] {
        assert_eq!(get(address, path), (200, format!("GET {path} HTTP/1.1")));
    }
    assert_eq!(get(address, "/.tunnel/health").0, 200);
    assert_eq!(problem(get(address, "/.tunnel/other")).1["code"], "not_found");
}

#[test]
fn who_is_connected_is_told_to_this_machine_or_with_the_token() {
    let token = [("GATEWAY_TOKEN", "s3cret")];
    let (_gateway, address) = Program::gateway_with(&[], &token);
    let ask = |path: &str, more: &str| {
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{more}\r\n");
        split(&http(address, request.as_bytes())).0
    };
    for path in ["/connections", "/.tunnel/connections"] {
        assert_eq!(ask(path, ""), 200);
        // A proxy on this machine asks for somebody else.
        assert_eq!(ask(path, "X-Forwarded-For: 192.0.2.1\r\n"), 403);
        assert_eq!(ask(path, "Forwarded: for=192.0.2.1\r\n"), 403);
        assert_eq!(ask(path, "X-Forwarded-For: 192.0.2.1\r\nAuthorization: Bearer s3cret\r\n"), 200);
        assert_eq!(ask(path, "X-Forwarded-For: 192.0.2.1\r\nAuthorization: Bearer wrong\r\n"), 403);
        // A page whose name leads here asks under that name.
        let rebound = format!("GET {path} HTTP/1.1\r\nHost: evil.test\r\nConnection: close\r\n\r\n");
        assert_eq!(split(&http(address, rebound.as_bytes())).0, 403);
    }
}

// ------------------------------------------------------------------------------------------- trust

#[test]
fn a_proxy_is_believed_where_it_is_named() {
    let local = format!("http://{}", serve_http(|request| ok(&request.head)));
    let request = b"GET / HTTP/1.1\r\nHost: site.test\r\nX-Forwarded-For: 203.0.113.9, 192.0.2.1\r\n\
                    X-Forwarded-Proto: https\r\nX-Forwarded-Prefix: /evil\r\nX-Forwarded-Ssl: on\r\n\
                    Connection: close\r\n\r\n";
    let fields = |address| {
        let head = split(&http(address, request)).1;
        let names =
            ["x-forwarded-for", "x-forwarded-proto", "x-forwarded-prefix", "x-forwarded-ssl", "x-real-ip"];
        let value = |name: &str| head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        names.map(|name| value(name).unwrap_or("none").to_owned())
    };
    let options = ["--trusted-proxies", "127.0.0.0/8,192.0.2.0/24", "--trusted-header", "X-Forwarded-Ssl"];
    let (mut gateway, address) = Program::gateway(&options);
    let _agent = agent(TUNNEL_ID, address, &local, &[]);
    gateway.wait_for("connected");
    let for_all = "203.0.113.9, 192.0.2.1, 127.0.0.1";
    assert_eq!(fields(address), [for_all, "https", "none", "on", "203.0.113.9"]);

    let (mut gateway, address) = Program::gateway(&[]);
    let _agent = agent(TUNNEL_ID, address, &local, &[]);
    gateway.wait_for("connected");
    assert_eq!(fields(address), ["127.0.0.1", "http", "none", "none", "127.0.0.1"]);
    gateway.wait_for("--trusted-proxies");
}

#[test]
fn a_101_opens_a_pipe_only_to_a_protocol_that_was_asked_for() {
    let local = serve(|mut socket| {
        let mut reader = BufReader::new(socket.try_clone().unwrap());
        let request = read_request(&mut reader).unwrap();
        let upgrade = if request.head.starts_with("GET /other") {
            "Connection: Upgrade\r\nUpgrade: other\r\n"
        } else {
            ""
        };
        let _ = socket.write_all(format!("HTTP/1.1 101 Switching Protocols\r\n{upgrade}\r\n").as_bytes());
        let _ = reader.read_to_end(&mut Vec::new());
    });
    let (mut gateway, address) = Program::gateway(&[]);
    let _agent = agent(TUNNEL_ID, address, &format!("http://{local}"), &["--deny", "/admin"]);
    gateway.wait_for("connected");
    for path in ["/", "/other"] {
        for protocol in ["websocket", "chat"] {
            let request = format!(
                "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: {protocol}\r\n\
                 Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
            );
            let (_socket, mut reader) = visit(address, &request);
            assert!(read_head(&mut reader).starts_with("http/1.1 502 "), "{path} {protocol}");
        }
    }
}
