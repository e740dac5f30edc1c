//! How many bytes of bodies all visitors together may make the gateway hold.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A number of bytes that is shared out.
#[derive(Debug, Clone)]
pub(super) struct BodyBudget(Arc<SharedBytes>);

#[derive(Debug)]
struct SharedBytes {
    max: usize,
    used: AtomicUsize,
}

/// A part of a [`BodyBudget`], given back when it is dropped.
#[derive(Debug)]
pub(super) struct Share {
    of: BodyBudget,
    bytes: usize,
}

impl BodyBudget {
    pub(super) fn new(max: usize) -> Self {
        BodyBudget(Arc::new(SharedBytes { max, used: AtomicUsize::new(0) }))
    }

    /// The number of bytes that are shared out now.
    pub(super) fn used(&self) -> usize {
        self.0.used.load(Ordering::Relaxed)
    }

    /// The number of bytes that may be.
    pub(super) fn max(&self) -> usize {
        self.0.max
    }

    /// A part that is empty, and may grow.
    pub(super) fn share(&self) -> Share {
        Share { of: self.clone(), bytes: 0 }
    }
}

impl Share {
    /// Takes so many bytes more. False when there are not so many.
    pub(super) fn grow(&mut self, bytes: usize) -> bool {
        let BodyBudget(all) = &self.of;
        let room = |used: usize| used.checked_add(bytes).filter(|used| *used <= all.max);
        // A number, and no other memory depends on it.
        let grown = all.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, room).is_ok();
        self.bytes += if grown { bytes } else { 0 };
        grown
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.of.0.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_is_shared_out_than_there_is() {
        let budget = BodyBudget::new(10);
        let (mut one, mut two) = (budget.share(), budget.share());
        assert!(one.grow(6) && two.grow(4) && !two.grow(1) && !one.grow(usize::MAX));
        drop(one);
        assert!(two.grow(6) && !two.grow(1));
    }
}
