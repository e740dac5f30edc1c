//! The connection below ureq: one socket to the local server, and what is known of it.
//!
//! ureq calls every method on the thread that makes the request. What happens on the way is noted in that
//! thread's [`Trace`], since ureq's own errors do not tell a request that was never seen from one that was.

use std::cell::Cell;
use std::fmt;
use std::io::{self, Read, Write};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use ureq::Error;
use ureq::http::Uri;
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver as UreqResolver};
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector as UreqConnector, LazyBuffers, NextTimeout, ShutdownHandle,
    Transport,
};

use super::Timeouts;
use super::target::LocalUrl;
use crate::link::dial::{self, DialError};
use crate::link::resolve::Resolver;
use crate::link::tls::ClientTls;
use crate::link::{Closer, Socket};

/// Room for a response's head, of which ureq takes up to 64 KiB, and a bit.
const INPUT: usize = 72 << 10;

/// Room for what is sent at once; a header line has to fit.
const OUTPUT: usize = 32 << 10;

/// A write that stalls looks this often whether the server has answered meanwhile.
const STALL_CHECK: Duration = Duration::from_millis(250);

/// A write that has stalled this long is given up when the server has answered. One that answers first and
/// reads on is waited for.
const ANSWERED_STALL: Duration = Duration::from_secs(2);

/// Leaves name resolution to the [`Connector`]: ureq would resolve for every request.
#[derive(Debug)]
pub(super) struct NoResolver;

impl UreqResolver for NoResolver {
    fn resolve(
        &self,
        _: &Uri,
        _: &ureq::config::Config,
        _: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, Error> {
        Ok(self.empty())
    }
}

/// What was seen of a request so far.
#[derive(Debug, Clone, Copy)]
struct Seen {
    /// There was a connection to send it on.
    connected: bool,
    /// That connection had carried another request before.
    reused: bool,
    /// A byte of the response has come.
    received: bool,
    /// The server closed or reset the connection.
    closed: bool,
    /// Idle connections are not to be used.
    fresh: bool,
}

impl Seen {
    const NOTHING: Seen =
        Seen { connected: false, reused: false, received: false, closed: false, fresh: false };
}

thread_local! {
    static SEEN: Cell<Seen> = const { Cell::new(Seen::NOTHING) };
}

/// What is seen of the request that this thread makes.
pub(super) struct Trace(());

impl Trace {
    /// A new request begins.
    pub(super) fn begin() -> Self {
        SEEN.set(Seen::NOTHING);
        Trace(())
    }

    /// A new request begins, on a connection of its own.
    pub(super) fn begin_fresh() -> Self {
        SEEN.set(Seen { fresh: true, ..Seen::NOTHING });
        Trace(())
    }

    /// Whether there was a connection to send it on.
    pub(super) fn connected(&self) -> bool {
        SEEN.get().connected
    }

    /// Whether a byte of the response has come.
    pub(super) fn received(&self) -> bool {
        SEEN.get().received
    }

    /// Whether it failed as a request does on an idle connection that the server has closed. One that the
    /// server is slow to answer is not: it may well be at work on it.
    pub(super) fn was_stale(&self) -> bool {
        let seen = SEEN.get();
        seen.connected && seen.reused && !seen.received && seen.closed
    }
}

fn note(change: impl FnOnce(&mut Seen)) {
    let mut seen = SEEN.get();
    change(&mut seen);
    SEEN.set(seen);
}

/// Opens connections to the local server. Clones share what was resolved.
#[derive(Clone)]
pub(super) struct Connector {
    resolver: Arc<Resolver>,
    tls: Option<ClientTls>,
    timeouts: Timeouts,
}

impl Connector {
    pub(super) fn new(local: &LocalUrl, tls: Option<ClientTls>, timeouts: Timeouts) -> Self {
        Connector { resolver: Arc::new(Resolver::new(local.host(), local.port())), tls, timeouts }
    }

    fn open(&self) -> Result<Socket, DialError> {
        let deadline = Instant::now() + self.timeouts.connect;
        let known = self.resolver.cached(self.timeouts.connect).map_err(DialError::Resolve)?;
        dial::open(&known, self.resolver.host(), self.tls.as_ref(), deadline).or_else(|error| {
            // The name may have moved since it was looked up.
            let left = deadline.saturating_duration_since(Instant::now());
            match self.resolver.look_up(left) {
                Ok(now) if now != known => {
                    dial::open(&now, self.resolver.host(), self.tls.as_ref(), deadline)
                }
                _ => Err(error),
            }
        })
    }
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Connector({}:{})", self.resolver.host(), self.resolver.port())
    }
}

impl UreqConnector for Connector {
    type Out = Connection;

    fn connect(&self, details: &ConnectionDetails<'_>, _: Option<()>) -> Result<Option<Connection>, Error> {
        let socket = self.open().map_err(|error| Error::Io(as_io(error)))?;
        socket.set_write_timeout(STALL_CHECK).map_err(Error::Io)?;
        let interrupt = Arc::new(Interrupt(socket.closer()));
        let handle: Arc<dyn ShutdownHandle> = interrupt.clone();
        (details.register_shutdown)(Arc::downgrade(&handle) as Weak<dyn ShutdownHandle>)?;
        Ok(Some(Connection {
            socket,
            _interrupt: interrupt,
            secure: self.tls.is_some(),
            buffers: LazyBuffers::new(INPUT, OUTPUT),
            timeouts: self.timeouts,
            read_timeout: None,
            state: State::New,
            answer_began: false,
            input_waits: false,
        }))
    }
}

/// The system's error, which says most in the fewest words; TLS and look-up failures name themselves.
fn as_io(error: DialError) -> io::Error {
    match error {
        DialError::Connect(_, error) => error,
        other => io::Error::other(other.to_string()),
    }
}

/// Ends the connection when the agent's drain is over.
struct Interrupt(Closer);

impl ShutdownHandle for Interrupt {
    fn shutdown(&self) {
        self.0.close();
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Nothing was sent on it yet.
    New,
    /// A request is on its way.
    Busy,
    /// It is in the pool, and may have been closed meanwhile.
    Idle,
    /// The server answered before it had the whole request: what is still to be sent is dropped, and the
    /// connection is not used again.
    AnsweredEarly,
    /// It failed.
    Broken,
}

/// One connection to the local server.
pub(super) struct Connection {
    socket: Socket,
    /// Alive as long as the connection, for ureq's weak reference to it.
    _interrupt: Arc<Interrupt>,
    secure: bool,
    buffers: LazyBuffers,
    timeouts: Timeouts,
    /// What the socket's time-out is set to; setting it costs a system call.
    read_timeout: Option<Duration>,
    state: State,
    /// A byte of the answer to this request has come.
    answer_began: bool,
    /// The beginning of an early answer is in the buffer, which ureq does not know of.
    input_waits: bool,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Connection({:?})", self.state)
    }
}

impl Connection {
    fn begin(&mut self) {
        let reused = self.state == State::Idle;
        note(|seen| (seen.connected, seen.reused) = (true, reused));
        (self.state, self.answer_began, self.input_waits) = (State::Busy, false, false);
    }

    /// Sends all of it, unless the server has answered and does not want the rest.
    fn send(&mut self, amount: usize) -> io::Result<()> {
        let mut from = 0;
        let mut stalled_since = None;
        while from < amount && self.state != State::AnsweredEarly {
            let output = &self.buffers.output()[from..amount];
            match self.socket.write(output) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => (from, stalled_since) = (from + written, None),
                Err(error) => self.survive(error, &mut stalled_since)?,
            }
        }
        while self.state != State::AnsweredEarly {
            match self.socket.flush() {
                Ok(()) => return Ok(()),
                Err(error) => self.survive(error, &mut stalled_since)?,
            }
        }
        Ok(())
    }

    /// A write that failed is no failure when there is an answer to be read; one that stalls is given up
    /// for a final answer after a while, since a server may answer first and read on.
    fn survive(&mut self, error: io::Error, stalled_since: &mut Option<Instant>) -> io::Result<()> {
        self.read_ahead();
        if error.kind() == io::ErrorKind::WouldBlock {
            // Under TLS a part of a record went out.
            *stalled_since = None;
            return Ok(());
        }
        let now = Instant::now();
        let stalled = now - *stalled_since.get_or_insert(now);
        let timed_out = error.kind() == io::ErrorKind::TimedOut;
        let answered = if timed_out {
            stalled >= ANSWERED_STALL && has_final_head(self.buffers.input())
        } else {
            !self.buffers.input().is_empty()
        };
        if answered {
            self.state = State::AnsweredEarly;
            return Ok(());
        }
        if timed_out && stalled < self.timeouts.idle { Ok(()) } else { Err(error) }
    }

    /// Takes in what the server has sent meanwhile, as far as there is room.
    fn read_ahead(&mut self) {
        let room = self.buffers.input_append_buf();
        if !room.is_empty()
            && let Ok(Some(read @ 1..)) = self.socket.read_available(room)
        {
            self.received(read);
            self.input_waits = true;
        }
    }

    fn received(&mut self, bytes: usize) {
        self.buffers.input_appended(bytes);
        if bytes > 0 {
            self.answer_began = true;
            note(|seen| seen.received = true);
        }
    }

    /// Whether the server has sent nothing that nobody asked for, and has not closed the connection.
    fn is_quiet(&mut self) -> bool {
        matches!(self.socket.read_available(&mut [0]), Ok(None))
    }

    fn receive(&mut self) -> io::Result<bool> {
        // With nothing there it would be taken for the end.
        if std::mem::take(&mut self.input_waits) && !self.buffers.input().is_empty() {
            return Ok(true);
        }
        let wait = if self.answer_began { self.timeouts.idle } else { self.timeouts.response };
        if self.read_timeout != Some(wait) {
            self.socket.set_read_timeout(wait)?;
            self.read_timeout = Some(wait);
        }
        let read = self.socket.read(self.buffers.input_append_buf()).map_err(not_an_end)?;
        note(|seen| seen.closed |= read == 0);
        self.received(read);
        Ok(read > 0)
    }
}

/// Whether the input holds the whole head of a final response, behind interim ones perhaps.
fn has_final_head(mut input: &[u8]) -> bool {
    loop {
        let mut headers = [httparse::EMPTY_HEADER; 128];
        let mut response = httparse::Response::new(&mut headers);
        match response.parse(input) {
            Ok(httparse::Status::Complete(length)) if response.code.is_some_and(|code| code < 200) => {
                input = &input[length..];
            }
            Ok(httparse::Status::Complete(_)) => return true,
            Ok(httparse::Status::Partial) => return false,
            // Whatever it is, ureq is to see it.
            Err(_) => return true,
        }
    }
}

/// ureq takes some errors for the end of a body that has no length. A cut body must not look whole.
fn not_an_end(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionAborted => {
            note(|seen| seen.closed = true);
            io::Error::other(error)
        }
        io::ErrorKind::UnexpectedEof => io::Error::other("TLS ended without a goodbye"),
        _ => error,
    }
}

impl Transport for Connection {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, _: NextTimeout) -> Result<(), Error> {
        match self.state {
            State::New | State::Idle => self.begin(),
            State::AnsweredEarly => return Ok(()),
            State::Busy | State::Broken => {}
        }
        self.send(amount).map_err(|error| {
            self.state = State::Broken;
            note(|seen| seen.closed |= error.kind() != io::ErrorKind::TimedOut);
            Error::Io(error)
        })
    }

    fn await_input(&mut self, _: NextTimeout) -> Result<bool, Error> {
        self.receive().map_err(|error| {
            self.state = State::Broken;
            Error::Io(error)
        })
    }

    /// Asked when a response is complete, and again before the connection is used for another one.
    fn is_open(&mut self) -> bool {
        match self.state {
            State::Busy => self.state = State::Idle,
            // Bytes that nobody asked for are the end as much as a closed connection is: they would be
            // taken for the answer to the next request.
            State::Idle => return !SEEN.get().fresh && self.is_quiet(),
            State::New | State::AnsweredEarly | State::Broken => return false,
        }
        true
    }

    fn is_tls(&self) -> bool {
        self.secure
    }
}
