//! Which proxy is on the way to which gateway, and what the environment says of that.

use std::ffi::OsString;
use std::fmt;

use super::{InvalidProxy, Proxy};
use crate::link::GatewayUrl;
use crate::net::local::address_of;
use crate::net::network::Network;

/// The proxies on the way to gateways. A gateway on this machine is always dialled directly.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Proxies {
    /// For `wss://`.
    secure: Option<NamedProxy>,
    /// For `ws://`.
    plain: Option<NamedProxy>,
    exceptions: Exceptions,
}

/// A proxy as it was named. A variable that names none is an error where it would be obeyed, and nowhere else: it may be
/// another program's.
type NamedProxy = Result<SourcedProxy, InvalidVariable>;

/// The error of a variable that names no proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InvalidVariable {
    /// The variable's name.
    pub variable: &'static str,
    /// Why its value is no proxy.
    pub error: InvalidProxy,
}

impl fmt::Display for InvalidVariable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the variable {}: {}", self.variable, self.error)
    }
}

impl std::error::Error for InvalidVariable {}

/// A proxy, and where it was named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourcedProxy {
    pub(in crate::link) proxy: Proxy,
    /// The name of the variable, unless the program named the proxy itself.
    variable: Option<&'static str>,
}

impl fmt::Display for SourcedProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.variable {
            Some(variable) => write!(f, "{} (from the variable {variable})", self.proxy),
            None => self.proxy.fmt(f),
        }
    }
}

impl Proxies {
    /// No proxies: each gateway is dialled directly.
    pub fn none() -> Self {
        Proxies::default()
    }

    /// This proxy on the way to each gateway.
    pub fn all(proxy: Proxy) -> Self {
        let named = Ok(SourcedProxy { proxy, variable: None });
        Proxies { secure: Some(named.clone()), plain: Some(named), exceptions: Exceptions::default() }
    }

    /// The proxies of the environment, read as curl reads it: `HTTPS_PROXY` for `wss://`, `ALL_PROXY` for what has none of
    /// its own, and `NO_PROXY`, a list of names, addresses and networks, or `*` alone, that are dialled directly. The same
    /// names in small letters precede; one that is empty counts as unset. `HTTP_PROXY` is never read: `ws://` is no HTTP
    /// request to forward. A variable that names no proxy is an error of [`build`](crate::Builder::build) where a gateway
    /// would be dialled through it.
    pub fn from_environment() -> Self {
        Proxies::from_variables(&|name| std::env::var_os(name))
    }

    pub(crate) fn from_variables(variables: &dyn Fn(&str) -> Option<OsString>) -> Self {
        let text = |names: [&'static str; 2]| {
            let of = |name| {
                let text = variables(name)?.to_string_lossy().trim().to_owned();
                (!text.is_empty()).then_some((name, text))
            };
            names.into_iter().find_map(of)
        };
        let proxy = |names| {
            text(names).map(|(variable, text)| match text.parse() {
                Ok(proxy) => Ok(SourcedProxy { proxy, variable: Some(variable) }),
                Err(error) => Err(InvalidVariable { variable, error }),
            })
        };
        let plain = proxy(["all_proxy", "ALL_PROXY"]);
        let secure = proxy(["https_proxy", "HTTPS_PROXY"]).or_else(|| plain.clone());
        let exceptions = text(["no_proxy", "NO_PROXY"]).map(|(_, list)| Exceptions::parse(&list));
        Proxies { secure, plain, exceptions: exceptions.unwrap_or_default() }
    }

    /// The proxy on the way to this gateway, if there is one.
    pub(crate) fn choose(&self, gateway: &GatewayUrl) -> Result<Option<&SourcedProxy>, InvalidVariable> {
        let named = if gateway.is_secure() { &self.secure } else { &self.plain };
        let is_direct = gateway.is_loopback() || self.exceptions.hold(gateway.host());
        match named.as_ref().filter(|_| !is_direct) {
            None => Ok(None),
            Some(Ok(sourced)) => Ok(Some(sourced)),
            Some(Err(invalid)) => Err(*invalid),
        }
    }

    /// Whether the program named a proxy itself, not the environment.
    pub(crate) fn are_chosen(&self) -> bool {
        matches!(self.plain, Some(Ok(SourcedProxy { variable: None, .. })))
    }

    /// Whether a proxy has a user name or password.
    #[cfg(feature = "cli")]
    pub(crate) fn have_credentials(&self) -> bool {
        [&self.secure, &self.plain]
            .into_iter()
            .flatten()
            .flatten()
            .any(|sourced| sourced.proxy.has_credentials())
    }
}

impl fmt::Debug for Proxies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Proxies { secure, plain, .. } = self;
        f.debug_struct("Proxies").field("secure", secure).field("plain", plain).finish_non_exhaustive()
    }
}

/// The hosts that are dialled directly: `NO_PROXY`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Exceptions {
    everything: bool,
    networks: Vec<Network>,
    /// In small letters, without a dot at either end: each stands for the names below it, too.
    names: Vec<String>,
}

impl Exceptions {
    fn parse(list: &str) -> Self {
        let mut exceptions = Exceptions { everything: list == "*", ..Exceptions::default() };
        for item in list.split([',', ' ', '\t']).filter(|item| !item.is_empty()) {
            let bare = item.strip_prefix('[').and_then(|item| item.strip_suffix(']'));
            match bare.unwrap_or(item).parse() {
                Ok(network) => exceptions.networks.push(network),
                Err(_) => {
                    let name = item.strip_prefix('.').unwrap_or(item);
                    let name = name.strip_suffix('.').unwrap_or(name);
                    exceptions.names.push(name.to_ascii_lowercase());
                }
            }
        }
        exceptions
    }

    fn hold(&self, host: &str) -> bool {
        if let Some(address) = address_of(host) {
            let address = address.to_canonical();
            return self.everything || self.networks.iter().any(|network| network.holds(address));
        }
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        let holds = |name: &String| {
            host.strip_suffix(name.as_str()).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
        };
        self.everything || self.names.iter().any(holds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(variables: &[(&str, &str)]) -> Proxies {
        Proxies::from_variables(&|name| {
            variables.iter().find(|(of, _)| *of == name).map(|(_, value)| (*value).into())
        })
    }

    #[track_caller]
    fn check(proxies: &Proxies, gateway: &str, expected: &str) {
        let url: GatewayUrl = gateway.parse().unwrap();
        let chosen = match proxies.choose(&url) {
            Ok(chosen) => chosen.map(ToString::to_string).unwrap_or_default(),
            Err(invalid) => invalid.to_string(),
        };
        assert_eq!(chosen, expected, "{gateway}");
    }

    #[test]
    fn the_environment_is_read_as_curl_reads_it() {
        let https = "http://secure:1 (from the variable HTTPS_PROXY)";
        let all = "socks5://all:1080 (from the variable all_proxy)";
        let proxies = environment(&[
            ("HTTP_PROXY", "http://never:1"),
            ("http_proxy", "http://never:1"),
            ("HTTPS_PROXY", "me:s3cret@secure:1"),
            ("ALL_PROXY", "http://hidden:1"),
            ("all_proxy", "socks5://all"),
        ]);
        check(&proxies, "wss://gw.example", https);
        check(&proxies, "ws://gw.example", all);
        for local in [
            "ws://127.0.0.1:3000",
            "wss://localhost",
            "ws://[::1]:3000",
            "ws://LocalHost.",
            "ws://shop.localhost:3000",
            "ws://[::ffff:127.0.0.1]",
            "ws://0.0.0.0:1",
        ] {
            check(&proxies, local, "");
        }
        assert!(!format!("{proxies:?}").contains("s3cret"));
        let of = |variables: &[(&str, &str)], gateway: &str, expected: &str| {
            check(&environment(variables), gateway, expected);
        };
        of(&[("ALL_PROXY", "a:1")], "wss://x.example", "http://a:1 (from the variable ALL_PROXY)");
        of(&[("HTTP_PROXY", "a:1")], "ws://x.example", "");
        let https = "http://a:1 (from the variable HTTPS_PROXY)";
        of(&[("https_proxy", ""), ("HTTPS_PROXY", "a:1")], "wss://x.example", https);
        of(&[("HTTPS_PROXY", "a:1"), ("no_proxy", ""), ("NO_PROXY", "x.example")], "wss://x.example", "");
    }

    #[test]
    fn a_variable_that_names_no_proxy_is_an_error_where_it_would_be_obeyed() {
        let proxies = environment(&[("HTTPS_PROXY", "https://proxy"), ("NO_PROXY", "direct.example")]);
        let error = "the variable HTTPS_PROXY: a proxy begins with http:// or socks5://; others, such as https://, are not supported";
        check(&proxies, "wss://x.example", error);
        for gateway in ["ws://x.example", "wss://localhost", "wss://direct.example"] {
            check(&proxies, gateway, "");
        }
    }

    #[test]
    fn what_no_proxy_names_is_dialled_directly() {
        let list =
            "localhost, .corp.example,tunnel.example. 10.0.0.0/8,[2001:db8::1],192.0.2.7,UPPER.example";
        let proxies = environment(&[("ALL_PROXY", "p:1"), ("NO_PROXY", list)]);
        for (host, is_direct) in [
            ("corp.example", true),
            ("gw.corp.example", true),
            ("GW.Corp.Example", true),
            ("gw.corp.example.", true),
            ("notcorp.example", false),
            ("corp.example.org", false),
            ("tunnel.example", true),
            ("a.b.tunnel.example", true),
            ("upper.example", true),
            ("10.1.2.3", true),
            ("11.1.2.3", false),
            ("192.0.2.7", true),
            ("192.0.2.70", false),
            ("[2001:db8::1]", true),
            ("[2001:db8::2]", false),
            ("[::ffff:10.1.2.3]", true),
            // A name is not an address that it happens to hold.
            ("x.192.0.2.7.example", false),
        ] {
            let expected = if is_direct { "" } else { "http://p:1 (from the variable ALL_PROXY)" };
            check(&proxies, &format!("wss://{host}"), expected);
        }
        let proxies = environment(&[("ALL_PROXY", "p:1"), ("no_proxy", "*")]);
        check(&proxies, "wss://anything.example", "");
        check(&proxies, "wss://192.0.2.1", "");
        // As with curl: a star among others is none, and one dot is left out.
        let through = "http://p:1 (from the variable ALL_PROXY)";
        for list in ["localhost,*", "..example"] {
            let proxies = environment(&[("ALL_PROXY", "p:1"), ("NO_PROXY", list)]);
            check(&proxies, "wss://anything.example", through);
        }
        // A proxy that the program itself names has no exceptions but this machine.
        check(&Proxies::all("p:1".parse().unwrap()), "ws://10.1.2.3", "http://p:1");
        check(&Proxies::none(), "ws://10.1.2.3", "");
    }
}
