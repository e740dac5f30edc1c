//! The reference gateway: takes agents on `/ws`, and passes every other request on to one of them. For
//! development, tests, demonstrations and small installations: one process, state in memory only.
//!
//! | thread | what it does |
//! | --- | --- |
//! | acceptor | takes connections, and gives each a thread |
//! | one per connection | [`public`]: reads requests, waits for their answers; on `/ws` it becomes an agent's reader |
//! | one more per agent | [`agents`]: writes what is sent to the agent |

mod accept;
mod agent;
mod agents;
mod cli;
mod clients;
mod problems;
mod public;
mod stream;
mod visitor;

use std::net::{TcpListener, TcpStream};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use log::{debug, error, info, warn};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use tunnel_agent::cli::{Command, print, program, refuse};
use tunnel_agent::link::Socket;
use tunnel_agent::logging;

use agents::Agents;
use cli::Settings;
use clients::{Clients, Stage};

/// Most connections at once, agents and clients together; one more is closed at once.
const CONNECTIONS_MAX: usize = 1024;

/// Whether the last connection was one too many: that is said once.
static IS_FULL: AtomicBool = AtomicBool::new(false);

/// A connection's stack: HTTP heads and JSON, nothing that recurses.
const STACK: usize = 512 << 10;

/// How long a TLS handshake may take.
const TLS_TIME: Duration = Duration::from_secs(10);

/// How long requests that have begun to arrive may take to reach an agent when the gateway stops.
const ARRIVAL_WAIT: Duration = Duration::from_secs(1);

/// How long agents get to answer the close frame when the gateway stops.
const CLOSE_WAIT: Duration = Duration::from_secs(1);

/// How long to wait when the system gives no more connections or threads.
const EXHAUSTED_WAIT: Duration = Duration::from_millis(100);

fn main() -> ExitCode {
    match cli::read() {
        Ok(Command::Help) => print(&cli::help()),
        Ok(Command::Version) => print(&format!("{} {}\n", program("gateway"), env!("CARGO_PKG_VERSION"))),
        Ok(Command::Run(settings)) => {
            logging::install(logging::Format::Text);
            run(settings)
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
    let address = listener.local_addr().unwrap_or(settings.listen);
    let tls = settings.tls.is_some();
    info!(
        "listening on {}://{address}; agents connect to {}://{address}/ws{}",
        if tls { "https" } else { "http" },
        if tls { "wss" } else { "ws" },
        if settings.legacy { " (legacy: part 1 of the protocol alone)" } else { "" }
    );
    if settings.token.is_none() && !address.ip().is_loopback() {
        warn!("without a token (--token-file) anybody who reaches {address} can serve visitors as an agent");
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
    clients: Arc<Clients>,
    connections: AtomicUsize,
    /// No more connections are taken.
    stopping: AtomicBool,
    started: Instant,
}

/// Serves until a signal comes.
fn serve(listener: TcpListener, settings: Settings) -> std::io::Result<()> {
    let mut signals = Signals::new([SIGHUP, SIGINT, SIGTERM])?;
    let gateway = Arc::new(Gateway {
        agents: Agents::new(),
        clients: Arc::default(),
        settings,
        connections: AtomicUsize::new(0),
        stopping: AtomicBool::new(false),
        started: Instant::now(),
    });
    let listener = Arc::new(listener);
    let (accepting, on) = (gateway.clone(), listener.clone());
    let acceptor =
        thread::Builder::new().name("acceptor".to_owned()).spawn(move || accept(&on, &accepting))?;
    signals.forever().next();
    info!("stopping; agents to say goodbye to: {}", gateway.agents.count());
    // A second signal ends it at once.
    thread::Builder::new().name("signals".to_owned()).spawn(move || {
        signals.forever().next();
        std::process::exit(0);
    })?;
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

/// Lets those who are here finish, and says goodbye to the agents.
fn stop(gateway: &Gateway) {
    gateway.clients.drain();
    gateway.clients.wait_for_none(Stage::Arriving, ARRIVAL_WAIT);
    gateway.agents.go_away();
    gateway.clients.wait_for_none(Stage::Served, gateway.settings.drain);
    gateway.agents.close_all(CLOSE_WAIT);
}

fn accept(listener: &TcpListener, gateway: &Arc<Gateway>) {
    loop {
        match listener.accept() {
            Ok((socket, _)) => take(socket, gateway),
            // Everybody who was waiting is taken.
            Err(_) if gateway.stopping.load(Ordering::SeqCst) => return,
            Err(error) => {
                warn!("cannot take a connection: {error}");
                thread::sleep(EXHAUSTED_WAIT);
            }
        }
    }
}

/// Counts a connection for as long as it lives.
struct Counted(Arc<Gateway>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

fn take(socket: TcpStream, gateway: &Arc<Gateway>) {
    let count = gateway.connections.fetch_add(1, Ordering::Relaxed);
    let counted = Counted(gateway.clone());
    if count >= CONNECTIONS_MAX {
        if !IS_FULL.swap(true, Ordering::Relaxed) {
            warn!(
                "closing connections, since there are {CONNECTIONS_MAX} already, agents and visitors together"
            );
        }
        return;
    }
    IS_FULL.store(false, Ordering::Relaxed);
    let socket = match Socket::plain(socket) {
        Ok(socket) => socket,
        Err(error) => return debug!("connection failed at once: {error}"),
    };
    // Before anything else is known of it, so that it is not overlooked when the gateway stops.
    let client = gateway.clients.enter(socket.closer());
    let thread = thread::Builder::new().name("connection".to_owned()).stack_size(STACK);
    let spawned = thread.spawn(move || {
        let gateway = &counted.0;
        if let Err(error) = open(socket, gateway).and_then(|socket| public::serve(socket, client, gateway)) {
            debug!("connection ended: {error}");
        }
    });
    if let Err(error) = spawned {
        warn!("no thread for a connection: {error}");
    }
}

fn open(mut socket: Socket, gateway: &Gateway) -> std::io::Result<Socket> {
    let Some(tls) = &gateway.settings.tls else { return Ok(socket) };
    socket.set_deadline(Some(Instant::now() + TLS_TIME))?;
    socket.accept_tls(tls)
}
