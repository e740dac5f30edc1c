//! `make demo`: a gateway, a small site and the agent, with requests through the tunnel. It stays up until
//! Ctrl-C.

mod site;

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

const TUNNEL_ID: &str = "agent_550e8400-e29b-41d4-a716-446655440000_demo";

/// How long the gateway and the agent may take to find each other.
const START_LIMIT: Duration = Duration::from_secs(20);

/// Between two looks whether something has happened.
const STEP: Duration = Duration::from_millis(50);

/// Lines of a response that are shown.
const LINES_SHOWN: usize = 10;

/// How long they may take to end.
const STOP_LIMIT: Duration = Duration::from_secs(15);

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("demo: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The port that a variable names, or its default.
fn port(variable: &str, default: u16) -> io::Result<SocketAddr> {
    let text = std::env::var(variable).unwrap_or_default();
    let port = if text.is_empty() { Ok(default) } else { text.parse() };
    let port = port.ok().filter(|port| *port != 0);
    let port =
        port.ok_or_else(|| io::Error::other(format!("{variable} is not a port number, 1 to 65535")))?;
    Ok(SocketAddr::from(([127, 0, 0, 1], port)))
}

/// The listeners at two addresses. Where one is taken, the error names the whole command with two that are free.
fn listeners(gateway: SocketAddr, site: SocketAddr) -> io::Result<(TcpListener, TcpListener)> {
    match (TcpListener::bind(gateway), TcpListener::bind(site)) {
        (Ok(gateway), Ok(site)) => Ok((gateway, site)),
        (at_gateway, at_site) => {
            let taken: Vec<String> = [(at_gateway.is_err(), gateway), (at_site.is_err(), site)]
                .iter()
                .filter(|(is_taken, _)| *is_taken)
                .map(|(_, address)| address.port().to_string())
                .collect();
            drop((at_gateway, at_site));
            let free_gateway = free_from(gateway.port(), 0);
            let free_site = free_from(site.port(), free_gateway);
            let command = format!("make demo GATEWAY_PORT={free_gateway} SITE_PORT={free_site}");
            let text = format!("taken: port {}; these are free: {command}", taken.join(" and port "));
            Err(io::Error::other(text))
        }
    }
}

/// The first port from this one on that is free, and not another one.
fn free_from(port: u16, other: u16) -> u16 {
    let is_free = |port: &u16| *port != other && TcpListener::bind(("127.0.0.1", *port)).is_ok();
    (port..=u16::MAX).find(is_free).unwrap_or(port)
}

fn run() -> io::Result<()> {
    let (stop, stopped) = mpsc::channel();
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    thread::spawn(move || signals.forever().for_each(|_| stop.send(()).unwrap_or_default()));

    let (gateway_at, site_at) = (port("GATEWAY_PORT", 3000)?, port("SITE_PORT", 8000)?);
    if gateway_at == site_at {
        return Err(io::Error::other("GATEWAY_PORT and SITE_PORT must not be the same"));
    }
    let (gateway, site) = listeners(gateway_at, site_at)?;
    // The gateway takes its port next.
    drop(gateway);
    thread::spawn(move || site::serve(&site));

    println!(
        "A small site on http://{site_at}, a gateway on http://{gateway_at}, and between them the agent."
    );
    println!("What follows the time stamps is their log.\n");
    let mut gateway = Program::start("gateway", &["--listen", &gateway_at.to_string()])?;
    let urls = [format!("ws://{gateway_at}"), format!("http://{site_at}")];
    let mut agent =
        Program::start("agent", &["--tunnel-id", TUNNEL_ID, "--gateway", &urls[0], "--local", &urls[1]])?;
    let result = wait_until_up(gateway_at, &mut [&mut gateway, &mut agent]).and_then(|()| {
        show_requests(gateway_at)?;
        println!("\nThe tunnel is up: http://{gateway_at}/ is the site on {site_at}. Try");
        println!("    curl -N http://{gateway_at}/events");
        println!("    curl 'http://{gateway_at}/download?bytes=1073741824' | sha1sum");
        println!("    curl -T FILE http://{gateway_at}/upload");
        println!("or open it in two browser windows, for the chat. Ctrl-C ends it.\n");
        stopped.recv().map_err(io::Error::other)
    });
    println!();
    agent.stop()?;
    gateway.stop()?;
    result
}

// ---------------------------------------------------------------------------------------------------- programs

struct Program {
    name: &'static str,
    child: Child,
}

impl Program {
    /// Starts a program that was built beside this one.
    fn start(name: &'static str, arguments: &[&str]) -> io::Result<Program> {
        let mut path: PathBuf = std::env::current_exe()?;
        path.pop();
        path.pop();
        path.push(name);
        let child = Command::new(&path).args(arguments).stdin(Stdio::null()).spawn();
        let child =
            child.map_err(|error| io::Error::other(format!("cannot start {}: {error}", path.display())))?;
        Ok(Program { name, child })
    }

    fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// Asks it to end, if Ctrl-C has not done that already, and waits for it.
    fn stop(&mut self) -> io::Result<()> {
        let grace = Duration::from_millis(500);
        if !self.has_ended_within(grace) {
            Command::new("kill").arg(self.child.id().to_string()).status()?;
        }
        if !self.has_ended_within(STOP_LIMIT) {
            println!("the {} does not end; killing it", self.name);
            self.child.kill()?;
            self.child.wait()?;
        }
        Ok(())
    }

    fn has_ended_within(&mut self, limit: Duration) -> bool {
        let mut waited = Duration::ZERO;
        while !self.has_ended() && waited < limit {
            thread::sleep(STEP);
            waited += STEP;
        }
        self.has_ended()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // Whatever goes wrong, nothing is left behind.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn wait_until_up(gateway: SocketAddr, programs: &mut [&mut Program]) -> io::Result<()> {
    let mut waited = Duration::ZERO;
    while waited < START_LIMIT {
        if let Some(program) =
            programs.iter_mut().find_map(|program| program.has_ended().then_some(program.name))
        {
            return Err(io::Error::other(format!("the {program} ended; its log above says why")));
        }
        let connections =
            TcpStream::connect(gateway).and_then(|_| text_of("GET", gateway, "/connections", ""));
        if connections.is_ok_and(|text| text.contains("\"count\":1")) {
            return Ok(());
        }
        thread::sleep(STEP);
        waited += STEP;
    }
    Err(io::Error::other("gateway and agent did not find each other"))
}

// ---------------------------------------------------------------------------------------------------- requests

fn show_requests(gateway: SocketAddr) -> io::Result<()> {
    for (method, path, body) in [
        ("GET", "/", ""),
        ("GET", "/time?zone=utc", ""),
        ("POST", "/echo", "name=Zoë&message=through the tunnel"),
        ("GET", "/missing", ""),
    ] {
        let text = text_of(method, gateway, path, body)?;
        let data = if body.is_empty() { String::new() } else { format!(" -d '{body}'") };
        println!("\n$ curl -i{data} http://{gateway}{path}");
        text.lines().take(LINES_SHOWN).for_each(|line| println!("    {line}"));
        if text.lines().nth(LINES_SHOWN).is_some() {
            println!("    …");
        }
    }
    Ok(())
}

/// A response as text: status, headers and body.
fn text_of(method: &str, gateway: SocketAddr, path: &str, body: &str) -> io::Result<String> {
    let agent = ureq::Agent::config_builder().http_status_as_error(false).build().new_agent();
    let request = http::Request::builder().method(method).uri(format!("http://{gateway}{path}"));
    let response = match body {
        "" => agent.run(request.body(()).map_err(io::Error::other)?),
        body => agent.run(request.body(body.to_owned()).map_err(io::Error::other)?),
    };
    let (head, mut body) = response.map_err(io::Error::other)?.into_parts();
    let mut text = format!("HTTP/1.1 {}\n", head.status);
    for (name, value) in &head.headers {
        text.push_str(&format!("{name}: {}\n", String::from_utf8_lossy(value.as_bytes())));
    }
    text.push('\n');
    text.push_str(&body.read_to_string().map_err(io::Error::other)?);
    Ok(text)
}
