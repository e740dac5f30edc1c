//! How the agent is doing: as JSON for people and programs, and as metrics. Nothing of it holds a path, a header or a
//! tunnel ID.

use std::fmt;

use serde_json::{Value, json};

#[cfg(feature = "inspect")]
use super::pages::InteractivePages;
use super::pages::Reported;
use super::prometheus::{MetricsPage, Reports};
use super::tunnel::{TunnelReport, rounded};
use crate::session::WorkQueue;
use crate::upstream::{Circuit, UpstreamStatus};

/// The sources of a report.
pub(crate) struct Report {
    pub(crate) is_stopping: Box<dyn Fn() -> bool + Send + Sync>,
    /// The part of the agent that is stuck, if one is.
    pub(crate) stuck: Box<dyn Fn() -> Option<&'static str> + Send + Sync>,
    pub(crate) queue: WorkQueue,
    /// The tunnels that there are now: one at least.
    pub(crate) tunnels: Box<dyn Fn() -> Vec<TunnelReport> + Send + Sync>,
    #[cfg(feature = "inspect")]
    pub(crate) inspector: Option<super::inspector::InspectorPages>,
}

impl Reported for Report {
    fn name(&self) -> &'static str {
        "agent"
    }

    fn stuck(&self) -> Option<&'static str> {
        (self.stuck)()
    }

    #[cfg(feature = "inspect")]
    fn interactive(&self) -> Option<&dyn InteractivePages> {
        self.inspector.as_ref().map(|pages| pages as &dyn InteractivePages)
    }

    /// Why the agent cannot answer visitors now, or not all of them.
    fn obstacles(&self) -> Vec<String> {
        let stopping = (self.is_stopping)().then(|| "the agent is stopping".to_owned());
        let of_tunnels = (self.tunnels)().into_iter().flat_map(|tunnel| tunnel.obstacles());
        stopping.into_iter().chain(of_tunnels).collect()
    }

    /// The status: that of the tunnel, or where there are several a list of theirs.
    fn status(&self) -> Value {
        let tunnels = (self.tunnels)();
        let mut status = match tunnels.as_slice() {
            [tunnel] => tunnel.status(),
            tunnels => json!({ "tunnels": tunnels.iter().map(TunnelReport::status).collect::<Vec<_>>() }),
        };
        let uptime = tunnels.iter().map(|tunnel| tunnel.metrics.uptime()).max().unwrap_or_default();
        status["version"] = env!("CARGO_PKG_VERSION").into();
        status["uptime_seconds"] = uptime.as_secs().into();
        status["queued"] = self.queue.queued().into();
        status
    }

    fn metrics(&self) -> String {
        MetricsPage::written("tunnel_agent", |page| self.write_metrics(page, &(self.tunnels)()))
    }
}

impl Report {
    fn write_metrics(&self, page: &mut MetricsPage, tunnels: Reports<'_>) -> fmt::Result {
        page.family("build_info", "gauge", "Constant 1, with the version")?;
        page.sample("build_info", &[("version", env!("CARGO_PKG_VERSION"))], 1)?;
        page.each(("uptime_seconds", "gauge", "Since the start"), tunnels, |tunnel| {
            Some(tunnel.metrics.uptime().as_secs())
        })?;
        write_requests(page, tunnels)?;
        page.one(("queued", "gauge", "Requests that wait for a worker"), self.queue.queued())?;
        write_sessions(page, tunnels)?;
        #[cfg(feature = "inspect")]
        if let Some(pages) = &self.inspector {
            let help = "Requests that the inspector sent again";
            page.one(("replays_total", "counter", help), pages.inspector.replays())?;
        }
        write_upstreams(page, tunnels)
    }
}

fn write_requests(page: &mut MetricsPage, tunnels: Reports<'_>) -> fmt::Result {
    let help = "Requests that were answered with a response, by class of status";
    page.by_label(("responses_total", "class", help), tunnels, |tunnel| &tunnel.metrics.responses)?;
    let help = "Requests that could not be forwarded, by reason";
    page.by_label(("failures_total", "code", help), tunnels, |tunnel| &tunnel.metrics.failures)?;
    let help = "Requests that the agent refused by itself, by code";
    page.by_label(("refused_total", "code", help), tunnels, |tunnel| &tunnel.metrics.refusals)?;
    let help = "Requests whose visitor disconnected before the answer was complete, or whose session was lost while they \
                waited";
    let cancelled = |tunnel: &TunnelReport| Some(tunnel.metrics.status().cancelled);
    page.each(("cancelled_total", "counter", help), tunnels, cancelled)?;
    let help = "Answers that were dropped because their session was gone";
    let dropped = |tunnel: &TunnelReport| Some(tunnel.metrics.dropped());
    page.each(("answers_dropped_total", "counter", help), tunnels, dropped)?;
    let help = "From taking a request on to the end of its answer";
    page.histogram(("request_duration_seconds", help), tunnels, |tunnel| &tunnel.metrics.whole)?;
    let help = "From asking the local server to the head of its response";
    page.histogram(("upstream_duration_seconds", help), tunnels, |tunnel| &tunnel.metrics.upstream)?;
    let received = |tunnel: &TunnelReport| Some(tunnel.metrics.bytes().0);
    page.each(("request_bytes_total", "counter", "Bytes of requests' bodies"), tunnels, received)?;
    let sent = |tunnel: &TunnelReport| Some(tunnel.metrics.bytes().1);
    page.each(("response_bytes_total", "counter", "Bytes of responses' bodies"), tunnels, sent)?;
    let in_flight = |tunnel: &TunnelReport| Some(tunnel.metrics.status().in_flight);
    page.each(("in_flight", "gauge", "Requests that wait for a worker or an answer"), tunnels, in_flight)
}

fn write_sessions(page: &mut MetricsPage, tunnels: Reports<'_>) -> fmt::Result {
    let open = |tunnel: &TunnelReport| Some(tunnel.metrics.status().sessions);
    page.each(("sessions", "gauge", "Sessions that are open"), tunnels, open)?;
    let total = |tunnel: &TunnelReport| Some(tunnel.metrics.sessions_total());
    page.each(("sessions_total", "counter", "Sessions that were opened"), tunnels, total)?;
    let retries = |tunnel: &TunnelReport| Some(tunnel.metrics.status().retries);
    page.each(("retries_total", "counter", "Failed tries and lost sessions"), tunnels, retries)?;
    let help = "Tries to reach a gateway that failed, by what failed";
    page.by_label(("dial_failures_total", "kind", help), tunnels, |tunnel| &tunnel.metrics.dials)?;
    let help = "Since the session that has been silent for longest heard something";
    let silence = |tunnel: &TunnelReport| {
        tunnel.metrics.silences().into_iter().max().map(|longest| rounded(longest.as_secs_f64()))
    };
    page.each(("last_heard_seconds", "gauge", help), tunnels, silence)?;
    let help = "How long a gateway took for its last pong";
    let ping = |tunnel: &TunnelReport| tunnel.metrics.round_trip().map(|time| time.as_secs_f64());
    page.each(("ping_seconds", "gauge", help), tunnels, ping)
}

fn write_upstreams(page: &mut MetricsPage, tunnels: Reports<'_>) -> fmt::Result {
    let upstreams: Vec<_> = tunnels.iter().map(|tunnel| (tunnel, tunnel.upstreams())).collect();
    if upstreams.iter().all(|(_, upstreams)| upstreams.is_empty()) {
        return Ok(());
    }
    let mut family = |name, help, value: fn(&UpstreamStatus) -> bool| {
        page.family(name, "gauge", help)?;
        for (tunnel, upstreams) in &upstreams {
            for upstream in upstreams {
                let labels = [tunnel.name(), ("route", upstream.route.as_str()), ("url", &upstream.url)];
                page.sample(name, &labels, u8::from(value(upstream)))?;
            }
        }
        Ok(())
    };
    let help =
        "Whether nothing is known against a local server: it passes its checks, and its circuit is closed";
    family("upstream_up", help, UpstreamStatus::is_up)?;
    let help = "Whether a local server's circuit is open";
    family("upstream_circuit_open", help, |upstream| upstream.circuit != Circuit::Closed)
}
