//! What visitors see of mux/2: the real programs over loopback, with bodies that stream, upgrades, and ends.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use crate::support::{
    Program, Signal, TUNNEL_ID, get, http, ok, page_websocket, read_head, read_request, serve, serve_http,
    split, visit,
};
use tungstenite::Message;

/// Gateway and agent, connected.
fn start(site: SocketAddr, gateway_options: &[&str]) -> (Program, SocketAddr, Program) {
    let (mut gateway, address) = Program::gateway(gateway_options);
    let agent = start_agent(&[address], site);
    gateway.wait_for("agent agent_550e…_prod connected");
    (gateway, address, agent)
}

fn start_agent(gateways: &[SocketAddr], site: SocketAddr) -> Program {
    let site = format!("http://{site}");
    let urls: Vec<String> = gateways.iter().map(|address| format!("ws://{address}")).collect();
    let mut arguments = vec!["--tunnel-id", TUNNEL_ID, "--local", &site, "--backoff-min", "50ms"];
    urls.iter().for_each(|url| arguments.extend(["--gateway", url]));
    Program::agent(&arguments)
}

/// The head of a response of stated length, whose body is read, too.
#[track_caller]
fn read_answer(reader: &mut impl BufRead) -> String {
    let head = read_head(reader);
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).expect("a length");
    let mut body = vec![0; length.parse().expect("a number")];
    reader.read_exact(&mut body).expect("the body");
    head
}

/// One chunk of a chunked body; empty for the last.
#[track_caller]
fn read_chunk(reader: &mut impl BufRead) -> Vec<u8> {
    let mut line = String::new();
    reader.read_line(&mut line).expect("a chunk");
    let mut chunk = vec![0; usize::from_str_radix(line.trim(), 16).expect("a chunk's size") + 2];
    reader.read_exact(&mut chunk).expect("the rest of the chunk");
    assert!(chunk.ends_with(b"\r\n"));
    chunk.truncate(chunk.len() - 2);
    chunk
}

/// Bytes that differ from place to place.
fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at ^ (at >> 8) ^ (at >> 16)) as u8).collect()
}

// ------------------------------------------------------------------------------------------- bodies

#[test]
fn large_bodies_pass_both_ways_unchanged() {
    const LENGTH: usize = 5_000_001;
    // Answers with what it receives.
    let site = serve_http(|request| {
        let length = request.body.len();
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n");
        [head.as_bytes(), &request.body].concat()
    });
    let (_gateway, address, _agent) = start(site, &["--max-body", "1KiB"]);
    let body = pattern(LENGTH);
    let (mut socket, mut reader) =
        visit(address, &format!("PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: {LENGTH}\r\n\r\n"));
    let sent = body.clone();
    let sender = thread::spawn(move || socket.write_all(&sent).map(|()| socket).unwrap());
    let head = read_head(&mut reader);
    assert!(head.contains(&format!("content-length: {LENGTH}\r\n")), "{head}");
    let mut received = vec![0; LENGTH];
    reader.read_exact(&mut received).unwrap();
    assert!(received == body);
    // The connection can be used again.
    let mut socket = sender.join().unwrap();
    socket.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    assert!(read_head(&mut reader).starts_with("http/1.1 200 "));
}

#[test]
fn events_arrive_one_by_one_as_they_are_written() {
    let next = Signal::new();
    let waiting = next.clone();
    let site = serve(move |mut socket| {
        read_request(&mut BufReader::new(socket.try_clone().unwrap()));
        let _ = socket.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n");
        for number in 0..3 {
            waiting.wait();
            let _ = socket.write_all(format!("data: {number}\n\n").as_bytes());
        }
    });
    let (_gateway, address, _agent) = start(site, &[]);
    let (_socket, mut reader) = visit(address, "GET /events HTTP/1.1\r\nHost: x\r\n\r\n");
    let head = read_head(&mut reader);
    assert!(
        head.contains("\r\ntransfer-encoding: chunked\r\n") && !head.contains("content-length"),
        "{head}"
    );
    for number in 0..3 {
        next.send(());
        assert_eq!(read_chunk(&mut reader), format!("data: {number}\n\n").as_bytes());
    }
    assert_eq!(read_chunk(&mut reader), b"");
}

#[test]
fn an_upload_arrives_piece_by_piece_as_it_is_sent() {
    let got = Signal::new();
    let signal = got.clone();
    let site = serve(move |socket| {
        let mut reader = BufReader::new(socket.try_clone().unwrap());
        let mut socket = socket;
        signal.send(read_head(&mut reader));
        loop {
            let chunk = read_chunk(&mut reader);
            signal.send(String::from_utf8(chunk.clone()).unwrap());
            if chunk.is_empty() {
                return drop(socket.write_all(&ok("thanks")));
            }
        }
    });
    let (_gateway, address, _agent) = start(site, &[]);
    let head = "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n";
    let (mut socket, mut reader) = visit(address, head);
    assert_eq!(read_head(&mut reader), "http/1.1 100 continue\r\n\r\n");
    let head = got.wait();
    assert!(head.contains("\r\ntransfer-encoding: chunked\r\n") && !head.contains("expect"), "{head}");
    for piece in ["one", "two", "three"] {
        write!(socket, "{:x}\r\n{piece}\r\n", piece.len()).unwrap();
        assert_eq!(got.wait(), piece);
    }
    socket.write_all(b"0\r\n\r\n").unwrap();
    assert_eq!(got.wait(), "");
    assert!(read_head(&mut reader).starts_with("http/1.1 200 "));
}

#[test]
fn a_small_body_goes_with_its_length_however_it_was_framed() {
    let site = serve_http(|request| {
        ok(&format!(
            "{} {}",
            request.header("content-length").unwrap(),
            String::from_utf8_lossy(&request.body)
        ))
    });
    let (_gateway, address, _agent) = start(site, &[]);
    for request in [
        &b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n"[..],
        b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello",
        b"POST / HTTP/1.0\r\nContent-Length: 5\r\n\r\nhello",
    ] {
        assert_eq!(split(&http(address, request)), (200, "5 hello".to_owned()));
    }
}

#[test]
fn a_body_without_a_length_ends_with_the_connection_for_http_1_0() {
    let site = serve(|mut socket| {
        read_request(&mut BufReader::new(socket.try_clone().unwrap()));
        let _ = socket.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n");
        // Its end comes later, so that the gateway cannot know the length.
        let _ = socket.read(&mut [0]);
        let _ = socket.write_all(b"0\r\n\r\n");
    });
    let (_gateway, address, _agent) = start(site, &[]);
    let (_socket, mut reader) = visit(address, "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    let head = read_head(&mut reader);
    assert!(!head.contains("transfer-encoding") && head.contains("connection: close"), "{head}");
    let mut hello = [0; 5];
    reader.read_exact(&mut hello).unwrap();
    assert_eq!(&hello, b"hello");
}

#[test]
fn what_the_local_server_cuts_never_looks_whole() {
    for head in ["Content-Length: 10\r\n", "Transfer-Encoding: chunked\r\n"] {
        let (sent, go_on) = (Signal::new(), Signal::new());
        let (told, waiting) = (sent.clone(), go_on.clone());
        let site = serve(move |mut socket| {
            read_request(&mut BufReader::new(socket.try_clone().unwrap()));
            let _ = write!(socket, "HTTP/1.1 200 OK\r\n{head}\r\n5\r\nhello");
            told.send(());
            waiting.wait();
        });
        let (_gateway, address, _agent) = start(site, &[]);
        for version in ["1.1", "1.0"] {
            let request = format!("GET / HTTP/{version}\r\nHost: x\r\n\r\n");
            let (_socket, mut reader) = visit(address, &request);
            sent.wait();
            let head = read_head(&mut reader);
            assert!(head.starts_with("http/1.1 200 "), "{head}");
            go_on.send(());
            let mut body = Vec::new();
            let ended = reader.read_to_end(&mut body);
            let is_cut = ended.is_err() || !body.ends_with(b"0\r\n\r\n");
            // Where the end of the connection is the end of the body, only a reset tells.
            let must_be_reset = !head.contains("content-length") && !head.contains("chunked");
            assert!(is_cut && (ended.is_err() || !must_be_reset), "{head}: {body:?}");
        }
    }
}

#[test]
fn a_server_that_answers_before_it_has_read_everything_is_heard() {
    let site = serve(|mut socket| {
        let _ = socket.read(&mut [0; 100]);
        let _ = socket.write_all(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\n\r\nbig");
        let _ = socket.read_to_end(&mut Vec::new());
    });
    let (_gateway, address, _agent) = start(site, &[]);
    let (mut socket, mut reader) =
        visit(address, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9999999\r\n\r\n");
    let sender = thread::spawn(move || while socket.write_all(&[b'x'; 10_000]).is_ok() {});
    let head = read_head(&mut reader);
    assert!(head.starts_with("http/1.1 413 ") && head.contains("connection: close"), "{head}");
    let mut body = [0; 3];
    reader.read_exact(&mut body).unwrap();
    assert_eq!(&body, b"big");
    drop(reader);
    sender.join().unwrap();
}

#[test]
fn a_body_that_cannot_be_read_is_refused_and_the_local_request_broken_off() {
    let (got, broken) = (Signal::new(), Signal::new());
    let (getting, breaking) = (got.clone(), broken.clone());
    let site = serve(move |socket| {
        let mut reader = BufReader::new(socket);
        read_head(&mut reader);
        getting.send(read_chunk(&mut reader));
        let mut rest = Vec::new();
        let _ = reader.read_to_end(&mut rest);
        breaking.send(rest);
    });
    let (_gateway, address, _agent) = start(site, &[]);
    let (mut socket, mut reader) =
        visit(address, "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n");
    assert_eq!(got.wait(), b"one");
    socket.write_all(b"nonsense\r\n").unwrap();
    assert!(read_head(&mut reader).starts_with("http/1.1 400 "));
    assert_eq!(broken.wait(), b"");
}

// ------------------------------------------------------------------------------------------- ends

#[test]
fn a_visitor_that_leaves_ends_the_local_request() {
    for begins in [false, true] {
        let (reached, left) = (Signal::new(), Signal::new());
        let (reaching, leaving) = (reached.clone(), left.clone());
        let site = serve(move |mut socket| {
            read_request(&mut BufReader::new(socket.try_clone().unwrap()));
            if begins {
                let _ = socket.write_all(b"HTTP/1.1 200 OK\r\n\r\n");
            }
            reaching.send(());
            let _ = socket.read_to_end(&mut Vec::new());
            leaving.send(());
        });
        let (_gateway, address, mut agent) = start(site, &[]);
        let visitor = visit(address, "GET /waits HTTP/1.1\r\nHost: x\r\n\r\n");
        reached.wait();
        drop(visitor);
        left.wait();
        agent.signal("TERM");
        assert_eq!(agent.wait().code(), Some(0));
        assert!(
            !agent.log.iter().any(|line| line.contains("WARN") || line.contains("ERROR")),
            "{:?}",
            agent.log
        );
    }
}

#[test]
fn visitors_behind_an_agent_that_dies_are_told_at_once() {
    let reached = Signal::new();
    let signal = reached.clone();
    let site = serve(move |mut socket| {
        let request = read_request(&mut BufReader::new(socket.try_clone().unwrap())).unwrap();
        if request.head.starts_with("GET /begun") {
            let _ = socket.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf ");
        }
        signal.send(());
        let _ = socket.read_to_end(&mut Vec::new());
    });
    let (_gateway, address, mut agent) = start(site, &[]);
    let (_waiting, mut waits) = visit(address, "GET /waits HTTP/1.1\r\nHost: x\r\n\r\n");
    let (_begun, mut begun) = visit(address, "GET /begun HTTP/1.1\r\nHost: x\r\n\r\n");
    assert!(read_head(&mut begun).starts_with("http/1.1 200 "));
    reached.wait();
    reached.wait();
    agent.signal("KILL");
    agent.wait();
    assert!(read_head(&mut waits).starts_with("http/1.1 502 "));
    let mut half = Vec::new();
    let _ = begun.read_to_end(&mut half);
    assert!(half.len() < 10);
}

#[test]
fn a_visitor_that_does_not_read_holds_up_nobody_else() {
    let site = serve(|mut socket| {
        let request = read_request(&mut BufReader::new(socket.try_clone().unwrap())).unwrap();
        if request.head.starts_with("GET /endless") {
            let _ = socket.write_all(b"HTTP/1.1 200 OK\r\n\r\n");
            while socket.write_all(&[b'x'; 10_000]).is_ok() {}
        } else {
            let _ = socket.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi");
        }
    });
    let (_gateway, address, _agent) = start(site, &[]);
    let mut stuck: Vec<_> =
        (0..4).map(|_| visit(address, "GET /endless HTTP/1.1\r\nHost: x\r\n\r\n")).collect();
    for (_, reader) in &mut stuck {
        read_head(reader);
    }
    for _ in 0..20 {
        assert_eq!(get(address, "/short"), (200, "hi".to_owned()));
    }
}

// ------------------------------------------------------------------------------------------- upgrades

#[test]
fn websockets_pass_with_their_subprotocols() {
    let site = serve(|socket| {
        #[allow(clippy::result_large_err)] // tungstenite's own type.
        let callback = |request: &http::Request<()>, mut response: http::Response<()>| {
            assert_eq!(request.uri(), "/app/key?protocol=7");
            assert_eq!(request.headers()["origin"], "http://site.test");
            let wanted = request.headers()["sec-websocket-protocol"].clone();
            response.headers_mut().insert("sec-websocket-protocol", wanted);
            Ok(response)
        };
        let mut socket = tungstenite::accept_hdr(socket, callback).unwrap();
        while let Ok(message) = socket.read() {
            if message.is_text() || message.is_binary() {
                let _ = socket.send(message);
            }
        }
    });
    let (_gateway, address, _agent) = start(site, &[]);
    let fields = [("connection", "keep-alive, Upgrade"), ("sec-websocket-protocol", "vite-hmr")];
    let stream = TcpStream::connect(address).unwrap();
    let url = format!("ws://{address}/app/key?protocol=7");
    let (mut socket, response) = page_websocket(&url, stream, &fields);
    assert_eq!(response.headers()["sec-websocket-protocol"], "vite-hmr");
    for message in [Message::text("hello"), Message::binary(pattern(300_000))] {
        socket.send(message.clone()).unwrap();
        assert_eq!(socket.read().unwrap(), message);
    }
    socket.close(None).unwrap();
    while socket.read().is_ok() {}
}

#[test]
fn an_upgrade_ends_in_halves() {
    let site = serve(|socket| {
        let mut reader = BufReader::new(socket.try_clone().unwrap());
        let mut socket = socket;
        read_request(&mut reader);
        let _ = socket
            .write_all(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: chat\r\n\r\n");
        let mut said = String::new();
        let _ = reader.read_to_string(&mut said);
        let _ = socket.write_all(said.to_uppercase().as_bytes());
    });
    let (_gateway, address, _agent) = start(site, &[]);
    let (mut socket, mut reader) =
        visit(address, "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: chat\r\n\r\n");
    let head = read_head(&mut reader);
    assert!(head.starts_with("http/1.1 101 ") && head.contains("\r\nupgrade: chat\r\n"), "{head}");
    socket.write_all(b"one ").unwrap();
    socket.write_all(b"two").unwrap();
    socket.shutdown(std::net::Shutdown::Write).unwrap();
    let mut answer = String::new();
    reader.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "ONE TWO");
}

#[test]
fn http2_and_upgrades_with_a_body_are_ordinary_requests() {
    let site = serve_http(|request| ok(&format!("{:?}", request.header("upgrade"))));
    let (_gateway, address, _agent) = start(site, &[]);
    for head in [
        "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings, close\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, close\r\nUpgrade: websocket, h2c\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nUpgrade: chat\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, close\r\nUpgrade: chat\r\nContent-Length: 1\r\n\r\nx",
        "POST / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, close\r\nUpgrade: chat\r\n\r\n",
        "GET / HTTP/1.0\r\nConnection: Upgrade\r\nUpgrade: chat\r\n\r\n",
    ] {
        assert_eq!(split(&http(address, head.as_bytes())), (200, "None".to_owned()), "{head}");
    }
}

// ------------------------------------------------------------------------------------------- stopping

#[test]
fn a_gateway_that_stops_finishes_what_runs_and_takes_nobody_new() {
    let (reached, release) = (Signal::new(), Signal::new());
    let (reaching, waiting) = (reached.clone(), release.clone());
    let site = serve_http(move |_| {
        reaching.send(());
        waiting.wait();
        ok("finished")
    });
    let (mut gateway, address, mut agent) = start(site, &["--drain", "50s", "--drain-delay", "0s"]);
    let (mut idling, mut idle) = visit(address, "GET /health HTTP/1.1\r\nHost: x\r\n\r\n");
    assert!(!read_answer(&mut idle).contains("connection: close"));
    let (_socket, mut reader) = visit(address, "GET /held HTTP/1.1\r\nHost: x\r\n\r\n");
    reached.wait();
    gateway.signal("TERM");
    gateway.wait_for("stopping");
    // Whoever waits may ask once more, and only then do agents hear of it.
    idling.write_all(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    assert!(read_answer(&mut idle).contains("connection: close"));
    assert_eq!(idle.read_to_end(&mut Vec::new()).unwrap(), 0);
    agent.wait_for("goes away");
    assert!(TcpStream::connect(address).is_err());
    release.send(());
    assert!(read_head(&mut reader).starts_with("http/1.1 200 "));
    let mut body = Vec::new();
    reader.read_to_end(&mut body).unwrap();
    assert_eq!(body, b"finished");
    assert_eq!(gateway.wait().code(), Some(0));
}

/// Asks as a balancer does: it goes to the other gateway when one takes no connections, or says that it has no
/// agent yet (503, for which nothing was processed). Everything else has to be the answer. A connection that the
/// system took just before the gateway stopped taking any is reset without a byte.
#[track_caller]
fn ask_either(addresses: [SocketAddr; 2]) {
    for address in addresses {
        let Ok(mut socket) = TcpStream::connect(address) else { continue };
        let request = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        let mut response = String::new();
        let read = socket.write_all(request).and_then(|()| socket.read_to_string(&mut response));
        if response.is_empty() && read.is_err() {
            continue;
        }
        if !response.contains("\"no_agent\"") {
            assert!(response.starts_with("HTTP/1.1 200 "), "{read:?} {response:?}");
            return;
        }
    }
    panic!("neither of the gateways takes requests");
}

#[test]
fn either_of_two_gateways_is_restarted_under_load_without_a_failed_request() {
    let site = serve_http(|_| ok("x"));
    let mut gateways: Vec<_> = (0..2).map(|_| Program::gateway(&["--drain-delay", "0s"])).collect();
    let addresses = [gateways[0].1, gateways[1].1];
    let _agent = start_agent(&addresses, site);
    for (gateway, _) in &mut gateways {
        gateway.wait_for("agent agent_550e…_prod connected");
    }
    let (stop, served) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let visitors: Vec<_> = (0..4)
        .map(|number| {
            let (stop, served) = (stop.clone(), served.clone());
            thread::spawn(move || {
                let mut turn: usize = number;
                while !stop.load(Ordering::SeqCst) {
                    turn += 1;
                    ask_either([addresses[turn % 2], addresses[(turn + 1) % 2]]);
                    served.fetch_add(1, Ordering::SeqCst);
                }
            })
        })
        .collect();
    let more = |visitors: &[thread::JoinHandle<()>]| {
        let enough = served.load(Ordering::SeqCst) + 50;
        while served.load(Ordering::SeqCst) < enough
            && !visitors.iter().any(std::thread::JoinHandle::is_finished)
        {
            thread::yield_now();
        }
    };
    for (gateway, address) in &mut gateways {
        more(&visitors);
        gateway.signal("TERM");
        assert_eq!(gateway.wait().code(), Some(0));
        more(&visitors);
        *gateway = Program::start(
            env!("CARGO_BIN_EXE_gateway"),
            &["--listen", &address.to_string(), "--drain-delay", "0s"],
            &[],
        );
        gateway.wait_for("agent agent_550e…_prod connected");
    }
    more(&visitors);
    stop.store(true, Ordering::SeqCst);
    visitors.into_iter().for_each(|visitor| visitor.join().unwrap());
}

#[test]
fn a_connection_is_kept_behind_an_upload_however_fast_the_answer_is() {
    let site = serve_http(|_| ok("thanks"));
    let (_gateway, address, _agent) = start(site, &[]);
    let (mut socket, mut reader) = visit(address, "GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    assert!(read_head(&mut reader).starts_with("http/1.1 200 "));
    reader.read_exact(&mut [0; 6]).unwrap();
    for _ in 0..300 {
        socket.write_all(b"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 70000\r\n\r\n").unwrap();
        socket.write_all(&[b'x'; 70_000]).unwrap();
        let head = read_head(&mut reader);
        assert!(head.starts_with("http/1.1 200 ") && !head.contains("connection: close"), "{head}");
        reader.read_exact(&mut [0; 6]).unwrap();
    }
}
