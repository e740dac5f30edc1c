//! The options of a gateway, with defaults for all of them.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use http::header::HeaderName;

use super::PLACES;
use super::credentials::{Secrets, TlsFiles};
use super::domain::Domain;
use super::forwarded::TrustedProxies;
use super::names::NamePolicy;
use crate::link::Token;
use crate::net::network::Network;
use crate::tunnel_id::TunnelId;

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

/// Configures a [`Gateway`](super::Gateway).
#[derive(Debug)]
#[must_use = "a gateway comes of `build`"]
pub struct GatewayBuilder {
    pub(super) listen: SocketAddr,
    pub(super) secrets: Secrets,
    pub(super) tls_files: TlsFiles,
    pub(super) listen_agents: Option<SocketAddr>,
    pub(super) default_tunnel: Option<TunnelId>,
    pub(super) domain: Option<Domain>,
    pub(super) own_hosts: Vec<String>,
    pub(super) name_policy: NamePolicy,
    pub(super) agent_path: String,
    pub(super) own_paths: OwnPaths,
    pub(super) proxies: TrustedProxies,
    pub(super) timeout: Duration,
    pub(super) hold: Duration,
    pub(super) drain_delay: Duration,
    pub(super) drain: Duration,
    pub(super) max_per_address: usize,
    pub(super) max_enveloped_body: usize,
    pub(super) max_message: usize,
    pub(super) legacy: bool,
    pub(super) admin: Option<SocketAddr>,
    pub(super) logs_requests: bool,
    pub(super) tells_timing: bool,
}

impl GatewayBuilder {
    pub(super) fn new() -> Self {
        GatewayBuilder {
            listen: SocketAddr::from(([127, 0, 0, 1], 3000)),
            secrets: Secrets::default(),
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
            admin: None,
            logs_requests: false,
            tells_timing: false,
        }
    }

    /// The address at which agents and visitors connect. Default: `127.0.0.1:3000`.
    pub fn listen(mut self, address: SocketAddr) -> Self {
        self.listen = address;
        self
    }

    /// Another address, at which agents alone connect; the first is the visitors' alone then. Default: none.
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
        self.secrets.token = Some(token);
        self
    }

    /// The token that agents must show, in a file that [`reload`](super::GatewayHandle::reload) reads again.
    /// Default: none.
    pub fn token_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.secrets.token_file = Some(path.into());
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

    /// Proxies whose `X-Forwarded-*` fields are trusted; replaces those of an earlier call. Default: none.
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

    /// Serves plain HTTP for monitoring at this address: `GET /healthz`, `/readyz`, `/status` (JSON) and `/metrics`
    /// (Prometheus). An address that is not loopback needs a token. Default: off.
    pub fn admin(mut self, address: SocketAddr, token: Option<Token>) -> Self {
        (self.admin, self.secrets.admin_token) = (Some(address), token);
        self
    }

    /// The token of the [admin server](Self::admin), in a file that [`reload`](super::GatewayHandle::reload) reads again.
    /// Default: none.
    pub fn admin_token_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.secrets.admin_token_file = Some(path.into());
        self
    }

    /// Logs a line at `info` for each request, with the visitor's address. Default: off.
    pub fn access_log(mut self) -> Self {
        self.logs_requests = true;
        self
    }

    /// Adds to agents' responses the field `Server-Timing` with `gateway`, the time from the head of the request to that of
    /// its response, in milliseconds. Default: off.
    pub fn server_timing(mut self) -> Self {
        self.tells_timing = true;
        self
    }
}
