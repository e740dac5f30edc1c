//! Header fields whose values are secrets.

use http::header::{self, HeaderMap, HeaderName};

use super::record::InspectedHeaders;
use crate::http1::fields::is_same_spelling;

/// The names of header fields whose values are not recorded.
#[derive(Debug)]
pub(super) struct Mask(Vec<HeaderName>);

impl Mask {
    /// Those that are always secret, and these.
    pub(super) fn new(hidden: &[HeaderName]) -> Self {
        let always = [header::AUTHORIZATION, header::PROXY_AUTHORIZATION, header::COOKIE, header::SET_COOKIE];
        Mask(always.iter().chain(hidden).cloned().collect())
    }

    /// Records the fields of a head, without secrets.
    pub(super) fn record(&self, headers: &HeaderMap, recorded: &mut InspectedHeaders) {
        let bytes = headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
        recorded.reserve(headers.len(), bytes);
        for (name, value) in headers {
            if self.0.iter().any(|hidden| is_same_spelling(hidden, name)) {
                recorded.push(name.as_str(), None);
            } else {
                recorded.push(name.as_str(), Some(&String::from_utf8_lossy(value.as_bytes())));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn secrets_are_not_recorded() {
        let mut headers = HeaderMap::new();
        for name in ["authorization", "cookie", "set-cookie", "proxy-authorization", "x_api-key", "x-other"] {
            headers.append(name, HeaderValue::from_static("s3cret"));
        }
        let mut recorded = InspectedHeaders::default();
        Mask::new(&["x-api-key".parse().unwrap()]).record(&headers, &mut recorded);
        let shown: Vec<_> = recorded.iter().filter(|(_, value)| value.is_some()).collect();
        assert_eq!((recorded.iter().count(), shown), (6, vec![("x-other", Some("s3cret"))]));
        assert_eq!((recorded.get("x-other"), recorded.get("cookie")), (Some("s3cret"), None));
        assert!(!format!("{recorded:?}").contains("s3cret"));
    }
}
