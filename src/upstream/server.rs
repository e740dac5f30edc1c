//! One local server, and how an upstream comes by it: at a URL that was named, or by a search of this machine.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Condvar, Mutex, RwLock, RwLockReadGuard};
use std::time::{Duration, Instant};

use http::header::{HeaderValue, USER_AGENT};
use http::uri::PathAndQuery;
use http::{Method, StatusCode, Uri};

use super::UpstreamConfig;
use super::detect::{LocalServer, PortScan, SEARCH_TIME};
use super::health::{self, CHECK_TIME};
use super::origin::{LocalUrl, Origin, Timeouts};
use super::selector::{Decision, LocalPorts, Selector, Wellness};
use crate::net::ConnectError;
use crate::service::{Body, Failure, FailureKind, Request, Service};
use crate::sync::{lock, read, wait_timeout_while, write};

const USER_AGENT_OF_CHECKS: HeaderValue =
    HeaderValue::from_static(concat!("tunnel-agent/", env!("CARGO_PKG_VERSION"), " (health check)"));

/// One local server.
pub(crate) struct UpstreamServer {
    pub(crate) url: LocalUrl,
    pub(crate) origin: Origin,
    /// A second origin for checks, with connections and time limits of its own, and the path that is checked.
    pub(crate) checks: Option<(Origin, PathAndQuery)>,
}

impl UpstreamServer {
    pub(super) fn new(url: LocalUrl, config: &UpstreamConfig) -> Self {
        let tls = config.tls.clone().filter(|_| url.is_secure());
        let origin = |timeouts| Origin::new(url.clone(), config.host.clone(), tls.clone(), timeouts);
        let time = Timeouts { connect: CHECK_TIME, response: CHECK_TIME, idle: CHECK_TIME };
        let checks = config.checks.as_ref().map(|checks| (origin(time), checks.path.clone()));
        UpstreamServer { origin: origin(config.timeouts), checks, url }
    }

    pub(super) fn interrupt(&self) {
        self.origin.interrupt();
        self.interrupt_check();
    }

    pub(super) fn interrupt_check(&self) {
        if let Some((origin, _)) = &self.checks {
            origin.interrupt();
        }
    }

    /// Sends `HEAD /`, with the time limits of a request.
    pub(crate) fn probe(&self) -> Result<StatusCode, Failure> {
        let mut request = Request::new(Body::empty());
        *request.method_mut() = Method::HEAD;
        request.headers_mut().insert(USER_AGENT, USER_AGENT_OF_CHECKS);
        self.origin.call(request).map(|response| response.status())
    }

    /// Opens a connection, and closes it.
    pub(super) fn reach(&self) -> Result<(), ConnectError> {
        let endpoint = self.origin.endpoint();
        endpoint.resolve().and_then(|addresses| endpoint.connect(&addresses)).map(drop)
    }

    /// Sends a health check, if there are any. Any status below 500 passes.
    pub(crate) fn check(&self) -> Option<Result<StatusCode, Failure>> {
        let (origin, path) = self.checks.as_ref()?;
        let mut request = Request::new(Body::empty());
        *request.uri_mut() = Uri::from(path.clone());
        request.headers_mut().insert(USER_AGENT, USER_AGENT_OF_CHECKS);
        Some(match origin.call(request).map(|response| response.status()) {
            Ok(status) if health::is_good(status) => Ok(status),
            Ok(status) => Err(Failure::new(FailureKind::Protocol, format!("it answered {status}"))),
            Err(failure) => Err(failure),
        })
    }
}

/// Where the server of an upstream comes from.
pub(super) enum ServerSource {
    Named(Arc<UpstreamServer>),
    Searched(Box<ServerSearch>),
}

impl ServerSource {
    /// The current server, unless none is found yet.
    pub(super) fn current(&self) -> Option<Arc<UpstreamServer>> {
        match self {
            ServerSource::Named(server) => Some(server.clone()),
            ServerSource::Searched(search) => search.servers().last().cloned(),
        }
    }

    /// Whether this server is the current one.
    pub(super) fn is_current(&self, server: &Arc<UpstreamServer>) -> bool {
        match self {
            ServerSource::Named(_) => true,
            ServerSource::Searched(search) => {
                search.servers().last().is_some_and(|last| Arc::ptr_eq(last, server))
            }
        }
    }

    /// Applies `act` to the current server, and to its predecessors with requests under way.
    pub(super) fn each(&self, act: impl Fn(&UpstreamServer)) {
        match self {
            ServerSource::Named(server) => act(server),
            ServerSource::Searched(search) => {
                let servers = search.servers().clone();
                servers.iter().for_each(|server| act(server));
            }
        }
    }
}

/// Whether the first search has come to an end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum FirstSearch {
    #[default]
    Pending,
    Done,
}

/// A server that is searched for on this machine.
pub(super) struct ServerSearch {
    scan: PortScan,
    /// Ports that are left out.
    except: Vec<u16>,
    selector: Mutex<Selector>,
    /// The last is the current one. Its predecessors have requests under way.
    servers: RwLock<Vec<Arc<UpstreamServer>>>,
    first: Mutex<FirstSearch>,
    first_done: Condvar,
}

impl ServerSearch {
    /// A search of all ports but these.
    pub(super) fn new(except: Vec<u16>) -> Self {
        ServerSearch {
            scan: PortScan::default(),
            except,
            selector: Mutex::new(Selector::new()),
            servers: RwLock::default(),
            first: Mutex::default(),
            first_done: Condvar::new(),
        }
    }

    /// Decides which server is to be the current one; see [`Selector::decide`].
    pub(super) fn decide(&self, wellness: Wellness) -> (Decision, Option<Duration>) {
        // Only the thread that monitors the upstream takes the lock.
        lock(&self.selector).decide(wellness, Instant::now(), self)
    }

    /// Ends a scan that is under way, and all further ones.
    pub(super) fn stop(&self) {
        self.scan.stop();
        self.finish_first();
    }

    /// Records that a search has ended, and that its result is in place.
    pub(super) fn finish_first(&self) {
        *lock(&self.first) = FirstSearch::Done;
        self.first_done.notify_all();
    }

    /// Waits until the first search has ended, for as long as it may take.
    pub(super) fn wait_for_first(&self) {
        if !self.servers().is_empty() {
            return;
        }
        let is_pending = |first: &mut FirstSearch| *first == FirstSearch::Pending;
        drop(wait_timeout_while(&self.first_done, lock(&self.first), SEARCH_TIME, is_pending));
    }

    fn servers(&self) -> RwLockReadGuard<'_, Vec<Arc<UpstreamServer>>> {
        read(&self.servers)
    }

    /// Makes this server the current one.
    pub(super) fn switch_to(&self, server: UpstreamServer) {
        let mut servers = write(&self.servers);
        let is_busy =
            |server: &Arc<UpstreamServer>| Arc::strong_count(server) > 1 || !server.origin.is_idle();
        let (busy, idle): (Vec<_>, Vec<_>) = std::mem::take(&mut *servers).into_iter().partition(is_busy);
        *servers = busy;
        servers.push(Arc::new(server));
        drop(servers);
        // Their connections are closed without the lock.
        drop(idle);
    }
}

impl LocalPorts for ServerSearch {
    fn servers(&self) -> Vec<LocalServer> {
        self.scan.servers(&self.except)
    }

    fn server_at(&self, address: SocketAddr) -> Option<LocalServer> {
        self.scan.server_at(address)
    }

    fn is_listening(&self, address: SocketAddr) -> bool {
        let connected = TcpStream::connect_timeout(&address, CHECK_TIME);
        !connected.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
    }
}
