//! Where an upload goes: to a stream, which may be another one as long as nothing is lost.

use std::sync::{Mutex, MutexGuard};

use super::budget::Share;
use crate::mux::{Fin, Reset, ResetCode, Stream, StreamEnd, StreamError};
use crate::sync::{Waiters, lock};

/// A body is kept up to this size: the agent has asked for more before all of a window is sent.
const KEPT_MAX: usize = 256 << 10;

/// Where the body goes, and what of it went there.
pub(super) struct UploadPath {
    pub(super) state: Mutex<PathState>,
    pub(super) waiters: Waiters,
}

pub(super) struct PathState {
    /// The stream that the request has now.
    pub(super) stream: Option<Stream>,
    pub(super) kept: Option<Kept>,
    /// All of the body was passed on.
    pub(super) complete: bool,
    /// The kept bytes are being sent to another stream.
    pub(super) turning: bool,
    /// The visitor has disconnected.
    pub(super) is_visitor_gone: bool,
    /// There will be no other stream.
    pub(super) closed: bool,
}

/// A body as far as it was passed on, and its share of the memory for bodies.
pub(super) struct Kept {
    pub(super) bytes: Vec<u8>,
    pub(super) share: Share,
}

impl Kept {
    /// With more of the body; nothing when it becomes too large.
    pub(super) fn with(mut self, bytes: &[u8]) -> Option<Self> {
        let fits = self.bytes.len() + bytes.len() <= KEPT_MAX && self.share.grow(bytes.len());
        self.bytes.extend_from_slice(if fits { bytes } else { &[] });
        fits.then_some(self)
    }
}

/// Whether nothing of a request was sent to a local server, so that another agent may have it.
pub(super) fn is_given_back(error: &StreamError) -> bool {
    matches!(
        error,
        StreamError::Closed(StreamEnd::ByPeer(Reset {
            code: ResetCode::Refused | ResetCode::Unreachable,
            ..
        }))
    )
}

impl UploadPath {
    pub(super) fn state(&self) -> MutexGuard<'_, PathState> {
        lock(&self.state)
    }

    /// The state when nothing is being sent to another stream.
    pub(super) fn settled(&self) -> MutexGuard<'_, PathState> {
        self.waiters.wait_while(self.state(), |state| state.turning)
    }

    /// The stream to send to. `None` when there is none any more.
    pub(super) fn stream(&self) -> Option<Stream> {
        let state = self.settled();
        state.stream.clone().filter(|_| !state.closed)
    }

    /// Records bytes that are passed on next, and returns the stream that they go to.
    pub(super) fn push(&self, bytes: &[u8], fin: Fin) -> Option<Stream> {
        let mut state = self.settled();
        if state.closed {
            return None;
        }
        let is_wanted = state.stream.as_ref().is_none_or(|stream| !stream.is_granted());
        state.kept = state.kept.take().filter(|_| is_wanted).and_then(|kept| kept.with(bytes));
        state.complete |= fin == Fin::Last;
        state.stream.clone()
    }

    /// Waits for another stream than this one, which has ended. False when there will be none.
    pub(super) fn wait_for_turn(&self, from: &Stream, error: &StreamError) -> bool {
        if !is_given_back(error) {
            return false;
        }
        let is_same = |state: &mut PathState| {
            !state.closed && state.stream.as_ref().is_none_or(|stream| stream.is_same(from))
        };
        !self.waiters.wait_while(self.state(), is_same).closed
    }

    /// Resets whatever stream the request has, since its visitor is gone.
    pub(super) fn leave(&self, text: &str) {
        let mut state = self.state();
        state.is_visitor_gone = true;
        let stream = state.stream.clone();
        drop(state);
        if let Some(stream) = stream {
            stream.reset(Reset::new(ResetCode::Cancelled, text));
        }
    }

    pub(super) fn close(&self) {
        let mut state = self.state();
        (state.closed, state.turning, state.kept) = (true, false, None);
        self.waiters.release(state);
    }
}
