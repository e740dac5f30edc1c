//! Which proxy is on the way to which gateway, and what the environment says of that.

use std::ffi::OsString;
use std::fmt;
use std::net::IpAddr;

use super::{InvalidProxy, Proxy};
use crate::link::GatewayUrl;
use crate::net::network::Network;

/// The proxies on the way to gateways. A gateway on this machine is always dialled directly.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Proxies {
    /// For `wss://`.
    secure: Option<SourcedProxy>,
    /// For `ws://`.
    plain: Option<SourcedProxy>,
    exceptions: Exceptions,
}

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
        let sourced = SourcedProxy { proxy, variable: None };
        Proxies { secure: Some(sourced.clone()), plain: Some(sourced), exceptions: Exceptions::default() }
    }

    /// The proxies of the environment, read as curl reads it: `HTTPS_PROXY` for `wss://`, `ALL_PROXY` for what has none of
    /// its own, and `NO_PROXY`, a list of names, addresses and networks, or `*`, that are dialled directly. The same
    /// names in small letters precede. `HTTP_PROXY` is never read: `ws://` is no HTTP request to forward.
    ///
    /// # Errors
    ///
    /// The variable that holds no proxy, and why.
    pub fn from_environment() -> Result<Self, (&'static str, InvalidProxy)> {
        Proxies::from_variables(&|name| std::env::var_os(name))
    }

    pub(crate) fn from_variables(
        variables: &dyn Fn(&str) -> Option<OsString>,
    ) -> Result<Self, (&'static str, InvalidProxy)> {
        let text = |names: [&'static str; 2]| {
            let of = |name| Some((name, variables(name)?.to_string_lossy().trim().to_owned()));
            names.into_iter().find_map(of).filter(|(_, text)| !text.is_empty())
        };
        let proxy = |names| {
            let sourced = text(names).map(|(variable, text)| match text.parse() {
                Ok(proxy) => Ok(SourcedProxy { proxy, variable: Some(variable) }),
                Err(error) => Err((variable, error)),
            });
            sourced.transpose()
        };
        let plain = proxy(["all_proxy", "ALL_PROXY"])?;
        let secure = proxy(["https_proxy", "HTTPS_PROXY"])?.or_else(|| plain.clone());
        let exceptions = text(["no_proxy", "NO_PROXY"]).map(|(_, list)| Exceptions::parse(&list));
        Ok(Proxies { secure, plain, exceptions: exceptions.unwrap_or_default() })
    }

    /// The proxy on the way to this gateway, if there is one.
    pub(crate) fn choose(&self, gateway: &GatewayUrl) -> Option<&SourcedProxy> {
        let proxy = if gateway.is_secure() { &self.secure } else { &self.plain };
        let is_direct = gateway.is_loopback() || self.exceptions.hold(gateway.host());
        proxy.as_ref().filter(|_| !is_direct)
    }

    /// Whether a proxy has a user name or password.
    #[cfg(feature = "cli")]
    pub(crate) fn have_credentials(&self) -> bool {
        [&self.secure, &self.plain].into_iter().flatten().any(|sourced| sourced.proxy.has_credentials())
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
        let mut exceptions = Exceptions::default();
        for item in list.split([',', ' ', '\t']).filter(|item| !item.is_empty()) {
            match (item, without_brackets(item).parse()) {
                ("*", _) => exceptions.everything = true,
                (_, Ok(network)) => exceptions.networks.push(network),
                (name, Err(_)) => exceptions.names.push(name.trim_matches('.').to_ascii_lowercase()),
            }
        }
        exceptions
    }

    fn hold(&self, host: &str) -> bool {
        if let Ok(address) = without_brackets(host).parse::<IpAddr>() {
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

fn without_brackets(host: &str) -> &str {
    host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(variables: &[(&str, &str)]) -> Result<Proxies, (&'static str, InvalidProxy)> {
        Proxies::from_variables(&|name| {
            variables.iter().find(|(of, _)| *of == name).map(|(_, value)| (*value).into())
        })
    }

    #[track_caller]
    fn check(proxies: &Proxies, gateway: &str, expected: &str) {
        let url: GatewayUrl = gateway.parse().unwrap();
        let chosen = proxies.choose(&url).map(ToString::to_string).unwrap_or_default();
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
        let proxies = proxies.unwrap();
        check(&proxies, "wss://gw.example", https);
        check(&proxies, "ws://gw.example", all);
        for local in ["ws://127.0.0.1:3000", "wss://localhost", "ws://[::1]:3000"] {
            check(&proxies, local, "");
        }
        assert!(!format!("{proxies:?}").contains("s3cret"));
        check(
            &environment(&[("ALL_PROXY", "a:1")]).unwrap(),
            "wss://x.example",
            "http://a:1 (from the variable ALL_PROXY)",
        );
        check(&environment(&[("HTTP_PROXY", "a:1")]).unwrap(), "ws://x.example", "");
        // One that is empty hides the other.
        check(&environment(&[("https_proxy", ""), ("HTTPS_PROXY", "a:1")]).unwrap(), "wss://x.example", "");
        let error = environment(&[("HTTPS_PROXY", "https://proxy")]).unwrap_err();
        assert_eq!(error, ("HTTPS_PROXY", InvalidProxy::Scheme));
    }

    #[test]
    fn what_no_proxy_names_is_dialled_directly() {
        let list =
            "localhost, .corp.example,tunnel.example. 10.0.0.0/8,[2001:db8::1],192.0.2.7,UPPER.example";
        let proxies = environment(&[("ALL_PROXY", "p:1"), ("NO_PROXY", list)]).unwrap();
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
        let proxies = environment(&[("ALL_PROXY", "p:1"), ("no_proxy", "*")]).unwrap();
        check(&proxies, "wss://anything.example", "");
        check(&proxies, "wss://192.0.2.1", "");
        // What the program names itself has no exceptions but this machine.
        check(&Proxies::all("p:1".parse().unwrap()), "ws://10.1.2.3", "http://p:1");
        check(&Proxies::none(), "ws://10.1.2.3", "");
    }
}
