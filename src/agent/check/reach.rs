//! The steps from a name to an open connection.

use std::time::Instant;

#[cfg(feature = "tls")]
use time::OffsetDateTime;

use super::CheckLog;
use crate::clock::after;
use crate::link::Dialer;
#[cfg(feature = "tls")]
use crate::net::certificate::Certificate;
use crate::net::connect::{Endpoint, Peer};
use crate::net::tls::{self, Trust};
use crate::net::{Address, Socket};

/// A certificate that expires within these many days is pointed out.
#[cfg(feature = "tls")]
const DAYS_MIN: i64 = 14;

/// From a name to an open connection, with TLS where the URL asks for it: to a gateway with its dialer, or to a local
/// server.
pub(super) fn reach(
    endpoint: &Endpoint<'_>,
    dialer: Option<&Dialer>,
    log: &mut CheckLog<'_>,
) -> Option<Socket> {
    let mut steps = ["name resolution", "TCP", "TLS"];
    let peer = dialer.map_or(Peer::LocalServer, |_| Peer::Gateway);
    let proxy = dialer.and_then(Dialer::proxy);
    let next = if proxy.is_some() { Peer::Proxy } else { peer };
    // Up to the proxy's own step it is the proxy that is reached.
    let of = if proxy.is_some() { "the proxy: " } else { "" };
    let further: &[_] = if proxy.is_some() { &["proxy", "TLS"] } else { &["TLS"] };
    let addresses = match endpoint.resolve() {
        Ok(addresses) => addresses,
        Err(error) => {
            log.fail(steps[0], format!("{of}{error}"), Some(error.advice(next)));
            log.skip(&steps[1..2], "there is no address", None);
            log.skip(further, "there is no address", None);
            return None;
        }
    };
    if let [Address::Unix(path)] = addresses.as_slice() {
        steps[1] = "socket";
        log.skip(&steps[..1], &format!("{} is a Unix socket", path.display()), None);
    } else {
        log.pass(steps[0], format!("{of}{} is {}", endpoint.resolver.host(), hosts(&addresses)));
    }
    let start = Instant::now();
    let mut socket = match endpoint.connect(&addresses) {
        Ok(socket) => socket,
        Err(error) => {
            log.fail(steps[1], format!("{of}{error}"), Some(error.advice(next)));
            log.skip(further, "there is no connection", None);
            return None;
        }
    };
    let time = start.elapsed().as_secs_f64() * 1e3;
    let address = socket.peer().map_or_else(|_| String::new(), |address| format!("{address} "));
    log.pass(steps[1], format!("{of}{address}answers within {time:.1} ms"));
    if let Some((dialer, proxy)) = dialer.zip(proxy) {
        if let Err(error) = dialer.pass_proxy(&mut socket, after(endpoint.timeout)) {
            log.fail("proxy", error.to_string(), Some(error.advice()));
            log.skip(&steps[2..], "there is no connection", None);
            return None;
        }
        log.pass("proxy", format!("{proxy} has connected to the gateway"));
    }
    let Some(tls) = &endpoint.tls else {
        log.skip(&steps[2..], "the URL asks for none", None);
        return Some(socket);
    };
    match endpoint.start_tls(socket, tls) {
        Ok(socket) => {
            log.pass(steps[2], certificate_of(&socket).unwrap_or_else(|| "established".to_owned()));
            Some(socket)
        }
        Err(error) => {
            let certificate = unverified(endpoint, dialer, &addresses).map(|text| format!("; {text}"));
            let text = format!("{error}{}", certificate.unwrap_or_default());
            log.fail(steps[2], text, Some(error.advice(peer)));
            None
        }
    }
}

/// The addresses without their port, which is the same for all.
fn hosts(addresses: &[Address]) -> String {
    let host = |address: &Address| match address {
        Address::Tcp(address) => address.ip().to_string(),
        Address::Unix(_) => address.to_string(),
    };
    addresses.iter().map(host).collect::<Vec<_>>().join(", ")
}

#[cfg(feature = "tls")]
fn certificate_of(socket: &Socket) -> Option<String> {
    let certificate = Certificate::parse(&socket.certificate()?)?;
    let now = OffsetDateTime::now_utc();
    let days = certificate.days_until_expiry(now);
    let soon = if certificate.has_expired(now) {
        " (expired)".to_owned()
    } else if days < DAYS_MIN {
        format!(" (expires within {days} days)")
    } else {
        String::new()
    };
    Some(format!("certificate of {certificate}{soon}"))
}

#[cfg(not(feature = "tls"))]
fn certificate_of(_: &Socket) -> Option<String> {
    None
}

/// The certificate of a server that is not trusted. Nothing is sent to it.
fn unverified(endpoint: &Endpoint<'_>, dialer: Option<&Dialer>, addresses: &[Address]) -> Option<String> {
    let any = tls::client(&Trust::AcceptAnyCertificate, None).ok()?;
    let mut socket = endpoint.connect(addresses).ok()?;
    if let Some(dialer) = dialer {
        dialer.pass_proxy(&mut socket, after(endpoint.timeout)).ok()?;
    }
    certificate_of(&endpoint.start_tls(socket, &any).ok()?)
}
