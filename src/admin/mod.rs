//! The report to operators: a small HTTP server, its pages, and the agent's part of it.

mod pages;
mod prometheus;
mod report;
mod server;
mod tunnel;

#[cfg(feature = "gateway")]
pub(crate) use self::pages::{Reported, ready};
#[cfg(feature = "gateway")]
pub(crate) use self::prometheus::MetricsPage;
pub(crate) use self::report::Report;
pub(crate) use self::server::Admin;
pub(crate) use self::tunnel::TunnelReport;
