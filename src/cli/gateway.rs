//! The command line of the reference gateway.

use std::path::PathBuf;
use std::str::FromStr;

use http::header::HeaderName;

use super::logging::Format;
use super::{
    Command, Opt, Options, UsageError, addresses, duration, flag, help_on, log_format, number, program, size,
};
use crate::TunnelId;
use crate::agent::options::{read_token, token};
use crate::gateway::{Domain, Gateway, GatewayBuilder, Network, OwnPaths};

const fn opt(flag: &'static str, variable: &'static str, value: &'static str, help: &'static str) -> Opt {
    Opt::new(flag, variable, value, help)
}

/// The prefix of variables that only this program reads.
const PREFIX: &str = "TUNNEL_GATEWAY_";

/// The options, in the order in which the help lists them.
pub(super) static TABLE: [Opt; 32] = [
    opt("--listen", "LISTEN", "ADDRESS", "for agents and visitors; default 127.0.0.1:3000"),
    opt(
        "--listen-agents",
        "LISTEN_AGENTS",
        "ADDRESS",
        "another one for agents alone; --listen is the visitors' then; default none",
    ),
    opt(
        "--token-file",
        "GATEWAY_TOKEN_FILE",
        "FILE",
        "file with the token that agents must show; default none",
    )
    .part_of("token"),
    opt("", "GATEWAY_TOKEN", "", "the token itself; never on the command line").part_of("token"),
    opt(
        "--tls-cert",
        "TLS_CERT",
        "FILE",
        "PEM file with a certificate chain; with --tls-key: TLS; may be repeated",
    )
    .repeats(),
    opt("--tls-key", "TLS_KEY", "FILE", "PEM file with its private key; repeated, in the same order")
        .repeats(),
    opt(
        "--client-ca",
        "CLIENT_CA",
        "FILE",
        "PEM file with the authorities whose certificates agents must show; needs --listen-agents and TLS",
    ),
    opt(
        "--default-tunnel",
        "GATEWAY_DEFAULT_TUNNEL",
        "ID",
        "whose requests without X-Tunnel-Id are; default none",
    ),
    opt(
        "--domain",
        "GATEWAY_DOMAIN",
        "DOMAIN",
        "each tunnel is at NAME.DOMAIN; such as https://tunnel.example; default localhost, at its port",
    ),
    opt("--own-host", "OWN_HOSTS", "HOST", "a host name that is the gateway's; may be repeated").repeats(),
    opt(
        "--names",
        "GATEWAY_NAMES",
        "FILE",
        "reserves names: lines NAME = TUNNEL-ID, or HOST = TUNNEL-ID; default none",
    ),
    opt("--first-come", "FIRST_COME", "", "names that --names does not reserve are whose tunnel asks first"),
    opt("--only-names", "ONLY_NAMES", "", "serves no tunnels but those of --names"),
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
    opt(
        "--admin",
        "GATEWAY_ADMIN",
        "ADDRESS",
        "tells how it is doing, such as at 127.0.0.1:9181; default nowhere",
    ),
    opt(
        "--admin-token-file",
        "GATEWAY_ADMIN_TOKEN_FILE",
        "FILE",
        "file with the token that this wants; default none",
    )
    .part_of("admin_token"),
    opt("", "GATEWAY_ADMIN_TOKEN", "", "the token itself").part_of("admin_token"),
    opt("--access-log", "ACCESS_LOG", "", "logs a line for each request, with the visitor's address"),
    opt(
        "--server-timing",
        "GATEWAY_SERVER_TIMING",
        "",
        "tells pages in Server-Timing how long responses took",
    ),
    opt("--legacy", "LEGACY", "", "behave as the oldest gateways: no streams, no ids, bodies as text"),
    opt("--log-format", "GATEWAY_LOG_FORMAT", "FORMAT", "text or json, an object a line; default text"),
    opt("", "RUST_LOG", "", "off, error, warn, info, debug or trace; default info"),
];

/// The settings of the program.
#[derive(Debug)]
pub struct GatewaySettings {
    /// The gateway to run.
    pub gateway: Gateway,
    /// The form of the log's lines.
    pub log_format: Format,
    /// The value of `RUST_LOG`.
    pub log_level: Option<String>,
    /// Remarks about the environment, for the log.
    pub notes: Vec<String>,
}

/// The text of `--help`.
pub fn help() -> String {
    format!(
        "The reference gateway of tunnel-agent: agents connect to it on /ws, and it passes visitors' HTTP\n\
         requests on to them. For development, tests, demonstrations and small installations. It keeps\n\
         everything in memory, and knows no users and no rate limits; a fleet is many of these behind an\n\
         ordinary load balancer.\n\n\
         Usage: {} [options]\n\n\
         {}\n\
         Times read 500ms, 10s, 2m; sizes 64KiB, 10MiB.\n\
         GET /.tunnel/health tells that it lives, /.tunnel/ready whether it has an agent and is to get requests,\n\
         /.tunnel/connections which agents there are; POST /.tunnel/forward sends its body to an agent as POST /.\n\
         Each tunnel has a host name, NAME.DOMAIN, at which every request is its application's. Elsewhere\n\
         every other request goes to an agent as it is. The header X-Tunnel-Id chooses the tunnel, and\n\
         everything but /.tunnel/ goes to it; among several agents of it, the one with the fewest requests under way is asked.\n\n\
         SIGTERM and SIGINT stop it; a second one does not wait any more. SIGHUP reads token, certificate and names again.\n\
         Exit codes: 0 asked to stop, 1 could not listen, 2 wrong usage.\n",
        program("gateway"),
        help_on(&TABLE, PREFIX),
    )
}

/// Reads the arguments and the environment.
pub fn read() -> Result<Command<GatewaySettings>, UsageError> {
    super::read(&[], &TABLE, PREFIX, |_, options| settings(&options))
}

fn settings(o: &Options<'_>) -> Result<GatewaySettings, UsageError> {
    let log_format = o.value("--log-format", log_format)?.unwrap_or_default();
    let log_level = o.text("RUST_LOG");
    let builder = visitors(o, Gateway::builder())?;
    let builder = credentials(o, builder)?;
    let builder = admin(o, limits(o, builder)?)?;
    let gateway =
        builder.build().map_err(|error| o.naming_places(&super::config_error(&error, option_name)))?;
    let notes = o.bare_variables().into_iter().collect();
    Ok(GatewaySettings { gateway, log_format, log_level, notes })
}

/// The command line's name of a builder's option.
fn option_name(option: &str) -> String {
    match option {
        "max_enveloped_body" => "--max-body".to_owned(),
        "tls" => "--tls-cert and --tls-key".to_owned(),
        "admin_token" => "a token for --admin".to_owned(),
        _ => flag(option),
    }
}

/// Sets a value that was given.
fn with<T>(
    builder: GatewayBuilder,
    value: Option<T>,
    set: fn(GatewayBuilder, T) -> GatewayBuilder,
) -> GatewayBuilder {
    match value {
        Some(value) => set(builder, value),
        None => builder,
    }
}

/// The options of listening and routing.
fn visitors(o: &Options<'_>, builder: GatewayBuilder) -> Result<GatewayBuilder, UsageError> {
    let builder = with(builder, o.value("--listen", addresses::listen)?, GatewayBuilder::listen);
    let builder =
        with(builder, o.value("--listen-agents", addresses::listen)?, GatewayBuilder::listen_agents);
    let tunnel: Option<TunnelId> = o.parsed("--default-tunnel")?;
    let builder = with(builder, tunnel, GatewayBuilder::default_tunnel);
    let domain: Option<Domain> = o.parsed("--domain")?;
    let builder = with(builder, domain, GatewayBuilder::domain);
    let own_hosts: Vec<String> = o.all_parsed("--own-host")?;
    let builder = own_hosts.into_iter().fold(builder, GatewayBuilder::own_host);
    let builder = with(builder, o.text("--names"), GatewayBuilder::names_file);
    let builder = if o.switch("--first-come")? { builder.first_come() } else { builder };
    let builder = if o.switch("--only-names")? { builder.only_names() } else { builder };
    let builder = with(builder, o.text("--agent-path"), GatewayBuilder::agent_path);
    let builder = with(builder, o.value("--own-paths", own_paths)?, GatewayBuilder::own_paths);
    let networks = |text: &str| text.split(',').map(|network| Network::from_str(network.trim())).collect();
    let networks: Vec<Network> = o.value("--trusted-proxies", networks)?.unwrap_or_default();
    let headers: Vec<HeaderName> = o.all_parsed("--trusted-header")?;
    Ok(headers.into_iter().fold(builder.trusted_proxies(networks), GatewayBuilder::trusted_header))
}

/// The options of times and sizes.
fn limits(o: &Options<'_>, builder: GatewayBuilder) -> Result<GatewayBuilder, UsageError> {
    let builder = with(builder, o.value("--timeout", duration)?, GatewayBuilder::timeout);
    let builder = with(builder, o.value("--hold", duration)?, GatewayBuilder::hold);
    let builder = with(builder, o.value("--drain-delay", duration)?, GatewayBuilder::drain_delay);
    let builder = with(builder, o.value("--drain", duration)?, GatewayBuilder::drain);
    let builder = with(builder, o.value("--max-per-address", number)?, GatewayBuilder::max_per_address);
    let builder = with(builder, o.value("--max-body", size)?, GatewayBuilder::max_enveloped_body);
    let builder = with(builder, o.value("--max-message", size)?, GatewayBuilder::max_message);
    let builder = if o.switch("--access-log")? { builder.access_log() } else { builder };
    let builder = if o.switch("--server-timing")? { builder.server_timing() } else { builder };
    Ok(if o.switch("--legacy")? { builder.legacy() } else { builder })
}

fn credentials(o: &Options<'_>, builder: GatewayBuilder) -> Result<GatewayBuilder, UsageError> {
    let token = o.secret("--token-file", "GATEWAY_TOKEN", read_token, token)?;
    let builder = with(builder, token, |builder, (token, file)| match file {
        Some(path) => builder.token_file(path),
        None => builder.token(token),
    });
    let builder = with(builder, o.text("--client-ca"), GatewayBuilder::client_ca);
    let certificates: Vec<PathBuf> = o.all_parsed("--tls-cert")?;
    let keys: Vec<PathBuf> = o.all_parsed("--tls-key")?;
    if certificates.len() != keys.len() {
        let text = "--tls-cert and --tls-key belong together: give a key for each certificate";
        return Err(UsageError(text.to_owned()));
    }
    let pairs = certificates.into_iter().zip(keys);
    Ok(pairs.fold(builder, |builder, (certificate, key)| builder.tls(certificate, key)))
}

/// The options of the server for operators.
fn admin(o: &Options<'_>, builder: GatewayBuilder) -> Result<GatewayBuilder, UsageError> {
    let secret = o.secret("--admin-token-file", "GATEWAY_ADMIN_TOKEN", read_token, token)?;
    let Some(address) = o.value("--admin", addresses::listen)? else {
        return match secret {
            Some(_) => Err(UsageError("a token for --admin (--admin-token-file) needs --admin".to_owned())),
            None => Ok(builder),
        };
    };
    Ok(match secret {
        Some((_, Some(path))) => builder.admin(address, None).admin_token_file(path),
        Some((token, None)) => builder.admin(address, Some(token)),
        None => builder.admin(address, None),
    })
}

fn own_paths(text: &str) -> Result<OwnPaths, &'static str> {
    match text {
        "both" => Ok(OwnPaths::Both),
        "new" => Ok(OwnPaths::New),
        _ => Err("expected both or new"),
    }
}
