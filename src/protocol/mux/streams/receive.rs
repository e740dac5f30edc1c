//! What comes in.

use tungstenite::Bytes;

use super::{Event, Over, Side, Streams, is_switch};
use crate::protocol::mux::HEAD_MAX;
use crate::protocol::mux::frame::{Frame, Reset, ResetCode, Violation};

impl<T> Streams<T> {
    /// Takes a message that was received.
    pub fn receive(&mut self, message: &Bytes) -> Result<Event, Violation> {
        if self.lost {
            return Ok(Event::Nothing);
        }
        match Frame::decode(message)? {
            Frame::Head { stream, end, head } => self.receive_head(stream, end, head),
            Frame::Data { stream, end, body } => {
                self.on_stream(stream, |streams| streams.receive_data(stream, end, &body))
            }
            Frame::Reset { stream, reset } => self.on_stream(stream, |streams| {
                streams.end(stream, Over::ByPeer(reset));
                Event::Reset(stream)
            }),
            Frame::Window { stream, grant } => {
                self.on_stream(stream, |streams| streams.receive_window(stream, grant))
            }
            Frame::Malformed { stream } => {
                self.on_stream(stream, |streams| streams.break_off(stream, "a frame that cannot be read"))
            }
            Frame::GoAway { last, text } => {
                self.goes_away = true;
                if self.side == Side::Gateway {
                    self.end_above(last);
                }
                Ok(Event::GoAway { last, text })
            }
            Frame::Unknown => Ok(Event::Nothing),
        }
    }

    /// Ends the streams that the agent does not serve any more.
    fn end_above(&mut self, last: u32) {
        let above: Vec<u32> = self.table.keys().copied().filter(|stream| *stream > last).collect();
        for stream in above {
            self.end(stream, Over::ByPeer(Reset::new(ResetCode::Refused, "the agent is stopping")));
        }
    }

    /// Handles a frame of a stream that is open, ignores one of a stream that has ended, and refuses one of a
    /// stream that never was.
    fn on_stream(
        &mut self,
        stream: u32,
        handle: impl FnOnce(&mut Self) -> Event,
    ) -> Result<Event, Violation> {
        if stream > self.last {
            return Err(Violation("a frame of a stream that was never opened"));
        }
        let is_open = self.table.get(&stream).is_some_and(|stream| stream.over.is_none());
        Ok(if is_open { handle(self) } else { Event::Nothing })
    }

    fn receive_head(&mut self, stream: u32, end: bool, head: Bytes) -> Result<Event, Violation> {
        let is_open = self.table.get(&stream).is_some_and(|stream| stream.over.is_none());
        if self.side == Side::Agent && !is_open {
            if stream <= self.last {
                return Err(Violation("a new stream whose number is not above the last"));
            }
            self.last = stream;
            return Ok(Event::Opened { stream, head, end });
        }
        self.on_stream(stream, |streams| {
            let Some(state) = streams.table.get_mut(&stream) else { return Event::Nothing };
            if state.incoming.has_head {
                return streams.break_off(stream, "a second head");
            }
            if head.len() > HEAD_MAX {
                return streams.break_off(stream, "a head that is too large");
            }
            state.incoming.has_head = true;
            state.switched &= is_switch(&head) && !end;
            state.head = Some(head);
            if end {
                streams.receive_end(stream);
            }
            Event::Changed(stream)
        })
    }

    fn receive_data(&mut self, stream: u32, end: bool, body: &[u8]) -> Event {
        let max_frame = self.limits.max_frame as usize;
        let Some(state) = self.table.get_mut(&stream) else { return Event::Nothing };
        if let Err(what) = state.incoming.take(body, max_frame) {
            return self.break_off(stream, what);
        }
        if end {
            self.receive_end(stream);
        }
        Event::Changed(stream)
    }

    fn receive_end(&mut self, stream: u32) {
        let Some(state) = self.table.get_mut(&stream) else { return };
        state.incoming.ended = true;
        let enough = self.side == Side::Gateway && !state.switched;
        if enough || state.outgoing.ended && state.outgoing.is_empty() {
            self.end(stream, Over::Ended);
        }
    }

    fn receive_window(&mut self, stream: u32, grant: u32) -> Event {
        let Some(state) = self.table.get_mut(&stream) else { return Event::Nothing };
        if !state.outgoing.add_credit(grant) {
            return self.break_off(stream, "a window above 2^31-1");
        }
        Event::Changed(stream)
    }

    /// Ends a stream because of what was received on it.
    fn break_off(&mut self, stream: u32, what: &'static str) -> Event {
        self.reset(stream, Reset::new(ResetCode::Protocol, what));
        Event::Reset(stream)
    }
}
