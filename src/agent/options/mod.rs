//! The options of an agent as text: their names, values and help, in one table.
//!
//! Programs read command lines, variables and files, and pass what they find to [`Builder::set`]. What they call the
//! options is theirs.

mod table;

use std::path::{Path, PathBuf};
use std::str::FromStr;

use http::uri::PathAndQuery;

pub(crate) use self::table::OPTIONS;
use super::addresses;
use super::builder::Builder;
use super::error::{ConfigError, ConfigProblem};
use crate::guard::{Action, Passwords, Rule};
use crate::link::secret::read_secret;
use crate::link::{GatewayUrl, Proxies, Token};
use crate::net::tls::Trust;
use crate::tunnel_id::TunnelId;
use crate::upstream::origin::LocalUrl;
use crate::upstream::{UpstreamAddress, prefix};

/// An option of an agent.
#[cfg_attr(not(feature = "cli"), expect(dead_code, reason = "the programs list them"))]
pub(crate) struct AgentOption {
    /// The name, with underscores.
    pub(crate) name: &'static str,
    /// The placeholder of the value in a help text; empty for a switch.
    pub(crate) value: &'static str,
    /// The description, with the default.
    pub(crate) help: &'static str,
    /// Whether it may be given more than once.
    pub(crate) repeats: bool,
    /// The name of the setting that it is a part of, with other options: given in one place, it takes the place of all that
    /// is given of the setting elsewhere. Its own name for most.
    pub(crate) setting: &'static str,
    pub(crate) owner: OptionOwner,
    pub(crate) secrecy: Secrecy,
    set: fn(&mut Builder, &str) -> Result<(), String>,
}

/// The scope of an option.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OptionOwner {
    /// The whole agent, with all its tunnels.
    Agent,
    Tunnel,
}

/// Whether a value is a credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Secrecy {
    Public,
    Secret,
    /// It is the path of a file that holds one.
    SecretFile,
}

const fn option(
    name: &'static str,
    value: &'static str,
    help: &'static str,
    set: fn(&mut Builder, &str) -> Result<(), String>,
) -> AgentOption {
    let (owner, secrecy) = (OptionOwner::Tunnel, Secrecy::Public);
    AgentOption { name, value, help, repeats: false, setting: name, owner, secrecy, set }
}

impl AgentOption {
    const fn repeats(self) -> Self {
        AgentOption { repeats: true, ..self }
    }

    const fn of_agent(self) -> Self {
        AgentOption { owner: OptionOwner::Agent, ..self }
    }

    const fn secret(self) -> Self {
        AgentOption { secrecy: Secrecy::Secret, ..self }
    }

    const fn secret_file(self) -> Self {
        AgentOption { secrecy: Secrecy::SecretFile, ..self }
    }

    const fn part_of(self, setting: &'static str) -> Self {
        AgentOption { setting, ..self }
    }
}

impl Builder {
    /// Sets an option by its name, such as `max_message`, to the value that this text means, such as `16MiB`. An option that
    /// may be given more than once gets one more value. Names, values and defaults are those of the program `agent`, see the
    /// [manual](crate::manual::options): a flag without its dashes, and `-` is as good as `_`. A switch is set to `true`
    /// or `false`.
    ///
    /// ```
    /// let mut builder = tunnel_agent::Agent::builder("agent_550e8400-e29b-41d4-a716-446655440000_prod".parse()?);
    /// builder.set("local", "8000")?;
    /// builder.set("deny", "/admin/**")?;
    /// let error = builder.set("queue-timeout", "soon").unwrap_err();
    /// assert_eq!(error.to_string(), "queue_timeout: expected a time such as 500ms, 10s or 2m");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`ConfigError`] when there is no such option, or the text is no value of it. What options say of each other is judged
    /// by [`build`](Self::build).
    pub fn set(&mut self, name: &str, text: &str) -> Result<(), ConfigError> {
        let option = find(name).ok_or(ConfigError::new("option", ConfigProblem::Unknown(name.to_owned())))?;
        (option.set)(self, text).map_err(|what| ConfigError::new(option.name, ConfigProblem::Invalid(what)))
    }
}

/// The option with this name.
pub(crate) fn find(name: &str) -> Option<&'static AgentOption> {
    let is_same = |c: (char, char)| c.0 == c.1 || (c.0 == '_' && c.1 == '-');
    let has_name = |option: &&AgentOption| {
        option.name.len() == name.len() && option.name.chars().zip(name.chars()).all(is_same)
    };
    OPTIONS.iter().find(has_name)
}

fn put<T>(field: &mut T, value: Result<T, String>) -> Result<(), String> {
    *field = value?;
    Ok(())
}

fn put_some<T>(field: &mut Option<T>, value: Result<T, String>) -> Result<(), String> {
    *field = Some(value?);
    Ok(())
}

fn push<T>(list: &mut Vec<T>, value: Result<T, String>) -> Result<(), String> {
    list.push(value?);
    Ok(())
}

fn own_text<T, E: ToString>(result: Result<T, E>) -> Result<T, String> {
    result.map_err(|error| error.to_string())
}

fn parsed<T: FromStr<Err: ToString>>(text: &str) -> Result<T, String> {
    own_text(text.parse())
}

fn gateway_url(text: &str) -> Result<GatewayUrl, String> {
    parsed(&addresses::gateway_url(text))
}

/// The path of a file.
fn file(text: &str) -> Result<PathBuf, String> {
    if text.is_empty() { Err("it is empty; give the path of a file".to_owned()) } else { Ok(text.into()) }
}

fn proxies(text: &str) -> Result<Proxies, String> {
    if text.eq_ignore_ascii_case("none") { Ok(Proxies::none()) } else { parsed(text).map(Proxies::all) }
}

fn local_url(text: &str) -> Result<LocalUrl, String> {
    parsed(&addresses::local_url(text))
}

fn add_route(builder: &mut Builder, text: &str) -> Result<(), String> {
    let expected = "expected PREFIX=URL, such as /api=http://127.0.0.1:9000";
    let (path, url) = text.split_once('=').ok_or(expected)?;
    let (prefix, url) = (prefix(path)?, local_url(url)?);
    builder.add_server(prefix, UpstreamAddress::Url(url));
    Ok(())
}

fn add_rule(builder: &mut Builder, action: Action, text: &str) -> Result<(), String> {
    builder.rules.push(Rule { action, pattern: parsed(text)? });
    Ok(())
}

fn add_passwords(builder: &mut Builder, lines: &str) -> Result<(), String> {
    let passwords: Passwords = parsed(lines)?;
    builder.passwords = Some(match builder.passwords.take() {
        Some(others) => own_text(others.and(passwords))?,
        None => passwords,
    });
    Ok(())
}

fn accept_any(trust: &mut Trust, text: &str) -> Result<(), String> {
    match (switch(text)?, &*trust) {
        (true, Trust::File(_)) => {
            return Err("it contradicts the file of authorities; give one of them".to_owned());
        }
        (true, _) => *trust = Trust::AcceptAnyCertificate,
        (false, _) => {}
    }
    Ok(())
}

/// Reads a switch.
pub(crate) fn switch(text: &str) -> Result<bool, String> {
    one_of(text, &[("1", true), ("true", true), ("0", false), ("false", false)])
}

fn one_of<T: Copy>(text: &str, choices: &[(&str, T)]) -> Result<T, String> {
    let chosen = choices.iter().find(|(name, _)| *name == text).map(|(_, value)| *value);
    chosen.ok_or_else(|| {
        let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
        let (last, others) = names.split_last().unwrap_or((&"", &[]));
        format!("expected {} or {last}", others.join(", "))
    })
}

fn health_path(text: &str) -> Result<PathAndQuery, String> {
    let path = text.parse().ok().filter(|_| text.starts_with('/') && !text.starts_with("//"));
    path.ok_or_else(|| "expected a path such as /up".to_owned())
}

pub(crate) fn token(text: &str) -> Result<Token, String> {
    let unusable = "the token is empty, or holds a space or a character that is not ASCII";
    Token::new(text).ok_or_else(|| unusable.to_owned())
}

pub(crate) fn read_token(path: &str) -> Result<Token, String> {
    Token::from_file(Path::new(path)).map_err(|error| unreadable(path, &error))
}

/// The tunnel ID in a file.
pub(crate) fn tunnel_id_in(path: &Path) -> Result<TunnelId, String> {
    let text = read_secret(path).map_err(|error| unreadable(&path.to_string_lossy(), &error))?;
    text.parse().map_err(|error| format!("{}: it holds no tunnel ID: {error}", path.display()))
}

/// Why the file of a secret cannot be used.
fn unreadable(path: &str, error: &std::io::Error) -> String {
    match error.kind() {
        // Perhaps it is no path, but the secret itself.
        std::io::ErrorKind::NotFound if !path.starts_with(['/', '.', '~']) => {
            "there is no file of that name, which is not shown here, since it may be the secret itself; give the path of a \
             file that holds the secret"
                .to_owned()
        }
        _ => format!("{path}: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Agent;

    fn builder() -> Builder {
        Agent::builder("agent_550e8400-e29b-41d4-a716-446655440000_prod".parse().unwrap())
    }

    #[test]
    fn each_option_takes_a_value_of_its_kind_and_refuses_others() {
        for option in OPTIONS {
            let (good, bad) = match option.value {
                "FILE" => continue,
                "ID" => ("agent_550e8400-e29b-41d4-a716-446655440000_x", "x"),
                "URL" if option.name == "proxy" => ("socks5://127.0.0.1:9000", "https://127.0.0.1"),
                "URL" | "ADDRESS" => ("127.0.0.1:9000", "no address"),
                "NAME" => ("shop", "a b"),
                "N" => ("7", "many"),
                "PREFIX=URL" => ("/api=9000", "/api"),
                "HEADER" => ("X-Env: tunnel", "X-Env"),
                "HOST" => ("site.test", "a\nb"),
                "TIME" => ("2s", "2"),
                "SIZE" => ("1MiB", "1"),
                "CIDR" => ("10.0.0.0/8", "10"),
                "ORIGIN" => ("https://app.example", "*"),
                "RATE" => ("10/s", "10"),
                "PATH" => ("/up", "up"),
                "RULE" if option.name == "failure" => ("response", "x"),
                "RULE" if option.name == "correlation" => ("latest", "x"),
                "RULE" => ("GET /x", "x"),
                "" if option.name == "password" => ("user:word", "user"),
                "" if option.name == "upgrade_headers" => ("X-Access: s3cret", "Host: x"),
                "" if option.name == "rule" => ("deny /x", "/x"),
                "" if option.secrecy == Secrecy::Secret => ("s3cret", "two words"),
                "" => ("true", "yes"),
                other => panic!("{other}"),
            };
            let good = if option.name == "gateway" { "ws://127.0.0.1:9" } else { good };
            builder().set(option.name, good).unwrap();
            let error = builder().set(option.name, bad).unwrap_err().to_string();
            assert!(error.starts_with(&format!("{}: ", option.name)), "{error}");
        }
    }

    #[test]
    fn a_name_has_dashes_or_underscores() {
        for name in ["queue_timeout", "queue-timeout"] {
            assert_eq!(builder().set(name, "10s").err().map(|error| error.to_string()), None);
        }
        let error = builder().set("queue", "x").unwrap_err();
        assert_eq!(error.option(), "queue");
        let error = builder().set("quue", "1").unwrap_err().to_string();
        assert_eq!(error, "there is no option quue");
    }
}
