//! The command line, the environment and a file, read by the table of a program's options.
//!
//! One table per program says which options there are; the help, the environment variables and the hints all come from
//! it. A flag beats its variable beats the file beats the default; an empty variable counts as unset.

use std::ffi::OsString;
use std::fmt;
#[cfg(any(test, feature = "gateway"))]
use std::path::PathBuf;
use std::str::FromStr;

use super::table::{Occurrence, Opt, UsageError, known, own_names};
use crate::agent::options::switch;

/// The options of a program, as they were given.
#[derive(Clone)]
pub struct Options<'a> {
    table: &'a [Opt],
    /// The prefix of variables that are meant for this program and no other: `TUNNEL_AGENT_`, say.
    prefix: &'static str,
    given: Vec<Given<'a>>,
}

/// A value that was given to an option.
#[derive(Clone)]
pub(super) struct Given<'a> {
    pub(super) opt: &'a Opt,
    pub(super) text: String,
    /// Where it was given, as an error says it.
    pub(super) source: String,
    pub(super) from: Provenance,
}

/// Where a value was given. The first of several that has anything of a setting has all of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Provenance {
    CommandLine,
    /// A variable whose name says that it is this program's.
    OwnVariable,
    /// A variable whose name other programs may use, too.
    BareVariable,
    /// A section of a file.
    Section,
    /// The part of a file that holds for all its sections.
    File,
}

impl fmt::Debug for Options<'_> {
    /// Without the values, which may be secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Options")?;
        f.debug_list().entries(self.given.iter().map(|given| &given.source)).finish()
    }
}

/// Variables whose names say whose they are, with or without the prefix.
const OWN_NAMES: [&str; 4] = ["TUNNEL_ID", "GATEWAY_URL", "LOCAL_URL", "RUST_LOG"];

impl<'a> Options<'a> {
    /// From arguments without the program's name, and the environment.
    pub fn new(
        table: &'a [Opt],
        prefix: &'static str,
        arguments: Vec<OsString>,
        environment: &dyn Fn(&str) -> Option<OsString>,
    ) -> Result<Self, UsageError> {
        let mut options = Options { table, prefix, given: Vec::new() };
        options.read_arguments(arguments)?;
        for opt in table {
            options.read_variable(opt, environment)?;
        }
        options.check()?;
        Ok(options)
    }

    /// Takes what was typed, word by word.
    fn read_arguments(&mut self, arguments: Vec<OsString>) -> Result<(), UsageError> {
        let mut words = pico_args::Arguments::from_vec(arguments);
        let mut next = || {
            let word = words.opt_free_from_os_str(|word| Ok::<_, &str>(word.to_owned()));
            word.ok().flatten().map(OsString::into_string)
        };
        while let Some(word) = next() {
            // An argument that is not UTF-8 may be a secret, and is not repeated.
            let word = word.map_err(|_| UsageError("an argument is not valid UTF-8".to_owned()))?;
            let (flag, value) = match word.split_once('=') {
                Some((flag, value)) => (flag, Some(value.to_owned())),
                None => (word.as_str(), None),
            };
            let opt = known(self.table, flag)?;
            if opt.occurrence == Occurrence::Once && self.given.iter().any(|given| given.opt.key() == flag) {
                return Err(UsageError(format!("{flag} was given twice")));
            }
            let text = match (opt.value.is_empty(), value) {
                (true, Some(_)) => return Err(UsageError(format!("{flag} takes no value"))),
                (true, None) => "true".to_owned(),
                (false, Some(value)) => value,
                (false, None) => match next() {
                    Some(Ok(value)) if !value.starts_with("--") => value,
                    Some(Err(_)) => return Err(UsageError(format!("{flag}: not valid UTF-8"))),
                    Some(Ok(_)) | None => return Err(UsageError(format!("{flag} needs a value"))),
                },
            };
            let source = flag.to_owned();
            self.given.push(Given { opt, text, source, from: Provenance::CommandLine });
        }
        Ok(())
    }

    /// Takes what the variables of an option hold. The name that no other program uses hides the bare one, even when it is
    /// empty.
    fn read_variable(
        &mut self,
        opt: &'a Opt,
        environment: &dyn Fn(&str) -> Option<OsString>,
    ) -> Result<(), UsageError> {
        if opt.variable.is_empty() {
            return Ok(());
        }
        let names = own_names(self.table, self.prefix, opt);
        let bare = opt.variable;
        let own = names.iter().find_map(|name| Some((name.as_str(), environment(name)?)));
        let (source, value, from) = match (own, environment(bare)) {
            (Some((own, value)), _) => (format!("the variable {own}"), value, Provenance::OwnVariable),
            (None, Some(value)) if OWN_NAMES.contains(&bare) => {
                (format!("the variable {bare}"), value, Provenance::OwnVariable)
            }
            (None, Some(value)) => {
                // It may be another program's, and stand in the way.
                let own = &names[0];
                let source = format!("the variable {bare} (another program's? set {own}, empty will do)");
                (source, value, Provenance::BareVariable)
            }
            (None, None) => return Ok(()),
        };
        if value.is_empty() {
            return Ok(());
        }
        let text = value.into_string().map_err(|_| UsageError(format!("{source}: not valid UTF-8")))?;
        let texts: Vec<&str> = match opt.occurrence {
            Occurrence::Once => vec![text.as_str()],
            Occurrence::List => text.split(',').map(str::trim).collect(),
            Occurrence::Lines => text.lines().filter(|line| !line.trim().is_empty()).collect(),
        };
        for text in texts {
            self.given.push(Given { opt, text: text.to_owned(), source: source.clone(), from });
        }
        Ok(())
    }

    /// Refuses options that say the same thing in two ways. Of variables that may be another program's, the first one counts.
    pub(super) fn check(&mut self) -> Result<(), UsageError> {
        let mut hidden = Vec::new();
        for (index, given) in self.given.iter().enumerate().filter(|(_, given)| !given.is_off()) {
            let is_rival = |other: &&Given<'_>| {
                let is_once = |given: &Given<'_>| given.opt.occurrence == Occurrence::Once;
                let is_same = given.opt.key() == other.opt.key();
                other.from == given.from
                    && other.opt.setting() == given.opt.setting()
                    && (is_once(given) || !is_same && is_once(other))
                    && !other.is_off()
            };
            match self.given[..index].iter().find(is_rival) {
                None => {}
                Some(_) if given.from == Provenance::BareVariable => hidden.push(given.opt.key()),
                Some(other) => {
                    let (first, second) = (&other.source, &given.source);
                    return Err(UsageError(format!("{first} and {second} are both given; give one")));
                }
            }
        }
        self.given
            .retain(|given| given.from != Provenance::BareVariable || !hidden.contains(&given.opt.key()));
        Ok(())
    }

    /// Adds values of a file.
    pub(super) fn add(&mut self, given: impl IntoIterator<Item = Given<'a>>) {
        self.given.extend(given);
    }

    /// All values that count.
    pub(super) fn effective(&self) -> impl Iterator<Item = &Given<'a>> {
        self.given.iter().filter(|given| self.is_effective(given))
    }

    /// Whether a value counts: no better place has anything of its setting. A switch that is off says nothing of the other
    /// options of its setting.
    fn is_effective(&self, given: &Given<'_>) -> bool {
        let counts = |other: &&Given<'_>| {
            other.opt.setting() == given.opt.setting()
                && (!other.is_off() || other.opt.key() == given.opt.key())
        };
        self.given.iter().filter(counts).map(|other| other.from).min() == Some(given.from)
    }

    /// The values of an option that count.
    fn values(&self, key: &str) -> impl Iterator<Item = &Given<'a>> {
        self.effective().filter(move |given| given.opt.key() == key)
    }

    /// An option without a value: on when given, or by its variable.
    pub fn switch(&self, key: &str) -> Result<bool, UsageError> {
        Ok(self.value(key, switch)?.unwrap_or(false))
    }

    /// An option's value as it was given.
    pub fn text(&self, key: &str) -> Option<String> {
        self.values(key).next().map(|given| given.text.clone())
    }

    /// An option's value, read by its type's own rules.
    pub fn parsed<T>(&self, key: &str) -> Result<Option<T>, UsageError>
    where
        T: FromStr,
        T::Err: fmt::Display,
    {
        self.value(key, str::parse)
    }

    /// An option's value, read by `read`. Values are never repeated in errors: they may be secrets.
    pub fn value<T, E: fmt::Display>(
        &self,
        key: &str,
        read: impl Fn(&str) -> Result<T, E>,
    ) -> Result<Option<T>, UsageError> {
        let Some(given) = self.values(key).next() else { return Ok(None) };
        read(&given.text).map(Some).map_err(|error| given.error(error))
    }

    /// The values of an option that may be given more than once.
    pub fn all_parsed<T>(&self, key: &str) -> Result<Vec<T>, UsageError>
    where
        T: FromStr,
        T::Err: fmt::Display,
    {
        let read = |given: &Given<'_>| given.text.parse().map_err(|error| self.error(given, error));
        self.values(key).map(read).collect()
    }

    /// The error of a value; one of several says which it is.
    pub(super) fn error(&self, given: &Given<'_>, error: impl fmt::Display) -> UsageError {
        let same: Vec<_> = self
            .given
            .iter()
            .filter(|other| other.from == given.from && other.opt.setting() == given.opt.setting())
            .collect();
        match same.iter().position(|other| std::ptr::eq(*other, given)) {
            Some(index) if same.len() > 1 && given.from < Provenance::Section => {
                let what = if given.opt.setting == "rule" { "rule" } else { "value" };
                UsageError(format!("{}, {what} {}: {error}", given.source, index + 1))
            }
            _ => given.error(error),
        }
    }

    /// A secret, from the file that an option names or from a variable, and the file. `read` refuses what cannot be one.
    #[cfg(feature = "gateway")]
    pub fn secret<T>(
        &self,
        file: &str,
        variable: &str,
        from_file: impl Fn(&str) -> Result<T, String>,
        read: impl Fn(&str) -> Result<T, String>,
    ) -> Result<Option<(T, Option<PathBuf>)>, UsageError> {
        let in_file =
            self.value(file, |path| Ok::<_, String>((from_file(path)?, Some(PathBuf::from(path)))))?;
        let in_variable = || self.value(variable, |text| Ok::<_, String>((read(text)?, None)));
        if in_file.is_some() { Ok(in_file) } else { in_variable() }
    }

    /// Whether an option was taken from a variable by its bare name.
    pub(super) fn is_bare(&self, key: &str) -> bool {
        self.values(key).any(|given| given.from == Provenance::BareVariable)
    }

    /// Forgets what a variable of this option holds by its bare name.
    pub(super) fn forget_bare(&mut self, key: &str) {
        self.given.retain(|given| given.from != Provenance::BareVariable || given.opt.key() != key);
    }

    /// The options without these.
    pub(super) fn without(&self, forgets: impl Fn(&Given<'a>) -> bool) -> Self {
        let given = self.given.iter().filter(|given| !forgets(given)).cloned().collect();
        Options { given, ..*self }
    }

    /// The values of an option that can be read.
    pub(super) fn read_all<T, E>(&self, key: &str, read: impl Fn(&str) -> Result<T, E>) -> Vec<T> {
        self.values(key).filter_map(|given| read(&given.text).ok()).collect()
    }

    /// A note for the log on variables that were obeyed though other programs may use their names.
    pub fn bare_variables(&self) -> Option<String> {
        let bare = self.effective().filter(|given| given.from == Provenance::BareVariable);
        let named = |given: &Given<'_>| {
            let own = own_names(self.table, self.prefix, given.opt).into_iter().next().unwrap_or_default();
            format!("{} (better {own})", given.opt.variable)
        };
        let mut names: Vec<_> = bare.map(named).collect();
        names.sort();
        names.dedup();
        (!names.is_empty()).then(|| format!("taken from the environment: {}", names.join(", ")))
    }

    /// An error that names the places in which options were given in the place of their flags.
    pub(super) fn naming_places(&self, UsageError(text): &UsageError) -> UsageError {
        let is_of_word = |c: char| c.is_ascii_alphanumeric() || c == '-';
        let word = |word: &str| {
            let given = self.effective().find(|given| given.opt.flag == word);
            let elsewhere = given.filter(|given| given.from != Provenance::CommandLine);
            elsewhere.map_or_else(|| word.to_owned(), |given| given.source.clone())
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
}

impl Given<'_> {
    /// Whether it is a switch that is off.
    fn is_off(&self) -> bool {
        self.opt.value.is_empty() && switch(&self.text) == Ok(false)
    }

    fn error(&self, error: impl fmt::Display) -> UsageError {
        UsageError(format!("{}: {error}", self.source))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::values::number;

    static TABLE: [Opt; 3] = [
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
        let options = Options::new(&TABLE, "MY_", arguments, &environment)?;
        let got =
            (options.text("--tunnel-id"), options.value("--workers", number)?, options.switch("--insecure")?);
        Ok(got)
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
        assert_eq!(options.text("--tunnel-id").as_deref(), Some("7"));
        assert_eq!(options.value("--workers", number), Ok(Some(7)));
        assert!(options.is_bare("--workers") && !options.is_bare("--insecure"));
        let said = "taken from the environment: WORKERS (better MY_WORKERS)";
        assert_eq!(options.bare_variables().as_deref(), Some(said));
        options.forget_bare("--workers");
        assert_eq!((options.value("--workers", number), options.bare_variables()), (Ok(None), None));
    }

    #[test]
    fn an_empty_name_of_ones_own_hides_the_bare_one_too() {
        assert_eq!(read(&[], &["MY_WORKERS=", "WORKERS=redis"]), Ok((None, None, false)));
    }

    #[test]
    fn a_secret_of_ones_own_is_not_hidden_by_a_file_of_another_program() {
        let table = [
            Opt::new("--token-file", "TOKEN_FILE", "FILE", "").part_of("token"),
            Opt::new("", "GATEWAY_TOKEN", "", "").part_of("token"),
        ];
        let token = |environment: &[&str]| {
            let environment = |name: &str| {
                let line = environment.iter().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
                line.map(OsString::from)
            };
            let options = Options::new(&table, "MY_GATEWAY_", Vec::new(), &environment)?;
            let from_file = |path: &str| std::fs::read_to_string(path).map_err(|error| error.to_string());
            options.secret("--token-file", "GATEWAY_TOKEN", from_file, |text| Ok(text.to_owned()))
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
        assert_eq!(error.0, "--port, value 2: invalid digit found in string");
    }

    /// Options of a table with a switch, a list and a setting of two options, and what a file says.
    fn with_file(
        table: &'static [Opt],
        arguments: &[&str],
        environment: &[(&str, &str)],
        file: &[(usize, &str)],
    ) -> Result<Options<'static>, UsageError> {
        let environment = |name: &str| {
            let line = environment.iter().find(|(of, _)| *of == name);
            line.map(|(_, value)| OsString::from(value))
        };
        let arguments = arguments.iter().map(OsString::from).collect();
        let mut options = Options::new(table, "MY_", arguments, &environment)?;
        options.add(file.iter().map(|(index, text)| Given {
            opt: &table[*index],
            text: (*text).to_owned(),
            source: format!("x.conf, line {}", index + 1),
            from: Provenance::File,
        }));
        options.check()?;
        Ok(options)
    }

    #[test]
    fn a_flag_beats_the_environment_beats_the_file_for_all_of_a_setting() {
        static TABLE: [Opt; 2] = [
            Opt { setting: "key", ..Opt::new("--key", "KEY", "TEXT", "") },
            Opt { setting: "key", ..Opt::new("--key-file", "KEY_FILE", "FILE", "") },
        ];
        let key = |arguments: &[&str], environment: &[(&str, &str)], file: &[(usize, &str)]| {
            let options = with_file(&TABLE, arguments, environment, file)?;
            Ok::<_, UsageError>((options.text("--key"), options.text("--key-file")))
        };
        let text = |text: &str| Some(text.to_owned());
        assert_eq!(key(&[], &[], &[(1, "f")]), Ok((None, text("f"))));
        assert_eq!(key(&[], &[("MY_KEY", "v")], &[(1, "f")]), Ok((text("v"), None)));
        assert_eq!(key(&["--key-file", "t"], &[("MY_KEY", "v")], &[(0, "f")]), Ok((None, text("t"))));
        // A variable of this program alone beats one that others may use.
        assert_eq!(key(&[], &[("MY_KEY_FILE", "m"), ("KEY", "b")], &[]), Ok((None, text("m"))));
        let both = |first: &str, second: &str| {
            Err(UsageError(format!("{first} and {second} are both given; give one")))
        };
        assert_eq!(key(&["--key=a", "--key-file=b"], &[], &[]), both("--key", "--key-file"));
        let variables = [("MY_KEY", "a"), ("MY_KEY_FILE", "b")];
        assert_eq!(key(&[], &variables, &[]), both("the variable MY_KEY", "the variable MY_KEY_FILE"));
        assert_eq!(key(&[], &[], &[(0, "a"), (0, "b")]), both("x.conf, line 1", "x.conf, line 1"));
        // Of another program's, perhaps, the first one counts.
        assert_eq!(key(&[], &[("KEY", "a"), ("KEY_FILE", "b")], &[]), Ok((text("a"), None)));
    }

    #[test]
    fn a_switch_that_is_off_leaves_the_rest_of_its_setting_alone() {
        static TABLE: [Opt; 2] = [
            Opt { setting: "trust", ..Opt::new("--insecure", "INSECURE", "", "") },
            Opt { setting: "trust", ..Opt::new("--ca-file", "CA_FILE", "FILE", "") },
        ];
        let trust = |environment: &[(&str, &str)], file: &[(usize, &str)]| {
            let options = with_file(&TABLE, &[], environment, file).unwrap();
            (options.switch("--insecure").unwrap(), options.text("--ca-file"))
        };
        let file = Some("f".to_owned());
        assert_eq!(trust(&[("INSECURE", "0")], &[(1, "f")]), (false, file.clone()));
        assert_eq!(trust(&[("MY_INSECURE", "false")], &[(1, "f")]), (false, file));
        assert_eq!(trust(&[("MY_INSECURE", "1")], &[(1, "f")]), (true, None));
        // It beats what a worse place says of itself.
        assert_eq!(trust(&[("MY_INSECURE", "0")], &[(0, "true")]), (false, None));
    }

    #[test]
    fn a_list_and_a_file_of_one_setting_are_not_united() {
        static TABLE: [Opt; 2] = [
            Opt { setting: "words", ..Opt::new("--words", "WORDS_FILE", "FILE", "") },
            Opt {
                name: "word",
                setting: "words",
                occurrence: Occurrence::Lines,
                ..Opt::new("", "WORDS", "", "")
            },
        ];
        let given = |environment: &[(&str, &str)]| {
            let options = with_file(&TABLE, &[], environment, &[])?;
            Ok::<_, UsageError>((options.text("--words"), options.text("WORDS")))
        };
        assert!(given(&[("MY_WORDS", "f"), ("MY_WORD", "a")]).is_err());
        assert_eq!(given(&[("WORDS_FILE", "f"), ("WORDS", "a")]), Ok((Some("f".to_owned()), None)));
    }

    #[test]
    fn an_error_names_the_places_that_options_were_taken_from() {
        let options = with_file(&TABLE, &["--workers", "1"], &[("MY_INSECURE", "1")], &[(0, "x")]).unwrap();
        let named = |text: &str| options.naming_places(&UsageError(text.to_owned())).0;
        assert_eq!(named("--insecure must be more"), "the variable MY_INSECURE must be more");
        assert_eq!(named("--workers needs --insecure"), "--workers needs the variable MY_INSECURE");
        assert_eq!(named("see (--tunnel-id, --x)"), "see (x.conf, line 1, --x)");
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
            (&["--workers", "s3cret"][..], &[][..], "--workers: expected a whole number, not below 0"),
            (
                &[],
                &["WORKERS=s3cret"],
                "the variable WORKERS (another program's? set MY_WORKERS, empty will do): expected a whole number, not below 0",
            ),
            (&[], &["MY_WORKERS=s3cret"], "the variable MY_WORKERS: expected a whole number, not below 0"),
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
            (
                &["", "x"],
                &[],
                "an argument that belongs to no option: every value follows its --option, and a command comes first",
            ),
            (
                &["s3cret"],
                &[],
                "an argument that belongs to no option: every value follows its --option, and a command comes first",
            ),
        ] {
            assert_eq!(read(arguments, environment), Err(UsageError(message.to_owned())), "{arguments:?}");
        }
        assert!(!read(&["--token=s3cret"], &[]).unwrap_err().0.contains("s3cret"));
    }
}
