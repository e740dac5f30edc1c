//! The programs' logger: one line per record on standard error, as simple_logger prints it, or as JSON.
//!
//! Logging never waits: lines go to a bounded queue, which one thread writes. Where nothing takes what is written, as of
//! a pipe whose reader hangs, lines are dropped, counted, and the count is logged. More than a few lines of one kind within
//! a second are counted, too; but not the lines about requests that were answered.
//!
//! simple_logger alone waits for its reader, and panics when the reader is gone. An agent must outlive the program that
//! collects its log: so it prints behind the queue, and a panic of its is caught.

mod line;
mod printer;
mod queue;
mod repeats;

use std::sync::{Mutex, MutexGuard, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use log::{Level, LevelFilter, Log, Metadata, Record};
use time::OffsetDateTime;

pub use self::line::Format;
use self::line::{line, plain};
use self::printer::Printer;
use self::queue::LogQueue;
use self::repeats::{LineFate, Repeats};
use crate::session::ACCESS_LOG;
use crate::sync::lock;

/// Libraries that would print paths, headers, tokens and bodies below this level.
const CAPPED: [&str; 4] = ["tungstenite", "rustls", "ureq", "ureq_proto"];

/// Between two writes: lines that come meanwhile go out together.
const PAUSE: Duration = Duration::from_millis(1);

/// How long the end of a program waits for its last lines to be taken.
const FLUSH_TIME: Duration = Duration::from_secs(1);

struct Logger {
    format: Format,
    start: Instant,
    queue: LogQueue,
    repeats: Mutex<Repeats>,
}

static LOGGER: OnceLock<Logger> = OnceLock::new();

/// Reads `text` or `json`.
pub(super) fn log_format(text: &str) -> Result<Format, &'static str> {
    match text {
        "text" => Ok(Format::Text),
        "json" => Ok(Format::Json),
        _ => Err("expected text or json"),
    }
}

/// The level of this name, and `info` where none is given, or none that there is.
fn level_of(name: Option<&str>) -> LevelFilter {
    name.and_then(|name| name.parse().ok()).unwrap_or(LevelFilter::Info)
}

/// Logs at this level from now on, and warns of a name that is none.
pub fn set_level(name: Option<&str>) {
    log::set_max_level(level_of(name));
    if name.is_some_and(|name| name.parse::<LevelFilter>().is_err()) {
        let names = "off, error, warn, info, debug, trace";
        log::warn!("the level of the log (RUST_LOG) is not one of {names}; logging at info");
    }
}

/// Installs the logger of a program at this level, else at `info`.
pub fn install(program: &'static str, format: Format, level: Option<&str>) {
    let logger = LOGGER.get_or_init(|| Logger {
        format,
        start: Instant::now(),
        queue: LogQueue::default(),
        repeats: Mutex::default(),
    });
    // Without a thread nothing would ever be written.
    if thread::Builder::new()
        .name("log".to_owned())
        .spawn(move || logger.write(&Printer::new(program)))
        .is_err()
    {
        return;
    }
    // It fails only when there is one already.
    let _ = log::set_logger(logger);
    set_level(level);
}

impl Logger {
    fn is_enabled(level: LevelFilter, metadata: &Metadata<'_>) -> bool {
        let library = metadata.target().split(':').next().unwrap_or_default();
        let cap = if CAPPED.contains(&library) { LevelFilter::Warn } else { LevelFilter::Trace };
        metadata.level() <= level.min(cap)
    }

    fn repeats(&self) -> MutexGuard<'_, Repeats> {
        lock(&self.repeats)
    }

    /// Writes what waits, for as long as the program runs.
    fn write(&self, printer: &Printer) {
        loop {
            // The lock is not held while this waits.
            let next_look = self.repeats().next_look(self.start.elapsed().as_secs());
            let (mut lines, dropped) = self.queue.take(next_look);
            if dropped > 0 {
                let text = format!("{dropped} lines of the log were dropped: nobody took them");
                lines.push(plain(self.format, Level::Warn, &text));
            }
            let repeats = self.repeats().ended(self.start.elapsed().as_secs());
            lines.extend(repeats.iter().map(|repeated| repeated.line(self.format)));
            printer.print(&lines);
            self.queue.written();
            thread::sleep(PAUSE);
        }
    }
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        Logger::is_enabled(log::max_level(), metadata)
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        if record.target() != ACCESS_LOG {
            let said = self.repeats().say(record, self.start.elapsed().as_secs());
            if let Some(repeated) = said.ended {
                self.queue.push(repeated.line(self.format));
            }
            match said.fate {
                LineFate::Said => {}
                // The count is logged when the second has elapsed.
                LineFate::FirstCounted => return self.queue.wake(),
                LineFate::Counted => return,
            }
        }
        self.queue.push(line(self.format, OffsetDateTime::now_utc(), record));
    }

    fn flush(&self) {
        let repeats = self.repeats().ended(u64::MAX);
        repeats.iter().for_each(|repeated| self.queue.push(repeated.line(self.format)));
        self.queue.wait_until_written(FLUSH_TIME);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_capped_whatever_the_level() {
        let enabled = |level, target, of| {
            Logger::is_enabled(level, &Metadata::builder().target(target).level(of).build())
        };
        assert!(enabled(LevelFilter::Trace, "tunnel_agent::agent", Level::Trace));
        for target in [
            "tungstenite::handshake::client",
            "tungstenite",
            "rustls::client",
            "ureq::run",
            "ureq_proto::client",
        ] {
            assert!(enabled(LevelFilter::Trace, target, Level::Warn), "{target}");
            assert!(!enabled(LevelFilter::Trace, target, Level::Info), "{target}");
        }
        assert!(!enabled(LevelFilter::Error, "rustls", Level::Warn));
    }
}
