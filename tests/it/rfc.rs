//! What RFC 9110 and RFC 9112 ask of intermediaries, a row each: what a visitor sends, what the site answers, what each of
//! them must get. Through the real binaries, by hand-written bytes. What is not done stands here with its reason.

use std::io::{BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex};

use crate::support::{LIMIT, Program, TUNNEL_ID, read_request, serve};

/// A row of the table.
struct Row {
    /// Of RFC 9110, or of RFC 9112 where it says so.
    section: &'static str,
    sent: &'static [u8],
    /// The site's answer; [`OK`] where it is empty.
    answer: &'static [u8],
    /// What the request at the site holds; what it does not hold begins with `!`. Empty: the site is not asked.
    sees: &'static [&'static str],
    /// The same of what the visitor gets.
    gets: &'static [&'static str],
}

const fn row(
    section: &'static str,
    sent: &'static [u8],
    answer: &'static [u8],
    sees: &'static [&'static str],
    gets: &'static [&'static str],
) -> Row {
    Row { section, sent, answer, sees, gets }
}

const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// A simple request.
const GET: &[u8] = b"GET /x HTTP/1.1\r\nHost: h.test\r\nConnection: close\r\n\r\n";

/// A request that leaves its connection open, and one behind it whose answer shows that both sides are in step.
const TWO: &[u8] =
    b"GET /x HTTP/1.1\r\nHost: h.test\r\n\r\nGET /last HTTP/1.1\r\nHost: h.test\r\nConnection: close\r\n\r\n";

const HEAD: &[u8] = b"HEAD /x HTTP/1.1\r\nHost: h.test\r\n\r\nGET /last HTTP/1.1\r\nHost: h.test\r\nConnection: close\r\n\r\n";

const REFUSED: &[&str] = &["HTTP/1.1 400 ", "connection: close", "x-tunnel-source: gateway", "date: "];

const BAD_GATEWAY: &[&str] = &["HTTP/1.1 502 ", "x-tunnel-source: "];

#[rustfmt::skip]
const TABLE: &[Row] = &[
    // ------------------------------------------------------------------- versions
    row("2.5, 9112 2.3", b"GET /x HTTP/1.0\r\n\r\n", b"", &["get /x http/1.1"], &["HTTP/1.1 200 "]),
    row("9112 2.3", GET, b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", &["get /x"], &["HTTP/1.1 200 ", "ok"]),
    row("9112 2.3", GET, b"ICY 200 OK\r\n\r\n", &["get /x"], BAD_GATEWAY),
    row("9112 2.3", GET, b"HTTP/2.0 200 OK\r\n\r\n", &["get /x"], BAD_GATEWAY),
    row("15.6.6", b"GET /x HTTP/2.0\r\nHost: x\r\n\r\n", b"", &[], &["HTTP/1.1 505 "]),
    row("9112 2.2", b"GET /x\r\n\r\n", b"", &[], REFUSED),
    row("9112 2.2", b"SSH-2.0-x\r\n\r\n", b"", &[], REFUSED),
    // ------------------------------------------------------------------- messages
    row("9112 2.2", b"\r\n\r\nGET /x HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", b"", &["get /x"], &["HTTP/1.1 200 "]),
    row("9112 2.2", b"GET /x\rHTTP/1.1\r\nHost: h\r\n\r\n", b"", &[], REFUSED),
    row("9112 2.2", b"GET /x HTTP/1.1\r\nHost: h\r\nX: a\rb\r\n\r\n", b"", &[], REFUSED),
    row("9112 2.2", b"GET /x HTTP/1.1\r\n Host: h\r\n\r\n", b"", &[], REFUSED),
    row("5.5", b"GET /x HTTP/1.1\r\nHost: h\r\nX: a\0b\r\n\r\n", b"", &[], REFUSED),
    row("5.5", GET, b"HTTP/1.1 200 OK\r\nX: a\0b\r\nContent-Length: 2\r\n\r\nok", &["get /x"], &["!\0"]),
    row("9112 2.2", GET, b"HTTP/1.1 200 OK\r\nX: a\rb\r\nContent-Length: 2\r\n\r\nok", &["get /x"], &["!a\rb"]),
    row("9112 3.2", b"GET /a b HTTP/1.1\r\nHost: h\r\n\r\n", b"", &[], REFUSED),
    row("9112 3", b"GE(T /x HTTP/1.1\r\nHost: h\r\n\r\n", b"", &[], REFUSED),
    row("9112 4", GET, b"HTTP/1.1 200 Fine by me\r\nContent-Length: 2\r\n\r\nok", &["get /x"], &["HTTP/1.1 200 Fine by me\r\n"]),
    row("9.1", b"get /x HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", b"", &["get /x"], &["HTTP/1.1 200 "]),
    row("9.1", b"BREW /x HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", b"", &["brew /x"], &["HTTP/1.1 200 "]),
    // ------------------------------------------------------------------- targets
    row("4.1", b"GET //a//b HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", b"", &["get //a//b http/1.1"], &["HTTP/1.1 200 "]),
    row("7.7", b"GET /a/./../%7Eu/%2f%2E?b?c=/%20 HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", b"", &["get /a/./../%7eu/%2f%2e?b?c=/%20 "], &["HTTP/1.1 200 "]),
    row("7.7", b"GET /{x}|^`\\\"<>? HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", b"", &["get /{x}|^`\\\"<>? "], &["HTTP/1.1 200 "]),
    row("9112 3.2.1", b"GET /admin#x HTTP/1.1\r\nHost: h\r\n\r\n", b"", &[], REFUSED),
    row("9112 3.2.2", b"GET http://other.test:81/p?q HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", b"", &["get /p?q ", "\r\nhost: other.test:81\r\n"], &["HTTP/1.1 200 "]),
    row("9112 3.2.2", b"GET http://other.test?q=1 HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", b"", &["get /?q=1 "], &["HTTP/1.1 200 "]),
    row("9112 3.2", b"GET http://other.test/ HTTP/1.1\r\n\r\n", b"", &[], REFUSED),
    row("4.2.1", b"GET http:///p HTTP/1.1\r\nHost: h\r\n\r\n", b"", &[], REFUSED),
    row("4.2.4", b"GET http://user:pw@other.test/p HTTP/1.1\r\nHost: h\r\n\r\n", b"", &[], REFUSED),
    row("9112 3.2.3", b"GET h.test:80 HTTP/1.1\r\nHost: h\r\n\r\n", b"", &[], REFUSED),
    row("9.3.6", b"CONNECT h.test:80 HTTP/1.1\r\nHost: h.test:80\r\n\r\n", b"", &[], &["HTTP/1.1 501 "]),
    row("9112 3.2.4", b"GET * HTTP/1.1\r\nHost: h\r\n\r\n", b"", &[], REFUSED),
    row("9112 3.2.4", b"OPTIONS http://h.test HTTP/1.1\r\nHost: h.test\r\nConnection: close\r\n\r\n", b"", &[], &["!HTTP/1.1 2"]),
    // ------------------------------------------------------------------- Host
    row("9112 3.2", b"GET /x HTTP/1.1\r\n\r\n", b"", &[], REFUSED),
    row("9112 3.2", b"GET /x HTTP/1.1\r\nHost: h\r\nHost: h\r\n\r\n", b"", &[], REFUSED),
    row("9112 3.2", b"GET /x HTTP/1.1\r\nHost: a b\r\n\r\n", b"", &[], REFUSED),
    row("9112 3.2", b"GET /x HTTP/1.1\r\nHost: u@a\r\n\r\n", b"", &[], REFUSED),
    row("9112 3.2", b"GET /x HTTP/1.1\r\nHost: a:99999\r\n\r\n", b"", &[], REFUSED),
    row("9112 3.2", b"GET /x HTTP/1.1\r\nHost: [::1\r\n\r\n", b"", &[], REFUSED),
    row("9112 3.2", b"GET /health HTTP/1.1\r\nHost: a b\r\n\r\n", b"", &[], REFUSED),
    row("7.2", b"GET /x HTTP/1.1\r\nHost: A.b:8080\r\nConnection: close\r\n\r\n", b"", &["\r\nhost: a.b:8080\r\n"], &["HTTP/1.1 200 "]),
    // ------------------------------------------------------------------- fields
    row("9112 5.1", b"GET /x HTTP/1.1\r\nHost: h\r\nX : y\r\n\r\n", b"", &[], REFUSED),
    row("9112 5.1", b"GET /x HTTP/1.1\r\nHost: h\r\nnonsense\r\n\r\n", b"", &[], REFUSED),
    row("9112 5.1", b"GET /x HTTP/1.1\r\nHost: h\r\n: x\r\n\r\n", b"", &[], REFUSED),
    row("9112 5.1", GET, b"HTTP/1.1 200 OK\r\nX-A : b\r\nContent-Length: 2\r\n\r\nok", &["get /x"], &["HTTP/1.1 200 ", "\r\nx-a: b\r\n"]),
    row("9112 5.2", b"GET /x HTTP/1.1\r\nHost: h\r\nX: a\r\n b\r\n\r\n", b"", &[], REFUSED),
    row("9112 5.2", GET, b"HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 2\r\n\r\nok", &["get /x"], &["!a\r\n b"]),
    row("5.5", b"GET /x HTTP/1.1\r\nHost: h\r\nX:\t v \t\r\nConnection: close\r\n\r\n", b"", &["\r\nx: v\r\n"], &["HTTP/1.1 200 "]),
    row("5.3", b"GET /x HTTP/1.1\r\nHost: h\r\nX-A: 1\r\nX-B: 2\r\nX-A: 3\r\nConnection: close\r\n\r\n", b"", &["\r\nx-a: 1\r\nx-a: 3\r\n"], &["HTTP/1.1 200 "]),
    row("5.3", GET, b"HTTP/1.1 200 OK\r\nSet-Cookie: a=1, b\r\nX: y\r\nSet-Cookie: c=2\r\nContent-Length: 2\r\n\r\nok", &["get /x"], &["set-cookie: a=1, b\r\nset-cookie: c=2\r\n"]),
    row("7.7, 11.6.2", b"GET /x HTTP/1.1\r\nHost: h\r\nAuthorization: Basic eDp5\r\nUser-Agent: u\r\nConnection: close\r\n\r\n", b"", &["\r\nauthorization: basic edp5\r\n", "\r\nuser-agent: u\r\n"], &["HTTP/1.1 200 "]),
    row("6.6.1", GET, b"", &["get /x"], &["\r\ndate: "]),
    row("6.6.1", GET, b"HTTP/1.1 200 OK\r\nDate: Mon, 01 Jan 2024 00:00:00 GMT\r\nContent-Length: 2\r\n\r\nok", &["get /x"], &["\r\ndate: mon, 01 jan 2024 00:00:00 gmt\r\n"]),
    // ------------------------------------------------------------------- connections
    row("7.6.1", b"GET /x HTTP/1.1\r\nHost: h\r\nConnection: X-Hop, close\r\nX-Hop: 1\r\nKeep-Alive: 1\r\nProxy-Connection: x\r\nTE: trailers\r\nUpgrade: chat\r\n\r\n", b"", &["!\r\nx-hop:", "!keep-alive", "!proxy-connection", "!\r\nte:", "!upgrade"], &["HTTP/1.1 200 "]),
    row("7.6.1", GET, b"HTTP/1.1 200 OK\r\nConnection: ,, X-Hop ,\r\nX-Hop: 1\r\nContent-Length: 2\r\n\r\nok", &["get /x"], &["!x-hop"]),
    row("7.6.1", b"GET /x HTTP/1.1\r\nHost: h\r\nConnection: X-Forwarded-Proto, X-Real-IP, Forwarded, close\r\n\r\n", b"", &["\r\nx-forwarded-proto: http\r\n", "\r\nx-real-ip: 127.0.0.1\r\n"], &["HTTP/1.1 200 "]),
    row("7.6.2", b"TRACE /x HTTP/1.1\r\nHost: h\r\nMax-Forwards: 0\r\nConnection: close\r\n\r\n", b"", &[], &["HTTP/1.1 "]),
    row("7.6.2", b"OPTIONS /x HTTP/1.1\r\nHost: h\r\nMax-Forwards: 0\r\nConnection: close\r\n\r\n", b"", &[], &["HTTP/1.1 "]),
    row("7.6.2", b"OPTIONS /x HTTP/1.1\r\nHost: h\r\nMax-Forwards: 5\r\nConnection: close\r\n\r\n", b"", &["\r\nmax-forwards: 4\r\n"], &["HTTP/1.1 200 "]),
    row("9.3.8", b"TRACE /x HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi", b"", &[], &["HTTP/1.1 400 "]),
    // ------------------------------------------------------------------- upgrades
    row("7.8", b"GET /x HTTP/1.1\r\nHost: h\r\nConnection: upgrade\r\nUpgrade: chat\r\n\r\n", b"HTTP/1.1 101 S\r\nConnection: Upgrade\r\nUpgrade: chat\r\n\r\nhello", &["\r\nconnection: upgrade\r\n", "\r\nupgrade: chat\r\n"], &["HTTP/1.1 101 ", "\r\nupgrade: chat\r\n", "\r\n\r\nhello"]),
    row("7.8", b"GET /x HTTP/1.1\r\nHost: h\r\nConnection: upgrade\r\nUpgrade: chat\r\nContent-Length: 0\r\n\r\n", b"HTTP/1.1 101 S\r\nConnection: Upgrade\r\nUpgrade: chat\r\n\r\nhello", &["\r\nupgrade: chat\r\n"], &["HTTP/1.1 101 "]),
    row("7.8", GET, b"HTTP/1.1 101 S\r\nConnection: Upgrade\r\nUpgrade: chat\r\n\r\n", &["get /x"], BAD_GATEWAY),
    row("7.8", b"GET /x HTTP/1.1\r\nHost: h\r\nConnection: upgrade, close\r\nUpgrade: chat\r\n\r\n", b"HTTP/1.1 101 S\r\nConnection: Upgrade\r\nUpgrade: other\r\n\r\n", &["upgrade: chat"], BAD_GATEWAY),
    row("7.8", b"GET /x HTTP/1.1\r\nHost: h\r\nConnection: upgrade, close\r\nUpgrade: chat\r\n\r\n", b"HTTP/1.1 101 S\r\n\r\n", &["upgrade: chat"], BAD_GATEWAY),
    row("7.8", b"GET /x HTTP/1.0\r\nConnection: upgrade\r\nUpgrade: chat\r\n\r\n", b"", &["!upgrade"], &["HTTP/1.1 200 "]),
    row("7.8", b"GET /x HTTP/1.1\r\nHost: h\r\nUpgrade: chat\r\nConnection: close\r\n\r\n", b"", &["!upgrade"], &["HTTP/1.1 200 "]),
    row("15.5.22", GET, b"HTTP/1.1 426 Upgrade Required\r\nConnection: Upgrade\r\nUpgrade: chat\r\nContent-Length: 2\r\n\r\nno", &["get /x"], &["HTTP/1.1 426 ", "\r\nupgrade: chat\r\n"]),
    row("15.5.22", b"GET /ws HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", b"", &[], &["HTTP/1.1 426 ", "\r\nupgrade: websocket\r\n", "upgrade"]),
    // ------------------------------------------------------------------- framing of requests
    row("8.6", b"POST /x HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", b"", &["\r\ncontent-length: 0\r\n"], &["HTTP/1.1 200 "]),
    row("8.6", GET, b"", &["!content-length"], &["HTTP/1.1 200 "]),
    row("9112 6.3", b"POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nhi", b"", &[], REFUSED),
    row("9112 6.3", b"POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: +2\r\n\r\nhi", b"", &[], REFUSED),
    row("9112 6.1", b"POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", b"", &[], REFUSED),
    row("9112 6.1", b"POST /x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", b"", &[], &["HTTP/1.1 501 "]),
    row("9112 6.3", b"POST /x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n", b"", &[], REFUSED),
    row("9112 6.1", b"POST /x HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", b"", &[], REFUSED),
    row("9112 7.1", b"POST /x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n2;a=\"b\"\r\nhi\r\n0\r\nX-T: 1\r\n\r\n", b"", &["\r\ncontent-length: 2\r\n", "!x-t"], &["HTTP/1.1 200 "]),
    row("9112 7.1", b"POST /x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nhi\r\n0\r\n\r\n", b"", &[], &["HTTP/1.1 400 "]),
    row("10.1.1", b"POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\nExpect: 100-continue\r\nConnection: close\r\n\r\nhi", b"", &["!expect", "\r\ncontent-length: 2\r\n"], &["HTTP/1.1 200 "]),
    row("10.1.1", b"POST /x HTTP/1.0\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\nhi", b"", &["!expect"], &["HTTP/1.1 200 ", "!HTTP/1.1 100 "]),
    // ------------------------------------------------------------------- framing of responses
    row("9112 6.3", TWO, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n", &["get /x"], &["HTTP/1.1 200 ", "hi", "last"]),
    row("9112 6.3", TWO, b"HTTP/1.1 200 OK\r\n\r\nuntil it closes", &["get /x"], &["HTTP/1.1 200 ", "until it closes", "last"]),
    row("9112 6.3", TWO, b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n", &["get /x"], &["!content-length: 9", "last"]),
    row("9112 6.3", GET, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nhi!", &["get /x"], BAD_GATEWAY),
    row("9112 6.1", b"GET /x HTTP/1.0\r\n\r\n", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n", &["get /x"], &["!transfer-encoding", "\r\n\r\nhi"]),
    row("8.6", TWO, b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n", &["get /x"], &["HTTP/1.1 204 ", "!content-length: 0", "last"]),
    row("9112 6.1", TWO, b"HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n", &["get /x"], &["HTTP/1.1 204 ", "!transfer-encoding", "last"]),
    row("9112 6.3", TWO, b"HTTP/1.1 304 Not Modified\r\nContent-Length: 100\r\nETag: \"e\"\r\n\r\n", &["get /x"], &["HTTP/1.1 304 ", "etag: \"e\"", "last"]),
    row("9.3.2", HEAD, b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n", &["head /x"], &["HTTP/1.1 200 ", "content-length: 100", "last"]),
    row("9.3.2", HEAD, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", &["head /x"], &["HTTP/1.1 200 ", "!content-length: 0", "last"]),
    row("9112 6.3", HEAD, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", &["head /x"], &["!\r\n\r\nhi", "last"]),
    row("9.3.2", b"HEAD /a#b HTTP/1.1\r\nHost: h\r\n\r\n", b"", &[], &["HTTP/1.1 400 ", "!{"]),
    row("15.2", GET, b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", &["get /x"], &["HTTP/1.1 200 ", "ok"]),
    row("15", GET, b"HTTP/1.1 299 Odd\r\nContent-Length: 2\r\n\r\nok", &["get /x"], &["HTTP/1.1 299 Odd\r\n"]),
    row("15", GET, b"HTTP/1.1 600 Odd\r\nContent-Length: 2\r\n\r\nok", &["get /x"], &["HTTP/1.1 "]),
];

/// What is not done, and what is done in its place: the reason stands behind the section.
#[rustfmt::skip]
const NOT_DONE: &[Row] = &[
    // nginx, Apache and others stop compressing where a request has `Via`, and nothing here is found out with it: the
    // tunnel has one gateway and one agent. nginx, HAProxy and Caddy add none either.
    row("7.6.3: Via is added", GET, b"", &["!\r\nvia:"], &["HTTP/1.1 200 "]),
    // The wire has one head a stream (mux.md); hints are for speed alone. nginx drops them, too.
    row("15.2: 103 passes", GET, b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", &["get /x"], &["!HTTP/1.1 103 ", "HTTP/1.1 200 "]),
    // There is no such version, and who says so tries something.
    row("2.5: HTTP/1.2 is HTTP/1.1", b"GET /x HTTP/1.2\r\nHost: h\r\n\r\n", b"", &[], &["HTTP/1.1 505 "]),
    // Behind a proxy that speaks TLS to visitors it is what they asked for.
    row("7.4: https on a plain connection is 421", b"GET https://h.test/p HTTP/1.1\r\nHost: h.test\r\nConnection: close\r\n\r\n", b"", &["get /p "], &["HTTP/1.1 200 "]),
    // Parties that read an encoding in two ways are how requests are smuggled: it is one word here.
    row("5.6.1: an empty element of Transfer-Encoding is nothing", b"POST /x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: ,chunked\r\n\r\n0\r\n\r\n", b"", &[], &["HTTP/1.1 501 "]),
    // No host is called so; a proxy that decodes it sees another one.
    row("9112 3.2: Host may hold %20", b"GET /x HTTP/1.1\r\nHost: a%20b\r\n\r\n", b"", &[], REFUSED),
];

/// What a site was asked, in small letters, but for the request that only shows that both sides are in step.
struct Site {
    answer: Arc<Mutex<Vec<u8>>>,
    seen: Arc<Mutex<String>>,
    address: SocketAddr,
}

impl Site {
    fn start() -> Site {
        let (answer, seen) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(String::new())));
        let (of_row, seen_by) = (answer.clone(), seen.clone());
        let address = serve(move |mut socket| {
            let mut reader = BufReader::new(socket.try_clone().unwrap());
            while let Some(request) = read_request(&mut reader) {
                let is_last = request.head.starts_with("GET /last ");
                let answer = match is_last {
                    true => b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nlast".to_vec(),
                    false => of_row.lock().unwrap().clone(),
                };
                if !is_last {
                    seen_by.lock().unwrap().push_str(&request.head.to_ascii_lowercase());
                }
                let text = String::from_utf8_lossy(&answer).to_ascii_lowercase();
                let is_framed =
                    ["content-length", "chunked", " 204 ", " 304 "].iter().any(|sign| text.contains(sign));
                if socket.write_all(&answer).is_err() || !is_framed {
                    return;
                }
            }
        });
        Site { answer, seen, address }
    }

    /// Has a visitor send a row's request. Returns what the site saw, and what the visitor got.
    fn pass(&self, gateway: SocketAddr, row: &Row) -> (String, String) {
        let answer = if row.answer.is_empty() { OK } else { row.answer };
        *self.answer.lock().unwrap() = answer.to_vec();
        self.seen.lock().unwrap().clear();
        let mut socket = TcpStream::connect(gateway).unwrap();
        socket.set_read_timeout(Some(LIMIT)).unwrap();
        socket.write_all(row.sent).unwrap();
        let mut got = Vec::new();
        // A reset behind the response is as good as an end.
        let _ = socket.read_to_end(&mut got);
        (std::mem::take(&mut self.seen.lock().unwrap()), String::from_utf8_lossy(&got).into_owned())
    }
}

/// Which of these does not hold of a text; names of fields may be written in any way.
fn fault<'a>(expected: &[&'a str], text: &str) -> Option<&'a str> {
    let text = text.to_ascii_lowercase();
    expected.iter().copied().find(|expected| match expected.strip_prefix('!') {
        Some(unwanted) => text.contains(&unwanted.to_ascii_lowercase()),
        None => !text.contains(&expected.to_ascii_lowercase()),
    })
}

#[test]
fn every_row_of_the_table_holds() {
    let site = Site::start();
    let (mut gateway, address) = Program::gateway(&[]);
    let (url, local) = (format!("ws://{address}"), format!("http://{}", site.address));
    let options = ["--tunnel-id", TUNNEL_ID, "--gateway", &url, "--local", &local, "--breaker-failures", "0"];
    let _agent = Program::agent(&options);
    gateway.wait_for("connected");
    let mut faults = Vec::new();
    for row in TABLE.iter().chain(NOT_DONE) {
        let (seen, got) = site.pass(address, row);
        let asked = !seen.is_empty();
        let wrong = match (asked, row.sees.is_empty()) {
            (true, true) => Some("the site is not asked"),
            (false, false) => Some("the site is asked"),
            _ => fault(row.sees, &seen).or_else(|| fault(row.gets, &got)),
        };
        if let Some(wrong) = wrong {
            let sent = String::from_utf8_lossy(row.sent);
            faults.push(format!(
                "{}: {wrong:?}\n  sent {sent:?}\n  seen {seen:?}\n  got  {got:?}",
                row.section
            ));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}
