//! What an operator might do about a failure, as data.
//!
//! The library does not know how it was configured: by a program's flags, by variables, or by another program's
//! code. So its errors carry an [`Advice`], its log records name one in their field `advice`, and the programs
//! that show them add what to type.

/// What an operator might do.
#[cfg_attr(
    not(any(feature = "cli", feature = "gateway")),
    expect(dead_code, reason = "the gateway gives some")
)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Advice {
    AdminAddress,
    AgentToken,
    CertificateDates,
    ClaimedProxy,
    EnvelopedBody,
    GatewayAddress,
    GatewayAuthority,
    GatewayCertificateName,
    GatewayDomain,
    GatewayIsPlain,
    GatewayIsTls,
    GatewayName,
    GatewayPath,
    GatewayTimeout,
    GatewayUrl,
    GatewayWithoutToken,
    HealthPath,
    IdleTimeout,
    LocalAddress,
    LocalAuthority,
    LocalCertificateName,
    LocalIsPlain,
    LocalName,
    LocalServerLog,
    MaxRetries,
    MessageSize,
    NoLocalServer,
    NotHttp,
    OpenFiles,
    OverlappingRequests,
    OwnHost,
    Pings,
    ProxyAddress,
    ProxyCredentials,
    ProxyRules,
    QueueLength,
    QueueTimeout,
    ResponseTimeout,
    StreamedBody,
    TokenRenewed,
    TunnelId,
    TunnelName,
}

impl Advice {
    /// Every advice.
    #[cfg(feature = "cli")]
    pub(crate) const ALL: [Advice; 42] = [
        Advice::AdminAddress,
        Advice::AgentToken,
        Advice::CertificateDates,
        Advice::ClaimedProxy,
        Advice::EnvelopedBody,
        Advice::GatewayAddress,
        Advice::GatewayAuthority,
        Advice::GatewayCertificateName,
        Advice::GatewayDomain,
        Advice::GatewayIsPlain,
        Advice::GatewayIsTls,
        Advice::GatewayName,
        Advice::GatewayPath,
        Advice::GatewayTimeout,
        Advice::GatewayUrl,
        Advice::GatewayWithoutToken,
        Advice::HealthPath,
        Advice::IdleTimeout,
        Advice::LocalAddress,
        Advice::LocalAuthority,
        Advice::LocalCertificateName,
        Advice::LocalIsPlain,
        Advice::LocalName,
        Advice::LocalServerLog,
        Advice::MaxRetries,
        Advice::MessageSize,
        Advice::NoLocalServer,
        Advice::NotHttp,
        Advice::OpenFiles,
        Advice::OverlappingRequests,
        Advice::OwnHost,
        Advice::Pings,
        Advice::ProxyAddress,
        Advice::ProxyCredentials,
        Advice::ProxyRules,
        Advice::QueueLength,
        Advice::QueueTimeout,
        Advice::ResponseTimeout,
        Advice::StreamedBody,
        Advice::TokenRenewed,
        Advice::TunnelId,
        Advice::TunnelName,
    ];

    /// The stable name, as log records carry it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Advice::AdminAddress => "admin_address",
            Advice::AgentToken => "agent_token",
            Advice::CertificateDates => "certificate_dates",
            Advice::ClaimedProxy => "claimed_proxy",
            Advice::EnvelopedBody => "enveloped_body",
            Advice::GatewayAddress => "gateway_address",
            Advice::GatewayAuthority => "gateway_authority",
            Advice::GatewayCertificateName => "gateway_certificate_name",
            Advice::GatewayDomain => "gateway_domain",
            Advice::GatewayIsPlain => "gateway_is_plain",
            Advice::GatewayIsTls => "gateway_is_tls",
            Advice::GatewayName => "gateway_name",
            Advice::GatewayPath => "gateway_path",
            Advice::GatewayTimeout => "gateway_timeout",
            Advice::GatewayUrl => "gateway_url",
            Advice::GatewayWithoutToken => "gateway_without_token",
            Advice::HealthPath => "health_path",
            Advice::IdleTimeout => "idle_timeout",
            Advice::LocalAddress => "local_address",
            Advice::LocalAuthority => "local_authority",
            Advice::LocalCertificateName => "local_certificate_name",
            Advice::LocalIsPlain => "local_is_plain",
            Advice::LocalName => "local_name",
            Advice::LocalServerLog => "local_server_log",
            Advice::MaxRetries => "max_retries",
            Advice::MessageSize => "message_size",
            Advice::NoLocalServer => "no_local_server",
            Advice::NotHttp => "not_http",
            Advice::OpenFiles => "open_files",
            Advice::OverlappingRequests => "overlapping_requests",
            Advice::OwnHost => "own_host",
            Advice::Pings => "pings",
            Advice::ProxyAddress => "proxy_address",
            Advice::ProxyCredentials => "proxy_credentials",
            Advice::ProxyRules => "proxy_rules",
            Advice::QueueLength => "queue_length",
            Advice::QueueTimeout => "queue_timeout",
            Advice::ResponseTimeout => "response_timeout",
            Advice::StreamedBody => "streamed_body",
            Advice::TokenRenewed => "token_renewed",
            Advice::TunnelId => "tunnel_id",
            Advice::TunnelName => "tunnel_name",
        }
    }

    /// The advice with this name.
    #[cfg(feature = "cli")]
    pub(crate) fn by_name(name: &str) -> Option<Self> {
        Advice::ALL.into_iter().find(|advice| advice.name() == name)
    }
}
