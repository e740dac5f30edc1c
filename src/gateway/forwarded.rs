//! Where a request came from: what the gateway says of it, and whom else it believes.
//!
//! A visitor can write any of these fields, and applications believe them. So all of them are removed, and the gateway's own
//! set; only from proxies that are named are they the truth.

use std::net::{IpAddr, SocketAddr};

use http::header::{self, HeaderMap, HeaderName, HeaderValue};

use crate::http1::fields::X_REAL_IP;
use crate::http1::is_host;
use crate::net::network::Network;
use crate::protocol::X_FORWARDED_PROTO;

pub(super) const FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
const REAL_IP: HeaderName = HeaderName::from_static(X_REAL_IP);

/// Fields of the family that do not begin with `x-forwarded`.
const OTHERS: [&str; 16] = [
    "forwarded",
    X_REAL_IP,
    "front-end-https",
    "x-client-ip",
    "client-ip",
    "x-cluster-client-ip",
    "true-client-ip",
    "x-original-forwarded-for",
    "x-url-scheme",
    "x-scheme",
    "x-host",
    "x-original-host",
    "x-forward-for",
    "x-proxyuser-ip",
    "cf-connecting-ip",
    "fastly-client-ip",
];

/// The longest chain of addresses that is kept: the nearest ones.
const CHAIN_MAX: usize = 32;

/// The proxies whose word is taken for where a request came from.
#[derive(Debug, Clone, Default)]
pub(super) struct TrustedProxies {
    pub(super) networks: Vec<Network>,
    /// Fields of the family, beside the usual ones, that they set themselves.
    pub(super) headers: Vec<HeaderName>,
}

/// The scheme of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scheme {
    Http,
    Https,
}

impl Scheme {
    pub(super) fn name(self) -> &'static str {
        match self {
            Scheme::Http => "http",
            Scheme::Https => "https",
        }
    }

    pub(super) fn default_port(self) -> u16 {
        match self {
            Scheme::Http => 80,
            Scheme::Https => 443,
        }
    }
}

/// How a request reached the gateway.
#[derive(Debug, Clone)]
pub(super) struct Arrival {
    /// The other end of the connection.
    pub(super) peer: IpAddr,
    /// The peer's address as a field's value, which all requests on the connection share.
    peer_value: HeaderValue,
    pub(super) scheme: Scheme,
}

impl Arrival {
    pub(super) fn new(peer: SocketAddr, scheme: Scheme) -> Self {
        // On a listener for both kinds of addresses IPv4 comes in IPv6's clothes.
        let peer = peer.ip().to_canonical();
        Arrival { peer, peer_value: address_value(peer), scheme }
    }
}

/// An address as a field's value.
fn address_value(address: IpAddr) -> HeaderValue {
    // Digits, letters, dots and colons are a header value.
    HeaderValue::from_str(&address.to_string()).unwrap_or(HeaderValue::from_static("unknown"))
}

/// Whether there is anything of the family among these fields.
pub(super) fn has_family(headers: &HeaderMap) -> bool {
    headers.keys().any(is_family)
}

fn is_family(name: &HeaderName) -> bool {
    let is_one = |name: &str| name.starts_with("x-forwarded") || OTHERS.contains(&name);
    // Programs that get their headers as variables take an underscore for a hyphen.
    match name.as_str() {
        odd if odd.contains('_') => is_one(&odd.replace('_', "-")),
        name => is_one(name),
    }
}

impl TrustedProxies {
    pub(super) fn trusts(&self, address: IpAddr) -> bool {
        self.networks.iter().any(|network| network.holds(address))
    }

    /// The visitor's address: the nearest that is not a trusted proxy's.
    pub(super) fn visitor(&self, headers: &HeaderMap, peer: IpAddr) -> IpAddr {
        if self.trusts(peer) { self.visitor_in(&said_for(headers), peer) } else { peer }
    }

    /// The visitor's address in the chain that this trusted peer states.
    fn visitor_in(&self, chain: &[String], peer: IpAddr) -> IpAddr {
        let mut visitor = peer;
        for address in chain.iter().rev() {
            match address_of(address) {
                Some(address) if self.trusts(address) => visitor = address,
                Some(address) => return address,
                // An address that cannot be read is taken for the last one that can.
                None => return visitor,
            }
        }
        visitor
    }

    /// Removes what others say of where a request came from, and says it.
    pub(super) fn set(&self, headers: &mut HeaderMap, arrival: &Arrival) {
        let Arrival { peer, scheme, .. } = *arrival;
        let is_trusted = self.trusts(peer);
        let said = if is_trusted { ProxyClaims::by(headers) } else { ProxyClaims::default() };
        let visitor = self.visitor_in(&said.chain, peer);
        let kept = |name: &HeaderName| is_trusted && self.headers.contains(name);
        let family: Vec<_> = headers.keys().filter(|name| is_family(name) && !kept(name)).cloned().collect();
        family.iter().for_each(|name| drop(headers.remove(name)));
        let scheme = said.scheme.unwrap_or(scheme);
        let host = said.host.or_else(|| headers.get(header::HOST).cloned());
        let port = said.port.or_else(|| host.as_ref().and_then(port_of));
        headers.insert(FOR, chain_value(said.chain, arrival));
        headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static(scheme.name()));
        headers.insert(PORT, port.unwrap_or(scheme.default_port()).into());
        if let Some(host) = host {
            headers.insert(HOST, host);
        }
        let visitor = if visitor == peer { arrival.peer_value.clone() } else { address_value(visitor) };
        headers.insert(REAL_IP, visitor);
    }
}

/// The addresses that a request came by, with the peer's at the end.
fn chain_value(mut said: Vec<String>, arrival: &Arrival) -> HeaderValue {
    if said.is_empty() {
        return arrival.peer_value.clone();
    }
    said.drain(..said.len().saturating_sub(CHAIN_MAX));
    said.push(arrival.peer.to_string());
    // Addresses and commas are a header value; what was said is part of one.
    HeaderValue::from_str(&said.join(", ")).unwrap_or_else(|_| arrival.peer_value.clone())
}

/// The claims of a trusted proxy.
#[derive(Default)]
struct ProxyClaims {
    chain: Vec<String>,
    scheme: Option<Scheme>,
    host: Option<HeaderValue>,
    port: Option<u16>,
}

impl ProxyClaims {
    fn by(headers: &HeaderMap) -> Self {
        let forwarded = ForwardedElement::nearest(headers);
        let value = |name: &HeaderName| nearest(headers, name);
        let host = value(&HOST).or(forwarded.host).filter(|host| is_host(host.as_bytes()));
        ProxyClaims {
            chain: said_for(headers),
            scheme: scheme(value(&X_FORWARDED_PROTO).or(forwarded.proto).as_deref()),
            host: host.and_then(|host| HeaderValue::from_str(&host).ok()),
            port: value(&PORT).and_then(|port| port.parse().ok()).filter(|port| *port > 0),
        }
    }
}

/// The last of the values of a field: that of the nearest proxy.
fn nearest(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    let last = text(headers.get_all(name).iter().next_back()?);
    last.rsplit(',').next().map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
}

/// A value with `?` for whatever is not ASCII: what a visitor wrote into a list hides nothing of what a proxy added.
fn text(value: &HeaderValue) -> String {
    let is_text = |byte: u8| byte.is_ascii_graphic() || byte == b' ' || byte == b'\t';
    value.as_bytes().iter().map(|&byte| if is_text(byte) { char::from(byte) } else { '?' }).collect()
}

fn scheme(text: Option<&str>) -> Option<Scheme> {
    let is_named = |scheme: &Scheme| text.is_some_and(|text| text.eq_ignore_ascii_case(scheme.name()));
    [Scheme::Http, Scheme::Https].into_iter().find(is_named)
}

fn port_of(host: &HeaderValue) -> Option<u16> {
    let host = host.to_str().ok()?;
    let (_, port) = host.rsplit_once(':').filter(|(_, port)| !port.contains(']'))?;
    port.parse().ok().filter(|port| *port > 0)
}

/// Whether there is one of the fields in whose place `Forwarded` is read where there is none.
fn has_usual(headers: &HeaderMap) -> bool {
    [&FOR, &X_FORWARDED_PROTO, &HOST, &PORT].iter().any(|name| headers.contains_key(*name))
}

/// The addresses that a request came by, the visitor's first.
fn said_for(headers: &HeaderMap) -> Vec<String> {
    if has_usual(headers) {
        let mut all = Vec::new();
        for value in headers.get_all(&FOR) {
            let value = text(value);
            let addresses = value.split(',').map(str::trim).filter(|address| !address.is_empty());
            all.extend(addresses.map(str::to_owned));
        }
        return all;
    }
    ForwardedElement::all(headers).into_iter().filter_map(|element| element.by_for).collect()
}

/// An element of `Forwarded` (RFC 7239 §4).
#[derive(Default)]
struct ForwardedElement {
    by_for: Option<String>,
    proto: Option<String>,
    host: Option<String>,
}

impl ForwardedElement {
    /// That of the nearest proxy, where none of the older fields says anything.
    fn nearest(headers: &HeaderMap) -> Self {
        if has_usual(headers) {
            return ForwardedElement::default();
        }
        ForwardedElement::all(headers).pop().unwrap_or_default()
    }

    fn all(headers: &HeaderMap) -> Vec<Self> {
        let mut all = Vec::new();
        for value in headers.get_all(header::FORWARDED) {
            let value = text(value);
            // Where a quote has no end, every comma counts: the nearest proxy's element is the last in any case.
            let is_balanced = value.matches('"').count() % 2 == 0;
            match is_balanced {
                true => all.extend(split_unquoted(&value, ',').map(ForwardedElement::parse)),
                false => all.extend(value.split(',').map(ForwardedElement::parse)),
            }
        }
        all
    }

    fn parse(element: &str) -> Self {
        let mut forwarded = ForwardedElement::default();
        for pair in split_unquoted(element, ';') {
            let Some((name, value)) = pair.split_once('=') else { continue };
            let value = Some(value.trim().trim_matches('"').to_owned());
            match name.trim().to_ascii_lowercase().as_str() {
                "for" => forwarded.by_for = value,
                "proto" => forwarded.proto = value,
                "host" => forwarded.host = value,
                _ => {}
            }
        }
        forwarded
    }
}

/// The parts between separators that stand in no quotes.
fn split_unquoted(text: &str, separator: char) -> impl Iterator<Item = &str> {
    let mut is_quoted = false;
    text.split(move |c| {
        is_quoted ^= c == '"';
        c == separator && !is_quoted
    })
}

/// An address as it stands in a chain: perhaps with a port, an IPv6 one in brackets then.
fn address_of(text: &str) -> Option<IpAddr> {
    let bare = match text.strip_prefix('[') {
        Some(rest) => rest.split(']').next()?,
        None if text.matches(':').count() == 1 => text.split(':').next()?,
        None => text,
    };
    bare.parse::<IpAddr>().ok().map(|address| address.to_canonical())
}

/// Whether an address is private, as that of a proxy would be.
pub(super) fn is_private(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_loopback() || address.is_private() || address.is_link_local(),
        IpAddr::V6(address) => {
            address.is_loopback() || address.is_unique_local() || address.is_unicast_link_local()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(lines: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(name.parse::<HeaderName>().unwrap(), HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    /// The fields that come of these ones from this peer, with `10.0.0.0/8` and `::1` trusted.
    #[track_caller]
    fn check(peer: &str, scheme: Scheme, lines: &[(&str, &str)], expected: &[(&str, &str)]) {
        let proxies = TrustedProxies {
            networks: vec!["10.0.0.0/8".parse().unwrap(), "::1".parse().unwrap()],
            headers: vec!["x-forwarded-prefix".parse().unwrap()],
        };
        let mut headers = map(lines);
        let peer = SocketAddr::new(peer.parse().unwrap(), 1);
        proxies.set(&mut headers, &Arrival::new(peer, scheme));
        let mut left: Vec<_> =
            headers.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
        left.sort_unstable();
        assert_eq!(left, expected);
    }

    const LIES: [(&str, &str); 14] = [
        ("host", "site.test"),
        ("x-forwarded-for", "6.6.6.6"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "evil.test"),
        ("x-forwarded-port", "9999"),
        ("x-forwarded-prefix", "/evil"),
        ("x-forwarded-ssl", "on"),
        ("x-forwarded", "for=6.6.6.6"),
        ("x_forwarded_for", "6.6.6.6"),
        ("x-forwarded_prefix", "/evil"),
        ("forwarded", "for=6.6.6.6;host=evil.test;proto=https"),
        ("x-real-ip", "6.6.6.6"),
        ("front-end-https", "on"),
        ("client-ip", "6.6.6.6"),
    ];

    #[test]
    fn what_a_visitor_says_of_where_it_comes_from_is_removed() {
        let expected = [
            ("host", "site.test"),
            ("x-forwarded-for", "192.0.2.1"),
            ("x-forwarded-host", "site.test"),
            ("x-forwarded-port", "80"),
            ("x-forwarded-proto", "http"),
            ("x-real-ip", "192.0.2.1"),
        ];
        check("192.0.2.1", Scheme::Http, &LIES, &expected);
        check("::ffff:192.0.2.1", Scheme::Http, &LIES, &expected);
        check(
            "2001:db8::1",
            Scheme::Https,
            &[("host", "site.test:8443")],
            &[
                ("host", "site.test:8443"),
                ("x-forwarded-for", "2001:db8::1"),
                ("x-forwarded-host", "site.test:8443"),
                ("x-forwarded-port", "8443"),
                ("x-forwarded-proto", "https"),
                ("x-real-ip", "2001:db8::1"),
            ],
        );
    }

    #[test]
    fn what_a_visitor_wrote_into_a_list_hides_nothing_of_what_a_proxy_added() {
        let proxies = TrustedProxies { networks: vec!["10.0.0.0/8".parse().unwrap()], headers: Vec::new() };
        let lines: [(&str, &[u8]); 4] = [
            ("x-forwarded-for", b"\xff, 192.0.2.1"),
            ("x-forwarded-for", b"6.6.6.6\xe9, 192.0.2.1"),
            ("forwarded", b"for=\"6.6.6.6, for=192.0.2.1"),
            ("forwarded", b"for=\xff, for=192.0.2.1;proto=https"),
        ];
        for (name, value) in lines {
            let mut headers = HeaderMap::new();
            let name: HeaderName = name.parse().unwrap();
            headers.append(name, HeaderValue::from_bytes(value).unwrap());
            let visitor = proxies.visitor(&headers, "10.1.2.3".parse().unwrap());
            assert_eq!(visitor.to_string(), "192.0.2.1", "{value:?}");
        }
    }

    #[test]
    fn a_trusted_proxy_is_believed_and_named() {
        check(
            "10.1.2.3",
            Scheme::Http,
            &[
                ("host", "inner.test:3000"),
                ("x-forwarded-for", "6.6.6.6, 192.0.2.1"),
                ("x-forwarded-for", "10.9.9.9"),
                ("x-forwarded-proto", "https"),
                ("x-forwarded-host", "site.test"),
                ("x-forwarded-prefix", "/app"),
                ("x-forwarded-ssl", "on"),
                ("x-real-ip", "6.6.6.6"),
            ],
            &[
                ("host", "inner.test:3000"),
                ("x-forwarded-for", "6.6.6.6, 192.0.2.1, 10.9.9.9, 10.1.2.3"),
                ("x-forwarded-host", "site.test"),
                ("x-forwarded-port", "443"),
                ("x-forwarded-prefix", "/app"),
                ("x-forwarded-proto", "https"),
                ("x-real-ip", "192.0.2.1"),
            ],
        );
        // The gateway fills in whatever is missing or impossible.
        check(
            "::1",
            Scheme::Http,
            &[
                ("host", "a.test"),
                ("x-forwarded-proto", "gopher"),
                ("x-forwarded-host", "a b"),
                ("x-forwarded-port", "0"),
            ],
            &[
                ("host", "a.test"),
                ("x-forwarded-for", "::1"),
                ("x-forwarded-host", "a.test"),
                ("x-forwarded-port", "80"),
                ("x-forwarded-proto", "http"),
                ("x-real-ip", "::1"),
            ],
        );
    }

    #[test]
    fn forwarded_is_read_where_none_of_the_others_is_there() {
        check(
            "10.0.0.1",
            Scheme::Http,
            &[
                ("host", "a.test"),
                ("forwarded", "for=6.6.6.6, for=\"[2001:db8::7]:80\";proto=http;host=\"x,y\""),
                ("forwarded", "For=192.0.2.1:99;Proto=https;host=site.test:444"),
            ],
            &[
                ("host", "a.test"),
                ("x-forwarded-for", "6.6.6.6, [2001:db8::7]:80, 192.0.2.1:99, 10.0.0.1"),
                ("x-forwarded-host", "site.test:444"),
                ("x-forwarded-port", "444"),
                ("x-forwarded-proto", "https"),
                ("x-real-ip", "192.0.2.1"),
            ],
        );
    }

    #[test]
    fn the_visitor_is_the_nearest_that_is_no_proxy() {
        let proxies = TrustedProxies { networks: vec!["10.0.0.0/8".parse().unwrap()], headers: Vec::new() };
        for (peer, said, visitor) in [
            ("192.0.2.1", "6.6.6.6", "192.0.2.1"),
            ("10.0.0.1", "", "10.0.0.1"),
            ("10.0.0.1", "192.0.2.1", "192.0.2.1"),
            ("10.0.0.1", "6.6.6.6, 192.0.2.1:555, 10.0.0.2", "192.0.2.1"),
            ("10.0.0.1", "10.0.0.3, 10.0.0.2", "10.0.0.3"),
            ("10.0.0.1", "6.6.6.6, unknown, 10.0.0.2", "10.0.0.2"),
            ("10.0.0.1", "::ffff:192.0.2.1", "192.0.2.1"),
            ("10.0.0.1", "[2001:db8::1]:5", "2001:db8::1"),
        ] {
            let got = proxies.visitor(&map(&[("x-forwarded-for", said)]), peer.parse().unwrap());
            assert_eq!(got, visitor.parse::<IpAddr>().unwrap(), "{peer} {said}");
        }
    }
}
