//! A program that answers requests itself, without a local web server.
//!
//! ```text
//! gateway                                            # in one terminal
//! cargo run --example answer -- ws://127.0.0.1:3000  # in another one
//! curl http://127.0.0.1:3000/world                   # Hello, /world!
//! ```

use std::error::Error;

use tunnel_agent::http::StatusCode;
use tunnel_agent::{Agent, Body, Failure, Request, Response};

/// Answers `GET` with a greeting, and everything else with 405.
fn answer(request: Request) -> Result<Response, Failure> {
    if request.method() != "GET" {
        let mut response = Response::new(Body::from("Only GET, please.\n"));
        *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
        return Ok(response);
    }
    Ok(Response::new(Body::from(format!("Hello, {}!\n", request.uri().path()))))
}

fn main() -> Result<(), Box<dyn Error>> {
    let gateway = std::env::args().nth(1).unwrap_or_else(|| "ws://127.0.0.1:3000".to_owned());
    let agent = Agent::builder("agent_550e8400-e29b-41d4-a716-446655440000_example".parse()?)
        .gateway(gateway.parse()?)
        .service(answer)
        .build()?
        .spawn()?;
    // Something else could be done here. `agent.handle()` stops the agent from anywhere.
    agent.join()?;
    Ok(())
}
