//! The pages for operators and their programs.

use http::{Response, StatusCode};
use serde_json::{Value, json};

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

    /// The page of the inspector, if exchanges are recorded.
    #[cfg(feature = "inspect")]
    fn inspector(&self) -> Option<&super::inspector::InspectorPages> {
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

/// The response for a balancer: 200, or 503 with what stands in the way.
pub(crate) fn ready(obstacles: &[String]) -> Response<Vec<u8>> {
    let status = if obstacles.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    json_response(status, &json!({ "ready": obstacles.is_empty(), "because": obstacles }))
}

/// A response of plain text.
pub(super) fn text(status: StatusCode, text: impl Into<String>) -> Response<Vec<u8>> {
    response(status, "text/plain; charset=utf-8", text)
}
