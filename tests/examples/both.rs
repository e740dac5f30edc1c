//! A gateway and an agent in one process, and a visitor who asks through them: a complete tunnel for a test, say.
//!
//! ```text
//! cargo run --example both
//! ```

use std::error::Error;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use tunnel_agent::gateway::Gateway;
use tunnel_agent::{Agent, Body, Request, Response};

fn main() -> Result<(), Box<dyn Error>> {
    // Port 0: the system chooses a free one.
    let gateway = Gateway::builder().listen("127.0.0.1:0".parse()?).build()?.bind()?.spawn()?;
    let agent = Agent::builder("agent_550e8400-e29b-41d4-a716-446655440000_example".parse()?)
        .gateway(format!("ws://{}", gateway.address()).parse()?)
        .service(|request: Request| {
            Ok(Response::new(Body::from(format!("You asked for {}\n", request.uri()))))
        })
        .build()?
        .spawn()?;

    // A gateway that has just started holds requests until an agent comes.
    let mut visitor = TcpStream::connect(gateway.address())?;
    visitor.write_all(b"GET /hello HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut response = String::new();
    visitor.read_to_string(&mut response)?;
    println!("{response}");

    agent.handle().shutdown(Duration::from_secs(1));
    agent.join()?;
    gateway.handle().abort();
    gateway.join()?;
    Ok(())
}
