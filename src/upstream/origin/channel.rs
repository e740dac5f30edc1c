//! A socket to the local server with its buffers, and how far the exchange on it is.

use std::io::{self, Read};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::Timeouts;
use super::exchange_error::{ExchangeError, Stalled};
use super::upload::{Upload, UploadState, UploadWatch};
use crate::http1::{BadResponse, Framing, Input, mend_head, or_end};
use crate::net::{Closer, Socket, WriteHalf};
use crate::service::{Body, Failure, FailureKind};
use crate::sync::lock;

/// Most interim responses (RFC 9110 §15.2) before the final one.
const INTERIM_MAX: usize = 32;

/// The least room for what ureq writes next: without any it would try for ever.
const OUTPUT_SPARE: usize = 128;

/// Buffers of an idle connection that are larger than this are given back.
const IDLE_KEPT: usize = 16 << 10;

/// How long the framing of a chunked body may come without a byte of the body between.
const FRAMING_TIME: Duration = Duration::from_secs(60);

/// Bytes of a chunked body's framing that may come without a byte of the body between them.
const FRAMING_MAX: usize = 16 << 10;

/// A body is read in pieces of this size at first, so that an idle event stream takes up little.
const PIECE_MIN: usize = 4 << 10;

/// The largest piece: each costs a system call.
const PIECE_MAX: usize = 64 << 10;

/// A socket with its buffers, and the state of the exchange on it.
#[derive(Debug)]
pub(super) struct Channel {
    pub(super) input: Input,
    /// Missing while an upload has it.
    pub(super) half: Option<WriteHalf>,
    closer: Closer,
    pub(super) is_tls: bool,
    timeouts: Timeouts,
    /// The memory of what ureq writes, kept from one exchange to the next.
    output: Vec<u8>,
    pub(super) exchange: ExchangeState,
}

/// How far the exchange on a channel is.
#[derive(Debug)]
pub(super) struct ExchangeState {
    pub(super) phase: RequestPhase,
    /// The bytes of the output that ureq has written.
    filled: usize,
    /// The bytes that ureq is expected to write.
    expected: usize,
    /// ureq made use of what it saw last.
    has_progressed: bool,
    /// A head that is sent in place of ureq's.
    own_head: Option<Vec<u8>>,
    /// A body that a thread of its own sends behind the head.
    body: Mutex<Option<(Body, Framing)>>,
    upload: Option<UploadWatch>,
    /// Why the request could not be sent.
    send_error: Option<io::Error>,
    received: bool,
    interim: usize,
    /// When the first bytes came of a head that is not complete.
    begun: Option<Instant>,
    /// Why there is no response.
    pub(super) error: Option<ExchangeError>,
    piece: usize,
    read: BodyRead,
}

/// How long one read of a body has gone on, which ends with the first byte of the body.
#[derive(Debug)]
struct BodyRead {
    number: usize,
    since: Instant,
    /// Bytes that came meanwhile, and were no body.
    framing: usize,
}

impl ExchangeState {
    /// Before anything is sent; ureq writes about so many bytes.
    fn new(own: OwnParts, expected: usize) -> Self {
        ExchangeState {
            phase: RequestPhase::Collected,
            filled: 0,
            expected,
            has_progressed: false,
            own_head: own.head,
            body: Mutex::new(own.body),
            upload: None,
            send_error: None,
            received: false,
            interim: 0,
            begun: None,
            error: None,
            piece: PIECE_MIN,
            read: BodyRead { number: 0, since: Instant::now(), framing: 0 },
        }
    }
}

/// How far a request is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RequestPhase {
    /// ureq writes it.
    Collected,
    /// It was sent, but for a body that is uploaded.
    Sent,
}

/// The part of a request that is sent beside ureq's own writing.
#[derive(Debug, Default)]
pub(super) struct OwnParts {
    /// A head that is sent in place of ureq's.
    pub(super) head: Option<Vec<u8>>,
    /// A body that a thread of its own sends behind the head.
    pub(super) body: Option<(Body, Framing)>,
}

impl Channel {
    /// Takes over a socket that was just opened.
    pub(super) fn new(mut socket: Socket, timeouts: Timeouts) -> io::Result<Self> {
        let half = socket.split().ok_or(io::ErrorKind::NotConnected)?;
        half.set_timeout(timeouts.idle)?;
        Ok(Channel {
            closer: socket.closer(),
            is_tls: socket.is_tls(),
            input: Input::new(socket),
            half: Some(half),
            timeouts,
            output: Vec::new(),
            exchange: ExchangeState::new(OwnParts::default(), 0),
        })
    }

    /// Prepares the next exchange, in which ureq writes about so many bytes.
    pub(super) fn begin(&mut self, own: OwnParts, output: usize) {
        self.exchange = ExchangeState::new(own, output);
    }

    /// Gives back the memory of large buffers: the connection is idle.
    pub(super) fn shrink(&mut self) {
        self.input.shrink_above(IDLE_KEPT);
        if self.output.len() > IDLE_KEPT {
            self.output = Vec::new();
        }
        self.exchange.own_head = None;
    }

    /// Whether another request may be sent: the server has not closed the connection, and has sent nothing that was not
    /// asked for, which would be taken for the next answer.
    pub(super) fn check_quiet(&mut self) -> bool {
        self.half.is_some() && self.input.unread().is_empty() && self.input.socket_mut().check_quiet()
    }

    /// Sends what ureq has written, and begins to send a body that has a thread of its own. A server may answer and close
    /// before it has read everything, so the answer is looked for in any case.
    pub(super) fn send_request(&mut self) -> Result<Option<Upload>, ExchangeError> {
        let bytes = self.exchange.own_head.as_deref().unwrap_or(&self.output[..self.exchange.filled]);
        let sent = self.half.as_mut().map_or(Ok(()), |half| half.send_all(bytes));
        self.exchange.phase = RequestPhase::Sent;
        if let Err(error) = sent {
            self.exchange.send_error = Some(error);
            return Ok(None);
        }
        let Some((body, framing)) = lock(&self.exchange.body).take() else { return Ok(None) };
        let upload = start_upload(self.half.take(), &self.closer, body, framing)?;
        self.exchange.upload = upload.as_ref().map(Upload::watch);
        Ok(upload)
    }

    /// The head that was sent last, and a small body with it.
    pub(super) fn take_sent(&mut self) -> Vec<u8> {
        self.exchange.own_head.take().unwrap_or_else(|| self.output[..self.exchange.filled].to_vec())
    }

    /// Whether all of the head was sent, and of a body behind it.
    pub(super) fn is_all_sent(&self) -> bool {
        self.exchange.send_error.is_none()
    }

    /// Waits for more of the response's head.
    pub(super) fn read_head(&mut self) -> Result<(), ExchangeError> {
        // All of a head has the time that other bytes have each.
        let Timeouts { response, idle, .. } = self.timeouts;
        let wait = self.exchange.begun.map_or(response, |since| idle.saturating_sub(since.elapsed()));
        if wait.is_zero() {
            return Err(ExchangeError::Stalled(Stalled::Going));
        }
        match self.read_with_timeout(wait, Input::fill) {
            Ok(1..) => {
                self.exchange.received = true;
                self.exchange.begun = self.exchange.begun.or_else(|| Some(Instant::now()));
                self.skip_empty_lines();
                mend_head(self.input.unread_mut()).map_err(ExchangeError::BadResponse)
            }
            Ok(0) => Err(self.closed(io::ErrorKind::UnexpectedEof.into())),
            Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                let what = if self.exchange.begun.is_some() { Stalled::Going } else { Stalled::Answering };
                Err(ExchangeError::Stalled(what))
            }
            Err(error) => Err(self.closed(error)),
        }
    }

    /// Drops empty lines before a status line (RFC 9112 §2.2), which a head is looked at without.
    fn skip_empty_lines(&mut self) {
        let blank = self.input.unread().iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
        self.input.consume(blank);
    }

    /// Begins with the head behind that of an interim response.
    pub(super) fn next_head(&mut self) {
        self.exchange.interim += 1;
        self.skip_empty_lines();
        self.exchange.begun = (!self.input.unread().is_empty()).then(Instant::now);
        let mended = mend_head(self.input.unread_mut());
        let endless = BadResponse::Invalid("interim responses without end");
        let result = if self.exchange.interim > INTERIM_MAX { Err(endless) } else { mended };
        self.exchange.error = result.map_err(ExchangeError::BadResponse).err();
    }

    /// The input, as far as it may be used: nothing of a response that is refused.
    pub(super) fn usable(&self) -> &[u8] {
        if self.exchange.error.is_some() { &[] } else { self.input.unread() }
    }

    /// Whether there is input that ureq has not seen: it makes no use of a part of a head.
    pub(super) fn has_unseen(&self) -> bool {
        self.exchange.has_progressed && !self.usable().is_empty()
    }

    /// Marks so many bytes as used.
    pub(super) fn consume(&mut self, amount: usize) {
        self.exchange.has_progressed = amount > 0;
        self.input.consume(amount);
    }

    /// The room for what ureq writes next.
    pub(super) fn output(&mut self) -> &mut [u8] {
        let needed = self.exchange.expected.max(self.exchange.filled + OUTPUT_SPARE);
        if self.output.len() < needed {
            self.output.resize(needed, 0);
        }
        &mut self.output[self.exchange.filled..]
    }

    /// Keeps what ureq has written. Head and small body go out in one write, when the response is waited for.
    pub(super) fn collect(&mut self, amount: usize) {
        self.exchange.filled += amount;
    }

    /// The cause of a connection that broke with this error: what kept the request from being sent explains it better.
    fn closed(&mut self, error: io::Error) -> ExchangeError {
        match self.exchange.upload.as_ref().map(UploadWatch::state) {
            Some(UploadState::Failed(failure)) => ExchangeError::Request(failure),
            Some(UploadState::Stalled) => ExchangeError::Stalled(Stalled::Reading),
            _ => {
                let received = self.exchange.received;
                let error = self.exchange.send_error.take().filter(|_| !received).unwrap_or(error);
                ExchangeError::Closed { received, error }
            }
        }
    }

    /// Waits for more of the body, and says how much came: nothing at the end of the connection.
    /// A body has to come: its framing alone lasts a minute at most, and takes a few bytes.
    pub(super) fn read_body(&mut self, framing: Framing, number: usize) -> io::Result<usize> {
        if self.exchange.read.number != number {
            self.exchange.read = BodyRead { number, since: Instant::now(), framing: 0 };
        }
        let BodyRead { since, framing: without_body, .. } = self.exchange.read;
        if framing == Framing::Chunked && without_body.max(self.input.unread().len()) > FRAMING_MAX {
            let what = "its chunks are framed by more bytes than may be";
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        let piece = self.exchange.piece;
        let is_small = matches!(framing, Framing::Length(length) if length <= PIECE_MAX as u64);
        // A small body comes soon, and the next head needs the buffer again.
        if !is_small && piece == PIECE_MIN {
            self.input.shrink();
        }
        let idle = self.timeouts.idle;
        let rest = FRAMING_TIME.saturating_sub(since.elapsed());
        let wait = if without_body > 0 { idle.min(rest) } else { idle };
        let read = self.read_with_timeout(wait, |input| input.fill_by(piece)).map_err(hide_end)?;
        self.exchange.read.framing += read;
        // A full piece promises more.
        let next = if read == piece { piece * 4 } else { read.next_power_of_two() };
        self.exchange.piece = next.clamp(PIECE_MIN, PIECE_MAX);
        Ok(read)
    }

    /// Reads with a time limit that does not run while the request is still being sent.
    fn read_with_timeout(
        &mut self,
        wait: Duration,
        mut read: impl FnMut(&mut Input) -> io::Result<usize>,
    ) -> io::Result<usize> {
        let mut remaining = wait;
        loop {
            self.limit_reads(Some(remaining))?;
            let result = read(&mut self.input);
            match (&result, self.exchange.upload.as_ref().map(UploadWatch::state)) {
                (Err(error), Some(_)) if error.kind() != io::ErrorKind::TimedOut => return result,
                // It has limits of its own.
                (Err(_), Some(UploadState::Sending)) => remaining = wait,
                (Err(_), Some(UploadState::Sent(at))) => {
                    remaining = wait.saturating_sub(at.elapsed());
                    if remaining.is_zero() {
                        return result;
                    }
                }
                _ => return result,
            }
        }
    }

    /// Reads bytes of another protocol, as they are. `Ok(0)` is the end.
    pub(super) fn read_raw(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.input.unread().is_empty() {
            self.input.shrink();
            return or_end(self.input.socket_mut().read(buffer));
        }
        let read = buffer.len().min(self.input.unread().len());
        buffer[..read].copy_from_slice(&self.input.unread()[..read]);
        self.input.consume(read);
        Ok(read)
    }

    /// Lets a read wait this long, or for ever.
    pub(super) fn limit_reads(&mut self, wait: Option<Duration>) -> io::Result<()> {
        self.input.socket().set_read_timeout(wait.map(|wait| wait.max(Duration::from_millis(1))))
    }
}

/// Sends a body on a thread of its own.
pub(super) fn start_upload(
    half: Option<WriteHalf>,
    closer: &Closer,
    body: Body,
    framing: Framing,
) -> Result<Option<Upload>, ExchangeError> {
    let Some(half) = half else { return Ok(None) };
    Upload::start(half, closer.clone(), body, framing).map(Some).map_err(|error| {
        let text = format!("no thread to send its body: {error}");
        ExchangeError::Request(Failure::new(FailureKind::Internal, text))
    })
}

/// An error that ureq does not take for the end of a body, as it does some kinds.
fn hide_end(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset => {
            io::Error::other(error)
        }
        _ => error,
    }
}
