//! How a gateway is doing, for its operators.

use std::sync::Arc;
use std::{fmt, io};

use serde_json::{Value, json};

use super::GatewayCore;
use super::agent_session::AgentSession;
use crate::admin::{Admin, MetricsPage, Reported};

/// The pages of the admin server.
pub(super) struct GatewayReport(pub(super) Arc<GatewayCore>);

impl GatewayCore {
    /// Starts the server for operators, if there is to be one.
    pub(super) fn start_admin(self: &Arc<Self>) -> io::Result<Option<Admin>> {
        let Some(address) = self.settings.admin else { return Ok(None) };
        let started =
            Admin::start(address, self.settings.credentials.admin_token(), GatewayReport(self.clone()));
        let failed =
            |error: io::Error| io::Error::new(error.kind(), format!("{address} for operators: {error}"));
        started.map(Some).map_err(failed)
    }

    /// Why a balancer is to send no requests here.
    pub(super) fn obstacles(&self) -> Vec<String> {
        let obstacles = [
            (self.visitors.are_draining(), "the gateway is stopping"),
            (!self.agents.has_any(), "no agent is connected"),
        ];
        obstacles.into_iter().filter(|(stands, _)| *stands).map(|(_, what)| what.to_owned()).collect()
    }
}

impl Reported for GatewayReport {
    fn name(&self) -> &'static str {
        "gateway"
    }

    fn obstacles(&self) -> Vec<String> {
        self.0.obstacles()
    }

    fn status(&self) -> Value {
        let core = &*self.0;
        let (agents, visitors) = (core.agents.list(), core.visitors.census());
        let (sessions, lost) = core.metrics.sessions();
        let of_agent = |agent: &Arc<AgentSession>| {
            json!({
                "tunnel": agent.handshake.tunnel_id.to_string(),
                "url": agent.url,
                "version": agent.handshake.agent_version,
                "connected_seconds": agent.since.elapsed().as_secs(),
                "in_flight": agent.in_flight(),
            })
        };
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "uptime_seconds": core.started.elapsed().as_secs(),
            "tunnels": core.agents.tunnel_count(),
            "agents": agents.iter().map(of_agent).collect::<Vec<_>>(),
            "visitors": visitors.connections,
            "places": { "taken": visitors.placed, "of": core.visitors.places() },
            "in_flight": visitors.requests,
            "body_bytes": { "held": core.bodies.used(), "of": core.bodies.max() },
            "totals": {
                "responses": core.metrics.responses.sum(),
                "cancelled": core.metrics.cancelled_count(),
                "cut": core.metrics.cut_count(),
                "sessions": sessions,
                "sessions_lost": lost,
                "turned_away": core.metrics.turned_away_count(),
                "received_bytes": visitors.received,
                "sent_bytes": visitors.sent,
            },
        })
    }

    fn metrics(&self) -> String {
        MetricsPage::written("tunnel_gateway", |page| self.write_metrics(page))
    }
}

impl GatewayReport {
    fn write_metrics(&self, page: &mut MetricsPage) -> fmt::Result {
        let core = &*self.0;
        page.family("build_info", "gauge", "Constant 1, with the version")?;
        page.sample("build_info", &[("version", env!("CARGO_PKG_VERSION"))], 1)?;
        page.one(("uptime_seconds", "gauge", "Since the start"), core.started.elapsed().as_secs())?;
        self.write_agents(page)?;
        self.write_visitors(page)?;
        self.write_requests(page)
    }

    fn write_agents(&self, page: &mut MetricsPage) -> fmt::Result {
        let core = &*self.0;
        page.one(("agents", "gauge", "Sessions of agents that are open"), core.agents.count())?;
        page.one(("tunnels", "gauge", "Tunnels with a session"), core.agents.tunnel_count())?;
        let (sessions, lost) = core.metrics.sessions();
        page.one(("sessions_total", "counter", "Sessions of agents that were opened"), sessions)?;
        let help = "Sessions of agents that ended without a goodbye";
        page.one(("sessions_lost_total", "counter", help), lost)
    }

    fn write_visitors(&self, page: &mut MetricsPage) -> fmt::Result {
        let core = &*self.0;
        let visitors = core.visitors.census();
        page.one(("visitors", "gauge", "Connections of visitors that are open"), visitors.connections)?;
        page.one(("places_taken", "gauge", "Places of visitors that are taken"), visitors.placed)?;
        page.one(("places", "gauge", "Places of visitors that there are"), core.visitors.places())?;
        let help = "Connections that were closed since there was no place for them";
        page.one(("turned_away_total", "counter", help), core.metrics.turned_away_count())?;
        let name = "failed_handshakes_total";
        page.family(
            name,
            "counter",
            "TLS handshakes that failed, by the address to which the connection came",
        )?;
        for (door, count) in core.metrics.failed_handshakes.each() {
            page.sample(name, &[("door", door)], count)?;
        }
        page.one(("received_bytes_total", "counter", "Bytes from visitors"), visitors.received)?;
        page.one(("sent_bytes_total", "counter", "Bytes to visitors"), visitors.sent)?;
        let help = "Bytes of whole bodies that are held for agents without mux/2 and for requests that may be tried again";
        page.one(("body_bytes", "gauge", help), core.bodies.used())?;
        page.one(("body_bytes_max", "gauge", "Bytes of whole bodies that may be held"), core.bodies.max())?;
        page.one(("in_flight", "gauge", "Requests that are being answered"), visitors.requests)
    }

    fn write_requests(&self, page: &mut MetricsPage) -> fmt::Result {
        let metrics = &self.0.metrics;
        page.family("responses_total", "counter", "Responses to visitors, by class of status")?;
        for (class, count) in metrics.responses.each() {
            page.sample("responses_total", &[("class", class)], count)?;
        }
        page.family("problems_total", "counter", "Responses of the gateway's own, by code")?;
        for (code, count) in metrics.problems() {
            page.sample("problems_total", &[("code", code)], count)?;
        }
        let help = "Requests whose visitor disconnected before there was a response";
        page.one(("cancelled_total", "counter", help), metrics.cancelled_count())?;
        let help = "Responses that broke off before their end, on either side";
        page.one(("cut_total", "counter", help), metrics.cut_count())?;
        let name = "request_duration_seconds";
        page.family(
            name,
            "histogram",
            "From a request's head to the end of its response; event streams and other protocols aside",
        )?;
        page.buckets(name, ("", ""), &metrics.durations)
    }
}
