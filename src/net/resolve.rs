//! Names to addresses, with a deadline and without a thread per look-up.

use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;
use std::{io, thread};

use super::Address;
use super::local::without_brackets;
use crate::sync::{lock, wait_timeout_while};

/// Most addresses of one name that are tried.
pub const ADDRESSES_MAX: usize = 8;

/// Enough for the system's resolver.
const STACK: usize = 256 << 10;

/// Resolves one host and port, again and again; or a Unix socket, which needs no look-up.
///
/// The system's resolver has no deadline, so a look-up runs in a thread of its own. When it takes longer
/// than its caller can wait, the next caller waits for the same look-up: there is never more than one
/// thread, and it may outlive the agent.
#[derive(Debug)]
pub struct Resolver {
    host: String,
    port: u16,
    unix: Option<Arc<Path>>,
    shared: Arc<Lookup>,
}

#[derive(Debug, Default)]
struct Lookup {
    state: Mutex<State>,
    done: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// The addresses that were found last.
    known: Option<Vec<Address>>,
    running: bool,
    /// Why the last look-up found nothing, if it did not.
    failed: Option<(io::ErrorKind, String)>,
}

impl Lookup {
    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

impl Resolver {
    /// For this host, a name or an address (an IPv6 one without its brackets).
    pub fn new(host: &str, port: u16) -> Self {
        let host = without_brackets(host).to_owned();
        Resolver { host, port, unix: None, shared: Arc::default() }
    }

    /// For a Unix socket, whose server has this name.
    pub fn unix(path: Arc<Path>, host: &str) -> Self {
        Resolver { unix: Some(path), ..Resolver::new(host, 0) }
    }

    /// The name or address that is resolved.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The addresses that were found last, or those that a look-up finds within `timeout`.
    pub fn cached(&self, timeout: Duration) -> io::Result<Vec<Address>> {
        let known = self.shared.state().known.clone();
        known.map_or_else(|| self.look_up(timeout), Ok)
    }

    /// The addresses that a look-up finds within `timeout`; when it finds none, those that were found last.
    pub fn look_up(&self, timeout: Duration) -> io::Result<Vec<Address>> {
        if let Some(path) = &self.unix {
            return Ok(vec![Address::Unix(path.clone())]);
        }
        if let Ok(ip) = self.host.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(ip, self.port).into()]);
        }
        let mut state = self.shared.state();
        if !state.running {
            self.start()?;
            state.running = true;
        }
        // The lock is free while it waits, so callers wait side by side.
        let state = wait_timeout_while(&self.shared.done, state, timeout, |state| state.running);
        match (&state.known, &state.failed) {
            (Some(known), _) => Ok(known.clone()),
            (None, Some((kind, text))) if !state.running => Err(io::Error::new(*kind, text.clone())),
            (None, _) => Err(io::ErrorKind::TimedOut.into()),
        }
    }

    fn start(&self) -> io::Result<()> {
        let shared = self.shared.clone();
        let target = (self.host.clone(), self.port);
        let look_up = move || {
            let found = target
                .to_socket_addrs()
                .map(|all| all.take(ADDRESSES_MAX).map(Address::Tcp).collect::<Vec<_>>());
            let mut state = shared.state();
            state.running = false;
            state.failed = None;
            match found {
                Ok(found) if !found.is_empty() => state.known = Some(found),
                Ok(_) => state.failed = Some((io::ErrorKind::NotFound, "the name has no address".to_owned())),
                Err(error) => state.failed = Some((error.kind(), error.to_string())),
            }
            shared.done.notify_all();
        };
        thread::Builder::new().name("resolver".to_owned()).stack_size(STACK).spawn(look_up).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_needs_no_look_up() {
        let addresses = Resolver::new("127.0.0.1", 80).cached(Duration::ZERO).unwrap();
        assert_eq!(addresses, [Address::Tcp("127.0.0.1:80".parse().unwrap())]);
        let addresses = Resolver::new("[::1]", 80).look_up(Duration::ZERO).unwrap();
        assert_eq!(addresses, [Address::Tcp("[::1]:80".parse().unwrap())]);
    }

    #[test]
    fn a_name_is_looked_up_once() {
        let resolver = Resolver::new("localhost", 80);
        let first = resolver.cached(Duration::from_secs(60)).unwrap();
        let is_loopback =
            |address: &Address| matches!(address, Address::Tcp(address) if address.ip().is_loopback());
        assert!(first.iter().all(is_loopback));
        assert_eq!(resolver.cached(Duration::ZERO).unwrap(), first);
    }
}
