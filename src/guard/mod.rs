//! Which requests pass: what HTTP allows, what the owner's rules allow, and how many of them.

mod password;
mod rate;
mod refusal;
mod rules;
mod validate;

use std::sync::{Mutex, MutexGuard};
use std::time::Instant;

use http::{HeaderMap, Method, header};

pub use self::password::{InvalidPasswords, Passwords};
pub(crate) use self::rate::Bucket;
pub use self::rate::{InvalidRate, Rate};
pub(crate) use self::refusal::{Refusal, failure_response, failure_status};
pub(crate) use self::rules::RULES_MAX;
pub use self::rules::{Action, InvalidPattern, Pattern, Rule, Rules, Verdict};
pub(crate) use self::validate::{validate, validate_head};
use crate::sync::lock;

/// Lets requests pass by the owner's passwords, rules and rate, in this order. It is shared by all sessions of an agent.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    guard: Option<PasswordGuard>,
    rules: Rules,
    rate: Option<Mutex<Bucket>>,
}

/// The passwords, and which requests need none.
#[derive(Debug, Clone)]
pub(crate) struct PasswordGuard {
    pub(crate) passwords: Passwords,
    /// What is open is allowed here.
    pub(crate) open: Rules,
}

impl Gate {
    pub(crate) fn new(guard: Option<PasswordGuard>, rules: Rules, rate: Option<Bucket>) -> Self {
        Gate { guard, rules, rate: rate.map(Mutex::new) }
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

    /// Lets a request by that shows a password where one is wanted, and takes it out: it is not the local server's.
    fn check_password(&self, method: &Method, path: &str, headers: &mut HeaderMap) -> Result<(), Refusal> {
        let is_shown = |guard: &PasswordGuard| guard.passwords.are_shown_by(headers);
        if self.wants_password(method, path)? {
            if !self.guard.as_ref().is_some_and(is_shown) {
                return Err(Refusal::Unauthorized);
            }
            headers.remove(header::AUTHORIZATION);
        }
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
        method: &Method,
        path: &str,
        headers: &mut HeaderMap,
        now: impl FnOnce() -> Instant,
    ) -> Result<Option<Instant>, Refusal> {
        self.check_password(method, path, headers)?;
        if let Some(refusal) = Refusal::by(&self.decide(method, path)) {
            return Err(refusal);
        }
        let Some(mut bucket) = self.bucket() else { return Ok(None) };
        bucket.take(now()).map(Some).map_err(Refusal::RateLimited)
    }

    /// Refunds the token of a request that was admitted and then refused for another reason.
    pub(crate) fn refund(&self) {
        if let Some(mut bucket) = self.bucket() {
            bucket.refund();
        }
    }

    fn bucket(&self) -> Option<MutexGuard<'_, Bucket>> {
        self.rate.as_ref().map(lock)
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
        let gate = Gate::new(None, rules.into(), Some(bucket));
        let admit = |path| gate.admit(&Method::GET, path, &mut HeaderMap::new(), || start);
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
        let guard =
            |rules: &[&str]| Some(PasswordGuard { passwords: "a:b".parse().unwrap(), open: open(rules) });
        let gate = Gate::new(guard(&["allow POST /webhook/**"]), open(&["deny /secret"]), None);
        let admit = |method: Method, path, shown: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::AUTHORIZATION, http::HeaderValue::from_static(shown));
            let result = gate.admit(&method, path, &mut headers, Instant::now);
            (result.err(), headers.contains_key(header::AUTHORIZATION))
        };
        let right = "Basic YTpi";
        assert_eq!(admit(Method::GET, "/", right), (None, false));
        assert_eq!(admit(Method::GET, "/", "Bearer x"), (Some(Refusal::Unauthorized), true));
        assert_eq!(admit(Method::GET, "/secret", "Bearer x"), (Some(Refusal::Unauthorized), true));
        assert_eq!(admit(Method::GET, "/secret", right), (Some(Refusal::Filtered), false));
        // What is open keeps its own.
        assert_eq!(admit(Method::POST, "/webhook/x", "Bearer x"), (None, true));
        assert_eq!(admit(Method::GET, "/webhook/x", "Bearer x").0, Some(Refusal::Unauthorized));
        let ambiguous = admit(Method::POST, "/webhook/..%2fx", right).0;
        assert!(matches!(ambiguous, Some(Refusal::AmbiguousPath(_))), "{ambiguous:?}");
    }
}
