//! The thread that writes: waits for events and deadlines, and does what the state says.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::RecvTimeoutError;
use std::thread;
use std::time::Instant;

use log::debug;
use tungstenite::Bytes;
use tungstenite::protocol::Role;

use super::job::Job;
use super::order::Order;
use super::outbox::{self, Answer, Event, Inbox, Outbox, Room};
use super::reader::Reader;
use super::state::{State, Step};
use super::{CLOSE_WAIT, Config, End};
use crate::TunnelId;
use crate::link::{FrameWriter, Link, Outgoing, WriteHalf};
use crate::pool::Intake;
use crate::protocol::Handshake;
use crate::status::Counters;

/// Answers are collected up to this many bytes before they are written, so that many small ones cost one
/// system call.
const BATCH: usize = 64 << 10;

/// The reader needs little: frames are decoded on the heap.
const READER_STACK: usize = 256 << 10;

/// Serves one session until it ends. `attach` is given the session's queue, through which it can be drained.
pub(crate) fn run(
    link: Link,
    tunnel_id: &TunnelId,
    config: &Config,
    intake: Intake<Job>,
    counters: &Arc<Counters>,
    attach: impl FnOnce(Outbox),
) -> End {
    let (outbox, inbox) = outbox::channel(config.max_message);
    let reader = Reader {
        frames: link.reader,
        outbox: outbox.clone(),
        intake,
        config: config.clone(),
        counters: counters.clone(),
        closer: link.closer.clone(),
        given_up: false,
    };
    let reader =
        thread::Builder::new().name("reader".to_owned()).stack_size(READER_STACK).spawn(move || reader.run());
    let reader = match reader {
        Ok(reader) => reader,
        Err(error) => return End::Lost(format!("no thread for the reader: {error}")),
    };
    attach(outbox);
    let now = Instant::now();
    let mut writer = Writer {
        state: State::new(config.heartbeat, now),
        order: Order::new(config.correlation),
        inbox,
        answered: 0,
        frames: FrameWriter::new(Role::Client),
        half: link.writer,
        pong: None,
        in_frames: Vec::new(),
        closing: false,
    };
    writer.frames.push(Outgoing::Text(Handshake::encode(tunnel_id).into()));
    let end = writer.run(|| link.heard.at());
    link.closer.close();
    // It reads from a closed socket now.
    let _ = reader.join();
    end
}

struct Writer {
    state: State,
    order: Order<Answer>,
    inbox: Inbox,
    /// Requests whose answer has arrived here.
    answered: u64,
    frames: FrameWriter,
    half: WriteHalf,
    /// The newest ping that is not answered yet; older ones need no answer (RFC 6455 §5.5.3).
    pong: Option<Bytes>,
    /// What the answers in `frames` take up, given back once they are written.
    in_frames: Vec<Room>,
    /// A close frame is the last of `frames`.
    closing: bool,
}

impl Writer {
    fn run(&mut self, heard: impl Fn() -> Instant) -> End {
        loop {
            self.state.heard(heard());
            let outstanding = self.inbox.issued() - self.answered;
            match self.state.step(Instant::now(), outstanding) {
                Step::End(end) => return end,
                Step::Send(message) => self.send(message),
                Step::Wait(_) if !self.frames.is_empty() => self.write(),
                Step::Wait(until) => self.wait(until),
            }
        }
    }

    fn send(&mut self, message: Outgoing) {
        if matches!(message, Outgoing::Close(..)) {
            self.closing = true;
            // A peer that does not read any more must not hold up the end.
            let _ = self.half.set_timeout(CLOSE_WAIT);
        }
        self.frames.push(message);
    }

    /// The close frame is on the wire. Where the peer closes too, or has done what the connection does not
    /// survive, the writing direction ends there.
    fn close_sent(&mut self) {
        self.closing = false;
        self.state.close_sent(Instant::now());
        if self.state.finishes_after_close() {
            // An error means that it is closed already.
            let _ = self.half.finish();
        }
    }

    fn write(&mut self) {
        match self.frames.write_step(&mut self.half) {
            Ok(written) => self.state.wrote(written),
            Err(error) if error.kind() == io::ErrorKind::TimedOut => self.state.write_failed(End::NotReading),
            Err(error) => {
                // The reader knows better why, if the peer said so before it left.
                debug!("writing failed: {error}");
                self.state.write_failed(End::Lost(error.to_string()));
            }
        }
        if self.frames.is_empty() {
            self.in_frames.clear();
            if self.closing {
                self.close_sent();
            }
        }
    }

    /// Waits for an event, and takes with it what else is there, up to a batch.
    fn wait(&mut self, until: Instant) {
        let timeout = until.saturating_duration_since(Instant::now());
        match self.inbox.events.recv_timeout(timeout) {
            Ok(event) => self.handle(event),
            Err(RecvTimeoutError::Timeout) => return,
            // The reader's last word comes before it drops its sender, so this does not happen.
            Err(RecvTimeoutError::Disconnected) => return self.state.reader_ended(End::Eof),
        }
        while self.frames.waiting() < BATCH {
            let Ok(event) = self.inbox.events.try_recv() else { break };
            self.handle(event);
        }
        if let Some(payload) = self.pong.take() {
            self.frames.push(Outgoing::Pong(payload));
        }
    }

    fn handle(&mut self, event: Event) {
        let now = Instant::now();
        match event {
            Event::Answer(answer) => self.handle_answer(answer),
            Event::Ping(payload, _room) => self.pong = Some(payload),
            Event::Close(frame) => self.state.closed_by_peer(frame, now),
            Event::Violation(code, what) => self.state.violation(code, what, now),
            Event::GatewayError(text) => self.state.gateway_error(text, now),
            Event::ReaderEnded(end) => self.state.reader_ended(end),
            Event::Drain(until) => self.state.drain(until),
        }
    }

    fn handle_answer(&mut self, mut answer: Answer) {
        self.answered += 1;
        drop(answer.room.take_if(|room| room.is_control()));
        let Some(place) = answer.place else { return self.enqueue(answer) };
        let ready = self.order.fill(place, answer, self.inbox.newest());
        self.inbox.set_turn(self.order.done());
        for answer in ready {
            self.enqueue(answer);
        }
    }

    fn enqueue(&mut self, answer: Answer) {
        if self.state.can_send() {
            self.frames.push(Outgoing::Text(answer.text));
            self.in_frames.extend(answer.room);
        }
    }
}
