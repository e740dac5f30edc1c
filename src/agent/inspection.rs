//! The inspector's page of an agent: its records, and the way back into its tunnels for requests that are sent again.

use std::sync::Arc;

use http::header::{HeaderName, HeaderValue};
use tungstenite::Bytes;

use super::core::AgentCore;
use super::parts::InspectorPage;
use super::tunnel::Tunnel;
use crate::admin::{InspectorPages, ReplayProblem};
use crate::guard::{Refusal, validate_head};
use crate::http1::{end_head, write_header, write_request_line};
use crate::inspect::Replay;
use crate::mux::RequestHead;
use crate::session::{WorkQueue, replay};

/// The page of this agent's inspector, if exchanges are recorded and shown.
pub(super) fn pages(core: &Arc<AgentCore>, queue: WorkQueue) -> Option<InspectorPages> {
    let is_shown = core.process.inspection.page == InspectorPage::Shown;
    let inspector = core.inspector.clone().filter(|_| is_shown)?;
    let core = core.clone();
    Some(InspectorPages { inspector, replay: Box::new(move |request| send_again(&core, request, &queue)) })
}

fn send_again(core: &AgentCore, request: &Replay, queue: &WorkQueue) -> Result<u64, ReplayProblem> {
    let has_name = |tunnel: &&Arc<Tunnel>| tunnel.settings().source.label == request.tunnel;
    let tunnels = core.tunnels();
    let tunnel = tunnels.iter().find(has_name).ok_or(ReplayProblem::NoTunnel)?;
    let head = head(request).map_err(ReplayProblem::Refused)?;
    let sent =
        replay((head, request.body.clone()), request.of, (&tunnel.exchanges.get(), &tunnel.metrics), queue);
    // Each exchange of this agent is recorded.
    sent.map_err(ReplayProblem::Refused)?.ok_or(ReplayProblem::NoTunnel)
}

/// The head of a request that is sent again, by the rules for a visitor's.
fn head(request: &Replay) -> Result<http::request::Parts, Refusal> {
    let refused = |what: String| Refusal::BadRequest(what.into());
    let method = request.method.parse().map_err(|_| refused("the method is not a token".to_owned()))?;
    // It cannot end its line.
    if request.url.bytes().any(|byte| byte <= b' ' || byte == 0x7f) {
        return Err(refused("the URL holds a blank or a control character".to_owned()));
    }
    let mut bytes = Vec::new();
    write_request_line(&mut bytes, &method, &request.url);
    for (name, value) in &request.headers {
        // Neither can end its line.
        let is_header =
            HeaderName::from_bytes(name.as_bytes()).is_ok() && HeaderValue::from_str(value).is_ok();
        if !is_header {
            return Err(refused(format!("{} is not a header field", name.escape_debug())));
        }
        write_header(&mut bytes, name, value.as_bytes());
    }
    end_head(&mut bytes);
    let bytes = Bytes::from(bytes);
    let parsed = RequestHead::parse(&bytes).map_err(|what| refused(what.to_owned()))?;
    validate_head(&parsed)
}
