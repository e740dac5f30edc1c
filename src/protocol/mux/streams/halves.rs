//! The two directions of a stream's body: what was received and not read yet, what is to be sent and has not gone
//! out yet, and the windows of both.

use std::collections::VecDeque;

use super::weight;

/// Bytes of one stream's frames that wait to be sent, at most; one frame always fits.
pub(super) const WAITING_MAX: usize = 128 << 10;

/// No window may grow past this.
const WINDOW_MAX: u64 = (1 << 31) - 1;

/// A buffer that has grown past this is given back when it is empty.
const KEPT_MAX: usize = 16 << 10;

/// From the other side.
#[derive(Debug)]
pub(super) struct Incoming {
    pub(super) has_head: bool,
    pub(super) ended: bool,
    received: VecDeque<u8>,
    /// Bytes that were received so far.
    pub(super) total: u64,
    window: u64,
    /// What the other side may still send.
    allowed: u64,
    /// What was read and is not granted again yet.
    consumed: u64,
    /// A grant waits to be sent.
    granting: bool,
}

impl Incoming {
    pub(super) fn new(window: u32) -> Self {
        let window = u64::from(window);
        Incoming {
            has_head: false,
            ended: false,
            received: VecDeque::new(),
            total: 0,
            window,
            allowed: window,
            consumed: 0,
            granting: false,
        }
    }

    /// Takes what a frame brought, or says which rule it breaks.
    pub(super) fn take(&mut self, body: &[u8], max_frame: usize) -> Result<(), &'static str> {
        if self.ended {
            return Err("data after the end");
        }
        if !self.has_head {
            return Err("data before the head");
        }
        if body.len() > max_frame || body.len() as u64 > self.allowed {
            return Err("more data than the window or a frame takes");
        }
        self.allowed -= body.len() as u64;
        self.total += body.len() as u64;
        self.received.extend(body);
        Ok(())
    }

    /// Reads as much as is there and fits.
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

    /// Whether a grant is to be sent now: in steps of half a window, and one at a time.
    pub(super) fn wants_to_grant(&mut self) -> bool {
        let wants = !self.ended && !self.granting && self.consumed >= self.window / 2;
        self.granting |= wants;
        wants
    }

    /// Grants what was read meanwhile.
    pub(super) fn grant(&mut self) -> Option<u32> {
        self.granting = false;
        let grant = u32::try_from(std::mem::take(&mut self.consumed)).ok()?;
        self.allowed += u64::from(grant);
        Some(grant)
    }

    /// Nobody reads it any more.
    pub(super) fn forget(&mut self) {
        self.received = VecDeque::new();
    }
}

/// To the other side.
#[derive(Debug)]
pub(super) struct Outgoing {
    pub(super) has_head: bool,
    /// The end is queued, or sent.
    pub(super) ended: bool,
    /// Some of the body has gone out.
    pub(super) has_begun: bool,
    /// The window was granted more.
    pub(super) is_granted: bool,
    waiting: VecDeque<Vec<u8>>,
    waiting_weight: usize,
    /// What may still be queued.
    credit: u64,
}

impl Outgoing {
    pub(super) fn new(window: u32) -> Self {
        Outgoing {
            has_head: false,
            ended: false,
            has_begun: false,
            is_granted: false,
            waiting: VecDeque::new(),
            waiting_weight: 0,
            credit: u64::from(window),
        }
    }

    /// Takes a grant. False when the window would become larger than any may be.
    pub(super) fn add_credit(&mut self, grant: u32) -> bool {
        self.credit += u64::from(grant);
        self.is_granted = true;
        self.credit <= WINDOW_MAX
    }

    /// How many bytes may be queued now.
    pub(super) fn capacity(&self, max_frame: usize) -> usize {
        let room = match self.waiting_weight {
            0 => max_frame,
            waiting => WAITING_MAX.saturating_sub(waiting),
        };
        room.min(self.credit()).min(max_frame)
    }

    /// How many bytes the other side lets be queued.
    pub(super) fn credit(&self) -> usize {
        usize::try_from(self.credit).unwrap_or(usize::MAX)
    }

    /// Queues a frame with so many bytes of body. Returns whether it is the only one.
    pub(super) fn push(&mut self, frame: Vec<u8>, length: usize, end: bool) -> bool {
        debug_assert!(!self.ended && length <= self.credit());
        self.credit = self.credit.saturating_sub(length as u64);
        self.ended = end;
        self.waiting_weight += weight(&frame);
        self.waiting.push_back(frame);
        self.waiting.len() == 1
    }

    pub(super) fn pop(&mut self) -> Option<Vec<u8>> {
        let frame = self.waiting.pop_front()?;
        self.waiting_weight -= weight(&frame);
        self.has_begun = true;
        Some(frame)
    }

    /// Whether all that was queued has gone out.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Nobody wants it any more.
    pub(super) fn forget(&mut self) {
        self.waiting = VecDeque::new();
        self.waiting_weight = 0;
    }
}
