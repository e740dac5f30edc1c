//! What was typed, and what it means.

use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use http::header::HeaderName;
use tunnel_agent::cli::{self, Command, Opt, Options, UsageError};
use tunnel_agent::link::frames::MESSAGE_MIN;
use tunnel_agent::{Token, TunnelId};

use super::PLACES;
use super::credentials::Credentials;
use super::forwarded::{Network, Proxies};

const fn opt(flag: &'static str, variable: &'static str, value: &'static str, help: &'static str) -> Opt {
    Opt::new(flag, variable, value, help)
}

/// What variables begin with that are meant for this program and no other.
const PREFIX: &str = "TUNNEL_GATEWAY_";

const TABLE: [Opt; 20] = [
    opt("--listen", "LISTEN", "ADDRESS", "for agents and visitors; default 127.0.0.1:3000"),
    opt(
        "--token-file",
        "GATEWAY_TOKEN_FILE",
        "FILE",
        "file with the token that agents must show; default none",
    ),
    opt("", "GATEWAY_TOKEN", "", "the token itself; never on the command line"),
    opt("--tls-cert", "TLS_CERT", "FILE", "PEM file with the certificate chain; with --tls-key: TLS"),
    opt("--tls-key", "TLS_KEY", "FILE", "PEM file with its private key"),
    opt(
        "--default-tunnel",
        "GATEWAY_DEFAULT_TUNNEL",
        "ID",
        "whose requests without X-Tunnel-Id are; default none",
    ),
    opt("--agent-path", "AGENT_PATH", "PATH", "where agents connect; default /ws"),
    opt("--own-paths", "OWN_PATHS", "RULE", "both, or new: only those under /.tunnel/; default both"),
    opt(
        "--trusted-proxies",
        "TRUSTED_PROXIES",
        "LIST",
        "whose X-Forwarded-… is believed, such as 127.0.0.1,10.0.0.0/8; default nobody's",
    ),
    opt("--trusted-header", "TRUSTED_HEADERS", "NAME", "another such field that they set; may be repeated")
        .repeats(),
    opt("--timeout", "GATEWAY_TIMEOUT", "TIME", "for an agent's answer, then 504; default 30s"),
    opt("--hold", "GATEWAY_HOLD", "TIME", "after the start, for requests to wait for an agent; default 10s"),
    opt("--drain-delay", "GATEWAY_DRAIN_DELAY", "TIME", "still listens when asked to stop; default 2s"),
    opt("--drain", "GATEWAY_DRAIN", "TIME", "then, for requests to finish; default 10s"),
    opt("--max-per-address", "MAX_PER_ADDRESS", "N", "connections of one visitor's address; default 256"),
    opt(
        "--max-body",
        "GATEWAY_MAX_BODY",
        "SIZE",
        "largest request body, for agents without mux/2; default 10MiB",
    ),
    opt(
        "--max-message",
        "GATEWAY_MAX_MESSAGE",
        "SIZE",
        "the same for messages; at least 80KiB; default 16MiB",
    ),
    opt("--legacy", "LEGACY", "", "behave as the oldest gateways: no streams, no ids, bodies as text"),
    opt("--log-format", "GATEWAY_LOG_FORMAT", "FORMAT", "text or json, an object a line; default text"),
    opt("", "RUST_LOG", "", "off, error, warn, info, debug or trace; default info"),
];

/// What the options come to.
pub struct Settings {
    pub listen: SocketAddr,
    pub credentials: Credentials,
    pub default_tunnel: Option<TunnelId>,
    pub agent_path: String,
    pub own_paths: OwnPaths,
    pub proxies: Proxies,
    pub timeout: Duration,
    /// How long after the start requests wait for an agent.
    pub hold: Duration,
    pub drain_delay: Duration,
    pub drain: Duration,
    pub max_per_address: usize,
    pub max_body: usize,
    pub max_message: usize,
    pub legacy: bool,
    pub log_format: tunnel_agent::logging::Format,
    /// What `RUST_LOG` says.
    pub log_level: Option<String>,
    /// What the log is to say of the environment.
    pub notes: Vec<String>,
}

/// Which paths are the gateway's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OwnPaths {
    /// Those under `/.tunnel/`, and the old names that balancers may still ask for.
    Both,
    /// Those under `/.tunnel/` alone.
    New,
}

pub fn help() -> String {
    format!(
        "The reference gateway of tunnel-agent: agents connect to it on /ws, and it passes visitors' HTTP\n\
         requests on to them. For development, tests, demonstrations and small installations. It keeps\n\
         everything in memory, knows no users and no rate limits, and reports metrics to nobody; a fleet is\n\
         many of these behind an ordinary load balancer.\n\n\
         Usage: {} [options]\n\n\
         {}\n\
         Times read 500ms, 10s, 2m; sizes 64KiB, 10MiB.\n\
         GET /.tunnel/health tells that it lives, /.tunnel/ready whether it has an agent and is to get requests,\n\
         /.tunnel/connections which agents there are; POST /.tunnel/forward sends its body to an agent as POST /.\n\
         Every other request goes to an agent as it is. The header X-Tunnel-Id chooses the tunnel, and\n\
         everything but /.tunnel/ goes to it; among several agents of it, the one with the fewest requests under way is asked.\n\n\
         SIGTERM and SIGINT stop it; a second one does not wait any more. SIGHUP reads token and certificate again.\n\
         Exit codes: 0 asked to stop, 1 could not listen, 2 wrong usage.\n",
        cli::program("gateway"),
        cli::help(&TABLE, PREFIX),
    )
}

/// Reads arguments and environment.
pub fn read() -> Result<Command<Settings>, UsageError> {
    cli::read(&[], &TABLE, PREFIX, |_, options| settings(options))
}

fn settings(mut options: Options<'_>) -> Result<Settings, UsageError> {
    let o = &mut options;
    let settings = Settings {
        listen: o.value("--listen", address)?.unwrap_or(SocketAddr::from(([127, 0, 0, 1], 3000))),
        credentials: credentials(o)?,
        default_tunnel: o.parsed("--default-tunnel")?,
        agent_path: o.value("--agent-path", agent_path)?.unwrap_or_else(|| "/ws".to_owned()),
        own_paths: o.value("--own-paths", own_paths)?.unwrap_or(OwnPaths::Both),
        proxies: proxies(o)?,
        timeout: o.value("--timeout", cli::duration)?.unwrap_or(Duration::from_secs(30)),
        hold: o.value("--hold", cli::duration)?.unwrap_or(Duration::from_secs(10)),
        drain_delay: o.value("--drain-delay", cli::duration)?.unwrap_or(Duration::from_secs(2)),
        drain: o.value("--drain", cli::duration)?.unwrap_or(Duration::from_secs(10)),
        max_per_address: o.value("--max-per-address", cli::number)?.unwrap_or(PLACES / 4),
        max_body: o.value("--max-body", cli::size)?.unwrap_or(10 << 20),
        max_message: o.value("--max-message", cli::size)?.unwrap_or(16 << 20),
        legacy: o.switch("--legacy")?,
        log_format: o.value("--log-format", cli::log_format)?.unwrap_or_default(),
        log_level: o.variable("RUST_LOG")?.map(|(_, level)| level),
        notes: Vec::new(),
    };
    check(&settings)?;
    Ok(Settings { notes: o.bare_variables().into_iter().collect(), ..settings })
}

fn check(settings: &Settings) -> Result<(), UsageError> {
    /// Longer than anybody means it, and short enough for the clock.
    const TIME_MAX: Duration = Duration::from_secs(24 * 3600);
    let times = [
        ("--timeout", settings.timeout),
        ("--hold", settings.hold),
        ("--drain-delay", settings.drain_delay),
        ("--drain", settings.drain),
    ];
    if let Some((name, _)) = times.iter().find(|(_, time)| *time > TIME_MAX) {
        return Err(UsageError(format!("{name} must be at most 1440m")));
    }
    let checks = [
        (!settings.timeout.is_zero(), "--timeout must not be zero".to_owned()),
        (
            (1..=PLACES).contains(&settings.max_per_address),
            format!("--max-per-address must be 1 to {PLACES}"),
        ),
        (
            settings.max_message >= MESSAGE_MIN,
            format!("--max-message must be at least {} KiB", MESSAGE_MIN >> 10),
        ),
        (settings.max_message <= u32::MAX as usize, "--max-message must be below 4 GiB".to_owned()),
        (settings.max_body <= settings.max_message, "--max-body must not exceed --max-message".to_owned()),
        (
            !settings.proxies.networks.is_empty() || settings.proxies.headers.is_empty(),
            "--trusted-header needs --trusted-proxies".to_owned(),
        ),
    ];
    match checks.into_iter().find(|(holds, _)| !holds) {
        Some((_, text)) => Err(UsageError(text)),
        None => Ok(()),
    }
}

fn address(text: &str) -> Result<SocketAddr, &'static str> {
    text.parse().map_err(|_| "expected an IP address and a port, such as 0.0.0.0:3000")
}

fn agent_path(text: &str) -> Result<String, &'static str> {
    let is_path = text.starts_with('/') && !text.contains(['?', '#', ' ']) && text != "/";
    if is_path { Ok(text.to_owned()) } else { Err("expected a path such as /ws") }
}

fn own_paths(text: &str) -> Result<OwnPaths, &'static str> {
    match text {
        "both" => Ok(OwnPaths::Both),
        "new" => Ok(OwnPaths::New),
        _ => Err("expected both or new"),
    }
}

fn proxies(o: &mut Options<'_>) -> Result<Proxies, UsageError> {
    let list = |text: &str| text.split(',').map(|network| Network::from_str(network.trim())).collect();
    let networks = o.value("--trusted-proxies", list)?.unwrap_or_default();
    let headers: Vec<HeaderName> = o.all_parsed("--trusted-header")?;
    Ok(Proxies { networks, headers })
}

fn credentials(o: &mut Options<'_>) -> Result<Credentials, UsageError> {
    let (token, token_file) = o.secret("--token-file", "GATEWAY_TOKEN", Token::new)?.unzip();
    let token_file = token_file.flatten();
    let tls_files = match (o.text("--tls-cert")?, o.text("--tls-key")?) {
        (None, None) => None,
        (Some(certificates), Some(key)) => Some((certificates.into(), key.into())),
        _ => return Err(UsageError("--tls-cert and --tls-key belong together".to_owned())),
    };
    Credentials::new(token, token_file, tls_files)
        .map_err(|error| UsageError(format!("--tls-cert and --tls-key: {error}")))
}
