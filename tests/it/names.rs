//! Tunnels at host names of their own, with the real binaries: which requests reach which application, what the agent is
//! told, and what it says.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;

use crate::support::{
    Folder, LIMIT, OTHER_TUNNEL_ID, Program, ScriptedGateway, TUNNEL_ID, http, ok, serve_http, split,
};
use serde_json::Value;
use tungstenite::Message;
use tunnel_agent::{Agent, TunnelName};

const THIRD_TUNNEL_ID: &str = "agent_6ba7b810-9dad-11d1-80b4-00c04fd430c8_third";

fn agent(tunnel_id: &str, gateway: SocketAddr, site: &'static str, more: &[&str]) -> Program {
    let local = serve_http(move |request| ok(&format!("{site} {}", request.head.split(' ').nth(1).unwrap())));
    let (url, local) = (format!("ws://{gateway}"), format!("http://{local}"));
    let options = ["--tunnel-id", tunnel_id, "--gateway", &url, "--local", &local, "--backoff-min", "50ms"];
    Program::agent(&[&options, more].concat())
}

/// The response to a request for this path at this host.
fn ask(gateway: SocketAddr, host: &str, path: &str) -> (u16, String) {
    let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    split(&http(gateway, request.as_bytes()))
}

/// The host in the line that says that a tunnel is open.
fn host_of(agent: &mut Program) -> String {
    let line = agent.wait_for(" is open → ");
    let (before, _) = line.split_once(" is open").unwrap();
    before.rsplit_once("http://").unwrap().1.to_owned()
}

#[test]
fn agents_that_make_their_own_ids_never_share_a_tunnel() {
    let (_gateway, address) = Program::gateway(&["--hold", "0s"]);
    let state = std::env::temp_dir().join(format!("tunnel-agent-own-ids-{}", std::process::id()));
    let start = |name: &'static str, more: &[&str]| {
        let local = serve_http(move |_| ok(name)).to_string();
        let url = format!("ws://{address}");
        let arguments = [&[local.as_str(), "--gateway", &url], more].concat();
        let environment = [("XDG_STATE_HOME", state.to_str().unwrap())];
        Program::start(env!("CARGO_BIN_EXE_agent"), &arguments, &environment)
    };
    let mut agents = [start("one", &[]), start("two", &[]), start("shop", &["--name", "shop"])];
    let hosts = agents.each_mut().map(host_of);
    for (host, site) in hosts.iter().zip(["one", "two", "shop"]) {
        for _ in 0..4 {
            assert_eq!(ask(address, host, "/"), (200, site.to_owned()), "{hosts:?}");
        }
    }
    std::fs::remove_dir_all(state).unwrap();
}

#[test]
fn three_tunnels_of_one_gateway_have_three_host_names() {
    let (_gateway, address) = Program::gateway(&["--hold", "0s"]);
    let mut shop = agent(TUNNEL_ID, address, "shop", &["--name", "shop"]);
    let mut blog = agent(OTHER_TUNNEL_ID, address, "blog", &["--name", "blog"]);
    let mut third = agent(THIRD_TUNNEL_ID, address, "third", &[]);
    let port = address.port();
    assert_eq!(host_of(&mut shop), format!("shop.localhost:{port}"));
    assert_eq!(host_of(&mut blog), format!("blog.localhost:{port}"));
    let third_host = host_of(&mut third);
    assert_eq!(
        third_host,
        format!("{}.localhost:{port}", TunnelName::derived(&THIRD_TUNNEL_ID.parse().unwrap()))
    );
    for (host, site) in [
        (format!("shop.localhost:{port}"), "shop"),
        ("BLOG.localhost.".to_owned(), "blog"),
        (third_host, "third"),
    ] {
        // All paths are the application's.
        for path in ["/", "/ws", "/health", "/connections", "/.tunnel/health"] {
            assert_eq!(ask(address, &host, path), (200, format!("{site} {path}")), "{host}");
        }
    }
    // Elsewhere the gateway answers for itself.
    for host in ["localhost", "127.0.0.1", "nobody.localhost"] {
        assert_eq!(ask(address, host, "/.tunnel/health").0, 200);
        let (status, text) = ask(address, host, "/");
        assert!(status == 404 && text.contains("which_tunnel"), "{host}: {status} {text}");
    }
    // The tunnel ID chooses, whatever the host.
    let named = format!(
        "GET / HTTP/1.1\r\nHost: shop.localhost\r\nX-Tunnel-Id: {OTHER_TUNNEL_ID}\r\nConnection: close\r\n\r\n"
    );
    assert_eq!(split(&http(address, named.as_bytes())), (200, "blog /".to_owned()));
    // A tunnel that is gone answers with nobody else's pages.
    shop.signal("TERM");
    shop.wait();
    let (status, text) = ask(address, "shop.localhost", "/");
    assert!(status == 503 && text.contains("no_agent"), "{status} {text}");
}

#[test]
fn a_name_that_is_another_tunnels_is_not_given_twice() {
    let (_gateway, address) = Program::gateway(&[]);
    let mut first = agent(TUNNEL_ID, address, "first", &["--name", "shop"]);
    host_of(&mut first);
    let mut second = agent(OTHER_TUNNEL_ID, address, "second", &["--name", "shop"]);
    let derived = TunnelName::derived(&OTHER_TUNNEL_ID.parse().unwrap());
    assert_eq!(host_of(&mut second), format!("{derived}.localhost:{}", address.port()));
    let line = second.wait_for("the name shop is another tunnel's");
    assert!(line.contains("--name"), "{line}");
    assert_eq!(ask(address, "shop.localhost", "/"), (200, "first /".to_owned()));
    assert_eq!(ask(address, &format!("{derived}.localhost"), "/"), (200, "second /".to_owned()));
}

#[test]
fn a_check_without_a_tunnel_id_keeps_no_name_from_the_agent() {
    let (_gateway, address) = Program::gateway(&[]);
    let folder = Folder::new();
    let gateway = format!("ws://{address}");
    let checked = Command::new(env!("CARGO_BIN_EXE_agent"))
        .env_clear()
        .env("XDG_STATE_HOME", folder.path(""))
        .args(["check", "1", "--name", "shop", "--gateway", &gateway])
        .output()
        .unwrap();
    let printed = String::from_utf8(checked.stdout).unwrap();
    assert!(printed.contains("kept for 1 s"), "{printed}");
    let mut shop = agent(TUNNEL_ID, address, "shop", &["--name", "shop"]);
    assert_eq!(host_of(&mut shop), format!("shop.localhost:{}", address.port()));
}

#[test]
fn a_websocket_at_a_tunnels_host_is_its_applications_and_no_agent() {
    let (_gateway, address) = Program::gateway(&[]);
    let mut shop = agent(TUNNEL_ID, address, "shop", &["--name", "shop"]);
    host_of(&mut shop);
    // What an agent sends, to the path where agents connect.
    let upgrade =
        b"GET /ws HTTP/1.1\r\nHost: shop.localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
        Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    let mut socket = TcpStream::connect(address).unwrap();
    socket.set_read_timeout(Some(LIMIT)).unwrap();
    socket.write_all(upgrade).unwrap();
    let mut answer = [0; 12];
    socket.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200", "the application's answer");
}

#[test]
fn the_domain_is_what_visitors_use_and_own_hosts_are_no_tunnels() {
    let domain = ["--domain", "https://tunnel.example", "--own-host", "status.tunnel.example"];
    let (mut gateway, address) = Program::gateway_with(&domain, &[]);
    gateway.wait_for("https://NAME.tunnel.example");
    let mut shop = agent(TUNNEL_ID, address, "shop", &["--name", "shop"]);
    shop.wait_for("https://shop.tunnel.example is open → ");
    assert_eq!(ask(address, "shop.tunnel.example", "/a"), (200, "shop /a".to_owned()));
    let mut status = agent(OTHER_TUNNEL_ID, address, "status", &["--name", "status"]);
    status.wait_for("the name status is another tunnel's, or the gateway's own");
}

#[test]
fn an_embedder_waits_for_the_url() {
    let (_gateway, address) = Program::gateway(&[]);
    let agent = Agent::builder(TUNNEL_ID.parse().unwrap())
        .name("shop".parse().unwrap())
        .gateway(format!("ws://{address}").parse().unwrap())
        .service(|_| Err(tunnel_agent::Failure::new(tunnel_agent::FailureKind::Internal, "none")))
        .build()
        .unwrap();
    let running = agent.spawn().unwrap();
    let status = running.handle().wait_connected(LIMIT).unwrap();
    assert_eq!(status.url, Some(format!("http://shop.localhost:{}", address.port())));
    running.handle().shutdown(std::time::Duration::ZERO);
    let handle = running.handle();
    running.join().unwrap();
    // It has ended: there is nothing to wait for.
    assert_eq!(handle.wait_connected(LIMIT), None);
}

#[test]
fn an_agent_in_envelopes_is_told_its_url_too() {
    let gateway = ScriptedGateway::start();
    let mut agent =
        Program::agent(&["--tunnel-id", TUNNEL_ID, "--gateway", &gateway.url(), "--name", "shop"]);
    let (mut session, handshake) = gateway.accept_with_handshake();
    assert_eq!(handshake["name"], "shop");
    // Another gateway's, by hand.
    session.send(r#"{"message_type":"tunnel_url","payload":{"url":"javascript:alert(1)"}}"#);
    session.send(
        r#"{"message_type":"tunnel_url","payload":"{\"url\":\"https://a.example\",\"wanted\":\"taken\"}"}"#,
    );
    let line = agent.wait_for(" is open → ");
    assert!(line.contains("https://a.example is open"), "{line}");
    agent.wait_for("the name shop is another tunnel's");
}

#[test]
fn the_gateway_tells_agents_without_streams_in_a_message_of_its_own() {
    let (_gateway, address) = Program::gateway(&[]);
    let connect = |capabilities: &str| {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        let (mut socket, _) = tungstenite::client(format!("ws://{address}/ws"), stream).unwrap();
        let handshake = format!(
            r#"{{"tunnel_id":"{TUNNEL_ID}","agent_version":"1","capabilities":[{capabilities}],"name":"shop"}}"#
        );
        socket.send(Message::text(handshake)).unwrap();
        socket.send(Message::Ping("end".into())).unwrap();
        let mut texts = Vec::new();
        loop {
            match socket.read().unwrap() {
                Message::Text(text) => texts.push(text.to_string()),
                Message::Pong(_) => break,
                other => panic!("{other:?}"),
            }
        }
        texts.split_off(1)
    };
    let url = format!(r#"{{\"url\":\"http://shop.localhost:{}\"}}"#, address.port());
    assert_eq!(connect(r#""id","url""#), [format!(r#"{{"message_type":"tunnel_url","payload":"{url}"}}"#)]);
    assert!(connect(r#""id""#).is_empty());
    let welcome = &connect(r#""id","mux/2""#)[0];
    let welcome: Value = serde_json::from_str(welcome).unwrap();
    let payload: Value = serde_json::from_str(welcome["payload"].as_str().unwrap()).unwrap();
    assert_eq!(payload["url"], format!("http://shop.localhost:{}", address.port()));
    assert!(payload.get("wanted").is_none());
}

#[test]
fn a_cookie_for_the_whole_domain_stays_with_its_tunnel() {
    let (_gateway, address) = Program::gateway(&[]);
    let local = serve_http(|_| {
        b"HTTP/1.1 200 OK\r\nSet-Cookie: a=1; Domain=localhost\r\nContent-Length: 0\r\n\r\n".to_vec()
    });
    let (url, local) = (format!("ws://{address}"), format!("http://{local}"));
    let mut agent = Program::agent(&["--tunnel-id", TUNNEL_ID, "--gateway", &url, "--local", &local]);
    let host = host_of(&mut agent);
    let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    let response = String::from_utf8(http(address, request.as_bytes())).unwrap();
    assert!(response.contains("set-cookie: a=1\r\n"), "{response}");
}

// ------------------------------------------------------------------------------------------- the first minute

#[test]
fn the_address_of_a_server_is_all_that_is_typed() {
    let (_gateway, address) = Program::gateway(&[]);
    let home = std::env::temp_dir().join(format!("tunnel-agent-{}", std::process::id()));
    let local = serve_http(|_| ok("hello"));
    let (port, url) = (local.port().to_string(), format!("http://{address}"));
    let environment = [("XDG_STATE_HOME", home.to_str().unwrap())];
    let mut hosts = Vec::new();
    for words in [&[port.as_str()][..], &["http", &port]] {
        let arguments = [words, &["--gateway", &url]].concat();
        let mut agent = Program::start(env!("CARGO_BIN_EXE_agent"), &arguments, &environment);
        let line = agent.wait_for("tunnel ID, agent_");
        assert_eq!(line.contains("made a tunnel ID"), hosts.is_empty(), "{line}");
        hosts.push(host_of(&mut agent));
        assert_eq!(ask(address, hosts.last().unwrap(), "/"), (200, "hello".to_owned()));
        agent.signal("TERM");
        agent.wait();
    }
    // It was made once, and is the user's alone.
    assert_eq!(hosts[0], hosts[1]);
    let file = home.join(format!("tunnel-agent/tunnel-id@{port}"));
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&file).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    // Another way to name it.
    let arguments = ["--tunnel-id-file", file.to_str().unwrap(), "--gateway", &url, "--local", &port];
    let mut agent = Program::start(env!("CARGO_BIN_EXE_agent"), &arguments, &[]);
    assert_eq!(host_of(&mut agent), hosts[0]);
    drop(agent);
    std::fs::remove_dir_all(home).unwrap();
}

#[test]
fn a_server_that_does_not_listen_is_named_at_the_start() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    let mut agent = Program::agent(&["--tunnel-id", TUNNEL_ID, "--local", &port]);
    let line = agent.wait_for("nothing listens at ");
    assert!(line.contains(&format!("http://127.0.0.1:{port} yet; start the local server")), "{line}");
}

#[test]
fn a_browser_is_shown_a_page_where_the_application_is_not_there() {
    let (_gateway, address) = Program::gateway(&["--hold", "0s"]);
    let browse = b"GET / HTTP/1.1\r\nHost: x\r\nAccept: text/html,*/*;q=0.8\r\nConnection: close\r\n\r\n";
    let response = String::from_utf8(http(address, browse)).unwrap();
    assert!(response.starts_with("HTTP/1.1 503 ") && response.contains("retry-after: 1\r\n"), "{response}");
    assert!(response.contains("content-type: text/html; charset=utf-8\r\n"), "{response}");
    assert!(response.contains("x-tunnel-source: gateway\r\n"), "{response}");
    assert!(response.contains("<p>No agent is connected.</p>"), "{response}");
    assert!(ask(address, "x", "/").1.contains(r#""code":"no_agent""#));
}

#[test]
fn reserved_names_are_read_again_and_no_other_tunnel_is_served() {
    let file = std::env::temp_dir().join(format!("tunnel-names-{}", std::process::id()));
    std::fs::write(&file, format!("www = {TUNNEL_ID}\nshop.example = {TUNNEL_ID}\n")).unwrap();
    let (mut gateway, address) =
        Program::gateway(&["--names", file.to_str().unwrap(), "--only-names", "--hold", "0s"]);
    let mut shop = agent(TUNNEL_ID, address, "shop", &[]);
    assert_eq!(host_of(&mut shop), format!("www.localhost:{}", address.port()));
    assert_eq!(ask(address, "shop.example", "/ws"), (200, "shop /ws".to_owned()));
    let mut blog = agent(
        OTHER_TUNNEL_ID,
        address,
        "blog",
        &["--name", "blog", "--backoff-max", "50ms", "--max-retries", "0"],
    );
    let line = gateway.wait_for("no name is reserved for it");
    assert!(!line.contains(OTHER_TUNNEL_ID), "{line}");
    std::fs::write(&file, format!("blog = {OTHER_TUNNEL_ID}\nwww = {TUNNEL_ID}\n")).unwrap();
    gateway.signal("HUP");
    gateway.wait_for("read the names again");
    assert_eq!(host_of(&mut blog), format!("blog.localhost:{}", address.port()));
    assert_eq!(ask(address, "blog.localhost", "/"), (200, "blog /".to_owned()));
    // It is reserved no more.
    assert_eq!(ask(address, "shop.example", "/.tunnel/health").0, 200);
    std::fs::write(&file, "blog").unwrap();
    gateway.signal("HUP");
    let line = gateway.wait_for("the names stay as they were");
    assert!(line.contains("line 1: expected NAME = TUNNEL-ID"), "{line}");
    std::fs::remove_file(file).unwrap();
}

#[test]
fn an_agent_that_shows_the_token_reaches_the_gateway_at_any_host() {
    let token = std::env::temp_dir().join(format!("names-token-{}", std::process::id()));
    std::fs::write(&token, "sesame").unwrap();
    let file = token.to_str().unwrap();
    let (_gateway, address) = Program::gateway(&["--domain", "tunnel.test", "--token-file", file]);
    // It has the name under which another agent dials.
    let mut first = agent(TUNNEL_ID, address, "first", &["--name", "agents", "--token-file", file]);
    first.wait_for("http://agents.tunnel.test:");
    let upgrade = |authorization: &str| {
        let mut socket = TcpStream::connect(address).unwrap();
        socket.set_read_timeout(Some(LIMIT)).unwrap();
        let request = format!(
            "GET /ws HTTP/1.1\r\nHost: agents.tunnel.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             {authorization}Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        socket.write_all(request.as_bytes()).unwrap();
        let mut answer = [0; 12];
        socket.read_exact(&mut answer).unwrap();
        String::from_utf8(answer.to_vec()).unwrap()
    };
    // No application is shown the token.
    assert_eq!(upgrade("Authorization: Bearer sesame\r\n"), "HTTP/1.1 101");
    assert_eq!(upgrade(""), "HTTP/1.1 200");
    std::fs::remove_file(token).unwrap();
}

#[test]
fn nobody_answers_for_a_tunnel_that_is_away() {
    let (_gateway, address) = Program::gateway(&["--domain", "tunnel.test", "--hold", "0s"]);
    let mut only = agent(TUNNEL_ID, address, "only", &[]);
    only.wait_for("is open");
    // The gateway has started anew, say, and this is the first agent that is back.
    let (status, text) = ask(address, "shop.tunnel.test", "/");
    assert!(status == 503 && text.contains("no_agent"), "{status} {text}");
    let forward =
        b"POST /forward HTTP/1.1\r\nHost: shop.tunnel.test\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    assert_eq!(split(&http(address, forward)).0, 503);
    assert_eq!(ask(address, "tunnel.test", "/"), (200, "only /".to_owned()));
    assert_eq!(ask(address, "www.tunnel.test", "/"), (200, "only /".to_owned()));
}

#[test]
fn a_file_of_names_that_cannot_be_used_is_refused_at_the_start() {
    let file = std::env::temp_dir().join(format!("tunnel-names-bad-{}", std::process::id()));
    std::fs::write(&file, "shop = secret").unwrap();
    for (path, why) in [(file.to_str().unwrap(), "line 1: "), ("/nonexistent/names", "No such file")] {
        let mut gateway =
            Program::start(env!("CARGO_BIN_EXE_gateway"), &["--listen", "127.0.0.1:0", "--names", path], &[]);
        let line = gateway.wait_for("--names");
        assert!(line.contains(why) && line.contains(path) && !line.contains("secret"), "{line}");
        assert_eq!(gateway.wait().code(), Some(2));
    }
    std::fs::remove_file(file).unwrap();
}
