//! Requests that pages of another origin make (the Fetch standard, "CORS protocol").

use std::fmt;
use std::str::FromStr;

use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS,
    ACCESS_CONTROL_REQUEST_METHOD, HeaderMap, HeaderName, HeaderValue, ORIGIN, VARY,
};
use http::uri::Authority;
use http::{Method, StatusCode};

use crate::service::{Body, Response};

/// How long a browser may keep the answer to a preflight, in seconds.
const MAX_AGE: HeaderValue = HeaderValue::from_static("600");

/// An origin whose pages may read responses: scheme, host and perhaps port, as browsers send it.
///
/// ```
/// let origin: tunnel_agent::AllowedOrigin = "https://app.example".parse()?;
/// assert!("https://app.example/".parse::<tunnel_agent::AllowedOrigin>().is_err());
/// # Ok::<(), tunnel_agent::InvalidOrigin>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AllowedOrigin(HeaderValue);

/// The error of a text that is no [`AllowedOrigin`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InvalidOrigin;

impl fmt::Display for InvalidOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("expected one origin in lower case and without a path, such as https://app.example")
    }
}

impl std::error::Error for InvalidOrigin {}

impl fmt::Display for AllowedOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.to_str().unwrap_or_default())
    }
}

impl FromStr for AllowedOrigin {
    type Err = InvalidOrigin;

    fn from_str(text: &str) -> Result<Self, InvalidOrigin> {
        let (scheme, authority) = text.split_once("://").ok_or(InvalidOrigin)?;
        let is_of_scheme =
            |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"+-.".contains(&byte);
        let is_of_host =
            |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-._:[]".contains(&byte);
        let is_origin = !scheme.is_empty()
            && scheme.bytes().all(is_of_scheme)
            && !authority.is_empty()
            && authority.bytes().all(is_of_host);
        // A browser leaves the usual port out.
        let usual = [("http", ":80"), ("https", ":443")];
        let is_authority = authority.parse::<Authority>().is_ok_and(|parsed| {
            // A colon is followed by a port.
            !parsed.host().is_empty() && (parsed.as_str() == parsed.host() || parsed.port_u16().is_some())
        });
        let has_usual_port = usual.iter().any(|(of, port)| *of == scheme && authority.ends_with(port));
        if !is_origin || !is_authority || has_usual_port {
            return Err(InvalidOrigin);
        }
        HeaderValue::from_str(text).map(AllowedOrigin).map_err(|_| InvalidOrigin)
    }
}

/// Whether a page of another origin may send a visitor's cookies and passwords along.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum CorsCredentials {
    /// It may not.
    #[default]
    Omit,
    /// It may.
    Allow,
}

/// The rights of pages of another origin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cors {
    pub(crate) origin: AllowedOrigin,
    pub(crate) credentials: CorsCredentials,
}

/// The origin that a response names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum CorsGrant {
    /// Another origin, or none: nothing is allowed.
    Other,
    Allowed(Cors),
}

/// The CORS fields of the response to one request.
#[derive(Debug)]
pub(crate) struct CorsAnswer {
    pub(crate) grant: CorsGrant,
    /// The response, where the request is a preflight.
    pub(crate) preflight: Option<Response>,
}

impl Cors {
    /// The CORS fields of the response to a request with these fields.
    pub(super) fn answer(&self, method: &Method, headers: &HeaderMap) -> CorsAnswer {
        let preflight = self.is_preflight(method, headers).then(|| Self::preflight(headers));
        CorsAnswer { grant: self.grant(headers), preflight }
    }

    /// The rights of the page that sends a request with these fields.
    pub(super) fn grant(&self, headers: &HeaderMap) -> CorsGrant {
        let mut origins = headers.get_all(ORIGIN).iter();
        match (origins.next(), origins.next()) {
            (Some(origin), None) if *origin == self.origin.0 => CorsGrant::Allowed(self.clone()),
            _ => CorsGrant::Other,
        }
    }

    /// Whether a request is a preflight of the origin: it carries no credentials, and asks for nothing but permission.
    pub(super) fn is_preflight(&self, method: &Method, headers: &HeaderMap) -> bool {
        *method == Method::OPTIONS
            && headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD)
            && self.grant(headers) != CorsGrant::Other
    }

    /// The response to a preflight, which allows what it asks for.
    fn preflight(asked: &HeaderMap) -> Response {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::NO_CONTENT;
        let headers = response.headers_mut();
        for (request, response) in [
            (ACCESS_CONTROL_REQUEST_METHOD, ACCESS_CONTROL_ALLOW_METHODS),
            (ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_ALLOW_HEADERS),
        ] {
            for value in asked.get_all(&request) {
                headers.append(&response, value.clone());
            }
            headers.append(VARY, HeaderValue::from(request));
        }
        headers.insert(ACCESS_CONTROL_MAX_AGE, MAX_AGE);
        response
    }
}

impl CorsGrant {
    /// Sets the fields of a response, in place of those of the service.
    pub(crate) fn apply(&self, headers: &mut HeaderMap) {
        const SERVICES_OWN: [HeaderName; 2] = [ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_ALLOW_CREDENTIALS];
        for name in SERVICES_OWN {
            headers.remove(name);
        }
        // A cache must not give one origin's response to another.
        headers.append(VARY, HeaderValue::from_static("origin"));
        let CorsGrant::Allowed(cors) = self else { return };
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, cors.origin.0.clone());
        if cors.credentials == CorsCredentials::Allow {
            headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cors(credentials: CorsCredentials) -> Cors {
        Cors { origin: "https://app.example".parse().unwrap(), credentials }
    }

    fn headers(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        fields
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect()
    }

    #[test]
    fn an_origin_is_written_as_browsers_send_it() {
        for good in ["https://app.example", "http://localhost:5173", "http://[::1]:80x", "app://x"] {
            let parsed = good.replace("80x", "8080").parse::<AllowedOrigin>();
            assert!(parsed.is_ok(), "{good}");
        }
        for bad in [
            "",
            "*",
            "null",
            "app.example",
            "https://",
            "https://App.example",
            "https://a/",
            "https://a:443",
            "http://a:80",
            "https://a b",
            "https://a:",
            "https://:",
            "https://[",
            "http://a.b:99999",
        ] {
            assert_eq!(bad.parse::<AllowedOrigin>(), Err(InvalidOrigin), "{bad}");
        }
    }

    #[test]
    fn only_its_own_origin_may_read_and_the_services_word_does_not_count() {
        let applied = |origin: &'static str, credentials| {
            let mut response = headers(&[("access-control-allow-origin", "*"), ("vary", "accept")]);
            cors(credentials).grant(&headers(&[("origin", origin)])).apply(&mut response);
            let text = |name: &str| {
                response
                    .get_all(name)
                    .iter()
                    .map(|value| value.to_str().unwrap().to_owned())
                    .collect::<Vec<_>>()
                    .join(", ")
            };
            (text("access-control-allow-origin"), text("access-control-allow-credentials"), text("vary"))
        };
        let (own, vary) = ("https://app.example", "accept, origin".to_owned());
        assert_eq!(applied(own, CorsCredentials::Omit), (own.to_owned(), String::new(), vary.clone()));
        assert_eq!(applied(own, CorsCredentials::Allow), (own.to_owned(), "true".to_owned(), vary.clone()));
        for other in ["https://app.example.evil", "http://app.example", "null", "https://APP.example"] {
            assert_eq!(
                applied(other, CorsCredentials::Allow),
                (String::new(), String::new(), vary.clone()),
                "{other}"
            );
        }
    }

    #[test]
    fn a_preflight_is_allowed_what_it_asks_for() {
        let cors = cors(CorsCredentials::Omit);
        let asked = headers(&[
            ("origin", "https://app.example"),
            ("access-control-request-method", "PUT"),
            ("access-control-request-headers", "x-a, content-type"),
        ]);
        assert!(cors.is_preflight(&Method::OPTIONS, &asked));
        assert!(!cors.is_preflight(&Method::PUT, &asked));
        assert!(!cors.is_preflight(&Method::OPTIONS, &headers(&[("origin", "https://app.example")])));
        let foreign =
            headers(&[("origin", "https://evil.example"), ("access-control-request-method", "PUT")]);
        assert!(!cors.is_preflight(&Method::OPTIONS, &foreign));
        let response = cors.answer(&Method::OPTIONS, &asked).preflight.unwrap();
        assert_eq!(response.status(), 204);
        assert_eq!(response.headers()["access-control-allow-methods"], "PUT");
        assert_eq!(response.headers()["access-control-allow-headers"], "x-a, content-type");
        assert_eq!(response.headers()["access-control-max-age"], "600");
    }
}
