//! The way out of a WebSocket: frames that wait, and the half of the socket that takes them.

use std::io;

use tungstenite::protocol::Role;

use super::message::{MessageWriter, Outbound};
use crate::net::WriteHalf;

/// Frames are collected up to this many bytes before they are written, so that many small ones cost one system call.
pub(crate) const WRITE_BATCH: usize = 64 << 10;

/// The writing half of a WebSocket. Its one owner alone can write.
#[derive(Debug)]
pub struct MessageSink {
    frames: MessageWriter,
    half: WriteHalf,
}

/// How far a write came that does not wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    /// Everything has gone out.
    All,
    /// The kernel takes no more for now.
    Part,
}

impl MessageSink {
    /// Sends frames as this side of a WebSocket through this half of its socket.
    pub fn new(role: Role, half: WriteHalf) -> Self {
        MessageSink { frames: MessageWriter::new(role), half }
    }

    /// Adds a frame to what is waiting.
    pub fn push(&mut self, message: &Outbound) {
        self.frames.push(message);
    }

    /// Adds a binary message to what is waiting.
    pub fn push_binary(&mut self, message: &[u8]) {
        self.frames.push_binary(message);
    }

    /// Whether all of it has gone out.
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// How many bytes wait to be written.
    pub fn waiting(&self) -> usize {
        self.frames.waiting()
    }

    /// How many bytes were added so far, in all.
    pub fn pushed(&self) -> u64 {
        self.frames.pushed()
    }

    /// How many bytes were written so far, in all.
    pub fn written(&self) -> u64 {
        self.frames.written()
    }

    /// Writes one step of what is waiting, as [`MessageWriter::write_step`] does.
    pub fn write_step(&mut self) -> io::Result<()> {
        self.frames.write_step(&mut self.half)
    }

    /// Writes all of what is waiting, and waits for the kernel to take it.
    pub fn write_all(&mut self) -> io::Result<()> {
        while !self.is_empty() {
            self.write_step()?;
        }
        Ok(())
    }

    /// Writes what the kernel takes at once, and does not wait for the rest.
    pub fn write_now(&mut self) -> io::Result<Written> {
        while !self.frames.is_empty() {
            match self.frames.write_step(&mut self.half.without_waiting()) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::TimedOut => return Ok(Written::Part),
                Err(error) => return Err(error),
            }
        }
        Ok(Written::All)
    }

    /// The half of the socket, to set its limits.
    pub fn half(&self) -> &WriteHalf {
        &self.half
    }

    /// Ends the writing direction.
    pub fn finish(&mut self) -> io::Result<()> {
        self.half.finish()
    }
}
