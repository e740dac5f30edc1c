//! The reference gateway: takes agents on one path, and passes every other request on to one of them. For
//! development, tests, demonstrations and small installations: one process, state in memory only.
//!
//! ```
//! use tunnel_agent::gateway::Gateway;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let gateway = Gateway::builder().listen("127.0.0.1:0".parse()?).build()?.bind()?;
//! println!("agents connect to ws://{}/ws", gateway.address());
//! let running = gateway.spawn()?; // `gateway.run()` would block instead
//!
//! running.handle().shutdown(); // the requests under way may finish
//! running.join()?;
//! # Ok(())
//! # }
//! ```
//!
//! | thread | started by | what it does |
//! | --- | --- | --- |
//! | `gateway` | [`BoundGateway::spawn`] | waits for the shutdown, and stops the others |
//! | `acceptor` | [`BoundGateway::run`] | accepts connections at one address, and starts a thread for each |
//! | `connection` | the acceptor | reads requests and writes their responses; after an agent's upgrade it reads the agent's messages |
//! | `agent-writer` | an agent's connection | writes what is sent to the agent |
//! | `admin` | [`BoundGateway::run`] | answers the operator, where there is an address for that |
//! | `visitor` | a connection whose request lasts | reads the rest of the request's body, and notices that the visitor disconnects |
//!
//! | module | the question it answers |
//! | --- | --- |
//! | `builder`, `config` | what a gateway can be told, and what that comes to |
//! | `acceptor`, `shutdown` | how connections come in, and how the gateway ends |
//! | `connection`, `visitor_request` | what happens on a visitor's connection, request by request |
//! | `routing` | which requests the gateway answers, and which an agent |
//! | `handshake` | how a connection becomes an agent's session |
//! | `stream`, `uploader`, `upload_path` | how a request and its response pass as a mux stream |
//! | `agent_session`, `agent_writer` | what is sent to one agent, and which answer belongs to which request |
//! | `door` | at which addresses it listens, for visitors, agents or both |
//! | `domain`, `names`, `reservations` | which host name is which tunnel's |
//! | `registry` | which agents are connected, and which of them gets a request |
//! | `visitor_connections` | how many connections there may be, and which one makes room |
//! | `pages`, `responses` | what the gateway answers by itself |
//! | `record`, `metrics`, `report` | what is counted and logged of requests, and told to operators |
//! | `forwarded` | where a request came from, and which proxies are trusted to say so |
//! | `budget`, `credentials` | how much memory bodies may take; token and certificate |

mod acceptor;
mod agent_session;
mod agent_writer;
mod budget;
mod builder;
mod config;
mod connection;
mod credentials;
mod domain;
mod door;
mod forwarded;
mod handshake;
mod metrics;
mod names;
mod pages;
mod record;
mod registry;
mod report;
mod reservations;
mod responses;
mod routing;
mod shutdown;
mod stream;
mod upload_path;
mod uploader;
mod visitor_connections;
mod visitor_request;

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use std::{fmt, io};

use log::{info, warn};

use self::acceptor::{ConnectionThreads, accept, refuse_more};
use self::budget::BodyBudget;
pub use self::builder::{GatewayBuilder, OwnPaths};
use self::config::GatewayConfig;
pub use self::domain::{Domain, InvalidDomain};
use self::door::{Addresses, Door, Listeners};
use self::forwarded::Scheme;
use self::metrics::GatewayMetrics;
use self::names::Names;
use self::registry::Registry;
use self::shutdown::{Shutdown, Stopping};
use self::visitor_connections::{Stage, VisitorConnections, VisitorLimits};
use crate::admin::Admin;
use crate::advice::Advice;
pub use crate::net::network::{InvalidNetwork, Network};
use crate::protocol::{RequestName, connection_number, random_uuid};

/// Connections of visitors at once; and as many of agents.
pub(crate) const PLACES: usize = 1024;

/// Threads of connections at once: those of both kinds, and of evicted visitors that have not ended yet.
const THREADS_MAX: usize = 2 * PLACES + 256;

/// Bytes of whole bodies that all visitors together may make the gateway hold.
const BODIES_MAX: usize = 64 << 20;

/// A connection's stack: HTTP heads and JSON, nothing that recurses.
const STACK: usize = 512 << 10;

/// How long a TLS handshake may take.
const TLS_TIME: Duration = Duration::from_secs(10);

/// How long a stranger may take for each step when places are short.
const SHORT_TIME: Duration = Duration::from_secs(2);

/// How long agents get to answer the close frame when the gateway stops, and connections to end.
const CLOSE_WAIT: Duration = Duration::from_secs(1);

/// How long to wait when the system gives no more connections or threads.
const EXHAUSTED_WAIT: Duration = Duration::from_millis(100);

/// Between two warnings that it does not.
const WARN_EVERY: Duration = Duration::from_secs(1);

/// A configured gateway that does nothing yet.
pub struct Gateway(GatewayConfig);

/// A gateway that listens, and accepts no connection yet.
pub struct BoundGateway {
    core: Arc<GatewayCore>,
    listeners: Listeners,
    /// The server for operators. It answers from now on.
    admin: Option<Admin>,
}

/// The state that all threads of a gateway share.
struct GatewayCore {
    settings: GatewayConfig,
    agents: Registry,
    names: Arc<Names>,
    visitors: Arc<VisitorConnections>,
    /// The memory for whole bodies.
    bodies: BodyBudget,
    metrics: GatewayMetrics,
    connections: ConnectionThreads,
    shutdown: Shutdown,
    /// The connection number in the names of requests that no agent gets.
    name: u32,
    /// How many there were.
    named: AtomicU64,
    has_warned_of_proxy: AtomicBool,
    /// No more connections are taken.
    stopping: AtomicBool,
    started: Instant,
}

impl Gateway {
    /// Starts the configuration of a gateway.
    pub fn builder() -> GatewayBuilder {
        GatewayBuilder::new()
    }

    /// The configured address, whose port may be 0.
    pub fn listen_address(&self) -> SocketAddr {
        self.0.listen
    }

    /// Listens at the configured address.
    pub fn bind(self) -> io::Result<BoundGateway> {
        let Gateway(settings) = self;
        let listeners = Listeners::bind(settings.listen, settings.listen_agents)?;
        let core = Arc::new(GatewayCore::new(settings, listeners.addresses.visitors));
        let admin = core.start_admin()?;
        Ok(BoundGateway { core, listeners, admin })
    }
}

impl BoundGateway {
    /// The address at which the gateway listens, with the port that the system chose where 0 was asked for.
    pub fn address(&self) -> SocketAddr {
        self.listeners.addresses.visitors
    }

    /// The address at which agents connect: the same, unless they have [one of their
    /// own](GatewayBuilder::listen_agents).
    pub fn agents_address(&self) -> SocketAddr {
        self.listeners.addresses.agents
    }

    /// The address at which operators ask how the gateway is doing, if there is one.
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin.as_ref().map(Admin::address)
    }

    /// Stops the gateway from anywhere; for a signal handler's thread, say.
    pub fn handle(&self) -> GatewayHandle {
        GatewayHandle(self.core.clone())
    }

    /// Serves on this thread and others, until [`GatewayHandle::shutdown`]. Fails when the system gives no thread.
    pub fn run(self) -> io::Result<()> {
        let BoundGateway { core, listeners: Listeners { all, addresses }, admin: _admin } = self;
        core.announce(addresses);
        let start = |(door, listener): &(Door, Arc<TcpListener>)| {
            let (door, accepting, on) = (*door, core.clone(), listener.clone());
            thread::Builder::new().name("acceptor".to_owned()).spawn(move || accept(door, &on, &accepting))
        };
        let started: Vec<_> = all.iter().map(start).collect();
        if started.iter().any(Result::is_err) {
            // One that accepts alone would be half a gateway.
            core.stop_accepting(&all);
        }
        let acceptors = started.into_iter().collect::<io::Result<Vec<_>>>()?;
        core.shutdown.wait();
        // Balancers see that it is not ready; until they do, their requests are served.
        core.visitors.drain();
        core.agents.refuse_more();
        info!("stopping; agents to say goodbye to: {}", core.agents.count());
        core.shutdown.wait_for_abort(core.settings.drain_delay);
        core.stop_accepting(&all);
        drop(all);
        // One that panicked has said so on its own.
        acceptors.into_iter().for_each(|acceptor| drop(acceptor.join()));
        core.stop();
        Ok(())
    }

    /// Serves on threads of its own. Fails when the system gives no thread.
    pub fn spawn(self) -> io::Result<RunningGateway> {
        let (addresses, handle) = (self.listeners.addresses, self.handle());
        let thread = thread::Builder::new().name("gateway".to_owned()).spawn(move || self.run())?;
        Ok(RunningGateway { addresses, handle, thread })
    }
}

impl fmt::Debug for Gateway {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Gateway({})", self.0.listen)
    }
}

impl fmt::Debug for BoundGateway {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BoundGateway({})", self.address())
    }
}

/// A gateway on threads of its own. Dropping it lets the gateway run on.
#[derive(Debug)]
pub struct RunningGateway {
    addresses: Addresses,
    handle: GatewayHandle,
    thread: JoinHandle<io::Result<()>>,
}

impl RunningGateway {
    /// See [`BoundGateway::address`].
    pub fn address(&self) -> SocketAddr {
        self.addresses.visitors
    }

    /// See [`BoundGateway::agents_address`].
    pub fn agents_address(&self) -> SocketAddr {
        self.addresses.agents
    }

    /// Stops the gateway from anywhere.
    pub fn handle(&self) -> GatewayHandle {
        self.handle.clone()
    }

    /// Waits until the gateway has ended. After a shutdown that takes the drain delay and the drain at most, and two
    /// seconds.
    pub fn join(self) -> io::Result<()> {
        self.thread.join().unwrap_or_else(|_| Err(io::Error::other("the gateway's thread panicked")))
    }
}

/// Stops a gateway, or has it read its files again, from anywhere. Clones are the same gateway's.
#[derive(Clone)]
pub struct GatewayHandle(Arc<GatewayCore>);

impl GatewayHandle {
    /// Stops the gateway in good order: it goes on listening for the drain delay while it is not ready any more, lets
    /// requests finish for the drain, then closes the sessions of its agents. Returns at once.
    pub fn shutdown(&self) {
        self.0.shutdown.advance(Stopping::Draining);
    }

    /// Stops the gateway without waiting: requests under way break off. Returns at once.
    pub fn abort(&self) {
        self.0.shutdown.advance(Stopping::Aborted);
        self.0.abort_all();
    }

    /// Reads the files of the token, of the certificate and of the names again. A file that cannot be used changes nothing.
    pub fn reload(&self) {
        self.0.settings.credentials.reload();
        self.0.names.reload();
    }
}

impl fmt::Debug for GatewayHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GatewayHandle({})", self.0.settings.listen)
    }
}

impl GatewayCore {
    fn new(mut settings: GatewayConfig, address: SocketAddr) -> Self {
        let own = settings.own_hosts.clone();
        let at = (address, settings.scheme());
        let names = Names::new(settings.domain.as_ref(), own, settings.name_policy.clone(), at);
        names.reserve(std::mem::take(&mut settings.reserved));
        let limits = VisitorLimits { places: PLACES, per_address: settings.max_per_address };
        GatewayCore {
            agents: Registry::new(),
            names: Arc::new(names),
            visitors: Arc::new(VisitorConnections::new(limits)),
            bodies: BodyBudget::new(BODIES_MAX),
            metrics: GatewayMetrics::new(),
            settings,
            connections: ConnectionThreads::default(),
            shutdown: Shutdown::default(),
            name: connection_number(&random_uuid()).unwrap_or_default(),
            named: AtomicU64::new(0),
            has_warned_of_proxy: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            started: Instant::now(),
        }
    }

    /// Logs where the gateway listens, and what is unsafe about it.
    fn announce(&self, addresses: Addresses) {
        let (settings, Addresses { visitors: address, agents }) = (&self.settings, addresses);
        let (http, ws) = if settings.scheme() == Scheme::Https { ("https", "wss") } else { ("http", "ws") };
        let legacy = match (settings.legacy, settings.credentials.want_certificates()) {
            (true, _) => " (legacy: part 1 of the protocol alone)",
            (false, true) => ", with a certificate",
            (false, false) => "",
        };
        let path = &settings.agent_path;
        info!("listening on {http}://{address}; agents connect to {ws}://{agents}{path}{legacy}");
        let reserved: Vec<_> = self.names.reserved().collect();
        info!("tunnels are at {}; names that none gets: {}", self.names.pattern(), reserved.join(", "));
        if self.names.are_local() && !address.ip().is_loopback() {
            warn!(advice = Advice::GatewayDomain.name();
                "listens beyond this machine, where names under localhost lead nowhere: no agent there is told a URL");
        }
        if settings.credentials.token().is_none() && !settings.credentials.want_certificates() {
            warn!(advice = Advice::GatewayWithoutToken.name();
                "there is no token: anybody who reaches {agents}, through a proxy, too, can serve visitors as an agent");
        }
    }

    /// Ends the acceptors.
    fn stop_accepting(&self, listeners: &[(Door, Arc<TcpListener>)]) {
        self.stopping.store(true, Ordering::SeqCst);
        listeners.iter().for_each(|(_, listener)| refuse_more(listener));
    }

    /// A name for a request that no agent gets.
    fn name_request(&self) -> RequestName {
        RequestName { connection: self.name, number: self.named.fetch_add(1, Ordering::Relaxed) + 1 }
    }

    /// How long a stranger may take for a step that usually has so long.
    fn patience(&self, usually: Duration) -> Duration {
        if self.visitors.are_short() { usually.min(SHORT_TIME) } else { usually }
    }

    /// Breaks off all connections. Requests at agents without mux/2 end with their sessions.
    fn abort_all(&self) {
        self.visitors.abort_all();
        self.agents.abort_all();
    }

    /// Lets the requests under way finish, says GOAWAY to the agents, and breaks off the rest.
    fn stop(&self) {
        if self.shutdown.is_aborted() {
            // Some connections may have come since.
            self.abort_all();
        }
        let until = Instant::now() + self.settings.drain;
        // A connection that waits may carry one more request, which is answered: then the agents get no more.
        self.visitors.wait_for_none(&[Stage::Idle, Stage::Arriving, Stage::Received], until);
        self.agents.go_away();
        self.visitors.wait_for_none(
            &[Stage::Idle, Stage::Arriving, Stage::Received, Stage::Served, Stage::Lasting],
            until,
        );
        self.agents.close_all(CLOSE_WAIT);
        self.visitors.abort_all();
        self.connections.wait_for_none(CLOSE_WAIT);
    }
}
