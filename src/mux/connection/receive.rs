//! The effect of received frames on the streams.

use tungstenite::Bytes;

use super::{LinkState, MuxEvent, StreamEntry, Streams};
use crate::http1::MUX_HEAD_MAX;
use crate::mux::frame::{Fin, Frame, ProtocolError, Reset, ResetCode};
use crate::mux::head::closing_behind;
use crate::mux::stream::{Side, StreamEnd};

impl<T> Streams<T> {
    /// Takes a message that was received.
    pub fn receive(&mut self, message: &Bytes) -> Result<MuxEvent, ProtocolError> {
        if self.link == LinkState::Lost {
            return Ok(MuxEvent::Nothing);
        }
        let max_frame = self.limits.max_frame as usize;
        match Frame::decode(message)? {
            Frame::Head { stream, fin, head } => self.receive_head(stream, fin, head),
            Frame::Data { stream, fin, body } => self.on_open(stream, |entry| {
                receive_data(entry, &body, fin, max_frame)?;
                Ok(MuxEvent::Changed(stream))
            }),
            Frame::Reset { stream, reset } => self.on_open(stream, |entry| {
                entry.state.close(StreamEnd::ByPeer(reset));
                Ok(MuxEvent::Reset(stream))
            }),
            Frame::Window { stream, grant } => self.on_open(stream, |entry| {
                entry.send.add_credit(grant)?;
                Ok(MuxEvent::Changed(stream))
            }),
            Frame::Malformed { stream } => self.on_open(stream, |_| Err("a frame that cannot be read")),
            Frame::GoAway { last, text } => {
                self.link = LinkState::GoesAway;
                if self.side == Side::Gateway {
                    self.close_above(last);
                }
                Ok(MuxEvent::GoAway { last, text })
            }
            Frame::Unknown => Ok(MuxEvent::Nothing),
        }
    }

    /// Closes the streams that the agent does not serve any more.
    fn close_above(&mut self, last: u32) {
        let above: Vec<u32> = self.table.keys().copied().filter(|stream| *stream > last).collect();
        for stream in above {
            self.close(stream, StreamEnd::ByPeer(Reset::new(ResetCode::Refused, "the agent is stopping")));
        }
    }

    /// Handles a frame of an open stream; one that breaks a rule resets the stream. A frame of a closed stream is
    /// ignored, one of a stream that was never opened is a violation.
    fn on_open(
        &mut self,
        stream: u32,
        handle: impl FnOnce(&mut StreamEntry<T>) -> Result<MuxEvent, &'static str>,
    ) -> Result<MuxEvent, ProtocolError> {
        if stream > self.last {
            return Err(ProtocolError("a frame of a stream that was never opened"));
        }
        let Some(entry) = self.table.get_mut(&stream).filter(|entry| entry.state.is_open()) else {
            return Ok(MuxEvent::Nothing);
        };
        match handle(entry) {
            Ok(event) => {
                self.settle(stream);
                Ok(event)
            }
            Err(what) => {
                self.reset(stream, Reset::new(ResetCode::Protocol, what));
                Ok(MuxEvent::Reset(stream))
            }
        }
    }

    fn receive_head(&mut self, stream: u32, fin: Fin, head: Bytes) -> Result<MuxEvent, ProtocolError> {
        let is_open = self.table.get(&stream).is_some_and(|entry| entry.state.is_open());
        if self.side == Side::Agent && !is_open {
            if stream <= self.last {
                return Err(ProtocolError("a new stream whose number is not above the last"));
            }
            self.last = stream;
            if self.open >= self.limits.max_streams as usize {
                self.refuse(stream, Reset::new(ResetCode::Refused, "more streams than `max_streams`"));
                return Ok(MuxEvent::Reset(stream));
            }
            return Ok(MuxEvent::Opened { stream, head, fin });
        }
        self.on_open(stream, |entry| {
            if head.len() > MUX_HEAD_MAX {
                return Err("a head that is too large");
            }
            entry.state.head_received(fin, closing_behind(&head, fin))?;
            entry.head = Some(head);
            Ok(MuxEvent::Changed(stream))
        })
    }
}

/// Takes the body of a DATA frame, or says which rule it breaks.
fn receive_data<T>(
    entry: &mut StreamEntry<T>,
    body: &[u8],
    fin: Fin,
    max_frame: usize,
) -> Result<(), &'static str> {
    entry.state.data_received()?;
    entry.receive.receive(body, max_frame)?;
    if fin == Fin::Last {
        entry.state.end_received();
    }
    Ok(())
}
