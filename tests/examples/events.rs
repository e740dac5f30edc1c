//! A program that streams server-sent events: a body of unknown length, read as it comes into being.
//!
//! ```text
//! gateway                                            # in one terminal
//! cargo run --example events -- ws://127.0.0.1:3000  # in another one
//! curl -N http://127.0.0.1:3000/                     # data: 0, data: 1, …
//! ```

use std::error::Error;
use std::io::{self, Read};
use std::thread;
use std::time::Duration;

use tunnel_agent::http::HeaderValue;
use tunnel_agent::http::header::CONTENT_TYPE;
use tunnel_agent::{Agent, Body, Cancellation, Failure, Request, Response};

/// One event a second, until the visitor goes away.
struct Events {
    next: u64,
    /// The rest of an event that did not fit.
    pending: Vec<u8>,
    cancellation: Cancellation,
}

impl Read for Events {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.pending.is_empty() {
            if self.next > 0 {
                thread::sleep(Duration::from_secs(1));
            }
            if self.cancellation.is_cancelled() {
                return Ok(0);
            }
            self.pending = format!("data: {}\n\n", self.next).into_bytes();
            self.next += 1;
        }
        let length = self.pending.len().min(buffer.len());
        buffer[..length].copy_from_slice(&self.pending[..length]);
        self.pending.drain(..length);
        Ok(length)
    }
}

fn events(request: Request) -> Result<Response, Failure> {
    let cancellation = request.extensions().get::<Cancellation>().cloned().unwrap_or_default();
    let events = Events { next: 0, pending: Vec::new(), cancellation };
    let mut response = Response::new(Body::from_reader(events, None));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    Ok(response)
}

fn main() -> Result<(), Box<dyn Error>> {
    let gateway = std::env::args().nth(1).unwrap_or_else(|| "ws://127.0.0.1:3000".to_owned());
    Agent::builder("agent_550e8400-e29b-41d4-a716-446655440000_example".parse()?)
        .gateway(gateway.parse()?)
        .service(events)
        .build()?
        .run()?;
    Ok(())
}
