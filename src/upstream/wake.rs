//! The signal that wakes the thread of an upstream.

use std::sync::{Condvar, Mutex};
use std::time::Duration;

use crate::sync::{lock, wait_timeout_while};

/// The shortest time between two rounds, however often the signal is given.
const QUIET: Duration = Duration::from_secs(1);

/// Wakes one thread that waits for it.
#[derive(Debug, Default)]
pub(super) struct WakeSignal {
    signal: Mutex<SignalState>,
    changed: Condvar,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum SignalState {
    #[default]
    None,
    Rung,
    Stopped,
}

/// The task of the waiting thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Woken {
    Continue,
    Stop,
}

impl WakeSignal {
    /// Wakes the thread.
    pub(super) fn ring(&self) {
        let mut signal = lock(&self.signal);
        if *signal == SignalState::None {
            *signal = SignalState::Rung;
        }
        drop(signal);
        self.changed.notify_all();
    }

    /// Ends the thread.
    pub(super) fn stop(&self) {
        *lock(&self.signal) = SignalState::Stopped;
        self.changed.notify_all();
    }

    /// Waits for the signal, at most this long; a ring counts after [`QUIET`] at the soonest.
    pub(super) fn wait(&self, time: Duration) -> Woken {
        let quiet = time.min(QUIET);
        let signal = wait_timeout_while(&self.changed, lock(&self.signal), quiet, |signal| {
            *signal != SignalState::Stopped
        });
        let mut signal =
            wait_timeout_while(&self.changed, signal, time - quiet, |signal| *signal == SignalState::None);
        if *signal == SignalState::Stopped {
            return Woken::Stop;
        }
        *signal = SignalState::None;
        Woken::Continue
    }
}
