//! The lines that wait to be written.

use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::Duration;

use super::line::LogLine;
use crate::sync::{lock, wait_timeout_while, wait_while};

/// Bytes of lines that wait to be written, at most.
const WAITING_MAX: usize = 1 << 20;

/// Lines that wait to be written.
#[derive(Default)]
pub(super) struct LogQueue {
    state: Mutex<WaitingLines>,
    changed: Condvar,
}

#[derive(Default)]
struct WaitingLines {
    lines: Vec<LogLine>,
    /// The bytes of their texts.
    bytes: usize,
    /// Lines that were taken are being written.
    writing: bool,
    /// Lines for which there was no room.
    dropped: u64,
    /// The thread that writes waits for something to write.
    idle: bool,
    /// It is to look again at what there is.
    look: bool,
    /// Threads that wait until all is written: without one, a notification would be a system call for nothing.
    flushing: usize,
}

impl LogQueue {
    fn state(&self) -> MutexGuard<'_, WaitingLines> {
        lock(&self.state)
    }

    /// Adds a line, if there is room. Never waits for the reader of the log.
    pub(super) fn push(&self, line: LogLine) {
        let mut state = self.state();
        // An empty line takes up memory, too.
        let bytes = line.len() + size_of::<LogLine>();
        if state.bytes + bytes > WAITING_MAX {
            state.dropped += 1;
        } else {
            state.bytes += bytes;
            state.lines.push(line);
        }
        if std::mem::take(&mut state.idle) {
            self.changed.notify_all();
        }
    }

    /// Has the thread that writes look again at what there is.
    pub(super) fn wake(&self) {
        let mut state = self.state();
        state.look = true;
        if std::mem::take(&mut state.idle) {
            self.changed.notify_all();
        }
    }

    /// Waits for lines, no longer than this if a time is given. Returns them, and how many were dropped.
    pub(super) fn take(&self, limit: Option<Duration>) -> (Vec<LogLine>, u64) {
        let mut state = self.state();
        if state.lines.is_empty() && state.dropped == 0 && !state.look {
            state.idle = true;
            if state.flushing > 0 {
                self.changed.notify_all();
            }
            let is_idle = |state: &mut WaitingLines| state.idle;
            state = match limit {
                Some(limit) => wait_timeout_while(&self.changed, state, limit, is_idle),
                None => wait_while(&self.changed, state, is_idle),
            };
            state.idle = false;
        }
        state.look = false;
        state.writing = true;
        state.bytes = 0;
        (std::mem::take(&mut state.lines), std::mem::take(&mut state.dropped))
    }

    /// Records that the lines that were taken are written.
    pub(super) fn written(&self) {
        // The thread that waits for this is woken when the next look finds nothing more.
        self.state().writing = false;
    }

    /// Waits until all lines are written, at most this long.
    pub(super) fn wait_until_written(&self, limit: Duration) {
        let is_busy = |state: &mut WaitingLines| !state.idle || state.writing || !state.lines.is_empty();
        let mut state = self.state();
        state.flushing += 1;
        state = wait_timeout_while(&self.changed, state, limit, is_busy);
        state.flushing -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_queue_drops_lines_and_counts_them() {
        let queue = LogQueue::default();
        let line = || LogLine::Json("x".repeat(1000));
        let count = WAITING_MAX / (1000 + size_of::<LogLine>());
        (0..count + 3).for_each(|_| queue.push(line()));
        let (lines, dropped) = queue.take(None);
        assert_eq!((lines.len(), dropped), (count, 3));
        queue.push(line());
        assert_eq!(queue.take(None), (vec![line()], 0));
        assert_eq!(queue.take(Some(Duration::ZERO)), (Vec::new(), 0));
    }
}
