//! The bytes that answers and control of a session may take up while they wait to be written.
//!
//! | message | budget | waits |
//! | --- | --- | --- |
//! | answers with an ID, and the one whose turn it is | 2 × max-message | workers |
//! | answers held back for their turn | 2 × max-message of their own | workers |
//! | control: pongs, news of the gateway, refusals of requests with an ID | [`CONTROL_MAX`], then the session ends | no thread |
//! | refusals of requests without an ID | their number | no thread |
//!
//! One answer always fits, and the answer whose turn it is never waits: those behind it could keep it out otherwise.
//! Workers that wait are woken when the session ends.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use super::SessionEnd;
use crate::sync::{Waiters, lock};

/// More queued control than this, in bytes, means that the gateway has stopped reading.
pub(super) const CONTROL_MAX: usize = 1 << 20;

/// The budget that bytes are taken from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum BudgetKind {
    Direct,
    Held,
    Control,
}

/// The bytes that the messages of a session take up.
#[derive(Debug)]
pub(super) struct Credits {
    /// The largest envelope, in bytes.
    max_message: usize,
    answers: Mutex<AnswerCredit>,
    freed: Waiters,
    control: AtomicUsize,
}

/// The bytes that answers take up.
#[derive(Debug, Default)]
struct AnswerCredit {
    direct_used: usize,
    held_used: usize,
    /// The place whose turn it is.
    turn: u64,
    /// The session has ended.
    is_closed: bool,
}

impl AnswerCredit {
    /// Takes bytes for the answer at this place, if there are enough.
    fn take(&mut self, place: Option<u64>, bytes: usize, max: usize) -> Option<BudgetKind> {
        let is_held = place.is_some_and(|place| place > self.turn);
        let its_turn = place.is_some_and(|place| place <= self.turn);
        let (used, budget) = if is_held {
            (&mut self.held_used, BudgetKind::Held)
        } else {
            (&mut self.direct_used, BudgetKind::Direct)
        };
        let fits = its_turn || *used == 0 || *used + bytes <= max;
        fits.then(|| {
            *used += bytes;
            budget
        })
    }
}

/// Bytes of a budget, given back when it is dropped.
#[derive(Debug)]
pub(super) struct Reservation {
    credits: Arc<Credits>,
    budget: BudgetKind,
    bytes: usize,
}

impl Reservation {
    /// Whether the bytes are of the budget for control.
    pub(super) fn is_control(&self) -> bool {
        self.budget == BudgetKind::Control
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let bytes = self.bytes;
        match self.budget {
            BudgetKind::Control => drop(self.credits.control.fetch_sub(bytes, Ordering::Relaxed)),
            BudgetKind::Direct => self.credits.change(|answers| answers.direct_used -= bytes),
            BudgetKind::Held => self.credits.change(|answers| answers.held_used -= bytes),
        }
    }
}

impl Credits {
    /// The credits of a new session, whose largest envelope has this many bytes.
    pub(super) fn new(max_message: usize) -> Arc<Self> {
        Arc::new(Credits {
            max_message,
            answers: Mutex::default(),
            freed: Waiters::default(),
            control: AtomicUsize::new(0),
        })
    }

    /// The largest envelope either way, in bytes.
    pub(super) fn max_message(&self) -> usize {
        self.max_message
    }

    fn answers(&self) -> MutexGuard<'_, AnswerCredit> {
        lock(&self.answers)
    }

    /// Changes the credit of answers, and wakes the workers that wait for it.
    fn change(&self, change: impl FnOnce(&mut AnswerCredit)) {
        let mut answers = self.answers();
        change(&mut answers);
        self.freed.release(answers);
    }

    /// The place whose turn it is.
    pub(super) fn turn(&self) -> u64 {
        self.answers().turn
    }

    /// Records that it is this place's turn.
    pub(super) fn set_turn(&self, turn: u64) {
        self.change(|answers| answers.turn = turn);
    }

    /// Records that the session has ended: no worker waits any more.
    pub(super) fn close(&self) {
        self.change(|answers| answers.is_closed = true);
    }

    /// Waits for room for the answer at this place. `None` when the session has ended.
    pub(super) fn reserve(self: &Arc<Self>, place: Option<u64>, bytes: usize) -> Option<Reservation> {
        let mut answers = self.answers();
        while !answers.is_closed {
            if let Some(budget) = answers.take(place, bytes, self.max_message.saturating_mul(2)) {
                return Some(Reservation { credits: self.clone(), budget, bytes });
            }
            answers = self.freed.wait(answers, None);
        }
        None
    }

    /// Takes room for control. Fails when the gateway has stopped reading: more is queued than may be. Never blocks.
    pub(super) fn reserve_control(self: &Arc<Self>, bytes: usize) -> (Reservation, Result<(), SessionEnd>) {
        let queued = self.control.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let fits = if queued <= CONTROL_MAX { Ok(()) } else { Err(SessionEnd::NotReading) };
        (Reservation { credits: self.clone(), budget: BudgetKind::Control, bytes }, fits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: usize = 100;

    #[test]
    fn one_answer_always_fits_and_more_up_to_the_limit() {
        let mut credit = AnswerCredit::default();
        assert_eq!(credit.take(None, 1000, MAX), Some(BudgetKind::Direct));
        assert_eq!(credit.take(None, 1, MAX), None);
        credit.direct_used = 99;
        assert_eq!(credit.take(None, 1, MAX), Some(BudgetKind::Direct));
        assert_eq!(credit.take(None, 1, MAX), None);
    }

    #[test]
    fn held_answers_have_a_budget_of_their_own() {
        let mut credit = AnswerCredit { direct_used: MAX, turn: 3, ..AnswerCredit::default() };
        assert_eq!(credit.take(Some(5), 60, MAX), Some(BudgetKind::Held));
        assert_eq!(credit.take(Some(4), 60, MAX), None);
        assert_eq!(credit.take(None, 1, MAX), None);
    }

    #[test]
    fn the_answer_whose_turn_it_is_never_waits() {
        let mut credit =
            AnswerCredit { direct_used: MAX, held_used: MAX, turn: 3, ..AnswerCredit::default() };
        assert_eq!(credit.take(Some(3), 1000, MAX), Some(BudgetKind::Direct));
        assert_eq!(credit.take(Some(4), 1, MAX), None);
        credit.turn = 4;
        assert_eq!(credit.take(Some(4), 1, MAX), Some(BudgetKind::Direct));
    }
}
