//! The report to operators: a small HTTP server, its pages, and the agent's part of it.

#[cfg(feature = "inspect")]
mod inspector;
mod pages;
mod prometheus;
#[cfg(any(feature = "cli", feature = "inspect"))]
mod qr;
mod report;
mod server;
mod tunnel;

#[cfg(feature = "inspect")]
pub(crate) use self::inspector::{InspectorPages, ReplayProblem};
#[cfg(feature = "gateway")]
pub(crate) use self::pages::{Reported, ready};
#[cfg(feature = "gateway")]
pub(crate) use self::prometheus::MetricsPage;
#[cfg(any(feature = "cli", feature = "inspect"))]
pub(crate) use self::qr::QrCode;
pub(crate) use self::report::Report;
pub(crate) use self::server::Admin;
pub(crate) use self::tunnel::TunnelReport;
