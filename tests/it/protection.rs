//! What protects the local server: rules, rates, queues, circuit breakers, checks, and several servers; through
//! the real agent and a gateway by script.

use std::io::Read;
use std::net::{SocketAddr, TcpListener};
use std::sync::Mutex;

use crate::support::{
    Program, Reply, ScriptedGateway, ScriptedSession, Signal, TUNNEL_ID, http, ok, read_head, serve_http,
    split, visit,
};

/// An agent in front of these servers, and its session with a gateway.
fn start(options: &[&str]) -> (Program, ScriptedSession) {
    let gateway = ScriptedGateway::start();
    let url = gateway.url();
    let agent = Program::agent(&[&["--tunnel-id", TUNNEL_ID, "--gateway", &url], options].concat());
    let session = gateway.accept();
    (agent, session)
}

fn url(server: SocketAddr) -> String {
    format!("http://{server}")
}

/// An address at which nobody listens.
fn nobody() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

fn named(name: &'static str) -> SocketAddr {
    serve_http(move |_| ok(name))
}

#[track_caller]
fn check(reply: &Reply, status: u64, code: &str) {
    assert_eq!(reply.status, Some(status), "{}", reply.text);
    assert_eq!(reply.header("x-tunnel-source"), Some("agent"));
    assert!(reply.text.contains(&format!("\"code\":\"{code}\"")), "{}", reply.text);
}

#[test]
fn the_first_rule_that_matches_decides_and_the_path_stays_as_it_is() {
    let site = url(serve_http(|request| ok(request.head.lines().next().unwrap())));
    let rules = ["--deny", "/admin/**", "--allow", "GET /**"];
    let (mut agent, mut session) = start(&[&["--local", &site], &rules[..]].concat());
    session.get("/%61/x?y=1");
    assert_eq!(session.answer().text, "GET /%61/x?y=1 HTTP/1.1");
    session.get("/%61dmin?secret=1");
    check(&session.answer(), 403, "filtered");
    session.request(r#"{"method":"POST","path":"/x"}"#);
    check(&session.answer(), 403, "filtered");
    session.get("/x/..%2fadmin");
    check(&session.answer(), 400, "ambiguous_path");
    let line = agent.wait_for("403 filtered");
    assert!(line.contains("GET /%61dmin refused") && !line.contains("secret"), "{line}");
}

#[test]
fn requests_above_the_rate_are_refused_and_told_when_to_come_back() {
    let site = url(named("here"));
    let (_agent, mut session) = start(&["--local", &site, "--rate", "2/m", "--burst", "2"]);
    for _ in 0..2 {
        session.get("/");
        assert_eq!(session.answer().text, "here");
    }
    session.get("/");
    let reply = session.answer();
    check(&reply, 429, "rate_limited");
    let wait: u64 = reply.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=30).contains(&wait), "{wait}");
}

#[test]
fn a_server_that_takes_one_request_at_a_time_gets_one_and_the_others_wait() {
    let (reached, release) = (Signal::new(), Signal::new());
    let (at_site, may_go) = (reached.clone(), release.clone());
    let busy = Mutex::new(());
    let site = url(serve_http(move |_| {
        // Nobody else is here.
        let alone = busy.try_lock().map(|_guard| {
            at_site.send(());
            may_go.wait();
        });
        ok(if alone.is_ok() { "alone" } else { "crowded" })
    }));
    let (_agent, mut session) = start(&["--local", &site, "--max-in-flight", "1", "--workers", "4"]);
    for _ in 0..3 {
        session.get("/");
    }
    for _ in 0..3 {
        reached.wait();
        release.send(());
        assert_eq!(session.answer().text, "alone");
    }
}

#[test]
fn who_waits_for_too_long_is_answered_and_never_reaches_the_server() {
    let (reached, release) = (Signal::new(), Signal::new());
    let (at_site, may_go) = (reached.clone(), release.clone());
    let site = url(serve_http(move |request| {
        at_site.send(request.head.clone());
        may_go.wait();
        ok("done")
    }));
    let limits = ["--max-in-flight", "1", "--queue-timeout", "20ms"];
    let (_agent, mut session) = start(&[&["--local", &site], &limits[..]].concat());
    session.request(r#"{"id":1,"method":"GET","path":"/first"}"#);
    reached.wait();
    session.request(r#"{"id":2,"method":"GET","path":"/second"}"#);
    let reply = session.answer();
    assert_eq!(reply.id, Some(2.into()));
    check(&reply, 503, "queue_timeout");
    assert_eq!(reply.header("retry-after"), Some("1"));
    (0..2).for_each(|_| release.send(()));
    assert_eq!(session.answer().text, "done");
    // The first may not have made room yet.
    let mut status = None;
    while status != Some(200) {
        session.request(r#"{"id":3,"method":"GET","path":"/third"}"#);
        status = session.answer().status;
    }
    assert!(reached.wait().starts_with("GET /third"));
}

#[test]
fn what_a_gateway_says_neither_commands_a_terminal_nor_shows_the_tunnel_id() {
    let (mut agent, mut session) = start(&["--local", &url(nobody()), "--max-retries", "1"]);
    let reason = format!("no\u{1b}[31m {TUNNEL_ID}\nfake line");
    let frame = tungstenite::protocol::CloseFrame { code: 4001.into(), reason: reason.into() };
    session.0.close(Some(frame)).unwrap();
    let line = agent.wait_for("closed it with code 4001");
    assert!(line.contains("no\\u{1b}[31m agent_550e…_prod\\nfake line"), "{line}");
    assert!(!line.contains(TUNNEL_ID), "{line}");
}

#[test]
fn a_circuit_opens_after_failures_in_a_row_and_closes_when_the_server_is_back() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let breaker = ["--breaker-failures", "2", "--breaker-open", "1ms"];
    let (mut agent, mut session) = start(&[&["--local", &url(address)], &breaker[..]].concat());
    for _ in 0..2 {
        session.get("/");
        let reply = session.answer();
        assert!(reply.status.is_none() && reply.text.contains("Connection refused"), "{}", reply.text);
    }
    let line = agent.wait_for("failed 2 times in a row");
    assert!(line.contains("WARN") && line.contains("Connection refused"), "{line}");
    // As often as it is tried, the server is not there.
    session.get("/");
    let text = session.answer().text;
    assert!(text.contains("circuit open") || text.contains("Connection refused"), "{text}");
    let site = TcpListener::bind(address).unwrap();
    std::thread::spawn(move || {
        for mut socket in site.incoming().flatten() {
            let _ = socket.read(&mut [0; 1000]);
            let _ = std::io::Write::write_all(&mut socket, &ok("back"));
        }
    });
    // It is tried again when its time has come, and never later than half a minute.
    let mut text = String::new();
    while text != "back" {
        session.get("/");
        text = session.answer().text;
        assert!(text == "back" || text.contains("circuit open after"), "{text}");
    }
    agent.wait_for("is up again, after");
}

#[test]
fn an_open_circuit_answers_at_once_and_says_when_it_is_tried_next() {
    let breaker = ["--breaker-failures", "1", "--breaker-open", "30s", "--failure", "response"];
    let (_agent, mut session) = start(&[&["--local", &url(nobody())], &breaker[..]].concat());
    session.get("/");
    check(&session.answer(), 502, "unreachable");
    session.get("/");
    let reply = session.answer();
    check(&reply, 503, "circuit_open");
    let seconds = reply.header("retry-after").unwrap();
    assert!((1..=30).contains(&seconds.parse().unwrap()), "{seconds}");
    let text = "Failed to forward request to local server: circuit open after 1 failure, next try in";
    assert!(reply.text.contains(&format!("{text} {seconds} s")), "{}", reply.text);
}

#[test]
fn the_next_server_answers_where_the_first_cannot_be_reached() {
    let (dead, alive, api) = (url(nobody()), url(named("second")), format!("/api={}", url(named("api"))));
    let options = ["--local", &dead, "--local", &alive, "--route", &api];
    let (_agent, mut session) = start(&options);
    for _ in 0..7 {
        session.request(r#"{"method":"POST","path":"/","headers":[],"body":"hello"}"#);
        assert_eq!(session.answer().text, "second");
    }
    session.get("/api/x");
    assert_eq!(session.answer().text, "api");
}

#[test]
fn checks_find_a_server_that_is_down_before_a_visitor_does() {
    let (asked, status) = (Signal::new(), Signal::new());
    let (is_asked, answer) = (asked.clone(), status.clone());
    let site = url(serve_http(move |request| {
        is_asked.send(request.clone());
        let status: u16 = answer.wait();
        format!("HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n").into_bytes()
    }));
    let health = ["--health-path", "/up", "--health-interval", "1ms", "--host-header", "site.test"];
    let (mut agent, _session) = start(&[&["--local", &site], &health[..]].concat());
    let request = asked.wait();
    assert!(request.head.starts_with("GET /up HTTP/1.1\r\n"), "{}", request.head);
    assert_eq!(request.header("host"), Some("site.test"));
    for _ in 0..3 {
        status.send(503);
        asked.wait();
    }
    let line = agent.wait_for("is down: 3 checks in a row failed");
    assert!(line.contains("the last: it answered 503"), "{line}");
    status.send(404);
    agent.wait_for("is up again, after");
}

#[test]
fn headers_are_set_and_removed() {
    let site = url(serve_http(|request| ok(&request.head)));
    let edits = ["--set-header", "X-Env: tunnel", "--set-header=X-Old:new", "--remove-header", "Cookie"];
    let (_agent, mut session) = start(&[&["--local", &site], &edits[..]].concat());
    session.request(
        r#"{"method":"GET","path":"/","headers":[["Cookie","a=1"],["X-Old","old"],["X-Kept","yes"]]}"#,
    );
    let head = session.answer().text.to_lowercase();
    for line in ["x-env: tunnel\r\n", "x-old: new\r\n", "x-kept: yes\r\n"] {
        assert!(head.contains(line), "{head}");
    }
    assert!(!head.contains("cookie") && !head.contains("old: old"), "{head}");
}

#[test]
fn what_cannot_be_meant_is_refused_by_name() {
    for (options, text) in [
        (&["--allow", "admin"][..], "--allow: expected a path"),
        (&["--deny", "GET/x"], "--deny: expected methods"),
        (&["--allow", "/a", "--deny", "b"], "--deny, rule 2: expected a path"),
        (&["--gateway", "ws://x", "--gateway", "ws://x/ws"], "is given twice"),
        (&["--workers", "9", "--max-streams", "8"], "--max-streams must not be less than --workers"),
        (&["--local", "http://127.0.0.1:3000"], "is the gateway itself"),
        (&["--admin-token-file", "s3cret"], "--admin-token-file: there is no file of that name"),
        (&["--rate", "100"], "--rate: expected a rate such as 100/s"),
        (&["--burst", "5"], "--burst needs --rate"),
        (&["--rate-wait", "1s"], "--rate-wait needs --rate"),
        (&["--max-in-flight", "0"], "--max-in-flight must be at least 1"),
        (&["--queue-timeout", "0s"], "--queue-timeout must be"),
        (&["--route", "/api"], "--route: expected PREFIX=URL"),
        (&["--route", "api=http://127.0.0.1:1"], "--route: the prefix must be"),
        (&["--route", "/api=ftp://x"], "--route: it does not begin with http://"),
        (&["--set-header", "Host: x"], "--set-header: Host has an option of its own, --host-header"),
        (&["--remove-header", "Content-Length"], "--remove-header: that header frames"),
        (&["--health-path", "up"], "--health-path: expected a path"),
        (&["--health-interval", "1s"], "--health-interval needs --health-path"),
        (&["--failure", "maybe"], "--failure: expected error or response"),
        (&["--breaker-failures", "x"], "--breaker-failures: expected a whole number, not below 0"),
        (&["--breaker-open", "31s"], "--breaker-open must be"),
    ] {
        let mut agent = Program::agent(&[&["--tunnel-id", TUNNEL_ID], options].concat());
        assert_eq!(agent.wait().code(), Some(2), "{options:?}");
        assert!(agent.log.join("\n").contains(text), "{options:?}: {:?}", agent.log);
    }
}

#[test]
fn a_visitor_without_a_password_never_reaches_the_server() {
    let site = serve_http(|request| {
        let shown = request.header("authorization").unwrap_or("none").to_owned();
        ok(&shown)
    });
    let (site, options) = (url(site), ["--open", "POST /hook/**"]);
    let environment = [("BASIC_AUTH", "anna:secret word\nbert:x")];
    // In envelopes.
    let gateway = ScriptedGateway::start();
    let arguments = ["--tunnel-id", TUNNEL_ID, "--gateway", &gateway.url(), "--local", &site];
    let arguments = [&arguments[..], &options].concat();
    let mut agent = Program::start(env!("CARGO_BIN_EXE_agent"), &arguments, &environment);
    let mut session = gateway.accept();
    session.get("/page");
    let reply = session.answer();
    check(&reply, 401, "unauthorized");
    assert_eq!(reply.header("www-authenticate"), Some("Basic realm=\"tunnel\", charset=\"UTF-8\""));
    session.request(
        r#"{"method":"GET","path":"/page","headers":[["authorization","Basic YW5uYTpzZWNyZXQgd29yZA=="]]}"#,
    );
    assert_eq!(session.answer().text, "none");
    session.request(r#"{"method":"POST","path":"/hook/a","headers":[["authorization","Bearer its-own"]]}"#);
    assert_eq!(session.answer().text, "Bearer its-own");
    session.get("/hook/..%2fpage");
    check(&session.answer(), 400, "ambiguous_path");
    let line = agent.wait_for("401 unauthorized");
    assert!(line.contains("GET /page refused"), "{line}");
    drop(agent);
    // And in streams, upgrades too.
    let (_gateway, address) = Program::gateway(&[]);
    let gateway = format!("ws://{address}");
    let arguments = ["--tunnel-id", TUNNEL_ID, "--gateway", &gateway, "--local", &site];
    let mut agent = Program::start(env!("CARGO_BIN_EXE_agent"), &arguments, &environment);
    agent.wait_for("is open");
    let ask = |more: &str| {
        let request = format!("GET /page HTTP/1.1\r\nHost: x\r\nConnection: close{more}\r\n\r\n");
        split(&http(address, request.as_bytes()))
    };
    let (status, text) = ask("");
    assert!(status == 401 && text.contains("unauthorized"), "{status} {text}");
    assert_eq!(ask("\r\nAuthorization: Basic YmVydDp4"), (200, "none".to_owned()));
    assert_eq!(ask("\r\nAuthorization: Basic YmVydDp5").0, 401);
    let upgrade = "GET /page HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
        Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    let (_socket, mut reader) = visit(address, upgrade);
    assert!(read_head(&mut reader).starts_with("http/1.1 401 "));
}

/// An agent behind the reference gateway, and what becomes of a request there.
fn behind_a_gateway(options: &[&str], environment: &[(&str, &str)]) -> (Program, Program, SocketAddr) {
    let (gateway, address) = Program::gateway(&[]);
    let (site, url) = (url(named("here")), format!("ws://{address}"));
    let arguments = [&["--tunnel-id", TUNNEL_ID, "--gateway", &url, "--local", &site], options].concat();
    let mut agent = Program::start(env!("CARGO_BIN_EXE_agent"), &arguments, environment);
    agent.wait_for("is open");
    (gateway, agent, address)
}

#[test]
fn visitors_pass_by_their_addresses_where_the_gateway_vouches_for_them() {
    for (options, status) in [
        (&["--allow-ip", "127.0.0.0/8"][..], 200),
        (&["--allow-ip", "192.0.2.0/24"], 403),
        (&["--deny-ip", "127.0.0.1"], 403),
        (&["--deny-ip", "192.0.2.1"], 200),
    ] {
        let (_gateway, _agent, address) = behind_a_gateway(options, &[]);
        // What the visitor says of itself counts for nothing.
        let request = b"GET / HTTP/1.1\r\nHost: x\r\nX-Real-IP: 192.0.2.1\r\nConnection: close\r\n\r\n";
        let (got, text) = split(&http(address, request));
        assert_eq!(got, status, "{options:?}: {text}");
        assert!(got == 200 || text.contains("address_filtered"), "{text}");
    }
    let site = url(named("here"));
    let (mut agent, mut session) = start(&["--local", &site, "--allow-ip", "0.0.0.0/0"]);
    session.request(r#"{"method":"GET","path":"/","headers":[["x-real-ip","127.0.0.1"]]}"#);
    check(&session.answer(), 403, "address_filtered");
    agent.wait_for("does not vouch for its visitors' addresses");
}

#[test]
fn a_visitor_that_guesses_passwords_is_stopped() {
    let (_gateway, _agent, address) = behind_a_gateway(&[], &[("BASIC_AUTH", "bert:x")]);
    let ask = |shown: &str| {
        let request =
            format!("GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: {shown}\r\n\r\n");
        split(&http(address, request.as_bytes())).0
    };
    assert_eq!(ask("Basic YmVydDp4"), 200);
    for _ in 0..10 {
        assert_eq!(ask("Basic YmVydDp5"), 401);
    }
    assert_eq!(ask("Basic YmVydDp4"), 429);
}

#[test]
fn a_method_that_is_probably_misspelt_is_named_at_the_start() {
    let site = url(named("here"));
    let (mut agent, _session) =
        start(&["--local", &site, "--allow", "GTE,PROPFIND /x", "--allow", "MOVE,get /y"]);
    let line = agent.wait_for("did you mean");
    assert!(
        line.contains("the rule `allow GTE,PROPFIND /x` names the method GTE; did you mean GET?"),
        "{line}"
    );
}
