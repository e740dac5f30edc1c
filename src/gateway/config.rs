//! The options of a gateway, with defaults for all of them.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use http::header::HeaderName;

use super::credentials::{Credentials, TlsFiles};
use super::domain::{Domain, host_name};
use super::forwarded::{Scheme, TrustedProxies};
use super::names::{LOCALHOST, NamePolicy};
use super::reservations::Reservations;
use super::{Gateway, PLACES};
use crate::agent::{ConfigError, ConfigProblem};
use crate::link::Token;
use crate::link::message::MESSAGE_MIN;
use crate::net::network::Network;
use crate::tunnel_id::TunnelId;

/// The longest limit of time, which no clock overflows with.
const TIME_MAX: Duration = Duration::from_secs(24 * 3600);

/// Which paths are the gateway's own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum OwnPaths {
    /// Those under `/.tunnel/`, and the old names `/health`, `/connections` and `/forward`, which balancers may
    /// still ask for.
    #[default]
    Both,
    /// Those under `/.tunnel/` alone.
    New,
}

/// Configures a [`Gateway`].
#[derive(Debug)]
#[must_use = "a gateway comes of `build`"]
pub struct GatewayBuilder {
    listen: SocketAddr,
    token: Option<Token>,
    token_file: Option<PathBuf>,
    tls_files: TlsFiles,
    listen_agents: Option<SocketAddr>,
    default_tunnel: Option<TunnelId>,
    domain: Option<Domain>,
    own_hosts: Vec<String>,
    name_policy: NamePolicy,
    agent_path: String,
    own_paths: OwnPaths,
    proxies: TrustedProxies,
    timeout: Duration,
    hold: Duration,
    drain_delay: Duration,
    drain: Duration,
    max_per_address: usize,
    max_enveloped_body: usize,
    max_message: usize,
    legacy: bool,
}

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
}

impl GatewayConfig {
    /// The scheme of the gateway's own address.
    pub(super) fn scheme(&self) -> Scheme {
        if self.credentials.have_tls() { Scheme::Https } else { Scheme::Http }
    }
}

impl GatewayBuilder {
    pub(super) fn new() -> Self {
        GatewayBuilder {
            listen: SocketAddr::from(([127, 0, 0, 1], 3000)),
            token: None,
            token_file: None,
            tls_files: TlsFiles::default(),
            listen_agents: None,
            default_tunnel: None,
            domain: None,
            own_hosts: Vec::new(),
            name_policy: NamePolicy::default(),
            agent_path: "/ws".to_owned(),
            own_paths: OwnPaths::default(),
            proxies: TrustedProxies::default(),
            timeout: Duration::from_secs(30),
            hold: Duration::from_secs(10),
            drain_delay: Duration::from_secs(2),
            drain: Duration::from_secs(10),
            max_per_address: PLACES / 4,
            max_enveloped_body: 10 << 20,
            max_message: 16 << 20,
            legacy: false,
        }
    }

    /// The address at which agents and visitors connect. Default: `127.0.0.1:3000`.
    pub fn listen(mut self, address: SocketAddr) -> Self {
        self.listen = address;
        self
    }

    /// Another address, at which agents connect and nobody else; the first is the visitors' alone then. Default: none.
    pub fn listen_agents(mut self, address: SocketAddr) -> Self {
        self.listen_agents = Some(address);
        self
    }

    /// A PEM file of the authorities that certify agents: an agent has to show a certificate of theirs. Needs
    /// [TLS](Self::tls) and [an address for agents](Self::listen_agents), since on a shared one browsers would be asked for
    /// certificates. Default: none.
    pub fn client_ca(mut self, path: impl Into<PathBuf>) -> Self {
        self.tls_files.client_ca = Some(path.into());
        self
    }

    /// The token that agents must show. Default: none, and every agent is taken.
    pub fn token(mut self, token: Token) -> Self {
        self.token = Some(token);
        self
    }

    /// The token that agents must show, in a file that [`reload`](super::GatewayHandle::reload) reads again.
    /// Default: none.
    pub fn token_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.token_file = Some(path.into());
        self
    }

    /// PEM files with a certificate chain and its private key: TLS for agents and visitors. Each call adds a pair; a client
    /// gets the first that has the name which it asks for, else the first. Default: no TLS.
    pub fn tls(mut self, certificates: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        self.tls_files.certificates.push((certificates.into(), key.into()));
        self
    }

    /// The tunnel whose agents get the requests that name no tunnel. Default: the only one there is.
    pub fn default_tunnel(mut self, tunnel_id: TunnelId) -> Self {
        self.default_tunnel = Some(tunnel_id);
        self
    }

    /// The domain under which each tunnel has its host name, `NAME.DOMAIN`. Default: `localhost`, whose names browsers
    /// resolve to their own machine, with the scheme and the port of the gateway's address.
    pub fn domain(mut self, domain: Domain) -> Self {
        self.domain = Some(domain);
        self
    }

    /// A host name under the domain that is the gateway's own, and no tunnel's. Each call adds one. Default: none.
    pub fn own_host(mut self, name: impl Into<String>) -> Self {
        self.own_hosts.push(name.into());
        self
    }

    /// A file that reserves names under the domain, and whole host names, for tunnels: `NAME = TUNNEL-ID` or
    /// `HOST.NAME = TUNNEL-ID` in each line, empty ones and those that begin with `#` aside. Other tunnels have the names
    /// that are made of their IDs. [`reload`](super::GatewayHandle::reload) reads it again. Default: none, and a name that
    /// is asked for is the tunnel's that came first.
    pub fn names_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.name_policy.file = Some(path.into());
        self
    }

    /// Gives names that no line of the [file](Self::names_file) reserves to the tunnel that asks first.
    pub fn first_come(mut self) -> Self {
        self.name_policy.is_first_come = true;
        self
    }

    /// Serves no tunnel but those of the [file](Self::names_file): each agent has a credential of its own, its tunnel ID.
    pub fn only_names(mut self) -> Self {
        self.name_policy.is_only_reserved = true;
        self
    }

    /// The path on which agents connect. Default: `/ws`.
    pub fn agent_path(mut self, path: impl Into<String>) -> Self {
        self.agent_path = path.into();
        self
    }

    /// Which paths the gateway answers by itself. Default: [`OwnPaths::Both`].
    pub fn own_paths(mut self, paths: OwnPaths) -> Self {
        self.own_paths = paths;
        self
    }

    /// TrustedProxies whose `X-Forwarded-*` fields are trusted; replaces those of an earlier call. Default: none.
    pub fn trusted_proxies(mut self, networks: impl IntoIterator<Item = Network>) -> Self {
        self.proxies.networks = networks.into_iter().collect();
        self
    }

    /// A further field of the `X-Forwarded-*` family that trusted proxies set, and that passes. Each call adds one.
    /// Default: none.
    pub fn trusted_header(mut self, name: HeaderName) -> Self {
        self.proxies.headers.push(name);
        self
    }

    /// The time from the end of a request to the head of its response; then the visitor gets 504. Default: 30 s.
    pub fn timeout(mut self, time: Duration) -> Self {
        self.timeout = time;
        self
    }

    /// The time after the start for which requests wait for an agent instead of being answered 503. Default: 10 s.
    pub fn hold(mut self, time: Duration) -> Self {
        self.hold = time;
        self
    }

    /// The time for which a gateway that stops goes on accepting connections, for balancers to notice. Default: 2 s.
    pub fn drain_delay(mut self, time: Duration) -> Self {
        self.drain_delay = time;
        self
    }

    /// The time that requests under way have to finish, after the drain delay. Default: 10 s.
    pub fn drain(mut self, time: Duration) -> Self {
        self.drain = time;
        self
    }

    /// The number of connections of one visitor's address, 1 to 1,024. Default: 256.
    pub fn max_per_address(mut self, connections: usize) -> Self {
        self.max_per_address = connections;
        self
    }

    /// The largest body of a request in an envelope, for agents without mux/2, in bytes. Default: 10 MiB.
    pub fn max_enveloped_body(mut self, bytes: usize) -> Self {
        self.max_enveloped_body = bytes;
        self
    }

    /// The largest message either way, for agents without mux/2, in bytes; at least 80 KiB. Default: 16 MiB.
    pub fn max_message(mut self, bytes: usize) -> Self {
        self.max_message = bytes;
        self
    }

    /// Makes the gateway behave as the oldest gateways do: no streams, no request IDs, bodies as text.
    pub fn legacy(mut self) -> Self {
        self.legacy = true;
        self
    }

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
        let token =
            match &self.token_file {
                Some(path) => Some(Token::from_file(path).map_err(|error| {
                    ConfigError::new("token_file", ConfigProblem::File(path.clone(), error))
                })?),
                None => self.token,
            };
        let credentials = Credentials::new(token, self.token_file, self.tls_files)
            .map_err(|error| ConfigError::new("tls", ConfigProblem::Tls(error)))?;
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
