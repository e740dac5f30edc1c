//! The record of a visitor's request: its metrics and its line in the log, once.

use std::cell::Cell;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::StatusCode;
use http::header::HOST;
use log::info;

use super::GatewayCore;
use crate::http1::{Head, InTrace, TraceId, is_host, shown_path};
use crate::net::Traffic;
use crate::protocol::RequestName;
use crate::session::ACCESS_LOG;

/// A request from its head to the end of its response. It is counted, and logged where that is wanted, when it is finished;
/// dropping it before records that it broke off.
pub(super) struct RequestRecord<'a> {
    gateway: &'a GatewayCore,
    head: &'a Head,
    visitor: IpAddr,
    traffic: Arc<Traffic>,
    /// The bytes that the connection had sent before.
    sent_before: u64,
    arrived: Instant,
    /// The status of the response, once it begins.
    status: Cell<Option<StatusCode>>,
    name: Cell<Option<RequestName>>,
    /// The code of a response of the gateway's own.
    problem: Cell<Option<&'static str>>,
    /// It is another protocol's, or an event stream.
    lasts: Cell<bool>,
    is_finished: Cell<bool>,
}

/// The longest host that is logged, in bytes: a name's (RFC 1035 §2.3.4), and a port.
const HOST_MAX: usize = 261;

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RequestEnd {
    /// With the end of its response, which took so long; those of responses that last say nothing.
    Answered(StatusCode, Option<Duration>),
    /// In the middle of its response.
    Cut(StatusCode),
    /// Before there was a response: its visitor disconnected.
    Cancelled,
}

impl<'a> RequestRecord<'a> {
    /// A request that has arrived over the connection with this traffic.
    pub(super) fn new(gateway: &'a GatewayCore, head: &'a Head, peer: IpAddr, traffic: Arc<Traffic>) -> Self {
        let visitor = gateway.settings.proxies.visitor(head.request.headers(), peer);
        RequestRecord {
            gateway,
            head,
            visitor,
            sent_before: traffic.sent(),
            traffic,
            arrived: Instant::now(),
            status: Cell::new(None),
            name: Cell::new(None),
            problem: Cell::new(None),
            lasts: Cell::new(false),
            is_finished: Cell::new(false),
        }
    }

    /// Whose request it is, as far as the proxies on its way are trusted.
    pub(super) fn visitor(&self) -> IpAddr {
        self.visitor
    }

    /// When the request had arrived.
    pub(super) fn arrived(&self) -> Instant {
        self.arrived
    }

    /// Records the status of the response, which begins.
    pub(super) fn answered(&self, status: StatusCode) {
        self.status.set(Some(status));
    }

    /// Records what people call the request.
    pub(super) fn named(&self, name: RequestName) {
        self.name.set(Some(name));
    }

    /// Records that the response is the gateway's own, with this code.
    pub(super) fn record_problem(&self, code: &'static str, name: RequestName) {
        self.problem.set(Some(code));
        self.named(name);
    }

    /// Records that the response may be silent for as long as it likes.
    pub(super) fn lasts(&self) {
        self.lasts.set(true);
    }

    /// Records that the response has ended: what comes next on the connection is another request's.
    pub(super) fn finish(&self) {
        let took = Some(self.arrived.elapsed()).filter(|_| !self.lasts.get());
        self.end(
            self.status.get().map_or(RequestEnd::Cancelled, |status| RequestEnd::Answered(status, took)),
        );
    }

    fn end(&self, end: RequestEnd) {
        if self.is_finished.replace(true) {
            return;
        }
        self.gateway.metrics.request_ended(end);
        if let (Some(code), Some(name), Some(status)) =
            (self.problem.get(), self.name.get(), self.status.get())
        {
            self.gateway.metrics.problem(code);
            let request = &self.head.request;
            let path = shown_path(request.uri().path());
            let what = format!("{} {}", request.method(), path.escape_debug());
            log_problem(status, code, name, self.visitor, &what);
        }
        if self.gateway.settings.logs_requests {
            self.log(end);
        }
    }

    fn log(&self, end: RequestEnd) {
        let request = &self.head.request;
        let (visitor, method) = (self.visitor, request.method().as_str());
        let path = &*shown_path(request.uri().path());
        let shown = path.escape_debug();
        // An invalid host is not repeated.
        let host =
            request.headers().get(HOST).filter(|host| host.len() <= HOST_MAX && is_host(host.as_bytes()));
        let host = host.and_then(|host| host.to_str().ok()).unwrap_or("-");
        let bytes = self.traffic.sent() - self.sent_before;
        let took = (self.arrived.elapsed().as_secs_f64() * 1e4).round() / 10.0;
        // A failure has a code in place of a status that would look like a success.
        let (answer, status, code) = match end {
            RequestEnd::Answered(status, _) => (status.as_u16().to_string(), Some(status), ""),
            RequestEnd::Cut(status) => (format!("{} cut", status.as_u16()), None, "cut"),
            RequestEnd::Cancelled => ("cancelled".to_owned(), None, "cancelled"),
        };
        let name = self.name.get().map(|name| name.to_string()).unwrap_or_default();
        let of = if name.is_empty() { String::new() } else { format!(" [{name}]") };
        let trace = TraceId::of(request.headers());
        let (in_trace, trace) = (InTrace(trace), trace.map(|trace| trace.to_string()).unwrap_or_default());
        match status.map(|status| status.as_u16()) {
            Some(status) => info!(target: ACCESS_LOG,
                visitor:%, host, method, path, status, bytes, duration_ms = took, request = name, trace;
                "{visitor} {host} {method} {shown} {answer} {bytes} B {took:.1} ms{of}{in_trace}"),
            None => info!(target: ACCESS_LOG,
                visitor:%, host, method, path, code, bytes, duration_ms = took, request = name, trace;
                "{visitor} {host} {method} {shown} {answer} {bytes} B {took:.1} ms{of}{in_trace}"),
        }
    }
}

impl Drop for RequestRecord<'_> {
    fn drop(&mut self) {
        self.end(self.status.get().map_or(RequestEnd::Cancelled, RequestEnd::Cut));
    }
}

/// Logs that the gateway itself answered a visitor.
pub(super) fn log_problem(
    status: StatusCode,
    code: &'static str,
    name: RequestName,
    visitor: IpAddr,
    what: &str,
) {
    let status = status.as_u16();
    info!(status, code, request:% = name; "{what} of {visitor} answered: {status} {code} [{name}]");
}
