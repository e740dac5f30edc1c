//! One stream of a connection, with its queues.

use tungstenite::Bytes;

use crate::mux::flow::{ReceiveFlow, SendFlow};
use crate::mux::stream::{StreamEnd, StreamState};

#[derive(Debug)]
pub(super) struct StreamEntry<T> {
    pub(super) attached: T,
    pub(super) state: StreamState,
    /// The response's head, until it is taken.
    pub(super) head: Option<Bytes>,
    pub(super) receive: ReceiveFlow,
    pub(super) send: SendFlow,
    pub(super) ownership: Ownership,
}

/// Whether the caller still holds a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ownership {
    Held,
    Released,
}

impl<T> StreamEntry<T> {
    pub(super) fn new(attached: T, state: StreamState, window: u32) -> Self {
        StreamEntry {
            attached,
            state,
            head: None,
            receive: ReceiveFlow::new(window),
            send: SendFlow::new(window),
            ownership: Ownership::Held,
        }
    }

    /// Drops the buffers of a closed stream, except what can still be read of one that ended in good order.
    pub(super) fn clear(&mut self) {
        if self.state.end() != Some(&StreamEnd::Ended) {
            self.receive.clear();
        }
        self.send.clear();
    }
}
