//! What `agent check` finds: gateways and local servers as they should be, and as they should not.

use std::net::TcpListener;
use std::process::Command;
use std::thread;

use crate::support::{Program, ScriptedGateway, TUNNEL_ID, ok, serve_http};

/// What the agent prints, and its exit code.
fn run(arguments: &[&str]) -> (String, i32) {
    let output = Command::new(env!("CARGO_BIN_EXE_agent")).env_clear().args(arguments).output().unwrap();
    let printed = [output.stdout, output.stderr].concat();
    (String::from_utf8(printed).unwrap(), output.status.code().unwrap())
}

/// Checks, and compares how each step went; returns all that was printed.
#[track_caller]
fn check(gateway: &str, local: &str, options: &[&str], steps: &str, code: i32) -> String {
    let whom = ["check", "--tunnel-id", TUNNEL_ID, "--gateway", gateway, "--local", local];
    let (printed, got) = run(&[&whom[..], options].concat());
    let step = |line: &str| line.strip_prefix("  ").map(|line| line[..4].chars().next().unwrap());
    assert_eq!(printed.lines().filter_map(step).collect::<String>(), steps, "{printed}");
    assert_eq!(got, code, "{printed}");
    printed
}

fn site() -> String {
    format!("http://{}", serve_http(|_| ok("hello")))
}

fn nobody() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

#[cfg(target_os = "linux")]
#[test]
fn what_cannot_be_printed_is_an_error() {
    for arguments in [&["new-id"][..], &["print", "unit"], &["--help"]] {
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let agent = Command::new(env!("CARGO_BIN_EXE_agent")).args(arguments).stdout(full).output().unwrap();
        let said = String::from_utf8(agent.stderr).unwrap();
        assert!(said.starts_with("cannot write to standard output: No space left"), "{said}");
        assert_eq!(agent.status.code(), Some(1));
    }
}

#[test]
fn a_check_goes_through_all_steps() {
    let (mut gateway, address) = Program::gateway(&[]);
    let (url, site) = (format!("ws://{address}"), site());
    let printed = check(&url, &site, &["--health-path", "/up"], "PPPSPPPPPSPP", 0);
    for said in ["127.0.0.1 is 127.0.0.1", "kept for 1 s; mux/2", "answered with 200 OK", "agent_550e…"] {
        assert!(printed.contains(said), "{said} in {printed}");
    }
    gateway.wait_for("disconnected: ");
}

#[test]
fn a_local_server_that_is_down_or_ill_fails_it() {
    let (_gateway, address) = Program::gateway(&[]);
    let url = format!("ws://{address}");
    let printed = check(&url, &format!("http://{}", nobody()), &["--health-path", "/"], "PPPSPPPPFSSS", 1);
    assert!(printed.contains("start the local server, or check its address"), "{printed}");
    let ill = format!("http://{}", serve_http(|_| b"HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n".into()));
    let other = crate::support::serve(|mut socket| {
        let _ = std::io::Read::read(&mut socket, &mut [0; 1000]);
        let _ = std::io::Write::write_all(&mut socket, b"220 mail.test ESMTP\r\n\r\n");
    });
    let printed = check(&url, &format!("http://{other}"), &[], "PPPSPPPPPSFS", 1);
    assert!(printed.contains("perhaps another program listens there"), "{printed}");
    let printed = check(&url, &ill, &["--health-path", "/"], "PPPSPPPPPSPF", 1);
    assert!(printed.contains("it answered 500"), "{printed}");
}

#[test]
fn what_a_start_would_warn_of_stands_behind_the_configuration() {
    let id = "agent_550e8400-e29b-41d4-a716-446655440000_two_words";
    let (printed, _) = run(&["check", "--tunnel-id", id, "--gateway", &format!("ws://{}", nobody())]);
    let line = printed.lines().find(|line| line.contains("configuration")).unwrap();
    assert!(line.contains("the oldest gateways refuse"), "{printed}");
}

#[test]
fn a_gateway_that_is_not_there_or_none_fails_it() {
    let site = site();
    let printed = check(&format!("ws://{}", nobody()), &site, &[], "PPFSSSSPPSPS", 1);
    assert!(printed.contains("check --gateway, and that the gateway is running"), "{printed}");
    // No resolver asks anybody for so long a label.
    let printed = check(&format!("ws://{}:1", "a".repeat(64)), &site, &[], "PFSSSSSPPSPS", 1);
    assert!(printed.contains("check the host name in --gateway"), "{printed}");
    let other = self::site().replace("http", "ws");
    let printed = check(&other, &site, &[], "PPPSFSSPPSPS", 1);
    assert!(printed.contains("answered the WebSocket upgrade with 200"), "{printed}");
}

#[test]
fn a_gateway_that_closes_at_once_fails_it() {
    let gateway = ScriptedGateway::start();
    let url = gateway.url();
    let refuses = thread::spawn(move || drop(gateway.accept()));
    let printed = check(&url, &site(), &[], "PPPSPFSPPSPS", 1);
    assert!(printed.contains("check --tunnel-id"), "{printed}");
    refuses.join().unwrap();
}

#[test]
fn a_gateway_that_answers_no_ping_fails_it() {
    let gateway = ScriptedGateway::start();
    let url = gateway.url();
    let silent = thread::spawn(move || {
        let mut session = gateway.accept();
        session.send("550e8400-e29b-41d4-a716-446655440000");
        session
    });
    let printed = check(&url, &site(), &["--pong-timeout", "2s"], "PPPSPPFPPSPS", 1);
    assert!(printed.contains("something on the way may drop WebSocket pings"), "{printed}");
    drop(silent.join().unwrap());
}

#[test]
fn a_websocket_that_is_no_gateways_fails_it() {
    let gateway = ScriptedGateway::start();
    let url = gateway.url();
    // It answers pings, as any WebSocket does, and says nothing of itself.
    let echo = thread::spawn(move || {
        let mut session = gateway.accept();
        while session.0.read().is_ok() {}
    });
    let printed = check(&url, &site(), &["--pong-timeout", "2s"], "PPPSPFPPPSPS", 1);
    assert!(printed.contains("nothing has identified itself as a gateway"), "{printed}");
    assert!(printed.contains("check the path in --gateway"), "{printed}");
    drop(echo);
}
