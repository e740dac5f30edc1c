//! How requests reach a local server, at a URL that was named or wherever there is one.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Condvar, Mutex, RwLock, RwLockReadGuard};
use std::time::{Duration, Instant};

use http::header::{HeaderValue, USER_AGENT};
use http::uri::PathAndQuery;
use http::{Method, StatusCode, Uri};

use super::Config;
use super::choice::{Choice, Look, Machine};
use super::health::{self, CHECK_TIME};
use crate::discover::{self, Found};
use crate::origin::{LocalUrl, Origin, Timeouts};
use crate::service::{Body, Failure, FailureKind, Request, Service};

const USER_AGENT_OF_CHECKS: HeaderValue =
    HeaderValue::from_static(concat!("tunnel-agent/", env!("CARGO_PKG_VERSION"), " (health check)"));

/// The server that is asked, and how it came to be that one.
pub(super) enum Servers {
    Named(Arc<Server>),
    Searched(Box<Search>),
}

/// A server that is looked for on this machine.
pub(super) struct Search {
    machine: discover::Search,
    /// Ports at which there is nothing to look for.
    except: Vec<u16>,
    choice: Mutex<Choice>,
    /// The last is the one that is taken. Those before it still have answers to give.
    servers: RwLock<Vec<Arc<Server>>>,
    /// Whether the first look is over: until then nobody knows that there is no server.
    has_looked: (Mutex<bool>, Condvar),
}

/// How requests reach one server.
pub(crate) struct Server {
    pub(crate) url: LocalUrl,
    pub(crate) origin: Origin,
    /// Another one for checks, with connections and time limits of their own, and what is asked for.
    checks: Option<(Origin, PathAndQuery)>,
}

impl Server {
    pub(super) fn new(url: LocalUrl, config: &Config) -> Self {
        let tls = config.tls.clone().filter(|_| url.is_secure());
        let origin = |timeouts| Origin::new(url.clone(), config.host.clone(), tls.clone(), timeouts);
        let time = Timeouts { connect: CHECK_TIME, response: CHECK_TIME, idle: CHECK_TIME };
        let checks = config.checks.as_ref().map(|checks| (origin(time), checks.path.clone()));
        Server { origin: origin(config.timeouts), checks, url }
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

    /// Asks for `HEAD /`, with the time that a request has.
    pub(crate) fn answer(&self) -> Result<StatusCode, Failure> {
        let mut request = Request::new(Body::empty());
        *request.method_mut() = Method::HEAD;
        request.headers_mut().insert(USER_AGENT, USER_AGENT_OF_CHECKS);
        self.origin.call(request).map(|response| response.status())
    }

    /// Whether it can be connected to.
    pub(super) fn is_reachable(&self) -> bool {
        let endpoint = self.origin.endpoint();
        endpoint.resolve().and_then(|addresses| endpoint.connect(&addresses)).is_ok()
    }

    /// Asks for the path of the health checks, if there are any. Any status below 500 is a good answer.
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

impl Servers {
    /// The server that is asked, unless none is found yet.
    pub(super) fn server(&self) -> Option<Arc<Server>> {
        match self {
            Servers::Named(server) => Some(server.clone()),
            Servers::Searched(search) => search.servers().last().cloned(),
        }
    }

    /// Whether this server is the one that is asked.
    pub(super) fn is_at(&self, server: &Arc<Server>) -> bool {
        match self {
            Servers::Named(_) => true,
            Servers::Searched(search) => {
                search.servers().last().is_some_and(|last| Arc::ptr_eq(last, server))
            }
        }
    }

    /// Does this to the server that is asked, and to those that still have answers to give.
    pub(super) fn each(&self, act: impl Fn(&Server)) {
        match self {
            Servers::Named(server) => act(server),
            Servers::Searched(search) => {
                let servers = search.servers().clone();
                servers.iter().for_each(|server| act(server));
            }
        }
    }
}

impl Search {
    /// Wherever there is one, but for these ports.
    pub(super) fn new(except: Vec<u16>) -> Self {
        Search {
            machine: discover::Search::default(),
            except,
            choice: Mutex::new(Choice::new()),
            servers: RwLock::default(),
            has_looked: Default::default(),
        }
    }

    /// Looks around; see [`Choice::look`].
    pub(super) fn look(&self, is_well: bool) -> (Look, Option<Duration>) {
        // Nothing panics while the lock is held; and nobody takes it but whoever looks after the server.
        let mut choice = self.choice.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        choice.look(is_well, Instant::now(), self)
    }

    /// Ends a search that is under way, and all that would come.
    pub(super) fn stop(&self) {
        self.machine.stop();
        self.has_looked();
    }

    /// A look is over, and what it found is taken.
    pub(super) fn has_looked(&self) {
        let (has_looked, changed) = &self.has_looked;
        // Nothing panics while the lock is held.
        *has_looked.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = true;
        changed.notify_all();
    }

    /// Waits until the first look is over, for as long as that may take.
    pub(super) fn wait_for_first_look(&self) {
        if !self.servers().is_empty() {
            return;
        }
        let (has_looked, changed) = &self.has_looked;
        let has_looked = has_looked.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let waited = changed.wait_timeout_while(has_looked, discover::SEARCH_TIME, |looked| !*looked);
        drop(waited.unwrap_or_else(|poisoned| poisoned.into_inner()));
    }

    fn servers(&self) -> RwLockReadGuard<'_, Vec<Arc<Server>>> {
        // Nothing panics while the lock is held.
        self.servers.read().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Requests go to this server from now on.
    pub(super) fn take(&self, server: Server) {
        let mut servers = self.servers.write().unwrap_or_else(|poisoned| poisoned.into_inner());
        let is_busy = |server: &Arc<Server>| Arc::strong_count(server) > 1 || !server.origin.is_idle();
        let (busy, idle): (Vec<_>, Vec<_>) = std::mem::take(&mut *servers).into_iter().partition(is_busy);
        *servers = busy;
        servers.push(Arc::new(server));
        drop(servers);
        // Their connections are closed without the lock.
        drop(idle);
    }
}

impl Machine for Search {
    fn servers(&self) -> Vec<Found> {
        self.machine.servers(&self.except)
    }

    fn ask(&self, address: SocketAddr) -> Option<Found> {
        self.machine.server_at(address)
    }

    fn listens(&self, address: SocketAddr) -> bool {
        let connected = TcpStream::connect_timeout(&address, CHECK_TIME);
        !connected.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
    }
}
