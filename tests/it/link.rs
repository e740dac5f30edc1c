//! TLS on the way to the gateway and to the local server: who is trusted and who is not, with certificates
//! made on the spot; and both directions at once.
#![cfg(feature = "tls")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use crate::support::{Folder, Program};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use tungstenite::Message;
use tunnel_agent::unversioned::link::{DialConfig, DialError, Dialer};
use tunnel_agent::unversioned::net::{ConnectError, Socket, TrustStore, tls};
use tunnel_agent::{Agent, BackoffConfig, Body, FailureKind, Origin, Request, Service, Timeouts, Trust};

struct Authority(CertifiedIssuer<'static, KeyPair>);

/// When a certificate is valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Validity {
    Current,
    Expired,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "Test authority");
        Authority(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn pem(&self) -> String {
        self.0.pem()
    }

    /// Certificate and key for this name, as PEM.
    fn issue(&self, name: &str, validity: Validity) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        if validity == Validity::Expired {
            params.not_before = rcgen::date_time_ymd(2001, 1, 1);
            params.not_after = rcgen::date_time_ymd(2002, 1, 1);
        }
        (params.signed_by(&key, &self.0).unwrap().pem(), key.serialize_pem())
    }
}

/// A TLS server on loopback whose every connection is handled by `handle`.
fn serve_tls(
    folder: &Folder,
    (certificate, key): (String, String),
    handle: impl Fn(Socket) + Send + Sync + 'static,
) -> SocketAddr {
    let config =
        tls::server(&[(folder.write("cert.pem", &certificate), folder.write("key.pem", &key))], None)
            .unwrap();
    crate::support::serve(move |tcp| {
        // A client that does not trust the certificate ends the handshake.
        if let Ok(socket) = Socket::plain(tcp).and_then(|socket| socket.accept_tls(&config)) {
            handle(socket);
        }
    })
}

/// Takes WebSockets, and sends a text message on each.
fn greet(socket: Socket) {
    if let Ok(mut websocket) = tungstenite::accept(socket) {
        let _ = websocket.send(Message::text("hello"));
        while websocket.read().is_ok() {}
    }
}

fn dial(url: &str, trust: &Trust) -> Result<(), DialError> {
    let tls = TrustStore::open(trust.clone(), None).unwrap();
    let config = DialConfig {
        url: url.parse().unwrap(),
        proxy: None,
        token: None,
        upgrade_headers: None,
        tls: Some(tls),
        timeout: crate::support::LIMIT,
        max_message: 1 << 20,
    };
    let mut link = Dialer::new(config).dial()?;
    let first = link.reader.read();
    assert!(matches!(first, Ok(tunnel_agent::unversioned::link::Received::Text(text)) if text == "hello"));
    Ok(())
}

#[track_caller]
fn check(
    name: &str,
    validity: Validity,
    host: &str,
    trust: impl Fn(&Folder, &Authority) -> Trust,
    expected: Result<(), &str>,
) {
    let folder = Folder::new();
    let authority = Authority::new();
    let gateway = serve_tls(&folder, authority.issue(name, validity), greet);
    let url = format!("wss://{host}:{}/ws", gateway.port());
    let trust = trust(&folder, &authority);
    match (dial(&url, &trust), expected) {
        (Ok(()), Ok(())) => {}
        (Err(DialError::Connect(ConnectError::Tls(error))), Err(text)) => {
            assert!(error.to_string().contains(text), "{error}");
        }
        (got, expected) => panic!("expected {expected:?}: {got:?}"),
    }

    // The same for a local server.
    let site = serve_tls(&folder, authority.issue(name, validity), |mut socket| {
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") && matches!(socket.read(&mut byte), Ok(1)) {
            head.push(byte[0]);
        }
        let _ = socket.write_all(&crate::support::ok("hello")).and_then(|()| socket.flush());
    });
    let local = format!("https://{host}:{}", site.port()).parse().unwrap();
    let origin = Origin::new(local, None, Some(TrustStore::open(trust, None).unwrap()), Timeouts::default());
    let answer = origin.call(Request::new(Body::empty()));
    match (answer, expected) {
        (Ok(response), Ok(())) => assert_eq!(response.into_body().into_bytes(10).unwrap(), b"hello"),
        (Err(failure), Err(text)) => {
            assert_eq!(failure.kind(), FailureKind::Unreachable);
            // Visitors are not told about certificates.
            assert_eq!((failure.to_string().as_str(), text.is_empty()), ("TLS failed", false));
        }
        (got, expected) => panic!("expected {expected:?}: {got:?}"),
    }
}

fn ca_file(folder: &Folder, authority: &Authority) -> Trust {
    Trust::File(folder.write("ca.pem", &authority.pem()))
}

#[test]
fn a_good_certificate_is_taken_by_name_and_by_address() {
    check("localhost", Validity::Current, "localhost", ca_file, Ok(()));
    check("127.0.0.1", Validity::Current, "127.0.0.1", ca_file, Ok(()));
}

#[test]
fn an_unknown_authority_is_not() {
    check("localhost", Validity::Current, "localhost", |_, _| Trust::System, Err("UnknownIssuer"));
    let other =
        |folder: &Folder, _: &Authority| Trust::File(folder.write("other.pem", &Authority::new().pem()));
    check("localhost", Validity::Current, "localhost", other, Err("invalid peer certificate"));
}

#[test]
fn a_wrong_name_is_not() {
    check("example.org", Validity::Current, "localhost", ca_file, Err("not valid for name"));
}

/// What `agent check` prints of TLS with this gateway.
#[track_caller]
fn check_tls(folder: &Folder, authority: &Authority, gateway: &SocketAddr) -> String {
    let url = format!("wss://localhost:{}", gateway.port());
    let ca_file = folder.write("ca.pem", &authority.pem());
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_agent"))
        .env_clear()
        .args(["check", "--tunnel-id", crate::support::TUNNEL_ID, "--gateway", &url, "--ca-file"])
        .arg(ca_file)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let printed = String::from_utf8(output.stdout).unwrap();
    let line = printed.lines().find(|line| line.contains("  TLS  ")).unwrap_or_else(|| panic!("{printed}"));
    line.to_owned()
}

#[test]
fn the_hint_for_a_wrong_name_is_another_name() {
    let folder = Folder::new();
    let authority = Authority::new();
    let gateway = serve_tls(&folder, authority.issue("example.org", Validity::Current), greet);
    let line = check_tls(&folder, &authority, &gateway);
    assert!(line.contains("give in --gateway a name that the certificate has"), "{line}");
}

#[test]
fn an_expired_certificate_is_not() {
    check("localhost", Validity::Expired, "localhost", ca_file, Err("expired"));
}

#[test]
fn a_check_tells_dates_and_issuer_of_a_certificate() {
    let (folder, authority) = (Folder::new(), Authority::new());
    let gateway = serve_tls(&folder, authority.issue("localhost", Validity::Expired), greet);
    let line = check_tls(&folder, &authority, &gateway);
    assert!(line.starts_with("  FAIL"), "{line}");
    for said in
        ["expired", "issued by Test authority", "from 2001-01-01 to 2002-01-01 (expired)", "renew the"]
    {
        assert!(line.contains(said), "{said} in {line}");
    }
}

#[test]
fn insecure_takes_them_all() {
    for (name, validity) in [
        ("localhost", Validity::Current),
        ("example.org", Validity::Current),
        ("localhost", Validity::Expired),
    ] {
        check(name, validity, "localhost", |_, _| Trust::AcceptAnyCertificate, Ok(()));
    }
}

#[test]
fn a_large_upload_is_not_cut_short_by_what_only_tls_has_to_say() {
    let folder = Folder::new();
    let authority = Authority::new();
    // After its handshake the server sends session tickets, which are no answer.
    let site = serve_tls(&folder, authority.issue("localhost", Validity::Current), |socket| {
        let mut reader = std::io::BufReader::new(socket);
        while let Some(request) = crate::support::read_request(&mut reader) {
            let answer = crate::support::ok(&request.body.len().to_string());
            let _ = reader.get_mut().write_all(&answer).and_then(|()| reader.get_mut().flush());
        }
    });
    let trust = ca_file(&folder, &authority);
    let local = format!("https://localhost:{}", site.port()).parse().unwrap();
    let origin = Origin::new(local, None, Some(TrustStore::open(trust, None).unwrap()), Timeouts::default());
    for _ in 0..3 {
        let mut request = Request::new(Body::from(vec![b'x'; 8 << 20]));
        *request.method_mut() = http::Method::POST;
        let body = origin.call(request).unwrap().into_body().into_bytes(100).unwrap();
        assert_eq!(body, (8 << 20).to_string().as_bytes());
    }
}

#[test]
fn another_protocol_may_end_without_close_notify() {
    let folder = Folder::new();
    let authority = Authority::new();
    // It closes its connection as many servers do: nothing of TLS says so.
    let site = serve_tls(&folder, authority.issue("localhost", Validity::Current), |mut socket| {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            socket.read_exact(&mut byte).unwrap();
            head.push(byte[0]);
        }
        let switched =
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: chat\r\n\r\nlast word";
        socket.write_all(switched).and_then(|()| socket.flush()).unwrap();
    });
    let trust = ca_file(&folder, &authority);
    let local = format!("https://localhost:{}", site.port()).parse().unwrap();
    let origin = Origin::new(local, None, Some(TrustStore::open(trust, None).unwrap()), Timeouts::default());
    let mut request = Request::new(Body::empty());
    let headers = request.headers_mut();
    headers.insert(http::header::CONNECTION, http::HeaderValue::from_static("Upgrade"));
    headers.insert(http::header::UPGRADE, http::HeaderValue::from_static("chat"));
    let response = origin.call(request).unwrap();
    assert_eq!(response.status(), http::StatusCode::SWITCHING_PROTOCOLS);
    assert_eq!(response.into_body().into_bytes(100).unwrap(), b"last word");
}

#[test]
fn the_programs_speak_tls_on_every_leg() {
    let folder = Folder::new();
    let authority = Authority::new();
    let (certificate, key) = authority.issue("localhost", Validity::Current);
    let trust = ca_file(&folder, &authority);
    let paths = ["cert.pem", "key.pem", "ca.pem"].map(|name| folder.0.join(name).display().to_string());
    folder.write("cert.pem", &certificate);
    folder.write("key.pem", &key);
    let (mut gateway, address) = Program::gateway(&["--tls-cert", &paths[0], "--tls-key", &paths[1]]);
    let site = crate::support::serve_http(|request| crate::support::ok(&request.head));
    let (url, local) = (format!("wss://localhost:{}", address.port()), format!("http://{site}"));
    let arguments = [
        "--tunnel-id",
        crate::support::TUNNEL_ID,
        "--gateway",
        &url,
        "--local",
        &local,
        "--ca-file",
        &paths[2],
    ];
    let _agent = Program::agent(&arguments);
    gateway.wait_for("agent agent_550e…_prod connected");

    let tls = tls::client(&trust, None).unwrap();
    let tcp = std::net::TcpStream::connect(address).unwrap();
    let mut client = Socket::plain(tcp).unwrap().start_tls("localhost", &tls).unwrap();
    client.write_all(b"GET /x HTTP/1.1\r\nHost: public.example\r\nConnection: close\r\n\r\n").unwrap();
    client.flush().unwrap();
    let mut response = Vec::new();
    client.read_to_end(&mut response).unwrap();
    let (status, head) = crate::support::split(&response);
    assert!(status == 200 && head.contains("x-forwarded-proto: https"), "{head}");
}

#[test]
fn a_reload_reads_the_authorities_of_local_servers_again() {
    let folder = Folder::new();
    let (old, new) = (Authority::new(), Authority::new());
    let https = |authority: &Authority| {
        let (certificate, key) = authority.issue("localhost", Validity::Current);
        let files = [(folder.write("cert.pem", &certificate), folder.write("key.pem", &key))];
        let config = tls::server(&files, None).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        std::thread::spawn(move || {
            for socket in listener.incoming().flatten() {
                let Ok(socket) = Socket::plain(socket).unwrap().accept_tls(&config) else { continue };
                let mut reader = std::io::BufReader::new(socket);
                while crate::support::read_request(&mut reader).is_some() {
                    let answer = crate::support::ok("local");
                    let _ = reader.get_mut().write_all(&answer).and_then(|()| reader.get_mut().flush());
                }
            }
        });
        port
    };
    let (first, second) = (https(&old), https(&new));
    let trust = ca_file(&folder, &old);
    let Trust::File(path) = &trust else { panic!("a file") };
    let gateway = tunnel_agent::gateway::Gateway::builder().listen("127.0.0.1:0".parse().unwrap());
    let gateway = gateway.build().unwrap().bind().unwrap().spawn().unwrap();
    let mut builder = Agent::builder(crate::support::TUNNEL_ID.parse().unwrap());
    builder.set("gateway", &format!("ws://{}", gateway.address())).unwrap();
    builder.set("local", &format!("https://localhost:{first}")).unwrap();
    builder.set("route", &format!("/new=https://localhost:{second}")).unwrap();
    let builder = builder.local_trust(trust.clone());
    let agent = builder.clone().build().unwrap().spawn().unwrap();
    agent.handle().wait_connected(crate::support::LIMIT).unwrap();
    let status = |path: &str| crate::support::get(gateway.address(), path).0;
    assert_eq!((status("/"), status("/new")), (200, 502));
    // The same path, and another authority in it.
    let renewed = ca_file(&folder, &new);
    assert_eq!(renewed, trust, "{}", path.display());
    agent.handle().reload(&builder).unwrap();
    assert_eq!(status("/new"), 200);
    agent.handle().shutdown(Duration::ZERO);
    agent.join().unwrap();
    gateway.handle().abort();
    gateway.join().unwrap();
}

#[test]
fn a_client_gets_the_certificate_with_the_name_that_it_asks_for() {
    let folder = Folder::new();
    let authority = Authority::new();
    let trust = tls::client(&ca_file(&folder, &authority), None).unwrap();
    let mut arguments = Vec::new();
    for (index, name) in ["*.tunnel.example", "tunnel.example", "www.shop.example"].into_iter().enumerate() {
        let (certificate, key) = authority.issue(name, Validity::Current);
        for (flag, file, content) in [("--tls-cert", "cert", certificate), ("--tls-key", "key", key)] {
            let path = folder.write(&format!("{file}-{index}.pem"), &content);
            arguments.extend([flag.to_owned(), path.display().to_string()]);
        }
    }
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let (_gateway, address) = Program::gateway(&arguments);
    let connect = |name: &str| {
        let tcp = std::net::TcpStream::connect(address).unwrap();
        Socket::plain(tcp).unwrap().start_tls(name, &trust).map(drop)
    };
    for name in ["shop.tunnel.example", "blog.tunnel.example", "tunnel.example", "www.shop.example"] {
        assert!(connect(name).is_ok(), "{name}: {:?}", connect(name));
    }
    // The first is shown to one that asks for another name, which does not believe it.
    assert!(connect("other.example").is_err());
    let mut incomplete = Program::start(env!("CARGO_BIN_EXE_gateway"), &arguments[..2], &[]);
    incomplete.wait_for("--tls-cert and --tls-key belong together");
}

#[test]
fn files_that_cannot_be_used_are_named() {
    let folder = Folder::new();
    let empty = folder.write("empty.pem", "");
    for path in [&empty, Path::new("/nowhere/ca.pem")] {
        let error = tls::client(&Trust::File(path.to_owned()), None).unwrap_err().to_string();
        assert!(error.starts_with(&path.display().to_string()), "{error}");
    }
    let (certificate, key) = Authority::new().issue("localhost", Validity::Current);
    let (_, other_key) = Authority::new().issue("localhost", Validity::Current);
    let certificate = folder.write("cert.pem", &certificate);
    let server = |key: PathBuf| tls::server(&[(certificate.clone(), key)], None);
    assert!(server(folder.write("key.pem", &key)).is_ok());
    let error = server(folder.write("other.pem", &other_key)).unwrap_err().to_string();
    assert!(error.contains("cert.pem"), "{error}");
    assert!(server(empty).is_err());
}

#[test]
fn both_directions_run_at_once_under_tls() {
    let folder = Folder::new();
    let authority = Authority::new();
    let trust = ca_file(&folder, &authority);
    let config = {
        let (certificate, key) = authority.issue("localhost", Validity::Current);
        tls::server(&[(folder.write("cert.pem", &certificate), folder.write("key.pem", &key))], None).unwrap()
    };
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("wss://localhost:{}", listener.local_addr().unwrap().port());
    let agent = Agent::builder(crate::support::TUNNEL_ID.parse().unwrap())
        .gateway(url.parse().unwrap())
        .gateway_trust(trust)
        .backoff(BackoffConfig { min: Duration::from_millis(20), ..BackoffConfig::default() })
        .service(|request: Request| Ok(http::Response::new(request.into_body())))
        .build()
        .unwrap();
    let agent = agent.spawn().unwrap();

    let socket = Socket::plain(listener.accept().unwrap().0).unwrap().accept_tls(&config).unwrap();
    let mut websocket = tungstenite::accept(socket).unwrap();
    let mut half = websocket.get_mut().split().unwrap();
    let writer = thread::spawn(move || {
        let body = "x".repeat(256 << 10);
        let mut frames =
            tunnel_agent::unversioned::link::MessageWriter::new(tungstenite::protocol::Role::Server);
        for id in 0..40 {
            let payload = format!("{{\"id\":{id},\"method\":\"POST\",\"path\":\"/\",\"body\":\"{body}\"}}");
            let text = format!("{{\"message_type\":\"request\",\"payload\":{payload}}}");
            frames.push(&tunnel_agent::unversioned::link::Outbound::Text(text.into_bytes().into()));
            frames.push(&tunnel_agent::unversioned::link::Outbound::Ping(b"7"[..].into()));
        }
        while !frames.is_empty() {
            frames.write_step(&mut half).unwrap();
        }
        half
    });
    let mut answers = 0;
    while answers < 40 {
        match websocket.read().unwrap() {
            Message::Text(text) if !text.starts_with("{\"tunnel_id\"") => {
                let reply = crate::support::Reply::read(&text);
                assert!(reply.status == Some(200) && reply.text.len() == 256 << 10);
                answers += 1;
            }
            _ => {}
        }
    }
    drop((writer.join().unwrap(), websocket));
    agent.handle().shutdown(Duration::ZERO);
    agent.join().unwrap();
}

/// A gateway with TLS and a door for agents of these authorities; the address of its visitors, and that of its agents.
fn gateway_with_agents_door(folder: &Folder, authority: &Authority) -> (Program, SocketAddr, SocketAddr) {
    let (certificate, key) = authority.issue("localhost", Validity::Current);
    let paths = [("server.pem", certificate), ("server.key", key), ("agents.pem", authority.pem())]
        .map(|(name, content)| folder.write(name, &content).display().to_string());
    let options = ["--tls-cert", &paths[0], "--tls-key", &paths[1], "--client-ca", &paths[2]];
    let names = format!("shop = {}\n", crate::support::OTHER_TUNNEL_ID);
    let names = folder.write("names", &names).display().to_string();
    let doors =
        ["--listen-agents", "127.0.0.1:0", "--hold", "0s", "--domain", "tunnel.example", "--names", &names];
    let (gateway, visitors) = Program::gateway(&[&options[..], &doors].concat());
    let agents = agents_address(&gateway, "wss");
    (gateway, visitors, agents)
}

/// Where agents connect, as the log says.
fn agents_address(gateway: &Program, scheme: &str) -> SocketAddr {
    let before = format!("agents connect to {scheme}://");
    let url = gateway.log.iter().find_map(|line| line.split(&before).nth(1)).unwrap();
    url.split('/').next().unwrap().parse().unwrap()
}

/// The head and body of a response over TLS.
fn get_secure(address: SocketAddr, trust: &Trust, head: &str) -> std::io::Result<(u16, String)> {
    let tls = tls::client(trust, None).unwrap();
    let mut client = Socket::plain(std::net::TcpStream::connect(address)?)?.start_tls("localhost", &tls)?;
    client.set_read_timeout(Some(crate::support::LIMIT))?;
    client.write_all(head.as_bytes())?;
    client.flush()?;
    let mut response = Vec::new();
    client.read_to_end(&mut response)?;
    Ok(crate::support::split(&response))
}

#[test]
fn agents_come_in_by_a_door_of_their_own_with_a_certificate() {
    let folder = Folder::new();
    let (authority, other) = (Authority::new(), Authority::new());
    let (mut gateway, visitors, agents) = gateway_with_agents_door(&folder, &authority);
    let trust = ca_file(&folder, &authority);
    let ca = folder.0.join("ca.pem").display().to_string();
    let site = format!("http://{}", crate::support::serve_http(|_| crate::support::ok("hello")));
    let identity = |authority: &Authority| {
        let (certificate, key) = authority.issue("agent", Validity::Current);
        folder.write("agent.pem", &certificate);
        folder.write("agent.key", &key);
    };
    let [certificate, key] = ["agent.pem", "agent.key"].map(|name| folder.0.join(name).display().to_string());
    let own = ["--client-cert", &certificate, "--client-key", &key];
    let start = |port: u16, more: &[&str]| {
        let url = format!("wss://localhost:{port}");
        let usual =
            ["--tunnel-id", crate::support::TUNNEL_ID, "--gateway", &url, "--local", &site, "--ca-file", &ca];
        let quick = ["--backoff-min", "10ms", "--backoff-max", "10ms", "--max-retries", "0"];
        Program::agent(&[&usual[..], &quick, more].concat())
    };
    let wanted = "the gateway wants a certificate of yours, or another one: see --client-cert";
    let line = start(agents.port(), &[]).wait_for("cannot reach gateway");
    assert!(line.contains("CertificateRequired") && line.contains(wanted), "{line}");
    // A certificate of others does no better; one that is renewed is shown with the next dial.
    identity(&other);
    let mut agent = start(agents.port(), &own);
    let line = agent.wait_for("cannot reach gateway");
    assert!(line.contains(wanted), "{line}");
    identity(&authority);
    gateway.wait_for("connected");
    let page = "GET /x HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    assert_eq!(get_secure(visitors, &trust, page).unwrap(), (200, "hello".to_owned()));
    // Browsers are asked for no certificate at the visitors' door, and agents have no business there.
    let line = start(visitors.port(), &own).wait_for("cannot reach gateway");
    assert!(line.contains("421 Misdirected Request"), "{line}");
    assert!(line.contains("agents connect to another port or path of that gateway"), "{line}");
    assert!(get_secure(agents, &trust, page).is_err());
    // Whatever the host: one that is reserved for a tunnel, and no token.
    agent.signal("TERM");
    agent.wait();
    gateway.wait_for("disconnected: ");
    let shown =
        tls::ClientIdentity { certificates: folder.0.join("agent.pem"), key: folder.0.join("agent.key") };
    let upgrade = "GET /ws HTTP/1.1\r\nHost: shop.tunnel.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                   Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    let config = tls::client(&trust, Some(&shown)).unwrap();
    let tcp = std::net::TcpStream::connect(agents).unwrap();
    let mut socket = Socket::plain(tcp).unwrap().start_tls("localhost", &config).unwrap();
    socket.write_all(upgrade.as_bytes()).and_then(|()| socket.flush()).unwrap();
    let mut status = [0; 12];
    socket.read_exact(&mut status).unwrap();
    assert_eq!(&status, b"HTTP/1.1 101");
    drop(socket);
    let line = {
        let _stranger = start(agents.port(), &[]);
        gateway.wait_for("to the agents' address: TLS failed: ")
    };
    assert!(line.contains("peer sent no certificates"), "{line}");
    // The authorities are read again on SIGHUP.
    folder.write("agents.pem", &other.pem());
    gateway.signal("HUP");
    gateway.wait_for("read the certificates again");
    let line = start(agents.port(), &own).wait_for("cannot reach gateway");
    assert!(line.contains(wanted), "{line}");
    // Who only looks whether the port is open has failed at nothing, and nor has the gateway that stops.
    drop(std::net::TcpStream::connect(agents).unwrap());
    gateway.signal("TERM");
    gateway.wait();
    let log = gateway.log.join("\n");
    assert!(!log.contains("unexpected end of file"), "{log}");
}

#[test]
fn a_door_for_agents_alone_needs_no_certificates() {
    let (gateway, visitors) = Program::gateway(&["--listen-agents", "127.0.0.1:0", "--hold", "0s"]);
    let agents = agents_address(&gateway, "ws");
    let (status, body) = crate::support::get(agents, "/");
    assert!(status == 421 && body.contains("\"agents_only\""), "{body}");
    // Balancers ask there, too.
    assert_eq!(crate::support::get(agents, "/.tunnel/health").0, 200);
    assert_eq!(crate::support::get(agents, "/.tunnel/ready").0, 503);
    assert_eq!(crate::support::get(agents, "/.tunnel/connections").0, 421);
    let upgrade = "GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    let response = crate::support::http(visitors, upgrade.as_bytes());
    let (status, body) = crate::support::split(&response);
    assert!(status == 421 && body.contains("\"agents_elsewhere\""), "{body}");
    assert_eq!(crate::support::get(visitors, "/.tunnel/health").0, 200);
    for (options, error) in [
        (&["--client-ca", "/x"][..], "--client-ca needs --listen-agents"),
        (&["--client-ca", "/x", "--listen-agents", "0"], "--client-ca needs --tls-cert and --tls-key"),
    ] {
        let mut gateway = Program::start(env!("CARGO_BIN_EXE_gateway"), options, &[]);
        gateway.wait_for(error);
    }
    let half = ["8000", "--client-cert", "/x"];
    let mut agent = Program::agent(&half);
    agent.wait_for("--client-cert needs --client-key");
    let mut agent =
        Program::agent(&["8000", "--gateway", "wss://x.test", "--client-cert", "/x", "--client-key", "/y"]);
    agent.wait_for("--client-cert: /x: No such file");
}
