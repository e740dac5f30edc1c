//! How long pings take: pure, with time as an argument.

use std::collections::VecDeque;
use std::time::Instant;

use tungstenite::Bytes;

/// Pings that are kept while they are not answered; of older ones no answer is expected.
const KEPT: usize = 16;

/// The pings that were sent and are not answered yet, the oldest first.
#[derive(Debug, Default)]
pub(super) struct Pinged(VecDeque<(Bytes, Instant)>);

impl Pinged {
    /// A ping with this payload was sent.
    pub(super) fn sent(&mut self, payload: Bytes, now: Instant) {
        if self.0.len() == KEPT {
            self.0.pop_front();
        }
        self.0.push_back((payload, now));
    }

    /// A pong came. Returns when its ping was sent. Whoever has several to answer may answer the last alone
    /// (RFC 6455 §5.5.3).
    pub(super) fn answered(&mut self, payload: &[u8]) -> Option<Instant> {
        let index = self.0.iter().position(|(sent, _)| sent == payload)?;
        self.0.drain(..=index).next_back().map(|(_, sent)| sent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_pong_answers_the_ping_with_its_payload_and_those_before_it() {
        let start = Instant::now();
        let mut pinged = Pinged::default();
        let mut times = Vec::new();
        for number in 0..20_u8 {
            times.push(start + Duration::from_secs(number.into()));
            pinged.sent(vec![number].into(), times[usize::from(number)]);
        }
        assert_eq!(pinged.answered(&[3]), None, "too old");
        assert_eq!(pinged.answered(&[4]), Some(times[4]));
        assert_eq!(pinged.answered(b"unasked"), None);
        assert_eq!(pinged.answered(&[10]), Some(times[10]));
        assert_eq!(pinged.answered(&[9]), None, "answered with the one behind it");
        assert_eq!(pinged.answered(&[11]), Some(times[11]));
    }
}
