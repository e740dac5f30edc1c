//! Whether the other side takes what is written as it comes, or lets it wait: rules with time as an argument.

use std::time::Duration;

/// The longest write of a connection that is not slow.
const SLOW: Duration = Duration::from_millis(20);

/// The longest write that counts as fast.
const FAST: Duration = Duration::from_millis(2);

/// As many bytes in a row at full speed mean that the connection is fast again.
const FAST_BYTES: u64 = 1 << 20;

/// How fast a connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Speed {
    Slow,
    Fast,
}

/// Judges a connection by its writes.
#[derive(Debug)]
pub(super) struct Pace {
    speed: Speed,
    /// Bytes that were written at full speed since the last write that was not.
    fast_bytes: u64,
}

impl Pace {
    /// A new connection counts as fast.
    pub(super) fn new() -> Self {
        Pace { speed: Speed::Fast, fast_bytes: 0 }
    }

    /// So many bytes were written within this time. Returns the speed when it has changed.
    pub(super) fn wrote(&mut self, bytes: u64, time: Duration) -> Option<Speed> {
        self.fast_bytes = if time <= FAST { self.fast_bytes.saturating_add(bytes) } else { 0 };
        let speed = match self.speed {
            Speed::Fast if time > SLOW => Speed::Slow,
            Speed::Slow if self.fast_bytes >= FAST_BYTES => Speed::Fast,
            same => same,
        };
        let changed = speed != self.speed;
        self.speed = speed;
        changed.then_some(speed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slow_at_once_and_fast_after_a_while() {
        let mut pace = Pace::new();
        let ms = Duration::from_millis;
        assert_eq!(pace.wrote(64 << 10, ms(20)), None);
        assert_eq!(pace.wrote(64 << 10, ms(21)), Some(Speed::Slow));
        assert_eq!(pace.wrote(64 << 10, ms(500)), None);
        assert_eq!(pace.wrote((1 << 20) - 1, ms(1)), None);
        assert_eq!(pace.wrote(64 << 10, ms(3)), None);
        assert_eq!(pace.wrote((1 << 20) - 1, ms(1)), None);
        assert_eq!(pace.wrote(1, ms(1)), Some(Speed::Fast));
    }
}
