//! Which local servers are found. A binary of its own: a search asks every listening socket of this machine, and the
//! servers of other tests, which run at the same time in one binary, would count its connections as their own.

#[path = "../it/support/mod.rs"]
mod support;

use std::process::Command;

use support::{Program, Received, TUNNEL_ID, get, serve_http};

fn shop(request: &Received) -> Vec<u8> {
    let page = "<title>Shop & more</title>ok";
    let head =
        "HTTP/1.1 200 OK\r\nserver: testing\r\nset-cookie: laravel_session=1\r\ncontent-length: 28\r\n\r\n";
    let body = if request.head.starts_with("HEAD") { "" } else { page };
    format!("{head}{body}").into_bytes()
}

#[test]
fn discover_lists_the_servers_but_not_the_tunnels_own() {
    let (mut gateway, address) = Program::gateway(&[]);
    let port = serve_http(shop).port().to_string();
    // With an agent behind it, the gateway answers as a local server would.
    let (url, local) = (format!("ws://{address}"), format!("http://127.0.0.1:{port}"));
    let _agent = Program::agent(&["--tunnel-id", TUNNEL_ID, "--gateway", &url, "--local", &local]);
    gateway.wait_for("connected, version");
    assert_eq!(get(address, "/").0, 200);
    let output = Command::new(env!("CARGO_BIN_EXE_agent")).env_clear().arg("discover").output().unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    let row = |port: &str| printed.lines().find(|line| line.split(' ').next() == Some(port));
    let columns: Vec<&str> = row(&port).unwrap_or_else(|| panic!("{printed}")).split_whitespace().collect();
    assert_eq!(columns, [&port, "200", "testing", "Laravel", "Shop", "&", "more"], "{printed}");
    assert_eq!(row(&address.port().to_string()), None, "{printed}");
    assert!(printed.contains("\n--local auto would take http://"), "{printed}");
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn auto_serves_a_server_that_it_finds() {
    serve_http(shop);
    let (mut gateway, address) = Program::gateway(&[]);
    let url = format!("ws://{address}");
    let mut agent = Program::agent(&["--tunnel-id", TUNNEL_ID, "--gateway", &url, "--local", "auto"]);
    agent.wait_for("the local server: http://");
    gateway.wait_for("connected, version");
    // Which server it is depends on the machine; but it answers, and not the tunnel itself.
    let (_, body) = get(address, "/");
    assert!(!body.contains("agent_error"), "{body}");
    agent.wait_for("GET / ");
}
