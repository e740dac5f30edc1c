//! One connection: a visitor's requests, each of which an agent answers, or the gateway itself.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Response, StatusCode, Uri, request};
use log::{info, warn};
use tunnel_agent::TunnelId;
use tunnel_agent::headers::remove_hop_by_hop;
use tunnel_agent::http1::{Connection, Error, Framing, HEAD_TIME, Head, KEEP_ALIVE, RawTarget, shown_path};
use tunnel_agent::link::Socket;
use tunnel_agent::protocol::RequestName;

use super::agent::{Agent, Could, Limits, NoReply};
use super::agents::Tunnels;
use super::forwarded::{self, Arrival};
use super::own::{self, Own};
use super::problems::{self, Problem};
use super::visitors::{Stage, Visitor};
use super::{Gateway, accept, stream};

pub const X_TUNNEL_ID: HeaderName = HeaderName::from_static("x-tunnel-id");

const MAX_FORWARDS: HeaderName = HeaderName::from_static("max-forwards");

/// Serves one connection to its end.
pub fn serve(socket: Socket, visitor: Visitor, gateway: &Arc<Gateway>) -> io::Result<()> {
    socket.keep_alive()?;
    let arrival = Arrival::new(socket.peer()?, gateway.settings.credentials.tls().is_some());
    let mut connection = Connection::new(socket)?;
    loop {
        if !connection.wait(gateway.patience(KEEP_ALIVE)) {
            return Ok(());
        }
        visitor.enter(Stage::Arriving);
        let head = match connection.read_head(gateway.patience(HEAD_TIME)) {
            Ok(head) => head,
            Err(error) => return refuse(connection, None, error, arrival, &visitor, gateway),
        };
        let has_tunnel_id = head.request.headers().contains_key(X_TUNNEL_ID);
        if !has_tunnel_id && accept::is_agent(&head, &gateway.settings.agent_path) {
            return accept::upgrade(connection, &head, visitor, gateway);
        }
        let has_place = visitor.settle() && count_visitor(&visitor, &head, arrival, gateway);
        if has_place {
            visitor.enter(Stage::Received);
        }
        let next = match route(&head, arrival, has_place, gateway) {
            // Its body is not waited for: whoever has no place holds none.
            Route::Here(response) if !has_place => return end_with(connection, response, &visitor),
            Route::Agent(_) if visitor.is_evicted() => {
                let response = gateway.problem(Problem::too_slow(), &head, arrival);
                return end_with(connection, response, &visitor);
            }
            Route::Agent(to) => forward(connection, &head, to, arrival, &visitor, gateway)?,
            Route::Here(response) => answer_here(connection, &head, response, arrival, &visitor, gateway)?,
        };
        let Some(next) = next else { return Ok(()) };
        visitor.enter(Stage::Idle);
        connection = next;
    }
}

/// Counts a request that came through a trusted proxy for the address of its visitor. Whether that may have one more.
fn count_visitor(visitor: &Visitor, head: &Head, arrival: Arrival, gateway: &Gateway) -> bool {
    let proxies = &gateway.settings.proxies;
    if !proxies.trusts(arrival.peer) {
        return true;
    }
    let address = proxies.visitor(head.request.headers(), arrival.peer);
    let is_free = address.is_loopback() || proxies.trusts(address);
    visitor.count_as((!is_free).then(|| forwarded::counted_as(address)))
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
    /// It goes to the root, whatever its path.
    to_root: bool,
}

fn route(head: &Head, arrival: Arrival, has_place: bool, gateway: &Gateway) -> Route {
    let named = head.request.headers().get(X_TUNNEL_ID);
    let to_root = match own::page(head, named.is_some(), &gateway.settings) {
        Some(Own::Forward) => true,
        Some(page) => return Route::Here(own::answer(page, head, arrival, gateway)),
        None => false,
    };
    let here = |problem: Problem| Route::Here(gateway.problem(problem, head, arrival));
    if !has_place {
        return here(Problem::unavailable(
            "no_place",
            "the gateway has as many visitors as it takes, or as many of yours; try again",
        ));
    }
    if let Some(response) = stopped_here(head) {
        return response.map_or_else(here, Route::Here);
    }
    match find_agent(named, gateway) {
        Ok(agent) => Route::Agent(Destination { agent, to_root }),
        Err(problem) => here(problem),
    }
}

/// The agent that a request goes to. A gateway that has just started waits for one.
fn find_agent(named: Option<&HeaderValue>, gateway: &Gateway) -> Result<Arc<Agent>, Problem> {
    let until = gateway.started + gateway.settings.hold;
    loop {
        // Asked anew after each wait: whose a request is that names no tunnel depends on who is there.
        let wanted = wanted_tunnel(named, gateway)?;
        if let Some(agent) = wanted.as_ref().and_then(|id| gateway.agents.choose(id, &[])) {
            return Ok(agent);
        }
        if !gateway.agents.wait_for(wanted.as_ref(), until) {
            let text = match named {
                Some(_) => "no agent of this tunnel is connected",
                None => "no agent is connected",
            };
            return Err(Problem::unavailable("no_agent", text));
        }
    }
}

/// The tunnel that a request is for, if there is one.
fn wanted_tunnel(named: Option<&HeaderValue>, gateway: &Gateway) -> Result<Option<TunnelId>, Problem> {
    if let Some(value) = named {
        let id = value.to_str().ok().and_then(|value| value.parse().ok());
        let problem =
            || Problem::new(StatusCode::BAD_REQUEST, "bad_tunnel_id", "X-Tunnel-Id is not a tunnel ID");
        return id.map(Some).ok_or_else(problem);
    }
    if let Some(id) = &gateway.settings.default_tunnel {
        return Ok(Some(id.clone()));
    }
    match gateway.agents.tunnels() {
        Tunnels::One(id) => Ok(Some(id)),
        Tunnels::None => Ok(None),
        Tunnels::Several => Err(Problem::new(
            StatusCode::NOT_FOUND,
            "which_tunnel",
            "there are several tunnels here, and the request names none (with X-Tunnel-Id)",
        )),
    }
}

/// What a request that may go no further is answered with (RFC 9110 §7.6.2); and one with content that it must not have
/// (§9.3.8).
fn stopped_here(head: &Head) -> Option<Result<Response<Vec<u8>>, Problem>> {
    let method = head.request.method();
    if *method == Method::TRACE && head.framing != Framing::Length(0) {
        let text = "a TRACE request has no content";
        return Some(Err(Problem::new(StatusCode::BAD_REQUEST, "bad_request", text)));
    }
    let is_last = head.request.headers().get(MAX_FORWARDS).and_then(forwards_left) == Some(0);
    match *method {
        Method::OPTIONS if is_last => {
            let mut response = Response::new(Vec::new());
            *response.status_mut() = StatusCode::NO_CONTENT;
            Some(Ok(response))
        }
        Method::TRACE if is_last => {
            let text = "TRACE ends here, and is not answered";
            let problem = Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", text);
            Some(Err(problem
                .with(header::ALLOW, HeaderValue::from_static("GET, HEAD, POST, PUT, DELETE, OPTIONS"))))
        }
        _ => None,
    }
}

fn forward(
    connection: Connection,
    head: &Head,
    to: Destination,
    arrival: Arrival,
    visitor: &Visitor,
    gateway: &Gateway,
) -> io::Result<Option<Connection>> {
    let Destination { agent, to_root } = to;
    let mut parts = head.request.clone().into_parts().0;
    if to_root {
        parts.uri = Uri::from_static("/");
        parts.extensions.remove::<RawTarget>();
    }
    prepare(&mut parts, arrival, gateway);
    if agent.mux().is_some() {
        return stream::forward(connection, head, parts, agent, arrival, visitor, gateway);
    }
    // The body says it: an agent that writes JSON anew, and keeps the old length, hangs its local server.
    parts.headers.remove(header::CONTENT_LENGTH);
    forward_whole(connection, head, &parts, &agent, arrival, visitor, gateway)
}

/// Forwards a whole request in an envelope, and answers with the whole response.
fn forward_whole(
    mut connection: Connection,
    head: &Head,
    parts: &request::Parts,
    agent: &Agent,
    arrival: Arrival,
    visitor: &Visitor,
    gateway: &Gateway,
) -> io::Result<Option<Connection>> {
    let settings = &gateway.settings;
    let mut share = gateway.bodies.share();
    let body = match connection.read_body(head, settings.max_body, |more| share.grow(more)) {
        Ok(body) => body,
        Err(error) => return refuse(connection, Some(head), error, arrival, visitor, gateway).map(|()| None),
    };
    visitor.enter(Stage::Served);
    let number = agent.take_number();
    let limits =
        Limits { max_message: settings.max_message, timeout: settings.timeout, budget: &gateway.bodies };
    let reply = agent.forward(number, parts, body, &limits);
    drop(share);
    let problem = |problem: Problem| gateway.log_problem(problem, agent.request_name(number), head, arrival);
    // What it takes up is given back when it is sent.
    let (response, _share) = match reply {
        Ok(Ok((response, share))) => {
            agent.could_answer(Could::Yes);
            (response, Some(share))
        }
        Ok(Err(NoReply::Failed(text))) => {
            agent.could_answer(Could::No);
            (problem(Problem::new(StatusCode::BAD_GATEWAY, "agent_error", text)), None)
        }
        Ok(Err(NoReply::OutOfMemory)) => (problem(Problem::out_of_memory()), None),
        Err(no_answer) => (problem(no_answer.problem()), None),
    };
    respond(connection, head, response, visitor)
}

/// Answers by itself, once the body is read that nobody wants. Gives the connection back when it can take another request.
fn answer_here(
    mut connection: Connection,
    head: &Head,
    response: Response<Vec<u8>>,
    arrival: Arrival,
    visitor: &Visitor,
    gateway: &Gateway,
) -> io::Result<Option<Connection>> {
    if connection.awaits_continue(head) {
        // The client need not send what nobody wants (RFC 9110 §10.1.1), and this is its answer.
        return end_with(connection, response, visitor).map(|()| None);
    }
    if let Err(error) = connection.skip_body(head, gateway.settings.max_body) {
        return refuse(connection, Some(head), error, arrival, visitor, gateway).map(|()| None);
    }
    respond(connection, head, response, visitor)
}

/// Ends the connection with this response.
fn end_with(mut connection: Connection, response: Response<Vec<u8>>, visitor: &Visitor) -> io::Result<()> {
    visitor.responds();
    connection.respond(None, response)?;
    connection.linger();
    Ok(())
}

fn respond(
    mut connection: Connection,
    head: &Head,
    response: Response<Vec<u8>>,
    visitor: &Visitor,
) -> io::Result<Option<Connection>> {
    if connection.respond_within(head, response, visitor.responds())? {
        return Ok(Some(connection));
    }
    connection.linger();
    Ok(None)
}

/// Refuses what cannot be read. What follows on the connection cannot be told from the rest of it.
fn refuse(
    connection: Connection,
    head: Option<&Head>,
    error: Error,
    arrival: Arrival,
    visitor: &Visitor,
    gateway: &Gateway,
) -> io::Result<()> {
    let problem = if visitor.is_evicted() { Problem::too_slow() } else { problems::unreadable(error)? };
    let is_head = head.map_or_else(|| connection.is_head(), |head| head.request.method() == Method::HEAD);
    let name = gateway.name_request();
    let mut response = match head {
        Some(head) => gateway.log_problem(problem, name, head, arrival),
        None => {
            log_refusal(&problem, name, arrival.peer, "a request");
            problem.response(name)
        }
    };
    if is_head {
        response.body_mut().clear();
    }
    end_with(connection, response, visitor)
}

impl Gateway {
    /// The response that tells of a problem with a request that no agent has got.
    pub fn problem(&self, problem: Problem, head: &Head, arrival: Arrival) -> Response<Vec<u8>> {
        self.log_problem(problem, self.name_request(), head, arrival)
    }

    /// The same for a request with this name.
    pub fn log_problem(
        &self,
        problem: Problem,
        name: RequestName,
        head: &Head,
        arrival: Arrival,
    ) -> Response<Vec<u8>> {
        let visitor = self.settings.proxies.visitor(head.request.headers(), arrival.peer);
        let path = shown_path(head.request.uri().path());
        log_refusal(&problem, name, visitor, &format!("{} {}", head.request.method(), path.escape_debug()));
        problem.response(name)
    }
}

/// Leaves a line in the log of what a visitor was answered with by the gateway itself.
fn log_refusal(problem: &Problem, name: RequestName, visitor: IpAddr, what: &str) {
    let (status, code) = (problem.status.as_u16(), problem.code);
    info!(status, code, request:% = name; "{what} of {visitor} answered: {status} {code} [{name}]");
}

/// A value of `Max-Forwards`, if it is one.
fn forwards_left(value: &HeaderValue) -> Option<u32> {
    value.to_str().ok()?.parse().ok()
}

/// Makes of a visitor's head what the agent is to see.
fn prepare(parts: &mut request::Parts, arrival: Arrival, gateway: &Gateway) {
    let headers = &mut parts.headers;
    warn_of_proxy(headers, arrival.peer, gateway);
    remove_hop_by_hop(headers);
    gateway.settings.proxies.set(headers, arrival);
    headers.remove(X_TUNNEL_ID);
    headers.remove(header::EXPECT);
    if matches!(parts.method, Method::OPTIONS | Method::TRACE)
        && let Some(left) = headers.get(MAX_FORWARDS).and_then(forwards_left)
    {
        headers.insert(MAX_FORWARDS, left.saturating_sub(1).into());
    }
}

/// Warns once where it seems that a proxy is meant to be believed.
fn warn_of_proxy(headers: &HeaderMap, peer: IpAddr, gateway: &Gateway) {
    let is_unknown = gateway.settings.proxies.networks.is_empty() && forwarded::is_private(peer);
    let may = is_unknown && !gateway.has_warned_of_proxy.load(Ordering::Relaxed);
    if may && forwarded::has_family(headers) && !gateway.has_warned_of_proxy.swap(true, Ordering::Relaxed) {
        warn!(
            "a request from {peer} says where it came from (X-Forwarded-…), which is not believed; if that is a proxy of \
             yours, name it: --trusted-proxies {peer}"
        );
    }
}
