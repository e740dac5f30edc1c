//! Which requests pass: what HTTP allows, what the owner's rules allow, and how many of them.

mod rate;
mod refusal;
mod rules;
mod validate;

use std::sync::{Mutex, MutexGuard};
use std::time::Instant;

use http::Method;

pub(crate) use self::rate::Bucket;
pub use self::rate::{InvalidRate, Rate};
pub(crate) use self::refusal::{Refusal, failure_response, failure_status};
pub(crate) use self::rules::RULES_MAX;
pub use self::rules::{Action, InvalidPattern, Pattern, Rule, Rules, Verdict};
pub(crate) use self::validate::{validate, validate_head};
use crate::sync::lock;

/// Lets requests pass by the owner's rules and rate. It is shared by all sessions of an agent.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    rules: Rules,
    rate: Option<Mutex<Bucket>>,
}

impl Gate {
    pub(crate) fn new(rules: Rules, rate: Option<Bucket>) -> Self {
        Gate { rules, rate: rate.map(Mutex::new) }
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
        now: impl FnOnce() -> Instant,
    ) -> Result<Option<Instant>, Refusal> {
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
        let gate = Gate::new(rules.into(), Some(bucket));
        let admit = |path| gate.admit(&Method::GET, path, || start);
        assert_eq!(admit("/x"), Err(Refusal::Filtered));
        assert_eq!(admit("/"), Ok(Some(start)));
        assert_eq!(admit("/"), Err(Refusal::RateLimited(Duration::from_secs(60))));
        gate.refund();
        assert_eq!(admit("/"), Ok(Some(start)));
    }
}
