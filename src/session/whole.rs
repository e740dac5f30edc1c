//! A response as an envelope takes it: whole, in memory, within limits of size and of time.

use std::io::{self, Read};
use std::time::{Duration, Instant};

use http::header;
use http::{Method, StatusCode};

use super::job::{refuse_interim, timed};
use super::outbox::{Ticket, Watch};
use crate::headers::{is_event_stream, keep_one_length, remove_hop_by_hop, remove_overridden_length};
use crate::http1::has_no_body;
use crate::service::{Body, Failure, FailureKind, Request, Service};
use crate::status::Counters;

/// How long a response's body may take in any case. Nobody sees any of it before all of it is there, and
/// while it comes it holds a worker.
const BODY_TIME: Duration = Duration::from_secs(60);

/// For each of these many bytes that have come it may take a second longer.
const BODY_RATE: u64 = 64 << 10;

/// A response that is complete in memory.
pub(super) type Whole = (http::response::Parts, Vec<u8>);

/// Has a request answered, and waits for the whole response.
pub(super) fn call(
    service: &dyn Service,
    mut request: Request,
    max_body: usize,
    ticket: &Ticket,
    counters: &Counters,
) -> Result<Whole, Failure> {
    prepare(&mut request);
    let head = *request.method() == Method::HEAD;
    let (mut parts, body) = timed(service, request, counters)?.into_parts();
    check(&parts)?;
    remove_overridden_length(&mut parts.headers);
    remove_hop_by_hop(&mut parts.headers);
    if head || has_no_body(parts.status) {
        state_no_length(&mut parts);
        return Ok((parts, Vec::new()));
    }
    let length = body.length();
    let body = match body.as_bytes() {
        Some(_) => body,
        None => {
            Body::from_reader(Paced { body, start: Instant::now(), read: 0, session: ticket.watch() }, length)
        }
    };
    let body = body.read_to_end_limited(max_body)?;
    if parts.headers.remove(header::CONTENT_LENGTH).is_some() {
        // The one true one, whatever was stated beside a transfer coding, or twice.
        parts.headers.insert(header::CONTENT_LENGTH, body.len().into());
    }
    Ok((parts, body))
}

/// Where there is no body, a length tells what a GET would have brought, but for a 204 (RFC 9110 §8.6).
pub(super) fn state_no_length(parts: &mut http::response::Parts) {
    keep_one_length(&mut parts.headers);
    if parts.status == StatusCode::NO_CONTENT {
        parts.headers.remove(header::CONTENT_LENGTH);
    }
}

/// Removes what concerned the way to here, and states the true length where one was stated.
fn prepare(request: &mut Request) {
    let length = request.body().length();
    let headers = request.headers_mut();
    remove_hop_by_hop(headers);
    headers.remove(header::EXPECT);
    if headers.remove(header::CONTENT_LENGTH).is_some()
        && let Some(length) = length
    {
        headers.insert(header::CONTENT_LENGTH, length.into());
    }
}

/// Refuses what is not one whole response.
fn check(parts: &http::response::Parts) -> Result<(), Failure> {
    refuse_interim(parts.status)?;
    if is_event_stream(&parts.headers) {
        let text = "it answered with server-sent events, which have no end and do not fit into one message";
        return Err(Failure::new(FailureKind::Protocol, text));
    }
    Ok(())
}

/// A body that ends with an error when it takes too long, or when nobody waits for it any more.
struct Paced {
    body: Body,
    start: Instant,
    read: u64,
    session: Watch,
}

impl Read for Paced {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.session.is_over() {
            return Err(failure("its session is over"));
        }
        if self.start.elapsed() > BODY_TIME + Duration::from_secs(self.read / BODY_RATE) {
            return Err(failure("the response has no end in sight, and has to fit into one message"));
        }
        let read = self.body.read(buffer)?;
        self.read += read as u64;
        Ok(read)
    }
}

fn failure(text: &str) -> io::Error {
    io::Error::other(Failure::new(FailureKind::Timeout, text))
}
