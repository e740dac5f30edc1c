//! The manual, one page a topic.
//!
//! | page | contents |
//! | --- | --- |
//! | [`options`] | Every option of the two programs. |
//! | [`connecting`] | The way to gateways: proxies, access gateways, certificates. |
//! | [`local_servers`] | Unix sockets, several local servers, failing ones, and how one is found. |
//! | [`protection`] | Rules, headers and overload. |
//! | [`inspector`] | Each request on a page, and sent again. |
//! | [`monitoring`] | Health, metrics and logs. |
//! | [`gateway`] | The reference gateway, proxies and balancers. |
//! | [`services`] | Under systemd and others, in containers. |
//! | [`builds`] | Static programs, packages, systems, and what they cost. |
//! | [`fleets`] | Several gateways: restarts, losses, and what many tunnels cost. |
//! | [`protocol`] | The messages, and the responses of the programs' own. |
//! | [`performance`] | What a tunnel costs. |
//! | [`troubleshooting`] | What to do when something does not work. |
//! | [`limits`] | What does not pass, and how much passes. |
//! | [`architecture`] | Layers, threads, a request's way. |
//! | [`glossary`] | The words. |
//! | [`changelog`] | What changed. |

/// Shows the pages, with links that rustdoc understands in place of those between files.
macro_rules! pages {
    ($($name:ident $file:literal;)*) => {$(
        #[doc = "[options]: crate::manual::options"]
        #[doc = "[connecting]: crate::manual::connecting"]
        #[doc = "[local servers]: crate::manual::local_servers"]
        #[doc = "[protection]: crate::manual::protection"]
        #[doc = "[inspector]: crate::manual::inspector"]
        #[doc = "[monitoring]: crate::manual::monitoring"]
        #[doc = "[gateway]: crate::manual::gateway"]
        #[doc = "[services]: crate::manual::services"]
        #[doc = "[builds]: crate::manual::builds"]
        #[doc = "[fleets]: crate::manual::fleets"]
        #[doc = "[performance]: crate::manual::performance"]
        #[doc = "[limits]: crate::manual::limits"]
        #[doc = ""]
        #[doc = include_str!($file)]
        pub mod $name {}
    )*};
}

pages! {
    options "options.md";
    connecting "connecting.md";
    local_servers "local_servers.md";
    protection "protection.md";
    inspector "inspector.md";
    monitoring "monitoring.md";
    gateway "gateway.md";
    services "services.md";
    builds "builds.md";
    fleets "fleets.md";
    protocol "protocol.md";
    performance "performance.md";
    troubleshooting "troubleshooting.md";
    limits "limits.md";
    architecture "architecture.md";
    glossary "glossary.md";
    changelog "changelog.md";
}
