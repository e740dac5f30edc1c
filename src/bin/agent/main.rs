//! The tunnel agent as a program: reads its options, runs until it is told to stop, and says how it went by
//! its exit code: 0 asked to stop, 1 gave up on the gateway, 2 wrong usage or configuration, 3 refused by the
//! gateway for good.

mod cli;

use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use cli::{Settings, Task};
use log::{error, info, warn};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use tunnel_agent::cli::{Command, print, program, refuse};
use tunnel_agent::{Agent, Remote, RunError, discover, logging};

const GAVE_UP: u8 = 1;
const REFUSED: u8 = 3;

/// Of `check`, when a step failed.
const FAILED_CHECK: u8 = 1;

/// Of `explain`, for a request that would not pass.
const REFUSED_REQUEST: u8 = 1;

fn main() -> ExitCode {
    match cli::read() {
        Ok(Command::Help) => print(&cli::help()),
        Ok(Command::Version) => print(&format!("{} {}\n", program("agent"), env!("CARGO_PKG_VERSION"))),
        Ok(Command::Run(Settings { task: Task::Explain(method, path), agent, .. })) => {
            let explanation = agent.explain(&method, &path);
            let _ = print(&explanation.to_string());
            if explanation.passes() { ExitCode::SUCCESS } else { ExitCode::from(REFUSED_REQUEST) }
        }
        Ok(Command::Run(Settings { task: Task::Discover, agent, .. })) => {
            print(&discover::Table(&agent.discover()).to_string())
        }
        Ok(Command::Run(Settings { task: Task::Check, agent, .. })) => {
            let mut towards = String::new();
            let passed = agent.check(|step| {
                // Who does not read on still gets the exit code.
                if towards != step.towards {
                    towards.clone_from(&step.towards);
                    let _ = print(&format!("{towards}\n"));
                }
                let _ = print(&format!("  {step}\n"));
            });
            if passed { ExitCode::SUCCESS } else { ExitCode::from(FAILED_CHECK) }
        }
        Ok(Command::Run(settings)) => {
            logging::install(settings.log_format, settings.log_level.as_deref());
            settings.warnings.iter().for_each(|warning| warn!("{warning}"));
            settings.notes.iter().for_each(|note| info!("{note}"));
            let code = run(settings.agent, settings.drain);
            log::logger().flush();
            code
        }
        Err(error) => refuse(&program("agent"), &error),
    }
}

fn run(agent: Agent, drain: Duration) -> ExitCode {
    let handle = match agent.spawn() {
        Ok(handle) => handle,
        Err(error) => return end(RunError::Threads(error)),
    };
    if let Err(error) = heed_signals(handle.remote(), drain) {
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
        RunError::GaveUp(_) | RunError::Threads(_) | RunError::Admin(..) => GAVE_UP,
    })
}

/// SIGHUP skips the wait before the next try, and reads files again. The first SIGINT or SIGTERM drains, the next one does not wait any
/// more.
fn heed_signals(remote: Remote, drain: Duration) -> std::io::Result<()> {
    let mut signals = Signals::new([SIGHUP, SIGINT, SIGTERM])?;
    let heed = move || {
        let mut left = Some(drain);
        for signal in signals.forever() {
            match left {
                _ if signal == SIGHUP => {
                    remote.reload();
                    remote.retry_now();
                }
                Some(drain) => {
                    let seconds = drain.as_secs();
                    info!(
                        "asked to stop; finishing what runs, for {seconds} s at most; ask again to stop at once"
                    );
                    remote.shutdown(drain);
                    left = None;
                }
                None => {
                    info!("asked again: stopping at once");
                    remote.shutdown(Duration::ZERO);
                }
            }
        }
    };
    thread::Builder::new().name("signals".to_owned()).spawn(heed).map(drop)
}
