//! When a server that does not answer is asked again: rules with time as an argument.
//!
//! ```text
//!  closed ──failures in a row──▶ open ──after a while──▶ one request probes
//!    ▲                             ▲                        │          │
//!    └──────── success ────────────│────────────────────────┘          │
//!                                  └────── failure: twice as long ─────┘
//! ```

use std::fmt;
use std::time::{Duration, Instant};

use crate::clock::whole_seconds;

/// The settings of a circuit breaker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BreakerConfig {
    /// Failures in a row that open it; 0: it never opens. 5 by default.
    pub failures: u32,
    /// The time that it is open at first, 1 ms to 30 s; 1 s by default. It doubles with each failed probe, up to 30
    /// s.
    pub open: Duration,
}

impl BreakerConfig {
    /// The longest that it is open between two probes.
    pub const OPEN_MAX: Duration = Duration::from_secs(30);
}

impl Default for BreakerConfig {
    fn default() -> Self {
        BreakerConfig { failures: 5, open: Duration::from_secs(1) }
    }
}

/// After this time another request may try, whatever the one that does is waiting for.
const PROBE_TIME: Duration = BreakerConfig::OPEN_MAX;

/// Within this time it is noticed that a server takes connections again.
const FOUND_BACK_WITHIN: Duration = Duration::from_secs(1);

/// A circuit breaker.
#[derive(Debug)]
pub(super) struct Breaker {
    limits: BreakerConfig,
    state: State,
    /// Tries of an open circuit so far.
    probes: u64,
}

#[derive(Debug)]
enum State {
    Closed { failures: u32, last: Fault },
    Open { failures: u32, last: Fault, since: Instant, delay: Duration, next: ProbeTime },
}

/// A fault of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// Nothing takes connections there.
    Unreachable,
    /// It takes connections, and gives no answer, or not in time.
    Unanswered,
}

/// The state of a circuit, for reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Circuit {
    /// Requests pass.
    Closed,
    /// The next request probes the server.
    HalfOpen,
    /// Requests fail at once.
    Open,
}

impl State {
    const CLOSED: State = State::Closed { failures: 0, last: Fault::Unreachable };
}

/// When an open circuit is tried.
#[derive(Debug, Clone, Copy)]
enum ProbeTime {
    At(Instant),
    /// The request with this number is trying it, since this time.
    Probing(u64, Instant),
}

/// The permit of a request, to be given back with its outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BreakerPermit {
    /// The circuit was closed.
    Closed,
    /// It probes an open circuit, with this number.
    Probe(u64),
}

/// The circuit is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct OpenCircuit {
    failures: u32,
    /// Until the next try; nothing while one is under way.
    next_in: Option<Duration>,
}

impl OpenCircuit {
    /// When another try may do better; soon, while one is under way.
    pub(super) fn retry_after(&self) -> Duration {
        self.next_in.unwrap_or(Duration::from_secs(1))
    }
}

impl fmt::Display for OpenCircuit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = if self.failures == 1 { "" } else { "s" };
        write!(f, "circuit open after {} failure{plural}, ", self.failures)?;
        match self.next_in {
            Some(time) => write!(f, "next try in {} s", whole_seconds(time)),
            None => f.write_str("a try is under way"),
        }
    }
}

impl Breaker {
    pub(super) fn new(limits: BreakerConfig) -> Self {
        Breaker { limits, state: State::CLOSED, probes: 0 }
    }

    /// Whether nothing has failed since the last success.
    pub(super) fn is_untroubled(&self) -> bool {
        matches!(self.state, State::Closed { failures: 0, .. })
    }

    /// The state of the circuit.
    pub(super) fn circuit(&self, now: Instant) -> Circuit {
        match &self.state {
            State::Closed { .. } => Circuit::Closed,
            State::Open { next, .. } if next.remaining(now).is_none() => Circuit::HalfOpen,
            State::Open { .. } => Circuit::Open,
        }
    }

    /// Whether the circuit is open because nothing takes connections there, which costs nothing to find out.
    pub(super) fn is_out_of_reach(&self) -> bool {
        matches!(self.state, State::Open { last: Fault::Unreachable, .. })
    }

    /// Whether a request may be sent, and with what. One that may while the circuit is open probes it.
    pub(super) fn admit(&mut self, now: Instant) -> Result<BreakerPermit, OpenCircuit> {
        let State::Open { failures, last, next, .. } = &mut self.state else {
            return Ok(BreakerPermit::Closed);
        };
        if let Some(remaining) = next.remaining(now) {
            // Whether it takes connections again is found out meanwhile.
            let soonest = if *last == Fault::Unreachable { FOUND_BACK_WITHIN } else { Duration::MAX };
            let next_in = matches!(next, ProbeTime::At(_)).then_some(remaining.min(soonest));
            return Err(OpenCircuit { failures: *failures, next_in });
        }
        self.probes += 1;
        *next = ProbeTime::Probing(self.probes, now);
        Ok(BreakerPermit::Probe(self.probes))
    }

    /// The server can be reached, which says nothing of how soon it answers. Returns how long the circuit was open,
    /// if this closes it.
    pub(super) fn reached(&mut self, now: Instant) -> Option<Duration> {
        match self.state {
            State::Closed { last: Fault::Unreachable, .. } | State::Open { last: Fault::Unreachable, .. } => {
                self.succeeded(now)
            }
            State::Closed { .. } | State::Open { .. } => None,
        }
    }

    /// The server answered. Returns how long the circuit was open, if this closes it.
    pub(super) fn succeeded(&mut self, now: Instant) -> Option<Duration> {
        let before = std::mem::replace(&mut self.state, State::CLOSED);
        match before {
            State::Open { since, .. } => Some(now - since),
            State::Closed { .. } => None,
        }
    }

    /// The server could not be reached, or did not answer. Returns the number of failures, if this opens the circuit.
    pub(super) fn failed(&mut self, fault: Fault, permit: BreakerPermit, now: Instant) -> Option<u32> {
        match &mut self.state {
            State::Closed { failures, last } => {
                *last = fault;
                *failures = failures.saturating_add(1);
                let failures = *failures;
                if self.limits.failures == 0 || failures < self.limits.failures {
                    return None;
                }
                let delay = self.limits.open;
                let next = ProbeTime::At(now + delay);
                self.state = State::Open { failures, last: fault, since: now, delay, next };
                Some(failures)
            }
            State::Open { failures, last, delay, next, .. } => {
                *last = fault;
                *failures = failures.saturating_add(1);
                // Those that were sent before it opened have no say in when it is tried.
                if permit.is_of(*next) {
                    *delay = (*delay * 2).min(BreakerConfig::OPEN_MAX);
                    *next = ProbeTime::At(now + *delay);
                }
                None
            }
        }
    }

    /// Records an inconclusive outcome: it says nothing of the server.
    pub(super) fn record_inconclusive(&mut self, permit: BreakerPermit, now: Instant) {
        if let State::Open { next, .. } = &mut self.state {
            if permit.is_of(*next) {
                *next = ProbeTime::At(now);
            }
        }
    }
}

impl ProbeTime {
    /// How long it is until another request may try, unless one may now. One that probes for too long is no reason to
    /// wait: it may be a visitor that sends slowly.
    fn remaining(self, now: Instant) -> Option<Duration> {
        let at = match self {
            ProbeTime::At(time) => time,
            ProbeTime::Probing(_, since) => since + PROBE_TIME,
        };
        (at > now).then(|| at - now)
    }
}

impl BreakerPermit {
    /// Whether it is that of the try that is under way.
    fn is_of(self, next: ProbeTime) -> bool {
        matches!((self, next), (BreakerPermit::Probe(mine), ProbeTime::Probing(number, _)) if mine == number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Plays events at these seconds: `?` a request comes (`+` passes, else the text); of the one that passed last
    /// `f` it cannot reach the server, `t` it gets no answer in time, `n` it ends without a word; for one from
    /// before the circuit opened `F`, `T`, `N`; `s` one succeeds, `r` one reaches the server.
    #[track_caller]
    fn check(failures: u32, events: &[(f64, char, &str)]) {
        let start = Instant::now();
        let mut breaker = Breaker::new(BreakerConfig { failures, ..BreakerConfig::default() });
        let mut last = BreakerPermit::Closed;
        for (seconds, event, expected) in events {
            let now = start + Duration::from_secs_f64(*seconds);
            let opened = |failures| format!("opened after {failures}");
            let closed = |time: Duration| format!("closed after {} s", time.as_secs());
            let permit = if event.is_uppercase() { BreakerPermit::Closed } else { last };
            let got = match event.to_ascii_lowercase() {
                '?' => match breaker.admit(now) {
                    Ok(permit) => {
                        last = permit;
                        "+".to_owned()
                    }
                    Err(open) => open.to_string(),
                },
                'f' => breaker.failed(Fault::Unreachable, permit, now).map(opened).unwrap_or_default(),
                't' => breaker.failed(Fault::Unanswered, permit, now).map(opened).unwrap_or_default(),
                'r' => breaker.reached(now).map(closed).unwrap_or_default(),
                's' => breaker.succeeded(now).map(closed).unwrap_or_default(),
                _ => {
                    breaker.record_inconclusive(permit, now);
                    String::new()
                }
            };
            assert_eq!(got, *expected, "{event} at {seconds} s");
        }
    }

    #[test]
    fn opens_after_failures_in_a_row_and_success_resets_the_count() {
        check(
            3,
            &[
                (0.0, 'f', ""),
                (0.0, 'f', ""),
                (0.0, 's', ""),
                (0.0, 'f', ""),
                (0.0, 'f', ""),
                (0.0, '?', "+"),
                (0.0, 'f', "opened after 3"),
                (0.0, '?', "circuit open after 3 failures, next try in 1 s"),
            ],
        );
    }

    #[test]
    fn one_request_tries_it_and_the_others_are_told_at_once() {
        check(
            1,
            &[
                (0.0, 'f', "opened after 1"),
                (0.9, '?', "circuit open after 1 failure, next try in 1 s"),
                (1.0, '?', "+"),
                (1.0, '?', "circuit open after 1 failure, a try is under way"),
                (5.0, 's', "closed after 5 s"),
                (5.0, '?', "+"),
            ],
        );
    }

    #[test]
    fn each_failed_try_doubles_the_time_up_to_half_a_minute() {
        let mut events = vec![(0.0, 'f', "opened after 1".to_owned())];
        let mut now = 0.0;
        for (failures, delay) in [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0].into_iter().enumerate() {
            let plural = if failures == 0 { "" } else { "s" };
            let text = format!("circuit open after {} failure{plural}, next try in 1 s", failures + 1);
            events.push((now + delay - 0.5, '?', text));
            now += delay;
            events.push((now, '?', "+".to_owned()));
            events.push((now, 'f', String::new()));
        }
        let events: Vec<_> = events.iter().map(|(at, event, text)| (*at, *event, text.as_str())).collect();
        check(1, &events);
    }

    #[test]
    fn requests_from_before_it_opened_do_not_postpone_the_try_but_may_close_it() {
        check(
            1,
            &[(0.0, 'f', "opened after 1"), (0.5, 'F', ""), (1.0, '?', "+"), (1.1, 's', "closed after 1 s")],
        );
        check(1, &[(0.0, 'f', "opened after 1"), (0.5, 's', "closed after 0 s"), (0.5, '?', "+")]);
    }

    #[test]
    fn a_try_that_its_visitor_gave_up_makes_room_for_another() {
        check(1, &[(0.0, 'f', "opened after 1"), (1.0, '?', "+"), (1.5, 'n', ""), (1.5, '?', "+")]);
    }

    #[test]
    fn requests_from_before_it_opened_have_no_say_in_the_try_that_is_under_way() {
        check(
            1,
            &[
                (0.0, 'f', "opened after 1"),
                (1.0, '?', "+"),
                (1.1, 'F', ""),
                (1.1, 'N', ""),
                (9.0, '?', "circuit open after 2 failures, a try is under way"),
                (10.0, 'f', ""),
                (10.0, '?', "circuit open after 3 failures, next try in 1 s"),
                (12.0, '?', "+"),
            ],
        );
    }

    #[test]
    fn a_server_that_could_not_be_reached_need_only_be() {
        check(2, &[(0.0, 'f', ""), (0.0, 'r', ""), (0.0, 'f', ""), (0.0, '?', "+")]);
        check(
            1,
            &[(0.0, 'f', "opened after 1"), (1.0, '?', "+"), (3.0, 'r', "closed after 3 s"), (3.0, '?', "+")],
        );
    }

    #[test]
    fn a_server_that_did_not_answer_has_to() {
        check(2, &[(0.0, 't', ""), (0.0, 'r', ""), (0.0, 't', "opened after 2"), (0.5, 'r', "")]);
        check(
            1,
            &[(0.0, 't', "opened after 1"), (1.0, '?', "+"), (1.0, 'r', ""), (2.0, 's', "closed after 2 s")],
        );
        // It is the last fault that counts.
        check(2, &[(0.0, 't', ""), (0.0, 'f', "opened after 2"), (1.0, 'r', "closed after 1 s")]);
    }

    #[test]
    fn a_try_that_lasts_keeps_others_out_for_half_a_minute_at_most() {
        check(
            1,
            &[
                (0.0, 'f', "opened after 1"),
                (1.0, '?', "+"),
                (30.9, '?', "circuit open after 1 failure, a try is under way"),
                (31.0, '?', "+"),
                (31.0, '?', "circuit open after 1 failure, a try is under way"),
            ],
        );
    }

    #[test]
    fn it_never_opens_when_told_not_to() {
        check(0, &[(0.0, 'f', ""), (0.0, 'f', ""), (0.0, '?', "+")]);
    }
}
