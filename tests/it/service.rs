//! An agent under a service manager: what it tells systemd, and that it says no more that it lives once a thread of its own
//! is stuck. Threads are stopped one by one, as a debugger stops them.
#![cfg(target_os = "linux")]

use std::io::Read;
use std::net::SocketAddr;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::time::Duration;

use nix::sys::ptrace;
use nix::sys::wait::waitpid;
use nix::unistd::Pid;

use crate::support::{Folder, LIMIT, Program, ScriptedGateway, TUNNEL_ID, get, ok, serve, serve_http, visit};

/// A service manager, as far as an agent hears of it.
struct Manager {
    socket: UnixDatagram,
    path: PathBuf,
    _folder: Folder,
}

impl Manager {
    fn new() -> Self {
        let folder = Folder::new();
        let path = folder.path("notify.sock");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(LIMIT)).unwrap();
        Manager { socket, path, _folder: folder }
    }

    fn receive(&self) -> String {
        let mut buffer = [0; 1000];
        let read = self.socket.recv(&mut buffer).expect("the agent says something");
        String::from_utf8(buffer[..read].to_vec()).unwrap()
    }

    /// What the agent says, up to a message that begins like this.
    fn wait_for(&self, start: &str) -> Vec<String> {
        let mut heard = Vec::new();
        loop {
            let message = self.receive();
            let is_it = message.starts_with(start);
            heard.push(message);
            if is_it {
                return heard;
            }
        }
    }

    fn start(&self, options: &[&str], watchdog_micros: &str) -> Program {
        let usual = ["--tunnel-id", TUNNEL_ID, "--config", "none"];
        let environment =
            [("NOTIFY_SOCKET", self.path.to_str().unwrap()), ("WATCHDOG_USEC", watchdog_micros)];
        Program::start(env!("CARGO_BIN_EXE_agent"), &[&usual, options].concat(), &environment)
    }
}

#[test]
fn the_manager_is_told_what_the_agent_does() {
    let manager = Manager::new();
    let (_gateway, address) = Program::gateway(&[]);
    let url = format!("ws://{address}");
    let mut agent = manager.start(&["--local", "9", "--gateway", &url], "200000");
    assert_eq!(manager.receive(), "READY=1");
    let status = manager.receive();
    assert!(status.starts_with("STATUS=http://") && status.contains(".localhost"), "{status}");
    assert!(status.ends_with(" → http://127.0.0.1:9; sessions: 1"), "{status}");
    for _ in 0..3 {
        assert_eq!(manager.receive(), "WATCHDOG=1");
    }
    agent.signal("HUP");
    manager.wait_for("RELOADING=1");
    manager.wait_for("READY=1");
    agent.signal("TERM");
    manager.wait_for("STOPPING=1");
    assert!(agent.wait().success());
}

#[test]
fn a_gateway_that_is_away_fails_no_boot() {
    let manager = Manager::new();
    let mut agent = manager.start(&["--local", "9", "--gateway", "ws://127.0.0.1:1"], "");
    assert_eq!(manager.receive(), "READY=1");
    assert_eq!(manager.receive(), "STATUS=no session → http://127.0.0.1:9; sessions: 0");
    agent.signal("TERM");
    agent.wait();
}

/// An agent, the address of its admin server, and its manager.
fn watched(gateway: &str, options: &[&str]) -> (Manager, Program, SocketAddr) {
    let manager = Manager::new();
    let usual = ["--gateway", gateway, "--admin", "127.0.0.1:0"];
    let mut agent = manager.start(&[&usual, options].concat(), "100000");
    let admin = agent.admin();
    manager.wait_for("READY=1");
    manager.wait_for("WATCHDOG=1");
    (manager, agent, admin)
}

/// The thread of a process with this name.
fn thread_of(process: u32, name: &str) -> Pid {
    let tasks = std::fs::read_dir(format!("/proc/{process}/task")).unwrap();
    let named = |task: &std::fs::DirEntry| {
        std::fs::read_to_string(task.path().join("comm")).is_ok_and(|comm| comm.trim() == name)
    };
    let task = tasks.flatten().find(named).unwrap_or_else(|| panic!("no thread {name}"));
    Pid::from_raw(task.file_name().to_str().unwrap().parse().unwrap())
}

/// Stops one thread of an agent: soon the agent says that it is stuck, and no more that it lives. When the thread goes on,
/// so does the agent.
fn check_frozen(manager: &Manager, agent: &Program, admin: SocketAddr, thread: &str, what: &str) {
    let thread = thread_of(agent.id(), thread);
    ptrace::seize(thread, ptrace::Options::empty()).unwrap();
    ptrace::interrupt(thread).unwrap();
    waitpid(thread, Some(nix::sys::wait::WaitPidFlag::__WALL)).unwrap();
    // Other threads go on, the one that tells the manager among them.
    manager.wait_for(&format!("STATUS=stuck: {what}"));
    let (status, body) = get(admin, "/healthz");
    assert_eq!((status, body), (503, format!("stuck: {what}\n")));
    // It looks at the watchdog behind the status: what comes from now on is none.
    manager.socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    let mut buffer = [0; 100];
    while let Ok(read) = manager.socket.recv(&mut buffer) {
        assert_ne!(&buffer[..read], b"WATCHDOG=1");
    }
    manager.socket.set_read_timeout(Some(LIMIT)).unwrap();
    ptrace::detach(thread, None).unwrap();
    manager.wait_for("WATCHDOG=1");
    assert_eq!(get(admin, "/healthz").0, 200);
}

#[test]
fn the_watchdog_starves_when_the_thread_of_a_session_is_stuck() {
    let (_gateway, address) = Program::gateway(&[]);
    let (manager, agent, admin) = watched(&format!("ws://{address}"), &["--local", "9"]);
    check_frozen(&manager, &agent, admin, "session", "a thread that keeps a session up");
}

#[test]
fn the_watchdog_starves_when_the_reader_is_stuck() {
    let gateway = ScriptedGateway::start();
    let url = gateway.url();
    let playing = std::thread::spawn(move || {
        // It answers pings for as long as it is asked, and takes a new session.
        while let Ok(mut session) =
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| gateway.accept()))
        {
            while session.0.read().is_ok() {}
        }
    });
    let quick = ["--local", "9", "--ping-interval", "100ms", "--pong-timeout", "1s", "--backoff-min", "10ms"];
    let (manager, agent, admin) = watched(&url, &quick);
    check_frozen(&manager, &agent, admin, "reader", "a thread that keeps a session up");
    drop(agent);
    drop(playing);
}

#[test]
fn the_watchdog_starves_when_requests_wait_and_nothing_starts_or_refuses_them() {
    let (_gateway, address) = Program::gateway(&[]);
    // A server that answers nothing.
    let site = serve(|mut socket| drop(socket.read_to_end(&mut Vec::new())));
    let site = site.to_string();
    let one =
        ["--local", &site, "--max-in-flight", "1", "--queue-timeout", "50ms", "--response-timeout", "10m"];
    let (manager, agent, admin) = watched(&format!("ws://{address}"), &one);
    let request = "GET / HTTP/1.1\r\nHost: x\r\n\r\n";
    let _first = visit(address, request);
    while !get(admin, "/status").1.contains("\"in_flight\":1") {}
    let thread = thread_of(agent.id(), "scheduler");
    ptrace::seize(thread, ptrace::Options::empty()).unwrap();
    ptrace::interrupt(thread).unwrap();
    waitpid(thread, Some(nix::sys::wait::WaitPidFlag::__WALL)).unwrap();
    let _second = visit(address, request);
    manager.wait_for("STATUS=stuck: the queue of requests");
    assert_eq!(get(admin, "/healthz"), (503, "stuck: the queue of requests\n".to_owned()));
    ptrace::detach(thread, None).unwrap();
    manager.wait_for("WATCHDOG=1");
}

#[test]
fn what_a_busy_manager_does_not_hear_is_said_again() {
    let manager = Manager::new();
    let noise = UnixDatagram::unbound().unwrap();
    noise.set_nonblocking(true).unwrap();
    // Until no more fits.
    while noise.send_to(b"NOISE", &manager.path).is_ok() {}
    let (mut gateway, address) = Program::gateway(&[]);
    let url = format!("ws://{address}");
    let _agent = manager.start(&["--local", "9", "--gateway", &url], "200000");
    gateway.wait_for("connected");
    manager.wait_for("READY=1");
    manager.wait_for("STATUS=");
    manager.wait_for("WATCHDOG=1");
}

#[test]
fn a_reload_is_no_sign_of_an_agent_that_is_not_ready() {
    let manager = Manager::new();
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("ws://{}", silent.local_addr().unwrap());
    // Its first try lasts.
    let options = ["--local", "9", "--gateway", &url, "--connect-timeout", "10m", "--log-level", "debug"];
    let agent = manager.start(&options, "200000");
    let (_dialled, _) = silent.accept().unwrap();
    agent.signal("HUP");
    // What it says next is only that it lives.
    for _ in 0..5 {
        let message = manager.receive();
        assert!(message == "WATCHDOG=1" || message.starts_with("STATUS="), "{message}");
    }
}

#[test]
fn health_is_an_exit_code() {
    let health = |options: &[&str]| {
        let agent = std::process::Command::new(env!("CARGO_BIN_EXE_agent"));
        let output = { agent }.env_clear().args([&["health", "--config", "none"], options].concat()).output();
        let output = output.unwrap();
        let printed = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        (output.status.code().unwrap(), printed)
    };
    let (_gateway, address) = Program::gateway(&["--hold", "0s"]);
    let folder = Folder::new();
    let token = folder.write("token", "sesame");
    let token_file = ["--admin-token-file", token.to_str().unwrap()];
    let url = format!("ws://{address}");
    let options = ["--local", "9", "--gateway", &url, "--admin", "0.0.0.0:0"];
    let mut agent = Program::agent(&[&["--tunnel-id", TUNNEL_ID], &options[..], &token_file].concat());
    let admin = agent.admin();
    assert!(admin.ip().is_unspecified());
    let (port, admin) = (&*admin.port().to_string(), admin.to_string());
    // It needs no token for that.
    assert_eq!(health(&[&["--admin", &admin], &token_file[..]].concat()), (0, "ok\n".to_owned()));
    // Others may say that they are well: they are no agents.
    let site = serve_http(|_| ok("ok\n"));
    let (code, printed) = health(&["--admin", &site.port().to_string()]);
    let expected = format!("what answers at http://{site}/healthz is no admin server of an agent");
    assert!(code == 1 && printed.contains(&expected), "{printed}");
    agent.signal("KILL");
    agent.wait();
    let (code, printed) = health(&["--admin", port]);
    assert_eq!(code, 1);
    assert!(printed.contains(&format!("no answer at http://127.0.0.1:{port}/healthz: ")), "{printed}");
    let (code, printed) = health(&[]);
    assert!(code == 2 && printed.contains("give the --admin that the agent runs with"), "{printed}");
}
