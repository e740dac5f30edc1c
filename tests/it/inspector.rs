//! What the inspector records, and what its API lets do: the real programs, without a browser.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use tunnel_agent::gateway::Gateway;
use tunnel_agent::{Agent, Body, InspectedOutcome, Inspector, InspectorConfig, Request, Response};

use crate::support::{LIMIT, Program, TUNNEL_ID, get, http, read_head, serve_http, split, until, visit};

/// A gateway, an agent that records, and the address of its page.
struct Tunnel {
    gateway: Program,
    agent: Program,
    address: SocketAddr,
    page: SocketAddr,
}

impl Tunnel {
    fn start(dialect: &[&str], local: &str, options: &[&str]) -> Self {
        let (mut gateway, address) = Program::gateway(dialect);
        let url = format!("ws://{address}");
        let whom = ["--tunnel-id", TUNNEL_ID, "--gateway", &url, "--local", local];
        let inspects = ["--inspect", "--admin", "127.0.0.1:0"];
        let mut agent = Program::agent(&[&whom[..], &inspects, options].concat());
        let page = agent.admin();
        gateway.wait_for("connected");
        Tunnel { gateway, agent, address, page }
    }

    fn ask(&self, path: &str) -> Value {
        let (status, body) = get(self.page, path);
        assert_eq!(status, 200, "{path}: {body}");
        serde_json::from_str(&body).unwrap()
    }

    /// The record with this number, when its exchange has ended.
    fn ended(&self, id: u64) -> Value {
        let mut exchange = Value::Null;
        until("the exchange has ended", || {
            let (status, body) = get(self.page, &format!("/api/exchanges/{id}"));
            exchange = serde_json::from_str(&body).unwrap();
            status == 200 && exchange["outcome"] != "pending"
        });
        exchange
    }

    fn change(&self, method: &str, path: &str, body: &str) -> (u16, Value) {
        let length = body.len();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nX-Tunnel-Inspector: 1\r\nContent-Length: {length}\r\n\
             Connection: close\r\n\r\n{body}",
            self.page
        );
        let (status, body) = split(&http(self.page, request.as_bytes()));
        (status, serde_json::from_str(&body).unwrap_or_default())
    }
}

/// A site that says what it was asked for.
fn site() -> String {
    let address = serve_http(|request| {
        let line = request.head.lines().next().unwrap_or_default();
        let body = format!("{line} {}", request.header("x-more").unwrap_or("-"));
        format!("HTTP/1.1 200 OK\r\nset-cookie: a=s3cret\r\ncontent-length: {}\r\n\r\n{body}", body.len())
            .into_bytes()
    });
    format!("http://{address}")
}

const POST: &str = "POST /order?id=7 HTTP/1.1\r\nHost: x\r\nCookie: a=s3cret\r\nAuthorization: Bearer s3cret\r\n\
                    X-Key: s3cret\r\nContent-Type: text/plain\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello";

#[test]
fn an_exchange_is_recorded_whole_and_without_secrets_by_both_wires() {
    for dialect in [&[][..], &["--legacy"]] {
        let site = site();
        let tunnel = Tunnel::start(dialect, &site, &["--inspect-hide", "X-Key"]);
        assert_eq!(split(&http(tunnel.address, POST.as_bytes())).0, 200);
        let exchange = tunnel.ended(1);
        assert_eq!(
            (&exchange["method"], &exchange["url"], &exchange["status"], &exchange["outcome"]),
            (&json!("POST"), &json!("/order?id=7"), &json!(200), &json!("answered"))
        );
        assert_eq!(exchange["upstream"], site);
        assert_eq!(
            exchange["request_body"],
            json!({ "length": 5, "kept": 5, "complete": true, "cut": false })
        );
        assert_eq!(exchange["replay_leaves_out"].as_array().unwrap().len(), 3);
        let secret = |name: &str| {
            let fields = exchange["request_headers"].as_array().unwrap().iter();
            let fields = fields.chain(exchange["response_headers"].as_array().unwrap());
            fields.filter(|field| field[0] == name).all(|field| field[1].is_null())
        };
        assert!(["cookie", "authorization", "x-key", "set-cookie"].into_iter().all(secret), "{exchange}");
        assert!(!exchange.to_string().contains("s3cret"), "{exchange}");
        for name in ["queue", "first_byte", "whole", "connect"] {
            assert!(exchange["timings_ms"][name].as_f64().is_some(), "{name}: {exchange}");
        }
        assert_eq!(get(tunnel.page, "/api/exchanges/1/body?of=request"), (200, "hello".to_owned()));
        let answered = get(tunnel.page, "/api/exchanges/1/body?of=response").1;
        assert!(answered.starts_with("POST /order?id=7 "), "{answered}");
        drop((tunnel.agent, tunnel.gateway));
    }
}

#[test]
fn what_is_refused_or_fails_is_recorded_with_its_reason() {
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let tunnel = Tunnel::start(&[], &format!("http://{nobody}"), &["--deny", "/secret/**"]);
    assert_eq!(get(tunnel.address, "/secret/x?q=1").0, 403);
    assert_eq!(get(tunnel.address, "/").0, 502);
    let (refused, failed) = (tunnel.ended(1), tunnel.ended(2));
    assert_eq!(
        (&refused["outcome"], &refused["code"], &refused["status"]),
        (&json!("refused"), &json!("filtered"), &json!(403))
    );
    assert_eq!(refused["url"], "/secret/x?q=1");
    assert!(refused["request_headers"].as_array().is_some_and(|fields| !fields.is_empty()));
    assert_eq!((&failed["outcome"], &failed["code"]), (&json!("failed"), &json!("unreachable")));
    assert_eq!(failed["upstream"], format!("http://{nobody}"));
    let found = tunnel.ask("/api/exchanges?q=status:4xx")["exchanges"].clone();
    assert_eq!((found.as_array().unwrap().len(), &found[0]["id"]), (1, &json!(1)));
}

#[test]
fn a_replay_passes_the_rules_leaves_secrets_out_and_is_marked() {
    let mut tunnel = Tunnel::start(&[], &site(), &["--deny", "/secret/**", "--rate", "4/m", "--burst", "4"]);
    assert_eq!(split(&http(tunnel.address, POST.as_bytes())).0, 200);
    tunnel.ended(1);
    let (status, answer) = tunnel.change("POST", "/api/exchanges/1/replay", "");
    assert_eq!((status, &answer["id"]), (201, &json!(2)));
    assert_eq!(answer["left_out"], json!(["cookie", "authorization"]));
    tunnel.agent.wait_for("POST /order 200 ");
    assert!(tunnel.agent.wait_for("POST /order 200 ").ends_with("(a replay of 1)"));
    let again = tunnel.ended(2);
    assert_eq!((&again["replay_of"], &again["status"]), (&json!(1), &json!(200)));
    assert_eq!(get(tunnel.page, "/api/exchanges/2/body?of=request").1, "hello");
    // With changes.
    let changes = json!({ "method": "PUT", "url": "/x", "headers": [["x-more", "yes"]], "body": "other" });
    assert_eq!(tunnel.change("POST", "/api/exchanges/1/replay", &changes.to_string()).0, 201);
    assert_eq!(get(tunnel.page, "/api/exchanges/3/body?of=response").1, "PUT /x HTTP/1.1 yes");
    for (changes, status, code) in [
        (json!({ "url": "/secret/x" }), 403, "filtered"),
        (json!({ "url": "x" }), 400, "bad_request"),
        (json!({ "url": "/x HTTP/1.1\r\nx-more: smuggled\r\nx: y" }), 400, "bad_request"),
        (json!({ "method": "A B" }), 400, "bad_request"),
        (json!({ "headers": [["a", "b\r\nc: d"]] }), 400, "bad_request"),
        (json!({ "headers": [["a\r\nb", "c"]] }), 400, "bad_request"),
        (json!({ "body_base64": "?" }), 400, "bad_request"),
        (json!({ "else": 1 }), 400, "bad_request"),
    ] {
        let (got, answer) = tunnel.change("POST", "/api/exchanges/1/replay", &changes.to_string());
        assert_eq!((got, &answer["code"]), (status, &json!(code)), "{changes}");
    }
    // The rate counts replays: that was the third request of four.
    assert_eq!(tunnel.change("POST", "/api/exchanges/1/replay", "").0, 201);
    assert_eq!(tunnel.change("POST", "/api/exchanges/1/replay", "").0, 429);
    assert_eq!(tunnel.change("POST", "/api/exchanges/77/replay", "").0, 404);
    assert_eq!(tunnel.ask("/api/status")["inspector"]["replays"], 3);
    assert_eq!(tunnel.change("DELETE", "/api/exchanges", ""), (200, json!({})));
    assert_eq!(tunnel.ask("/api/exchanges"), json!({ "exchanges": [] }));
}

#[test]
fn a_request_whose_body_is_cut_is_not_sent_again() {
    let tunnel = Tunnel::start(&[], &site(), &["--inspect-body", "1KiB"]);
    let body = "x".repeat(2000);
    let request =
        format!("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2000\r\nConnection: close\r\n\r\n{body}");
    assert_eq!(split(&http(tunnel.address, request.as_bytes())).0, 200);
    assert_eq!(tunnel.ended(1)["replayable"], false);
    let (status, answer) = tunnel.change("POST", "/api/exchanges/1/replay", "");
    assert_eq!((status, &answer["code"]), (409, &json!("not_replayable")));
}

#[test]
fn only_the_page_itself_may_change_anything() {
    let tunnel = Tunnel::start(&[], &site(), &[]);
    get(tunnel.address, "/");
    tunnel.ended(1);
    let ask = |head: &str| {
        let request = format!("{head}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        split(&http(tunnel.page, request.as_bytes())).0
    };
    let page = tunnel.page;
    let confirmed = "X-Tunnel-Inspector: 1";
    for (head, status) in [
        (format!("GET /api/exchanges HTTP/1.1\r\nHost: {page}"), 200),
        (format!("GET /api/exchanges HTTP/1.1\r\nHost: {page}\r\nOrigin: http://{page}"), 200),
        ("GET /api/exchanges HTTP/1.1\r\nHost: evil.example".to_owned(), 421),
        ("GET / HTTP/1.1\r\nHost: evil.example".to_owned(), 421),
        (format!("GET /api/exchanges HTTP/1.1\r\nHost: {page}\r\nOrigin: http://evil.example"), 403),
        (format!("GET /api/events HTTP/1.1\r\nHost: {page}\r\nOrigin: null"), 403),
        (format!("GET /api/exchanges HTTP/1.1\r\nHost: {page}\r\nSec-Fetch-Site: cross-site"), 403),
        (format!("POST /api/exchanges/1/replay HTTP/1.1\r\nHost: {page}"), 403),
        (format!("DELETE /api/exchanges HTTP/1.1\r\nHost: {page}"), 403),
        (
            format!(
                "DELETE /api/exchanges HTTP/1.1\r\nHost: {page}\r\n{confirmed}\r\nOrigin: https://evil.example"
            ),
            403,
        ),
        (format!("PUT /api/exchanges HTTP/1.1\r\nHost: {page}\r\n{confirmed}"), 405),
        (format!("POST / HTTP/1.1\r\nHost: {page}\r\n{confirmed}"), 405),
        (format!("GET /api/nothing HTTP/1.1\r\nHost: {page}"), 404),
        (format!("GET /api/exchanges/1/body?of=x HTTP/1.1\r\nHost: {page}"), 400),
        (format!("GET /page/nothing HTTP/1.1\r\nHost: {page}"), 404),
    ] {
        assert_eq!(ask(&head), status, "{head}");
    }
    assert_eq!(tunnel.ask("/api/exchanges")["exchanges"].as_array().unwrap().len(), 1);
    let body = http(
        page,
        format!(
            "GET /api/exchanges/1/body?of=response HTTP/1.1\r\nHost: {page}\r\nConnection: close\r\n\r\n"
        )
        .as_bytes(),
    );
    let head = String::from_utf8(body).unwrap().to_lowercase();
    for field in
        ["content-type: application/octet-stream", "content-disposition: attachment", "nosniff", "sandbox"]
    {
        assert!(head.contains(field), "{field}: {head}");
    }
}

#[test]
fn without_the_option_there_is_no_inspector() {
    let (mut gateway, address) = Program::gateway(&[]);
    let (url, site) = (format!("ws://{address}"), site());
    let mut agent = Program::agent(&[
        "--tunnel-id",
        TUNNEL_ID,
        "--gateway",
        &url,
        "--local",
        &site,
        "--admin",
        "127.0.0.1:0",
    ]);
    let admin = agent.admin();
    gateway.wait_for("connected");
    assert_eq!(get(address, "/").0, 200);
    for path in ["/", "/api/exchanges", "/page/app.js"] {
        assert_eq!(get(admin, path).0, 404, "{path}");
    }
}

#[test]
fn records_stay_within_their_memory() {
    let large = serve_http(|_| {
        let body = "y".repeat(200_000);
        format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len()).into_bytes()
    });
    let tunnel = Tunnel::start(
        &[],
        &format!("http://{large}"),
        &["--inspect-memory", "1MiB", "--inspect-body", "128KiB"],
    );
    let body = "x".repeat(150_000);
    for _ in 0..40 {
        let request = format!(
            "POST /{} HTTP/1.1\r\nHost: x\r\nContent-Length: 150000\r\nConnection: close\r\n\r\n{body}",
            "long".repeat(200)
        );
        assert_eq!(split(&http(tunnel.address, request.as_bytes())).0, 200);
    }
    tunnel.ended(40);
    let inspector = tunnel.ask("/api/status")["inspector"].clone();
    assert!(inspector["memory_used"].as_u64().unwrap() <= 1 << 20, "{inspector}");
    let kept = tunnel.ask("/api/exchanges")["exchanges"].as_array().unwrap().len();
    assert_eq!((kept, inspector["evicted"].as_u64().unwrap()), (3, 37));
    let exchange = tunnel.ended(40);
    assert_eq!(
        exchange["response_body"],
        json!({ "length": 200_000, "kept": 131_072, "complete": true, "cut": true })
    );
    assert_eq!(get(tunnel.page, "/api/exchanges/1").0, 404);
}

#[test]
fn messages_and_events_are_recorded_as_they_come() {
    // A site that changes to WebSocket, sends a message and waits for one.
    let site = crate::support::serve(|mut socket| {
        let mut reader = BufReader::new(socket.try_clone().unwrap());
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if reader.read_line(&mut head).unwrap_or_default() == 0 {
                return;
            }
        }
        if head.starts_with("GET /events") {
            let events = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n\
                          event: tick\ndata: 1\n\ndata: 2\n\n";
            socket.write_all(events.as_bytes()).unwrap();
            return;
        }
        let is_key = |line: &&str| line.to_lowercase().starts_with("sec-websocket-key: ");
        let key = head.lines().find(is_key).and_then(|line| line.split(' ').nth(1)).unwrap();
        let accept = tungstenite::handshake::derive_accept_key(key.as_bytes());
        let switch = format!(
            "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-accept: {accept}\r\n\r\n"
        );
        socket.write_all(&[switch.as_bytes(), b"\x81\x05Hello"].concat()).unwrap();
        let mut frame = [0; 9];
        reader.read_exact(&mut frame).unwrap();
        socket.write_all(b"\x88\x00").unwrap();
    });
    let tunnel = Tunnel::start(&[], &format!("http://{site}"), &[]);
    let upgrade = "GET /chat HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                   Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    let (mut socket, mut reader) = visit(tunnel.address, upgrade);
    let head = read_head(&mut reader);
    assert!(head.starts_with("http/1.1 101 "), "{head}");
    let mut hello = [0; 7];
    reader.read_exact(&mut hello).unwrap();
    socket.write_all(b"\x81\x83\0\0\0\0abc").unwrap();
    let mut rest = Vec::new();
    reader.read_to_end(&mut rest).unwrap();
    drop((socket, reader));
    let messages = tunnel.ended(1)["messages"].clone();
    let short = |message: &Value| (message["from"].clone(), message["kind"].clone(), message["text"].clone());
    assert_eq!(short(&messages[0]), (json!("server"), json!("text"), json!("Hello")));
    assert_eq!(short(&messages[1]), (json!("visitor"), json!("text"), json!("abc")));
    assert_eq!(messages[2]["kind"], "close");
    assert_eq!(get(tunnel.address, "/events").0, 200);
    let messages = tunnel.ended(2)["messages"].clone();
    assert_eq!(
        (&messages[0]["event"], &messages[0]["text"], &messages[1]["text"]),
        (&json!("tick"), &json!("1"), &json!("2"))
    );
}

#[test]
fn the_terminal_shows_what_passes_and_sends_it_again() {
    let tunnel = Tunnel::start(&[], &site(), &[]);
    let admin = tunnel.page.to_string();
    let agent = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_agent"));
        command.env_clear().args(arguments).args(["--config", "none", "--admin", &admin]);
        command
    };
    let mut tail = agent(&["tail", "--json"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(tail.stdout.take().unwrap()).lines();
    let (sender, first) = mpsc::channel();
    thread::spawn(move || sender.send(lines.next()));
    // It shows what comes from now on, and nobody knows when that is.
    let line = loop {
        assert_eq!(get(tunnel.address, "/x").0, 200);
        if let Ok(line) = first.recv_timeout(Duration::from_millis(50)) {
            break line.expect("a line").unwrap();
        }
    };
    tail.kill().unwrap();
    tail.wait().unwrap();
    let exchange: Value = serde_json::from_str(&line).unwrap();
    assert_eq!((&exchange["url"], &exchange["status"]), (&json!("/x"), &json!(200)));
    let output = agent(&["replay", "1"]).output().unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    assert!(printed.contains(" GET /x 200 ") && printed.ends_with(" replay of 1\n"), "{printed}");
    let output = agent(&["replay", "999999"]).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("request 999999 was not sent again: there is no such"), "{said}");
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn an_embedding_program_hears_of_each_exchange() {
    let gateway = Gateway::builder().listen("127.0.0.1:0".parse().unwrap());
    let gateway = gateway.build().unwrap().bind().unwrap().spawn().unwrap();
    let inspector = Inspector::new(InspectorConfig::default());
    let (sender, finished) = mpsc::channel();
    inspector.on_finished(|_| panic!("a hook that panics disturbs nothing"));
    inspector.on_finished(move |exchange| drop(sender.send(exchange.clone())));
    let agent = Agent::builder(TUNNEL_ID.parse().unwrap())
        .gateway(format!("ws://{}", gateway.address()).parse().unwrap())
        .service(|request: Request| Ok(Response::new(Body::from(format!("you asked for {}", request.uri())))))
        .inspect(inspector.clone())
        .build()
        .unwrap()
        .spawn()
        .unwrap();
    agent.handle().wait_connected(LIMIT).expect("a session");
    assert_eq!(get(gateway.address(), "/a?b").1, "you asked for /a?b");
    let exchange = finished.recv_timeout(LIMIT).expect("an exchange");
    assert_eq!((exchange.id, exchange.url.as_str(), exchange.status), (1, "/a?b", Some(200)));
    assert_eq!(
        (exchange.outcome, exchange.response_body.bytes),
        (InspectedOutcome::Answered, b"you asked for /a?b".to_vec())
    );
    assert_eq!(inspector.exchanges().len(), 1);
    inspector.clear();
    assert!(inspector.exchanges().is_empty() && inspector.exchange(1).is_none());
    agent.handle().shutdown(Duration::ZERO);
    agent.join().unwrap();
    gateway.handle().abort();
    gateway.join().unwrap();
}

#[test]
fn a_token_is_wanted_for_the_records_and_not_for_the_page() {
    let folder = crate::support::Folder::new();
    let token = folder.write("token", "t0ken");
    let tunnel = Tunnel::start(&[], &site(), &["--admin-token-file", token.to_str().unwrap()]);
    assert_eq!(get(tunnel.page, "/").0, 200);
    assert_eq!(get(tunnel.page, "/page/app.js").0, 200);
    for path in ["/api/exchanges", "/api/events", "/api/status"] {
        assert_eq!(get(tunnel.page, path).0, 401, "{path}");
    }
    let request = "GET /api/exchanges HTTP/1.1\r\nHost: other.example\r\nAuthorization: Bearer t0ken\r\nConnection: close\r\n\r\n";
    assert_eq!(split(&http(tunnel.page, request.as_bytes())).0, 200);
    let mut stream = TcpStream::connect(tunnel.page).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    let head = "GET /api/events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer t0ken\r\n\r\n";
    stream.write_all(head.as_bytes()).unwrap();
    let mut lines = BufReader::new(stream).lines().map(Result::unwrap);
    assert!(lines.any(|line| line.starts_with(r#"data: {"exchanges":[],"oldest":1,"since_ms":"#)));
}
