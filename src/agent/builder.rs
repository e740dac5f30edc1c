//! The options of an agent, with defaults for all but the tunnel ID.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;

use super::error::{ConfigError, ConfigProblem};
use crate::backoff::BackoffConfig;
use crate::guard::{Rate, Rules};
use crate::link::{GatewayUrl, Token};
use crate::net::tls::Trust;
use crate::service::Service;
use crate::session::{Correlation, FailureReply, Heartbeat};
use crate::tunnel_id::TunnelId;
use crate::upstream::origin::{LocalUrl, Timeouts};
use crate::upstream::{self, BreakerConfig, HeaderRewrite, HealthChecks, SetHeader, UpstreamAddress};

/// Configures an [`Agent`](crate::Agent).
#[must_use = "an agent comes of `build`"]
pub struct Builder {
    pub(super) tunnel_id: TunnelId,
    pub(super) gateways: Vec<GatewayUrl>,
    pub(super) sessions_per_gateway: usize,
    pub(super) handover_drain: Duration,
    pub(super) token: Option<TokenOption>,
    pub(super) gateway_trust: Trust,
    pub(super) answerer: Answerer,
    pub(super) rewrite: HeaderRewrite,
    pub(super) breaker: BreakerConfig,
    pub(super) health_checks: Option<HealthChecks>,
    pub(super) failure_reply: FailureReply,
    /// The first value that could not be taken.
    pub(super) invalid: Option<ConfigError>,
    pub(super) admin: Option<(SocketAddr, Option<Token>)>,
    pub(super) host_header: Option<HeaderValue>,
    pub(super) local_trust: Trust,
    pub(super) rules: Rules,
    pub(super) rate: Option<Rate>,
    pub(super) burst: Option<u32>,
    pub(super) rate_wait: Duration,
    pub(super) workers: Option<usize>,
    pub(super) max_streams: Option<usize>,
    pub(super) max_in_flight: Option<usize>,
    pub(super) queue: usize,
    pub(super) queue_timeout: Duration,
    pub(super) timeouts: Timeouts,
    pub(super) heartbeat: Heartbeat,
    pub(super) backoff: BackoffConfig,
    pub(super) max_message: usize,
    pub(super) max_enveloped_body: usize,
    pub(super) max_streamed_body: Option<u64>,
    pub(super) correlation: Correlation,
}

/// What answers requests.
pub(super) enum Answerer {
    /// Local servers, each with the prefix of its paths.
    Local(Vec<(String, UpstreamAddress)>),
    Service(Arc<dyn Service>),
}

/// A token, or the file that holds it.
pub(super) enum TokenOption {
    Value(Token),
    File(PathBuf),
}

impl Builder {
    pub(super) fn new(tunnel_id: TunnelId) -> Self {
        Builder {
            tunnel_id,
            gateways: Vec::new(),
            sessions_per_gateway: 1,
            handover_drain: Duration::from_secs(10),
            answerer: Answerer::Local(Vec::new()),
            rewrite: HeaderRewrite::default(),
            breaker: BreakerConfig::default(),
            health_checks: None,
            failure_reply: FailureReply::default(),
            invalid: None,
            admin: None,
            token: None,
            gateway_trust: Trust::System,
            host_header: None,
            local_trust: Trust::System,
            rules: Rules::default(),
            rate: None,
            burst: None,
            rate_wait: Duration::ZERO,
            workers: None,
            max_streams: None,
            max_in_flight: None,
            queue: 256,
            queue_timeout: Duration::from_secs(10),
            timeouts: Timeouts::default(),
            heartbeat: Heartbeat::default(),
            backoff: BackoffConfig::default(),
            max_message: 16 << 20,
            max_enveloped_body: 10 << 20,
            max_streamed_body: None,
            correlation: Correlation::Order,
        }
    }

    /// A gateway to dial. Called again, one more: the agent keeps sessions with each, up to 256 in all.
    /// Default: `ws://127.0.0.1:3000/ws`.
    pub fn gateway(mut self, url: GatewayUrl) -> Self {
        self.gateways.push(url);
        self
    }

    /// Sessions with each gateway, which may be a balancer that spreads them. Default: 1.
    pub fn sessions_per_gateway(mut self, sessions: usize) -> Self {
        self.sessions_per_gateway = sessions;
        self
    }

    /// How long a session may finish its requests once another one has taken its place, because its gateway
    /// is about to stop. Default: 10 s.
    pub fn handover_drain(mut self, time: Duration) -> Self {
        self.handover_drain = time;
        self
    }

    /// The token for the gateway, sent as `Authorization: Bearer` on the upgrade. Default: none.
    pub fn token(mut self, token: Token) -> Self {
        self.token = Some(TokenOption::Value(token));
        self
    }

    /// A file that holds the token for the gateway. It is read before each dial, so that it can be renewed while the agent
    /// runs. Default: none.
    pub fn token_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.token = Some(TokenOption::File(path.into()));
        self
    }

    /// Whose certificate the gateway may show. Default: one that the system trusts.
    pub fn gateway_trust(mut self, trust: Trust) -> Self {
        self.gateway_trust = trust;
        self
    }

    /// Forwards requests to this HTTP server. Called again, one more, for when those before it cannot be reached.
    /// Default: `http://127.0.0.1:8000`.
    pub fn local(self, url: LocalUrl) -> Self {
        self.server(String::new(), UpstreamAddress::Url(url))
    }

    /// Forwards requests whose path lies under this prefix, such as `/api`, to another HTTP server; among several
    /// prefixes the longest wins. Paths are passed on as they are. Called again with the same prefix, one more
    /// server for it.
    pub fn route(mut self, prefix: &str, url: LocalUrl) -> Self {
        match upstream::prefix(prefix) {
            Ok(prefix) => self.server(prefix, UpstreamAddress::Url(url)),
            Err(what) => {
                let invalid = ConfigError::new("route", ConfigProblem::Invalid(what.to_owned()));
                self.invalid.get_or_insert(invalid);
                self
            }
        }
    }

    /// Forwards requests to an HTTP server that it finds on this machine, see [`Agent::discover`](crate::Agent::discover):
    /// the likeliest one at the start, and another one while nothing listens at its port.
    pub fn local_auto(self) -> Self {
        self.server(String::new(), UpstreamAddress::Auto)
    }

    fn server(mut self, prefix: String, address: UpstreamAddress) -> Self {
        match &mut self.answerer {
            Answerer::Local(servers) => servers.push((prefix, address)),
            answerer => *answerer = Answerer::Local(vec![(prefix, address)]),
        }
        self
    }

    /// A header that requests to the local servers get, in place of what they had by that name. Called again, one
    /// more.
    pub fn set_header(mut self, header: SetHeader) -> Self {
        self.rewrite.set.push(header);
        self
    }

    /// A header that requests to the local servers lose. Called again, one more.
    pub fn remove_header(mut self, name: &str) -> Self {
        match upstream::header_name(name) {
            Ok(name) => self.rewrite.remove.push(name),
            Err(error) => {
                let invalid = ConfigError::new("remove_header", ConfigProblem::Invalid(error.to_string()));
                self.invalid.get_or_insert(invalid);
            }
        }
        self
    }

    /// When a local server that fails is not asked for a while. Default: after 5 failures to connect or to answer
    /// in time, for 1 s at first.
    pub fn breaker(mut self, config: BreakerConfig) -> Self {
        self.breaker = config;
        self
    }

    /// Checks whether local servers are up. Default: only requests tell.
    pub fn health_checks(mut self, checks: HealthChecks) -> Self {
        self.health_checks = Some(checks);
        self
    }

    /// How a failure to forward is answered in envelopes and streams. Default: as the failure that it is.
    pub fn failure_reply(mut self, reply: FailureReply) -> Self {
        self.failure_reply = reply;
        self
    }

    /// Has requests answered by this service instead of a local HTTP server.
    pub fn service(mut self, service: impl Service) -> Self {
        self.answerer = Answerer::Service(Arc::new(service));
        self
    }

    /// Replaces the `Host` header towards the local server. Default: the request's own.
    pub fn host_header(mut self, host: HeaderValue) -> Self {
        self.host_header = Some(host);
        self
    }

    /// Whose certificate the local server may show. Default: one that the system trusts.
    pub fn local_trust(mut self, trust: Trust) -> Self {
        self.local_trust = trust;
        self
    }

    /// Requests that are answered side by side, 1 to 1,024. Default: 16, or fewer where there may be fewer
    /// [streams](Self::max_streams).
    pub fn workers(mut self, workers: usize) -> Self {
        self.workers = Some(workers);
        self
    }

    /// Requests that are answered side by side at most, when they come as streams, which may last: up to
    /// 4,096, each with a thread while it lasts, and as many as [workers](Self::workers) at least. One more is refused,
    /// for another agent to take. Default: 256, or as many as workers.
    pub fn max_streams(mut self, streams: usize) -> Self {
        self.max_streams = Some(streams);
        self
    }

    /// Requests that are answered at once, whether they last or not: for servers that answer one at a time, say.
    /// The others wait in the queue. Default: no other limit than workers and streams.
    pub fn max_in_flight(mut self, requests: usize) -> Self {
        self.max_in_flight = Some(requests);
        self
    }

    /// Requests that may wait for a worker, up to 65,536; one more is answered 503. Default: 256.
    pub fn queue(mut self, queue: usize) -> Self {
        self.queue = queue;
        self
    }

    /// How long a request may wait for a worker; then it is answered 503, and the local server never hears of it.
    /// Default: 10 s.
    pub fn queue_timeout(mut self, time: Duration) -> Self {
        self.queue_timeout = time;
        self
    }

    /// Which requests pass; the others are answered 403, or 400 when it is in doubt what their path means.
    /// Default: all.
    pub fn rules(mut self, rules: impl Into<Rules>) -> Self {
        self.rules = rules.into();
        self
    }

    /// How many requests pass in a time; those above are answered 429. Default: no limit.
    pub fn rate(mut self, rate: Rate) -> Self {
        self.rate = Some(rate);
        self
    }

    /// How many requests may come at once after a pause, where there is a [rate](Self::rate). Default: as many as it
    /// lets pass in a second, and one at least.
    pub fn burst(mut self, requests: u32) -> Self {
        self.burst = Some(requests);
        self
    }

    /// How long a request may wait until the [rate](Self::rate) lets it pass. Default: not at all.
    pub fn rate_wait(mut self, time: Duration) -> Self {
        self.rate_wait = time;
        self
    }

    /// Time limits for dialling, and towards the local server.
    pub fn timeouts(mut self, timeouts: Timeouts) -> Self {
        self.timeouts = timeouts;
        self
    }

    /// How to find out that the gateway is gone.
    pub fn heartbeat(mut self, heartbeat: Heartbeat) -> Self {
        self.heartbeat = heartbeat;
        self
    }

    /// How to wait between tries, and when to give up.
    pub fn backoff(mut self, config: BackoffConfig) -> Self {
        self.backoff = config;
        self
    }

    /// Most bytes of one message in either direction, from 80 KiB on. A larger one from the gateway ends the
    /// session with close code 1009, a larger answer becomes an error. Default: 16 MiB.
    pub fn max_message(mut self, bytes: usize) -> Self {
        self.max_message = bytes;
        self
    }

    /// Most bytes of one body in either direction, where bodies travel whole: with gateways that do not speak
    /// mux/2. Default: 10 MiB.
    pub fn max_enveloped_body(mut self, bytes: usize) -> Self {
        self.max_enveloped_body = bytes;
        self
    }

    /// Most bytes of one body in either direction, where bodies travel as streams. Upgrades are not limited.
    /// Default: no limit.
    pub fn max_streamed_body(mut self, bytes: u64) -> Self {
        self.max_streamed_body = Some(bytes);
        self
    }

    /// How the gateway tells answers to requests without an ID apart. Default: by their order.
    pub fn correlation(mut self, correlation: Correlation) -> Self {
        self.correlation = correlation;
        self
    }

    /// Tells at this address how the agent is doing: `GET /healthz`, `/readyz`, `/status` (JSON) and `/metrics`
    /// (Prometheus). Anything but loopback needs a token. Default: nowhere.
    pub fn admin(mut self, address: SocketAddr, token: Option<Token>) -> Self {
        self.admin = Some((address, token));
        self
    }
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Builder({}, {:?})", self.tunnel_id, self.gateways)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Agent, Rule};

    fn builder() -> Builder {
        Agent::builder("agent_550e8400-e29b-41d4-a716-446655440000_prod".parse().unwrap())
    }

    #[test]
    fn the_defaults_are_valid() {
        assert!(builder().build().is_ok());
    }

    #[test]
    fn what_is_out_of_range_is_named() {
        #[track_caller]
        fn check(builder: Builder, named: &str) {
            let error = builder.build().unwrap_err().to_string();
            assert!(error.contains(named), "{error}");
        }
        check(builder().workers(0), "workers");
        check(builder().host_header(HeaderValue::from_static("a b")), "host");
        check(builder().host_header(HeaderValue::from_static("me@site.test")), "host");
        check(builder().host_header(HeaderValue::from_static("")), "host");
        check(builder().workers(1025), "workers");
        let local: LocalUrl = "http://127.0.0.1:8000".parse().unwrap();
        check(builder().local(local.clone()).local(local.clone()), "twice");
        check(builder().route("/a", local.clone()).route("/a/", local), "twice");
        check(builder().local_auto().local_auto(), "twice");
        check(builder().gateway("ws://127.0.0.1:8000".parse().unwrap()), "the gateway itself");
        check(builder().workers(3).max_streams(2), "max_streams");
        check(builder().rules(vec!["deny /".parse::<Rule>().unwrap(); 1025]), "rules");
        check(builder().burst(2), "burst needs rate");
        let rate = || builder().rate("1/s".parse().unwrap());
        check(rate().burst(0), "burst must be");
        check(rate().burst(1_000_001), "burst must be");
        check(rate().rate_wait(Duration::from_secs(11)), "rate_wait must not exceed");
        check(builder().rate_wait(Duration::from_secs(1)), "rate_wait needs");
        for address in ["0.0.0.0:1", "[::]:1", "192.0.2.1:1", "[::ffff:192.0.2.1]:1"] {
            check(builder().admin(address.parse().unwrap(), None), "admin: an address");
        }
        check(builder().queue(65_537), "queue");
        check(builder().max_streams(0), "streams");
        check(builder().sessions_per_gateway(0), "sessions_per_gateway");
        check(builder().sessions_per_gateway(257), "sessions_per_gateway");
        check(builder().max_streams(4097), "streams");
        check(builder().max_message(100).max_enveloped_body(1), "message");
        check(builder().max_enveloped_body(17 << 20), "body");
        let min = Duration::from_secs(60);
        check(builder().backoff(BackoffConfig { min, ..BackoffConfig::default() }), "backoff");
        check(
            builder().heartbeat(Heartbeat { ping_interval: Duration::ZERO, ..Heartbeat::default() }),
            "ping",
        );
    }

    #[test]
    fn debug_shows_no_secret() {
        let builder = builder().token(Token::new("s3cret").unwrap());
        let mut shown = format!("{builder:?}");
        shown.push_str(&format!("{:?}", builder.build().unwrap()));
        assert!(!shown.contains("s3cret") && !shown.contains("e29b"), "{shown}");
    }
}
