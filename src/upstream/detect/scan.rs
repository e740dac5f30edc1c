//! Which ports of this machine are open, and which of them are asked first.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Ports of development servers, the likeliest first. They are tried where the open ports are not known.
const PREFERRED_PORTS: [u16; 12] = [8000, 8080, 3000, 5173, 80, 3001, 4200, 4321, 5000, 8001, 8081, 8888];

/// Ports of mail, databases and the like, whose servers complain in their logs of HTTP.
const SKIPPED_PORTS: [u16; 18] =
    [21, 22, 25, 53, 110, 143, 465, 587, 631, 993, 995, 1433, 3306, 5432, 5672, 6379, 11211, 27017];

/// Ports that are asked, at most.
const PORTS_MAX: usize = 256;

/// The addresses to ask, the likeliest first, without those of these ports.
pub(super) fn addresses(except: &[u16]) -> Vec<SocketAddr> {
    let preferred = || PREFERRED_PORTS.map(|port| (port, Ipv4Addr::LOCALHOST.into())).into();
    let mut places: Vec<(u16, IpAddr)> = listening().unwrap_or_else(preferred).into_iter().collect();
    places.retain(|(port, _)| !except.contains(port) && !SKIPPED_PORTS.contains(port));
    places.sort_by_key(|(port, _)| rank(*port));
    places.truncate(PORTS_MAX);
    places.into_iter().map(|(port, ip)| SocketAddr::new(ip, port)).collect()
}

/// Whether this is a usual port of development servers.
pub(crate) fn is_preferred_port(port: u16) -> bool {
    PREFERRED_PORTS.contains(&port)
}

/// The order of ports: the lower, the likelier one of a development server.
pub(super) fn rank(port: u16) -> (usize, bool, u16) {
    let place =
        PREFERRED_PORTS.iter().position(|preferred| *preferred == port).unwrap_or(PREFERRED_PORTS.len());
    (place, port < 1024, port)
}

/// Whether nothing on this machine listens at a port of loopback, as far as that is known without asking there.
pub(crate) fn is_port_silent(port: u16) -> bool {
    // A busy machine's tables are long: they are read line by line.
    let lines = |path| {
        File::open(path).ok().into_iter().flat_map(|file| BufReader::new(file).lines().map_while(Result::ok))
    };
    let (mut v4, v6) = (lines("/proc/net/tcp").peekable(), lines("/proc/net/tcp6"));
    v4.peek().is_some() && v4.chain(v6).filter_map(|line| parse_line(&line)).all(|(other, _)| other != port)
}

/// The ports at which something listens on loopback or on all addresses, and where to reach it.
fn listening() -> Option<BTreeSet<(u16, IpAddr)>> {
    let v4 = std::fs::read_to_string("/proc/net/tcp").ok()?;
    // Without IPv6 there is no such file.
    let v6 = std::fs::read_to_string("/proc/net/tcp6").unwrap_or_default();
    Some(parse(&v4).chain(parse(&v6)).collect())
}

/// Reads the ports out of a table of sockets as the kernel prints it: the second column is the local address and
/// port in hexadecimal, the fourth the state, of which `0A` is listening.
fn parse(table: &str) -> impl Iterator<Item = (u16, IpAddr)> {
    table.lines().filter_map(parse_line)
}

/// Reads a line of the table; its heading is none.
fn parse_line(line: &str) -> Option<(u16, IpAddr)> {
    let mut columns = line.split_ascii_whitespace().skip(1);
    let (local, state) = (columns.next()?, columns.nth(1)?);
    let (address, port) = local.split_once(':')?;
    let ip = match address_of(address)? {
        // On Linux all addresses of IPv6 are those of IPv4, too, unless a program asks otherwise.
        ip if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        ip => ip,
    };
    let port = u16::from_str_radix(port, 16).ok()?;
    (state == "0A" && ip.is_loopback()).then_some((port, ip))
}

/// Words of 32 bits in the machine's byte order.
fn address_of(text: &str) -> Option<IpAddr> {
    let word = |index: usize| {
        let word = u32::from_str_radix(text.get(index * 8..index * 8 + 8)?, 16).ok()?;
        Some(word.to_ne_bytes())
    };
    match text.len() {
        8 => Some(Ipv4Addr::from(word(0)?).into()),
        32 => {
            let words = [word(0)?, word(1)?, word(2)?, word(3)?];
            let bytes: [u8; 16] = words.concat().try_into().ok()?;
            Some(Ipv6Addr::from(bytes).to_canonical())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_endian = "little")]
    #[test]
    fn listening_sockets_on_loopback_or_everywhere_are_read_from_the_kernels_table() {
        let v4 = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid\n\
             0: 0100007F:1F40 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000\n\
             1: 00000000:0BB8 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0\n\
             2: 0A00020F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0\n\
             3: 0100007F:1F41 0100007F:D431 01 00000000:00000000 00:00000000 00000000     0\n\
             garbage\n";
        let v4_at = |port| (port, IpAddr::from(Ipv4Addr::LOCALHOST));
        assert_eq!(parse(v4).collect::<Vec<_>>(), [v4_at(8000), v4_at(3000)]);
        let v6 = "  sl  local_address                         remote_address                        st\n\
             0: 00000000000000000000000001000000:1435 00000000000000000000000000000000:0000 0A\n\
             1: 00000000000000000000000000000000:0050 00000000000000000000000000000000:0000 0A\n\
             2: 0000000000000000FFFF00000100007F:0051 00000000000000000000000000000000:0000 0A\n\
             3: B80D01200000000000000000010000AB:0052 00000000000000000000000000000000:0000 0A\n";
        let v6_at = (5173, IpAddr::from(Ipv6Addr::LOCALHOST));
        assert_eq!(parse(v6).collect::<Vec<_>>(), [v6_at, v4_at(80), v4_at(81)]);
    }

    #[test]
    fn development_servers_come_first() {
        let mut ports = [443, 9000, 80, 5173, 5000, 81, 8080, 3000, 8000];
        ports.sort_by_key(|port| rank(*port));
        assert_eq!(ports, [8000, 8080, 3000, 5173, 80, 5000, 9000, 81, 443]);
    }
}
