//! What the tunnel costs. Run it with `make bench`; `BENCH_SECONDS` sets how long each measurement takes,
//! `BENCH_AGENT` names another agent.
//!
//! Ratios within a run can be compared, seconds between machines cannot.

mod alone;
mod local;
mod process;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use alone::Wire;
use local::{Visitor, Written};
use process::{Program, wait_until};

const BODY: usize = 512;
const OUTSTANDING: [usize; 4] = [1, 16, 64, 256];
const WARM_UP: Duration = Duration::from_millis(500);
const MIB: u64 = 1 << 20;

/// How long requests took, sorted.
#[derive(Debug)]
pub(crate) struct Latencies(Vec<Duration>);

impl Latencies {
    fn new(mut all: Vec<Duration>) -> Self {
        all.sort_unstable();
        Latencies(all)
    }

    /// Microseconds that so many percent of them took at most.
    fn percentile(&self, percent: usize) -> f64 {
        let index = (self.0.len() * percent / 100).min(self.0.len().saturating_sub(1));
        self.0.get(index).map_or(0.0, |latency| latency.as_secs_f64() * 1e6)
    }
}

fn main() {
    let seconds: f64 = std::env::var("BENCH_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(3.0);
    let time = Duration::from_secs_f64(seconds);
    let written = Written::default();
    let local = local::start(written.clone());
    println!(
        "512-byte answers, {seconds} s for each line; CPU is user + system of one process per request.\n"
    );
    agent_alone(local, time);
    end_to_end(local, time);
    bodies(local);
    one_large_body(local);
    beside_bulk(local, time);
    idle_streams(local, time);
    events(local, &written);
}

fn agent_alone(local: SocketAddr, time: Duration) {
    println!("The agent alone, one WebSocket, K requests outstanding; direct is K threads of plain ureq:");
    println!(
        "                K   direct/s   tunnel/s  ratio   p50 us   p99 us   CPU us (user + sys)  RSS MiB  threads"
    );
    for outstanding in OUTSTANDING {
        let direct = local::measure_ureq(local, outstanding, time);
        for (name, wire) in [("envelopes", Wire::Envelopes), ("mux/2", Wire::Mux)] {
            let tunnel = alone::measure(wire, local, outstanding, time);
            println!(
                "{name:12} {outstanding:4} {direct:10.0} {:10.0}  {:5.2} {:8.0} {:8.0}   {:6.1} ({:.1} + {:.1}) {:8.1} {:8}",
                tunnel.per_second,
                tunnel.per_second / direct,
                tunnel.latencies.percentile(50),
                tunnel.latencies.percentile(99),
                tunnel.user + tunnel.system,
                tunnel.user,
                tunnel.system,
                tunnel.memory,
                tunnel.threads,
            );
        }
    }
}

/// Gateway and agent, connected.
fn start(
    local: SocketAddr,
    gateway_options: &[&str],
    agent_options: &[&str],
) -> (Program, SocketAddr, Program) {
    let (gateway, address) = Program::gateway(gateway_options);
    let agent = Program::agent(address, local, agent_options);
    wait_until(|| local::status(address, "/bench") == Some(200));
    (gateway, address, agent)
}

fn end_to_end(local: SocketAddr, time: Duration) {
    println!("\nEnd to end, K visitors with a connection each:");
    println!(
        "                K   direct/s   tunnel/s  ratio   p50 us   p99 us   agent's CPU us   gateway's CPU us"
    );
    for visitors in OUTSTANDING {
        let (direct, _) = local::measure(local, visitors, time, || {});
        for (name, options) in [("envelopes", &["--legacy"][..]), ("mux/2", &[])] {
            let (gateway, address, agent) = start(local, options, &[]);
            let mut before = (0.0, 0.0);
            let began = || before = (agent.cpu_seconds(), gateway.cpu_seconds());
            let (per_second, latencies) = local::measure(address, visitors, time, began);
            let requests = latencies.0.len() as f64;
            println!(
                "{name:12} {visitors:4} {direct:10.0} {per_second:10.0}  {:5.2} {:8.0} {:8.0}   {:14.1}   {:16.1}",
                per_second / direct,
                latencies.percentile(50),
                latencies.percentile(99),
                (agent.cpu_seconds() - before.0) * 1e6 / requests,
                (gateway.cpu_seconds() - before.1) * 1e6 / requests,
            );
        }
    }
}

/// Bodies of 10 MiB, 4 at once.
fn bodies(local: SocketAddr) {
    const LENGTH: u64 = 10 * MIB;
    const EACH: u64 = 20;
    println!("\nBodies of 10 MiB, 4 at once:");
    println!(
        "             direct MB/s   tunnel MB/s   agent's CPU ms/MiB   gateway's CPU ms/MiB   agent's peak RSS MiB"
    );
    let run = |address: SocketAddr, up: bool| {
        let began = Instant::now();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let mut visitor = Visitor::new(address);
                    for _ in 0..EACH {
                        if up {
                            visitor.upload(LENGTH);
                        } else {
                            visitor.get(&format!("/download/{LENGTH}"));
                        }
                    }
                });
            }
        });
        (4 * EACH * LENGTH) as f64 / 1e6 / began.elapsed().as_secs_f64()
    };
    for (name, up) in [("down", false), ("up", true)] {
        let direct = run(local, up);
        let (gateway, address, agent) = start(local, &[], &[]);
        let before = (agent.cpu_seconds(), gateway.cpu_seconds());
        let tunnel = run(address, up);
        let mib = (4 * EACH * LENGTH / MIB) as f64;
        println!(
            "{name:12} {direct:11.0} {tunnel:13.0} {:20.2} {:22.2} {:22.1}",
            (agent.cpu_seconds() - before.0) * 1e3 / mib,
            (gateway.cpu_seconds() - before.1) * 1e3 / mib,
            agent.memory().1,
        );
    }
}

fn one_large_body(local: SocketAddr) {
    const LENGTH: u64 = 1 << 30;
    let (gateway, address, agent) = start(local, &[], &[]);
    println!("\n1 GiB through one stream; memory in MiB, before and at most:");
    for up in [false, true] {
        let before = (agent.memory().0, gateway.memory().0);
        let began = Instant::now();
        let mut visitor = Visitor::new(address);
        if up {
            visitor.upload(LENGTH);
        } else {
            visitor.get(&format!("/download/{LENGTH}"));
        }
        println!(
            "{:12} {:.0} MB/s; agent {:.1} -> {:.1}; gateway {:.1} -> {:.1}",
            if up { "up" } else { "down" },
            LENGTH as f64 / 1e6 / began.elapsed().as_secs_f64(),
            before.0,
            agent.memory().1,
            before.1,
            gateway.memory().1,
        );
    }
}

/// Short requests while a download runs as fast as it can.
fn beside_bulk(local: SocketAddr, time: Duration) {
    let (_gateway, address, _agent) = start(local, &[], &[]);
    println!("\nOne visitor with short requests, alone and beside a download at full speed:");
    for (name, address) in [("direct", local), ("tunnel", address)] {
        let (_, alone) = local::measure(address, 1, time, || {});
        let stop = AtomicBool::new(false);
        let beside = std::thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    Visitor::new(address).get(&format!("/download/{}", 100 * MIB));
                }
            });
            let (_, beside) = local::measure(address, 1, time, || {});
            stop.store(true, Ordering::Relaxed);
            beside
        });
        println!(
            "{name:12} p50 {:.0} us, p99 {:.0} us; beside it p50 {:.0} us, p99 {:.0} us",
            alone.percentile(50),
            alone.percentile(99),
            beside.percentile(50),
            beside.percentile(99)
        );
    }
}

/// Event streams on which nothing happens, and short requests beside them.
fn idle_streams(local: SocketAddr, time: Duration) {
    let options = ["--connections", "4", "--max-streams", "1100", "--idle-timeout", "10m"];
    let (gateway, address, agent) = start(local, &[], &options);
    println!("\nIdle event streams, and 4 visitors with short requests beside them:");
    println!(
        "   streams   agent's RSS MiB   KiB/stream   threads   gateway's RSS MiB   short p50 us   p99 us"
    );
    let mut streams: Vec<Visitor> = Vec::new();
    let before = agent.memory().0;
    for count in [0, 200, 990] {
        while streams.len() < count {
            let mut visitor = Visitor::new(address);
            visitor.ask("/events/1");
            visitor.wait_for_event();
            streams.push(visitor);
        }
        let (_, short) = local::measure(address, 4, time, || {});
        let memory = agent.memory().0;
        println!(
            "{count:10} {memory:17.1} {:12.1} {:9} {:19.1} {:14.0} {:8.0}",
            if count == 0 { 0.0 } else { (memory - before) * 1024.0 / count as f64 },
            agent.threads(),
            gateway.memory().0,
            short.percentile(50),
            short.percentile(99),
        );
    }
}

/// From an event that the local server writes to its arrival.
fn events(local: SocketAddr, written: &Written) {
    const COUNT: usize = 1000;
    let (_gateway, address, _agent) = start(local, &[], &[]);
    println!("\nFrom an event's writing to its arrival, {COUNT} events:");
    for (name, address) in [("direct", local), ("tunnel", address)] {
        written.lock().unwrap().clear();
        let mut visitor = Visitor::new(address);
        visitor.ask(&format!("/events/{COUNT}"));
        let arrived: Vec<Instant> = (0..COUNT).map(|_| visitor.wait_for_event()).collect();
        let written = written.lock().unwrap();
        let took = written.iter().zip(&arrived).map(|(from, to)| *to - *from).collect();
        let latencies = Latencies::new(took);
        println!("{name:12} p50 {:.0} us, p99 {:.0} us", latencies.percentile(50), latencies.percentile(99));
    }
}
