//! What the configuration comes to: checked, and with the certificates that it names.

use std::sync::Arc;
use std::time::Instant;

use super::{Answers, Builder, ConfigError, Secret};
use crate::admission::Entrance;
use crate::agent::Agent;
use crate::http1::is_host;
use crate::link::credentials::TokenSource;
use crate::link::frames::MESSAGE_MIN;
use crate::link::resolve::is_this_machine;
use crate::link::tls::{TlsError, Trust};
use crate::link::{Dialer, GatewayUrl, TrustStore};
use crate::origin::{LocalUrl, Timeouts};
use crate::rate::Bucket;
use crate::rules::RULES_MAX;
use crate::service::Service;
use crate::status::Counters;
use crate::targets::{self, BreakerLimits, Place, TARGETS_MAX, Targets};
use crate::{pool, protocol, session};

/// Workers, where nobody says how many.
const WORKERS: usize = 16;

/// Streams at once, where nobody says how many.
const STREAMS: usize = 256;

/// Most worker threads.
const WORKERS_MAX: usize = 1024;

/// Most streams at once.
const STREAMS_MAX: usize = 4096;

/// Most sessions that an agent keeps up.
const SESSIONS_MAX: usize = 256;

const DEFAULT_GATEWAY: &str = "ws://127.0.0.1:3000/ws";

const DEFAULT_LOCAL: &str = "http://127.0.0.1:8000";

/// Most requests that may wait for a worker.
const QUEUE_MAX: usize = 65_536;

/// Most requests of one burst.
const BURST_MAX: u32 = 1_000_000;

/// Waiting requests may weigh this many times the largest message, in bytes of their bodies.
const QUEUED_MESSAGES: usize = 4;

fn trust_store(secure: bool, trust: &Trust) -> Result<Option<TrustStore>, TlsError> {
    secure.then(|| TrustStore::open(trust.clone())).transpose()
}

/// The first of these that stands before already.
fn twice<T: PartialEq>(items: &[T]) -> Option<&T> {
    items.iter().enumerate().find(|(index, item)| items[..*index].contains(item)).map(|(_, item)| item)
}

/// What answers, and the same where it is local servers.
type Answering = (Arc<dyn Service>, Option<Arc<Targets>>);

impl Builder {
    /// Checks the configuration and reads the certificates that it names.
    pub fn build(mut self) -> Result<Agent, ConfigError> {
        self.fill_in();
        self.check()?;
        let any_secure = self.named_servers().any(LocalUrl::is_secure);
        let local_tls = trust_store(any_secure, &self.local_trust).map_err(ConfigError::LocalTls)?;
        let (service, targets) = self.answering(local_tls.as_ref());
        Ok(Agent {
            dialers: self.dialers()?,
            service,
            targets,
            served_by: self.served_by(),
            own_ports: self.own_ports(),
            session: self.session(),
            pool: self.pool(),
            warnings: self.warnings(),
            tunnel_id: self.tunnel_id,
            connections: self.connections,
            drain: self.drain,
            backoff: self.backoff,
            counters: Arc::new(Counters::new()),
            control: Arc::default(),
            local_tls,
            admin: self.admin,
        })
    }

    /// What stands for what was not given.
    fn fill_in(&mut self) {
        if self.gateways.is_empty() {
            // A constant that parses; a test says so.
            self.gateways.push(DEFAULT_GATEWAY.parse().expect("the default gateway is a URL"));
        }
        if let Answers::Local(servers) = &mut self.answers
            && !servers.iter().any(|(prefix, _)| prefix.is_empty())
        {
            // The same.
            let url = DEFAULT_LOCAL.parse().expect("the default local server is a URL");
            servers.push((String::new(), Place::At(url)));
        }
    }

    fn worker_count(&self) -> usize {
        self.workers.unwrap_or_else(|| self.max_streams.map_or(WORKERS, |streams| streams.clamp(1, WORKERS)))
    }

    fn stream_count(&self) -> usize {
        self.max_streams.unwrap_or_else(|| self.worker_count().max(STREAMS))
    }

    fn dialers(&self) -> Result<Vec<Dialer>, ConfigError> {
        let any_secure = self.gateways.iter().any(GatewayUrl::is_secure);
        let tls = trust_store(any_secure, &self.trust).map_err(ConfigError::GatewayTls)?;
        let token = match &self.token {
            None => None,
            Some(Secret::Is(token)) => Some(TokenSource::Fixed(token.clone())),
            Some(Secret::In(path)) => {
                let source = TokenSource::file(path);
                Some(source.map_err(|error| ConfigError::TokenFile(path.clone(), error))?)
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

    /// Ports of this machine where a server has been named.
    fn named_ports(&self) -> impl Iterator<Item = u16> {
        self.named_servers().filter(|url| is_this_machine(url.host())).map(LocalUrl::port)
    }

    fn named_servers(&self) -> impl Iterator<Item = &LocalUrl> {
        let servers = match &self.answers {
            Answers::Local(servers) => servers.as_slice(),
            Answers::Service(_) => &[],
        };
        servers.iter().filter_map(|(_, place)| match place {
            Place::At(url) => Some(url),
            Place::Auto => None,
        })
    }

    fn answering(&self, tls: Option<&TrustStore>) -> Answering {
        let servers = match &self.answers {
            Answers::Service(service) => return (service.clone(), None),
            Answers::Local(servers) => servers.clone(),
        };
        let config = targets::Config {
            host: self.host_header.clone(),
            tls: tls.cloned(),
            timeouts: self.timeouts,
            edits: self.edits.clone(),
            breaker: self.breaker,
            checks: self.checks.clone(),
            except: self.own_ports().into_iter().chain(self.named_ports()).collect(),
        };
        let targets = Arc::new(Targets::new(servers, config));
        (targets.clone(), Some(targets))
    }

    fn session(&self) -> session::Config {
        let bucket = self.rate.map(|rate| {
            let burst = self.burst.unwrap_or(rate.in_a_second());
            Bucket::new(rate, burst, self.rate_wait, Instant::now())
        });
        session::Config {
            tunnel_id: self.tunnel_id.clone(),
            entrance: Arc::new(Entrance::new(self.rules.clone(), bucket)),
            failure: self.failure,
            heartbeat: self.heartbeat,
            correlation: self.correlation,
            max_message: self.max_message,
            max_body: self.max_body,
            max_stream_body: self.max_stream_body,
            unnumbered_max: (self.worker_count() + self.queue) as u64,
            instance: protocol::random_uuid(),
            idle_timeout: self.timeouts.idle,
        }
    }

    fn pool(&self) -> pool::Limits {
        pool::Limits {
            workers: self.worker_count(),
            workers_max: self.stream_count(),
            running: self.max_in_flight.unwrap_or(usize::MAX),
            jobs: self.queue,
            weight: self.max_message.saturating_mul(QUEUED_MESSAGES),
            time: self.queue_timeout,
        }
    }

    /// What the log warns of at every start.
    fn warnings(&self) -> Vec<&'static str> {
        let gateway = self.gateways.iter().any(GatewayUrl::is_secure);
        let local = self.named_servers().any(LocalUrl::is_secure);
        let names_file = |trust: &Trust| matches!(trust, Trust::File(_));
        let warnings = [
            (
                self.tunnel_id.purpose().contains('_'),
                "the oldest gateways refuse a tunnel ID with an underscore in its purpose",
            ),
            (
                self.trust == Trust::Insecure && gateway,
                "--insecure: the gateway's certificate is not verified; anybody can pose as it",
            ),
            (names_file(&self.trust) && !gateway, "--ca-file has no effect: no gateway is wss://"),
            (
                self.local_trust == Trust::Insecure && local,
                "--local-insecure: the local server's certificate is not verified",
            ),
            (
                names_file(&self.local_trust) && !local,
                "--local-ca-file has no effect: the local server is not https://",
            ),
        ];
        warnings.into_iter().filter(|(applies, _)| *applies).map(|(_, text)| text).collect()
    }

    /// What answers, for the log.
    fn served_by(&self) -> String {
        let Answers::Local(servers) = &self.answers else { return "this program".to_owned() };
        let describe = |(prefix, place): &(String, Place)| match (prefix.as_str(), place) {
            ("", Place::Auto) => "a server of this machine".to_owned(),
            ("", Place::At(url)) => url.to_string(),
            (prefix, place) => format!("{place} for {prefix}"),
        };
        servers.iter().map(describe).collect::<Vec<_>>().join(", ")
    }

    fn check(&self) -> Result<(), ConfigError> {
        if let Some(what) = &self.invalid {
            return Err(ConfigError::OutOfRange(what.clone()));
        }
        let host_is_one = self.host_header.as_ref().is_none_or(|host| is_host(host.as_bytes()));
        let admin_is_safe =
            self.admin.as_ref().is_none_or(|(address, token)| address.ip().is_loopback() || token.is_some());
        let checks = [
            (admin_is_safe, "--admin at anything but loopback needs --admin-token-file".to_owned()),
            (host_is_one, "--host-header must be a host such as site.test or site.test:8080".to_owned()),
            (
                (1..=WORKERS_MAX).contains(&self.worker_count()),
                format!("--workers must be 1 to {WORKERS_MAX}"),
            ),
            (
                (1..=STREAMS_MAX).contains(&self.stream_count()),
                format!("--max-streams must be 1 to {STREAMS_MAX}"),
            ),
            (
                (1..=SESSIONS_MAX).contains(&(self.connections.saturating_mul(self.gateways.len()))),
                format!("--connections times the number of gateways must be 1 to {SESSIONS_MAX}"),
            ),
            (
                self.stream_count() >= self.worker_count(),
                "--max-streams counts those of --workers, too, and must not be less".to_owned(),
            ),
            (self.queue <= QUEUE_MAX, format!("--queue must be at most {QUEUE_MAX}")),
            (self.max_in_flight != Some(0), "--max-in-flight must be 1 at least".to_owned()),
            (self.rules.len() <= RULES_MAX, format!("there may be {RULES_MAX} rules (--allow, --deny)")),
            (
                self.burst.is_none_or(|burst| (1..=BURST_MAX).contains(&burst)),
                format!("--burst must be 1 to {BURST_MAX}"),
            ),
            (self.rate.is_some() || self.burst.is_none(), "--burst needs --rate".to_owned()),
            (self.rate.is_some() || self.rate_wait.is_zero(), "--rate-wait needs --rate".to_owned()),
            (self.rate_wait <= self.queue_timeout, "--rate-wait must not exceed --queue-timeout".to_owned()),
            (
                self.max_message >= MESSAGE_MIN,
                format!("--max-message must be at least {} KiB", MESSAGE_MIN >> 10),
            ),
            (self.max_message <= u32::MAX as usize, "--max-message must be below 4 GiB".to_owned()),
            (self.max_body <= self.max_message, "--max-body must not exceed --max-message".to_owned()),
            (self.backoff.min <= self.backoff.max, "--backoff-min must not exceed --backoff-max".to_owned()),
        ];
        for (holds, text) in checks {
            if !holds {
                return Err(ConfigError::OutOfRange(text));
            }
        }
        self.check_gateways()?;
        self.check_servers()?;
        self.check_times()
    }

    fn check_gateways(&self) -> Result<(), ConfigError> {
        let urls: Vec<String> = self.gateways.iter().map(GatewayUrl::to_string).collect();
        match twice(&urls) {
            Some(url) => Err(ConfigError::OutOfRange(format!(
                "the gateway {url} is given twice (--gateway); for more sessions there is --connections"
            ))),
            None => Ok(()),
        }
    }

    fn check_servers(&self) -> Result<(), ConfigError> {
        let Answers::Local(servers) = &self.answers else { return Ok(()) };
        if servers.len() > TARGETS_MAX {
            let text = format!("there may be {TARGETS_MAX} local servers (--local, --route)");
            return Err(ConfigError::OutOfRange(text));
        }
        match twice(servers) {
            Some((_, place)) => Err(ConfigError::OutOfRange(format!(
                "the local server {place} is given twice (--local, --route)"
            ))),
            None => self.check_circle(),
        }
    }

    /// A gateway that is its own local server asks itself without end.
    fn check_circle(&self) -> Result<(), ConfigError> {
        let is_gateway = |local: &&LocalUrl| {
            self.gateways.iter().any(|gateway| {
                let is_usual = |host: &str| matches!(host, "localhost" | "127.0.0.1" | "::1" | "[::1]");
                let same_host =
                    gateway.host() == local.host() || (is_usual(gateway.host()) && is_usual(local.host()));
                same_host && gateway.port() == local.port()
            })
        };
        // With another name it may be another site behind the same proxy.
        match self.named_servers().find(|url| self.host_header.is_none() && is_gateway(url)) {
            Some(url) => Err(ConfigError::OutOfRange(format!(
                "the local server {url} is the gateway itself, where requests would come round again (--local, --route)"
            ))),
            None => Ok(()),
        }
    }

    fn check_times(&self) -> Result<(), ConfigError> {
        if !(Timeouts::MIN..=BreakerLimits::OPEN_MAX).contains(&self.breaker.open) {
            return Err(ConfigError::OutOfRange("--breaker-open must be 1ms to 30s".to_owned()));
        }
        let times = [
            ("--connect-timeout", self.timeouts.connect),
            ("--response-timeout", self.timeouts.response),
            ("--idle-timeout", self.timeouts.idle),
            ("--queue-timeout", self.queue_timeout),
            ("--ping-interval", self.heartbeat.ping_interval),
            ("--pong-timeout", self.heartbeat.pong_timeout),
            ("--health-interval", self.checks.as_ref().map_or(Timeouts::MIN, |checks| checks.interval)),
            ("--backoff-min", self.backoff.min),
            ("--backoff-max", self.backoff.max),
        ];
        for (name, time) in times {
            if !(Timeouts::MIN..=Timeouts::MAX).contains(&time) {
                return Err(ConfigError::OutOfRange(format!("{name} must be 1ms to 1440m")));
            }
        }
        Ok(())
    }
}
