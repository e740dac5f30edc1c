//! The options of the way to gateways.

use std::path::PathBuf;
use std::time::Duration;

use super::builder::Builder;
use super::parts::{TokenOption, UpgradeHeadersOption};
use crate::backoff::BackoffConfig;
use crate::link::{GatewayUrl, Proxies, Token, UpgradeHeaders};
use crate::net::tls::{ClientIdentity, Trust};
use crate::protocol::TunnelName;
use crate::session::{Correlation, Heartbeat};

impl Builder {
    /// The name that the tunnel would like: the label before the gateway's domain in its host name. A gateway that gives
    /// names says which one the tunnel has, see [`Status::url`](crate::Status::url). Default: one that is derived from the
    /// tunnel ID.
    pub fn name(mut self, name: TunnelName) -> Self {
        self.name = Some(name);
        self
    }

    /// A gateway to dial. Each call adds one; the agent keeps sessions with all of them. Gateways ×
    /// [sessions](Self::sessions_per_gateway) are at most 256. Default: `ws://127.0.0.1:3000/ws`.
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

    /// Header fields of the upgrade, for an access gateway in front of the gateway. Where there is a [token](Self::token),
    /// `Authorization` is the token's. Default: none.
    pub fn upgrade_headers(mut self, headers: UpgradeHeaders) -> Self {
        self.upgrade_headers = Some(UpgradeHeadersOption::Value(headers));
        self
    }

    /// A file that holds [such fields](UpgradeHeaders), a line each. It is read before each dial, so that it can be renewed
    /// while the agent runs. Default: none.
    pub fn upgrade_headers_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.upgrade_headers = Some(UpgradeHeadersOption::File(path.into()));
        self
    }

    /// The proxies on the way to gateways; those of the environment are
    /// [`Proxies::from_environment`]. A gateway on this machine is dialled directly, and so is every local server. Default:
    /// [`Proxies::none`].
    pub fn proxies(mut self, proxies: Proxies) -> Self {
        self.proxies = proxies;
        self
    }

    /// The certificate authorities that are trusted for the gateway. Default: [`Trust::System`].
    pub fn gateway_trust(mut self, trust: Trust) -> Self {
        self.gateway_trust = trust;
        self
    }

    /// The certificate with which the agent proves to `wss://` gateways who it is, where they ask for one: PEM files of the
    /// chain and of the private key. Both are read before each dial, so that they can be renewed while the agent runs.
    /// Default: none.
    pub fn client_certificate(mut self, certificates: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        self.client_identity = Some(ClientIdentity { certificates: certificates.into(), key: key.into() });
        self
    }

    /// The interval of pings, and how long the gateway may be silent. Default: [`Heartbeat::default`].
    pub fn heartbeat(mut self, heartbeat: Heartbeat) -> Self {
        self.heartbeat = heartbeat;
        self
    }

    /// The delays between attempts to connect, and their number. Default: [`BackoffConfig::default`].
    pub fn backoff(mut self, config: BackoffConfig) -> Self {
        self.backoff = config;
        self
    }

    /// The way in which the gateway matches answers to requests without an ID. Default: [`Correlation::Order`].
    pub fn correlation(mut self, correlation: Correlation) -> Self {
        self.correlation = correlation;
        self
    }
}
