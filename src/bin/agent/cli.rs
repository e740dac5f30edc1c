//! What was typed, and what it means.

use std::time::Duration;

use http::HeaderValue;
use tunnel_agent::cli::{self, Command, Opt, Options, UsageError};
use tunnel_agent::{
    Action, Agent, Backoff, Correlation, Heartbeat, Rule, Rules, Timeouts, Token, Trust, TunnelId,
};

const fn opt(flag: &'static str, variable: &'static str, value: &'static str, help: &'static str) -> Opt {
    Opt::new(flag, variable, value, help)
}

const TABLE: [Opt; 36] = [
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
    opt("--local", "LOCAL_URL", "URL", "the local server; default http://127.0.0.1:8000"),
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
    opt("--correlation", "CORRELATION", "RULE", "for requests without an id: order or latest; default order"),
    opt("--ca-file", "CA_FILE", "FILE", "PEM file with the only authorities trusted for the gateway"),
    opt("--local-ca-file", "LOCAL_CA_FILE", "FILE", "the same for the local server"),
    opt("--insecure", "INSECURE", "", "do not verify the gateway's certificate"),
    opt("--local-insecure", "LOCAL_INSECURE", "", "do not verify the local server's certificate"),
    opt("", "RUST_LOG", "", "off, error, warn, info, debug or trace; default info"),
];

/// What the options come to.
#[derive(Debug)]
pub struct Settings {
    pub agent: Agent,
    pub drain: Duration,
    pub warnings: Vec<&'static str>,
}

pub fn help() -> String {
    format!(
        "Answers a gateway's HTTP requests from a local web server, over one outgoing WebSocket.\n\n\
         Usage: {} --tunnel-id ID [options]\n\n\
         {}\n\
         Times read 500ms, 10s, 2m; sizes 64KiB, 10MiB.\n\
         SIGTERM and SIGINT stop it, SIGHUP skips the wait before the next try.\n\
         Exit codes: 0 asked to stop, 1 gave up on all gateways, 2 wrong usage, 3 refused by the gateway.\n",
        cli::program("agent"),
        cli::help(&TABLE),
    )
}

/// Reads arguments and environment.
pub fn read() -> Result<Command<Settings>, UsageError> {
    cli::read(&TABLE, settings)
}

fn settings(mut options: Options<'_>) -> Result<Settings, UsageError> {
    let o = &mut options;
    let drain = o.value("--drain", cli::duration)?.unwrap_or(Duration::from_secs(10));
    let tunnel_id: Option<TunnelId> = o.parsed("--tunnel-id")?;
    let mut builder = Agent::builder(match &tunnel_id {
        Some(id) => id.clone(),
        None => {
            let text = "which tunnel? Give --tunnel-id agent_{uuid}_{purpose} (or the variable TUNNEL_ID)";
            return Err(UsageError(text.to_owned()));
        }
    });
    for url in o.all_parsed("--gateway")? {
        builder = builder.gateway(url);
    }
    if let Some(connections) = o.value("--connections", cli::number)? {
        builder = builder.connections(connections);
    }
    builder = builder.drain(drain);
    if let Some(token) = token(o)? {
        builder = builder.token(token);
    }
    if let Some(url) = o.parsed("--local")? {
        builder = builder.local(url);
    }
    if let Some(host) = o.value("--host-header", HeaderValue::from_str)? {
        builder = builder.host_header(host);
    }
    if let Some(workers) = o.value("--workers", cli::number)? {
        builder = builder.workers(workers);
    }
    if let Some(streams) = o.value("--max-streams", cli::number)? {
        builder = builder.max_streams(streams);
    }
    if let Some(requests) = o.value("--max-in-flight", cli::number)? {
        builder = builder.max_in_flight(requests);
    }
    if let Some(queue) = o.value("--queue", cli::number)? {
        builder = builder.queue(queue);
    }
    if let Some(time) = o.value("--queue-timeout", cli::duration)? {
        builder = builder.queue_timeout(time);
    }
    builder = builder.rules(rules(o)?);
    if let Some(rate) = o.parsed("--rate")? {
        builder = builder.rate(rate);
    }
    if let Some(requests) = o.parsed("--burst")? {
        builder = builder.burst(requests);
    }
    if let Some(time) = o.value("--rate-wait", cli::duration)? {
        builder = builder.rate_wait(time);
    }
    if let Some(bytes) = o.value("--max-message", cli::size)? {
        builder = builder.max_message(bytes);
    }
    if let Some(bytes) = o.value("--max-body", cli::size)? {
        builder = builder.max_body(bytes);
    }
    if let Some(bytes) = o.value("--max-stream-body", cli::size)? {
        builder = builder.max_stream_body(bytes as u64);
    }
    if let Some(rule) = o.value("--correlation", correlation)? {
        builder = builder.correlation(rule);
    }
    builder = builder.timeouts(timeouts(o)?).heartbeat(heartbeat(o)?).backoff(backoff(o)?);
    builder = builder.trust(trust(o, "--insecure", "--ca-file")?);
    builder = builder.local_trust(trust(o, "--local-insecure", "--local-ca-file")?);
    let mut warnings = Vec::new();
    if tunnel_id.is_some_and(|id| id.purpose().contains('_')) {
        warnings.push("the oldest gateways refuse a tunnel ID with an underscore in its purpose");
    }
    let agent = builder.build().map_err(|error| UsageError(error.to_string()))?;
    Ok(Settings { agent, drain, warnings })
}

/// The rules in the order in which they were typed; else those of the variable.
fn rules(o: &Options<'_>) -> Result<Rules, UsageError> {
    let typed = o.in_order(&["--allow", "--deny"]);
    let variable = o.variable("RULES")?.unwrap_or_default();
    let rules: Result<Vec<_>, _> = if typed.is_empty() {
        let lines = variable.lines().map(str::trim).filter(|line| !line.is_empty());
        lines.map(|line| line.parse().map_err(|error| UsageError(format!("RULES: {error}")))).collect()
    } else {
        let rule = |(flag, text): (&'static str, &str)| {
            let action = if flag == "--allow" { Action::Allow } else { Action::Deny };
            let pattern = text.parse().map_err(|error| UsageError(format!("{flag}: {error}")))?;
            Ok(Rule { action, pattern })
        };
        typed.into_iter().map(rule).collect()
    };
    rules.map(Rules::from)
}

fn token(o: &mut Options<'_>) -> Result<Option<Token>, UsageError> {
    o.secret("--token-file", "TOKEN", Token::new)
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
    let retries = |text: &str| text.parse::<u32>().map_err(|_| "expected a whole number");
    Ok(Backoff {
        min: o.value("--backoff-min", cli::duration)?.unwrap_or(default.min),
        max: o.value("--backoff-max", cli::duration)?.unwrap_or(default.max),
        max_retries: o.value("--max-retries", retries)?.unwrap_or(default.max_retries),
    })
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
