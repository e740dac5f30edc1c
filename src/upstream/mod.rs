//! Which local server answers a request, and whether it may be asked.
//!
//! The longest route that contains a path says which upstreams there are for it. The first of them that is up answers;
//! where it cannot be reached, the next one. Each has a [circuit breaker](breaker) and perhaps [health checks](health),
//! and a thread that [monitors](monitor) it while the agent runs.

mod availability;
mod breaker;
pub(crate) mod detect;
mod health;
mod monitor;
pub(crate) mod origin;
mod rewrite;
mod selector;
mod server;
mod site;
mod wake;

use std::sync::Arc;
use std::{fmt, io};

use http::header::HeaderValue;
use http::{Uri, request};

pub(crate) use self::availability::Availability;
use self::availability::{NONE_FOUND, Upstream};
pub use self::breaker::BreakerConfig;
pub(crate) use self::breaker::Circuit;
use self::detect::is_port_silent;
pub use self::health::HealthChecks;
pub(crate) use self::monitor::Monitors;
use self::origin::{AttemptError, LocalUrl, Timeouts};
pub(crate) use self::rewrite::HeaderRewrite;
pub(crate) use self::server::UpstreamServer;
use self::site::VisitorSite;
use crate::http1::path::decode;
use crate::net::local::is_loopback;
use crate::net::{ConnectError, TrustStore};
use crate::service::{Failure, FailureKind, Request, Response, Service};

/// Most upstreams of one agent.
pub(crate) const UPSTREAMS_MAX: usize = 64;

/// Where an upstream is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum UpstreamAddress {
    Url(LocalUrl),
    /// Wherever a search of this machine finds it.
    Auto,
}

impl fmt::Display for UpstreamAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            UpstreamAddress::Url(url) => url.fmt(f),
            UpstreamAddress::Auto => f.write_str("auto"),
        }
    }
}

/// The treatment of the site's name where a local server has a `Host` of its own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum SiteNames {
    /// `Origin`, redirects and cookies are translated between the two names.
    #[default]
    Translated,
    Kept,
}

/// The configuration that all upstreams share.
pub(crate) struct UpstreamConfig {
    pub(crate) host: Option<HeaderValue>,
    pub(crate) tls: Option<TrustStore>,
    pub(crate) timeouts: Timeouts,
    pub(crate) rewrite: HeaderRewrite,
    /// Changes in the headers of responses.
    pub(crate) response_rewrite: HeaderRewrite,
    pub(crate) site_names: SiteNames,
    pub(crate) breaker: BreakerConfig,
    pub(crate) checks: Option<HealthChecks>,
    /// Ports of this machine that a search leaves out.
    pub(crate) except: Vec<u16>,
}

/// The local servers, by the paths that they are for.
pub(crate) struct Upstreams {
    /// Routes with longer prefixes first; the last has none.
    routes: Vec<UpstreamRoute>,
    config: Arc<UpstreamConfig>,
}

/// A part of the paths, and its upstreams.
struct UpstreamRoute {
    /// Without a slash at its end.
    prefix: String,
    upstreams: Vec<Arc<Upstream>>,
}

impl UpstreamRoute {
    /// The prefix, for people and programs.
    fn name(&self) -> String {
        format!("{}/", self.prefix)
    }
}

/// How an upstream is doing.
pub(crate) struct UpstreamStatus {
    pub(crate) route: String,
    pub(crate) url: String,
    pub(crate) availability: Availability,
    pub(crate) circuit: Circuit,
}

impl UpstreamStatus {
    /// Whether nothing is known against the upstream.
    pub(crate) fn is_up(&self) -> bool {
        self.availability == Availability::Up
    }
}

impl Upstreams {
    /// The upstreams of each prefix; the empty prefix takes what lies under no other.
    pub(crate) fn new(addresses: Vec<(String, UpstreamAddress)>, config: UpstreamConfig) -> Self {
        let config = Arc::new(config);
        let mut routes: Vec<UpstreamRoute> = Vec::new();
        for (prefix, address) in addresses {
            let upstream = Arc::new(match address {
                UpstreamAddress::Url(url) => Upstream::named(url, config.clone()),
                UpstreamAddress::Auto => Upstream::searched(config.clone()),
            });
            match routes.iter_mut().find(|route| route.prefix == prefix) {
                Some(route) => route.upstreams.push(upstream),
                None => routes.push(UpstreamRoute { prefix, upstreams: vec![upstream] }),
            }
        }
        routes.sort_by_key(|route| std::cmp::Reverse(route.prefix.len()));
        Upstreams { routes, config }
    }

    fn all(&self) -> impl Iterator<Item = &Arc<Upstream>> {
        self.routes.iter().flat_map(|route| &route.upstreams)
    }

    fn upstreams_for(&self, uri: &Uri) -> &[Arc<Upstream>] {
        let [only] = self.routes.as_slice() else {
            // A path that cannot be decoded lies where it says it does.
            let path = decode(uri.path()).unwrap_or_else(|_| uri.path().to_owned());
            let route = self.routes.iter().find(|route| lies_under(&path, &route.prefix));
            return route.map_or(&[], |route| &route.upstreams);
        };
        &only.upstreams
    }

    /// The server of each upstream. Where it is searched for, this searches; `None` when none is found.
    pub(crate) fn servers(&self) -> Vec<Option<Arc<UpstreamServer>>> {
        let find = |upstream: &Arc<Upstream>| {
            upstream.search();
            upstream.server()
        };
        self.all().map(find).collect()
    }

    /// The servers on this machine that cannot be reached now; why, where more is known than that nothing listens.
    pub(crate) fn missing(&self) -> Vec<(LocalUrl, Option<ConnectError>)> {
        let fixed = self.all().filter_map(|upstream| upstream.server());
        let missing = |server: Arc<UpstreamServer>| {
            let url = server.url.clone();
            match url.socket_path() {
                Some(_) => server.reach().err().map(|error| (url, Some(error))),
                None => {
                    let is_silent = is_loopback(url.host()) && url.port().is_some_and(is_port_silent);
                    is_silent.then_some((url, None))
                }
            }
        };
        fixed.filter_map(missing).collect()
    }

    /// How each upstream is doing.
    pub(crate) fn status(&self) -> Vec<UpstreamStatus> {
        let of = |route: &UpstreamRoute, upstream: &Upstream| UpstreamStatus {
            route: route.name(),
            url: upstream.name(),
            availability: upstream.availability(),
            circuit: upstream.circuit(),
        };
        self.routes
            .iter()
            .flat_map(|route| route.upstreams.iter().map(move |upstream| of(route, upstream)))
            .collect()
    }

    /// The routes none of whose upstreams may answer. To one whose circuit is half-open a connection is opened: it would
    /// count as down until a visitor comes otherwise.
    pub(crate) fn dead_routes(&self) -> Vec<String> {
        let is_dead = |route: &&UpstreamRoute| !route.upstreams.iter().any(|upstream| upstream.is_ready());
        self.routes.iter().filter(is_dead).map(UpstreamRoute::name).collect()
    }

    /// The URL to which a request without a body would be sent, and the head that it would be sent with.
    pub(crate) fn explain(&self, mut head: request::Parts) -> Result<(String, request::Parts), Failure> {
        let upstream = self.upstreams_for(&head.uri).first();
        let upstream = upstream.ok_or_else(|| Failure::new(FailureKind::Unreachable, NO_ROUTE))?;
        if upstream.server().is_none() {
            upstream.search();
        }
        let none_found = || Failure::new(FailureKind::Unreachable, NONE_FOUND);
        let server = upstream.server().ok_or_else(none_found)?;
        self.config.rewrite.apply(&mut head.headers);
        let url = server.origin.explain(&mut head)?;
        Ok((url, head))
    }

    /// Starts the threads that monitor the upstreams.
    pub(crate) fn monitor(&self) -> io::Result<Monitors> {
        Monitors::start(self.all())
    }
}

const NO_ROUTE: &str = "no local server is responsible for this path";

/// Whether a path lies under a prefix, segment by segment.
fn lies_under(path: &str, prefix: &str) -> bool {
    path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// The upstreams in the order in which they are asked: those that are down come last, in case that is wrong.
fn in_order(upstreams: &[Arc<Upstream>]) -> Vec<&Arc<Upstream>> {
    let mut order: Vec<_> = upstreams.iter().collect();
    order.sort_by_cached_key(|upstream| !upstream.availability().keeps_place());
    order
}

impl Service for Upstreams {
    fn call(&self, mut request: Request) -> Result<Response, Failure> {
        let host = self.config.host.as_ref().filter(|_| self.config.site_names == SiteNames::Translated);
        let site = host.and_then(|host| Some((host, VisitorSite::of(request.headers())?)));
        self.config.rewrite.apply(request.headers_mut());
        let mut last = None;
        for upstream in in_order(self.upstreams_for(request.uri())) {
            let server = site.as_ref().and_then(|_| upstream.server());
            if let (Some((host, site)), Some(server)) = (&site, &server) {
                site.translate_request(request.headers_mut(), host, &server.url);
            }
            match upstream.call(request) {
                Ok(mut response) => {
                    if let (Some((host, site)), Some(server)) = (&site, &server) {
                        site.translate_response(response.headers_mut(), host, &server.url);
                    }
                    self.config.response_rewrite.apply(response.headers_mut());
                    return Ok(response);
                }
                Err(AttemptError::NotSent { failure, request: unsent }) => {
                    (last, request) = (Some(failure), *unsent);
                }
                Err(AttemptError::Failed { failure, .. }) => return Err(failure),
            }
        }
        Err(last.unwrap_or_else(|| Failure::new(FailureKind::Unreachable, NO_ROUTE)))
    }

    fn interrupt(&self) {
        self.all().for_each(|upstream| upstream.interrupt());
    }
}

/// A prefix of paths as a route keeps it: without a slash at its end.
pub(crate) fn prefix(text: &str) -> Result<String, &'static str> {
    const WHAT: &str = "the prefix must be a path of whole, decoded segments, such as /api";
    let path = text.trim_end_matches('/');
    let is_prefix = path.starts_with('/') && !path.contains(['%', '?', '*']) && decode(path).is_ok();
    if is_prefix { Ok(path.to_owned()) } else { Err(WHAT) }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::breaker::{BreakerPermit, Fault};
    use super::*;

    fn upstreams(routes: &[(&str, &str)]) -> Upstreams {
        let address = |url: &str| match url {
            "auto" => UpstreamAddress::Auto,
            url => UpstreamAddress::Url(url.parse().unwrap()),
        };
        let routes = routes.iter().map(|(prefix, url)| ((*prefix).to_owned(), address(url))).collect();
        let config = UpstreamConfig {
            host: None,
            tls: None,
            timeouts: Timeouts::default(),
            rewrite: HeaderRewrite::default(),
            response_rewrite: HeaderRewrite::default(),
            site_names: SiteNames::Translated,
            breaker: BreakerConfig::default(),
            checks: None,
            except: Vec::new(),
        };
        Upstreams::new(routes, config)
    }

    #[test]
    fn the_longest_prefix_of_whole_segments_wins() {
        let upstreams = upstreams(&[
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
            let (got, _) = upstreams.explain(request.into_parts().0).unwrap();
            assert_eq!(got, url, "{path}");
        }
    }

    #[test]
    fn only_what_is_down_loses_its_place() {
        let upstreams = upstreams(&[("", "auto"), ("", "http://127.0.0.1:1"), ("", "http://127.0.0.1:2")]);
        let list = upstreams.upstreams_for(&Uri::from_static("/"));
        let names = || in_order(list).iter().map(|upstream| upstream.name()).collect::<Vec<_>>();
        // One that is searched for is asked though none is found yet: so the search goes on.
        assert_eq!(names(), ["auto", "http://127.0.0.1:1", "http://127.0.0.1:2"]);
        for _ in 0..5 {
            list[1].update(|state| {
                state.breaker.failed(Fault::Unreachable, BreakerPermit::Closed, Instant::now())
            });
        }
        assert_eq!(names(), ["auto", "http://127.0.0.1:2", "http://127.0.0.1:1"]);
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
