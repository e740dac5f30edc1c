//! The texts of `print`: files that belong to a service, a container, a shell or monitoring, for people who have only the
//! binary.

mod completions;
mod man;

use self::completions::Shell;
use crate::cli::UsageError;

/// Something to print.
struct Printable {
    name: &'static str,
    help: &'static str,
    content: Content,
}

enum Content {
    /// A file, as it is.
    File(&'static str),
    /// Made from the tables of options and commands, for a program with this name.
    Made(fn(&str) -> String),
}

const fn file(name: &'static str, help: &'static str, text: &'static str) -> Printable {
    Printable { name, help, content: Content::File(text) }
}

const fn made(name: &'static str, help: &'static str, make: fn(&str) -> String) -> Printable {
    Printable { name, help, content: Content::Made(make) }
}

/// A file of the manual's.
macro_rules! deployed {
    ($file:literal) => {
        include_str!(concat!("../../../manual/deploy/", $file))
    };
}

static PRINTABLE: [Printable; 13] = [
    file("config", "an example of a configuration file", deployed!("agent.conf")),
    file("unit", "a service of systemd", deployed!("tunnel-agent.service")),
    file("openrc", "a service of OpenRC", deployed!("openrc")),
    file("procd", "a service of OpenWrt", deployed!("procd")),
    file("launchd", "a service of macOS", deployed!("tunnel-agent.plist")),
    file("dockerfile", "an image with the static binary alone", deployed!("Dockerfile")),
    file("compose", "an agent beside a service of Compose", deployed!("compose.yaml")),
    file("alerts", "rules for Prometheus", deployed!("alerts.yaml")),
    file("dashboard", "a dashboard for Grafana", deployed!("dashboard.json")),
    made("man", "the manual page", man::page),
    made("completions bash", "what bash completes", |program| completions::script(Shell::Bash, program)),
    made("completions zsh", "what zsh completes", |program| completions::script(Shell::Zsh, program)),
    made("completions fish", "what fish completes", |program| completions::script(Shell::Fish, program)),
];

/// The text with this name, such as `completions bash`, for a program that is called so.
pub(super) fn text(name: &str, program: &str) -> Result<String, UsageError> {
    let Some(printable) = PRINTABLE.iter().find(|printable| printable.name == name) else {
        let names: Vec<_> = PRINTABLE.iter().map(|printable| printable.name).collect();
        return Err(UsageError(format!("print is followed by one of {}", names.join(", "))));
    };
    Ok(match printable.content {
        Content::File(text) => text.to_owned(),
        Content::Made(make) => make(program_name(program)),
    })
}

/// The name of the program where it has no letters that mean something to a shell or to `man`.
fn program_name(name: &str) -> &str {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if !name.is_empty() && !name.starts_with(['-', '.']) && name.chars().all(is_plain) {
        name
    } else {
        "agent"
    }
}

#[cfg(test)]
mod tests {
    use super::super::{TABLE, VERBS};
    use super::*;

    #[test]
    fn each_thing_is_printed_by_its_name_and_nothing_else_is() {
        for printable in &PRINTABLE {
            let text = text(printable.name, "tunnel-agent").unwrap();
            assert!(text.ends_with('\n') && !text.contains('\r'), "{}", printable.name);
        }
        for unknown in ["", "completions", "completions sh", "unit x", "Unit"] {
            let error = text(unknown, "agent").unwrap_err();
            assert!(error.0.starts_with("print is followed by one of config, unit, "), "{error}");
        }
    }

    #[test]
    fn what_is_made_has_every_option_and_every_command() {
        for printable in &PRINTABLE {
            let Content::Made(make) = printable.content else { continue };
            let text = make("tunnel-agent").replace("\\-", "-");
            // fish names them without their dashes.
            let is_fish = printable.name.ends_with("fish");
            for opt in TABLE.iter().filter(|opt| !opt.flag.is_empty()) {
                let flag = if is_fish { format!(" -l {} ", &opt.flag[2..]) } else { opt.flag.to_owned() };
                assert!(text.contains(&flag), "{}: {}", printable.name, opt.flag);
            }
            assert!(VERBS.iter().all(|verb| text.contains(verb.name)), "{}", printable.name);
        }
    }

    #[test]
    fn services_pass_options_that_there_are() {
        for printable in &PRINTABLE {
            let Content::File(text) = printable.content else { continue };
            let calls = text
                .lines()
                .filter(|line| line.contains("/tunnel-agent --") || line.contains("command_args"));
            for word in calls.flat_map(|line| line.split([' ', '"', '='])) {
                let is_flag = word.starts_with("--");
                assert!(!is_flag || TABLE.iter().any(|opt| opt.flag == word), "{}: {word}", printable.name);
            }
            for name in text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_') {
                let Some(option) = name.strip_prefix("TUNNEL_AGENT_") else { continue };
                let option = option.to_ascii_lowercase();
                assert!(TABLE.iter().any(|opt| opt.name == option), "{}: {name}", printable.name);
            }
        }
    }

    #[test]
    fn a_name_that_says_something_to_a_shell_is_not_repeated() {
        for (name, shown) in [
            ("tunnel-agent", "tunnel-agent"),
            ("agent.1", "agent.1"),
            ("", "agent"),
            ("-rf", "agent"),
            ("a;b", "agent"),
            ("a b", "agent"),
            ("$(id)", "agent"),
        ] {
            assert_eq!(program_name(name), shown, "{name}");
        }
    }

    #[test]
    fn the_dashboard_is_json() {
        let Ok(dashboard) = text("dashboard", "") else { panic!("there is none") };
        let dashboard: serde_json::Value = serde_json::from_str(&dashboard).unwrap();
        assert!(dashboard["panels"].as_array().unwrap().len() > 10);
    }
}
