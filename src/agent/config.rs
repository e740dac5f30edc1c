//! From what was given to what is valid: the configuration is checked, and the files that it names are read.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use super::Agent;
use super::builder::{Answerer, Builder, TokenOption};
use super::control::Control;
use super::error::{ConfigError, ConfigProblem};
use crate::guard::{Bucket, Gate, RULES_MAX};
use crate::http1::is_host;
use crate::link::message::MESSAGE_MIN;
use crate::link::{Dialer, GatewayUrl, TokenSource};
use crate::net::TrustStore;
use crate::net::local::{is_same_host, is_this_machine};
use crate::net::tls::Trust;
use crate::pool::{PoolLimits, warm_threads};
use crate::protocol::random_uuid;
use crate::service::Service;
use crate::session::{SessionConfig, new_metrics};
use crate::upstream::origin::{LocalUrl, Timeouts};
use crate::upstream::{BreakerConfig, UPSTREAMS_MAX, UpstreamAddress, UpstreamConfig, Upstreams};

/// Worker threads by default.
const WORKERS: usize = 16;

/// Streams at once by default.
const STREAMS: usize = 256;

/// Worker threads at most.
const WORKERS_MAX: usize = 1024;

/// Streams at once at most.
const STREAMS_MAX: usize = 4096;

/// Sessions of one agent at most.
const SESSIONS_MAX: usize = 256;

/// Requests that may wait for a worker, at most.
const QUEUE_MAX: usize = 65_536;

/// Requests of one burst, at most.
const BURST_MAX: u32 = 1_000_000;

/// The bodies of waiting requests may weigh this many times the largest message.
const QUEUED_MESSAGES: usize = 4;

const DEFAULT_GATEWAY: &str = "ws://127.0.0.1:3000/ws";

const DEFAULT_LOCAL: &str = "http://127.0.0.1:8000";

/// What is unsafe or has no effect in a configuration, for the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ConfigWarning {
    PurposeWithUnderscore,
    GatewayNotVerified,
    GatewayAuthorityUnused,
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
            ConfigWarning::LocalNotVerified => "the local server's certificate is not verified",
            ConfigWarning::LocalAuthorityUnused => {
                "the certificate authorities for local servers have no effect: no local server is https://"
            }
        })
    }
}

/// The first item that equals one before it.
fn twice<T: PartialEq>(items: &[T]) -> Option<&T> {
    items.iter().enumerate().find(|(index, item)| items[..*index].contains(item)).map(|(_, item)| item)
}

/// The service that answers, and the same service where it is local servers.
type Answering = (Arc<dyn Service>, Option<Arc<Upstreams>>);

impl Builder {
    /// Checks the configuration, and reads the files that it names.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] names the option that cannot be used, and why.
    pub fn build(mut self) -> Result<Agent, ConfigError> {
        self.fill_in();
        self.check()?;
        let local_tls = self
            .named_servers()
            .any(LocalUrl::is_secure)
            .then(|| TrustStore::open(self.local_trust.clone()))
            .transpose()
            .map_err(|error| ConfigError::new("local_trust", ConfigProblem::Tls(error)))?;
        let (service, upstreams) = self.answering(local_tls.as_ref());
        Ok(Agent {
            dialers: self.dialers()?,
            service,
            upstreams,
            served_by: self.served_by(),
            own_ports: self.own_ports(),
            session: self.session(),
            pool: self.pool(),
            warnings: self.warnings(),
            tunnel_id: self.tunnel_id,
            sessions_per_gateway: self.sessions_per_gateway,
            handover_drain: self.handover_drain,
            backoff: self.backoff,
            metrics: Arc::new(new_metrics()),
            control: Arc::<Control>::default(),
            local_tls,
            admin: self.admin,
        })
    }

    /// Sets the gateway and the local server that were not given.
    fn fill_in(&mut self) {
        if self.gateways.is_empty() {
            // A constant that parses; a test says so.
            self.gateways.push(DEFAULT_GATEWAY.parse().expect("the default gateway is a URL"));
        }
        if let Answerer::Local(servers) = &mut self.answerer
            && !servers.iter().any(|(prefix, _)| prefix.is_empty())
        {
            // Likewise.
            let url = DEFAULT_LOCAL.parse().expect("the default local server is a URL");
            servers.push((String::new(), UpstreamAddress::Url(url)));
        }
    }

    fn worker_count(&self) -> usize {
        self.workers.unwrap_or_else(|| self.max_streams.map_or(WORKERS, |streams| streams.clamp(1, WORKERS)))
    }

    fn stream_count(&self) -> usize {
        self.max_streams.unwrap_or_else(|| self.worker_count().max(STREAMS))
    }

    fn dialers(&self) -> Result<Vec<Dialer>, ConfigError> {
        let tls = self
            .gateways
            .iter()
            .any(GatewayUrl::is_secure)
            .then(|| TrustStore::open(self.gateway_trust.clone()))
            .transpose()
            .map_err(|error| ConfigError::new("gateway_trust", ConfigProblem::Tls(error)))?;
        let token = match &self.token {
            None => None,
            Some(TokenOption::Value(token)) => Some(TokenSource::Fixed(token.clone())),
            Some(TokenOption::File(path)) => {
                let unusable =
                    |error| ConfigError::new("token_file", ConfigProblem::File(path.clone(), error));
                Some(TokenSource::file(path).map_err(unusable)?)
            }
        };
        let dial = |url: &GatewayUrl| {
            let tls = tls.clone().filter(|_| url.is_secure());
            Dialer::new(url.clone(), token.clone(), tls, self.timeouts.connect, self.max_message)
        };
        Ok(self.gateways.iter().map(dial).collect())
    }

    /// Ports of this machine that are the tunnel's own.
    fn own_ports(&self) -> Vec<u16> {
        let gateways = self.gateways.iter().filter(|url| is_this_machine(url.host())).map(GatewayUrl::port);
        gateways.chain(self.admin.as_ref().map(|(address, _)| address.port())).collect()
    }

    /// Ports of this machine with a server that was named.
    fn named_ports(&self) -> impl Iterator<Item = u16> {
        self.named_servers().filter(|url| is_this_machine(url.host())).map(LocalUrl::port)
    }

    fn named_servers(&self) -> impl Iterator<Item = &LocalUrl> {
        let servers = match &self.answerer {
            Answerer::Local(servers) => servers.as_slice(),
            Answerer::Service(_) => &[],
        };
        servers.iter().filter_map(|(_, address)| match address {
            UpstreamAddress::Url(url) => Some(url),
            UpstreamAddress::Auto => None,
        })
    }

    fn answering(&self, tls: Option<&TrustStore>) -> Answering {
        let servers = match &self.answerer {
            Answerer::Service(service) => return (service.clone(), None),
            Answerer::Local(servers) => servers.clone(),
        };
        let config = UpstreamConfig {
            host: self.host_header.clone(),
            tls: tls.cloned(),
            timeouts: self.timeouts,
            rewrite: self.rewrite.clone(),
            breaker: self.breaker,
            checks: self.health_checks.clone(),
            except: self.own_ports().into_iter().chain(self.named_ports()).collect(),
        };
        let upstreams = Arc::new(Upstreams::new(servers, config));
        (upstreams.clone(), Some(upstreams))
    }

    fn session(&self) -> SessionConfig {
        let bucket = self.rate.map(|rate| {
            let burst = self.burst.unwrap_or(rate.in_a_second());
            Bucket::new(rate, burst, self.rate_wait, Instant::now())
        });
        SessionConfig {
            tunnel_id: self.tunnel_id.clone(),
            gate: Arc::new(Gate::new(self.visitors.clone(), self.rules.clone(), bucket)),
            failure_reply: self.failure_reply,
            heartbeat: self.heartbeat,
            correlation: self.correlation,
            max_message: self.max_message,
            max_enveloped_body: self.max_enveloped_body,
            max_streamed_body: self.max_streamed_body,
            max_without_id: (self.worker_count() + self.queue) as u64,
            instance: random_uuid(),
            name: self.name.clone(),
            idle_timeout: self.timeouts.idle,
        }
    }

    fn pool(&self) -> PoolLimits {
        PoolLimits {
            core_threads: self.worker_count(),
            warm_threads: warm_threads(),
            max_threads: self.stream_count(),
            max_running: self.max_in_flight.unwrap_or(usize::MAX),
            queue_len: self.queue,
            queue_bytes: self.max_message.saturating_mul(QUEUED_MESSAGES),
            queue_timeout: self.queue_timeout,
        }
    }

    fn warnings(&self) -> Vec<ConfigWarning> {
        let gateway = self.gateways.iter().any(GatewayUrl::is_secure);
        let local = self.named_servers().any(LocalUrl::is_secure);
        let names_file = |trust: &Trust| matches!(trust, Trust::File(_));
        let accepts_any = |trust: &Trust| *trust == Trust::AcceptAnyCertificate;
        let warnings = [
            (self.tunnel_id.purpose().contains('_'), ConfigWarning::PurposeWithUnderscore),
            (accepts_any(&self.gateway_trust) && gateway, ConfigWarning::GatewayNotVerified),
            (names_file(&self.gateway_trust) && !gateway, ConfigWarning::GatewayAuthorityUnused),
            (accepts_any(&self.local_trust) && local, ConfigWarning::LocalNotVerified),
            (names_file(&self.local_trust) && !local, ConfigWarning::LocalAuthorityUnused),
        ];
        warnings.into_iter().filter(|(applies, _)| *applies).map(|(_, warning)| warning).collect()
    }

    /// What answers, for the log.
    fn served_by(&self) -> String {
        let Answerer::Local(servers) = &self.answerer else { return "this program".to_owned() };
        let describe = |(prefix, address): &(String, UpstreamAddress)| match (prefix.as_str(), address) {
            ("", UpstreamAddress::Auto) => "a server of this machine".to_owned(),
            ("", UpstreamAddress::Url(url)) => url.to_string(),
            (prefix, address) => format!("{address} for {prefix}"),
        };
        servers.iter().map(describe).collect::<Vec<_>>().join(", ")
    }

    fn check(&mut self) -> Result<(), ConfigError> {
        if let Some(invalid) = self.invalid.take() {
            return Err(invalid);
        }
        self.check_ranges()?;
        self.check_times()?;
        self.check_relations()?;
        self.check_gateways()?;
        self.check_servers()
    }

    fn check_ranges(&self) -> Result<(), ConfigError> {
        let up_to = |max: usize| format!("1 to {max}");
        let sessions = self.sessions_per_gateway.saturating_mul(self.gateways.len());
        let host = self.host_header.as_ref().is_none_or(|host| is_host(host.as_bytes()));
        let ranges = [
            (host, "host_header", "a host such as site.test or site.test:8080".to_owned()),
            ((1..=WORKERS_MAX).contains(&self.worker_count()), "workers", up_to(WORKERS_MAX)),
            ((1..=STREAMS_MAX).contains(&self.stream_count()), "max_streams", up_to(STREAMS_MAX)),
            (
                (1..=SESSIONS_MAX).contains(&sessions),
                "sessions_per_gateway",
                format!("{}, for all gateways together", up_to(SESSIONS_MAX)),
            ),
            (self.queue <= QUEUE_MAX, "queue", format!("at most {QUEUE_MAX}")),
            (self.max_in_flight != Some(0), "max_in_flight", "at least 1".to_owned()),
            (
                self.burst.is_none_or(|burst| (1..=BURST_MAX).contains(&burst)),
                "burst",
                up_to(BURST_MAX as usize),
            ),
            (self.max_message >= MESSAGE_MIN, "max_message", format!("at least {} KiB", MESSAGE_MIN >> 10)),
            (u32::try_from(self.max_message).is_ok(), "max_message", "below 4 GiB".to_owned()),
        ];
        match ranges.into_iter().find(|(holds, ..)| !holds) {
            Some((_, option, range)) => Err(ConfigError::range(option, range)),
            None => Ok(()),
        }
    }

    /// Checks what options say of each other.
    fn check_relations(&self) -> Result<(), ConfigError> {
        let is_public = |(address, token): &(std::net::SocketAddr, Option<_>)| {
            !address.ip().is_loopback() && token.is_none()
        };
        let problems = [
            (
                self.admin.as_ref().is_some_and(is_public),
                "admin",
                ConfigProblem::Invalid("an address that is not loopback needs a token".to_owned()),
            ),
            (self.stream_count() < self.worker_count(), "max_streams", ConfigProblem::Below("workers")),
            (self.rules.len() > RULES_MAX, "rules", ConfigProblem::TooMany(RULES_MAX)),
            (self.rate.is_none() && self.burst.is_some(), "burst", ConfigProblem::Needs("rate")),
            (self.rate.is_none() && !self.rate_wait.is_zero(), "rate_wait", ConfigProblem::Needs("rate")),
            (self.rate_wait > self.queue_timeout, "rate_wait", ConfigProblem::Exceeds("queue_timeout")),
            (
                self.max_enveloped_body > self.max_message,
                "max_enveloped_body",
                ConfigProblem::Exceeds("max_message"),
            ),
            (self.backoff.min > self.backoff.max, "backoff_min", ConfigProblem::Exceeds("backoff_max")),
        ];
        match problems.into_iter().find(|(applies, ..)| *applies) {
            Some((_, option, problem)) => Err(ConfigError::new(option, problem)),
            None => Ok(()),
        }
    }

    fn check_gateways(&self) -> Result<(), ConfigError> {
        let urls: Vec<String> = self.gateways.iter().map(GatewayUrl::to_string).collect();
        match twice(&urls) {
            Some(url) => Err(ConfigError::new("gateway", ConfigProblem::Twice(url.clone()))),
            None => Ok(()),
        }
    }

    fn check_servers(&self) -> Result<(), ConfigError> {
        let Answerer::Local(servers) = &self.answerer else { return Ok(()) };
        if servers.len() > UPSTREAMS_MAX {
            return Err(ConfigError::new("local", ConfigProblem::TooMany(UPSTREAMS_MAX)));
        }
        match twice(servers) {
            Some((_, address)) => Err(ConfigError::new("local", ConfigProblem::Twice(address.to_string()))),
            None => self.check_loop(),
        }
    }

    /// Refuses a gateway as its own local server.
    fn check_loop(&self) -> Result<(), ConfigError> {
        let is_gateway = |local: &&LocalUrl| {
            let is_local = |gateway: &GatewayUrl| {
                is_same_host(gateway.host(), local.host()) && gateway.port() == local.port()
            };
            self.gateways.iter().any(is_local)
        };
        // With another `Host` it may be another site behind the same proxy.
        match self.named_servers().find(|url| self.host_header.is_none() && is_gateway(url)) {
            Some(url) => Err(ConfigError::new("local", ConfigProblem::Loop(url.to_string()))),
            None => Ok(()),
        }
    }

    fn check_times(&self) -> Result<(), ConfigError> {
        if !(Timeouts::MIN..=BreakerConfig::OPEN_MAX).contains(&self.breaker.open) {
            return Err(ConfigError::range("breaker_open", "1ms to 30s"));
        }
        let interval = self.health_checks.as_ref().map_or(Timeouts::MIN, |checks| checks.interval);
        let times = [
            ("connect_timeout", self.timeouts.connect),
            ("response_timeout", self.timeouts.response),
            ("idle_timeout", self.timeouts.idle),
            ("queue_timeout", self.queue_timeout),
            ("ping_interval", self.heartbeat.ping_interval),
            ("pong_timeout", self.heartbeat.pong_timeout),
            ("health_interval", interval),
            ("backoff_min", self.backoff.min),
            ("backoff_max", self.backoff.max),
        ];
        match times.into_iter().find(|(_, time)| !(Timeouts::MIN..=Timeouts::MAX).contains(time)) {
            Some((option, _)) => Err(ConfigError::range(option, "1ms to 1440m")),
            None => Ok(()),
        }
    }
}
