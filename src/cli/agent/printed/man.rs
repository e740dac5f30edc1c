//! The manual page, for `man`: roff with the macros of man(7).

use super::super::{PREFIX, SUMMARY, TABLE, VERBS, Verb};
use super::PRINTABLE;

/// The page of a program with this name.
pub(super) fn page(program: &str) -> String {
    let mut page = Roff(String::new());
    let version = env!("CARGO_PKG_VERSION");
    page.0.push_str(&format!(
        ".TH \"{}\" 1 \"\" \"tunnel-agent {version}\"\n",
        escaped(&program.to_ascii_uppercase())
    ));
    page.section("NAME");
    page.text(&format!("{program} - {}{}", SUMMARY[..1].to_ascii_lowercase(), &SUMMARY[1..]));
    page.section("SYNOPSIS");
    for usage in VERBS.iter().map(Verb::usage).chain(["--tunnel-id ID".to_owned()]) {
        page.usage(program, &usage);
    }
    page.section("DESCRIPTION");
    page.text(
        "The agent runs next to a web server behind NAT, dials out to a gateway over one WebSocket, receives requests as \
         messages, has the local server answer them and sends the answers back.",
    );
    page.section("COMMANDS");
    for verb in VERBS {
        page.entry(&verb.usage(), "", verb.help);
    }
    page.section("THINGS TO PRINT");
    for printable in &PRINTABLE {
        page.entry(&format!("print {}", printable.name), "", printable.help);
    }
    page.section("OPTIONS");
    page.text(&format!(
        "A flag beats its environment variable beats the configuration file beats the default. Each variable has a longer \
         name that no other program uses: {PREFIX} and the flag's name in capitals. Times read 500ms, 10s, 2m; sizes \
         64KiB, 10MiB."
    ));
    for opt in TABLE.iter() {
        let (key, value) = if opt.flag.is_empty() { (opt.variable, "") } else { (opt.flag, opt.value) };
        let is_typed = !opt.flag.is_empty() && !opt.variable.is_empty();
        let variable = if is_typed { format!(" [{}]", opt.variable) } else { String::new() };
        page.entry(key, value, &format!("{}{variable}", opt.help));
    }
    page.entry("-h, --help", "", "a short text like this one");
    page.entry("-V, --version", "", "the version");
    page.section("SIGNALS");
    page.entry(
        "SIGTERM, SIGINT",
        "",
        "finishes the requests under way, for --drain at most; a second one stops at once",
    );
    page.entry("SIGHUP", "", "skips the wait before the next try, and reads the configuration again");
    page.section("FILES");
    page.entry("~/.config/tunnel-agent/agent.conf, /etc/tunnel-agent/agent.conf", "", "the configuration");
    page.entry("~/.local/state/tunnel-agent", "", "tunnel IDs that the agent has made");
    page.section("EXIT STATUS");
    for (code, meaning) in [
        ("0", "asked to stop"),
        ("1", "gave up on all gateways, or cannot listen at --admin; of check, explain and health: no"),
        ("2", "wrong usage or configuration"),
        ("3", "refused by the gateway"),
    ] {
        page.entry(code, "", meaning);
    }
    page.0
}

/// A page that is being written.
struct Roff(String);

impl Roff {
    fn section(&mut self, title: &str) {
        self.0.push_str(&format!(".SH {title}\n"));
    }

    fn text(&mut self, text: &str) {
        self.0.push_str(&format!("{}\n", escaped(text)));
    }

    fn usage(&mut self, program: &str, usage: &str) {
        self.0.push_str(&format!(".B {}\n{} [options]\n.br\n", escaped(program), escaped(usage)));
    }

    fn entry(&mut self, key: &str, value: &str, text: &str) {
        let value = if value.is_empty() { String::new() } else { format!(" \\fI{}\\fR", escaped(value)) };
        self.0.push_str(&format!(".TP\n\\fB{}\\fR{value}\n{}\n", escaped(key), escaped(text)));
    }
}

/// A text that means itself to roff, also at the beginning of a line.
fn escaped(text: &str) -> String {
    let mut escaped = String::new();
    if text.starts_with(['.', '\'']) {
        escaped.push_str("\\&");
    }
    for c in text.chars() {
        match c {
            '\\' => escaped.push_str("\\e"),
            '-' => escaped.push_str("\\-"),
            '~' => escaped.push_str("\\(ti"),
            '\'' => escaped.push_str("\\(aq"),
            c if c.is_ascii() => escaped.push(c),
            c => escaped.push_str(&format!("\\[u{:04X}]", u32::from(c))),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_means_itself() {
        for (text, roff) in [
            ("a b", "a b"),
            ("--x", "\\-\\-x"),
            (".x", "\\&.x"),
            ("'x'", "\\&\\(aqx\\(aq"),
            ("a\\b", "a\\eb"),
            ("…", "\\[u2026]"),
        ] {
            assert_eq!(escaped(text), roff);
        }
    }
}
