//! The page of the inspector, and the API behind it.
//!
//! | request | answer |
//! | --- | --- |
//! | `GET /`, `/page/…` | the page: HTML, style sheet and modules |
//! | `GET /api/exchanges?q=&before=&limit=` | exchanges that match, the newest first |
//! | `GET /api/exchanges/N` | one exchange, with its heads and messages |
//! | `GET /api/exchanges/N/body?of=request` | the kept bytes of a body, `of=response` likewise |
//! | `POST /api/exchanges/N/replay` | sends a request again, with changes if the body names some |
//! | `DELETE /api/exchanges` | forgets all |
//! | `GET /api/events` | what changes, as server-sent events |
//! | `GET /api/status` | sessions, URLs, local servers, and the figures of the last 15 minutes |
//!
//! Visitors' bytes never become HTML of the page, and pages of other origins can neither read nor change anything: a request
//! names this server, one that changes something carries a field that no form sends, and a body comes as an attachment.

mod api;
mod events;
mod json;
mod query;

use std::io;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Response, StatusCode};
use serde_json::json;

use super::pages::{Access, InteractivePages, ProgramState};
use crate::guard::Refusal;
use crate::http1::{Head, Persistence, RequestError, ServerConnection, json_response};
use crate::inspect::{Inspector, Replay};

/// The field of requests that change something: a form cannot send it, and a page of another origin has to ask first.
const CONFIRMATION: HeaderName = HeaderName::from_static("x-tunnel-inspector");

/// The largest body of a request to the API, in bytes: a replay with its body as base64.
const BODY_MAX: usize = 1 << 20;

/// The policy of the page: it loads its own parts alone, and images of bodies that it has fetched.
const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' blob:; \
     base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
);

/// The files of the page, with their types.
const FILES: [(&str, &str, &str); 10] = [
    ("/", HTML, include_str!("../page/index.html")),
    ("/page/icon.svg", "image/svg+xml", include_str!("../page/icon.svg")),
    ("/page/style.css", "text/css; charset=utf-8", include_str!("../page/style.css")),
    ("/page/app.js", SCRIPT, include_str!("../page/app.js")),
    ("/page/api.js", SCRIPT, include_str!("../page/api.js")),
    ("/page/body.js", SCRIPT, include_str!("../page/body.js")),
    ("/page/detail.js", SCRIPT, include_str!("../page/detail.js")),
    ("/page/export.js", SCRIPT, include_str!("../page/export.js")),
    ("/page/replay.js", SCRIPT, include_str!("../page/replay.js")),
    ("/page/status.js", SCRIPT, include_str!("../page/status.js")),
];

const HTML: &str = "text/html; charset=utf-8";

const SCRIPT: &str = "text/javascript; charset=utf-8";

type SendAgain = dyn Fn(&Replay) -> Result<u64, ReplayProblem> + Send + Sync;

/// The page and the API, of one agent.
pub(crate) struct InspectorPages {
    pub(crate) inspector: Inspector,
    /// Sends a request again. Returns the number of its record.
    pub(crate) replay: Box<SendAgain>,
}

/// Why a request was not sent again.
#[derive(Debug)]
pub(crate) enum ReplayProblem {
    /// The agent has no such tunnel any more.
    NoTunnel,
    /// The request breaks a rule.
    Refused(Refusal),
}

impl InteractivePages for InspectorPages {
    fn have(&self, path: &str) -> bool {
        path == "/" || path.starts_with("/page/") || path.starts_with("/api/")
    }

    fn serve(
        &self,
        connection: &mut ServerConnection,
        head: &Head,
        access: Access,
        program: &ProgramState<'_>,
    ) -> io::Result<Persistence> {
        if let Some(refusal) = refusal(head, access) {
            // Its body is not read.
            return connection.respond_within(Some(head), refusal, Persistence::Close);
        }
        let body = match connection.read_body(head, BODY_MAX, |_| true) {
            Ok(body) => body,
            Err(RequestError::Refused(code, what)) => {
                connection.respond(Some(head), problem(code, "bad_request", what))?;
                return Ok(Persistence::Close);
            }
            Err(RequestError::TimedOut) => return Ok(Persistence::Close),
            Err(RequestError::Io(error)) => return Err(error),
        };
        let (method, path) = (head.request.method(), head.request.uri().path());
        if path == "/api/events" && *method == Method::GET {
            return events::stream(&self.inspector, connection, head, program.is_stopping);
        }
        let mut response = self.answer(head, &body, program.status);
        let headers = response.headers_mut();
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        headers.insert("cross-origin-resource-policy", HeaderValue::from_static("same-origin"));
        if path.starts_with("/api/") {
            headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        }
        connection.respond(Some(head), response)
    }
}

impl InspectorPages {
    fn answer(&self, head: &Head, body: &[u8], status: &dyn Fn() -> serde_json::Value) -> Response<Vec<u8>> {
        let (method, path) = (head.request.method(), head.request.uri().path());
        let query = head.request.uri().query().unwrap_or_default();
        let reads = matches!(*method, Method::GET | Method::HEAD);
        if let Some((_, kind, text)) = FILES.iter().find(|(name, ..)| *name == path) {
            return if reads { file(kind, text) } else { not_allowed("GET, HEAD") };
        }
        let Some(path) = path.strip_prefix("/api/") else { return missing() };
        let mut steps = path.split('/');
        match (steps.next(), steps.next(), steps.next(), steps.next()) {
            (Some("status"), None, ..) if reads => api::status(&self.inspector, status()),
            (Some("exchanges"), None, ..) if reads => api::list(&self.inspector, query),
            (Some("exchanges"), None, ..) if *method == Method::DELETE => {
                self.inspector.clear();
                json_response(StatusCode::OK, &json!({}))
            }
            (Some("exchanges"), None, ..) => not_allowed("GET, HEAD, DELETE"),
            (Some("exchanges"), Some(id), None, None) if reads => api::one(&self.inspector, id),
            (Some("exchanges"), Some(id), Some("body"), None) if reads => {
                api::body(&self.inspector, id, query)
            }
            (Some("exchanges"), Some(id), Some("replay"), None) if *method == Method::POST => {
                api::replay(self, id, body)
            }
            (Some("exchanges"), Some(_), Some("replay"), None) => not_allowed("POST"),
            (Some("status" | "events" | "exchanges"), ..) if !reads => not_allowed("GET, HEAD"),
            _ => missing(),
        }
    }
}

/// The refusal of a request that may not ask, or that another page may have made.
fn refusal(head: &Head, access: Access) -> Option<Response<Vec<u8>>> {
    let (headers, path) = (head.request.headers(), head.request.uri().path());
    let changes = !matches!(*head.request.method(), Method::GET | Method::HEAD);
    // The page itself holds no secret, and asks for the token.
    let is_page = !path.starts_with("/api/");
    match access {
        Access::Misdirected => {
            let what = "this answers to its own address and to localhost; other names need a token";
            return Some(problem(StatusCode::MISDIRECTED_REQUEST, "misdirected", what));
        }
        Access::TokenMissing if !is_page => {
            let what = "this needs the admin token (Authorization: Bearer …)";
            let mut response = problem(StatusCode::UNAUTHORIZED, "token_missing", what);
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            return Some(response);
        }
        Access::TokenMissing | Access::Allowed => {}
    }
    // A link on another page may lead here.
    if !is_page && !is_same_origin(headers) {
        let what = "a page of another origin may not ask";
        return Some(problem(StatusCode::FORBIDDEN, "other_origin", what));
    }
    let is_confirmed = headers.contains_key(CONFIRMATION);
    (changes && !is_confirmed).then(|| {
        let what = "a request that changes something needs the field X-Tunnel-Inspector: 1";
        problem(StatusCode::FORBIDDEN, "unconfirmed", what)
    })
}

/// Whether the page that sends a request, if one does, is this server's own.
fn is_same_origin(headers: &HeaderMap) -> bool {
    let is_site_own =
        headers.get("sec-fetch-site").is_none_or(|site| matches!(site.as_bytes(), b"same-origin" | b"none"));
    let Some(origin) = headers.get(header::ORIGIN) else { return is_site_own };
    let host = headers.get(header::HOST).map(HeaderValue::as_bytes).unwrap_or_default();
    let of_origin = origin.as_bytes().strip_prefix(b"http://");
    // Behind a proxy with TLS.
    let of_origin = of_origin.or_else(|| origin.as_bytes().strip_prefix(b"https://"));
    is_site_own && of_origin.is_some_and(|of_origin| of_origin.eq_ignore_ascii_case(host))
}

fn file(kind: &'static str, text: &str) -> Response<Vec<u8>> {
    let mut response = Response::new(text.as_bytes().to_vec());
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(header::CONTENT_SECURITY_POLICY, POLICY);
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert("cross-origin-opener-policy", HeaderValue::from_static("same-origin"));
    response
}

/// A response that says what is wrong.
fn problem(status: StatusCode, code: &str, what: &str) -> Response<Vec<u8>> {
    json_response(status, &json!({ "error": what, "code": code }))
}

fn missing() -> Response<Vec<u8>> {
    problem(StatusCode::NOT_FOUND, "not_found", "there is no such path, or no such exchange any more")
}

fn not_allowed(methods: &'static str) -> Response<Vec<u8>> {
    let mut response = problem(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "not with this method");
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(methods));
    response
}
