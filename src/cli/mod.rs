//! The command lines of the two programs: options, help, signals, log.
//!
//! The library knows no flag. Its errors are data, and this module says which option to look at.

mod advice;
pub mod agent;
mod banner;
#[cfg(feature = "gateway")]
pub mod descriptors;
#[cfg(feature = "gateway")]
pub mod gateway;
mod local_servers;
pub mod logging;
mod options;
mod service;
mod signals;
mod table;

use std::ffi::{OsStr, OsString};
use std::io::{ErrorKind, Write};
use std::path::Path;
use std::process::ExitCode;

pub use self::advice::Advised;
pub(crate) use self::advice::advised;
pub use self::banner::{QrCodes, announce};
pub use self::local_servers::LocalServerTable;
use self::logging::log_format;
pub use self::options::Options;
pub use self::service::ServiceManager;
pub use self::signals::{Signal, handle_signals};
pub use self::table::{Opt, UsageError};
use self::table::{check_names, distance, flag, help_on};
use crate::agent::addresses;
use crate::agent::values::duration;
#[cfg(feature = "gateway")]
use crate::agent::values::{number, size};
use crate::{ConfigError, ConfigProblem};

/// The task that a program was given.
#[derive(Debug)]
pub enum Command<T> {
    /// To print its help.
    Help,
    /// To print its version.
    Version,
    /// To run with these settings.
    Run(T),
}

/// A command of a program that does more than one thing, and what follows it: operands, before any option.
#[derive(Debug, Clone, Copy)]
pub struct Verb {
    /// The word to type.
    pub name: &'static str,
    /// The placeholders of its operands.
    pub operands: &'static [&'static str],
    /// The placeholders of further operands, which are optional.
    pub further: &'static [&'static str],
    /// The option whose value is an operand that is an address. The first such command may be left out.
    pub option: Option<&'static str>,
    /// The description.
    pub help: &'static str,
}

impl Verb {
    /// A command without operands.
    pub const fn new(name: &'static str, help: &'static str) -> Self {
        Verb { name, operands: &[], further: &[], option: None, help }
    }

    /// The word to type, with the placeholders of its operands.
    fn usage(&self) -> String {
        let operands = self.operands.iter().map(ToString::to_string);
        let further = self.further.iter().map(|operand| format!("[{operand}]"));
        [self.name.to_owned()].into_iter().chain(operands).chain(further).collect::<Vec<_>>().join(" ")
    }
}

/// A request for help or the version, in place of a run.
pub type Invoked = Option<(&'static str, Vec<String>)>;

/// Reads the program's arguments and environment; `settings` says what the options come to.
pub fn read<T>(
    verbs: &[Verb],
    table: &'static [Opt],
    prefix: &'static str,
    settings: impl FnOnce(Invoked, Options<'static>) -> Result<T, UsageError>,
) -> Result<Command<T>, UsageError> {
    let mut arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    let is = |names: [&str; 2]| arguments.iter().any(|argument| names.iter().any(|name| argument == name));
    if is(["-h", "--help"]) {
        return Ok(Command::Help);
    }
    if is(["-V", "--version"]) {
        return Ok(Command::Version);
    }
    let environment = |name: &str| std::env::var_os(name);
    let invoked = take_verb(verbs, &mut arguments)?;
    check_names(table, prefix, std::env::vars_os().map(|(name, _)| name))?;
    let options = Options::new(table, prefix, arguments, &environment)?;
    settings(invoked, options).map(Command::Run)
}

/// Takes a command and its operands from the front.
fn take_verb(verbs: &[Verb], arguments: &mut Vec<OsString>) -> Result<Invoked, UsageError> {
    let Some(first) = arguments.first().filter(|first| !first.to_string_lossy().starts_with('-')) else {
        return Ok(None);
    };
    let first = first.to_string_lossy().into_owned();
    let implied = verbs.iter().find(|verb| verb.option.is_some()).filter(|_| addresses::is_local(&first));
    if let Some(verb) = implied {
        arguments.insert(0, verb.name.into());
    } else if !verbs.iter().any(|verb| first == verb.name) {
        return if verbs.is_empty() { Ok(None) } else { Err(unknown_verb(verbs, &first)) };
    }
    let name = arguments.remove(0);
    let Some(verb) = verbs.iter().find(|verb| name == verb.name) else { return Ok(None) };
    let usage = || UsageError(format!("{} is followed by {}", verb.name, verb.operands.join(" and ")));
    let mut operands = Vec::new();
    let is_operand = |argument: &OsString| !argument.to_string_lossy().starts_with("--");
    for _ in verb.operands {
        let operand = arguments.first().is_some_and(is_operand).then(|| arguments.remove(0));
        operands.push(operand.and_then(|operand| operand.into_string().ok()).ok_or_else(usage)?);
    }
    let may_follow = |next: &OsString| match verb.option {
        Some(_) => addresses::is_local(&next.to_string_lossy()),
        None => is_operand(next),
    };
    for _ in verb.further {
        if arguments.first().is_some_and(may_follow) {
            operands.push(arguments.remove(0).to_string_lossy().into_owned());
        }
    }
    if let Some(option) = verb.option {
        arguments.splice(..0, operands.first().into_iter().flat_map(|word| [option.into(), word.into()]));
    }
    Ok(Some((verb.name, operands)))
}

/// The error of a first word that is no command. It is not repeated: it may be a tunnel ID or a token.
fn unknown_verb(verbs: &[Verb], word: &str) -> UsageError {
    let names = verbs.iter().map(|verb| verb.name);
    let nearest = names.clone().map(|name| (distance(name, word), name)).min();
    let text = match nearest.filter(|(edits, name)| *edits <= 2 && *edits < name.len() / 2) {
        Some((_, name)) => format!("the first argument is no option and no command; did you mean {name}?"),
        None => format!(
            "the first argument is no option, no command and no address; there are {}",
            names.collect::<Vec<_>>().join(", ")
        ),
    };
    UsageError(text)
}

/// Prints to standard output. That it is closed, as of `agent --help | head -1`, is no error; that it is full is one.
pub fn print(text: &str) -> ExitCode {
    let mut output = std::io::stdout();
    match output.write_all(text.as_bytes()).and_then(|()| output.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            let _ = writeln!(std::io::stderr(), "cannot write to standard output: {error}");
            ExitCode::FAILURE
        }
        _ => ExitCode::SUCCESS,
    }
}

/// The name that the program was called by: it may be installed under another than it was built with.
pub fn program(built_as: &str) -> String {
    let called_as = std::env::args_os().next();
    let name = called_as.as_deref().map(Path::new).and_then(Path::file_name).and_then(OsStr::to_str);
    name.unwrap_or(built_as).to_owned()
}

/// A configuration that the library refuses, with the program's names of options.
fn config_error(error: &ConfigError, name: impl Fn(&'static str) -> String) -> UsageError {
    let hint = match (error.option(), error.problem()) {
        ("admin", ConfigProblem::Invalid(_)) => "; give one with --admin-token-file",
        (_, ConfigProblem::Variable(_)) => "; --proxy none dials directly",
        ("gateway", ConfigProblem::Twice(_)) => "; --connections opens several sessions with one gateway",
        _ => "",
    };
    UsageError(error.text(name) + hint)
}

/// Prints what is wrong with the command line to standard error.
pub fn refuse(program: &str, error: &UsageError) -> ExitCode {
    // Standard error may be closed.
    let _ = writeln!(std::io::stderr(), "{program}: {error}\nTry '{program} --help'.");
    ExitCode::from(USAGE)
}

/// Exit code for a command line or configuration that cannot be used.
const USAGE: u8 = 2;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_comes_first_with_its_operands() {
        let http = Verb { operands: &["ADDRESS"], option: Some("--local"), ..Verb::new("http", "") };
        let explain = Verb { operands: &["METHOD", "PATH"], ..Verb::new("explain", "") };
        let verbs = [explain, http];
        let take = |typed: &[&str]| {
            let mut arguments = typed.iter().map(OsString::from).collect();
            take_verb(&verbs, &mut arguments).map(|invoked| (invoked, arguments.len()))
        };
        let operands = vec!["GET".to_owned(), "/".to_owned()];
        assert_eq!(take(&["explain", "GET", "/", "--x"]), Ok((Some(("explain", operands)), 1)));
        assert_eq!(take(&["--x", "explain"]), Ok((None, 2)));
        assert_eq!(take(&["explain", "GET"]).unwrap_err().0, "explain is followed by METHOD and PATH");
        assert!(take(&["explain", "GET", "--x"]).is_err());
        let wrong = "the first argument is no option, no command and no address; there are explain, http";
        assert_eq!(take(&["s3cret"]), Err(UsageError(wrong.to_owned())));
        let wrong = "the first argument is no option and no command; did you mean explain?";
        assert_eq!(take(&["expalin"]), Err(UsageError(wrong.to_owned())));
        // An address is the value of an option.
        for typed in [&["8000", "--x"][..], &["http", "8000", "--x"]] {
            let mut arguments = typed.iter().map(OsString::from).collect();
            assert_eq!(take_verb(&verbs, &mut arguments), Ok(Some(("http", vec!["8000".to_owned()]))));
            assert_eq!(arguments, ["--local", "8000", "--x"]);
        }
        assert_eq!(take(&["http"]).unwrap_err().0, "http is followed by ADDRESS");
        let verbs = [Verb { further: &["ADDRESS"], option: Some("--local"), ..Verb::new("check", "") }];
        let mut arguments = ["check", "8000", "--x"].iter().map(OsString::from).collect();
        assert_eq!(take_verb(&verbs, &mut arguments), Ok(Some(("check", vec!["8000".to_owned()]))));
        assert_eq!(arguments, ["--local", "8000", "--x"]);
        // One that may be left out.
        let verbs = [Verb { operands: &["WHAT"], further: &["SHELL"], ..Verb::new("print", "") }];
        for (typed, operands) in
            [(&["print", "x", "--y"][..], &["x"][..]), (&["print", "x", "zsh", "--y"], &["x", "zsh"])]
        {
            let mut arguments = typed.iter().map(OsString::from).collect();
            let operands = operands.iter().map(ToString::to_string).collect();
            assert_eq!(take_verb(&verbs, &mut arguments), Ok(Some(("print", operands))));
            assert_eq!(arguments, ["--y"]);
        }
        assert_eq!(verbs[0].usage(), "print WHAT [SHELL]");
    }

    /// Checks a program's part of the manual against its table: each option with its value, its variable and its
    /// default, and no others.
    #[cfg(all(feature = "gateway", feature = "inspect"))]
    #[track_caller]
    fn check_manual(part: &str, table: &[Opt]) {
        let rows: Vec<Vec<&str>> = part
            .lines()
            .filter(|line| {
                line.starts_with("| ") && !line.starts_with("| ---") && !line.starts_with("| flag")
            })
            .map(|line| line.split('|').skip(1).collect())
            .collect();
        for opt in table {
            let typed = format!("`{} {}`", opt.flag, opt.value).replace(" `", "`");
            // A header is shown with its form.
            let has_flag =
                |row: &&Vec<&str>| row[0].contains(&typed) || row[0].contains(&format!("`{} ", opt.flag));
            let has_variable = |text: &str| text.contains(opt.variable);
            let row = rows.iter().find(|row| {
                if opt.flag.is_empty() { row.iter().any(|cell| has_variable(cell)) } else { has_flag(row) }
            });
            let row = row.unwrap_or_else(|| panic!("the manual has no row for {typed} {}", opt.variable));
            assert!(row.iter().any(|cell| has_variable(cell)), "{typed}: {}", opt.variable);
            let default = opt.help.rsplit_once("default ").map_or("", |(_, default)| default.trim());
            let is_literal = default.starts_with(|c: char| c.is_ascii_digit()) || default.contains("://");
            assert!(!is_literal || row[2].contains(default), "{typed}: default {default}, but{}", row[2]);
        }
        for flag in rows.iter().flat_map(|row| row[0].split('`').skip(1).step_by(2)) {
            let flag = flag.split(' ').next().unwrap_or_default();
            assert!(table.iter().any(|opt| opt.flag == flag), "the manual has {flag}");
        }
    }

    // The manual is that of the programs with all features.
    #[cfg(all(feature = "gateway", feature = "inspect"))]
    #[test]
    fn the_manual_has_every_option_and_no_other() {
        let page = include_str!("../manual/options.md");
        let (agent, gateway) = page.split_once("## Gateway").unwrap();
        let gateway = gateway.split("## Commands").next().unwrap();
        check_manual(agent, &agent::TABLE);
        check_manual(gateway, &gateway::TABLE);
    }
}
