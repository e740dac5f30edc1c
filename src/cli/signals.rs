//! The signals that the programs obey.

use std::{io, thread};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// A signal, by what it asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// SIGHUP: read files again.
    Reload,
    /// The first SIGINT or SIGTERM: finish the requests under way, then stop.
    Stop,
    /// A further SIGINT or SIGTERM: stop at once.
    StopAtOnce,
}

/// Calls `handle` with each signal, on a thread of its own.
pub fn handle_signals(mut handle: impl FnMut(Signal) + Send + 'static) -> io::Result<()> {
    let mut signals = Signals::new([SIGHUP, SIGINT, SIGTERM])?;
    let listen = move || {
        let mut stop = Signal::Stop;
        for signal in signals.forever() {
            handle(match signal {
                SIGHUP => Signal::Reload,
                _ => std::mem::replace(&mut stop, Signal::StopAtOnce),
            });
        }
    };
    thread::Builder::new().name("signals".to_owned()).spawn(listen).map(drop)
}
