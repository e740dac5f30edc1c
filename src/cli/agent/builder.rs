//! From the options of the agent to its builder.

use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use http::HeaderValue;
use http::uri::PathAndQuery;

use super::{PREFIX, Task, own_id};
use crate::cli::table::distance;
use crate::cli::{Options, UsageError, addresses, duration, number, size};
use crate::{
    Action, Agent, BackoffConfig, BreakerConfig, Builder, Correlation, FailureReply, GatewayUrl,
    HealthChecks, Heartbeat, InvalidGatewayUrl, InvalidHeader, InvalidLocalUrl, InvalidTunnelId, LocalUrl,
    Passwords, Pattern, Rule, Rules, SetHeader, Timeouts, Token, Trust, TunnelId, TunnelName,
};

/// A tunnel ID for tasks that dial no gateway.
const PLACEHOLDER_ID: &str = "agent_00000000-0000-0000-0000-000000000000_nobody";

/// The builder that the options describe. What the log is to warn of is added to `warnings`.
pub(super) fn builder(
    o: &mut Options<'_>,
    tunnel_id: TunnelId,
    warnings: &mut Vec<String>,
) -> Result<Builder, UsageError> {
    let gateways: Vec<GatewayArg> = o.all_parsed("--gateway")?;
    let gateways: Vec<GatewayUrl> = gateways.into_iter().map(|GatewayArg(url)| url).collect();
    let builder = Agent::builder(tunnel_id);
    let token = o.secret("--token-file", "TOKEN", Token::new)?;
    let token = token.filter(|_| may_take_token(o, &gateways, warnings));
    let builder = gateways.into_iter().fold(builder, Builder::gateway);
    let builder = with(builder, token, |builder, (token, file)| match file {
        Some(path) => builder.token_file(path),
        None => builder.token(token),
    });
    let builder = gateway_side(o, builder)?;
    let builder = protection(o, builder, warnings)?;
    let builder = local_side(o, builder)?;
    admin(o, builder)
}

/// What an option of the builder is called on the command line.
pub(super) fn option_name(option: &str) -> String {
    match option {
        "sessions_per_gateway" => "--connections".to_owned(),
        "handover_drain" => "--drain".to_owned(),
        "max_enveloped_body" => "--max-body".to_owned(),
        "max_streamed_body" => "--max-stream-body".to_owned(),
        "rules" => "--allow, --deny".to_owned(),
        "gateway_trust" => "--ca-file".to_owned(),
        "local_trust" => "--local-ca-file".to_owned(),
        _ => crate::cli::flag(option),
    }
}

/// A value of `--gateway`.
struct GatewayArg(GatewayUrl);

impl FromStr for GatewayArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        addresses::gateway_url(text).parse().map(GatewayArg).map_err(|error: InvalidGatewayUrl| match error {
            InvalidGatewayUrl::UserInfo | InvalidGatewayUrl::Query => {
                format!("{error}; give a token with --token-file or the variable TOKEN")
            }
            error => error.to_string(),
        })
    }
}

/// What stands in for a tunnel ID where none is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fallback {
    None,
    /// One that is made for the user.
    OwnId,
}

/// The tunnel ID. What the log says of it is added to `remarks`.
pub(super) fn tunnel_id(
    o: &mut Options<'_>,
    task: &Task,
    fallback: Fallback,
    remarks: &mut Vec<String>,
) -> Result<TunnelId, UsageError> {
    let from_file = |path: &str| own_id::from_file(Path::new(path));
    let (id, file) = ("--tunnel-id", "--tunnel-id-file");
    if o.is_typed(id) && o.is_typed(file) {
        return Err(UsageError("--tunnel-id and --tunnel-id-file are both given; give one".to_owned()));
    }
    // What is typed goes before what a variable says.
    let given = if o.is_typed(file) { o.value(file, from_file)? } else { o.parsed(id)? };
    let given = if given.is_none() && !o.is_typed(file) { o.value(file, from_file)? } else { given };
    if let Some(id) = given {
        return Ok(id);
    }
    if fallback == Fallback::OwnId {
        let (id, remark) = own_id::own_id(&|name| std::env::var_os(name))?;
        remarks.push(remark);
        return Ok(id);
    }
    if matches!(task, Task::Serve | Task::Check) {
        let text = "which tunnel? Give --tunnel-id agent_{uuid}_{purpose} (or the variable TUNNEL_ID), or the address of a \
                    local server alone, such as 8000, for a tunnel of yours";
        return Err(UsageError(text.to_owned()));
    }
    PLACEHOLDER_ID.parse().map_err(|error: InvalidTunnelId| UsageError(error.to_string()))
}

/// Sets a value that was given.
fn with<T>(builder: Builder, value: Option<T>, set: fn(Builder, T) -> Builder) -> Builder {
    match value {
        Some(value) => set(builder, value),
        None => builder,
    }
}

/// The options of the gateways and of the sessions with them.
fn gateway_side(o: &mut Options<'_>, builder: Builder) -> Result<Builder, UsageError> {
    let name: Option<TunnelName> = o.parsed("--name")?;
    let builder = with(builder, name, Builder::name);
    let builder = with(builder, o.value("--connections", number)?, Builder::sessions_per_gateway);
    let builder = with(builder, o.value("--max-message", size)?, Builder::max_message);
    let builder = with(builder, o.value("--max-body", size)?, Builder::max_enveloped_body);
    let stream_body = o.value("--max-stream-body", size)?.map(|bytes| bytes as u64);
    let builder = with(builder, stream_body, Builder::max_streamed_body);
    let builder = with(builder, o.value("--correlation", correlation)?, Builder::correlation);
    let builder = with(builder, o.value("--failure", failure_reply)?, Builder::failure_reply);
    let builder = builder.timeouts(timeouts(o)?).heartbeat(heartbeat(o)?).backoff(backoff(o)?);
    Ok(builder.gateway_trust(trust(o, "--insecure", "--ca-file")?))
}

/// The options that limit which requests pass, and how many at once.
fn protection(
    o: &mut Options<'_>,
    builder: Builder,
    warnings: &mut Vec<String>,
) -> Result<Builder, UsageError> {
    let builder = with(builder, o.value("--workers", number)?, Builder::workers);
    let builder = with(builder, o.value("--max-streams", number)?, Builder::max_streams);
    let builder = with(builder, o.value("--max-in-flight", number)?, Builder::max_in_flight);
    let builder = with(builder, o.value("--queue", number)?, Builder::queue);
    let builder = with(builder, o.value("--queue-timeout", duration)?, Builder::queue_timeout);
    let builder = with(builder, o.parsed("--rate")?, Builder::rate);
    let builder = with(builder, o.parsed("--burst")?, Builder::burst);
    let builder = with(builder, o.value("--rate-wait", duration)?, Builder::rate_wait);
    let builder = builder.addresses(o.all_parsed("--allow-ip")?, o.all_parsed("--deny-ip")?);
    let builder = passwords(o, builder)?;
    Ok(builder.rules(rules(o, warnings)?))
}

/// The passwords that visitors have to show, and what needs none.
fn passwords(o: &mut Options<'_>, builder: Builder) -> Result<Builder, UsageError> {
    let lines = o.secret("--basic-auth", "BASIC_AUTH", |text| Some(text.to_owned()))?;
    let open: Vec<Pattern> = o.all_parsed("--open")?;
    match lines {
        Some((lines, _)) => {
            let passwords: Result<Passwords, _> = lines.parse();
            let passwords = passwords.map_err(|error| UsageError(format!("--basic-auth: {error}")))?;
            Ok(builder.passwords(passwords, open))
        }
        None if open.is_empty() => Ok(builder),
        None => Err(UsageError("--open needs --basic-auth".to_owned())),
    }
}

fn admin(o: &mut Options<'_>, builder: Builder) -> Result<Builder, UsageError> {
    let token = o.secret("--admin-token-file", "ADMIN_TOKEN", Token::new)?.map(|(token, _)| token);
    match (o.value("--admin", addresses::listen)?, token) {
        (Some(address), token) => Ok(builder.admin(address, token)),
        // The token may be another program's.
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

/// A value of `--local`.
enum Local {
    At(LocalUrl),
    Auto,
}

impl FromStr for Local {
    type Err = InvalidLocalUrl;

    fn from_str(text: &str) -> Result<Self, InvalidLocalUrl> {
        if text == "auto" { Ok(Local::Auto) } else { addresses::local_url(text).parse().map(Local::At) }
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
        let url = addresses::local_url(url).parse().map_err(|error: InvalidLocalUrl| error.to_string())?;
        Ok(Route { prefix: prefix.to_owned(), url })
    }
}

/// The options of the local servers.
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
    let default = BreakerConfig::default();
    builder = builder.breaker(BreakerConfig {
        failures: o.value("--breaker-failures", count)?.unwrap_or(default.failures),
        open: o.value("--breaker-open", duration)?.unwrap_or(default.open),
    });
    let interval = o.value("--health-interval", duration)?;
    match (o.value("--health-path", health_path)?, interval) {
        (Some(path), interval) => {
            let interval = interval.unwrap_or(Duration::from_secs(10));
            builder = builder.health_checks(HealthChecks { path, interval });
        }
        (None, Some(_)) => return Err(UsageError("--health-interval needs --health-path".to_owned())),
        (None, None) => {}
    }
    Ok(builder)
}

/// The headers that were typed, else those of the variable.
fn set_headers(o: &Options<'_>) -> Result<Vec<SetHeader>, UsageError> {
    let read = |(source, text): (String, String)| {
        text.parse().map_err(|error| match error {
            InvalidHeader::Host => UsageError(format!("{source}: {error}, --host-header")),
            error => UsageError(format!("{source}: {error}")),
        })
    };
    o.in_order(&["--set-header"], "SET_HEADERS")?.into_iter().map(read).collect()
}

fn health_path(text: &str) -> Result<PathAndQuery, &'static str> {
    let path = text.parse().ok().filter(|_| text.starts_with('/') && !text.starts_with("//"));
    path.ok_or("expected a path such as /up")
}

fn failure_reply(text: &str) -> Result<FailureReply, &'static str> {
    match text {
        "error" => Ok(FailureReply::Error),
        "response" => Ok(FailureReply::Response),
        _ => Err("expected error or response"),
    }
}

/// The rules in the order in which they were typed; else those of the variable.
fn rules(o: &Options<'_>, warnings: &mut Vec<String>) -> Result<Rules, UsageError> {
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
    let rules: Vec<Rule> = rules.into_iter().enumerate().map(read).collect::<Result<_, _>>()?;
    for rule in &rules {
        warnings.extend(rule.pattern.methods().filter_map(|method| misspelt(method, rule)));
    }
    Ok(Rules::from(rules))
}

/// What the log says of a method that looks like a misspelt one: its rule would match nothing.
fn misspelt(method: &str, rule: &Rule) -> Option<String> {
    const USUAL: [&str; 8] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"];
    let method = method.to_ascii_uppercase();
    let meant = USUAL.iter().map(|usual| (distance(usual, &method), usual)).min();
    let (_, meant) = meant.filter(|(edits, _)| (1..=2).contains(edits) && method.len() > 2)?;
    // WebDAV's, which are near to these (RFC 4918, RFC 5323).
    let is_known = ["COPY", "MOVE", "LOCK", "BIND"].contains(&method.as_str());
    (!is_known).then(|| format!("the rule `{rule}` names the method {method}; did you mean {meant}?"))
}

/// Whether the token may be sent to these gateways: a token that may be another program's does not go out unencrypted.
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
        connect: o.value("--connect-timeout", duration)?.unwrap_or(default.connect),
        response: o.value("--response-timeout", duration)?.unwrap_or(default.response),
        idle: o.value("--idle-timeout", duration)?.unwrap_or(default.idle),
    })
}

fn heartbeat(o: &mut Options<'_>) -> Result<Heartbeat, UsageError> {
    let default = Heartbeat::default();
    Ok(Heartbeat {
        ping_interval: o.value("--ping-interval", duration)?.unwrap_or(default.ping_interval),
        pong_timeout: o.value("--pong-timeout", duration)?.unwrap_or(default.pong_timeout),
    })
}

fn backoff(o: &mut Options<'_>) -> Result<BackoffConfig, UsageError> {
    let default = BackoffConfig::default();
    Ok(BackoffConfig {
        min: o.value("--backoff-min", duration)?.unwrap_or(default.min),
        max: o.value("--backoff-max", duration)?.unwrap_or(default.max),
        max_retries: o.value("--max-retries", count)?.unwrap_or(default.max_retries),
    })
}

fn count(text: &str) -> Result<u32, &'static str> {
    text.parse().map_err(|_| "expected a whole number, not below 0")
}

fn trust(o: &mut Options<'_>, insecure: &'static str, ca_file: &'static str) -> Result<Trust, UsageError> {
    let file = o.text(ca_file)?;
    match (o.switch(insecure)?, file) {
        (true, None) => Ok(Trust::AcceptAnyCertificate),
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
