//! The options of the local servers.

use std::sync::Arc;

use http::HeaderValue;

use super::builder::Builder;
use super::parts::Answerer;
use crate::http1::{SetHeader, header_name};
use crate::net::tls::Trust;
use crate::service::Service;
use crate::upstream::origin::LocalUrl;
use crate::upstream::{self, BreakerConfig, HealthChecks, SiteNames, UpstreamAddress};

impl Builder {
    /// Forwards requests to this HTTP server. Each call adds a fallback, which is asked when those before it cannot
    /// be reached; 64 at most, with those of routes. Default: `http://127.0.0.1:8000`, also where only
    /// [`route`](Self::route) is called. A later [`service`](Self::service) undoes this, `route` and
    /// [`local_auto`](Self::local_auto), and each of them undoes an earlier `service`.
    pub fn local(self, url: LocalUrl) -> Self {
        self.server(String::new(), UpstreamAddress::Url(url))
    }

    /// Forwards requests whose path lies under this prefix, such as `/api`, to another HTTP server; among several
    /// prefixes the longest wins. Paths are passed on as they are. Each call with the same prefix adds a fallback for
    /// it. `/api` is for `/api` and `/api/x`, not for `/apix`; it is written decoded (a space, not `%20`). Any other prefix is
    /// an error of [`build`](Self::build).
    pub fn route(mut self, prefix: &str, url: LocalUrl) -> Self {
        match upstream::prefix(prefix) {
            Ok(prefix) => self.server(prefix, UpstreamAddress::Url(url)),
            Err(what) => {
                self.invalid.get_or_insert(("route", what.to_owned()));
                self
            }
        }
    }

    /// Forwards requests to an HTTP server that it finds on this machine, see [`Agent::discover`](crate::Agent::discover):
    /// the likeliest one at the start, and another one while nothing listens at its port.
    pub fn local_auto(self) -> Self {
        self.server(String::new(), UpstreamAddress::Auto)
    }

    fn server(mut self, prefix: String, address: UpstreamAddress) -> Self {
        self.add_server(prefix, address);
        self
    }

    pub(super) fn add_server(&mut self, prefix: String, address: UpstreamAddress) {
        match &mut self.answerer {
            Answerer::Local(servers) => servers.push((prefix, address)),
            answerer => *answerer = Answerer::Local(vec![(prefix, address)]),
        }
    }

    /// A header field that is set in requests to the local servers, in place of those of that name. Each call adds
    /// one.
    pub fn set_header(mut self, header: SetHeader) -> Self {
        self.rewrite.set.push(header);
        self
    }

    /// A header field that is removed from requests to the local servers. Each call adds one.
    pub fn remove_header(mut self, name: &str) -> Self {
        match header_name(name) {
            Ok(name) => self.rewrite.remove.push(name),
            Err(error) => {
                self.invalid.get_or_insert(("remove_header", error.to_string()));
            }
        }
        self
    }

    /// A header field that is set in responses of the local servers, in place of those of that name. Each call adds
    /// one.
    pub fn set_response_header(mut self, header: SetHeader) -> Self {
        self.response_rewrite.set.push(header);
        self
    }

    /// A header field that is removed from responses of the local servers. Each call adds one.
    pub fn remove_response_header(mut self, name: &str) -> Self {
        match header_name(name) {
            Ok(name) => self.response_rewrite.remove.push(name),
            Err(error) => {
                self.invalid.get_or_insert(("remove_response_header", error.to_string()));
            }
        }
        self
    }

    /// The circuit breaker of each local server. Default: after 5 failures to connect or to answer in time, for 1 s
    /// at first.
    pub fn breaker(mut self, config: BreakerConfig) -> Self {
        self.breaker = config;
        self
    }

    /// Health checks of the local servers. Default: none; the outcome of requests is all that is known.
    pub fn health_checks(mut self, checks: HealthChecks) -> Self {
        (self.health_path, self.health_interval) = (Some(checks.path), Some(checks.interval));
        self
    }

    /// Has requests answered by this service instead of a local HTTP server. What concerns local servers (header
    /// fields, `Host`, breaker, health checks) has no effect then.
    pub fn service(mut self, service: impl Service) -> Self {
        self.answerer = Answerer::Service(Arc::new(service));
        self
    }

    /// Replaces the `Host` header towards the local server. With it, an `Origin` and a `Referer` of the visitor's site are
    /// those of this host, and redirects and cookies of this host those of the visitor's site; see
    /// [`keep_site_names`](Self::keep_site_names). Default: the request's own.
    pub fn host_header(mut self, host: HeaderValue) -> Self {
        self.host_header = Some(host);
        self
    }

    /// Has `Origin`, `Referer`, redirects and cookies pass as they are, whatever [`host_header`](Self::host_header) says.
    pub fn keep_site_names(mut self) -> Self {
        self.site_names = SiteNames::Kept;
        self
    }

    /// The certificate authorities that are trusted for local servers. Default: [`Trust::System`].
    pub fn local_trust(mut self, trust: Trust) -> Self {
        self.local_trust = trust;
        self
    }
}
