//! The replay of a recorded request: its response goes to no visitor, and is read for the record alone.

use std::convert::Infallible;
use std::io::{self, Read};
use std::sync::Arc;
use std::sync::mpsc::{self, Sender};
use std::time::{Duration, Instant};

use http::{header, request};

use super::record::{Admitted, Record};
use super::{
    Abandonment, Context, Exchange, Outcome, Reply, Served, Unserved, refuse_interim, strip_request,
};
use crate::guard::Refusal;
use crate::inspect::Recording;
use crate::metrics::Metrics;
use crate::pool::{JobSpec, RefusalReason};
use crate::protocol::RequestName;
use crate::service::{Body, Failure, Request, Response};
use crate::session::{ExchangeConfig, SessionEnd, WorkQueue};

/// How long a response may take: the rest of one without an end is not awaited.
const TIME_MAX: Duration = Duration::from_secs(30);

/// The bytes of a response that are read, at most.
const BYTES_MAX: usize = 64 << 20;

/// Sends a recorded request again, past rules and rate and through the queue as any other, and waits for the end of its
/// response. Returns the number of its record.
pub(crate) fn replay(
    (head, body): (request::Parts, Vec<u8>),
    of: u64,
    tunnel: (&Arc<ExchangeConfig>, &Arc<Metrics>),
    queue: &WorkQueue,
) -> Result<Option<u64>, Refusal> {
    let (config, metrics) = tunnel;
    let name = RequestName { connection: 0, number: of };
    let (method, uri, headers) = (&head.method, &head.uri, &head.headers);
    let admitted = Admitted { name, method, uri, headers, replay_of: Some(of) };
    let record = Record::new(config, metrics, &admitted);
    let id = record.recording().map(Recording::id);
    let not_before = match config.gate.admit_replay(method, uri.path()) {
        Ok(not_before) => not_before,
        Err(refusal) => {
            record.refused(&refusal);
            return Err(refusal);
        }
    };
    let cors = config.gate.cors_answer(method, headers).map(Box::new);
    let spec = JobSpec { weight: body.len(), not_before, ..JobSpec::STEADY };
    let (ends, ended) = mpsc::channel();
    let exchange = Exchange { reply: Box::new(Replayed { head, body, _ends: ends }), record, cors };
    if let Err(exchange) = queue.submit(exchange, spec) {
        exchange.refund();
        // It has no session that could end.
        let _ = exchange.refuse(RefusalReason::Full);
        return Err(Refusal::QueueFull);
    }
    // It is dropped when it has ended, whatever became of it.
    let _ = ended.recv();
    Ok(id)
}

#[derive(Debug)]
struct Replayed {
    head: request::Parts,
    body: Vec<u8>,
    /// Dropped at the end.
    _ends: Sender<Infallible>,
}

impl Reply for Replayed {
    fn abandoned(&self) -> Option<Abandonment> {
        None
    }

    fn refuse(self: Box<Self>, _: &Refusal, _: &Metrics) -> Result<(), SessionEnd> {
        Ok(())
    }

    fn prepare(&mut self, context: &Context<'_>) -> Result<Request, Unserved> {
        let body = std::mem::take(&mut self.body);
        if body.len() > context.config.max_enveloped_body {
            return Err(Unserved::Refused(Refusal::BodyTooLarge(context.config.max_enveloped_body as u64)));
        }
        let (empty, ()) = http::Request::new(()).into_parts();
        let mut head = std::mem::replace(&mut self.head, empty);
        strip_request(&mut head.headers);
        if head.headers.remove(header::CONTENT_LENGTH).is_some() || !body.is_empty() {
            head.headers.insert(header::CONTENT_LENGTH, body.len().into());
        }
        Ok(Request::from_parts(head, Body::from(body)))
    }

    fn pass_on(&mut self, response: Response, _: &Context<'_>) -> Outcome {
        let (parts, mut body) = response.into_parts();
        refuse_interim(parts.status)?;
        let (until, mut read, mut buffer) = (Instant::now() + TIME_MAX, 0, vec![0; 16 << 10]);
        while read < BYTES_MAX && Instant::now() < until {
            match body.read(&mut buffer) {
                Ok(0) => break,
                Ok(more) => read += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Failure::broken_off(read, None, error).into()),
            }
        }
        Ok(Served { status: parts.status, bytes: read })
    }

    fn judge(&self, outcome: Outcome, _: &Context<'_>) -> Outcome {
        outcome
    }

    fn finish(self: Box<Self>, _: Outcome, _: &Context<'_>) {}
}
