//! The name of the site, which visitors and a local server with a `Host` of its own know by different ones.
//!
//! Such a server takes `Origin` and `Referer` of its own pages for those of another site, and refuses their forms; its
//! absolute redirects and cookies lead its visitors to a name that is not theirs. So what names the one is made to name
//! the other: exactly that, since a foreign origin must stay one.

use http::header::{
    CONTENT_LOCATION, HOST, HeaderMap, HeaderName, HeaderValue, LOCATION, ORIGIN, REFERER, REFRESH,
};

use super::origin::LocalUrl;
use crate::http1::cookies::confine;
use crate::protocol::X_FORWARDED_PROTO;

/// The site as a visitor names it in a request, and what of the request names it so.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct VisitorSite {
    /// Where the gateway says it.
    scheme: Option<String>,
    authority: String,
    /// `Origin` is the site's own.
    has_own_origin: bool,
    /// The part behind the site's name in `Referer`.
    referer: Option<String>,
}

impl VisitorSite {
    /// From the fields of a request, as they came.
    pub(super) fn of(headers: &HeaderMap) -> Option<Self> {
        let text = |name: &HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
        let authority = text(&HOST)?.to_ascii_lowercase();
        let scheme = text(&X_FORWARDED_PROTO).map(str::to_ascii_lowercase);
        let own = |url: &str| {
            let (of, other, rest) = split(url)?;
            let is_own = scheme.as_deref() == Some(&*of) && is_same(&of, &authority, other);
            is_own.then(|| rest.to_owned())
        };
        let has_own_origin = text(&ORIGIN).and_then(own).is_some_and(|rest| rest.is_empty());
        let referer = text(&REFERER).and_then(own);
        Some(VisitorSite { scheme, authority, has_own_origin, referer })
    }

    /// Has `Origin` and `Referer` name the site as this server does, where they name it as the visitor does.
    pub(super) fn translate_request(&self, headers: &mut HeaderMap, host: &HeaderValue, local: &LocalUrl) {
        let Ok(host) = host.to_str() else { return };
        let own = format!("{}://{host}", local.scheme());
        if self.has_own_origin {
            set(headers, &ORIGIN, &own);
        }
        if let Some(rest) = &self.referer {
            set(headers, &REFERER, &format!("{own}{rest}"));
        }
    }

    /// Has a response name the site as the visitor does, where it names it as this server does.
    pub(super) fn translate_response(&self, headers: &mut HeaderMap, host: &HeaderValue, local: &LocalUrl) {
        let Ok(host) = host.to_str() else { return };
        for name in [LOCATION, CONTENT_LOCATION] {
            let value = headers.get(&name).and_then(|value| value.to_str().ok());
            if let Some(url) = value.and_then(|url| self.translated(url, host, local)) {
                set(headers, &name, &url);
            }
        }
        let refresh = headers.get(REFRESH).and_then(|value| value.to_str().ok());
        if let Some(refresh) = refresh.and_then(|refresh| self.translated_refresh(refresh, host, local)) {
            set(headers, &REFRESH, &refresh);
        }
        for name in [host, local.host()] {
            confine(headers, without_port(name));
        }
    }

    /// A URL of the server's site as one of the visitor's; `None` where it is neither.
    fn translated(&self, url: &str, host: &str, local: &LocalUrl) -> Option<String> {
        if let Some(of_any_scheme) = url.strip_prefix("//") {
            let scheme = local.scheme();
            let translated = self.translated(&format!("{scheme}://{of_any_scheme}"), host, local)?;
            return translated
                .split_once(':')
                .map(|(_, rest)| rest.to_owned())
                .filter(|rest| rest.starts_with("//"));
        }
        let (scheme, authority, rest) = split(url)?;
        let is_own = is_same(&scheme, authority, host) || is_same(&scheme, authority, local.authority());
        let has_scheme = scheme == local.scheme() || self.scheme.as_deref() == Some(&*scheme);
        let prefix = self.scheme.as_ref().map(|scheme| format!("{scheme}:")).unwrap_or_default();
        (is_own && has_scheme).then(|| format!("{prefix}//{}{rest}", self.authority))
    }

    /// Translates the URL in `5; url=http://…`, wherever browsers find it: with spaces, with quotes, or without `url=`.
    fn translated_refresh(&self, refresh: &str, host: &str, local: &LocalUrl) -> Option<String> {
        let (time, target) = refresh.split_once([';', ','])?;
        let target = target.trim();
        let named = target.get(..3).filter(|name| name.eq_ignore_ascii_case("url"));
        let value = named.and_then(|_| target[3..].trim_start().strip_prefix('='));
        let url = value.unwrap_or(target).trim().trim_matches(['\'', '"']);
        Some(format!("{time}; url={}", self.translated(url, host, local)?))
    }
}

fn set(headers: &mut HeaderMap, name: &HeaderName, text: &str) {
    if let Ok(value) = HeaderValue::from_str(text) {
        headers.insert(name, value);
    }
}

/// Scheme, authority and the rest of an absolute URL of HTTP.
fn split(url: &str) -> Option<(String, &str, &str)> {
    let (scheme, rest) = url.split_once("://")?;
    let scheme = scheme.to_ascii_lowercase();
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, rest) = rest.split_at(end);
    let is_plain = !authority.is_empty() && !authority.contains(['@', '\\']);
    (is_plain && matches!(&*scheme, "http" | "https")).then_some((scheme, authority, rest))
}

/// Whether two authorities are the same with this scheme, whose usual port may be left out.
fn is_same(scheme: &str, one: &str, other: &str) -> bool {
    let usual = if scheme == "https" { ":443" } else { ":80" };
    let of = |authority: &str| authority.strip_suffix(usual).unwrap_or(authority).to_ascii_lowercase();
    of(one) == of(other)
}

fn without_port(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => authority,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST_HEADER: HeaderValue = HeaderValue::from_static("app.test");

    fn local() -> LocalUrl {
        "http://127.0.0.1:8000".parse().unwrap()
    }

    fn headers(fields: &[(&'static str, &str)]) -> HeaderMap {
        let field = |(name, value): &(&'static str, &str)| {
            (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())
        };
        fields.iter().map(field).collect()
    }

    /// A field of a request behind the translation.
    #[track_caller]
    fn check_request(host: &str, scheme: &str, field: (&'static str, &str), expected: &str) {
        let mut fields = vec![("host", host), field];
        if !scheme.is_empty() {
            fields.push(("x-forwarded-proto", scheme));
        }
        let mut headers = headers(&fields);
        let site = VisitorSite::of(&headers).unwrap();
        site.translate_request(&mut headers, &HOST_HEADER, &local());
        assert_eq!(headers[field.0], expected, "{host} {scheme} {field:?}");
        // Again, for a second server.
        site.translate_request(&mut headers, &HOST_HEADER, &local());
        assert_eq!(headers[field.0], expected);
    }

    #[test]
    fn the_sites_own_origin_and_referer_are_translated_and_no_other() {
        let own = "http://app.test";
        check_request("shop.example", "https", ("origin", "https://shop.example"), own);
        check_request("Shop.example:443", "https", ("origin", "https://shop.EXAMPLE"), own);
        check_request("shop.example:8443", "https", ("origin", "https://shop.example:8443"), own);
        check_request(
            "shop.example",
            "https",
            ("referer", "https://shop.example/a?b=c"),
            "http://app.test/a?b=c",
        );
        check_request("shop.example", "https", ("referer", "https://shop.example"), own);
        for foreign in [
            "null",
            "http://shop.example",
            "https://shop.example:8443",
            "https://shop.example.evil",
            "https://evil@shop.example",
            "https://evil.example/https://shop.example",
            "https://shop.example\\.evil",
            "https://shop.example/",
            "shop.example",
            "",
        ] {
            check_request("shop.example", "https", ("origin", foreign), foreign);
        }
        // The scheme is not known: a page over plain HTTP may be anybody's.
        check_request("shop.example", "", ("origin", "https://shop.example"), "https://shop.example");
    }

    /// A field of a response behind the translation.
    #[track_caller]
    fn check_response(scheme: &str, field: (&'static str, &str), expected: &str) {
        let mut fields = vec![("host", "shop.example:8443")];
        if !scheme.is_empty() {
            fields.push(("x-forwarded-proto", scheme));
        }
        let site = VisitorSite::of(&headers(&fields)).unwrap();
        let mut headers = headers(&[field]);
        site.translate_response(&mut headers, &HOST_HEADER, &local());
        assert_eq!(headers[field.0], expected, "{field:?}");
    }

    #[test]
    fn what_names_the_server_names_the_visitors_site() {
        for (location, expected) in [
            ("http://app.test/login?next=/", "https://shop.example:8443/login?next=/"),
            ("http://App.test:80/#x", "https://shop.example:8443/#x"),
            ("http://127.0.0.1:8000/x", "https://shop.example:8443/x"),
            ("https://app.test/x", "https://shop.example:8443/x"),
            ("http://app.test", "https://shop.example:8443"),
            ("http://app.test:81/x", "http://app.test:81/x"),
            ("http://app.test.evil/x", "http://app.test.evil/x"),
            ("http://u@app.test/x", "http://u@app.test/x"),
            ("https://other.example/x", "https://other.example/x"),
            ("//app.test/x", "//shop.example:8443/x"),
            ("//other.example/x", "//other.example/x"),
            ("/x", "/x"),
            ("ftp://app.test/x", "ftp://app.test/x"),
        ] {
            check_response("https", ("location", location), expected);
            check_response("https", ("content-location", location), expected);
        }
        check_response("", ("location", "http://app.test/x"), "//shop.example:8443/x");
        check_response("http", ("location", "https://app.test/x"), "https://app.test/x");
        let translated = "5; url=https://shop.example:8443/x";
        for refresh in [
            "5; URL='http://app.test/x'",
            "5;url = http://app.test/x",
            "5, http://app.test/x",
            "5; url=\"http://app.test/x\"",
        ] {
            check_response("https", ("refresh", refresh), translated);
        }
        check_response(
            "https",
            ("refresh", "5; url=http://other.example/x"),
            "5; url=http://other.example/x",
        );
        check_response("https", ("refresh", "5"), "5");
        check_response("https", ("set-cookie", "a=1; Domain=app.test; Path=/"), "a=1; Path=/");
        check_response("https", ("set-cookie", "a=1; Domain=127.0.0.1"), "a=1");
        check_response("https", ("set-cookie", "a=1; Domain=other.test"), "a=1; Domain=other.test");
    }
}
