//! One tunnel of an agent: its settings, which are replaced as a whole when they change, and the slots of its sessions.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use log::{info, warn};

use super::builder::Builder;
use super::error::ConfigWarning;
use super::slot::Slot;
use crate::advice::Advice;
use crate::clock::after;
use crate::link::Dialer;
use crate::metrics::Metrics;
use crate::net::TrustStore;
use crate::net::connect::Peer;
use crate::session::{ExchangeConfig, SessionConfig, SessionHandle, new_metrics};
use crate::sync::{Replaceable, lock};
use crate::tunnel_id::TunnelId;
use crate::upstream::{Monitors, Upstreams};

/// The reason with which a session is closed that has a successor.
const MOVED: &str = "the agent has opened another session";

/// How long a session may finish its requests that nothing forces to end.
const LONG_GRACE: Duration = Duration::from_secs(60 * 60);

/// How long a session may finish its requests once it has a successor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Grace {
    /// The time of the hand-over: its gateway is about to stop, or the slot is not wanted any more.
    Drain,
    /// An hour: it is replaced because its configuration has changed.
    Long,
}

/// The effect of a tunnel's configuration.
pub(super) struct TunnelSettings {
    /// One for each gateway.
    pub(super) dialers: Vec<Dialer>,
    pub(super) session: SessionConfig,
    pub(super) exchange: Arc<ExchangeConfig>,
    /// The service, where it is local servers.
    pub(super) upstreams: Option<Arc<Upstreams>>,
    /// The local servers, or the service, for the log.
    pub(super) served_by: String,
    /// Ports of this machine that are the tunnel's own.
    pub(super) own_ports: Vec<u16>,
    pub(super) warnings: Vec<ConfigWarning>,
    /// The certificate authorities for local servers.
    pub(super) local_tls: Option<TrustStore>,
    /// The options.
    pub(super) source: Builder,
}

impl TunnelSettings {
    /// The sessions that are wanted: the URL of the gateway of each, and its number among those with this gateway.
    fn wanted(&self) -> Vec<(String, usize)> {
        let sessions = 0..self.source.sessions_per_gateway;
        let of = |dialer: &Dialer| (dialer.url().to_string(), sessions.clone());
        let gateways = self.dialers.iter().map(of);
        gateways.flat_map(|(url, sessions)| sessions.map(move |session| (url.clone(), session))).collect()
    }

    /// The way to the gateway with this URL.
    pub(super) fn dialer(&self, url: &str) -> Option<&Dialer> {
        self.dialers.iter().find(|dialer| dialer.url().to_string() == url)
    }

    /// Whether a session that began with these settings may go on with the other ones.
    pub(super) fn keeps_sessions_of(&self, previous: &TunnelSettings) -> bool {
        self.session == previous.session
            && self.source.gateway_trust == previous.source.gateway_trust
            && self.source.client_identity == previous.source.client_identity
    }

    pub(super) fn keeps_service_of(&self, previous: &TunnelSettings) -> bool {
        Arc::ptr_eq(&self.exchange.service, &previous.exchange.service)
    }
}

/// A tunnel.
pub(super) struct Tunnel {
    pub(super) tunnel_id: TunnelId,
    pub(super) metrics: Arc<Metrics>,
    /// Which requests pass now, and how they are answered.
    pub(super) exchanges: Arc<Replaceable<ExchangeConfig>>,
    settings: Replaceable<TunnelSettings>,
    slots: Mutex<Vec<Arc<Slot>>>,
    /// The next number of a slot in a handshake.
    next_number: AtomicU32,
    monitors: Mutex<Option<Monitors>>,
}

/// The result of arranging the slots.
pub(super) struct Arrangement {
    pub(super) new: Vec<Arc<Slot>>,
    pub(super) kept: Vec<Arc<Slot>>,
    /// The sessions of those that are not wanted any more.
    pub(super) retired: Vec<SessionHandle>,
}

impl Tunnel {
    pub(super) fn new(settings: TunnelSettings) -> Self {
        Tunnel {
            tunnel_id: settings.session.tunnel_id.clone(),
            metrics: Arc::new(new_metrics()),
            exchanges: Arc::new(Replaceable::new(settings.exchange.clone())),
            settings: Replaceable::new(Arc::new(settings)),
            slots: Mutex::default(),
            next_number: AtomicU32::new(0),
            monitors: Mutex::default(),
        }
    }

    /// The tunnel's name in the log.
    pub(super) fn title(&self) -> String {
        match &self.settings().source.label {
            Some(label) => format!("{label} ({})", self.tunnel_id),
            None => self.tunnel_id.to_string(),
        }
    }

    /// The current settings.
    pub(super) fn settings(&self) -> Arc<TunnelSettings> {
        self.settings.get()
    }

    fn slots(&self) -> MutexGuard<'_, Vec<Arc<Slot>>> {
        lock(&self.slots)
    }

    /// A number that no slot has had in a handshake.
    pub(super) fn next_number(&self) -> u32 {
        self.next_number.fetch_add(1, Ordering::Relaxed)
    }

    /// All slots.
    pub(super) fn all_slots(&self) -> Vec<Arc<Slot>> {
        self.slots().clone()
    }

    /// Monitors the local servers, and says what is to come.
    pub(super) fn start(&self) {
        let settings = self.settings();
        for warning in &settings.warnings {
            warn!("{warning}");
        }
        let urls: Vec<String> = settings.dialers.iter().map(|dialer| dialer.url().to_string()).collect();
        info!("tunnel {}: from {} to {}", self.title(), urls.join(", "), settings.served_by);
        self.log_proxies(&settings, None);
        self.monitor(&settings);
    }

    /// Logs which proxies are on the way to gateways, where that is other than with the previous settings.
    fn log_proxies(&self, settings: &TunnelSettings, previous: Option<&TunnelSettings>) {
        let title = self.title();
        for dialer in &settings.dialers {
            let url = dialer.url();
            let before = previous.and_then(|previous| previous.dialer(&url.to_string()));
            match (dialer.proxy(), before.and_then(Dialer::proxy)) {
                (now, before) if now == before => {}
                (Some(proxy), _) => {
                    info!("tunnel {title}: gateway {url} is reached through the proxy {proxy}");
                }
                (None, _) => info!("tunnel {title}: gateway {url} is dialled directly from now on"),
            }
        }
    }

    /// Has threads monitor the local servers of these settings, and no others any more.
    fn monitor(&self, settings: &TunnelSettings) {
        let monitors = settings.upstreams.as_ref().map(|upstreams| upstreams.monitor()).transpose();
        let monitors = monitors.inspect_err(|error| warn!("no thread to monitor local servers: {error}"));
        let previous = std::mem::replace(&mut *lock(&self.monitors), monitors.ok().flatten());
        drop(previous);
    }

    /// Warns of local servers that do not listen yet.
    pub(super) fn look_for_servers(&self) {
        let settings = self.settings();
        for (url, error) in settings.upstreams.iter().flat_map(|upstreams| upstreams.missing()) {
            match error {
                None => warn!(advice = Advice::LocalAddress.name(); "nothing listens at {url} yet"),
                Some(error) => warn!(advice = error.advice(Peer::LocalServer).name();
                    "{url} takes no connections yet: {}", error.io()),
            }
        }
    }

    /// Replaces the settings. Requests under way end as they began. Returns those before.
    pub(super) fn replace(&self, settings: TunnelSettings) -> Arc<TunnelSettings> {
        let settings = Arc::new(settings);
        let previous = self.settings.replace(settings.clone());
        self.exchanges.replace(settings.exchange.clone());
        previous
    }

    /// Acts on settings that took the place of these while the agent runs: all but the sessions.
    pub(super) fn follow(&self, previous: &TunnelSettings) {
        let settings = self.settings();
        for warning in settings.warnings.iter().filter(|warning| !previous.warnings.contains(warning)) {
            warn!("{warning}");
        }
        self.log_proxies(&settings, Some(previous));
        if !settings.keeps_service_of(previous) {
            info!("tunnel {}: requests go to {} from now on", self.title(), settings.served_by);
            self.monitor(&settings);
            self.look_for_servers();
        }
    }

    /// Has a slot for each session that is wanted, and no others. A new slot takes over the sessions of one that is not
    /// wanted any more.
    pub(super) fn arrange_slots(&self) -> Arrangement {
        let wanted = self.settings().wanted();
        let mut slots = self.slots();
        let all = std::mem::take(&mut *slots);
        let (kept, gone): (Vec<_>, Vec<_>) = all.into_iter().partition(|slot| wanted.contains(&slot.key));
        let is_new = |key: &(String, usize)| !kept.iter().any(|slot| slot.key == *key);
        // One without a session has nothing to hand over.
        let mut retired = gone.iter().map(|slot| slot.retire()).filter(|sessions| !sessions.is_empty());
        let take_over = |key| Arc::new(Slot::new(key, retired.next().unwrap_or_default()));
        let new: Vec<_> = wanted.into_iter().filter(is_new).map(take_over).collect();
        let retired = retired.flatten().collect();
        *slots = kept.iter().chain(&new).cloned().collect();
        Arrangement { new, kept, retired }
    }

    /// Lets a session finish that has a successor, or is not wanted any more.
    pub(super) fn end_replaced(&self, session: &SessionHandle, grace: Grace) {
        let drain = self.settings().source.handover_drain;
        let time = match grace {
            Grace::Drain => drain,
            Grace::Long => drain.max(LONG_GRACE),
        };
        session.hand_over(after(time), MOVED);
    }

    /// Ends the tunnel while the agent goes on.
    pub(super) fn retire(&self) {
        let slots = std::mem::take(&mut *self.slots());
        for session in slots.iter().flat_map(|slot| slot.retire()) {
            self.end_replaced(&session, Grace::Drain);
        }
        self.stop_monitoring();
        self.metrics.stopped();
        info!("tunnel {}: ended, since it is configured no more", self.title());
    }

    /// Selects no other local server from now on.
    pub(super) fn stop_monitoring(&self) {
        let monitors = lock(&self.monitors).take();
        drop(monitors);
    }
}
