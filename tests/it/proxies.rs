//! Agents behind proxies and access gateways: the real programs, and proxies whose part a test plays.

use std::io::{BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use crate::support::{LIMIT, Program, ScriptedGateway, TUNNEL_ID, get, ok, read_head, serve, serve_http};

/// A name that only the proxies of these tests resolve.
const GATEWAY: &str = "ws://gateway.test:8080";

/// The user `me` with the password `s3cret`, as Basic has it, in small letters.
const PASSWORD: &str = "\r\nproxy-authorization: basic bwu6cznjcmv0\r\n";

/// Has bytes pass both ways until both sides have ended.
fn relay(one: TcpStream, other: TcpStream) {
    let pass = |mut from: TcpStream, mut to: TcpStream| {
        let _ = std::io::copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Both);
    };
    let (from, to) = (one.try_clone().unwrap(), other.try_clone().unwrap());
    let back = thread::spawn(move || pass(from, to));
    pass(other, one);
    back.join().unwrap();
}

/// What a proxy was asked.
type Asked = Arc<Mutex<Vec<String>>>;

/// An HTTP proxy that finds the gateway here, whatever its name, and wants this field in each request.
fn http_proxy(gateway: SocketAddr, wanted: &'static str) -> (SocketAddr, Asked) {
    let asked = Asked::default();
    let heads = asked.clone();
    let proxy = serve(move |mut socket| {
        socket.set_read_timeout(Some(LIMIT)).unwrap();
        // Nothing behind the head may be read.
        let mut reader = BufReader::with_capacity(1, socket.try_clone().unwrap());
        let head = read_head(&mut reader);
        let may = head.contains(wanted);
        heads.lock().unwrap().push(head);
        if !may {
            let refusal = b"HTTP/1.1 407 No\r\nProxy-Authenticate: Basic\r\nContent-Length: 0\r\n\r\n";
            return socket.write_all(refusal).unwrap();
        }
        let to = TcpStream::connect(gateway).unwrap();
        socket.write_all(b"HTTP/1.0 200 Connection established\r\n\r\n").unwrap();
        socket.set_read_timeout(None).unwrap();
        relay(socket, to);
    });
    (proxy, asked)
}

/// A SOCKS5 proxy that does the same without a password; and its connections to agents.
fn socks_proxy(gateway: SocketAddr) -> (SocketAddr, Asked, Arc<Mutex<Vec<TcpStream>>>) {
    let (asked, connections) = (Asked::default(), Arc::<Mutex<Vec<_>>>::default());
    let (hosts, open) = (asked.clone(), connections.clone());
    let proxy = serve(move |mut socket| {
        let read = |mut socket: &TcpStream, length: usize| {
            let mut bytes = vec![0; length];
            socket.read_exact(&mut bytes).unwrap();
            bytes
        };
        assert_eq!(read(&socket, 3), [5, 1, 0]);
        socket.write_all(&[5, 0]).unwrap();
        assert_eq!(read(&socket, 4), [5, 1, 0, 3]);
        let length = read(&socket, 1)[0];
        let host = String::from_utf8(read(&socket, length.into())).unwrap();
        let port = read(&socket, 2);
        hosts.lock().unwrap().push(format!("{host}:{}", u16::from_be_bytes([port[0], port[1]])));
        let to = TcpStream::connect(gateway).unwrap();
        socket.write_all(&[5, 0, 0, 1, 127, 0, 0, 1, 0, 80]).unwrap();
        open.lock().unwrap().push(socket.try_clone().unwrap());
        relay(socket, to);
    });
    (proxy, asked, connections)
}

fn start(site: SocketAddr, options: &[&str], environment: &[(&str, &str)]) -> Program {
    let site = format!("http://{site}");
    let usual = ["--tunnel-id", TUNNEL_ID, "--gateway", GATEWAY, "--local", &site];
    Program::start(env!("CARGO_BIN_EXE_agent"), &[&usual, options].concat(), environment)
}

fn site() -> SocketAddr {
    serve_http(|_| ok("hello"))
}

#[test]
fn an_agent_gets_through_an_http_proxy_by_option_or_variable() {
    let (mut gateway, address) = Program::gateway(&["--hold", "0s"]);
    let (proxy, asked) = http_proxy(address, "");
    let url = format!("http://{proxy}");
    // What was typed beats what the environment says.
    for (options, environment, source) in [
        (vec!["--proxy", &url], vec![("ALL_PROXY", "http://127.0.0.1:1"), ("NO_PROXY", "*")], ""),
        (vec![], vec![("ALL_PROXY", url.as_str())], " (from the variable ALL_PROXY)"),
        (vec![], vec![("TUNNEL_AGENT_PROXY", url.as_str()), ("ALL_PROXY", "http://127.0.0.1:1")], ""),
    ] {
        let mut agent = start(site(), &options, &environment);
        let line = agent.wait_for("through the proxy");
        let expected = format!("…_prod: gateway {GATEWAY}/ws is reached through the proxy {url}{source}");
        assert!(line.ends_with(&expected), "{line}");
        gateway.wait_for("connected");
        assert_eq!(get(address, "/"), (200, "hello".to_owned()));
        assert_eq!(agent.log.iter().filter(|line| line.contains("proxy")).count(), 1);
        let heads = std::mem::take(&mut *asked.lock().unwrap());
        assert!(heads[0].starts_with("connect gateway.test:8080 http/1.1\r\nhost: gateway.test:8080\r\n"));
        // The local server is not asked for there.
        assert_eq!(heads.len(), 1, "{heads:?}");
        agent.signal("TERM");
        assert!(agent.wait().success());
        gateway.wait_for("disconnected: ");
    }
}

#[test]
fn an_agent_gets_through_a_socks_proxy_and_dials_again_when_that_dies() {
    let (mut gateway, address) = Program::gateway(&["--hold", "0s"]);
    let (proxy, asked, connections) = socks_proxy(address);
    let mut agent = start(site(), &["--proxy", &format!("socks5://{proxy}"), "--backoff-min", "10ms"], &[]);
    gateway.wait_for("connected");
    assert_eq!(get(address, "/"), (200, "hello".to_owned()));
    assert_eq!(*asked.lock().unwrap(), ["gateway.test:8080"]);
    // The proxy lets go in the middle of the session.
    for connection in connections.lock().unwrap().drain(..) {
        connection.shutdown(Shutdown::Both).unwrap();
    }
    agent.wait_for("trying again");
    gateway.wait_for("disconnected: ");
    gateway.wait_for("connected");
    assert_eq!(get(address, "/"), (200, "hello".to_owned()));
    assert_eq!(asked.lock().unwrap().len(), 2);
}

#[test]
fn a_variable_that_is_another_programs_stops_nobody_who_does_not_obey_it() {
    let (mut gateway, address) = Program::gateway(&["--hold", "0s"]);
    let (proxy, _) = http_proxy(address, "");
    let url = format!("http://{proxy}");
    let variables = [("HTTPS_PROXY", "https://corp:8443"), ("ALL_PROXY", "https://corp:8443")];
    // One that was typed, and a gateway that no proxy is on the way to.
    let mut agent = start(site(), &["--proxy", &url], &variables);
    gateway.wait_for("connected");
    agent.signal("TERM");
    agent.wait();
    let (near, site) = (format!("ws://shop.localhost:{}", address.port()), format!("http://{}", site()));
    let usual = ["check", "--tunnel-id", TUNNEL_ID, "--gateway", &near, "--local", &site];
    for options in [&[][..], &["--proxy", "none"], &["--proxy", "http://127.0.0.1:1"]] {
        let agent = std::process::Command::new(env!("CARGO_BIN_EXE_agent"));
        let arguments = [&usual[..], options].concat();
        let output = { agent }.env_clear().envs(variables).args(arguments).output().unwrap();
        let printed = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        // Only one that was named for this says that it is not needed.
        let is_named = options.last().is_some_and(|proxy| proxy.starts_with("http"));
        assert_eq!(printed.matches("proxy").count(), usize::from(is_named), "{printed}");
    }
    let mut agent = start(self::site(), &[], &variables);
    assert_eq!(agent.wait().code(), Some(2));
    let wanted = "the variable ALL_PROXY: a proxy begins with http:// or socks5://; others, such as https://, are not supported; --proxy none dials directly";
    assert!(agent.log.join("\n").contains(wanted), "{:?}", agent.log);
}

#[test]
fn a_reload_says_which_proxy_is_on_the_way_now() {
    let (_gateway, address) = Program::gateway(&["--hold", "0s"]);
    let (first, second) = (http_proxy(address, "").0, http_proxy(address, "").0);
    let path = std::env::temp_dir().join(format!("proxy-{}.conf", std::process::id()));
    let site = site();
    let write = |proxy: &str| {
        let lines = format!("gateway = {GATEWAY}\nlocal = http://{site}\nproxy = {proxy}\n");
        std::fs::write(&path, lines).unwrap();
    };
    write(&format!("http://me:s3cret@{first}"));
    let config = ["--config", path.to_str().unwrap()];
    let mut agent = Program::start(env!("CARGO_BIN_EXE_agent"), &config, &[("TUNNEL_ID", TUNNEL_ID)]);
    // A proxy with a password is a credential.
    let line = agent.wait_for("holds a credential (proxy)");
    assert!(line.contains("chmod 600"), "{line}");
    agent.wait_for(" is open → ");
    write(&second.to_string());
    agent.signal("HUP");
    agent.wait_for(&format!("is reached through the proxy http://{second}"));
    write("none");
    agent.signal("HUP");
    agent.wait_for(&format!("gateway {GATEWAY}/ws is dialled directly from now on"));
    std::fs::remove_file(path).unwrap();
    assert!(!agent.log.join("\n").contains("s3cret"));
}

#[test]
fn a_password_for_the_proxy_is_shown_to_it_and_to_nobody_else() {
    let (mut gateway, address) = Program::gateway(&["--hold", "0s"]);
    let (proxy, _) = http_proxy(address, PASSWORD);
    let url = format!("http://me:s3cret@{proxy}");
    let mut agent = start(site(), &[], &[("TUNNEL_AGENT_PROXY", &url), ("RUST_LOG", "trace")]);
    gateway.wait_for("connected");
    agent.signal("TERM");
    agent.wait();
    assert!(!agent.log.join("\n").contains("s3cret"), "{:?}", agent.log);

    let mut agent = start(site(), &["--max-retries", "1"], &[("ALL_PROXY", &format!("http://{proxy}"))]);
    let line = agent.wait_for("cannot reach gateway");
    let wanted = "(from the variable ALL_PROXY): it wants a user name and password;";
    assert!(line.contains(wanted) && line.contains("TUNNEL_AGENT_PROXY"), "{line}");

    // Every user of the machine sees a command line.
    let mut agent = start(site(), &["--proxy", &url], &[]);
    assert_eq!(agent.wait().code(), Some(2));
    let log = agent.log.join("\n");
    assert!(log.contains("--proxy: every user of this machine can read a password there"), "{log}");
    assert!(!log.contains("s3cret"), "{log}");
    let mut agent = start(site(), &[], &[("ALL_PROXY", "https://me:s3cret@proxy.test")]);
    assert_eq!(agent.wait().code(), Some(2));
    assert!(!agent.log.join("\n").contains("s3cret"), "{:?}", agent.log);
}

#[test]
fn a_gateway_of_this_machine_is_dialled_directly() {
    let (_gateway, address) = Program::gateway(&["--hold", "0s"]);
    let environment = [("ALL_PROXY", "http://127.0.0.1:1"), ("HTTPS_PROXY", "http://127.0.0.1:1")];
    let (url, site) = (format!("ws://{address}"), format!("http://{}", site()));
    let usual = ["--tunnel-id", TUNNEL_ID, "--gateway", &url, "--local", &site];
    for options in [&[][..], &["--proxy", "http://127.0.0.1:1"]] {
        let mut agent =
            Program::start(env!("CARGO_BIN_EXE_agent"), &[&usual, options].concat(), &environment);
        agent.wait_for(" is open → ");
        let of_proxies: Vec<_> = agent.log.iter().filter(|line| line.contains("proxy")).collect();
        let unused = "the proxy has no effect: gateways on this machine are dialled directly";
        // What the environment says is for other programs, too.
        assert_eq!(of_proxies.len(), options.len() / 2, "{of_proxies:?}");
        assert!(of_proxies.iter().all(|line| line.ends_with(unused)), "{of_proxies:?}");
    }
}

#[test]
fn proxies_that_hang_refuse_or_are_none_are_named() {
    let silent = serve(|mut socket| drop(socket.read_to_end(&mut Vec::new())));
    let refusing = serve(|mut socket| {
        read_head(&mut BufReader::new(socket.try_clone().unwrap()));
        let _ = socket.write_all(b"HTTP/1.1 403 Filtered\r\nContent-Length: 0\r\n\r\n");
    });
    let hasty = serve(drop);
    let other = serve(|mut socket| drop(socket.write_all(b"220 mail.test ESMTP\r\n")));
    let nobody = SocketAddr::from(([127, 0, 0, 1], 1));
    for (proxy, scheme, what, advice) in [
        (refusing, "http", "it answered CONNECT with 403 Forbidden", "have the proxy allow it"),
        (other, "http", "it is no such proxy: its answer is not HTTP", "check the proxy (--proxy"),
        (other, "socks5", "it is no such proxy: its answer is not SOCKS5", "check the proxy (--proxy"),
        (nobody, "http", "cannot connect to 127.0.0.1:1: Connection refused", "check the proxy (--proxy"),
    ] {
        let url = format!("{scheme}://{proxy}");
        let options = ["--proxy", &url, "--connect-timeout", "60s", "--max-retries", "1"];
        let mut agent = start(site(), &options, &[]);
        let line = agent.wait_for("cannot reach gateway");
        assert!(line.contains(&format!("the proxy {url}: {what}")) && line.contains(advice), "{line}");
    }
    for scheme in ["http", "socks5"] {
        let url = format!("{scheme}://{silent}");
        let options = ["--proxy", &url, "--connect-timeout", "100ms", "--max-retries", "1"];
        let line = start(site(), &options, &[]).wait_for("cannot reach gateway");
        assert!(line.contains(&format!("the proxy {url}: no answer in time")), "{line}");
        // Its end, or a reset.
        let url = format!("{scheme}://{hasty}");
        let line =
            start(site(), &["--proxy", &url, "--max-retries", "1"], &[]).wait_for("cannot reach gateway");
        let ends = ["the connection was closed", "Connection reset by peer", "Broken pipe"];
        assert!(ends.iter().any(|end| line.contains(&format!("the proxy {url}: {end}"))), "{line}");
    }
}

#[test]
fn a_check_has_a_step_for_the_proxy() {
    let (_gateway, address) = Program::gateway(&[]);
    let (proxy, _) = http_proxy(address, "");
    let (wanting, _) = http_proxy(address, PASSWORD);
    let site = format!("http://{}", site());
    for (proxy, wanted, code) in [
        (proxy, format!("PASS  proxy              http://{proxy} has connected to the gateway"), 0),
        (wanting, format!("FAIL  proxy              the proxy http://{wanting}: it wants a user name"), 1),
    ] {
        let url = format!("http://{proxy}");
        let check =
            ["check", "--tunnel-id", TUNNEL_ID, "--gateway", GATEWAY, "--local", &site, "--proxy", &url];
        let agent = std::process::Command::new(env!("CARGO_BIN_EXE_agent"));
        let output = { agent }.env_clear().args(check).output().unwrap();
        let printed = String::from_utf8(output.stdout).unwrap();
        assert!(printed.contains(&wanted), "{printed}");
        assert_eq!(output.status.code(), Some(code), "{printed}");
    }
}

#[test]
fn the_upgrade_carries_headers_for_an_access_gateway_as_its_file_holds_them_now() {
    let path = std::env::temp_dir().join(format!("upgrade-headers-{}", std::process::id()));
    std::fs::write(&path, "# Access\nCF-Access-Client-Id: 7f3a\nAuthorization: Basic eDp5\n").unwrap();
    let gateway = ScriptedGateway::start();
    let url = gateway.url();
    let usual =
        ["--tunnel-id", TUNNEL_ID, "--gateway", &url, "--backoff-min", "10ms", "--backoff-max", "10ms"];
    let options = ["--upgrade-headers-file", path.to_str().unwrap()];
    let heads = |environment: &[(&str, &str)], options: &[&str], refresh: &dyn Fn()| {
        let mut agent = Program::start(env!("CARGO_BIN_EXE_agent"), &[&usual, options].concat(), environment);
        let read = || read_head(&mut BufReader::new(gateway.accept_raw()));
        let first = read();
        refresh();
        let second = read();
        agent.wait_for("trying again");
        assert!(!agent.log.join("\n").contains("7f3a"));
        (first, second)
    };
    let (first, second) = heads(&[("RUST_LOG", "trace")], &options, &|| {
        std::fs::write(&path, "CF-Access-Client-Id: 8f4b\n").unwrap();
    });
    assert!(first.contains("\r\ncf-access-client-id: 7f3a\r\nauthorization: basic edp5\r\n"), "{first}");
    assert!(second.contains("\r\ncf-access-client-id: 8f4b\r\n"), "{second}");
    // One that cannot be used changes nothing; and the token goes first.
    std::fs::write(&path, "X-Access: 1\nAuthorization: Basic eDp5\n").unwrap();
    let (first, second) = heads(&[("TUNNEL_AGENT_TOKEN", "sesame")], &options, &|| {
        std::fs::write(&path, "Host: x\n").unwrap();
    });
    for head in [first, second] {
        assert!(head.contains("\r\nx-access: 1\r\nauthorization: bearer sesame\r\n"), "{head}");
        assert_eq!(head.matches("authorization").count(), 1, "{head}");
    }
    let (first, _) = heads(&[("TUNNEL_AGENT_UPGRADE_HEADERS", "X-A: 1\nX-B: 2\n")], &[], &|| {});
    assert!(first.contains("\r\nx-a: 1\r\nx-b: 2\r\n"), "{first}");
    let mut agent = Program::start(env!("CARGO_BIN_EXE_agent"), &[&usual[..], &options[..]].concat(), &[]);
    assert_eq!(agent.wait().code(), Some(2));
    assert!(
        agent.log.join("\n").contains("line 1 sets Host, which is the gateway's own name"),
        "{:?}",
        agent.log
    );
    std::fs::remove_file(path).unwrap();
}
