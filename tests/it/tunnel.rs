//! The whole: the real programs over loopback, in both of the gateway's modes.

use std::io::{BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;

use crate::support::{
    LIMIT, OTHER_TUNNEL_ID, Program, ScriptedGateway, Signal, TUNNEL_ID, get, http, ok, serve_http, split,
    threads_and_descriptors,
};

/// A local server that answers with the request line and the body it received.
fn start_site() -> SocketAddr {
    serve_http(|request| {
        let mut body = request.head.lines().next().unwrap().as_bytes().to_vec();
        body.push(b'\n');
        body.extend_from_slice(&request.body);
        let mut response =
            format!("HTTP/1.1 200 OK\r\nX-Site: yes\r\nContent-Length: {}\r\n\r\n", body.len()).into_bytes();
        if !request.head.starts_with("HEAD ") {
            response.extend_from_slice(&body);
        }
        response
    })
}

fn start_agent(tunnel_id: &str, gateway: SocketAddr, site: SocketAddr, more: &[&str]) -> Program {
    let (gateway, site) = (format!("ws://{gateway}"), format!("http://{site}"));
    let arguments = ["--tunnel-id", tunnel_id, "--gateway", &gateway, "--local", &site];
    Program::agent(&[&arguments, more].concat())
}

/// Gateway and agent, connected.
fn start(
    gateway_options: &[&str],
    agent_options: &[&str],
    site: SocketAddr,
) -> (Program, SocketAddr, Program) {
    let (mut gateway, address) = Program::gateway(gateway_options);
    let agent = start_agent(TUNNEL_ID, address, site, agent_options);
    gateway.wait_for("agent agent_550e…_prod connected");
    (gateway, address, agent)
}

// ------------------------------------------------------------------------------------------- requests and answers

#[test]
fn requests_travel_there_and_back() {
    for mode in [&[][..], &["--legacy"]] {
        let (_gateway, address, mut agent) = start(mode, &[], start_site());
        assert_eq!(get(address, "/hello?secret=1"), (200, "GET /hello?secret=1 HTTP/1.1\n".to_owned()));
        let response = http(
            address,
            b"POST /form HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nZo\xc3\xab!\
              PUT /chunked HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n\
              HEAD /head HTTP/1.1\r\nHost: x\r\n\r\n\
              GET /last HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        );
        let text = String::from_utf8(response).unwrap();
        assert_eq!(text.matches("HTTP/1.1 200 OK\r\n").count(), 4, "{text}");
        for body in [
            "POST /form HTTP/1.1\nZoë!",
            "PUT /chunked HTTP/1.1\nhello",
            "\r\n\r\nHTTP/1.1 200",
            "GET /last HTTP/1.1\n",
        ] {
            assert!(text.contains(body), "{body:?} in {text}");
        }
        let line = agent.wait_for("GET /hello");
        assert!(line.contains(" GET /hello 200 ") && !line.contains("secret"), "{line}");
    }
}

#[test]
fn binary_bodies_arrive_unchanged_both_ways() {
    let bytes: Vec<u8> = (0..=255).cycle().take(100_000).collect();
    let (_gateway, address, _agent) = start(&[], &[], start_site());
    let mut request = format!(
        "POST /b HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
        bytes.len()
    )
    .into_bytes();
    request.extend_from_slice(&bytes);
    let response = http(address, &request);
    assert!(response.ends_with(&bytes));
}

#[test]
fn many_clients_at_once_get_their_own_answers() {
    for mode in [&[][..], &["--legacy"]] {
        let (_gateway, address, _agent) = start(mode, &["--workers", "4"], start_site());
        let clients: Vec<_> = (0..8)
            .map(|client| {
                thread::spawn(move || {
                    let mut socket = TcpStream::connect(address).unwrap();
                    socket.set_read_timeout(Some(LIMIT)).unwrap();
                    let mut reader = BufReader::new(socket.try_clone().unwrap());
                    for number in 0..50 {
                        let path = format!("/{client}/{number}");
                        write!(socket, "GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
                        let response = crate::support::read_request(&mut reader).unwrap();
                        assert_eq!(response.body, format!("GET {path} HTTP/1.1\n").as_bytes());
                    }
                })
            })
            .collect();
        clients.into_iter().for_each(|client| client.join().unwrap());
    }
}

#[test]
fn two_agents_are_told_apart_by_the_header_and_else_take_turns() {
    let (mut gateway, address) = Program::gateway(&[]);
    let _agents =
        [(TUNNEL_ID, "one", "_prod"), (OTHER_TUNNEL_ID, "two", "_other")].map(|(id, name, purpose)| {
            let agent = start_agent(id, address, serve_http(move |_| ok(name)), &[]);
            gateway.wait_for(&format!("{purpose} connected"));
            agent
        });
    let ask = |id: &str, path: &str| {
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: x\r\nX-Tunnel-Id: {id}\r\nConnection: close\r\n\r\n");
        split(&http(address, request.as_bytes()))
    };
    for path in ["/", "/health", "/connections", "/ws"] {
        assert_eq!(ask(TUNNEL_ID, path), (200, "one".to_owned()));
        assert_eq!(ask(OTHER_TUNNEL_ID, path), (200, "two".to_owned()));
    }
    let (status, why) = get(address, "/");
    assert!(status == 404 && why.contains("\"which_tunnel\""), "{why}");
    assert_eq!(ask("agent_00000000-0000-0000-0000-000000000000_none", "/").0, 503);
    assert_eq!(ask("nonsense", "/").0, 400);
    let (status, list) = get(address, "/connections");
    assert!(status == 200 && list.contains("agent_550e…_prod") && !list.contains("e29b"), "{list}");
}

#[test]
fn the_gateway_speaks_for_the_client() {
    let site = serve_http(|request| ok(&request.head));
    let (_gateway, address, _agent) = start(&[], &[], site);
    let request = format!(
        "GET / HTTP/1.1\r\nHost: public.example\r\nX-Forwarded-For: 192.0.2.1\r\nX-Forwarded-Host: evil\r\n\
         X-Forwarded-Proto: https\r\nX-Forwarded-Port: 444\r\nX-Forwarded-Prefix: /evil\r\nX-Forwarded-Ssl: on\r\n\
         X-Forwarded-Server: evil\r\nX-Forwarded-Scheme: https\r\nX-Forwarded: for=evil\r\nForwarded: for=evil\r\n\
         Front-End-Https: on\r\nX-Real-IP: 192.0.2.1\r\nX-Tunnel-Id: {TUNNEL_ID}\r\nConnection: close, x-hop\r\nX-Hop: 1\r\n\r\n"
    );
    let seen = split(&http(address, request.as_bytes())).1;
    let mut lines: Vec<&str> = seen.lines().filter(|line| !line.is_empty()).collect();
    lines.sort_unstable();
    let expected = [
        "GET / HTTP/1.1",
        "host: public.example",
        "x-forwarded-for: 127.0.0.1",
        "x-forwarded-host: public.example",
        "x-forwarded-port: 80",
        "x-forwarded-proto: http",
        "x-real-ip: 127.0.0.1",
    ];
    assert_eq!(lines, expected);
}

#[test]
fn forward_sends_its_body_to_the_root() {
    let (_gateway, address, _agent) = start(&[], &[], start_site());
    let request =
        b"POST /forward HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 7\r\n\r\n{\"a\":1}";
    assert_eq!(split(&http(address, request)), (200, "POST / HTTP/1.1\n{\"a\":1}".to_owned()));
}

#[test]
fn expect_continue_is_answered_before_the_body_is_sent() {
    let (_gateway, address, _agent) = start(&[], &[], start_site());
    let mut socket = TcpStream::connect(address).unwrap();
    socket.set_read_timeout(Some(LIMIT)).unwrap();
    let head = "POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\nConnection: close\r\n\r\n";
    socket.write_all(head.as_bytes()).unwrap();
    let mut interim = [0; 25];
    socket.read_exact(&mut interim).unwrap();
    assert_eq!(&interim, b"HTTP/1.1 100 Continue\r\n\r\n");
    socket.write_all(b"hi").unwrap();
    let mut response = Vec::new();
    socket.read_to_end(&mut response).unwrap();
    assert_eq!(split(&response).0, 200);
}

#[test]
fn http_1_0_clients_are_served() {
    let (_gateway, address, _agent) = start(&[], &[], start_site());
    assert_eq!(split(&http(address, b"GET /old HTTP/1.0\r\n\r\n")), (200, "GET /old HTTP/1.1\n".to_owned()));
}

#[test]
fn what_the_gateway_cannot_take_is_refused() {
    // Streams have no such limit.
    let (_gateway, address, _agent) = start(&["--max-body", "1KiB", "--legacy"], &[], start_site());
    for (request, status) in [
        (&b"nonsense\r\n\r\n"[..], 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1025\r\n\r\n", 413),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n401\r\n", 413),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nab\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1;a\nb\r\na\r\n0\r\n\r\n", 400),
        (b"GET /ws HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 426),
        (b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n", 501),
    ] {
        let response = http(address, request);
        assert_eq!(split(&response).0, status, "{:?}", String::from_utf8_lossy(request));
    }
    assert_eq!(get(address, "/").0, 200);
}

#[test]
fn who_asks_for_an_agents_path_learns_which_protocol_is_spoken_there() {
    let (_gateway, address) = Program::gateway(&[]);
    let response = http(address, b"GET /ws HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    let head = String::from_utf8_lossy(&response).to_lowercase();
    assert!(head.starts_with("http/1.1 426 ") && head.contains("\r\nupgrade: websocket\r\n"), "{head}");
    assert!(head.contains("\r\nconnection: upgrade\r\n"), "{head}");
}

#[test]
fn without_an_agent_there_is_503_and_without_a_site_502() {
    let (mut gateway, address) = Program::gateway(&[]);
    assert_eq!(get(address, "/").0, 503);
    assert_eq!(get(address, "/health").0, 200);
    let mut agent = start_agent(TUNNEL_ID, address, SocketAddr::from(([127, 0, 0, 1], 1)), &[]);
    gateway.wait_for("connected");
    let (status, body) = get(address, "/x?secret=1");
    assert!(status == 502 && body.contains("Connection refused (os error 111)"), "{body}");
    let line = agent.wait_for("GET /x ");
    assert!(
        line.contains("WARN")
            && line.contains("; start the local server, or check its address")
            && !line.contains("secret"),
        "{line}"
    );
}

#[test]
fn an_agent_that_takes_too_long_is_504_and_its_late_answer_nobodys() {
    for mode in [&[][..], &["--legacy"]] {
        let release = Signal::new();
        let waiting = release.clone();
        let site = serve_http(move |request| {
            if request.head.starts_with("GET /slow ") {
                waiting.wait();
            }
            ok(request.head.split(' ').nth(1).unwrap())
        });
        let (_gateway, address, _agent) = start(&[mode, &["--timeout", "300ms"]].concat(), &[], site);
        assert_eq!(get(address, "/slow").0, 504);
        release.send(());
        // The late answer is there before this one, or held back behind it; it never is this one.
        assert_eq!(get(address, "/next"), (200, "/next".to_owned()));
    }
}

#[test]
fn a_client_that_leaves_does_not_disturb_others() {
    let (reached, release) = (Signal::new(), Signal::new());
    let (at_site, waiting) = (reached.clone(), release.clone());
    let site = serve_http(move |request| {
        if request.head.starts_with("GET /left ") {
            at_site.send(());
            waiting.wait();
        }
        ok(request.head.split(' ').nth(1).unwrap())
    });
    let (_gateway, address, _agent) = start(&["--legacy"], &[], site);
    let mut leaving = TcpStream::connect(address).unwrap();
    leaving.write_all(b"GET /left HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    reached.wait();
    drop(leaving);
    let staying = thread::spawn(move || get(address, "/stays"));
    release.send(());
    assert_eq!(staying.join().unwrap(), (200, "/stays".to_owned()));
}

// ---------------------------------------------------------------------------------------------- faults and the end

#[test]
fn the_gateway_killed_in_the_middle_of_requests_is_found_again() {
    let (reached, release) = (Signal::new(), Signal::new());
    let (at_site, waiting) = (reached.clone(), release.clone());
    let site = serve_http(move |request| {
        if request.head.starts_with("GET /held ") {
            at_site.send(());
            waiting.wait();
        }
        ok("x")
    });
    let (mut gateway, address, mut agent) = start(&[], &["--backoff-min", "50ms"], site);
    let client = thread::spawn(move || http(address, b"GET /held HTTP/1.1\r\nHost: x\r\n\r\n"));
    reached.wait();
    gateway.signal("KILL");
    gateway.wait();
    assert!(client.join().unwrap().is_empty());
    agent.wait_for("trying again in");
    let arguments = ["--listen", &address.to_string()];
    let mut gateway = Program::start(env!("CARGO_BIN_EXE_gateway"), &arguments, &[]);
    gateway.wait_for("agent agent_550e…_prod connected");
    release.send(());
    assert_eq!(get(address, "/x"), (200, "x".to_owned()));
}

#[test]
fn sigterm_finishes_what_runs() {
    let (reached, release) = (Signal::new(), Signal::new());
    let (at_site, waiting) = (reached.clone(), release.clone());
    let site = serve_http(move |_| {
        at_site.send(());
        waiting.wait();
        ok("finished")
    });
    let (_gateway, address, mut agent) = start(&[], &["--drain", "50s"], site);
    let client = thread::spawn(move || get(address, "/held"));
    reached.wait();
    agent.signal("TERM");
    agent.wait_for("asked to stop");
    release.send(());
    assert_eq!(client.join().unwrap(), (200, "finished".to_owned()));
    assert_eq!(agent.wait().code(), Some(0));
}

#[test]
fn a_second_signal_does_not_wait_for_a_server_that_hangs() {
    let reached = Signal::new();
    let at_site = reached.clone();
    let site = crate::support::serve(move |mut socket| {
        let _ = socket.read(&mut [0; 100]);
        at_site.send(());
        let _ = socket.read_to_end(&mut Vec::new());
    });
    let (_gateway, address, mut agent) = start(&[], &["--drain", "10m", "--response-timeout", "10m"], site);
    let client = thread::spawn(move || get(address, "/held"));
    reached.wait();
    agent.signal("TERM");
    agent.wait_for("asked to stop");
    agent.signal("INT");
    assert_eq!(agent.wait().code(), Some(0));
    assert_eq!(client.join().unwrap().0, 502);
}

#[test]
fn a_stop_waits_for_no_gateway_that_is_silent() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let gateway = silent.local_addr().unwrap();
    let proxy = format!("socks5://{gateway}");
    for (gateway, more) in [(gateway, &[][..]), ("192.0.2.7:80".parse().unwrap(), &["--proxy", &proxy])] {
        let options = [&["--connect-timeout", "10m"], more].concat();
        let mut agent = start_agent(TUNNEL_ID, gateway, start_site(), &options);
        // What it asks for is read, and not answered.
        let (mut dialled, _) = silent.accept().unwrap();
        dialled.read_exact(&mut [0; 2]).unwrap();
        agent.signal("TERM");
        assert!(agent.wait().success());
        assert!(!agent.log.iter().any(|line| line.contains("cannot reach")), "{:?}", agent.log);
    }
}

#[test]
fn a_gateway_that_stops_says_goodbye() {
    for mode in [&[][..], &["--legacy"]] {
        let (mut gateway, _, mut agent) = start(mode, &["--backoff-min", "50ms"], start_site());
        gateway.signal("TERM");
        assert_eq!(gateway.wait().code(), Some(0));
        // With streams it may first take its leave; then it is the successor that tries.
        agent.wait_for("the gateway closed it with code 1001: the gateway is stopping");
        if !agent.log.iter().any(|line| line.contains("trying again in")) {
            agent.wait_for("trying again in");
        }
    }
}

#[test]
fn a_thousand_sessions_leave_nothing_behind() {
    let gateway = ScriptedGateway::start();
    let (url, site) = (gateway.url(), format!("http://{}", start_site()));
    let whom = ["--tunnel-id", TUNNEL_ID, "--gateway", &url, "--local", &site, "--workers", "1"];
    let when = ["--backoff-min", "1ms", "--backoff-max", "1ms", "--max-retries", "0"];
    let agent = Program::agent(&[&whom[..], &when].concat());
    // Between two handshakes one session has ended and its thread is joined: the numbers are exact.
    let after = |sessions: usize| {
        for number in 0..=sessions {
            let mut session = gateway.accept();
            session.get("/x");
            assert_eq!(session.answer().status, Some(200));
            if number == sessions {
                return threads_and_descriptors(agent.id());
            }
        }
        unreachable!("the last one returns")
    };
    let early = after(10);
    assert_eq!(after(1000), early);
}

#[test]
fn exit_codes_tell_why() {
    let code = |arguments: &[&str], environment: &[(&str, &str)]| {
        let mut agent = Program::start(env!("CARGO_BIN_EXE_agent"), arguments, environment);
        let code = agent.wait().code();
        (code, agent.log.join("\n"))
    };
    let (status, log) = code(&[], &[]);
    assert!(status == Some(2) && log.contains("--tunnel-id"), "{log}");
    let (status, log) = code(&["--tunnel-id", "s3cret"], &[]);
    assert!(status == Some(2) && log.contains("agent_{uuid}_{purpose}") && !log.contains("s3cret"), "{log}");
    let (status, log) = code(&["--tunnel-id", TUNNEL_ID, "--workers", "0"], &[]);
    assert!(status == Some(2) && log.contains("workers"), "{log}");
    let (status, log) = code(&["--tunnel-id", TUNNEL_ID, "--token", "s3cret"], &[]);
    assert!(status == Some(2) && log.contains("--token-file") && !log.contains("s3cret"), "{log}");
    let gone = ["--gateway", "ws://127.0.0.1:1", "--max-retries", "1", "--backoff-min", "1ms"];
    let (status, log) = code(&gone, &[("TUNNEL_ID", TUNNEL_ID), ("TOKEN", "s3cret"), ("RUST_LOG", "trace")]);
    assert!(status == Some(1) && log.contains("Connection refused"), "{log}");
    assert!(!log.contains("s3cret") && !log.contains("e29b"), "{log}");
}

#[test]
fn a_wrong_token_is_refused_for_good_and_the_right_one_is_not() {
    let (mut gateway, address) = Program::gateway_with(&[], &[("GATEWAY_TOKEN", "s3cret")]);
    let url = format!("ws://{address}");
    let agent = |token: &[(&str, &str)]| {
        let arguments = ["--tunnel-id", TUNNEL_ID, "--gateway", &url];
        Program::start(env!("CARGO_BIN_EXE_agent"), &arguments, token)
    };
    for token in [&[][..], &[("TOKEN", "wrong")]] {
        let mut refused = agent(token);
        assert_eq!(refused.wait().code(), Some(3));
        assert!(refused.log.join("\n").contains("check the token"));
    }
    let _agent = agent(&[("TOKEN", "s3cret"), ("RUST_LOG", "trace")]);
    gateway.wait_for("agent agent_550e…_prod connected");
    assert!(!gateway.log.join("\n").contains("s3cret"));
}

#[test]
fn at_the_loudest_no_log_shows_a_secret() {
    let (mut gateway, address) = Program::gateway_with(&[], &[("RUST_LOG", "trace")]);
    let site = serve_http(|_| {
        b"HTTP/1.1 200 OK\r\nSet-Cookie: s3cret-cookie\r\nContent-Length: 11\r\n\r\ns3cret-body".to_vec()
    });
    let (url, local) = (format!("ws://{address}"), format!("http://{site}"));
    let arguments = ["--tunnel-id", TUNNEL_ID, "--gateway", &url, "--local", &local];
    let environment = [("RUST_LOG", "trace"), ("TOKEN", "s3cret-token")];
    let mut agent = Program::start(env!("CARGO_BIN_EXE_agent"), &arguments, &environment);
    gateway.wait_for("connected");
    let request = "POST /x?s3cret-query HTTP/1.1\r\nHost: x\r\nX-A: s3cret-header\r\nContent-Length: 6\r\nConnection: close\r\n\r\ns3cret";
    assert_eq!(split(&http(address, request.as_bytes())).0, 200);
    agent.signal("TERM");
    gateway.signal("TERM");
    agent.wait();
    gateway.wait();
    for log in [agent.log.join("\n"), gateway.log.join("\n")] {
        assert!(!log.contains("s3cret") && !log.contains("e29b"), "{log}");
    }
}

#[test]
fn an_agent_outlives_whoever_reads_its_log() {
    let (mut gateway, address) = Program::gateway(&[]);
    let (url, local) = (format!("ws://{address}"), format!("http://{}", start_site()));
    let mut agent = std::process::Command::new(env!("CARGO_BIN_EXE_agent"))
        .args(["--tunnel-id", TUNNEL_ID, "--gateway", &url, "--local", &local])
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(agent.stderr.take());
    gateway.wait_for("connected");
    for _ in 0..3 {
        assert_eq!(get(address, "/x").0, 200);
    }
    agent.kill().unwrap();
    agent.wait().unwrap();
}

#[test]
fn help_and_version_go_to_standard_output() {
    for binary in [env!("CARGO_BIN_EXE_agent"), env!("CARGO_BIN_EXE_gateway")] {
        for (flag, text) in [("--help", "Usage: "), ("--version", env!("CARGO_PKG_VERSION"))] {
            let output = std::process::Command::new(binary).arg(flag).output().unwrap();
            assert!(output.status.success() && output.stderr.is_empty());
            assert!(String::from_utf8(output.stdout).unwrap().contains(text));
        }
    }
}
