//! What goes out, in which order.

use super::{Control, Over, Side, Streams, weight};
use crate::protocol::mux::frame::{Frame, Reset, ResetCode};

impl<T> Streams<T> {
    /// The next message to be sent: control first, then the first data of streams, then that of one stream after the
    /// other. The number is
    /// that of a stream that has room again.
    pub fn next_message(&mut self) -> Option<(Vec<u8>, Option<u32>)> {
        while let Some(control) = self.control.pop_front() {
            match control {
                Control::Frame(frame) => {
                    self.control_bytes -= weight(&frame);
                    return Some((frame, None));
                }
                Control::Window(stream) => {
                    if let Some(frame) = self.grant(stream) {
                        return Some((frame, None));
                    }
                }
            }
        }
        while let Some(stream) = self.beginners.pop_front().or_else(|| self.turns.pop_front()) {
            let Some(state) = self.table.get_mut(&stream) else { continue };
            let Some(frame) = state.outgoing.pop() else { continue };
            if !state.outgoing.is_empty() {
                self.turns.push_back(stream);
            } else if state.outgoing.ended {
                self.sent_end(stream);
            }
            return Some((frame, Some(stream)));
        }
        None
    }

    fn grant(&mut self, stream: u32) -> Option<Vec<u8>> {
        let state = self.table.get_mut(&stream).filter(|state| state.over.is_none())?;
        let grant = state.incoming.grant()?;
        Some(Frame::Window { stream, grant }.to_vec())
    }

    /// Our end is on its way: after the agent's nothing more follows, but for an upgrade.
    pub(super) fn sent_end(&mut self, stream: u32) {
        let Some(state) = self.table.get_mut(&stream) else { return };
        state.outgoing.ended = true;
        let enough = self.side == Side::Agent && !state.switched;
        let released = state.released;
        if enough || state.incoming.ended {
            self.end(stream, Over::Ended);
        } else if released {
            self.reset(stream, Reset::new(ResetCode::Cancelled, "nobody listens any more"));
        }
    }
}
