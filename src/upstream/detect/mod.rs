//! Which HTTP servers listen on this machine.
//!
//! On Linux the listening sockets are read from `/proc/net`, those of other users included where the system shows
//! them; elsewhere, and where that fails, the usual ports are tried. Each is asked `HEAD /`, side by side.

mod fingerprint;
mod scan;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, mpsc};
use std::time::{Duration, Instant};
use std::{fmt, thread};

use http::StatusCode;
use log::warn;

use self::fingerprint::identify;
use self::scan::{addresses, rank};
pub(crate) use self::scan::{is_port_silent, is_preferred_port};
use super::origin::{LocalUrl, Origin, Timeouts};
use crate::service::Service;
use crate::sync::lock;

/// The time limit of a search. A server that has not answered by then is not found.
pub(crate) const SEARCH_TIME: Duration = Duration::from_secs(5);

/// The time limit of a connection.
const CONNECT_TIME: Duration = Duration::from_millis(700);

/// The time limit of a response: an application that was just started may take a while.
const ANSWER_TIME: Duration = Duration::from_secs(2);

/// The threads of a search, at most.
const THREADS: usize = 16;

/// A local server that speaks HTTP, as a search found it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalServer {
    /// Where it listens.
    pub address: SocketAddr,
    /// The status of its response to `HEAD /`.
    pub status: StatusCode,
    /// Its `Server` header, cut where it is long.
    pub server: Option<String>,
    /// The title of its page, cut where it is long.
    pub title: Option<String>,
    /// The framework that it is probably made with.
    pub framework: Option<&'static str>,
}

impl LocalServer {
    /// Its URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl fmt::Display for LocalServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.url())?;
        self.framework.map_or(Ok(()), |framework| write!(f, " ({framework})"))
    }
}

/// Finds local servers, the likeliest first, without those at these ports.
pub(crate) fn local_servers(except: &[u16]) -> Vec<LocalServer> {
    PortScan::default().servers(except)
}

/// Searches for local servers, within [`SEARCH_TIME`], until it is stopped.
#[derive(Debug, Default)]
pub(crate) struct PortScan(Mutex<ScanState>);

#[derive(Debug, Default)]
struct ScanState {
    under_way: Vec<Arc<Origin>>,
    phase: ScanPhase,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum ScanPhase {
    /// Servers are asked.
    #[default]
    Asking,
    /// The time of this search has expired.
    Expired,
    /// No further search may begin.
    Stopped,
}

impl PortScan {
    /// The local servers, the likeliest first, without those at these ports.
    pub(crate) fn servers(&self, except: &[u16]) -> Vec<LocalServer> {
        self.ask(addresses(except), SEARCH_TIME)
    }

    /// The local server at this address, if there is one.
    pub(crate) fn server_at(&self, address: SocketAddr) -> Option<LocalServer> {
        self.ask(vec![address], SEARCH_TIME).pop()
    }

    /// Ends a search that is under way, and all further ones.
    pub(crate) fn stop(&self) {
        self.end(ScanPhase::Stopped);
    }

    /// Asks at these addresses, side by side.
    fn ask(&self, addresses: Vec<SocketAddr>, time: Duration) -> Vec<LocalServer> {
        self.restart();
        let threads = addresses.len().min(THREADS);
        let queue = Mutex::new(addresses.into_iter());
        let next = || lock(&queue).next();
        let (done, answers) = mpsc::channel();
        let mut found: Vec<LocalServer> = Vec::new();
        thread::scope(|scope| {
            for _ in 0..threads {
                let done = done.clone();
                let run = move || {
                    while let Some((address, origin)) = next().and_then(|address| self.begin(address)) {
                        // The receiver outlives all threads of the scope.
                        let _ = done.send(identify(&origin, address));
                        self.state().under_way.retain(|other| !Arc::ptr_eq(other, &origin));
                    }
                };
                // Where the system gives no more threads, those there are do it all.
                if let Err(error) = thread::Builder::new().name("search".to_owned()).spawn_scoped(scope, run)
                {
                    warn!("no thread to look for local servers: {error}");
                    break;
                }
            }
            drop(done);
            let deadline = Instant::now() + time;
            let remaining = || deadline.saturating_duration_since(Instant::now());
            while let Ok(answer) = answers.recv_timeout(remaining()) {
                found.extend(answer);
            }
            self.end(ScanPhase::Expired);
            found.extend(answers.into_iter().flatten());
        });
        found.sort_by_key(|found| (is_unfit(found.status), rank(found.address.port()), found.address));
        // A server that listens at both loopback addresses is one.
        found.dedup_by_key(|found| found.address.port());
        found
    }

    fn restart(&self) {
        let mut state = self.state();
        if state.phase == ScanPhase::Expired {
            state.phase = ScanPhase::Asking;
        }
    }

    fn begin(&self, address: SocketAddr) -> Option<(SocketAddr, Arc<Origin>)> {
        let url: LocalUrl = format!("http://{address}").parse().ok()?;
        let time = Timeouts { connect: CONNECT_TIME, response: ANSWER_TIME, idle: ANSWER_TIME };
        let origin = Arc::new(Origin::new(url, None, None, time));
        let mut state = self.state();
        if state.phase != ScanPhase::Asking {
            return None;
        }
        state.under_way.push(origin.clone());
        Some((address, origin))
    }

    /// Interrupts the requests under way, and begins no further ones.
    fn end(&self, phase: ScanPhase) {
        let mut state = self.state();
        if state.phase != ScanPhase::Stopped {
            state.phase = phase;
        }
        let under_way = std::mem::take(&mut state.under_way);
        drop(state);
        under_way.iter().for_each(|origin| origin.interrupt());
    }

    fn state(&self) -> MutexGuard<'_, ScanState> {
        lock(&self.0)
    }
}

/// Whether a server with this status is hardly the one that is searched for: it failed, or expects TLS.
fn is_unfit(status: StatusCode) -> bool {
    status.is_server_error() || status == StatusCode::BAD_REQUEST
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::net::TcpListener;

    /// A server whose head grows for ever, a byte at a time; the channel tells when it was asked.
    fn dripping() -> (SocketAddr, mpsc::Receiver<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (asked, was_asked) = mpsc::channel();
        thread::spawn(move || {
            for socket in listener.incoming() {
                let (mut socket, asked) = (socket.unwrap(), asked.clone());
                thread::spawn(move || {
                    // The test may be over.
                    let _ = asked.send(());
                    let _ = socket.write_all(b"HTTP/1.1 200 OK\r\nX: ");
                    while socket.write_all(b"x").is_ok() {
                        thread::sleep(Duration::from_millis(20));
                    }
                });
            }
        });
        (address, was_asked)
    }

    #[test]
    fn a_server_that_never_ends_its_answer_is_not_waited_for() {
        let (address, _asked) = dripping();
        assert_eq!(PortScan::default().ask(vec![address], Duration::from_millis(200)), []);
    }

    #[test]
    fn a_search_can_be_stopped_and_none_begins_after() {
        let (address, asked) = dripping();
        let search = PortScan::default();
        thread::scope(|scope| {
            let found = scope.spawn(|| search.ask(vec![address; 3], Duration::from_secs(3600)));
            asked.recv().unwrap();
            search.stop();
            assert_eq!(found.join().unwrap(), []);
        });
        assert_eq!(search.ask(vec![address], Duration::from_secs(3600)), []);
    }
}
