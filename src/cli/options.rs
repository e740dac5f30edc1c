//! What was typed and what the environment says, by the table of a program's options.
//!
//! One table per program says which options there are; the help, the environment variables and the hints all come from
//! it. A flag beats its variable beats the default; an empty variable counts as unset.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::str::FromStr;

use super::table::{Opt, UsageError, check, own_names};
use crate::link::token::read_secret;

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
    pub(super) taken: Taken,
}

impl fmt::Debug for Options<'_> {
    /// Without the values, which may be secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let flags = self.typed.iter().map(|(flag, _)| flag);
        f.write_str("Options")?;
        f.debug_list().entries(flags).finish()
    }
}

/// Options that were taken from the environment, and what their variables are called in an error.
pub(super) type Taken = Rc<RefCell<Vec<(&'static str, String)>>>;

/// Variables whose names say whose they are, with or without the prefix.
const OWN_NAMES: [&str; 4] = ["TUNNEL_ID", "GATEWAY_URL", "LOCAL_URL", "RUST_LOG"];

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

    /// Whether an option was typed.
    pub fn is_typed(&self, flag: &str) -> bool {
        self.typed.iter().any(|(typed, _)| *typed == flag)
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

    /// Records that a variable was not obeyed after all.
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

/// Reads a secret from a file: its content without the line's end.
fn secret_file(path: &str) -> Result<String, String> {
    read_secret(Path::new(path)).map_err(|error| match error.kind() {
        // Perhaps it is no path, but the secret itself.
        std::io::ErrorKind::NotFound if !path.starts_with(['/', '.', '~']) => {
            "there is no file of that name, which is not shown here, since it may be the secret itself; give the path of a \
             file that holds the secret"
                .to_owned()
        }
        _ => format!("{path}: {error}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::values::number;

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
    fn an_empty_name_of_ones_own_hides_the_bare_one_too() {
        assert_eq!(read(&[], &["MY_WORKERS=", "WORKERS=redis"]), Ok((None, None, false)));
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
