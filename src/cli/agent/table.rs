//! The options of the agent.

use crate::cli::Opt;

const fn opt(flag: &'static str, variable: &'static str, value: &'static str, help: &'static str) -> Opt {
    Opt::new(flag, variable, value, help)
}

/// The options, in the order in which the help lists them.
pub(in crate::cli) const TABLE: [Opt; 56] = [
    opt(
        "--tunnel-id",
        "TUNNEL_ID",
        "ID",
        "which tunnel to serve: agent_{uuid}_{purpose}; default with ADDRESS: one of yours",
    ),
    opt(
        "--gateway",
        "GATEWAY_URL",
        "URL",
        "a gateway; without a path, /ws; may be repeated; default ws://127.0.0.1:3000/ws",
    )
    .repeats(),
    opt("--tunnel-id-file", "TUNNEL_ID_FILE", "FILE", "file with the tunnel ID; default none"),
    opt("--name", "TUNNEL_NAME", "NAME", "the name for its host name, such as shop; default from the ID"),
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
    opt("--allow-ip", "ALLOW_IP", "CIDR", "the only addresses whose visitors pass; may be repeated")
        .repeats(),
    opt("--deny-ip", "DENY_IP", "CIDR", "addresses whose visitors do not pass; may be repeated").repeats(),
    opt("--basic-auth", "BASIC_AUTH_FILE", "FILE", "file with lines user:password that visitors must show"),
    opt("", "BASIC_AUTH", "", "the lines themselves"),
    opt("--open", "OPEN", "RULE", "what needs no password: [METHOD[,METHOD…] ]/PATH; may be repeated")
        .repeats(),
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
