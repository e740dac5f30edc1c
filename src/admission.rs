//! Which requests are taken on: what HTTP allows, within the limits. Pure; for whatever way a request comes.

use std::borrow::Cow;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::uri::PathAndQuery;
use http::{Method, StatusCode, Uri};
use log::info;

use crate::clock::whole_seconds;
use crate::http1::{RawTarget, is_host, parse_target, shown_path};
use crate::protocol::mux::RequestHead;
use crate::protocol::{RequestMessage, RequestName};
use crate::rate::Bucket;
use crate::rules::{Action, Rule, Rules, Verdict};
use crate::service::{Body, Failure, FailureKind, Request, Response};

/// Says who answered, where that is not the local server.
pub(crate) const X_TUNNEL_SOURCE: HeaderName = HeaderName::from_static("x-tunnel-source");

/// Marks the question of whoever looks for a local server, which must not pass through a tunnel: the gateway that it
/// came through would be taken for one.
pub(crate) const X_TUNNEL_SEARCH: HeaderName = HeaderName::from_static("x-tunnel-search");

/// Most headers of one request: as many as a gateway takes from its visitors, and what it adds.
pub const HEADERS_MAX: usize = crate::http1::HEADERS_MAX + 16;

/// Most bytes of one request's header names and values together.
pub const HEADER_BYTES_MAX: usize = 64 << 10;

/// Most bytes of one header line, and of the path: what the local server's connection takes at once.
pub const LINE_MAX: usize = 30 << 10;

/// A request that is not forwarded, and the response that the agent makes of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// 400: HTTP does not allow this; the text says what.
    BadRequest(Cow<'static, str>),
    /// 413: the body is larger than this many bytes.
    BodyTooLarge(u64),
    /// 414: the path is longer than [`LINE_MAX`].
    PathTooLong,
    /// 431: more headers than [`HEADERS_MAX`], more bytes of them than [`HEADER_BYTES_MAX`], or one longer
    /// than [`LINE_MAX`].
    HeadersTooLarge,
    /// 501: `CONNECT`.
    MethodNotSupported,
    /// 400: the path can be read in more than one way, and there are rules about paths; the text says how.
    AmbiguousPath(&'static str),
    /// 403: the agent's rules do not let it pass.
    Filtered,
    /// 429: more requests come than may; after this time there may be room again.
    RateLimited(Duration),
    /// 503: as much waits already as may wait.
    QueueFull,
    /// 503: it has waited for as long as it may.
    QueueTimeout,
    /// 503: the agent is stopping.
    Draining,
}

impl Refusal {
    fn bad_request(what: &'static str) -> Self {
        Refusal::BadRequest(Cow::Borrowed(what))
    }

    /// What the rules' verdict refuses a request with, if it does.
    pub(crate) fn by(verdict: &Verdict<'_>) -> Option<Self> {
        match verdict {
            Verdict::Ambiguous(why) => Some(Refusal::AmbiguousPath(why)),
            Verdict::By(Rule { action: Action::Deny, .. }) | Verdict::Default(Action::Deny) => {
                Some(Refusal::Filtered)
            }
            Verdict::NoRules | Verdict::By(_) | Verdict::Default(Action::Allow) => None,
        }
    }

    /// The status of its response.
    pub fn status(&self) -> StatusCode {
        match self {
            Refusal::BadRequest(_) | Refusal::AmbiguousPath(_) => StatusCode::BAD_REQUEST,
            Refusal::Filtered => StatusCode::FORBIDDEN,
            Refusal::RateLimited(_) => StatusCode::TOO_MANY_REQUESTS,
            Refusal::BodyTooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Refusal::PathTooLong => StatusCode::URI_TOO_LONG,
            Refusal::HeadersTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Refusal::MethodNotSupported => StatusCode::NOT_IMPLEMENTED,
            Refusal::QueueFull | Refusal::QueueTimeout | Refusal::Draining => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// All that [`code`](Self::code) gives.
    pub(crate) const CODES: [&str; 11] = [
        "bad_request",
        "body_too_large",
        "path_too_long",
        "headers_too_large",
        "method_not_supported",
        "ambiguous_path",
        "filtered",
        "rate_limited",
        "queue_full",
        "queue_timeout",
        "draining",
    ];

    /// The stable name of its reason, for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Refusal::BadRequest(_) => "bad_request",
            Refusal::BodyTooLarge(_) => "body_too_large",
            Refusal::PathTooLong => "path_too_long",
            Refusal::HeadersTooLarge => "headers_too_large",
            Refusal::MethodNotSupported => "method_not_supported",
            Refusal::AmbiguousPath(_) => "ambiguous_path",
            Refusal::Filtered => "filtered",
            Refusal::RateLimited(_) => "rate_limited",
            Refusal::QueueFull => "queue_full",
            Refusal::QueueTimeout => "queue_timeout",
            Refusal::Draining => "draining",
        }
    }

    /// The reason, for people.
    pub fn message(&self) -> String {
        match self {
            Refusal::BadRequest(what) => format!("the request was refused by the tunnel agent: {what}"),
            Refusal::BodyTooLarge(max) => {
                format!("the request body is larger than the tunnel's limit of {max} bytes")
            }
            Refusal::PathTooLong => format!("the path is longer than {LINE_MAX} bytes"),
            Refusal::HeadersTooLarge => format!(
                "the request has more than {HEADERS_MAX} headers, more than {HEADER_BYTES_MAX} bytes of them, \
                 or one longer than {LINE_MAX} bytes"
            ),
            Refusal::MethodNotSupported => "CONNECT cannot be forwarded".to_owned(),
            Refusal::AmbiguousPath(why) => format!("the path can be read in more than one way: {why}"),
            Refusal::Filtered => "the tunnel agent does not let this request pass".to_owned(),
            Refusal::RateLimited(_) => "too many requests for the tunnel agent; try again later".to_owned(),
            Refusal::QueueFull => "the tunnel agent is busy and its queue is full; try again".to_owned(),
            Refusal::QueueTimeout => {
                "the tunnel agent is busy and the request has waited for too long; try again".to_owned()
            }
            Refusal::Draining => "the tunnel agent is stopping; try again".to_owned(),
        }
    }

    /// Leaves a line in the log, with method and path (without its query) where they could be read.
    pub(crate) fn log(&self, name: RequestName, request: Option<(&Method, &str)>) {
        let (status, code) = (self.status().as_u16(), self.code());
        match request {
            Some((method, path)) => {
                let path = &*shown_path(path);
                let (method, shown) = (method.as_str(), path.escape_debug());
                let hint = self.hint();
                info!(method, path, status, code, request:% = name; "{method} {shown} refused: {status} {code}{hint} [{name}]");
            }
            None => {
                let text = self.message();
                info!(status, code, request:% = name; "refused a request: {status} {code}: {text} [{name}]");
            }
        }
    }

    /// What the agent's owner might change, for the log alone.
    fn hint(&self) -> &'static str {
        match self {
            Refusal::QueueFull => " (see --concurrency and --queue)",
            Refusal::QueueTimeout => " (see --concurrency and --queue-timeout)",
            _ => "",
        }
    }

    /// The response: a small JSON object, marked as the agent's own.
    pub fn response(&self, name: RequestName) -> Response {
        problem(self.status(), self.code(), &self.message(), name, self.retry_after())
    }

    /// After how many seconds it may be tried again, where waiting helps.
    fn retry_after(&self) -> Option<u64> {
        match self {
            Refusal::RateLimited(time) => Some(whole_seconds(*time)),
            Refusal::QueueFull | Refusal::QueueTimeout | Refusal::Draining => Some(1),
            _ => None,
        }
    }
}

/// A response of the agent's own.
fn problem(
    status: StatusCode,
    code: &str,
    text: &str,
    name: RequestName,
    retry_after: Option<u64>,
) -> Response {
    let body = serde_json::json!({ "error": text, "code": code, "request": name.to_string() });
    let mut response = Response::new(Body::from(body.to_string()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(X_TUNNEL_SOURCE, HeaderValue::from_static("agent"));
    if let Some(seconds) = retry_after {
        headers.insert(header::RETRY_AFTER, seconds.into());
    }
    response
}

/// The status of a response that says that there is none of the local server's.
pub(crate) fn failed_status(kind: FailureKind) -> StatusCode {
    match kind {
        FailureKind::Unavailable | FailureKind::Exhausted => StatusCode::SERVICE_UNAVAILABLE,
        FailureKind::Timeout => StatusCode::GATEWAY_TIMEOUT,
        _ => StatusCode::BAD_GATEWAY,
    }
}

/// A failure to forward as a response.
pub(crate) fn failed(failure: &Failure, text: &str, name: RequestName) -> Response {
    let kind = failure.kind();
    problem(failed_status(kind), kind.code(), text, name, failure.retry_after().map(whole_seconds))
}

/// What an agent's owner lets through, and how much of it.
#[derive(Debug, Default)]
pub(crate) struct Entrance {
    rules: Rules,
    rate: Option<Mutex<Bucket>>,
}

impl Entrance {
    pub(crate) fn new(rules: Rules, rate: Option<Bucket>) -> Self {
        Entrance { rules, rate: rate.map(Mutex::new) }
    }

    /// What the rules say of a request.
    pub(crate) fn decide(&self, method: &Method, path: &str) -> Verdict<'_> {
        self.rules.decide(method, path)
    }

    /// When a request may pass, if not at once; or why it may not. `now` is asked only when it matters.
    pub(crate) fn pass(
        &self,
        method: &Method,
        path: &str,
        now: impl FnOnce() -> Instant,
    ) -> Result<Option<Instant>, Refusal> {
        if let Some(refusal) = Refusal::by(&self.decide(method, path)) {
            return Err(refusal);
        }
        let Some(mut bucket) = self.bucket() else { return Ok(None) };
        bucket.take(now()).map(Some).map_err(Refusal::RateLimited)
    }

    /// Takes note that a request that might pass was refused for another reason, and counts for nothing.
    pub(crate) fn was_refused(&self) {
        if let Some(mut bucket) = self.bucket() {
            bucket.put_back();
        }
    }

    fn bucket(&self) -> Option<MutexGuard<'_, Bucket>> {
        // Nothing panics while the lock is held.
        self.rate.as_ref().map(|rate| rate.lock().unwrap_or_else(|poisoned| poisoned.into_inner()))
    }
}

/// Turns a message into a request that HTTP allows, or says why it is none.
pub fn admit(message: RequestMessage<'_>, body_max: usize) -> Result<Request, Refusal> {
    let method = method(&message.method)?;
    let (path, raw) = path(&message.path)?;
    let pairs = message.headers.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes()));
    let headers = headers(pairs)?;
    if message.body.len() > body_max {
        return Err(Refusal::BodyTooLarge(body_max as u64));
    }
    let mut request = Request::new(Body::from(message.body));
    *request.method_mut() = method;
    *request.uri_mut() = Uri::from(path);
    *request.headers_mut() = headers;
    raw.map(|raw| request.extensions_mut().insert(raw));
    Ok(request)
}

/// Turns the head of a stream into one that HTTP allows, or says why it is none. Its body is still to come.
pub(crate) fn admit_head(head: &RequestHead<'_>) -> Result<http::request::Parts, Refusal> {
    let (mut parts, ()) = http::Request::new(()).into_parts();
    parts.method = method(head.method)?;
    let (path, raw) = path(head.target)?;
    parts.uri = Uri::from(path);
    raw.map(|raw| parts.extensions.insert(raw));
    parts.headers = headers(head.headers.iter().map(|&(name, value)| (name.as_bytes(), value)))?;
    Ok(parts)
}

fn method(name: &str) -> Result<Method, Refusal> {
    match Method::from_bytes(name.as_bytes()) {
        Ok(Method::CONNECT) => Err(Refusal::MethodNotSupported),
        Ok(method) => Ok(method),
        Err(_) => Err(Refusal::bad_request("the method is not a token (RFC 9110 §9.1)")),
    }
}

/// Takes a request target in origin form (RFC 9112 §3.2.1) and nothing else.
fn path(target: &str) -> Result<(PathAndQuery, Option<RawTarget>), Refusal> {
    const WHAT: &str = "the path is not in origin form: `/`, then a path and query without blanks or `#`";
    if target.len() > LINE_MAX {
        return Err(Refusal::PathTooLong);
    }
    parse_target(target).ok_or(Refusal::bad_request(WHAT))
}

fn headers<'a>(
    pairs: impl ExactSizeIterator<Item = (&'a [u8], &'a [u8])> + Clone,
) -> Result<HeaderMap, Refusal> {
    let lengths = || pairs.clone().map(|(name, value)| name.len() + value.len());
    let too_long = lengths().any(|length| length > LINE_MAX);
    if too_long || pairs.len() > HEADERS_MAX || lengths().sum::<usize>() > HEADER_BYTES_MAX {
        return Err(Refusal::HeadersTooLarge);
    }
    let mut headers = HeaderMap::with_capacity(pairs.len());
    for (name, value) in pairs {
        let name = HeaderName::from_bytes(name)
            .map_err(|_| Refusal::bad_request("a header name is not a token (RFC 9110 §5.1)"))?;
        let value = HeaderValue::from_bytes(value)
            .map_err(|_| Refusal::bad_request("a header value holds a control character (RFC 9110 §5.5)"))?;
        headers.append(name, value);
    }
    if headers.contains_key(X_TUNNEL_SEARCH) {
        return Err(Refusal::bad_request("a search for local servers does not go through a tunnel"));
    }
    check_host(&headers)?;
    Ok(headers)
}

/// RFC 9112 §3.2: more than one `Host`, or an invalid one, is answered 400.
fn check_host(headers: &HeaderMap) -> Result<(), Refusal> {
    let mut hosts = headers.get_all(header::HOST).iter();
    let Some(host) = hosts.next() else { return Ok(()) };
    if hosts.next().is_some() {
        return Err(Refusal::bad_request("more than one Host header"));
    }
    let valid = host.is_empty() || is_host(host.as_bytes());
    if valid { Ok(()) } else { Err(Refusal::bad_request("the Host header is no host and port")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAME: RequestName = RequestName { connection: 0x0c8f_3d52, number: 17 };

    fn message<'a>(method: &'a str, path: &'a str, headers: &[(&'a str, &'a str)]) -> RequestMessage<'a> {
        RequestMessage {
            id: None,
            method: method.into(),
            path: path.into(),
            headers: headers.iter().map(|&(name, value)| (name.into(), value.into())).collect(),
            body: b"body".to_vec(),
            names_encoding: false,
        }
    }

    #[track_caller]
    fn refused(message: RequestMessage<'_>) -> &'static str {
        admit(message, 4).unwrap_err().code()
    }

    #[test]
    fn paths_that_are_not_origin_form_are_refused() {
        let paths = [
            "",
            "*",
            "x",
            "?q",
            "http://evil/",
            "\\\\evil\\",
            "/a b",
            "/a\r\nHost: x",
            "/a\0",
            "/a\u{7f}",
            "/a\tb",
            "/a#b",
            "evil:80",
            "@evil/",
            " /",
            "/\u{1}",
        ];
        for path in paths {
            assert_eq!(refused(message("GET", path, &[])), "bad_request", "{path:?}");
        }
    }

    #[test]
    fn paths_in_origin_form_pass_unchanged() {
        for path in [
            "/",
            "/a//b",
            "//evil/",
            "///",
            "/?",
            "/a?b=c&d=//e",
            "/@evil",
            "/a/../b",
            "/%2e%2e/x",
            "/{id}|é",
            "/:80",
        ] {
            let request = admit(message("GET", path, &[]), 4).unwrap();
            assert_eq!(request.uri().path_and_query().unwrap().as_str(), path);
            assert_eq!((request.uri().scheme(), request.uri().authority()), (None, None));
        }
    }

    #[test]
    fn any_token_is_a_method_but_connect() {
        for method in ["GET", "get", "PROPFIND", "M-SEARCH", "x!"] {
            assert!(admit(message(method, "/", &[]), 4).is_ok(), "{method}");
        }
        assert_eq!(refused(message("CONNECT", "/", &[])), "method_not_supported");
        for method in ["", "G T", "GET\r\n", "GÉT", "GET/"] {
            assert_eq!(refused(message(method, "/", &[])), "bad_request", "{method:?}");
        }
    }

    #[test]
    fn header_names_and_values_that_http_does_not_allow_are_refused() {
        for (name, value) in [
            ("", "x"),
            ("a b", "x"),
            ("a:", "x"),
            ("é", "x"),
            ("a\r\nb", "x"),
            ("a", "x\r\ny: z"),
            ("a", "\0"),
            ("a", "\u{7f}"),
            ("host", "a b"),
            ("host", "a@b"),
            ("host", "a/b"),
            ("host", "a:99999"),
        ] {
            assert_eq!(refused(message("GET", "/", &[(name, value)])), "bad_request", "{name:?}: {value:?}");
        }
        assert_eq!(refused(message("GET", "/", &[("host", "a"), ("Host", "b")])), "bad_request");
    }

    #[test]
    fn header_order_repeats_and_utf8_are_kept() {
        let pairs = [("X-A", "2"), ("x-a", "1"), ("Host", "localhost:8000"), ("x-b", "é")];
        let request = admit(message("GET", "/", &pairs), 4).unwrap();
        let values: Vec<_> = request.headers().get_all("x-a").iter().collect();
        assert_eq!(values, ["2", "1"]);
        assert_eq!(request.headers()["x-b"].as_bytes(), "é".as_bytes());
    }

    #[test]
    fn limits_are_refused_by_name() {
        let mut large = message("POST", "/", &[]);
        large.body = b"fiver".to_vec();
        assert_eq!(refused(large), "body_too_large");
        let many = vec![("a", "b"); HEADERS_MAX + 1];
        assert_eq!(refused(message("GET", "/", &many)), "headers_too_large");
        let long = "x".repeat(LINE_MAX);
        assert_eq!(refused(message("GET", "/", &[("a", &long)])), "headers_too_large");
        let pairs = [("a", &long[1..]), ("b", &long[1..])];
        assert!(admit(message("GET", "/", &pairs), 4).is_ok());
        let pairs = [("a", &long[1..]), ("b", &long[1..]), ("c", &long[1..])];
        assert_eq!(refused(message("GET", "/", &pairs)), "headers_too_large");
        assert_eq!(refused(message("GET", &format!("/{long}"), &[])), "path_too_long");
    }

    #[test]
    fn what_the_rules_refuse_takes_no_token_and_what_the_queue_refuses_gives_it_back() {
        let start = Instant::now();
        let bucket = Bucket::new("1/m".parse().unwrap(), 1, Duration::ZERO, start);
        let rules = vec!["deny /x".parse::<Rule>().unwrap()];
        let entrance = Entrance::new(rules.into(), Some(bucket));
        let pass = |path| entrance.pass(&Method::GET, path, || start);
        assert_eq!(pass("/x"), Err(Refusal::Filtered));
        assert_eq!(pass("/"), Ok(Some(start)));
        assert_eq!(pass("/"), Err(Refusal::RateLimited(Duration::from_secs(60))));
        entrance.was_refused();
        assert_eq!(pass("/"), Ok(Some(start)));
    }

    #[test]
    fn who_may_come_back_is_told_when() {
        for (refusal, seconds) in [
            (Refusal::RateLimited(Duration::from_millis(29_500)), Some("30")),
            (Refusal::RateLimited(Duration::from_secs(30)), Some("30")),
            (Refusal::RateLimited(Duration::MAX), Some("18446744073709551615")),
            (Refusal::QueueTimeout, Some("1")),
            (Refusal::Draining, Some("1")),
            (Refusal::Filtered, None),
        ] {
            let response = refusal.response(NAME);
            let header = response.headers().get("retry-after").map(|value| value.to_str().unwrap());
            assert_eq!(header, seconds, "{refusal:?}");
        }
    }

    #[test]
    fn failures_to_forward_are_gateway_errors() {
        for (kind, status) in [
            (FailureKind::Unreachable, 502),
            (FailureKind::Truncated, 502),
            (FailureKind::Timeout, 504),
            (FailureKind::Unavailable, 503),
            (FailureKind::Exhausted, 503),
        ] {
            assert_eq!(failed(&Failure::new(kind, "why"), "text", NAME).status(), status, "{kind:?}");
        }
    }

    #[test]
    fn a_refusal_is_a_marked_json_response() {
        let response = Refusal::QueueFull.response(NAME);
        assert_eq!(response.status(), 503);
        assert_eq!(response.headers()["retry-after"], "1");
        assert_eq!(response.headers()["x-tunnel-source"], "agent");
        let body = response.into_body().read_to_end_limited(1000).unwrap();
        let json: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(json["code"], "queue_full");
        assert_eq!(json["request"], "0c8f3d52-17");
    }
}
