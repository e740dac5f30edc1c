//! What was typed, and what it means.

use std::str::FromStr;
use std::time::Duration;

use http::HeaderValue;
use http::uri::PathAndQuery;
use tunnel_agent::cli::{self, Command, Invoked, Opt, Options, UsageError, Verb};
use tunnel_agent::logging::Format;
use tunnel_agent::{
    Action, Agent, Backoff, Breaker, Builder, Correlation, FailureAnswer, GatewayUrl, HealthChecks,
    Heartbeat, InvalidLocalUrl, InvalidTunnelId, LocalUrl, Rule, Rules, SetHeader, Timeouts, Token, Trust,
    TunnelId,
};

const fn opt(flag: &'static str, variable: &'static str, value: &'static str, help: &'static str) -> Opt {
    Opt::new(flag, variable, value, help)
}

const TABLE: [Opt; 49] = [
    opt("--tunnel-id", "TUNNEL_ID", "ID", "which tunnel to serve: agent_{uuid}_{purpose}; required"),
    opt(
        "--gateway",
        "GATEWAY_URL",
        "URL",
        "a gateway; without a path, /ws; may be repeated; default ws://127.0.0.1:3000/ws",
    )
    .repeats(),
    opt("--connections", "CONNECTIONS", "N", "sessions with each gateway; default 1"),
    opt("--token-file", "TOKEN_FILE", "FILE", "file with the token for the gateway; default none"),
    opt("", "TOKEN", "", "the token itself; never on the command line"),
    opt(
        "--local",
        "LOCAL_URL",
        "URL",
        "the local server, or auto to find one; repeated, one more for when it cannot be reached; default \
         http://127.0.0.1:8000",
    )
    .repeats(),
    opt("--route", "ROUTES", "PREFIX=URL", "another local server for the paths under it; may be repeated")
        .repeats(),
    opt("--set-header", "", "HEADER", "'Name: value' for requests to the local server; may be repeated")
        .repeats(),
    opt("--remove-header", "REMOVE_HEADER", "NAME", "removes it from them; may be repeated").repeats(),
    opt("", "SET_HEADERS", "", "headers to set, one a line"),
    opt(
        "--host-header",
        "HOST_HEADER",
        "HOST",
        "Host header for the local server; default the request's own",
    ),
    opt("--workers", "WORKERS", "N", "requests answered side by side, but for those that last; default 16"),
    opt("--max-streams", "MAX_STREAMS", "N", "the same with streams that last; default 256"),
    opt("--max-in-flight", "MAX_IN_FLIGHT", "N", "requests answered at once, of any kind; default no limit"),
    opt("--queue", "QUEUE", "N", "requests that may wait for a worker; default 256"),
    opt("--queue-timeout", "QUEUE_TIMEOUT", "TIME", "how long they may wait; default 10s"),
    opt("--allow", "", "RULE", "lets requests pass: [METHOD[,METHOD…] ]/PATH with * and **; may be repeated")
        .repeats(),
    opt("--deny", "", "RULE", "refuses requests with 403; the first rule that matches decides").repeats(),
    opt("", "RULES", "", "rules, one a line, each `allow RULE` or `deny RULE`"),
    opt("--rate", "RATE", "RATE", "requests that pass, such as 100/s or 30/m; default no limit"),
    opt("--burst", "BURST", "N", "requests at once after a pause; default those of a second"),
    opt("--rate-wait", "RATE_WAIT", "TIME", "how long a request may wait for the rate; default 0s"),
    opt("--connect-timeout", "CONNECT_TIMEOUT", "TIME", "for connecting, to either side; default 5s"),
    opt("--response-timeout", "RESPONSE_TIMEOUT", "TIME", "until the local answer begins; default 30s"),
    opt("--idle-timeout", "IDLE_TIMEOUT", "TIME", "between two bytes of the local answer; default 30s"),
    opt("--ping-interval", "PING_INTERVAL", "TIME", "between two pings to the gateway; default 15s"),
    opt("--pong-timeout", "PONG_TIMEOUT", "TIME", "further silence before it counts as gone; default 10s"),
    opt(
        "--breaker-failures",
        "BREAKER_FAILURES",
        "N",
        "in a row, then answers at once; 0 for never; default 5",
    ),
    opt(
        "--breaker-open",
        "BREAKER_OPEN",
        "TIME",
        "until the local server is tried again; doubles; default 1s",
    ),
    opt("--health-path", "HEALTH_PATH", "PATH", "checks the local server there; default no checks"),
    opt("--health-interval", "HEALTH_INTERVAL", "TIME", "between two checks; default 10s"),
    opt("--failure", "FAILURE", "RULE", "failures to forward as `error` or as `response`; default error"),
    opt("--max-retries", "MAX_RETRIES", "N", "tries after a first failure; 0 for no end; default 10"),
    opt("--backoff-min", "BACKOFF_MIN", "TIME", "first delay between tries; default 1s"),
    opt("--backoff-max", "BACKOFF_MAX", "TIME", "longest delay between tries; default 30s"),
    opt(
        "--drain",
        "DRAIN",
        "TIME",
        "for finishing what runs, when told to stop or the gateway goes; default 10s",
    ),
    opt("--max-message", "MAX_MESSAGE", "SIZE", "largest message, either way; at least 80KiB; default 16MiB"),
    opt("--max-body", "MAX_BODY", "SIZE", "largest body, either way, without mux/2; default 10MiB"),
    opt("--max-stream-body", "MAX_STREAM_BODY", "SIZE", "the same with mux/2; default no limit"),
    opt(
        "--correlation",
        "CORRELATION",
        "RULE",
        "order, or latest for gateways with one waiting slot and no others; default order",
    ),
    opt("--ca-file", "CA_FILE", "FILE", "PEM file with the only authorities trusted for the gateway"),
    opt("--local-ca-file", "LOCAL_CA_FILE", "FILE", "the same for the local server"),
    opt("--insecure", "INSECURE", "", "do not verify the gateway's certificate"),
    opt("--local-insecure", "LOCAL_INSECURE", "", "do not verify the local server's certificate"),
    opt("--admin", "ADMIN", "ADDRESS", "tells how it is doing, such as at 127.0.0.1:9180; default nowhere"),
    opt(
        "--admin-token-file",
        "ADMIN_TOKEN_FILE",
        "FILE",
        "file with the token that this wants; default none",
    ),
    opt("", "ADMIN_TOKEN", "", "the token itself"),
    opt("--log-format", "LOG_FORMAT", "FORMAT", "text or json, an object a line; default text"),
    opt("", "RUST_LOG", "", "off, error, warn, info, debug or trace; default info"),
];

/// What the options come to.
#[derive(Debug)]
pub struct Settings {
    pub agent: Agent,
    pub drain: Duration,
    pub task: Task,
    pub log_format: Format,
    /// What `RUST_LOG` says.
    pub log_level: Option<String>,
    /// What the log is to warn of in the environment.
    pub warnings: Vec<String>,
    /// What it is to say of it.
    pub notes: Vec<String>,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Task {
    /// To serve the tunnel.
    Serve,
    /// To say what would become of a request with this method and path.
    Explain(String, String),
    /// To list the local servers there are.
    Discover,
    /// To try each step by itself.
    Check,
}

/// What variables begin with that are meant for this program and no other.
const PREFIX: &str = "TUNNEL_AGENT_";

const CHECK: &str = "check";

const DISCOVER: &str = "discover";

const VERBS: [Verb; 3] = [
    Verb { name: "explain", operands: &["METHOD", "PATH"] },
    Verb { name: CHECK, operands: &[] },
    Verb { name: DISCOVER, operands: &[] },
];

pub fn help() -> String {
    format!(
        "Answers a gateway's HTTP requests from a local web server, over one outgoing WebSocket.\n\n\
         Usage: {0} --tunnel-id ID [options]\n       \
         {0} explain METHOD PATH [options]   which rule decides about a request, and what would be sent\n       \
         {0} check --tunnel-id ID [options]  tries each step by itself, and says what to do where one fails\n       \
         {0} discover                        which HTTP servers listen on this machine\n\n\
         {1}\n\
         Times read 500ms, 10s, 2m; sizes 64KiB, 10MiB.\n\
         SIGTERM and SIGINT stop it, SIGHUP skips the wait before the next try and reads files again.\n\
         Exit codes: 0 asked to stop, 1 gave up on all gateways, 2 wrong usage, 3 refused by the gateway.\n",
        cli::program("agent"),
        cli::help(&TABLE, PREFIX),
    )
}

/// Reads arguments and environment.
pub fn read() -> Result<Command<Settings>, UsageError> {
    cli::read(&VERBS, &TABLE, PREFIX, settings)
}

fn settings(invoked: Invoked, mut options: Options<'_>) -> Result<Settings, UsageError> {
    let o = &mut options;
    let gateways: Vec<GatewayUrl> = o.all_parsed("--gateway")?;
    let task = task(invoked);
    let drain = o.value("--drain", cli::duration)?.unwrap_or(Duration::from_secs(10));
    let log_format = o.value("--log-format", cli::log_format)?.unwrap_or_default();
    let log_level = o.variable("RUST_LOG")?.map(|(_, level)| level);
    let tunnel_id = tunnel_id(o, &task)?;
    let mut warnings = Vec::new();
    let token = o.secret("--token-file", "TOKEN", Token::new)?;
    let token = token.filter(|_| may_take_token(o, &gateways, &mut warnings));
    let builder = gateways.into_iter().fold(Agent::builder(tunnel_id).drain(drain), Builder::gateway);
    let builder = with(builder, token, |builder, (token, file)| match file {
        Some(path) => builder.token_file(path),
        None => builder.token(token),
    });
    let builder = gateway_side(o, builder)?;
    let builder = protection(o, builder)?;
    let builder = local_side(o, builder)?;
    let agent = admin(o, builder)?.build().map_err(|error| UsageError(error.to_string()))?;
    let notes = o.bare_variables().into_iter().collect();
    Ok(Settings { agent, drain, task, log_format, log_level, warnings, notes })
}

fn task(invoked: Invoked) -> Task {
    let Some((verb, operands)) = invoked else { return Task::Serve };
    match <[String; 2]>::try_from(operands) {
        Ok([method, path]) => Task::Explain(method, path),
        Err(_) if verb == CHECK => Task::Check,
        Err(_) if verb == DISCOVER => Task::Discover,
        Err(_) => Task::Serve,
    }
}

fn tunnel_id(o: &mut Options<'_>, task: &Task) -> Result<TunnelId, UsageError> {
    if let Some(id) = o.parsed("--tunnel-id")? {
        return Ok(id);
    }
    if matches!(task, Task::Serve | Task::Check) {
        let text = "which tunnel? Give --tunnel-id agent_{uuid}_{purpose} (or the variable TUNNEL_ID)";
        return Err(UsageError(text.to_owned()));
    }
    // Any will do: none is dialled.
    NOBODY.parse().map_err(|error: InvalidTunnelId| UsageError(error.to_string()))
}

/// Sets what was given.
fn with<T>(builder: Builder, value: Option<T>, set: fn(Builder, T) -> Builder) -> Builder {
    match value {
        Some(value) => set(builder, value),
        None => builder,
    }
}

/// What concerns the gateways and the sessions with them.
fn gateway_side(o: &mut Options<'_>, builder: Builder) -> Result<Builder, UsageError> {
    let builder = with(builder, o.value("--connections", cli::number)?, Builder::connections);
    let builder = with(builder, o.value("--max-message", cli::size)?, Builder::max_message);
    let builder = with(builder, o.value("--max-body", cli::size)?, Builder::max_body);
    let stream_body = o.value("--max-stream-body", cli::size)?.map(|bytes| bytes as u64);
    let builder = with(builder, stream_body, Builder::max_stream_body);
    let builder = with(builder, o.value("--correlation", correlation)?, Builder::correlation);
    let builder = with(builder, o.value("--failure", failure)?, Builder::failure);
    let builder = builder.timeouts(timeouts(o)?).heartbeat(heartbeat(o)?).backoff(backoff(o)?);
    Ok(builder.trust(trust(o, "--insecure", "--ca-file")?))
}

/// What is let through, and how much of it at once.
fn protection(o: &mut Options<'_>, builder: Builder) -> Result<Builder, UsageError> {
    let builder = with(builder, o.value("--workers", cli::number)?, Builder::workers);
    let builder = with(builder, o.value("--max-streams", cli::number)?, Builder::max_streams);
    let builder = with(builder, o.value("--max-in-flight", cli::number)?, Builder::max_in_flight);
    let builder = with(builder, o.value("--queue", cli::number)?, Builder::queue);
    let builder = with(builder, o.value("--queue-timeout", cli::duration)?, Builder::queue_timeout);
    let builder = with(builder, o.parsed("--rate")?, Builder::rate);
    let builder = with(builder, o.parsed("--burst")?, Builder::burst);
    let builder = with(builder, o.value("--rate-wait", cli::duration)?, Builder::rate_wait);
    Ok(builder.rules(rules(o)?))
}

fn admin(o: &mut Options<'_>, builder: Builder) -> Result<Builder, UsageError> {
    let token = o.secret("--admin-token-file", "ADMIN_TOKEN", Token::new)?.map(|(token, _)| token);
    let address =
        |text: &str| text.parse().map_err(|_| "expected an IP address and a port, such as 127.0.0.1:9180");
    match (o.value("--admin", address)?, token) {
        (Some(address), token) => Ok(builder.admin(address, token)),
        // It may be another program's.
        (None, Some(_)) if ["ADMIN_TOKEN", "ADMIN_TOKEN_FILE"].iter().any(|variable| o.is_bare(variable)) => {
            o.leave("ADMIN_TOKEN");
            o.leave("ADMIN_TOKEN_FILE");
            Ok(builder)
        }
        (None, Some(_)) => {
            Err(UsageError("a token for --admin (--admin-token-file, ADMIN_TOKEN) needs --admin".to_owned()))
        }
        (None, None) => Ok(builder),
    }
}

/// A tunnel ID for what needs none.
const NOBODY: &str = "agent_00000000-0000-0000-0000-000000000000_nobody";

/// A value of `--local`.
enum Local {
    At(LocalUrl),
    Auto,
}

impl FromStr for Local {
    type Err = InvalidLocalUrl;

    fn from_str(text: &str) -> Result<Self, InvalidLocalUrl> {
        if text == "auto" { Ok(Local::Auto) } else { text.parse().map(Local::At) }
    }
}

/// A value of `--route`.
struct Route {
    prefix: String,
    url: LocalUrl,
}

impl FromStr for Route {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (prefix, url) =
            text.split_once('=').ok_or("expected PREFIX=URL, such as /api=http://127.0.0.1:9000")?;
        let url = url.parse().map_err(|error: InvalidLocalUrl| error.to_string())?;
        Ok(Route { prefix: prefix.to_owned(), url })
    }
}

/// What concerns the local servers.
fn local_side(o: &mut Options<'_>, mut builder: Builder) -> Result<Builder, UsageError> {
    for local in o.all_parsed("--local")? {
        builder = match local {
            Local::Auto => builder.local_auto(),
            Local::At(url) => builder.local(url),
        };
    }
    builder = with(builder, o.value("--host-header", HeaderValue::from_str)?, Builder::host_header);
    builder = builder.local_trust(trust(o, "--local-insecure", "--local-ca-file")?);
    let routes: Vec<Route> = o.all_parsed("--route")?;
    for Route { prefix, url } in routes {
        builder = builder.route(&prefix, url);
    }
    for header in set_headers(o)? {
        builder = builder.set_header(header);
    }
    let removed: Vec<String> = o.all_parsed("--remove-header")?;
    for name in removed {
        builder = builder.remove_header(&name);
    }
    let default = Breaker::default();
    builder = builder.breaker(Breaker {
        failures: o.value("--breaker-failures", count)?.unwrap_or(default.failures),
        open: o.value("--breaker-open", cli::duration)?.unwrap_or(default.open),
    });
    let interval = o.value("--health-interval", cli::duration)?;
    match (o.value("--health-path", health_path)?, interval) {
        (Some(path), interval) => {
            let interval = interval.unwrap_or(Duration::from_secs(10));
            builder = builder.health(HealthChecks { path, interval });
        }
        (None, Some(_)) => return Err(UsageError("--health-interval needs --health-path".to_owned())),
        (None, None) => {}
    }
    Ok(builder)
}

/// Those that were typed; else those of the variable.
fn set_headers(o: &Options<'_>) -> Result<Vec<SetHeader>, UsageError> {
    let read = |(source, text): (String, String)| {
        text.parse().map_err(|error| UsageError(format!("{source}: {error}")))
    };
    o.in_order(&["--set-header"], "SET_HEADERS")?.into_iter().map(read).collect()
}

fn health_path(text: &str) -> Result<PathAndQuery, &'static str> {
    let path = text.parse().ok().filter(|_| text.starts_with('/') && !text.starts_with("//"));
    path.ok_or("expected a path such as /up")
}

fn failure(text: &str) -> Result<FailureAnswer, &'static str> {
    match text {
        "error" => Ok(FailureAnswer::Error),
        "response" => Ok(FailureAnswer::Response),
        _ => Err("expected error or response"),
    }
}

/// The rules in the order in which they were typed; else those of the variable.
fn rules(o: &Options<'_>) -> Result<Rules, UsageError> {
    let rules = o.in_order(&["--allow", "--deny"], "RULES")?;
    let count = rules.len();
    let read = |(index, (source, text)): (usize, (String, String))| {
        let rule = |action| text.parse().map(|pattern| Rule { action, pattern });
        let rule = match source.as_str() {
            "--allow" => rule(Action::Allow),
            "--deny" => rule(Action::Deny),
            _ => text.parse(),
        };
        let which = if count > 1 { format!(", rule {}", index + 1) } else { String::new() };
        rule.map_err(|error| UsageError(format!("{source}{which}: {error}")))
    };
    let rules = rules.into_iter().enumerate().map(read);
    rules.collect::<Result<Vec<_>, _>>().map(Rules::from)
}

/// Whether a token may be sent to these gateways: one that other programs may have meant does not go out unencrypted.
fn may_take_token(o: &Options<'_>, gateways: &[GatewayUrl], warnings: &mut Vec<String>) -> bool {
    let exposed = gateways.iter().find(|url| !url.is_secure() && !url.is_loopback());
    let bare = ["TOKEN", "TOKEN_FILE"].into_iter().find(|variable| o.is_bare(variable));
    match exposed.zip(bare) {
        Some((url, variable)) => {
            o.leave(variable);
            warnings.push(format!(
                "the variable {variable} was not taken: {url} would get it unencrypted, and it may be another program's; \
                 name it {PREFIX}{variable}, or use --token-file"
            ));
            false
        }
        None => true,
    }
}

fn timeouts(o: &mut Options<'_>) -> Result<Timeouts, UsageError> {
    let default = Timeouts::default();
    Ok(Timeouts {
        connect: o.value("--connect-timeout", cli::duration)?.unwrap_or(default.connect),
        response: o.value("--response-timeout", cli::duration)?.unwrap_or(default.response),
        idle: o.value("--idle-timeout", cli::duration)?.unwrap_or(default.idle),
    })
}

fn heartbeat(o: &mut Options<'_>) -> Result<Heartbeat, UsageError> {
    let default = Heartbeat::default();
    Ok(Heartbeat {
        ping_interval: o.value("--ping-interval", cli::duration)?.unwrap_or(default.ping_interval),
        pong_timeout: o.value("--pong-timeout", cli::duration)?.unwrap_or(default.pong_timeout),
    })
}

fn backoff(o: &mut Options<'_>) -> Result<Backoff, UsageError> {
    let default = Backoff::default();
    Ok(Backoff {
        min: o.value("--backoff-min", cli::duration)?.unwrap_or(default.min),
        max: o.value("--backoff-max", cli::duration)?.unwrap_or(default.max),
        max_retries: o.value("--max-retries", count)?.unwrap_or(default.max_retries),
    })
}

fn count(text: &str) -> Result<u32, &'static str> {
    text.parse().map_err(|_| "expected a whole number")
}

fn trust(o: &mut Options<'_>, insecure: &'static str, ca_file: &'static str) -> Result<Trust, UsageError> {
    let file = o.text(ca_file)?;
    match (o.switch(insecure)?, file) {
        (true, None) => Ok(Trust::Insecure),
        (false, Some(file)) => Ok(Trust::File(file.into())),
        (false, None) => Ok(Trust::System),
        (true, Some(_)) => {
            Err(UsageError(format!("{insecure} and {ca_file} contradict each other; give one")))
        }
    }
}

fn correlation(text: &str) -> Result<Correlation, &'static str> {
    match text {
        "order" => Ok(Correlation::Order),
        "latest" => Ok(Correlation::Latest),
        _ => Err("expected order or latest"),
    }
}
