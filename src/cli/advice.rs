//! The library's advice in the words of the programs' command lines: options to type.

use crate::advice::Advice;
use crate::{CheckStep, RunError};

/// A text, followed by what an operator might do, if there is anything.
pub(crate) fn advised(text: &str, advice: Option<Advice>) -> String {
    match advice {
        Some(advice) => format!("{text}; {}", words(advice)),
        None => text.to_owned(),
    }
}

/// The text of an agent's end or of a step of a check, with advice in the words of the command line.
pub trait Advised {
    /// The text.
    fn advised(&self) -> String;
}

impl Advised for RunError {
    fn advised(&self) -> String {
        advised(&self.to_string(), self.advice())
    }
}

impl Advised for CheckStep {
    fn advised(&self) -> String {
        advised(&self.to_string(), self.advice)
    }
}

/// An advice in words.
pub(super) fn words(advice: Advice) -> &'static str {
    match advice {
        Advice::AdminAddress => "choose another address for --admin",
        Advice::AgentToken => {
            "check the token (--token-file or TOKEN), or the headers for an access gateway (--upgrade-headers-file)"
        }
        Advice::AgentsElsewhere => "agents connect to another port or path of that gateway: check --gateway",
        Advice::CertificateDates => "renew the certificate, or set this machine's clock",
        Advice::ClaimedProxy => "if that is a proxy of yours, name it with --trusted-proxies",
        Advice::ClientCertificate => {
            "the gateway wants a certificate of yours, or another one: see --client-cert and --client-key"
        }
        Advice::EnvelopedBody => "see --max-body",
        Advice::GatewayAddress => "check --gateway, and that the gateway is running",
        Advice::GatewayAuthority => "check the certificate, or name its authority with --ca-file",
        Advice::GatewayCertificateName => "give in --gateway a name that the certificate has",
        Advice::GatewayDomain => "give the domain that leads here with --domain",
        Advice::GatewayIsPlain => "if it is not meant to speak TLS, use ws://",
        Advice::GatewayIsTls => "if it speaks TLS, use wss://; else check the port and path in --gateway",
        Advice::GatewayName => "check the host name in --gateway",
        Advice::GatewayPath => "check the path in --gateway, usually /ws",
        Advice::GatewayTimeout => {
            "check --gateway, and that the gateway is running; or give it more time with --connect-timeout"
        }
        Advice::GatewayUrl => {
            "check that --gateway names a gateway, with ws:// or wss:// as it expects and its path, usually /ws"
        }
        Advice::GatewayWithoutToken => "give one with --token-file or GATEWAY_TOKEN",
        Advice::HealthPath => "there are some with --health-path",
        Advice::IdleTimeout => "see --idle-timeout",
        Advice::LocalAddress => "start the local server, or check its address (--local, --route)",
        Advice::LocalAuthority => "check the certificate, or name its authority with --local-ca-file",
        Advice::LocalCertificateName => "give a name that the certificate has",
        Advice::LocalIsPlain => "if it is not meant to speak TLS, use http://",
        Advice::LocalName => "check the host name (--local, --route)",
        Advice::LocalPermission => {
            "the agent's user needs the right to write to the socket, and to enter its folder"
        }
        Advice::LocalServerLog => "look into the log of the local server",
        Advice::MaxRetries => "with --max-retries 0 an agent tries for ever",
        Advice::MessageSize => "see --max-message",
        Advice::NoLocalServer => "start yours, or name it with --local",
        Advice::NotHttp => "perhaps another program listens there, or one for https://",
        Advice::OpenFiles => {
            "raise its limit of open files (ulimit -n, LimitNOFILE=), or let fewer requests run at once"
        }
        Advice::OverlappingRequests => {
            "let it send one at a time, or use --failure response and --correlation latest"
        }
        Advice::OwnHost => "keep it with --own-host",
        Advice::Pings => "something on the way may drop WebSocket pings",
        Advice::ProxyAddress => {
            "check the proxy (--proxy, its variables, or the configuration file); none in its place dials directly"
        }
        Advice::ProxyCredentials => {
            "give them before the host, USER:PASSWORD@HOST, in the configuration file or the variable TUNNEL_AGENT_PROXY"
        }
        Advice::ProxyRules => "have the proxy allow it, or dial directly: --proxy none, or NO_PROXY",
        Advice::QueueLength => "see --workers, --max-streams, --max-in-flight and --queue",
        Advice::QueueTimeout => "see --workers, --max-in-flight and --queue-timeout",
        Advice::ResponseTimeout => "see --response-timeout",
        Advice::StreamedBody => "see --max-stream-body",
        Advice::TokenRenewed => "its file has another one by now",
        Advice::TunnelId => {
            "a gateway that does this at once does not know this tunnel ID: check --tunnel-id"
        }
        Advice::TunnelName => "ask for another one with --name",
        Advice::UpgradeHeaders => {
            "what stands before the gateway may want a key, see --upgrade-headers-file; else check --gateway and its path"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_advice_has_a_name_of_its_own_and_words() {
        for advice in Advice::ALL {
            assert_eq!(Advice::by_name(advice.name()), Some(advice));
            assert!(!words(advice).is_empty());
        }
        assert_eq!(Advice::by_name(""), None);
    }

    #[test]
    fn words_follow_the_text() {
        assert_eq!(advised("it stalled", Some(Advice::IdleTimeout)), "it stalled; see --idle-timeout");
        assert_eq!(advised("it stalled", None), "it stalled");
    }
}
