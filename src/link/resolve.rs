//! Names to addresses, with a deadline and without a thread per look-up.

use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::sync::{Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

/// Most addresses of one name that are tried.
pub const ADDRESSES_MAX: usize = 8;

/// Resolves one host and port, again and again.
///
/// The system's resolver has no deadline, so a look-up runs in a thread of its own. When it takes longer
/// than its caller can wait, the next caller waits for the same look-up: there is never more than one
/// thread, and it may outlive the agent.
#[derive(Debug)]
pub struct Resolver {
    host: String,
    port: u16,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    known: Option<Vec<SocketAddr>>,
    running: Option<Receiver<io::Result<Vec<SocketAddr>>>>,
}

impl Resolver {
    /// For this host, a name or an address (an IPv6 one without its brackets).
    pub fn new(host: &str, port: u16) -> Self {
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let known = host.parse::<IpAddr>().ok().map(|ip| vec![SocketAddr::new(ip, port)]);
        Resolver { host, port, state: Mutex::new(State { known, running: None }) }
    }

    /// The name or address that is resolved.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port of every address.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The addresses that were found last, or those that a look-up finds within `timeout`.
    pub fn cached(&self, timeout: Duration) -> io::Result<Vec<SocketAddr>> {
        if let Some(known) = &self.lock().known {
            return Ok(known.clone());
        }
        self.look_up(timeout)
    }

    /// The addresses that a look-up finds within `timeout`; when it finds none, those that were found last.
    pub fn look_up(&self, timeout: Duration) -> io::Result<Vec<SocketAddr>> {
        let mut state = self.lock();
        if self.host.parse::<IpAddr>().is_ok() {
            return Ok(state.known.clone().unwrap_or_default());
        }
        let running = match state.running.take() {
            Some(running) => running,
            None => self.start()?,
        };
        match running.recv_timeout(timeout) {
            Ok(Ok(found)) if !found.is_empty() => {
                state.known = Some(found.clone());
                Ok(found)
            }
            Ok(Ok(_)) => Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address")),
            Ok(Err(error)) => state.known.clone().ok_or(error),
            Err(RecvTimeoutError::Timeout) => {
                state.running = Some(running);
                state.known.clone().ok_or_else(|| io::ErrorKind::TimedOut.into())
            }
            Err(RecvTimeoutError::Disconnected) => Err(io::Error::other("the look-up thread ended")),
        }
    }

    fn start(&self) -> io::Result<Receiver<io::Result<Vec<SocketAddr>>>> {
        let (found, receiver) = mpsc::sync_channel(1);
        let target = (self.host.clone(), self.port);
        thread::Builder::new().name("resolver".to_owned()).stack_size(256 << 10).spawn(move || {
            let addresses = target.to_socket_addrs().map(|all| all.take(ADDRESSES_MAX).collect());
            // Nobody waits any more when the agent has ended meanwhile.
            let _ = found.send(addresses);
        })?;
        Ok(receiver)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while the lock is held.
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_needs_no_look_up() {
        let addresses = Resolver::new("127.0.0.1", 80).cached(Duration::ZERO).unwrap();
        assert_eq!(addresses, ["127.0.0.1:80".parse().unwrap()]);
        let addresses = Resolver::new("[::1]", 80).look_up(Duration::ZERO).unwrap();
        assert_eq!(addresses, ["[::1]:80".parse().unwrap()]);
    }

    #[test]
    fn a_name_is_looked_up_once() {
        let resolver = Resolver::new("localhost", 80);
        let first = resolver.cached(Duration::from_secs(60)).unwrap();
        assert!(first.iter().all(|address| address.ip().is_loopback()));
        assert_eq!(resolver.cached(Duration::ZERO).unwrap(), first);
    }
}
