//! The hand-off of a connection's channel to ureq and back, and the facts that both sides share meanwhile.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use super::channel::Channel;
use super::upload::Upload;
use crate::http1::{Framing, keep_reason};
use crate::sync::lock;

/// The place of a channel between two exchanges, and the facts that ureq's side and ours share meanwhile.
#[derive(Debug)]
pub(super) struct Handoff {
    channel: Mutex<Option<Box<Channel>>>,
    /// The thread that sends the request's body, once it has begun.
    upload: Mutex<Option<Upload>>,
    /// The first line of the response's head.
    status_line: Mutex<Vec<u8>>,
    /// Bytes that were received and not used.
    unread: AtomicUsize,
    /// Reads of the response's body so far.
    reads: AtomicUsize,
    /// ureq asked whether the connection is open: the response is complete, and another request may follow.
    reusable: AtomicBool,
    /// All of the head, and of a body behind it, was sent.
    all_sent: AtomicBool,
    /// The framing of the response's body, once its head has come.
    framing: Mutex<Option<Framing>>,
}

impl Handoff {
    pub(super) fn new(channel: Channel) -> Arc<Self> {
        Arc::new(Handoff {
            channel: Mutex::new(Some(Box::new(channel))),
            upload: Mutex::new(None),
            status_line: Mutex::default(),
            unread: AtomicUsize::new(0),
            reads: AtomicUsize::new(0),
            reusable: AtomicBool::new(false),
            all_sent: AtomicBool::new(false),
            framing: Mutex::new(None),
        })
    }

    /// Records the first line of the response's head.
    pub(super) fn set_status_line(&self, line: &[u8]) {
        let mut status_line = lock(&self.status_line);
        status_line.clear();
        status_line.extend_from_slice(line);
    }

    /// Records in a response's head the reason phrase that it came with, which ureq does not keep.
    pub(super) fn keep_reason(&self, parts: &mut http::response::Parts) {
        keep_reason(&mut parts.extensions, parts.status, &lock(&self.status_line));
    }

    /// The channel, unless ureq has it.
    pub(super) fn take(&self) -> Option<Box<Channel>> {
        lock(&self.channel).take()
    }

    /// Lends the channel, unless it is lent.
    pub(super) fn lend(&self) -> Option<Box<Channel>> {
        self.take()
    }

    /// Takes the channel back.
    pub(super) fn put(&self, channel: Box<Channel>) {
        self.set_unread(&channel);
        *lock(&self.channel) = Some(channel);
    }

    /// Forgets the exchange before.
    pub(super) fn reset(&self) {
        for flag in [&self.reusable, &self.all_sent] {
            flag.store(false, Ordering::Relaxed);
        }
        *lock(&self.framing) = None;
        lock(&self.status_line).clear();
    }

    /// Records how the request was sent.
    pub(super) fn set_sent(&self, channel: &Channel, upload: Option<Upload>) {
        self.all_sent.store(channel.is_all_sent(), Ordering::Relaxed);
        *lock(&self.upload) = upload;
    }

    /// Records how much was received and not used.
    pub(super) fn set_unread(&self, channel: &Channel) {
        self.unread.store(channel.input.unread().len(), Ordering::Relaxed);
    }

    /// Records that the response is complete, and another request may follow.
    pub(super) fn set_reusable(&self) {
        self.reusable.store(true, Ordering::Relaxed);
    }

    /// The framing of the response's body, once its head has come.
    pub(super) fn framing(&self) -> Option<Framing> {
        *lock(&self.framing)
    }

    pub(super) fn take_upload(&self) -> Option<Upload> {
        lock(&self.upload).take()
    }

    pub(super) fn unread(&self) -> usize {
        self.unread.load(Ordering::Relaxed)
    }

    /// Begins another read of the response's body.
    pub(super) fn begin_read(&self) {
        self.reads.fetch_add(1, Ordering::Relaxed);
    }

    /// The number of the read that goes on.
    pub(super) fn read_number(&self) -> usize {
        self.reads.load(Ordering::Relaxed)
    }

    pub(super) fn is_reusable(&self) -> bool {
        self.reusable.load(Ordering::Relaxed)
    }

    pub(super) fn is_all_sent(&self) -> bool {
        self.all_sent.load(Ordering::Relaxed)
    }

    /// Records that the head of the response has come, and how its body ends.
    pub(super) fn begin_body(&self, framing: Framing) {
        *lock(&self.framing) = Some(framing);
    }

    /// Whether ureq has given the channel back.
    pub(super) fn has_channel(&self) -> bool {
        lock(&self.channel).is_some()
    }

    /// Does something with the channel, unless ureq has it.
    pub(super) fn with_channel<R>(&self, act: impl FnOnce(&mut Channel) -> R) -> Option<R> {
        lock(&self.channel).as_deref_mut().map(act)
    }
}
