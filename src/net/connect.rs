//! From a name to an open socket, with TLS where it is wanted.

use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};
use std::{fmt, io};

use super::resolve::Resolver;
use super::socket::Socket;
use super::tls::{self, CertificateFlaw, ClientTls};
use crate::advice::Advice;

/// Why there is no connection.
#[derive(Debug)]
pub enum ConnectError {
    /// The name has no address, or the system did not tell in time.
    Resolve(io::Error),
    /// No TCP connection to this address, the last that was tried.
    Tcp(SocketAddr, io::Error),
    /// The TLS handshake failed.
    Tls(io::Error),
    /// The connection failed as soon as it was open.
    Socket(io::Error),
}

/// The peer of a connection that the agent opens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Peer {
    Gateway,
    LocalServer,
}

impl ConnectError {
    /// The system's error.
    pub(crate) fn io(&self) -> &io::Error {
        match self {
            ConnectError::Resolve(error)
            | ConnectError::Tcp(_, error)
            | ConnectError::Tls(error)
            | ConnectError::Socket(error) => error,
        }
    }

    /// The stable name of the step that failed, for metrics.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            ConnectError::Resolve(_) => "resolve",
            ConnectError::Tcp(..) | ConnectError::Socket(_) => "connect",
            ConnectError::Tls(_) => "tls",
        }
    }

    /// What an operator might do.
    pub(crate) fn advice(&self, peer: Peer) -> Advice {
        let (at_gateway, at_local_server) = match self {
            ConnectError::Resolve(_) => (Advice::GatewayName, Advice::LocalName),
            ConnectError::Tcp(_, error) if error.kind() == io::ErrorKind::TimedOut => {
                (Advice::GatewayTimeout, Advice::LocalAddress)
            }
            ConnectError::Tcp(..) | ConnectError::Socket(_) => (Advice::GatewayAddress, Advice::LocalAddress),
            ConnectError::Tls(error) if tls::is_not_tls(error) => {
                (Advice::GatewayIsPlain, Advice::LocalIsPlain)
            }
            ConnectError::Tls(error) => match tls::flaw(error) {
                Some(CertificateFlaw::WrongName) => {
                    (Advice::GatewayCertificateName, Advice::LocalCertificateName)
                }
                Some(CertificateFlaw::Expired | CertificateFlaw::NotYetValid) => {
                    (Advice::CertificateDates, Advice::CertificateDates)
                }
                None => (Advice::GatewayAuthority, Advice::LocalAuthority),
            },
        };
        if peer == Peer::Gateway { at_gateway } else { at_local_server }
    }
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ConnectError::Resolve(error) => write!(f, "its name cannot be resolved: {error}"),
            ConnectError::Tcp(address, error) => write!(f, "cannot connect to {address}: {error}"),
            ConnectError::Tls(error) => write!(f, "TLS failed: {}", tls::describe(error)),
            ConnectError::Socket(error) => write!(f, "the connection failed at once: {error}"),
        }
    }
}

impl std::error::Error for ConnectError {}

/// The steps to one host, for callers that take one at a time.
#[derive(Debug, Clone)]
pub(crate) struct Endpoint<'a> {
    pub(crate) resolver: &'a Resolver,
    pub(crate) tls: Option<ClientTls>,
    /// The time limit of each step.
    pub(crate) timeout: Duration,
}

impl Endpoint<'_> {
    pub(crate) fn resolve(&self) -> Result<Vec<SocketAddr>, ConnectError> {
        self.resolver.look_up(self.timeout).map_err(|error| ConnectError::Resolve(named(error)))
    }

    pub(crate) fn connect(&self, addresses: &[SocketAddr]) -> Result<Socket, ConnectError> {
        connect(addresses, Instant::now() + self.timeout)
    }

    pub(crate) fn start_tls(&self, socket: Socket, tls: &ClientTls) -> Result<Socket, ConnectError> {
        secure(socket, self.resolver.host(), tls, Instant::now() + self.timeout)
    }
}

/// Connects to the first of these addresses that accepts, with TLS if it is given, and leaves the socket without a
/// deadline.
pub(crate) fn open(
    addresses: &[SocketAddr],
    name: &str,
    tls: Option<&ClientTls>,
    deadline: Instant,
) -> Result<Socket, ConnectError> {
    let socket = connect(addresses, deadline)?;
    match tls {
        Some(tls) => secure(socket, name, tls, deadline),
        None => Ok(socket),
    }
}

fn secure(
    mut socket: Socket,
    name: &str,
    tls: &ClientTls,
    deadline: Instant,
) -> Result<Socket, ConnectError> {
    socket.set_deadline(Some(deadline)).map_err(ConnectError::Tls)?;
    let mut socket = socket.start_tls(name, tls).map_err(|error| ConnectError::Tls(named(error)))?;
    socket.set_deadline(None).map_err(ConnectError::Tls)?;
    Ok(socket)
}

/// Tries one address after the other; each gets an equal share of the remaining time.
fn connect(addresses: &[SocketAddr], deadline: Instant) -> Result<Socket, ConnectError> {
    let mut last = ConnectError::Resolve(io::ErrorKind::NotFound.into());
    for (index, &address) in addresses.iter().enumerate() {
        let remaining = deadline.saturating_duration_since(Instant::now());
        let share = remaining / u32::try_from(addresses.len() - index).unwrap_or(u32::MAX);
        if share.is_zero() {
            return Err(ConnectError::Tcp(address, named(io::ErrorKind::TimedOut.into())));
        }
        match TcpStream::connect_timeout(&address, share) {
            Ok(tcp) => return Socket::plain(tcp).map_err(ConnectError::Socket),
            Err(error) => last = ConnectError::Tcp(address, named(error)),
        }
    }
    Err(last)
}

/// Says in words that a time limit passed or that the peer closed; other errors keep the system's text.
pub(crate) fn named(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::TimedOut => io::Error::new(io::ErrorKind::TimedOut, "no answer in time"),
        io::ErrorKind::UnexpectedEof => {
            io::Error::new(io::ErrorKind::UnexpectedEof, "the connection was closed")
        }
        _ => error,
    }
}
