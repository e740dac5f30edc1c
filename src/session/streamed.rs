//! A request that is a stream: its body is read as it comes, and its response leaves as it comes.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use http::header::{self, HeaderMap};
use http::{Method, request};

use super::answer::{Answer, Broken, Passing, too_large};
use super::job::{InFlight, LogLine, survive, timed};
use super::{Config, FailureAnswer};
use crate::admission::Refusal;
use crate::headers::{HTTP2_SETTINGS, Upgrade, number, remove_hop_by_hop};
use crate::mux::Stream;
use crate::protocol::RequestName;
use crate::protocol::mux::{Reset, ResetCode};
use crate::service::{Body, Failure, FailureKind, Request, Service};
use crate::status::Counters;

/// Why a stream is given back. Another agent may have room.
const FULL: &str = "the agent has as many requests under way and waiting as it takes";

/// A request that was taken on, and the stream on which it came.
#[derive(Debug)]
pub(crate) struct Streamed {
    name: RequestName,
    head: request::Parts,
    stream: Stream,
    /// The request has no body.
    end: bool,
}

impl Streamed {
    pub(super) fn new(name: RequestName, head: request::Parts, stream: Stream, end: bool) -> Self {
        Streamed { name, head, stream, end }
    }

    /// Whether nobody waits for it any more.
    pub(super) fn is_cancelled(&self) -> bool {
        self.stream.given_up().is_some()
    }

    /// Leaves it to somebody else, since there is no room: nothing was done about it.
    pub(super) fn give_back(&self) {
        Refusal::QueueFull.log(self.name, Some((&self.head.method, self.head.uri.path())));
        self.stream.reset(Reset::new(ResetCode::Refused, FULL));
    }

    /// Answers with the agent's own response.
    pub(super) fn refuse(&self, refusal: &Refusal, counters: &Counters) {
        refusal.log(self.name, Some((&self.head.method, self.head.uri.path())));
        refuse(&self.stream, self.name, &self.head.method, refusal, counters);
    }

    /// Has the request answered, and passes the answer on as it comes.
    pub(super) fn run(self, service: &dyn Service, config: &Config, in_flight: InFlight) {
        let Streamed { name, head, stream, end } = self;
        let line = LogLine::start(name, &head.method, &head.uri);
        let method = head.method.clone();
        let counters = in_flight.counters();
        let answer = Answer::new(&stream, name, &method, counters, config.failure);
        let overrun = Overrun::default();
        let request = request(head, &stream, end, config, counters, &overrun);
        let result = request.and_then(|(request, upgrade)| {
            let upgrade = upgrade.map(|upgrade| (upgrade, config.idle_timeout));
            let passing = Passing { max: config.max_stream_body, upgrade };
            survive(|| answer.pass_on(timed(service, request, counters)?, passing))
        });
        let result = match (result, config.max_stream_body) {
            (Err(Broken::Failed(_)), Some(max)) if overrun.is_told() && answer.is_open() => {
                Err(Broken::Refused(Refusal::BodyTooLarge(max)))
            }
            (result, _) => result,
        };
        match result {
            Ok(done) => {
                in_flight.answered(&Ok(done));
                line.finish(&Ok(done));
            }
            Err(broken) => match (stream.given_up(), broken) {
                (Some(given_up), _) => {
                    line.given_up(&given_up, &config.tunnel_id);
                    in_flight.given_up(&given_up);
                }
                (None, Broken::Refused(refusal)) => {
                    refusal.log(name, Some((line.method(), line.path())));
                    in_flight.refused(&refusal);
                    answer.give(refusal.response(name));
                }
                (None, Broken::Failed(failure)) => {
                    answer.fail(&failure);
                    let outcome = Err(failure);
                    in_flight.answered(&outcome);
                    line.finish(&outcome);
                }
            },
        }
    }
}

/// Answers with the agent's own response.
pub(super) fn refuse(
    stream: &Stream,
    name: RequestName,
    method: &Method,
    refusal: &Refusal,
    counters: &Counters,
) {
    Answer::new(stream, name, method, counters, FailureAnswer::Error).give(refusal.response(name));
}

/// Makes the service's request of what came, with the change of protocol that it asks for.
fn request(
    mut head: request::Parts,
    stream: &Stream,
    end: bool,
    config: &Config,
    counters: &Arc<Counters>,
    overrun: &Overrun,
) -> Result<(Request, Option<Upgrade>), Broken> {
    let upgrade = if end { None } else { Upgrade::asked_for(&head.method, &head.headers) };
    let headers = &mut head.headers;
    remove_hop_by_hop(headers);
    headers.remove(header::EXPECT);
    headers.remove(HTTP2_SETTINGS);
    if let Some(upgrade) = &upgrade {
        upgrade.set(headers);
    }
    let stated = stated_length(headers).map_err(Broken::Refused)?;
    let body = if end {
        Body::empty()
    } else if upgrade.is_some() {
        // It may be silent for as long as it likes.
        let reader = stream.reader(None);
        Body::from_reader(
            Limited { reader, left: u64::MAX, counters: counters.clone(), overrun: overrun.clone() },
            None,
        )
    } else if let Some(bytes) = stream.whole() {
        counters.received(bytes.len());
        Body::from(bytes)
    } else {
        let reader = stream.reader(Some(config.idle_timeout));
        let left = config.max_stream_body.unwrap_or(u64::MAX);
        Body::from_reader(
            Limited { reader, left, counters: counters.clone(), overrun: overrun.clone() },
            stated,
        )
    };
    let known = stated.or(body.length()).unwrap_or(0);
    if let Some(max) = config.max_stream_body.filter(|max| known > *max) {
        return Err(Broken::Refused(Refusal::BodyTooLarge(max)));
    }
    if let (Some(stated), Some(length), None) = (stated, body.length(), &upgrade)
        && stated != length
    {
        let text = format!("the request's body has {length} bytes instead of {stated}");
        return Err(Broken::Failed(Failure::new(FailureKind::Truncated, text)));
    }
    head.extensions.insert(stream.cancellation().clone());
    Ok((Request::from_parts(head, body), upgrade))
}

/// A body that may have so many bytes, and is counted.
struct Limited<R> {
    reader: R,
    left: u64,
    counters: Arc<Counters>,
    overrun: Overrun,
}

/// Whether a request's body has turned out to be larger than it may be, whatever the service makes of that.
#[derive(Clone, Default)]
struct Overrun(Arc<AtomicBool>);

impl Overrun {
    fn tell(&self) {
        self.0.store(true, Ordering::Release);
    }

    fn is_told(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

impl<R: Read> Read for Limited<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.reader.read(buffer)?;
        self.counters.received(read);
        let Some(left) = self.left.checked_sub(read as u64) else {
            self.overrun.tell();
            return Err(io::Error::other(too_large("request")));
        };
        self.left = left;
        Ok(read)
    }
}

fn stated_length(headers: &HeaderMap) -> Result<Option<u64>, Refusal> {
    let mut lengths = headers.get_all(header::CONTENT_LENGTH).iter();
    let Some(length) = lengths.next() else { return Ok(None) };
    match number(length).filter(|_| lengths.next().is_none()) {
        Some(length) => Ok(Some(length)),
        None => Err(Refusal::BadRequest("Content-Length is not one number".into())),
    }
}
