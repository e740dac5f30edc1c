//! From a name to an open socket, with TLS where it is wanted.

use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, Instant};
use std::{fmt, io};

use super::Address;
use super::resolve::Resolver;
use super::socket::Socket;
use super::tls::{self, CertificateFlaw, ClientTls};
use crate::advice::Advice;

/// Why there is no connection.
#[derive(Debug)]
pub enum ConnectError {
    /// The name has no address, or the system did not tell in time.
    Resolve(io::Error),
    /// No connection to this address, the last that was tried.
    Connect(Address, io::Error),
    /// The TLS handshake failed.
    Tls(io::Error),
    /// The connection failed as soon as it was open.
    Socket(io::Error),
}

/// The peer of a connection that the agent opens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Peer {
    Gateway,
    /// A proxy on the way to a gateway.
    Proxy,
    LocalServer,
}

impl ConnectError {
    /// The system's error.
    pub(crate) fn io(&self) -> &io::Error {
        match self {
            ConnectError::Resolve(error)
            | ConnectError::Connect(_, error)
            | ConnectError::Tls(error)
            | ConnectError::Socket(error) => error,
        }
    }

    /// The stable name of the step that failed, for metrics.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            ConnectError::Resolve(_) => "resolve",
            ConnectError::Connect(..) | ConnectError::Socket(_) => "connect",
            ConnectError::Tls(_) => "tls",
        }
    }

    /// A remedy that an operator might try.
    pub(crate) fn advice(&self, peer: Peer) -> Advice {
        if peer == Peer::Proxy {
            return Advice::ProxyAddress;
        }
        let (at_gateway, at_local_server) = match self {
            ConnectError::Resolve(_) => (Advice::GatewayName, Advice::LocalName),
            ConnectError::Connect(_, error) if error.kind() == io::ErrorKind::TimedOut => {
                (Advice::GatewayTimeout, Advice::LocalAddress)
            }
            ConnectError::Connect(Address::Unix(_), error)
                if error.kind() == io::ErrorKind::PermissionDenied =>
            {
                (Advice::GatewayAddress, Advice::LocalPermission)
            }
            ConnectError::Connect(..) | ConnectError::Socket(_) => {
                (Advice::GatewayAddress, Advice::LocalAddress)
            }
            ConnectError::Tls(error) if tls::is_not_tls(error) => {
                (Advice::GatewayIsPlain, Advice::LocalIsPlain)
            }
            ConnectError::Tls(error) if tls::wants_certificate(error) => {
                (Advice::ClientCertificate, Advice::LocalAuthority)
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
            ConnectError::Connect(address, error) => write!(f, "cannot connect to {address}: {error}"),
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
    /// The host's name, which TLS is to prove.
    pub(crate) name: &'a str,
    pub(crate) tls: Option<ClientTls>,
    /// The time limit of each step.
    pub(crate) timeout: Duration,
}

impl Endpoint<'_> {
    pub(crate) fn resolve(&self) -> Result<Vec<Address>, ConnectError> {
        self.resolver.look_up(self.timeout).map_err(|error| ConnectError::Resolve(named(error)))
    }

    pub(crate) fn connect(&self, addresses: &[Address]) -> Result<Socket, ConnectError> {
        connect(addresses, Instant::now() + self.timeout)
    }

    pub(crate) fn start_tls(&self, socket: Socket, tls: &ClientTls) -> Result<Socket, ConnectError> {
        secure(socket, self.name, tls, Instant::now() + self.timeout)
    }
}

/// Connects to the first of these addresses that accepts, with TLS if it is given, and leaves the socket without a
/// deadline.
pub(crate) fn open(
    addresses: &[Address],
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

/// Opens TLS, and leaves the socket without a deadline.
pub(crate) fn secure(
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
pub(crate) fn connect(addresses: &[Address], deadline: Instant) -> Result<Socket, ConnectError> {
    let mut last = ConnectError::Resolve(io::ErrorKind::NotFound.into());
    for (index, address) in addresses.iter().enumerate() {
        let remaining = deadline.saturating_duration_since(Instant::now());
        let share = remaining / u32::try_from(addresses.len() - index).unwrap_or(u32::MAX);
        if share.is_zero() {
            return Err(ConnectError::Connect(address.clone(), named(io::ErrorKind::TimedOut.into())));
        }
        let failed = |error| ConnectError::Connect(address.clone(), named(error));
        let connected = match address {
            Address::Tcp(address) => TcpStream::connect_timeout(address, share).map_err(failed),
            Address::Unix(path) => return connect_unix(path, share).map_err(failed),
        };
        match connected {
            Ok(tcp) => return Socket::plain(tcp).map_err(ConnectError::Socket),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// The system waits where a server has as many connections as it takes, for as long as a write of the socket may.
#[cfg(unix)]
fn connect_unix(path: &Path, limit: Duration) -> io::Result<Socket> {
    let socket = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None)?;
    socket.set_write_timeout(Some(limit))?;
    socket.connect(&socket2::SockAddr::unix(path)?).map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => io::ErrorKind::TimedOut.into(),
        _ => error,
    })?;
    socket.set_write_timeout(None)?;
    Ok(Socket::unix(socket.into()))
}

#[cfg(not(unix))]
fn connect_unix(_: &Path, _: Duration) -> io::Result<Socket> {
    Err(io::Error::new(io::ErrorKind::Unsupported, "this system has no Unix sockets"))
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
