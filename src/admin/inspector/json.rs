//! Exchanges as JSON.

use std::time::{Duration, SystemTime};

use data_encoding::BASE64;
use serde_json::{Value, json};

use crate::admin::tunnel::rounded;
use crate::inspect::{
    HistorySample, InspectedBody, InspectedExchange, InspectedHeaders, InspectedMessage, InspectedOutcome,
    MessageDirection, MessageKind,
};

fn milliseconds(time: Option<Duration>) -> Option<f64> {
    time.map(|time| rounded(time.as_secs_f64() * 1e3))
}

/// A time as milliseconds since 1970.
pub(super) fn unix_milliseconds(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// The outcome of an exchange, in a word.
pub(super) fn outcome(exchange: &InspectedExchange) -> &'static str {
    match exchange.outcome {
        InspectedOutcome::Pending => "pending",
        InspectedOutcome::Answered => "answered",
        InspectedOutcome::Refused(..) => "refused",
        InspectedOutcome::Failed(..) => "failed",
        InspectedOutcome::Cancelled(_) => "cancelled",
    }
}

/// An exchange in a list.
pub(super) fn summary(exchange: &InspectedExchange) -> Value {
    let (code, reason) = match &exchange.outcome {
        InspectedOutcome::Pending | InspectedOutcome::Answered => (None, None),
        InspectedOutcome::Refused(code, reason) | InspectedOutcome::Failed(code, reason) => {
            (Some(code), Some(reason))
        }
        InspectedOutcome::Cancelled(reason) => (None, Some(reason)),
    };
    json!({
        "id": exchange.id,
        "tunnel": exchange.tunnel,
        "replay_of": exchange.replay_of,
        "started_ms": unix_milliseconds(exchange.started),
        "request": exchange.name,
        "method": exchange.method.as_str(),
        "url": exchange.url,
        "host": exchange.request_headers.get("host"),
        "status": exchange.status,
        "type": exchange.response_headers.get("content-type"),
        "request_bytes": exchange.request_body.length,
        "response_bytes": exchange.response_body.length,
        "took_ms": milliseconds(exchange.timings.whole),
        "outcome": outcome(exchange),
        "code": code,
        "reason": reason,
    })
}

/// All of an exchange but its bodies.
pub(super) fn details(exchange: &InspectedExchange) -> Value {
    let mut value = summary(exchange);
    let timings = &exchange.timings;
    value["request_headers"] = fields(&exchange.request_headers);
    value["response_headers"] = fields(&exchange.response_headers);
    value["request_body"] = body(&exchange.request_body);
    value["response_body"] = body(&exchange.response_body);
    value["messages"] = exchange.messages.iter().map(message).collect();
    value["messages_dropped"] = exchange.messages_dropped.into();
    value["upstream"] = exchange.upstream.as_deref().into();
    value["verdict"] = exchange.verdict.as_ref().into();
    value["timings_ms"] = json!({
        "queue": milliseconds(timings.queue),
        "connect": milliseconds(timings.connect),
        "first_byte": milliseconds(timings.first_byte),
        "whole": milliseconds(timings.whole),
    });
    value
}

fn fields(headers: &InspectedHeaders) -> Value {
    headers.iter().map(|(name, value)| json!([name, value])).collect()
}

fn body(body: &InspectedBody) -> Value {
    json!({ "length": body.length, "kept": body.bytes.len(), "complete": body.is_complete, "cut": body.is_cut() })
}

fn message(message: &InspectedMessage) -> Value {
    let kind = match message.kind {
        MessageKind::Text => "text",
        MessageKind::Binary => "binary",
        MessageKind::Compressed => "compressed",
        MessageKind::Ping => "ping",
        MessageKind::Pong => "pong",
        MessageKind::Close => "close",
        MessageKind::Event => "event",
        MessageKind::Invalid => "invalid",
    };
    let from = match message.direction {
        MessageDirection::FromVisitor => "visitor",
        MessageDirection::FromServer => "server",
    };
    let text = match message.kind {
        MessageKind::Text | MessageKind::Event => Some(String::from_utf8_lossy(&message.data)),
        _ => None,
    };
    let bytes = text.is_none().then(|| BASE64.encode(&message.data));
    json!({
        "after_ms": milliseconds(Some(message.after)),
        "from": from,
        "kind": kind,
        "event": message.event,
        "length": message.length,
        "kept": message.data.len(),
        "text": text,
        "base64": bytes,
    })
}

/// The figures of ten seconds.
pub(super) fn sample(sample: &HistorySample) -> Value {
    let milliseconds = |seconds: Option<f64>| seconds.map(|seconds| rounded(seconds * 1e3));
    json!({
        "age_seconds": sample.age,
        "requests": sample.requests,
        "failures": sample.failures,
        "request_bytes": sample.received,
        "response_bytes": sample.sent,
        "p50_ms": milliseconds(sample.p50),
        "p95_ms": milliseconds(sample.p95),
        "p99_ms": milliseconds(sample.p99),
    })
}
