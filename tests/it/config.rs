//! The configuration file with the real binaries: several tunnels in one process, what beats what, what is refused, and a
//! reload that loses nothing.

use std::fs;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::mpsc;
use std::thread;

use crate::support::{
    Folder, LIMIT, OTHER_TUNNEL_ID, Program, TUNNEL_ID, get, http, ok, read_head, serve, serve_http, split,
    visit,
};

/// The path of the folder's configuration file, which says this now.
fn configure(folder: &Folder, text: &str) -> String {
    folder.write("agent.conf", text).to_str().unwrap().to_owned()
}

/// A site that says its name and the path.
fn site(name: &'static str) -> SocketAddr {
    serve_http(move |request| ok(&format!("{name} {}", request.head.split(' ').nth(1).unwrap())))
}

fn ask(gateway: SocketAddr, host: &str, path: &str) -> (u16, String) {
    let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    split(&http(gateway, request.as_bytes()))
}

fn agent(arguments: &[&str], environment: &[(&str, &str)]) -> Program {
    Program::start(env!("CARGO_BIN_EXE_agent"), arguments, environment)
}

/// Runs the agent to its end.
fn run(arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_agent"));
    command.env_clear().args(arguments).envs(environment.iter().copied()).output().unwrap()
}

#[track_caller]
fn refused(arguments: &[&str], environment: &[(&str, &str)], expected: &str) {
    let output = run(arguments, environment);
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(text.contains(expected), "{text}");
    assert!(!text.contains("s3cret"), "{text}");
}

#[test]
fn one_file_serves_three_tunnels_at_three_names() {
    let (_gateway, address) = Program::gateway(&["--hold", "0s"]);
    let folder = Folder::new();
    let (shop, blog, wiki) = (site("shop"), site("blog"), site("wiki"));
    fs::write(folder.path("blog.id"), format!("{OTHER_TUNNEL_ID}\n")).unwrap();
    fs::write(folder.path("words"), "ann:s3cret\n").unwrap();
    let config = configure(
        &folder,
        &format!(
            "gateway = ws://{address}\nworkers = 3\nadmin = 127.0.0.1:0\nlog-format = text\n\n\
         [tunnel shop]\ntunnel-id = {TUNNEL_ID}\nlocal = http://{shop}\ndeny = /admin/**\n\n\
         [tunnel blog]\ntunnel-id-file = blog.id\nlocal = http://{blog}\nbasic-auth = words\n\n\
         [tunnel third]\nlocal = http://{wiki}\nname = wiki\n"
        ),
    );
    let state = folder.path("state");
    let mut agent = agent(&["--config", &config], &[("XDG_STATE_HOME", state.to_str().unwrap())]);
    let admin = agent.admin();
    for _ in 0..3 {
        agent.wait_for(" is open → ");
    }
    let port = address.port();
    let host = |name: &str| format!("{name}.localhost:{port}");
    assert_eq!(ask(address, &host("shop"), "/x"), (200, "shop /x".to_owned()));
    assert_eq!(ask(address, &host("wiki"), "/x"), (200, "wiki /x".to_owned()));
    // Each has rules and passwords of its own.
    assert_eq!(ask(address, &host("shop"), "/admin/x").0, 403);
    assert_eq!(ask(address, &host("wiki"), "/admin/x").0, 200);
    assert_eq!(ask(address, &host("blog"), "/x").0, 401);
    let request = format!(
        "GET /x HTTP/1.1\r\nHost: {}\r\nAuthorization: Basic YW5uOnMzY3JldA==\r\nConnection: close\r\n\r\n",
        host("blog")
    );
    assert_eq!(split(&http(address, request.as_bytes())), (200, "blog /x".to_owned()));
    // The ID that was made is kept under the section's name.
    assert!(state.join("tunnel-agent/tunnel-id.third").exists());
    // Log, status and metrics tell them apart.
    assert!(agent.wait_for("/admin/x refused").contains("shop: GET"), "{:?}", agent.log);
    let status: serde_json::Value = serde_json::from_str(&get(admin, "/status").1).unwrap();
    let tunnels = status["tunnels"].as_array().unwrap();
    let named = |name: &str| tunnels.iter().find(|tunnel| tunnel["name"] == name).unwrap();
    assert_eq!(named("shop")["url"], format!("http://{}", host("shop")));
    assert_eq!(named("shop")["totals"]["refused"], 1);
    assert_eq!(named("wiki")["totals"]["served"], 2);
    let metrics = get(admin, "/metrics").1;
    for sample in [
        "tunnel_agent_responses_total{tunnel=\"shop\",class=\"2xx\"} 1",
        "tunnel_agent_refused_total{tunnel=\"blog\",code=\"unauthorized\"} 1",
        "tunnel_agent_request_duration_seconds_bucket{tunnel=\"wiki\",le=\"+Inf\"} 2",
        "tunnel_agent_queued 0",
    ] {
        assert!(metrics.contains(sample), "{sample} in\n{metrics}");
    }
    assert_eq!(get(admin, "/readyz").0, 200);
}

#[test]
fn a_flag_beats_a_variable_beats_the_file() {
    let folder = Folder::new();
    let config =
        configure(&folder, &format!("tunnel-id = {TUNNEL_ID}\nlocal = 1\nlocal = 2\ndeny = /file\n"));
    let explained = |arguments: &[&str], environment: &[(&str, &str)], path: &str| {
        let arguments = [&["explain", "GET", path, "--config", &config], arguments].concat();
        String::from_utf8(run(&arguments, environment).stdout).unwrap()
    };
    assert!(explained(&[], &[], "/").contains("http://127.0.0.1:1/"));
    assert!(explained(&[], &[], "/file").contains("decided by: deny /file"));
    assert!(explained(&[], &[("LOCAL_URL", "3")], "/").contains("http://127.0.0.1:3/"));
    assert!(explained(&["--local", "4"], &[("LOCAL_URL", "3")], "/").contains("http://127.0.0.1:4/"));
    // Rules are one setting, however they are given.
    let rules = [("TUNNEL_AGENT_RULES", "deny /variable")];
    assert!(explained(&[], &rules, "/file").contains("forwarded to"));
    assert!(explained(&["--deny", "/typed"], &rules, "/variable").contains("forwarded to"));
    assert!(
        explained(&["--config", "none"][..0], &rules, "/variable").contains("decided by: deny /variable")
    );
    let none = run(&["explain", "GET", "/file", "--config", "none"], &[]);
    assert!(String::from_utf8(none.stdout).unwrap().contains("http://127.0.0.1:8000/file"));
}

#[test]
fn the_users_own_file_is_found_and_named_in_the_log() {
    let folder = Folder::new();
    let home = folder.path("tunnel-agent");
    fs::create_dir_all(&home).unwrap();
    let path = home.join("agent.conf");
    fs::write(
        &path,
        format!("tunnel-id = {TUNNEL_ID}\nmax-retries = 1\ngateway = ws://127.0.0.1:1\nbackoff-min = 1ms\n"),
    )
    .unwrap();
    #[cfg(unix)]
    fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    let mut agent = agent(&[], &[("XDG_CONFIG_HOME", folder.0.to_str().unwrap())]);
    agent.wait_for(&format!("{} holds a credential (tunnel-id), and others can read it", path.display()));
    agent.wait_for(&format!("options are read from {}", path.display()));
    assert_eq!(agent.wait().code(), Some(1));
}

#[test]
fn what_a_file_cannot_mean_is_refused_with_its_line() {
    let folder = Folder::new();
    let id = format!("tunnel-id = {TUNNEL_ID}\n");
    for (text, expected) in [
        (format!("{id}quue = 3\n"), "agent.conf, line 2: there is no option quue; did you mean queue?"),
        (format!("{id}queue = s3cret\n"), "agent.conf, line 2: queue: expected a whole number, not below 0"),
        (format!("{id}queue = 3\nqueue = 4\n"), "line 2: queue and "),
        (format!("{id}rate-wait = 1s\n"), "agent.conf, line 2: rate-wait needs --rate"),
        (format!("{id}open = /x\n"), "agent.conf, line 2: open needs --basic-auth"),
        (
            format!("{id}[tunnel a]\n"),
            "agent.conf, line 1: tunnel-id is one tunnel's: give it in its section",
        ),
        (format!("[tunnel a b]\n{id}"), "agent.conf, line 1: the name of a tunnel: expected 1 to 63"),
        (format!("[tunnel a]\n{id}[tunnel b]\n{id}"), "[tunnel b]: "),
        (format!("[tunnel ../../x]\nname = a\n{id}"), "line 1: the name of a tunnel"),
        (format!("[tunnel a]\n{id}workers = 3\n"), "agent.conf, line 3: workers is the agent's"),
        (format!("[tunnel a]\n{id}[tunnel b]\nburst = 3\n"), "[tunnel b]: "),
        (format!("[tunnel a]\n{id}[tunnel b]\nburst = 3\n"), "line 4: burst needs --rate"),
        ("token = s3cret\nlocal\n".to_owned(), "agent.conf, line 2: expected OPTION = VALUE"),
        ("local = 8000\n".to_owned(), "which tunnel? Give --tunnel-id"),
    ] {
        refused(&["--config", &configure(&folder, &text)], &[], expected);
    }
    refused(&["--config", "/no/such/file"], &[], "--config: /no/such/file: No such file or directory");
    refused(&["--config", "/dev/null"], &[], "it is no regular file");
    // With sections nothing else can say which tunnel it means.
    let config = configure(&folder, &format!("[tunnel a]\n{id}"));
    refused(
        &["--config", &config, "--local", "1"],
        &[],
        "--local is one tunnel's, and the file has sections",
    );
    refused(&["8000", "--config", &config], &[], "--local is one tunnel's, and the file has sections");
    refused(&["--config", &config], &[("LOCAL_URL", "1")], "the variable LOCAL_URL is one tunnel's");
    // A guard that another program may have meant is not dropped without a word.
    refused(
        &["--config", &config],
        &[("BASIC_AUTH", "a:s3cret")],
        "the variable BASIC_AUTH (another program's?",
    );
    // What is refused leaves nothing behind.
    let state = folder.path("state");
    let broken = configure(&folder, "[tunnel a]\n[tunnel b]\nburst = 3\n");
    refused(&["--config", &broken], &[("XDG_STATE_HOME", state.to_str().unwrap())], "burst needs");
    assert!(!state.exists());
    let environment = [("XDG_STATE_HOME", state.to_str().unwrap())];
    refused(&["8000", "--config", "none", "--log-format", "xml"], &environment, "--log-format: expected");
    assert!(!state.exists());
}

/// A gateway, and an agent whose configuration is that of a file.
fn reloadable(more: &str) -> (Program, SocketAddr, Folder, Program) {
    let (gateway, address) = Program::gateway(&["--hold", "0s"]);
    let folder = Folder::new();
    let config = configure(&folder, &format!("tunnel-id = {TUNNEL_ID}\ngateway = ws://{address}\n{more}"));
    let mut agent = agent(&["--config", &config], &[]);
    agent.wait_for(" is open → ");
    (gateway, address, folder, agent)
}

fn reload(folder: &Folder, agent: &mut Program, address: SocketAddr, more: &str) {
    begin_reload(folder, agent, address, more);
    agent.wait_for("the configuration was read again");
}

/// Begins a reload. A session that it opens may be open before it ends.
fn begin_reload(folder: &Folder, agent: &Program, address: SocketAddr, more: &str) {
    configure(folder, &format!("tunnel-id = {TUNNEL_ID}\ngateway = ws://{address}\n{more}"));
    agent.signal("HUP");
}

#[test]
fn a_reload_changes_what_the_next_request_meets_and_keeps_the_session() {
    let (old, new) = (site("old"), site("new"));
    let (_gateway, address, folder, mut agent) = reloadable(&format!("local = http://{old}\n"));
    assert_eq!(get(address, "/x"), (200, "old /x".to_owned()));
    let log_before = agent.log.len();
    let more = format!("local = http://{new}\ndeny = /admin\nset-header = X-A: b\nlog-level = debug\n");
    reload(&folder, &mut agent, address, &more);
    assert_eq!(get(address, "/x"), (200, "new /x".to_owned()));
    assert_eq!(get(address, "/admin").0, 403);
    reload(&folder, &mut agent, address, &format!("local = http://{new}\n"));
    assert_eq!(get(address, "/admin"), (200, "new /admin".to_owned()));
    // It is one session all the time.
    let sessions = agent.log[log_before..].iter().filter(|line| line.contains("connected to ")).count();
    assert_eq!(sessions, 0, "{:?}", agent.log);
}

#[test]
fn a_broken_file_changes_nothing_and_says_why() {
    let old = site("old");
    let (_gateway, address, folder, mut agent) = reloadable(&format!("local = http://{old}\n"));
    for (more, why) in [
        ("quue = 1\n", "there is no option quue"),
        ("deny = x\n", "line 3: deny: expected a path that begins with a slash"),
        ("workers = 3\n", "line 3: workers cannot change while the agent runs: restart it"),
        ("admin = 127.0.0.1:0\n", "line 3: admin cannot change while the agent runs: restart it"),
        ("token-file = nowhere\n", "line 3: there is no file of that name beside this one"),
        ("local-ca-file = ./nowhere\nlocal = https://127.0.0.1:1\n", "nowhere: No such file"),
    ] {
        configure(&folder, &format!("tunnel-id = {TUNNEL_ID}\ngateway = ws://{address}\n{more}"));
        agent.signal("HUP");
        let line = agent.wait_for("the configuration stays as it was: ");
        assert!(line.contains(why), "{line}");
        assert_eq!(get(address, "/x"), (200, "old /x".to_owned()));
    }
}

#[test]
fn a_request_under_way_ends_as_it_began() {
    let (asked, is_asked) = mpsc::channel();
    let (answer, may_answer) = mpsc::channel::<()>();
    let may_answer = std::sync::Mutex::new(may_answer);
    let old = serve(move |mut socket| {
        read_head(&mut std::io::BufReader::new(socket.try_clone().unwrap()));
        asked.send(()).unwrap();
        may_answer.lock().unwrap().recv().unwrap();
        socket.write_all(&ok("old")).unwrap();
    });
    let new = site("new");
    let (_gateway, address, folder, mut agent) = reloadable(&format!("local = http://{old}\n"));
    let (_socket, mut reader) =
        visit(address, "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    is_asked.recv_timeout(LIMIT).unwrap();
    // Another server, and a name, for which there has to be another session.
    begin_reload(&folder, &agent, address, &format!("local = http://{new}\nname = shop\n"));
    agent.wait_for("shop.localhost");
    assert_eq!(ask(address, "shop.localhost", "/x"), (200, "new /x".to_owned()));
    answer.send(()).unwrap();
    let mut response = Vec::new();
    reader.read_to_end(&mut response).unwrap();
    assert_eq!(split(&response), (200, "old".to_owned()));
    agent.wait_for("the old session with ");
}

#[test]
fn an_agent_that_stops_at_once_does_not_wait_for_a_server_of_before() {
    let (asked, is_asked) = mpsc::channel();
    let (keep, _kept) = mpsc::channel();
    let old = serve(move |socket| {
        read_head(&mut std::io::BufReader::new(socket.try_clone().unwrap()));
        asked.send(()).unwrap();
        // It never answers.
        keep.send(socket).unwrap();
    });
    let limits = "response-timeout = 20m\n";
    let more = format!("local = http://{old}\n{limits}");
    let (_gateway, address, folder, mut agent) = reloadable(&more);
    let _visitor = visit(address, "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
    is_asked.recv_timeout(LIMIT).unwrap();
    reload(&folder, &mut agent, address, &format!("local = http://127.0.0.1:1\n{limits}"));
    agent.signal("TERM");
    agent.wait_for("asked to stop");
    agent.signal("TERM");
    assert!(agent.wait().success());
}

#[test]
fn reloads_under_load_lose_no_request() {
    let site = site("site");
    let local = format!("local = http://{site}\n");
    let (_gateway, address, folder, mut agent) = reloadable(&local);
    let visitors: Vec<_> = (0..4)
        .map(|_| {
            let (done, is_done) = mpsc::channel::<()>();
            let visitor = thread::spawn(move || {
                let mut count = 0;
                while is_done.try_recv() == Err(mpsc::TryRecvError::Empty) {
                    assert_eq!(get(address, "/x"), (200, "site /x".to_owned()));
                    count += 1;
                }
                count
            });
            (done, visitor)
        })
        .collect();
    for round in 0..12 {
        // Rules, the local server by another name, another session, and more of them.
        let more = match round % 4 {
            0 => format!("{local}deny = /admin\n"),
            1 => format!("local = http://localhost:{}\n", site.port()),
            2 => format!("{local}ping-interval = {}s\n", 5 + round),
            _ => format!("{local}connections = {}\n", 1 + round % 3),
        };
        reload(&folder, &mut agent, address, &more);
    }
    for (done, visitor) in visitors {
        drop(done);
        assert!(visitor.join().unwrap() > 0);
    }
}

#[test]
fn a_reload_moves_to_another_gateway_before_it_leaves_the_first() {
    let site = site("site");
    let local = format!("local = http://{site}\n");
    let (mut first, address, folder, mut agent) = reloadable(&local);
    let (mut second, other) = Program::gateway(&["--hold", "0s"]);
    begin_reload(&folder, &agent, other, &local);
    agent.wait_for(&format!(":{} is open → ", other.port()));
    assert_eq!(get(other, "/x"), (200, "site /x".to_owned()));
    first.wait_for(" disconnected: close code 1001");
    // One that cannot be reached leaves the session as it is.
    configure(&folder, &format!("tunnel-id = {TUNNEL_ID}\ngateway = ws://127.0.0.1:1\n{local}"));
    agent.signal("HUP");
    agent.wait_for("cannot reach gateway ws://127.0.0.1:1/ws");
    assert_eq!(get(other, "/x"), (200, "site /x".to_owned()));
    begin_reload(&folder, &agent, address, &local);
    agent.wait_for(&format!(":{} is open → ", address.port()));
    assert_eq!(get(address, "/x"), (200, "site /x".to_owned()));
    // Not even now is it left over.
    second.wait_for(" disconnected: close code 1001");
}

#[test]
fn the_session_that_there_is_goes_over_whatever_the_order_of_the_gateways() {
    let local = format!("local = http://{}\n", site("site"));
    let (_gateway, address) = Program::gateway(&["--hold", "0s"]);
    let folder = Folder::new();
    let options = |gateways: &str| format!("tunnel-id = {TUNNEL_ID}\n{local}{gateways}");
    let config =
        configure(&folder, &options(&format!("gateway = ws://127.0.0.1:1\ngateway = ws://{address}\n")));
    let mut agent = agent(&["--config", &config], &[]);
    agent.wait_for(" is open → ");
    configure(&folder, &options("gateway = ws://127.0.0.1:2\n"));
    agent.signal("HUP");
    agent.wait_for("cannot reach gateway ws://127.0.0.1:2/ws");
    assert_eq!(get(address, "/x"), (200, "site /x".to_owned()));
}

#[test]
fn a_tunnel_that_is_removed_ends_though_its_gateway_had_changed_to_one_that_is_not_there() {
    let (mut gateway, address) = Program::gateway(&["--hold", "0s"]);
    let folder = Folder::new();
    let (shop, blog) = (site("shop"), site("blog"));
    let shop =
        format!("[tunnel shop]\ngateway = ws://{address}\ntunnel-id = {TUNNEL_ID}\nlocal = http://{shop}\n");
    let blog = |gateway: &str| {
        format!(
            "[tunnel blog]\ngateway = ws://{gateway}\ntunnel-id = {OTHER_TUNNEL_ID}\nlocal = http://{blog}\n"
        )
    };
    let config = configure(&folder, &format!("{shop}{}", blog(&address.to_string())));
    let mut agent = agent(&["--config", &config], &[]);
    agent.wait_for(" is open → ");
    agent.wait_for(" is open → ");
    configure(&folder, &format!("{shop}{}", blog("127.0.0.1:1")));
    agent.signal("HUP");
    agent.wait_for("cannot reach gateway ws://127.0.0.1:1/ws");
    assert_eq!(ask(address, "blog.localhost", "/x"), (200, "blog /x".to_owned()));
    configure(&folder, &shop);
    agent.signal("HUP");
    gateway.wait_for("agent agent_123e…_other disconnected: close code 1001");
    assert_eq!(ask(address, "shop.localhost", "/x"), (200, "shop /x".to_owned()));
}

#[test]
fn a_token_that_is_corrected_while_the_gateway_is_dialled_is_tried() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let gateway = listener.local_addr().unwrap();
    let folder = Folder::new();
    let options =
        |token: &str| format!("tunnel-id = {TUNNEL_ID}\ngateway = ws://{gateway}\ntoken = {token}\n");
    let config = configure(&folder, &options("wrong"));
    let mut agent = agent(&["--config", &config], &[]);
    let upgrade = || {
        let (socket, _) = listener.accept().unwrap();
        let head = read_head(&mut std::io::BufReader::new(socket.try_clone().unwrap()));
        (socket, head)
    };
    let (mut socket, head) = upgrade();
    assert!(head.contains("bearer wrong"), "{head}");
    configure(&folder, &options("right"));
    agent.signal("HUP");
    agent.wait_for("the configuration was read again");
    // What it says now is about the token of before.
    socket.write_all(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n").unwrap();
    let (_, head) = upgrade();
    assert!(head.contains("bearer right"), "{head}");
}

#[test]
fn a_gateway_of_the_first_generation_loses_no_request_to_a_hand_over() {
    let (mut gateway, address) = Program::gateway(&["--hold", "0s", "--legacy"]);
    let folder = Folder::new();
    let local = site("site");
    let options = |more: &str| {
        format!("tunnel-id = {TUNNEL_ID}\ngateway = ws://{address}\nlocal = http://{local}\n{more}")
    };
    let config = configure(&folder, &options(""));
    let agent = agent(&["--config", &config], &[]);
    gateway.wait_for("agent agent_550e…_prod connected");
    for round in 0..5 {
        assert_eq!(get(address, "/x"), (200, "site /x".to_owned()));
        configure(&folder, &options(&format!("ping-interval = {}s\n", 10 + round)));
        agent.signal("HUP");
        gateway.wait_for("agent agent_550e…_prod connected");
    }
    assert_eq!(get(address, "/x"), (200, "site /x".to_owned()));
}

#[test]
fn the_drain_and_the_admin_token_are_renewed() {
    let local = site("site");
    let (_gateway, address) = Program::gateway(&["--hold", "0s"]);
    let folder = Folder::new();
    fs::write(folder.path("token"), "first").unwrap();
    let options = |more: &str| {
        format!(
            "tunnel-id = {TUNNEL_ID}\ngateway = ws://{address}\nlocal = http://{local}\nadmin = 127.0.0.1:0\nadmin-token-file = token\n{more}"
        )
    };
    let config = configure(&folder, &options("drain = 7s\n"));
    let mut agent = agent(&["--config", &config], &[]);
    let admin = agent.admin();
    let status = |token: &str| {
        let request = format!(
            "GET /status HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\r\n"
        );
        split(&http(admin, request.as_bytes())).0
    };
    assert_eq!((status("first"), status("second")), (200, 401));
    fs::write(folder.path("token"), "second").unwrap();
    configure(&folder, &options("drain = 3s\n"));
    agent.signal("HUP");
    agent.wait_for("the configuration was read again");
    assert_eq!((status("first"), status("second")), (401, 200));
    configure(&folder, &options("log-format = json\n"));
    agent.signal("HUP");
    agent.wait_for("--log-format cannot change while the agent runs");
    agent.signal("TERM");
    agent.wait_for("for 3 s at most");
    assert!(agent.wait().success());
}

#[test]
fn tunnels_come_and_go_with_their_sections() {
    let (_gateway, address) = Program::gateway(&["--hold", "0s"]);
    let folder = Folder::new();
    let (shop, blog) = (site("shop"), site("blog"));
    let common = format!("gateway = ws://{address}\n");
    let shop = format!("[tunnel shop]\ntunnel-id = {TUNNEL_ID}\nlocal = http://{shop}\n");
    let blog = format!("[tunnel blog]\ntunnel-id = {OTHER_TUNNEL_ID}\nlocal = http://{blog}\n");
    let config = configure(&folder, &format!("{common}{shop}"));
    let mut agent = agent(&["--config", &config], &[]);
    agent.wait_for("shop.localhost");
    configure(&folder, &format!("{common}{shop}{blog}"));
    agent.signal("HUP");
    agent.wait_for("blog.localhost");
    assert_eq!(ask(address, "blog.localhost", "/x"), (200, "blog /x".to_owned()));
    assert_eq!(ask(address, "shop.localhost", "/x"), (200, "shop /x".to_owned()));
    configure(&folder, &format!("{common}{blog}"));
    agent.signal("HUP");
    agent.wait_for("ended, since it is configured no more");
    assert_eq!(ask(address, "blog.localhost", "/x"), (200, "blog /x".to_owned()));
    agent.signal("TERM");
    assert!(agent.wait().success());
}

#[test]
fn the_counts_of_rates_and_guesses_outlive_a_reload() {
    let site = site("site");
    let limits = format!("local = http://{site}\nrate = 2/m\nburst = 2\n");
    let (_gateway, address, folder, mut agent) = reloadable(&limits);
    assert_eq!(get(address, "/x").0, 200);
    reload(&folder, &mut agent, address, &format!("{limits}deny = /y\n"));
    assert_eq!(get(address, "/x").0, 200);
    assert_eq!(get(address, "/x").0, 429);
    // Another rate begins anew.
    reload(&folder, &mut agent, address, &format!("local = http://{site}\nrate = 3/m\nburst = 2\n"));
    assert_eq!(get(address, "/x").0, 200);
}

#[test]
fn check_takes_a_file() {
    let folder = Folder::new();
    let site = site("site");
    let (_gateway, address) = Program::gateway(&["--hold", "0s"]);
    let config = configure(
        &folder,
        &format!(
            "gateway = ws://{address}\n[tunnel shop]\ntunnel-id = {TUNNEL_ID}\nlocal = http://{site}\n\
         [tunnel blog]\ntunnel-id = {OTHER_TUNNEL_ID}\nlocal = http://127.0.0.1:1\n"
        ),
    );
    let output = run(&["check", "--config", &config], &[]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(
        text.contains("tunnel shop (agent_550e…_prod)") && text.contains("tunnel blog (agent_123e…_other)"),
        "{text}"
    );
    assert!(text.contains("FAIL  TCP"), "{text}");
    assert!(Path::new(&config).exists());
}
