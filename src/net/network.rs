//! Networks of addresses, and which addresses count as one visitor's.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

/// A CIDR block (RFC 4632, RFC 4291 §2.3), `10.0.0.0/8` or `2001:db8::/32`, or a single address.
///
/// ```
/// let network: tunnel_agent::Network = "10.0.0.0/8".parse()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    bits: u8,
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.bits)
    }
}

/// The error of a text that is not a [`Network`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InvalidNetwork;

impl fmt::Display for InvalidNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "expected addresses such as 127.0.0.1, 10.0.0.0/8 or 2001:db8::/32, with commas between them",
        )
    }
}

impl std::error::Error for InvalidNetwork {}

impl FromStr for Network {
    type Err = InvalidNetwork;

    fn from_str(text: &str) -> Result<Self, InvalidNetwork> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits.parse::<u8>().map_err(|_| InvalidNetwork)?)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| InvalidNetwork)?;
        let all = if address.is_ipv4() { 32 } else { 128 };
        let bits = bits.unwrap_or(all);
        match address.to_canonical() {
            _ if bits > all => Err(InvalidNetwork),
            // IPv4 in IPv6's clothes.
            canonical @ IpAddr::V4(_) if address.is_ipv6() && bits >= 96 => {
                Ok(Network { address: canonical, bits: bits - 96 })
            }
            _ => Ok(Network { address, bits }),
        }
    }
}

impl Network {
    pub(crate) fn holds(self, other: IpAddr) -> bool {
        let differ = |a: u128, b: u128, width: u32| {
            let shift = width - u32::from(self.bits);
            shift < width && (a ^ b) >> shift != 0
        };
        match (self.address, other) {
            (IpAddr::V4(a), IpAddr::V4(b)) => !differ(a.to_bits().into(), b.to_bits().into(), 32),
            (IpAddr::V6(a), IpAddr::V6(b)) => !differ(a.to_bits(), b.to_bits(), 128),
            _ => false,
        }
    }
}

/// The address that a visitor is counted by: an IPv6 network gives each of its users more addresses than there are places.
pub(crate) fn counted_as(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_of_ipv4_may_come_in_ipv6s_clothes() {
        for (text, held) in [("::ffff:127.0.0.0/104", true), ("::ffff:127.0.0.1", true), ("::/0", false)] {
            let network: Network = text.parse().unwrap();
            assert_eq!(network.holds("127.0.0.1".parse().unwrap()), held, "{text}");
        }
    }

    #[test]
    fn networks_are_told_by_their_first_bits() {
        let holds = |network: &str, address: &str| {
            network.parse::<Network>().unwrap().holds(address.parse().unwrap())
        };
        assert!(holds("10.0.0.0/8", "10.255.0.1") && !holds("10.0.0.0/8", "11.0.0.1"));
        assert!(holds("0.0.0.0/0", "1.2.3.4") && !holds("0.0.0.0/0", "::1"));
        assert!(holds("127.0.0.1", "127.0.0.1") && !holds("127.0.0.1", "127.0.0.2"));
        assert!(holds("2001:db8::/32", "2001:db8:1::1") && !holds("2001:db8::/32", "2001:db9::1"));
        assert!(holds("::/0", "::1") && holds("::1/128", "::1"));
        for text in ["", "x", "10.0.0.0/33", "10.0.0.0/", "10.0.0.0/-1", "::/129"] {
            assert_eq!(text.parse::<Network>(), Err(InvalidNetwork), "{text}");
        }
        assert_eq!(counted_as("2001:db8::1:2".parse().unwrap()), "2001:db8::".parse::<IpAddr>().unwrap());
    }
}
