//! The thread that writes: waits for events and deadlines, and does what the state says.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant, SystemTime};
use std::{io, thread};

use log::{debug, info};
use tungstenite::Bytes;
use tungstenite::protocol::Role;

use super::credit::Reservation;
use super::exchange::Exchange;
use super::handle::{self, DrainReason, EncodedReply, Inbox, WireEvent};
use super::order::Order;
use super::pace::{Pace, Speed};
use super::reader::SessionReader;
use super::state::{DrainBarrier, NextStep, SessionState, Unsent};
use super::{ExchangeConfig, SessionConfig, SessionEnd, Supervisor};
use crate::clock::{Clocks, LOOK_EVERY};
use crate::link::dial::{WRITE_STALL, WRITE_STEP_TIME};
use crate::link::{Link, MessageSink, Outbound, WRITE_BATCH};
use crate::metrics::Metrics;
use crate::net::socket::{KEEPS_UNSENT, UNSENT_FAST, UNSENT_SLOW};
use crate::pool::Submitter;
use crate::protocol::Handshake;
use crate::sync::Replaceable;
use crate::vitals::Pulse;

/// The bytes that are collected on a slow connection, and its largest frame: what is collected delays all that comes
/// behind it.
const SMALL_BATCH: usize = 16 << 10;

/// A gateway that has sent no `welcome` for this long since the handshake is one that sends none.
const OPEN_WAIT: Duration = Duration::from_secs(1);

/// How long a session's reader may take to end: it has a moment to read what still comes.
const END_TIME: Duration = Duration::from_secs(5);

/// The reader needs little: frames are decoded on the heap.
const READER_STACK: usize = 256 << 10;

/// A session that is to be served.
pub(crate) struct Session<'a> {
    /// The number by which the gateway knows the session among those of this process.
    pub(crate) slot: u32,
    pub(crate) config: &'a SessionConfig,
    pub(crate) exchanges: &'a Arc<Replaceable<ExchangeConfig>>,
    pub(crate) submitter: Submitter<Exchange>,
    pub(crate) metrics: &'a Arc<Metrics>,
    /// How the thread that serves the session says that it goes on.
    pub(crate) pulse: &'a Pulse,
}

impl Session<'_> {
    /// Serves the session until it ends.
    pub(crate) fn run(self, link: Link, supervisor: &mut dyn Supervisor) -> SessionEnd {
        let config = self.config;
        let inbox = handle::channel(config.max_message);
        let began = Instant::now();
        let reader = SessionReader {
            messages: link.reader,
            session: inbox.session.clone(),
            submitter: self.submitter,
            config: config.clone(),
            exchanges: self.exchanges.clone(),
            metrics: self.metrics.clone(),
            closer: link.closer.clone(),
            began,
            gateway_has_failed: false,
            has_warned_of_overlap: false,
        };
        let reader = thread::Builder::new()
            .name("reader".to_owned())
            .stack_size(READER_STACK)
            .spawn(move || reader.run());
        let reader = match reader {
            Ok(reader) => reader,
            Err(error) => return SessionEnd::Lost(format!("no thread for the reader: {error}")),
        };
        supervisor.began(inbox.session.clone());
        let now = Instant::now();
        link.writer.set_user_timeout(config.heartbeat.ping_interval + config.heartbeat.pong_timeout);
        let mut sink = Box::new(MessageSink::new(Role::Client, link.writer));
        let handshake =
            Handshake::encode(&config.tunnel_id, &config.instance, self.slot, config.name.as_ref());
        sink.push(&Outbound::Text(handshake.into()));
        let unsent = if KEEPS_UNSENT { Unsent::Bounded } else { Unsent::Unbounded };
        let mut writer = Writer {
            supervisor,
            pulse: self.pulse,
            open_by: Some(now + OPEN_WAIT),
            early_drain: None,
            clocks: Clocks::new(SystemTime::now(), now),
            next_look: now + LOOK_EVERY,
            pace: Pace::new(),
            batch: WRITE_BATCH,
            state: SessionState::new(config.heartbeat, unsent, began),
            order: Order::new(config.correlation),
            inbox,
            answers: VecDeque::new(),
            answered: 0,
            sink: Some(sink),
            written: 0,
            pong: None,
            in_frames: VecDeque::new(),
            stalled_since: None,
            closes: false,
        };
        let end = writer.run(|| link.heard.get());
        self.pulse.expect_within(END_TIME);
        // With the streams it would keep the socket open for as long as the last of them lives.
        writer.reclaim();
        link.closer.close();
        // It reads from a closed socket now.
        let _ = reader.join();
        end
    }
}

struct Writer<'a> {
    supervisor: &'a mut dyn Supervisor,
    pulse: &'a Pulse,
    /// When the session counts as open, unless it does already.
    open_by: Option<Instant>,
    /// Until when the session may finish its requests, and why, if it was to end before it was open.
    early_drain: Option<(Instant, DrainReason, &'static str)>,
    clocks: Clocks,
    /// When to look at them again.
    next_look: Instant,
    /// How fast the gateway's side takes what is written.
    pace: Pace,
    /// Frames are collected up to this many bytes before they are written.
    batch: usize,
    state: SessionState,
    order: Order<EncodedReply>,
    inbox: Inbox,
    /// Answers that are not looked at yet, since enough waits to be written.
    answers: VecDeque<EncodedReply>,
    /// Requests whose answer has been looked at.
    answered: u64,
    /// The way out, which the streams have while there is nothing to write for this thread.
    sink: Option<Box<MessageSink>>,
    /// How much had gone out through it when this thread had it last.
    written: u64,
    /// The newest ping that is not answered yet; older ones need no answer (RFC 6455 §5.5.3).
    pong: Option<Bytes>,
    /// The room that the answers in `frames` take up, with the place in the stream where each ends; given back once
    /// they are written that far.
    in_frames: VecDeque<(u64, Reservation)>,
    /// Since when a write has made no progress.
    stalled_since: Option<Instant>,
    /// A close frame is the last of the frames that wait.
    closes: bool,
}

impl Writer<'_> {
    fn run(&mut self, heard: impl Fn() -> Instant) -> SessionEnd {
        loop {
            self.pulse.expect_within(LOOK_EVERY);
            self.lend();
            self.state.heard(heard());
            let streams = self.inbox.session.mux().map_or(0, |mux| mux.open_count() as u64);
            let outstanding = self.inbox.session.issued() - self.answered + streams;
            let now = Instant::now();
            self.look_at_clocks(now);
            match self.state.step(now, outstanding) {
                NextStep::End(end) => return end,
                NextStep::Send(message) => self.send(message),
                NextStep::LastStream(why) => self.inbox.session.name_last_stream(why),
                NextStep::Wait(_) if self.sink.as_ref().is_some_and(|sink| !sink.is_empty()) => {
                    self.write();
                    // A drain, say, must not wait until all of it is written.
                    self.handle_waiting();
                }
                NextStep::Wait(until) => self.wait(until),
            }
        }
    }

    /// Lets the streams have the sink when there is nothing to write. Whether the last of them has ended is looked at
    /// behind it: this thread is woken from now on when that happens.
    fn lend(&mut self) {
        let Some(mux) = self.inbox.session.mux().filter(|_| self.state.can_send()) else { return };
        let Some(sink) = self.sink.take_if(|sink| sink.is_empty()) else { return };
        self.written = sink.written();
        if let Err(mut sink) = mux.lend(sink) {
            mux.collect(&mut sink, self.batch);
            self.sink = Some(sink);
        }
    }

    /// Takes the sink back, if the streams have it.
    fn reclaim(&mut self) {
        if self.sink.is_none() {
            self.sink = self.inbox.session.mux().and_then(|mux| mux.reclaim());
            // Bytes that went out meanwhile were not waited for.
            let written = self.sink.as_ref().map_or(0, |sink| sink.written() - self.written);
            self.pace.wrote(written, Duration::ZERO).inspect(|speed| self.set_speed(*speed));
        }
    }

    fn send(&mut self, message: Outbound) {
        self.reclaim();
        let Some(sink) = &mut self.sink else { return };
        if let Outbound::Close(..) = message {
            self.closes = true;
            // Which streams are not served is said before the end.
            self.inbox.session.mux().inspect(|mux| mux.collect_control(sink));
        }
        sink.push(&message);
    }

    /// The close frame is on the wire. Where the peer closes too, or has done what the connection does not
    /// survive, the writing direction ends there.
    fn close_sent(&mut self) {
        self.closes = false;
        self.state.close_sent(Instant::now());
        if self.state.finishes_after_close() {
            // An error means that it is closed already.
            let _ = self.sink.as_mut().map(|sink| sink.finish());
        }
    }

    fn write(&mut self) {
        let Some(sink) = &mut self.sink else { return };
        let (before, waiting) = (sink.written(), sink.waiting());
        let start = Instant::now();
        let result = sink.write_step();
        let now = Instant::now();
        let (written, is_empty) = (sink.written(), sink.is_empty());
        self.state.wrote(written - before, waiting, now);
        self.pace.wrote(written - before, now - start).inspect(|speed| self.set_speed(*speed));
        match result {
            Ok(()) => self.stalled_since = None,
            Err(error) if error.kind() == io::ErrorKind::TimedOut => self.stalled(),
            Err(error) => {
                // The reader knows the reason, if the peer gave one before it disconnected.
                debug!("writing failed: {error}");
                self.state.end(SessionEnd::Lost(error.to_string()), now);
            }
        }
        while self.in_frames.front().is_some_and(|(end, _)| *end <= written) {
            self.in_frames.pop_front();
        }
        if is_empty && self.closes {
            self.close_sent();
        }
    }

    /// Collects less on a slow connection, and lets the kernel hold less back.
    fn set_speed(&mut self, speed: Speed) {
        self.batch = if speed == Speed::Slow { SMALL_BATCH } else { WRITE_BATCH };
        let unsent = if speed == Speed::Slow { UNSENT_SLOW } else { UNSENT_FAST };
        self.sink.as_ref().inspect(|sink| sink.half().keep_unsent(unsent));
        self.limit_frames();
    }

    fn limit_frames(&self) {
        if let Some(mux) = self.inbox.session.mux() {
            mux.limit_frames(if self.batch == WRITE_BATCH { usize::MAX } else { SMALL_BATCH });
        }
    }

    /// The socket took nothing for [`WRITE_STEP_TIME`].
    fn stalled(&mut self) {
        let now = Instant::now();
        let since = *self.stalled_since.get_or_insert(now.checked_sub(WRITE_STEP_TIME).unwrap_or(now));
        if now - since >= WRITE_STALL {
            self.state.end(SessionEnd::NotReading, now);
        }
    }

    /// Waits for an event, and takes with it what else is there, up to a batch.
    fn wait(&mut self, until: Instant) {
        let now = Instant::now();
        let until = self.open_by.map_or(until, |by| by.min(until));
        let until = self.early_drain.map_or(until, |(end, ..)| end.min(until));
        let timeout = until.min(self.next_look).saturating_duration_since(now);
        match self.inbox.events.recv_timeout(timeout) {
            Ok(event) => {
                self.handle(event);
                self.handle_waiting();
            }
            // This writer has a sender itself.
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
        }
    }

    /// Looks now and then, however much happens meanwhile.
    fn look_at_clocks(&mut self, now: Instant) {
        if now >= self.next_look {
            self.next_look = now + LOOK_EVERY;
            if self.clocks.take_sleep(SystemTime::now(), now) {
                info!("this machine seems to have slept; asking whether the gateway is still there");
                self.state.woke(now);
            }
        }
        if self.open_by.is_some_and(|by| by <= now) {
            self.opened();
        } else if let Some((until, reason, why)) = self.early_drain.take_if(|(until, ..)| *until <= now) {
            self.drain(until, reason, why);
        }
    }

    fn opened(&mut self) {
        if self.open_by.take().is_some() {
            self.inbox.session.set_welcome_overdue();
            self.supervisor.opened();
        }
        if let Some((until, reason, why)) = self.early_drain.take() {
            self.drain(until, reason, why);
        }
    }

    fn drain(&mut self, until: Instant, reason: DrainReason, why: &'static str) {
        self.inbox.session.leave(reason, why);
        let is_streaming = self.inbox.session.is_streaming();
        self.state.drain(until, why, if is_streaming { DrainBarrier::PingDue } else { DrainBarrier::Passed });
    }

    /// Handles the events that are there, and makes frames of answers up to a batch. The others keep the
    /// room that they take up, or what a gateway does not read would be counted nowhere.
    fn handle_waiting(&mut self) {
        while let Ok(event) = self.inbox.events.try_recv() {
            self.handle(event);
        }
        self.reclaim();
        while self.has_room() {
            let Some(answer) = self.answers.pop_front() else { break };
            self.handle_answer(answer);
        }
        let has_room = self.has_room();
        let Some(sink) = &mut self.sink else { return };
        if let Some(payload) = self.pong.take_if(|_| has_room) {
            sink.push(&Outbound::Pong(payload));
        }
        if let Some(mux) = self.inbox.session.mux().filter(|_| self.state.can_send()) {
            mux.collect(sink, self.batch);
        }
    }

    /// Whether there is room in the batch.
    fn has_room(&self) -> bool {
        self.sink.as_ref().is_some_and(|sink| sink.waiting() < self.batch)
    }

    fn handle(&mut self, event: WireEvent) {
        let now = Instant::now();
        match event {
            WireEvent::Answer(answer) => self.answers.push_back(answer),
            WireEvent::Ping(payload, _room) => self.pong = Some(payload),
            WireEvent::End(end) => self.state.end(end, now),
            WireEvent::Pong(sent, _room) => self.state.pong(sent),
            // Requests may be behind a `welcome` that is on its way.
            WireEvent::Drain(until, reason, why)
                if !self.inbox.session.is_protocol_known() && until > now =>
            {
                let earlier = self.early_drain;
                let time = earlier.map_or(until, |(earlier, ..)| earlier.min(until));
                // A stop is more than a hand-over, whichever came first.
                let reason = earlier.map_or(reason, |(_, earlier, _)| earlier.max(reason));
                self.early_drain = Some((time, reason, why));
            }
            WireEvent::Drain(until, reason, why) => self.drain(until, reason, why),
            WireEvent::Named(told, _room) => self.supervisor.named(&told),
            WireEvent::Opened => {
                self.limit_frames();
                self.opened();
            }
            WireEvent::GoesAway(reason, _room) => self.supervisor.goes_away(&reason),
            WireEvent::Renew => self.supervisor.renew(),
            // They are looked at after the events.
            WireEvent::Streams => {}
        }
    }

    fn handle_answer(&mut self, mut answer: EncodedReply) {
        self.answered += 1;
        drop(answer.room.take_if(|room| room.is_control()));
        let Some(place) = answer.place else { return self.enqueue(answer) };
        let ready = self.order.fill(place, answer, self.inbox.session.newest());
        self.inbox.session.credits().set_turn(self.order.done());
        for answer in ready {
            self.enqueue(answer);
        }
    }

    fn enqueue(&mut self, answer: EncodedReply) {
        if let Some(sink) = self.sink.as_mut().filter(|_| self.state.can_send()) {
            sink.push(&Outbound::Text(answer.text));
            let end = sink.pushed();
            self.in_frames.extend(answer.room.map(|room| (end, room)));
        }
    }
}
