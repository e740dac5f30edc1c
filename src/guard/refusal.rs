//! The responses that the agent makes by itself: why a request is not forwarded, and what is said instead of a response.

use std::borrow::Cow;
use std::time::Duration;

use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, StatusCode};

use super::cors::{Cors, CorsGrant};
use super::rules::{Action, Rule, Verdict};
use crate::advice::Advice;
use crate::clock::whole_seconds;
use crate::http1::{FORWARDED_HEADER_BYTES_MAX, FORWARDED_HEADERS_MAX, FORWARDED_LINE_MAX};
use crate::protocol::problem_page::{self, PageSource};
use crate::protocol::{RequestName, X_TUNNEL_SOURCE};
use crate::service::{Body, Failure, FailureKind, Response};

/// A request that is not forwarded, and the response that the agent makes of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// 400: HTTP does not allow this; the text says what.
    BadRequest(Cow<'static, str>),
    /// 413: the body is larger than this many bytes.
    BodyTooLarge(u64),
    /// 414: the path is longer than [`FORWARDED_LINE_MAX`].
    PathTooLong,
    /// 431: more headers than [`FORWARDED_HEADERS_MAX`], more bytes of them than [`FORWARDED_HEADER_BYTES_MAX`], or one longer
    /// than [`FORWARDED_LINE_MAX`].
    HeadersTooLarge,
    /// 501: `CONNECT`.
    MethodNotSupported,
    /// 400: the path can be read in more than one way, and there are rules about paths; the text says how.
    AmbiguousPath(&'static str),
    /// 401: it shows none of the passwords.
    Unauthorized,
    /// 403: its visitor's address is not one of those that pass, or is not known.
    AddressFiltered,
    /// 403: the agent's rules do not let it pass.
    Filtered,
    /// 429: more requests come than may; after this time there may be room again.
    RateLimited(Duration),
    /// 503: the queue is full.
    QueueFull,
    /// 503: it has waited for as long as it may.
    QueueTimeout,
    /// 503: the agent is stopping.
    Draining,
}

impl Refusal {
    pub(super) fn bad_request(what: &'static str) -> Self {
        Refusal::BadRequest(Cow::Borrowed(what))
    }

    /// The refusal of the rules' verdict, if it is one.
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
    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Refusal::BadRequest(_) | Refusal::AmbiguousPath(_) => StatusCode::BAD_REQUEST,
            Refusal::Unauthorized => StatusCode::UNAUTHORIZED,
            Refusal::AddressFiltered | Refusal::Filtered => StatusCode::FORBIDDEN,
            Refusal::RateLimited(_) => StatusCode::TOO_MANY_REQUESTS,
            Refusal::BodyTooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Refusal::PathTooLong => StatusCode::URI_TOO_LONG,
            Refusal::HeadersTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Refusal::MethodNotSupported => StatusCode::NOT_IMPLEMENTED,
            Refusal::QueueFull | Refusal::QueueTimeout | Refusal::Draining => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// All that [`code`](Self::code) gives.
    pub(crate) const CODES: [&str; 13] = [
        "bad_request",
        "body_too_large",
        "path_too_long",
        "headers_too_large",
        "method_not_supported",
        "ambiguous_path",
        "address_filtered",
        "unauthorized",
        "filtered",
        "rate_limited",
        "queue_full",
        "queue_timeout",
        "draining",
    ];

    /// The stable name of its reason, for programs.
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Refusal::BadRequest(_) => "bad_request",
            Refusal::BodyTooLarge(_) => "body_too_large",
            Refusal::PathTooLong => "path_too_long",
            Refusal::HeadersTooLarge => "headers_too_large",
            Refusal::MethodNotSupported => "method_not_supported",
            Refusal::AmbiguousPath(_) => "ambiguous_path",
            Refusal::Unauthorized => "unauthorized",
            Refusal::AddressFiltered => "address_filtered",
            Refusal::Filtered => "filtered",
            Refusal::RateLimited(_) => "rate_limited",
            Refusal::QueueFull => "queue_full",
            Refusal::QueueTimeout => "queue_timeout",
            Refusal::Draining => "draining",
        }
    }

    /// The reason, for people.
    pub(crate) fn message(&self) -> String {
        match self {
            Refusal::BadRequest(what) => format!("the request was refused by the tunnel agent: {what}"),
            Refusal::BodyTooLarge(max) => {
                format!("the request body is larger than the tunnel's limit of {max} bytes")
            }
            Refusal::PathTooLong => format!("the path is longer than {FORWARDED_LINE_MAX} bytes"),
            Refusal::HeadersTooLarge => format!(
                "the request has more than {FORWARDED_HEADERS_MAX} headers, more than {FORWARDED_HEADER_BYTES_MAX} bytes of them, \
                 or one longer than {FORWARDED_LINE_MAX} bytes"
            ),
            Refusal::MethodNotSupported => "CONNECT cannot be forwarded".to_owned(),
            Refusal::AmbiguousPath(why) => format!("the path can be read in more than one way: {why}"),
            Refusal::Unauthorized => "the tunnel agent wants a user's name and password".to_owned(),
            Refusal::AddressFiltered => "the tunnel agent does not let your address pass".to_owned(),
            Refusal::Filtered => "the tunnel agent does not let this request pass".to_owned(),
            Refusal::RateLimited(_) => "too many requests for the tunnel agent; try again later".to_owned(),
            Refusal::QueueFull => "the tunnel agent is busy and its queue is full; try again".to_owned(),
            Refusal::QueueTimeout => {
                "the tunnel agent is busy and the request has waited for too long; try again".to_owned()
            }
            Refusal::Draining => "the tunnel agent is stopping; try again".to_owned(),
        }
    }

    /// A remedy that an operator might try.
    pub(crate) fn advice(&self) -> Option<Advice> {
        match self {
            Refusal::QueueFull => Some(Advice::QueueLength),
            Refusal::QueueTimeout => Some(Advice::QueueTimeout),
            _ => None,
        }
    }

    /// The response: a small JSON object, marked as the agent's own.
    pub(crate) fn response(&self, recipient: &Recipient) -> Response {
        let mut response =
            problem(self.status(), (self.code(), &self.message()), recipient, self.retry_after());
        if *self == Refusal::Unauthorized {
            let challenge = HeaderValue::from_static("Basic realm=\"tunnel\", charset=\"UTF-8\"");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
        }
        response
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

/// The recipient of a response of the agent's own, and its form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Recipient {
    /// The request.
    pub(crate) name: RequestName,
    form: ProblemForm,
    cors: Option<CorsGrant>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ProblemForm {
    /// An object, for programs.
    Json,
    /// A page, for a browser to show.
    Page,
}

impl Recipient {
    /// A recipient of whom nothing is known but the request's name.
    pub(crate) fn unknown(name: RequestName) -> Self {
        Recipient { name, form: ProblemForm::Json, cors: None }
    }

    /// The recipient of the response to a request with these fields.
    pub(super) fn of(name: RequestName, method: &Method, headers: &HeaderMap, cors: Option<&Cors>) -> Self {
        let is_page = problem_page::is_asked_for(method, headers);
        let form = if is_page { ProblemForm::Page } else { ProblemForm::Json };
        Recipient { name, form, cors: cors.map(|cors| cors.grant(headers)) }
    }
}

/// A response of the agent's own.
fn problem(
    status: StatusCode,
    (code, text): (&str, &str),
    recipient: &Recipient,
    retry_after: Option<u64>,
) -> Response {
    let name = recipient.name;
    let (media, body) = match recipient.form {
        ProblemForm::Page => {
            ("text/html; charset=utf-8", problem_page::page(PageSource::Agent, status, (code, text), name))
        }
        ProblemForm::Json => {
            let body = serde_json::json!({ "error": text, "code": code, "request": name.to_string() });
            ("application/json", format!("{body}\n"))
        }
    };
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media));
    // It is for this moment, and in one of two forms.
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::VARY, HeaderValue::from_static("accept"));
    if let Some(cors) = &recipient.cors {
        cors.apply(headers);
    }
    headers.insert(X_TUNNEL_SOURCE, HeaderValue::from_static("agent"));
    if let Some(seconds) = retry_after {
        headers.insert(header::RETRY_AFTER, seconds.into());
    }
    response
}

/// The status of a response that says that there is none of the local server's.
pub(crate) fn failure_status(kind: FailureKind) -> StatusCode {
    match kind {
        FailureKind::Unavailable | FailureKind::Exhausted => StatusCode::SERVICE_UNAVAILABLE,
        FailureKind::Timeout => StatusCode::GATEWAY_TIMEOUT,
        _ => StatusCode::BAD_GATEWAY,
    }
}

/// A failure to forward as a response.
pub(crate) fn failure_response(failure: &Failure, text: &str, recipient: &Recipient) -> Response {
    let kind = failure.kind();
    let retry_after = failure.retry_after().map(whole_seconds);
    problem(failure_status(kind), (kind.code(), text), recipient, retry_after)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAME: RequestName = RequestName { connection: 0x0c8f_3d52, number: 17 };

    #[test]
    fn retry_after_is_rounded_up_to_whole_seconds() {
        for (refusal, seconds) in [
            (Refusal::RateLimited(Duration::from_millis(29_500)), Some("30")),
            (Refusal::RateLimited(Duration::from_secs(30)), Some("30")),
            (Refusal::RateLimited(Duration::MAX), Some("18446744073709551615")),
            (Refusal::QueueTimeout, Some("1")),
            (Refusal::Draining, Some("1")),
            (Refusal::Filtered, None),
        ] {
            let response = refusal.response(&Recipient::unknown(NAME));
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
            assert_eq!(
                failure_response(&Failure::new(kind, "why"), "text", &Recipient::unknown(NAME)).status(),
                status,
                "{kind:?}"
            );
        }
    }

    #[test]
    fn a_browser_gets_a_page() {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, HeaderValue::from_static("text/html"));
        let response = Refusal::Filtered.response(&Recipient::of(NAME, &Method::GET, &headers, None));
        assert_eq!(response.headers()["content-type"], "text/html; charset=utf-8");
        assert_eq!(response.headers()["vary"], "accept");
        let page = String::from_utf8(response.into_body().into_bytes(10_000).unwrap()).unwrap();
        assert!(
            page.contains("<h1>403 Forbidden</h1>") && page.contains("the tunnel's agent: filtered"),
            "{page}"
        );
    }

    #[test]
    fn a_refusal_is_a_marked_json_response() {
        let response = Refusal::QueueFull.response(&Recipient::unknown(NAME));
        assert_eq!(response.status(), 503);
        assert_eq!(response.headers()["retry-after"], "1");
        assert_eq!(response.headers()["x-tunnel-source"], "agent");
        let body = response.into_body().into_bytes(1000).unwrap();
        let json: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(json["code"], "queue_full");
        assert_eq!(json["request"], "0c8f3d52-17");
    }
}
