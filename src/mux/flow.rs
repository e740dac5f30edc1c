//! Flow control: the two directions of a stream's body, each with its buffer and its window.
//!
//! A window is credit in bytes that the receiver grants and the sender spends (compare RFC 9113 §5.2).

use std::collections::VecDeque;

use super::frame::weight;

/// Bytes of one stream's frames that wait to be sent, at most; one frame always fits.
pub(super) const QUEUED_MAX: usize = 128 << 10;

/// The largest credit: 2^31-1 bytes (compare RFC 9113 §6.9.1).
const CREDIT_MAX: u64 = (1 << 31) - 1;

/// A receive buffer larger than this is freed when it is empty.
const KEPT_MAX: usize = 16 << 10;

/// Whether a window is being extended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Granting {
    Idle,
    /// A WINDOW frame waits for its turn.
    Queued,
}

/// The receiving direction.
#[derive(Debug)]
pub(super) struct ReceiveFlow {
    received: VecDeque<u8>,
    /// Bytes that were received so far.
    total: u64,
    window: u64,
    /// The peer's remaining credit.
    credit: u64,
    /// Bytes that were read, and are not granted again yet.
    consumed: u64,
    granting: Granting,
}

impl ReceiveFlow {
    pub(super) fn new(window: u32) -> Self {
        let window = u64::from(window);
        ReceiveFlow {
            received: VecDeque::new(),
            total: 0,
            window,
            credit: window,
            consumed: 0,
            granting: Granting::Idle,
        }
    }

    /// Takes the body of a DATA frame, or says which rule it breaks.
    pub(super) fn receive(&mut self, body: &[u8], max_frame: usize) -> Result<(), &'static str> {
        if body.len() > max_frame || body.len() as u64 > self.credit {
            return Err("more data than the window or a frame takes");
        }
        self.credit -= body.len() as u64;
        self.total += body.len() as u64;
        self.received.extend(body);
        Ok(())
    }

    /// Bytes that were received so far.
    pub(super) fn total(&self) -> u64 {
        self.total
    }

    /// Reads as much as is buffered and fits.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> usize {
        let read = buffer.len().min(self.received.len());
        let (first, second) = self.received.as_slices();
        let split = read.min(first.len());
        buffer[..split].copy_from_slice(&first[..split]);
        buffer[split..read].copy_from_slice(&second[..read - split]);
        self.received.drain(..read);
        if self.received.is_empty() && self.received.capacity() > KEPT_MAX {
            self.received = VecDeque::new();
        }
        self.consumed += read as u64;
        read
    }

    /// Takes all that is buffered.
    pub(super) fn take(&mut self) -> Vec<u8> {
        self.consumed += self.received.len() as u64;
        std::mem::take(&mut self.received).into()
    }

    /// Decides whether a WINDOW frame is to be queued now: one at a time, once half a window was read.
    pub(super) fn queue_grant(&mut self) -> bool {
        let is_due = self.granting == Granting::Idle && self.consumed >= self.window / 2;
        if is_due {
            self.granting = Granting::Queued;
        }
        is_due
    }

    /// The credit that the queued WINDOW frame grants: all that was read meanwhile.
    pub(super) fn grant(&mut self) -> Option<u32> {
        self.granting = Granting::Idle;
        let grant = u32::try_from(std::mem::take(&mut self.consumed)).ok()?;
        self.credit += u64::from(grant);
        Some(grant)
    }

    /// Drops what was received and not read.
    pub(super) fn clear(&mut self) {
        self.received = VecDeque::new();
    }
}

/// How far the sending direction of a body is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sent {
    Nothing,
    Some,
}

/// Whether the peer has extended the first window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Granted {
    FirstWindow,
    More,
}

/// The sending direction.
#[derive(Debug)]
pub(super) struct SendFlow {
    queued: VecDeque<Vec<u8>>,
    queued_weight: usize,
    sent: Sent,
    granted: Granted,
    credit: u64,
}

impl SendFlow {
    pub(super) fn new(window: u32) -> Self {
        SendFlow {
            queued: VecDeque::new(),
            queued_weight: 0,
            sent: Sent::Nothing,
            granted: Granted::FirstWindow,
            credit: u64::from(window),
        }
    }

    /// Adds credit, or says that it exceeds what any window may have.
    pub(super) fn add_credit(&mut self, grant: u32) -> Result<(), &'static str> {
        self.credit += u64::from(grant);
        self.granted = Granted::More;
        if self.credit <= CREDIT_MAX { Ok(()) } else { Err("a window above 2^31-1") }
    }

    /// Whether the peer has granted more than the first window.
    pub(super) fn is_granted(&self) -> bool {
        self.granted == Granted::More
    }

    /// Whether some of the body has gone out.
    pub(super) fn has_begun(&self) -> bool {
        self.sent == Sent::Some
    }

    /// How many bytes may be queued now.
    pub(super) fn capacity(&self, max_frame: usize) -> usize {
        let room = match self.queued_weight {
            0 => max_frame,
            queued => QUEUED_MAX.saturating_sub(queued),
        };
        room.min(self.credit()).min(max_frame)
    }

    /// The remaining credit.
    pub(super) fn credit(&self) -> usize {
        usize::try_from(self.credit).unwrap_or(usize::MAX)
    }

    /// Queues a frame with so many bytes of body. Returns whether the queue was empty before.
    pub(super) fn push(&mut self, frame: Vec<u8>, length: usize) -> bool {
        debug_assert!(length <= self.credit());
        self.credit = self.credit.saturating_sub(length as u64);
        self.queued_weight += weight(&frame);
        self.queued.push_back(frame);
        self.queued.len() == 1
    }

    pub(super) fn pop(&mut self) -> Option<Vec<u8>> {
        let frame = self.queued.pop_front()?;
        self.queued_weight -= weight(&frame);
        self.sent = Sent::Some;
        Some(frame)
    }

    /// Whether all that was queued has gone out.
    pub(super) fn is_empty(&self) -> bool {
        self.queued.is_empty()
    }

    /// Drops what is queued.
    pub(super) fn clear(&mut self) {
        self.queued = VecDeque::new();
        self.queued_weight = 0;
    }
}
