//! What the agent reports to operators: a small HTTP server, a report, and metrics.

mod prometheus;
mod report;
mod server;
mod tunnel;

pub(crate) use self::report::Report;
pub(crate) use self::server::Admin;
pub(crate) use self::tunnel::TunnelReport;
