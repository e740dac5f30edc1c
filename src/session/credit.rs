//! The bytes that answers of a session may take up.

/// The budget that bytes are taken from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BudgetKind {
    Direct,
    Held,
    Control,
}

/// The bytes that are taken up.
#[derive(Debug, Default)]
pub(super) struct Credit {
    pub(super) direct: usize,
    pub(super) held: usize,
    /// The place whose turn it is.
    pub(super) turn: u64,
}

impl Credit {
    /// Takes bytes for the answer at this place, if there are enough.
    pub(super) fn take(&mut self, place: Option<u64>, bytes: usize, max: usize) -> Option<BudgetKind> {
        let is_held = place.is_some_and(|place| place > self.turn);
        let its_turn = place.is_some_and(|place| place <= self.turn);
        let (used, budget) =
            if is_held { (&mut self.held, BudgetKind::Held) } else { (&mut self.direct, BudgetKind::Direct) };
        let fits = its_turn || *used == 0 || *used + bytes <= max;
        fits.then(|| {
            *used += bytes;
            budget
        })
    }
}
