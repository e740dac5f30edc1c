//! A recorded request, to be sent again.

use http::Method;

use super::Inspector;
use super::record::InspectedExchange;

/// A request to be sent again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Replay {
    /// The number of the exchange that it repeats.
    pub(crate) of: u64,
    /// The name of its tunnel, in an agent that serves several.
    pub(crate) tunnel: Option<String>,
    pub(crate) method: String,
    pub(crate) url: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// The names of masked fields, which are left out.
    pub(crate) left_out: Vec<String>,
}

/// Why a request cannot be sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NotReplayable {
    /// There is no such exchange, or not any more.
    Missing,
    /// Its body has not come to its end.
    Incomplete,
    /// Its body is longer than what is kept of one.
    Cut,
    /// It asked for another protocol.
    Upgrade,
    /// It could not be read.
    Unread,
}

impl Inspector {
    /// The request of the exchange with this number.
    pub(crate) fn replay(&self, id: u64) -> Result<Replay, NotReplayable> {
        self.view(id, Replay::of).unwrap_or(Err(NotReplayable::Missing))
    }
}

impl Replay {
    /// The request of this exchange.
    pub(crate) fn of(exchange: &InspectedExchange) -> Result<Self, NotReplayable> {
        let body = &exchange.request_body;
        let is_upgrade = exchange.request_headers.iter().any(|(name, _)| name == "upgrade");
        if is_upgrade {
            return Err(NotReplayable::Upgrade);
        }
        if exchange.request_headers.is_empty() {
            return Err(NotReplayable::Unread);
        }
        if body.is_cut() {
            return Err(NotReplayable::Cut);
        }
        // A request that was refused was not read; but some have no body.
        let has_none = exchange.request_headers.get("content-length").is_none_or(|length| length == "0")
            && matches!(exchange.method, Method::GET | Method::HEAD);
        if !body.is_complete && !has_none {
            return Err(NotReplayable::Incomplete);
        }
        let (mut headers, mut left_out) = (Vec::new(), Vec::new());
        for (name, value) in exchange.request_headers.iter() {
            match value {
                Some(value) => headers.push((name.to_owned(), value.to_owned())),
                None => left_out.push(name.to_owned()),
            }
        }
        Ok(Replay {
            of: exchange.id,
            tunnel: exchange.tunnel.clone(),
            method: exchange.method.to_string(),
            url: exchange.url.clone(),
            headers,
            body: body.bytes.clone(),
            left_out,
        })
    }
}
