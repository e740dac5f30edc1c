//! How the agent is doing: as JSON for people and programs, and as metrics. Nothing of it holds a path, a header or a
//! tunnel ID.

use std::fmt;
use std::sync::Arc;

use http::{Response, StatusCode};
use serde_json::{Value, json};

use super::prometheus::{MetricsPage, escaped};
use super::server::text;
use crate::http1::{json_response, response};
use crate::metrics::{ConnectionState, Metrics};
use crate::session::WorkQueue;
use crate::upstream::{Circuit, UpstreamStatus, Upstreams};

/// The sources of a report.
pub(crate) struct Report {
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) is_stopping: Box<dyn Fn() -> bool + Send + Sync>,
    pub(crate) queue: WorkQueue,
    pub(crate) upstreams: Option<Arc<Upstreams>>,
}

impl Report {
    pub(crate) fn answer(&self, path: &str) -> Option<Response<Vec<u8>>> {
        match path {
            "/healthz" => Some(text(StatusCode::OK, "ok\n")),
            "/readyz" => Some(self.ready()),
            "/status" => Some(json_response(StatusCode::OK, &self.status())),
            "/metrics" => {
                Some(response(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", self.metrics()))
            }
            _ => None,
        }
    }

    fn upstreams(&self) -> Vec<UpstreamStatus> {
        self.upstreams.as_ref().map(|upstreams| upstreams.status()).unwrap_or_default()
    }

    /// Why the agent cannot answer visitors now, or not all of them.
    fn obstacles(&self) -> Vec<String> {
        let obstacles = [
            (self.metrics.status().sessions == 0, "no session with a gateway"),
            ((self.is_stopping)(), "the agent is stopping"),
        ];
        let stand = obstacles.into_iter().filter(|(stands, _)| *stands).map(|(_, what)| what.to_owned());
        let dead = self.upstreams.as_ref().map(|upstreams| upstreams.dead_routes()).unwrap_or_default();
        stand.chain(dead.iter().map(|route| format!("every local server for {route} is down"))).collect()
    }

    fn ready(&self) -> Response<Vec<u8>> {
        let obstacles = self.obstacles();
        let status = if obstacles.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        json_response(status, &json!({ "ready": obstacles.is_empty(), "because": obstacles }))
    }

    fn status(&self) -> Value {
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
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "uptime_seconds": metrics.uptime().as_secs(),
            "url": status.url,
            "sessions": status.sessions,
            "connected_seconds": connected,
            "last_heard_seconds": silences,
            "ping_seconds": metrics.round_trip().map(|time| time.as_secs_f64()),
            "in_flight": status.in_flight,
            "queued": self.queue.queued(),
            "upstreams": upstreams.collect::<Vec<_>>(),
            "totals": {
                "served": status.served,
                "failed": status.failed,
                "refused": status.refused,
                "cancelled": status.cancelled,
                "retries": status.retries,
            },
        })
    }

    fn metrics(&self) -> String {
        let mut page = MetricsPage(String::with_capacity(8 << 10));
        // Writing to a string does not fail.
        let _ = self.write_metrics(&mut page);
        page.0
    }

    fn write_metrics(&self, page: &mut MetricsPage) -> fmt::Result {
        let (metrics, status) = (&self.metrics, self.metrics.status());
        page.family("build_info", "gauge", "Constant 1, with the version")?;
        page.sample("build_info", &version_label(), 1)?;
        page.one("uptime_seconds", "gauge", "Since the start", metrics.uptime().as_secs())?;
        page.family(
            "responses_total",
            "counter",
            "Requests that were answered with a response, by class of status",
        )?;
        page.by_label("responses_total", "class", &metrics.responses)?;
        page.family("failures_total", "counter", "Requests that could not be forwarded, by reason")?;
        page.by_label("failures_total", "code", &metrics.failures)?;
        page.family("refused_total", "counter", "Requests that the agent refused by itself, by code")?;
        page.by_label("refused_total", "code", &metrics.refusals)?;
        let help = "Requests whose visitor left before the answer was complete, or whose session was lost \
                    while they waited";
        page.one("cancelled_total", "counter", help, status.cancelled)?;
        let help = "Answers that were dropped because their session was gone";
        page.one("answers_dropped_total", "counter", help, metrics.dropped())?;
        let help = "From taking a request on to the end of its answer";
        page.histogram("request_duration_seconds", help, &metrics.whole)?;
        let help = "From asking the local server to the head of its response";
        page.histogram("upstream_duration_seconds", help, &metrics.upstream)?;
        let (received, sent) = metrics.bytes();
        page.one("request_bytes_total", "counter", "Bytes of requests' bodies", received)?;
        page.one("response_bytes_total", "counter", "Bytes of responses' bodies", sent)?;
        page.one("in_flight", "gauge", "Requests that wait for a worker or an answer", status.in_flight)?;
        page.one("queued", "gauge", "Requests that wait for a worker", self.queue.queued() as u64)?;
        page.one("sessions", "gauge", "Sessions that are open", status.sessions)?;
        page.one("sessions_total", "counter", "Sessions that were opened", metrics.sessions_total())?;
        page.one("retries_total", "counter", "Failed tries and lost sessions", status.retries)?;
        page.family(
            "dial_failures_total",
            "counter",
            "Tries to reach a gateway that failed, by what failed",
        )?;
        page.by_label("dial_failures_total", "kind", &metrics.dials)?;
        if let Some(longest) = metrics.silences().into_iter().max() {
            let help = "Since the session that has been silent for longest heard something";
            page.family("last_heard_seconds", "gauge", help)?;
            page.sample("last_heard_seconds", "", rounded(longest.as_secs_f64()))?;
        }
        if let Some(time) = metrics.round_trip() {
            page.family("ping_seconds", "gauge", "How long a gateway took for its last pong")?;
            page.sample("ping_seconds", "", time.as_secs_f64())?;
        }
        self.write_upstreams(page)
    }

    fn write_upstreams(&self, page: &mut MetricsPage) -> fmt::Result {
        let upstreams = self.upstreams();
        if upstreams.is_empty() {
            return Ok(());
        }
        let label = |upstream: &UpstreamStatus| {
            format!("{{route=\"{}\",url=\"{}\"}}", escaped(&upstream.route), escaped(&upstream.url))
        };
        let help = "Whether nothing is known against a local server: it passes its checks, and its circuit \
                    is closed";
        page.family("upstream_up", "gauge", help)?;
        for upstream in &upstreams {
            page.sample("upstream_up", &label(upstream), u8::from(upstream.is_up()))?;
        }
        page.family("upstream_circuit_open", "gauge", "Whether a local server's circuit is open")?;
        for upstream in &upstreams {
            page.sample(
                "upstream_circuit_open",
                &label(upstream),
                u8::from(upstream.circuit != Circuit::Closed),
            )?;
        }
        Ok(())
    }
}

fn version_label() -> String {
    format!("{{version=\"{}\"}}", env!("CARGO_PKG_VERSION"))
}

fn rounded(seconds: f64) -> f64 {
    (seconds * 1e3).round() / 1e3
}
