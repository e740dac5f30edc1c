//! The transport that ureq uses: one socket, which is lent for an exchange and comes back with it.
//!
//! ```text
//! Connection ── agent.run() ──▶ Connector ── takes the Channel ──▶ LentTransport ── reads and writes ──▶ local server
//!     ▲                                                                 │
//!     └────────────────────────── Handoff ◀── gives it back when dropped ──┘
//! ```
//!
//! ureq writes the request's head and its small body, and reads the response's head and its body. What it leaves to a
//! transport is here: time limits for each phase, the thread that sends a large body, and what a lenient server writes
//! that a strict parser refuses. The pool of connections is ours, too: ureq's asks each idle one twice a request.
//!
//! `ureq::unversioned` follows no semantic versioning, so `Cargo.toml` admits patches of one version alone.

use std::io;
use std::sync::Arc;

use http::Uri;
use ureq::Error;
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{Buffers, ConnectionDetails, Connector, NextTimeout, Transport};

use super::channel::{Channel, RequestPhase};
use super::handoff::Handoff;
use crate::http1::{Framing, HEAD_MAX, is_interim};

/// The settings with which ureq adds nothing, follows nothing and decodes nothing.
pub(super) fn agent(handoff: Arc<Handoff>) -> ureq::Agent {
    let config = ureq::config::Config::builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .proxy(None)
        .user_agent("")
        .accept("")
        .accept_encoding("")
        .allow_non_standard_methods(true)
        .max_response_header_size(HEAD_MAX)
        .build();
    ureq::Agent::with_parts(config, Lender(handoff), KnownAddress)
}

/// ureq's connector, which hands out the one channel that there is.
#[derive(Debug)]
struct Lender(Arc<Handoff>);

impl Connector for Lender {
    type Out = LentTransport;

    fn connect(&self, _: &ConnectionDetails<'_>, _: Option<()>) -> Result<Option<LentTransport>, Error> {
        let handoff = self.0.clone();
        Ok(handoff.lend().map(|channel| LentTransport { handoff, channel: Some(channel) }))
    }
}

/// ureq's resolver. There is nothing to resolve: the connection is open.
#[derive(Debug)]
struct KnownAddress;

impl Resolver for KnownAddress {
    fn resolve(
        &self,
        _: &Uri,
        _: &ureq::config::Config,
        _: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, Error> {
        Ok(self.empty())
    }
}

/// A channel in ureq's hands.
#[derive(Debug)]
struct LentTransport {
    handoff: Arc<Handoff>,
    /// It is there until the transport is dropped.
    channel: Option<Box<Channel>>,
}

impl Transport for LentTransport {
    fn buffers(&mut self) -> &mut dyn Buffers {
        self
    }

    fn transmit_output(&mut self, amount: usize, _: NextTimeout) -> Result<(), Error> {
        self.channel()?.collect(amount);
        Ok(())
    }

    fn await_input(&mut self, _: NextTimeout) -> Result<bool, Error> {
        match self.handoff.framing() {
            Some(framing) => self.await_body(framing),
            None => self.await_head(),
        }
    }

    /// Asked when a response is complete and another request might follow. Our own pool keeps the connection.
    fn is_open(&mut self) -> bool {
        self.handoff.set_reusable();
        false
    }

    fn is_tls(&self) -> bool {
        self.channel.as_ref().is_some_and(|channel| channel.is_tls)
    }
}

impl LentTransport {
    fn channel(&mut self) -> Result<&mut Channel, Error> {
        self.channel.as_deref_mut().ok_or(Error::ConnectionFailed)
    }

    /// Waits for more of the head, behind the request.
    fn await_head(&mut self) -> Result<bool, Error> {
        let LentTransport { handoff, channel: Some(channel) } = self else {
            return Err(Error::ConnectionFailed);
        };
        let mut result = channel.exchange.error.take().map_or(Ok(()), Err);
        if channel.exchange.phase == RequestPhase::Collected && result.is_ok() {
            result = channel.send_request().map(|upload| handoff.set_sent(channel, upload));
        }
        result.and_then(|()| channel.read_head()).map(|()| true).map_err(|error| {
            channel.exchange.error = Some(error);
            Error::ConnectionFailed
        })
    }

    /// Waits for more of the body. Only where it is the end of the body, the end of the connection is none of an error: ureq
    /// must not learn of any other.
    fn await_body(&mut self, framing: Framing) -> Result<bool, Error> {
        let LentTransport { handoff, channel: Some(channel) } = self else {
            return Err(Error::ConnectionFailed);
        };
        let read = channel.read_body(framing, handoff.read_number())?;
        handoff.set_unread(channel);
        if read == 0 && framing != Framing::UntilEnd {
            return Err(io::Error::other(io::Error::from(io::ErrorKind::UnexpectedEof)).into());
        }
        Ok(read > 0)
    }
}

impl Drop for LentTransport {
    fn drop(&mut self) {
        if let Some(channel) = self.channel.take() {
            self.handoff.put(channel);
        }
    }
}

impl Buffers for LentTransport {
    fn output(&mut self) -> &mut [u8] {
        self.channel.as_mut().map_or(&mut [], |channel| channel.output())
    }

    fn input(&self) -> &[u8] {
        self.channel.as_ref().map_or(&[], |channel| channel.usable())
    }

    /// Not in use: the channel fills its input itself.
    fn input_append_buf(&mut self) -> &mut [u8] {
        &mut []
    }

    fn input_appended(&mut self, _: usize) {}

    fn input_consume(&mut self, amount: usize) {
        let LentTransport { handoff, channel: Some(channel) } = self else { return };
        let is_head = amount > 0 && handoff.framing().is_none();
        let head = &channel.input.unread()[..amount];
        let is_final = is_head && !is_interim(head);
        if is_final {
            handoff.set_status_line(head.split(|byte| *byte == b'\n').next().unwrap_or_default());
        }
        channel.consume(amount);
        if is_head && !is_final {
            channel.next_head();
        }
        handoff.set_unread(channel);
    }

    /// No scratch memory: bodies that ureq sends are in memory, and go to the output at once.
    fn tmp_and_output(&mut self) -> (&mut [u8], &mut [u8]) {
        (&mut [], self.output())
    }

    fn can_use_input(&self) -> bool {
        self.channel.as_ref().is_some_and(|channel| channel.has_unseen())
    }
}
