//! From what was given to what is valid: the configuration is checked, and the files that it names are read.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::header::AUTHORIZATION;

use super::Agent;
use super::builder::Builder;
use super::error::{ConfigError, ConfigProblem, ConfigWarning};
use super::parts::{Answerer, InspectorPage, ProcessOptions};
use super::tunnel::TunnelSettings;
use super::valid::check_all;
use crate::guard::{Bucket, Cors, Gate, PasswordGuard, VisitorRules};
use crate::inspect::Inspector;
use crate::link::{DialConfig, Dialer, GatewayUrl};
use crate::net::TrustStore;
use crate::net::local::is_this_machine;
use crate::net::tls::{TlsError, Trust};
use crate::pool::{PoolLimits, warm_threads};
use crate::protocol::random_uuid;
use crate::service::Service;
use crate::session::{ExchangeConfig, SessionConfig};
use crate::upstream::origin::LocalUrl;
use crate::upstream::{HealthChecks, UpstreamAddress, UpstreamConfig, Upstreams};

/// Worker threads by default.
const WORKERS: usize = 16;

/// Streams at once by default.
const STREAMS: usize = 256;

/// The bodies of waiting requests may weigh this many times the largest message.
const QUEUED_MESSAGES: usize = 4;

/// Between two health checks by default.
const HEALTH_INTERVAL: Duration = Duration::from_secs(10);

/// Where the page of the inspector is, unless an address is given.
pub(super) const DEFAULT_INSPECTOR: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 4040);

const DEFAULT_GATEWAY: &str = "ws://127.0.0.1:3000/ws";

const DEFAULT_LOCAL: &str = "http://127.0.0.1:8000";

/// The service that answers, and the same service where it is local servers.
type Answering = (Arc<dyn Service>, Option<Arc<Upstreams>>);

impl Builder {
    /// Checks the configuration, and reads the files that it names.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] names the option that cannot be used, and why.
    pub fn build(self) -> Result<Agent, ConfigError> {
        let tunnels = self.tunnels()?;
        let process = tunnels[0].process.clone();
        let inspector = process.inspection.inspector();
        let largest = tunnels.iter().map(|tunnel| tunnel.max_message).max().unwrap_or_default();
        let pool = tunnels[0].pool(largest);
        let settings = |tunnel: Builder| tunnel.settings(None, inspector.as_ref());
        let settings = tunnels.into_iter().map(settings).collect::<Result<_, _>>()?;
        Ok(Agent::new(settings, pool, process, inspector))
    }

    /// All tunnels, each checked, with what was not given filled in. There is one at least.
    pub(super) fn tunnels(mut self) -> Result<Vec<Builder>, ConfigError> {
        let others = std::mem::take(&mut self.others);
        let mut tunnels = vec![self];
        for mut other in others {
            let token = other.process.admin_token.is_some().then_some("admin_token");
            if let Some(option) = other.process.difference(&ProcessOptions::default()).or(token) {
                let what = "it belongs to the agent, and not to one of its tunnels".to_owned();
                return Err(ConfigError::new(option, ConfigProblem::Invalid(what)));
            }
            other.process.clone_from(&tunnels[0].process);
            tunnels.append(&mut std::mem::take(&mut other.others));
            tunnels.push(other);
        }
        tunnels.iter_mut().for_each(Builder::fill_in);
        if tunnels.len() > 1 {
            for tunnel in &mut tunnels {
                let name = tunnel.name.as_ref().map(ToString::to_string);
                tunnel.label = Some(name.unwrap_or_else(|| tunnel.tunnel_id.to_string()));
            }
        }
        check_all(&tunnels)?;
        Ok(tunnels)
    }

    /// The settings of this tunnel, after those that it replaces. What stays the same goes on: connections to local servers,
    /// what is known of them and of visitors.
    pub(super) fn settings(
        self,
        previous: Option<&TunnelSettings>,
        inspector: Option<&Inspector>,
    ) -> Result<TunnelSettings, ConfigError> {
        let label = self.label.clone();
        self.open(previous, inspector).map_err(|error| error.of_tunnel(label.as_ref()))
    }

    fn open(
        self,
        previous: Option<&TunnelSettings>,
        inspector: Option<&Inspector>,
    ) -> Result<TunnelSettings, ConfigError> {
        let local_tls = self
            .named_servers()
            .any(LocalUrl::is_secure)
            .then(|| TrustStore::open(self.local_trust.clone(), None))
            .transpose()
            .map_err(|error| ConfigError::new("local_trust", ConfigProblem::Tls(error)))?;
        let same = previous.filter(|previous| previous.source.has_local_side_of(&self));
        let (service, upstreams) = match same {
            Some(previous) => (previous.exchange.service.clone(), previous.upstreams.clone()),
            None => self.answering(local_tls.as_ref()),
        };
        let local_tls = same.map_or(local_tls, |previous| previous.local_tls.clone());
        let instance = previous.map_or_else(random_uuid, |previous| previous.session.instance.clone());
        let exchange = self.exchange(service, previous.map(|previous| &previous.exchange.gate), inspector);
        Ok(TunnelSettings {
            dialers: self.dialers()?,
            upstreams,
            served_by: self.served_by(),
            own_ports: self.own_ports(),
            session: self.session(instance),
            exchange: Arc::new(exchange),
            warnings: self.warnings(),
            local_tls,
            source: self,
        })
    }

    /// Sets the gateway and the local server that were not given.
    fn fill_in(&mut self) {
        if self.gateways.is_empty() {
            // The constant parses, as a test shows.
            self.gateways.push(DEFAULT_GATEWAY.parse().expect("the default gateway is a URL"));
        }
        // Where it is not said where, the page is where people look for it.
        let is_shown = self.process.inspection.page == InspectorPage::Shown;
        if is_shown && self.process.inspection.inspector.is_none() {
            self.process.admin.get_or_insert(DEFAULT_INSPECTOR);
        }
        if let Answerer::Local(servers) = &mut self.answerer {
            if !servers.iter().any(|(prefix, _)| prefix.is_empty()) {
                let url = DEFAULT_LOCAL.parse().expect("the default local server is a URL");
                servers.push((String::new(), UpstreamAddress::Url(url)));
            }
        }
    }

    pub(super) fn worker_count(&self) -> usize {
        let most = || self.process.max_streams.map_or(WORKERS, |streams| streams.clamp(1, WORKERS));
        self.process.workers.unwrap_or_else(most)
    }

    pub(super) fn stream_count(&self) -> usize {
        self.process.max_streams.unwrap_or_else(|| self.worker_count().max(STREAMS))
    }

    fn dialers(&self) -> Result<Vec<Dialer>, ConfigError> {
        let tls = self
            .gateways
            .iter()
            .any(GatewayUrl::is_secure)
            .then(|| TrustStore::open(self.gateway_trust.clone(), self.client_identity.clone()))
            .transpose()
            .map_err(|error| ConfigError::new(self.option_of(&error), ConfigProblem::Tls(error)))?;
        let token = self.token.as_ref().map(|token| token.open("token_file")).transpose()?;
        let upgrade_headers =
            self.upgrade_headers.as_ref().map(|headers| headers.open("upgrade_headers_file"));
        let upgrade_headers = upgrade_headers.transpose()?;
        let dial = |url: &GatewayUrl| {
            let invalid = |invalid| ConfigError::new("proxies", ConfigProblem::Variable(invalid));
            Ok(Dialer::new(DialConfig {
                url: url.clone(),
                proxy: self.proxies.choose(url).map_err(invalid)?.cloned(),
                token: token.clone(),
                upgrade_headers: upgrade_headers.clone(),
                tls: tls.clone().filter(|_| url.is_secure()),
                timeout: self.timeouts.connect,
                max_message: self.max_message,
            }))
        };
        self.gateways.iter().map(dial).collect()
    }

    /// The option that an error of TLS with gateways is about.
    fn option_of(&self, error: &TlsError) -> &'static str {
        let is = |file: &Path| matches!(error, TlsError::File { path, .. } if path == file);
        match &self.client_identity {
            Some(identity) if is(&identity.key) => "client_key",
            Some(identity) if is(&identity.certificates) || matches!(error, TlsError::Identity(_)) => {
                "client_cert"
            }
            _ => "gateway_trust",
        }
    }

    /// Ports of this machine that are the tunnel's own.
    fn own_ports(&self) -> Vec<u16> {
        let gateways = self.gateways.iter().filter(|url| is_this_machine(url.host())).map(GatewayUrl::port);
        gateways.chain(self.process.admin.map(|address| address.port())).collect()
    }

    /// Ports of this machine with a server that was named.
    fn named_ports(&self) -> impl Iterator<Item = u16> {
        self.named_servers().filter(|url| is_this_machine(url.host())).filter_map(LocalUrl::port)
    }

    /// Ports of this machine that a search for a local server leaves out; none where nothing is searched for.
    fn searched_without(&self) -> Vec<u16> {
        let Answerer::Local(servers) = &self.answerer else { return Vec::new() };
        if !servers.iter().any(|(_, address)| *address == UpstreamAddress::Auto) {
            return Vec::new();
        }
        self.own_ports().into_iter().chain(self.named_ports()).collect()
    }

    pub(super) fn named_servers(&self) -> impl Iterator<Item = &LocalUrl> {
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
            response_rewrite: self.response_rewrite.clone(),
            site_names: self.site_names,
            breaker: self.breaker,
            checks: self.checks(),
            except: self.searched_without(),
        };
        let upstreams = Arc::new(Upstreams::new(servers, config));
        (upstreams.clone(), Some(upstreams))
    }

    fn checks(&self) -> Option<HealthChecks> {
        let interval = self.health_interval.unwrap_or(HEALTH_INTERVAL);
        self.health_path.clone().map(|path| HealthChecks { path, interval })
    }

    /// Whether requests are answered in the same way, by the same servers.
    fn has_local_side_of(&self, other: &Builder) -> bool {
        self.answerer == other.answerer
            && self.host_header == other.host_header
            && self.timeouts == other.timeouts
            && self.rewrite == other.rewrite
            && self.response_rewrite == other.response_rewrite
            && self.site_names == other.site_names
            && self.breaker == other.breaker
            && self.checks() == other.checks()
            && self.local_trust == other.local_trust
            && self.searched_without() == other.searched_without()
    }

    fn session(&self, instance: String) -> SessionConfig {
        SessionConfig {
            tunnel_id: self.tunnel_id.clone(),
            heartbeat: self.heartbeat,
            correlation: self.correlation,
            max_message: self.max_message,
            max_without_id: (self.worker_count() + self.process.queue) as u64,
            instance,
            name: self.name.clone(),
        }
    }

    fn exchange(
        &self,
        service: Arc<dyn Service>,
        previous: Option<&Gate>,
        inspector: Option<&Inspector>,
    ) -> ExchangeConfig {
        let bucket = self.rate.map(|rate| {
            let burst = self.burst.unwrap_or(rate.in_a_second());
            Bucket::new(rate, burst, self.rate_wait, Instant::now())
        });
        let guard = self.passwords.clone().map(|passwords| PasswordGuard::new(passwords, self.open.clone()));
        let credentials = self.cors_credentials;
        let cors = self.cors.clone().map(|origin| Cors { origin, credentials });
        let visitors = VisitorRules { addresses: self.addresses.clone(), guard, cors };
        let gate = Gate::new(visitors, self.rules.clone(), bucket);
        ExchangeConfig {
            tunnel_id: self.tunnel_id.clone(),
            label: self.label.clone(),
            gate: match previous {
                Some(previous) => gate.succeeding(previous),
                None => gate,
            },
            service,
            failure_reply: self.failure_reply,
            server_timing: self.server_timing,
            max_enveloped_body: self.max_enveloped_body,
            max_streamed_body: self.max_streamed_body,
            idle_timeout: self.timeouts.idle,
            inspector: inspector.cloned(),
        }
    }

    fn pool(&self, largest_message: usize) -> PoolLimits {
        PoolLimits {
            core_threads: self.worker_count(),
            warm_threads: warm_threads(),
            max_threads: self.stream_count().max(self.worker_count()),
            max_running: self.process.max_in_flight.unwrap_or(usize::MAX),
            queue_len: self.process.queue,
            queue_bytes: largest_message.saturating_mul(QUEUED_MESSAGES),
            queue_timeout: self.process.queue_timeout,
        }
    }

    /// Whether the headers for an access gateway have an `Authorization`.
    fn authorization_is_set(&self) -> bool {
        let headers = self.upgrade_headers.as_ref().and_then(|headers| headers.open("").ok());
        headers.is_some_and(|headers| headers.read().has(&AUTHORIZATION))
    }

    fn warnings(&self) -> Vec<ConfigWarning> {
        let gateway = self.gateways.iter().any(GatewayUrl::is_secure);
        let local = self.named_servers().any(LocalUrl::is_secure);
        let names_file = |trust: &Trust| matches!(trust, Trust::File(_));
        let accepts_any = |trust: &Trust| *trust == Trust::AcceptAnyCertificate;
        let is_here = self.gateways.iter().all(GatewayUrl::is_loopback);
        let warnings = [
            (self.tunnel_id.purpose().contains('_'), ConfigWarning::PurposeWithUnderscore),
            (accepts_any(&self.gateway_trust) && gateway, ConfigWarning::GatewayNotVerified),
            (names_file(&self.gateway_trust) && !gateway, ConfigWarning::GatewayAuthorityUnused),
            (self.token.is_some() && self.authorization_is_set(), ConfigWarning::AuthorizationUnused),
            (self.client_identity.is_some() && !gateway, ConfigWarning::ClientCertificateUnused),
            (self.proxies.are_chosen() && is_here, ConfigWarning::ProxyUnused),
            (accepts_any(&self.local_trust) && local, ConfigWarning::LocalNotVerified),
            (names_file(&self.local_trust) && !local, ConfigWarning::LocalAuthorityUnused),
        ];
        warnings.into_iter().filter(|(applies, _)| *applies).map(|(_, warning)| warning).collect()
    }

    /// The local servers, or the service, for the log.
    fn served_by(&self) -> String {
        let Answerer::Local(servers) = &self.answerer else { return "this program".to_owned() };
        let describe = |(prefix, address): &(String, UpstreamAddress)| match (prefix.as_str(), address) {
            ("", UpstreamAddress::Auto) => "a server of this machine".to_owned(),
            ("", UpstreamAddress::Url(url)) => url.to_string(),
            (prefix, address) => format!("{address} for {prefix}"),
        };
        servers.iter().map(describe).collect::<Vec<_>>().join(", ")
    }
}

#[cfg(test)]
mod tests {
    use crate::Agent;

    #[test]
    fn what_has_no_effect_or_is_unsafe_is_said() {
        let id = "agent_550e8400-e29b-41d4-a716-446655440000_prod";
        let secure = ("gateway", "wss://gateway.test");
        let here = ("gateway", "ws://127.0.0.1:3000");
        let proxy = ("proxy", "http://proxy.test:3128");
        for (options, warning) in [
            (vec![secure, proxy], ""),
            (vec![here, proxy], "the proxy has no effect: gateways on this machine are dialled directly"),
            (vec![here, secure, proxy], ""),
            (vec![here, ("proxy", "none")], ""),
            (vec![here, ("insecure", "true")], ""),
            (
                vec![secure, ("insecure", "true")],
                "the gateway's certificate is not verified: anybody can pose as the gateway",
            ),
            (
                vec![here, ("ca_file", "/x.pem")],
                "the certificate authorities for gateways have no effect: no gateway is wss://",
            ),
            (
                vec![here, ("client_cert", "/x.pem"), ("client_key", "/x.key")],
                "the client certificate has no effect: no gateway is wss://",
            ),
            (
                vec![secure, ("token", "sesame"), ("upgrade_headers", "Authorization: Basic eA==")],
                "the Authorization among the headers of the upgrade is left out: the token for the gateway is sent in its place",
            ),
            (
                vec![here, ("local", "https://site.test"), ("local_insecure", "true")],
                "the local server's certificate is not verified",
            ),
            (
                vec![here, ("local_ca_file", "/x.pem")],
                "the certificate authorities for local servers have no effect: no local server is https://",
            ),
        ] {
            let mut builder = Agent::builder(id.parse().unwrap());
            options.iter().for_each(|(name, value)| builder.set(name, value).unwrap());
            let said: Vec<_> = builder.warnings().iter().map(ToString::to_string).collect();
            assert_eq!(said.concat(), warning, "{options:?}");
        }
    }
}
