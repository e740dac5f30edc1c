//! ureq clients, one for each request that runs at the same time.
//!
//! ureq's own pool of connections is one list behind one lock, which it walks several times per request. So
//! each client here keeps one connection, and the clients are a stack: the connection that was used last is
//! used next, and those that a quieter time does not need grow old and are closed by the server.

use std::sync::{Arc, Mutex, MutexGuard};

use super::transport::{Connector, NoResolver};

/// All clients of one local server.
#[derive(Debug)]
pub(super) struct Clients(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    connector: Connector,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    idle: Vec<ureq::Agent>,
    /// Every client there is, for the end. As many as requests ever ran at the same time.
    all: Vec<ureq::Agent>,
    stopped: bool,
}

/// A client, for one request.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) http: ureq::Agent,
    shared: Arc<Shared>,
}

impl Clients {
    pub(super) fn new(connector: Connector) -> Self {
        Clients(Arc::new(Shared { connector, state: Mutex::default() }))
    }

    /// The client that was used last, or a new one.
    pub(super) fn take(&self) -> Client {
        let mut state = self.0.state();
        let http = state.idle.pop().unwrap_or_else(|| {
            let http = self.0.new_client();
            if state.stopped {
                http.clone().shutdown();
            }
            state.all.push(http.clone());
            http
        });
        drop(state);
        Client { http, shared: self.0.clone() }
    }

    /// Whether [`shutdown`](Self::shutdown) was called.
    pub(super) fn are_stopped(&self) -> bool {
        self.0.state().stopped
    }

    /// Ends all requests that run, and all that come.
    pub(super) fn shutdown(&self) {
        let all = {
            let mut state = self.0.state();
            state.stopped = true;
            state.all.clone()
        };
        all.into_iter().for_each(ureq::Agent::shutdown);
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while the lock is held.
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn new_client(&self) -> ureq::Agent {
        let config = ureq::config::Config::builder()
            .http_status_as_error(false)
            .allow_non_standard_methods(true)
            .max_redirects(0)
            .max_redirects_will_error(false)
            // Or HTTP_PROXY in the environment would catch requests to 127.0.0.1.
            .proxy(None)
            .user_agent("")
            .accept("")
            .accept_encoding("")
            .max_idle_connections(1)
            .max_idle_connections_per_host(1)
            .build();
        ureq::Agent::with_parts(config, self.connector.clone(), NoResolver)
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.shared.state().idle.push(self.http.clone());
    }
}
