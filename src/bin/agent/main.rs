//! The tunnel agent as a program: reads its options, runs until it is told to stop, and says how it went by
//! its exit code: 0 asked to stop, 1 gave up on the gateway, 2 wrong usage or configuration, 3 refused by the
//! gateway for good.

mod cli;

use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use log::{error, info};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use tunnel_agent::cli::{Command, print, program, refuse};
use tunnel_agent::{Agent, RunError, Stopper, logging};

const GAVE_UP: u8 = 1;
const REFUSED: u8 = 3;

fn main() -> ExitCode {
    match cli::read() {
        Ok(Command::Help) => print(&cli::help()),
        Ok(Command::Version) => print(&format!("{} {}\n", program("agent"), env!("CARGO_PKG_VERSION"))),
        Ok(Command::Run(settings)) => {
            logging::install();
            for warning in &settings.warnings {
                log::warn!("{warning}");
            }
            run(settings.agent, settings.drain)
        }
        Err(error) => refuse(&program("agent"), &error),
    }
}

fn run(agent: Agent, drain: Duration) -> ExitCode {
    let handle = match agent.spawn() {
        Ok(handle) => handle,
        Err(error) => return end(RunError::Threads(error)),
    };
    if let Err(error) = stop_on_signals(handle.stopper(), drain) {
        return end(RunError::Threads(error));
    }
    match handle.join() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => end(error),
    }
}

fn end(error: RunError) -> ExitCode {
    error!("{error}");
    ExitCode::from(match error {
        RunError::Refused(_) => REFUSED,
        RunError::GaveUp(_) | RunError::Threads(_) => GAVE_UP,
    })
}

/// The first signal drains, the next one does not wait any more.
fn stop_on_signals(stopper: Stopper, drain: Duration) -> std::io::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    let wait = move || {
        let mut signals = signals.forever();
        signals.next();
        info!(
            "asked to stop; finishing what runs, for {} s at most; ask again to stop at once",
            drain.as_secs()
        );
        stopper.shutdown(drain);
        for _ in signals {
            info!("asked again: stopping at once");
            stopper.shutdown(Duration::ZERO);
        }
    };
    thread::Builder::new().name("signals".to_owned()).spawn(wait).map(drop)
}
