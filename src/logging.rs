//! The programs' logger: one line per record on standard error.
//!
//! Not simple_logger, which writes with `eprintln!` and therefore panics when standard error is a pipe
//! whose reader has gone: an agent must outlive whoever collects its log.

use std::io::Write;

use log::{LevelFilter, Log, Metadata, Record};
use time::OffsetDateTime;

/// Libraries that would print paths, headers, tokens and bodies below this level.
const CAPPED: [&str; 2] = ["tungstenite", "rustls"];

struct Stderr {
    level: LevelFilter,
}

/// Installs the logger at the level that `RUST_LOG` names, else at `info`.
pub fn install() {
    let asked = std::env::var("RUST_LOG").unwrap_or_default();
    let level = asked.parse().ok();
    let logger = Stderr { level: level.unwrap_or(LevelFilter::Info) };
    log::set_max_level(logger.level);
    // It fails only when there is one already.
    let _ = log::set_boxed_logger(Box::new(logger));
    if level.is_none() && !asked.is_empty() {
        log::warn!("RUST_LOG is not one of off, error, warn, info, debug, trace; logging at info");
    }
}

impl Log for Stderr {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        let library = metadata.target().split(':').next().unwrap_or_default();
        let cap = if CAPPED.contains(&library) { LevelFilter::Warn } else { LevelFilter::Trace };
        metadata.level() <= self.level.min(cap)
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let now = OffsetDateTime::now_utc();
        let line = format!(
            "{}T{:02}:{:02}:{:02}.{:03}Z {:5} {}\n",
            now.date(),
            now.hour(),
            now.minute(),
            now.second(),
            now.millisecond(),
            record.level(),
            record.args()
        );
        // One write per line keeps lines of several threads apart; when nobody reads, nobody misses it.
        let _ = std::io::stderr().write_all(line.as_bytes());
    }

    fn flush(&self) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use log::Level;

    #[test]
    fn libraries_are_capped_whatever_the_level() {
        let logger = Stderr { level: LevelFilter::Trace };
        let enabled =
            |target, level| logger.enabled(&Metadata::builder().target(target).level(level).build());
        assert!(enabled("tunnel_agent::agent", Level::Trace));
        for target in ["tungstenite::handshake::client", "tungstenite", "rustls::client"] {
            assert!(enabled(target, Level::Warn) && !enabled(target, Level::Info), "{target}");
        }
        let quiet = Stderr { level: LevelFilter::Error };
        assert!(!quiet.enabled(&Metadata::builder().target("rustls").level(Level::Warn).build()));
    }
}
