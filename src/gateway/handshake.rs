//! How a connection becomes an agent's session, and what is read from the agent then.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{io, thread};

use http::header::{self, HeaderMap, HeaderValue};
use log::{debug, info, warn};
use tungstenite::protocol::Role;

use super::agent_session::{AgentSession, Dialect, Retirement};
use super::metrics::SessionOutcome;
use super::registry::Unwelcome;
use super::responses::Problem;
use super::visitor_connections::VisitorConnection;
use super::{GatewayCore, agent_writer};
use crate::http1::fields::has_token;
use crate::http1::{Head, ServerConnection};
use crate::link::dial::WRITE_STALL;
use crate::link::message::MESSAGE_MIN;
use crate::link::{MessageReader, MessageSink, Outbound, ReadError, Received, Token, close};
use crate::mux::MuxEvent;
use crate::net::{Socket, WriteHalf};
use crate::protocol::handshake::HANDSHAKE_MAX;
use crate::protocol::{DecodedAnswer, Envelope, Handshake, MUX_PROTOCOL, random_uuid};

/// An agent that says nothing at all for this long is gone: it pings more often, and answers pings.
const AGENT_SILENCE: Duration = Duration::from_secs(45);

/// How long a new connection may take to introduce itself as an agent.
const HANDSHAKE_TIME: Duration = Duration::from_secs(10);

/// Whether a request asks for the WebSocket that agents use. One that comes from a page is a visitor's: browsers say which
/// page it is, agents have none.
pub(super) fn is_agent(head: &Head, agent_path: &str) -> bool {
    let headers = head.request.headers();
    head.request.uri().path() == agent_path
        && has_token(headers, &header::UPGRADE, "websocket")
        && !headers.contains_key(header::ORIGIN)
}

/// Answers the upgrade with this response, and serves the agent until it leaves. It has a visitor's place until it has proved
/// what it is.
pub(super) fn upgrade(
    mut connection: ServerConnection,
    head: &Head,
    response: &http::Response<()>,
    visitor: VisitorConnection,
    gateway: &Arc<GatewayCore>,
) -> io::Result<()> {
    let mut accepted = Vec::new();
    tungstenite::handshake::server::write_response(&mut accepted, response).map_err(io::Error::other)?;
    connection.output.send(&accepted)?;
    let (socket, rest) = connection.input.into_parts();
    let host = head.request.headers().get(header::HOST);
    let upgraded = Upgraded { socket, rest, half: connection.output.into_half(), host };
    serve_agent(upgraded, visitor, gateway)
}

/// The answer to an upgrade: the response, or why there is no session.
pub(super) fn respond(head: &Head, gateway: &GatewayCore) -> Result<http::Response<()>, Problem> {
    if !gateway.agents.accepts_agents() {
        return Err(Problem::stopping());
    }
    authorize(head.request.headers(), gateway.settings.credentials.token().as_ref())
        .inspect_err(|problem| warn!("refused an agent: {problem}"))?;
    let created = tungstenite::handshake::server::create_response(&head.request);
    created.map_err(|error| match error {
        tungstenite::Error::Protocol(tungstenite::error::ProtocolError::MissingSecWebSocketVersionHeader) => {
            Problem::websocket_version()
        }
        error => Problem::bad_request(error.to_string()),
    })
}

fn authorize(headers: &HeaderMap, token: Option<&Token>) -> Result<(), Problem> {
    let Some(token) = token else { return Ok(()) };
    let value = headers.get(header::AUTHORIZATION).ok_or_else(Problem::token_missing)?;
    if token.is_shown_by(value) { Ok(()) } else { Err(Problem::token_wrong()) }
}

/// A connection that has become a WebSocket.
struct Upgraded<'a> {
    socket: Socket,
    /// The bytes behind the head.
    rest: Vec<u8>,
    half: WriteHalf,
    /// The host that the agent has asked for.
    host: Option<&'a HeaderValue>,
}

fn serve_agent(
    upgraded: Upgraded<'_>,
    visitor: VisitorConnection,
    gateway: &Arc<GatewayCore>,
) -> io::Result<()> {
    let Upgraded { mut socket, rest, half, host } = upgraded;
    let connection_id = random_uuid();
    socket.set_deadline(Some(Instant::now() + gateway.patience(HANDSHAKE_TIME)))?;
    let (closer, peer) = (socket.closer(), socket.peer()?);
    half.set_timeout(WRITE_STALL)?;
    half.set_user_timeout(AGENT_SILENCE);
    let mut sink = Box::new(MessageSink::new(Role::Server, half));
    sink.push(&Outbound::Text(connection_id.clone().into_bytes().into()));
    sink.write_all()?;
    // No more is taken from a stranger; what follows its handshake has limits of its own.
    let mut reader = MessageReader::new(socket, rest, Role::Server, HANDSHAKE_MAX);
    let Some(handshake) = admitted(&mut reader, peer, gateway) else {
        // As the oldest gateways do: just close.
        closer.close();
        return Ok(());
    };
    let dialect = if gateway.settings.legacy { Dialect::Legacy } else { Dialect::Full };
    let speaks_mux = dialect == Dialect::Full && handshake.can(MUX_PROTOCOL);
    reader.limit(if speaks_mux { MESSAGE_MIN } else { gateway.settings.max_message });
    reader.set_timeout(AGENT_SILENCE)?;
    // It lives as long as the session.
    let named = gateway.names.enter(&handshake.tunnel_id, handshake.name.as_ref(), host, Instant::now());
    let told = Some(&named.url).filter(|_| gateway.names.tells(peer));
    let (agent, queue) = AgentSession::new(connection_id, handshake, dialect, closer.clone(), told);
    // Before it hears that it is open.
    let added = gateway.agents.add(&agent);
    let writing = agent.clone();
    let writer = thread::Builder::new()
        .name("agent-writer".to_owned())
        .spawn(move || agent_writer::write(&writing, &queue, sink))
        .inspect_err(|_| gateway.agents.remove(&agent))?;
    match added {
        Ok(()) => {
            drop(visitor);
            let tunnel_id = &agent.handshake.tunnel_id;
            let version = agent.handshake.agent_version.escape_debug();
            let url = &named.url.url;
            info!("agent {tunnel_id} connected, version {version}; its visitors come to {url}");
            gateway.metrics.session_began();
            let (outcome, end) = read_agent(reader, &agent);
            gateway.metrics.session_ended(outcome);
            info!("agent {tunnel_id} disconnected: {end}");
            gateway.agents.remove(&agent);
        }
        Err(Unwelcome::Stopping) => {}
        Err(Unwelcome::Full) => {
            warn!("refused an agent: there are as many as may be");
            agent.control(Outbound::Close(close::TRY_AGAIN_LATER, "too many agents"));
        }
    }
    agent.end();
    // It sends what is queued, a close frame perhaps, and ends.
    let _ = writer.join();
    closer.close();
    Ok(())
}

/// The handshake of an agent that may stay. The log says why another may not.
fn admitted(reader: &mut MessageReader, peer: SocketAddr, gateway: &GatewayCore) -> Option<Handshake> {
    let handshake = read_handshake(reader)
        .inspect_err(|what| {
            warn!("closed a connection from {peer} that asked for the tunnel and sent no handshake: {what}");
        })
        .ok()?;
    if !gateway.names.admits(&handshake.tunnel_id) {
        let tunnel_id = &handshake.tunnel_id;
        warn!("closed the connection of agent {tunnel_id} from {peer}: no name is reserved for it");
        return None;
    }
    Some(handshake)
}

fn read_handshake(reader: &mut MessageReader) -> Result<Handshake, String> {
    loop {
        match reader.read() {
            Ok(Received::Text(text)) => return Handshake::decode(&text),
            Ok(Received::Ping(_) | Received::Pong(_) | Received::Binary(_)) => {}
            Ok(Received::Close(_)) | Err(ReadError::Eof) => {
                return Err("it disconnected before its handshake".to_owned());
            }
            Err(ReadError::Io(error)) => return Err(error.to_string()),
            Err(ReadError::Violation(_, what)) => return Err(what),
        }
    }
}

/// Passes answers on until the agent leaves. Returns why it did.
fn read_agent(mut reader: MessageReader, agent: &AgentSession) -> (SessionOutcome, String) {
    let lost = |text: String| (SessionOutcome::Lost, text);
    if let Some(mux) = agent.mux().cloned() {
        // Visitors hear of all that came together at once.
        reader.before_waiting(move || mux.announce());
    }
    loop {
        match reader.read() {
            Ok(Received::Text(text)) => match Envelope::parse(&text).as_ref().and_then(DecodedAnswer::decode)
            {
                Some(answer) => agent.answered(answer),
                None if agent.mux().is_some() => debug!("ignored a message that is no answer"),
                // Its place among the answers is lost, and every later one would go to the wrong client.
                None if !agent.has_ids() => return lost("it sent what cannot be read".to_owned()),
                None => debug!("ignored a message that is no answer"),
            },
            Ok(Received::Ping(payload)) => agent.control(Outbound::Pong(payload)),
            Ok(Received::Binary(message)) => match agent.mux().map(|mux| mux.receive(&message)) {
                // It may say so twice.
                Some(Ok(MuxEvent::GoAway { text, .. })) if agent.retire() == Retirement::New => {
                    info!(
                        "agent {} takes no more requests: {}",
                        agent.handshake.tunnel_id,
                        text.escape_debug()
                    );
                }
                Some(Ok(_)) | None => {}
                Some(Err(violation)) => {
                    agent.control(Outbound::Close(close::PROTOCOL_ERROR, violation.0));
                    return lost(violation.to_string());
                }
            },
            Ok(Received::Pong(_)) => {}
            Ok(Received::Close(frame)) => {
                let code = frame.as_ref().map_or(close::NORMAL, |(code, _)| *code);
                agent.control(Outbound::Close(code, ""));
                return (SessionOutcome::Closed, format!("close code {code}"));
            }
            Err(ReadError::Eof) => return lost("the connection ended".to_owned()),
            Err(ReadError::Io(error)) if error.kind() == io::ErrorKind::TimedOut => {
                return lost(format!("nothing heard for {} s", AGENT_SILENCE.as_secs()));
            }
            Err(ReadError::Io(error)) => return lost(error.to_string()),
            Err(ReadError::Violation(code, what)) => {
                agent.control(Outbound::Close(code, ""));
                return lost(what);
            }
        }
    }
}
