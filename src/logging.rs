//! The programs' logger: one line per record on standard error.
//!
//! Whoever logs never waits: lines go to a bounded buffer, which one thread writes. Where nobody takes what is written, as
//! of a pipe whose reader hangs, lines are dropped, counted, and the count is said. What is said again and again within a
//! second is said a few times and then counted, too; but not the lines about requests that were answered.
//!
//! Not simple_logger, which writes with `eprintln!` and therefore waits for its reader, and panics when that has gone: an
//! agent must outlive whoever collects its log.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::Write;
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use log::kv;
use log::{Level, LevelFilter, Log, Metadata, Record};
use serde_json::{Map, Value};
use time::OffsetDateTime;

/// Libraries that would print paths, headers, tokens and bodies below this level.
const CAPPED: [&str; 2] = ["tungstenite", "rustls"];

/// The target of lines that are never collapsed: one per request that was answered.
pub const ACCESS: &str = "tunnel_agent::access";

/// Bytes of lines that wait to be written, at most.
const WAITING_MAX: usize = 1 << 20;

/// Longest line, in bytes; what is longer is cut.
const LINE_MAX: usize = 8 << 10;

/// Lines of one kind in a second; further ones are counted.
const SAME_MAX: u64 = 5;

/// Kinds of lines that are told apart. There are fewer places in the source that log.
const KINDS_MAX: usize = 512;

/// Between two writes: lines that come meanwhile go out together.
const PAUSE: Duration = Duration::from_millis(1);

/// How long the end of a program waits for its last lines to be taken.
const FLUSH_TIME: Duration = Duration::from_secs(1);

/// What a line looks like.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Format {
    /// Time, level and message.
    #[default]
    Text,
    /// The same as one JSON object; what a line says of a request has fields of its own, too.
    Json,
}

struct Logger {
    level: LevelFilter,
    format: Format,
    start: Instant,
    queue: Queue,
    repeats: Mutex<Repeats>,
}

static LOGGER: OnceLock<Logger> = OnceLock::new();

/// Installs the logger at this level, else at `info`.
pub fn install(format: Format, level: Option<&str>) {
    let asked = level.unwrap_or_default();
    let level = asked.parse().ok();
    let logger = LOGGER.get_or_init(|| Logger {
        level: level.unwrap_or(LevelFilter::Info),
        format,
        start: Instant::now(),
        queue: Queue::default(),
        repeats: Mutex::default(),
    });
    // Without a thread nothing would ever be written.
    if thread::Builder::new().name("log".to_owned()).spawn(|| logger.write()).is_err() {
        return;
    }
    log::set_max_level(logger.level);
    // It fails only when there is one already.
    let _ = log::set_logger(logger);
    if level.is_none() && !asked.is_empty() {
        log::warn!("RUST_LOG is not one of off, error, warn, info, debug, trace; logging at info");
    }
}

impl Logger {
    fn is_enabled(level: LevelFilter, metadata: &Metadata<'_>) -> bool {
        let library = metadata.target().split(':').next().unwrap_or_default();
        let cap = if CAPPED.contains(&library) { LevelFilter::Warn } else { LevelFilter::Trace };
        metadata.level() <= level.min(cap)
    }

    fn repeats(&self) -> MutexGuard<'_, Repeats> {
        // Nothing panics while the lock is held.
        self.repeats.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Writes what waits, for as long as the program runs.
    fn write(&self) {
        loop {
            // The lock is not held while this waits.
            let next_look = self.repeats().next_look(self.start.elapsed().as_secs());
            let (mut out, dropped) = self.queue.take(next_look);
            if dropped > 0 {
                let text = format!("{dropped} lines of the log were dropped: nobody took them");
                out.extend_from_slice(plain(self.format, Level::Warn, &text).as_bytes());
            }
            let repeats = self.repeats().ended(self.start.elapsed().as_secs());
            repeats.iter().for_each(|repeated| out.extend_from_slice(repeated.line(self.format).as_bytes()));
            // When nobody reads, nobody misses it.
            let _ = std::io::stderr().write_all(&out);
            self.queue.written(out);
            thread::sleep(PAUSE);
        }
    }
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        Logger::is_enabled(self.level, metadata)
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        if record.target() != ACCESS {
            let said = self.repeats().say(record, self.start.elapsed().as_secs());
            if let Some(repeated) = said.ended {
                self.queue.push(&repeated.line(self.format));
            }
            match said.is_it {
                Is::Said => {}
                // Somebody has to tell of it when the second is over.
                Is::FirstCounted => return self.queue.wake(),
                Is::Counted => return,
            }
        }
        self.queue.push(&line(self.format, OffsetDateTime::now_utc(), record));
    }

    fn flush(&self) {
        let repeats = self.repeats().ended(u64::MAX);
        repeats.iter().for_each(|repeated| self.queue.push(&repeated.line(self.format)));
        self.queue.wait_until_written(FLUSH_TIME);
    }
}

/// Lines that wait to be written.
#[derive(Default)]
struct Queue {
    state: Mutex<Waiting>,
    changed: Condvar,
}

#[derive(Default)]
struct Waiting {
    lines: Vec<u8>,
    /// Memory for the next lines.
    spare: Vec<u8>,
    /// Lines for which there was no room.
    dropped: u64,
    /// The thread that writes waits for something to write.
    idle: bool,
    /// It is to look again at what there is.
    look: bool,
}

impl Queue {
    fn state(&self) -> MutexGuard<'_, Waiting> {
        // Nothing panics while the lock is held.
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Adds a line, if there is room. Never waits for whoever reads.
    fn push(&self, line: &str) {
        let mut state = self.state();
        if state.lines.len() + line.len() > WAITING_MAX {
            state.dropped += 1;
        } else {
            state.lines.extend_from_slice(line.as_bytes());
        }
        if std::mem::take(&mut state.idle) {
            self.changed.notify_all();
        }
    }

    /// Has the thread that writes look again at what there is.
    fn wake(&self) {
        let mut state = self.state();
        state.look = true;
        if std::mem::take(&mut state.idle) {
            self.changed.notify_all();
        }
    }

    /// Waits for lines, no longer than this if a time is given. Returns them, and how many were dropped.
    fn take(&self, limit: Option<Duration>) -> (Vec<u8>, u64) {
        let mut state = self.state();
        if state.lines.is_empty() && state.dropped == 0 && !state.look {
            state.idle = true;
            // Somebody may wait until all is written.
            self.changed.notify_all();
            let is_idle = |state: &mut Waiting| state.idle;
            state = match limit {
                Some(limit) => {
                    let waited = self.changed.wait_timeout_while(state, limit, is_idle);
                    waited.unwrap_or_else(|poisoned| poisoned.into_inner()).0
                }
                None => {
                    let waited = self.changed.wait_while(state, is_idle);
                    waited.unwrap_or_else(|poisoned| poisoned.into_inner())
                }
            };
            state.idle = false;
        }
        state.look = false;
        let spare = std::mem::take(&mut state.spare);
        (std::mem::replace(&mut state.lines, spare), std::mem::take(&mut state.dropped))
    }

    /// What was taken is written.
    fn written(&self, mut lines: Vec<u8>) {
        lines.clear();
        lines.shrink_to(LINE_MAX);
        self.state().spare = lines;
        self.changed.notify_all();
    }

    /// Waits until all lines are written, at most this long.
    fn wait_until_written(&self, limit: Duration) {
        // While lines are being written, their memory is away.
        let is_busy = |state: &mut Waiting| !state.idle || !state.lines.is_empty();
        let _ = self.changed.wait_timeout_while(self.state(), limit, is_busy);
    }
}

/// What was said how often in this second, by the place in the source that says it.
#[derive(Default)]
struct Repeats(HashMap<(&'static str, u32), Kind>);

struct Kind {
    second: u64,
    /// How often it was said.
    said: u64,
    level: Level,
    /// The first line that was not written.
    like: String,
}

/// Lines of one kind that were not written.
#[derive(Debug, PartialEq, Eq)]
struct Repeated {
    level: Level,
    count: u64,
    like: String,
}

impl Repeated {
    fn line(&self, format: Format) -> String {
        let text = format!("{} more lines within a second like: {}", self.count, self.like);
        plain(format, self.level, &text)
    }
}

/// What becomes of a line.
struct Saying {
    /// Lines of its kind in a second that is over, which were only counted.
    ended: Option<Repeated>,
    is_it: Is,
}

#[derive(Debug, PartialEq, Eq)]
enum Is {
    Said,
    /// It is the first of its kind in this second that is not said.
    FirstCounted,
    Counted,
}

impl Repeats {
    /// Whether a line is to be said, or only counted.
    fn say(&mut self, record: &Record<'_>, second: u64) -> Saying {
        let said = Saying { ended: None, is_it: Is::Said };
        let Some(place) = record.file_static().zip(record.line()) else { return said };
        if self.0.len() >= KINDS_MAX && !self.0.contains_key(&place) {
            return said;
        }
        let kind = self.0.entry(place).or_insert_with(|| Kind::new(second, record.level()));
        let ended = if kind.second == second { None } else { kind.end(second) };
        kind.said += 1;
        let is_it = match kind.said {
            ..=SAME_MAX => Is::Said,
            count if count == SAME_MAX + 1 => {
                kind.like = cut(&record.args().to_string(), LINE_MAX / 8).to_owned();
                Is::FirstCounted
            }
            _ => Is::Counted,
        };
        Saying { ended, is_it }
    }

    /// How long it is until lines that were not written are to be told of, if there are any.
    fn next_look(&self, second: u64) -> Option<Duration> {
        let first = self.0.values().filter(|kind| kind.said > SAME_MAX).map(|kind| kind.second).min()?;
        Some(if first < second { Duration::ZERO } else { Duration::from_secs(1) })
    }

    /// What was not written in the seconds before this one.
    fn ended(&mut self, second: u64) -> Vec<Repeated> {
        let ended = self.0.values_mut().filter(|kind| kind.second < second && kind.said > SAME_MAX);
        ended.filter_map(|kind| kind.end(second)).collect()
    }
}

impl Kind {
    fn new(second: u64, level: Level) -> Self {
        Kind { second, said: 0, level, like: String::new() }
    }

    /// Begins with another second. Returns what was not written in the one before.
    fn end(&mut self, second: u64) -> Option<Repeated> {
        let Kind { said, level, like, .. } = std::mem::replace(self, Kind::new(second, self.level));
        let count = said.checked_sub(SAME_MAX).filter(|count| *count > 0)?;
        Some(Repeated { level, count, like })
    }
}

/// As much of a text as fits, in whole characters.
fn cut(text: &str, max: usize) -> &str {
    let end = (0..=max.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
    &text[..end.unwrap_or(0)]
}

fn plain(format: Format, level: Level, text: &str) -> String {
    let record = &mut Record::builder();
    line(format, OffsetDateTime::now_utc(), &record.level(level).args(format_args!("{text}")).build())
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
        Format::Text => {
            let line = format!("{time} {:5} {}", record.level(), record.args());
            format!("{}\n", cut(&line, LINE_MAX))
        }
        Format::Json => {
            let mut fields = Fields(Map::new());
            // Collecting cannot fail.
            let _ = record.key_values().visit(&mut fields);
            let Fields(mut object) = fields;
            object.insert("time".to_owned(), time.into());
            object.insert("level".to_owned(), record.level().as_str().to_lowercase().into());
            object.insert("message".to_owned(), cut(&record.args().to_string(), LINE_MAX).into());
            let mut line = escaped(&Value::Object(object).to_string());
            line.push('\n');
            line
        }
    }
}

/// JSON in which no character commands a terminal or turns a line round: those that JSON lets stand are escaped, too.
fn escaped(json: &str) -> String {
    let is_odd = |c: char| {
        let marks =
            matches!(c, '\u{7f}'..='\u{9f}' | '\u{ad}' | '\u{61c}' | '\u{feff}' | '\u{e0000}'..='\u{e007f}');
        marks || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}')
    };
    let mut out = String::with_capacity(json.len() + 1);
    for c in json.chars() {
        if is_odd(c) {
            // They stand in strings alone, where an escape may stand for each.
            for unit in c.encode_utf16(&mut [0; 2]) {
                let _ = write!(out, "\\u{unit:04x}");
            }
        } else {
            out.push(c);
        }
    }
    out
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
    fn json_neither_commands_a_terminal_nor_turns_a_line_round() {
        let text = "a\u{9b}31m\u{202e}b\u{e0041}\u{1b}\u{7f}é";
        let json = escaped(&Value::from(text).to_string());
        assert_eq!(json, "\"a\\u009b31m\\u202eb\\udb40\\udc41\\u001b\\u007fé\"");
        assert_eq!(serde_json::from_str::<String>(&json).unwrap(), text);
    }

    #[test]
    fn libraries_are_capped_whatever_the_level() {
        let enabled = |level, target, of| {
            Logger::is_enabled(level, &Metadata::builder().target(target).level(of).build())
        };
        assert!(enabled(LevelFilter::Trace, "tunnel_agent::agent", Level::Trace));
        for target in ["tungstenite::handshake::client", "tungstenite", "rustls::client"] {
            assert!(enabled(LevelFilter::Trace, target, Level::Warn), "{target}");
            assert!(!enabled(LevelFilter::Trace, target, Level::Info), "{target}");
        }
        assert!(!enabled(LevelFilter::Error, "rustls", Level::Warn));
    }

    #[test]
    fn what_is_said_again_and_again_is_counted() {
        let mut repeats = Repeats::default();
        fn say(repeats: &mut Repeats, line: u32, second: u64) -> (Is, Option<Repeated>) {
            let mut record = Record::builder();
            record.level(Level::Info).file_static(Some("file.rs")).line(Some(line));
            let said = repeats.say(&record.args(format_args!("text")).build(), second);
            (said.is_it, said.ended)
        }
        let told = |count| Repeated { level: Level::Info, count, like: "text".to_owned() };
        for _ in 0..SAME_MAX {
            assert_eq!(say(&mut repeats, 1, 7), (Is::Said, None));
        }
        assert_eq!(repeats.next_look(7), None);
        assert_eq!(say(&mut repeats, 1, 7), (Is::FirstCounted, None));
        assert_eq!(say(&mut repeats, 1, 7), (Is::Counted, None));
        assert!(repeats.next_look(7).is_some());
        // Another kind is another matter.
        assert_eq!(say(&mut repeats, 2, 7), (Is::Said, None));
        // When the second is over it is told, whether anything more is said or not, and once.
        assert_eq!(repeats.ended(7), []);
        assert_eq!((repeats.ended(8), repeats.ended(8)), (vec![told(2)], vec![]));
        assert_eq!(say(&mut repeats, 1, 8), (Is::Said, None));
        (0..SAME_MAX).for_each(|_| drop(say(&mut repeats, 1, 8)));
        assert_eq!(say(&mut repeats, 1, 20), (Is::Said, Some(told(1))));
        assert_eq!(repeats.next_look(21), None);
    }

    #[test]
    fn whoever_logs_waits_for_nobody() {
        let queue = Queue::default();
        let line = "x".repeat(1000);
        let count = WAITING_MAX / 1000;
        (0..count + 3).for_each(|_| queue.push(&line));
        let (lines, dropped) = queue.take(None);
        assert_eq!((lines.len(), dropped), (count * 1000, 3));
        queue.push("later");
        assert_eq!(queue.take(None), (b"later".to_vec(), 0));
        assert_eq!(queue.take(Some(Duration::ZERO)), (Vec::new(), 0));
    }
}
