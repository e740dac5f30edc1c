//! The answers of the API.

use data_encoding::BASE64;
use http::header::{self, HeaderValue};
use http::{Response, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};

use super::json::{details, sample, summary};
use super::query::{Search, parameter};
use super::{InspectorPages, ReplayProblem, missing, problem};
use crate::admin::QrCode;
use crate::http1::json_response;
use crate::inspect::{Inspector, NotReplayable, Replay};

/// The exchanges in one answer, at most.
const LIST_MAX: usize = 500;

pub(super) fn status(inspector: &Inspector, mut status: Value) -> Response<Vec<u8>> {
    let (used, evicted) = inspector.usage();
    let config = inspector.config();
    status["inspector"] = json!({
        "memory_used": used,
        "memory": config.memory,
        "body": config.body,
        "evicted": evicted,
        "replays": inspector.replays(),
    });
    status["history"] = inspector.history().iter().map(sample).collect();
    for tunnel in tunnels(&mut status) {
        let code = tunnel["url"].as_str().and_then(QrCode::new);
        tunnel["qr"] = code.map(|code| code.rows()).into();
    }
    json_response(StatusCode::OK, &status)
}

/// The tunnels of a status: one, or a list of several.
fn tunnels(status: &mut Value) -> Vec<&mut Value> {
    if status["tunnels"].is_array() {
        status["tunnels"].as_array_mut().into_iter().flatten().collect()
    } else {
        vec![status]
    }
}

pub(super) fn list(inspector: &Inspector, query: &str) -> Response<Vec<u8>> {
    let number = |name| parameter(query, name).and_then(|value| value.parse().ok());
    let before = number("before").unwrap_or(u64::MAX);
    let limit = number("limit").map_or(LIST_MAX, |limit| usize::try_from(limit).unwrap_or(LIST_MAX));
    let search = Search::parse(&parameter(query, "q").unwrap_or_default());
    let matching = |exchange: &_| search.matches(exchange).then(|| summary(exchange));
    let found: Vec<Value> = inspector.find_before(before, limit.min(LIST_MAX), matching);
    json_response(StatusCode::OK, &json!({ "exchanges": found }))
}

pub(super) fn one(inspector: &Inspector, id: &str) -> Response<Vec<u8>> {
    let exchange = id.parse().ok().and_then(|id| inspector.exchange(id));
    let Some(exchange) = exchange else { return missing() };
    let mut value = details(&exchange);
    let replay = Replay::of(&exchange);
    value["replayable"] = replay.is_ok().into();
    value["replay_leaves_out"] = replay.map(|replay| replay.left_out).unwrap_or_default().into();
    json_response(StatusCode::OK, &value)
}

/// The kept bytes of a body: as an attachment that no browser shows, whatever they are.
pub(super) fn body(inspector: &Inspector, id: &str, query: &str) -> Response<Vec<u8>> {
    let exchange = id.parse().ok().and_then(|id| inspector.exchange(id));
    let of = parameter(query, "of");
    let bytes = match (exchange, of.as_deref()) {
        (Some(exchange), Some("request")) => exchange.request_body.bytes,
        (Some(exchange), Some("response")) => exchange.response_body.bytes,
        (Some(_), _) => return problem(StatusCode::BAD_REQUEST, "bad_request", "of=request or of=response"),
        (None, _) => return missing(),
    };
    let mut response = Response::new(bytes);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(header::CONTENT_DISPOSITION, HeaderValue::from_static("attachment"));
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static("default-src 'none'; sandbox"));
    response
}

/// The changes of a request that is sent again.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct RequestChanges {
    method: Option<String>,
    url: Option<String>,
    headers: Option<Vec<(String, String)>>,
    /// The body as text.
    body: Option<String>,
    /// The body as base64.
    body_base64: Option<String>,
}

pub(super) fn replay(pages: &InspectorPages, id: &str, body: &[u8]) -> Response<Vec<u8>> {
    let Ok(id) = id.parse() else { return missing() };
    let changes: RequestChanges = match body {
        [] => RequestChanges::default(),
        body => match serde_json::from_slice(body) {
            Ok(changes) => changes,
            Err(error) => {
                return problem(StatusCode::BAD_REQUEST, "bad_request", &format!("the changes: {error}"));
            }
        },
    };
    let replay = match changed(pages.inspector.replay(id), changes) {
        Ok(replay) => replay,
        Err(response) => return *response,
    };
    match (pages.replay)(&replay) {
        Ok(new) => json_response(StatusCode::CREATED, &json!({ "id": new, "left_out": replay.left_out })),
        Err(ReplayProblem::NoTunnel) => {
            problem(StatusCode::CONFLICT, "no_tunnel", "the tunnel of this request is not served any more")
        }
        Err(ReplayProblem::Refused(refusal)) => problem(refusal.status(), refusal.code(), &refusal.message()),
    }
}

/// The request with its changes.
fn changed(
    replay: Result<Replay, NotReplayable>,
    changes: RequestChanges,
) -> Result<Replay, Box<Response<Vec<u8>>>> {
    let conflict = |what| Box::new(problem(StatusCode::CONFLICT, "not_replayable", what));
    let mut replay = replay.map_err(|reason| match reason {
        NotReplayable::Missing => Box::new(missing()),
        NotReplayable::Incomplete => conflict("not all of the request has come, or was read"),
        NotReplayable::Cut => {
            conflict("the request's body is longer than what is kept of one (inspect_body)")
        }
        NotReplayable::Upgrade => conflict("it asked for another protocol"),
        NotReplayable::Unread => conflict("the request was refused before it was read"),
    })?;
    let RequestChanges { method, url, headers, body, body_base64 } = changes;
    replay.method = method.unwrap_or(replay.method);
    replay.url = url.unwrap_or(replay.url);
    if let Some(headers) = headers {
        // The fields that the owner has filled in are not left out.
        let is_filled_in = |name: &String| headers.iter().any(|(other, _)| other.eq_ignore_ascii_case(name));
        replay.left_out.retain(|name| !is_filled_in(name));
        replay.headers = headers;
    }
    let decoded = body_base64.map(|text| BASE64.decode(text.as_bytes())).transpose();
    let decoded =
        decoded.map_err(|_| problem(StatusCode::BAD_REQUEST, "bad_request", "body_base64 is not base64"))?;
    replay.body = decoded.or(body.map(String::into_bytes)).unwrap_or(replay.body);
    Ok(replay)
}
