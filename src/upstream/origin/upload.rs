//! A request's body on its way to the local server, on a thread of its own: it may take as long as the client
//! takes, and the server may answer before it has all of it.

use std::io::{self, Read};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use crate::http1::{Framing, LAST_CHUNK, write_chunk};
use crate::net::{Closer, WriteHalf};
use crate::service::{Body, Failure, FailureKind};
use crate::sync::lock;

/// The size of a write, in bytes.
const PIECE: usize = 64 << 10;

/// Enough to copy bytes, and for TLS.
const STACK: usize = 128 << 10;

/// A body that is being sent.
#[derive(Debug)]
pub(super) struct Upload {
    thread: JoinHandle<WriteHalf>,
    watch: UploadWatch,
}

/// How far it is.
#[derive(Debug, Clone)]
pub(super) enum UploadState {
    /// It goes on.
    Sending,
    /// All of it was sent, at this time.
    Sent(Instant),
    /// The server does not take the rest of it.
    Unwanted,
    /// The body broke off: the connection was closed, so that what the server got does not look whole.
    Failed(Failure),
    /// The server takes nothing; the connection was closed.
    Stalled,
}

impl Upload {
    /// Sends a body with this framing; [`Framing::UntilEnd`] ends the writing direction behind it.
    pub(super) fn start(
        mut half: WriteHalf,
        closer: Closer,
        mut body: Body,
        framing: Framing,
    ) -> io::Result<Self> {
        let state = Arc::new(Mutex::new(UploadState::Sending));
        let shared = state.clone();
        let run = move || {
            // Of what happens when the body's reader panics.
            let mut outcome = UploadOutcome { shared, closer, state: UploadState::Failed(panicked()) };
            outcome.state = send(&mut half, &mut body, framing);
            drop(outcome);
            half
        };
        let thread = thread::Builder::new().name("upload".to_owned()).stack_size(STACK).spawn(run)?;
        Ok(Upload { thread, watch: UploadWatch(state) })
    }

    pub(super) fn state(&self) -> UploadState {
        self.watch.state()
    }

    /// Tells how far it is, without owning it.
    pub(super) fn watch(&self) -> UploadWatch {
        self.watch.clone()
    }

    /// Waits for its end.
    pub(super) fn join(self) -> Option<WriteHalf> {
        // A body whose reader panics has been reported by the panic hook.
        self.thread.join().ok()
    }
}

/// Tells how far an upload is.
#[derive(Debug, Clone)]
pub(super) struct UploadWatch(Arc<Mutex<UploadState>>);

impl UploadWatch {
    pub(super) fn state(&self) -> UploadState {
        lock(&self.0).clone()
    }
}

/// Tells how the sending ended, when it is dropped.
struct UploadOutcome {
    shared: Arc<Mutex<UploadState>>,
    closer: Closer,
    state: UploadState,
}

impl Drop for UploadOutcome {
    fn drop(&mut self) {
        let failed = matches!(self.state, UploadState::Failed(_) | UploadState::Stalled);
        *lock(&self.shared) = self.state.clone();
        // Only now: the reader that finds the connection closed looks for the reason.
        if failed {
            self.closer.close();
        }
    }
}

fn panicked() -> Failure {
    Failure::new(FailureKind::Internal, "the reader of the request's body panicked")
}

fn send(half: &mut WriteHalf, body: &mut Body, framing: Framing) -> UploadState {
    let (mut buffer, mut chunk) = (vec![0; PIECE], Vec::new());
    loop {
        let read = match body.read(&mut buffer) {
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return UploadState::Failed(Failure::of_request_body(error)),
        };
        let sent = match framing {
            Framing::Chunked if read == 0 => half.send_all(LAST_CHUNK),
            Framing::UntilEnd if read == 0 => half.finish(),
            // In one write: each would be a packet of its own.
            Framing::Chunked => {
                chunk.clear();
                write_chunk(&mut chunk, &buffer[..read]);
                half.send_all(&chunk)
            }
            Framing::Length(_) | Framing::UntilEnd => half.send_all(&buffer[..read]),
        };
        match sent {
            Ok(()) if read == 0 => return UploadState::Sent(Instant::now()),
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::TimedOut => return UploadState::Stalled,
            Err(_) => return UploadState::Unwanted,
        }
    }
}
