//! Which local server answers a request, and whether it may be asked.
//!
//! The longest route that a path lies under says which servers there are for it. Of these the first that is up
//! answers; where it cannot be reached, the next one. Each has a [circuit breaker](breaker) and perhaps
//! [checks](health); a thread looks after each while the agent runs.

mod breaker;
mod choice;
mod edits;
mod health;
mod server;
mod target;

use std::fmt;
use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use http::header::HeaderValue;
use http::{Uri, request};

pub use self::breaker::BreakerLimits;
pub(crate) use self::edits::{HeaderEdits, header_name};
pub use self::edits::{InvalidHeader, SetHeader};
pub use self::health::HealthChecks;
pub(crate) use self::server::Server;
use self::target::{NONE_FOUND, Target};
use crate::link::TrustStore;
use crate::origin::{LocalUrl, Timeouts, Unanswered};
use crate::rules::decode;
use crate::service::{Failure, FailureKind, Request, Response, Service};

/// Most local servers of one agent.
pub(crate) const TARGETS_MAX: usize = 64;

/// Where a local server is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    At(LocalUrl),
    /// Wherever on this machine there is one.
    Auto,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::At(url) => url.fmt(f),
            Place::Auto => f.write_str("auto"),
        }
    }
}

/// How all servers are treated.
pub(crate) struct Config {
    pub(crate) host: Option<HeaderValue>,
    pub(crate) tls: Option<TrustStore>,
    pub(crate) timeouts: Timeouts,
    pub(crate) edits: HeaderEdits,
    pub(crate) breaker: BreakerLimits,
    pub(crate) checks: Option<HealthChecks>,
    /// Ports of this machine at which no server is to be looked for.
    pub(crate) except: Vec<u16>,
}

/// The local servers.
pub(crate) struct Targets {
    /// Those with longer prefixes first; the last has none.
    routes: Vec<Route>,
    config: Arc<Config>,
}

/// A part of the paths, and the servers for it.
struct Route {
    /// Without a slash at its end.
    prefix: String,
    targets: Vec<Arc<Target>>,
}

impl Route {
    /// For people and programs.
    fn name(&self) -> String {
        format!("{}/", self.prefix)
    }
}

/// How a server is doing.
pub(crate) struct TargetStatus {
    pub(crate) route: String,
    pub(crate) url: String,
    pub(crate) is_healthy: bool,
    pub(crate) is_circuit_open: bool,
}

impl TargetStatus {
    /// Whether nothing is known against it.
    pub(crate) fn is_up(&self) -> bool {
        self.is_healthy && !self.is_circuit_open
    }
}

impl Targets {
    /// The servers of each prefix; the empty one takes what lies under no other.
    pub(crate) fn new(routes: Vec<(String, Place)>, config: Config) -> Self {
        let config = Arc::new(config);
        let mut grouped: Vec<Route> = Vec::new();
        for (prefix, place) in routes {
            let target = Arc::new(match place {
                Place::At(url) => Target::named(url, config.clone()),
                Place::Auto => Target::searched(config.except.clone(), config.clone()),
            });
            match grouped.iter_mut().find(|route| route.prefix == prefix) {
                Some(route) => route.targets.push(target),
                None => grouped.push(Route { prefix, targets: vec![target] }),
            }
        }
        grouped.sort_by_key(|route| std::cmp::Reverse(route.prefix.len()));
        Targets { routes: grouped, config }
    }

    fn all(&self) -> impl Iterator<Item = &Arc<Target>> {
        self.routes.iter().flat_map(|route| &route.targets)
    }

    fn servers_for(&self, uri: &Uri) -> &[Arc<Target>] {
        let [only] = self.routes.as_slice() else {
            // What cannot be decoded lies where it says it does.
            let path = decode(uri.path()).unwrap_or_else(|_| uri.path().to_owned());
            let route = self.routes.iter().find(|route| lies_under(&path, &route.prefix));
            return route.map_or(&[], |route| &route.targets);
        };
        &only.targets
    }

    /// All servers; those that are searched for, if they are found.
    pub(crate) fn servers(&self) -> Vec<Option<Arc<Server>>> {
        let find = |target: &Arc<Target>| {
            target.search();
            target.server()
        };
        self.all().map(find).collect()
    }

    /// How each server is doing.
    pub(crate) fn status(&self) -> Vec<TargetStatus> {
        let of = |route: &Route, target: &Target| {
            let (is_healthy, is_circuit_open, _) = target.condition();
            TargetStatus { route: route.name(), url: target.name(), is_healthy, is_circuit_open }
        };
        self.routes
            .iter()
            .flat_map(|route| route.targets.iter().map(move |target| of(route, target)))
            .collect()
    }

    /// The routes of which every server is known to be down. One whose circuit is open, and may be tried, is connected
    /// to: else it would count as down until a visitor comes.
    pub(crate) fn dead_routes(&self) -> Vec<String> {
        let is_dead = |route: &&Route| !route.targets.iter().any(|target| target.may_answer());
        self.routes.iter().filter(is_dead).map(Route::name).collect()
    }

    /// The URL to which a request without a body would be sent, and its head as it would be.
    pub(crate) fn explain(&self, mut head: request::Parts) -> Result<(String, request::Parts), Failure> {
        let target = self.servers_for(&head.uri).first();
        let target = target.ok_or_else(|| Failure::new(FailureKind::Unreachable, NO_SERVER))?;
        if target.server().is_none() {
            target.search();
        }
        let server = target.server().ok_or_else(|| Failure::new(FailureKind::Unreachable, NONE_FOUND))?;
        self.config.edits.apply(&mut head.headers);
        let url = server.origin.explain(&mut head)?;
        Ok((url, head))
    }

    /// Starts a thread for each server that looks after it.
    pub(crate) fn look_after(&self) -> io::Result<Care> {
        let mut care = Care { targets: Vec::new(), threads: Vec::new() };
        for target in self.all() {
            let looked_after = target.clone();
            care.targets.push(target.clone());
            let thread = thread::Builder::new().name("local".to_owned());
            care.threads.push(thread.spawn(move || looked_after.look_after())?);
        }
        Ok(care)
    }
}

const NO_SERVER: &str = "no local server is responsible for this path";

/// Whether a path lies under a prefix, segment by segment.
fn lies_under(path: &str, prefix: &str) -> bool {
    path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

impl Service for Targets {
    fn call(&self, mut request: Request) -> Result<Response, Failure> {
        self.config.edits.apply(request.headers_mut());
        let targets = self.servers_for(request.uri());
        let mut why = Failure::new(FailureKind::Unreachable, NO_SERVER);
        // Those that are down come last, in case that is wrong. What the calls change has no say in the order.
        let (up, down): (Vec<_>, Vec<_>) = targets.iter().partition(|target| target.is_up());
        for target in up.into_iter().chain(down) {
            match target.call(request) {
                Ok(response) => return Ok(response),
                Err(Unanswered { failure, request: Some(unsent), .. }) => (why, request) = (failure, *unsent),
                Err(unanswered) => return Err(unanswered.failure),
            }
        }
        Err(why)
    }

    fn interrupt(&self) {
        self.all().for_each(|target| target.interrupt());
    }
}

/// The threads that look after servers; dropping it ends them.
pub(crate) struct Care {
    targets: Vec<Arc<Target>>,
    threads: Vec<JoinHandle<()>>,
}

impl Drop for Care {
    fn drop(&mut self) {
        self.targets.iter().for_each(|target| target.release());
        for thread in self.threads.drain(..) {
            // One that panicked has said so on its own.
            let _ = thread.join();
        }
    }
}

/// A part of the paths that is another server's, without a slash at its end.
pub(crate) fn prefix(text: &str) -> Result<String, &'static str> {
    const WHAT: &str = "the prefix must be a path of whole, decoded segments, such as /api";
    let path = text.trim_end_matches('/');
    let is_one = path.starts_with('/') && !path.contains(['%', '?', '*']) && decode(path).is_ok();
    if is_one { Ok(path.to_owned()) } else { Err(WHAT) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn targets(routes: &[(&str, &str)]) -> Targets {
        let routes = routes
            .iter()
            .map(|(prefix, url)| ((*prefix).to_owned(), Place::At(url.parse().unwrap())))
            .collect();
        let config = Config {
            host: None,
            tls: None,
            timeouts: Timeouts::default(),
            edits: HeaderEdits::default(),
            breaker: BreakerLimits::default(),
            checks: None,
            except: Vec::new(),
        };
        Targets::new(routes, config)
    }

    #[test]
    fn the_longest_prefix_of_whole_segments_wins() {
        let targets = targets(&[
            ("", "http://127.0.0.1:1"),
            ("/api", "http://127.0.0.1:2"),
            ("/api/v2", "http://127.0.0.1:3/base"),
            ("", "http://127.0.0.1:9"),
        ]);
        for (path, url) in [
            ("/", "http://127.0.0.1:1/"),
            ("/apix?q=/api", "http://127.0.0.1:1/apix?q=/api"),
            ("/api", "http://127.0.0.1:2/api"),
            ("/api/", "http://127.0.0.1:2/api/"),
            ("/%61pi/x", "http://127.0.0.1:2/%61pi/x"),
            ("/api/v2/x?y", "http://127.0.0.1:3/base/api/v2/x?y"),
            ("/api/v20", "http://127.0.0.1:2/api/v20"),
            ("/x%2f..%2fapi", "http://127.0.0.1:1/x%2f..%2fapi"),
        ] {
            let mut request = http::Request::new(());
            *request.uri_mut() = path.parse().unwrap();
            let (got, _) = targets.explain(request.into_parts().0).unwrap();
            assert_eq!(got, url, "{path}");
        }
    }

    #[test]
    fn a_prefix_is_a_path_of_whole_segments() {
        assert_eq!(prefix("/api/"), Ok("/api".to_owned()));
        assert_eq!(prefix("/api/v2"), Ok("/api/v2".to_owned()));
        for bad in ["", "/", "api", "/a//b", "/a/../b", "/a?b", "/a%20b", "/a/*"] {
            assert!(prefix(bad).is_err(), "{bad:?}");
        }
    }
}
