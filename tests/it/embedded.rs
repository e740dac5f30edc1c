//! Agents and gateways as a program embeds them: their handles, and their ends.

use std::io::Read;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use tunnel_agent::gateway::{Gateway, GatewayBuilder};
use tunnel_agent::{Agent, Body, ConnectionState, Request, Response, RunError};

use crate::support::{LIMIT, Signal, TUNNEL_ID, visit};

/// A gateway that is aborted breaks off a request that an agent would take an hour to answer.
fn abort(gateway: GatewayBuilder) {
    let hour = Duration::from_secs(3600);
    let gateway = gateway.listen("127.0.0.1:0".parse().unwrap()).drain(hour);
    let gateway = gateway.build().unwrap().bind().unwrap().spawn().unwrap();
    let (asked, release) = (Signal::new(), Signal::new());
    let (in_service, released) = (asked.clone(), release.clone());
    let agent = Agent::builder(TUNNEL_ID.parse().unwrap())
        .gateway(format!("ws://{}", gateway.address()).parse().unwrap())
        .service(move |_: Request| {
            in_service.send(());
            released.wait();
            Ok(Response::new(Body::empty()))
        })
        .build()
        .unwrap()
        .spawn()
        .unwrap();
    let (_visitor, mut reader) = visit(gateway.address(), "GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    asked.wait();
    gateway.handle().abort();
    let mut rest = Vec::new();
    // It ends with a reset, or without a word.
    let _ = reader.read_to_end(&mut rest);
    assert!(!rest.starts_with(b"HTTP/1.1 200"));
    let (ended, end) = mpsc::sync_channel(1);
    thread::spawn(move || ended.send(gateway.join()));
    end.recv_timeout(LIMIT).expect("the gateway waits for nothing").unwrap();
    release.send(());
    agent.handle().shutdown(Duration::ZERO);
    agent.join().unwrap();
}

#[test]
fn an_abort_waits_for_no_stream() {
    abort(Gateway::builder());
}

#[test]
fn an_abort_waits_for_no_envelope() {
    abort(Gateway::builder().legacy());
}

#[test]
fn an_agent_that_cannot_start_is_stopped() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let agent = Agent::builder(TUNNEL_ID.parse().unwrap()).admin(taken.local_addr().unwrap(), None);
    let agent = agent.service(|_: Request| Ok(Response::new(Body::empty()))).build().unwrap();
    let handle = agent.handle();
    assert!(matches!(agent.run(), Err(RunError::Admin(..))));
    assert_eq!(handle.status().connection, ConnectionState::Stopped);
}

#[test]
fn an_agent_on_this_thread_is_stopped_by_its_handle() {
    let agent = Agent::builder(TUNNEL_ID.parse().unwrap());
    let agent = agent.service(|_: Request| Ok(Response::new(Body::empty()))).build().unwrap();
    let handle = Arc::new(agent.handle());
    let stopper = handle.clone();
    let thread = thread::spawn(move || stopper.shutdown(Duration::ZERO));
    agent.run().unwrap();
    thread.join().unwrap();
}
