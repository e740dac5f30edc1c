//! The payload of a ping: the time when it was sent. So its pong, however late and among however many, tells which it answers.

use std::time::Duration;

use tungstenite::Bytes;

/// The payload of a ping that is sent at this time after the session's start.
pub(super) fn payload(sent: Duration) -> Bytes {
    micros(sent).to_be_bytes().to_vec().into()
}

/// The time of the ping that a pong with this payload answers, measured from the session's start like that of its
/// arrival; `None` when it answers none of ours.
pub(super) fn sent(payload: &[u8], came: Duration) -> Option<Duration> {
    let sent = u64::from_be_bytes(payload.try_into().ok()?);
    (sent <= micros(came)).then(|| Duration::from_micros(sent))
}

/// Truncates a time to the microseconds that a ping carries.
pub(super) fn truncated(sent: Duration) -> Duration {
    Duration::from_micros(micros(sent))
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pong_tells_when_its_ping_was_sent() {
        let at = Duration::from_millis;
        let (first, second) = (payload(at(1_000)), payload(at(2_000)));
        assert_eq!(sent(&first, at(2_500)), Some(at(1_000)));
        assert_eq!(sent(&second, at(2_501)), Some(at(2_000)));
        for unasked in [&b""[..], b"unasked", &payload(at(9_000))] {
            assert_eq!(sent(unasked, at(3_000)), None, "{unasked:?}");
        }
    }
}
