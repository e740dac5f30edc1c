//! The host names of tunnels: which tunnel has which name, and which names are nobody's.
//!
//! Each tunnel has the name that it asked for, where that was free, else the one that is derived from its ID. A name stays
//! a tunnel's while an agent of it is connected, and for ten minutes after the last one has left.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use http::HeaderValue;

use super::PLACES;
use super::forwarded::Scheme;
use crate::http1::is_host;
use crate::protocol::{TunnelName, TunnelUrl, Wanted};
use crate::sync::lock;
use crate::tunnel_id::TunnelId;

/// For so long after its last session a name is kept for its tunnel.
const KEPT: Duration = Duration::from_secs(600);

/// Names that are kept for tunnels without a session; the oldest is given up for one more.
const KEPT_MAX: usize = PLACES;

/// Hosts under which agents connect that are remembered.
const AGENT_HOSTS_MAX: usize = 64;

/// Names that no tunnel gets by asking: what people expect to be the operator's.
const RESERVED: [&str; 10] =
    ["www", "gw", "gateway", "api", "admin", "ws", "tunnel", "mail", "wpad", "autoconfig"];

/// The domain under which tunnels have their host names: `tunnel.example`, `https://tunnel.example` or
/// `tunnel.example:8443`.
///
/// Scheme and port are what visitors use, who may come through a proxy. Without a scheme they are those of the gateway's
/// own address; with a scheme alone the port is the scheme's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Domain {
    scheme: Option<Scheme>,
    name: String,
    port: Option<u16>,
}

/// The error of a text that is no [`Domain`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InvalidDomain;

impl fmt::Display for InvalidDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("expected a host name such as tunnel.example, https://tunnel.example or localhost:3000")
    }
}

impl std::error::Error for InvalidDomain {}

impl FromStr for Domain {
    type Err = InvalidDomain;

    fn from_str(text: &str) -> Result<Self, InvalidDomain> {
        let (scheme, authority) = match text.split_once("://") {
            None => (None, text),
            Some(("http", rest)) => (Some(Scheme::Http), rest),
            Some(("https", rest)) => (Some(Scheme::Https), rest),
            Some(_) => return Err(InvalidDomain),
        };
        let (name, port) = match authority.split_once(':') {
            None => (authority, None),
            Some((name, port)) => {
                (name, Some(port.parse().ok().filter(|port| *port > 0).ok_or(InvalidDomain)?))
            }
        };
        Ok(Domain { scheme, name: host_name(name).ok_or(InvalidDomain)?, port })
    }
}

/// A host name in its usual form: in lower case, without a dot at its end. `None` where it is an address, or no name.
pub(super) fn host_name(text: &str) -> Option<String> {
    let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
    let is_label = |label: &str| {
        let is_inner = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        (1..=63).contains(&label.len()) && label.bytes().all(is_inner) && !label.starts_with('-')
    };
    let is_name = name.len() <= 253 && name.split('.').all(is_label) && name.parse::<IpAddr>().is_err();
    is_name.then_some(name)
}

/// The name in a `Host` field.
fn name_in(host: &HeaderValue) -> Option<String> {
    let host = host.to_str().ok().filter(|host| is_host(host.as_bytes()))?;
    host_name(host.split_once(':').map_or(host, |(name, _)| name))
}

/// All names.
pub(super) struct Names {
    domain: String,
    /// What stands before a host name in a URL, and behind it.
    around: (&'static str, String),
    /// Hosts that are the gateway's own.
    own: Vec<String>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    claims: BTreeMap<TunnelName, Claim>,
    /// Hosts under which agents have connected.
    agent_hosts: BTreeSet<String>,
}

/// A name that is a tunnel's.
struct Claim {
    tunnel: TunnelId,
    sessions: usize,
    /// Since when there has been no session.
    gone: Option<Instant>,
}

/// The name of one session's tunnel, for as long as it lasts.
pub(super) struct NameGuard {
    names: Arc<Names>,
    name: TunnelName,
    pub(super) url: TunnelUrl,
}

impl Drop for NameGuard {
    fn drop(&mut self) {
        self.names.leave(&self.name, Instant::now());
    }
}

impl Names {
    /// No names yet. `address` and `scheme` are the gateway's own.
    pub(super) fn new(
        domain: Option<&Domain>,
        own: Vec<String>,
        address: SocketAddr,
        scheme: Scheme,
    ) -> Self {
        let (name, scheme, port) = match domain {
            None => ("localhost", scheme, Some(address.port())),
            Some(Domain { scheme: None, name, port }) => {
                (name.as_str(), scheme, Some(port.unwrap_or(address.port())))
            }
            Some(Domain { scheme: Some(scheme), name, port }) => (name.as_str(), *scheme, *port),
        };
        let port = port.filter(|port| *port != scheme.default_port());
        let port = port.map(|port| format!(":{port}")).unwrap_or_default();
        Names { domain: name.to_owned(), around: (scheme.name(), port), own, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    fn url(&self, name: &str) -> String {
        let (scheme, port) = &self.around;
        format!("{scheme}://{name}.{}{port}", self.domain)
    }

    /// The URLs of all tunnels, as a pattern.
    pub(super) fn pattern(&self) -> String {
        self.url("NAME")
    }

    /// Names under the domain, and hosts, that no tunnel gets by asking.
    pub(super) fn reserved(&self) -> impl Iterator<Item = &str> {
        RESERVED.into_iter().chain(self.own.iter().map(String::as_str))
    }

    /// The domain under which tunnels have their names.
    pub(super) fn domain(&self) -> &str {
        &self.domain
    }

    /// The tunnel whose host name stands in this `Host`, even if no agent of it is connected any more.
    pub(super) fn tunnel_of(&self, host: &HeaderValue) -> Option<TunnelId> {
        let name = name_in(host)?;
        let label = name.strip_suffix(&self.domain)?.strip_suffix('.')?;
        let state = self.state();
        state.claims.get(label).map(|claim| claim.tunnel.clone())
    }

    /// Gives a session of this tunnel the name that it wants, or the derived one. `host` is the one under which its agent
    /// has connected.
    pub(super) fn enter(
        self: &Arc<Self>,
        tunnel: &TunnelId,
        wanted: Option<&TunnelName>,
        host: Option<&HeaderValue>,
        now: Instant,
    ) -> NameGuard {
        let mut state = self.state();
        if let Some(host) = host.and_then(name_in)
            && state.agent_hosts.len() < AGENT_HOSTS_MAX
        {
            state.agent_hosts.insert(host);
        }
        state.forget(now);
        let wanted = wanted.map(|name| (name, self.is_free(&state, name, tunnel)));
        let name = match wanted {
            Some((name, true)) => name.clone(),
            _ => TunnelName::derived(tunnel),
        };
        let new = || Claim { tunnel: tunnel.clone(), sessions: 0, gone: None };
        let claim = state.claims.entry(name.clone()).or_insert_with(new);
        claim.sessions += 1;
        claim.gone = None;
        drop(state);
        let granted = if matches!(wanted, Some((_, false))) { Wanted::Taken } else { Wanted::Granted };
        let url = TunnelUrl { url: self.url(name.as_str()), wanted: granted };
        NameGuard { names: self.clone(), name, url }
    }

    /// Whether a tunnel may have a name that it asks for.
    fn is_free(&self, state: &State, name: &TunnelName, tunnel: &TunnelId) -> bool {
        let host = format!("{name}.{}", self.domain);
        let is_own = RESERVED.contains(&name.as_str())
            || self.own.contains(&host)
            || state.agent_hosts.contains(&host);
        !is_own && state.claims.get(name).is_none_or(|claim| claim.tunnel == *tunnel)
    }

    fn leave(&self, name: &TunnelName, now: Instant) {
        let mut state = self.state();
        if let Some(claim) = state.claims.get_mut(name) {
            claim.sessions -= 1;
            claim.gone = (claim.sessions == 0).then_some(now);
        }
        state.forget(now);
    }
}

impl State {
    /// Gives up the names whose tunnels have been gone for long, and the oldest of too many.
    fn forget(&mut self, now: Instant) {
        self.claims.retain(|_, claim| claim.gone.is_none_or(|gone| now.duration_since(gone) < KEPT));
        let gone = self.claims.iter().filter_map(|(name, claim)| Some((claim.gone?, name)));
        let mut gone: Vec<_> = gone.collect();
        if gone.len() > KEPT_MAX {
            gone.sort_unstable();
            let oldest: Vec<_> =
                gone[..gone.len() - KEPT_MAX].iter().map(|(_, name)| (*name).clone()).collect();
            oldest.iter().for_each(|name| drop(self.claims.remove(name)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(domain: Option<&str>) -> Arc<Names> {
        let domain: Option<Domain> = domain.map(|domain| domain.parse().unwrap());
        let address = "127.0.0.1:3000".parse().unwrap();
        Arc::new(Names::new(domain.as_ref(), vec!["shop2.localhost".to_owned()], address, Scheme::Http))
    }

    fn id(number: u32) -> TunnelId {
        format!("agent_550e8400-e29b-41d4-a716-{number:012}_prod").parse().unwrap()
    }

    fn name(text: &str) -> TunnelName {
        text.parse().unwrap()
    }

    #[test]
    fn a_url_has_the_scheme_and_the_port_that_visitors_use() {
        for (domain, url) in [
            (None, "http://x.localhost:3000"),
            (Some("tunnel.example"), "http://x.tunnel.example:3000"),
            (Some("Tunnel.Example.:80"), "http://x.tunnel.example"),
            (Some("tunnel.example:8080"), "http://x.tunnel.example:8080"),
            (Some("https://tunnel.example"), "https://x.tunnel.example"),
            (Some("https://tunnel.example:443"), "https://x.tunnel.example"),
            (Some("https://tunnel.example:80"), "https://x.tunnel.example:80"),
        ] {
            assert_eq!(names(domain).url("x"), url, "{domain:?}");
        }
        for bad in ["", "https://", "a b", "x/", "x:0", "x:y", "10.0.0.1", "[::1]", "ftp://x", "a..b", "-a.b"]
        {
            assert_eq!(bad.parse::<Domain>(), Err(InvalidDomain), "{bad}");
        }
    }

    #[test]
    fn a_name_is_the_tunnels_that_came_first_until_ten_minutes_after() {
        let (names, start) = (names(None), Instant::now());
        let enter = |number, wanted: Option<&str>, at| {
            names.enter(&id(number), wanted.map(name).as_ref(), None, start + Duration::from_secs(at))
        };
        let first = enter(1, Some("shop"), 0);
        assert_eq!(first.url.url, "http://shop.localhost:3000");
        let again = enter(1, Some("shop"), 0);
        assert_eq!((again.url.wanted, &again.url.url), (Wanted::Granted, &first.url.url));
        let other = enter(2, Some("shop"), 0);
        let derived = TunnelName::derived(&id(2));
        assert_eq!((other.url.wanted, &other.url.url), (Wanted::Taken, &names.url(derived.as_str())));
        // The last session counts.
        drop(first);
        assert_eq!(enter(3, Some("shop"), 2_000).url.wanted, Wanted::Taken);
        drop(again);
        assert_eq!(enter(3, Some("shop"), 599).url.wanted, Wanted::Taken);
        assert_eq!(enter(1, Some("shop"), 599).url.wanted, Wanted::Granted);
        assert_eq!(enter(3, Some("shop"), 2_000).url.wanted, Wanted::Granted);
        let none = enter(4, None, 0);
        assert_eq!(none.url.url, names.url(TunnelName::derived(&id(4)).as_str()));
        assert_eq!(none.url.wanted, Wanted::Granted);
    }

    #[test]
    fn a_host_leads_to_its_tunnel_and_no_other_host_does() {
        let names = names(None);
        let now = Instant::now();
        let shop = names.enter(&id(1), Some(&name("shop")), None, now);
        let _derived = names.enter(&id(2), None, None, now);
        let derived = format!("{}.localhost:3000", TunnelName::derived(&id(2)));
        let of = |host: &str| names.tunnel_of(&HeaderValue::from_str(host).unwrap());
        for host in ["shop.localhost", "shop.localhost:3000", "SHOP.localhost.:1", "shop.LocalHost:"] {
            assert_eq!(of(host), Some(id(1)), "{host}");
        }
        assert_eq!(of(&derived), Some(id(2)));
        let others = [
            "localhost",
            "x.localhost",
            "shop",
            "shop.example",
            "a.shop.localhost",
            "xshop.localhost",
            "shoplocalhost",
            "127.0.0.1:3000",
            "[::1]:3000",
            "",
            "shop.localhost:99999",
            "u@shop.localhost",
        ];
        for host in others {
            assert_eq!(of(host), None, "{host:?}");
        }
        // Its requests are nobody else's while the name is kept.
        drop(shop);
        assert_eq!(of("shop.localhost"), Some(id(1)));
    }

    #[test]
    fn what_is_the_gateways_own_is_no_tunnels() {
        let names = names(None);
        let host = HeaderValue::from_static("agents.localhost:3000");
        let now = Instant::now();
        let _agent = names.enter(&id(1), None, Some(&host), now);
        for own in ["www", "api", "shop2", "agents"] {
            assert_eq!(names.enter(&id(2), Some(&name(own)), None, now).url.wanted, Wanted::Taken, "{own}");
        }
        assert_eq!(names.enter(&id(2), Some(&name("shop")), None, now).url.wanted, Wanted::Granted);
    }

    #[test]
    fn no_more_names_are_kept_than_may_be() {
        let (names, now) = (names(None), Instant::now());
        for number in 0..2 * KEPT_MAX as u32 {
            names.enter(&id(number), None, None, now);
        }
        assert!(names.state().claims.len() <= KEPT_MAX + 1);
        for _ in 0..2 {
            for number in 0..AGENT_HOSTS_MAX {
                let host = HeaderValue::from_str(&format!("h{number}.example")).unwrap();
                names.enter(&id(1), None, Some(&host), now);
            }
        }
        assert_eq!(names.state().agent_hosts.len(), AGENT_HOSTS_MAX);
    }
}
