//! What a gateway tells its operators, with the real programs: pages, metrics, a line for each request, times.

use std::net::{SocketAddr, TcpStream};

use crate::support::{
    Program, Signal, TUNNEL_ID, get, http, metrics, ok, page_websocket, serve_http, split, until, visit,
};

const TRACE: &str = "traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\n";

/// A gateway with an admin server: itself, the visitors' address and the operators'.
fn start(options: &[&str], environment: &[(&str, &str)]) -> (Program, SocketAddr, SocketAddr) {
    let admin = ["--admin", "0", "--hold", "0s"];
    let (mut gateway, address) = Program::gateway_with(&[&admin[..], options].concat(), environment);
    let admin = gateway.admin();
    (gateway, address, admin)
}

fn agent(gateway: SocketAddr, options: &[&str]) -> Program {
    let site = serve_http(|request| match request.head.contains("/missing") {
        true => b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nServer-Timing: db;dur=3\r\n\r\n".to_vec(),
        false => ok(&"x".repeat(1000)),
    });
    let (url, local) = (format!("ws://{gateway}"), format!("http://{site}"));
    let usual = ["--tunnel-id", TUNNEL_ID, "--gateway", &url, "--local", &local];
    let mut agent = Program::agent(&[&usual, options].concat());
    agent.wait_for(" is open → ");
    agent
}

fn json(address: SocketAddr, path: &str) -> (u16, serde_json::Value) {
    let (status, body) = get(address, path);
    (status, serde_json::from_str(&body).unwrap())
}

#[test]
fn agents_that_are_refused_are_counted_and_logged_with_their_address() {
    let (mut gateway, address, admin) = start(&["--access-log"], &[("GATEWAY_TOKEN", "sesame")]);
    for (token, status) in [("", 401), ("Authorization: Bearer wrong\r\n", 403)] {
        let upgrade = format!(
            "GET /ws HTTP/1.1\r\nHost: {address}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n{token}\r\n"
        );
        let response = http(address, upgrade.as_bytes());
        assert_eq!(split(&response).0, status);
        gateway.wait_for(&format!("GET /ws of 127.0.0.1 answered: {status} unauthorized ["));
        gateway.wait_for(&format!("127.0.0.1 {address} GET /ws {status} "));
    }
    let samples = metrics(admin, "tunnel_gateway");
    assert_eq!(samples["tunnel_gateway_problems_total{code=\"unauthorized\"}"], 2.0);
    assert_eq!(samples["tunnel_gateway_responses_total{class=\"4xx\"}"], 2.0);
}

#[test]
fn a_gateway_tells_how_it_is_doing() {
    let (mut gateway, address, admin) = start(&[], &[]);
    assert_eq!(get(admin, "/healthz"), (200, "ok\n".to_owned()));
    let (status, ready) = json(admin, "/readyz");
    assert_eq!((status, &ready["because"][0]), (503, &"no agent is connected".into()));
    // It is the same as on the visitors' side.
    assert_eq!(json(address, "/.tunnel/ready"), (503, ready));
    assert_eq!(get(address, "/").0, 503);
    let mut agent = agent(address, &[]);
    assert_eq!(json(admin, "/readyz").0, 200);
    for path in ["/a", "/missing", "/.tunnel/health"] {
        get(address, path);
    }
    let (_socket, _reader) = visit(address, "");
    assert_eq!(http(address, b"nonsense\r\n\r\n")[..12], *b"HTTP/1.1 400");

    // A response is counted behind its last byte, and a visitor until its connection has ended.
    let mut samples = metrics(admin, "tunnel_gateway");
    until("one visitor, and five responses", || {
        samples = metrics(admin, "tunnel_gateway");
        samples["tunnel_gateway_visitors"] == 1.0
            && samples["tunnel_gateway_request_duration_seconds_count"] == 5.0
    });
    let sample = |name: &str| samples[&format!("tunnel_gateway_{name}")] as u64;
    assert_eq!((sample("agents"), sample("tunnels"), sample("sessions_total")), (1, 1, 1));
    assert_eq!(sample("sessions_lost_total"), 0);
    for (class, count) in [("2xx", 2), ("4xx", 2), ("5xx", 2), ("3xx", 0)] {
        assert_eq!(sample(&format!("responses_total{{class=\"{class}\"}}")), count, "{class}");
    }
    assert_eq!(sample("problems_total{code=\"no_agent\"}"), 1);
    assert_eq!(sample("problems_total{code=\"bad_request\"}"), 1);
    assert_eq!((sample("visitors"), sample("places_taken"), sample("places")), (1, 1, 1024));
    assert!(sample("sent_bytes_total") > 1000 && sample("received_bytes_total") > 100);
    assert_eq!((sample("in_flight"), sample("body_bytes"), sample("body_bytes_max")), (0, 0, 64 << 20));

    let (status, report) = json(admin, "/status");
    assert_eq!(status, 200);
    assert_eq!((&report["tunnels"], &report["visitors"]), (&1.into(), &1.into()));
    assert_eq!(report["agents"][0]["tunnel"], "agent_550e…_prod");
    assert_eq!(report["totals"]["responses"], 6);
    // Who is gone before it is taken was not turned away.
    for _ in 0..100 {
        let socket = TcpStream::connect(address).unwrap();
        socket2::SockRef::from(&socket).set_linger(Some(std::time::Duration::ZERO)).unwrap();
    }
    get(address, "/.tunnel/health");
    assert_eq!(metrics(admin, "tunnel_gateway")["tunnel_gateway_turned_away_total"], 0.0);
    // No page holds a credential.
    assert!(!report.to_string().contains("446655440000"));
    agent.signal("KILL");
    agent.wait();
    gateway.wait_for("disconnected: ");
    until("the session is lost", || {
        metrics(admin, "tunnel_gateway")["tunnel_gateway_sessions_lost_total"] == 1.0
    });
}

#[test]
fn operators_show_the_token_where_there_is_one() {
    let path = std::env::temp_dir().join(format!("gateway-admin-{}", std::process::id()));
    std::fs::write(&path, "sesame\n").unwrap();
    let (mut gateway, _, admin) = start(&["--admin-token-file", path.to_str().unwrap()], &[]);
    let status = |token: &str| {
        let request = format!(
            "GET /status HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\r\n"
        );
        split(&http(admin, request.as_bytes())).0
    };
    assert_eq!((get(admin, "/healthz").0, get(admin, "/metrics").0), (200, 401));
    assert_eq!((status("sesame"), status("other")), (200, 401));
    std::fs::write(&path, "other\n").unwrap();
    gateway.signal("HUP");
    until("the token is renewed", || status("other") == 200);
    assert_eq!(status("sesame"), 401);
    std::fs::remove_file(path).unwrap();
    gateway.signal("TERM");
    assert!(gateway.wait().success());

    for (options, environment, error) in [
        (&["--admin", "0.0.0.0:0"][..], &[][..], "--admin: an address that is not loopback needs a token"),
        (&[], &[("GATEWAY_ADMIN_TOKEN", "x")], "needs --admin"),
    ] {
        let mut gateway = Program::start(env!("CARGO_BIN_EXE_gateway"), options, environment);
        assert_eq!(gateway.wait().code(), Some(2));
        assert!(gateway.log.join("\n").contains(error), "{:?}", gateway.log);
    }
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let mut gateway =
        Program::start(env!("CARGO_BIN_EXE_gateway"), &["--listen", "0", "--admin", &taken], &[]);
    assert_eq!(gateway.wait().code(), Some(1));
    assert!(
        gateway.log.join("\n").contains(&format!("cannot listen on {taken} for operators: ")),
        "{:?}",
        gateway.log
    );
}

#[test]
fn the_log_has_a_line_for_each_request_where_that_is_wanted() {
    let options = ["--access-log", "--trusted-proxies", "127.0.0.1"];
    let (mut gateway, address) = Program::gateway(&[&options[..], &["--hold", "0s"]].concat());
    let mut agent = agent(address, &[]);
    let request = format!(
        "GET /a%1b?secret=1 HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 192.0.2.7\r\n{TRACE}Connection: close\r\n\r\n"
    );
    http(address, request.as_bytes());
    let line = gateway.wait_for("192.0.2.7 x GET /a%1b 200 ");
    assert!(line.ends_with("] trace=4bf92f3577b34da6a3ce929d0e0e4736") && !line.contains("secret"), "{line}");
    let bytes: u64 = line.split(" 200 ").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
    assert!((1000..1400).contains(&bytes), "{line}");
    // The agent's line names the trace, too.
    let line = agent.wait_for("GET /a%1b 200 1000 B");
    assert!(line.ends_with(" ms trace=4bf92f3577b34da6a3ce929d0e0e4736"), "{line}");
    // One of the gateway's own, one behind another on the same connection, and one that is no trace.
    http(
        address,
        b"GET /.tunnel/health HTTP/1.1\r\nHost: x\r\ntraceparent: 1\r\n\r\n\
          GET /b HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    );
    let line = gateway.wait_for("127.0.0.1 x GET /.tunnel/health 200 ");
    assert!(line.ends_with(" ms"), "{line}");
    let line = gateway.wait_for("127.0.0.1 x GET /b 200 ");
    let bytes: u64 = line.split(" 200 ").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
    assert!((1000..1400).contains(&bytes), "{line}");
    let stream = TcpStream::connect(address).unwrap();
    agent.signal("KILL");
    agent.wait();
    gateway.wait_for("disconnected: ");
    get(address, "/c");
    gateway.wait_for("127.0.0.1 localhost GET /c 503 ");
    drop(stream);
    // As many lines as requests, however many in a second.
    for _ in 0..20 {
        get(address, "/d");
    }
    for _ in 0..20 {
        gateway.wait_for("GET /d 503 ");
    }
}

#[test]
fn a_request_under_way_and_another_protocol_have_their_line_when_they_end() {
    let (mut gateway, address) = Program::gateway(&["--access-log", "--hold", "0s"]);
    let local = crate::support::serve(|socket| {
        let mut websocket = tungstenite::accept(socket).unwrap();
        while websocket.read().is_ok() {}
    });
    let (url, site) = (format!("ws://{address}"), format!("http://{local}"));
    let mut agent = Program::agent(&["--tunnel-id", TUNNEL_ID, "--gateway", &url, "--local", &site]);
    agent.wait_for(" is open → ");
    let stream = TcpStream::connect(address).unwrap();
    let (websocket, _) = page_websocket("ws://site.test/chat", stream, &[("connection", "Upgrade")]);
    assert!(!gateway.log.iter().any(|line| line.contains("/chat")));
    drop(websocket);
    gateway.wait_for("127.0.0.1 site.test GET /chat 101 ");
}

#[test]
fn pages_are_told_how_long_it_took() {
    let (_gateway, address) = Program::gateway(&["--server-timing", "--hold", "0s"]);
    let mut agent = agent(address, &["--server-timing"]);
    let response = String::from_utf8(http(address, b"GET /missing HTTP/1.0\r\n\r\n")).unwrap();
    let timing = |line: &str| line.strip_prefix("server-timing: ").map(str::to_owned);
    let lines: Vec<_> = response.to_ascii_lowercase().lines().filter_map(timing).collect();
    assert_eq!(lines.len(), 3, "{response}");
    assert_eq!(lines[0], "db;dur=3");
    let times: Vec<f64> = lines[1..]
        .iter()
        .flat_map(|line| line.split(", "))
        .zip(["tunnel;dur=", "upstream;dur=", "gateway;dur="])
        .map(|(metric, name)| metric.strip_prefix(name).unwrap().parse().unwrap())
        .collect();
    // Each holds the one before.
    let [tunnel, upstream, gateway] = times[..] else { panic!("{lines:?}") };
    assert!(upstream <= tunnel && tunnel <= gateway, "{lines:?}");
    agent.signal("TERM");
    agent.wait();
}

#[test]
fn what_is_cut_does_not_look_whole_and_what_is_not_sent_is_not_counted() {
    let (mut gateway, address, admin) = start(&["--access-log"], &[]);
    // A body that cannot be read changes nothing of the answer, of which there is one.
    let broken = b"POST /b HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n";
    assert_eq!(split(&http(address, broken)).0, 503);
    gateway.wait_for("POST /b of 127.0.0.1 answered: 503 no_agent");
    gateway.wait_for("127.0.0.1 x POST /b 503 ");
    let response = String::from_utf8(http(address, b"HEAD /.tunnel/x HTTP/1.0\r\n\r\n")).unwrap();
    assert!(response.starts_with("HTTP/1.1 404") && response.ends_with("\r\n\r\n"), "{response}");
    let samples = metrics(admin, "tunnel_gateway");
    assert_eq!(samples["tunnel_gateway_problems_total{code=\"no_agent\"}"], 1.0);
    assert!(!samples.contains_key("tunnel_gateway_problems_total{code=\"bad_request\"}"));

    let go_on = Signal::<()>::new();
    let waits = go_on.clone();
    let site = serve_http(move |request| {
        if request.head.contains("/slow") {
            waits.wait();
        }
        // It breaks off: what follows is less than that.
        b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\nxxxx".to_vec()
    });
    let (url, local) = (format!("ws://{address}"), format!("http://{site}"));
    let timeout = ["--idle-timeout", "100ms"];
    let usual = ["--tunnel-id", TUNNEL_ID, "--gateway", &url, "--local", &local];
    let mut agent = Program::agent(&[&usual[..], &timeout].concat());
    agent.wait_for(" is open → ");
    http(address, b"GET /cut HTTP/1.0\r\n\r\n");
    gateway.wait_for("127.0.0.1 - GET /cut 200 cut ");
    let (visitor, _) = visit(address, "GET /slow HTTP/1.1\r\nHost: x\r\n\r\n");
    drop(visitor);
    gateway.wait_for("127.0.0.1 x GET /slow cancelled ");
    go_on.send(());
    let samples = metrics(admin, "tunnel_gateway");
    let sample = |name: &str| samples[&format!("tunnel_gateway_{name}")];
    assert_eq!((sample("cut_total"), sample("cancelled_total")), (1.0, 1.0));
}
