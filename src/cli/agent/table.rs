//! The options of the agent: those of the library, with dashes and variables, and the program's own.

use std::sync::LazyLock;

use crate::agent::options::{AgentOption, OPTIONS};
use crate::cli::Opt;
use crate::cli::table::Occurrence;

/// The variables that are not called as their options; an empty one is none.
const VARIABLES: [(&str, &str); 15] = [
    ("allow", ""),
    ("basic_auth", "BASIC_AUTH_FILE"),
    ("config", "TUNNEL_AGENT_CONFIG"),
    ("deny", ""),
    ("gateway", "GATEWAY_URL"),
    ("local", "LOCAL_URL"),
    ("log_level", "RUST_LOG"),
    ("name", "TUNNEL_NAME"),
    ("password", "BASIC_AUTH"),
    ("proxy", "TUNNEL_AGENT_PROXY"),
    ("remove_response_header", "REMOVE_RESPONSE_HEADER"),
    ("route", "ROUTES"),
    ("rule", "RULES"),
    ("set_header", "SET_HEADERS"),
    ("set_response_header", "SET_RESPONSE_HEADERS"),
];

/// The options that are never typed, or need not be.
const WITHOUT_FLAG: [&str; 5] = ["admin_token", "password", "rule", "token", "upgrade_headers"];

/// The options whose variables hold a value a line.
const LINES: [&str; 5] = ["open", "password", "rule", "set_header", "set_response_header"];

/// The options, in the order in which the help lists them.
pub(in crate::cli) static TABLE: LazyLock<Vec<Opt>> = LazyLock::new(|| {
    let of_library = OPTIONS.iter().map(opt);
    let own = OWN.iter().map(|(name, value, help)| Opt { value, help, ..named(name) });
    of_library.chain(own).collect()
});

/// The options of the program: their names, values and help.
const OWN: &[(&str, &str, &str)] = &[
    (
        "config",
        "FILE",
        "reads options from it, or none; default ~/.config/tunnel-agent/agent.conf, /etc/tunnel-agent/agent.conf",
    ),
    #[cfg(feature = "inspect")]
    ("json", "", "`tail` prints an object a line"),
    ("log_format", "FORMAT", "text or json, an object a line; default text"),
    ("qr", "", "shows a QR code of each tunnel's URL"),
    ("log_level", "LEVEL", "off, error, warn, info, debug or trace; default info"),
];

/// An option with its flag and its variable. Each is made once in a program's life.
fn named(name: &'static str) -> Opt {
    let flag = if WITHOUT_FLAG.contains(&name) { "" } else { crate::cli::flag(name).leak() };
    let variable = VARIABLES.iter().find(|(of, _)| *of == name);
    let variable = variable.map_or_else(|| &*name.to_ascii_uppercase().leak(), |(_, variable)| variable);
    Opt { name, flag, variable, ..Opt::new("", "", "", "") }
}

fn opt(option: &AgentOption) -> Opt {
    let occurrence = match option.repeats {
        false => Occurrence::Once,
        true if LINES.contains(&option.name) => Occurrence::Lines,
        true => Occurrence::List,
    };
    let (value, help, setting) = (option.value, option.help, option.setting);
    Opt { value, help, occurrence, setting, ..named(option.name) }
}
