//! Between agent and gateway: order of answers, limits, refusals, ends and reconnects. The gateway is played
//! by the test, the agent runs in this process with a service of the test's own.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use crate::support::{LIMIT, Program, ScriptedGateway, TUNNEL_ID};
use tungstenite::{Bytes, Message};
use tunnel_agent::{
    Agent, BackoffConfig, Body, Builder, ConnectionState, Correlation, Failure, FailureKind, Heartbeat,
    Request, Response, RunError, RunningAgent, Service,
};

const SHORT: Duration = Duration::from_millis(20);

/// An agent that comes back at once, and for ever.
fn builder(gateway: &ScriptedGateway) -> Builder {
    Agent::builder(TUNNEL_ID.parse().unwrap())
        .gateway(gateway.url().parse().unwrap())
        .backoff(BackoffConfig { min: SHORT, max: SHORT, max_retries: 0 })
}

fn start(builder: Builder) -> RunningAgent {
    builder.build().unwrap().spawn().unwrap()
}

fn stop(agent: RunningAgent) {
    agent.handle().shutdown(Duration::ZERO);
    agent.join().unwrap();
}

/// Answers with the path.
fn echo(request: Request) -> Result<Response, Failure> {
    Ok(Response::new(Body::from(request.uri().path())))
}

/// A service whose calls are answered when the test says so, by path.
#[derive(Default)]
struct Held(Mutex<Vec<(String, Sender<()>)>>, std::sync::Condvar);

impl Held {
    fn service(self: &Arc<Self>) -> impl Service {
        let held = self.clone();
        move |request: Request| {
            let (go, wait) = mpsc::channel();
            held.0.lock().unwrap().push((request.uri().path().to_owned(), go));
            held.1.notify_all();
            // Released, or given up with the test.
            let _ = wait.recv();
            echo(request)
        }
    }

    /// Waits until a call for this path runs, and lets it go on.
    #[track_caller]
    fn release(&self, path: &str) {
        drop(self.wait_for(path));
    }

    #[track_caller]
    fn wait_for(&self, path: &str) -> Sender<()> {
        let runs = |calls: &mut Vec<(String, Sender<()>)>| calls.iter().all(|(running, _)| running != path);
        let (mut calls, timeout) = self.1.wait_timeout_while(self.0.lock().unwrap(), LIMIT, runs).unwrap();
        assert!(!timeout.timed_out(), "no call for {path}");
        let index = calls.iter().position(|(running, _)| running == path).unwrap();
        calls.remove(index).1
    }
}

// --------------------------------------------------------------------------------------- answers and their order

#[test]
fn the_handshake_comes_at_once_and_requests_are_answered() {
    let gateway = ScriptedGateway::start();
    let agent = start(builder(&gateway).service(echo));
    let mut session = gateway.accept();
    session.send("550e8400-e29b-41d4-a716-446655440000");
    session.get("/hello?secret");
    let reply = session.answer();
    assert_eq!((reply.id, reply.status, reply.text.as_str()), (None, Some(200), "/hello"));
    assert_eq!(reply.json["status"], "success");
    drop(session);
    stop(agent);
}

#[test]
fn an_answer_of_the_agents_own_names_its_request_as_the_gateway_does() {
    let gateway = ScriptedGateway::start();
    let agent = start(builder(&gateway).service(echo));
    let mut session = gateway.accept();
    session.send("0c8f3d52-1d94-438c-a187-c210549d315a");
    session.request(r#"{"method":"CONNECT","path":"/"}"#);
    session.request(r#"{"id":17,"method":"CONNECT","path":"/"}"#);
    for expected in ["0c8f3d52-1", "0c8f3d52-17"] {
        let body: serde_json::Value = serde_json::from_str(&session.answer().text).unwrap();
        assert_eq!(body["request"], expected);
    }
    drop(session);
    stop(agent);
}

#[test]
fn a_gateway_of_part_1_alone_gets_texts_alone() {
    let gateway = ScriptedGateway::start();
    let agent = start(builder(&gateway).service(|request: Request| {
        let (kind, body) = match request.uri().path() {
            "/latin" => ("text/html; charset=iso-8859-1", &b"caf\xe9"[..]),
            "/text" => ("text/html; charset=iso-8859-1", &b"cafe"[..]),
            _ => ("image/png", &b"\x89PNG"[..]),
        };
        Ok(http::Response::builder().header("content-type", kind).body(Body::from(body.to_vec())).unwrap())
    }));
    let mut session = gateway.accept();
    session.get("/latin");
    let page = session.answer();
    assert_eq!((page.status, page.text.as_str()), (Some(200), "café"));
    assert_eq!(page.header("content-type"), Some("text/html; charset=UTF-8"));
    session.get("/text");
    assert_eq!(session.answer().header("content-type"), Some("text/html; charset=iso-8859-1"));
    session.get("/picture");
    let refused = session.answer();
    assert_eq!((refused.status, refused.header("x-tunnel-source")), (Some(502), Some("agent")));
    assert!(refused.text.contains("\"text_only_gateway\""), "{}", refused.text);
    // It knows part 2 after all.
    session.request(r#"{"id":1,"method":"GET","path":"/picture"}"#);
    assert_eq!((session.answer().status, session.get("/picture")), (Some(200), ()));
    assert_eq!(session.answer().json["data"]["body_encoding"], "base64");
    drop(session);
    stop(agent);
}

#[test]
fn answers_without_ids_keep_their_order_and_answers_with_ids_do_not_wait() {
    let gateway = ScriptedGateway::start();
    let held = Arc::new(Held::default());
    let agent = start(builder(&gateway).service(held.service()));
    let mut session = gateway.accept();
    for path in ["/1", "/2", "/3"] {
        session.get(path);
    }
    session.request(r#"{"id":"x","method":"GET","path":"/x"}"#);
    session.request(r#"{"id":5,"method":"GET","path":"/5"}"#);
    let all = ["/1", "/2", "/3", "/x", "/5"].map(|path| held.wait_for(path));
    let [first, second, third, x, five] = all;
    drop(third);
    drop(five);
    assert_eq!(session.answer().id, Some(5.into()));
    drop(x);
    assert_eq!(session.answer().id, Some("x".into()));
    drop(second);
    drop(first);
    assert_eq!([session.answer().text, session.answer().text, session.answer().text], ["/1", "/2", "/3"]);
    drop(session);
    stop(agent);
}

#[test]
fn every_request_however_broken_takes_one_place_in_the_order() {
    let gateway = ScriptedGateway::start();
    let held = Arc::new(Held::default());
    let agent = start(builder(&gateway).service(held.service()));
    let mut session = gateway.accept();
    session.get("/1");
    let first = held.wait_for("/1");
    session.request("5");
    session.request(r#"{"method":"GET","path":"/a#b"}"#);
    session.request(r#"{"method":"CONNECT","path":"/"}"#);
    session.send("{\"message_type\":\"unknown\"}");
    session.send("not an envelope");
    session.get("/2");
    held.release("/2");
    session.request(r#"{"id":7,"method":"GET","path":"nowhere"}"#);
    let numbered = session.answer();
    assert_eq!((numbered.id.clone(), numbered.status), (Some(7.into()), Some(400)));
    assert_eq!(numbered.header("x-tunnel-source"), Some("agent"));
    assert!(numbered.text.contains("\"code\":\"bad_request\""), "{}", numbered.text);
    drop(first);
    assert_eq!(session.answer().text, "/1");
    let statuses = [session.answer().status, session.answer().status, session.answer().status];
    assert_eq!(statuses, [Some(400), Some(400), Some(501)]);
    assert_eq!(session.answer().text, "/2");
    drop(session);
    stop(agent);
}

#[test]
fn latest_answers_only_the_newest_request() {
    let gateway = ScriptedGateway::start();
    let held = Arc::new(Held::default());
    let agent = start(builder(&gateway).service(held.service()).correlation(Correlation::Latest));
    let mut session = gateway.accept();
    session.get("/1");
    let first = held.wait_for("/1");
    session.get("/2");
    let second = held.wait_for("/2");
    session.request(r#"{"id":1,"method":"GET","path":"/x"}"#);
    drop(first);
    held.release("/x");
    assert_eq!(session.answer().id, Some(1.into()));
    drop(second);
    assert_eq!(session.answer().text, "/2");
    drop(session);
    stop(agent);
}

// --------------------------------------------------------------------------------------------- limits and refusals

#[test]
fn a_full_queue_is_answered_503_at_once_or_in_its_turn() {
    let gateway = ScriptedGateway::start();
    let held = Arc::new(Held::default());
    let agent = start(builder(&gateway).service(held.service()).workers(1).queue(1));
    let mut session = gateway.accept();
    session.get("/running");
    let running = held.wait_for("/running");
    session.get("/queued");
    session.get("/refused");
    session.request(r#"{"id":1,"method":"GET","path":"/x"}"#);
    let reply = session.answer();
    assert_eq!(
        (reply.id.clone(), reply.status, reply.header("retry-after")),
        (Some(1.into()), Some(503), Some("1"))
    );
    assert!(reply.text.contains("\"code\":\"queue_full\""));
    drop(running);
    held.release("/queued");
    assert_eq!([session.answer().text, session.answer().text], ["/running", "/queued"]);
    assert_eq!(session.answer().status, Some(503));
    assert_eq!(agent.handle().status().refused, 2);
    drop(session);
    stop(agent);
}

#[test]
fn requests_without_ids_are_bounded_also_while_they_are_held_back() {
    let gateway = ScriptedGateway::start();
    let held = Arc::new(Held::default());
    // The first is held; the others are answered, and held back behind it.
    let service = held.service();
    let mixed = move |request: Request| {
        if request.uri().path() == "/first" { service.call(request) } else { echo(request) }
    };
    let agent = start(builder(&gateway).service(mixed).workers(2).queue(2));
    let mut session = gateway.accept();
    session.get("/first");
    let first = held.wait_for("/first");
    for _ in 0..10 {
        session.get("/more");
    }
    // Refused by the reader itself: once its answer is here, all that came before has been looked at.
    session.request(r#"{"id":1,"method":"GET","path":"nowhere"}"#);
    assert_eq!(session.answer().status, Some(400));
    drop(first);
    let statuses: Vec<_> = (0..11).map(|_| session.answer().status.unwrap()).collect();
    assert_eq!(statuses[0], 200);
    // Of the ten at most three were taken on: workers and queue are four places.
    let refused = statuses.iter().filter(|status| **status == 503).count();
    assert!(refused >= 7, "{statuses:?}");
    drop(session);
    stop(agent);
}

#[test]
fn too_many_refused_requests_without_ids_end_the_session() {
    let gateway = ScriptedGateway::start();
    let held = Arc::new(Held::default());
    let service = held.service();
    let mixed = move |request: Request| {
        if request.uri().path() == "/first" { service.call(request) } else { echo(request) }
    };
    let agent = start(builder(&gateway).service(mixed).workers(1).queue(1));
    let mut session = gateway.accept();
    session.get("/first");
    let first = held.wait_for("/first");
    for _ in 0..4098 {
        session.get("/more");
    }
    assert_eq!(session.close_code(), 1013);
    let mut again = gateway.accept();
    drop(first);
    // What the old session left in the queue has to be cleared away first.
    loop {
        again.get("/x");
        let reply = again.answer();
        if reply.status == Some(200) {
            break assert_eq!(reply.text, "/x");
        }
    }
    drop(again);
    stop(agent);
}

#[test]
fn bodies_and_messages_have_their_limits() {
    let gateway = ScriptedGateway::start();
    let service = |request: Request| {
        let size: usize = request.uri().path()[1..].parse().unwrap();
        Ok(Response::new(Body::from("\u{1}".repeat(size))))
    };
    let agent = start(builder(&gateway).service(service).max_message(100 << 10).max_enveloped_body(20 << 10));
    let mut session = gateway.accept();
    session.request(&format!(r#"{{"method":"POST","path":"/0","body":"{}"}}"#, "x".repeat((20 << 10) + 1)));
    let reply = session.answer();
    assert_eq!((reply.status, reply.text.contains("body_too_large")), (Some(413), true));
    session.get("/100");
    assert_eq!(session.answer().status, Some(200));
    session.get("/20000");
    let reply = session.answer();
    assert_eq!(reply.status, None);
    assert!(reply.text.contains("does not fit into an envelope of 102400 bytes"), "{}", reply.text);
    session.get("/30000");
    assert!(session.answer().text.contains("larger than 20480 bytes"));
    session.send(&"x".repeat((100 << 10) + 1));
    assert_eq!(session.close_code(), 1009);
    drop(gateway.accept());
    drop(session);
    stop(agent);
}

#[test]
fn a_panicking_service_is_one_failed_answer() {
    let gateway = ScriptedGateway::start();
    let service = |request: Request| {
        assert_ne!(request.uri().path(), "/panic", "this is meant to panic");
        echo(request)
    };
    let agent = start(builder(&gateway).service(service).workers(1));
    let mut session = gateway.accept();
    session.get("/panic");
    session.get("/fine");
    let reply = session.answer();
    assert_eq!(reply.text, "Failed to forward request to local server: the service panicked");
    assert_eq!(session.answer().text, "/fine");
    assert_eq!((agent.handle().status().served, agent.handle().status().failed), (1, 1));
    drop(session);
    stop(agent);
}

#[test]
fn a_failing_service_is_an_error_with_the_id() {
    let gateway = ScriptedGateway::start();
    let service = |_: Request| Err(Failure::new(FailureKind::Internal, "out of paper"));
    let agent = start(builder(&gateway).service(service));
    let mut session = gateway.accept();
    session.request(r#"{"id":"a","method":"GET","path":"/"}"#);
    let reply = session.answer();
    assert_eq!(
        (reply.id, reply.text.as_str()),
        (Some("a".into()), "Failed to forward request to local server: out of paper")
    );
    drop(session);
    stop(agent);
}

#[test]
fn a_closure_cannot_send_hop_by_hop_headers_or_a_body_where_none_may_be() {
    let gateway = ScriptedGateway::start();
    let service = |request: Request| {
        assert!(!request.headers().contains_key("connection") && !request.headers().contains_key("x-hop"));
        let mut response = Response::new(Body::from("body"));
        response.headers_mut().insert("transfer-encoding", "chunked".parse().unwrap());
        if request.uri().path() == "/204" {
            *response.status_mut() = http::StatusCode::NO_CONTENT;
        }
        Ok(response)
    };
    let agent = start(builder(&gateway).service(service));
    let mut session = gateway.accept();
    session.request(r#"{"method":"GET","path":"/","headers":[["Connection","x-hop"],["X-Hop","1"]]}"#);
    let reply = session.answer();
    assert_eq!((reply.text.as_str(), reply.header("transfer-encoding")), ("body", None));
    session.get("/204");
    assert_eq!(session.answer().text, "");
    session.request(r#"{"method":"HEAD","path":"/"}"#);
    assert_eq!(session.answer().text, "");
    drop(session);
    stop(agent);
}

#[test]
fn what_has_no_end_or_is_no_final_response_is_an_error() {
    let gateway = ScriptedGateway::start();
    let service = |request: Request| {
        let mut response = Response::new(Body::from_reader(std::io::repeat(b'x'), None));
        match request.uri().path() {
            "/events" => {
                drop(response.headers_mut().insert("content-type", "text/event-stream; x".parse().unwrap()));
            }
            _ => *response.status_mut() = http::StatusCode::EARLY_HINTS,
        }
        Ok(response)
    };
    let agent = start(builder(&gateway).service(service));
    let mut session = gateway.accept();
    session.get("/events");
    session.get("/hints");
    assert!(session.answer().text.contains("server-sent events"));
    assert!(session.answer().text.contains("interim status 103"));
    drop(session);
    stop(agent);
}

#[test]
fn a_response_that_nobody_waits_for_any_more_frees_its_worker() {
    /// Says that it is read, and gives a byte each time the test allows it.
    struct Trickle(mpsc::Sender<()>, mpsc::Receiver<()>);
    impl Read for Trickle {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            let _ = self.0.send(());
            let _ = self.1.recv();
            buffer[0] = b'x';
            Ok(1)
        }
    }
    let gateway = ScriptedGateway::start();
    let (read, is_read) = mpsc::channel();
    let (more, allowed) = mpsc::channel();
    let trickle = Mutex::new(Some(Trickle(read, allowed)));
    let service = move |request: Request| match trickle.lock().unwrap().take() {
        Some(trickle) => Ok(Response::new(Body::from_reader(trickle, None))),
        None => echo(request),
    };
    let agent = start(builder(&gateway).service(service).workers(1));
    let mut first = gateway.accept();
    first.get("/endless");
    is_read.recv().unwrap();
    drop(first);
    let mut second = gateway.accept();
    second.get("/x");
    // Bytes come on; the one worker notices that their session is over.
    while more.send(()).is_ok() {
        std::thread::yield_now();
    }
    assert_eq!(second.answer().text, "/x");
    drop(second);
    stop(agent);
}

// ------------------------------------------------------------------------------------------------ heartbeat and ends

#[test]
fn pings_are_answered_and_sent() {
    let gateway = ScriptedGateway::start();
    let heartbeat = Heartbeat { ping_interval: SHORT, pong_timeout: LIMIT };
    let agent = start(builder(&gateway).service(echo).heartbeat(heartbeat));
    let mut session = gateway.accept();
    session.0.send(Message::Ping(Bytes::from_static(b"are you there"))).unwrap();
    let (mut pinged, mut ponged) = (false, false);
    while !(pinged && ponged) {
        match session.0.read().unwrap() {
            Message::Ping(_) => pinged = true,
            Message::Pong(payload) => ponged = payload == "are you there",
            other => panic!("{other:?}"),
        }
    }
    drop(session);
    stop(agent);
}

#[test]
fn a_silent_gateway_is_left_and_dialled_again() {
    let gateway = ScriptedGateway::start();
    let heartbeat = Heartbeat { ping_interval: SHORT, pong_timeout: SHORT };
    let agent = start(builder(&gateway).service(echo).heartbeat(heartbeat));
    let silent = gateway.accept();
    let silent_too = gateway.accept();
    drop((silent, silent_too));
    stop(agent);
}

#[test]
fn an_answer_never_reaches_another_session() {
    let gateway = ScriptedGateway::start();
    let held = Arc::new(Held::default());
    let agent = start(builder(&gateway).service(held.service()).workers(2));
    let mut first = gateway.accept();
    first.request(r#"{"id":1,"method":"GET","path":"/old"}"#);
    let old = held.wait_for("/old");
    drop(first);
    let mut second = gateway.accept();
    drop(old);
    second.request(r#"{"id":1,"method":"GET","path":"/new"}"#);
    held.release("/new");
    assert_eq!(second.answer().text, "/new");
    stop(agent);
}

#[test]
fn jobs_of_a_dead_session_are_not_forwarded() {
    let gateway = ScriptedGateway::start();
    let held = Arc::new(Held::default());
    let agent = start(builder(&gateway).service(held.service()).workers(1));
    let mut first = gateway.accept();
    first.get("/running");
    first.get("/waiting");
    let running = held.wait_for("/running");
    drop(first);
    let mut second = gateway.accept();
    second.get("/new");
    drop(running);
    // The only worker comes to the new request without having called the service for the one that waited.
    held.release("/new");
    assert_eq!(second.answer().text, "/new");
    assert!(held.0.lock().unwrap().is_empty());
    stop(agent);
}

#[test]
fn the_gateways_close_is_answered() {
    let gateway = ScriptedGateway::start();
    let agent = start(builder(&gateway).service(echo));
    let mut session = gateway.accept();
    session
        .0
        .close(Some(tungstenite::protocol::CloseFrame { code: 4001.into(), reason: "bye".into() }))
        .unwrap();
    assert_eq!(session.close_code(), 4001);
    drop(gateway.accept());
    drop(session);
    stop(agent);
}

#[test]
fn an_error_of_the_gateway_ends_the_session() {
    let gateway = ScriptedGateway::start();
    let agent = start(builder(&gateway).service(echo));
    let mut session = gateway.accept();
    session.send(r#"{"message_type":"error","payload":"no such tunnel"}"#);
    assert_eq!(session.close_code(), 1000);
    drop(gateway.accept());
    drop(session);
    stop(agent);
}

#[test]
fn a_reset_in_the_middle_of_a_frame_ends_the_session() {
    let gateway = ScriptedGateway::start();
    let agent = start(builder(&gateway).service(echo));
    let mut session = gateway.accept();
    session.0.get_mut().write_all(b"\x81\x7e\x03\xe8{\"message").unwrap();
    drop(session);
    drop(gateway.accept());
    stop(agent);
}

#[test]
fn a_violation_is_told_with_its_code_before_the_end() {
    for (bytes, code) in [(&b"\x81\x01\xff"[..], 1007), (b"\xc1\x00", 1002)] {
        let gateway = ScriptedGateway::start();
        let agent = start(builder(&gateway).service(echo));
        let mut session = gateway.accept();
        session.0.get_mut().write_all(bytes).unwrap();
        // More than the sockets hold is still under way when the close frame comes.
        let mut more = session.0.get_ref().try_clone().unwrap();
        let flood = std::thread::spawn(move || more.write_all(&vec![0; 8 << 20]).is_ok());
        assert_eq!(session.close_code(), code);
        drop(session);
        let _ = flood.join();
        drop(gateway.accept());
        stop(agent);
    }
}

#[test]
fn a_gateway_that_stops_reading_is_left() {
    let bad_request = r#"{"message_type":"request","payload":{"id":1,"method":"GET","path":"nowhere"}}"#;
    // Neither the pongs nor the refusals are read: more than the sockets and the agent's budget hold. The
    // agent goes on reading all the while, and ends the session when too much waits.
    for message in [Message::Ping(Bytes::from(vec![0; 125])), Message::text(bad_request)] {
        let gateway = ScriptedGateway::start();
        let heartbeat = Heartbeat { ping_interval: SHORT, pong_timeout: LIMIT };
        let agent = start(builder(&gateway).service(echo).heartbeat(heartbeat));
        let mut session = gateway.accept();
        while session.0.send(message.clone()).is_ok() {}
        drop(gateway.accept());
        stop(agent);
    }
}

#[test]
fn both_directions_full_do_not_lock_each_other() {
    let gateway = ScriptedGateway::start();
    let service = |request: Request| Ok(Response::new(request.into_body()));
    let agent = start(builder(&gateway).service(service));
    let session = gateway.accept();
    let body = "x".repeat(512 << 10);
    let mut reading = session.0;
    let mut writing = reading.get_ref().try_clone().unwrap();
    let writer = std::thread::spawn(move || {
        // All requests are written before the first answer has to be read.
        for id in 0..40 {
            let text = format!(
                "{{\"message_type\":\"request\",\"payload\":{{\"id\":{id},\"method\":\"POST\",\"path\":\"/\",\"body\":\"{body}\"}}}}"
            );
            let mut head = vec![0x81, 127];
            head.extend_from_slice(&(text.len() as u64).to_be_bytes());
            writing.write_all(&head).unwrap();
            writing.write_all(text.as_bytes()).unwrap();
        }
    });
    let mut ids: Vec<i64> = (0..40)
        .map(|_| {
            loop {
                if let Message::Text(text) = reading.read().unwrap() {
                    let reply = crate::support::Reply::read(&text);
                    assert!(reply.status == Some(200) || reply.status == Some(503));
                    break reply.id.unwrap().as_i64().unwrap();
                }
            }
        })
        .collect();
    writer.join().unwrap();
    ids.sort_unstable();
    assert_eq!(ids, (0..40).collect::<Vec<_>>());
    stop(agent);
}

// ---------------------------------------------------------------------------------------------------- dialling

/// Answers an upgrade with these bytes.
fn answer_upgrade(mut socket: TcpStream, response: &str) {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && socket.read(&mut byte).unwrap() == 1 {
        head.push(byte[0]);
    }
    socket.write_all(response.as_bytes()).unwrap();
}

#[test]
fn refused_for_good_is_not_tried_again() {
    for status in ["401 Unauthorized", "403 Forbidden"] {
        let gateway = ScriptedGateway::start();
        let agent = start(builder(&gateway).service(echo));
        answer_upgrade(gateway.accept_raw(), &format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n"));
        assert!(matches!(agent.join(), Err(RunError::Refused(_))));
    }
}

#[test]
fn the_token_goes_out_on_the_upgrade_alone() {
    let gateway = ScriptedGateway::start();
    let agent = start(builder(&gateway).service(echo).token(tunnel_agent::Token::new("s3cret").unwrap()));
    let mut socket = gateway.accept_raw();
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && socket.read(&mut byte).unwrap() == 1 {
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap();
    assert!(head.starts_with("GET /ws HTTP/1.1\r\n"), "{head}");
    assert!(head.to_ascii_lowercase().contains("\r\nauthorization: bearer s3cret\r\n"), "{head}");
    drop(socket);
    stop(agent);
}

#[test]
fn everything_else_is_tried_again_until_the_tries_are_used_up() {
    let gateway = ScriptedGateway::start();
    let backoff = BackoffConfig { min: SHORT, max: SHORT, max_retries: 4 };
    let agent = start(builder(&gateway).service(echo).backoff(backoff));
    answer_upgrade(gateway.accept_raw(), "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n");
    answer_upgrade(gateway.accept_raw(), "HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n");
    answer_upgrade(gateway.accept_raw(), "SSH-2.0-OpenSSH\r\n");
    drop(gateway.accept_raw());
    // A session that does not live counts as well.
    drop(gateway.accept());
    match agent.join() {
        Err(RunError::GaveUp(last)) => assert!(last.contains(" ended after "), "{last}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_gateway_that_ends_each_session_at_once_may_not_know_the_tunnel() {
    let gateway = ScriptedGateway::start();
    let options =
        ["--tunnel-id", TUNNEL_ID, "--gateway", &gateway.url(), "--max-retries", "1", "--backoff-min", "1ms"];
    let mut agent = Program::agent(&options);
    drop(gateway.accept());
    agent.wait_for("trying again in ");
    assert!(agent.log.last().unwrap().contains("check --tunnel-id"), "{:?}", agent.log);
    drop(gateway.accept());
    assert_eq!(agent.wait().code(), Some(1));
    let log = agent.log.join("\n");
    assert!(log.contains("no tries left; a gateway that") && log.contains("; with --max-retries 0"), "{log}");
}

#[test]
fn a_gateway_that_never_answers_the_upgrade_times_out() {
    let gateway = ScriptedGateway::start();
    let timeouts = tunnel_agent::Timeouts { connect: SHORT, ..tunnel_agent::Timeouts::default() };
    let agent = start(builder(&gateway).service(echo).timeouts(timeouts));
    let first = gateway.accept_raw();
    let second = gateway.accept_raw();
    drop((first, second));
    stop(agent);
}

// ---------------------------------------------------------------------------------------------------- shutdown

#[test]
fn a_drain_refuses_new_requests_finishes_the_others_and_closes() {
    let gateway = ScriptedGateway::start();
    let held = Arc::new(Held::default());
    let agent = start(builder(&gateway).service(held.service()));
    let mut session = gateway.accept();
    session.get("/running");
    let running = held.wait_for("/running");
    assert!(matches!(agent.handle().status().connection, ConnectionState::Connected(_)));
    assert_eq!(agent.handle().status().in_flight, 1);
    agent.handle().shutdown(LIMIT);
    session.request(r#"{"id":1,"method":"GET","path":"/late"}"#);
    let late = session.answer();
    assert_eq!((late.status, late.text.contains("\"code\":\"draining\"")), (Some(503), true));
    drop(running);
    assert_eq!(session.answer().text, "/running");
    assert_eq!(session.close_code(), 1001);
    agent.join().unwrap();
}

#[test]
fn a_shutdown_does_not_wait_for_the_backoff() {
    let gateway = ScriptedGateway::start();
    let backoff = BackoffConfig { min: LIMIT, max: LIMIT, max_retries: 0 };
    let agent = start(builder(&gateway).service(echo).backoff(backoff));
    drop(gateway.accept_raw());
    let started = std::time::Instant::now();
    stop(agent);
    assert!(started.elapsed() < LIMIT / 2);
}

#[test]
fn a_second_shutdown_skips_the_drain() {
    let gateway = ScriptedGateway::start();
    let held = Arc::new(Held::default());
    let agent = start(builder(&gateway).service(held.service()));
    let mut session = gateway.accept();
    session.get("/running");
    let running = held.wait_for("/running");
    agent.handle().shutdown(LIMIT);
    agent.handle().shutdown(Duration::ZERO);
    assert_eq!(session.close_code(), 1001);
    drop(running);
    agent.join().unwrap();
}

#[test]
fn a_drain_does_not_wait_for_a_gateway_that_reads_slowly_or_not_at_all() {
    let gateway = ScriptedGateway::start();
    let service = |_: Request| Ok(Response::new(Body::from("x".repeat(8 << 20))));
    let agent = start(builder(&gateway).service(service));
    let mut session = gateway.accept();
    session.get("/large");
    // It is being written, and nobody reads it.
    while agent.handle().status().served == 0 {
        std::thread::yield_now();
    }
    let started = std::time::Instant::now();
    agent.handle().shutdown(Duration::ZERO);
    agent.join().unwrap();
    assert!(started.elapsed() < LIMIT / 6, "{:?}", started.elapsed());
    drop(session);
}

#[test]
fn several_agents_live_in_one_process() {
    let gateways = [ScriptedGateway::start(), ScriptedGateway::start()];
    let handles: Vec<_> = gateways.iter().map(|gateway| start(builder(gateway).service(echo))).collect();
    let mut sessions: Vec<_> = gateways.iter().map(ScriptedGateway::accept).collect();
    for (number, session) in sessions.iter_mut().enumerate() {
        session.get(&format!("/{number}"));
        assert_eq!(session.answer().text, format!("/{number}"));
    }
    drop(sessions);
    handles.into_iter().for_each(stop);
}
