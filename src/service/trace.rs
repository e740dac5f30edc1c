//! Which server answered a request, for the inspector.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::sync::lock;

/// A place where the service tells which server answered, in the [`extensions`](http::Request::extensions) of requests that
/// are inspected.
#[derive(Debug, Clone, Default)]
pub(crate) struct AnswerTrace(Arc<Mutex<Answered>>);

/// The server that answered.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Answered {
    /// Its URL.
    pub(crate) server: Option<Arc<str>>,
    /// How long connecting took; none where a connection was used again.
    pub(crate) connect: Option<Duration>,
}

impl AnswerTrace {
    /// Records which server is asked.
    pub(crate) fn asked(&self, server: Arc<str>) {
        *lock(&self.0) = Answered { server: Some(server), connect: None };
    }

    /// Records how long connecting took.
    pub(crate) fn connected(&self, took: Duration) {
        lock(&self.0).connect = Some(took);
    }

    pub(crate) fn get(&self) -> Answered {
        lock(&self.0).clone()
    }
}
