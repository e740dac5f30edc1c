//! The responses that the gateway itself makes when something is wrong: a small JSON object, marked as its own.

use std::io;

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

impl Problem {
    pub(super) fn new(status: StatusCode, code: &'static str, text: impl Into<String>) -> Self {
        Problem { status, code, text: text.into(), header: None }
    }

    /// No agent can answer now; another attempt may succeed.
    pub(super) fn unavailable(code: &'static str, text: impl Into<String>) -> Self {
        let problem = Problem::new(StatusCode::SERVICE_UNAVAILABLE, code, text);
        problem.with(header::RETRY_AFTER, HeaderValue::from_static("1"))
    }

    /// Bodies of all visitors together take up as much memory as they may.
    pub(super) fn out_of_memory() -> Self {
        Problem::unavailable("out_of_memory", "the gateway holds as many bodies as it takes; try again")
    }

    /// An agent has come to the visitors' address (RFC 9110 §15.5.20).
    pub(super) fn agents_elsewhere() -> Self {
        let text = "agents connect at another address of this gateway";
        Problem::new(StatusCode::MISDIRECTED_REQUEST, "agents_elsewhere", text)
    }

    /// A visitor has come to the agents' address.
    pub(super) fn agents_only() -> Self {
        Problem::new(StatusCode::MISDIRECTED_REQUEST, "agents_only", "this address is for agents")
    }

    /// The visitor moved next to nothing while others waited for its place.
    pub(super) fn too_slow() -> Self {
        Problem::new(StatusCode::REQUEST_TIMEOUT, "too_slow", "the request took too long")
    }

    pub(super) fn with(self, name: HeaderName, value: HeaderValue) -> Self {
        Problem { header: Some((name, value)), ..self }
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
            let text = "the agent's answer cannot be passed on";
            Problem::new(StatusCode::BAD_GATEWAY, "agent_error", text)
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
