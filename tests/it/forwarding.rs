//! Towards the local server: what it is sent, what becomes of its answer, and of servers that misbehave.

use std::io::{BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::{LIMIT, Signal, ok, read_request, serve, serve_http};
use http::{HeaderValue, Method};
use tunnel_agent::{Body, Cancellation, Failure, FailureKind, Origin, Request, Response, Service, Timeouts};

const SHORT: Duration = Duration::from_millis(200);

fn origin(address: SocketAddr) -> Origin {
    origin_at(&format!("http://{address}"), Timeouts::default())
}

fn origin_at(url: &str, timeouts: Timeouts) -> Origin {
    Origin::new(url.parse().unwrap(), None, None, timeouts)
}

fn request(method: &str, path: &str, headers: &[(&'static str, &str)], body: impl Into<Body>) -> Request {
    let mut request = Request::new(body.into());
    *request.method_mut() = method.parse::<Method>().unwrap();
    *request.uri_mut() = path.parse().unwrap();
    for (name, value) in headers {
        request.headers_mut().append(*name, HeaderValue::from_str(value).unwrap());
    }
    request
}

fn get(path: &str) -> Request {
    request("GET", path, &[], Body::empty())
}

fn read(response: Result<Response, Failure>) -> Result<String, Failure> {
    let body = response?.into_body().into_bytes(1 << 20)?;
    Ok(String::from_utf8(body).unwrap())
}

/// A server that answers each connection's first request with these bytes, and closes.
fn serve_bytes(bytes: &[u8]) -> SocketAddr {
    let bytes = bytes.to_vec();
    serve(move |mut socket| {
        let _ = read_request(&mut BufReader::new(socket.try_clone().unwrap()));
        let _ = socket.write_all(&bytes);
    })
}

// ------------------------------------------------------------------------------------------- what it is sent

/// Sends a request to a server that answers with what it received.
#[track_caller]
fn check_sent(base: &str, request: Request, expected: &str) {
    let address =
        serve_http(|received| ok(&format!("{}{}", received.head, String::from_utf8_lossy(&received.body))));
    let origin = origin_at(&format!("http://{address}{base}"), Timeouts::default());
    let sent = read(origin.call(request)).unwrap();
    assert_eq!(sent, expected.replace('\n', "\r\n").replace("LOCAL", &address.to_string()));
}

#[test]
fn nothing_is_added_but_the_host() {
    check_sent("", get("/a?b=c"), "GET /a?b=c HTTP/1.1\nhost: LOCAL\n\n");
    check_sent("/app", get("/a?b=c"), "GET /app/a?b=c HTTP/1.1\nhost: LOCAL\n\n");
}

#[test]
fn the_host_header_is_the_requests_own() {
    let own = request("GET", "/", &[("host", "example.org:81")], Body::empty());
    check_sent("", own, "GET / HTTP/1.1\nhost: example.org:81\n\n");
}

#[test]
fn host_header_overrides_the_requests_own() {
    let address = serve_http(|received| ok(received.header("host").unwrap()));
    let host = Some(HeaderValue::from_static("site.test"));
    let origin = Origin::new(format!("http://{address}").parse().unwrap(), host, None, Timeouts::default());
    let own = request("GET", "/", &[("host", "example.org")], Body::empty());
    assert_eq!(read(origin.call(own)).unwrap(), "site.test");
}

#[test]
fn the_length_is_the_true_one_and_expect_goes() {
    let headers = [("content-length", "999"), ("expect", "100-continue"), ("x-a", "2"), ("x-a", "1")];
    let expected = "POST / HTTP/1.1\nx-a: 2\nx-a: 1\ncontent-length: 4\nhost: LOCAL\n\n";
    let address = serve_http(|received| ok(&format!("{}{}", received.head, received.body.len())));
    let sent = read(origin(address).call(request("POST", "/", &headers, "four"))).unwrap();
    let mut lines: Vec<&str> = sent.lines().collect();
    lines.sort_unstable();
    let mut wanted: Vec<String> =
        expected.lines().map(|line| line.replace("LOCAL", &address.to_string())).collect();
    wanted.push("4".to_owned());
    wanted.sort_unstable();
    assert_eq!(lines, wanted);
}

#[test]
fn bodies_go_with_any_method_and_empty_ones_where_a_length_is_expected() {
    check_sent(
        "",
        request("DELETE", "/", &[], "x"),
        "DELETE / HTTP/1.1\nhost: LOCAL\ncontent-length: 1\n\nx",
    );
    check_sent("", request("GET", "/", &[], "x"), "GET / HTTP/1.1\nhost: LOCAL\ncontent-length: 1\n\nx");
    check_sent(
        "",
        request("PROPFIND", "/", &[], "x"),
        "PROPFIND / HTTP/1.1\nhost: LOCAL\ncontent-length: 1\n\nx",
    );
    check_sent("", request("POST", "/", &[], ""), "POST / HTTP/1.1\nhost: LOCAL\ncontent-length: 0\n\n");
}

#[test]
fn a_path_that_leaves_the_base_path_is_the_requests_own_fault() {
    let origin = origin_at("http://127.0.0.1:9/app", Timeouts::default());
    for path in ["/../x", "/%2e%2e/x", "/a/..%2f..%2fx"] {
        assert_eq!(origin.call(get(path)).unwrap_err().kind(), FailureKind::BadRequest, "{path}");
    }
}

// ------------------------------------------------------------------------------------- what becomes of answers

#[test]
fn answers_come_back_as_they_are() {
    let address = serve_bytes(
        b"HTTP/1.1 301 Moved Permanently\r\nLocation: /elsewhere\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\n\
          Content-Encoding: gzip\r\nContent-Length: 6\r\nX-Latin: caf\xe9\r\n\r\n\x1f\x8b\x00\xff\xfe\xfd",
    );
    let response = origin(address).call(get("/")).unwrap();
    assert_eq!(response.status(), 301);
    let cookies: Vec<_> = response.headers().get_all("set-cookie").iter().collect();
    assert_eq!(cookies, ["a=1", "b=2"]);
    assert_eq!(response.headers()["content-encoding"], "gzip");
    assert_eq!(response.headers()["x-latin"].as_bytes(), b"caf\xe9");
    assert_eq!(response.into_body().into_bytes(100).unwrap(), b"\x1f\x8b\x00\xff\xfe\xfd");
}

#[test]
fn bodies_end_by_length_by_chunks_or_by_the_end() {
    for bytes in [
        &b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"[..],
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3;x=y\r\nllo\r\n0\r\nX-Trailer: 1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\nhello",
        b"HTTP/1.0 200 OK\r\n\r\nhello",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    ] {
        let address = serve_bytes(bytes);
        assert_eq!(read(origin(address).call(get("/"))).unwrap(), "hello", "{:?}", String::from_utf8_lossy(bytes));
    }
}

#[test]
fn an_answer_to_head_has_no_body_whatever_its_length() {
    let address = serve_bytes(b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n");
    let response = origin(address).call(request("HEAD", "/", &[], Body::empty())).unwrap();
    assert_eq!(response.headers()["content-length"], "5000");
}

// ------------------------------------------------------------------------------------ servers that misbehave

#[track_caller]
fn check_fails(address: SocketAddr, kind: FailureKind, text: &str) {
    let timeouts = Timeouts { response: SHORT, idle: SHORT, ..Timeouts::default() };
    let failure = read(origin_at(&format!("http://{address}"), timeouts).call(get("/"))).unwrap_err();
    assert_eq!(failure.kind(), kind, "{failure}");
    assert!(failure.to_string().contains(text), "{failure}");
}

/// An address where nobody listens: port 1 was tcpmux's, which nobody runs.
fn nobody() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 1))
}

#[test]
fn a_server_that_is_not_there_is_told_in_the_systems_words() {
    check_fails(nobody(), FailureKind::Unreachable, "Connection refused (os error 111)");
}

#[test]
fn a_server_that_closes_at_once_is_no_answer() {
    check_fails(serve_bytes(b""), FailureKind::Truncated, "before it answered");
}

#[test]
fn a_server_that_never_answers_times_out() {
    let address = serve(|mut socket| drop(socket.read_to_end(&mut Vec::new())));
    check_fails(address, FailureKind::Timeout, "did not answer within 200ms");
}

#[test]
fn a_head_that_drips_times_out() {
    let address = serve(|mut socket| {
        for byte in b"HTTP/1.1 200 OK\r\n".iter().chain(std::iter::repeat(&b'x')) {
            if socket.write_all(&[*byte]).is_err() {
                return;
            }
            thread::sleep(Duration::from_millis(5));
        }
    });
    check_fails(address, FailureKind::Timeout, "stalled for 200ms");
}

#[test]
fn a_body_that_stalls_times_out() {
    let address = serve(|mut socket| {
        let _ = socket.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhe");
        let _ = socket.read_to_end(&mut Vec::new());
    });
    check_fails(address, FailureKind::Timeout, "stalled for 200ms");
}

#[test]
fn a_body_that_is_cut_never_looks_whole() {
    for bytes in [
        &b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhe"[..],
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhe",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n",
    ] {
        check_fails(serve_bytes(bytes), FailureKind::Truncated, "broke off after 2");
    }
}

#[test]
fn a_reset_is_not_taken_for_the_end_of_a_body_without_a_length() {
    let address = serve(|mut socket| {
        let _ = socket.write_all(b"HTTP/1.1 200 OK\r\n\r\nhello");
        // Closing with bytes unread resets the connection; the request is never read here. The client has
        // the head by then, since the reset goes out only after it has sent its request.
        let _ = socket.peek(&mut [0]);
    });
    check_fails(address, FailureKind::Truncated, "reset");
}

#[test]
fn garbage_is_no_answer() {
    for bytes in [
        &b"garbage\r\n\r\n"[..],
        b"HTTP/1.1 abc OK\r\n\r\n",
        b"HTTP/2.0 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nBad Header\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
        b"HTTP/1.1 200 OK\r\nContent-Length: five\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nX: \0\r\n\r\n",
    ] {
        check_fails(serve_bytes(bytes), FailureKind::Protocol, "HTTP");
    }
}

#[test]
fn endless_heads_and_bodies_have_a_limit() {
    let endless_head = serve(|mut socket| {
        let _ = socket.write_all(b"HTTP/1.1 200 OK\r\n");
        while socket.write_all(b"X-Endless: xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\r\n").is_ok() {}
    });
    let failure = origin(endless_head).call(get("/")).unwrap_err();
    assert!(matches!(failure.kind(), FailureKind::TooLarge | FailureKind::Protocol), "{failure}");
    let endless_body = serve(|mut socket| {
        let _ = socket.write_all(b"HTTP/1.1 200 OK\r\n\r\n");
        while socket.write_all(&[b'x'; 1000]).is_ok() {}
    });
    let failure = read(origin(endless_body).call(get("/"))).unwrap_err();
    assert_eq!(failure.kind(), FailureKind::TooLarge, "{failure}");
}

#[test]
fn what_we_cut_ourselves_never_looks_whole() {
    /// A server whose answer has no length, and goes on until the connection ends.
    fn endless() -> SocketAddr {
        serve(|mut socket| {
            let _ = socket.read(&mut [0; 100]);
            let _ = socket.write_all(b"HTTP/1.1 200 OK\r\n\r\n");
            while socket.write_all(&[b'x'; 1000]).is_ok() {}
        })
    }
    let copy = |response: Response| std::io::copy(&mut response.into_body(), &mut std::io::sink());

    let interrupted = origin(endless());
    let response = interrupted.call(get("/")).unwrap();
    interrupted.interrupt();
    assert!(copy(response).is_err());

    let cancellation = Cancellation::default();
    let mut cancelled = get("/");
    cancelled.extensions_mut().insert(cancellation.clone());
    let response = origin(endless()).call(cancelled).unwrap();
    cancellation.cancel();
    assert!(copy(response).is_err());

    for ending in ["fails", "panics"] {
        let (go, wait) = std::sync::mpsc::channel::<()>();
        let body = Body::from_reader(Ends(Some(wait), ending), None);
        let response = origin(endless()).call(request("POST", "/", &[], body)).unwrap();
        drop(go);
        assert!(copy(response).is_err(), "{ending}");
    }

    let timeouts = Timeouts { idle: SHORT, ..Timeouts::default() };
    let stalls = origin_at(&format!("http://{}", endless()), timeouts);
    let response = stalls.call(request("POST", "/", &[], big())).unwrap();
    let error = copy(response).unwrap_err();
    assert!(error.to_string().contains("stopped reading"), "{error}");
}

/// A request's body that has a byte, and ends badly when the test says so.
struct Ends(Option<std::sync::mpsc::Receiver<()>>, &'static str);

impl Read for Ends {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let Some(wait) = self.0.take() else { return Err(std::io::ErrorKind::ConnectionReset.into()) };
        let _ = wait.recv();
        assert!(self.1 != "panics", "this body is meant to panic");
        buffer[0] = b'x';
        Ok(1)
    }
}

#[test]
fn a_body_whose_reader_panics_ends_its_call() {
    let address = serve(|mut socket| drop(socket.read_to_end(&mut Vec::new())));
    let body = Body::from_reader(Ends(Some(std::sync::mpsc::channel().1), "panics"), None);
    let failure = origin(address).call(request("POST", "/", &[], body)).unwrap_err();
    assert_eq!(failure.kind(), FailureKind::Internal, "{failure}");
}

#[test]
fn after_an_interim_response_the_answer_may_take_as_long_as_before() {
    let address = serve(|mut socket| {
        let _ = socket.read(&mut [0; 100]);
        let _ = socket.write_all(b"HTTP/1.1 103 Early Hints\r\n\r\n");
        // Slow for an idle timeout of nothing, fast for the response timeout.
        thread::sleep(SHORT);
        let _ = socket.write_all(&ok("at last"));
    });
    let timeouts = Timeouts { idle: Duration::ZERO, ..Timeouts::default() };
    assert_eq!(read(origin_at(&format!("http://{address}"), timeouts).call(get("/"))).unwrap(), "at last");
}

// ------------------------------------------------------------------------------------------- early answers

fn big() -> Body {
    Body::from(vec![b'x'; 64 << 20])
}

#[test]
fn a_server_that_answers_and_closes_before_it_has_read_everything_is_heard() {
    let address = serve(|mut socket| {
        let _ = socket.read(&mut [0; 100]);
        let _ = socket.write_all(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\n\r\nbig");
        // Closed with most of the body unread.
    });
    let response = origin(address).call(request("POST", "/", &[], big())).unwrap();
    assert_eq!(response.status(), 413);
}

#[test]
fn a_server_that_answers_and_stops_reading_is_heard() {
    let done = Signal::new();
    let waiting = done.clone();
    let address = serve(move |mut socket| {
        let _ = socket.read(&mut [0; 100]);
        let _ = socket.write_all(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno");
        waiting.wait();
    });
    let response = origin(address).call(request("POST", "/", &[], big())).unwrap();
    assert_eq!(response.status(), 403);
    assert_eq!(read(Ok(response)).unwrap(), "no");
    done.send(());
}

#[test]
fn an_interim_or_early_answer_does_not_cut_the_upload_of_a_server_that_reads_on() {
    for early in ["HTTP/1.1 100 Continue\r\n\r\n", "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n", ""] {
        let address = serve(move |mut socket| {
            let mut reader = BufReader::new(socket.try_clone().unwrap());
            let mut byte = [0];
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") && matches!(reader.read(&mut byte), Ok(1)) {
                head.push(byte[0]);
            }
            let head = String::from_utf8(head).unwrap();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
            let mut left: usize = length.parse().unwrap();
            // Answers first: an interim response, or the final one whose body tells what came.
            let last = "HTTP/1.1 202 Accepted\r\nContent-Length: 4\r\n\r\n";
            let _ = socket.write_all(if early.is_empty() { last } else { early }.as_bytes());
            let mut buffer = [0; 8192];
            while left > 0 {
                match reader.read(&mut buffer) {
                    Ok(read @ 1..) => left -= read,
                    _ => return,
                }
            }
            let _ = socket.write_all(if early.is_empty() { "" } else { last }.as_bytes());
            let _ = socket.write_all(b"done");
        });
        let response = origin(address).call(request("POST", "/", &[], big()));
        assert_eq!(read(response).unwrap(), "done", "{early:?}");
    }
}

#[test]
fn a_server_that_sends_back_what_it_reads_is_heard_to_the_end() {
    let address = serve(|mut socket| {
        let mut reader = BufReader::new(socket.try_clone().unwrap());
        let mut line = String::new();
        let mut length = 0;
        while line != "\r\n" {
            line.clear();
            if std::io::BufRead::read_line(&mut reader, &mut line).unwrap_or(0) == 0 {
                return;
            }
            if let Some(value) = line.strip_prefix("content-length: ") {
                length = value.trim().parse().unwrap();
            }
        }
        let _ = write!(socket, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n");
        let _ = std::io::copy(&mut reader.take(length), &mut socket);
    });
    let sent = "x".repeat(1 << 20);
    let origin = origin(address);
    for _ in 0..5 {
        let response = origin.call(request("POST", "/", &[], sent.as_str()));
        let body = response.unwrap().into_body().into_bytes(2 << 20).unwrap();
        assert!(body == sent.as_bytes());
    }
}

/// A body that comes as the test sends it, and breaks off when it says so.
fn streamed() -> (UnixStream, Body) {
    let (reader, writer) = UnixStream::pair().unwrap();
    (writer, Body::from_reader(reader, None))
}

#[test]
fn a_body_is_passed_on_as_it_arrives() {
    let (seen, arrived) = (Signal::new(), Signal::new());
    let signal = seen.clone();
    let address = serve(move |socket| {
        let mut reader = BufReader::new(socket.try_clone().unwrap());
        let mut socket = socket;
        let mut text = Vec::new();
        let mut byte = [0];
        while !text.ends_with(b"0\r\n\r\n") && matches!(reader.read(&mut byte), Ok(1)) {
            text.push(byte[0]);
            if text.ends_with(b"\r\n\r\n3\r\none\r\n") {
                signal.send(());
            }
        }
        arrived.send(String::from_utf8(text).unwrap());
        let _ = socket.write_all(&ok(&arrived.wait()));
    });
    let (mut writer, body) = streamed();
    let call = thread::spawn(move || read(origin(address).call(request("POST", "/", &[], body))));
    writer.write_all(b"one").unwrap();
    seen.wait();
    writer.write_all(b"four").unwrap();
    drop(writer);
    let received = call.join().unwrap().unwrap();
    assert!(received.contains("transfer-encoding: chunked\r\n"), "{received}");
    assert!(received.ends_with("\r\n\r\n3\r\none\r\n4\r\nfour\r\n0\r\n\r\n"), "{received}");
}

#[test]
fn a_server_that_answers_while_the_client_still_sends_is_heard() {
    // All of the answer is there at once, or a part of it comes later.
    for pause in [false, true] {
        let go_on = Signal::new();
        let signal = go_on.clone();
        let address = serve(move |mut socket| {
            let _ = socket.read(&mut [0; 100]);
            let _ = socket.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\neno");
            if pause {
                signal.wait();
            }
            let _ = socket.write_all(b"ugh");
            let _ = socket.read_to_end(&mut Vec::new());
        });
        let (mut writer, body) = streamed();
        writer.write_all(b"a beginning").unwrap();
        let response = origin(address).call(request("POST", "/", &[], body)).unwrap();
        go_on.send(());
        let mut body = response.into_body();
        let mut answer = [0; 6];
        body.read_exact(&mut answer).unwrap();
        assert_eq!((&answer, body.read(&mut [0]).unwrap()), (b"enough", 0));
        // The client ends only now.
        drop(writer);
    }
}

#[test]
fn a_body_that_breaks_off_never_looks_whole_to_the_server() {
    struct Cut(bool);
    impl Read for Cut {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            if std::mem::replace(&mut self.0, true) {
                return Err(std::io::ErrorKind::ConnectionReset.into());
            }
            buffer[0] = b'x';
            Ok(1)
        }
    }
    for length in [None, Some(2)] {
        let received = Signal::new();
        let signal = received.clone();
        let address = serve(move |mut socket| {
            let mut bytes = Vec::new();
            let _ = socket.read_to_end(&mut bytes);
            signal.send(String::from_utf8(bytes).unwrap());
        });
        let body = Body::from_reader(Cut(false), length);
        let failure = origin(address).call(request("POST", "/", &[], body)).unwrap_err();
        assert_eq!(failure.kind(), FailureKind::Truncated);
        assert!(failure.to_string().contains("the request's body broke off"), "{failure}");
        let received = received.wait();
        assert!(!received.ends_with("0\r\n\r\n") && !received.ends_with("xx"), "{received}");
    }
}

// ------------------------------------------------------------------------------------------- upgrades

#[test]
fn an_upgrade_carries_bytes_both_ways_and_ends_in_halves() {
    let address = serve(|socket| {
        let mut reader = BufReader::new(socket.try_clone().unwrap());
        let mut socket = socket;
        let request = read_request(&mut reader).unwrap();
        assert!(request.header("upgrade") == Some("chat") && request.body.is_empty());
        let head = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: chat\r\n\r\n";
        let _ = socket.write_all(format!("{head}hello ").as_bytes());
        // Says its last word first, and listens on.
        let mut line = String::new();
        let _ = std::io::BufRead::read_line(&mut reader, &mut line);
        let _ = socket.write_all(line.as_bytes());
        let _ = reader.read_to_string(&mut line);
        let _ = socket.write_all(line.to_uppercase().as_bytes());
    });
    let (mut writer, body) = streamed();
    writer.write_all(b"one\n").unwrap();
    let upgrade = request("GET", "/", &[("connection", "upgrade"), ("upgrade", "chat")], body);
    let response = origin(address).call(upgrade).unwrap();
    assert_eq!(response.status(), 101);
    let mut body = response.into_body();
    let mut said = [0; 10];
    body.read_exact(&mut said).unwrap();
    assert_eq!(&said, b"hello one\n");
    writer.write_all(b"two").unwrap();
    drop(writer);
    let mut rest = String::new();
    body.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "ONE\nTWO");
}

#[test]
fn what_is_said_after_an_upgrade_is_said_once_and_not_before() {
    for answer in ["HTTP/1.1 101 Switching Protocols\r\nUpgrade: chat\r\n\r\n", "HTTP/1.1 200 OK\r\n\r\n"] {
        let heard = Signal::new();
        let signal = heard.clone();
        let address = serve(move |mut socket| {
            let mut reader = BufReader::new(socket.try_clone().unwrap());
            read_request(&mut reader);
            let early = reader.buffer().to_vec();
            let _ = socket.write_all(answer.as_bytes());
            let mut said = Vec::new();
            let _ = socket.shutdown(std::net::Shutdown::Write);
            let _ = reader.read_to_end(&mut said);
            signal.send((early, said));
        });
        let upgrade = request("GET", "/", &[("connection", "upgrade"), ("upgrade", "chat")], "hello");
        assert_eq!(read(origin(address).call(upgrade)).unwrap(), "");
        let (early, said) = heard.wait();
        let expected: &[u8] = if answer.contains(" 101 ") { b"hello" } else { b"" };
        assert_eq!((early.as_slice(), said.as_slice()), (&b""[..], expected), "{answer}");
    }
}

#[test]
fn a_change_of_protocol_that_nobody_asked_for_is_no_answer() {
    let bytes = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: chat\r\n\r\n";
    check_fails(serve_bytes(bytes), FailureKind::Protocol, "unasked");
}

// ------------------------------------------------------------------------------------ connections and retries

/// A server that notes each request's connection number, and does with the nth connection what `plan` says.
fn serve_plan(plan: impl Fn(usize, TcpStream, &Log) + Send + Sync + 'static) -> (SocketAddr, Arc<Log>) {
    let log = Arc::new(Log::default());
    let (seen, count) = (log.clone(), AtomicUsize::new(0));
    let address = serve(move |socket| plan(count.fetch_add(1, Ordering::SeqCst), socket, &seen));
    (address, log)
}

#[derive(Default)]
struct Log(Mutex<Vec<(usize, String)>>);

impl Log {
    /// Reads a request from this connection and notes its first line.
    fn read(&self, connection: usize, reader: &mut BufReader<TcpStream>) -> bool {
        let Some(request) = read_request(reader) else { return false };
        self.0.lock().unwrap().push((connection, request.head.lines().next().unwrap().to_owned()));
        true
    }

    fn connections(&self) -> Vec<usize> {
        self.0.lock().unwrap().iter().map(|(connection, _)| *connection).collect()
    }
}

#[test]
fn a_connection_is_used_again() {
    let (address, log) = serve_plan(|number, mut socket, log| {
        let mut reader = BufReader::new(socket.try_clone().unwrap());
        while log.read(number, &mut reader) && socket.write_all(&ok("x")).is_ok() {}
    });
    let origin = origin(address);
    for _ in 0..3 {
        assert_eq!(read(origin.call(get("/"))).unwrap(), "x");
    }
    assert_eq!(log.connections(), [0, 0, 0]);
}

/// A first request that is answered, then `second` on a connection that the server closes as soon as it has
/// read it, without a byte of an answer; later connections answer.
fn after_a_stale_connection(second: Request) -> (Result<String, Failure>, Vec<usize>) {
    let (address, log) = serve_plan(|number, mut socket, log| {
        let mut reader = BufReader::new(socket.try_clone().unwrap());
        log.read(number, &mut reader);
        let _ = socket.write_all(&ok("x"));
        if number == 0 {
            log.read(number, &mut reader);
        } else {
            while log.read(number, &mut reader) && socket.write_all(&ok("x")).is_ok() {}
        }
    });
    let origin = origin(address);
    assert_eq!(read(origin.call(get("/first"))).unwrap(), "x");
    (read(origin.call(second)), log.connections())
}

#[test]
fn an_idempotent_request_is_sent_once_more_on_a_new_connection() {
    let (answer, connections) = after_a_stale_connection(get("/"));
    assert_eq!((answer.unwrap().as_str(), connections), ("x", vec![0, 0, 1]));
    let (answer, connections) = after_a_stale_connection(request("PUT", "/", &[], "body"));
    assert_eq!((answer.unwrap().as_str(), connections), ("x", vec![0, 0, 1]));
}

#[test]
fn no_other_request_is_ever_sent_twice() {
    let (answer, connections) = after_a_stale_connection(request("POST", "/", &[], "body"));
    assert_eq!((answer.unwrap_err().kind(), connections), (FailureKind::Truncated, vec![0, 0]));
    let stream = Body::from_reader(&b"body"[..], Some(4));
    let (answer, connections) = after_a_stale_connection(request("PUT", "/", &[], stream));
    assert_eq!((answer.unwrap_err().kind(), connections), (FailureKind::Truncated, vec![0, 0]));
}

#[test]
fn a_request_that_a_server_had_before_it_went_away_is_nobody_elses() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let origin = origin(listener.local_addr().unwrap());
    let server = thread::spawn(move || {
        let (mut socket, _) = listener.accept().unwrap();
        drop(listener);
        let mut reader = BufReader::new(socket.try_clone().unwrap());
        read_request(&mut reader).unwrap();
        socket.write_all(&ok("x")).unwrap();
        read_request(&mut reader).unwrap();
    });
    assert_eq!(read(origin.call(get("/first"))).unwrap(), "x");
    // `Unreachable` would say that nothing was sent, and the gateway would ask another agent.
    let failure = read(origin.call(get("/"))).unwrap_err();
    assert_eq!(failure.kind(), FailureKind::Truncated, "{failure}");
    server.join().unwrap();
}

#[test]
fn chunks_that_are_all_framing_are_given_up() {
    for framing in [&b"0000000000000000"[..], b"0\r\nX: trailer without an end ", b"0\r\nX: y\r\nX: y\r\n"] {
        let local = serve(move |mut socket| {
            let _ = read_request(&mut BufReader::new(socket.try_clone().unwrap()));
            let _ = socket.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n");
            let _ = socket.write_all(framing);
            let more = if framing.ends_with(b"\n") { &b"X: y\r\n"[..] } else { b"0" }.repeat(10_000);
            // Until the other side has had enough.
            while socket.write_all(&more).is_ok() {}
        });
        let mut body = origin(local).call(get("/")).unwrap().into_body();
        let mut hello = [0; 5];
        body.read_exact(&mut hello).unwrap();
        let error = body.read(&mut hello).unwrap_err();
        assert!(error.to_string().contains("framed by more bytes"), "{error}");
    }
}

#[test]
fn a_field_that_cannot_be_sent_is_the_requests_fault() {
    let local = serve_http(|_| ok("x"));
    let mut request = get("/");
    request.headers_mut().insert("authorization", HeaderValue::from_bytes(b"\xe9").unwrap());
    let failure = read(origin(local).call(request)).unwrap_err();
    assert_eq!(failure.kind(), FailureKind::BadRequest, "{failure}");
}

#[test]
fn a_request_that_fails_on_a_new_connection_is_not_sent_again() {
    let (address, log) = serve_plan(|number, socket, log| {
        log.read(number, &mut BufReader::new(socket));
    });
    assert!(origin(address).call(get("/")).is_err());
    assert_eq!(log.connections(), [0]);
}

#[test]
fn what_a_server_says_unasked_is_nobodys_answer() {
    let (say, said) = (Signal::new(), Signal::new());
    let (may_say, has_said) = (say.clone(), said.clone());
    let (address, log) = serve_plan(move |number, mut socket, log| {
        let mut reader = BufReader::new(socket.try_clone().unwrap());
        log.read(number, &mut reader);
        let _ = socket.write_all(&ok("right"));
        if number == 0 {
            may_say.wait();
            let _ = socket.write_all(&ok("wrong"));
            has_said.send(());
            // It stays open.
            log.read(number, &mut reader);
        }
    });
    let origin = origin(address);
    assert_eq!(read(origin.call(get("/"))).unwrap(), "right");
    say.send(());
    said.wait();
    assert_eq!(read(origin.call(get("/"))).unwrap(), "right");
    assert_eq!(log.connections(), [0, 1]);
}

#[test]
fn empty_lines_before_a_response_change_nothing_of_it() {
    for lines in ["\r\n", "\n", "\r\n\r\n"] {
        let bytes = format!("{lines}HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n\u{1}a\u{2} :b\n\nX\u{3}");
        let origin = origin(serve_bytes(bytes.as_bytes()));
        assert_eq!(read(origin.call(get("/"))).unwrap(), "\u{1}a\u{2} :b\n\nX\u{3}", "{lines:?}");
    }
}

#[test]
fn interim_responses_have_an_end() {
    let bytes =
        "HTTP/1.1 103 Early Hints\r\n\r\n".repeat(33) + "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
    check_fails(serve_bytes(bytes.as_bytes()), FailureKind::Protocol, "interim responses without end");
}

#[test]
fn a_request_that_is_slow_to_be_answered_is_not_sent_again() {
    let (address, log) = serve_plan(|number, mut socket, log| {
        let mut reader = BufReader::new(socket.try_clone().unwrap());
        log.read(number, &mut reader);
        let _ = socket.write_all(&ok("x"));
        // The second request is read and never answered, on a connection that stays open.
        while log.read(number, &mut reader) {}
    });
    // Long enough for the first request, however busy this machine is.
    let timeouts = Timeouts { response: Duration::from_secs(1), ..Timeouts::default() };
    let origin = origin_at(&format!("http://{address}"), timeouts);
    assert_eq!(read(origin.call(get("/"))).unwrap(), "x");
    let failure = origin.call(request("DELETE", "/", &[], Body::empty())).unwrap_err();
    assert_eq!(failure.kind(), FailureKind::Timeout);
    // The server may not have read it yet.
    let deadline = Instant::now() + LIMIT;
    while log.connections().len() < 2 && Instant::now() < deadline {
        thread::yield_now();
    }
    assert_eq!(log.connections(), [0, 0]);
}

#[test]
fn a_request_is_not_sent_again_once_a_byte_of_its_answer_has_come() {
    let (address, log) = serve_plan(|number, mut socket, log| {
        let mut reader = BufReader::new(socket.try_clone().unwrap());
        log.read(number, &mut reader);
        let _ = socket.write_all(&ok("x"));
        log.read(number, &mut reader);
        let _ = socket.write_all(b"HTTP/1.1 2");
    });
    let origin = origin(address);
    assert_eq!(read(origin.call(get("/"))).unwrap(), "x");
    assert!(origin.call(get("/")).is_err());
    assert_eq!(log.connections(), [0, 0]);
}

#[test]
fn a_connection_on_which_more_may_follow_is_not_used_again() {
    for answer in [
        "HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n",
        "HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ] {
        let (address, log) = serve_plan(move |number, mut socket, log| {
            let mut reader = BufReader::new(socket.try_clone().unwrap());
            while log.read(number, &mut reader) && socket.write_all(answer.as_bytes()).is_ok() {}
        });
        let origin = origin(address);
        assert_eq!(read(origin.call(get("/"))).unwrap(), "");
        assert_eq!(read(origin.call(get("/"))).unwrap(), "");
        assert_eq!(log.connections(), [0, 1], "{answer}");
    }
}

#[test]
fn bytes_that_nobody_asked_for_are_not_taken_for_the_next_answer() {
    let flushed = Signal::new();
    let sent = flushed.clone();
    let (address, log) = serve_plan(move |number, mut socket, log| {
        let mut reader = BufReader::new(socket.try_clone().unwrap());
        while log.read(number, &mut reader) {
            if socket.write_all(&ok("x")).is_err() {
                return;
            }
            if number == 0 {
                let _ = socket.write_all(&ok("somebody else's"));
                sent.send(());
            }
        }
    });
    let origin = origin(address);
    assert_eq!(read(origin.call(get("/"))).unwrap(), "x");
    flushed.wait();
    assert_eq!(read(origin.call(get("/"))).unwrap(), "x");
    assert_eq!(log.connections(), [0, 1]);
}

#[test]
fn interrupting_ends_a_call_that_waits() {
    let reached = Signal::new();
    let signal = reached.clone();
    let address = serve(move |mut socket| {
        let _ = socket.read(&mut [0; 100]);
        signal.send(());
        let _ = socket.read_to_end(&mut Vec::new());
    });
    let origin = Arc::new(origin(address));
    let calling = origin.clone();
    let call = thread::spawn(move || read(calling.call(get("/"))));
    reached.wait();
    origin.interrupt();
    assert!(call.join().unwrap().is_err());
    assert!(origin.call(get("/")).is_err());
}

#[test]
fn cancelling_ends_a_call_that_waits_and_closes_its_connection() {
    let (reached, closed) = (Signal::new(), Signal::new());
    let (reaching, closing) = (reached.clone(), closed.clone());
    let address = serve(move |mut socket| {
        let _ = socket.read(&mut [0; 100]);
        reaching.send(());
        let _ = socket.read_to_end(&mut Vec::new());
        closing.send(());
    });
    let cancellation = Cancellation::default();
    let mut request = get("/");
    request.extensions_mut().insert(cancellation.clone());
    let call = thread::spawn(move || read(origin(address).call(request)));
    reached.wait();
    cancellation.cancel();
    assert!(call.join().unwrap().is_err());
    closed.wait();
}

#[test]
fn cancelling_what_is_over_does_not_touch_who_uses_the_connection_next() {
    let (go, waiting) = (Signal::new(), Signal::new());
    let (going, reached) = (go.clone(), waiting.clone());
    let (address, log) = serve_plan(move |number, mut socket, log| {
        let mut reader = BufReader::new(socket.try_clone().unwrap());
        log.read(number, &mut reader);
        let _ = socket.write_all(&ok("first"));
        log.read(number, &mut reader);
        reached.send(());
        going.wait();
        let _ = socket.write_all(&ok("second"));
    });
    let origin = Arc::new(origin(address));
    let cancellation = Cancellation::default();
    let mut first = get("/");
    first.extensions_mut().insert(cancellation.clone());
    assert_eq!(read(origin.call(first)).unwrap(), "first");
    let calling = origin.clone();
    let call = thread::spawn(move || read(calling.call(get("/"))));
    waiting.wait();
    cancellation.cancel();
    go.send(());
    assert_eq!(call.join().unwrap().unwrap(), "second");
    assert_eq!(log.connections(), [0, 0]);
}
