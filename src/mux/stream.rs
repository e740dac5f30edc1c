//! Where one stream is, as one side of its connection sees it.
//!
//! ```text
//!                    HEAD: opened or accepted
//!                               │
//!                               ▼
//!            ┌────────────────────────────────────────┐
//!            │ Open                                   │   RESET by either side, GOAWAY below it,
//!            │  each direction by itself:             │   loss of the connection
//!            │  AwaitingHead ─▶ Body ─▶ Ending ─▶ Ended│ ─────────────────────┐
//!            └────────────────────────────────────────┘                      │
//!              │ the response has ended; of an upgrade,                      │
//!              ▼ both directions have                                        ▼
//!        Closed(Ended)                              Closed(ByPeer │ ByUs │ Lost)
//! ```
//!
//! `Ending` exists in the sending direction alone: the end is queued, and has not gone out. Compare RFC 9113 §5.1,
//! whose states name both directions at once.

use super::frame::{Fin, Reset};

/// The side of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The side that answers streams.
    Agent,
    /// The side that opens streams.
    Gateway,
}

/// When a stream closes by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Closing {
    /// With the end of its response, whatever is missing of its request.
    WithResponse,
    /// When both directions have ended: after a change of protocol there is no response that could.
    WithBoth,
}

/// Why a stream is closed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StreamEnd {
    /// It has ended in good order.
    Ended,
    /// The peer reset it.
    ByPeer(Reset),
    /// This side reset it.
    ByUs(Reset),
    /// The connection was lost.
    Lost,
}

/// How far one direction of a stream is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    AwaitingHead,
    Body,
    Ending,
    Ended,
}

impl Direction {
    fn after_head(fin: Fin) -> Self {
        match fin {
            Fin::More => Direction::Body,
            Fin::Last => Direction::Ended,
        }
    }
}

/// The state of a stream.
#[derive(Debug)]
pub(super) enum StreamState {
    Open {
        side: Side,
        sending: Direction,
        receiving: Direction,
        closing: Closing,
    },
    /// `receiving` is how far the peer had come: what broke off must not look whole.
    Closed {
        end: StreamEnd,
        receiving: Direction,
    },
}

impl StreamState {
    /// A stream that the gateway opens, with a head that may be all of its request.
    pub(super) fn opened(fin: Fin, closing: Closing) -> Self {
        let sending = Direction::after_head(fin);
        StreamState::Open { side: Side::Gateway, sending, receiving: Direction::AwaitingHead, closing }
    }

    /// A stream that the agent accepts.
    pub(super) fn accepted(fin: Fin) -> Self {
        let (receiving, closing) = (Direction::after_head(fin), Closing::WithResponse);
        StreamState::Open { side: Side::Agent, sending: Direction::AwaitingHead, receiving, closing }
    }

    /// Why the stream is closed, if it is.
    pub(super) fn end(&self) -> Option<&StreamEnd> {
        match self {
            StreamState::Open { .. } => None,
            StreamState::Closed { end, .. } => Some(end),
        }
    }

    pub(super) fn is_open(&self) -> bool {
        matches!(self, StreamState::Open { .. })
    }

    /// Whether the peer has sent all that it sends, and nothing broke off.
    pub(super) fn is_received(&self) -> bool {
        match self {
            StreamState::Open { receiving, .. }
            | StreamState::Closed { end: StreamEnd::Ended, receiving } => *receiving == Direction::Ended,
            StreamState::Closed { .. } => false,
        }
    }

    /// Whether this side has queued its end, or sent it.
    pub(super) fn is_end_queued(&self) -> bool {
        matches!(self, StreamState::Open { sending: Direction::Ending | Direction::Ended, .. })
    }

    /// Whether this side has its head still to send.
    pub(super) fn awaits_head_of_ours(&self) -> bool {
        matches!(self, StreamState::Open { sending: Direction::AwaitingHead, .. })
    }

    /// Records the head of a response of ours, and when the stream closes behind it.
    pub(super) fn head_sent(&mut self, fin: Fin, behind: Closing) {
        if let StreamState::Open { sending, closing, .. } = self {
            (*sending, *closing) = (Direction::Body, behind);
        }
        if fin == Fin::Last {
            self.end_sent();
        }
    }

    /// Records the head of the peer's response, or says which rule it breaks.
    pub(super) fn head_received(&mut self, fin: Fin, behind: Closing) -> Result<(), &'static str> {
        if let StreamState::Open { receiving, closing, .. } = self {
            if *receiving != Direction::AwaitingHead {
                return Err("a second head");
            }
            *receiving = Direction::Body;
            if behind == Closing::WithResponse {
                *closing = behind;
            }
        }
        if fin == Fin::Last {
            self.end_received();
        }
        Ok(())
    }

    /// Says which rule the peer's data breaks, if it breaks one.
    pub(super) fn data_received(&self) -> Result<(), &'static str> {
        match self {
            StreamState::Open { receiving: Direction::AwaitingHead, .. } => Err("data before the head"),
            StreamState::Open { receiving: Direction::Ended, .. } => Err("data after the end"),
            StreamState::Open { .. } | StreamState::Closed { .. } => Ok(()),
        }
    }

    /// Records that the last data of ours is queued.
    pub(super) fn end_queued(&mut self) {
        if let StreamState::Open { sending, .. } = self {
            *sending = Direction::Ending;
        }
    }

    /// Records that our END has gone out.
    pub(super) fn end_sent(&mut self) {
        let StreamState::Open { side, sending, receiving, closing } = self else { return };
        *sending = Direction::Ended;
        let is_response = *side == Side::Agent && *closing == Closing::WithResponse;
        if is_response || *receiving == Direction::Ended {
            self.close(StreamEnd::Ended);
        }
    }

    /// Records that the last of the peer's has come.
    pub(super) fn end_received(&mut self) {
        let StreamState::Open { side, sending, receiving, closing } = self else { return };
        *receiving = Direction::Ended;
        let is_response = *side == Side::Gateway && *closing == Closing::WithResponse;
        if is_response || *sending == Direction::Ended {
            self.close(StreamEnd::Ended);
        }
    }

    /// Closes the stream, unless it is closed.
    pub(super) fn close(&mut self, end: StreamEnd) {
        if let StreamState::Open { receiving, .. } = self {
            *self = StreamState::Closed { end, receiving: *receiving };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(mut state: StreamState, steps: &[fn(&mut StreamState)], end: Option<StreamEnd>) {
        for (index, step) in steps.iter().enumerate() {
            assert!(state.is_open(), "closed before step {index}");
            step(&mut state);
        }
        assert_eq!(state.end(), end.as_ref());
    }

    #[test]
    fn a_response_closes_the_stream_and_a_request_does_not() {
        let more = || StreamState::accepted(Fin::More);
        let respond: fn(&mut StreamState) = |state| state.head_sent(Fin::Last, Closing::WithResponse);
        check(more(), &[respond], Some(StreamEnd::Ended));
        check(more(), &[StreamState::end_received], None);
        check(more(), &[StreamState::end_received, respond], Some(StreamEnd::Ended));
        let opened = || StreamState::opened(Fin::More, Closing::WithResponse);
        let answered: fn(&mut StreamState) =
            |state| state.head_received(Fin::Last, Closing::WithResponse).unwrap();
        check(opened(), &[answered], Some(StreamEnd::Ended));
        check(opened(), &[StreamState::end_sent], None);
    }

    #[test]
    fn an_upgrade_closes_when_both_directions_have_ended() {
        let switch: fn(&mut StreamState) = |state| state.head_sent(Fin::More, Closing::WithBoth);
        let agent = || StreamState::accepted(Fin::More);
        check(agent(), &[switch, StreamState::end_queued, StreamState::end_sent], None);
        check(agent(), &[switch, StreamState::end_sent, StreamState::end_received], Some(StreamEnd::Ended));
        check(agent(), &[switch, StreamState::end_received, StreamState::end_queued], None);
        let gateway = || StreamState::opened(Fin::More, Closing::WithBoth);
        let switched: fn(&mut StreamState) =
            |state| state.head_received(Fin::More, Closing::WithBoth).unwrap();
        check(gateway(), &[switched, StreamState::end_received], None);
        check(
            gateway(),
            &[switched, StreamState::end_received, StreamState::end_sent],
            Some(StreamEnd::Ended),
        );
        // The server did not change the protocol: its response ends the stream like any other.
        let declined: fn(&mut StreamState) =
            |state| state.head_received(Fin::Last, Closing::WithResponse).unwrap();
        check(gateway(), &[declined], Some(StreamEnd::Ended));
    }

    #[test]
    fn a_request_that_its_response_has_overtaken_is_not_received() {
        let mut state = StreamState::accepted(Fin::More);
        state.head_sent(Fin::Last, Closing::WithResponse);
        assert!(!state.is_open() && !state.is_received());
        let mut state = StreamState::accepted(Fin::Last);
        state.head_sent(Fin::Last, Closing::WithResponse);
        assert!(!state.is_open() && state.is_received());
    }

    #[test]
    fn a_direction_has_one_head_and_one_end() {
        let mut state = StreamState::opened(Fin::Last, Closing::WithResponse);
        assert_eq!(state.data_received(), Err("data before the head"));
        state.head_received(Fin::More, Closing::WithResponse).unwrap();
        assert_eq!(state.data_received(), Ok(()));
        assert_eq!(state.head_received(Fin::More, Closing::WithResponse), Err("a second head"));
        let mut state = StreamState::accepted(Fin::Last);
        assert_eq!(state.data_received(), Err("data after the end"));
        assert!(state.is_received() && state.awaits_head_of_ours() && !state.is_end_queued());
        state.close(StreamEnd::Lost);
        state.close(StreamEnd::Ended);
        assert_eq!(state.end(), Some(&StreamEnd::Lost));
        assert!(!state.is_received());
    }
}
