//! The tunnel agent as a program: reads its options, runs until it is asked to stop, and tells the result by its exit
//! code: 0 asked to stop, 1 gave up on the gateway, 2 wrong usage or configuration, 3 refused by the gateway for good.

use std::cell::Cell;
use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use log::{error, info, warn};
use tunnel_agent::cli::agent::{AgentSettings, Task, help, read};
#[cfg(feature = "inspect")]
use tunnel_agent::cli::agent::{TailFormat, exchange_line};
use tunnel_agent::cli::{
    Advised, Command, LocalServerTable, ServiceManager, Signal, UsageError, announce, handle_signals,
    logging, print, program, refuse,
};
use tunnel_agent::{Agent, Explanation, Handle, RunError};

/// The agent gave up on the gateway.
const GAVE_UP: u8 = 1;

/// The gateway refused the agent.
const REFUSED: u8 = 3;

/// A step of `check` failed.
const FAILED_CHECK: u8 = 1;

/// The agent that `health` asked does not live, or not as it should.
const UNHEALTHY: u8 = 1;

/// The request that `explain` was asked about would not pass.
const REFUSED_REQUEST: u8 = 1;

/// The static build has an allocator of its own; `Cargo.toml` says why.
#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match read() {
        Ok(Command::Help) => print(&help()),
        Ok(Command::Version) => print(&format!("{} {}\n", program("agent"), env!("CARGO_PKG_VERSION"))),
        Ok(Command::Run(settings)) => perform(settings),
        Err(error) => refuse(&program("agent"), &error),
    }
}

fn perform(settings: AgentSettings) -> ExitCode {
    match &settings.task {
        Task::Serve => {
            logging::install("agent", settings.log_format, settings.log_level.as_deref());
            settings.warnings.iter().for_each(|warning| warn!("{warning}"));
            settings.notes.iter().for_each(|note| info!("{note}"));
            let code = serve(settings);
            log::logger().flush();
            code
        }
        Task::Explain(method, path) => explain(&settings.agent, method, path),
        Task::Discover => print(&LocalServerTable(&settings.agent.discover()).to_string()),
        Task::Check => {
            settings.warnings.iter().for_each(|warning| complain(warning));
            check(settings.agent)
        }
        Task::Print(text) => print(text),
        Task::NewId(id) => print(&format!("{id}\n")),
        Task::Health => ask_health(&settings.agent),
        #[cfg(feature = "inspect")]
        Task::Tail(format) => tail(&settings.agent, *format),
        #[cfg(feature = "inspect")]
        Task::Replay(id) => replay(&settings.agent, *id),
    }
}

fn serve(settings: AgentSettings) -> ExitCode {
    let AgentSettings { agent, drain, qr, log_format, .. } = settings;
    let manager = ServiceManager::from_environment();
    // Before it runs: a signal that comes early would end the process.
    if let Err(error) = obey_signals(agent.handle(), drain, log_format, manager.clone()) {
        return end(&RunError::Threads(error));
    }
    let agent = match agent.spawn() {
        Ok(agent) => agent,
        Err(error) => return end(&RunError::Threads(error)),
    };
    announce(&agent.handle(), qr);
    if let Some(Err(error)) = manager.map(|manager| manager.follow(&agent.handle())) {
        warn!("no thread to tell the service manager how it is doing: {error}");
    }
    match agent.join() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => end(&error),
    }
}

fn end(error: &RunError) -> ExitCode {
    error!("{}", error.advised());
    ExitCode::from(match error {
        RunError::Refused(_) => REFUSED,
        RunError::GaveUp(_) | RunError::Threads(_) | RunError::Admin(..) | RunError::Panicked => GAVE_UP,
    })
}

fn explain(agent: &Agent, method: &str, path: &str) -> ExitCode {
    let explanations = agent.explain(method, path);
    let texts: Vec<String> = explanations.iter().map(ToString::to_string).collect();
    let _ = print(&texts.join("\n"));
    if explanations.iter().all(Explanation::passes) {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(REFUSED_REQUEST)
    }
}

/// Says on standard error, for the agent's own part, what is not as it should be.
fn complain(text: &str) {
    let _ = writeln!(std::io::stderr(), "{}: {text}", program("agent"));
}

fn ask_health(agent: &Agent) -> ExitCode {
    match agent.ask_health() {
        Some(Ok(line)) => print(&format!("{line}\n")),
        Some(Err(line)) => {
            complain(&line);
            ExitCode::from(UNHEALTHY)
        }
        None => {
            let text =
                "which agent? `health` asks the admin server: give the --admin that the agent runs with";
            refuse(&program("agent"), &UsageError(text.to_owned()))
        }
    }
}

/// Prints each exchange of a running agent as it ends.
#[cfg(feature = "inspect")]
fn tail(agent: &Agent, format: TailFormat) -> ExitCode {
    let mut output = std::io::stdout();
    let ended = agent.tail(|exchange| {
        let line = match format {
            TailFormat::Json => exchange.to_string(),
            TailFormat::Text => exchange_line(exchange),
        };
        match writeln!(output, "{line}").and_then(|()| output.flush()) {
            // Its reader has had enough.
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => std::process::exit(0),
            written => written,
        }
    });
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            complain(&reason);
            ExitCode::FAILURE
        }
    }
}

/// Has a running agent send a recorded request again, and prints what came of it.
#[cfg(feature = "inspect")]
fn replay(agent: &Agent, id: u64) -> ExitCode {
    match agent.replay_recorded(id) {
        Ok((exchange, left_out)) => {
            if !left_out.is_empty() {
                complain(&format!("without {}: masked when it was recorded", left_out.join(", ")));
            }
            print(&format!("{}\n", exchange_line(&exchange)))
        }
        Err(reason) => {
            complain(&format!("request {id} was not sent again: {reason}"));
            ExitCode::FAILURE
        }
    }
}

fn check(agent: Agent) -> ExitCode {
    let mut towards = String::new();
    // A reader of the output that goes away still gets the exit code.
    let passed = agent.check(|step| {
        if towards != step.towards {
            towards.clone_from(&step.towards);
            let _ = print(&format!("{towards}\n"));
        }
        let _ = print(&format!("  {}\n", step.advised()));
    });
    if passed { ExitCode::SUCCESS } else { ExitCode::from(FAILED_CHECK) }
}

/// Reads the configuration again. One that cannot be used changes nothing. Returns the time that requests have to finish.
fn reload(agent: &Handle, log_format: logging::Format) -> Option<Duration> {
    let reread = match read() {
        Ok(Command::Run(settings)) => settings.apply(agent, log_format).map(|()| settings),
        // Neither help nor a version was asked for.
        Ok(Command::Help | Command::Version) => return None,
        Err(error) => Err(error),
    };
    match reread {
        Ok(settings) => {
            settings.warnings.iter().for_each(|warning| warn!("{warning}"));
            logging::set_level(settings.log_level.as_deref());
            Some(settings.drain)
        }
        Err(error) => {
            error!("the configuration stays as it was: {error}");
            None
        }
    }
}

/// SIGHUP skips the wait before the next attempt, and reads the configuration again. The first SIGINT or SIGTERM drains, the
/// next one stops at once.
fn obey_signals(
    agent: Handle,
    drain: Duration,
    log_format: logging::Format,
    manager: Option<ServiceManager>,
) -> std::io::Result<()> {
    let drain = Cell::new(drain);
    let tell = move |message: fn(&ServiceManager)| {
        if let Some(manager) = &manager {
            message(manager);
        }
    };
    handle_signals(move |signal| match signal {
        Signal::Reload => {
            tell(ServiceManager::reloading);
            drain.set(reload(&agent, log_format).unwrap_or(drain.get()));
            agent.retry_now();
            tell(ServiceManager::reloaded);
        }
        Signal::Stop => {
            tell(ServiceManager::stopping);
            let seconds = drain.get().as_secs();
            info!("asked to stop; finishing what runs, for {seconds} s at most; ask again to stop at once");
            agent.shutdown(drain.get());
        }
        Signal::StopAtOnce => {
            info!("asked again: stopping at once");
            agent.shutdown(Duration::ZERO);
        }
    })
}
