//! The pages for operators and their programs.

#[cfg(feature = "inspect")]
use std::io;

use http::{Response, StatusCode};
use serde_json::{Value, json};

#[cfg(feature = "inspect")]
use crate::http1::{Head, Persistence, ServerConnection};
use crate::http1::{json_response, response};

/// A program whose state operators ask for.
pub(crate) trait Reported {
    /// The program: `agent`, say.
    fn name(&self) -> &'static str;

    /// The part that is stuck, if one is: the process lives, and its work does not go on.
    fn stuck(&self) -> Option<&'static str> {
        None
    }

    /// Why it cannot do its work now, or not all of it.
    fn obstacles(&self) -> Vec<String>;

    /// How it is doing, for people and programs.
    fn status(&self) -> Value;

    /// The metrics in Prometheus' text format.
    fn metrics(&self) -> String;

    /// Pages that read requests and write responses themselves, if there are some.
    #[cfg(feature = "inspect")]
    fn interactive(&self) -> Option<&dyn InteractivePages> {
        None
    }

    /// The page at this path, if there is one.
    fn answer(&self, path: &str) -> Option<Response<Vec<u8>>> {
        match path {
            "/healthz" => Some(match self.stuck() {
                None => text(StatusCode::OK, "ok\n"),
                Some(what) => text(StatusCode::SERVICE_UNAVAILABLE, format!("stuck: {what}\n")),
            }),
            "/readyz" => Some(ready(&self.obstacles())),
            "/status" => Some(json_response(StatusCode::OK, &self.status())),
            "/metrics" => {
                Some(response(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", self.metrics()))
            }
            _ => None,
        }
    }
}

/// Pages that read requests and write responses themselves.
#[cfg(feature = "inspect")]
pub(crate) trait InteractivePages {
    /// Whether a path is theirs.
    fn have(&self, path: &str) -> bool;

    /// Answers a request.
    fn serve(
        &self,
        connection: &mut ServerConnection,
        head: &Head,
        access: Access,
        program: &ProgramState<'_>,
    ) -> io::Result<Persistence>;
}

/// The state of the program that the pages are of.
#[cfg(feature = "inspect")]
pub(crate) struct ProgramState<'a> {
    /// Its status, as JSON.
    pub(crate) status: &'a dyn Fn() -> serde_json::Value,
    /// Whether the server stops.
    pub(crate) is_stopping: &'a dyn Fn() -> bool,
}

/// Whether a request may ask.
#[cfg(feature = "inspect")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    Allowed,
    /// The token is missing, or wrong.
    TokenMissing,
    /// It names another server.
    Misdirected,
}

/// The response for a balancer: 200, or 503 with what stands in the way.
pub(crate) fn ready(obstacles: &[String]) -> Response<Vec<u8>> {
    let status = if obstacles.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    json_response(status, &json!({ "ready": obstacles.is_empty(), "because": obstacles }))
}

/// A response of plain text.
pub(super) fn text(status: StatusCode, text: impl Into<String>) -> Response<Vec<u8>> {
    response(status, "text/plain; charset=utf-8", text)
}
