//! One connection: a client's requests, or an agent once it has upgraded.

use std::io;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Response, StatusCode, Uri, request};
use log::{info, warn};
use serde_json::json;
use tungstenite::WebSocket;
use tungstenite::protocol::Role;
use tunnel_agent::TunnelId;
use tunnel_agent::headers::remove_hop_by_hop;
use tunnel_agent::http1::{Connection, Error, Head, has_token};
use tunnel_agent::link::dial::WRITE_STALL;
use tunnel_agent::link::{FrameReader, Incoming, Outgoing, ReadError, Socket, WriteHalf, frames};
use tunnel_agent::protocol::{Answer, Envelope, Handshake};

use super::Gateway;
use super::agents::{self, Agent};

/// An agent that says nothing at all for this long is gone: it pings more often, and answers pings.
const AGENT_SILENCE: Duration = Duration::from_secs(75);

/// How long a new connection may take to introduce itself as an agent.
const HANDSHAKE_TIME: Duration = Duration::from_secs(10);

const X_TUNNEL_ID: HeaderName = HeaderName::from_static("x-tunnel-id");
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// Serves one connection to its end.
pub fn serve(socket: Socket, gateway: &Arc<Gateway>) -> io::Result<()> {
    let peer = socket.peer()?.ip().to_string();
    let mut connection = Connection::new(socket)?;
    loop {
        let head = match connection.read_head() {
            Ok(Some(head)) => head,
            Ok(None) => return Ok(()),
            Err(error) => return refuse(connection, None, error),
        };
        let to_agent = head.request.headers().contains_key(X_TUNNEL_ID);
        if !to_agent && is_upgrade_to_agent(&head) {
            return upgrade(connection, &head, gateway);
        }
        let body = match connection.read_body(&head, gateway.settings.max_body) {
            Ok(body) => body,
            Err(error) => return refuse(connection, Some(&head), error),
        };
        let response = respond(&head, &body, to_agent, &peer, gateway);
        if !connection.respond(Some(&head), response)? {
            connection.linger();
            return Ok(());
        }
    }
}

fn refuse(mut connection: Connection, head: Option<&Head>, error: Error) -> io::Result<()> {
    let (status, what) = match error {
        Error::Refused(status, what) => (status, what),
        Error::TimedOut => (StatusCode::REQUEST_TIMEOUT, "the request took too long"),
        Error::Io(error) => return Err(error),
    };
    // What follows on this connection cannot be told from this request's body.
    let head_only = head.is_some_and(|head| head.request.method() == Method::HEAD);
    let code = match status {
        StatusCode::PAYLOAD_TOO_LARGE => "body_too_large",
        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => "headers_too_large",
        StatusCode::NOT_IMPLEMENTED => "method_not_supported",
        StatusCode::REQUEST_TIMEOUT => "too_slow",
        _ => "bad_request",
    };
    let mut response = problem(status, code, what);
    if head_only {
        response.body_mut().clear();
    }
    connection.respond(None, response)?;
    connection.linger();
    Ok(())
}

/// A response that the gateway itself makes.
fn problem(status: StatusCode, code: &str, text: &str) -> Response<Vec<u8>> {
    let mut response = json_response(status, &json!({ "error": text, "code": code }));
    response.headers_mut().insert("x-tunnel-source", HeaderValue::from_static("gateway"));
    response
}

fn json_response(status: StatusCode, json: &serde_json::Value) -> Response<Vec<u8>> {
    let mut response = Response::new(format!("{json}\n").into_bytes());
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn respond(head: &Head, body: &[u8], to_agent: bool, peer: &str, gateway: &Gateway) -> Response<Vec<u8>> {
    let own = !to_agent;
    match (head.request.method(), head.request.uri().path()) {
        (&Method::GET | &Method::HEAD, "/health") if own => health(gateway),
        (&Method::GET | &Method::HEAD, "/connections") if own => connections(gateway),
        (_, "/ws") if own => problem(
            StatusCode::UPGRADE_REQUIRED,
            "upgrade_required",
            "/ws is for agents: a WebSocket upgrade",
        ),
        (&Method::POST, "/forward") if own => forward(head, Some(Uri::from_static("/")), body, peer, gateway),
        _ => forward(head, None, body, peer, gateway),
    }
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

fn forward(head: &Head, path: Option<Uri>, body: &[u8], peer: &str, gateway: &Gateway) -> Response<Vec<u8>> {
    let wanted = match head.request.headers().get(X_TUNNEL_ID).map(tunnel_id) {
        Some(None) => {
            return problem(StatusCode::BAD_REQUEST, "bad_tunnel_id", "X-Tunnel-Id is not a tunnel ID");
        }
        Some(wanted) => wanted,
        None => None,
    };
    let Some(agent) = gateway.agents.choose(wanted.as_ref()) else {
        let text =
            if wanted.is_some() { "no agent of this tunnel is connected" } else { "no agent is connected" };
        let mut response = problem(StatusCode::SERVICE_UNAVAILABLE, "no_agent", text);
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        return response;
    };
    let mut parts = head.request.clone().into_parts().0;
    if let Some(path) = path {
        parts.uri = path;
    }
    prepare(&mut parts, peer, gateway.settings.tls.is_some());
    match agent.forward(&parts, body, gateway.settings.max_message, gateway.settings.timeout) {
        Ok(Ok(response)) => response,
        Ok(Err(text)) => problem(StatusCode::BAD_GATEWAY, "agent_error", &text),
        Err(no_answer) => {
            let (status, code, text) = no_answer.tell();
            problem(status, code, text)
        }
    }
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
    if let Ok(chain) = HeaderValue::from_str(&chain.join(", ")) {
        headers.insert(X_FORWARDED_FOR, chain);
    }
    headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static(if secure { "https" } else { "http" }));
    match headers.get(header::HOST).cloned() {
        Some(host) => drop(headers.insert(X_FORWARDED_HOST, host)),
        None => drop(headers.remove(X_FORWARDED_HOST)),
    }
}

fn is_upgrade_to_agent(head: &Head) -> bool {
    let headers = head.request.headers();
    head.request.uri().path() == "/ws" && has_token(headers, &header::UPGRADE, "websocket")
}

/// Answers the upgrade, and serves the agent until it leaves.
fn upgrade(mut connection: Connection, head: &Head, gateway: &Arc<Gateway>) -> io::Result<()> {
    if let Err((status, text)) = authorize(head.request.headers(), gateway.settings.token.as_deref()) {
        warn!("refused an agent: {text}");
        connection.respond(None, problem(status, "unauthorized", text))?;
        connection.linger();
        return Ok(());
    }
    let response = match tungstenite::handshake::server::create_response(&head.request) {
        Ok(response) => response,
        Err(error) => {
            connection.respond(None, problem(StatusCode::BAD_REQUEST, "bad_request", &error.to_string()))?;
            connection.linger();
            return Ok(());
        }
    };
    let mut accepted = Vec::new();
    tungstenite::handshake::server::write_response(&mut accepted, &response).map_err(io::Error::other)?;
    connection.output.send(&accepted)?;
    let (socket, rest) = connection.input.into_parts();
    let config = Some(frames::config(gateway.settings.max_message));
    let websocket = WebSocket::from_partially_read(socket, rest, Role::Server, config);
    serve_agent(websocket, connection.output.into_half(), gateway)
}

/// 401 without a token, 403 with a wrong one.
fn authorize(headers: &HeaderMap, token: Option<&str>) -> Result<(), (StatusCode, &'static str)> {
    let Some(token) = token else { return Ok(()) };
    let Some(value) = headers.get(header::AUTHORIZATION) else {
        return Err((StatusCode::UNAUTHORIZED, "this gateway wants a token"));
    };
    let given = value.as_bytes().strip_prefix(b"Bearer ").unwrap_or_default();
    if same(given, token.as_bytes()) { Ok(()) } else { Err((StatusCode::FORBIDDEN, "wrong token")) }
}

/// Compares without telling by its time where the difference is.
fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |difference, (a, b)| difference | (a ^ b)) == 0
}

fn serve_agent(
    mut websocket: WebSocket<Socket>,
    mut half: WriteHalf,
    gateway: &Arc<Gateway>,
) -> io::Result<()> {
    let connection_id = tunnel_agent::protocol::random_uuid();
    let socket = websocket.get_mut();
    socket.set_deadline(Some(Instant::now() + HANDSHAKE_TIME))?;
    let closer = socket.closer();
    let mut frames = tunnel_agent::link::FrameWriter::new(Role::Server);
    frames.push(Outgoing::Text(connection_id.clone().into_bytes().into()));
    while !frames.is_empty() {
        frames.write_step(&mut half)?;
    }
    let mut reader = FrameReader::new(websocket);
    let handshake = match read_handshake(&mut reader) {
        Ok(handshake) => handshake,
        Err(what) => {
            // As the oldest gateways do: just close.
            warn!("closed a connection that is no agent's: {what}");
            closer.close();
            return Ok(());
        }
    };
    reader.set_timeout(AGENT_SILENCE)?;
    half.set_timeout(WRITE_STALL)?;
    let (agent, queue) = Agent::new(connection_id, handshake, gateway.settings.legacy, closer.clone());
    let writing = agent.clone();
    let writer = thread::Builder::new()
        .name("agent-writer".to_owned())
        .spawn(move || agents::write(&writing, &queue, half))?;
    if gateway.agents.add(&agent) {
        info!(
            "agent {} connected, version {}",
            agent.handshake.tunnel_id,
            agent.handshake.agent_version.escape_debug()
        );
        let end = read_agent(reader, &agent);
        info!("agent {} left: {end}", agent.handshake.tunnel_id);
        gateway.agents.remove(&agent);
    }
    agent.end();
    // It sends what is queued, a close frame perhaps, and ends.
    let _ = writer.join();
    closer.close();
    Ok(())
}

fn read_handshake(reader: &mut FrameReader) -> Result<Handshake, String> {
    loop {
        match reader.read() {
            Ok(Incoming::Text(text)) => return Handshake::decode(&text),
            Ok(Incoming::Ping(_) | Incoming::Pong | Incoming::Binary(_)) => {}
            Ok(Incoming::Close(_)) | Err(ReadError::Eof) => {
                return Err("it left before its handshake".to_owned());
            }
            Err(ReadError::Io(error)) => return Err(error.to_string()),
            Err(ReadError::Violation(_, what)) => return Err(what),
        }
    }
}

/// Passes answers on until the agent leaves. Returns why it did.
fn read_agent(mut reader: FrameReader, agent: &Agent) -> String {
    loop {
        match reader.read() {
            Ok(Incoming::Text(text)) => match Envelope::parse(&text).as_ref().and_then(Answer::decode) {
                Some(answer) => agent.answered(answer),
                // Its place among the answers is lost, and every later one would go to the wrong client.
                None if !agent.has_ids() => return "it sent what cannot be read".to_owned(),
                None => log::debug!("ignored a message that is no answer"),
            },
            Ok(Incoming::Ping(payload)) => agent.control(Outgoing::Pong(payload)),
            Ok(Incoming::Pong | Incoming::Binary(_)) => {}
            Ok(Incoming::Close(frame)) => {
                let code = frame.as_ref().map_or(1000, |(code, _)| *code);
                agent.control(Outgoing::Close(code, ""));
                return format!("close code {code}");
            }
            Err(ReadError::Eof) => return "the connection ended".to_owned(),
            Err(ReadError::Io(error)) if error.kind() == io::ErrorKind::TimedOut => {
                return format!("nothing heard for {} s", AGENT_SILENCE.as_secs());
            }
            Err(ReadError::Io(error)) => return error.to_string(),
            Err(ReadError::Violation(code, what)) => {
                agent.control(Outgoing::Close(code, ""));
                return what;
            }
        }
    }
}
