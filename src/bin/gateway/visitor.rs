//! The reading side of a visitor's connection while its request is a stream.
//!
//! A request without a body, or with a small one that has come already, needs nobody who reads. For anything
//! that lasts there is a second thread: it passes the body on as it comes, notices when the visitor leaves, and
//! carries what the visitor says in another protocol.

use std::io;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use tunnel_agent::http1::{Decoder, Error, Framing, Input};
use tunnel_agent::mux::{Stream, StreamError};
use tunnel_agent::protocol::mux::{Reset, ResetCode};

/// How long a visitor may send nothing in the middle of a body, or take nothing of a response.
pub const STALL: Duration = Duration::from_secs(60);

/// A body up to this size that is there when its request is sent goes with it; no window is smaller.
const EARLY_MAX: usize = 16 << 10;

/// How long it may take to be there: visitors often send it right behind the head.
const EARLY_TIME: Duration = Duration::from_millis(2);

/// A body is read in pieces of at most this size.
const PIECE: usize = 64 << 10;

/// Enough to copy bytes, and for TLS.
const STACK: usize = 128 << 10;

/// The reading side of a connection, for the time of one request.
pub struct Visitor {
    reading: Reading,
    /// When all of the request was passed on, by either thread.
    sent: Arc<OnceLock<Instant>>,
}

enum Reading {
    /// Nobody reads now.
    Here(Input, Decoder),
    There(Helper),
    /// It was given back.
    Gone,
}

/// The second thread.
struct Helper {
    end: Receiver<End>,
    /// To tell it that the protocol has changed.
    switch: Option<SyncSender<()>>,
}

/// What the second thread came to.
pub enum End {
    /// The connection is as it was before; there may be another request on it.
    Returned(Input),
    /// The visitor has left.
    Left,
    /// The body cannot be read.
    Unreadable(Error),
}

/// What came with the request.
pub struct Early {
    pub body: Vec<u8>,
    /// Whether that is all of it.
    pub complete: bool,
}

impl Visitor {
    /// After a head with this framing.
    pub fn new(input: Input, framing: Framing) -> Self {
        Visitor { reading: Reading::Here(input, Decoder::new(framing)), sent: Arc::default() }
    }

    /// Takes as much of a small body as is there.
    pub fn read_early(&mut self) -> Result<Early, Error> {
        let Reading::Here(input, decoder) = &mut self.reading else {
            return Ok(Early { body: Vec::new(), complete: false });
        };
        let mut body = Vec::new();
        if !decoder.is_done() {
            wait_at_most(input, Some(EARLY_TIME))?;
            body.resize(EARLY_MAX, 0);
            let mut filled = 0;
            while !decoder.is_done() && filled < EARLY_MAX {
                match input.read_body(decoder, &mut body[filled..]) {
                    Ok(read) => filled += read,
                    Err(error) if error.kind() == io::ErrorKind::TimedOut => break,
                    Err(error) => return Err(error.into()),
                }
            }
            body.truncate(filled);
        }
        Ok(Early { body, complete: decoder.is_done() })
    }

    /// Takes note that all of the request was passed on.
    pub fn is_sent_now(&self) {
        // Once is enough.
        let _ = self.sent.set(Instant::now());
    }

    /// When all of the request was passed on.
    pub fn sent(&self) -> Option<Instant> {
        self.sent.get().copied()
    }

    /// Whether no second thread reads.
    pub fn is_unwatched(&self) -> bool {
        matches!(self.reading, Reading::Here(..))
    }

    /// Starts the second thread, unless it runs: it passes on what is left of the body, and resets the stream
    /// when the visitor leaves. With `upgrade` the protocol may [change](Self::switch).
    pub fn watch(&mut self, stream: &Stream, upgrade: bool) -> io::Result<()> {
        let (input, decoder) = match std::mem::replace(&mut self.reading, Reading::Gone) {
            Reading::Here(input, decoder) => (input, decoder),
            other => {
                self.reading = other;
                return Ok(());
            }
        };
        let (switch, switched) = mpsc::sync_channel(1);
        let (end, ended) = mpsc::sync_channel(1);
        let reader = Reader { input, stream: stream.clone(), sent: self.sent.clone() };
        let switched = upgrade.then_some(switched);
        // Nobody may want to know what it came to.
        let run = move || drop(end.send(reader.run(decoder, switched)));
        thread::Builder::new().name("visitor".to_owned()).stack_size(STACK).spawn(run)?;
        self.reading = Reading::There(Helper { end: ended, switch: upgrade.then_some(switch) });
        Ok(())
    }

    /// Lets the visitor's bytes pass as they are from now on.
    pub fn switch(&mut self) {
        if let Reading::There(Helper { switch: Some(switch), .. }) = &self.reading {
            // It has room for this one word, and the thread may have ended.
            let _ = switch.try_send(());
        }
    }

    /// Gives the connection back, or tells why there is none. `None` when the second thread still reads after
    /// this time: it does until the visitor says something or leaves.
    pub fn take_back(&mut self, limit: Duration) -> Option<End> {
        let Helper { end, switch } = match std::mem::replace(&mut self.reading, Reading::Gone) {
            Reading::Here(input, _) => return Some(End::Returned(input)),
            Reading::There(helper) => helper,
            Reading::Gone => return Some(End::Left),
        };
        drop(switch);
        match end.recv_timeout(limit) {
            Ok(end) => Some(end),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => Some(End::Left),
        }
    }
}

/// Waits for reads no longer than this, or for ever.
fn wait_at_most(input: &mut Input, limit: Option<Duration>) -> io::Result<()> {
    input.socket_mut().set_deadline(None)?;
    input.socket().set_read_timeout(limit)
}

/// What the second thread has.
struct Reader {
    input: Input,
    stream: Stream,
    sent: Arc<OnceLock<Instant>>,
}

impl Reader {
    fn run(mut self, decoder: Decoder, switched: Option<Receiver<()>>) -> End {
        match self.pass_on(decoder) {
            Ok(true) => {}
            Ok(false) => return End::Returned(self.input),
            Err(error) => {
                self.stream.reset(Reset::new(ResetCode::Cancelled, "the client's body broke off"));
                return match error {
                    Error::Io(_) => End::Left,
                    error => End::Unreadable(error),
                };
            }
        }
        if self.input.unread().is_empty() {
            self.input.shrink();
            let read = wait_at_most(&mut self.input, None).and_then(|()| self.input.fill());
            let switched_now = || switched.as_ref().is_some_and(|switched| switched.try_recv().is_ok());
            match read {
                Ok(1..) => {}
                // Its last word in the other protocol is its first.
                Ok(0) if switched_now() => {
                    let _ = self.stream.send_end();
                    return End::Left;
                }
                Ok(0) | Err(_) => return self.left(),
            }
        }
        // Waits for the head of the response, which decides what the bytes are.
        match switched.map(|switched| switched.recv()) {
            Some(Ok(())) => self.pass_on_raw(),
            Some(Err(_)) | None => End::Returned(self.input),
        }
    }

    fn left(self) -> End {
        self.stream.reset(Reset::new(ResetCode::Cancelled, "the client left"));
        End::Left
    }

    /// Passes the rest of the body on. False when nobody wants it any more.
    fn pass_on(&mut self, mut decoder: Decoder) -> Result<bool, Error> {
        if !decoder.is_done() {
            wait_at_most(&mut self.input, Some(STALL))?;
        }
        while !decoder.is_done() {
            let room = match self.stream.capacity() {
                Ok(room) => room.min(PIECE),
                Err(error) => {
                    self.give_up(&error);
                    return Ok(false);
                }
            };
            let mut buffer = self.stream.buffer(room);
            let read = self.input.read_body(&mut decoder, buffer.space())?;
            if let Err(error) = self.stream.send(buffer, read, decoder.is_done()) {
                self.give_up(&error);
                return Ok(false);
            }
        }
        let _ = self.sent.set(Instant::now());
        Ok(true)
    }

    fn give_up(&self, error: &StreamError) {
        if *error == StreamError::TimedOut {
            self.stream.reset(Reset::new(ResetCode::Timeout, "the request's body was not taken"));
        }
    }

    fn pass_on_raw(mut self) -> End {
        loop {
            if self.stream.send_all(self.input.unread(), false).is_err() {
                return End::Left;
            }
            self.input.consume(self.input.unread().len());
            match self.input.fill() {
                Ok(0) => {
                    let _ = self.stream.send_end();
                    return End::Left;
                }
                Ok(_) => {}
                Err(_) => return self.left(),
            }
        }
    }
}
