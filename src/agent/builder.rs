//! The options of an agent, with defaults for all but the tunnel ID.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use http::HeaderValue;
use http::uri::PathAndQuery;

use super::parts::{Answerer, Inspection, InspectorPage, ProcessOptions, TokenOption, UpgradeHeadersOption};
use crate::backoff::BackoffConfig;
use crate::guard::{AddressRules, AllowedOrigin, CorsCredentials, Passwords, Pattern, Rate, Rules};
use crate::inspect::Inspector;
use crate::link::{GatewayUrl, Proxies, Token};
use crate::net::network::Network;
use crate::net::tls::{ClientIdentity, Trust};
use crate::protocol::TunnelName;
use crate::session::{Correlation, FailureReply, Heartbeat, ServerTiming};
use crate::tunnel_id::TunnelId;
use crate::upstream::origin::Timeouts;
use crate::upstream::{BreakerConfig, HeaderRewrite, SiteNames};

/// Configures an [`Agent`](crate::Agent).
#[must_use = "an agent comes of `build`"]
#[derive(Clone)]
pub struct Builder {
    pub(crate) tunnel_id: TunnelId,
    pub(crate) name: Option<TunnelName>,
    pub(super) gateways: Vec<GatewayUrl>,
    pub(super) sessions_per_gateway: usize,
    pub(super) handover_drain: Duration,
    pub(super) token: Option<TokenOption>,
    pub(super) upgrade_headers: Option<UpgradeHeadersOption>,
    pub(crate) proxies: Proxies,
    pub(super) gateway_trust: Trust,
    pub(super) client_identity: Option<ClientIdentity>,
    pub(super) answerer: Answerer,
    pub(super) rewrite: HeaderRewrite,
    pub(super) response_rewrite: HeaderRewrite,
    pub(super) site_names: SiteNames,
    pub(super) cors: Option<AllowedOrigin>,
    pub(super) cors_credentials: CorsCredentials,
    pub(super) breaker: BreakerConfig,
    pub(super) health_path: Option<PathAndQuery>,
    pub(super) health_interval: Option<Duration>,
    pub(super) failure_reply: FailureReply,
    pub(super) server_timing: ServerTiming,
    /// The first value that could not be taken.
    pub(super) invalid: Option<(&'static str, String)>,
    pub(super) host_header: Option<HeaderValue>,
    pub(super) local_trust: Trust,
    pub(super) addresses: AddressRules,
    pub(super) passwords: Option<Passwords>,
    /// The requests that need no password.
    pub(super) open: Vec<Pattern>,
    pub(crate) rules: Rules,
    pub(super) rate: Option<Rate>,
    pub(super) burst: Option<u32>,
    pub(super) rate_wait: Duration,
    pub(super) timeouts: Timeouts,
    pub(super) heartbeat: Heartbeat,
    pub(super) backoff: BackoffConfig,
    pub(super) max_message: usize,
    pub(super) max_enveloped_body: usize,
    pub(super) max_streamed_body: Option<u64>,
    pub(super) correlation: Correlation,
    pub(super) process: ProcessOptions,
    /// The tunnel's name in the log of an agent that serves several.
    pub(super) label: Option<String>,
    /// The agent's other tunnels.
    pub(super) others: Vec<Builder>,
}

impl Builder {
    pub(super) fn new(tunnel_id: TunnelId) -> Self {
        Builder {
            tunnel_id,
            name: None,
            gateways: Vec::new(),
            sessions_per_gateway: 1,
            handover_drain: Duration::from_secs(10),
            answerer: Answerer::Local(Vec::new()),
            rewrite: HeaderRewrite::default(),
            response_rewrite: HeaderRewrite::default(),
            site_names: SiteNames::default(),
            cors: None,
            cors_credentials: CorsCredentials::default(),
            breaker: BreakerConfig::default(),
            health_path: None,
            health_interval: None,
            failure_reply: FailureReply::default(),
            server_timing: ServerTiming::default(),
            invalid: None,
            token: None,
            upgrade_headers: None,
            proxies: Proxies::none(),
            gateway_trust: Trust::System,
            client_identity: None,
            host_header: None,
            local_trust: Trust::System,
            addresses: AddressRules::default(),
            passwords: None,
            open: Vec::new(),
            rules: Rules::default(),
            rate: None,
            burst: None,
            rate_wait: Duration::ZERO,
            timeouts: Timeouts::default(),
            heartbeat: Heartbeat::default(),
            backoff: BackoffConfig::default(),
            max_message: 16 << 20,
            max_enveloped_body: 10 << 20,
            max_streamed_body: None,
            correlation: Correlation::Order,
            process: ProcessOptions::default(),
            label: None,
            others: Vec::new(),
        }
    }

    /// The form of the answer to a request that could not be forwarded. Default: [`FailureReply::Error`].
    pub fn failure_reply(mut self, reply: FailureReply) -> Self {
        self.failure_reply = reply;
        self
    }

    /// Whether responses of the service tell in `Server-Timing` how long they took. Default: [`ServerTiming::Off`].
    pub fn server_timing(mut self, timing: ServerTiming) -> Self {
        self.server_timing = timing;
        self
    }

    /// The threads that always exist, and the number of short requests that are answered concurrently: 1 to 1,024.
    /// Default: 16, or fewer where there may be fewer [streams](Self::max_streams).
    pub fn workers(mut self, workers: usize) -> Self {
        self.process.workers = Some(workers);
        self
    }

    /// The number of requests in streams that are answered concurrently, of which some may last: up to 4,096, each
    /// with a thread while it lasts, and as many as [workers](Self::workers) at least. One more is reset with
    /// `refused`, for another agent to take. Default: 256, or as many as workers.
    pub fn max_streams(mut self, streams: usize) -> Self {
        self.process.max_streams = Some(streams);
        self
    }

    /// The number of requests that run concurrently, whether they last or not: 1, say, for a server that answers one
    /// at a time. The others wait in the queue. Default: no other limit than workers and streams.
    pub fn max_in_flight(mut self, requests: usize) -> Self {
        self.process.max_in_flight = Some(requests);
        self
    }

    /// The number of requests that may wait for a worker, up to 65,536; their bodies take up at most four times
    /// [`max_message`](Self::max_message). One more is answered 503 in an envelope, and reset with `refused` in a
    /// stream. Default: 256.
    pub fn queue(mut self, queue: usize) -> Self {
        self.process.queue = queue;
        self
    }

    /// The time that a request may wait for a worker, 1 ms to 24 h; then it is answered 503, and not sent to the
    /// local server. Default: 10 s.
    pub fn queue_timeout(mut self, time: Duration) -> Self {
        self.process.queue_timeout = time;
        self
    }

    /// The passwords of which each request has to show one, by HTTP's Basic scheme (RFC 7617); the others are answered 401.
    /// Requests that match one of the patterns of `open` need none. The local server does not see the password. Default:
    /// none.
    pub fn passwords(mut self, passwords: Passwords, open: impl IntoIterator<Item = Pattern>) -> Self {
        (self.passwords, self.open) = (Some(passwords), open.into_iter().collect());
        self
    }

    /// The networks whose visitors pass, and those whose visitors do not, whatever is allowed; the others are answered 403.
    /// An empty list of those that pass means all. Visitors' addresses are known from gateways alone that vouch for them,
    /// as the reference gateway does; from any other every request is refused. Default: all pass.
    pub fn addresses(
        mut self,
        allow: impl IntoIterator<Item = Network>,
        deny: impl IntoIterator<Item = Network>,
    ) -> Self {
        let (allow, deny) = (allow.into_iter().collect(), deny.into_iter().collect());
        self.addresses = AddressRules { allow, deny };
        self
    }

    /// Lets pages of this origin, one, read responses; with `credentials`, those to requests that carry cookies or passwords,
    /// too. The agent answers preflights itself, and replaces what the service says of origins. Default: the service
    /// decides.
    pub fn cors(mut self, origin: AllowedOrigin, credentials: CorsCredentials) -> Self {
        (self.cors, self.cors_credentials) = (Some(origin), credentials);
        self
    }

    /// The rules that decide which requests pass, at most 1,024, in place of those of an earlier call; the others are answered
    /// 403, or 400 when their path can be read in more than one way. Default: all pass.
    pub fn rules(mut self, rules: impl Into<Rules>) -> Self {
        self.rules = rules.into();
        self
    }

    /// The rate at which requests pass; those above it are answered 429. Default: no limit.
    pub fn rate(mut self, rate: Rate) -> Self {
        self.rate = Some(rate);
        self
    }

    /// The number of requests that may come at once after a pause, 1 to 1,000,000; needs a [rate](Self::rate).
    /// Default: as many as it lets pass in a second, and one at least.
    pub fn burst(mut self, requests: u32) -> Self {
        self.burst = Some(requests);
        self
    }

    /// The time that a request may wait until the [rate](Self::rate), which it needs, lets it pass; at most the
    /// [`queue_timeout`](Self::queue_timeout). Default: zero.
    pub fn rate_wait(mut self, time: Duration) -> Self {
        self.rate_wait = time;
        self
    }

    /// Time limits of connections and bodies. Default: [`Timeouts::default`].
    pub fn timeouts(mut self, timeouts: Timeouts) -> Self {
        self.timeouts = timeouts;
        self
    }

    /// The largest message in either direction, in bytes, from 80 KiB to below 4 GiB, with gateways that do not speak mux/2. A
    /// larger one from the gateway ends the session with close code 1009, a larger answer becomes an error. Below 10 MiB,
    /// lower [`max_enveloped_body`](Self::max_enveloped_body) too. Default: 16 MiB.
    pub fn max_message(mut self, bytes: usize) -> Self {
        self.max_message = bytes;
        self
    }

    /// The largest body in either direction where bodies travel whole, with gateways that do not speak mux/2: in
    /// bytes, at most [`max_message`](Self::max_message). Default: 10 MiB.
    pub fn max_enveloped_body(mut self, bytes: usize) -> Self {
        self.max_enveloped_body = bytes;
        self
    }

    /// The largest body in either direction where bodies travel as streams, in bytes. Upgrades are not limited.
    /// Default: no limit.
    pub fn max_streamed_body(mut self, bytes: u64) -> Self {
        self.max_streamed_body = Some(bytes);
        self
    }

    /// Serves plain HTTP for monitoring at this address: `GET /healthz`, `/readyz`, `/status` (JSON) and `/metrics`
    /// (Prometheus). An address that is not loopback needs a token. Default: off.
    pub fn admin(mut self, address: SocketAddr, token: Option<Token>) -> Self {
        (self.process.admin, self.process.admin_token) = (Some(address), token);
        self
    }

    /// Records the exchanges of all tunnels in this inspector. With [`admin`](Self::admin), and the feature `inspect`, the
    /// admin server shows them as a page. Default: nothing is recorded.
    pub fn inspect(mut self, inspector: Inspector) -> Self {
        self.process.inspection = Inspection {
            page: InspectorPage::Shown,
            config: inspector.config().clone(),
            inspector: Some(inspector),
        };
        self
    }

    /// Another tunnel that the agent serves, with names, gateways, local servers and rules of its own; 64 at most. Workers,
    /// streams, queue, admin server and inspector are the agent's: an option of theirs in `other` is an error of
    /// [`build`](Self::build), and so is a tunnel ID that is there already.
    pub fn tunnel(mut self, other: Builder) -> Self {
        self.others.push(other);
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
    use crate::upstream::origin::LocalUrl;
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
