//! The reference gateway: takes agents on `/ws`, and passes every other request on to one of them. For
//! development, tests, demonstrations and small installations: one process, state in memory only.
//!
//! | thread | what it does |
//! | --- | --- |
//! | main | waits for signals, and stops the others |
//! | acceptor | takes connections, and gives each a thread |
//! | one per connection | [`public`]: reads requests, waits for their answers; on `/ws` it becomes an agent's reader |
//! | one more per agent | [`agent`]: writes what is sent to the agent |
//! | one more per visitor whose request lasts | [`upload`]: reads what the visitor sends, or that it leaves |
//! | log | writes what is logged |

mod accept;
mod agent;
mod agents;
mod budget;
mod cli;
mod credentials;
mod descriptors;
mod forwarded;
mod own;
mod problems;
mod public;
mod stream;
mod upload;
mod visitors;

use std::net::{TcpListener, TcpStream};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use log::{debug, error, info, warn};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use tunnel_agent::cli::{Command, print, program, refuse};
use tunnel_agent::link::Socket;
use tunnel_agent::logging;
use tunnel_agent::protocol::{RequestName, connection_number, random_uuid};

use agents::Agents;
use budget::Budget;
use cli::Settings;
use forwarded::counted_as;
use visitors::{Limits, Stage, Visitor, Visitors};

/// Visitors' connections at once; and as many agents'.
const PLACES: usize = 1024;

/// Connections' threads at once: those of both, and of visitors whose place is another's and who have not noticed yet.
const THREADS_MAX: usize = 2 * PLACES + 256;

/// Bytes of whole bodies that all visitors together may make the gateway hold.
const BODIES_MAX: usize = 64 << 20;

/// A connection's stack: HTTP heads and JSON, nothing that recurses.
const STACK: usize = 512 << 10;

/// How long a TLS handshake may take.
const TLS_TIME: Duration = Duration::from_secs(10);

/// How long a stranger may take for each step when places are short.
const SHORT_TIME: Duration = Duration::from_secs(2);

/// How long agents get to answer the close frame when the gateway stops.
const CLOSE_WAIT: Duration = Duration::from_secs(1);

/// How long to wait when the system gives no more connections or threads.
const EXHAUSTED_WAIT: Duration = Duration::from_millis(100);

/// Between two warnings that it does not.
const WARN_EVERY: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    match cli::read() {
        Ok(Command::Help) => print(&cli::help()),
        Ok(Command::Version) => print(&format!("{} {}\n", program("gateway"), env!("CARGO_PKG_VERSION"))),
        Ok(Command::Run(settings)) => {
            // Before any thread: it may begin anew.
            let scarce = descriptors::raise();
            logging::install(settings.log_format, settings.log_level.as_deref());
            scarce.inspect(|text| warn!("{text}"));
            let code = run(settings);
            log::logger().flush();
            code
        }
        Err(error) => refuse(&program("gateway"), &error),
    }
}

fn run(settings: Settings) -> ExitCode {
    let listener = match TcpListener::bind(settings.listen) {
        Ok(listener) => listener,
        Err(error) => {
            error!("cannot listen on {}: {error}; choose another address with --listen", settings.listen);
            return ExitCode::FAILURE;
        }
    };
    settings.notes.iter().for_each(|note| info!("{note}"));
    let address = listener.local_addr().unwrap_or(settings.listen);
    let tls = settings.credentials.tls().is_some();
    info!(
        "listening on {}://{address}; agents connect to {}://{address}{}{}",
        if tls { "https" } else { "http" },
        if tls { "wss" } else { "ws" },
        settings.agent_path,
        if settings.legacy { " (legacy: part 1 of the protocol alone)" } else { "" }
    );
    if settings.credentials.token().is_none() {
        warn!(
            "without a token (--token-file or GATEWAY_TOKEN) anybody who reaches {address}, through a proxy, too, can serve visitors as \
             an agent"
        );
    }
    match serve(listener, settings) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error!("cannot start a thread: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Everything that connections share.
pub struct Gateway {
    settings: Settings,
    agents: Agents,
    visitors: Arc<Visitors>,
    /// The memory for whole bodies.
    bodies: Budget,
    /// Threads of connections.
    threads: AtomicUsize,
    /// What the names of requests begin with that no agent gets.
    name: u32,
    /// How many there were.
    named: AtomicU64,
    has_warned_of_proxy: AtomicBool,
    /// No more connections are taken.
    stopping: AtomicBool,
    started: Instant,
}

impl Gateway {
    fn new(settings: Settings) -> Self {
        let limits = Limits { places: PLACES, per_address: settings.max_per_address };
        Gateway {
            agents: Agents::new(),
            visitors: Arc::new(Visitors::new(limits)),
            bodies: Budget::new(BODIES_MAX),
            settings,
            threads: AtomicUsize::new(0),
            name: connection_number(&random_uuid()).unwrap_or_default(),
            named: AtomicU64::new(0),
            has_warned_of_proxy: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            started: Instant::now(),
        }
    }

    /// A name for a request that no agent gets.
    fn name_request(&self) -> RequestName {
        RequestName { connection: self.name, number: self.named.fetch_add(1, Ordering::Relaxed) + 1 }
    }

    /// How long a stranger may take for a step that usually has so long.
    fn patience(&self, usually: Duration) -> Duration {
        if self.visitors.are_short() { usually.min(SHORT_TIME) } else { usually }
    }
}

/// Serves until a signal comes.
fn serve(listener: TcpListener, settings: Settings) -> std::io::Result<()> {
    let mut signals = Signals::new([SIGHUP, SIGINT, SIGTERM])?;
    let gateway = Arc::new(Gateway::new(settings));
    let listener = Arc::new(listener);
    let (accepting, on) = (gateway.clone(), listener.clone());
    let acceptor =
        thread::Builder::new().name("acceptor".to_owned()).spawn(move || accept(&on, &accepting))?;
    for signal in signals.forever() {
        if signal != SIGHUP {
            break;
        }
        gateway.settings.credentials.reload();
    }
    // Balancers see that it is not ready, and those who have seen it not yet are served.
    gateway.visitors.drain();
    gateway.agents.refuse_more();
    info!("stopping; agents to say goodbye to: {}; ask again to stop at once", gateway.agents.count());
    let impatient = gateway.clone();
    thread::Builder::new().name("signals".to_owned()).spawn(move || {
        signals.forever().find(|signal| *signal != SIGHUP);
        info!("asked again: stopping at once");
        impatient.visitors.abort_all();
        log::logger().flush();
        std::process::exit(0);
    })?;
    thread::sleep(gateway.settings.drain_delay);
    refuse_more(&listener, &gateway);
    drop(listener);
    let _ = acceptor.join();
    stop(&gateway);
    Ok(())
}

/// Ends the acceptor. Those who come from now on are refused by the system, for a balancer to notice.
fn refuse_more(listener: &TcpListener, gateway: &Gateway) {
    gateway.stopping.store(true, Ordering::SeqCst);
    // The acceptor takes those who are waiting already, and ends: woken by one more.
    if let (Ok(()), Ok(address)) = (listener.set_nonblocking(true), listener.local_addr()) {
        let _ = TcpStream::connect_timeout(&address, CLOSE_WAIT);
    }
}

/// Lets those who are here finish, says goodbye to the agents, and breaks off what is not finished.
fn stop(gateway: &Gateway) {
    let until = Instant::now() + gateway.settings.drain;
    // A connection that waits may carry one more request, which is answered: then the agents get no more.
    gateway.visitors.wait_for_none(&[Stage::Idle, Stage::Arriving, Stage::Received], until);
    gateway.agents.go_away();
    gateway.visitors.wait_for_none(
        &[Stage::Idle, Stage::Arriving, Stage::Received, Stage::Served, Stage::Lasting],
        until,
    );
    gateway.agents.close_all(CLOSE_WAIT);
    gateway.visitors.abort_all();
}

fn accept(listener: &TcpListener, gateway: &Arc<Gateway>) {
    let mut warned: Option<Instant> = None;
    loop {
        let taken = listener.accept().and_then(|(socket, _)| take(socket, gateway));
        let Err(error) = taken else { continue };
        // Everybody who was waiting is taken.
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

/// Counts a connection's thread for as long as it lives.
struct Counted(Arc<Gateway>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.threads.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Gives a connection a place and a thread, or closes it. An error means that the system gives no more.
fn take(socket: TcpStream, gateway: &Arc<Gateway>) -> std::io::Result<()> {
    let count = gateway.threads.fetch_add(1, Ordering::Relaxed);
    let counted = Counted(gateway.clone());
    let Some((socket, visitor)) = enter(socket, gateway).filter(|_| count < THREADS_MAX) else {
        warn!("closed a connection, since there is no place for it");
        return Ok(());
    };
    let thread = thread::Builder::new().name("connection".to_owned()).stack_size(STACK);
    let serve = move || {
        let gateway = &counted.0;
        if let Err(error) = open(socket, gateway).and_then(|socket| public::serve(socket, visitor, gateway)) {
            debug!("connection ended: {error}");
        }
    };
    thread.spawn(serve).map(drop)
}

/// A new connection with its place, before anything else is known of it, so that it is not overlooked when the gateway
/// stops.
fn enter(socket: TcpStream, gateway: &Gateway) -> Option<(Socket, Visitor)> {
    let address = socket.peer_addr().ok()?.ip().to_canonical();
    let is_free = address.is_loopback() || gateway.settings.proxies.trusts(address);
    let counted = (!is_free).then(|| counted_as(address));
    let socket = Socket::plain(socket).ok()?;
    let visitor = gateway.visitors.enter(socket.closer(), socket.traffic(), counted, Instant::now())?;
    Some((socket, visitor))
}

fn open(mut socket: Socket, gateway: &Gateway) -> std::io::Result<Socket> {
    let Some(tls) = gateway.settings.credentials.tls() else { return Ok(socket) };
    socket.set_deadline(Some(Instant::now() + gateway.patience(TLS_TIME)))?;
    socket.accept_tls(&tls)
}
