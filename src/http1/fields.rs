//! The meaning of headers, and which of them pass through an intermediary (RFC 9110 §7.6.1), for both directions and programs.

use http::Method;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use tungstenite::handshake::derive_accept_key;

/// Begins HTTP/2 in an upgrade (RFC 7540 §3.2.1); it never passes.
pub const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");

/// The field in which a gateway names the address of the request's visitor.
pub const X_REAL_IP: &str = "x-real-ip";

/// Headers that concern one connection only, whatever `Connection` says.
const HOP_BY_HOP: [HeaderName; 9] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// Elements of a header that is a list (RFC 9110 §5.6.1), of all its lines; some may be empty.
fn list<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a [u8]> {
    headers.get_all(name).into_iter().flat_map(elements)
}

fn elements(value: &HeaderValue) -> impl Iterator<Item = &[u8]> {
    value.as_bytes().split(|&byte| byte == b',').map(<[u8]>::trim_ascii)
}

/// Whether a header that is a list of tokens holds this one.
pub fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    list(headers, name).any(|item| item.eq_ignore_ascii_case(token.as_bytes()))
}

/// The number that a value like that of `Content-Length` states: digits and nothing else, while `u64` would take a plus
/// sign, too.
pub fn number(value: &HeaderValue) -> Option<u64> {
    let is_number = !value.is_empty() && value.as_bytes().iter().all(u8::is_ascii_digit);
    value.to_str().ok().filter(|_| is_number)?.parse().ok()
}

/// A `Content-Length` that is not one number (RFC 9110 §8.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InvalidLength;

/// The length that a head states, if it states one.
pub fn stated_length(headers: &HeaderMap) -> Result<Option<u64>, InvalidLength> {
    let mut lengths = headers.get_all(header::CONTENT_LENGTH).iter();
    match (lengths.next(), lengths.next()) {
        (None, _) => Ok(None),
        (Some(length), None) => number(length).map(Some).ok_or(InvalidLength),
        (Some(_), Some(_)) => Err(InvalidLength),
    }
}

/// Whether a body is server-sent events, which have no end.
pub fn is_event_stream(headers: &HeaderMap) -> bool {
    const TYPE: &[u8] = b"text/event-stream";
    let value = headers.get(header::CONTENT_TYPE).map(http::HeaderValue::as_bytes).unwrap_or_default();
    value.get(..TYPE.len()).is_some_and(|start| start.eq_ignore_ascii_case(TYPE))
}

/// Removes hop-by-hop headers, and those that `Connection` names. `Connection` cannot name away what
/// framing and security rest on: `Host`, `Content-*` and what says where a request came from stay.
pub fn remove_hop_by_hop(headers: &mut HeaderMap) {
    if headers.contains_key(header::CONNECTION) {
        for name in named_by_connection(headers) {
            headers.remove(name);
        }
    }
    for name in &HOP_BY_HOP {
        headers.remove(name);
    }
}

/// A change of protocol that a request asks for (RFC 9110 §7.8).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upgrade {
    /// The protocols that it names.
    protocols: HeaderValue,
    /// The key of a WebSocket's handshake.
    key: Option<HeaderValue>,
}

impl Upgrade {
    /// The upgrade that a request asks for: a `GET` without a body. Not HTTP in another guise, over TLS (RFC 2817) or as HTTP/2,
    /// which would tunnel past every rule.
    pub fn asked_for(method: &Method, headers: &HeaderMap) -> Option<Self> {
        let lengths = headers.get_all(header::CONTENT_LENGTH);
        let bodiless = lengths.iter().all(|length| number(length) == Some(0))
            && !headers.contains_key(header::TRANSFER_ENCODING);
        let asks = *method == Method::GET && bodiless && has_token(headers, &header::CONNECTION, "upgrade");
        let is_http = headers.contains_key(HTTP2_SETTINGS) || names_http(headers);
        Self::named_in(headers).filter(|_| asks && !is_http)
    }

    /// The value of `Upgrade` in a request that certainly asks for one.
    pub(crate) fn named_in(headers: &HeaderMap) -> Option<Self> {
        let protocols = headers.get(header::UPGRADE)?.clone();
        Some(Upgrade { protocols, key: headers.get(header::SEC_WEBSOCKET_KEY).cloned() })
    }

    /// Puts back what [`remove_hop_by_hop`] takes from a request.
    pub fn set(&self, headers: &mut HeaderMap) {
        set_upgrade(headers, self.protocols.clone());
    }

    /// Whether a 101 with these headers changes to what was asked for, or what is wrong with it. A page that lets its
    /// visitor choose a status would else open a way past every rule.
    pub fn check(&self, headers: &HeaderMap) -> Result<(), &'static str> {
        let is_asked =
            |protocol: &[u8]| elements(&self.protocols).any(|asked| asked.eq_ignore_ascii_case(protocol));
        let mut answered = list(headers, &header::UPGRADE).filter(|protocol| !protocol.is_empty()).peekable();
        if answered.peek().is_none() || !answered.all(is_asked) {
            return Err("it changes to a protocol that was not asked for");
        }
        if !has_token(headers, &header::UPGRADE, "websocket") {
            return Ok(());
        }
        // A client must fail otherwise (RFC 6455 §4.1).
        let accept = self.key.as_ref().map(|key| derive_accept_key(key.as_bytes()));
        let shown = headers.get(header::SEC_WEBSOCKET_ACCEPT).map(http::HeaderValue::as_bytes);
        match accept {
            Some(accept) if shown == Some(accept.as_bytes()) => Ok(()),
            _ => Err("its Sec-WebSocket-Accept does not fit the request's key"),
        }
    }
}

fn names_http(headers: &HeaderMap) -> bool {
    list(headers, &header::UPGRADE).any(|protocol| {
        let name = protocol.split(|&byte| byte == b'/').next().unwrap_or_default().trim_ascii();
        [&b"h2c"[..], b"h2", b"http", b"tls"].iter().any(|http| name.eq_ignore_ascii_case(http))
    })
}

/// Puts back what [`remove_hop_by_hop`] takes from a 101.
pub fn set_upgrade(headers: &mut HeaderMap, protocol: HeaderValue) {
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, protocol);
}

/// Removes a `Content-Length` that a transfer coding overrides (RFC 9112 §6.3), before that is removed itself.
pub fn remove_overridden_length(headers: &mut HeaderMap) {
    if headers.contains_key(header::TRANSFER_ENCODING) {
        headers.remove(header::CONTENT_LENGTH);
    }
}

/// Leaves a `Content-Length` that states one number, and once; whatever else there is of it goes.
pub fn keep_one_length(headers: &mut HeaderMap) {
    let mut lengths = headers.get_all(header::CONTENT_LENGTH).iter();
    let first = lengths.next().cloned();
    let same = lengths.all(|other| Some(other) == first.as_ref());
    headers.remove(header::CONTENT_LENGTH);
    if let Some(length) = first.filter(|length| same && number(length).is_some()) {
        headers.insert(header::CONTENT_LENGTH, length);
    }
}

/// Removes a header in all its spellings.
pub fn remove_spellings(headers: &mut HeaderMap, name: &HeaderName) {
    headers.remove(name);
    let is_odd = |name: &HeaderName| name.as_str().contains('_');
    if is_odd(name) || headers.keys().any(is_odd) {
        let same: Vec<_> = headers.keys().filter(|other| is_same_spelling(other, name)).cloned().collect();
        same.iter().for_each(|other| drop(headers.remove(other)));
    }
}

/// Whether two names are spellings of one: programs that get their headers as variables (CGI, WSGI) take an underscore for
/// a hyphen.
pub fn is_same_spelling(one: &HeaderName, other: &HeaderName) -> bool {
    let as_variable = |byte| if byte == b'-' { b'_' } else { byte };
    one.as_str().bytes().map(as_variable).eq(other.as_str().bytes().map(as_variable))
}

fn named_by_connection(headers: &HeaderMap) -> Vec<HeaderName> {
    list(headers, &header::CONNECTION)
        .filter_map(|token| HeaderName::from_bytes(token).ok())
        .filter(|name| {
            let name = name.as_str();
            let says_whence = matches!(name, "forwarded" | X_REAL_IP) || name.starts_with("x-forwarded-");
            name != "host" && !name.starts_with("content-") && !says_whence
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_get_without_a_body_may_ask_for_another_protocol_and_not_for_http2() {
        let websocket = &[("connection", "keep-alive, Upgrade"), ("upgrade", "websocket")][..];
        for (method, headers, more, wanted) in [
            (Method::GET, websocket, None, Some("websocket")),
            (Method::POST, websocket, None, None),
            (Method::GET, websocket, Some(("content-length", "0")), Some("websocket")),
            (Method::GET, websocket, Some(("content-length", "1")), None),
            (Method::GET, websocket, Some(("content-length", "")), None),
            (Method::GET, websocket, Some(("transfer-encoding", "chunked")), None),
            (Method::GET, websocket, Some(("http2-settings", "AAMAAABk")), None),
            (Method::GET, &websocket[1..], None, None),
            (Method::GET, &websocket[..1], None, None),
            (Method::GET, &[("connection", "upgrade"), ("upgrade", "websocket, H2C")], None, None),
            (Method::GET, &[("connection", "upgrade"), ("upgrade", "TLS/1.2")], None, None),
            (Method::GET, &[("connection", "upgrade"), ("upgrade", "websocket, http/2.0")], None, None),
            (Method::GET, &[("connection", "x-upgrade"), ("upgrade", "websocket")], None, None),
        ] {
            let mut map = HeaderMap::new();
            for (name, value) in headers.iter().chain(&more) {
                map.append(*name, HeaderValue::from_static(value));
            }
            let got = Upgrade::asked_for(&method, &map).map(|upgrade| upgrade.protocols);
            assert_eq!(got, wanted.map(HeaderValue::from_static), "{method} {map:?}");
        }
    }

    #[test]
    fn a_101_counts_only_when_it_names_what_was_asked_for() {
        const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
        for (asked, key, answer, holds) in [
            ("websocket", true, &[("upgrade", "websocket"), ("sec-websocket-accept", ACCEPT)][..], true),
            ("websocket", true, &[("upgrade", "WebSocket"), ("sec-websocket-accept", ACCEPT)], true),
            ("websocket", true, &[("upgrade", "websocket")], false),
            ("websocket", true, &[("upgrade", "websocket"), ("sec-websocket-accept", "x")], false),
            ("websocket", true, &[("sec-websocket-accept", ACCEPT)], false),
            ("websocket", true, &[], false),
            ("websocket", false, &[("upgrade", "websocket"), ("sec-websocket-accept", ACCEPT)], false),
            ("websocket", true, &[("upgrade", "raw"), ("sec-websocket-accept", ACCEPT)], false),
            ("websocket", true, &[("upgrade", "websocket, raw"), ("sec-websocket-accept", ACCEPT)], false),
            ("x/1, y/2", false, &[("upgrade", "Y/2")], true),
            ("x/1, y/2", false, &[("upgrade", "y/1")], false),
            ("x/1, y/2", false, &[("upgrade", "x/1"), ("upgrade", "y/2")], true),
            ("x/1", false, &[("upgrade", ", ,")], false),
        ] {
            let mut request = HeaderMap::new();
            request.insert(header::UPGRADE, HeaderValue::from_static(asked));
            if key {
                let key = HeaderValue::from_static("dGhlIHNhbXBsZSBub25jZQ==");
                request.insert(header::SEC_WEBSOCKET_KEY, key);
            }
            let mut headers = HeaderMap::new();
            for (name, value) in answer {
                headers.append(*name, HeaderValue::from_static(value));
            }
            let upgrade = Upgrade::named_in(&request).unwrap();
            assert_eq!(upgrade.check(&headers).is_ok(), holds, "{asked}: {answer:?}");
        }
    }

    #[track_caller]
    fn check(before: &[(&str, &str)], after: &[(&str, &str)]) {
        let mut headers = HeaderMap::new();
        for (name, value) in before {
            headers.append(name.parse::<HeaderName>().unwrap(), HeaderValue::from_str(value).unwrap());
        }
        remove_hop_by_hop(&mut headers);
        // Among different names the map keeps no order, as HTTP gives it no meaning (RFC 9110 §5.3).
        let mut left: Vec<_> = headers.iter().map(|(n, v)| (n.as_str(), v.to_str().unwrap())).collect();
        left.sort_by_key(|(name, _)| *name);
        assert_eq!(left, after);
    }

    #[test]
    fn hop_by_hop_headers_go_and_the_others_keep_their_order() {
        check(
            &[
                ("X-One", "1"),
                ("Set-Cookie", "a=1"),
                ("Keep-Alive", "timeout=5"),
                ("Set-Cookie", "b=2"),
                ("Proxy-Connection", "keep-alive"),
                ("Proxy-Authenticate", "Basic"),
                ("Proxy-Authorization", "Basic eA=="),
                ("TE", "trailers"),
                ("Trailer", "X-Sum"),
                ("Transfer-Encoding", "chunked"),
                ("Upgrade", "h2c"),
            ],
            &[("set-cookie", "a=1"), ("set-cookie", "b=2"), ("x-one", "1")],
        );
    }

    #[test]
    fn what_connection_names_goes_too() {
        check(
            &[
                ("Connection", "close, X-Trace"),
                ("Connection", " x-OTHER ,,\t;bad token;"),
                ("X-Trace", "1"),
                ("X-Other", "2"),
                ("X-Kept", "3"),
            ],
            &[("x-kept", "3")],
        );
    }

    #[test]
    fn a_header_goes_in_all_its_spellings() {
        for name in ["x-api-key", "x_api_key", "x-api_key"] {
            let mut headers = HeaderMap::new();
            for spelling in ["x-api-key", "X_Api_Key", "x-api_key", "x-api-keys"] {
                headers.append(
                    HeaderName::from_bytes(spelling.as_bytes()).unwrap(),
                    HeaderValue::from_static("x"),
                );
            }
            remove_spellings(&mut headers, &HeaderName::from_static(name));
            assert_eq!(headers.keys().collect::<Vec<_>>(), ["x-api-keys"], "{name}");
        }
        let mut headers = HeaderMap::new();
        headers.insert("x-api-key", HeaderValue::from_static("x"));
        remove_spellings(&mut headers, &HeaderName::from_static("x_api_key"));
        assert!(headers.is_empty());
    }

    #[test]
    fn one_length_is_left_if_it_is_one() {
        for (values, left) in [
            (&[][..], None),
            (&["5"], Some("5")),
            (&["5", "5"], Some("5")),
            (&["5", "6"], None),
            (&["5, 5"], None),
            (&["+5"], None),
        ] {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(header::CONTENT_LENGTH, HeaderValue::from_static(value));
            }
            keep_one_length(&mut headers);
            let lengths: Vec<_> = headers.get_all(header::CONTENT_LENGTH).iter().collect();
            assert_eq!(lengths, left.into_iter().collect::<Vec<_>>(), "{values:?}");
        }
    }

    #[test]
    fn connection_cannot_name_away_what_must_stay() {
        check(
            &[
                ("Connection", "host, content-length, content-type, x-forwarded-for, forwarded, x-real-ip"),
                ("Forwarded", "for=192.0.2.1"),
                ("X-Real-IP", "192.0.2.1"),
                ("Host", "example.org"),
                ("Content-Length", "3"),
                ("Content-Type", "text/plain"),
                ("X-Forwarded-For", "192.0.2.1"),
            ],
            &[
                ("content-length", "3"),
                ("content-type", "text/plain"),
                ("forwarded", "for=192.0.2.1"),
                ("host", "example.org"),
                ("x-forwarded-for", "192.0.2.1"),
                ("x-real-ip", "192.0.2.1"),
            ],
        );
    }
}
