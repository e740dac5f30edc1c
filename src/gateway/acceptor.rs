//! Accepts connections, and gives each a place and a thread.

use std::net::{IpAddr, TcpListener, TcpStream};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};
use std::{io, thread};

use log::{debug, warn};

use super::door::Door;
use super::visitor_connections::VisitorConnection;
use super::{CLOSE_WAIT, EXHAUSTED_WAIT, GatewayCore, STACK, THREADS_MAX, TLS_TIME, WARN_EVERY, connection};
use crate::net::Socket;
use crate::net::network::counted_as;
use crate::net::tls::describe;
use crate::sync::{lock, wait_timeout_while};

/// The number of connections' threads.
#[derive(Debug, Default)]
pub(super) struct ConnectionThreads {
    count: Mutex<usize>,
    ended: Condvar,
}

/// Counts a connection's thread for as long as it lives.
struct ConnectionThread(Arc<GatewayCore>);

impl ConnectionThread {
    /// One more, if there may be one.
    fn count(gateway: &Arc<GatewayCore>) -> Option<Self> {
        let mut count = lock(&gateway.connections.count);
        let counted = (*count < THREADS_MAX).then(|| ConnectionThread(gateway.clone()));
        *count += usize::from(counted.is_some());
        counted
    }
}

impl Drop for ConnectionThread {
    fn drop(&mut self) {
        *lock(&self.0.connections.count) -= 1;
        self.0.connections.ended.notify_all();
    }
}

impl ConnectionThreads {
    /// Waits until all have ended, at most this long.
    pub(super) fn wait_for_none(&self, limit: Duration) {
        drop(wait_timeout_while(&self.ended, lock(&self.count), limit, |count| *count > 0));
    }
}

/// Ends the acceptor. The system refuses further connections, for a balancer to notice.
pub(super) fn refuse_more(listener: &TcpListener) {
    // The acceptor accepts the connections that wait already, and ends: woken by one more.
    if let (Ok(()), Ok(address)) = (listener.set_nonblocking(true), listener.local_addr()) {
        let _ = TcpStream::connect_timeout(&address, CLOSE_WAIT);
    }
}

pub(super) fn accept(door: Door, listener: &TcpListener, gateway: &Arc<GatewayCore>) {
    let mut warned: Option<Instant> = None;
    loop {
        let taken = listener.accept().and_then(|(socket, _)| take(socket, door, gateway));
        let Err(error) = taken else { continue };
        // No connection waits any more.
        if gateway.stopping.load(Ordering::SeqCst) {
            return;
        }
        if warned.is_none_or(|at| at.elapsed() >= WARN_EVERY) {
            warned = Some(Instant::now());
            warn!("cannot take a connection: {error}");
        }
        gateway.visitors.make_room();
        thread::sleep(EXHAUSTED_WAIT);
    }
}

/// Gives a connection a place and a thread, or closes it. An error means that the system gives no more.
fn take(socket: TcpStream, door: Door, gateway: &Arc<GatewayCore>) -> io::Result<()> {
    let Ok((socket, address)) = socket.peer_addr().and_then(|peer| Ok((Socket::plain(socket)?, peer.ip())))
    else {
        // It has gone again.
        return Ok(());
    };
    let counted = ConnectionThread::count(gateway);
    let Some((counted, visitor)) = counted.zip(enter(&socket, address.to_canonical(), gateway)) else {
        gateway.metrics.turned_away();
        warn!("closed a connection, since there is no place for it");
        return Ok(());
    };
    let thread = thread::Builder::new().name("connection".to_owned()).stack_size(STACK);
    let serve = move || {
        let gateway = &counted.0;
        let served =
            open(socket, door, gateway).and_then(|socket| connection::serve(socket, door, visitor, gateway));
        if let Err(error) = served {
            debug!("connection ended: {error}");
        }
    };
    thread.spawn(serve).map(drop)
}

/// A new connection with its place, before anything else is known of it, so that it is not overlooked when the gateway
/// stops.
fn enter(socket: &Socket, address: IpAddr, gateway: &GatewayCore) -> Option<VisitorConnection> {
    let is_free = address.is_loopback() || gateway.settings.proxies.trusts(address);
    let counted = (!is_free).then(|| counted_as(address));
    gateway.visitors.enter(socket.closer(), socket.traffic(), counted, Instant::now())
}

fn open(mut socket: Socket, door: Door, gateway: &GatewayCore) -> io::Result<Socket> {
    let Some(tls) = gateway.settings.credentials.tls(door) else { return Ok(socket) };
    socket.set_deadline(Some(Instant::now() + gateway.patience(TLS_TIME)))?;
    let peer = socket.peer()?;
    let traffic = socket.traffic();
    socket.accept_tls(&tls).inspect_err(|error| {
        // Balancers look whether a port is open, and the gateway wakes itself so when it stops.
        if traffic.received() == 0 {
            return;
        }
        gateway.metrics.handshake_failed(door);
        // Elsewhere anybody may come with anything.
        if door == Door::Agents {
            warn!("closed a connection from {peer} to the agents' address: TLS failed: {}", describe(error));
        }
    })
}
