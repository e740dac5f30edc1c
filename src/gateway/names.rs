//! The host names of tunnels: which tunnel has which name, and which names no tunnel has.
//!
//! Each tunnel has the name that it asked for, where that was free, else the one that is derived from its ID. A name stays
//! a tunnel's while an agent of it is connected, and for ten minutes after the last one has disconnected. What an operator has
//! [reserved](Reservations) goes before all.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use http::HeaderValue;
use log::{error, info, warn};

use super::PLACES;
use super::domain::{Domain, name_in};
use super::forwarded::Scheme;
use super::reservations::Reservations;
use crate::advice::Advice;
use crate::protocol::{TunnelName, TunnelUrl, Wanted};
use crate::sync::lock;
use crate::tunnel_id::TunnelId;

/// The domain where none is named.
pub(super) const LOCALHOST: &str = "localhost";

/// For so long after its last session a name is kept for its tunnel.
const KEPT: Duration = Duration::from_secs(600);

/// Names that are kept for tunnels without a session; while there are as many, no other tunnel gets one by asking.
const KEPT_MAX: usize = PLACES;

/// Hosts under which agents connect that are remembered.
const AGENT_HOSTS_MAX: usize = 64;

/// Names that no tunnel gets by asking: what people expect to be the operator's.
const RESERVED: [&str; 10] =
    ["www", "gw", "gateway", "api", "admin", "ws", "tunnel", "mail", "wpad", "autoconfig"];

/// All names.
pub(super) struct Names {
    /// The operator has named the domain.
    is_configured: bool,
    domain: String,
    /// The parts of a URL before a host name, and behind it.
    around: (&'static str, String),
    /// Hosts that are the gateway's own.
    own: Vec<String>,
    policy: NamePolicy,
    state: Mutex<State>,
}

/// Which tunnels get which names.
#[derive(Debug, Clone, Default)]
pub(super) struct NamePolicy {
    /// The file of reservations.
    pub(super) file: Option<PathBuf>,
    /// Names that are not reserved are given to the tunnel that comes first, though there is a file.
    pub(super) is_first_come: bool,
    /// No tunnel without a reservation is served.
    pub(super) is_only_reserved: bool,
}

#[derive(Default)]
struct State {
    reserved: Reservations,
    claims: BTreeMap<TunnelName, Claim>,
    /// Hosts under which agents connect.
    agent_hosts: BTreeMap<String, Presence>,
}

/// How many sessions something has, and since when there has been none.
#[derive(Debug, Default)]
struct Presence {
    sessions: usize,
    gone: Option<Instant>,
}

impl Presence {
    fn enter(&mut self) {
        self.sessions += 1;
        self.gone = None;
    }

    fn leave(&mut self, now: Instant) {
        self.sessions = self.sessions.saturating_sub(1);
        self.gone = (self.sessions == 0).then_some(now);
    }

    fn is_kept(&self, now: Instant) -> bool {
        self.gone.is_none_or(|gone| now.duration_since(gone) < KEPT)
    }
}

/// The meaning of a `Host`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum HostMeaning {
    /// Nothing: the gateway answers as it does without names.
    Gateway,
    /// This tunnel's.
    Tunnel(TunnelId),
    /// Kept for a tunnel whose agent is not connected, if there is such a tunnel.
    Absent,
}

/// A name that is a tunnel's.
struct Claim {
    tunnel: TunnelId,
    presence: Presence,
}

/// The name of one session's tunnel, for as long as it lasts.
pub(super) struct NameGuard {
    names: Arc<Names>,
    /// Nothing where its host name is reserved.
    claimed: Option<(TunnelName, TunnelId)>,
    /// The host under which the agent has connected.
    host: Option<String>,
    pub(super) url: TunnelUrl,
}

impl Drop for NameGuard {
    fn drop(&mut self) {
        self.names.leave(self, Instant::now());
    }
}

impl Names {
    /// No names yet. `address` and `scheme` are the gateway's own.
    pub(super) fn new(
        domain: Option<&Domain>,
        own: Vec<String>,
        policy: NamePolicy,
        (address, scheme): (SocketAddr, Scheme),
    ) -> Self {
        let (name, scheme, port) = match domain {
            None => (LOCALHOST, scheme, Some(address.port())),
            Some(Domain { scheme: None, name, port: Some(443) }) => (name.as_str(), Scheme::Https, Some(443)),
            Some(Domain { scheme: None, name, port }) => {
                (name.as_str(), scheme, Some(port.unwrap_or(address.port())))
            }
            Some(Domain { scheme: Some(scheme), name, port }) => (name.as_str(), *scheme, *port),
        };
        let port = port.filter(|port| *port != scheme.default_port());
        let port = port.map(|port| format!(":{port}")).unwrap_or_default();
        let under = |host: String| if host.contains('.') { host } else { format!("{host}.{name}") };
        Names {
            is_configured: domain.is_some(),
            domain: name.to_owned(),
            around: (scheme.name(), port),
            own: own.into_iter().map(under).collect(),
            policy,
            state: Mutex::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Obeys these reservations from now on.
    pub(super) fn reserve(&self, reserved: Reservations) {
        let mut state = self.state();
        // A reservation ousts the tunnel that has the name.
        state.claims.retain(|name, claim| {
            let tunnel = reserved.tunnel_of(&format!("{name}.{}", self.domain));
            tunnel.is_none_or(|tunnel| *tunnel == claim.tunnel)
        });
        state.reserved = reserved;
    }

    /// Reads the file again. One that cannot be used changes nothing.
    pub(super) fn reload(&self) {
        let Some(path) = &self.policy.file else { return };
        match Reservations::read(path, &self.domain) {
            Ok(reserved) => {
                self.reserve(reserved);
                info!("read the names again");
            }
            Err(why) => error!("the names stay as they were: {}: {why}", path.display()),
        }
    }

    /// Whether a tunnel is served.
    pub(super) fn admits(&self, tunnel: &TunnelId) -> bool {
        !self.policy.is_only_reserved || self.state().reserved.host_of(tunnel).is_some()
    }

    fn url(&self, name: &str) -> String {
        self.url_of(&format!("{name}.{}", self.domain))
    }

    fn url_of(&self, host: &str) -> String {
        let (scheme, port) = &self.around;
        format!("{scheme}://{host}{port}")
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

    /// Whether an agent at this address is told its URL: without a domain it leads to the machine that it is read on.
    pub(super) fn tells(&self, agent: SocketAddr) -> bool {
        self.is_configured || agent.ip().to_canonical().is_loopback()
    }

    /// Whether the URLs lead to this machine alone.
    pub(super) fn are_local(&self) -> bool {
        !self.is_configured
    }

    /// Whether the cookies of a response to a request with this host are looked at.
    pub(super) fn confines(&self, host: &HostMeaning) -> bool {
        self.is_configured || *host != HostMeaning::Gateway
    }

    /// A first look at a host, which most requests need no more than.
    fn may_be_under_domain(&self, host: &HeaderValue) -> bool {
        let name = host.as_bytes().split(|byte| *byte == b':').next().unwrap_or_default();
        let name = name.strip_suffix(b".").unwrap_or(name);
        let start = name.len().checked_sub(self.domain.len());
        start.is_some_and(|start| start > 0 && name[start..].eq_ignore_ascii_case(self.domain.as_bytes()))
    }

    /// The meaning of this `Host`. A name under the domain that an operator has named is a tunnel's, even while no agent of it
    /// is connected: its visitors and their cookies go to no other tunnel.
    pub(super) fn meaning(&self, host: &HeaderValue) -> HostMeaning {
        if self.policy.file.is_none() && !self.may_be_under_domain(host) {
            return HostMeaning::Gateway;
        }
        let Some(host) = name_in(host) else { return HostMeaning::Gateway };
        let label = host.strip_suffix(&self.domain).and_then(|label| label.strip_suffix('.'));
        if label.is_none() && self.policy.file.is_none() {
            return HostMeaning::Gateway;
        }
        let state = self.state();
        let claimed = || state.claims.get(label?).map(|claim| &claim.tunnel);
        if let Some(tunnel) = state.reserved.tunnel_of(&host).or_else(claimed) {
            return HostMeaning::Tunnel(tunnel.clone());
        }
        let is_tunnels = |label: &str| {
            let is_name = !label.contains('.') && !RESERVED.contains(&label);
            is_name && (self.is_configured || label.contains("--"))
        };
        let is_own = || self.own.contains(&host) || state.agent_hosts.contains_key(&host);
        if label.is_some_and(is_tunnels) && !is_own() { HostMeaning::Absent } else { HostMeaning::Gateway }
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
        state.forget(now);
        let host = host.and_then(name_in).filter(|host| self.record_agent_host(&mut state, host));
        let reserved = self.reserved_host(&state, tunnel, wanted);
        let wanted = wanted.map(|name| (name, self.is_free(&state, name, tunnel)));
        let is_taken = matches!(wanted, Some((_, false)));
        let wanted_url =
            |url| TunnelUrl { url, wanted: if is_taken { Wanted::Taken } else { Wanted::Granted } };
        if let Some(reserved) = reserved {
            let url = wanted_url(self.url_of(&reserved));
            return NameGuard { names: self.clone(), claimed: None, host, url };
        }
        let name = match wanted {
            Some((name, true)) => name.clone(),
            _ => TunnelName::derived(tunnel),
        };
        let new = || Claim { tunnel: tunnel.clone(), presence: Presence::default() };
        state.claims.entry(name.clone()).or_insert_with(new).presence.enter();
        drop(state);
        let url = wanted_url(self.url(name.as_str()));
        NameGuard { names: self.clone(), claimed: Some((name, tunnel.clone())), host, url }
    }

    /// Remembers a host under which agents connect, if there is room. Returns whether it is remembered.
    fn record_agent_host(&self, state: &mut State, host: &str) -> bool {
        // A reserved one is a tunnel's already: its agents find the gateway by it, through a balancer that goes by names.
        if state.reserved.tunnel_of(host).is_some() {
            return false;
        }
        let is_known = state.agent_hosts.contains_key(host);
        if !is_known && state.agent_hosts.len() >= AGENT_HOSTS_MAX {
            return false;
        }
        state.agent_hosts.entry(host.to_owned()).or_default().enter();
        let label = host.strip_suffix(&self.domain).and_then(|label| label.strip_suffix('.'));
        let may_be_tunnels = label.is_some_and(|label| !label.contains('.') && !RESERVED.contains(&label));
        if !is_known && may_be_tunnels && !self.own.iter().any(|own| own == host) {
            warn!(advice = Advice::OwnHost.name(); "agents connect at {host}, which a tunnel may ask for after a restart");
        }
        true
    }

    /// The host name that is reserved for a tunnel: that of the name which it wants, else its first.
    fn reserved_host(&self, state: &State, tunnel: &TunnelId, wanted: Option<&TunnelName>) -> Option<String> {
        let wanted = wanted.map(|name| format!("{name}.{}", self.domain));
        let wanted = wanted.filter(|host| state.reserved.tunnel_of(host) == Some(tunnel));
        wanted.or_else(|| state.reserved.host_of(tunnel).map(str::to_owned))
    }

    /// Whether a tunnel may have a name that it asks for.
    fn is_free(&self, state: &State, name: &TunnelName, tunnel: &TunnelId) -> bool {
        let host = format!("{name}.{}", self.domain);
        if let Some(owner) = state.reserved.tunnel_of(&host) {
            return owner == tunnel;
        }
        if self.policy.file.is_some() && !self.policy.is_first_come {
            return false;
        }
        let is_own = RESERVED.contains(&name.as_str())
            || self.own.contains(&host)
            || state.agent_hosts.contains_key(&host);
        let owner = state.claims.get(name).map(|claim| &claim.tunnel);
        // A tunnel that has connected is not forgotten for one that connects now.
        !is_own && owner.map_or(state.gone_count() < KEPT_MAX, |owner| owner == tunnel)
    }

    fn leave(&self, guard: &NameGuard, now: Instant) {
        let mut state = self.state();
        if let Some(presence) = guard.host.as_ref().and_then(|host| state.agent_hosts.get_mut(host)) {
            presence.leave(now);
        }
        if let Some((name, tunnel)) = &guard.claimed {
            // By now the name may be another tunnel's.
            if let Some(claim) = state.claims.get_mut(name).filter(|claim| claim.tunnel == *tunnel) {
                claim.presence.leave(now);
                // No other tunnel can get a derived name.
                if claim.presence.sessions == 0 && *name == TunnelName::derived(tunnel) {
                    state.claims.remove(name);
                }
            }
        }
        state.forget(now);
    }
}

impl State {
    /// Forgets the names that were not used for long.
    fn forget(&mut self, now: Instant) {
        self.claims.retain(|_, claim| claim.presence.is_kept(now));
        self.agent_hosts.retain(|_, presence| presence.is_kept(now));
    }

    /// Names that are kept for tunnels without a session.
    fn gone_count(&self) -> usize {
        self.claims.values().filter(|claim| claim.presence.gone.is_some()).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::InvalidDomain;

    fn names(domain: Option<&str>) -> Arc<Names> {
        let domain: Option<Domain> = domain.map(|domain| domain.parse().unwrap());
        let address = "127.0.0.1:3000".parse().unwrap();
        Arc::new(Names::new(
            domain.as_ref(),
            vec!["shop2.localhost".to_owned()],
            NamePolicy::default(),
            (address, Scheme::Http),
        ))
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
            (Some("tunnel.example:443"), "https://x.tunnel.example"),
            (Some("https://tunnel.example:80"), "https://x.tunnel.example:80"),
        ] {
            assert_eq!(names(domain).url("x"), url, "{domain:?}");
        }
        for bad in [
            "", "https://", "a b", "x/", "x:0", "x:y", "10.0.0.1", "[::1]", "0x7f.1", "1.2.3", "x-",
            "ftp://x", "a..b", "-a.b",
        ] {
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
    fn agents_that_dial_a_reserved_host_do_not_take_it_from_its_tunnel() {
        let names = names(Some("tunnel.example"));
        let lines = format!("shop = {}\n", "agent_550e8400-e29b-41d4-a716-000000000001_prod");
        names.reserve(Reservations::parse(&lines, "tunnel.example").unwrap());
        let host = HeaderValue::from_static("shop.tunnel.example");
        let guard = names.enter(&id(1), None, Some(&host), Instant::now());
        assert_eq!(guard.url.url, "http://shop.tunnel.example:3000");
        assert_eq!(names.meaning(&host), HostMeaning::Tunnel(id(1)));
        assert!(names.state().agent_hosts.is_empty());
    }

    #[test]
    fn a_host_leads_to_its_tunnel_and_no_other_host_does() {
        let names = names(None);
        let now = Instant::now();
        let shop = names.enter(&id(1), Some(&name("shop")), None, now);
        let _derived = names.enter(&id(2), None, None, now);
        let derived = format!("{}.localhost:3000", TunnelName::derived(&id(2)));
        let of = |host: &str| match names.meaning(&HeaderValue::from_str(host).unwrap()) {
            HostMeaning::Tunnel(tunnel) => Some(tunnel),
            HostMeaning::Gateway | HostMeaning::Absent => None,
        };
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
        // No other tunnel gets its requests while the name is kept.
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

    /// The names of a gateway with this file, and a function that replaces the file and has it read again.
    fn with_file(policy: NamePolicy, text: &str) -> (Arc<Names>, impl Fn(&str) + use<>) {
        let path = std::env::temp_dir().join(format!("names-{}", crate::protocol::random_uuid()));
        let policy = NamePolicy { file: Some(path.clone()), ..policy };
        let address = "127.0.0.1:3000".parse().unwrap();
        let names = Arc::new(Names::new(None, Vec::new(), policy, (address, Scheme::Http)));
        let reload = {
            let names = names.clone();
            move |text: &str| {
                std::fs::write(&path, text).unwrap();
                names.reload();
                std::fs::remove_file(&path).unwrap();
            }
        };
        reload(text);
        (names, reload)
    }

    #[test]
    fn what_is_reserved_is_nobody_elses_and_ousts_whoever_has_it() {
        let lines = |lines: &[(&str, u32)]| {
            lines
                .iter()
                .map(|(name, number)| format!("{name} = {}\n", id(*number).expose()))
                .collect::<String>()
        };
        let policy = NamePolicy { is_first_come: true, ..NamePolicy::default() };
        let first = lines(&[("www", 1), ("shop.example", 1)]);
        let (names, reload) = with_file(policy, &first);
        let now = Instant::now();
        let enter =
            |number, wanted: Option<&str>| names.enter(&id(number), wanted.map(name).as_ref(), None, now);
        let of = |host: &str| match names.meaning(&HeaderValue::from_str(host).unwrap()) {
            HostMeaning::Tunnel(tunnel) => Some(tunnel),
            HostMeaning::Gateway | HostMeaning::Absent => None,
        };
        // Even a name that no tunnel gets by asking, and a host of its own.
        assert_eq!(enter(1, None).url.url, "http://www.localhost:3000");
        assert_eq!(of("shop.example:80"), Some(id(1)));
        assert_eq!(enter(2, Some("www")).url.wanted, Wanted::Taken);
        let blog = enter(2, Some("blog"));
        assert_eq!((blog.url.wanted, of("blog.localhost")), (Wanted::Granted, Some(id(2))));
        reload(&lines(&[("blog", 1)]));
        assert_eq!((of("blog.localhost"), of("shop.example")), (Some(id(1)), None));
        // The session that had it changes nothing when it ends.
        drop(blog);
        assert_eq!(of("blog.localhost"), Some(id(1)));
        // A broken file changes nothing.
        reload("blog");
        assert_eq!(of("blog.localhost"), Some(id(1)));
    }

    #[test]
    fn with_a_file_no_other_name_is_given_unless_it_is_said() {
        let text = format!("shop = {}\n", id(1).expose());
        let (names, _) = with_file(NamePolicy::default(), &text);
        assert_eq!(names.enter(&id(2), Some(&name("blog")), None, Instant::now()).url.wanted, Wanted::Taken);
        assert!(names.admits(&id(2)));
        let policy = NamePolicy { is_only_reserved: true, ..NamePolicy::default() };
        let (names, _) = with_file(policy, &text);
        assert!(names.admits(&id(1)) && !names.admits(&id(2)));
    }

    #[test]
    fn a_tunnels_host_is_nobody_elses_while_it_is_away() {
        let now = Instant::now();
        let meaning = |names: &Names, host: &str| names.meaning(&HeaderValue::from_str(host).unwrap());
        let names = names(Some("tunnel.example"));
        let host = HeaderValue::from_static("agents.tunnel.example");
        let _agent = names.enter(&id(1), None, Some(&host), now);
        for absent in ["shop.tunnel.example", "SHOP.tunnel.example.:80", "a--b.tunnel.example"] {
            assert_eq!(meaning(&names, absent), HostMeaning::Absent, "{absent}");
        }
        let own = [
            "tunnel.example",
            "www.tunnel.example",
            "agents.tunnel.example",
            "a.b.tunnel.example",
            "x.example",
        ];
        for own in own {
            assert_eq!(meaning(&names, own), HostMeaning::Gateway, "{own}");
        }
        // Where no domain is configured, an application may have such hosts of its own.
        let names = self::names(None);
        assert_eq!(meaning(&names, "app.localhost"), HostMeaning::Gateway);
        assert_eq!(meaning(&names, "prod--t7pwrbk2jfc2hc3n.localhost"), HostMeaning::Absent);
    }

    #[test]
    fn no_more_names_are_kept_than_may_be() {
        let (names, now) = (names(None), Instant::now());
        let ask = |number: u32, name: &str| {
            names.enter(&id(number), Some(&name.parse().unwrap()), None, now).url.wanted
        };
        for number in 0..2 * KEPT_MAX as u32 {
            ask(number, &format!("n{number}"));
            names.enter(&id(number), None, None, now);
        }
        assert_eq!(names.state().claims.len(), KEPT_MAX);
        // The first tunnel is not forgotten for one that connects now.
        assert_eq!(
            (ask(1, "n0"), ask(0, "n0"), ask(1, "n5000")),
            (Wanted::Taken, Wanted::Granted, Wanted::Taken)
        );
        let hosts: Vec<_> = (0..2 * AGENT_HOSTS_MAX)
            .map(|number| HeaderValue::from_str(&format!("h{number}.example")).unwrap())
            .map(|host| names.enter(&id(1), None, Some(&host), now))
            .collect();
        assert_eq!(names.state().agent_hosts.len(), AGENT_HOSTS_MAX);
        drop(hosts);
        // And they are given up in time.
        names.enter(&id(1), None, None, now + KEPT + Duration::from_secs(60));
        let state = names.state();
        assert_eq!((state.claims.len(), state.agent_hosts.len()), (0, 0));
    }
}
