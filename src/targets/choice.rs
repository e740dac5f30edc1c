//! Which server of this machine is taken where none was named: rules with time as an argument.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::discover::{Found, is_usual};

/// How long nobody may listen at the server's port before another one is taken: most restarts are shorter.
const GONE_AFTER: Duration = Duration::from_secs(5);

/// Between two looks at a port where nobody listens any more; and the first wait where there is no server at all.
const SOON: Duration = Duration::from_secs(1);

/// Longest wait between two searches.
const SEARCH_EVERY: Duration = Duration::from_secs(30);

/// Between two looks whether the server that was taken first is back.
const HOME_EVERY: Duration = Duration::from_secs(10);

/// What there is to see.
pub(super) trait Machine {
    /// The HTTP servers, the likeliest first.
    fn servers(&self) -> Vec<Found>;

    /// The one at this address, if there is one.
    fn ask(&self, address: SocketAddr) -> Option<Found>;

    /// Whether anybody listens there, however busy.
    fn listens(&self, address: SocketAddr) -> bool;
}

/// What a look comes to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// All stays as it is.
    Stay,
    /// This server is taken; there are others, too.
    Take(Found, Vec<Found>),
    /// There is no server on this machine, for the first time in a row.
    Nothing,
}

/// The server that is taken. It is kept for as long as somebody listens at its port, since a server that is slow
/// is not another one. When it comes back after another one was taken, it is taken again.
///
/// In its place only one is taken that may be the same application, or is at a usual port: what else listens on this
/// machine, an administrator's page, say, was not meant for everybody.
#[derive(Debug)]
pub(super) struct Choice {
    first: Option<Found>,
    taken: Option<SocketAddr>,
    gone_since: Option<Instant>,
    /// When to look whether the first is back.
    home_at: Option<Instant>,
    /// Until the next search; nothing when the last one was of use.
    delay: Option<Duration>,
}

impl Choice {
    pub(super) fn new() -> Self {
        Choice { first: None, taken: None, gone_since: None, home_at: None, delay: None }
    }

    /// Looks around. `is_well`: the server that is taken has answered last. Tells what to do, and when to look again
    /// unless a request fails before; where nothing says, not before.
    pub(super) fn look(
        &mut self,
        is_well: bool,
        now: Instant,
        machine: &impl Machine,
    ) -> (Look, Option<Duration>) {
        let Some(taken) = self.taken else { return self.search(now, machine) };
        if let Some(found) = self.home(now).and_then(|home| machine.ask(home)) {
            return (self.take(found, Vec::new(), now), None);
        }
        let next = self.home_at.map(|at| at.saturating_duration_since(now));
        if is_well || machine.listens(taken) {
            self.gone_since = None;
            return (Look::Stay, next);
        }
        let since = *self.gone_since.get_or_insert(now);
        if now - since < GONE_AFTER {
            return (Look::Stay, Some(SOON));
        }
        self.search(now, machine)
    }

    /// The server that was taken first, if another one is taken and it is time to look for the first.
    fn home(&mut self, now: Instant) -> Option<SocketAddr> {
        let is_time = self.home_at.is_some_and(|at| at <= now);
        let first = self.first.as_ref().map(|first| first.address);
        first.filter(|_| is_time).inspect(|_| self.home_at = Some(now + HOME_EVERY))
    }

    fn search(&mut self, now: Instant, machine: &impl Machine) -> (Look, Option<Duration>) {
        let mut found = machine.servers();
        if let Some(first) = &self.first {
            found.retain(|found| may_replace(first, found));
        }
        if found.is_empty() {
            let look = if self.delay.is_none() { Look::Nothing } else { Look::Stay };
            let delay = self.delay.map_or(SOON, |delay| (delay * 2).min(SEARCH_EVERY));
            self.delay = Some(delay);
            return (look, Some(delay));
        }
        let best = found.remove(0);
        let look = self.take(best, found, now);
        (look, self.home_at.map(|_| HOME_EVERY))
    }

    fn take(&mut self, found: Found, others: Vec<Found>, now: Instant) -> Look {
        let first = self.first.get_or_insert_with(|| found.clone());
        self.taken = Some(found.address);
        self.home_at = (first.address != found.address).then(|| now + HOME_EVERY);
        (self.gone_since, self.delay) = (None, None);
        Look::Take(found, others)
    }
}

fn may_replace(first: &Found, other: &Found) -> bool {
    let port = other.address.port();
    let is_alike = first.framework.is_some() && first.framework == other.framework;
    port == first.address.port() || is_usual(port) || is_alike
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

    fn found(port: u16) -> Found {
        Found { address: at(port), status: StatusCode::OK, server: None, title: None, framework: None }
    }

    impl Machine for Ports {
        fn servers(&self) -> Vec<Found> {
            self.0.iter().copied().map(found).collect()
        }

        fn ask(&self, address: SocketAddr) -> Option<Found> {
            self.0.contains(&address.port()).then(|| found(address.port()))
        }

        fn listens(&self, address: SocketAddr) -> bool {
            self.0.contains(&address.port()) || self.1.contains(&address.port())
        }
    }

    /// Looks at these seconds: is it well, what there is, and what comes of it.
    #[track_caller]
    fn check(looks: &[(u64, bool, Ports, &str)]) {
        let start = Instant::now();
        let mut choice = Choice::new();
        for (seconds, is_well, ports, expected) in looks {
            let (look, next) = choice.look(*is_well, start + Duration::from_secs(*seconds), ports);
            let look = match look {
                Look::Stay => "stay".to_owned(),
                Look::Take(server, others) => format!("take {}, not {}", server.address.port(), others.len()),
                Look::Nothing => "nothing".to_owned(),
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
        let of = |port, framework| Found { framework, ..found(port) };
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
