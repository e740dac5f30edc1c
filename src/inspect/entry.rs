//! A record while its exchange goes on.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::events::EventDecoder;
use super::record::{
    InspectedBody, InspectedExchange, InspectedHeaders, InspectedMessage, InspectedOutcome, MessageDirection,
    MessageKind,
};
use super::websocket::WebSocketDecoder;

/// The bytes that a record takes up beside its texts and bodies: with those of the allocator, rounded up.
const ENTRY_BYTES: usize = size_of::<RecordEntry>() + 256;

/// The bytes that are kept of a message or an event while it is read, at most.
const DECODED_MAX: usize = 16 << 10;

/// The bytes that reading messages or events may take up, beside those that are kept.
const DECODER_BYTES: usize = 4 * DECODED_MAX;

/// The bytes that a message takes up beside its texts, rounded up.
const MESSAGE_BYTES: usize = 128;

/// Memory of a record's part up to this size is kept for the next record, in bytes.
const REUSED_MAX: usize = 4 << 10;

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
    /// A record of nothing.
    pub(super) fn empty() -> Self {
        RecordEntry {
            exchange: InspectedExchange::empty(),
            messages: VecDeque::new(),
            message_bytes: 0,
            stream: MessageStream::None,
            version: 0,
            bytes: 0,
        }
    }

    /// Makes a record of nothing of it, which keeps memory where that is little: so a full ring needs none from the system.
    pub(super) fn recycle(&mut self) {
        let mut old = std::mem::replace(self, RecordEntry::empty()).exchange;
        let exchange = &mut self.exchange;
        reuse(&mut exchange.url, &mut old.url, String::capacity, String::clear);
        reuse(&mut exchange.name, &mut old.name, String::capacity, String::clear);
        let (bytes, clear) = (InspectedHeaders::bytes, InspectedHeaders::clear);
        reuse(&mut exchange.request_headers, &mut old.request_headers, bytes, clear);
        reuse(&mut exchange.response_headers, &mut old.response_headers, bytes, clear);
        reuse(&mut exchange.request_body.bytes, &mut old.request_body.bytes, Vec::capacity, Vec::clear);
        reuse(&mut exchange.response_body.bytes, &mut old.response_body.bytes, Vec::capacity, Vec::clear);
    }

    /// Begins the record.
    pub(super) fn begin(&mut self, begin: impl FnOnce(&mut InspectedExchange)) {
        begin(&mut self.exchange);
        self.bytes = ENTRY_BYTES + bytes_of(&self.exchange);
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

    /// The record, for changes of anything but texts, fields, bodies and messages.
    pub(super) fn edit(&mut self) -> &mut InspectedExchange {
        &mut self.exchange
    }

    /// Records which server was asked.
    pub(super) fn set_upstream(&mut self, url: Option<Arc<str>>) {
        self.exchange.upstream = url;
    }

    /// Records the header fields of the response.
    pub(super) fn set_response_headers(&mut self, record: impl FnOnce(&mut InspectedHeaders)) {
        let before = self.exchange.response_headers.bytes();
        record(&mut self.exchange.response_headers);
        self.bytes += self.exchange.response_headers.bytes() - before;
    }

    /// Records the content that the response's body will have.
    pub(super) fn expect(&mut self, content: ResponseContent, max: usize) {
        let max = max.min(DECODED_MAX);
        self.bytes += if content == ResponseContent::Ordinary { 0 } else { DECODER_BYTES };
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
        let before = body.bytes.capacity();
        // Doubling, but never beyond what is kept.
        let wanted = (body.bytes.len() + kept).next_power_of_two().min(max);
        body.bytes.reserve_exact(wanted.saturating_sub(body.bytes.len()));
        body.bytes.extend_from_slice(&bytes[..kept]);
        let taken = body.bytes.capacity() - before;
        self.bytes += taken;
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

    /// Records the outcome. Nothing more is read.
    pub(super) fn finish(&mut self, outcome: InspectedOutcome) {
        let texts = match &outcome {
            InspectedOutcome::Refused(code, reason) | InspectedOutcome::Failed(code, reason) => {
                code.len() + reason.len()
            }
            InspectedOutcome::Cancelled(reason) => reason.len(),
            InspectedOutcome::Pending | InspectedOutcome::Answered => 0,
        };
        self.bytes += texts;
        if !matches!(self.stream, MessageStream::None) {
            self.bytes -= DECODER_BYTES;
            self.stream = MessageStream::None;
        }
        self.exchange.outcome = outcome;
    }

    /// Whether messages or events are read: it may last, and its duration says nothing of the server.
    pub(super) fn is_stream(&self) -> bool {
        !matches!(self.stream, MessageStream::None)
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

/// Gives the memory of a record's part to that of the next record, where it is little.
fn reuse<T>(new: &mut T, old: &mut T, bytes: impl Fn(&T) -> usize, clear: impl Fn(&mut T)) {
    if bytes(old) <= REUSED_MAX {
        clear(old);
        std::mem::swap(new, old);
    }
}

fn message_bytes(message: &InspectedMessage) -> usize {
    MESSAGE_BYTES + message.data.len() + message.event.as_ref().map_or(0, String::len)
}

/// The bytes of all that a record owns, but for its messages.
fn bytes_of(exchange: &InspectedExchange) -> usize {
    let bodies = exchange.request_body.bytes.capacity() + exchange.response_body.bytes.capacity();
    let headers = exchange.request_headers.bytes() + exchange.response_headers.bytes();
    let method = exchange.method.as_str().len();
    let texts = exchange.url.capacity() + exchange.name.capacity() + exchange.verdict.len() + method;
    bodies + headers + texts + exchange.tunnel.as_ref().map_or(0, String::len)
}
