//! Asks a running agent whether it lives: for supervisors that know nothing but exit codes.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::Duration;

use http::{Method, StatusCode};
use tungstenite::Bytes;

use super::Agent;
use crate::http1::{UPGRADE_HEAD_MAX, end_head, parse_response, write_header, write_request_line};
use crate::protocol::X_TUNNEL_SOURCE;

/// How long the answer may take: it is made without waiting.
const ANSWER_TIME: Duration = Duration::from_secs(3);

/// How an agent's admin server calls what it serves.
const SOURCE: &str = "agent";

/// The longest answer that is read, in bytes.
const ANSWER_MAX: u64 = 16 << 10;

impl Agent {
    /// Whether the agent that runs with this configuration lives, as its admin server says: the line that it answers, or why
    /// it does not. `None` where the configuration has no admin server.
    #[doc(hidden)]
    pub fn ask_health(&self) -> Option<Result<String, String>> {
        let address = reachable(self.core.process.admin?);
        let url = format!("http://{address}/healthz");
        Some(match ask(address) {
            Ok(HealthAnswer::Lives(line)) => Ok(line),
            Ok(HealthAnswer::Fails(line)) => Err(line),
            Ok(HealthAnswer::IsAnother) => {
                Err(format!("what answers at {url} is no admin server of an agent"))
            }
            Err(error) => {
                let is_late = matches!(error.kind(), io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock);
                let seconds = ANSWER_TIME.as_secs();
                Err(match is_late {
                    true => format!("no answer at {url} within {seconds} s: it hangs"),
                    false => format!("no answer at {url}: {error}"),
                })
            }
        })
    }
}

/// The meaning of an answer.
enum HealthAnswer {
    Lives(String),
    Fails(String),
    /// It is another program's.
    IsAnother,
}

/// The address at which a server is reached that listens here.
pub(super) fn reachable(listens: SocketAddr) -> SocketAddr {
    let ip = match listens.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listens.port())
}

/// The answer of the server at this address, with the first line of its body.
fn ask(address: SocketAddr) -> io::Result<HealthAnswer> {
    let mut socket = TcpStream::connect_timeout(&address, ANSWER_TIME)?;
    socket.set_read_timeout(Some(ANSWER_TIME))?;
    let mut request = Vec::new();
    write_request_line(&mut request, &Method::GET, "/healthz");
    write_header(&mut request, "Host", address.to_string().as_bytes());
    write_header(&mut request, "Connection", b"close");
    end_head(&mut request);
    socket.write_all(&request)?;
    let mut answer = Vec::new();
    let read = socket.take(ANSWER_MAX).read_to_end(&mut answer);
    // Another program's may keep the connection.
    if answer.is_empty() {
        read?;
    }
    let Ok(Some((length, head))) = parse_response(&Bytes::copy_from_slice(&answer), UPGRADE_HEAD_MAX) else {
        return Ok(HealthAnswer::IsAnother);
    };
    // That of a gateway says so, too, and others say nothing.
    if head.headers().get(X_TUNNEL_SOURCE).is_none_or(|source| source != SOURCE) {
        return Ok(HealthAnswer::IsAnother);
    }
    let body = String::from_utf8_lossy(&answer[length..]);
    let line = body.lines().next().unwrap_or("it answered nothing").escape_debug().to_string();
    Ok(if head.status() == StatusCode::OK { HealthAnswer::Lives(line) } else { HealthAnswer::Fails(line) })
}
