//! The time-outs of a socket, which cost a system call each time they are set.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::system::SystemSocket;

/// The value for a time-out that is not known.
const UNKNOWN: u64 = u64::MAX;

/// A time-out of a socket, as it was set last. The socket has one owner for each direction.
#[derive(Debug, Default)]
pub(super) struct SetTimeout(AtomicU64);

impl SetTimeout {
    /// Sets a time-out with `set`, unless it is set already. `None` waits for ever.
    pub(super) fn set(
        &self,
        timeout: Option<Duration>,
        set: impl FnOnce(Option<Duration>) -> io::Result<()>,
    ) -> io::Result<()> {
        // No time-out is 0, which a socket does not take for one.
        let micros = timeout.map_or(0, |timeout| u64::try_from(timeout.as_micros()).unwrap_or(UNKNOWN - 1));
        if self.0.swap(micros, Ordering::Relaxed) == micros {
            return Ok(());
        }
        set(timeout).inspect_err(|_| self.0.store(UNKNOWN, Ordering::Relaxed))
    }

    /// Lets the next reads of a socket end when this time has come, or somewhat later.
    pub(super) fn read_until(&self, stream: &SystemSocket, deadline: Instant) -> io::Result<()> {
        self.set(Some(step(remaining_time(deadline)?)), |timeout| stream.set_read_timeout(timeout))
    }

    /// Lets the next writes of a socket end when this time has come, or somewhat later.
    pub(super) fn write_until(&self, stream: &SystemSocket, deadline: Instant) -> io::Result<()> {
        self.set(Some(step(remaining_time(deadline)?)), |timeout| stream.set_write_timeout(timeout))
    }
}

/// The time until `deadline`, or an error when it has passed.
fn remaining_time(deadline: Instant) -> io::Result<Duration> {
    let remaining = deadline.saturating_duration_since(Instant::now());
    if remaining.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(remaining) }
}

/// A time rounded up, by at most an eighth: so deadlines that are about as far away as those before need no system call.
fn step(time: Duration) -> Duration {
    let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX / 2).max(1);
    let step = (micros.next_power_of_two() / 16).max(1);
    Duration::from_micros(micros.div_ceil(step) * step)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn a_time_is_rounded_up_by_an_eighth_at_most() {
        for micros in (1..5000).chain([59_999_000, 60_000_000, 86_400_000_000]) {
            let rounded = step(Duration::from_micros(micros)).as_micros() as u64;
            assert!(rounded >= micros && rounded - micros <= micros / 8, "{micros} {rounded}");
        }
        // Two requests on a connection, each of which may be waited for as long.
        assert_eq!(step(Duration::from_micros(59_999_000)), step(Duration::from_secs(60)));
    }

    #[test]
    fn a_timeout_is_set_when_it_changes() {
        let (timeout, calls) = (SetTimeout::default(), Cell::new(0));
        let set = |time| {
            timeout.set(time, |_| {
                calls.set(calls.get() + 1);
                Ok(())
            })
        };
        let second = Some(Duration::from_secs(1));
        for (time, expected) in [(None, 0), (second, 1), (second, 1), (None, 2), (second, 3)] {
            set(time).unwrap();
            assert_eq!(calls.get(), expected);
        }
        // A time-out whose setting failed is not taken for set.
        let failed = timeout.set(None, |_| Err(io::ErrorKind::Other.into()));
        assert!(failed.is_err());
        set(None).unwrap();
        assert_eq!(calls.get(), 4);
    }
}
