//! How a proxy is asked for a connection to a gateway: CONNECT (RFC 9110 §9.3.6) and SOCKS5 (RFC 1928, RFC 1929).

use std::fmt;
use std::io::{self, Read, Write};
use std::net::IpAddr;

use data_encoding::BASE64;
use http::{HeaderValue, Method, Response, StatusCode, header};
use tungstenite::Bytes;

use super::{Proxy, ProxyCredentials, ProxyProtocol};
use crate::advice::Advice;
use crate::http1::{
    UPGRADE_HEAD_MAX, end_head, is_interim, parse_response, write_header, write_request_line,
};
use crate::net::connect::named;
use crate::net::local::address_of;

/// Why a proxy gives no connection.
#[derive(Debug)]
pub enum ProxyRefusal {
    /// It wants credentials.
    NoCredentials,
    /// It wants other ones.
    WrongCredentials,
    /// It asks for another authentication than user name and password.
    OtherAuthentication,
    /// It answered CONNECT with this status.
    Status(StatusCode),
    /// It answered a SOCKS5 request with this code (RFC 1928 §6).
    Socks(u8),
    /// It does not speak the protocol of a proxy, by what is said here.
    NotAProxy(&'static str),
    /// The connection to it failed.
    Io(io::Error),
}

impl From<io::Error> for ProxyRefusal {
    fn from(error: io::Error) -> Self {
        ProxyRefusal::Io(named(error))
    }
}

impl ProxyRefusal {
    /// A remedy that an operator might try.
    pub(crate) fn advice(&self) -> Advice {
        match self {
            ProxyRefusal::NoCredentials | ProxyRefusal::WrongCredentials => Advice::ProxyCredentials,
            ProxyRefusal::OtherAuthentication
            | ProxyRefusal::Status(StatusCode::FORBIDDEN)
            | ProxyRefusal::Socks(2) => Advice::ProxyRules,
            // It reaches the gateway no better than anybody.
            ProxyRefusal::Status(
                StatusCode::INTERNAL_SERVER_ERROR
                | StatusCode::BAD_GATEWAY
                | StatusCode::SERVICE_UNAVAILABLE
                | StatusCode::GATEWAY_TIMEOUT,
            )
            | ProxyRefusal::Socks(3..=6) => Advice::GatewayAddress,
            ProxyRefusal::Status(_)
            | ProxyRefusal::Socks(_)
            | ProxyRefusal::NotAProxy(_)
            | ProxyRefusal::Io(_) => Advice::ProxyAddress,
        }
    }
}

impl fmt::Display for ProxyRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ProxyRefusal::NoCredentials => f.write_str("it wants a user name and password"),
            ProxyRefusal::WrongCredentials => f.write_str("it does not take this user name and password"),
            ProxyRefusal::OtherAuthentication => {
                f.write_str("it wants to know who asks in another way than by user name and password, which is not supported")
            }
            ProxyRefusal::Status(status) => write!(f, "it answered CONNECT with {status}"),
            ProxyRefusal::Socks(code) => match socks_text(*code) {
                Some(text) => f.write_str(text),
                None => write!(f, "it refused with the SOCKS5 code {code}"),
            },
            ProxyRefusal::NotAProxy(what) => write!(f, "it is no such proxy: {what}"),
            ProxyRefusal::Io(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for ProxyRefusal {}

/// RFC 1928 §6.
fn socks_text(code: u8) -> Option<&'static str> {
    Some(match code {
        1 => "it failed",
        2 => "its rules do not allow the connection",
        3 => "it finds the gateway's network unreachable",
        4 => "it finds the gateway's host unreachable",
        5 => "the gateway refused its connection",
        6 => "its connection to the gateway timed out",
        7 => "it does not open connections",
        8 => "it does not take addresses of this kind",
        _ => return None,
    })
}

impl Proxy {
    /// Has the proxy at the other end of this connection open one to a host, which may be an IPv6 address in its brackets.
    /// All that is sent and received from then on is the host's.
    pub(in crate::link) fn pass(
        &self,
        stream: &mut (impl Read + Write),
        host: &str,
        port: u16,
    ) -> Result<(), ProxyRefusal> {
        match self.protocol {
            ProxyProtocol::Http => connect(stream, host, port, self.credentials.as_ref()),
            ProxyProtocol::Socks5 => socks5(stream, host, port, self.credentials.as_ref()),
        }
    }
}

fn connect(
    stream: &mut (impl Read + Write),
    host: &str,
    port: u16,
    credentials: Option<&ProxyCredentials>,
) -> Result<(), ProxyRefusal> {
    let (target, mut request) = (format!("{host}:{port}"), Vec::new());
    write_request_line(&mut request, &Method::CONNECT, &target);
    write_header(&mut request, "Host", target.as_bytes());
    write_header(&mut request, "User-Agent", USER_AGENT.as_bytes());
    if let Some(ProxyCredentials { user, password }) = credentials {
        let basic = BASE64.encode(&[user, b":".as_slice(), password].concat());
        write_header(&mut request, "Proxy-Authorization", format!("Basic {basic}").as_bytes());
    }
    end_head(&mut request);
    stream.write_all(&request)?;
    stream.flush()?;
    let (mut answer, mut buffer) = (Vec::new(), [0; 1 << 10]);
    let mut interim = 0;
    loop {
        let head = parse_response(&Bytes::copy_from_slice(&answer), UPGRADE_HEAD_MAX)
            .map_err(|_| ProxyRefusal::NotAProxy("its answer is not HTTP"))?;
        match head {
            Some((length, response)) if response.status().is_success() => {
                // The gateway speaks only when it is spoken to.
                let is_all = length == answer.len();
                return is_all.then_some(()).ok_or(ProxyRefusal::NotAProxy("it speaks unasked"));
            }
            // An interim response comes before the final one (RFC 9110 §15.2).
            Some((length, _)) if is_interim(&answer[..length]) && interim < INTERIM_MAX => {
                interim += 1;
                answer.drain(..length);
                continue;
            }
            Some((_, response)) => return Err(refusal(&response, credentials)),
            None => {}
        }
        match stream.read(&mut buffer)? {
            0 => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
            read => answer.extend_from_slice(&buffer[..read]),
        }
    }
}

/// The agent's name for a proxy.
const USER_AGENT: &str = concat!("tunnel-agent/", env!("CARGO_PKG_VERSION"));

/// Responses before the answer to CONNECT, at most.
const INTERIM_MAX: u32 = 8;

/// The meaning of a response to CONNECT that is no success.
fn refusal<T>(response: &Response<T>, credentials: Option<&ProxyCredentials>) -> ProxyRefusal {
    let status = response.status();
    // Some mean the former and say the latter.
    if !matches!(status, StatusCode::PROXY_AUTHENTICATION_REQUIRED | StatusCode::UNAUTHORIZED) {
        return ProxyRefusal::Status(status);
    }
    let is_basic = |way: &HeaderValue| {
        let ways = way.to_str().unwrap_or_default().to_ascii_lowercase();
        ways.split([',', ' ']).any(|word| word == "basic")
    };
    let mut ways = response.headers().get_all(header::PROXY_AUTHENTICATE).iter().peekable();
    match credentials {
        _ if ways.peek().is_some() && !ways.any(is_basic) => ProxyRefusal::OtherAuthentication,
        None => ProxyRefusal::NoCredentials,
        Some(_) => ProxyRefusal::WrongCredentials,
    }
}

const SOCKS_VERSION: u8 = 5;

const NO_AUTHENTICATION: u8 = 0;
const USER_AND_PASSWORD: u8 = 2;
const NO_METHOD: u8 = 0xff;

/// The version of the negotiation of RFC 1929.
const PASSWORD_VERSION: u8 = 1;

const CONNECT: u8 = 1;

const IPV4: u8 = 1;
const NAME: u8 = 3;
const IPV6: u8 = 4;

fn socks5(
    stream: &mut (impl Read + Write),
    host: &str,
    port: u16,
    credentials: Option<&ProxyCredentials>,
) -> Result<(), ProxyRefusal> {
    let methods: &[u8] = match credentials {
        None => &[NO_AUTHENTICATION],
        Some(_) => &[NO_AUTHENTICATION, USER_AND_PASSWORD],
    };
    // Two at most.
    send(stream, &[&[SOCKS_VERSION, methods.len() as u8], methods])?;
    let [version, method] = receive(stream)?;
    if version != SOCKS_VERSION {
        return Err(ProxyRefusal::NotAProxy("its answer is not SOCKS5"));
    }
    match (method, credentials) {
        (NO_AUTHENTICATION, _) => {}
        (USER_AND_PASSWORD, Some(credentials)) => authenticate(stream, credentials)?,
        (NO_METHOD, None) => return Err(ProxyRefusal::NoCredentials),
        (NO_METHOD, Some(_)) => return Err(ProxyRefusal::OtherAuthentication),
        _ => return Err(ProxyRefusal::NotAProxy("it chose a way to authenticate that was not offered")),
    }
    let address = match address_of(host) {
        Some(IpAddr::V4(address)) => [&[IPV4], address.octets().as_slice()].concat(),
        Some(IpAddr::V6(address)) => [&[IPV6], address.octets().as_slice()].concat(),
        None => {
            let length = u8::try_from(host.len());
            let length = length.map_err(|_| ProxyRefusal::NotAProxy("SOCKS5 takes no name this long"))?;
            [&[NAME, length], host.as_bytes()].concat()
        }
    };
    send(stream, &[&[SOCKS_VERSION, CONNECT, 0], &address, &port.to_be_bytes()])?;
    let [version, code, _, kind] = receive(stream)?;
    if version != SOCKS_VERSION {
        return Err(ProxyRefusal::NotAProxy("its answer is not SOCKS5"));
    }
    if code != 0 {
        return Err(ProxyRefusal::Socks(code));
    }
    // Where it is connected from is of no interest, but comes before what the gateway says.
    let length = match kind {
        IPV4 => 4,
        IPV6 => 16,
        NAME => usize::from(receive::<1>(stream)?[0]),
        _ => return Err(ProxyRefusal::NotAProxy("its answer has an address of an unknown kind")),
    };
    let mut bound = [0; u8::MAX as usize + 2];
    stream.read_exact(&mut bound[..length + 2])?;
    Ok(())
}

/// RFC 1929.
fn authenticate(
    stream: &mut (impl Read + Write),
    ProxyCredentials { user, password }: &ProxyCredentials,
) -> Result<(), ProxyRefusal> {
    // Neither is longer than a byte counts; that is checked where they are read.
    let length = |bytes: &[u8]| [u8::try_from(bytes.len()).unwrap_or(u8::MAX)];
    send(stream, &[&[PASSWORD_VERSION], &length(user), user, &length(password), password])?;
    match receive(stream)? {
        [PASSWORD_VERSION, 0] => Ok(()),
        [PASSWORD_VERSION, _] => Err(ProxyRefusal::WrongCredentials),
        _ => Err(ProxyRefusal::NotAProxy("its answer to the password is not SOCKS5")),
    }
}

fn send(stream: &mut impl Write, parts: &[&[u8]]) -> io::Result<()> {
    stream.write_all(&parts.concat())?;
    stream.flush()
}

fn receive<const N: usize>(stream: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A proxy whose answers are known beforehand, and which gives them a byte at a time.
    struct Script {
        sent: Vec<u8>,
        answers: Vec<u8>,
        given: usize,
    }

    impl Read for Script {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let Some(byte) = self.answers.get(self.given) else { return Ok(0) };
            buffer[0] = *byte;
            self.given += 1;
            Ok(1)
        }
    }

    impl Write for Script {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.sent.extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn pass(proxy: &str, host: &str, answers: &[u8]) -> (Result<(), ProxyRefusal>, Script) {
        let mut script = Script { sent: Vec::new(), answers: answers.to_vec(), given: 0 };
        let proxy: Proxy = proxy.parse().unwrap();
        (proxy.pass(&mut script, host, 443), script)
    }

    /// The exchange succeeds, with exactly these bytes, and fails wherever the proxy breaks off.
    #[track_caller]
    fn check(proxy: &str, host: &str, sent: &[u8], answers: &[u8]) {
        let (result, script) = pass(proxy, host, answers);
        result.unwrap();
        assert_eq!(script.sent, sent, "{}", String::from_utf8_lossy(&script.sent));
        assert_eq!(script.given, answers.len());
        for cut in 0..answers.len() {
            let (result, script) = pass(proxy, host, &answers[..cut]);
            let error = result.unwrap_err();
            assert!(matches!(error, ProxyRefusal::Io(_)), "cut at {cut}: {error}");
            assert!(sent.starts_with(&script.sent), "cut at {cut}");
        }
    }

    #[track_caller]
    fn refused(proxy: &str, answers: &[u8], expected: &str) {
        let (result, _) = pass(proxy, "gw.example", answers);
        assert_eq!(result.unwrap_err().to_string(), expected);
    }

    #[test]
    fn connect_transcripts() {
        let agent = concat!("User-Agent: tunnel-agent/", env!("CARGO_PKG_VERSION"), "\r\n");
        let plain = format!("CONNECT gw.example:443 HTTP/1.1\r\nHost: gw.example:443\r\n{agent}\r\n");
        for answer in [
            "HTTP/1.1 200 OK\r\n\r\n",
            "HTTP/1.0 200 Connection established\r\nProxy-agent: tinyproxy/1.11.1\r\n\r\n",
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
            // It has no body, whatever it says (RFC 9110 §9.3.6).
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n",
        ] {
            check("proxy:3128", "gw.example", plain.as_bytes(), answer.as_bytes());
        }
        let literal = format!("CONNECT [2001:db8::1]:443 HTTP/1.1\r\nHost: [2001:db8::1]:443\r\n{agent}\r\n");
        check("proxy", "[2001:db8::1]", literal.as_bytes(), b"HTTP/1.1 204 No Content\r\n\r\n");
        let with = plain.replace("\r\n\r\n", "\r\nProxy-Authorization: Basic bWU6czNAY3JldA==\r\n\r\n");
        check("me:s3%40cret@proxy", "gw.example", with.as_bytes(), b"HTTP/1.1 200 OK\r\n\r\n");
    }

    #[test]
    fn refusals_of_connect() {
        let proxy = "http://proxy";
        let credentials = "it wants a user name and password";
        refused(proxy, b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", credentials);
        refused(proxy, b"HTTP/1.0 401 Unauthorized\r\nServer: tinyproxy/1.11.1\r\n\r\n", credentials);
        let basic = b"HTTP/1.1 407 X\r\nProxy-Authenticate: Negotiate\r\nProxy-Authenticate: BASIC realm=\"x\"\r\n\r\n";
        refused(proxy, basic, credentials);
        refused("me:word@proxy", basic, "it does not take this user name and password");
        let other =
            "it wants to know who asks in another way than by user name and password, which is not supported";
        for way in ["NTLM", "Digest realm=\"basics\", nonce=\"x\""] {
            let answer = format!("HTTP/1.1 407 X\r\nProxy-Authenticate: {way}\r\n\r\n");
            refused("me:word@proxy", answer.as_bytes(), other);
        }
        let interim = b"HTTP/1.1 100 Continue\r\n\r\n".repeat(9);
        refused(proxy, &interim, "it answered CONNECT with 100 Continue");
        refused(proxy, b"HTTP/1.1 403 Filtered\r\n\r\n", "it answered CONNECT with 403 Forbidden");
        refused(proxy, b"HTTP/1.1 101 Up\r\n\r\n", "it answered CONNECT with 101 Switching Protocols");
        refused(
            proxy,
            b"HTTP/1.1 302 Found\r\nLocation: /login\r\n\r\n",
            "it answered CONNECT with 302 Found",
        );
        refused(proxy, b"SSH-2.0-OpenSSH\r\n", "it is no such proxy: its answer is not HTTP");
        refused(proxy, b"\x05\x00", "it is no such proxy: its answer is not HTTP");
        let endless = [b"HTTP/1.1 200 OK\r\nX: ".as_slice(), &[b'x'; UPGRADE_HEAD_MAX]].concat();
        refused(proxy, &endless, "it is no such proxy: its answer is not HTTP");
        // Bytes behind its answer are not the gateway's, which has heard nothing yet.
        struct Chatty(Option<&'static [u8]>);
        impl Read for Chatty {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                let bytes = self.0.take().unwrap_or_default();
                buffer[..bytes.len()].copy_from_slice(bytes);
                Ok(bytes.len())
            }
        }
        impl Write for Chatty {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                Ok(bytes.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let chatty = &mut Chatty(Some(b"HTTP/1.1 200 OK\r\n\r\nHTTP/1.1 101"));
        let error = proxy.parse::<Proxy>().unwrap().pass(chatty, "gw.example", 443).unwrap_err();
        assert_eq!(error.to_string(), "it is no such proxy: it speaks unasked");
    }

    #[test]
    fn socks5_transcripts() {
        let by_name = b"\x05\x01\x00\x05\x01\x00\x03\x0agw.example\x01\xbb";
        for bound in [
            b"\x01\x7f\x00\x00\x01\x1f\x90".as_slice(),
            b"\x03\x09proxy.int\x00\x00",
            b"\x03\x00\x00\x00",
            b"\x04\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01\x1f\x90",
        ] {
            let answers = [b"\x05\x00\x05\x00\x00", bound].concat();
            check("socks5://proxy", "gw.example", by_name, &answers);
        }
        let ok = b"\x05\x00\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00";
        check("socks5://proxy", "192.0.2.7", b"\x05\x01\x00\x05\x01\x00\x01\xc0\x00\x02\x07\x01\xbb", ok);
        let v6 = b"\x05\x01\x00\x05\x01\x00\x04\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01\x01\xbb";
        check("socks5h://proxy", "[2001:db8::1]", v6, ok);
        // With a password the proxy chooses.
        let with = b"\x05\x02\x00\x02\x01\x02me\x06s3cret\x05\x01\x00\x03\x0agw.example\x01\xbb";
        let answers = [b"\x05\x02\x01\x00", &ok[2..]].concat();
        check("socks5://me:s3cret@proxy", "gw.example", with, &answers);
        let without = b"\x05\x02\x00\x02\x05\x01\x00\x03\x0agw.example\x01\xbb";
        check("socks5://me:s3cret@proxy", "gw.example", without, ok);
    }

    #[test]
    fn refusals_of_socks5() {
        let (plain, with) = ("socks5://proxy", "socks5://me:s3cret@proxy");
        refused(plain, b"\x05\xff", "it wants a user name and password");
        refused(with, b"\x05\x02\x01\x01", "it does not take this user name and password");
        refused(plain, b"HTTP/1.1 400 Bad Request\r\n\r\n", "it is no such proxy: its answer is not SOCKS5");
        let unoffered = "it is no such proxy: it chose a way to authenticate that was not offered";
        refused(plain, b"\x05\x02", unoffered);
        refused(with, b"\x05\x01", unoffered);
        refused(with, b"\x05\x02\x05\x00", "it is no such proxy: its answer to the password is not SOCKS5");
        refused(plain, b"\x05\x00\x05\x02\x00\x01", "its rules do not allow the connection");
        refused(plain, b"\x05\x00\x05\x05\x00\x01", "the gateway refused its connection");
        refused(plain, b"\x05\x00\x05\x63\x00\x01", "it refused with the SOCKS5 code 99");
        let kind = "it is no such proxy: its answer has an address of an unknown kind";
        refused(plain, b"\x05\x00\x05\x00\x00\x02", kind);
    }
}
