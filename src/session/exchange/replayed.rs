//! The replay of a recorded request: its response goes to no visitor, and is read for the record alone.

use std::io::{self, Read};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use http::{header, request};

use super::record::{Admitted, Record};
use super::{
    Abandonment, Context, Exchange, Outcome, Reply, Served, Unserved, refuse_interim, strip_request,
};
use crate::guard::Refusal;
use crate::inspect::Recording;
use crate::metrics::Metrics;
use crate::protocol::RequestName;
use crate::service::{Body, Failure, Request, Response};
use crate::session::{ExchangeConfig, SessionEnd};

/// How long a response may take: the rest of one without an end is not awaited.
const TIME_MAX: Duration = Duration::from_secs(30);

/// The bytes of a response that are read, at most.
const BYTES_MAX: usize = 64 << 20;

/// Sends a recorded request again, past rules and rate, and waits for the end of its response. Returns the number of its
/// record.
pub(crate) fn replay(
    (head, body): (request::Parts, Vec<u8>),
    of: u64,
    config: &Arc<ExchangeConfig>,
    metrics: &Arc<Metrics>,
) -> Result<Option<u64>, Refusal> {
    let not_before = config.gate.admit_replay(&head.method, head.uri.path())?;
    // At most as long as a request may wait for the rate.
    let wait = not_before.map(|time| time.saturating_duration_since(Instant::now()));
    wait.inspect(|wait| thread::sleep(*wait));
    let name = RequestName { connection: 0, number: of };
    let (method, uri, headers) = (&head.method, &head.uri, &head.headers);
    let admitted = Admitted { name, method, uri, headers, replay_of: Some(of) };
    let record = Record::new(config, metrics, &admitted);
    let id = record.recording().map(Recording::id);
    let cors = config.gate.cors_answer(method, headers).map(Box::new);
    Exchange { reply: Box::new(Replayed { head, body }), record, cors }.run();
    Ok(id)
}

#[derive(Debug)]
struct Replayed {
    head: request::Parts,
    body: Vec<u8>,
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
