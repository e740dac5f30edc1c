//! Header fields whose values are secrets.

use http::header::{self, HeaderMap, HeaderName};

use super::record::InspectedHeader;

/// The names of header fields whose values are not recorded.
#[derive(Debug)]
pub(super) struct Mask(Vec<HeaderName>);

impl Mask {
    /// Those that are always secret, and these.
    pub(super) fn new(hidden: &[HeaderName]) -> Self {
        let always = [header::AUTHORIZATION, header::PROXY_AUTHORIZATION, header::COOKIE, header::SET_COOKIE];
        Mask(always.iter().chain(hidden).cloned().collect())
    }

    /// The fields of a head, without secrets.
    pub(super) fn record(&self, headers: &HeaderMap) -> Vec<InspectedHeader> {
        let field = |(name, value): (&HeaderName, &http::HeaderValue)| InspectedHeader {
            name: name.as_str().to_owned(),
            value: (!self.0.contains(name)).then(|| String::from_utf8_lossy(value.as_bytes()).into_owned()),
        };
        headers.iter().map(field).collect()
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn secrets_are_not_recorded() {
        let mut headers = HeaderMap::new();
        for name in ["authorization", "cookie", "set-cookie", "proxy-authorization", "x-api-key", "x-other"] {
            headers.append(name, HeaderValue::from_static("s3cret"));
        }
        let recorded = Mask::new(&["x-api-key".parse().unwrap()]).record(&headers);
        let shown: Vec<_> = recorded.iter().filter(|field| field.value.is_some()).collect();
        assert_eq!((recorded.len(), shown.len(), shown[0].name.as_str()), (6, 1, "x-other"));
    }
}
