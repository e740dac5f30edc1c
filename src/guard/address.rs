//! Which visitors pass, by their addresses; and how often one may guess a password.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::net::network::{Network, counted_as};

/// Wrong passwords of one address within [`WINDOW`], at most.
const GUESSES_MAX: u32 = 10;

/// The time in which they count.
const WINDOW: Duration = Duration::from_secs(60);

/// Addresses that are remembered; the one that has been remembered for longest makes room for one more.
const REMEMBERED_MAX: usize = 1024;

/// The addresses that pass.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct AddressRules {
    /// All, where there are none.
    pub(crate) allow: Vec<Network>,
    /// Not these, whatever is allowed.
    pub(crate) deny: Vec<Network>,
}

impl AddressRules {
    pub(crate) fn are_none(&self) -> bool {
        self.allow.is_empty() && self.deny.is_empty()
    }

    /// Whether a visitor passes. One whose address is not known passes where nothing is said of addresses.
    pub(super) fn admit(&self, visitor: Option<IpAddr>) -> bool {
        let Some(visitor) = visitor else { return self.are_none() };
        let is_in = |networks: &[Network]| networks.iter().any(|network| network.holds(visitor));
        !is_in(&self.deny) && (self.allow.is_empty() || is_in(&self.allow))
    }
}

/// The wrong passwords that addresses have shown lately.
#[derive(Debug, Default)]
pub(super) struct Guesses(BTreeMap<IpAddr, Guessing>);

#[derive(Debug)]
struct Guessing {
    since: Instant,
    count: u32,
}

impl Guesses {
    /// How long an address has to wait before its next password is looked at.
    pub(super) fn wait(&self, visitor: IpAddr, now: Instant) -> Option<Duration> {
        let guessing = self.0.get(&counted_as(visitor)).filter(|guessing| guessing.count >= GUESSES_MAX)?;
        let remaining = (guessing.since + WINDOW).saturating_duration_since(now);
        (!remaining.is_zero()).then_some(remaining)
    }

    /// Records a wrong password.
    pub(super) fn record(&mut self, visitor: IpAddr, now: Instant) {
        let visitor = counted_as(visitor);
        self.0.retain(|_, guessing| now < guessing.since + WINDOW);
        if self.0.len() >= REMEMBERED_MAX && !self.0.contains_key(&visitor) {
            let oldest = self.0.iter().min_by_key(|(_, guessing)| guessing.since);
            if let Some(oldest) = oldest.map(|(address, _)| *address) {
                self.0.remove(&oldest);
            }
        }
        self.0.entry(visitor).or_insert(Guessing { since: now, count: 0 }).count += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn networks(list: &[&str]) -> Vec<Network> {
        list.iter().map(|network| network.parse().unwrap()).collect()
    }

    #[test]
    fn an_address_passes_that_is_allowed_and_not_denied() {
        let check = |allow: &[&str], deny: &[&str], visitor: &str| {
            let rules = AddressRules { allow: networks(allow), deny: networks(deny) };
            rules.admit(visitor.parse().ok())
        };
        assert!(check(&[], &[], "10.0.0.1") && check(&[], &[], "unknown"));
        assert!(check(&["10.0.0.0/8"], &[], "10.0.0.1") && !check(&["10.0.0.0/8"], &[], "11.0.0.1"));
        assert!(!check(&["10.0.0.0/8"], &["10.0.0.1"], "10.0.0.1"));
        assert!(check(&[], &["10.0.0.1"], "10.0.0.2") && !check(&[], &["2001:db8::/32"], "2001:db8::1"));
        // An unknown address matches no network.
        assert!(!check(&["0.0.0.0/0"], &[], "unknown") && !check(&[], &["10.0.0.1"], "unknown"));
    }

    #[test]
    fn an_address_that_guesses_waits_for_the_end_of_its_minute() {
        let (mut guesses, start) = (Guesses::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        let (one, other) = ("2001:db8::1".parse().unwrap(), "10.0.0.1".parse().unwrap());
        for second in 0..10 {
            assert_eq!(guesses.wait(one, at(second)), None);
            guesses.record(one, at(second));
        }
        assert_eq!(guesses.wait(one, at(10)), Some(Duration::from_secs(50)));
        // All of its network is one visitor, and no other network is.
        assert!(guesses.wait("2001:db8::ffff".parse().unwrap(), at(10)).is_some());
        assert_eq!(guesses.wait(other, at(10)), None);
        assert_eq!(guesses.wait(one, at(60)), None);
        guesses.record(one, at(60));
        assert_eq!(guesses.wait(one, at(60)), None);
    }

    #[test]
    fn no_more_addresses_are_remembered_than_may_be() {
        let (mut guesses, now) = (Guesses::default(), Instant::now());
        for number in 0..2 * REMEMBERED_MAX as u32 {
            guesses.record(IpAddr::from(number.to_be_bytes()), now + Duration::from_millis(number.into()));
        }
        assert_eq!(guesses.0.len(), REMEMBERED_MAX);
    }
}
