//! What the software promises, tested from outside: the library through its public API, the programs through their
//! command lines, the wire through bytes that are written by hand.

mod admin;
mod browsers;
mod check;
mod config;
mod embedded;
mod forwarding;
mod gateway;
#[cfg(feature = "inspect")]
mod inspector;
mod layering;
mod link;
mod memory;
mod mux;
mod names;
mod operators;
mod printed;
mod protection;
mod protocol;
mod proxies;
mod rfc;
mod service;
mod session;
mod sockets;
mod streams;
mod support;
mod tunnel;
mod visitors;
