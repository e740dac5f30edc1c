//! Which configurations can be used.

use std::net::SocketAddr;

use super::builder::Builder;
use super::error::{ConfigError, ConfigProblem};
use super::parts::{Answerer, InspectorPage};
use crate::guard::{CorsCredentials, RULES_MAX};
use crate::http1::is_host;
use crate::inspect::InspectorConfig;
use crate::link::GatewayUrl;
use crate::link::message::MESSAGE_MIN;
use crate::net::local::is_same_host;
use crate::upstream::origin::{LocalUrl, Timeouts};
use crate::upstream::{BreakerConfig, SiteNames, UPSTREAMS_MAX};

/// Worker threads at most.
const WORKERS_MAX: usize = 1024;

/// Streams at once at most.
const STREAMS_MAX: usize = 4096;

/// Sessions of one agent at most.
const SESSIONS_MAX: usize = 256;

/// Tunnels of one agent at most.
const TUNNELS_MAX: usize = 64;

/// Requests that may wait for a worker, at most.
const QUEUE_MAX: usize = 65_536;

/// Requests of one burst, at most.
const BURST_MAX: u32 = 1_000_000;

/// The first item that equals one before it.
fn twice<T: PartialEq>(items: &[T]) -> Option<&T> {
    items.iter().enumerate().find(|(index, item)| items[..*index].contains(item)).map(|(_, item)| item)
}

/// Checks all tunnels of an agent, of which the first has the options of the process.
pub(super) fn check_all(tunnels: &[Builder]) -> Result<(), ConfigError> {
    if tunnels.len() > TUNNELS_MAX {
        return Err(ConfigError::new("tunnel", ConfigProblem::TooMany(TUNNELS_MAX)));
    }
    let check = |tunnel: &Builder| tunnel.check().map_err(|error| error.of_tunnel(tunnel.label.as_ref()));
    tunnels.iter().try_for_each(check)?;
    let sessions: usize =
        tunnels.iter().map(|tunnel| tunnel.sessions_per_gateway * tunnel.gateways.len()).sum();
    if sessions > SESSIONS_MAX {
        let range = format!("1 to {SESSIONS_MAX}, for all gateways of all tunnels together");
        return Err(ConfigError::range("sessions_per_gateway", range));
    }
    let ids: Vec<_> = tunnels.iter().map(|tunnel| &tunnel.tunnel_id).collect();
    if let Some(id) = twice(&ids) {
        let error = ConfigError::new("tunnel_id", ConfigProblem::Twice(id.to_string()));
        let tunnel = tunnels.iter().rev().find(|tunnel| tunnel.tunnel_id == **id);
        return Err(error.of_tunnel(tunnel.and_then(|tunnel| tunnel.label.as_ref())));
    }
    let names: Vec<_> = tunnels.iter().filter_map(|tunnel| tunnel.name.as_ref()).collect();
    match twice(&names) {
        Some(name) => Err(ConfigError::new("name", ConfigProblem::Twice(name.to_string()))),
        None => Ok(()),
    }
}

impl Builder {
    /// Checks one tunnel's options, and those of the process.
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        if let Some((option, what)) = &self.invalid {
            return Err(ConfigError::new(option, ConfigProblem::Invalid(what.clone())));
        }
        self.check_ranges()?;
        self.check_times()?;
        self.check_relations()?;
        self.check_inspection()?;
        self.check_gateways()?;
        self.check_servers()
    }

    fn check_ranges(&self) -> Result<(), ConfigError> {
        let up_to = |max: usize| format!("1 to {max}");
        let sessions = self.sessions_per_gateway.saturating_mul(self.gateways.len());
        let host = self.host_header.as_ref().is_none_or(|host| is_host(host.as_bytes()));
        let inspection = &self.process.inspection.config;
        let ranges = [
            (
                inspection.memory >= InspectorConfig::MEMORY_MIN,
                "inspect_memory",
                format!("at least {} MiB", InspectorConfig::MEMORY_MIN >> 20),
            ),
            (
                inspection.body <= inspection.body_max(),
                "inspect_body",
                format!("at most an eighth of inspect_memory, {} KiB", inspection.body_max() >> 10),
            ),
            (host, "host_header", "a host such as site.test or site.test:8080".to_owned()),
            ((1..=WORKERS_MAX).contains(&self.worker_count()), "workers", up_to(WORKERS_MAX)),
            ((1..=STREAMS_MAX).contains(&self.stream_count()), "max_streams", up_to(STREAMS_MAX)),
            (
                (1..=SESSIONS_MAX).contains(&sessions),
                "sessions_per_gateway",
                format!("{}, for all gateways together", up_to(SESSIONS_MAX)),
            ),
            (self.process.queue <= QUEUE_MAX, "queue", format!("at most {QUEUE_MAX}")),
            (self.process.max_in_flight != Some(0), "max_in_flight", "at least 1".to_owned()),
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
        let is_public = |address: &SocketAddr| !address.ip().is_loopback();
        let process = &self.process;
        let problems = [
            (
                process.admin_token.is_none() && process.admin.as_ref().is_some_and(is_public),
                "admin",
                ConfigProblem::Invalid("an address that is not loopback needs a token".to_owned()),
            ),
            (self.passwords.is_none() && !self.open.is_empty(), "open", ConfigProblem::Needs("basic_auth")),
            (
                self.host_header.is_none() && self.site_names == SiteNames::Kept,
                "no_rewrite",
                ConfigProblem::Needs("host_header"),
            ),
            (
                self.client_identity.as_ref().is_some_and(|identity| identity.key.as_os_str().is_empty()),
                "client_cert",
                ConfigProblem::Needs("client_key"),
            ),
            (
                self.client_identity
                    .as_ref()
                    .is_some_and(|identity| identity.certificates.as_os_str().is_empty()),
                "client_key",
                ConfigProblem::Needs("client_cert"),
            ),
            (
                self.cors.is_none() && self.cors_credentials == CorsCredentials::Allow,
                "cors_credentials",
                ConfigProblem::Needs("cors"),
            ),
            (
                self.health_path.is_none() && self.health_interval.is_some(),
                "health_interval",
                ConfigProblem::Needs("health_path"),
            ),
            (
                process.admin.is_none() && process.admin_token.is_some(),
                "admin_token",
                ConfigProblem::Needs("admin"),
            ),
            (self.stream_count() < self.worker_count(), "max_streams", ConfigProblem::Below("workers")),
            (self.rules.len() > RULES_MAX, "rules", ConfigProblem::TooMany(RULES_MAX)),
            (self.rate.is_none() && self.burst.is_some(), "burst", ConfigProblem::Needs("rate")),
            (self.rate.is_none() && !self.rate_wait.is_zero(), "rate_wait", ConfigProblem::Needs("rate")),
            (
                self.rate_wait > self.process.queue_timeout,
                "rate_wait",
                ConfigProblem::Exceeds("queue_timeout"),
            ),
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

    /// Checks that options of the inspector come with one.
    fn check_inspection(&self) -> Result<(), ConfigError> {
        let (inspection, usual) = (&self.process.inspection, InspectorConfig::default());
        if inspection.page != InspectorPage::Hidden {
            return Ok(());
        }
        let config = &inspection.config;
        let given = [
            (config.memory != usual.memory, "inspect_memory"),
            (config.body != usual.body, "inspect_body"),
            (config.hidden != usual.hidden, "inspect_hide"),
        ];
        match given.into_iter().find(|(is_given, _)| *is_given) {
            Some((_, option)) => Err(ConfigError::new(option, ConfigProblem::Needs("inspect"))),
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
                is_same_host(gateway.host(), local.host()) && Some(gateway.port()) == local.port()
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
        let interval = self.health_interval.unwrap_or(Timeouts::MIN);
        let times = [
            ("connect_timeout", self.timeouts.connect),
            ("response_timeout", self.timeouts.response),
            ("idle_timeout", self.timeouts.idle),
            ("queue_timeout", self.process.queue_timeout),
            ("ping_interval", self.heartbeat.ping_interval),
            ("pong_timeout", self.heartbeat.pong_timeout),
            ("health_interval", interval),
            ("backoff_min", self.backoff.min),
            ("backoff_max", self.backoff.max),
        ];
        match times.into_iter().find(|(_, time)| !(Timeouts::MIN..=Timeouts::MAX).contains(time)) {
            Some((option, _)) => Err(ConfigError::range(option, "1ms to 24h (1440m)")),
            None => Ok(()),
        }
    }
}
