//! The command line of the agent.

mod builder;
mod config_file;
#[cfg(feature = "inspect")]
mod exchange_line;
mod folders;
mod own_id;
mod printed;
mod table;

use std::path::Path;
use std::time::Duration;

use self::builder::{Configuration, MissingId, Remarks};
use self::config_file::{ConfigFile, default_path};
#[cfg(feature = "inspect")]
pub use self::exchange_line::exchange_line;
use self::own_id::Keeping;
pub(super) use self::table::TABLE;
use super::logging::Format;
use super::options::{Given, Provenance};
use super::{Command, Invoked, Options, QrCodes, UsageError, Verb, duration, help_on, log_format, program};
use crate::{Agent, Handle};

/// The settings of the program.
#[derive(Debug)]
pub struct AgentSettings {
    /// The agent to run.
    pub agent: Agent,
    /// The configuration of the agent.
    configuration: Configuration,
    /// The time that requests under way have to finish when the program is asked to stop.
    pub drain: Duration,
    /// The task.
    pub task: Task,
    /// Whether QR codes are shown.
    pub qr: QrCodes,
    /// The form of the log's lines.
    pub log_format: Format,
    /// The level of the log, as it was given.
    pub log_level: Option<String>,
    /// Warnings about the configuration, for the log.
    pub warnings: Vec<String>,
    /// Remarks about the configuration, for the log.
    pub notes: Vec<String>,
}

impl AgentSettings {
    /// Has a running agent, which began with other settings, go on with these.
    ///
    /// # Errors
    ///
    /// [`UsageError`] says what cannot be used; then nothing has changed.
    pub fn apply(&self, agent: &Handle, began_with: Format) -> Result<(), UsageError> {
        if self.log_format != began_with {
            let text = "--log-format cannot change while the agent runs: restart it";
            return Err(UsageError(text.to_owned()));
        }
        agent.reload(&self.configuration.builder()).map_err(|error| self.configuration.named(&error))
    }
}

/// The task of the program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Task {
    /// Serve the tunnel.
    Serve,
    /// Explain the outcome of a request with this method and this path.
    Explain(String, String),
    /// List the HTTP servers of this machine.
    Discover,
    /// Try each step by itself.
    Check,
    /// Print a new tunnel ID.
    NewId(String),
    /// Ask a running agent whether it lives.
    Health,
    /// Print the exchanges of a running agent as they end.
    #[cfg(feature = "inspect")]
    Tail(TailFormat),
    /// Have a running agent send this recorded request again.
    #[cfg(feature = "inspect")]
    Replay(u64),
    /// Print this text.
    Print(String),
}

/// The form in which `tail` prints exchanges.
#[cfg(feature = "inspect")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TailFormat {
    /// A line for people.
    Text,
    /// An object of JSON a line, as the inspector's API has it.
    Json,
}

/// The prefix of variables that only this program reads.
const PREFIX: &str = "TUNNEL_AGENT_";

/// The purpose of the program, in one line.
const SUMMARY: &str =
    "Answers a gateway's HTTP requests from a local web server, over one outgoing WebSocket";

const EXPLAIN: &str = "explain";

const CHECK: &str = "check";

const DISCOVER: &str = "discover";

const NEW_ID: &str = "new-id";

const HEALTH: &str = "health";

/// Serves a local server whose address is typed, with a tunnel ID of the user's where none is given.
const HTTP: &str = "http";

#[cfg(feature = "inspect")]
const TAIL: &str = "tail";

#[cfg(feature = "inspect")]
const REPLAY: &str = "replay";

const PRINT: &str = "print";

/// The commands. The first one's name may be left out.
const VERBS: &[Verb] = &[
    Verb {
        operands: &["ADDRESS"],
        option: Some("--local"),
        ..Verb::new(HTTP, "serves a local server, such as 8000, with a tunnel ID of yours")
    },
    Verb {
        operands: &["METHOD", "PATH"],
        ..Verb::new(EXPLAIN, "which rule decides about a request, and what would be sent")
    },
    Verb {
        further: &["ADDRESS"],
        option: Some("--local"),
        ..Verb::new(CHECK, "tries each step by itself, and says what to do where one fails")
    },
    Verb::new(DISCOVER, "which HTTP servers listen on this machine"),
    Verb::new(NEW_ID, "prints a new tunnel ID"),
    Verb::new(HEALTH, "asks the one that runs with --admin whether it lives"),
    #[cfg(feature = "inspect")]
    Verb::new(TAIL, "prints the requests of the one that runs with --inspect"),
    #[cfg(feature = "inspect")]
    Verb { operands: &["N"], ..Verb::new(REPLAY, "has that one send its recorded request N again") },
    Verb {
        further: &["WHAT", "SHELL"],
        ..Verb::new(PRINT, "prints files for services, containers, shells and monitoring")
    },
];

/// The text of `--help`.
pub fn help() -> String {
    format!(
        "{SUMMARY}.\n\n\
         {}\n\
         {}\n\
         Times read 500ms, 10s, 2m; sizes 64KiB, 10MiB.\n\
         SIGTERM and SIGINT stop it, SIGHUP skips the wait before the next try and reads the configuration again.\n\
         Exit codes: 0 asked to stop, 1 gave up on all gateways or cannot listen at --admin, 2 wrong usage,\n\
         3 refused by the gateway.\n",
        usages(),
        help_on(&TABLE, PREFIX),
    )
}

/// The commands with their operands, and what each is for.
fn usages() -> String {
    let program = program("agent");
    let as_typed = |verb: &Verb| verb.usage().replacen(HTTP, "[http]", 1);
    let mut lines: Vec<_> = VERBS.iter().map(|verb| (as_typed(verb), verb.help)).collect();
    lines.insert(1, ("--tunnel-id ID".to_owned(), "the same with what the options say"));
    let line = |(usage, help)| format!("{program} {usage:<22} {help}\n");
    let lines: Vec<_> = lines.into_iter().map(line).collect();
    format!("Usage: {}       Each may be followed by options.\n", lines.join("       "))
}

/// Reads the arguments, the environment and the configuration file.
pub fn read() -> Result<Command<AgentSettings>, UsageError> {
    super::read(VERBS, &TABLE, PREFIX, settings)
}

fn settings(invoked: Invoked, options: Options<'static>) -> Result<AgentSettings, UsageError> {
    let missing = match &invoked {
        Some((HTTP | CHECK, operands)) if !operands.is_empty() => MissingId::Kept(operands[0].clone()),
        _ => MissingId::Asked,
    };
    let task = task(invoked, &options)?;
    let mut remarks = Remarks::default();
    let file = if matches!(task, Task::Discover | Task::NewId(_) | Task::Print(_)) {
        None
    } else {
        config_file(&options)?
    };
    let mut configuration = Configuration::read(options, file, &mut remarks)?;
    let mut agent = configuration.builder().build().map_err(|error| configuration.named(&error))?;
    let options = configuration.options().clone();
    let drain = options.value("--drain", duration)?.unwrap_or(Duration::from_secs(10));
    let log_format = options.value("--log-format", log_format)?.unwrap_or_default();
    let log_level = log_level(&options)?;
    let qr = if options.switch("--qr")? { QrCodes::Shown } else { QrCodes::Hidden };
    // Nothing is written for a configuration that cannot be used.
    if matches!(task, Task::Serve | Task::Check) && configuration.lacks_id() {
        let keeping = if task == Task::Check { Keeping::Forgotten } else { Keeping::Kept };
        configuration.find_ids(&missing, keeping, &mut remarks)?;
        agent = configuration.builder().build().map_err(|error| configuration.named(&error))?;
    }
    let Remarks { warnings, notes } = remarks;
    let notes = options.bare_variables().into_iter().chain(notes).collect();
    Ok(AgentSettings { agent, configuration, drain, task, qr, log_format, log_level, warnings, notes })
}

/// The level of the log. `RUST_LOG` may be meant for other programs, and say more than this one knows: it is no error.
fn log_level(options: &Options<'_>) -> Result<Option<String>, UsageError> {
    let is_own = |given: &&Given<'_>| given.from != Provenance::OwnVariable;
    let given = options.effective().find(|given| given.opt.name == "log_level");
    let is_level = |text: &str| text.parse::<log::LevelFilter>().is_ok();
    if let Some(given) = given.filter(is_own).filter(|given| !is_level(&given.text)) {
        return Err(options.error(given, "expected off, error, warn, info, debug or trace"));
    }
    Ok(given.map(|given| given.text.clone()))
}

/// The configuration file that was named, or the user's or the machine's own, if there is one.
fn config_file(options: &Options<'_>) -> Result<Option<ConfigFile>, UsageError> {
    let path = match options.text("--config") {
        Some(none) if none == "none" => None,
        Some(path) if path.is_empty() => {
            return Err(UsageError("--config: it is empty; give a file, or none".to_owned()));
        }
        Some(path) => Some(Path::new(&path).to_owned()),
        None => default_path(&|name| std::env::var_os(name)),
    };
    path.map(|path| ConfigFile::read(&path)).transpose()
}

#[cfg_attr(not(feature = "inspect"), expect(unused_variables, reason = "`tail` alone has an option"))]
fn task(invoked: Invoked, options: &Options<'_>) -> Result<Task, UsageError> {
    let Some((verb, operands)) = invoked else { return Ok(Task::Serve) };
    Ok(match (verb, operands.as_slice()) {
        (EXPLAIN, [method, path]) => Task::Explain(method.clone(), path.clone()),
        (CHECK, _) => Task::Check,
        (DISCOVER, _) => Task::Discover,
        (HEALTH, _) => Task::Health,
        #[cfg(feature = "inspect")]
        (TAIL, _) if options.switch("--json")? => Task::Tail(TailFormat::Json),
        #[cfg(feature = "inspect")]
        (TAIL, _) => Task::Tail(TailFormat::Text),
        #[cfg(feature = "inspect")]
        (REPLAY, [number]) => Task::Replay(number.parse().map_err(|_| {
            UsageError(format!("{REPLAY}: expected the number of a request, such as 12, not {number}"))
        })?),
        (NEW_ID, _) => Task::NewId(own_id::new_id(None)),
        (PRINT, what) => Task::Print(printed::text(&what.join(" "), &program("agent"))?),
        _ => Task::Serve,
    })
}
