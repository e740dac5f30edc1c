//! The configuration of a gateway, checked.

use std::net::SocketAddr;
use std::time::Duration;

use super::builder::{GatewayBuilder, OwnPaths};
use super::credentials::Credentials;
use super::domain::{Domain, host_name};
use super::forwarded::{Scheme, TrustedProxies};
use super::names::{LOCALHOST, NamePolicy};
use super::reservations::Reservations;
use super::{Gateway, PLACES};
use crate::agent::{ConfigError, ConfigProblem};
use crate::link::message::MESSAGE_MIN;
use crate::net::tls::TlsError;
use crate::tunnel_id::TunnelId;

/// The longest limit of time, which no clock overflows with.
const TIME_MAX: Duration = Duration::from_secs(24 * 3600);

/// A configuration that was checked.
pub(super) struct GatewayConfig {
    pub(super) listen: SocketAddr,
    pub(super) listen_agents: Option<SocketAddr>,
    pub(super) credentials: Credentials,
    pub(super) default_tunnel: Option<TunnelId>,
    pub(super) domain: Option<Domain>,
    pub(super) own_hosts: Vec<String>,
    pub(super) name_policy: NamePolicy,
    pub(super) reserved: Reservations,
    pub(super) agent_path: String,
    pub(super) own_paths: OwnPaths,
    pub(super) proxies: TrustedProxies,
    pub(super) timeout: Duration,
    /// How long after the start requests wait for an agent.
    pub(super) hold: Duration,
    pub(super) drain_delay: Duration,
    pub(super) drain: Duration,
    pub(super) max_per_address: usize,
    pub(super) max_enveloped_body: usize,
    pub(super) max_message: usize,
    pub(super) legacy: bool,
    /// Where operators ask how the gateway is doing.
    pub(super) admin: Option<SocketAddr>,
    /// Whether the log has a line for each request.
    pub(super) logs_requests: bool,
    /// Whether responses tell in `Server-Timing` how long they took.
    pub(super) tells_timing: bool,
}

impl GatewayConfig {
    /// The scheme of the gateway's own address.
    pub(super) fn scheme(&self) -> Scheme {
        if self.credentials.have_tls() { Scheme::Https } else { Scheme::Http }
    }
}

impl GatewayBuilder {
    /// Checks the configuration, and reads the files that it names.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] names the option that cannot be used, and why.
    pub fn build(self) -> Result<Gateway, ConfigError> {
        self.check()?;
        let own_hosts = self.own_hosts.iter().map(|name| host_name(name)).collect::<Option<_>>();
        let own_hosts = own_hosts
            .ok_or_else(|| ConfigError::range("own_host", "a host name such as gw.tunnel.example"))?;
        let domain = self.domain.as_ref().map_or(LOCALHOST, |domain| domain.name.as_str());
        let reserved = self.name_policy.file.as_ref().map(|path| {
            let problem = |error| ConfigError::new("names", ConfigProblem::File(path.clone(), error));
            Reservations::read(path, domain).map_err(problem)
        });
        let reserved = reserved.transpose()?.unwrap_or_default();
        let secrets = self.secrets.open()?;
        let is_public = self.admin.is_some_and(|address| !address.ip().is_loopback());
        if is_public && secrets.admin_token.is_none() {
            let what = "an address that is not loopback needs a token".to_owned();
            return Err(ConfigError::new("admin", ConfigProblem::Invalid(what)));
        }
        if self.admin.is_none() && secrets.admin_token.is_some() {
            return Err(ConfigError::new("admin_token", ConfigProblem::Needs("admin")));
        }
        let client_ca = self.tls_files.client_ca.clone();
        let credentials = Credentials::new(secrets, self.tls_files).map_err(|error| {
            let is_ca = matches!(&error, TlsError::File { path, .. } if client_ca.as_ref() == Some(path));
            ConfigError::new(if is_ca { "client_ca" } else { "tls" }, ConfigProblem::Tls(error))
        })?;
        Ok(Gateway(GatewayConfig {
            listen: self.listen,
            listen_agents: self.listen_agents,
            credentials,
            default_tunnel: self.default_tunnel,
            domain: self.domain,
            own_hosts,
            name_policy: self.name_policy,
            reserved,
            agent_path: self.agent_path,
            own_paths: self.own_paths,
            proxies: self.proxies,
            timeout: self.timeout,
            hold: self.hold,
            drain_delay: self.drain_delay,
            drain: self.drain,
            max_per_address: self.max_per_address,
            max_enveloped_body: self.max_enveloped_body,
            max_message: self.max_message,
            legacy: self.legacy,
            admin: self.admin,
            logs_requests: self.logs_requests,
            tells_timing: self.tells_timing,
        }))
    }

    fn check(&self) -> Result<(), ConfigError> {
        let times = [
            ("timeout", self.timeout),
            ("hold", self.hold),
            ("drain_delay", self.drain_delay),
            ("drain", self.drain),
        ];
        if let Some((option, _)) = times.iter().find(|(_, time)| *time > TIME_MAX) {
            return Err(ConfigError::range(option, "at most 1440m"));
        }
        let is_path = self.agent_path.starts_with('/')
            && !self.agent_path.contains(['?', '#', ' '])
            && self.agent_path != "/";
        let per_address = format!("1 to {PLACES}");
        let message_min = format!("at least {} KiB", MESSAGE_MIN >> 10);
        let ranges = [
            (is_path, "agent_path", "a path such as /ws"),
            (!self.timeout.is_zero(), "timeout", "more than zero"),
            ((1..=PLACES).contains(&self.max_per_address), "max_per_address", &per_address),
            (self.max_message >= MESSAGE_MIN, "max_message", &message_min),
            (u32::try_from(self.max_message).is_ok(), "max_message", "below 4 GiB"),
        ];
        if let Some((_, option, range)) = ranges.iter().find(|(holds, ..)| !holds) {
            return Err(ConfigError::range(option, *range));
        }
        if self.max_enveloped_body > self.max_message {
            return Err(ConfigError::new("max_enveloped_body", ConfigProblem::Exceeds("max_message")));
        }
        let NamePolicy { file, is_first_come, is_only_reserved } = &self.name_policy;
        let needing = [(*is_first_come, "first_come"), (*is_only_reserved, "only_names")];
        if let Some((_, option)) = needing.iter().find(|(is_set, _)| *is_set && file.is_none()) {
            return Err(ConfigError::new(option, ConfigProblem::Needs("names")));
        }
        let has_ca = self.tls_files.client_ca.is_some();
        let needed = [
            (self.listen_agents.is_none(), "listen_agents"),
            (self.tls_files.certificates.is_empty(), "tls"),
        ];
        if let Some((_, option)) = needed.iter().find(|(is_missing, _)| has_ca && *is_missing) {
            return Err(ConfigError::new("client_ca", ConfigProblem::Needs(option)));
        }
        if self.proxies.networks.is_empty() && !self.proxies.headers.is_empty() {
            return Err(ConfigError::new("trusted_header", ConfigProblem::Needs("trusted_proxies")));
        }
        Ok(())
    }
}
