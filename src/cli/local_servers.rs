//! The HTTP servers of this machine, as a table.

use std::fmt;

use crate::LocalServer;

/// The servers as a table, the one first that `--local auto` would take.
#[derive(Debug)]
pub struct LocalServerTable<'a>(pub &'a [LocalServer]);

impl fmt::Display for LocalServerTable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return writeln!(f, "no HTTP server found on this machine; start yours, or name it with --local");
        }
        writeln!(f, "{:<6} {:<6} {:<28} {:<19} TITLE", "PORT", "STATUS", "SERVER", "FRAMEWORK")?;
        for found in self.0 {
            let text = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
            let (server, title) = (text(&found.server), text(&found.title));
            let framework = found.framework.unwrap_or("-");
            let (port, status) = (found.address.port(), found.status.as_u16());
            writeln!(f, "{port:<6} {status:<6} {server:<28} {framework:<19} {title}")?;
        }
        writeln!(f, "\n--local auto would take {}", self.0[0].url())
    }
}
