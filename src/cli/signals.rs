//! The signals that the programs obey.

use std::io;

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
#[cfg(unix)]
pub fn handle_signals(mut handle: impl FnMut(Signal) + Send + 'static) -> io::Result<()> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    let mut signals = signal_hook::iterator::Signals::new([SIGHUP, SIGINT, SIGTERM])?;
    let listen = move || {
        let mut stop = Signal::Stop;
        for signal in signals.forever() {
            handle(match signal {
                SIGHUP => Signal::Reload,
                _ => std::mem::replace(&mut stop, Signal::StopAtOnce),
            });
        }
    };
    std::thread::Builder::new().name("signals".to_owned()).spawn(listen).map(drop)
}

/// Calls `handle` with each Ctrl-C, which asks to stop, on a thread of its own. Elsewhere no signal asks to reload.
#[cfg(windows)]
pub fn handle_signals(mut handle: impl FnMut(Signal) + Send + 'static) -> io::Result<()> {
    let mut stop = Signal::Stop;
    ctrlc::set_handler(move || handle(std::mem::replace(&mut stop, Signal::StopAtOnce)))
        .map_err(io::Error::other)
}
