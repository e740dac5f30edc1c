//! The order in which frames are sent.

use tungstenite::Bytes;

use super::{ControlFrame, Ownership, Streams};
use crate::mux::frame::{DataBuffer, Fin, Frame, Reset, ResetCode, weight};
use crate::mux::stream::StreamEnd;

impl<T> Streams<T> {
    /// Queues the head of a response and as much of its body as fits in one frame, and the end behind the whole of it.
    /// Returns how much of the body that was.
    pub fn send_head_with(&mut self, stream: u32, head: Bytes, body: &[u8]) -> Result<usize, StreamEnd> {
        self.send_head(stream, head, Fin::from(body.is_empty()))?;
        if body.is_empty() { Ok(0) } else { self.send_some(stream, body, Fin::Last) }
    }

    /// Queues as much of a body as fits in one frame, and the end behind the whole of it where it is the last. Returns how
    /// much that was.
    pub fn send_some(&mut self, stream: u32, body: &[u8], fin: Fin) -> Result<usize, StreamEnd> {
        let length = self.capacity(stream)?.min(body.len());
        if length > 0 {
            let fin = if length == body.len() { fin } else { Fin::More };
            self.send_data(stream, DataBuffer::copy_of(&body[..length]), length, fin)?;
        }
        Ok(length)
    }

    /// The next message to send: control first, then the first data of streams, then one frame of each stream in turn.
    /// The number is that of a stream that has room again.
    pub fn next_message(&mut self) -> Option<(Vec<u8>, Option<u32>)> {
        while let Some(control) = self.control.pop_front() {
            match control {
                ControlFrame::Encoded(frame) => {
                    self.control_bytes -= weight(&frame);
                    return Some((frame, None));
                }
                ControlFrame::Window(stream) => {
                    if let Some(frame) = self.grant(stream) {
                        return Some((frame, None));
                    }
                }
            }
        }
        while let Some(stream) = self.beginners.pop_front().or_else(|| self.turns.pop_front()) {
            let Some(entry) = self.table.get_mut(&stream) else { continue };
            let Some(frame) = entry.send.pop() else { continue };
            if !entry.send.is_empty() {
                self.turns.push_back(stream);
            } else if entry.state.is_end_queued() {
                self.end_sent(stream);
            }
            return Some((frame, Some(stream)));
        }
        None
    }

    fn grant(&mut self, stream: u32) -> Option<Vec<u8>> {
        let entry = self.table.get_mut(&stream).filter(|entry| entry.state.is_open())?;
        let grant = entry.receive.grant()?;
        Some(Frame::Window { stream, grant }.to_vec())
    }

    /// Records that the last data of ours has gone out. A released stream does not stay open for the peer's.
    fn end_sent(&mut self, stream: u32) {
        let Some(entry) = self.table.get_mut(&stream) else { return };
        entry.state.end_sent();
        if entry.state.is_open() && entry.ownership == Ownership::Released {
            self.reset(stream, Reset::new(ResetCode::Cancelled, "the rest of the request is not wanted"));
        } else {
            self.settle(stream);
        }
    }
}
