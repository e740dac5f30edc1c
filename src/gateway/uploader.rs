//! The reading side of a visitor's connection while its request is a stream.
//!
//! A request without a body, or with a small one that has come already, needs no reader. For anything
//! that lasts there is a second thread: it passes the body on as it comes, notices when the visitor leaves, and
//! carries what the visitor says in another protocol.
//!
//! The bytes that were passed on are kept until the agent has asked for more. So a request that an agent gives back can go to
//! another one, whole: the answering thread sends it there what was kept, and the second thread goes on behind it.

use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};
use std::{io, thread};

use super::budget::Share;
use super::upload_path::{Kept, PathState, UploadPath};
use crate::http1::{Decoder, Framing, Input, RequestError, or_end};
use crate::mux::{Fin, Reset, ResetCode, Stream, StreamError};
use crate::sync::Waiters;

/// How long a visitor may send nothing in the middle of a body, or take nothing of a response.
pub(super) const STALL: Duration = Duration::from_secs(60);

/// A body up to this size that is there when its request is sent goes with it; no window is smaller.
const EARLY_MAX: usize = 16 << 10;

/// How long it may take to be there: visitors often send it right behind the head.
const EARLY_TIME: Duration = Duration::from_millis(2);

/// A body is read in pieces of at most this size.
const PIECE: usize = 64 << 10;

/// Enough to copy bytes, and for TLS.
const STACK: usize = 128 << 10;

/// The reading side of a connection, for the time of one request.
pub(super) struct Uploader {
    reading: ReadingSide,
    /// When all of the request was passed on, by either thread.
    sent: Arc<OnceLock<Instant>>,
    /// The bytes that were passed on; shared with the second thread.
    way: Arc<UploadPath>,
}

enum ReadingSide {
    /// No thread reads now.
    Here(Input, Decoder),
    There(Helper),
    /// It was given back.
    Gone,
}

/// The second thread.
struct Helper {
    end: Receiver<UploadEnd>,
    /// To tell it that the protocol has changed.
    switch: Option<SyncSender<()>>,
}

/// The part of a body that another stream would need.
pub(super) struct Again {
    pub(super) body: Vec<u8>,
    /// Whether that is all of it.
    pub(super) complete: bool,
}

/// The result of the second thread.
pub(super) enum UploadEnd {
    /// The connection is as it was before; there may be another request on it.
    Returned(Input),
    /// The visitor has disconnected.
    VisitorGone,
    /// The body cannot be read.
    Unreadable(RequestError),
}

impl Uploader {
    /// After a head with this framing. `share` is the memory that the body may take up until it is taken.
    pub(super) fn new(input: Input, framing: Framing, share: Share) -> Self {
        let state = PathState {
            stream: None,
            kept: Some(Kept { bytes: Vec::new(), share }),
            complete: false,
            turning: false,
            is_visitor_gone: false,
            closed: false,
        };
        Uploader {
            reading: ReadingSide::Here(input, Decoder::new(framing)),
            sent: Arc::default(),
            way: Arc::new(UploadPath { state: Mutex::new(state), waiters: Waiters::default() }),
        }
    }

    /// Takes as much of a small body as is there. Returns its length if that is all of it.
    pub(super) fn read_early(&mut self) -> Result<Option<u64>, RequestError> {
        let ReadingSide::Here(input, decoder) = &mut self.reading else { return Ok(None) };
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
        let (complete, length) = (decoder.is_done(), body.len() as u64);
        let mut state = self.way.state();
        state.complete = complete;
        // Bodies this small are not shared out: they are there in any case.
        state.kept = state.kept.take().map(|kept| Kept { bytes: body, ..kept });
        drop(state);
        if complete {
            // Once is enough.
            let _ = self.sent.set(Instant::now());
        }
        Ok(complete.then_some(length))
    }

    /// The bytes for a first or another stream; nothing when some of them may be at work already. Until that stream is
    /// [there](Self::turn_to), nothing else is passed on.
    pub(super) fn again(&self) -> Option<Again> {
        let mut state = self.way.state();
        let is_granted = state.stream.as_ref().is_some_and(Stream::is_granted);
        let again = state.kept.as_ref().filter(|_| !is_granted && !state.is_visitor_gone)?;
        let again = Again { body: again.bytes.clone(), complete: state.complete };
        state.turning = true;
        Some(again)
    }

    /// Whether what was passed on is all there still, and its visitor, too.
    pub(super) fn can_turn(&self) -> bool {
        let state = self.way.state();
        let is_granted = state.stream.as_ref().is_some_and(Stream::is_granted);
        state.kept.is_some() && !is_granted && !state.is_visitor_gone
    }

    /// Passes the body on to this stream from now on.
    pub(super) fn turn_to(&self, stream: &Stream) {
        let mut state = self.way.state();
        state.stream = Some(stream.clone());
        state.turning = false;
        let is_visitor_gone = state.is_visitor_gone;
        self.way.waiters.release(state);
        if is_visitor_gone {
            stream.reset(Reset::new(ResetCode::Cancelled, "the visitor disconnected"));
        }
    }

    /// Keeps nothing for another stream any more: this one is answered.
    pub(super) fn forget(&self) {
        self.way.state().kept = None;
    }

    /// When all of the request was passed on.
    pub(super) fn sent(&self) -> Option<Instant> {
        self.sent.get().copied()
    }

    /// Whether no second thread reads.
    pub(super) fn is_unwatched(&self) -> bool {
        matches!(self.reading, ReadingSide::Here(..))
    }

    /// Starts the second thread, unless it runs: it passes on the rest of the body, and resets the stream
    /// when the visitor leaves. With `protocol` [changing](ProtocolChange::MayChange) it may be [switched](Self::switch).
    pub(super) fn watch(&mut self, protocol: ProtocolChange) -> io::Result<()> {
        let (input, decoder) = match std::mem::replace(&mut self.reading, ReadingSide::Gone) {
            ReadingSide::Here(input, decoder) => (input, decoder),
            other => {
                self.reading = other;
                return Ok(());
            }
        };
        let (switch, switched) = mpsc::sync_channel(1);
        let (end, ended) = mpsc::sync_channel(1);
        let reader = VisitorReader { input, way: self.way.clone(), sent: self.sent.clone() };
        let may_change = protocol == ProtocolChange::MayChange;
        let switched = may_change.then_some(switched);
        // The result may not be wanted.
        let run = move || drop(end.send(reader.run(decoder, switched)));
        thread::Builder::new().name("visitor".to_owned()).stack_size(STACK).spawn(run)?;
        self.reading = ReadingSide::There(Helper { end: ended, switch: may_change.then_some(switch) });
        Ok(())
    }

    /// Lets the visitor's bytes pass as they are from now on.
    pub(super) fn switch(&mut self) {
        if let ReadingSide::There(Helper { switch: Some(switch), .. }) = &self.reading {
            // It has room for this one word, and the thread may have ended.
            let _ = switch.try_send(());
        }
    }

    /// Gives the connection back, or tells why there is none. `None` when the second thread still reads after
    /// this time: it does until the visitor says something or leaves.
    pub(super) fn take_back(&mut self, limit: Duration) -> Option<UploadEnd> {
        self.way.close();
        let Helper { end, switch } = match std::mem::replace(&mut self.reading, ReadingSide::Gone) {
            ReadingSide::Here(input, _) => return Some(UploadEnd::Returned(input)),
            ReadingSide::There(helper) => helper,
            ReadingSide::Gone => return Some(UploadEnd::VisitorGone),
        };
        drop(switch);
        match end.recv_timeout(limit) {
            Ok(end) => Some(end),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => Some(UploadEnd::VisitorGone),
        }
    }
}

impl Drop for Uploader {
    fn drop(&mut self) {
        // The second thread waits for no other stream.
        self.way.close();
    }
}

/// Whether a visitor may change to another protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ProtocolChange {
    Stays,
    MayChange,
}

/// Waits for reads no longer than this, or for ever.
fn wait_at_most(input: &mut Input, limit: Option<Duration>) -> io::Result<()> {
    input.socket_mut().set_deadline(None)?;
    input.socket().set_read_timeout(limit)
}

/// The state of the second thread.
struct VisitorReader {
    input: Input,
    way: Arc<UploadPath>,
    sent: Arc<OnceLock<Instant>>,
}

impl VisitorReader {
    fn run(mut self, decoder: Decoder, switched: Option<Receiver<()>>) -> UploadEnd {
        match self.pass_on(decoder) {
            Ok(true) => {}
            Ok(false) => return UploadEnd::Returned(self.input),
            Err(error) => {
                self.way.leave("the client's body broke off");
                return match error {
                    RequestError::Io(_) => UploadEnd::VisitorGone,
                    error => UploadEnd::Unreadable(error),
                };
            }
        }
        if self.input.unread().is_empty() {
            let read = wait_at_most(&mut self.input, None).and_then(|()| self.input.fill_after_pause());
            let switched_now = || switched.as_ref().is_some_and(|switched| switched.try_recv().is_ok());
            match or_end(read) {
                Ok(1..) => {}
                // The protocol has changed, and the visitor has sent nothing in the other one.
                Ok(0) if switched_now() => {
                    self.way.stream().map(|stream| stream.send_end());
                    return UploadEnd::VisitorGone;
                }
                Ok(0) | Err(_) => return self.visitor_gone(),
            }
        }
        // Waits for the head of the response, which decides what the bytes are.
        match switched.map(|switched| switched.recv()) {
            Some(Ok(())) => self.pass_on_raw(),
            Some(Err(_)) | None => UploadEnd::Returned(self.input),
        }
    }

    fn visitor_gone(self) -> UploadEnd {
        self.way.leave("the visitor disconnected");
        UploadEnd::VisitorGone
    }

    /// Passes the rest of the body on. False when it is not wanted any more.
    fn pass_on(&mut self, mut decoder: Decoder) -> Result<bool, RequestError> {
        if !decoder.is_done() {
            wait_at_most(&mut self.input, Some(STALL))?;
        }
        while !decoder.is_done() {
            let Some(stream) = self.way.stream() else { return Ok(false) };
            let room = match stream.capacity() {
                Ok(room) => room.min(PIECE),
                Err(error) if self.way.wait_for_turn(&stream, &error) => continue,
                Err(error) => return Ok(give_up(&stream, &error)),
            };
            let mut buffer = stream.buffer(room);
            let read = self.input.read_body(&mut decoder, buffer.space())?;
            let fin = Fin::from(decoder.is_done());
            if fin == Fin::Last {
                // Before the response can overtake it, which would cost the visitor its connection. Once is enough.
                let _ = self.sent.set(Instant::now());
            }
            let Some(now) = self.way.push(&buffer.space()[..read], fin) else { return Ok(false) };
            let sent = if now.is_same(&stream) {
                stream.send(buffer, read, fin)
            } else {
                // There may be less room on this one.
                now.send_all(&buffer.space()[..read], fin)
            };
            match sent {
                Ok(()) => {}
                // It was kept, and is sent to the other stream with the rest.
                Err(error) if self.way.wait_for_turn(&now, &error) => {}
                Err(error) => return Ok(give_up(&now, &error)),
            }
        }
        // Once is enough.
        let _ = self.sent.set(Instant::now());
        Ok(true)
    }

    fn pass_on_raw(mut self) -> UploadEnd {
        let Some(stream) = self.way.stream() else { return UploadEnd::VisitorGone };
        loop {
            if stream.send_all(self.input.unread(), Fin::More).is_err() {
                return UploadEnd::VisitorGone;
            }
            self.input.consume(self.input.unread().len());
            match or_end(self.input.fill()) {
                Ok(0) => {
                    let _ = stream.send_end();
                    return UploadEnd::VisitorGone;
                }
                Ok(_) => {}
                Err(_) => return self.visitor_gone(),
            }
        }
    }
}

/// Resets a stream that takes nothing more: the rest is not wanted.
fn give_up(stream: &Stream, error: &StreamError) -> bool {
    if *error == StreamError::TimedOut {
        stream.reset(Reset::new(ResetCode::Timeout, "the request's body was not taken"));
    }
    false
}
