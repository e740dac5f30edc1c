//! Lines that say the same again and again: a few are written, the others counted.

use std::collections::HashMap;
use std::time::Duration;

use log::{Level, Record};

use super::line::{Format, LINE_MAX, LogLine, cut, plain};

/// Lines of one kind in a second; further ones are counted.
const SAME_MAX: u64 = 5;

/// Kinds of lines that are counted. There are fewer places in the source that log.
const KINDS_MAX: usize = 512;

/// The number of lines in this second for each place in the source.
#[derive(Default)]
pub(super) struct Repeats(HashMap<(&'static str, u32), LineKind>);

struct LineKind {
    second: u64,
    /// How often it was said.
    said: u64,
    level: Level,
    /// The first line that was not written.
    like: String,
}

/// Lines of one kind that were not written.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Repeated {
    level: Level,
    count: u64,
    like: String,
}

impl Repeated {
    pub(super) fn line(&self, format: Format) -> LogLine {
        let text = format!("{} more lines within a second like: {}", self.count, self.like);
        plain(format, self.level, &text)
    }
}

/// The verdict on a line.
pub(super) struct RepeatVerdict {
    /// Lines of its kind in an elapsed second, which were only counted.
    pub(super) ended: Option<Repeated>,
    pub(super) fate: LineFate,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum LineFate {
    Said,
    /// It is the first of its kind in this second that is not said.
    FirstCounted,
    Counted,
}

impl Repeats {
    /// Whether a line is to be said, or only counted.
    pub(super) fn say(&mut self, record: &Record<'_>, second: u64) -> RepeatVerdict {
        let said = RepeatVerdict { ended: None, fate: LineFate::Said };
        let Some(place) = record.file_static().zip(record.line()) else { return said };
        if self.0.len() >= KINDS_MAX && !self.0.contains_key(&place) {
            return said;
        }
        let kind = self.0.entry(place).or_insert_with(|| LineKind::new(second, record.level()));
        let ended = if kind.second == second { None } else { kind.end(second) };
        kind.said += 1;
        let fate = match kind.said {
            ..=SAME_MAX => LineFate::Said,
            count if count == SAME_MAX + 1 => {
                kind.like = cut(&record.args().to_string(), LINE_MAX / 8).to_owned();
                LineFate::FirstCounted
            }
            _ => LineFate::Counted,
        };
        RepeatVerdict { ended, fate }
    }

    /// How long it is until lines that were not written are to be told of, if there are any.
    pub(super) fn next_look(&self, second: u64) -> Option<Duration> {
        let first = self.0.values().filter(|kind| kind.said > SAME_MAX).map(|kind| kind.second).min()?;
        Some(if first < second { Duration::ZERO } else { Duration::from_secs(1) })
    }

    /// The lines that were not written in the seconds before this one.
    pub(super) fn ended(&mut self, second: u64) -> Vec<Repeated> {
        let ended = self.0.values_mut().filter(|kind| kind.second < second && kind.said > SAME_MAX);
        ended.filter_map(|kind| kind.end(second)).collect()
    }
}

impl LineKind {
    fn new(second: u64, level: Level) -> Self {
        LineKind { second, said: 0, level, like: String::new() }
    }

    /// Begins with another second. Returns what was not written in the one before.
    fn end(&mut self, second: u64) -> Option<Repeated> {
        let LineKind { said, level, like, .. } = std::mem::replace(self, LineKind::new(second, self.level));
        let count = said.checked_sub(SAME_MAX).filter(|count| *count > 0)?;
        Some(Repeated { level, count, like })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_one_kind_are_counted() {
        let mut repeats = Repeats::default();
        fn say(repeats: &mut Repeats, line: u32, second: u64) -> (LineFate, Option<Repeated>) {
            let mut record = Record::builder();
            record.level(Level::Info).file_static(Some("file.rs")).line(Some(line));
            let said = repeats.say(&record.args(format_args!("text")).build(), second);
            (said.fate, said.ended)
        }
        let told = |count| Repeated { level: Level::Info, count, like: "text".to_owned() };
        for _ in 0..SAME_MAX {
            assert_eq!(say(&mut repeats, 1, 7), (LineFate::Said, None));
        }
        assert_eq!(repeats.next_look(7), None);
        assert_eq!(say(&mut repeats, 1, 7), (LineFate::FirstCounted, None));
        assert_eq!(say(&mut repeats, 1, 7), (LineFate::Counted, None));
        assert!(repeats.next_look(7).is_some());
        // Another kind is another matter.
        assert_eq!(say(&mut repeats, 2, 7), (LineFate::Said, None));
        // When the second has elapsed the count is logged once, whether more lines come or not.
        assert_eq!(repeats.ended(7), []);
        assert_eq!((repeats.ended(8), repeats.ended(8)), (vec![told(2)], vec![]));
        assert_eq!(say(&mut repeats, 1, 8), (LineFate::Said, None));
        (0..SAME_MAX).for_each(|_| drop(say(&mut repeats, 1, 8)));
        assert_eq!(say(&mut repeats, 1, 20), (LineFate::Said, Some(told(1))));
        assert_eq!(repeats.next_look(21), None);
    }
}
