//! mux/2 between agent and gateway. The gateway is played by the test, byte by byte; the agent runs in this
//! process with a service of the test's own.

use std::io::{BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::support::{LIMIT, ScriptedGateway, ScriptedSession, Signal, TUNNEL_ID, read_request, serve};
use tungstenite::protocol::CloseFrame;
use tungstenite::{Bytes, Message};
use tunnel_agent::{
    Agent, BackoffConfig, Body, BreakerConfig, Builder, Cancellation, ConnectionState, CorsCredentials,
    Failure, FailureKind, FailureReply, Origin, Request, Response, Rule, RunError, RunningAgent, Service,
    Status, Timeouts,
};

const HEAD: u8 = 1;
const DATA: u8 = 2;
const RESET: u8 = 3;
const WINDOW: u8 = 4;
const GOAWAY: u8 = 5;

const OPEN: u8 = 0;
const END: u8 = 1;

/// A frame as it is on the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: Vec<u8>,
}

impl Frame {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.payload).into_owned()
    }
}

fn builder(gateway: &ScriptedGateway) -> Builder {
    let short = Duration::from_millis(20);
    Agent::builder(TUNNEL_ID.parse().unwrap())
        .gateway(gateway.url().parse().unwrap())
        .backoff(BackoffConfig { min: short, max: short, max_retries: 0 })
}

fn start(gateway: &ScriptedGateway, service: impl Service) -> (RunningAgent, ScriptedSession) {
    start_with(gateway, builder(gateway).service(service), "")
}

fn start_with(gateway: &ScriptedGateway, builder: Builder, limits: &str) -> (RunningAgent, ScriptedSession) {
    let agent = builder.build().unwrap().spawn().unwrap();
    let mut session = gateway.accept();
    welcome(&mut session, limits);
    (agent, session)
}

fn welcome(session: &mut ScriptedSession, limits: &str) {
    session.send(&format!(r#"{{"message_type":"welcome","payload":{{"protocol":"mux/2"{limits}}}}}"#));
}

fn stop(agent: RunningAgent) {
    agent.handle().shutdown(Duration::ZERO);
    agent.join().unwrap();
}

/// What an agent has counted when all its workers have ended: they count after they have answered.
fn stop_and_count(agent: RunningAgent) -> Status {
    agent.handle().shutdown(Duration::ZERO);
    let deadline = Instant::now() + LIMIT;
    while agent.handle().status().connection != ConnectionState::Stopped && Instant::now() < deadline {
        std::thread::yield_now();
    }
    let status = agent.handle().status();
    agent.join().unwrap();
    status
}

fn send(session: &mut ScriptedSession, kind: u8, flags: u8, stream: u32, payload: impl AsRef<[u8]>) {
    let mut bytes = vec![kind, flags];
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(payload.as_ref());
    session.0.send(Message::Binary(Bytes::from(bytes))).unwrap();
}

fn get(session: &mut ScriptedSession, stream: u32, path: &str) {
    send(session, HEAD, END, stream, format!("GET {path} HTTP/1.1\r\nHost: site.test\r\n\r\n"));
}

#[track_caller]
fn next(session: &mut ScriptedSession) -> Frame {
    loop {
        match session.0.read().expect("a frame") {
            Message::Binary(bytes) => {
                let stream = u32::from_be_bytes(bytes[2..6].try_into().unwrap());
                return Frame { kind: bytes[0], flags: bytes[1], stream, payload: bytes[6..].to_vec() };
            }
            Message::Ping(_) | Message::Pong(_) => {}
            other => panic!("not a frame: {other:?}"),
        }
    }
}

#[track_caller]
fn expect(session: &mut ScriptedSession, kind: u8, flags: u8, stream: u32, payload: impl AsRef<[u8]>) {
    let expected = Frame { kind, flags, stream, payload: payload.as_ref().to_vec() };
    assert_eq!(next(session), expected);
}

/// The whole response on a stream: its head, and its body.
#[track_caller]
fn response(session: &mut ScriptedSession, stream: u32) -> (String, Vec<u8>) {
    let head = next(session);
    assert_eq!((head.kind, head.stream), (HEAD, stream), "{head:?}");
    let (mut body, mut flags) = (Vec::new(), head.flags);
    while flags & END == 0 {
        let data = next(session);
        assert_eq!((data.kind, data.stream), (DATA, stream), "{data:?}");
        body.extend_from_slice(&data.payload);
        flags = data.flags;
    }
    (head.text(), body)
}

/// Answers with the path, and the body behind it.
fn echo(request: Request) -> Result<Response, Failure> {
    let path = request.uri().to_string();
    let body = request.into_body().into_bytes(1 << 20)?;
    Ok(Response::new(Body::from([path.as_bytes(), &body].concat())))
}

// ----------------------------------------------------------------------------------- requests and responses

#[test]
fn a_request_is_answered_on_its_stream() {
    let gateway = ScriptedGateway::start();
    let (agent, mut session) = start(&gateway, echo);
    get(&mut session, 1, "/hello?a=b");
    expect(&mut session, HEAD, OPEN, 1, "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n");
    expect(&mut session, DATA, END, 1, "/hello?a=b");
    send(&mut session, HEAD, END, 2, "HEAD / HTTP/1.1\r\nHost: x\r\n\r\n");
    expect(&mut session, HEAD, END, 2, "HTTP/1.1 200 OK\r\n\r\n");
    assert_eq!(stop_and_count(agent).served, 2);
}

#[test]
fn a_body_arrives_as_it_is_sent_and_its_window_is_granted() {
    let gateway = ScriptedGateway::start();
    let (part, parts) = (Signal::new(), Signal::new());
    let signal = part.clone();
    let service = move |request: Request| {
        assert_eq!(request.body().length(), Some(20_000));
        let mut body = request.into_body();
        let mut buffer = vec![0; 10_000];
        for _ in 0..2 {
            body.read_exact(&mut buffer).unwrap();
            signal.send(());
        }
        assert_eq!(body.read(&mut buffer).unwrap(), 0);
        Ok(Response::new(Body::from("thanks")))
    };
    let (agent, mut session) = start_with(&gateway, builder(&gateway).service(service), ",\"window\":16384");
    send(&mut session, HEAD, OPEN, 1, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 20000\r\n\r\n");
    send(&mut session, DATA, OPEN, 1, vec![b'x'; 10_000]);
    part.wait();
    let grant = next(&mut session);
    assert_eq!((grant.kind, grant.stream, grant.payload.len()), (WINDOW, 1, 4));
    send(&mut session, DATA, END, 1, vec![b'x'; 10_000]);
    part.wait();
    assert_eq!(response(&mut session, 1).1, b"thanks");
    drop(parts as Arc<Signal<()>>);
    stop(agent);
}

#[test]
fn a_response_leaves_as_it_is_made() {
    let gateway = ScriptedGateway::start();
    let (mut events, receiver) = UnixStream::pair().unwrap();
    let receiver = std::sync::Mutex::new(Some(receiver));
    let service = move |_: Request| {
        let receiver = receiver.lock().unwrap().take().unwrap();
        Ok(Response::new(Body::from_reader(receiver, None)))
    };
    let (agent, mut session) = start(&gateway, service);
    get(&mut session, 1, "/events");
    expect(&mut session, HEAD, OPEN, 1, "HTTP/1.1 200 OK\r\n\r\n");
    for event in ["data: one\n\n", "data: two\n\n"] {
        events.write_all(event.as_bytes()).unwrap();
        expect(&mut session, DATA, OPEN, 1, event);
    }
    drop(events);
    expect(&mut session, DATA, END, 1, "");
    stop(agent);
}

#[test]
fn the_end_of_a_response_comes_with_its_last_bytes() {
    // A visitor who has all of it may leave at once, and would seem to leave too early.
    let gateway = ScriptedGateway::start();
    let service = |_: Request| Ok(Response::new(Body::from_reader(&b"five!"[..], Some(5))));
    let (agent, mut session) = start(&gateway, service);
    get(&mut session, 1, "/");
    expect(&mut session, HEAD, OPEN, 1, "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n");
    expect(&mut session, DATA, END, 1, "five!");
    stop(agent);
}

#[test]
fn a_large_response_keeps_to_the_window() {
    let gateway = ScriptedGateway::start();
    let service = |_: Request| Ok(Response::new(Body::from(vec![b'x'; 100_000])));
    let limits = ",\"window\":16384,\"max_frame\":4096";
    let (agent, mut session) = start_with(&gateway, builder(&gateway).service(service), limits);
    get(&mut session, 1, "/");
    assert_eq!(next(&mut session).kind, HEAD);
    let (mut received, mut window) = (0, 16_384);
    loop {
        let data = next(&mut session);
        assert!(data.kind == DATA && data.payload.len() <= 4096, "{data:?}");
        received += data.payload.len();
        window -= data.payload.len() as i64;
        assert!(window >= 0);
        if data.flags & END != 0 {
            break;
        }
        if window == 0 {
            // Another request is answered while this one waits for its window.
            let stream = 2 + received as u32;
            send(&mut session, HEAD, END, stream, "HEAD / HTTP/1.1\r\nHost: x\r\n\r\n");
            let head = next(&mut session);
            assert_eq!((head.kind, head.flags, head.stream), (HEAD, END, stream));
            send(&mut session, WINDOW, 0, 1, 16_384u32.to_be_bytes());
            window = 16_384;
        }
    }
    assert_eq!(received, 100_000);
    stop(agent);
}

#[test]
fn an_upgrade_carries_bytes_both_ways() {
    let gateway = ScriptedGateway::start();
    let service = |request: Request| {
        assert_eq!(request.headers()["upgrade"], "chat");
        let mut response = Response::new(request.into_body());
        *response.status_mut() = http::StatusCode::SWITCHING_PROTOCOLS;
        response.headers_mut().insert("upgrade", http::HeaderValue::from_static("chat"));
        Ok(response)
    };
    let (agent, mut session) = start(&gateway, service);
    let head = "GET /chat HTTP/1.1\r\nHost: x\r\nConnection: keep-alive, Upgrade\r\nUpgrade: chat\r\n\r\n";
    send(&mut session, HEAD, OPEN, 1, head);
    let head = next(&mut session).text();
    assert!(head.starts_with("HTTP/1.1 101 ") && head.contains("\r\nconnection: Upgrade\r\n"), "{head}");
    assert!(head.contains("\r\nupgrade: chat\r\n"), "{head}");
    for said in ["hello", "how are you"] {
        send(&mut session, DATA, OPEN, 1, said);
        expect(&mut session, DATA, OPEN, 1, said);
    }
    send(&mut session, DATA, END, 1, "bye");
    expect(&mut session, DATA, OPEN, 1, "bye");
    expect(&mut session, DATA, END, 1, "");
    stop(agent);
}

#[test]
fn an_upgraded_server_that_breaks_off_ends_its_stream() {
    let gateway = ScriptedGateway::start();
    let address = serve(|mut socket| {
        read_request(&mut BufReader::new(socket.try_clone().unwrap()));
        let _ = socket.write_all(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: chat\r\n\r\nhi");
        // Closing with a byte unread resets the connection.
        let _ = socket.peek(&mut [0]);
    });
    let local = format!("http://{address}").parse().unwrap();
    let origin = Origin::new(local, None, None, Timeouts::default());
    let (agent, mut session) = start(&gateway, origin);
    send(
        &mut session,
        HEAD,
        OPEN,
        1,
        "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: chat\r\n\r\n",
    );
    assert!(next(&mut session).text().starts_with("HTTP/1.1 101 "));
    send(&mut session, DATA, OPEN, 1, "hello");
    // What the server said may come first.
    let reset = loop {
        let frame = next(&mut session);
        if frame.kind != DATA {
            break frame;
        }
    };
    assert_eq!((reset.kind, reset.stream, reset.payload[0]), (RESET, 1, 4));
    stop(agent);
}

#[test]
fn a_client_that_is_silent_after_an_upgraded_servers_last_word_is_not_waited_for() {
    let gateway = ScriptedGateway::start();
    let address = serve(|mut socket| {
        read_request(&mut BufReader::new(socket.try_clone().unwrap()));
        let _ = socket.write_all(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: chat\r\n\r\nbye");
    });
    let timeouts = Timeouts { idle: Duration::from_millis(50), ..Timeouts::default() };
    let builder = builder(&gateway).local(format!("http://{address}").parse().unwrap()).timeouts(timeouts);
    let (agent, mut session) = start_with(&gateway, builder, "");
    let head = "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: chat\r\n\r\n";
    send(&mut session, HEAD, OPEN, 1, head);
    assert!(next(&mut session).text().starts_with("HTTP/1.1 101 "));
    expect(&mut session, DATA, OPEN, 1, "bye");
    expect(&mut session, DATA, END, 1, "");
    let reset = next(&mut session);
    assert_eq!((reset.kind, reset.stream, reset.payload[0]), (RESET, 1, 3));
    stop(agent);
}

#[test]
fn http2_is_not_upgraded_to() {
    let gateway = ScriptedGateway::start();
    let service = |request: Request| {
        let hidden =
            !request.headers().contains_key("upgrade") && !request.headers().contains_key("http2-settings");
        Ok(Response::new(Body::from(format!("{hidden}"))))
    };
    let (agent, mut session) = start(&gateway, service);
    let head = "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: x\r\n\r\n";
    send(&mut session, HEAD, END, 1, head);
    assert_eq!(response(&mut session, 1).1, b"true");
    stop(agent);
}

// ----------------------------------------------------------------------------------- failures and refusals

#[test]
fn failures_are_resets_with_their_code() {
    let gateway = ScriptedGateway::start();
    let service = |request: Request| {
        let (kind, text) = match request.uri().path() {
            "/unreachable" => (FailureKind::Unreachable, "nobody there"),
            "/timeout" => (FailureKind::Timeout, "too slow"),
            "/bad" => (FailureKind::BadRequest, "not like this"),
            "/cut" => {
                let body = Body::from_reader(&b"half"[..], Some(8));
                return Ok(Response::new(body));
            }
            _ => panic!("this service is meant to panic"),
        };
        Err(Failure::new(kind, text))
    };
    let (agent, mut session) = start(&gateway, service);
    get(&mut session, 1, "/unreachable");
    expect(&mut session, RESET, 0, 1, "\x02nobody there");
    get(&mut session, 2, "/timeout");
    expect(&mut session, RESET, 0, 2, "\x03too slow");
    get(&mut session, 3, "/panic");
    expect(&mut session, RESET, 0, 3, "\x08the service panicked");
    get(&mut session, 4, "/bad");
    let (head, body) = response(&mut session, 4);
    assert!(head.starts_with("HTTP/1.1 400 ") && head.contains("x-tunnel-source: agent"), "{head}");
    assert!(String::from_utf8(body).unwrap().contains("not like this"));
    get(&mut session, 5, "/cut");
    // A reset may overtake the data that it discards.
    let reset = loop {
        let frame = next(&mut session);
        assert_eq!((frame.stream, frame.flags), (5, 0), "{frame:?}");
        if frame.kind == RESET {
            break frame;
        }
    };
    assert_eq!(reset.payload[0], 4, "{reset:?}");
    let status = stop_and_count(agent);
    assert_eq!((status.failed, status.refused), (4, 1));
}

#[test]
fn bodies_over_the_limit_do_not_pass() {
    let gateway = ScriptedGateway::start();
    let service = |request: Request| match request.uri().path() {
        "/stated" => Ok(Response::new(Body::from("five!"))),
        "/streamed" => Ok(Response::new(Body::from_reader(&b"five!"[..], None))),
        "/four" => Ok(Response::new(Body::from_reader(&b"four"[..], None))),
        _ => echo(request),
    };
    let builder = builder(&gateway).service(service).max_streamed_body(4);
    let (agent, mut session) = start_with(&gateway, builder, "");
    send(&mut session, HEAD, OPEN, 1, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n");
    assert!(response(&mut session, 1).0.starts_with("HTTP/1.1 413 "));
    send(&mut session, HEAD, OPEN, 2, "POST / HTTP/1.1\r\nHost: x\r\n\r\n");
    send(&mut session, DATA, OPEN, 2, "fo");
    send(&mut session, DATA, OPEN, 2, "ur!");
    assert!(response(&mut session, 2).0.starts_with("HTTP/1.1 413 "));
    let mut resets = |stream: u32, requests: &[(u8, u8, &str)]| {
        for (kind, flags, payload) in requests {
            send(&mut session, *kind, *flags, stream, payload);
        }
        loop {
            let frame = next(&mut session);
            if frame.kind == RESET {
                return assert_eq!((frame.stream, frame.payload[0]), (stream, 7), "{frame:?}");
            }
            assert!(frame.flags & END == 0, "{frame:?}");
        }
    };
    resets(3, &[(HEAD, END, "GET /stated HTTP/1.1\r\nHost: x\r\n\r\n")]);
    resets(4, &[(HEAD, END, "GET /streamed HTTP/1.1\r\nHost: x\r\n\r\n")]);
    get(&mut session, 5, "/four");
    assert_eq!(response(&mut session, 5).1, b"four");
    stop(agent);
}

#[test]
fn requests_that_must_not_be_forwarded_are_answered() {
    let gateway = ScriptedGateway::start();
    let (agent, mut session) = start(&gateway, echo);
    for (number, (head, status)) in [
        ("GET /a#b HTTP/1.1\r\nHost: x\r\n\r\n", "400"),
        ("GET http://evil/ HTTP/1.1\r\nHost: x\r\n\r\n", "400"),
        ("CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n", "501"),
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", "400"),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n", "400"),
    ]
    .into_iter()
    .enumerate()
    {
        let stream = number as u32 + 1;
        send(&mut session, HEAD, END, stream, head);
        let answer = response(&mut session, stream).0;
        assert_eq!(&answer[9..12], status, "{head}");
    }
    for (number, head) in ["nonsense\r\n\r\n", "GET / HTTP/1.1\r\nHost: x\r\n", ""].into_iter().enumerate() {
        let stream = number as u32 + 100;
        send(&mut session, HEAD, END, stream, head);
        let reset = next(&mut session);
        assert_eq!((reset.kind, reset.stream, reset.payload[0]), (RESET, stream, 6), "{head}");
    }
    stop(agent);
}

#[test]
fn a_preflight_that_hides_what_it_is_never_reaches_the_service() {
    let gateway = ScriptedGateway::start();
    let builder = builder(&gateway)
        .service(|_: Request| Ok(Response::new(Body::from("the service".to_owned()))))
        .cors("https://app.example".parse().unwrap(), CorsCredentials::Omit)
        .passwords("a:b".parse().unwrap(), []);
    let (agent, mut session) = start_with(&gateway, builder, "");
    // `Connection` removes what it names on the way to the service.
    let hidden = "Connection: access-control-request-method, origin\r\n";
    for (stream, connection) in [(2, ""), (4, hidden)] {
        let head = format!(
            "OPTIONS /secret HTTP/1.1\r\nHost: site.test\r\nOrigin: https://app.example\r\n\
             Access-Control-Request-Method: PUT\r\n{connection}\r\n"
        );
        send(&mut session, HEAD, END, stream, head);
        let (head, body) = response(&mut session, stream);
        assert!(head.starts_with("HTTP/1.1 204") && body.is_empty(), "{head}");
        assert!(head.contains("access-control-allow-origin: https://app.example"), "{head}");
    }
    stop(agent);
}

#[test]
fn a_refused_request_gets_the_whole_refusal_whatever_comes_of_its_body() {
    let gateway = ScriptedGateway::start();
    let rules = vec!["deny /x".parse::<Rule>().unwrap()];
    let (agent, mut session) = start_with(&gateway, builder(&gateway).service(echo).rules(rules), "");
    for stream in 1..=50 {
        send(&mut session, HEAD, OPEN, stream, "POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\n");
        send(&mut session, DATA, OPEN, stream, "ab");
        send(&mut session, DATA, END, stream, "cd");
        let (head, body) = response(&mut session, stream);
        assert!(head.starts_with("HTTP/1.1 403"), "{head}");
        assert!(String::from_utf8_lossy(&body).contains("filtered"));
    }
    send(&mut session, HEAD, END, 51, "HEAD /x HTTP/1.1\r\nHost: x\r\n\r\n");
    let head = next(&mut session);
    assert_eq!((head.kind, head.flags, head.stream), (HEAD, END, 51), "{head:?}");
    stop(agent);
}

#[test]
fn failures_as_responses_arrive_whole() {
    let gateway = ScriptedGateway::start();
    let fail = |request: Request| match request.uri().path() {
        "/large" => Ok(Response::new(Body::from(vec![0; 2000]))),
        _ => Err(Failure::new(FailureKind::Unreachable, "gone")),
    };
    let builder =
        builder(&gateway).service(fail).failure_reply(FailureReply::Response).max_streamed_body(1000);
    let (agent, mut session) = start_with(&gateway, builder, "");
    for stream in 1..=100 {
        let (path, code) =
            if stream % 2 == 0 { ("/", "unreachable") } else { ("/large", "response_too_large") };
        get(&mut session, stream, path);
        let (head, body) = response(&mut session, stream);
        assert!(head.starts_with("HTTP/1.1 502"), "{head}");
        assert!(String::from_utf8_lossy(&body).contains(code), "{path}");
    }
    stop(agent);
}

#[test]
fn what_breaks_the_protocol_ends_the_session() {
    let gateway = ScriptedGateway::start();
    let (agent, mut session) = start(&gateway, echo);
    send(&mut session, DATA, 0, 7, "of a stream that never was");
    assert_eq!(session.close_code(), 1002);
    drop(session);
    let mut session = gateway.accept();
    welcome(&mut session, ",\"window\":1");
    assert_eq!(session.close_code(), 1002);
    stop(agent);
}

#[test]
fn a_gateway_that_asks_before_its_welcome_is_served_with_envelopes() {
    let gateway = ScriptedGateway::start();
    let agent = builder(&gateway).service(echo).build().unwrap().spawn().unwrap();
    let mut session = gateway.accept();
    session.get("/envelope");
    assert_eq!(session.answer().text, "/envelope");
    welcome(&mut session, "");
    get(&mut session, 1, "/ignored");
    session.get("/another");
    assert_eq!(session.answer().text, "/another");
    stop(agent);
}

// ----------------------------------------------------------------------------------- ends

/// A service whose calls last until they are cancelled, and says when each began and ended.
fn lasting() -> (impl Service, Arc<Signal<&'static str>>) {
    let signal = Signal::new();
    let told = signal.clone();
    let service = move |request: Request| {
        if request.uri().path() != "/lasting" {
            return echo(request);
        }
        let (cancel, cancelled) = std::sync::mpsc::channel::<()>();
        let cancellation = request.extensions().get::<Cancellation>().unwrap();
        cancellation.on_cancel(move || drop(cancel));
        told.send("began");
        let _ = cancelled.recv();
        told.send("ended");
        Err(Failure::new(FailureKind::Internal, "cancelled"))
    };
    (service, signal)
}

/// An agent with one lasting call under way, on stream 1.
#[track_caller]
fn start_lasting(gateway: &ScriptedGateway) -> (RunningAgent, ScriptedSession, Arc<Signal<&'static str>>) {
    let (service, signal) = lasting();
    let (agent, mut session) = start(gateway, service);
    get(&mut session, 1, "/lasting");
    assert_eq!(signal.wait(), "began");
    (agent, session, signal)
}

#[test]
fn a_client_that_leaves_ends_its_request() {
    let gateway = ScriptedGateway::start();
    let (agent, mut session, signal) = start_lasting(&gateway);
    send(&mut session, RESET, 0, 1, "\x01the client left");
    assert_eq!(signal.wait(), "ended");
    // Nothing more is said about it.
    get(&mut session, 2, "/next");
    assert_eq!(response(&mut session, 2).1, b"/next");
    drop(session);
    let status = stop_and_count(agent);
    assert_eq!((status.served, status.cancelled, status.failed), (1, 1, 0));
}

#[test]
fn what_a_gateway_waited_for_in_vain_is_a_failure_of_the_server() {
    let gateway = ScriptedGateway::start();
    let asked = Signal::new();
    let is_asked = asked.clone();
    // It never answers.
    let site = serve(move |socket| {
        let mut reader = BufReader::new(socket);
        while read_request(&mut reader).is_some() {
            is_asked.send(());
        }
    });
    let breaker = BreakerConfig { failures: 2, open: Duration::from_secs(30) };
    let builder = builder(&gateway).local(format!("http://{site}").parse().unwrap()).breaker(breaker);
    let (agent, mut session) = start_with(&gateway, builder, "");
    // Whoever leaves says nothing of the server.
    for (stream, code) in [(1, 1), (2, 1), (3, 3), (4, 3)] {
        get(&mut session, stream, "/");
        asked.wait();
        send(&mut session, RESET, 0, stream, [code]);
    }
    let deadline = Instant::now() + LIMIT;
    while agent.handle().status().failed < 2 && Instant::now() < deadline {
        std::thread::yield_now();
    }
    get(&mut session, 5, "/");
    let reset = next(&mut session);
    assert_eq!((reset.kind, reset.stream, reset.payload[0]), (RESET, 5, 2));
    assert!(reset.text().contains("circuit open after 2 failures"), "{}", reset.text());
    drop(session);
    let status = stop_and_count(agent);
    assert_eq!((status.cancelled, status.failed), (2, 3));
}

#[test]
fn clients_that_leave_while_they_wait_are_counted_and_never_served() {
    let gateway = ScriptedGateway::start();
    let (service, signal) = lasting();
    let builder = builder(&gateway).service(service).max_in_flight(1);
    let (agent, mut session) = start_with(&gateway, builder, "");
    get(&mut session, 1, "/lasting");
    assert_eq!(signal.wait(), "began");
    for stream in 2..=4 {
        get(&mut session, stream, "/lasting");
        send(&mut session, RESET, 0, stream, "\x01the client left");
    }
    get(&mut session, 5, "/next");
    send(&mut session, RESET, 0, 1, "\x01the client left");
    assert_eq!(signal.wait(), "ended");
    assert_eq!(response(&mut session, 5).1, b"/next");
    drop(session);
    let status = stop_and_count(agent);
    assert_eq!((status.served, status.cancelled, status.failed, status.in_flight), (1, 4, 0, 0));
}

#[test]
fn an_answer_ends_the_reading_of_a_body_that_goes_on() {
    let gateway = ScriptedGateway::start();
    let ended = Signal::new();
    let ending = ended.clone();
    let service = move |request: Request| {
        let ending = ending.clone();
        let path = request.uri().path().to_owned();
        let mut body = request.into_body();
        let mut byte = [0];
        body.read_exact(&mut byte).unwrap();
        std::thread::spawn(move || {
            ending.send(body.read(&mut byte).is_err());
        });
        if path == "/fails" {
            return Err(Failure::new(FailureKind::Internal, "no"));
        }
        Ok(Response::new(Body::from(path.trim_start_matches('/'))))
    };
    let (agent, mut session) = start(&gateway, service);
    for (stream, path) in [(1, "/"), (2, "/body"), (3, "/fails")] {
        send(&mut session, HEAD, OPEN, stream, format!("POST {path} HTTP/1.1\r\nHost: x\r\n\r\n"));
        send(&mut session, DATA, OPEN, stream, "x");
        assert!(ended.wait(), "{path}");
    }
    drop(session);
    stop(agent);
}

#[test]
fn a_lost_session_ends_its_requests() {
    let gateway = ScriptedGateway::start();
    let (agent, session, signal) = start_lasting(&gateway);
    drop(session);
    assert_eq!(signal.wait(), "ended");
    stop(agent);
}

#[test]
fn lasting_streams_keep_nobody_out() {
    let gateway = ScriptedGateway::start();
    let (service, signal) = lasting();
    let (agent, mut session) = start_with(&gateway, builder(&gateway).service(service).workers(2), "");
    for stream in 1..=20 {
        get(&mut session, stream, "/lasting");
        assert_eq!(signal.wait(), "began");
    }
    get(&mut session, 100, "/short");
    assert_eq!(response(&mut session, 100).1, b"/short");
    drop(session);
    stop(agent);
}

#[test]
fn one_stream_too_many_is_refused() {
    let gateway = ScriptedGateway::start();
    let (service, signal) = lasting();
    let builder = builder(&gateway).service(service).workers(1).max_streams(2);
    let (agent, mut session) = start_with(&gateway, builder, "");
    for stream in [1, 2] {
        get(&mut session, stream, "/lasting");
        assert_eq!(signal.wait(), "began");
    }
    get(&mut session, 3, "/lasting");
    let reset = next(&mut session);
    assert_eq!((reset.kind, reset.stream, reset.payload[0]), (RESET, 3, 5));
    drop(session);
    stop(agent);
}

#[test]
fn an_agent_that_stops_says_so_and_finishes() {
    let gateway = ScriptedGateway::start();
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let began = Signal::new();
    let signal = began.clone();
    let service = move |request: Request| {
        signal.send(());
        let _ = wait.lock().unwrap().recv();
        echo(request)
    };
    let (agent, mut session) = start(&gateway, service);
    get(&mut session, 7, "/last");
    began.wait();
    agent.handle().shutdown(Duration::from_secs(60));
    expect(&mut session, GOAWAY, 0, u32::MAX, "the agent is stopping");
    // What the gateway sent before it heard of it, and answered the ping that comes behind, is served.
    get(&mut session, 8, "/crossing");
    began.wait();
    expect(&mut session, GOAWAY, 0, 8, "the agent is stopping");
    get(&mut session, 9, "/late");
    let reset = next(&mut session);
    assert_eq!((reset.kind, reset.stream, reset.payload[0]), (RESET, 9, 5));
    drop(go);
    let mut answers: Vec<_> =
        (0..4).map(|_| next(&mut session)).map(|frame| (frame.stream, frame.kind)).collect();
    answers.sort_unstable();
    assert_eq!(answers, [(7, HEAD), (7, DATA), (8, HEAD), (8, DATA)]);
    assert_eq!(session.close_code(), 1001);
    drop(session);
    agent.join().unwrap();
}

// ----------------------------------------------------------------------------------- several sessions

#[test]
fn a_session_that_is_to_end_before_its_welcome_serves_what_is_behind_it() {
    let gateway = ScriptedGateway::start();
    let service = |_: Request| Ok(Response::new(Body::from("served".to_owned())));
    let agent = builder(&gateway).service(service).build().unwrap().spawn().unwrap();
    let mut session = gateway.accept();
    agent.handle().shutdown(LIMIT);
    welcome(&mut session, "");
    get(&mut session, 2, "/");
    let mut frames = vec![next(&mut session), next(&mut session)];
    frames.sort_by_key(|frame| frame.kind);
    assert_eq!((frames[0].kind, frames[0].stream), (HEAD, 2), "{frames:?}");
    assert_eq!((frames[1].kind, frames[1].text().as_str()), (GOAWAY, "the agent is stopping"), "{frames:?}");
    drop(session);
    agent.join().unwrap();
}

#[test]
fn a_gateway_that_stops_is_left_for_another_session_first() {
    let gateway = ScriptedGateway::start();
    let (service, signal) = lasting();
    let (agent, mut old) = start(&gateway, service);
    get(&mut old, 1, "/lasting");
    assert_eq!(signal.wait(), "began");
    send(&mut old, GOAWAY, 0, 0, "restarting");
    // The new one is opened while the old one goes on.
    let mut new = gateway.accept();
    get(&mut old, 2, "/still-here");
    assert_eq!(response(&mut old, 2).1, b"/still-here");
    welcome(&mut new, "");
    expect(&mut old, GOAWAY, 0, u32::MAX, "the agent has opened another session");
    expect(&mut old, GOAWAY, 0, 2, "the agent has opened another session");
    get(&mut new, 1, "/new");
    assert_eq!(response(&mut new, 1).1, b"/new");
    // The old one lasts until its streams are over.
    send(&mut old, RESET, 0, 1, "\x01the client left");
    assert_eq!(signal.wait(), "ended");
    assert_eq!(old.close_code(), 1001);
    drop(old);
    get(&mut new, 2, "/newer");
    assert_eq!(response(&mut new, 2).1, b"/newer");
    assert_eq!(agent.handle().status().retries, 0);
    drop(new);
    stop(agent);
}

#[test]
fn a_gateway_that_takes_its_leave_at_once_meets_the_backoff() {
    let gateway = ScriptedGateway::start();
    let delay = Duration::from_millis(100);
    let limits = BackoffConfig { min: delay, max: delay, max_retries: 2 };
    let agent = builder(&gateway).service(echo).backoff(limits).build().unwrap().spawn().unwrap();
    let begun = Instant::now();
    let mut sessions = Vec::new();
    for _ in 0..3 {
        let mut session = gateway.accept();
        welcome(&mut session, "");
        send(&mut session, GOAWAY, OPEN, 0, "bye");
        sessions.push(session);
    }
    assert!(begun.elapsed() >= 2 * delay);
    // The last has no successor, and the tries are used up.
    let Err(RunError::GaveUp(why)) = agent.join() else { panic!("it gives up") };
    assert!(why.contains("goes away each time"), "{why}");
    drop(sessions);
}

#[test]
fn a_session_that_has_a_successor_is_not_dialled_again() {
    let gateway = ScriptedGateway::start();
    let (agent, mut old) = start(&gateway, echo);
    send(&mut old, GOAWAY, 0, 0, "restarting");
    let mut new = gateway.accept();
    // The old one is closed before the new one is open: the slot is the new one's all the same.
    old.0.close(Some(CloseFrame { code: 4000.into(), reason: "replaced".into() })).unwrap();
    assert_eq!(old.close_code(), 4000);
    drop(old);
    welcome(&mut new, "");
    get(&mut new, 1, "/new");
    assert_eq!(response(&mut new, 1).1, b"/new");
    drop(new);
    // Whoever comes next is the successor's successor, and there is one alone.
    let mut next = gateway.accept();
    welcome(&mut next, "");
    get(&mut next, 1, "/next");
    assert_eq!(response(&mut next, 1).1, b"/next");
    assert_eq!(agent.handle().status().retries, 1);
    drop(next);
    stop(agent);
}

#[test]
fn several_gateways_are_served_at_once_and_one_may_be_lost() {
    let gateways = [ScriptedGateway::start(), ScriptedGateway::start()];
    let [one, two] = &gateways;
    let agent = builder(one)
        .gateway(two.url().parse().unwrap())
        .sessions_per_gateway(2)
        .backoff(BackoffConfig {
            min: Duration::from_millis(20),
            max: Duration::from_millis(20),
            max_retries: 1,
        })
        .service(echo)
        .build()
        .unwrap()
        .spawn()
        .unwrap();
    let mut slots = Vec::new();
    let mut sessions: Vec<ScriptedSession> = [one, one, two, two]
        .into_iter()
        .map(|gateway| {
            let (mut session, handshake) = gateway.accept_with_handshake();
            slots.push((handshake["instance"].clone(), handshake["slot"].as_u64().unwrap()));
            welcome(&mut session, "");
            session
        })
        .collect();
    slots.sort_by_key(|(_, slot)| *slot);
    let numbers: Vec<u64> = slots.iter().map(|(_, slot)| *slot).collect();
    assert_eq!(numbers, [0, 1, 2, 3]);
    assert!(slots.iter().all(|(instance, _)| *instance == slots[0].0 && instance.is_string()));
    for session in &mut sessions {
        get(session, 1, "/hello");
        assert_eq!(response(session, 1).1, b"/hello");
    }
    assert_eq!(agent.handle().status().sessions, 4);
    // The first gateway is gone for good; its sessions give up, the others go on.
    let [one, _two] = gateways;
    drop(one);
    let mut others = sessions.split_off(2);
    drop(sessions);
    let deadline = Instant::now() + LIMIT;
    while agent.handle().status().retries < 4 && Instant::now() < deadline {
        std::thread::yield_now();
    }
    for session in &mut others {
        get(session, 2, "/again");
        assert_eq!(response(session, 2).1, b"/again");
    }
    assert_eq!(agent.handle().status().sessions, 2);
    drop(others);
    stop(agent);
}

#[test]
fn an_agent_that_is_hurried_does_not_wait() {
    let gateway = ScriptedGateway::start();
    let an_hour = Duration::from_secs(3600);
    let long = BackoffConfig { min: an_hour, max: an_hour, max_retries: 0 };
    let (agent, session) = start_with(&gateway, builder(&gateway).backoff(long).service(echo), "");
    drop(session);
    let (stopped, until) = (Signal::new(), Arc::new(std::sync::atomic::AtomicBool::new(false)));
    let (told, done, remote) = (stopped.clone(), until.clone(), agent.handle());
    // Again and again: it may not have begun to wait when it is told the first time.
    std::thread::spawn(move || {
        while !done.load(std::sync::atomic::Ordering::SeqCst) {
            remote.retry_now();
            std::thread::yield_now();
        }
        told.send(());
    });
    let mut session = gateway.accept();
    until.store(true, std::sync::atomic::Ordering::SeqCst);
    stopped.wait();
    welcome(&mut session, "");
    get(&mut session, 1, "/back");
    assert_eq!(response(&mut session, 1).1, b"/back");
    drop(session);
    stop(agent);
}
