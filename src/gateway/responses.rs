//! The responses that the gateway itself makes when something is wrong: a small JSON object, marked as its own.

use std::{fmt, io};

use http::header::{self, HeaderName, HeaderValue};
use http::{Response, StatusCode};
use serde_json::json;

use crate::http1::{RequestError, json_response, response};
use crate::mux::{Reset, ResetCode, StreamEnd, StreamError};
use crate::protocol::problem_page::{self, PageSource};
use crate::protocol::{RequestName, X_TUNNEL_SOURCE};
use crate::service::FORWARD_FAILED;

/// A problem of a request, or of its answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Problem {
    pub(super) status: StatusCode,
    /// Its name, for programs.
    pub(super) code: &'static str,
    /// The reason, for people.
    text: String,
    header: Option<(HeaderName, HeaderValue)>,
}

/// The words of all of them, by their statuses. Codes are names for programs, and stay.
impl Problem {
    fn new(status: StatusCode, code: &'static str, text: impl Into<String>) -> Self {
        Problem { status, code, text: text.into(), header: None }
    }

    /// No agent can answer now; another attempt may succeed.
    fn unavailable(code: &'static str, text: impl Into<String>) -> Self {
        let problem = Problem::new(StatusCode::SERVICE_UNAVAILABLE, code, text);
        problem.with(header::RETRY_AFTER, "1")
    }

    fn with(self, name: HeaderName, value: &'static str) -> Self {
        Problem { header: Some((name, HeaderValue::from_static(value))), ..self }
    }

    /// 400: HTTP does not allow this.
    pub(super) fn bad_request(text: impl Into<String>) -> Self {
        Problem::new(StatusCode::BAD_REQUEST, "bad_request", text)
    }

    /// 400: the `X-Tunnel-Id` is none.
    pub(super) fn bad_tunnel_id() -> Self {
        Problem::new(StatusCode::BAD_REQUEST, "bad_tunnel_id", "X-Tunnel-Id is not a tunnel ID")
    }

    /// 401: an agent shows no token.
    pub(super) fn token_missing() -> Self {
        let problem = Problem::new(StatusCode::UNAUTHORIZED, "unauthorized", "this gateway wants a token");
        problem.with(header::WWW_AUTHENTICATE, "Bearer")
    }

    /// 403: an agent shows another token.
    pub(super) fn token_wrong() -> Self {
        Problem::new(StatusCode::FORBIDDEN, "unauthorized", "wrong token")
    }

    /// 403: the list of agents is not for this client.
    pub(super) fn forbidden() -> Self {
        let text = "the agents are shown to this machine, or with the token";
        Problem::new(StatusCode::FORBIDDEN, "forbidden", text)
    }

    /// 404: no tunnel is named.
    pub(super) fn which_tunnel() -> Self {
        let text = "there are several tunnels here, and none of them has the request's host name, or is named by \
                    X-Tunnel-Id";
        Problem::new(StatusCode::NOT_FOUND, "which_tunnel", text)
    }

    /// 404: no page of the gateway's own has this path.
    pub(super) fn not_found() -> Self {
        let text = "there are /.tunnel/health, /.tunnel/ready, /.tunnel/connections and /.tunnel/forward";
        Problem::new(StatusCode::NOT_FOUND, "not_found", text)
    }

    /// 405: these methods are allowed.
    pub(super) fn method_not_allowed(text: &str, allowed: &'static str) -> Self {
        Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", text).with(header::ALLOW, allowed)
    }

    /// 426: this path is for agents.
    pub(super) fn agent_path(path: &str) -> Self {
        let text = format!("{path} is for agents: a WebSocket upgrade");
        Problem::new(StatusCode::UPGRADE_REQUIRED, "upgrade_required", text)
            .with(header::UPGRADE, "websocket")
    }

    /// 426: an agent does not say which version of WebSocket it speaks (RFC 6455 §4.2.2).
    pub(super) fn websocket_version() -> Self {
        let text = "the only version of WebSocket here is 13";
        let problem = Problem::new(StatusCode::UPGRADE_REQUIRED, "upgrade_required", text);
        problem.with(header::SEC_WEBSOCKET_VERSION, "13")
    }

    /// 431: the head does not fit into a frame.
    pub(super) fn head_too_large() -> Self {
        let status = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
        Problem::new(status, "headers_too_large", "the head is too large")
    }

    /// 502: the agent reported an error, in these words.
    pub(super) fn agent_error(text: impl Into<String>) -> Self {
        Problem::new(StatusCode::BAD_GATEWAY, "agent_error", text)
    }

    /// 503: there is no agent.
    pub(super) fn no_agent() -> Self {
        Problem::unavailable("no_agent", "no agent is connected")
    }

    /// 503: there is no agent of the tunnel that the request is for.
    pub(super) fn no_agent_of_tunnel() -> Self {
        Problem::unavailable("no_agent", "no agent of this tunnel is connected")
    }

    /// 503: there are as many connections as may be.
    pub(super) fn no_place() -> Self {
        let text = "the gateway has as many visitors as it takes, or as many of yours; try again";
        Problem::unavailable("no_place", text)
    }

    /// 503: the gateway is stopping.
    pub(super) fn stopping() -> Self {
        Problem::unavailable("stopping", "this gateway is stopping; there may be another one")
    }

    /// 503: bodies of all visitors together take up as much memory as they may.
    pub(super) fn out_of_memory() -> Self {
        Problem::unavailable("out_of_memory", "the gateway holds as many bodies as it takes; try again")
    }

    /// 421: an agent has come to the visitors' address (RFC 9110 §15.5.20).
    pub(super) fn agents_elsewhere() -> Self {
        let text = "agents connect at another address of this gateway";
        Problem::new(StatusCode::MISDIRECTED_REQUEST, "agents_elsewhere", text)
    }

    /// 421: a visitor has come to the agents' address.
    pub(super) fn agents_only() -> Self {
        Problem::new(StatusCode::MISDIRECTED_REQUEST, "agents_only", "this address is for agents")
    }

    /// 408: the visitor moved next to nothing while others waited for its place.
    pub(super) fn too_slow() -> Self {
        Problem::new(StatusCode::REQUEST_TIMEOUT, "too_slow", "the request took too long")
    }

    /// The problem with another status.
    pub(super) fn with_status(self, status: StatusCode) -> Self {
        Problem { status, ..self }
    }

    /// The response that tells of it, to the request with this name.
    pub(super) fn response(self, name: RequestName) -> Response<Vec<u8>> {
        let body = json!({ "error": self.text, "code": self.code, "request": name.to_string() });
        marked(json_response(self.status, &body), self.header)
    }

    /// The response as a page for browsers.
    pub(super) fn page(self, name: RequestName) -> Response<Vec<u8>> {
        let page = problem_page::page(PageSource::Gateway, self.status, (self.code, &self.text), name);
        marked(response(self.status, "text/html; charset=utf-8", page), self.header)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Marks a response as the gateway's own.
fn marked(mut response: Response<Vec<u8>>, more: Option<(HeaderName, HeaderValue)>) -> Response<Vec<u8>> {
    let headers = response.headers_mut();
    headers.insert(X_TUNNEL_SOURCE, HeaderValue::from_static("gateway"));
    // It is for this moment, and in one of two forms.
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::VARY, HeaderValue::from_static("accept"));
    headers.extend(more);
    response
}

/// The response to a request that cannot be read; none when its connection has failed.
pub(super) fn unreadable(error: RequestError) -> io::Result<Problem> {
    let (status, what) = match error {
        RequestError::Refused(StatusCode::SERVICE_UNAVAILABLE, _) => return Ok(Problem::out_of_memory()),
        RequestError::Refused(status, what) => (status, what),
        RequestError::TimedOut => return Ok(Problem::too_slow()),
        RequestError::Io(error) => return Err(error),
    };
    let code = match status {
        StatusCode::PAYLOAD_TOO_LARGE => "body_too_large",
        StatusCode::URI_TOO_LONG => "path_too_long",
        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => "headers_too_large",
        StatusCode::NOT_IMPLEMENTED => "not_implemented",
        _ => "bad_request",
    };
    Ok(Problem::new(status, code, what))
}

/// The response when a stream brought none.
pub(super) fn no_response(error: &StreamError) -> Problem {
    match error {
        StreamError::Closed(StreamEnd::ByPeer(Reset { code: ResetCode::Refused, text })) => {
            Problem::unavailable("agent_refused", format!("the agent refused the request: {text}"))
        }
        StreamError::Closed(StreamEnd::ByPeer(Reset { code, text })) => {
            let status = if *code == ResetCode::Timeout {
                StatusCode::GATEWAY_TIMEOUT
            } else {
                StatusCode::BAD_GATEWAY
            };
            let text = format!("{FORWARD_FAILED}: {text}");
            Problem::new(status, "agent_error", text)
        }
        StreamError::Closed(StreamEnd::Lost) => NoAnswer::Gone.problem(),
        StreamError::TimedOut => NoAnswer::TimedOut.problem(),
        StreamError::Closed(StreamEnd::ByUs(_) | StreamEnd::Ended) => {
            Problem::agent_error("the agent's answer cannot be passed on")
        }
    }
}

/// Why an agent gave no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoAnswer {
    /// Too many requests wait for this agent.
    Busy,
    /// The request does not fit into a message.
    TooLarge,
    /// Its connection ended.
    Gone,
    /// It took too long.
    TimedOut,
    /// There is no memory for it.
    OutOfMemory,
}

impl NoAnswer {
    /// The text of the response.
    pub(super) fn problem(self) -> Problem {
        match self {
            NoAnswer::Busy => Problem::unavailable(
                "agent_busy",
                "the agent has as many requests under way as one connection takes",
            ),
            NoAnswer::TooLarge => Problem::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                "message_too_large",
                "the request does not fit into one message",
            ),
            NoAnswer::Gone => {
                Problem::new(StatusCode::BAD_GATEWAY, "agent_gone", "the agent's connection ended")
            }
            NoAnswer::TimedOut => Problem::new(
                StatusCode::GATEWAY_TIMEOUT,
                "timeout",
                "no answer came in time from the agent, or from the server behind it",
            ),
            NoAnswer::OutOfMemory => Problem::out_of_memory(),
        }
    }
}
