//! The report of one tunnel.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::metrics::{ConnectionState, Metrics};
use crate::upstream::{Circuit, UpstreamStatus, Upstreams};

/// The report of one tunnel.
pub(crate) struct TunnelReport {
    /// Its name, where there are several.
    pub(crate) label: Option<String>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) upstreams: Option<Arc<Upstreams>>,
}

impl TunnelReport {
    /// The label of its samples.
    pub(super) fn name(&self) -> (&'static str, &str) {
        ("tunnel", self.label.as_deref().unwrap_or_default())
    }

    pub(super) fn upstreams(&self) -> Vec<UpstreamStatus> {
        self.upstreams.as_ref().map(|upstreams| upstreams.status()).unwrap_or_default()
    }

    pub(super) fn obstacles(&self) -> Vec<String> {
        let of = self.label.as_ref().map(|label| format!("{label}: ")).unwrap_or_default();
        let no_session =
            (self.metrics.status().sessions == 0).then(|| format!("{of}no session with a gateway"));
        let dead = self.upstreams.as_ref().map(|upstreams| upstreams.dead_routes()).unwrap_or_default();
        let dead = dead.iter().map(|route| format!("{of}every local server for {route} is down"));
        no_session.into_iter().chain(dead).collect()
    }

    pub(super) fn status(&self) -> Value {
        let (metrics, status) = (&self.metrics, self.metrics.status());
        let connected = match status.connection {
            ConnectionState::Connected(since) => Some(since.elapsed().as_secs()),
            ConnectionState::Connecting | ConnectionState::Stopped => None,
        };
        let silences: Vec<f64> = metrics.silences().iter().map(|time| rounded(time.as_secs_f64())).collect();
        let upstreams = self.upstreams().into_iter().map(|upstream| {
            json!({
                "url": upstream.url,
                "route": upstream.route,
                "up": upstream.is_up(),
                "circuit": if upstream.circuit == Circuit::Closed { "closed" } else { "open" },
            })
        });
        let mut value = json!({
            "url": status.url,
            "sessions": status.sessions,
            "connected_seconds": connected,
            "last_heard_seconds": silences,
            "ping_seconds": metrics.round_trip().map(|time| time.as_secs_f64()),
            "in_flight": status.in_flight,
            "upstreams": upstreams.collect::<Vec<_>>(),
            "totals": {
                "served": status.served,
                "failed": status.failed,
                "refused": status.refused,
                "cancelled": status.cancelled,
                "retries": status.retries,
            },
        });
        if let Some(label) = &self.label {
            value["name"] = label.as_str().into();
        }
        value
    }
}

/// Seconds with three decimals.
pub(super) fn rounded(seconds: f64) -> f64 {
    (seconds * 1e3).round() / 1e3
}
