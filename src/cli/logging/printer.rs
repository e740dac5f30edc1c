//! The output of lines: by simple_logger where they are texts, by this module where they are JSON.

use std::io::Write;

use super::line::LogLine;

/// Writes lines to standard error, on one thread.
pub(super) struct Printer {
    #[cfg(panic = "unwind")]
    text: simple_logger::SimpleLogger,
    /// The program's name, which stands in each text.
    program: &'static str,
}

impl Printer {
    pub(super) fn new(program: &'static str) -> Self {
        Printer {
            #[cfg(panic = "unwind")]
            text: simple_logger::SimpleLogger::new().with_utc_timestamps(),
            program,
        }
    }

    /// Writes lines in their order. An error means that standard error is closed, and changes nothing.
    pub(super) fn print(&self, lines: &[LogLine]) {
        let mut objects = String::new();
        for line in lines {
            match line {
                LogLine::Json(json) => objects.push_str(json),
                LogLine::Text(level, text) => self.print_text(*level, text),
            }
        }
        // All lines have one format.
        let _ = std::io::stderr().write_all(objects.as_bytes());
    }

    #[cfg(panic = "unwind")]
    fn print_text(&self, level: log::Level, text: &str) {
        use std::panic::{AssertUnwindSafe, catch_unwind};

        use log::Log;

        let print = || {
            let record = &mut log::Record::builder();
            self.text.log(&record.level(level).target(self.program).args(format_args!("{text}")).build());
        };
        // It panics when standard error is closed, and has nothing that a panic could leave half done.
        let _ = catch_unwind(AssertUnwindSafe(print));
    }

    /// Where a panic would end the process, texts are not for simple_logger.
    #[cfg(not(panic = "unwind"))]
    fn print_text(&self, level: log::Level, text: &str) {
        let time = super::line::timestamp(time::OffsetDateTime::now_utc());
        let line = format!("{time} {level:<5} [{}] {text}\n", self.program);
        let _ = std::io::stderr().write_all(line.as_bytes());
    }
}
