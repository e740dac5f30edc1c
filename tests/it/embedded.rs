//! Agents and gateways as a program embeds them: their handles, and their ends.

use std::io::Read;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use tunnel_agent::gateway::{Gateway, GatewayBuilder};
use tunnel_agent::{Agent, Body, ConfigProblem, ConnectionState, Request, Response, RunError};

use crate::support::{LIMIT, OTHER_TUNNEL_ID, Signal, TUNNEL_ID, http, split, visit};

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
fn a_running_agent_takes_another_tunnel_and_other_options() {
    let gateway = Gateway::builder()
        .listen("127.0.0.1:0".parse().unwrap())
        .build()
        .unwrap()
        .bind()
        .unwrap()
        .spawn()
        .unwrap();
    let says = |text: &'static str| move |_: Request| Ok(Response::new(Body::from(text)));
    let builder = |id: &str, name: &str| {
        let mut builder = Agent::builder(id.parse().unwrap());
        builder.set("gateway", &format!("ws://{}", gateway.address())).unwrap();
        builder.set("name", name).unwrap();
        builder
    };
    let shop = builder(TUNNEL_ID, "shop").service(says("shop"));
    let agent = shop.clone().build().unwrap().spawn().unwrap();
    let handle = agent.handle();
    let url = |name: &str| Some(format!("http://{name}.localhost:{}", gateway.address().port()));
    assert_eq!(handle.wait_connected(LIMIT).unwrap().url, url("shop"));
    let ask = |name: &str| {
        let request = format!("GET / HTTP/1.1\r\nHost: {name}.localhost\r\nConnection: close\r\n\r\n");
        split(&http(gateway.address(), request.as_bytes())).1
    };
    assert_eq!(ask("shop"), "shop");
    let blog = builder(OTHER_TUNNEL_ID, "blog").service(says("blog"));
    handle.reload(&shop.service(says("renewed")).tunnel(blog)).unwrap();
    assert!(handle.wait_connected(LIMIT).is_some());
    let urls: Vec<_> = handle.tunnels().into_iter().map(|tunnel| tunnel.status.url).collect();
    assert_eq!(urls, [url("shop"), url("blog")]);
    assert_eq!((ask("shop").as_str(), ask("blog").as_str()), ("renewed", "blog"));
    // What cannot change is refused by name, and nothing has changed.
    let error = handle.reload(&builder(TUNNEL_ID, "shop").workers(3)).unwrap_err();
    assert_eq!(error.option(), "workers");
    assert!(matches!(error.problem(), ConfigProblem::NeedsRestart));
    assert_eq!((ask("shop").as_str(), ask("blog").as_str()), ("renewed", "blog"));
    handle.shutdown(Duration::ZERO);
    agent.join().unwrap();
    gateway.handle().abort();
    gateway.join().unwrap();
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
