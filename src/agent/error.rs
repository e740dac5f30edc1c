//! Why an agent or a gateway cannot be built, as data: the programs say it with their own names of options.

use std::path::PathBuf;
use std::{fmt, io};

use crate::link::InvalidVariable;
use crate::net::tls::TlsError;

/// An option that cannot be used, with the problem.
///
/// Its text calls an option as the builder's method is called. A field of a struct that a method takes has a name
/// of its own: `connect_timeout` is `connect` of [`Timeouts`](crate::Timeouts).
#[derive(Debug)]
pub struct ConfigError {
    option: &'static str,
    problem: ConfigProblem,
    /// The tunnel's name, where the agent has several.
    tunnel: Option<String>,
}

/// The problem of an option.
#[derive(Debug)]
#[non_exhaustive]
pub enum ConfigProblem {
    /// The value is out of its range, which is the text, such as `1 to 1024`.
    Range(String),
    /// The value is larger than that of this other option.
    Exceeds(&'static str),
    /// The value is smaller than that of this other option.
    Below(&'static str),
    /// There is no option with this name.
    Unknown(String),
    /// The value cannot change while the agent runs.
    NeedsRestart,
    /// The option has no effect without this other one.
    Needs(&'static str),
    /// There are more values than this number.
    TooMany(usize),
    /// This value is given twice.
    Twice(String),
    /// A variable of the environment that would be obeyed cannot be used.
    Variable(InvalidVariable),
    /// The value has the wrong form, which is said here.
    Invalid(String),
    /// The local server with this URL is the gateway itself: its requests would come round again without end.
    Loop(String),
    /// This file cannot be used.
    File(PathBuf, io::Error),
    /// TLS cannot be set up.
    Tls(TlsError),
}

impl ConfigError {
    pub(crate) fn new(option: &'static str, problem: ConfigProblem) -> Self {
        ConfigError { option, problem, tunnel: None }
    }

    pub(crate) fn range(option: &'static str, range: impl Into<String>) -> Self {
        ConfigError::new(option, ConfigProblem::Range(range.into()))
    }

    /// The error of one of several tunnels.
    pub(super) fn of_tunnel(self, name: Option<&String>) -> Self {
        ConfigError { tunnel: name.cloned(), ..self }
    }

    /// The name of the tunnel whose option it is, where the agent has several.
    pub fn tunnel(&self) -> Option<&str> {
        self.tunnel.as_deref()
    }

    /// The option's name.
    pub fn option(&self) -> &'static str {
        self.option
    }

    /// Why the option cannot be used.
    pub fn problem(&self) -> &ConfigProblem {
        &self.problem
    }

    /// The error as one line, with the names that `name` gives to options.
    pub(crate) fn text(&self, name: impl Fn(&'static str) -> String) -> String {
        let option = name(self.option);
        match &self.problem {
            ConfigProblem::Range(range) => format!("{option} must be {range}"),
            ConfigProblem::Exceeds(other) => format!("{option} must not exceed {}", name(other)),
            ConfigProblem::Below(other) => format!("{option} must not be less than {}", name(other)),
            ConfigProblem::Unknown(name) => format!("there is no option {}", name.escape_debug()),
            ConfigProblem::NeedsRestart => format!("{option} cannot change while the agent runs: restart it"),
            ConfigProblem::Needs(other) => format!("{option} needs {}", name(other)),
            ConfigProblem::TooMany(max) => format!("{option}: there may be {max} at most"),
            ConfigProblem::Twice(value) => format!("{option}: {value} is given twice"),
            ConfigProblem::Variable(invalid) => invalid.to_string(),
            ConfigProblem::Invalid(what) => format!("{option}: {what}"),
            ConfigProblem::Loop(url) => {
                format!("{option}: {url} is the gateway itself, where requests would come round again")
            }
            ConfigProblem::File(path, error) => format!("{option}: {}: {error}", path.display()),
            ConfigProblem::Tls(error) => format!("{option}: {error}"),
        }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of = self.tunnel.as_ref().map(|tunnel| format!("tunnel {tunnel}: ")).unwrap_or_default();
        write!(f, "{of}{}", self.text(str::to_owned))
    }
}

impl std::error::Error for ConfigError {}

/// A setting that is unsafe or has no effect, for the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ConfigWarning {
    PurposeWithUnderscore,
    GatewayNotVerified,
    GatewayAuthorityUnused,
    ClientCertificateUnused,
    ProxyUnused,
    AuthorizationUnused,
    LocalNotVerified,
    LocalAuthorityUnused,
}

impl fmt::Display for ConfigWarning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ConfigWarning::PurposeWithUnderscore => {
                "the oldest gateways refuse a tunnel ID with an underscore in its purpose"
            }
            ConfigWarning::GatewayNotVerified => {
                "the gateway's certificate is not verified: anybody can pose as the gateway"
            }
            ConfigWarning::GatewayAuthorityUnused => {
                "the certificate authorities for gateways have no effect: no gateway is wss://"
            }
            ConfigWarning::ClientCertificateUnused => {
                "the client certificate has no effect: no gateway is wss://"
            }
            ConfigWarning::ProxyUnused => {
                "the proxy has no effect: gateways on this machine are dialled directly"
            }
            ConfigWarning::AuthorizationUnused => {
                "the Authorization among the headers of the upgrade is left out: the token for the gateway is sent in its place"
            }
            ConfigWarning::LocalNotVerified => "the local server's certificate is not verified",
            ConfigWarning::LocalAuthorityUnused => {
                "the certificate authorities for local servers have no effect: no local server is https://"
            }
        })
    }
}
