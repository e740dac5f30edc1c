//! Which local server is the current one where none was named: rules with time as an argument.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::detect::{LocalServer, is_preferred_port};

/// How long the current server's port may be closed before another server takes its place: most restarts are shorter.
const GONE_AFTER: Duration = Duration::from_secs(5);

/// Between two looks at a closed port, and before the second search where the first found nothing.
const SOON: Duration = Duration::from_secs(1);

/// Longest wait between two searches.
const SEARCH_EVERY: Duration = Duration::from_secs(30);

/// Between two looks whether the preferred server is back.
const PREFERRED_EVERY: Duration = Duration::from_secs(10);

/// The state of the upstream's current server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wellness {
    /// It has answered last.
    Well,
    /// It has failed since.
    InDoubt,
}

/// The ports of this machine.
pub(super) trait LocalPorts {
    /// The HTTP servers, the likeliest first.
    fn servers(&self) -> Vec<LocalServer>;

    /// The HTTP server at this address, if there is one.
    fn server_at(&self, address: SocketAddr) -> Option<LocalServer>;

    /// Whether a socket listens at this address, however busy its server is.
    fn is_listening(&self, address: SocketAddr) -> bool;
}

/// The decision on the current server.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Decision {
    /// It stays.
    Keep,
    /// This server takes its place; the others were found, too.
    Switch(LocalServer, Vec<LocalServer>),
    /// No server was found, for the first time in a row.
    NoneFound,
}

/// Selects the current server. The first that is found is the preferred one. It stays while its port is open, since a
/// slow server is still the same, and it is selected again when it is back.
///
/// In its place only a server is selected that may be the same application, or that is at a usual port: what else listens
/// on this machine, an administrator's page, say, was not meant to be published.
#[derive(Debug)]
pub(super) struct Selector {
    preferred: Option<LocalServer>,
    current: Option<SocketAddr>,
    gone_since: Option<Instant>,
    /// When to look whether the preferred server is back.
    preferred_at: Option<Instant>,
    /// The time until the next search, where the last one found nothing.
    delay: Option<Duration>,
}

impl Selector {
    pub(super) fn new() -> Self {
        Selector { preferred: None, current: None, gone_since: None, preferred_at: None, delay: None }
    }

    /// Decides about the current server, and when to decide again unless a request fails before; with `None` not
    /// before.
    pub(super) fn decide(
        &mut self,
        upstream: Wellness,
        now: Instant,
        ports: &impl LocalPorts,
    ) -> (Decision, Option<Duration>) {
        let Some(current) = self.current else { return self.search(now, ports) };
        if let Some(found) = self.preferred_now(now).and_then(|preferred| ports.server_at(preferred)) {
            return (self.switch(found, Vec::new(), now), None);
        }
        let next = self.preferred_at.map(|at| at.saturating_duration_since(now));
        if upstream == Wellness::Well || ports.is_listening(current) {
            self.gone_since = None;
            return (Decision::Keep, next);
        }
        let since = *self.gone_since.get_or_insert(now);
        if now - since < GONE_AFTER {
            return (Decision::Keep, Some(SOON));
        }
        self.search(now, ports)
    }

    /// The address of the preferred server, if it is time to look whether it is back.
    fn preferred_now(&mut self, now: Instant) -> Option<SocketAddr> {
        let is_time = self.preferred_at.is_some_and(|at| at <= now);
        let preferred = self.preferred.as_ref().map(|preferred| preferred.address);
        preferred.filter(|_| is_time).inspect(|_| self.preferred_at = Some(now + PREFERRED_EVERY))
    }

    fn search(&mut self, now: Instant, ports: &impl LocalPorts) -> (Decision, Option<Duration>) {
        let mut found = ports.servers();
        if let Some(preferred) = &self.preferred {
            found.retain(|found| may_replace(preferred, found));
        }
        if found.is_empty() {
            let decision = if self.delay.is_none() { Decision::NoneFound } else { Decision::Keep };
            let delay = self.delay.map_or(SOON, |delay| (delay * 2).min(SEARCH_EVERY));
            self.delay = Some(delay);
            return (decision, Some(delay));
        }
        let best = found.remove(0);
        let decision = self.switch(best, found, now);
        (decision, self.preferred_at.map(|_| PREFERRED_EVERY))
    }

    fn switch(&mut self, found: LocalServer, others: Vec<LocalServer>, now: Instant) -> Decision {
        let preferred = self.preferred.get_or_insert_with(|| found.clone());
        self.current = Some(found.address);
        self.preferred_at = (preferred.address != found.address).then(|| now + PREFERRED_EVERY);
        (self.gone_since, self.delay) = (None, None);
        Decision::Switch(found, others)
    }
}

fn may_replace(preferred: &LocalServer, other: &LocalServer) -> bool {
    let port = other.address.port();
    let is_alike = preferred.framework.is_some() && preferred.framework == other.framework;
    port == preferred.address.port() || is_preferred_port(port) || is_alike
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::StatusCode;

    /// Ports at which a server answers, and those at which one only listens.
    struct Ports(&'static [u16], &'static [u16]);

    fn at(port: u16) -> SocketAddr {
        ([127, 0, 0, 1], port).into()
    }

    fn found(port: u16) -> LocalServer {
        LocalServer { address: at(port), status: StatusCode::OK, server: None, title: None, framework: None }
    }

    impl LocalPorts for Ports {
        fn servers(&self) -> Vec<LocalServer> {
            self.0.iter().copied().map(found).collect()
        }

        fn server_at(&self, address: SocketAddr) -> Option<LocalServer> {
            self.0.contains(&address.port()).then(|| found(address.port()))
        }

        fn is_listening(&self, address: SocketAddr) -> bool {
            self.0.contains(&address.port()) || self.1.contains(&address.port())
        }
    }

    /// Looks at these seconds: is it well, what there is, and what comes of it.
    #[track_caller]
    fn check(looks: &[(u64, bool, Ports, &str)]) {
        let start = Instant::now();
        let mut selector = Selector::new();
        for (seconds, is_well, ports, expected) in looks {
            let wellness = if *is_well { Wellness::Well } else { Wellness::InDoubt };
            let (look, next) = selector.decide(wellness, start + Duration::from_secs(*seconds), ports);
            let look = match look {
                Decision::Keep => "stay".to_owned(),
                Decision::Switch(server, others) => {
                    format!("take {}, not {}", server.address.port(), others.len())
                }
                Decision::NoneFound => "nothing".to_owned(),
            };
            let next = next.map_or("never".to_owned(), |next| format!("{} s", next.as_secs()));
            assert_eq!(format!("{look}; {next}"), *expected, "at {seconds} s");
        }
    }

    #[test]
    fn the_likeliest_is_taken_and_kept() {
        check(&[
            (0, true, Ports(&[8000, 5173, 80], &[]), "take 8000, not 2; never"),
            (1, true, Ports(&[8000, 5173], &[]), "stay; never"),
        ]);
    }

    #[test]
    fn where_there_is_none_it_is_looked_for_less_and_less_often() {
        let none = || Ports(&[], &[9000]);
        check(&[
            (0, true, none(), "nothing; 1 s"),
            (1, true, none(), "stay; 2 s"),
            (3, true, none(), "stay; 4 s"),
            (7, true, none(), "stay; 8 s"),
            (15, true, none(), "stay; 16 s"),
            (31, true, none(), "stay; 30 s"),
            (61, true, none(), "stay; 30 s"),
            (91, true, Ports(&[3000], &[]), "take 3000, not 0; never"),
        ]);
    }

    #[test]
    fn a_server_that_is_only_slow_is_kept() {
        check(&[
            (0, true, Ports(&[8000, 5173], &[]), "take 8000, not 1; never"),
            (10, false, Ports(&[5173], &[8000]), "stay; never"),
            (100, false, Ports(&[5173], &[8000]), "stay; never"),
        ]);
    }

    #[test]
    fn a_restart_is_waited_for() {
        check(&[
            (0, true, Ports(&[8000, 5173], &[]), "take 8000, not 1; never"),
            (10, false, Ports(&[5173], &[]), "stay; 1 s"),
            (14, false, Ports(&[5173], &[]), "stay; 1 s"),
            (15, false, Ports(&[5173], &[8000]), "stay; never"),
            (16, false, Ports(&[5173], &[]), "stay; 1 s"),
        ]);
    }

    #[test]
    fn what_else_listens_is_not_taken_for_one_that_is_gone() {
        check(&[
            (0, true, Ports(&[8000, 9090], &[]), "take 8000, not 1; never"),
            (10, false, Ports(&[9090], &[]), "stay; 1 s"),
            (15, false, Ports(&[9090], &[]), "nothing; 1 s"),
            (16, false, Ports(&[9090, 3000], &[]), "take 3000, not 0; 10 s"),
        ]);
        let of = |port, framework| LocalServer { framework, ..found(port) };
        assert!(may_replace(&of(4000, Some("Vite")), &of(4001, Some("Vite"))));
        assert!(!may_replace(&of(4000, Some("Vite")), &of(4001, Some("PHP"))));
        assert!(!may_replace(&of(4000, None), &of(4001, None)));
    }

    #[test]
    fn after_one_that_is_gone_another_is_taken_until_it_is_back() {
        check(&[
            (0, true, Ports(&[8000, 5173], &[]), "take 8000, not 1; never"),
            (10, false, Ports(&[5173], &[]), "stay; 1 s"),
            (15, false, Ports(&[5173], &[]), "take 5173, not 0; 10 s"),
            (20, true, Ports(&[8000, 5173], &[]), "stay; 5 s"),
            (25, true, Ports(&[5173], &[]), "stay; 10 s"),
            (35, true, Ports(&[8000, 5173], &[]), "take 8000, not 0; never"),
        ]);
    }
}
