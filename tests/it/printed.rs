//! What `agent print` prints, tried on the real programs.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::process::Command;

use crate::support::{Folder, Program, TUNNEL_ID, get};

fn print(words: &[&str]) -> String {
    let mut agent = Command::new(env!("CARGO_BIN_EXE_agent"));
    let output = agent.env_clear().arg("print").args(words).output().unwrap();
    assert!(output.status.success(), "{words:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The names of the samples that an admin server may show.
fn samples(admin: SocketAddr) -> BTreeSet<String> {
    let (_, page) = get(admin, "/metrics");
    let mut names = BTreeSet::new();
    for line in page.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        let (name, kind) = line.split_once(' ').unwrap();
        let parts = if kind == "histogram" { &["_bucket", "_sum", "_count"][..] } else { &[""] };
        names.extend(parts.iter().map(|part| format!("{name}{part}")));
    }
    names
}

#[test]
fn alerts_and_dashboard_ask_for_metrics_that_there_are() {
    let (mut gateway, address) = Program::gateway(&["--admin", "0"]);
    let url = format!("ws://{address}");
    let mut agent = Program::agent(&["8000", "--tunnel-id", TUNNEL_ID, "--gateway", &url, "--admin", "0"]);
    // Some there are of sessions alone.
    agent.wait_for(" is open → ");
    let mut known = samples(gateway.admin());
    known.extend(samples(agent.admin()));
    for (what, least) in [("alerts", 8), ("dashboard", 16)] {
        let text = print(&[what]);
        let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let is_metric =
            |word: &&str| word.starts_with("tunnel_agent_") || word.starts_with("tunnel_gateway_");
        let asked: BTreeSet<_> = text.split(|c| !is_part(c)).filter(is_metric).collect();
        let unknown: Vec<_> = asked.iter().filter(|name| !known.contains(**name)).collect();
        assert!(unknown.is_empty(), "{what}: {unknown:?}");
        assert!(asked.len() >= least, "{what}: {asked:?}");
    }
}

#[test]
fn the_example_of_a_configuration_can_be_used() {
    let folder = Folder::new();
    folder.write("agent.conf", &print(&["config"]));
    folder.write("token", "t0ken\n");
    // What is only remarked can be used, too.
    folder.write(
        "all.conf",
        &print(&["config"]).replace("#token-file = /run/credentials/tunnel-agent.service/", "token-file = "),
    );
    for file in ["agent.conf", "all.conf"] {
        let mut agent = Command::new(env!("CARGO_BIN_EXE_agent"));
        agent.env_clear().args(["explain", "GET", "/", "--config"]).arg(folder.path(file));
        let output = agent.output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && said.contains("127.0.0.1:8000"), "{output:?}");
    }
    assert!(std::fs::read_to_string(folder.path("all.conf")).unwrap().contains("\ntoken-file = token\n"));
}

#[test]
fn the_scripts_of_services_and_of_bash_are_such() {
    let folder = Folder::new();
    for (words, shell) in [(&["openrc"][..], "sh"), (&["procd"], "sh"), (&["completions", "bash"], "bash")] {
        folder.write("script", &print(words));
        let status = Command::new(shell).arg("-n").arg(folder.path("script")).status().unwrap();
        assert!(status.success(), "{words:?}");
    }
    // What is completed, as bash asks for it.
    folder.write(
        "try",
        "source ./script\n\
         try() { COMP_WORDS=(\"$@\"); COMP_CWORD=$(($#-1)); _agent; echo \"${COMPREPLY[*]}\"; }\n\
         try agent ''; try agent pri; try agent print u; try agent print completions ''; try agent --gat\n\
         try agent check --log-format ''; try agent --workers ''\n",
    );
    let output = Command::new("bash").arg("try").current_dir(&folder.0).output().unwrap();
    let completed = "http explain check discover new-id health tail replay print\nprint\nunit\nbash zsh fish\n--gateway\ntext json\n\n";
    assert_eq!(String::from_utf8_lossy(&output.stdout), completed);
}

#[test]
fn what_cannot_be_printed_is_answered_with_what_can() {
    for words in [&[][..], &["units"], &["completions"], &["unit", "bash"]] {
        let mut agent = Command::new(env!("CARGO_BIN_EXE_agent"));
        let output = agent.env_clear().arg("print").args(words).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{words:?}");
        assert!(said.starts_with("agent: print is followed by one of config, unit, "), "{said}");
    }
}
