//! The file in which an operator reserves names and whole host names for tunnels.
//!
//! ```text
//! # A name under the gateway's domain, and a host name of the tunnel's own.
//! shop = agent_550e8400-e29b-41d4-a716-446655440000_prod
//! www.shop.example = agent_550e8400-e29b-41d4-a716-446655440000_prod
//! ```

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::{fmt, fs, io};

use super::domain::host_name;
use crate::tunnel_id::TunnelId;

/// The reserved names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Reservations {
    tunnels: BTreeMap<String, TunnelId>,
    /// The first host name of each tunnel.
    hosts: HashMap<TunnelId, String>,
}

/// The error of a file that cannot be used. What stands in it is never repeated: it holds credentials.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct InvalidLine {
    line: usize,
    what: &'static str,
}

impl fmt::Display for InvalidLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.what)
    }
}

impl std::error::Error for InvalidLine {}

impl Reservations {
    /// Reads the file.
    pub(super) fn read(path: &Path, domain: &str) -> io::Result<Self> {
        Reservations::parse(&fs::read_to_string(path)?, domain).map_err(io::Error::other)
    }

    /// Reads the lines of the file, whose names without a dot are under this domain.
    pub(super) fn parse(text: &str, domain: &str) -> Result<Self, InvalidLine> {
        let mut reservations = Reservations::default();
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let wrong = |what| InvalidLine { line: index + 1, what };
            let (name, id) = line.split_once('=').ok_or(wrong("expected NAME = TUNNEL-ID"))?;
            let host = host_name(name.trim()).ok_or(wrong("what stands before the = is no host name"))?;
            let host = if host.contains('.') { host } else { format!("{host}.{domain}") };
            if host == domain {
                return Err(wrong("the domain itself is the gateway's"));
            }
            let id: TunnelId =
                id.trim().parse().map_err(|_| wrong("what stands behind the = is no tunnel ID"))?;
            reservations.hosts.entry(id.clone()).or_insert_with(|| host.clone());
            if reservations.tunnels.insert(host, id).is_some() {
                return Err(wrong("the name stands in a line before, too"));
            }
        }
        Ok(reservations)
    }

    /// The tunnel for which a host name is reserved.
    pub(super) fn tunnel_of(&self, host: &str) -> Option<&TunnelId> {
        self.tunnels.get(host)
    }

    /// The first host name that is reserved for a tunnel.
    pub(super) fn host_of(&self, tunnel: &TunnelId) -> Option<&str> {
        self.hosts.get(tunnel).map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "agent_550e8400-e29b-41d4-a716-446655440000_prod";
    const OTHER: &str = "agent_550e8400-e29b-41d4-a716-446655440001_prod";

    #[test]
    fn names_are_under_the_domain_and_whole_hosts_are_not() {
        let text = format!("# ours\n\nShop = {ID}\r\nwww.shop.example={ID}\nblog = {OTHER}\n");
        let reservations = Reservations::parse(&text, "tunnel.example").unwrap();
        let (id, other) = (ID.parse().unwrap(), OTHER.parse().unwrap());
        assert_eq!(reservations.tunnel_of("shop.tunnel.example"), Some(&id));
        assert_eq!(reservations.tunnel_of("www.shop.example"), Some(&id));
        assert_eq!(reservations.tunnel_of("blog.tunnel.example"), Some(&other));
        assert_eq!(reservations.tunnel_of("shop"), None);
        assert_eq!(reservations.host_of(&id), Some("shop.tunnel.example"));
    }

    #[test]
    fn as_many_names_as_a_fleet_has_are_read() {
        let lines = (0..100_000_u32)
            .map(|number| format!("n{number} = agent_550e8400-e29b-41d4-a716-4466{number:08x}_prod\n"));
        let reservations = Reservations::parse(&lines.collect::<String>(), "tunnel.example").unwrap();
        let id = "agent_550e8400-e29b-41d4-a716-44660001869f_prod".parse().unwrap();
        assert_eq!(reservations.host_of(&id), Some("n99999.tunnel.example"));
        assert_eq!(reservations.tunnel_of("n99999.tunnel.example"), Some(&id));
    }

    #[test]
    fn a_line_that_cannot_be_used_is_told_by_its_number_alone() {
        for (line, what) in [
            ("shop".to_owned(), "expected NAME"),
            (format!("= {ID}"), "no host name"),
            (format!("10.0.0.1 = {ID}"), "no host name"),
            (format!("tunnel.example = {ID}"), "the domain itself"),
            ("shop = agent_secret".to_owned(), "no tunnel ID"),
            (format!("a = {OTHER}"), "before, too"),
        ] {
            let text = format!("a = {ID}\n{line}\n");
            let error = Reservations::parse(&text, "tunnel.example").unwrap_err().to_string();
            assert!(error.starts_with("line 2: ") && error.contains(what), "{error}");
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
