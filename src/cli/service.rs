//! Notifications to the service manager, systemd's (sd_notify), by std alone.
//!
//! | message | when |
//! | --- | --- |
//! | `READY=1` | with the first session, or after the first try that failed: a gateway that is away fails no boot |
//! | `STATUS=` | with it, and whenever it changes |
//! | `RELOADING=1` and `READY=1` | around a reload |
//! | `STOPPING=1` | when the agent is asked to stop |
//! | `WATCHDOG=1` | twice in the watchdog's time, while [`Handle::stuck`] finds nothing |

use std::ffi::{OsStr, OsString};
use std::io;
#[cfg(unix)]
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crate::{ConnectionState, Handle};

/// Between two looks at the status where there is no watchdog that wants them more often.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// Between two looks at least, however impatient the watchdog is.
const LOOK_LEAST: Duration = Duration::from_millis(100);

/// How long a message waits for a manager that is busy, and until it is said again.
const PATIENCE: Duration = Duration::from_secs(1);

/// The service manager that has started this process, if it wants to be told how it is doing.
#[derive(Debug, Clone)]
pub struct ServiceManager {
    socket: Arc<NotifySocket>,
    /// How often it wants to hear that the process lives.
    watchdog: Option<Duration>,
    /// Whether it has heard that the agent is ready.
    is_ready: Arc<AtomicBool>,
}

impl ServiceManager {
    /// The one that the environment names.
    pub fn from_environment() -> Option<Self> {
        ServiceManager::from_variables(&|name| std::env::var_os(name), std::process::id())
    }

    fn from_variables(variables: &dyn Fn(&str) -> Option<OsString>, process: u32) -> Option<Self> {
        let socket = Arc::new(NotifySocket::open(&variables("NOTIFY_SOCKET")?)?);
        let number = |name| variables(name)?.to_str()?.parse::<u64>().ok();
        // Another process of the unit may be meant.
        let is_meant = number("WATCHDOG_PID").is_none_or(|meant| meant == u64::from(process));
        let watchdog = number("WATCHDOG_USEC").filter(|micros| is_meant && *micros > 0);
        let watchdog = watchdog.map(Duration::from_micros);
        Some(ServiceManager { socket, watchdog, is_ready: Arc::default() })
    }

    /// Tells the manager how the agent is doing, on a thread of its own, for as long as the agent runs.
    pub fn follow(&self, agent: &Handle) -> io::Result<()> {
        let (manager, agent) = (self.clone(), agent.clone());
        thread::Builder::new().name("service".to_owned()).spawn(move || manager.run(&agent)).map(drop)
    }

    /// The agent is about to read its configuration again. It is no sign of an agent that is not ready yet.
    pub fn reloading(&self) {
        if self.is_ready() {
            self.tell("RELOADING=1");
        }
    }

    /// The agent has read its configuration again.
    pub fn reloaded(&self) {
        if self.is_ready() {
            self.tell("READY=1");
        }
    }

    /// The agent was asked to stop.
    pub fn stopping(&self) {
        self.tell("STOPPING=1\nSTATUS=finishing the requests under way");
    }

    fn is_ready(&self) -> bool {
        self.is_ready.load(Ordering::SeqCst)
    }

    fn run(&self, agent: &Handle) {
        // Twice in its time: one may come late.
        let every = self.watchdog.map_or(LOOK_EVERY, |time| (time / 2).clamp(LOOK_LEAST, LOOK_EVERY));
        let mut told = String::new();
        while agent.status().connection != ConnectionState::Stopped {
            // Before the first try is over, it is waited for, no longer than the watchdog waits.
            let mut is_heard = true;
            if !self.is_ready() && agent.wait_tried(every) {
                is_heard = self.tell("READY=1");
                self.is_ready.store(is_heard, Ordering::SeqCst);
            }
            let status = status(agent);
            if status != told {
                let is_told = self.tell(&format!("STATUS={status}"));
                is_heard &= is_told;
                told = if is_told { status } else { told };
            }
            if self.watchdog.is_some() && agent.stuck().is_none() {
                is_heard &= self.tell("WATCHDOG=1");
            }
            if !is_heard {
                agent.wait_stopped(every.min(PATIENCE));
            } else if self.is_ready() {
                agent.wait_stopped(every);
            }
        }
    }

    /// Returns whether the manager will hear it.
    fn tell(&self, message: &str) -> bool {
        self.socket.send(message.as_bytes())
    }
}

/// One line for `systemctl status`.
fn status(agent: &Handle) -> String {
    if let Some(what) = agent.stuck() {
        return format!("stuck: {what}");
    }
    let of = |tunnel: &crate::TunnelStatus| match (&tunnel.status.connection, &tunnel.status.url) {
        (ConnectionState::Connected(_), Some(url)) => format!("{url} → {}", tunnel.served_by),
        (ConnectionState::Connected(_), None) => format!("connected → {}", tunnel.served_by),
        _ => format!("no session → {}", tunnel.served_by),
    };
    let sessions = agent.status().sessions;
    let tunnels: Vec<_> = agent.tunnels().iter().map(of).collect();
    format!("{}; sessions: {sessions}", tunnels.join(", "))
}

/// Where the manager hears.
#[derive(Debug)]
struct NotifySocket {
    #[cfg(unix)]
    socket: UnixDatagram,
    /// There is no such manager on this system.
    #[cfg(not(unix))]
    never: std::convert::Infallible,
}

impl NotifySocket {
    /// A socket with a path, or with a name of its own that begins with `@`.
    #[cfg(unix)]
    fn open(address: &OsStr) -> Option<Self> {
        let socket = UnixDatagram::unbound().ok()?;
        // A manager that does not listen holds nothing up for longer.
        socket.set_write_timeout(Some(PATIENCE)).ok()?;
        match address.to_str().and_then(|address| address.strip_prefix('@')) {
            Some(name) => connect_abstract(&socket, name)?,
            None => socket.connect(address).ok()?,
        }
        Some(NotifySocket { socket })
    }

    #[cfg(not(unix))]
    fn open(_: &OsStr) -> Option<Self> {
        None
    }

    #[cfg(unix)]
    fn send(&self, message: &[u8]) -> bool {
        self.socket.send(message).is_ok()
    }

    #[cfg(not(unix))]
    fn send(&self, _: &[u8]) -> bool {
        match self.never {}
    }
}

#[cfg(target_os = "linux")]
fn connect_abstract(socket: &UnixDatagram, name: &str) -> Option<()> {
    use std::os::linux::net::SocketAddrExt;
    let address = std::os::unix::net::SocketAddr::from_abstract_name(name).ok()?;
    socket.connect_addr(&address).ok()
}

#[cfg(all(unix, not(target_os = "linux")))]
fn connect_abstract(_: &UnixDatagram, _: &str) -> Option<()> {
    None
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn the_environment_says_where_and_how_often() {
        let path = std::env::temp_dir().join(format!("notify-{}", std::process::id()));
        let socket = UnixDatagram::bind(&path).unwrap();
        let of = |pairs: &[(&str, &str)]| {
            let find = |name: &str| pairs.iter().find(|(of, _)| *of == name).map(|(_, value)| value.into());
            ServiceManager::from_variables(&find, 7)
        };
        let at = ("NOTIFY_SOCKET", path.to_str().unwrap());
        assert!(of(&[]).is_none());
        assert!(of(&[("NOTIFY_SOCKET", "/nowhere/at/all")]).is_none());
        for (pairs, watchdog) in [
            (vec![at], None),
            (vec![at, ("WATCHDOG_USEC", "5000000")], Some(5)),
            (vec![at, ("WATCHDOG_USEC", "5000000"), ("WATCHDOG_PID", "7")], Some(5)),
            (vec![at, ("WATCHDOG_USEC", "5000000"), ("WATCHDOG_PID", "8")], None),
            (vec![at, ("WATCHDOG_USEC", "0")], None),
            (vec![at, ("WATCHDOG_USEC", "soon")], None),
        ] {
            assert_eq!(of(&pairs).unwrap().watchdog, watchdog.map(Duration::from_secs), "{pairs:?}");
        }
        let manager = of(&[at]).unwrap();
        // Only what was ready can be so again.
        manager.reloading();
        manager.reloaded();
        manager.is_ready.store(true, Ordering::SeqCst);
        manager.reloaded();
        let mut buffer = [0; 100];
        let read = socket.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..read], b"READY=1");
        std::fs::remove_file(path).unwrap();
    }
}
