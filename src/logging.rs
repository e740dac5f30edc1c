//! The programs' logger: one line per record on standard error.
//!
//! Not simple_logger, which writes with `eprintln!` and therefore panics when standard error is a pipe
//! whose reader has gone: an agent must outlive whoever collects its log.

use std::io::Write;

use log::kv;
use log::{LevelFilter, Log, Metadata, Record};
use serde_json::{Map, Value};
use time::OffsetDateTime;

/// Libraries that would print paths, headers, tokens and bodies below this level.
const CAPPED: [&str; 2] = ["tungstenite", "rustls"];

/// What a line looks like.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Format {
    /// Time, level and message.
    #[default]
    Text,
    /// The same as one JSON object; what a line says of a request has fields of its own, too.
    Json,
}

struct Stderr {
    level: LevelFilter,
    format: Format,
}

/// Installs the logger at the level that `RUST_LOG` names, else at `info`.
pub fn install(format: Format) {
    let asked = std::env::var("RUST_LOG").unwrap_or_default();
    let level = asked.parse().ok();
    let logger = Stderr { level: level.unwrap_or(LevelFilter::Info), format };
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
        let line = line(self.format, OffsetDateTime::now_utc(), record);
        // One write per line keeps lines of several threads apart; when nobody reads, nobody misses it.
        let _ = std::io::stderr().write_all(line.as_bytes());
    }

    fn flush(&self) {}
}

fn line(format: Format, now: OffsetDateTime, record: &Record<'_>) -> String {
    let time = format!(
        "{}T{:02}:{:02}:{:02}.{:03}Z",
        now.date(),
        now.hour(),
        now.minute(),
        now.second(),
        now.millisecond()
    );
    match format {
        Format::Text => format!("{time} {:5} {}\n", record.level(), record.args()),
        Format::Json => {
            let mut fields = Fields(Map::new());
            // Collecting cannot fail.
            let _ = record.key_values().visit(&mut fields);
            let Fields(mut object) = fields;
            object.insert("time".to_owned(), time.into());
            object.insert("level".to_owned(), record.level().as_str().to_lowercase().into());
            object.insert("message".to_owned(), record.args().to_string().into());
            format!("{}\n", Value::Object(object))
        }
    }
}

/// What a record says besides its message.
struct Fields(Map<String, Value>);

impl<'a> kv::VisitSource<'a> for Fields {
    fn visit_pair(&mut self, key: kv::Key<'a>, value: kv::Value<'a>) -> Result<(), kv::Error> {
        let number = value.to_u64().map(Value::from).or_else(|| value.to_f64().map(Value::from));
        let value = number.unwrap_or_else(|| value.to_string().into());
        self.0.insert(key.as_str().to_owned(), value);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use log::Level;

    #[test]
    fn a_line_is_text_or_an_object() {
        let now = OffsetDateTime::from_unix_timestamp(1_700_000_000).unwrap();
        let check = |format, expected: &str| {
            let fields =
                [("path", kv::Value::from("/x")), ("status", 200_u16.into()), ("duration_ms", 1.5.into())];
            let mut record = Record::builder();
            record.level(Level::Warn).args(format_args!("say \"x\"\n")).key_values(&fields);
            assert_eq!(line(format, now, &record.build()), expected);
        };
        check(Format::Text, "2023-11-14T22:13:20.000Z WARN  say \"x\"\n\n");
        let json = "{\"duration_ms\":1.5,\"level\":\"warn\",\"message\":\"say \\\"x\\\"\\n\",\"path\":\"/x\",\
                    \"status\":200,\"time\":\"2023-11-14T22:13:20.000Z\"}\n";
        check(Format::Json, json);
    }

    #[test]
    fn libraries_are_capped_whatever_the_level() {
        let logger = Stderr { level: LevelFilter::Trace, format: Format::Text };
        let enabled =
            |target, level| logger.enabled(&Metadata::builder().target(target).level(level).build());
        assert!(enabled("tunnel_agent::agent", Level::Trace));
        for target in ["tungstenite::handshake::client", "tungstenite", "rustls::client"] {
            assert!(enabled(target, Level::Warn) && !enabled(target, Level::Info), "{target}");
        }
        let quiet = Stderr { level: LevelFilter::Error, format: Format::Text };
        assert!(!quiet.enabled(&Metadata::builder().target("rustls").level(Level::Warn).build()));
    }
}
