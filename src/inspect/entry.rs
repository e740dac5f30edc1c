//! A record while its exchange goes on.

use std::collections::VecDeque;
use std::time::Duration;

use super::events::EventDecoder;
use super::record::{InspectedBody, InspectedExchange, InspectedMessage, MessageDirection, MessageKind};
use super::websocket::WebSocketDecoder;

/// The bytes that a record takes up beside its texts and bodies, rounded up.
const ENTRY_BYTES: usize = 512;

/// The bytes that a header field or a message takes up beside its texts, rounded up.
const PART_BYTES: usize = 96;

/// A record in the ring.
pub(super) struct RecordEntry {
    exchange: InspectedExchange,
    messages: VecDeque<InspectedMessage>,
    message_bytes: usize,
    stream: MessageStream,
    /// The version of the records in which it changed last.
    pub(super) version: u64,
    bytes: usize,
}

/// How the bytes of bodies are read beside being kept.
enum MessageStream {
    None,
    Events(EventDecoder),
    WebSocket { from_visitor: WebSocketDecoder, from_server: WebSocketDecoder },
}

/// A side of an exchange whose bytes pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BodySide {
    Request,
    Response,
}

/// The content of a response's body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ResponseContent {
    Ordinary,
    Events,
    WebSocket,
}

impl RecordEntry {
    pub(super) fn new(exchange: InspectedExchange) -> Self {
        let bytes = ENTRY_BYTES + fixed_bytes(&exchange);
        RecordEntry {
            exchange,
            messages: VecDeque::new(),
            message_bytes: 0,
            stream: MessageStream::None,
            version: 0,
            bytes,
        }
    }

    /// The bytes that the record takes up.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The record, but for its messages.
    #[cfg(any(test, feature = "inspect"))]
    pub(super) fn peek(&self) -> &InspectedExchange {
        &self.exchange
    }

    /// A copy of the record.
    pub(super) fn exchange(&self) -> InspectedExchange {
        let mut exchange = self.exchange.clone();
        exchange.messages = self.messages.iter().cloned().collect();
        exchange
    }

    /// Changes anything but bodies and messages.
    pub(super) fn edit(&mut self, edit: impl FnOnce(&mut InspectedExchange)) {
        let before = fixed_bytes(&self.exchange);
        edit(&mut self.exchange);
        self.bytes = self.bytes + fixed_bytes(&self.exchange) - before;
    }

    /// Records the content that the response's body will have.
    pub(super) fn expect(&mut self, content: ResponseContent, max: usize) {
        self.stream = match content {
            ResponseContent::Ordinary => MessageStream::None,
            ResponseContent::Events => MessageStream::Events(EventDecoder::new(max)),
            ResponseContent::WebSocket => MessageStream::WebSocket {
                from_visitor: WebSocketDecoder::new(max),
                from_server: WebSocketDecoder::new(max),
            },
        };
    }

    /// Records bytes of a body, of which `max` are kept, and the messages in them.
    pub(super) fn append(&mut self, side: BodySide, bytes: &[u8], max: usize, after: Duration) {
        let body = self.body(side);
        body.length += bytes.len() as u64;
        let kept = max.saturating_sub(body.bytes.len()).min(bytes.len());
        body.bytes.extend_from_slice(&bytes[..kept]);
        self.bytes += kept;
        let mut ended = Vec::new();
        match (&mut self.stream, side) {
            (MessageStream::WebSocket { from_visitor, .. }, BodySide::Request) => {
                from_visitor
                    .feed(bytes, |message| ended.push((None, message.kind, message.data, message.length)));
            }
            (MessageStream::WebSocket { from_server, .. }, BodySide::Response) => {
                from_server
                    .feed(bytes, |message| ended.push((None, message.kind, message.data, message.length)));
            }
            (MessageStream::Events(events), BodySide::Response) => {
                events.feed(bytes, |event| {
                    ended.push((event.name, MessageKind::Event, event.data, event.length));
                });
            }
            _ => {}
        }
        let direction = match side {
            BodySide::Request => MessageDirection::FromVisitor,
            BodySide::Response => MessageDirection::FromServer,
        };
        for (event, kind, data, length) in ended {
            self.add_message(InspectedMessage { after, direction, kind, event, data, length }, max);
        }
    }

    fn add_message(&mut self, message: InspectedMessage, max: usize) {
        self.message_bytes += message_bytes(&message);
        self.bytes += message_bytes(&message);
        self.messages.push_back(message);
        while self.message_bytes > max && self.messages.len() > 1 {
            let Some(oldest) = self.messages.pop_front() else { return };
            self.message_bytes -= message_bytes(&oldest);
            self.bytes -= message_bytes(&oldest);
            self.exchange.messages_dropped += 1;
        }
    }

    /// Records that the end of a body has passed.
    pub(super) fn complete(&mut self, side: BodySide) {
        self.body(side).is_complete = true;
    }

    fn body(&mut self, side: BodySide) -> &mut InspectedBody {
        match side {
            BodySide::Request => &mut self.exchange.request_body,
            BodySide::Response => &mut self.exchange.response_body,
        }
    }
}

fn message_bytes(message: &InspectedMessage) -> usize {
    PART_BYTES + message.data.len() + message.event.as_ref().map_or(0, String::len)
}

/// The bytes of all texts of a record.
fn fixed_bytes(exchange: &InspectedExchange) -> usize {
    let headers = exchange.request_headers.iter().chain(&exchange.response_headers);
    let of_headers =
        headers.map(|field| PART_BYTES + field.name.len() + field.value.as_ref().map_or(0, String::len));
    let texts = [&exchange.method, &exchange.url, &exchange.name, &exchange.verdict];
    let optional = [&exchange.tunnel, &exchange.upstream];
    of_headers.sum::<usize>()
        + texts.iter().map(|text| text.len()).sum::<usize>()
        + optional.iter().map(|text| text.as_ref().map_or(0, String::len)).sum::<usize>()
}
