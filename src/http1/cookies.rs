//! Cookies for more hosts than the one that sets them.

use http::header::{HeaderMap, HeaderValue, SET_COOKIE};

/// Removes the `Domain` attribute of each `Set-Cookie` whose domain covers this one (RFC 6265 §5.1.3): such a cookie goes to
/// all hosts under it. Without the attribute it is for the host that sets it alone (§5.2.3).
pub(crate) fn confine(headers: &mut HeaderMap, domain: &str) {
    if !headers.get_all(SET_COOKIE).iter().any(|cookie| covering(cookie.as_bytes(), domain).next().is_some())
    {
        return;
    }
    let cookies: Vec<_> = headers.get_all(SET_COOKIE).iter().cloned().collect();
    headers.remove(SET_COOKIE);
    for cookie in cookies {
        headers.append(SET_COOKIE, confined(cookie, domain));
    }
}

/// The numbers of the parts of a cookie that name a domain which covers this one.
fn covering<'a>(cookie: &'a [u8], domain: &'a str) -> impl Iterator<Item = usize> + 'a {
    let parts = cookie.split(|byte| *byte == b';').enumerate().skip(1);
    parts.filter(move |(_, part)| names_cover(part, domain)).map(|(index, _)| index)
}

fn names_cover(attribute: &[u8], domain: &str) -> bool {
    let Some(at) = attribute.iter().position(|byte| *byte == b'=') else { return false };
    let (name, value) = (attribute[..at].trim_ascii(), attribute[at + 1..].trim_ascii());
    let value = value.strip_prefix(b".").unwrap_or(value);
    let value = value.strip_suffix(b".").unwrap_or(value);
    let domain = domain.as_bytes();
    let is_suffix = domain.len() >= value.len()
        && domain[domain.len() - value.len()..].eq_ignore_ascii_case(value)
        && (domain.len() == value.len() || domain[domain.len() - value.len() - 1] == b'.');
    name.eq_ignore_ascii_case(b"domain") && !value.is_empty() && is_suffix
}

fn confined(cookie: HeaderValue, domain: &str) -> HeaderValue {
    let removed: Vec<_> = covering(cookie.as_bytes(), domain).collect();
    if removed.is_empty() {
        return cookie;
    }
    let parts = cookie.as_bytes().split(|byte| *byte == b';').enumerate();
    let kept: Vec<_> = parts.filter(|(index, _)| !removed.contains(index)).map(|(_, part)| part).collect();
    // Parts of a header value are one.
    HeaderValue::from_bytes(&kept.join(&b';')).unwrap_or(cookie)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cookie_for_all_tunnels_becomes_one_for_its_own() {
        for (before, after) in [
            ("a=1; Domain=tunnel.example; Path=/", "a=1; Path=/"),
            ("a=1;domain = .Tunnel.Example", "a=1"),
            ("a=1; Domain=example; Secure", "a=1; Secure"),
            ("a=1; Domain=tunnel.example.", "a=1"),
            ("a=1; Domain=shop.tunnel.example; Domain=tunnel.example", "a=1; Domain=shop.tunnel.example"),
            // Its own host, a foreign one, and what only looks like an attribute.
            ("a=1; Domain=shop.tunnel.example", "a=1; Domain=shop.tunnel.example"),
            ("a=1; Domain=unnel.example", "a=1; Domain=unnel.example"),
            ("a=1; Domain=other.example", "a=1; Domain=other.example"),
            ("Domain=tunnel.example", "Domain=tunnel.example"),
            ("a=1; Domain=; Domain", "a=1; Domain=; Domain"),
        ] {
            let mut headers = HeaderMap::new();
            headers.append(SET_COOKIE, HeaderValue::from_static(before));
            headers.append(SET_COOKIE, HeaderValue::from_static("b=2"));
            confine(&mut headers, "tunnel.example");
            let cookies: Vec<_> = headers.get_all(SET_COOKIE).iter().collect();
            assert_eq!(cookies, [after, "b=2"], "{before}");
        }
    }
}
