//! The programs that are measured, and what the system says about them (Linux).

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const TUNNEL_ID: &str = "agent_550e8400-e29b-41d4-a716-446655440000_bench";

/// How long a program may take to be ready.
const READY: Duration = Duration::from_secs(20);

/// A program that is killed when it is not needed any more.
pub(crate) struct Program(Child);

impl Program {
    pub(crate) fn agent(gateway: SocketAddr, local: SocketAddr, more: &[&str]) -> Program {
        let agent = std::env::var("BENCH_AGENT").unwrap_or_else(|_| env!("CARGO_BIN_EXE_agent").to_owned());
        let mut command = Command::new(&agent);
        command
            .args(["--tunnel-id", TUNNEL_ID, "--gateway", &format!("ws://{gateway}")])
            .args(["--local", &format!("http://{local}")])
            .args(more)
            .env("RUST_LOG", "error")
            .stdin(Stdio::null());
        let started = command.spawn();
        Program(started.unwrap_or_else(|error| panic!("cannot start {agent} (see BENCH_AGENT): {error}")))
    }

    pub(crate) fn gateway(more: &[&str]) -> (Program, SocketAddr) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_gateway"));
        command.args(["--listen", "127.0.0.1:0"]).args(more).env("RUST_LOG", "info");
        let mut child =
            command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().expect("the gateway starts");
        let mut reader = BufReader::new(child.stderr.take().expect("its log is ours"));
        let mut line = String::new();
        reader.read_line(&mut line).expect("its log is text");
        let address = line.split("http://").nth(1).and_then(|rest| rest.split(';').next());
        let address = address.and_then(|address| address.parse().ok());
        // Its log is not looked at again, and must not fill its pipe.
        std::thread::spawn(move || std::io::copy(&mut reader, &mut std::io::sink()));
        (Program(child), address.expect("it says where it listens"))
    }

    pub(crate) fn id(&self) -> u32 {
        self.0.id()
    }

    /// Seconds of user and system time that it has used.
    pub(crate) fn cpu(&self) -> (f64, f64) {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.id())).unwrap_or_default();
        let fields: Vec<f64> = stat
            .rsplit(')')
            .next()
            .unwrap_or_default()
            .split_whitespace()
            .map(|field| field.parse().unwrap_or_default())
            .collect();
        // Ticks of USER_HZ, which is 100 on every Linux that this runs on.
        let seconds = |index: usize| fields.get(index).copied().unwrap_or_default() / 100.0;
        (seconds(11), seconds(12))
    }

    /// All of it.
    pub(crate) fn cpu_seconds(&self) -> f64 {
        let (user, system) = self.cpu();
        user + system
    }

    /// Its memory in MiB: now, and at most so far.
    pub(crate) fn memory(&self) -> (f64, f64) {
        (self.status("VmRSS:") / 1024.0, self.status("VmHWM:") / 1024.0)
    }

    pub(crate) fn threads(&self) -> usize {
        self.status("Threads:") as usize
    }

    fn status(&self, name: &str) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
        line.split_whitespace().next().and_then(|number| number.parse().ok()).unwrap_or_default()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Waits until something is so.
pub(crate) fn wait_until(mut is_so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < READY, "it takes too long");
        std::thread::sleep(Duration::from_millis(20));
    }
}
