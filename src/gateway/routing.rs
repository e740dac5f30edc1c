//! Which of a visitor's requests the gateway answers, and which an agent.

use std::sync::Arc;

use http::header::{self, HeaderValue};
use http::{Method, Response, StatusCode};

use super::GatewayCore;
use super::agent_session::AgentSession;
use super::names::HostMeaning;
use super::pages::{self, Page};
use super::registry::Tunnels;
use super::responses::Problem;
use super::visitor_request::VisitorRequest;
use crate::http1::{Framing, Head};
use crate::protocol::X_TUNNEL_ID;
use crate::tunnel_id::TunnelId;

pub(super) const MAX_FORWARDS: header::HeaderName = header::HeaderName::from_static("max-forwards");

/// The responder to a request.
pub(super) enum Responder {
    Gateway(Response<Vec<u8>>),
    Agent(Destination),
}

/// Where a request goes.
pub(super) struct Destination {
    pub(super) agent: Arc<AgentSession>,
    pub(super) target: Target,
}

/// The target with which a request goes to the agent.
pub(super) enum Target {
    /// As it came.
    Same,
    /// The root.
    Root,
}

/// Whether a visitor has a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Taken,
    Missing,
}

impl From<bool> for Place {
    /// `true` is [`Taken`](Place::Taken).
    fn from(has_place: bool) -> Self {
        if has_place { Place::Taken } else { Place::Missing }
    }
}

impl VisitorRequest<'_> {
    /// The response at a door that is not for this request. Balancers ask at each how the gateway is doing.
    pub(super) fn misdirected(&self) -> Response<Vec<u8>> {
        match pages::page(self.head, &self.gateway.settings) {
            Some(page @ (Page::Health | Page::Ready)) => pages::answer(page, self),
            _ => self.problem(Problem::agents_only()),
        }
    }

    /// Chooses the responder to the request.
    pub(super) fn route(&self, place: Place) -> Responder {
        let page = match self.host {
            HostMeaning::Tunnel(_) => None,
            HostMeaning::Gateway | HostMeaning::Absent => pages::page(self.head, &self.gateway.settings),
        };
        let target = match page {
            Some(Page::Forward) => Target::Root,
            Some(page) => return Responder::Gateway(pages::answer(page, self)),
            None => Target::Same,
        };
        let here = |problem: Problem| Responder::Gateway(self.problem(problem));
        if place == Place::Missing {
            return here(Problem::no_place());
        }
        if let Some(response) = ended_here(self.head) {
            return response.map_or_else(here, Responder::Gateway);
        }
        match find_agent(self) {
            Ok(agent) => Responder::Agent(Destination { agent, target }),
            Err(problem) => here(problem),
        }
    }
}

/// The agent that a request goes to. A gateway that has just started waits for one.
fn find_agent(request: &VisitorRequest<'_>) -> Result<Arc<AgentSession>, Problem> {
    let (gateway, headers) = (request.gateway, request.head.request.headers());
    let (named, host) = (headers.get(X_TUNNEL_ID), headers.get(header::HOST));
    let until = gateway.started + gateway.settings.hold;
    let mut meaning = request.host.clone();
    loop {
        let changes = gateway.agents.changes();
        let is_absent = named.is_none() && meaning == HostMeaning::Absent;
        let wanted = if is_absent { None } else { wanted_tunnel(named, &meaning, gateway)? };
        if let Some(agent) = wanted.as_ref().and_then(|id| gateway.agents.choose(id, &[])) {
            return Ok(agent);
        }
        let has_come = match is_absent {
            true => gateway.agents.wait_for_change(changes, until),
            false => gateway.agents.wait_for(wanted.as_ref(), until),
        };
        if !has_come {
            let is_of_tunnel = named.is_some() || meaning != HostMeaning::Gateway;
            return Err(if is_of_tunnel { Problem::no_agent_of_tunnel() } else { Problem::no_agent() });
        }
        // The tunnel of a request depends on the connected agents, but where its ID is named.
        meaning = host.map_or(HostMeaning::Gateway, |host| gateway.names.meaning(host));
    }
}

/// The tunnel that a request is for, if there is one.
fn wanted_tunnel(
    named: Option<&HeaderValue>,
    host: &HostMeaning,
    gateway: &GatewayCore,
) -> Result<Option<TunnelId>, Problem> {
    if let Some(value) = named {
        let id = value.to_str().ok().and_then(|value| value.parse().ok());
        return id.map(Some).ok_or_else(Problem::bad_tunnel_id);
    }
    let at_host = if let HostMeaning::Tunnel(id) = host { Some(id) } else { None };
    if let Some(id) = at_host.or(gateway.settings.default_tunnel.as_ref()) {
        return Ok(Some(id.clone()));
    }
    match gateway.agents.tunnels() {
        Tunnels::One(id) => Ok(Some(id)),
        Tunnels::None => Ok(None),
        Tunnels::Several => Err(Problem::which_tunnel()),
    }
}

/// The response to a request that may go no further (RFC 9110 §7.6.2), or that has content it must not have (§9.3.8).
fn ended_here(head: &Head) -> Option<Result<Response<Vec<u8>>, Problem>> {
    let method = head.request.method();
    if *method == Method::TRACE && head.framing != Framing::Length(0) {
        return Some(Err(Problem::bad_request("a TRACE request has no content")));
    }
    let is_last = head.request.headers().get(MAX_FORWARDS).and_then(max_forwards) == Some(0);
    match *method {
        Method::OPTIONS if is_last => {
            let mut response = Response::new(Vec::new());
            *response.status_mut() = StatusCode::NO_CONTENT;
            Some(Ok(response))
        }
        Method::TRACE if is_last => {
            let allowed = "GET, HEAD, POST, PUT, DELETE, OPTIONS";
            Some(Err(Problem::method_not_allowed("TRACE ends here, and is not answered", allowed)))
        }
        _ => None,
    }
}

/// The number in a `Max-Forwards`, if it is one.
pub(super) fn max_forwards(value: &HeaderValue) -> Option<u32> {
    value.to_str().ok()?.parse().ok()
}
