//! The banner for a person who has started the agent in a terminal.

use std::fmt::Write;
use std::io::IsTerminal;
use std::thread;
use std::time::Duration;

use crate::admin::QrCode;
use crate::{ConnectionState, Handle};

/// Between two looks whether the agent has ended.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// Whether there are QR codes in the banner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QrCodes {
    /// There are none.
    Hidden,
    /// There is one for each tunnel, also where standard error is no terminal.
    Shown,
}

/// Prints a banner to standard error once each tunnel is open, where a person may see it.
pub fn announce(agent: &Handle, codes: QrCodes) {
    if !std::io::stderr().is_terminal() && codes == QrCodes::Hidden {
        return;
    }
    let agent = agent.clone();
    let announce = move || {
        while agent.wait_connected(LOOK_EVERY).is_none() {
            if agent.status().connection == ConnectionState::Stopped {
                return;
            }
        }
        // Behind the lines of the log that led here.
        log::logger().flush();
        eprint!("{}", banner(&agent, codes));
    };
    // Without a thread the log says as much.
    let _ = thread::Builder::new().name("banner".to_owned()).spawn(announce);
}

fn banner(agent: &Handle, codes: QrCodes) -> String {
    let mut text = String::from("\n");
    // Writing to a string does not fail.
    for tunnel in agent.tunnels() {
        let url = tunnel.status.url.as_deref();
        let _ = writeln!(text, "  {}", url.unwrap_or("the gateway does not say at which URL the tunnel is"));
        let _ = writeln!(text, "    → {}", tunnel.served_by);
        match url.map(QrCode::new).filter(|_| codes == QrCodes::Shown) {
            Some(Some(code)) => drop(write!(text, "\n{code}\n")),
            Some(None) => text.push_str("    (the URL is too long for a QR code)\n"),
            None => {}
        }
    }
    if let Some(admin) = agent.admin_address() {
        let page = if agent.is_inspected() { "" } else { "status" };
        let _ = writeln!(text, "  how it is doing: http://{admin}/{page}");
    }
    text.push_str("  Ctrl-C stops it\n\n");
    text
}
