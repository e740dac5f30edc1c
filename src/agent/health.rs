//! Asks a running agent whether it lives: for supervisors that know nothing but exit codes.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::Duration;

use super::Agent;

/// How long the answer may take: it is made without waiting.
const ANSWER_TIME: Duration = Duration::from_secs(3);

/// The longest answer that is read, in bytes.
const ANSWER_MAX: u64 = 16 << 10;

impl Agent {
    /// Whether the agent that runs with this configuration lives, as its admin server says: the line that it answers, or why
    /// it does not. `None` where the configuration has no admin server.
    #[doc(hidden)]
    pub fn ask_health(&self) -> Option<Result<String, String>> {
        let address = reachable(self.core.process.admin?);
        Some(match ask(address) {
            Ok((true, line)) => Ok(line),
            Ok((false, line)) => Err(line),
            Err(error) => Err(format!("no answer at http://{address}/healthz: {error}")),
        })
    }
}

/// The address at which a server is reached that listens here.
fn reachable(listens: SocketAddr) -> SocketAddr {
    let ip = match listens.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listens.port())
}

/// Whether the answer is 200, and the first line of its body.
fn ask(address: SocketAddr) -> io::Result<(bool, String)> {
    let mut socket = TcpStream::connect_timeout(&address, ANSWER_TIME)?;
    socket.set_read_timeout(Some(ANSWER_TIME))?;
    let request = format!("GET /healthz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    socket.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    socket.take(ANSWER_MAX).read_to_end(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer);
    let line = answer.split_once("\r\n\r\n").and_then(|(_, body)| body.lines().next());
    let line = line.unwrap_or("it answered nothing").escape_debug().to_string();
    Ok((answer.starts_with("HTTP/1.1 200 "), line))
}
