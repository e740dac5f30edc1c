//! Which requests pass: what HTTP allows, what the owner's rules allow, and how many of them.

mod address;
mod cors;
mod password;
mod rate;
mod refusal;
mod rules;
mod validate;

use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use http::{HeaderMap, Method, header};

pub(crate) use self::address::AddressRules;
use self::address::Guesses;
pub use self::cors::{AllowedOrigin, CorsCredentials, InvalidOrigin};
pub(crate) use self::cors::{Cors, CorsAnswer};
pub use self::password::{InvalidPasswords, Passwords};
pub(crate) use self::rate::Bucket;
pub use self::rate::{InvalidRate, Rate};
pub(crate) use self::refusal::{Recipient, Refusal, failure_response, failure_status};
pub(crate) use self::rules::RULES_MAX;
pub use self::rules::{Action, InvalidPattern, Pattern, Rule, Rules, Verdict};
pub(crate) use self::validate::{validate, validate_head};
use crate::protocol::RequestName;
use crate::sync::lock;

/// Lets requests pass by their visitors' addresses, the owner's passwords, rules and rate, in this order. It is shared by
/// all sessions of an agent.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    addresses: AddressRules,
    guard: Option<PasswordGuard>,
    guesses: Arc<Mutex<Guesses>>,
    rules: Rules,
    rate: Option<Arc<Mutex<Bucket>>>,
    cors: Option<Cors>,
}

/// The conditions for visitors.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct VisitorRules {
    pub(crate) addresses: AddressRules,
    pub(crate) guard: Option<PasswordGuard>,
    pub(crate) cors: Option<Cors>,
}

/// A request that wants to pass.
pub(crate) struct Candidate<'a> {
    pub(crate) method: &'a Method,
    pub(crate) path: &'a str,
    pub(crate) headers: &'a mut HeaderMap,
    /// The visitor's address, where the gateway vouches for it.
    pub(crate) visitor: Option<IpAddr>,
}

/// The passwords, and which requests need none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PasswordGuard {
    passwords: Passwords,
    /// The requests that need no password are those that these rules allow.
    open: Rules,
}

impl PasswordGuard {
    /// Requests that match one of the patterns of `open` need no password.
    pub(crate) fn new(passwords: Passwords, open: impl IntoIterator<Item = Pattern>) -> Self {
        let open = open.into_iter().map(|pattern| Rule { action: Action::Allow, pattern });
        PasswordGuard { passwords, open: open.collect::<Vec<_>>().into() }
    }
}

impl Gate {
    pub(crate) fn new(visitors: VisitorRules, rules: Rules, rate: Option<Bucket>) -> Self {
        let VisitorRules { addresses, guard, cors } = visitors;
        let rate = rate.map(|bucket| Arc::new(Mutex::new(bucket)));
        Gate { addresses, guard, guesses: Arc::default(), rules, rate, cors }
    }

    /// The gate with what the one that it replaces knows of visitors: guessed passwords count on, and requests of a rate that
    /// stays the same.
    pub(crate) fn succeeding(self, previous: &Gate) -> Self {
        let is_same = match (&self.rate, &previous.rate) {
            (Some(rate), Some(previous)) => lock(rate).has_limit_of(&lock(previous)),
            _ => false,
        };
        let rate = if is_same { previous.rate.clone() } else { self.rate };
        Gate { guesses: previous.guesses.clone(), rate, ..self }
    }

    /// The recipient of the agent's own response to a request with these fields.
    pub(crate) fn recipient(&self, name: RequestName, method: &Method, headers: &HeaderMap) -> Recipient {
        Recipient::of(name, method, headers, self.cors.as_ref())
    }

    /// The CORS fields of the response to a request that was admitted with these fields.
    pub(crate) fn cors_answer(&self, method: &Method, headers: &HeaderMap) -> Option<CorsAnswer> {
        self.cors.as_ref().map(|cors| cors.answer(method, headers))
    }

    /// Whether a request asks for permission alone, which needs no password and meets no rule.
    fn is_preflight(&self, candidate: &Candidate<'_>) -> bool {
        self.cors.as_ref().is_some_and(|cors| cors.is_preflight(candidate.method, candidate.headers))
    }

    /// Whether it matters which address a visitor has.
    pub(crate) fn needs_addresses(&self) -> bool {
        !self.addresses.are_none()
    }

    /// Whether a request has to show a password, or why that cannot be told.
    pub(crate) fn wants_password(&self, method: &Method, path: &str) -> Result<bool, Refusal> {
        let Some(guard) = &self.guard else { return Ok(false) };
        match guard.open.decide(method, path) {
            Verdict::Ambiguous(why) => Err(Refusal::AmbiguousPath(why)),
            Verdict::By(_) => Ok(false),
            Verdict::NoRules | Verdict::Default(_) => Ok(true),
        }
    }

    /// Refuses a request without the password that its path wants. The password is removed: it is not meant for the local
    /// server.
    fn check_password(&self, candidate: &mut Candidate<'_>) -> Result<(), Refusal> {
        if !self.wants_password(candidate.method, candidate.path)? {
            return Ok(());
        }
        let now = Instant::now();
        let wait = candidate.visitor.and_then(|visitor| lock(&self.guesses).wait(visitor, now));
        if let Some(wait) = wait {
            return Err(Refusal::RateLimited(wait));
        }
        let passwords = self.guard.as_ref().map(|guard| &guard.passwords);
        if !passwords.is_some_and(|passwords| passwords.are_shown_by(candidate.headers)) {
            // A browser asks without one first.
            if candidate.headers.contains_key(header::AUTHORIZATION) {
                candidate.visitor.inspect(|visitor| lock(&self.guesses).record(*visitor, now));
            }
            return Err(Refusal::Unauthorized);
        }
        candidate.headers.remove(header::AUTHORIZATION);
        Ok(())
    }

    /// The rules' verdict on a request.
    pub(crate) fn decide(&self, method: &Method, path: &str) -> Verdict<'_> {
        self.rules.decide(method, path)
    }

    /// Admits a request, at once or from the returned time on, or refuses it. `now` is called only where there is a
    /// rate.
    pub(crate) fn admit(
        &self,
        candidate: &mut Candidate<'_>,
        now: impl FnOnce() -> Instant,
    ) -> Result<Option<Instant>, Refusal> {
        if !self.addresses.admit(candidate.visitor) {
            return Err(Refusal::AddressFiltered);
        }
        if !self.is_preflight(candidate) {
            self.check_password(candidate)?;
            if let Some(refusal) = Refusal::by(&self.decide(candidate.method, candidate.path)) {
                return Err(refusal);
            }
        }
        let Some(mut bucket) = self.bucket() else { return Ok(None) };
        bucket.take(now()).map(Some).map_err(Refusal::RateLimited)
    }

    /// Admits the replay of a request, by rules and rate alone: password and address were its visitor's.
    #[cfg(feature = "inspect")]
    pub(crate) fn admit_replay(&self, method: &Method, path: &str) -> Result<Option<Instant>, Refusal> {
        if let Some(refusal) = Refusal::by(&self.decide(method, path)) {
            return Err(refusal);
        }
        let Some(mut bucket) = self.bucket() else { return Ok(None) };
        bucket.take(Instant::now()).map(Some).map_err(Refusal::RateLimited)
    }

    /// Refunds the token of a request that was admitted and then refused for another reason.
    pub(crate) fn refund(&self) {
        if let Some(mut bucket) = self.bucket() {
            bucket.refund();
        }
    }

    fn bucket(&self) -> Option<MutexGuard<'_, Bucket>> {
        self.rate.as_ref().map(|bucket| lock(bucket))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_rules_take_no_token_and_a_refund_gives_it_back() {
        let start = Instant::now();
        let bucket = Bucket::new("1/m".parse().unwrap(), 1, Duration::ZERO, start);
        let rules = vec!["deny /x".parse::<Rule>().unwrap()];
        let gate = Gate::new(VisitorRules::default(), rules.into(), Some(bucket));
        let admit = |path| {
            let (method, headers) = (&Method::GET, &mut HeaderMap::new());
            gate.admit(&mut Candidate { method, path, headers, visitor: None }, || start)
        };
        assert_eq!(admit("/x"), Err(Refusal::Filtered));
        assert_eq!(admit("/"), Ok(Some(start)));
        assert_eq!(admit("/"), Err(Refusal::RateLimited(Duration::from_secs(60))));
        gate.refund();
        assert_eq!(admit("/"), Ok(Some(start)));
    }

    #[test]
    fn a_password_is_asked_for_before_any_rule_and_is_taken_out() {
        let open = |rules: &[&str]| -> Rules {
            rules.iter().map(|rule| rule.parse().unwrap()).collect::<Vec<Rule>>().into()
        };
        let open_paths = ["POST /webhook/**".parse().unwrap()];
        let guard = Some(PasswordGuard::new("a:b".parse().unwrap(), open_paths));
        let visitors = VisitorRules { guard, ..VisitorRules::default() };
        let gate = Gate::new(visitors, open(&["deny /secret"]), None);
        let visit = |method: Method, path, shown: &'static str, visitor: Option<IpAddr>| {
            let mut headers = HeaderMap::new();
            headers.insert(header::AUTHORIZATION, http::HeaderValue::from_static(shown));
            let mut candidate = Candidate { method: &method, path, headers: &mut headers, visitor };
            let result = gate.admit(&mut candidate, Instant::now);
            (result.err(), headers.contains_key(header::AUTHORIZATION))
        };
        let admit = |method, path, shown| visit(method, path, shown, None);
        let right = "Basic YTpi";
        assert_eq!(admit(Method::GET, "/", right), (None, false));
        assert_eq!(admit(Method::GET, "/", "Bearer x"), (Some(Refusal::Unauthorized), true));
        assert_eq!(admit(Method::GET, "/secret", "Bearer x"), (Some(Refusal::Unauthorized), true));
        assert_eq!(admit(Method::GET, "/secret", right), (Some(Refusal::Filtered), false));
        // A path that needs no password keeps its `Authorization`.
        assert_eq!(admit(Method::POST, "/webhook/x", "Bearer x"), (None, true));
        assert_eq!(admit(Method::GET, "/webhook/x", "Bearer x").0, Some(Refusal::Unauthorized));
        let ambiguous = admit(Method::POST, "/webhook/..%2fx", right).0;
        assert!(matches!(ambiguous, Some(Refusal::AmbiguousPath(_))), "{ambiguous:?}");
        // After too many guesses the right password is refused, too.
        let visitor = Some(IpAddr::from([10, 0, 0, 1]));
        for _ in 0..10 {
            assert_eq!(visit(Method::GET, "/", "Basic eDp5", visitor).0, Some(Refusal::Unauthorized));
        }
        assert!(matches!(visit(Method::GET, "/", right, visitor).0, Some(Refusal::RateLimited(_))));
        assert_eq!(visit(Method::GET, "/", right, Some(IpAddr::from([10, 0, 0, 2]))).0, None);
    }
}
