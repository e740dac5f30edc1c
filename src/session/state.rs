//! The state machine of a session: events go in, and the next step comes out. Pure; time is an argument.
//!
//! ```text
//!            drain                     answered or out of time
//!   Open ───────────▶ Draining ──────────────────────────────▶ Closing ──▶ Ended
//!    │                   │    close frame, violation, `error`     ▲  reply, end of
//!    └───────────────────┴────────────────────────────────────────┘  file, or 1 s
//!   silence, a stalled write and a reader that ended lead to Ended from anywhere
//! ```

use std::time::{Duration, Instant};

use super::end::SessionEnd;
use super::{CLOSE_WAIT, ping};
use crate::link::{Outbound, close};

/// While more than this waits to be written, a ping waits behind it: what the kernel takes of it then proves that the
/// gateway reads, as well as a pong.
const AHEAD_OF_PING: usize = 64 << 10;

/// Without `TCP_NOTSENT_LOWAT` a ping waits behind the kernel's send buffer: for each of these many bytes that it has
/// taken since anything was last heard, the liveness deadline moves by [`SLACK_TIME`].
const SLACK_BYTES: u64 = 64 << 10;

/// See [`SLACK_BYTES`].
const SLACK_TIME: Duration = Duration::from_secs(1);

/// The time that a draining session waits for streams that were opened before the gateway received its first GOAWAY
/// (compare RFC 9113 §6.8).
const BARRIER_TIME: Duration = Duration::from_secs(1);

/// How long the gateway may take to answer after the machine slept.
const PROBE_TIME: Duration = Duration::from_secs(3);

/// How a session finds out that its peer is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heartbeat {
    /// The interval between pings; 15 s by default.
    pub ping_interval: Duration,
    /// The time beyond it after which a gateway that sends nothing counts as gone; 10 s by default. Any received byte
    /// counts, and so does progress of what is sent.
    pub pong_timeout: Duration,
}

impl Default for Heartbeat {
    fn default() -> Self {
        Heartbeat { ping_interval: Duration::from_secs(15), pong_timeout: Duration::from_secs(10) }
    }
}

/// The next step of the writer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NextStep {
    /// Sends this.
    Send(Outbound),
    /// Says which stream is the last: what crossed the first GOAWAY has arrived.
    LastStream(&'static str),
    /// Nothing, until something happens or this time comes.
    Wait(Instant),
    /// Ends the session.
    End(SessionEnd),
}

/// Whether a close frame is to be answered by the gateway before the session ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CloseReply {
    Expected,
    None,
}

#[derive(Debug)]
enum SessionPhase {
    Open,
    Draining { until: Instant, why: &'static str, barrier: DrainBarrier },
    Closing { until: Instant, reply: CloseReply, end: SessionEnd },
    Ended(SessionEnd),
}

/// Whether requests may still arrive that were sent before the gateway heard of the drain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DrainBarrier {
    /// A ping is to be sent, whose pong says that all of them have arrived.
    PingDue,
    /// It was sent so long after the session's start, and is waited for until this time.
    AwaitingPong(Duration, Instant),
    /// None may, or they need not be waited for.
    Passed,
}

/// How much the kernel holds back unsent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unsent {
    /// Little: what it takes is on its way.
    Bounded,
    /// As much as it likes.
    Unbounded,
}

/// The rules of a session: heartbeat, liveness, drain, close.
#[derive(Debug)]
pub(super) struct SessionState {
    heartbeat: Heartbeat,
    phase: SessionPhase,
    next_ping: Instant,
    began: Instant,
    heard: Instant,
    unsent: Unsent,
    /// When the kernel last took some of what a ping would have waited behind.
    progressed: Instant,
    written_since_heard: u64,
    /// Since when the gateway is asked whether it is still there.
    probe: Option<Instant>,
    /// The last stream is still to be named, for this reason.
    last_stream: Option<&'static str>,
    /// A close frame that is still to be sent.
    close: Option<(u16, &'static str)>,
}

impl SessionState {
    pub(super) fn new(heartbeat: Heartbeat, unsent: Unsent, now: Instant) -> Self {
        SessionState {
            heartbeat,
            unsent,
            progressed: now,
            phase: SessionPhase::Open,
            next_ping: now + heartbeat.ping_interval,
            began: now,
            heard: now,
            written_since_heard: 0,
            probe: None,
            last_stream: None,
            close: None,
        }
    }

    /// Something was last heard at this time.
    pub(super) fn heard(&mut self, at: Instant) {
        if at > self.heard {
            self.heard = at;
            self.written_since_heard = 0;
            self.probe = None;
        }
    }

    /// The kernel took these bytes, of so many that waited.
    pub(super) fn wrote(&mut self, bytes: u64, waiting: usize, now: Instant) {
        if bytes > 0 && waiting > AHEAD_OF_PING {
            self.progressed = now;
        }
        if self.unsent == Unsent::Unbounded {
            self.written_since_heard += bytes;
        }
    }

    /// The pong came of a ping that was sent so long after the session's start.
    pub(super) fn pong(&mut self, sent: Duration) {
        if let SessionPhase::Draining { barrier, why, .. } = &mut self.phase {
            if matches!(barrier, DrainBarrier::AwaitingPong(asked, _) if sent >= *asked) {
                *barrier = DrainBarrier::Passed;
                self.last_stream = Some(why);
            }
        }
    }

    /// The machine slept: the gateway may have given the session up, and is asked at once.
    pub(super) fn woke(&mut self, now: Instant) {
        self.probe = Some(now);
        self.next_ping = now;
    }

    /// Finish what runs until this time at most, then close. A later call can only shorten it.
    pub(super) fn drain(&mut self, until: Instant, why: &'static str, barrier: DrainBarrier) {
        match &mut self.phase {
            SessionPhase::Open => self.phase = SessionPhase::Draining { until, why, barrier },
            SessionPhase::Draining { until: earlier, .. } => *earlier = until.min(*earlier),
            SessionPhase::Closing { end, .. } => *end = SessionEnd::Shutdown,
            SessionPhase::Ended(_) => {}
        }
    }

    /// The session ends for this reason: it closes first where the gateway can still hear why.
    pub(super) fn end(&mut self, end: SessionEnd, now: Instant) {
        let (code, reply) = match (&end, &self.phase) {
            // The reply to our close frame.
            (
                SessionEnd::ClosedByGateway(_),
                SessionPhase::Closing { reply: CloseReply::Expected, end: ours, .. },
            ) => {
                self.phase = SessionPhase::Ended(ours.clone());
                return;
            }
            (SessionEnd::ClosedByGateway(Some((code, _))), _) => (close::reply_to(*code), CloseReply::None),
            (SessionEnd::ClosedByGateway(None), _) => (close::NORMAL, CloseReply::None),
            // A close frame may be among what is still read and thrown away.
            (SessionEnd::Violation(code, _), _) => (*code, CloseReply::None),
            (SessionEnd::GatewayError(_), _) => (close::NORMAL, CloseReply::Expected),
            // Nothing more can be read, or nothing more be written. The reason is that of a close that was under way.
            (_, SessionPhase::Closing { end: first, .. } | SessionPhase::Ended(first)) => {
                self.phase = SessionPhase::Ended(first.clone());
                return;
            }
            (_, SessionPhase::Open | SessionPhase::Draining { .. }) => {
                self.phase = SessionPhase::Ended(end);
                return;
            }
        };
        self.start_closing((code, ""), reply, end, now + CLOSE_WAIT);
    }

    /// The close frame is on the wire: from now on the other side has its time to answer.
    pub(super) fn close_sent(&mut self, now: Instant) {
        if let SessionPhase::Closing { until, .. } = &mut self.phase {
            *until = now + CLOSE_WAIT;
        }
    }

    /// Sends a close frame, behind what waits to be written, and gives up when that has not happened by
    /// `until`.
    fn start_closing(
        &mut self,
        frame: (u16, &'static str),
        reply: CloseReply,
        end: SessionEnd,
        until: Instant,
    ) {
        if matches!(self.phase, SessionPhase::Open | SessionPhase::Draining { .. }) {
            self.phase = SessionPhase::Closing { until, reply, end };
            self.close = Some(frame);
        }
    }

    /// Whether answers may still be sent: not after a close frame (RFC 6455 §5.5.1).
    pub(super) fn can_send(&self) -> bool {
        matches!(self.phase, SessionPhase::Open | SessionPhase::Draining { .. })
    }

    /// Whether the writing direction is to be ended after the close frame, because of what was received.
    pub(super) fn finishes_after_close(&self) -> bool {
        matches!(self.phase, SessionPhase::Closing { reply: CloseReply::None, .. })
    }

    /// The next step, when `outstanding` requests are not answered yet.
    pub(super) fn step(&mut self, now: Instant, outstanding: u64) -> NextStep {
        if let Some(why) = self.last_stream.take() {
            return NextStep::LastStream(why);
        }
        if let Some((code, reason)) = self.close.take() {
            return NextStep::Send(Outbound::Close(code, reason));
        }
        let drain_until = match &self.phase {
            SessionPhase::Ended(end) => return NextStep::End(end.clone()),
            SessionPhase::Closing { until, end, .. } if now >= *until => return NextStep::End(end.clone()),
            SessionPhase::Closing { until, .. } => return NextStep::Wait(*until),
            SessionPhase::Draining { until, why, barrier }
                if now >= *until || (outstanding == 0 && *barrier == DrainBarrier::Passed) =>
            {
                // Answers that are not written yet have the rest of the time.
                let (until, why) = ((*until).max(now + CLOSE_WAIT), *why);
                self.start_closing(
                    (close::GOING_AWAY, why),
                    CloseReply::Expected,
                    SessionEnd::Shutdown,
                    until,
                );
                return self.step(now, outstanding);
            }
            SessionPhase::Draining { barrier: DrainBarrier::PingDue, .. } => return self.send_barrier(now),
            // A gateway that does not answer has had its time.
            SessionPhase::Draining { barrier: DrainBarrier::AwaitingPong(sent, limit), .. }
                if now >= *limit =>
            {
                let sent = *sent;
                self.pong(sent);
                return self.step(now, outstanding);
            }
            SessionPhase::Draining { until, barrier: DrainBarrier::AwaitingPong(_, limit), .. } => {
                Some(*until.min(limit))
            }
            SessionPhase::Draining { until, .. } => Some(*until),
            SessionPhase::Open => None,
        };
        let dead_at = self.dead_at();
        if now >= dead_at {
            return NextStep::End(SessionEnd::Silent(now - self.heard));
        }
        if now >= self.next_ping {
            self.next_ping = now + self.heartbeat.ping_interval;
            return NextStep::Send(Outbound::Ping(ping::payload(now - self.began)));
        }
        let next = self.next_ping.min(dead_at);
        NextStep::Wait(drain_until.map_or(next, |until| until.min(next)))
    }

    /// Sends a ping, whose pong comes behind all that was sent before the gateway heard of the drain.
    fn send_barrier(&mut self, now: Instant) -> NextStep {
        let sent = now - self.began;
        if let SessionPhase::Draining { barrier, .. } = &mut self.phase {
            *barrier = DrainBarrier::AwaitingPong(ping::truncated(sent), now + BARRIER_TIME);
        }
        NextStep::Send(Outbound::Ping(ping::payload(sent)))
    }

    fn dead_at(&self) -> Instant {
        let slack = SLACK_TIME * u32::try_from(self.written_since_heard / SLACK_BYTES).unwrap_or(u32::MAX);
        let alive = self.heard.max(self.progressed);
        let dead_at = alive + self.heartbeat.ping_interval + self.heartbeat.pong_timeout;
        self.probe.map_or(dead_at, |since| dead_at.min(since + PROBE_TIME)) + slack
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const STOPPING: &str = "the agent is stopping";

    /// A session in virtual time, which starts at 0 s.
    struct Transcript {
        start: Instant,
        state: SessionState,
    }

    impl Transcript {
        fn new() -> Self {
            let start = Instant::now();
            Transcript { start, state: SessionState::new(Heartbeat::default(), Unsent::Bounded, start) }
        }

        fn at(&self, seconds: f64) -> Instant {
            self.start + Duration::from_secs_f64(seconds)
        }

        #[track_caller]
        fn sends(&mut self, at: f64, message: Outbound) {
            assert_eq!(self.state.step(self.at(at), 0), NextStep::Send(message), "at {at} s");
        }

        #[track_caller]
        fn pings(&mut self, at: f64) {
            self.sends(at, Outbound::Ping(ping::payload(Duration::from_secs_f64(at))));
        }

        #[track_caller]
        fn waits(&mut self, at: f64, outstanding: u64, until: f64) {
            let step = self.state.step(self.at(at), outstanding);
            let NextStep::Wait(time) = step else { panic!("at {at} s: {step:?}") };
            assert_eq!((time - self.start).as_secs_f64(), until, "at {at} s");
        }

        #[track_caller]
        fn ends(&mut self, at: f64, end: SessionEnd) {
            assert_eq!(self.state.step(self.at(at), 0), NextStep::End(end), "at {at} s");
        }
    }

    #[test]
    fn pings_go_out_at_every_interval() {
        let mut t = Transcript::new();
        t.waits(0.0, 0, 15.0);
        t.pings(15.0);
        t.waits(15.0, 0, 25.0);
        t.state.heard(t.at(15.1));
        t.waits(15.1, 0, 30.0);
        t.pings(30.5);
        t.state.heard(t.at(40.0));
        t.waits(40.0, 0, 45.5);
    }

    #[test]
    fn silence_ends_the_session_after_interval_and_timeout() {
        let mut t = Transcript::new();
        t.state.heard(t.at(3.0));
        t.pings(15.0);
        t.waits(27.9, 0, 28.0);
        t.ends(28.0, SessionEnd::Silent(25 * SECOND));
    }

    #[test]
    fn a_machine_that_slept_asks_at_once() {
        let mut t = Transcript::new();
        t.state.heard(t.at(1.0));
        t.state.woke(t.at(2.0));
        t.pings(2.0);
        t.waits(2.0, 0, 5.0);
        t.state.heard(t.at(3.0));
        t.waits(3.0, 0, 17.0);
        t.state.woke(t.at(4.0));
        t.pings(4.0);
        t.ends(7.0, SessionEnd::Silent(4 * SECOND));
    }

    #[test]
    fn any_received_byte_counts_as_life() {
        let mut t = Transcript::new();
        for second in [20.0, 40.0, 60.0] {
            t.state.heard(t.at(second));
            t.pings(second);
        }
        t.waits(60.0, 0, 75.0);
    }

    #[test]
    fn what_the_kernel_takes_of_a_large_answer_is_life_as_a_pong_is() {
        let mut t = Transcript::new();
        t.state.heard(t.at(1.0));
        t.pings(15.0);
        for second in [10.0, 20.0, 30.0, 40.0] {
            t.state.wrote(16 << 10, 10 << 20, t.at(second));
        }
        t.pings(64.9);
        t.waits(64.9, 0, 65.0);
        t.ends(65.0, SessionEnd::Silent(64 * SECOND));
    }

    #[test]
    fn what_a_ping_does_not_wait_behind_does_not_move_the_deadline() {
        let mut t = Transcript::new();
        t.state.heard(t.at(1.0));
        t.pings(15.0);
        t.state.wrote(64 << 10, 64 << 10, t.at(20.0));
        // The kernel took nothing.
        t.state.wrote(0, 10 << 20, t.at(20.0));
        t.ends(26.0, SessionEnd::Silent(25 * SECOND));
    }

    #[test]
    fn where_the_kernel_holds_back_what_it_likes_a_ping_may_wait_in_it() {
        let mut t = Transcript::new();
        t.state.unsent = Unsent::Unbounded;
        t.state.heard(t.at(1.0));
        t.state.wrote(16 << 20, 0, t.at(1.0));
        t.pings(15.0);
        t.pings(280.0);
        t.waits(281.9, 0, 282.0);
        t.ends(282.0, SessionEnd::Silent(281 * SECOND));
    }

    #[test]
    fn hearing_something_takes_the_slack_back() {
        let mut t = Transcript::new();
        t.state.unsent = Unsent::Unbounded;
        t.state.wrote(1 << 20, 0, t.at(0.0));
        t.state.heard(t.at(10.0));
        t.pings(15.0);
        t.waits(16.0, 0, 30.0);
        t.pings(30.0);
        t.ends(35.0, SessionEnd::Silent(25 * SECOND));
    }

    #[test]
    fn drains_until_everything_is_answered() {
        let mut t = Transcript::new();
        t.state.drain(t.at(11.0), STOPPING, DrainBarrier::Passed);
        t.waits(1.0, 2, 11.0);
        t.sends(3.0, Outbound::Close(1001, "the agent is stopping"));
        t.waits(3.0, 0, 11.0);
        t.state.close_sent(t.at(3.1));
        t.waits(3.1, 0, 4.1);
        t.state.end(SessionEnd::ClosedByGateway(Some((1001, String::new()))), t.at(3.2));
        t.ends(3.2, SessionEnd::Shutdown);
    }

    #[test]
    fn a_drain_waits_for_the_streams_that_have_crossed_its_word() {
        let mut t = Transcript::new();
        t.state.heard(t.at(1.0));
        t.pings(15.0);
        t.state.drain(t.at(30.0), STOPPING, DrainBarrier::PingDue);
        // A clock is finer than what a ping tells.
        let step = t.state.step(t.at(20.000_000_9), 0);
        let NextStep::Send(Outbound::Ping(payload)) = step else { panic!("no ping: {step:?}") };
        assert!(matches!(t.state.step(t.at(20.001), 0), NextStep::Wait(until) if until <= t.at(21.001)));
        // Of a ping from before.
        t.state.pong(15 * SECOND);
        assert!(matches!(t.state.step(t.at(20.1), 0), NextStep::Wait(_)));
        t.state.pong(ping::sent(&payload, 21 * SECOND).unwrap());
        assert_eq!(t.state.step(t.at(20.2), 1), NextStep::LastStream(STOPPING));
        t.state.heard(t.at(20.2));
        t.waits(20.2, 1, 30.0);
        t.sends(22.0, Outbound::Close(1001, STOPPING));
    }

    #[test]
    fn a_gateway_that_answers_no_ping_holds_a_drain_up_for_a_second() {
        let mut t = Transcript::new();
        t.state.drain(t.at(10.0), STOPPING, DrainBarrier::PingDue);
        t.pings(1.0);
        assert_eq!(t.state.step(t.at(2.0), 0), NextStep::LastStream(STOPPING));
        t.sends(2.0, Outbound::Close(1001, STOPPING));
        // A drain without time does not wait.
        let mut t = Transcript::new();
        t.state.drain(t.at(0.0), STOPPING, DrainBarrier::PingDue);
        t.sends(0.0, Outbound::Close(1001, STOPPING));
    }

    #[test]
    fn the_drain_has_an_end_and_so_has_the_wait_for_the_reply() {
        let mut t = Transcript::new();
        t.state.drain(t.at(11.0), STOPPING, DrainBarrier::Passed);
        assert_eq!(
            t.state.step(t.at(11.0), 2),
            NextStep::Send(Outbound::Close(1001, "the agent is stopping"))
        );
        t.waits(11.0, 2, 12.0);
        t.ends(12.0, SessionEnd::Shutdown);
    }

    #[test]
    fn a_second_signal_skips_the_drain() {
        let mut t = Transcript::new();
        t.state.drain(t.at(11.0), STOPPING, DrainBarrier::Passed);
        t.waits(1.0, 2, 11.0);
        t.state.drain(t.at(2.0), STOPPING, DrainBarrier::Passed);
        assert_eq!(
            t.state.step(t.at(2.0), 2),
            NextStep::Send(Outbound::Close(1001, "the agent is stopping"))
        );
    }

    #[test]
    fn a_close_frame_is_answered_with_its_code() {
        for (code, reply) in [(1000, 1000), (1013, 1013), (4000, 4000), (1005, 1002), (1006, 1002), (0, 1002)]
        {
            let mut t = Transcript::new();
            let frame = Some((code, "why".to_owned()));
            t.state.end(SessionEnd::ClosedByGateway(frame.clone()), t.at(1.0));
            t.sends(1.0, Outbound::Close(reply, ""));
            assert!(t.state.finishes_after_close() && !t.state.can_send());
            t.waits(1.0, 0, 2.0);
            t.state.end(SessionEnd::Eof, t.start);
            t.ends(1.5, SessionEnd::ClosedByGateway(frame));
        }
    }

    #[test]
    fn a_violation_is_told_and_given_a_second() {
        let mut t = Transcript::new();
        t.state.end(SessionEnd::Violation(1009, "too long".to_owned()), t.at(1.0));
        t.sends(1.0, Outbound::Close(1009, ""));
        t.waits(1.0, 0, 2.0);
        t.ends(2.0, SessionEnd::Violation(1009, "too long".to_owned()));
    }

    #[test]
    fn an_error_of_the_gateway_closes() {
        let mut t = Transcript::new();
        t.state.end(SessionEnd::GatewayError("no".to_owned()), t.at(1.0));
        t.sends(1.0, Outbound::Close(1000, ""));
        t.state.end(SessionEnd::ClosedByGateway(None), t.at(1.1));
        t.ends(1.1, SessionEnd::GatewayError("no".to_owned()));
    }

    #[test]
    fn the_first_reason_counts() {
        let mut t = Transcript::new();
        t.state.end(SessionEnd::Eof, t.start);
        t.state.end(SessionEnd::Lost("Broken pipe".to_owned()), t.start);
        t.ends(0.0, SessionEnd::Eof);
    }

    #[test]
    fn a_drain_during_a_close_makes_it_the_last() {
        let mut t = Transcript::new();
        t.state.end(SessionEnd::ClosedByGateway(None), t.at(1.0));
        t.sends(1.0, Outbound::Close(1000, ""));
        t.state.drain(t.at(9.0), STOPPING, DrainBarrier::Passed);
        t.ends(2.0, SessionEnd::Shutdown);
    }
}
