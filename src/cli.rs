//! Command lines: what was typed, and what is wrong with it. Shared by the two programs.
//!
//! One table per program says which options there are; the help, the environment variables and the hints
//! all come from it. A flag beats its variable beats the default; an empty variable counts as unset.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::rc::Rc;
use std::str::FromStr;
use std::time::Duration;

use crate::link::credentials::read_secret;
use crate::logging::Format;

/// One line of a program's table.
#[derive(Debug, Clone, Copy)]
pub struct Opt {
    /// The flag with its dashes; empty when there is a variable alone.
    pub flag: &'static str,
    /// The environment variable; empty when there is none.
    pub variable: &'static str,
    /// What stands for its value in the help; empty when it takes none.
    pub value: &'static str,
    /// What it is for, with its default.
    pub help: &'static str,
    /// Whether it may be given more than once; its variable then holds values with commas between them.
    pub repeats: bool,
}

impl Opt {
    /// An option that may be given once.
    pub const fn new(
        flag: &'static str,
        variable: &'static str,
        value: &'static str,
        help: &'static str,
    ) -> Self {
        Opt { flag, variable, value, help, repeats: false }
    }

    /// The same, as often as one likes.
    pub const fn repeats(self) -> Self {
        Opt { repeats: true, ..self }
    }
}

/// A command line that cannot be used, said in one line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsageError(pub String);

impl fmt::Display for UsageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for UsageError {}

/// What was typed, and the environment.
pub struct Options<'a> {
    table: &'a [Opt],
    /// What variables begin with that are meant for this program and no other: `TUNNEL_AGENT_`, say.
    prefix: &'static str,
    /// Flags with their values, in the order in which they were typed.
    typed: Vec<(&'static str, String)>,
    arguments: pico_args::Arguments,
    environment: &'a dyn Fn(&str) -> Option<OsString>,
    /// Variables that were obeyed though other programs may use their names.
    bare: RefCell<BTreeSet<&'static str>>,
    taken: Taken,
}

/// Options that were taken from the environment, and what their variables are called in an error.
type Taken = Rc<RefCell<Vec<(&'static str, String)>>>;

/// Variables whose names say whose they are, with or without the prefix.
const OWN_NAMES: [&str; 4] = ["TUNNEL_ID", "GATEWAY_URL", "LOCAL_URL", "RUST_LOG"];

/// What a program was asked to do.
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
    /// What is typed.
    pub name: &'static str,
    /// What its operands stand for.
    pub operands: &'static [&'static str],
}

/// What a program is to do, if not what it usually does.
pub type Invoked = Option<(&'static str, Vec<String>)>;

/// Reads the program's arguments and environment; `settings` says what the options come to.
pub fn read<T>(
    verbs: &[Verb],
    table: &[Opt],
    prefix: &'static str,
    settings: impl FnOnce(Invoked, Options<'_>) -> Result<T, UsageError>,
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
    let taken = options.taken.clone();
    let settings = settings(invoked, options).map_err(|error| naming_variables(error, &taken.borrow()));
    settings.map(Command::Run)
}

/// The same error, with the variables that options were taken from in the place of their flags.
fn naming_variables(UsageError(text): UsageError, taken: &[(&'static str, String)]) -> UsageError {
    let is_of_word = |c: char| c.is_ascii_alphanumeric() || c == '-';
    let word = |word: &str| {
        let source = taken.iter().find(|(flag, _)| *flag == word).map(|(_, source)| source.as_str());
        source.unwrap_or(word).to_owned()
    };
    let mut named = String::with_capacity(text.len());
    let mut rest = text.as_str();
    while let Some(start) = rest.find("--") {
        let (before, from) = rest.split_at(start);
        let end = from.find(|c| !is_of_word(c)).unwrap_or(from.len());
        named.push_str(before);
        named.push_str(&word(&from[..end]));
        rest = &from[end..];
    }
    UsageError(named + rest)
}

/// Refuses variables that are meant for this program and that it does not know: a rule that is misspelt lets everything
/// pass.
fn check_names(table: &[Opt], prefix: &str, names: impl Iterator<Item = OsString>) -> Result<(), UsageError> {
    let known: BTreeSet<String> = table.iter().flat_map(|opt| own_names(prefix, opt)).collect();
    for name in names {
        let Some(name) = name.to_str().filter(|name| name.starts_with(prefix)) else { continue };
        // Kubernetes tells every program of services in this way, of one whose name begins as this program's, say.
        let rest = &name[prefix.len()..];
        let of_service = format!("_{rest}_");
        let is_of_service =
            ["_SERVICE_HOST_", "_SERVICE_PORT_", "_PORT_"].iter().any(|sign| of_service.contains(sign));
        if known.contains(name) || is_of_service {
            continue;
        }
        let like = known.iter().map(|other| (distance(name, other), other)).min();
        let hint =
            like.filter(|(distance, _)| *distance <= 2).map(|(_, like)| format!("; did you mean {like}?"));
        let hint = hint.unwrap_or_else(|| "; --help lists them".to_owned());
        return Err(UsageError(format!("the variable {name} is none of this program's{hint}")));
    }
    Ok(())
}

/// Takes a command and its operands from the front.
fn take_verb(verbs: &[Verb], arguments: &mut Vec<OsString>) -> Result<Invoked, UsageError> {
    let Some(first) = arguments.first().filter(|first| !first.to_string_lossy().starts_with('-')) else {
        return Ok(None);
    };
    let Some(verb) = verbs.iter().find(|verb| first == verb.name) else {
        if verbs.is_empty() {
            return Ok(None);
        }
        let names: Vec<_> = verbs.iter().map(|verb| verb.name).collect();
        // Not repeated: it may be a tunnel ID or a token.
        return Err(UsageError(format!(
            "the first argument is no option and no command; there are {}",
            names.join(", ")
        )));
    };
    let usage = || UsageError(format!("{} is followed by {}", verb.name, verb.operands.join(" and ")));
    arguments.remove(0);
    let mut operands = Vec::new();
    for _ in verb.operands {
        let is_one = arguments.first().is_some_and(|operand| !operand.to_string_lossy().starts_with("--"));
        let operand = if is_one { arguments.remove(0).into_string().ok() } else { None };
        operands.push(operand.ok_or_else(usage)?);
    }
    Ok(Some((verb.name, operands)))
}

/// Prints to standard output. That it is closed, as of `agent --help | head -1`, is no error.
pub fn print(text: &str) -> ExitCode {
    let _ = std::io::stdout().write_all(text.as_bytes());
    ExitCode::SUCCESS
}

/// The name that the program was called by: it may be installed under another than it was built with.
pub fn program(built_as: &str) -> String {
    let called_as = std::env::args_os().next();
    let name = called_as.as_deref().map(Path::new).and_then(Path::file_name).and_then(OsStr::to_str);
    name.unwrap_or(built_as).to_owned()
}

/// Says on standard error what is wrong with the command line.
pub fn refuse(program: &str, error: &UsageError) -> ExitCode {
    // Nobody to tell when it is closed.
    let _ = writeln!(std::io::stderr(), "{program}: {error}\nTry '{program} --help'.");
    ExitCode::from(USAGE)
}

/// Exit code for a command line or configuration that cannot be used.
const USAGE: u8 = 2;

impl<'a> Options<'a> {
    /// From arguments without the program's name. Refuses what the table does not know, before anything is
    /// read: a misspelt option is the cause where a missing one is only the consequence.
    pub fn new(
        table: &'a [Opt],
        prefix: &'static str,
        arguments: Vec<OsString>,
        environment: &'a dyn Fn(&str) -> Option<OsString>,
    ) -> Result<Self, UsageError> {
        let typed = check(table, &arguments)?;
        let arguments = pico_args::Arguments::from_vec(arguments);
        Ok(Options {
            table,
            prefix,
            typed,
            arguments,
            environment,
            bare: RefCell::default(),
            taken: Taken::default(),
        })
    }

    /// An option without a value: on when given, or by its variable.
    pub fn switch(&mut self, flag: &'static str) -> Result<bool, UsageError> {
        if self.arguments.contains(flag) {
            return Ok(true);
        }
        match self.variable_of(flag)? {
            None => Ok(false),
            Some((_, value)) if value == "1" || value == "true" => Ok(true),
            Some((_, value)) if value == "0" || value == "false" => Ok(false),
            Some((source, _)) => Err(UsageError(format!("{source}: expected 1, true, 0 or false"))),
        }
    }

    /// An option's value as it was given.
    pub fn text(&mut self, flag: &'static str) -> Result<Option<String>, UsageError> {
        self.value(flag, |text| Ok::<_, &str>(text.to_owned()))
    }

    /// An option's value, read by its type's own rules.
    pub fn parsed<T>(&mut self, flag: &'static str) -> Result<Option<T>, UsageError>
    where
        T: FromStr,
        T::Err: fmt::Display,
    {
        self.value(flag, str::parse)
    }

    /// An option's value, read by `read`. Values are never repeated in errors: they may be secrets.
    pub fn value<T, E: fmt::Display>(
        &mut self,
        flag: &'static str,
        read: impl Fn(&str) -> Result<T, E>,
    ) -> Result<Option<T>, UsageError> {
        let typed: Option<String> = self.arguments.opt_value_from_str(flag).map_err(|error| match error {
            pico_args::Error::OptionWithoutAValue(_) => UsageError(format!("{flag} needs a value")),
            _ => UsageError(format!("{flag}: not valid UTF-8")),
        })?;
        let given = match typed {
            Some(text) => Some((flag.to_owned(), text)),
            None => self.variable_of(flag)?,
        };
        let Some((name, text)) = given else { return Ok(None) };
        read(&text).map(Some).map_err(|error| UsageError(format!("{name}: {error}")))
    }

    /// The values of an option that may be given more than once.
    pub fn all_parsed<T>(&mut self, flag: &'static str) -> Result<Vec<T>, UsageError>
    where
        T: FromStr,
        T::Err: fmt::Display,
    {
        let typed: Vec<String> = self
            .arguments
            .values_from_str(flag)
            .map_err(|_| UsageError(format!("{flag}: not valid UTF-8")))?;
        let variable = if typed.is_empty() { self.variable_of(flag)? } else { None };
        let (name, texts) = match variable {
            Some((variable, text)) => {
                (variable, text.split(',').map(|text| text.trim().to_owned()).collect())
            }
            None => (flag.to_owned(), typed),
        };
        let read = |text: &String| text.parse().map_err(|error| UsageError(format!("{name}: {error}")));
        texts.iter().map(read).collect()
    }

    /// The values of several options that may be given more than once, each with its flag, in the order in which
    /// they were typed; else the lines of a variable, each with its name.
    pub fn in_order(
        &self,
        flags: &[&'static str],
        variable: &'static str,
    ) -> Result<Vec<(String, String)>, UsageError> {
        let typed = self.typed.iter().filter(|(flag, _)| flags.contains(flag));
        let typed: Vec<_> = typed.map(|(flag, text)| ((*flag).to_owned(), text.clone())).collect();
        if !typed.is_empty() {
            return Ok(typed);
        }
        let Some((source, text)) = self.variable(variable)? else { return Ok(Vec::new()) };
        let lines = text.lines().filter(|line| !line.trim().is_empty());
        Ok(lines.map(|line| (source.clone(), line.to_owned())).collect())
    }

    /// A secret, from the file that an option names or from a variable, and the file. `read` refuses what cannot be one.
    pub fn secret<T>(
        &mut self,
        file: &'static str,
        variable: &'static str,
        read: impl Fn(&str) -> Option<T>,
    ) -> Result<Option<(T, Option<PathBuf>)>, UsageError> {
        // A file that another program may have meant does not hide what was meant for this one.
        let of_file = self.variable_name(file);
        let is_typed = self.typed.iter().any(|(flag, _)| *flag == file);
        let is_hidden = !is_typed && self.is_set(variable) && !self.is_set(of_file);
        let from_file = |path: &str| secret_file(path).map(|text| (text, PathBuf::from(path)));
        let in_file = if is_hidden { None } else { self.value(file, from_file)? };
        let (source, text, path) = match in_file {
            Some((text, path)) => (file.to_owned(), text, Some(path)),
            None => match self.variable(variable)? {
                Some((source, text)) => (source, text, None),
                None => return Ok(None),
            },
        };
        let unusable = "the token is empty, or holds a space or a character that is not ASCII";
        match read(&text) {
            Some(secret) => Ok(Some((secret, path))),
            None => Err(UsageError(format!("{source}: {unusable}"))),
        }
    }

    /// What the variable of an option is called in an error, and its value, unless it is unset or empty.
    fn variable_of(&self, flag: &str) -> Result<Option<(String, String)>, UsageError> {
        self.variable(self.variable_name(flag))
    }

    /// The short name of an option's variable; empty where there is none.
    fn variable_name(&self, flag: &str) -> &'static str {
        self.table.iter().find(|opt| opt.flag == flag).map_or("", |opt| opt.variable)
    }

    /// The option with this variable.
    fn option_of(&self, variable: &str) -> Option<&'a Opt> {
        self.table.iter().find(|opt| opt.variable == variable && !variable.is_empty())
    }

    /// What a variable is called in an error, and its value, unless it is unset or empty. The name that no other program
    /// uses hides the bare one, even when it is empty.
    pub fn variable(&self, variable: &'static str) -> Result<Option<(String, String)>, UsageError> {
        let Some(opt) = self.option_of(variable) else { return Ok(None) };
        let names = own_names(self.prefix, opt);
        let own = names.iter().find_map(|name| Some((name, (self.environment)(name)?)));
        let (source, value) = match (own, (self.environment)(variable)) {
            (Some((own, value)), _) => (format!("the variable {own}"), value),
            (None, Some(value)) if value.is_empty() => return Ok(None),
            (None, Some(value)) if OWN_NAMES.contains(&variable) => {
                (format!("the variable {variable}"), value)
            }
            (None, Some(value)) => {
                self.bare.borrow_mut().insert(variable);
                // It may be another program's, and stand in the way.
                let own = &names[0];
                (format!("the variable {variable} (another program's? set {own}, empty will do)"), value)
            }
            (None, None) => return Ok(None),
        };
        if value.is_empty() {
            return Ok(None);
        }
        self.taken.borrow_mut().push((opt.flag, source.clone()));
        match value.into_string() {
            Ok(text) => Ok(Some((source, text))),
            Err(_) => Err(UsageError(format!("{source}: not valid UTF-8"))),
        }
    }

    /// The names of a variable that no other program uses; none where there is no such variable.
    fn own_names(&self, variable: &str) -> Vec<String> {
        self.option_of(variable).map(|opt| own_names(self.prefix, opt)).unwrap_or_default()
    }

    /// Whether this variable is set by a name that no other program uses.
    fn is_set(&self, variable: &str) -> bool {
        let mut values = self.own_names(variable).into_iter().filter_map(|own| (self.environment)(&own));
        values.next().is_some_and(|value| !value.is_empty())
    }

    /// Whether this variable was read by its bare name.
    pub fn is_bare(&self, variable: &str) -> bool {
        self.bare.borrow().contains(variable)
    }

    /// Takes note that a variable was not obeyed after all.
    pub fn leave(&self, variable: &str) {
        self.bare.borrow_mut().remove(variable);
    }

    /// What the log says of variables that were obeyed though other programs may use their names.
    pub fn bare_variables(&self) -> Option<String> {
        let bare = self.bare.borrow();
        let named =
            |variable: &&str| Some(format!("{variable} (better {})", self.own_names(variable).first()?));
        let names: Vec<_> = bare.iter().filter_map(named).collect();
        (!names.is_empty()).then(|| format!("taken from the environment: {}", names.join(", ")))
    }
}

/// What a variable is called that no other program uses: the prefix and the flag's name, or the short variable's own.
fn own_names(prefix: &str, opt: &Opt) -> Vec<String> {
    if opt.variable.is_empty() {
        return Vec::new();
    }
    let of_flag = opt.flag.trim_start_matches('-').replace('-', "_").to_ascii_uppercase();
    // The gateway's variables say so by themselves where the agent has others of that name.
    let whose = if prefix.ends_with("GATEWAY_") { "GATEWAY_" } else { "" };
    let of_variable = opt.variable.strip_prefix(whose).unwrap_or(opt.variable);
    let names = [of_flag.as_str(), of_variable, opt.variable].into_iter();
    let mut names: Vec<_> =
        names.filter(|name| !name.is_empty()).map(|name| format!("{prefix}{name}")).collect();
    names.dedup();
    names
}

/// Looks whether the arguments are options of the table with their values, each given once. Returns what was typed.
fn check(table: &[Opt], arguments: &[OsString]) -> Result<Vec<(&'static str, String)>, UsageError> {
    let mut seen: Vec<(&'static str, String)> = Vec::new();
    let mut rest = arguments.iter().map(|argument| argument.to_string_lossy());
    while let Some(argument) = rest.next() {
        let is_text = matches!(argument, Cow::Borrowed(_));
        let (flag, value) = match argument.split_once('=') {
            Some((flag, value)) => (flag, Some(value)),
            None => (argument.as_ref(), None),
        };
        let opt = known(table, flag)?;
        if seen.iter().any(|(other, _)| *other == opt.flag) && !opt.repeats {
            return Err(UsageError(format!("{flag} was given twice")));
        }
        let value = match (opt.value.is_empty(), value) {
            (true, Some(_)) => return Err(UsageError(format!("{flag} takes no value"))),
            (true, None) => String::new(),
            (false, Some(value)) => value.to_owned(),
            (false, None) => match rest.next().filter(|value| !value.starts_with("--")) {
                Some(Cow::Borrowed(value)) if is_text => value.to_owned(),
                Some(_) => return Err(UsageError(format!("{flag}: not valid UTF-8"))),
                None => return Err(UsageError(format!("{flag} needs a value"))),
            },
        };
        if !is_text {
            return Err(UsageError(format!("{}: not valid UTF-8", opt.flag)));
        }
        seen.push((opt.flag, value));
    }
    Ok(seen)
}

fn known<'t>(table: &'t [Opt], flag: &str) -> Result<&'t Opt, UsageError> {
    if let Some(opt) = table.iter().find(|opt| opt.flag == flag && !flag.is_empty()) {
        return Ok(opt);
    }
    Err(UsageError(if flag == "--token" {
        "a token never goes on the command line, where others see it: use --token-file, or the variable that --help names"
            .to_owned()
    } else if flag.starts_with('-') {
        format!("unknown option {}{}", flag.escape_debug(), suggestion(table, flag))
    } else {
        // Not repeated: it may be a tunnel ID or a token.
        "an argument that belongs to no option; every value follows its --option".to_owned()
    }))
}

/// The option that was probably meant.
fn suggestion(table: &[Opt], flag: &str) -> String {
    let flags = table.iter().map(|opt| opt.flag).filter(|meant| !meant.is_empty());
    match flags.map(|meant| (distance(meant, flag), meant)).min() {
        Some((edits, meant)) if edits <= 3 && edits < flag.len() / 2 => format!("; did you mean {meant}?"),
        _ => String::new(),
    }
}

/// How many characters must be added, removed or changed to make one of the other (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().take(64).collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, a) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in b.iter().enumerate() {
            let change = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(row[j + 1] + 1);
        }
    }
    row[b.len()]
}

/// The table as help, with the two options that every program has.
pub fn help(table: &[Opt], prefix: &str) -> String {
    let mut text = format!(
        "Options, each with its environment variable in brackets; a flag beats its variable. Each is read as\n\
         {prefix}… with the flag's name, too, such as {}, which hides the other:\n",
        table.first().and_then(|opt| own_names(prefix, opt).into_iter().next()).unwrap_or_default(),
    );
    for opt in table {
        let name = match (opt.flag, opt.value) {
            ("", _) => format!("${}", opt.variable),
            (flag, "") => flag.to_owned(),
            (flag, value) => format!("{flag} {value}"),
        };
        let variable = match (opt.flag, opt.variable) {
            ("", _) | (_, "") => String::new(),
            (_, variable) => format!(" [{variable}]"),
        };
        text.push_str(&format!("  {name:<28} {}{variable}\n", opt.help));
    }
    for (name, help) in [("-h, --help", "this text"), ("-V, --version", "the version")] {
        text.push_str(&format!("  {name:<28} {help}\n"));
    }
    text
}

/// Reads `500ms`, `10s` or `2m`.
pub fn duration(text: &str) -> Result<Duration, &'static str> {
    const EXPECTED: &str = "expected a time such as 500ms, 10s or 2m";
    let (number, unit) = number_and_unit(text).ok_or(EXPECTED)?;
    let milliseconds = match unit {
        "ms" => Some(number),
        "s" => number.checked_mul(1_000),
        "m" => number.checked_mul(60_000),
        _ => None,
    };
    milliseconds.map(Duration::from_millis).ok_or(EXPECTED)
}

/// Reads `512B`, `64KiB`, `10MiB` or `1GiB`.
pub fn size(text: &str) -> Result<usize, &'static str> {
    const EXPECTED: &str = "expected a size such as 64KiB or 10MiB";
    let (number, unit) = number_and_unit(text).ok_or(EXPECTED)?;
    let factor: u64 = match unit {
        "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return Err(EXPECTED),
    };
    number.checked_mul(factor).and_then(|bytes| usize::try_from(bytes).ok()).ok_or(EXPECTED)
}

fn number_and_unit(text: &str) -> Option<(u64, &str)> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    Some((number.parse().ok()?, unit))
}

/// Reads `text` or `json`.
pub fn log_format(text: &str) -> Result<Format, &'static str> {
    match text {
        "text" => Ok(Format::Text),
        "json" => Ok(Format::Json),
        _ => Err("expected text or json"),
    }
}

/// Reads a whole number.
pub fn number(text: &str) -> Result<usize, &'static str> {
    text.parse().map_err(|_| "expected a whole number")
}

/// Reads a secret from a file: its content without the line's end.
fn secret_file(path: &str) -> Result<String, String> {
    read_secret(Path::new(path)).map_err(|error| match error.kind() {
        // Perhaps it is no path, but the secret itself.
        std::io::ErrorKind::NotFound => {
            let length = path.chars().count();
            format!("there is no file of that name, which is not repeated, of {length} characters: it may be a secret")
        }
        _ => format!("{path}: {error}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: [Opt; 3] = [
        Opt::new("--tunnel-id", "TUNNEL_ID", "ID", ""),
        Opt::new("--workers", "WORKERS", "N", ""),
        Opt::new("--insecure", "INSECURE", "", ""),
    ];

    /// Reads the table's options; the environment is written as `NAME=value`.
    fn read(
        arguments: &[&str],
        environment: &[&str],
    ) -> Result<(Option<String>, Option<usize>, bool), UsageError> {
        let environment = |name: &str| {
            let line = environment.iter().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
            line.map(OsString::from)
        };
        let arguments = arguments.iter().map(OsString::from).collect();
        let mut options = Options::new(&TABLE, "MY_", arguments, &environment)?;
        let got = (
            options.text("--tunnel-id")?,
            options.value("--workers", number)?,
            options.switch("--insecure")?,
        );
        Ok(got)
    }

    #[test]
    fn a_command_comes_first_with_its_operands() {
        let verbs = [Verb { name: "explain", operands: &["METHOD", "PATH"] }];
        let take = |typed: &[&str]| {
            let mut arguments = typed.iter().map(OsString::from).collect();
            take_verb(&verbs, &mut arguments).map(|invoked| (invoked, arguments.len()))
        };
        let operands = vec!["GET".to_owned(), "/".to_owned()];
        assert_eq!(take(&["explain", "GET", "/", "--x"]), Ok((Some(("explain", operands)), 1)));
        assert_eq!(take(&["--x", "explain"]), Ok((None, 2)));
        assert_eq!(take(&["explain", "GET"]).unwrap_err().0, "explain is followed by METHOD and PATH");
        assert!(take(&["explain", "GET", "--x"]).is_err());
        let wrong = "the first argument is no option and no command; there are explain";
        assert_eq!(take(&["s3cret"]), Err(UsageError(wrong.to_owned())));
    }

    #[test]
    fn a_flag_beats_its_variable_and_an_empty_variable_is_unset() {
        assert_eq!(read(&["--workers", "2"], &["WORKERS=3"]), Ok((None, Some(2), false)));
        assert_eq!(read(&["--workers=2"], &["TUNNEL_ID=x"]), Ok((Some("x".into()), Some(2), false)));
        assert_eq!(read(&[], &["WORKERS=", "INSECURE="]), Ok((None, None, false)));
    }

    #[test]
    fn a_name_that_no_other_program_uses_hides_the_bare_one() {
        let environment = |name: &str| match name {
            "WORKERS" | "TUNNEL_ID" => Some(OsString::from("7")),
            "MY_INSECURE" => Some(OsString::from("1")),
            "INSECURE" => Some(OsString::from("redis")),
            _ => None,
        };
        let mut options = Options::new(&TABLE, "MY_", Vec::new(), &environment).unwrap();
        assert_eq!(options.switch("--insecure"), Ok(true));
        assert_eq!(options.bare_variables(), None);
        assert_eq!(options.text("--tunnel-id"), Ok(Some("7".to_owned())));
        assert_eq!(options.bare_variables(), None);
        assert_eq!(options.value("--workers", number), Ok(Some(7)));
        assert!(options.is_bare("WORKERS") && !options.is_bare("INSECURE"));
        let said = "taken from the environment: WORKERS (better MY_WORKERS)";
        assert_eq!(options.bare_variables().as_deref(), Some(said));
    }

    #[test]
    fn a_name_of_ones_own_that_is_misspelt_is_refused() {
        let check = |name: &str| check_names(&TABLE, "MY_", [OsString::from(name)].into_iter());
        for known in ["MY_WORKERS", "MY_TUNNEL_ID", "WORKER", "MY_SERVICE_HOST", "MY_X_PORT_80_TCP", "PATH"] {
            assert_eq!(check(known), Ok(()), "{known}");
        }
        let wrong = "the variable MY_WORKER is none of this program's; did you mean MY_WORKERS?";
        assert_eq!(check("MY_WORKER").unwrap_err().0, wrong);
        let unknown = "the variable MY_DENY is none of this program's; --help lists them";
        assert_eq!(check("MY_DENY").unwrap_err().0, unknown);
    }

    #[test]
    fn the_short_name_with_the_prefix_is_one_too() {
        let names = |prefix, flag, variable| own_names(prefix, &Opt::new(flag, variable, "X", ""));
        assert_eq!(names("A_", "--route", "ROUTES"), ["A_ROUTE", "A_ROUTES"]);
        assert_eq!(names("A_", "--gateway", "GATEWAY_URL"), ["A_GATEWAY", "A_GATEWAY_URL"]);
        assert_eq!(names("X_GATEWAY_", "", "GATEWAY_TOKEN"), ["X_GATEWAY_TOKEN", "X_GATEWAY_GATEWAY_TOKEN"]);
        assert_eq!(names("A_", "--deny", ""), [""; 0]);
    }

    #[test]
    fn an_empty_name_of_ones_own_hides_the_bare_one_too() {
        assert_eq!(read(&[], &["MY_WORKERS=", "WORKERS=redis"]), Ok((None, None, false)));
    }

    #[test]
    fn an_error_names_the_variable_that_an_option_was_taken_from() {
        let taken = [("--rate", "the variable MY_RATE".to_owned())];
        let named = |text: &str| naming_variables(UsageError(text.to_owned()), &taken).0;
        assert_eq!(named("--rate must be more"), "the variable MY_RATE must be more");
        assert_eq!(named("--rate-wait needs --rate"), "--rate-wait needs the variable MY_RATE");
        assert_eq!(named("see (--rate, --x)"), "see (the variable MY_RATE, --x)");
    }

    #[test]
    fn a_secret_of_ones_own_is_not_hidden_by_a_file_of_another_program() {
        let table =
            [Opt::new("--token-file", "TOKEN_FILE", "FILE", ""), Opt::new("", "GATEWAY_TOKEN", "", "")];
        let token = |environment: &[&str]| {
            let environment = |name: &str| {
                let line = environment.iter().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
                line.map(OsString::from)
            };
            let mut options = Options::new(&table, "MY_GATEWAY_", Vec::new(), &environment).unwrap();
            options.secret("--token-file", "GATEWAY_TOKEN", |text| Some(text.to_owned()))
        };
        let none = "/nowhere/at/all";
        assert_eq!(
            token(&["MY_GATEWAY_TOKEN=mine", &format!("TOKEN_FILE={none}")]),
            Ok(Some(("mine".to_owned(), None)))
        );
        assert!(token(&["MY_GATEWAY_TOKEN=mine", &format!("MY_GATEWAY_TOKEN_FILE={none}")]).is_err());
        assert!(token(&["GATEWAY_TOKEN=mine", &format!("TOKEN_FILE={none}")]).is_err());
        assert_eq!(token(&["GATEWAY_TOKEN=mine"]), Ok(Some(("mine".to_owned(), None))));
    }

    #[test]
    fn an_option_that_repeats_gives_all_its_values() {
        let table = [Opt::new("--port", "PORTS", "N", "").repeats()];
        let ports = |arguments: &[&str], variable: &str| {
            let environment = |name: &str| (name == "PORTS").then(|| OsString::from(variable));
            let arguments = arguments.iter().map(OsString::from).collect();
            Options::new(&table, "MY_", arguments, &environment)?.all_parsed::<u16>("--port")
        };
        assert_eq!(ports(&["--port", "1", "--port=2"], "3"), Ok(vec![1, 2]));
        assert_eq!(ports(&[], "3, 4"), Ok(vec![3, 4]));
        assert_eq!(ports(&[], ""), Ok(vec![]));
        let error = ports(&["--port", "1", "--port", "x"], "").unwrap_err();
        assert_eq!(error.0, "--port: invalid digit found in string");
    }

    #[test]
    fn a_switch_is_on_for_1_or_true() {
        for (value, on) in [("1", true), ("true", true), ("0", false), ("false", false)] {
            assert_eq!(read(&[], &[&format!("INSECURE={value}")]).unwrap().2, on);
        }
        assert!(read(&["--insecure"], &["INSECURE=0"]).unwrap().2);
    }

    #[test]
    fn errors_name_the_option_and_never_the_value() {
        for (arguments, environment, message) in [
            (&["--workers", "s3cret"][..], &[][..], "--workers: expected a whole number"),
            (
                &[],
                &["WORKERS=s3cret"],
                "the variable WORKERS (another program's? set MY_WORKERS, empty will do): expected a whole number",
            ),
            (&[], &["MY_WORKERS=s3cret"], "the variable MY_WORKERS: expected a whole number"),
            (
                &[],
                &["INSECURE=s3cret"],
                "the variable INSECURE (another program's? set MY_INSECURE, empty will do): expected 1, true, 0 or false",
            ),
            (&["--workers"], &[], "--workers needs a value"),
            (&["--tunnel-id", "--workers", "2"], &[], "--tunnel-id needs a value"),
            (&["--workers", "1", "--workers", "2"], &[], "--workers was given twice"),
            (&["--insecure=1"], &[], "--insecure takes no value"),
            (&["--worker", "1"], &[], "unknown option --worker; did you mean --workers?"),
            (&["--tunelid=s3cret"], &[], "unknown option --tunelid; did you mean --tunnel-id?"),
            (&["--colour"], &[], "unknown option --colour"),
            (&["", "x"], &[], "an argument that belongs to no option; every value follows its --option"),
            (&["s3cret"], &[], "an argument that belongs to no option; every value follows its --option"),
        ] {
            assert_eq!(read(arguments, environment), Err(UsageError(message.to_owned())), "{arguments:?}");
        }
        assert!(!read(&["--token=s3cret"], &[]).unwrap_err().0.contains("s3cret"));
    }

    #[test]
    fn times_and_sizes_carry_their_unit() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("10s"), Ok(Duration::from_secs(10)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        assert_eq!((size("64KiB"), size("10MiB"), size("7B")), (Ok(65_536), Ok(10_485_760), Ok(7)));
        for bad in
            ["", "10", "s", "-1s", "1.5s", "10 s", "1h", "99999999999999999999s", "18446744073709551615m"]
        {
            assert!(duration(bad).is_err() && size(bad).is_err(), "{bad:?}");
        }
    }
}
