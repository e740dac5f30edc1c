//! What is counted and logged of a visitor's request, once.

use std::cell::Cell;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use http::StatusCode;
use log::info;

use super::GatewayCore;
use crate::http1::{Head, InTrace, TraceId, shown_path};
use crate::net::Traffic;
use crate::protocol::RequestName;
use crate::session::ACCESS_LOG;

/// A request from its head to the end of its response. It is counted, and logged where that is wanted, when it is finished,
/// or else when it is dropped.
pub(super) struct RequestRecord<'a> {
    gateway: &'a GatewayCore,
    head: &'a Head,
    visitor: IpAddr,
    traffic: Arc<Traffic>,
    /// What the connection had sent before.
    sent_before: u64,
    arrived: Instant,
    /// The status of the response, once there is one.
    status: Cell<Option<StatusCode>>,
    name: Cell<Option<RequestName>>,
    is_finished: Cell<bool>,
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

    /// Records that the response has ended: what comes next on the connection is another request's.
    pub(super) fn finish(&self) {
        if self.is_finished.replace(true) {
            return;
        }
        self.gateway.metrics.request_ended(self.status.get(), self.arrived.elapsed());
        if self.gateway.settings.logs_requests {
            self.log();
        }
    }

    fn log(&self) {
        let request = &self.head.request;
        let (visitor, method) = (self.visitor, request.method().as_str());
        let path = &*shown_path(request.uri().path());
        let shown = path.escape_debug();
        let bytes = self.traffic.sent() - self.sent_before;
        let took = (self.arrived.elapsed().as_secs_f64() * 1e4).round() / 10.0;
        let status = self.status.get().map_or(0, |status| status.as_u16());
        let answer = if status == 0 { "left".to_owned() } else { status.to_string() };
        let name = self.name.get().map(|name| name.to_string()).unwrap_or_default();
        let of = if name.is_empty() { String::new() } else { format!(" [{name}]") };
        let trace = TraceId::of(request.headers());
        let (in_trace, trace) = (InTrace(trace), trace.map(|trace| trace.to_string()).unwrap_or_default());
        info!(target: ACCESS_LOG, visitor:%, method, path, status, bytes, duration_ms = took, request = name, trace;
            "{visitor} {method} {shown} {answer} {bytes} B {took:.1} ms{of}{in_trace}");
    }
}

impl Drop for RequestRecord<'_> {
    fn drop(&mut self) {
        self.finish();
    }
}
