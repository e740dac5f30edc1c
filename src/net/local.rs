//! Hosts as they are written, and this machine's own names and addresses.

use std::net::IpAddr;

/// A host, an IPv6 address without the brackets that it has in a URL (RFC 3986 §3.2.2).
pub(crate) fn without_brackets(host: &str) -> &str {
    host.trim_start_matches('[').trim_end_matches(']')
}

/// The address that a host states, an IPv6 one perhaps in its brackets.
pub(crate) fn address_of(host: &str) -> Option<IpAddr> {
    without_brackets(host).parse().ok()
}

/// Whether a host is a loopback address or `localhost`.
pub(crate) fn is_loopback(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost") || address_of(host).is_some_and(|address| address.is_loopback())
}

/// Whether a host is certainly this machine: loopback, the unspecified address, or a name under `localhost` (RFC 6761 §6.3).
pub(crate) fn is_this_machine(host: &str) -> bool {
    let name = host.strip_suffix('.').unwrap_or(host);
    let parent = name.len().checked_sub(".localhost".len()).and_then(|start| name.get(start..));
    let is_below_localhost = parent.is_some_and(|parent| parent.eq_ignore_ascii_case(".localhost"));
    let address = address_of(host).map(|address| address.to_canonical());
    is_below_localhost
        || is_loopback(name)
        || address.is_some_and(|address| address.is_unspecified() || address.is_loopback())
}

/// Whether two hosts are the same as far as their names tell: all of loopback is.
pub(crate) fn is_same_host(one: &str, other: &str) -> bool {
    one == other || (is_loopback(one) && is_loopback(other))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_and_this_machine_are_known_by_name_and_address() {
        for host in ["localhost", "LOCALHOST", "127.0.0.1", "127.8.9.1", "::1", "[::1]"] {
            assert!(is_loopback(host) && is_this_machine(host), "{host}");
        }
        for host in
            ["0.0.0.0", "::", "[::]", "localhost.", "shop.LocalHost", "a.b.localhost.", "[::ffff:127.0.0.1]"]
        {
            assert!(!is_loopback(host) && is_this_machine(host), "{host}");
        }
        for host in
            ["", ".", "localhost.example", "notlocalhost", "192.0.2.1", "[2001:db8::1]", "[::ffff:192.0.2.1]"]
        {
            assert!(!is_this_machine(host), "{host}");
        }
    }

    #[test]
    fn all_of_loopback_is_one_host() {
        assert!(is_same_host("localhost", "[::1]") && is_same_host("site.test", "site.test"));
        assert!(!is_same_host("localhost", "site.test") && !is_same_host("0.0.0.0", "127.0.0.1"));
    }
}
