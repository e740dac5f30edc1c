//! What was typed, and what it means.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use tunnel_agent::Token;
use tunnel_agent::cli::{self, Command, Opt, Options, UsageError};
use tunnel_agent::link::frames::MESSAGE_MIN;
use tunnel_agent::link::tls::{self, ServerTls};

const fn opt(flag: &'static str, variable: &'static str, value: &'static str, help: &'static str) -> Opt {
    Opt::new(flag, variable, value, help)
}

const TABLE: [Opt; 11] = [
    opt("--listen", "LISTEN", "ADDRESS", "for agents and clients; default 127.0.0.1:3000"),
    opt(
        "--token-file",
        "GATEWAY_TOKEN_FILE",
        "FILE",
        "file with the token that agents must show; default none",
    ),
    opt("", "GATEWAY_TOKEN", "", "the token itself; never on the command line"),
    opt("--tls-cert", "TLS_CERT", "FILE", "PEM file with the certificate chain; with --tls-key: TLS"),
    opt("--tls-key", "TLS_KEY", "FILE", "PEM file with its private key"),
    opt("--timeout", "GATEWAY_TIMEOUT", "TIME", "for an agent's answer, then 504; default 30s"),
    opt("--drain", "GATEWAY_DRAIN", "TIME", "for requests to finish when asked to stop; default 10s"),
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
    opt("", "RUST_LOG", "", "off, error, warn, info, debug or trace; default info"),
];

/// What the options come to.
pub struct Settings {
    pub listen: SocketAddr,
    pub token: Option<Token>,
    pub tls: Option<ServerTls>,
    pub timeout: Duration,
    pub drain: Duration,
    pub max_body: usize,
    pub max_message: usize,
    pub legacy: bool,
}

pub fn help() -> String {
    format!(
        "The reference gateway of tunnel-agent: agents connect to it on /ws, and it passes clients' HTTP\n\
         requests on to them. For development, tests, demonstrations and small installations. It keeps\n\
         everything in memory, knows no users and no rate limits, and reports metrics to nobody; a fleet is\n\
         many of these behind an ordinary load balancer.\n\n\
         Usage: {} [options]\n\n\
         {}\n\
         GET /health and GET /connections tell how it is doing; POST /forward sends its body to an agent as\n\
         POST /; every other request goes to an agent as it is. The header X-Tunnel-Id chooses the agent,\n\
         whatever the path; among several it is the one with the fewest requests under way.\n\n\
         SIGTERM, SIGINT and SIGHUP stop it; a second one skips --drain.\n\
         Exit codes: 0 asked to stop, 1 could not listen, 2 wrong usage.\n",
        cli::program("gateway"),
        cli::help(&TABLE),
    )
}

/// Reads arguments and environment.
pub fn read() -> Result<Command<Settings>, UsageError> {
    cli::read(&[], &TABLE, |_, options| settings(options))
}

fn settings(mut options: Options<'_>) -> Result<Settings, UsageError> {
    let o = &mut options;
    let address =
        |text: &str| text.parse().map_err(|_| "expected an IP address and a port, such as 0.0.0.0:3000");
    let settings = Settings {
        listen: o.value("--listen", address)?.unwrap_or(SocketAddr::from(([127, 0, 0, 1], 3000))),
        token: token(o)?,
        tls: tls(o)?,
        timeout: o.value("--timeout", cli::duration)?.unwrap_or(Duration::from_secs(30)),
        drain: o.value("--drain", cli::duration)?.unwrap_or(Duration::from_secs(10)),
        max_body: o.value("--max-body", cli::size)?.unwrap_or(10 << 20),
        max_message: o.value("--max-message", cli::size)?.unwrap_or(16 << 20),
        legacy: o.switch("--legacy")?,
    };
    if settings.timeout.is_zero() {
        return Err(UsageError("--timeout must not be zero".to_owned()));
    }
    if settings.max_message < MESSAGE_MIN {
        return Err(UsageError(format!("--max-message must be at least {} KiB", MESSAGE_MIN >> 10)));
    }
    if settings.max_body > settings.max_message {
        return Err(UsageError("--max-body must not exceed --max-message".to_owned()));
    }
    Ok(settings)
}

fn token(o: &mut Options<'_>) -> Result<Option<Token>, UsageError> {
    o.secret("--token-file", "GATEWAY_TOKEN", Token::new)
}

fn tls(o: &mut Options<'_>) -> Result<Option<ServerTls>, UsageError> {
    match (o.text("--tls-cert")?, o.text("--tls-key")?) {
        (None, None) => Ok(None),
        (Some(certificates), Some(key)) => {
            let tls = tls::server(Path::new(&certificates), Path::new(&key));
            tls.map(Some).map_err(|error| UsageError(format!("--tls-cert and --tls-key: {error}")))
        }
        _ => Err(UsageError("--tls-cert and --tls-key belong together".to_owned())),
    }
}
