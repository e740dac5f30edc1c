//! A visitor's request while it is answered, and the log's lines about what the gateway answers by itself.

use std::io;

use http::{HeaderMap, Method, Response, Version, header};
use log::{debug, info};

use super::GatewayCore;
use super::forwarded::Arrival;
use super::names::HostMeaning;
use super::record::RequestRecord;
use super::responses::Problem;
use super::visitor_connections::VisitorConnection;
use crate::http1::cookies::confine;
use crate::http1::fields::Upgrade;
use crate::http1::{Framing, Head, append_server_timing, shown_path};
use crate::mux::StreamError;
use crate::protocol::RequestName;
use crate::protocol::problem_page;

/// A request, and the connection that it came on.
#[derive(Clone, Copy)]
pub(super) struct VisitorRequest<'a> {
    pub(super) head: &'a Head,
    pub(super) arrival: &'a Arrival,
    /// The meaning of the request's `Host`.
    pub(super) host: &'a HostMeaning,
    pub(super) visitor: &'a VisitorConnection,
    pub(super) record: &'a RequestRecord<'a>,
    pub(super) gateway: &'a GatewayCore,
}

impl VisitorRequest<'_> {
    /// The response that tells of a problem with a request that no agent has got.
    pub(super) fn problem(&self, problem: Problem) -> Response<Vec<u8>> {
        self.named_problem(problem, self.gateway.name_request())
    }

    /// The response that tells of a problem with the request of this name.
    pub(super) fn named_problem(&self, problem: Problem, name: RequestName) -> Response<Vec<u8>> {
        let request = &self.head.request;
        self.record.record_problem(problem.code, name);
        let is_page = problem_page::is_asked_for(request.method(), request.headers());
        if is_page { problem.page(name) } else { problem.response(name) }
    }

    /// Adds to the head of an agent's response what the gateway has to say, and keeps its cookies to its own host.
    pub(super) fn finish_head(&self, headers: &mut HeaderMap) {
        if self.gateway.settings.tells_timing {
            append_server_timing(headers, &[("gateway", self.record.arrived().elapsed())]);
        }
        if self.gateway.names.confines(self.host) {
            confine(headers, self.gateway.names.domain());
        }
    }

    /// Logs that a response was cut, unless its visitor has disconnected.
    pub(super) fn log_cut(&self, name: RequestName, error: &io::Error) {
        if !error.get_ref().is_some_and(<dyn std::error::Error + Send + Sync>::is::<StreamError>) {
            return debug!("a response broke off: {error}");
        }
        let (request, visitor) = (&self.head.request, self.record.visitor());
        let (method, path) = (request.method(), shown_path(request.uri().path()));
        let path = path.escape_debug();
        info!(request:% = name; "{method} {path} of {visitor} was cut: {error} [{name}]");
    }

    /// The change of protocol that the visitor asks for.
    pub(super) fn upgrade(&self) -> Option<Upgrade> {
        let request = &self.head.request;
        let may = request.version() == Version::HTTP_11;
        Upgrade::asked_for(request.method(), request.headers()).filter(|_| may)
    }

    pub(super) fn method(&self) -> &Method {
        self.head.request.method()
    }
}

/// States the length of the body when it is known.
pub(super) fn set_length(headers: &mut HeaderMap, framing: Framing, complete: Option<u64>) {
    let stated = headers.remove(header::CONTENT_LENGTH).is_some();
    let length = match (framing, complete) {
        (Framing::Length(0), _) if !stated => None,
        (Framing::Length(length), _) => Some(length),
        (_, complete) => complete,
    };
    if let Some(length) = length {
        headers.insert(header::CONTENT_LENGTH, length.into());
    }
}
