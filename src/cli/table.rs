//! The table of a program's options: which there are, what they are called, and what was probably meant.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fmt;

/// One line of a program's table.
#[derive(Debug, Clone, Copy)]
pub struct Opt {
    /// The name in a configuration file, with underscores; empty for a program without one.
    pub name: &'static str,
    /// The flag with its dashes; empty when there is a variable alone.
    pub flag: &'static str,
    /// The environment variable; empty when there is none.
    pub variable: &'static str,
    /// The placeholder of its value in the help; empty when it takes none.
    pub value: &'static str,
    /// The description, with the default.
    pub help: &'static str,
    /// How often it may be given.
    pub occurrence: Occurrence,
    /// The setting that it is a part of, with other options; empty for one by itself. What is given of a setting in one
    /// place takes the place of all that is given of it elsewhere.
    pub setting: &'static str,
}

/// How often an option may be given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Occurrence {
    /// Once.
    Once,
    /// Any number of times; its variable holds values with commas between them.
    List,
    /// Any number of times; its variable holds a value a line.
    Lines,
}

impl Opt {
    /// An option that may be given once.
    pub const fn new(
        flag: &'static str,
        variable: &'static str,
        value: &'static str,
        help: &'static str,
    ) -> Self {
        Opt { name: "", flag, variable, value, help, occurrence: Occurrence::Once, setting: "" }
    }

    /// An option that may be given more than once.
    #[must_use]
    pub const fn repeats(self) -> Self {
        Opt { occurrence: Occurrence::List, ..self }
    }

    /// A part of a setting.
    #[must_use]
    pub const fn part_of(self, setting: &'static str) -> Self {
        Opt { setting, ..self }
    }

    /// The flag, or the variable where there is none.
    pub fn key(&self) -> &'static str {
        if self.flag.is_empty() { self.variable } else { self.flag }
    }

    /// The setting, which is the option itself for most.
    pub(super) fn setting(&self) -> &'static str {
        if self.setting.is_empty() { self.key() } else { self.setting }
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

/// Refuses variables that are meant for this program and that it does not know: a rule that is misspelt lets everything
/// pass.
pub(super) fn check_names(
    table: &[Opt],
    prefix: &str,
    names: impl Iterator<Item = OsString>,
) -> Result<(), UsageError> {
    let known: BTreeSet<String> = table.iter().flat_map(|opt| own_names(table, prefix, opt)).collect();
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

/// The names of the variable that no other program uses: the prefix and the flag's name, or the short variable's own, unless
/// that is the name of another option's.
pub(super) fn own_names(table: &[Opt], prefix: &str, opt: &Opt) -> Vec<String> {
    if opt.variable.is_empty() {
        return Vec::new();
    }
    let of_flag = |opt: &Opt| opt.flag.trim_start_matches('-').replace('-', "_").to_ascii_uppercase();
    let of_others: Vec<String> = table.iter().filter(|other| other.key() != opt.key()).map(of_flag).collect();
    // One without a flag has the name that it has in a file.
    let first = if opt.flag.is_empty() { opt.name.to_ascii_uppercase() } else { of_flag(opt) };
    // The gateway's variables say so by themselves where the agent has others of that name.
    let whose = if prefix.ends_with("GATEWAY_") { "GATEWAY_" } else { "" };
    let of_variable = opt.variable.strip_prefix(whose).unwrap_or(opt.variable);
    let names = [first.as_str(), of_variable, opt.variable].into_iter();
    let is_its_own = |name: &&str| !name.is_empty() && !of_others.iter().any(|other| other == name);
    let mut names: Vec<_> = names.filter(is_its_own).map(|name| format!("{prefix}{name}")).collect();
    names.dedup();
    names
}

pub(super) fn known<'t>(table: &'t [Opt], flag: &str) -> Result<&'t Opt, UsageError> {
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
        table.first().and_then(|opt| own_names(table, prefix, opt).into_iter().next()).unwrap_or_default(),
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
        let names = |prefix, flag, variable| own_names(&[], prefix, &Opt::new(flag, variable, "X", ""));
        assert_eq!(names("A_", "--route", "ROUTES"), ["A_ROUTE", "A_ROUTES"]);
        assert_eq!(names("A_", "--gateway", "GATEWAY_URL"), ["A_GATEWAY", "A_GATEWAY_URL"]);
        assert_eq!(names("X_GATEWAY_", "", "GATEWAY_TOKEN"), ["X_GATEWAY_TOKEN", "X_GATEWAY_GATEWAY_TOKEN"]);
        assert_eq!(names("A_", "--deny", ""), [""; 0]);
        // The name of another option's flag is that option's.
        let table = [
            Opt::new("--words", "WORDS_FILE", "FILE", ""),
            Opt { name: "word", ..Opt::new("", "WORDS", "", "") },
        ];
        assert_eq!(own_names(&table, "A_", &table[0]), ["A_WORDS", "A_WORDS_FILE"]);
        assert_eq!(own_names(&table, "A_", &table[1]), ["A_WORD"]);
    }
}
