//! How a connection becomes an agent's, and what is read from it then.

use std::io;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use http::StatusCode;
use http::header::{self, HeaderMap, HeaderValue};
use log::{debug, info, warn};
use tungstenite::WebSocket;
use tungstenite::protocol::Role;
use tunnel_agent::Token;
use tunnel_agent::http1::{Connection, Head, has_token};
use tunnel_agent::link::dial::WRITE_STALL;
use tunnel_agent::link::{FrameReader, Incoming, Outgoing, ReadError, Socket, WriteHalf, frames};
use tunnel_agent::protocol::handshake::HANDSHAKE_MAX;
use tunnel_agent::protocol::mux::{Event, PROTOCOL};
use tunnel_agent::protocol::{Answer, Envelope, Handshake};

use super::Gateway;
use super::agent::{self, Agent};
use super::problems::problem;

/// An agent that says nothing at all for this long is gone: it pings more often, and answers pings.
const AGENT_SILENCE: Duration = Duration::from_secs(45);

/// How long a new connection may take to introduce itself as an agent.
const HANDSHAKE_TIME: Duration = Duration::from_secs(10);

/// Whether a request asks for the WebSocket that agents use.
pub fn is_agent(head: &Head) -> bool {
    let headers = head.request.headers();
    head.request.uri().path() == "/ws" && has_token(headers, &header::UPGRADE, "websocket")
}

/// Answers the upgrade, and serves the agent until it leaves.
pub fn upgrade(mut connection: Connection, head: &Head, gateway: &Arc<Gateway>) -> io::Result<()> {
    if let Err((status, text)) = authorize(head.request.headers(), gateway.settings.token.as_ref()) {
        warn!("refused an agent: {text}");
        let mut response = problem(status, "unauthorized", text);
        if status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        connection.respond(None, response)?;
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
    // No more is taken from a stranger; what follows its handshake has limits of its own.
    let config = Some(frames::config(HANDSHAKE_MAX));
    let websocket = WebSocket::from_partially_read(socket, rest, Role::Server, config);
    serve_agent(websocket, connection.output.into_half(), gateway)
}

/// 401 without a token, 403 with a wrong one.
fn authorize(headers: &HeaderMap, token: Option<&Token>) -> Result<(), (StatusCode, &'static str)> {
    let Some(token) = token else { return Ok(()) };
    let Some(value) = headers.get(header::AUTHORIZATION) else {
        return Err((StatusCode::UNAUTHORIZED, "this gateway wants a token"));
    };
    if token.is_shown_by(value) { Ok(()) } else { Err((StatusCode::FORBIDDEN, "wrong token")) }
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
    frames.push(&Outgoing::Text(connection_id.clone().into_bytes().into()));
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
    let speaks_mux = !gateway.settings.legacy && handshake.can(PROTOCOL);
    reader.limit(if speaks_mux { frames::MESSAGE_MIN } else { gateway.settings.max_message });
    reader.set_timeout(AGENT_SILENCE)?;
    half.set_timeout(WRITE_STALL)?;
    half.set_user_timeout(AGENT_SILENCE);
    let (agent, queue) = Agent::new(connection_id, handshake, gateway.settings.legacy, closer.clone());
    let writing = agent.clone();
    let writer = thread::Builder::new()
        .name("agent-writer".to_owned())
        .spawn(move || agent::write(&writing, &queue, half))?;
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
            Ok(Incoming::Ping(_) | Incoming::Pong(_) | Incoming::Binary(_)) => {}
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
                None if agent.mux().is_some() => debug!("ignored a message that is no answer"),
                // Its place among the answers is lost, and every later one would go to the wrong client.
                None if !agent.has_ids() => return "it sent what cannot be read".to_owned(),
                None => debug!("ignored a message that is no answer"),
            },
            Ok(Incoming::Ping(payload)) => agent.control(Outgoing::Pong(payload)),
            Ok(Incoming::Binary(message)) => match agent.mux().map(|mux| mux.receive(&message)) {
                Some(Ok(Event::GoAway { text, .. })) => {
                    agent.leaves();
                    info!(
                        "agent {} takes no more requests: {}",
                        agent.handshake.tunnel_id,
                        text.escape_debug()
                    );
                }
                Some(Ok(_)) | None => {}
                Some(Err(violation)) => {
                    agent.control(Outgoing::Close(1002, violation.0));
                    return violation.to_string();
                }
            },
            Ok(Incoming::Pong(_)) => {}
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
