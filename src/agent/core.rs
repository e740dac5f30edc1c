//! The state that the threads of an agent and its handles share.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, OnceLock, RwLock, Weak};
use std::time::{Duration, Instant};

use log::{info, warn};

use super::RunError;
use super::builder::Builder;
use super::control::Control;
use super::error::{ConfigError, ConfigProblem};
use super::keeper::{KEEPER, SlotKeeper};
use super::parts::ProcessOptions;
use super::slot::Slot;
use super::threads::SessionThreads;
use super::tunnel::{Arrangement, Grace, Tunnel, TunnelSettings};
use crate::inspect::Inspector;
use crate::link::Token;
use crate::service::Service;
use crate::session::WorkQueue;
use crate::sync::{Replaceable, lock, read, write};
use crate::vitals::Vitals;

/// An agent, while it is configured and while it runs.
pub(super) struct AgentCore {
    pub(super) control: Arc<Control>,
    pub(super) process: ProcessOptions,
    tunnels: RwLock<Vec<Arc<Tunnel>>>,
    threads: Arc<SessionThreads>,
    /// Where sessions submit requests, while the agent runs. It is held for as long as the configuration changes.
    queue: Mutex<Option<WorkQueue>>,
    admin_address: OnceLock<SocketAddr>,
    /// The inspector of all tunnels' exchanges.
    pub(super) inspector: Option<Inspector>,
    pub(super) admin_token: Arc<Replaceable<Option<Token>>>,
    /// Whether the threads go on.
    vitals: Arc<Vitals>,
    /// The queue, for the watchdog.
    watched_queue: OnceLock<WorkQueue>,
    /// The services that answer no new requests, and may have some under way.
    replaced: Mutex<Vec<Weak<dyn Service>>>,
}

impl AgentCore {
    pub(super) fn new(
        tunnels: Vec<TunnelSettings>,
        process: ProcessOptions,
        inspector: Option<Inspector>,
    ) -> Self {
        AgentCore {
            control: Arc::default(),
            tunnels: RwLock::new(tunnels.into_iter().map(Tunnel::new).map(Arc::new).collect()),
            threads: Arc::default(),
            queue: Mutex::default(),
            admin_address: OnceLock::new(),
            inspector,
            admin_token: Arc::new(Replaceable::new(Arc::new(process.admin_token.clone()))),
            process,
            vitals: Arc::default(),
            watched_queue: OnceLock::new(),
            replaced: Mutex::default(),
        }
    }

    /// The part of the agent that is stuck, if one is.
    pub(super) fn stuck(&self) -> Option<&'static str> {
        let now = Instant::now();
        let is_queue_stuck = || self.watched_queue.get().is_some_and(|queue| queue.is_overdue(now));
        self.vitals.overdue(now).or_else(|| is_queue_stuck().then_some("the queue of requests"))
    }

    /// The tunnels.
    pub(super) fn tunnels(&self) -> Vec<Arc<Tunnel>> {
        read(&self.tunnels).clone()
    }

    /// The address at which the admin server listens.
    pub(super) fn admin_address(&self) -> Option<SocketAddr> {
        self.admin_address.get().copied()
    }

    pub(super) fn set_admin_address(&self, address: SocketAddr) {
        // An agent runs once.
        let _ = self.admin_address.set(address);
    }

    /// Keeps all sessions of all tunnels up until the agent stops, or all have given up.
    pub(super) fn serve(&self, queue: WorkQueue) -> Result<(), RunError> {
        // An agent runs once.
        let _ = self.watched_queue.set(queue.clone());
        let started = {
            let mut current = lock(&self.queue);
            let start = |tunnel: &Arc<Tunnel>| {
                tunnel.start();
                self.open_sessions(tunnel, &queue).1
            };
            let started = self.tunnels().iter().try_for_each(start);
            *current = Some(queue);
            started
        };
        if started.is_err() {
            // The others end.
            self.control.shutdown(Duration::ZERO);
        } else {
            self.tunnels().iter().for_each(|tunnel| tunnel.look_for_servers());
        }
        self.threads.join();
        *lock(&self.queue) = None;
        // Sessions of a configuration that came meanwhile.
        self.threads.join();
        started.map_err(RunError::Threads)?;
        self.failure()
    }

    /// Has all services give up what they wait for.
    pub(super) fn interrupt(&self) {
        for tunnel in self.tunnels() {
            tunnel.settings().exchange.service.interrupt();
        }
        let replaced: Vec<_> = lock(&self.replaced).iter().filter_map(Weak::upgrade).collect();
        replaced.iter().for_each(|service| service.interrupt());
    }

    /// Keeps the service of settings in mind that apply no more.
    fn remember(&self, settings: &TunnelSettings) {
        let mut replaced = lock(&self.replaced);
        replaced.retain(|service| service.strong_count() > 0);
        replaced.push(Arc::downgrade(&settings.exchange.service));
    }

    /// Why all slots have given up, unless the agent was to stop.
    fn failure(&self) -> Result<(), RunError> {
        let tunnels = self.tunnels();
        let slots = tunnels.iter().flat_map(|tunnel| tunnel.all_slots());
        let failures = slots.filter_map(|slot| slot.take_failure());
        // A refusal is final only when no other gateway might accept another time.
        let is_refusal = |error: &RunError| matches!(error, RunError::Refused(_));
        match failures.min_by_key(is_refusal) {
            Some(failure) if !self.control.is_stopping() => Err(failure),
            _ => Ok(()),
        }
    }

    /// Opens the sessions of a tunnel that are wanted. One whose gateway is not wanted any more hands over to a new one, or
    /// ends. Returns the slots that there were before.
    fn open_sessions(&self, tunnel: &Arc<Tunnel>, queue: &WorkQueue) -> (Vec<Arc<Slot>>, io::Result<()>) {
        let Arrangement { new, kept, retired } = tunnel.arrange_slots();
        let keeper = |slot: &Arc<Slot>| SlotKeeper {
            control: self.control.clone(),
            threads: self.threads.clone(),
            tunnel: tunnel.clone(),
            slot: slot.clone(),
            queue: queue.clone(),
            vitals: self.vitals.clone(),
            pulse: self.vitals.pulse(KEEPER),
        };
        // They have no successor.
        retired.iter().for_each(|session| tunnel.end_replaced(session, Grace::Drain));
        let again = kept.iter().filter(|slot| slot.take_failure().is_some());
        let mut result = Ok(());
        for slot in new.iter().chain(again) {
            // The others go on; this one is tried again by the next reload.
            if let Err(error) = keeper(slot).start() {
                slot.give_up(RunError::Threads(io::Error::new(error.kind(), error.to_string())));
                result = Err(error);
            }
        }
        (kept, result)
    }

    /// Takes another configuration: all of it or, where it cannot be used, nothing.
    pub(super) fn reload(&self, builder: Builder) -> Result<(), ConfigError> {
        let current = lock(&self.queue);
        let tunnels = builder.tunnels()?;
        if let Some(option) = tunnels[0].process.difference(&self.process) {
            return Err(ConfigError::new(option, ConfigProblem::NeedsRestart));
        }
        let admin_token = tunnels[0].process.admin_token.clone();
        let before = self.tunnels();
        let mut changes = Vec::new();
        for tunnel in tunnels {
            let existing = before.iter().find(|existing| existing.tunnel_id == tunnel.tunnel_id).cloned();
            let previous = existing.as_ref().map(|existing| existing.settings());
            changes.push((existing, tunnel.settings(previous.as_deref(), self.inspector.as_ref())?));
        }
        // From here on nothing fails.
        self.admin_token.replace(Arc::new(admin_token));
        let mut after = Vec::new();
        let mut new = Vec::new();
        for (existing, settings) in changes {
            match existing {
                Some(tunnel) => {
                    self.reload_tunnel(&tunnel, settings, current.as_ref());
                    after.push(tunnel);
                }
                None => {
                    let tunnel = Arc::new(Tunnel::new(settings));
                    new.push(tunnel.clone());
                    after.push(tunnel);
                }
            }
        }
        let is_kept = |tunnel: &&Arc<Tunnel>| after.iter().any(|kept| Arc::ptr_eq(kept, tunnel));
        let retired: Vec<_> = before.iter().filter(|tunnel| !is_kept(tunnel)).cloned().collect();
        *write(&self.tunnels) = after;
        if let Some(queue) = current.as_ref() {
            for tunnel in &new {
                tunnel.start();
                if let (_, Err(error)) = self.open_sessions(tunnel, queue) {
                    warn_of_threads(tunnel, &error);
                }
                tunnel.look_for_servers();
            }
        }
        for tunnel in &retired {
            self.remember(&tunnel.settings());
            tunnel.retire();
        }
        info!("the configuration was read again");
        self.control.hurry();
        Ok(())
    }

    /// Has a tunnel go on with other settings. Sessions that cannot go on have successors, which are open before they end.
    fn reload_tunnel(&self, tunnel: &Arc<Tunnel>, settings: TunnelSettings, queue: Option<&WorkQueue>) {
        let previous = tunnel.replace(settings);
        tunnel.settings().local_tls.as_ref().inspect(|tls| tls.reload());
        if !tunnel.settings().keeps_service_of(&previous) {
            self.remember(&previous);
        }
        let Some(queue) = queue else { return };
        tunnel.follow(&previous);
        let (kept, result) = self.open_sessions(tunnel, queue);
        if !tunnel.settings().keeps_sessions_of(&previous) {
            kept.iter().filter_map(|slot| slot.newest()).for_each(|session| session.renew());
        }
        if let Err(error) = result {
            warn_of_threads(tunnel, &error);
        }
    }
}

fn warn_of_threads(tunnel: &Tunnel, error: &io::Error) {
    warn!("tunnel {}: the system gives no thread for another session: {error}", tunnel.title());
}
