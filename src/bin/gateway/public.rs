//! One connection: a visitor's requests, each of which an agent answers, or the gateway itself.

use std::io;
use std::sync::Arc;

use http::header::{self, HeaderName, HeaderValue};
use http::{Method, Response, StatusCode, Uri, request};
use serde_json::json;
use tunnel_agent::TunnelId;
use tunnel_agent::headers::{remove_hop_by_hop, remove_spellings};
use tunnel_agent::http1::{Connection, Error, Head, json_response};
use tunnel_agent::link::Socket;

use super::agent::Agent;
use super::clients::{Client, Stage};
use super::problems::{self, problem};
use super::{Gateway, accept, stream};

const X_TUNNEL_ID: HeaderName = HeaderName::from_static("x-tunnel-id");
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// Serves one connection to its end.
pub fn serve(socket: Socket, client: Client, gateway: &Arc<Gateway>) -> io::Result<()> {
    socket.keep_alive()?;
    let peer = socket.peer()?.ip().to_string();
    let mut connection = Connection::new(socket)?;
    loop {
        if !connection.wait() || !client.is_now(Stage::Arriving) {
            return Ok(());
        }
        let mut head = match connection.read_head() {
            Ok(head) => head,
            Err(error) => return refuse(connection, None, error),
        };
        let to_agent = head.request.headers().contains_key(X_TUNNEL_ID);
        if !to_agent && accept::is_agent(&head) {
            drop(client);
            return accept::upgrade(connection, &head, gateway);
        }
        head.keep_alive &= !gateway.clients.is_draining();
        let next = match route(&head, to_agent, gateway) {
            Route::Agent(to) => forward(connection, &head, to, &peer, &client, gateway)?,
            Route::Here(response) => {
                let read = |connection: &mut Connection, max| connection.skip_body(&head, max);
                answer(connection, &head, read, |()| response, gateway)?
            }
        };
        match next {
            Some(next) if client.is_now(Stage::Idle) => connection = next,
            _ => return Ok(()),
        }
    }
}

/// Who answers a request.
enum Route {
    /// The gateway itself.
    Here(Response<Vec<u8>>),
    Agent(Destination),
}

/// Where a request goes.
struct Destination {
    agent: Arc<Agent>,
    /// The tunnel that was asked for.
    wanted: Option<TunnelId>,
    /// In place of the request's own path.
    path: Option<Uri>,
}

fn route(head: &Head, to_agent: bool, gateway: &Gateway) -> Route {
    let own = !to_agent;
    let path = match (head.request.method(), head.request.uri().path()) {
        (&Method::GET | &Method::HEAD, "/health") if own => return Route::Here(health(gateway)),
        (&Method::GET | &Method::HEAD, "/connections") if own => return Route::Here(connections(gateway)),
        (_, "/ws") if own => {
            let text = "/ws is for agents: a WebSocket upgrade";
            let mut response = problem(StatusCode::UPGRADE_REQUIRED, "upgrade_required", text);
            response.headers_mut().insert(header::UPGRADE, HeaderValue::from_static("websocket"));
            return Route::Here(response);
        }
        (&Method::POST, "/forward") if own => Some(Uri::from_static("/")),
        _ => None,
    };
    let wanted = match head.request.headers().get(X_TUNNEL_ID).map(tunnel_id) {
        Some(None) => {
            let text = "X-Tunnel-Id is not a tunnel ID";
            return Route::Here(problem(StatusCode::BAD_REQUEST, "bad_tunnel_id", text));
        }
        Some(wanted) => wanted,
        None => None,
    };
    match gateway.agents.choose(wanted.as_ref(), &[]) {
        Some(agent) => Route::Agent(Destination { agent, wanted, path }),
        None if wanted.is_some() => {
            Route::Here(problems::unavailable("no_agent", "no agent of this tunnel is connected"))
        }
        None => Route::Here(problems::unavailable("no_agent", "no agent is connected")),
    }
}

fn forward(
    connection: Connection,
    head: &Head,
    to: Destination,
    peer: &str,
    client: &Client,
    gateway: &Gateway,
) -> io::Result<Option<Connection>> {
    let Destination { agent, wanted, path } = to;
    let mut parts = head.request.clone().into_parts().0;
    if let Some(path) = path {
        parts.uri = path;
    }
    prepare(&mut parts, peer, gateway.settings.tls.is_some());
    if agent.mux().is_some() {
        let choose = |tried: &[Arc<Agent>]| gateway.agents.choose(wanted.as_ref(), tried);
        return stream::forward(connection, head, parts, agent, choose, client, gateway);
    }
    let settings = &gateway.settings;
    let forward = |body: Vec<u8>| {
        client.is_now(Stage::Served);
        match agent.forward(&parts, &body, settings.max_message, settings.timeout) {
            Ok(Ok(response)) => response,
            Ok(Err(text)) => problem(StatusCode::BAD_GATEWAY, "agent_error", &text),
            Err(no_answer) => no_answer.response(),
        }
    };
    answer(connection, head, |connection, max| connection.read_body(head, max), forward, gateway)
}

/// Reads a whole request, and answers it with a whole response. Gives the connection back when it can take
/// another request.
fn answer<B>(
    mut connection: Connection,
    head: &Head,
    read: impl FnOnce(&mut Connection, usize) -> Result<B, Error>,
    respond: impl FnOnce(B) -> Response<Vec<u8>>,
    gateway: &Gateway,
) -> io::Result<Option<Connection>> {
    let body = match read(&mut connection, gateway.settings.max_body) {
        Ok(body) => body,
        Err(error) => return refuse(connection, Some(head), error).map(|()| None),
    };
    if connection.respond(Some(head), respond(body))? {
        return Ok(Some(connection));
    }
    connection.linger();
    Ok(None)
}

/// Refuses what cannot be read. What follows on the connection cannot be told from the rest of it.
pub fn refuse(mut connection: Connection, head: Option<&Head>, error: Error) -> io::Result<()> {
    let mut response = problems::unreadable(error)?;
    if head.is_some_and(|head| head.request.method() == Method::HEAD) {
        response.body_mut().clear();
    }
    connection.respond(None, response)?;
    connection.linger();
    Ok(())
}

fn health(gateway: &Gateway) -> Response<Vec<u8>> {
    let json = json!({
        "status": "ok",
        "agents": gateway.agents.count(),
        "uptime_seconds": gateway.started.elapsed().as_secs(),
        "version": env!("CARGO_PKG_VERSION"),
    });
    json_response(StatusCode::OK, &json)
}

fn connections(gateway: &Gateway) -> Response<Vec<u8>> {
    let list: Vec<_> = gateway.agents.list().iter().map(|agent| describe(agent)).collect();
    json_response(StatusCode::OK, &json!({ "count": list.len(), "connections": list }))
}

fn describe(agent: &Agent) -> serde_json::Value {
    json!({
        "connection_id": agent.connection_id,
        "tunnel_id": agent.handshake.tunnel_id.to_string(),
        "agent_version": agent.handshake.agent_version,
        "capabilities": agent.handshake.capabilities,
        "connected_seconds": agent.since.elapsed().as_secs(),
        "in_flight": agent.in_flight(),
    })
}

fn tunnel_id(value: &HeaderValue) -> Option<TunnelId> {
    value.to_str().ok()?.parse().ok()
}

/// Makes of a client's head what the agent is to see.
fn prepare(parts: &mut request::Parts, peer: &str, secure: bool) {
    let headers = &mut parts.headers;
    remove_hop_by_hop(headers);
    headers.remove(X_TUNNEL_ID);
    headers.remove(header::EXPECT);
    let mut chain: Vec<&str> =
        headers.get_all(&X_FORWARDED_FOR).iter().filter_map(|value| value.to_str().ok()).collect();
    chain.push(peer);
    // Header values and an address joined by commas are a header value.
    let chain = HeaderValue::from_str(&chain.join(", "));
    for name in [&X_FORWARDED_FOR, &X_FORWARDED_PROTO, &X_FORWARDED_HOST] {
        remove_spellings(headers, name);
    }
    if let Ok(chain) = chain {
        headers.insert(X_FORWARDED_FOR, chain);
    }
    headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static(if secure { "https" } else { "http" }));
    if let Some(host) = headers.get(header::HOST).cloned() {
        headers.insert(X_FORWARDED_HOST, host);
    }
}
