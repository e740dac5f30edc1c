//! The right to write: one thread at a time has the sink, and owes the writing until nothing is queued.
//!
//! ```text
//!              takes it, to write what it queued         gives it back: nothing is queued
//!   Free ────────────────────────────────────▶ Taken ─────────────────────────────────────▶ Free
//!    ▲                                            │  the socket is full, or the quota used up: it wakes the writer
//!    └───────────── lends it ──────── AtWriter ◀──┘
//! ```
//!
//! A thread that queues something takes the sink where it is free, and writes without waiting. So a response costs no
//! second thread, and no time to wake one. The connection's writer has the rest: what a full socket does not take, and
//! what many streams send at once, for which one write does. The connection's reader never takes the sink.

use std::io;
use std::sync::MutexGuard;

use super::{Acceptance, Attached, Mux, State};
use crate::link::{MessageSink, WRITE_BATCH, Written};
use crate::mux::Streams;
use crate::net::socket::CAN_WRITE_WITHOUT_WAITING;
use crate::sync::wait;

/// While more streams than this are open, the connection's writer sends for all of them: it collects what they send in
/// one write, which costs less than one each.
const DIRECT_STREAMS_MAX: usize = 4;

/// Bytes that a thread writes that has taken the sink, at most: it has work of its own.
const DIRECT_BYTES_MAX: u64 = 256 << 10;

/// Messages that are taken out of the queue at once.
const TAKEN_MAX: usize = 16;

/// Where the sink is.
#[derive(Debug)]
pub(super) enum SinkPlace {
    /// The connection's writer has it, or keeps it elsewhere.
    AtWriter,
    /// Any thread that has something to send may take it.
    Free(Box<MessageSink>),
    /// A thread that had something to send is writing.
    Taken,
}

/// The state of the connection's writer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WriterState {
    /// It looks at what is queued before it waits.
    Busy,
    /// It waits, and is to be woken when there is something for it to do.
    Waiting,
    /// It waits for the sink.
    Reclaiming,
}

impl SinkPlace {
    /// The sink, where it is free.
    fn take(&mut self) -> Option<Box<MessageSink>> {
        match std::mem::replace(self, SinkPlace::Taken) {
            SinkPlace::Free(sink) => Some(sink),
            other => {
                *self = other;
                None
            }
        }
    }
}

/// The sink in the hands of a thread that writes without waiting. It is given back whatever happens to that thread.
struct TakenSink<'a> {
    mux: &'a Mux,
    sink: Option<Box<MessageSink>>,
}

impl TakenSink<'_> {
    /// Writes what waits, and these messages behind it.
    fn write_now(&mut self, messages: Messages) -> io::Result<Written> {
        let Some(sink) = &mut self.sink else { return Ok(Written::All) };
        self.mux.push(sink, messages);
        sink.write_now()
    }

    fn is_empty(&self) -> bool {
        self.sink.as_ref().is_none_or(|sink| sink.is_empty())
    }

    fn written(&self) -> u64 {
        self.sink.as_ref().map_or(0, |sink| sink.written())
    }
}

impl Drop for TakenSink<'_> {
    fn drop(&mut self) {
        if let Some(sink) = self.sink.take() {
            let state = self.mux.state();
            self.mux.give_back(state, sink);
        }
    }
}

impl State {
    /// Whether there is something for the connection's writer to do.
    fn is_writer_needed(&self) -> bool {
        let has_output = match &self.sink {
            // The thread that has it looks at the queue before giving it back.
            SinkPlace::Taken => false,
            SinkPlace::AtWriter => !self.streams.is_idle(),
            SinkPlace::Free(sink) => !self.streams.is_idle() || !sink.is_empty(),
        };
        has_output || (self.acceptance == Acceptance::Leaving && self.streams.open_count() == 0)
    }

    /// The next message to send. The threads that wait for room on its stream are woken.
    fn next_message(&mut self) -> Option<Vec<u8>> {
        let (message, roomier) = self.streams.next_message()?;
        let attached = roomier.and_then(|stream| self.streams.attached(stream));
        attached.and_then(Attached::waiting).inspect(|waiters| waiters.notify());
        Some(message)
    }

    /// Takes messages to send, about so many bytes. They are masked and copied without the lock, for which others wait.
    fn take_messages(&mut self, bytes: usize) -> Messages {
        let (mut messages, mut taken) = (Messages::default(), 0);
        for place in &mut messages.0 {
            if taken >= bytes {
                break;
            }
            *place = self.next_message();
            let Some(message) = place else { break };
            taken += message.len();
        }
        messages
    }
}

/// Some messages on their way to the sink.
#[derive(Default)]
struct Messages([Option<Vec<u8>>; TAKEN_MAX]);

impl Messages {
    fn are_none(&self) -> bool {
        self.0[0].is_none()
    }
}

impl Mux {
    /// Does something that may leave something to send, and sends it.
    pub(super) fn act<R>(&self, act: impl FnOnce(&mut Streams<Attached>) -> R) -> R {
        let mut state = self.state();
        let result = act(&mut state.streams);
        self.transmit(state);
        result
    }

    /// Does something that may leave something to send, which the connection's writer sends.
    pub(super) fn act_for_writer<R>(&self, act: impl FnOnce(&mut Streams<Attached>) -> R) -> R {
        let mut state = self.state();
        let result = act(&mut state.streams);
        self.wake_writer(state);
        result
    }

    /// Has what is queued sent: by this thread, or by the one that has the sink.
    pub(super) fn transmit<'a>(&'a self, mut state: MutexGuard<'a, State>) {
        let may_write = CAN_WRITE_WITHOUT_WAITING
            && !state.streams.is_idle()
            && state.streams.open_count() <= DIRECT_STREAMS_MAX;
        match if may_write { state.sink.take() } else { None } {
            Some(sink) => self.write(state, sink),
            None => self.wake_writer(state),
        }
    }

    /// Lets go of the state, and wakes the connection's writer if it waits for what has happened.
    pub(super) fn wake_writer(&self, mut state: MutexGuard<'_, State>) {
        let is_due = state.writer == WriterState::Waiting && state.is_writer_needed();
        if is_due {
            state.writer = WriterState::Busy;
        }
        drop(state);
        if is_due {
            (self.wake)();
        }
    }

    /// Writes what is queued, without waiting, and gives the sink back.
    fn write<'a>(&'a self, state: MutexGuard<'a, State>, sink: Box<MessageSink>) {
        let quota = sink.written() + DIRECT_BYTES_MAX;
        let mut taken = TakenSink { mux: self, sink: Some(sink) };
        // Behind it, so that a panic unlocks the state before the sink is given back, which locks it.
        let mut state = state;
        loop {
            let messages = state.take_messages(WRITE_BATCH);
            if messages.are_none() && taken.is_empty() {
                break;
            }
            drop(state);
            let written = taken.write_now(messages);
            state = self.state();
            // An error comes again to the connection's writer, which knows what to make of it.
            if !matches!(written, Ok(Written::All)) || taken.written() >= quota {
                break;
            }
        }
        if let Some(sink) = taken.sink.take() {
            self.give_back(state, sink);
        }
    }

    /// Gives the sink back. What is left to write is for the connection's writer.
    fn give_back(&self, mut state: MutexGuard<'_, State>, sink: Box<MessageSink>) {
        state.sink = SinkPlace::Free(sink);
        if state.writer == WriterState::Reclaiming {
            drop(state);
            return self.sink_returned.notify_one();
        }
        self.wake_writer(state);
    }

    /// Lends the sink: the next thread that has something to send takes it. The connection's writer is woken from now on
    /// when there is something for it to do; where there is already, it gets the sink back.
    pub fn lend(&self, sink: Box<MessageSink>) -> Result<(), Box<MessageSink>> {
        let mut state = self.state();
        if !state.streams.is_idle() || !sink.is_empty() {
            return Err(sink);
        }
        state.sink = SinkPlace::Free(sink);
        state.writer = WriterState::Waiting;
        Ok(())
    }

    /// Takes the sink back that was [lent](Self::lend). A thread that is writing does not wait, so it comes soon.
    pub fn reclaim(&self) -> Option<Box<MessageSink>> {
        let mut state = self.state();
        state.writer = WriterState::Reclaiming;
        while let SinkPlace::Taken = state.sink {
            state = wait(&self.sink_returned, state);
        }
        state.writer = WriterState::Busy;
        match std::mem::replace(&mut state.sink, SinkPlace::AtWriter) {
            SinkPlace::Free(sink) => Some(sink),
            SinkPlace::AtWriter | SinkPlace::Taken => None,
        }
    }

    /// Moves what is queued to the sink of the connection's writer, up to a batch.
    pub fn collect(&self, sink: &mut MessageSink, batch: usize) {
        while sink.waiting() < batch {
            let messages = self.state().take_messages(batch - sink.waiting());
            if messages.are_none() {
                return;
            }
            self.push(sink, messages);
        }
    }

    fn push(&self, sink: &mut MessageSink, messages: Messages) {
        for message in messages.0.into_iter().flatten() {
            sink.push_binary(&message);
            self.recycle(message);
        }
    }

    /// Moves all the control that waits to the sink of the connection's writer: what comes next must not overtake it.
    pub fn collect_control(&self, sink: &mut MessageSink) {
        let mut state = self.state();
        while state.streams.control_bytes() > 0 {
            let Some(message) = state.next_message() else { break };
            sink.push_binary(&message);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc::{self, Receiver, Sender};
    use std::sync::{Arc, Mutex};
    use std::thread;
    use std::time::Duration;

    use tungstenite::Bytes;
    use tungstenite::protocol::Role;

    use super::*;
    use crate::link::{MessageReader, Received};
    use crate::mux::{Fin, Frame, MuxEvent, MuxLimits, Side, Stream};
    use crate::net::Socket;

    /// A hang fails the test.
    const LIMIT: Duration = Duration::from_secs(60);

    const OK: Bytes = Bytes::from_static(b"HTTP/1.1 200 OK\r\n\r\n");

    /// The agent's side of a connection, of which the other side is read by a test.
    struct Connection {
        mux: Arc<Mux>,
        wakes: Arc<AtomicUsize>,
        opened: Mutex<u32>,
    }

    /// A word to the connection's writer.
    #[derive(PartialEq)]
    enum Word {
        Wake,
        End,
    }

    type Words = (Sender<Word>, Receiver<Word>);

    /// A connection with its sink, and its other end; and the channel to its writer.
    fn connect_with_writer() -> (Connection, Box<MessageSink>, TcpStream, Words) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let ours = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let half = Socket::plain(ours).unwrap().split().unwrap();
        half.set_timeout(LIMIT).unwrap();
        let sink = Box::new(MessageSink::new(Role::Client, half));
        let (wakes, (sender, words)) = (Arc::new(AtomicUsize::new(0)), mpsc::channel());
        let (counted, wake) = (wakes.clone(), sender.clone());
        let limits = MuxLimits { max_streams: u32::MAX, ..MuxLimits::default() };
        let mux = Mux::new(Side::Agent, limits, move || {
            counted.fetch_add(1, Ordering::SeqCst);
            let _ = wake.send(Word::Wake);
        });
        let connection = Connection { mux, wakes, opened: Mutex::default() };
        (connection, sink, listener.accept().unwrap().0, (sender, words))
    }

    fn connect() -> (Connection, Box<MessageSink>, TcpStream) {
        let (connection, sink, peer, _) = connect_with_writer();
        (connection, sink, peer)
    }

    impl Connection {
        /// A stream that the other side has opened.
        fn open(&self) -> Stream {
            let mut opened = self.opened.lock().unwrap();
            *opened += 1;
            let number = *opened;
            let head = Bytes::from_static(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n");
            let message = Frame::Head { stream: number, fin: Fin::Last, head }.to_vec();
            let event = self.mux.receive(&message.into()).unwrap();
            assert!(matches!(event, MuxEvent::Opened { stream, .. } if stream == number));
            self.mux.accept(number, Fin::Last).unwrap()
        }

        fn wake_count(&self) -> usize {
            self.wakes.load(Ordering::SeqCst)
        }
    }

    /// Reads messages until so many have ended a stream.
    fn read_ends(socket: TcpStream, ends: usize) -> thread::JoinHandle<()> {
        let socket = Socket::plain(socket).unwrap();
        socket.set_read_timeout(Some(LIMIT)).unwrap();
        let mut reader = MessageReader::new(socket, Vec::new(), Role::Server, 1 << 20);
        thread::spawn(move || {
            let mut seen = 0;
            while seen < ends {
                let Ok(Received::Binary(message)) = reader.read() else { panic!("after {seen} of {ends}") };
                seen += usize::from(message[1] & 1 == 1);
            }
        })
    }

    /// The loop of the connection's writer: it writes when it is woken, and lends the sink.
    fn write_when_woken(mux: &Mux, words: &Receiver<Word>, sink: Box<MessageSink>) {
        let mut sink = Some(sink);
        loop {
            let Some(mut own) = sink.take().or_else(|| mux.reclaim()) else { panic!("the sink is lost") };
            loop {
                mux.collect(&mut own, WRITE_BATCH);
                own.write_all().unwrap();
                match mux.lend(own) {
                    Ok(()) => break,
                    Err(returned) => own = returned,
                }
            }
            if words.recv_timeout(LIMIT).expect("no wake-up is lost") == Word::End {
                return;
            }
        }
    }

    #[test]
    fn a_response_wakes_no_other_thread() {
        let (connection, sink, peer) = connect();
        let reader = read_ends(peer, 1000);
        connection.mux.lend(sink).unwrap();
        for _ in 0..1000 {
            connection.open().send_head_with(OK, b"hello").unwrap();
        }
        reader.join().unwrap();
        assert_eq!(connection.wake_count(), 0);
    }

    #[test]
    fn no_frame_is_left_behind_however_the_sink_changes_hands() {
        for threads in [2, 4, 12] {
            let per_thread = 60_000 / threads;
            let (connection, sink, peer, (sender, words)) = connect_with_writer();
            let reader = read_ends(peer, threads * per_thread);
            let mux = connection.mux.clone();
            let writer = thread::spawn(move || write_when_woken(&mux, &words, sink));
            thread::scope(|scope| {
                for _ in 0..threads {
                    scope.spawn(|| {
                        for _ in 0..per_thread {
                            connection.open().send_head_with(OK, b"hello").unwrap();
                        }
                    });
                }
            });
            // It hangs where a frame is left behind.
            reader.join().unwrap();
            sender.send(Word::End).unwrap();
            writer.join().unwrap();
        }
    }

    #[test]
    fn what_a_full_socket_does_not_take_is_the_writers() {
        let (connection, sink, peer) = connect();
        connection.mux.lend(sink).unwrap();
        let body = vec![0; 60 << 10];
        let mut streams = Vec::new();
        // Nothing is read there: this thread does not wait, however much it sends.
        while connection.wake_count() == 0 {
            let stream = connection.open();
            assert_eq!(stream.send_head_with(OK, &body).unwrap(), body.len());
            streams.push(stream);
        }
        let reader = read_ends(peer, streams.len());
        let mut sink = connection.mux.reclaim().unwrap();
        assert!(!sink.is_empty());
        connection.mux.collect(&mut sink, usize::MAX);
        sink.write_all().unwrap();
        reader.join().unwrap();
    }

    #[test]
    fn a_thread_writes_no_more_than_its_quota() {
        let (connection, sink, peer) = connect();
        let body = vec![0; 60 << 10];
        let streams: Vec<_> = (0..16).map(|_| connection.open()).collect();
        // The writer has the sink: all of it is queued.
        for stream in &streams {
            stream.send_head_with(OK, &body).unwrap();
        }
        let reader = read_ends(peer, streams.len());
        let mux = &connection.mux;
        let mut state = mux.state();
        state.writer = WriterState::Waiting;
        mux.write(state, sink);
        let sink = mux.reclaim().unwrap();
        let quota = DIRECT_BYTES_MAX + 2 * WRITE_BATCH as u64;
        assert!((1..=quota).contains(&sink.written()), "{}", sink.written());
        assert!(connection.wake_count() > 0);
        let mut sink = sink;
        mux.collect(&mut sink, usize::MAX);
        sink.write_all().unwrap();
        reader.join().unwrap();
    }

    #[test]
    fn a_thread_that_panics_gives_the_sink_back() {
        let (connection, sink, _peer) = connect();
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            let _taken = TakenSink { mux: &connection.mux, sink: Some(sink) };
            connection.mux.state().sink = SinkPlace::Taken;
            panic!("on purpose");
        }));
        assert!(panicked.is_err());
        assert!(connection.mux.reclaim().is_some());
    }

    #[test]
    fn what_the_reader_causes_is_the_writers() {
        let (connection, sink, _peer) = connect();
        connection.mux.lend(sink).unwrap();
        let stream = connection.open();
        // A frame that breaks a rule: DATA after the request's END.
        let wrong = Frame::Data { stream: stream.number(), fin: Fin::More, body: Bytes::from_static(b"x") };
        connection.mux.receive(&wrong.to_vec().into()).unwrap();
        assert_eq!(connection.wake_count(), 1);
        let sink = connection.mux.reclaim().unwrap();
        assert_eq!(sink.written(), 0);
    }

    #[test]
    fn a_connection_that_ends_wakes_whoever_waits_for_it() {
        let (connection, sink, peer) = connect();
        connection.mux.lend(sink).unwrap();
        let stream = connection.open();
        let waiting = stream.clone();
        let waiter = thread::spawn(move || waiting.ended());
        drop(peer);
        connection.mux.close();
        waiter.join().unwrap();
        // Nothing more is queued, nor written.
        assert!(stream.send_head_with(OK, b"late").is_err());
        assert!(connection.mux.reclaim().is_some_and(|sink| sink.is_empty()));
    }

    #[test]
    fn the_last_stream_of_a_side_that_leaves_wakes_the_writer() {
        let (connection, sink, peer) = connect();
        let reader = read_ends(peer, 1);
        connection.mux.lend(sink).unwrap();
        let stream = connection.open();
        connection.mux.go_away(1, "leaving");
        assert_eq!(connection.wake_count(), 0);
        stream.send_head_with(OK, b"hello").unwrap();
        assert_eq!(connection.wake_count(), 1);
        reader.join().unwrap();
    }
}
