//! How an agent tells how it is doing: the real agent, a gateway by script, and those who ask.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Instant;

use crate::support::{
    LIMIT, Program, ScriptedGateway, Signal, TUNNEL_ID, get, http, metrics, ok, serve_http, split,
    threads_and_descriptors,
};

/// An agent with an admin server, and the server's address.
fn start(gateway: &ScriptedGateway, local: &str, options: &[&str]) -> (Program, SocketAddr) {
    let url = gateway.url();
    let whom = ["--tunnel-id", TUNNEL_ID, "--gateway", &url, "--local", local, "--admin", "127.0.0.1:0"];
    let mut agent = Program::agent(&[&whom[..], options].concat());
    let address = agent.admin();
    (agent, address)
}

fn site() -> String {
    format!("http://{}", serve_http(|_| ok("hello")))
}

fn nobody() -> String {
    format!("http://{}", TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap())
}

fn json(address: SocketAddr, path: &str) -> (u16, serde_json::Value) {
    let (status, body) = get(address, path);
    (status, serde_json::from_str(&body).unwrap())
}

#[test]
fn ready_means_a_session_and_a_server_that_is_not_down() {
    let gateway = ScriptedGateway::start();
    let breaker = ["--breaker-failures", "1", "--breaker-open", "30s"];
    let (agent, admin) = start(&gateway, &nobody(), &breaker);
    assert_eq!(get(admin, "/healthz"), (200, "ok\n".to_owned()));
    let (status, why) = json(admin, "/readyz");
    assert_eq!(status, 503);
    assert_eq!(why["because"][0], "no session with a gateway");
    let mut session = gateway.accept();
    // The handshake is sent by a session that counts already.
    assert_eq!(json(admin, "/readyz").0, 200);
    session.get("/");
    session.answer();
    let (status, why) = json(admin, "/readyz");
    assert_eq!((status, &why["because"][0]), (503, &"every local server for / is down".into()));
    let (_, status) = json(admin, "/status");
    assert_eq!(
        (&status["upstreams"][0]["circuit"], &status["totals"]["failed"]),
        (&"open".into(), &1.into())
    );
    assert_eq!(status["sessions"], 1);
    drop(agent);
}

#[test]
fn metrics_count_what_happened() {
    let gateway = ScriptedGateway::start();
    let (_agent, admin) = start(&gateway, &site(), &["--deny", "/admin"]);
    let mut session = gateway.accept();
    for path in ["/secret/path?token=s3cret", "/", "/admin"] {
        session.get(path);
        session.answer();
    }
    session.request(r#"{"method":"POST","path":"/","body":"12345"}"#);
    session.answer();
    let samples = metrics(admin, "tunnel_agent");
    for (name, value) in [
        ("responses_total{class=\"2xx\"}", 3.0),
        ("responses_total{class=\"5xx\"}", 0.0),
        ("refused_total{code=\"filtered\"}", 1.0),
        ("refused_total{code=\"queue_full\"}", 0.0),
        ("failures_total{code=\"unreachable\"}", 0.0),
        ("request_bytes_total", 5.0),
        ("response_bytes_total", 15.0),
        ("request_duration_seconds_count", 3.0),
        ("request_duration_seconds_bucket{le=\"+Inf\"}", 3.0),
        ("upstream_duration_seconds_count", 3.0),
        ("sessions", 1.0),
        ("sessions_total", 1.0),
        ("in_flight", 0.0),
        ("queued", 0.0),
        ("dial_failures_total{kind=\"connect\"}", 0.0),
    ] {
        assert_eq!(samples.get(&format!("tunnel_agent_{name}")), Some(&value), "{name}");
    }
    assert!(samples["tunnel_agent_request_duration_seconds_sum"] > 0.0);
    let up: Vec<_> =
        samples.iter().filter(|(name, _)| name.starts_with("tunnel_agent_upstream_up")).collect();
    assert!(up.len() == 1 && *up[0].1 == 1.0, "{up:?}");
    // Neither paths nor IDs.
    assert!(samples.keys().all(|name| !name.contains("secret") && !name.contains("550e")), "{samples:?}");
}

#[test]
fn metrics_count_what_was_lost_and_which_circuit_is_open() {
    let gateway = ScriptedGateway::start();
    let release = Signal::new();
    let (reached, may_go) = (Signal::new(), release.clone());
    let at_site = reached.clone();
    let slow = serve_http(move |_| {
        at_site.send(());
        may_go.wait();
        ok("late")
    });
    let route = format!("/dead={}", nobody());
    let options = ["--route", &route, "--breaker-failures", "1", "--breaker-open", "30s"];
    let (mut agent, admin) = start(&gateway, &format!("http://{slow}"), &options);
    let mut session = gateway.accept();
    session.get("/dead/x");
    session.answer();
    session.get("/");
    reached.wait();
    drop(session);
    agent.wait_for("trying again");
    release.send(());
    // The worker notices when it has the answer.
    let deadline = Instant::now() + LIMIT;
    while metrics(admin, "tunnel_agent")["tunnel_agent_answers_dropped_total"] != 1.0 {
        assert!(Instant::now() < deadline, "it is counted");
    }
    let samples = metrics(admin, "tunnel_agent");
    let of = |name: &str, url: &str| {
        samples.iter().find(|(key, _)| key.contains(name) && key.contains(url)).map(|(_, value)| *value)
    };
    let (dead, alive) = (nobody_of(&route), slow.to_string());
    assert_eq!((of("upstream_circuit_open", &dead), of("upstream_up", &dead)), (Some(1.0), Some(0.0)));
    assert_eq!((of("upstream_circuit_open", &alive), of("upstream_up", &alive)), (Some(0.0), Some(1.0)));
    assert_eq!(samples["tunnel_agent_failures_total{code=\"unreachable\"}"], 1.0);
}

/// The address in a route.
fn nobody_of(route: &str) -> String {
    route.rsplit('/').next().unwrap().to_owned()
}

#[test]
fn a_pong_tells_how_far_away_the_gateway_is() {
    let gateway = ScriptedGateway::start();
    let (_agent, admin) = start(&gateway, &site(), &["--ping-interval", "1ms"]);
    let mut session = gateway.accept();
    assert!(!metrics(admin, "tunnel_agent").contains_key("tunnel_agent_ping_seconds"));
    // Reading a ping answers it, with the next message at the latest.
    while !metrics(admin, "tunnel_agent").contains_key("tunnel_agent_ping_seconds") {
        while !matches!(session.0.read().unwrap(), tungstenite::Message::Ping(_)) {}
        session.0.flush().unwrap();
    }
    assert!(metrics(admin, "tunnel_agent")["tunnel_agent_ping_seconds"] > 0.0);
}

#[test]
fn a_token_is_asked_for_where_there_is_one() {
    let gateway = ScriptedGateway::start();
    let url = gateway.url();
    let whom = ["--tunnel-id", TUNNEL_ID, "--gateway", &url, "--admin", "127.0.0.1:0"];
    let token = [("ADMIN_TOKEN", "s3cret")];
    let mut agent = Program::start(env!("CARGO_BIN_EXE_agent"), &whom, &token);
    let admin = agent.admin();
    assert_eq!((get(admin, "/healthz").0, get(admin, "/status").0), (200, 401));
    for (shown, status) in [("s3cret", 200), ("wrong", 401)] {
        let request = format!(
            "GET /status HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {shown}\r\nConnection: close\r\n\r\n"
        );
        assert_eq!(split(&http(admin, request.as_bytes())).0, status);
    }
    let mut agent = Program::agent(&["--tunnel-id", TUNNEL_ID, "--admin", "0.0.0.0:0"]);
    assert_eq!(agent.wait().code(), Some(2));
    assert!(
        agent
            .log
            .join("\n")
            .contains("an address that is not loopback needs a token; give one with --admin-token-file"),
        "{:?}",
        agent.log
    );
}

#[test]
fn what_is_no_request_for_it_is_refused() {
    let gateway = ScriptedGateway::start();
    let (_agent, admin) = start(&gateway, &site(), &[]);
    for (request, status) in [
        (&b"nonsense\r\n\r\n"[..], 400),
        // A page in a browser whose name leads here.
        (b"GET /status HTTP/1.1\r\nHost: evil.test\r\nConnection: close\r\n\r\n", 421),
        (b"GET /metrics HTTP/1.1\r\nHost: 192.0.2.1\r\nConnection: close\r\n\r\n", 421),
        (b"GET /healthz HTTP/1.1\r\nHost: evil.test\r\nConnection: close\r\n\r\n", 200),
        (b"GET /status HTTP/1.1\r\nHost: LocalHost:80\r\nConnection: close\r\n\r\n", 200),
        (b"GET /status HTTP/1.1\r\nHost: [::1]\r\nConnection: close\r\n\r\n", 200),
        (b"POST /status HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 405),
        (b"GET /status HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n", 413),
        (b"GET /other HTTP/1.1\r\nHost: 127.0.0.1:9\r\nConnection: close\r\n\r\n", 404),
    ] {
        assert_eq!(split(&http(admin, request)).0, status, "{:?}", String::from_utf8_lossy(request));
    }
}

#[test]
fn a_server_that_is_back_is_not_known_to_be_down_before_a_visitor_comes() {
    let gateway = ScriptedGateway::start();
    let local = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let breaker = ["--breaker-failures", "1", "--breaker-open", "1ms"];
    let (_agent, admin) = start(&gateway, &format!("http://{local}"), &breaker);
    let mut session = gateway.accept();
    session.get("/");
    session.answer();
    // It may be tried by now, or soon; it is not there in any case.
    for _ in 0..10 {
        assert_eq!(json(admin, "/readyz").0, 503);
    }
    let _back = TcpListener::bind(local).unwrap();
    let deadline = Instant::now() + LIMIT;
    while json(admin, "/readyz").0 != 200 {
        assert!(Instant::now() < deadline, "it stays down");
    }
    // The agent itself tries it, so that visitors need not.
    let circuit = || json(admin, "/status").1["upstreams"][0]["circuit"].clone();
    while circuit() != "closed" {
        assert!(Instant::now() < deadline, "the circuit stays open");
    }
}

#[test]
fn each_route_needs_a_server() {
    let gateway = ScriptedGateway::start();
    let route = format!("/api={}", nobody());
    let options = ["--route", &route, "--breaker-failures", "1", "--breaker-open", "30s"];
    let (_agent, admin) = start(&gateway, &site(), &options);
    let mut session = gateway.accept();
    session.get("/");
    session.answer();
    assert_eq!(json(admin, "/readyz").0, 200);
    session.get("/api/x");
    session.answer();
    let (status, why) = json(admin, "/readyz");
    assert_eq!((status, &why["because"][0]), (503, &"every local server for /api/ is down".into()));
}

#[test]
fn slow_clients_disturb_nobody() {
    let gateway = ScriptedGateway::start();
    let (mut agent, admin) = start(&gateway, &site(), &[]);
    let mut session = gateway.accept();
    let mut known = BufReader::new(TcpStream::connect(admin).unwrap());
    known.get_mut().set_read_timeout(Some(LIMIT)).unwrap();
    let mut asks = || {
        known.get_mut().write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        let mut line = String::new();
        while line != "ok\n" {
            line.clear();
            assert_ne!(known.read_line(&mut line).unwrap(), 0);
        }
    };
    asks();
    // Those who say half a word take all the places there are, but for those of others who have asked; who comes then
    // takes that of the oldest.
    let clients: Vec<TcpStream> = (0..32)
        .map(|_| {
            let mut socket = TcpStream::connect(admin).unwrap();
            socket.set_read_timeout(Some(LIMIT)).unwrap();
            socket.write_all(b"GET /").unwrap();
            socket
        })
        .collect();
    assert_eq!(get(admin, "/healthz"), (200, "ok\n".to_owned()));
    match (&clients[0]).read(&mut [0; 1]) {
        Ok(0) => {}
        Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
        other => panic!("{other:?}"),
    }
    asks();
    session.get("/");
    assert_eq!(session.answer().text, "hello");
    // It ends at once with all of them there.
    agent.signal("TERM");
    session.close_code();
    drop(session);
    assert_eq!(agent.wait().code(), Some(0));
}

#[test]
fn what_asks_leaves_nothing_behind() {
    let gateway = ScriptedGateway::start();
    let (agent, admin) = start(&gateway, &site(), &[]);
    let _session = gateway.accept();
    let mut socket = BufReader::new(TcpStream::connect(admin).unwrap());
    let mut after = |requests: usize| {
        for _ in 0..requests {
            socket.get_mut().write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
            let mut line = String::new();
            while line != "ok\n" {
                line.clear();
                assert_ne!(socket.read_line(&mut line).unwrap(), 0);
            }
        }
        threads_and_descriptors(agent.id())
    };
    let early = after(5);
    assert_eq!(after(200), early);
}
