//! The responses that the gateway itself makes when something is wrong: a small JSON object, marked as its own.

use std::io;

use http::header::{self, HeaderValue};
use http::{Response, StatusCode};
use serde_json::json;
use tunnel_agent::http1::{Error, json_response};
use tunnel_agent::mux::StreamError;
use tunnel_agent::protocol::mux::{Over, Reset, ResetCode};

/// What is wrong: a text for people, and a name for programs.
pub fn problem(status: StatusCode, code: &str, text: &str) -> Response<Vec<u8>> {
    let mut response = json_response(status, &json!({ "error": text, "code": code }));
    response.headers_mut().insert("x-tunnel-source", HeaderValue::from_static("gateway"));
    response
}

/// Nobody can answer now, and it may be tried again.
pub fn unavailable(code: &str, text: &str) -> Response<Vec<u8>> {
    let mut response = problem(StatusCode::SERVICE_UNAVAILABLE, code, text);
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    response
}

/// What a visitor is told whose request cannot be read; nothing when its connection has failed.
pub fn unreadable(error: Error) -> io::Result<Response<Vec<u8>>> {
    let (status, what) = match error {
        Error::Refused(status, what) => (status, what),
        Error::TimedOut => (StatusCode::REQUEST_TIMEOUT, "the request took too long"),
        Error::Io(error) => return Err(error),
    };
    let code = match status {
        StatusCode::PAYLOAD_TOO_LARGE => "body_too_large",
        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => "headers_too_large",
        StatusCode::NOT_IMPLEMENTED => "method_not_supported",
        StatusCode::REQUEST_TIMEOUT => "too_slow",
        _ => "bad_request",
    };
    Ok(problem(status, code, what))
}

/// What a visitor is told when a stream brought no response.
pub fn no_response(error: &StreamError) -> Response<Vec<u8>> {
    match error {
        StreamError::Over(Over::ByPeer(Reset { code: ResetCode::Refused, text })) => {
            unavailable("agent_refused", &format!("the agent refused the request: {text}"))
        }
        StreamError::Over(Over::ByPeer(Reset { code, text })) => {
            let status = if *code == ResetCode::Timeout {
                StatusCode::GATEWAY_TIMEOUT
            } else {
                StatusCode::BAD_GATEWAY
            };
            let text = format!("Failed to forward request to local server: {text}");
            problem(status, "agent_error", &text)
        }
        StreamError::Over(Over::Lost) => NoAnswer::Gone.response(),
        StreamError::TimedOut => NoAnswer::TimedOut.response(),
        StreamError::Over(Over::ByUs(_) | Over::Ended) => {
            problem(StatusCode::BAD_GATEWAY, "agent_error", "the agent's answer cannot be passed on")
        }
    }
}

/// Why an agent gave no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoAnswer {
    /// Too many requests wait for this agent.
    Busy,
    /// The request does not fit into a message.
    TooLarge,
    /// Its connection ended.
    Gone,
    /// It took too long.
    TimedOut,
}

impl NoAnswer {
    /// The response that tells the visitor.
    pub fn response(self) -> Response<Vec<u8>> {
        match self {
            NoAnswer::Busy => {
                unavailable("agent_busy", "the agent has as many requests under way as one connection takes")
            }
            NoAnswer::TooLarge => problem(
                StatusCode::PAYLOAD_TOO_LARGE,
                "message_too_large",
                "the request does not fit into one message",
            ),
            NoAnswer::Gone => problem(StatusCode::BAD_GATEWAY, "agent_gone", "the agent's connection ended"),
            NoAnswer::TimedOut => problem(
                StatusCode::GATEWAY_TIMEOUT,
                "timeout",
                "no answer came in time from the agent, or from the server behind it",
            ),
        }
    }
}
