//! The gateway's own pages: how it is doing, for balancers and operators.

use http::header::{self, HeaderMap};
use http::{Method, Response, StatusCode};
use serde_json::{Value, json};

use super::GatewayCore;
use super::agent_session::AgentSession;
use super::builder::OwnPaths;
use super::config::GatewayConfig;
use super::forwarded::{self, Arrival};
use super::responses::Problem;
use super::visitor_request::VisitorRequest;
use crate::admin::ready;
use crate::http1::{Head, json_response, names_loopback};
use crate::protocol::X_TUNNEL_ID;

/// The prefix of the gateway's own paths.
const PREFIX: &str = "/.tunnel/";

/// A page of the gateway's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Page {
    Health,
    Ready,
    Connections,
    /// Where a body is sent that an agent gets as `POST /`.
    Forward,
    /// The path at which agents connect, requested without an upgrade.
    AgentPath,
    /// There is none; or not for this method.
    Missing,
    NotAllowed,
}

/// The page that a request asks for that came to no tunnel's host. One that names a tunnel means its application's, but
/// under the gateway's own prefix.
pub(super) fn page(head: &Head, settings: &GatewayConfig) -> Option<Page> {
    let (method, path) = (head.request.method(), head.request.uri().path());
    let reads = matches!(*method, Method::GET | Method::HEAD);
    if let Some(name) = path.strip_prefix(PREFIX) {
        return Some(match name {
            "forward" if *method == Method::POST => Page::Forward,
            "health" if reads => Page::Health,
            "ready" if reads => Page::Ready,
            "connections" if reads => Page::Connections,
            "forward" | "health" | "ready" | "connections" => Page::NotAllowed,
            _ => Page::Missing,
        });
    }
    // The requests of a page belong to its application.
    let headers = head.request.headers();
    let is_of_page = headers.contains_key(header::ORIGIN) || headers.contains_key(X_TUNNEL_ID);
    match path {
        _ if settings.own_paths == OwnPaths::New || is_of_page => None,
        "/health" if reads => Some(Page::Health),
        "/connections" if reads => Some(Page::Connections),
        "/forward" if *method == Method::POST => Some(Page::Forward),
        path if path == settings.agent_path => Some(Page::AgentPath),
        _ => None,
    }
}

/// The response of a page.
pub(super) fn answer(page: Page, request: &VisitorRequest<'_>) -> Response<Vec<u8>> {
    let VisitorRequest { head, arrival, gateway, .. } = *request;
    let result = match page {
        Page::Health => Ok((StatusCode::OK, health(gateway))),
        Page::Ready => return ready(&gateway.obstacles()),
        Page::Connections => {
            connections(head.request.headers(), arrival, gateway).map(|list| (StatusCode::OK, list))
        }
        Page::AgentPath => Err(Problem::agent_path(&gateway.settings.agent_path)),
        Page::NotAllowed => Err(Problem::method_not_allowed("not with this method", "GET, HEAD, POST")),
        Page::Forward | Page::Missing => Err(Problem::not_found()),
    };
    match result {
        Ok((status, json)) => json_response(status, &json),
        Err(problem) => request.problem(problem),
    }
}

fn health(gateway: &GatewayCore) -> Value {
    json!({
        "status": "ok",
        "agents": gateway.agents.count(),
        "uptime_seconds": gateway.started.elapsed().as_secs(),
        "version": env!("CARGO_PKG_VERSION"),
    })
}

/// The agents, for this machine alone, or with the token.
fn connections(headers: &HeaderMap, arrival: &Arrival, gateway: &GatewayCore) -> Result<Value, Problem> {
    let token = gateway.settings.credentials.token();
    let shows_token = token.is_some_and(|token| {
        headers.get(header::AUTHORIZATION).is_some_and(|value| token.is_shown_by(value))
    });
    // A request that a proxy on this machine passed on is not this machine's.
    let is_passed_on = forwarded::has_family(headers);
    // And a page in a browser on this machine can make its own name lead here.
    let is_named = headers.get(header::HOST).is_none_or(names_loopback);
    let is_local = arrival.peer.is_loopback() && !is_passed_on && is_named;
    if !shows_token && !is_local {
        return Err(Problem::forbidden());
    }
    let list: Vec<_> = gateway.agents.list().iter().map(|agent| describe(agent)).collect();
    Ok(json!({ "count": list.len(), "connections": list }))
}

fn describe(agent: &AgentSession) -> Value {
    json!({
        "connection_id": agent.connection_id,
        "tunnel_id": agent.handshake.tunnel_id.to_string(),
        "url": agent.url,
        "agent_version": agent.handshake.agent_version,
        "capabilities": agent.handshake.capabilities,
        "connected_seconds": agent.since.elapsed().as_secs(),
        "in_flight": agent.in_flight(),
    })
}
