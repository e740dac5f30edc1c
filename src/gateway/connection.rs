//! One connection: a visitor's requests, each of which an agent answers, or the gateway itself.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use http::header::{self, HeaderMap};
use http::{Method, Response, Uri, request};
use log::warn;

use super::agent_session::{AgentSession, EnvelopeLimits, NoReply};
use super::door::Door;
use super::forwarded::{self, Arrival};
use super::names::HostMeaning;
use super::record::{RequestRecord, log_problem};
use super::responses::{self, Problem};
use super::routing::{Destination, MAX_FORWARDS, Place, Responder, Target, max_forwards};
use super::visitor_connections::{Stage, VisitorConnection};
use super::visitor_request::VisitorRequest;
use super::{GatewayCore, handshake, stream};
use crate::advice::Advice;
use crate::http1::fields::remove_hop_by_hop;
use crate::http1::{HEAD_TIME, KEEP_ALIVE, Persistence, RawTarget, RequestError, ServerConnection};
use crate::net::Socket;
use crate::net::network::counted_as;
use crate::protocol::X_TUNNEL_ID;

/// Serves one connection to its end.
pub(super) fn serve(
    socket: Socket,
    door: Door,
    visitor: VisitorConnection,
    gateway: &Arc<GatewayCore>,
) -> io::Result<()> {
    socket.keep_alive()?;
    let arrival = Arrival::new(socket.peer()?, gateway.settings.scheme());
    let traffic = socket.traffic();
    let mut connection = ServerConnection::new(socket)?;
    loop {
        if !connection.wait(gateway.patience(KEEP_ALIVE)) {
            return Ok(());
        }
        visitor.enter(Stage::Arriving);
        let head = match connection.read_head(gateway.patience(HEAD_TIME)) {
            Ok(head) => head,
            Err(error) => return refuse_unread(connection, error, arrival.peer, &visitor, gateway),
        };
        let headers = head.request.headers();
        let has_tunnel_id = headers.contains_key(X_TUNNEL_ID);
        let meaning =
            headers.get(header::HOST).map_or(HostMeaning::Gateway, |host| gateway.names.meaning(host));
        // At a tunnel's own host every path is its application's; but no application is shown the gateway's token.
        let is_tunnels =
            matches!(meaning, HostMeaning::Tunnel(_)) && !gateway.settings.credentials.are_shown_by(headers);
        // At the agents' own address there are agents alone, whatever the host.
        let may_be_agent = door == Door::Agents || !has_tunnel_id && !is_tunnels;
        let is_agent = may_be_agent && handshake::is_agent(&head, &gateway.settings.agent_path);
        let answer = (is_agent && door != Door::Visitors).then(|| handshake::respond(&head, gateway));
        if let Some(Ok(response)) = answer {
            return handshake::upgrade(connection, &head, &response, visitor, gateway);
        }
        let (arrival, visitor, host) = (&arrival, &visitor, &meaning);
        let record = &RequestRecord::new(gateway, &head, arrival.peer, traffic.clone());
        let request = VisitorRequest { head: &head, arrival, host, visitor, record, gateway };
        if is_agent || door == Door::Agents {
            let response = match answer {
                Some(Err(problem)) => request.problem(problem),
                _ if is_agent => request.problem(Problem::agents_elsewhere()),
                _ => request.misdirected(),
            };
            return request.end_with(connection, response);
        }
        let has_place = visitor.settle() && request.count_visitor();
        if has_place {
            visitor.enter(Stage::Received);
        }
        let next = match request.route(Place::from(has_place)) {
            // The body is not waited for: a visitor without a place holds none.
            Responder::Gateway(response) if !has_place => return request.end_with(connection, response),
            Responder::Agent(_) if visitor.is_evicted() => {
                return request.end_with(connection, request.problem(Problem::too_slow()));
            }
            Responder::Agent(to) => request.forward(connection, to)?,
            Responder::Gateway(response) => request.answer(connection, response)?,
        };
        let Some(next) = next else { return Ok(()) };
        visitor.enter(Stage::Idle);
        connection = next;
    }
}

impl VisitorRequest<'_> {
    /// Counts a request that came through a trusted proxy for the address of its visitor. False when that address has as
    /// many as it may have.
    fn count_visitor(&self) -> bool {
        let proxies = &self.gateway.settings.proxies;
        if !proxies.trusts(self.arrival.peer) {
            return true;
        }
        let address = proxies.visitor(self.head.request.headers(), self.arrival.peer);
        let is_free = address.is_loopback() || proxies.trusts(address);
        self.visitor.count_as((!is_free).then(|| counted_as(address)))
    }

    /// Forwards the request. Gives the connection back when it can take another one.
    fn forward(&self, connection: ServerConnection, to: Destination) -> io::Result<Option<ServerConnection>> {
        let Destination { agent, target } = to;
        let mut parts = self.head.request.clone().into_parts().0;
        if let Target::Root = target {
            parts.uri = Uri::from_static("/");
            parts.extensions.remove::<RawTarget>();
        }
        self.prepare(&mut parts);
        if agent.mux().is_some() {
            return stream::forward(connection, *self, parts, agent);
        }
        // The body tells its length: an agent that writes JSON anew, and keeps the old length, hangs its local server.
        parts.headers.remove(header::CONTENT_LENGTH);
        self.forward_enveloped(connection, &parts, &agent)
    }

    /// Makes of a visitor's head what the agent is to see.
    fn prepare(&self, parts: &mut request::Parts) {
        let headers = &mut parts.headers;
        warn_of_proxy(headers, self.arrival.peer, self.gateway);
        remove_hop_by_hop(headers);
        self.gateway.settings.proxies.set(headers, self.arrival);
        headers.remove(X_TUNNEL_ID);
        headers.remove(header::EXPECT);
        if matches!(parts.method, Method::OPTIONS | Method::TRACE) {
            if let Some(remaining) = headers.get(MAX_FORWARDS).and_then(max_forwards) {
                headers.insert(MAX_FORWARDS, remaining.saturating_sub(1).into());
            }
        }
    }

    /// Forwards a whole request in an envelope, and answers with the whole response.
    fn forward_enveloped(
        &self,
        mut connection: ServerConnection,
        parts: &request::Parts,
        agent: &AgentSession,
    ) -> io::Result<Option<ServerConnection>> {
        let settings = &self.gateway.settings;
        let mut share = self.gateway.bodies.share();
        let body = connection.read_body(self.head, settings.max_enveloped_body, |more| share.grow(more));
        let body = match body {
            Ok(body) => body,
            Err(error) => return self.refuse(connection, error).map(|()| None),
        };
        self.visitor.enter(Stage::Served);
        let number = agent.take_number();
        let limits = EnvelopeLimits {
            max_message: settings.max_message,
            timeout: settings.timeout,
            budget: &self.gateway.bodies,
        };
        let reply = agent.forward(number, parts, body, &limits);
        drop(share);
        let problem = |problem: Problem| self.named_problem(problem, agent.request_name(number));
        // The share of the response is given back when it is sent.
        let (response, _share) = match reply {
            Ok(Ok((mut response, share))) => {
                agent.record_success();
                self.record.named(agent.request_name(number));
                self.finish_head(response.headers_mut());
                (response, Some(share))
            }
            Ok(Err(NoReply::Failed(text))) => {
                agent.record_failure();
                (problem(Problem::agent_error(text)), None)
            }
            Ok(Err(NoReply::OutOfMemory)) => (problem(Problem::out_of_memory()), None),
            Err(no_answer) => (problem(no_answer.problem()), None),
        };
        self.respond(connection, response)
    }

    /// Answers with a response of the gateway's, behind a body that is not needed. Gives the connection back when it can
    /// take another request.
    fn answer(
        &self,
        mut connection: ServerConnection,
        response: Response<Vec<u8>>,
    ) -> io::Result<Option<ServerConnection>> {
        if connection.awaits_continue(self.head) {
            // The client need not send what is not needed, and this is its answer (RFC 9110 §10.1.1).
            return self.end_with(connection, response).map(|()| None);
        }
        match connection.skip_body(self.head, self.gateway.settings.max_enveloped_body) {
            Ok(()) => {}
            Err(RequestError::Io(error)) => return Err(error),
            // A fault in the rest changes nothing.
            Err(_) => return self.end_with(connection, response).map(|()| None),
        }
        self.respond(connection, response)
    }

    fn respond(
        &self,
        mut connection: ServerConnection,
        response: Response<Vec<u8>>,
    ) -> io::Result<Option<ServerConnection>> {
        self.record.answered(response.status());
        let persistence =
            connection.respond_within(Some(self.head), response, self.visitor.begin_response())?;
        self.record.finish();
        if persistence == Persistence::KeepAlive {
            return Ok(Some(connection));
        }
        connection.linger();
        Ok(None)
    }

    /// Refuses a request whose body cannot be read. What follows on the connection cannot be told from the rest of it.
    fn refuse(&self, connection: ServerConnection, error: RequestError) -> io::Result<()> {
        let response = self.problem(unreadable(error, self.visitor)?);
        self.end_with(connection, response)
    }

    /// Ends the connection with this response.
    fn end_with(&self, mut connection: ServerConnection, mut response: Response<Vec<u8>>) -> io::Result<()> {
        self.record.answered(response.status());
        self.visitor.begin_response();
        if *self.method() == Method::HEAD {
            response.body_mut().clear();
        }
        connection.respond(None, response)?;
        self.record.finish();
        connection.linger();
        Ok(())
    }
}

/// Refuses a request whose head cannot be read.
fn refuse_unread(
    mut connection: ServerConnection,
    error: RequestError,
    peer: IpAddr,
    visitor: &VisitorConnection,
    gateway: &GatewayCore,
) -> io::Result<()> {
    let problem = unreadable(error, visitor)?;
    let is_head = connection.is_head();
    let name = gateway.name_request();
    log_problem(problem.status, problem.code, name, peer, "a request");
    gateway.metrics.unreadable_answered(problem.status);
    gateway.metrics.problem(problem.code);
    let mut response = problem.response(name);
    if is_head {
        response.body_mut().clear();
    }
    visitor.begin_response();
    connection.respond(None, response)?;
    connection.linger();
    Ok(())
}

fn unreadable(error: RequestError, visitor: &VisitorConnection) -> io::Result<Problem> {
    if visitor.is_evicted() { Ok(Problem::too_slow()) } else { responses::unreadable(error) }
}

/// Warns once where it seems that a proxy is meant to be trusted.
fn warn_of_proxy(headers: &HeaderMap, peer: IpAddr, gateway: &GatewayCore) {
    let is_unknown = gateway.settings.proxies.networks.is_empty() && forwarded::is_private(peer);
    let may = is_unknown && !gateway.has_warned_of_proxy.load(Ordering::Relaxed);
    if may && forwarded::has_family(headers) && !gateway.has_warned_of_proxy.swap(true, Ordering::Relaxed) {
        warn!(advice = Advice::ClaimedProxy.name();
            "a request from {peer} says where it came from (X-Forwarded-…), which is not believed");
    }
}
