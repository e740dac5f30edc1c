//! The table of a program's options: which there are, what they are called, and what was probably meant.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fmt;

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

    /// An option that may be given more than once.
    #[must_use]
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

/// An error that names variables in the place of flags, for options that were taken from the environment.
pub(super) fn naming_variables(UsageError(text): UsageError, taken: &[(&'static str, String)]) -> UsageError {
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
pub(super) fn check_names(
    table: &[Opt],
    prefix: &str,
    names: impl Iterator<Item = OsString>,
) -> Result<(), UsageError> {
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

/// The flag of an option of the library: `--max-message` of `max_message`.
pub(super) fn flag(option: &str) -> String {
    format!("--{}", option.replace('_', "-"))
}

/// What a variable is called that no other program uses: the prefix and the flag's name, or the short variable's own.
pub(super) fn own_names(prefix: &str, opt: &Opt) -> Vec<String> {
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
pub(super) fn check(
    table: &[Opt],
    arguments: &[OsString],
) -> Result<Vec<(&'static str, String)>, UsageError> {
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
        "an argument that belongs to no option: every value follows its --option, and a command comes first"
            .to_owned()
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
pub(super) fn distance(a: &str, b: &str) -> usize {
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
pub(super) fn help_on(table: &[Opt], prefix: &str) -> String {
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

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: [Opt; 3] = [
        Opt::new("--tunnel-id", "TUNNEL_ID", "ID", ""),
        Opt::new("--workers", "WORKERS", "N", ""),
        Opt::new("--insecure", "INSECURE", "", ""),
    ];

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
    fn an_error_names_the_variable_that_an_option_was_taken_from() {
        let taken = [("--rate", "the variable MY_RATE".to_owned())];
        let named = |text: &str| naming_variables(UsageError(text.to_owned()), &taken).0;
        assert_eq!(named("--rate must be more"), "the variable MY_RATE must be more");
        assert_eq!(named("--rate-wait needs --rate"), "--rate-wait needs the variable MY_RATE");
        assert_eq!(named("see (--rate, --x)"), "see (the variable MY_RATE, --x)");
    }
}
