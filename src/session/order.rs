//! The order of answers: it alone matches answers to requests without an ID.

use std::collections::VecDeque;

/// The way in which a gateway matches answers to requests without an ID.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Correlation {
    /// By their order: the first answer belongs to the first request.
    #[default]
    Order,
    /// The gateway has a single waiting slot, which each newer request takes over: only the newest request
    /// is answered. An answer that is on the wire already when a newer request arrives goes to the wrong
    /// client; that cannot be helped from this side.
    Latest,
}

/// Holds answers back until all that come before them are there.
///
/// A place is the number of a request without an ID, counted from 0 in the order of arrival. Each place is
/// filled exactly once.
#[derive(Debug)]
pub(super) struct Order<T> {
    correlation: Correlation,
    /// The number of places that are filled; under [`Correlation::Order`] also the place whose turn it is.
    done: u64,
    held: VecDeque<Option<T>>,
}

impl<T> Order<T> {
    pub(super) fn new(correlation: Correlation) -> Self {
        Order { correlation, done: 0, held: VecDeque::new() }
    }

    /// Places that are done with.
    pub(super) fn done(&self) -> u64 {
        self.done
    }

    /// Fills a place, and returns what may go out now, in order. `newest` is the last place that was given
    /// out.
    pub(super) fn fill(&mut self, place: u64, answer: T, newest: u64) -> Vec<T> {
        match self.correlation {
            Correlation::Latest => {
                self.done += 1;
                if place == newest { vec![answer] } else { Vec::new() }
            }
            Correlation::Order => self.fill_in_order(place, answer),
        }
    }

    fn fill_in_order(&mut self, place: u64, answer: T) -> Vec<T> {
        let Some(ahead) = place.checked_sub(self.done).and_then(|ahead| usize::try_from(ahead).ok()) else {
            debug_assert!(false, "a place is filled once");
            return Vec::new();
        };
        if self.held.len() <= ahead {
            self.held.resize_with(ahead + 1, || None);
        }
        self.held[ahead] = Some(answer);
        let mut ready = Vec::new();
        while let Some(Some(answer)) = self.held.front_mut().map(Option::take) {
            self.held.pop_front();
            self.done += 1;
            ready.push(answer);
        }
        ready
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_leave_in_the_order_of_their_places() {
        let mut order = Order::new(Correlation::Order);
        assert!(order.fill(2, 'c', 2).is_empty());
        assert!(order.fill(1, 'b', 2).is_empty());
        assert_eq!(order.done(), 0);
        assert_eq!(order.fill(0, 'a', 2), ['a', 'b', 'c']);
        assert_eq!(order.fill(3, 'd', 5), ['d']);
        assert!(order.fill(5, 'f', 5).is_empty());
        assert_eq!(order.fill(4, 'e', 5), ['e', 'f']);
        assert_eq!(order.done(), 6);
    }

    #[test]
    fn latest_answers_only_the_newest() {
        let mut order = Order::new(Correlation::Latest);
        assert_eq!(order.fill(0, 'a', 0), ['a']);
        assert!(order.fill(1, 'b', 2).is_empty());
        assert_eq!(order.fill(2, 'c', 2), ['c']);
        assert_eq!(order.done(), 3);
    }
}
