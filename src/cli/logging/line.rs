//! One line of the log: text, or a JSON object.

use std::fmt::Write as _;

use log::kv::{self, Key};
use log::{Level, Record};
use serde_json::{Map, Value};
use time::OffsetDateTime;

use crate::advice::Advice;
use crate::cli::advised;

/// Longest line, in bytes; what is longer is cut.
pub(super) const LINE_MAX: usize = 8 << 10;

/// The format of a line.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Format {
    /// Time, level and message.
    #[default]
    Text,
    /// One JSON object; what a line says of a request has fields of its own, too.
    Json,
}

/// As much of a text as fits, in whole characters.
pub(super) fn cut(text: &str, max: usize) -> &str {
    let end = (0..=max.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
    &text[..end.unwrap_or(0)]
}

/// A line that waits to be written.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum LogLine {
    /// A text, to which time and level are added.
    Text(Level, String),
    /// A JSON object with its line end.
    Json(String),
}

impl LogLine {
    /// The bytes of its text.
    pub(super) fn len(&self) -> usize {
        let (LogLine::Text(_, text) | LogLine::Json(text)) = self;
        text.len()
    }
}

pub(super) fn plain(format: Format, level: Level, text: &str) -> LogLine {
    let record = &mut Record::builder();
    line(format, OffsetDateTime::now_utc(), &record.level(level).args(format_args!("{text}")).build())
}

pub(super) fn line(format: Format, now: OffsetDateTime, record: &Record<'_>) -> LogLine {
    let message = message(record);
    match format {
        Format::Text => LogLine::Text(record.level(), cut(&message, LINE_MAX).to_owned()),
        Format::Json => {
            let mut fields = LogFields(Map::new());
            // Collecting cannot fail.
            let _ = record.key_values().visit(&mut fields);
            let LogFields(mut object) = fields;
            object.remove(ADVICE);
            object.insert("time".to_owned(), timestamp(now).into());
            object.insert("level".to_owned(), record.level().as_str().to_lowercase().into());
            object.insert("message".to_owned(), cut(&message, LINE_MAX).into());
            let mut line = escaped(&Value::Object(object).to_string());
            line.push('\n');
            LogLine::Json(line)
        }
    }
}

/// A time as both formats show it (RFC 3339).
pub(super) fn timestamp(time: OffsetDateTime) -> String {
    format!(
        "{}T{:02}:{:02}:{:02}.{:03}Z",
        time.date(),
        time.hour(),
        time.minute(),
        time.second(),
        time.millisecond()
    )
}

/// The field in which a record of the library names an advice.
const ADVICE: &str = "advice";

/// The text of a record, with the advice that it names.
fn message(record: &Record<'_>) -> String {
    let advice = record.key_values().get(Key::from_str(ADVICE));
    let advice = advice.and_then(|name| Advice::by_name(name.to_borrowed_str()?));
    advised(&record.args().to_string(), advice)
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

/// The key-value pairs of a record.
struct LogFields(Map<String, Value>);

impl<'a> kv::VisitSource<'a> for LogFields {
    fn visit_pair(&mut self, key: kv::Key<'a>, value: kv::Value<'a>) -> Result<(), kv::Error> {
        let number = value.to_u64().map(Value::from).or_else(|| value.to_f64().map(Value::from));
        let value = number.unwrap_or_else(|| value.to_string().into());
        // An empty one says nothing: of an agent with one tunnel, which that is, say.
        if value != "" {
            self.0.insert(key.as_str().to_owned(), value);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_text_or_an_object() {
        let now = OffsetDateTime::from_unix_timestamp(1_700_000_000).unwrap();
        let check = |format, expected: LogLine| {
            let fields =
                [("path", kv::Value::from("/x")), ("status", 200_u16.into()), ("duration_ms", 1.5.into())];
            let mut record = Record::builder();
            record.level(Level::Warn).args(format_args!("say \"x\"\n")).key_values(&fields);
            assert_eq!(line(format, now, &record.build()), expected);
        };
        check(Format::Text, LogLine::Text(Level::Warn, "say \"x\"\n".to_owned()));
        let json = "{\"duration_ms\":1.5,\"level\":\"warn\",\"message\":\"say \\\"x\\\"\\n\",\"path\":\"/x\",\
                    \"status\":200,\"time\":\"2023-11-14T22:13:20.000Z\"}\n";
        check(Format::Json, LogLine::Json(json.to_owned()));
    }

    #[test]
    fn json_neither_commands_a_terminal_nor_turns_a_line_round() {
        let text = "a\u{9b}31m\u{202e}b\u{e0041}\u{1b}\u{7f}é";
        let json = escaped(&Value::from(text).to_string());
        assert_eq!(json, "\"a\\u009b31m\\u202eb\\udb40\\udc41\\u001b\\u007fé\"");
        assert_eq!(serde_json::from_str::<String>(&json).unwrap(), text);
    }

    #[test]
    fn advice_of_the_library_is_said_in_words() {
        let now = OffsetDateTime::from_unix_timestamp(1_700_000_000).unwrap();
        for (advice, text, json) in [
            ("idle_timeout", "it stalled; see --idle-timeout", "\"it stalled; see --idle-timeout\""),
            ("", "it stalled", "\"it stalled\""),
        ] {
            let fields = [("advice", kv::Value::from(advice))];
            let mut record = Record::builder();
            record.level(Level::Warn).args(format_args!("it stalled")).key_values(&fields);
            assert_eq!(line(Format::Text, now, &record.build()), LogLine::Text(Level::Warn, text.to_owned()));
            let expected =
                format!("{{\"level\":\"warn\",\"message\":{json},\"time\":\"2023-11-14T22:13:20.000Z\"}}\n");
            assert_eq!(line(Format::Json, now, &record.build()), LogLine::Json(expected));
        }
    }
}
