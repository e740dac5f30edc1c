//! What the admin server tells: how the agent is doing, as JSON for people and programs, and as metrics in the
//! Prometheus text format. Nothing of it holds a path, a header or a tunnel ID.

use std::fmt::{self, Write};
use std::sync::Arc;

use http::{Response, StatusCode};
use serde_json::{Value, json};

use super::control::Control;
use crate::admin::text;
use crate::http1::{json_response, response};
use crate::pool::Intake;
use crate::session::job::Job;
use crate::status::{ByName, Connection, Counters, Histogram};
use crate::targets::{TargetStatus, Targets};

/// Where a report takes its facts from.
pub(super) struct Report {
    pub(super) counters: Arc<Counters>,
    pub(super) control: Arc<Control>,
    pub(super) intake: Intake<Job>,
    pub(super) targets: Option<Arc<Targets>>,
}

impl Report {
    pub(super) fn answer(&self, path: &str) -> Option<Response<Vec<u8>>> {
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

    fn targets(&self) -> Vec<TargetStatus> {
        self.targets.as_ref().map(|targets| targets.status()).unwrap_or_default()
    }

    /// Why the agent cannot answer visitors now, or not all of them.
    fn obstacles(&self) -> Vec<String> {
        let obstacles = [
            (self.counters.status().sessions == 0, "no session with a gateway"),
            (self.control.is_stopping(), "the agent is stopping"),
        ];
        let stand = obstacles.into_iter().filter(|(stands, _)| *stands).map(|(_, what)| what.to_owned());
        let dead = self.targets.as_ref().map(|targets| targets.dead_routes()).unwrap_or_default();
        stand.chain(dead.iter().map(|route| format!("every local server for {route} is down"))).collect()
    }

    fn ready(&self) -> Response<Vec<u8>> {
        let obstacles = self.obstacles();
        let status = if obstacles.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        json_response(status, &json!({ "ready": obstacles.is_empty(), "because": obstacles }))
    }

    fn status(&self) -> Value {
        let (counters, status) = (&self.counters, self.counters.status());
        let connected = match status.connection {
            Connection::Connected(since) => Some(since.elapsed().as_secs()),
            Connection::Connecting | Connection::Stopped => None,
        };
        let silences: Vec<f64> = counters.silences().iter().map(|time| rounded(time.as_secs_f64())).collect();
        let targets = self.targets().into_iter().map(|target| {
            json!({
                "url": target.url,
                "route": target.route,
                "up": target.is_up(),
                "circuit": if target.is_circuit_open { "open" } else { "closed" },
            })
        });
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "uptime_seconds": counters.uptime().as_secs(),
            "sessions": status.sessions,
            "connected_seconds": connected,
            "last_heard_seconds": silences,
            "ping_seconds": counters.round_trip().map(|time| time.as_secs_f64()),
            "in_flight": status.in_flight,
            "queued": self.intake.queued(),
            "targets": targets.collect::<Vec<_>>(),
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
        let mut page = Page(String::with_capacity(8 << 10));
        // Writing to a string does not fail.
        let _ = self.write_metrics(&mut page);
        page.0
    }

    fn write_metrics(&self, page: &mut Page) -> fmt::Result {
        let (counters, status) = (&self.counters, self.counters.status());
        page.one("build_info", "gauge", "Constant 1, with the version", &version_label(), 1)?;
        page.one("uptime_seconds", "gauge", "Since the start", "", counters.uptime().as_secs())?;
        page.family(
            "responses_total",
            "counter",
            "Requests that were answered with a response, by class of status",
        )?;
        page.by_name("responses_total", "class", &counters.responses)?;
        page.family("failures_total", "counter", "Requests that could not be forwarded, by reason")?;
        page.by_name("failures_total", "code", &counters.failures)?;
        page.family("refused_total", "counter", "Requests that the agent refused by itself, by code")?;
        page.by_name("refused_total", "code", &counters.refusals)?;
        let help = "Requests whose visitor left before the answer was complete, or whose session was lost \
                    while they waited";
        page.one("cancelled_total", "counter", help, "", status.cancelled)?;
        let help = "Answers that were dropped because their session was gone";
        page.one("answers_dropped_total", "counter", help, "", counters.dropped())?;
        let help = "From taking a request on to the end of its answer";
        page.histogram("request_duration_seconds", help, &counters.whole)?;
        let help = "From asking the local server to the head of its response";
        page.histogram("origin_duration_seconds", help, &counters.origin)?;
        let (received, sent) = counters.bytes();
        page.one("request_bytes_total", "counter", "Bytes of requests' bodies", "", received)?;
        page.one("response_bytes_total", "counter", "Bytes of responses' bodies", "", sent)?;
        page.one("in_flight", "gauge", "Requests that wait for a worker or an answer", "", status.in_flight)?;
        page.one("queued", "gauge", "Requests that wait for a worker", "", self.intake.queued() as u64)?;
        page.one("sessions", "gauge", "Sessions that are open", "", status.sessions)?;
        page.one("sessions_total", "counter", "Sessions that were opened", "", counters.sessions_total())?;
        page.one("retries_total", "counter", "Failed tries and lost sessions", "", status.retries)?;
        page.family(
            "dial_failures_total",
            "counter",
            "Tries to reach a gateway that failed, by what failed",
        )?;
        page.by_name("dial_failures_total", "kind", &counters.dials)?;
        if let Some(longest) = counters.silences().into_iter().max() {
            let help = "Since the session that has been silent for longest heard something";
            page.family("last_heard_seconds", "gauge", help)?;
            page.sample("last_heard_seconds", "", rounded(longest.as_secs_f64()))?;
        }
        if let Some(time) = counters.round_trip() {
            page.family("ping_seconds", "gauge", "How long a gateway took for its last pong")?;
            page.sample("ping_seconds", "", time.as_secs_f64())?;
        }
        self.write_targets(page)
    }

    fn write_targets(&self, page: &mut Page) -> fmt::Result {
        let targets = self.targets();
        if targets.is_empty() {
            return Ok(());
        }
        let label = |target: &TargetStatus| {
            format!("{{route=\"{}\",url=\"{}\"}}", escaped(&target.route), escaped(&target.url))
        };
        let help = "Whether nothing is known against a local server: it passes its checks, and its circuit \
                    is closed";
        page.family("target_up", "gauge", help)?;
        for target in &targets {
            page.sample("target_up", &label(target), u8::from(target.is_up()))?;
        }
        page.family("target_circuit_open", "gauge", "Whether a local server's circuit is open")?;
        for target in &targets {
            page.sample("target_circuit_open", &label(target), u8::from(target.is_circuit_open))?;
        }
        Ok(())
    }
}

/// A page of metrics.
struct Page(String);

impl Page {
    fn family(&mut self, name: &str, kind: &str, help: &str) -> fmt::Result {
        writeln!(self.0, "# HELP tunnel_agent_{name} {help}.\n# TYPE tunnel_agent_{name} {kind}")
    }

    fn sample(&mut self, name: &str, labels: &str, value: impl fmt::Display) -> fmt::Result {
        writeln!(self.0, "tunnel_agent_{name}{labels} {value}")
    }

    fn one(&mut self, name: &str, kind: &str, help: &str, labels: &str, value: u64) -> fmt::Result {
        self.family(name, kind, help)?;
        self.sample(name, labels, value)
    }

    fn by_name<const N: usize>(&mut self, name: &str, label: &str, counts: &ByName<N>) -> fmt::Result {
        counts.each().try_for_each(|(of, count)| self.sample(name, &format!("{{{label}=\"{of}\"}}"), count))
    }

    fn histogram(&mut self, name: &str, help: &str, histogram: &Histogram) -> fmt::Result {
        self.family(name, "histogram", help)?;
        let counts = histogram.cumulative();
        let bounds = Histogram::BOUNDS.iter().map(ToString::to_string).chain(["+Inf".to_owned()]);
        for (bound, count) in bounds.zip(&counts) {
            self.sample(&format!("{name}_bucket"), &format!("{{le=\"{bound}\"}}"), count)?;
        }
        self.sample(&format!("{name}_sum"), "", histogram.seconds())?;
        self.sample(&format!("{name}_count"), "", counts.last().copied().unwrap_or(0))
    }
}

fn version_label() -> String {
    format!("{{version=\"{}\"}}", env!("CARGO_PKG_VERSION"))
}

/// A label's value as the text format wants it.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

fn rounded(seconds: f64) -> f64 {
    (seconds * 1e3).round() / 1e3
}
