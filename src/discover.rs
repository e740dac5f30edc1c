//! Which HTTP servers listen on this machine.
//!
//! On Linux the listening sockets are read from `/proc/net`, those of other users included where the system
//! shows them; elsewhere, and where that fails, usual ports are tried. Each is asked `HEAD /`, side by side.

use std::collections::BTreeSet;
use std::fmt;
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::mpsc;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use http::header::{HeaderMap, HeaderName, HeaderValue, SERVER, SET_COOKIE};
use http::{Method, StatusCode};

use log::warn;

use crate::admission::{X_TUNNEL_SEARCH, X_TUNNEL_SOURCE};
use crate::origin::{LocalUrl, Origin, Timeouts};
use crate::service::{Body, Request, Service};

/// How long all of a search may take. Whoever has not answered by then is not found.
pub(crate) const SEARCH_TIME: Duration = Duration::from_secs(5);

/// How long a connection may take.
const CONNECT_TIME: Duration = Duration::from_millis(700);

/// How long a server may take for its answer: an application that was just started may think a while.
const ANSWER_TIME: Duration = Duration::from_secs(2);

/// Ports that are asked at most.
const PORTS_MAX: usize = 256;

/// Threads that ask.
const THREADS: usize = 16;

/// Most bytes of a page that are searched for its title.
const PAGE_MAX: usize = 64 << 10;

/// Longest `Server` that is shown, in characters: the width of its column.
const SERVER_MAX: usize = 28;

/// Longest title that is shown, in characters.
const TITLE_MAX: usize = 40;

/// Ports of development servers, the likeliest first; those that are tried where nobody tells which ones are open.
const USUAL: [u16; 12] = [8000, 8080, 3000, 5173, 80, 3001, 4200, 4321, 5000, 8001, 8081, 8888];

/// Ports of mail, databases and the like, which complain in their logs of whoever speaks HTTP to them.
const OF_OTHERS: [u16; 18] =
    [21, 22, 25, 53, 110, 143, 465, 587, 631, 993, 995, 1433, 3306, 5432, 5672, 6379, 11211, 27017];

/// A server that speaks HTTP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Where it listens.
    pub address: SocketAddr,
    /// What it answered `HEAD /` with.
    pub status: StatusCode,
    /// Its `Server` header.
    pub server: Option<String>,
    /// The title of its page.
    pub title: Option<String>,
    /// What it is probably made with.
    pub framework: Option<&'static str>,
}

impl Found {
    /// Its URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.url())?;
        self.framework.map_or(Ok(()), |framework| write!(f, " ({framework})"))
    }
}

/// Finds servers, the likeliest first; none at these ports.
pub fn servers(except: &[u16]) -> Vec<Found> {
    Search::default().servers(except)
}

/// Looks for servers, within [`SEARCH_TIME`], and until it is told to stop.
#[derive(Debug, Default)]
pub(crate) struct Search(Mutex<Asking>);

#[derive(Debug, Default)]
struct Asking {
    under_way: Vec<Arc<Origin>>,
    /// The time for this search is over.
    is_over: bool,
    /// No other may begin.
    is_stopped: bool,
}

impl Search {
    /// The servers there are, the likeliest first; none at these ports.
    pub(crate) fn servers(&self, except: &[u16]) -> Vec<Found> {
        let usual = || USUAL.map(|port| (port, Ipv4Addr::LOCALHOST.into())).into();
        let mut places: Vec<(u16, IpAddr)> = listening().unwrap_or_else(usual).into_iter().collect();
        places.retain(|(port, _)| !except.contains(port) && !OF_OTHERS.contains(port));
        places.sort_by_key(|(port, _)| rank(*port));
        places.truncate(PORTS_MAX);
        let addresses = places.into_iter().map(|(port, ip)| SocketAddr::new(ip, port)).collect();
        self.ask(addresses, SEARCH_TIME)
    }

    /// The server at this address, if there is one.
    pub(crate) fn server_at(&self, address: SocketAddr) -> Option<Found> {
        self.ask(vec![address], SEARCH_TIME).pop()
    }

    /// Ends a search that is under way, and all that would come.
    pub(crate) fn stop(&self) {
        self.state().is_stopped = true;
        self.end();
    }

    /// Asks whoever listens there, side by side.
    fn ask(&self, addresses: Vec<SocketAddr>, time: Duration) -> Vec<Found> {
        self.state().is_over = false;
        let threads = addresses.len().min(THREADS);
        let queue = Mutex::new(addresses.into_iter());
        // Nothing panics while the lock is held.
        let next = || queue.lock().ok()?.next();
        let (done, answers) = mpsc::channel();
        let mut found: Vec<Found> = Vec::new();
        thread::scope(|scope| {
            for _ in 0..threads {
                let done = done.clone();
                let run = move || {
                    while let Some(origin) = next().and_then(|address| self.begin(address)) {
                        // Who listens is here until all have ended.
                        let _ = done.send(ask(&origin.1, origin.0));
                        self.state().under_way.retain(|other| !Arc::ptr_eq(other, &origin.1));
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
            let left = || deadline.saturating_duration_since(Instant::now());
            while let Ok(answer) = answers.recv_timeout(left()) {
                found.extend(answer);
            }
            self.end();
            found.extend(answers.into_iter().flatten());
        });
        found.sort_by_key(|found| (is_unfit(found.status), rank(found.address.port()), found.address));
        // One that listens at both addresses of this machine is one.
        found.dedup_by_key(|found| found.address.port());
        found
    }

    fn begin(&self, address: SocketAddr) -> Option<(SocketAddr, Arc<Origin>)> {
        let url: LocalUrl = format!("http://{address}").parse().ok()?;
        let time = Timeouts { connect: CONNECT_TIME, response: ANSWER_TIME, idle: ANSWER_TIME };
        let origin = Arc::new(Origin::new(url, None, None, time));
        let mut state = self.state();
        if state.is_over || state.is_stopped {
            return None;
        }
        state.under_way.push(origin.clone());
        Some((address, origin))
    }

    /// Nobody else is asked, and those that are need not answer.
    fn end(&self) {
        let mut state = self.state();
        state.is_over = true;
        let under_way = std::mem::take(&mut state.under_way);
        drop(state);
        under_way.iter().for_each(|origin| origin.interrupt());
    }

    fn state(&self) -> MutexGuard<'_, Asking> {
        // Nothing panics while the lock is held.
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// Whether it is a usual port of a development server.
pub(crate) fn is_usual(port: u16) -> bool {
    USUAL.contains(&port)
}

/// The likelier a port is one of a development server, the lower.
fn rank(port: u16) -> (usize, bool, u16) {
    let place = USUAL.iter().position(|usual| *usual == port).unwrap_or(USUAL.len());
    (place, port < 1024, port)
}

/// Whether a server that answers so is hardly the one that is looked for: it has failed, or wants to hear TLS.
fn is_unfit(status: StatusCode) -> bool {
    status.is_server_error() || status == StatusCode::BAD_REQUEST
}

/// The ports at which something listens on loopback or on all addresses, and where to reach it.
fn listening() -> Option<BTreeSet<(u16, IpAddr)>> {
    let v4 = std::fs::read_to_string("/proc/net/tcp").ok()?;
    // Without IPv6 there is no such file.
    let v6 = std::fs::read_to_string("/proc/net/tcp6").unwrap_or_default();
    Some(parse(&v4).chain(parse(&v6)).collect())
}

/// Reads the ports out of a table of sockets as the kernel prints it: the second column is the local address and
/// port in hexadecimal, the fourth the state, of which `0A` is listening.
fn parse(table: &str) -> impl Iterator<Item = (u16, IpAddr)> {
    table.lines().skip(1).filter_map(|line| {
        let mut columns = line.split_ascii_whitespace().skip(1);
        let (local, state) = (columns.next()?, columns.nth(1)?);
        let (address, port) = local.split_once(':')?;
        let ip = match address_of(address)? {
            // On Linux all addresses of IPv6 are those of IPv4, too, unless somebody went out of their way.
            ip if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
            ip => ip,
        };
        let port = u16::from_str_radix(port, 16).ok()?;
        (state == "0A" && ip.is_loopback()).then_some((port, ip))
    })
}

/// Words of 32 bits in the machine's byte order.
fn address_of(text: &str) -> Option<IpAddr> {
    let word = |index: usize| {
        let word = u32::from_str_radix(text.get(index * 8..index * 8 + 8)?, 16).ok()?;
        Some(word.to_ne_bytes())
    };
    match text.len() {
        8 => Some(Ipv4Addr::from(word(0)?).into()),
        32 => {
            let words = [word(0)?, word(1)?, word(2)?, word(3)?];
            let bytes: [u8; 16] = words.concat().try_into().ok()?;
            Some(Ipv6Addr::from(bytes).to_canonical())
        }
        _ => None,
    }
}

/// Asks a server; nothing when it is none for HTTP, or one of ours.
fn ask(origin: &Origin, address: SocketAddr) -> Option<Found> {
    let request = |method| {
        let mut request = Request::new(Body::empty());
        *request.method_mut() = method;
        request.headers_mut().insert(X_TUNNEL_SEARCH, HeaderValue::from_static("1"));
        origin.call(request)
    };
    let head = request(Method::HEAD).ok()?;
    if head.headers().contains_key(X_TUNNEL_SOURCE) {
        // A gateway, with or without an agent behind it, or an agent's own page.
        return None;
    }
    let page = request(Method::GET).ok();
    let headers = page.as_ref().map_or(head.headers(), |page| page.headers()).clone();
    let page = page.map(|page| first_bytes(page.into_body())).unwrap_or_default();
    let text = String::from_utf8_lossy(&page);
    Some(Found {
        address,
        status: head.status(),
        server: headers
            .get(SERVER)
            .map(|value| shown(&String::from_utf8_lossy(value.as_bytes()), SERVER_MAX)),
        title: title(&text),
        framework: framework(&headers, &text),
    })
}

fn first_bytes(body: Body) -> Vec<u8> {
    let mut bytes = Vec::new();
    // Where it breaks off, what came before will do.
    let _ = body.take(PAGE_MAX as u64).read_to_end(&mut bytes);
    bytes
}

fn title(page: &str) -> Option<String> {
    // Upper and lower case of ASCII have the same length.
    let lower = page.to_ascii_lowercase();
    let start = lower.find("<title")?;
    let start = start + lower[start..].find('>')? + 1;
    let end = start + lower[start..].find("</title")?;
    let title = page[start..end].split_whitespace().collect::<Vec<_>>().join(" ");
    let title = shown(&title, TITLE_MAX);
    (!title.is_empty()).then_some(title)
}

/// A text of a stranger's on one line of a terminal, which it can neither command nor turn round.
fn shown(text: &str, max: usize) -> String {
    let is_unseen = |c: &char| {
        let marks = matches!(c, '\u{ad}' | '\u{61c}' | '\u{feff}' | '\u{e0000}'..='\u{e007f}');
        marks || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}')
    };
    text.chars().filter(|c| !c.is_control() && !is_unseen(c)).take(max).collect()
}

/// What a server is probably made with, by its headers and its page.
fn framework(headers: &HeaderMap, page: &str) -> Option<&'static str> {
    let has = |name: HeaderName, text: &str| {
        headers.get_all(name).iter().any(|value| String::from_utf8_lossy(value.as_bytes()).contains(text))
    };
    const POWERED_BY: HeaderName = HeaderName::from_static("x-powered-by");
    let cookie = |name: &str| has(SET_COOKIE, name);
    let guesses = [
        (cookie("laravel_session=") || (cookie("XSRF-TOKEN=") && cookie("_session=")), "Laravel"),
        (page.contains("/@vite/client"), "Vite"),
        (has(POWERED_BY, "Next.js"), "Next.js"),
        (has(POWERED_BY, "Express"), "Express"),
        (cookie("csrftoken=") || has(SERVER, "WSGIServer"), "Django"),
        (headers.contains_key("x-runtime") && headers.contains_key("x-request-id"), "Rails"),
        (page.contains("/wp-content/"), "WordPress"),
        (has(POWERED_BY, "PHP") || cookie("PHPSESSID="), "PHP"),
        (has(SERVER, "SimpleHTTP"), "Python http.server"),
    ];
    guesses.into_iter().find(|(fits, _)| *fits).map(|(_, name)| name)
}

/// The servers as a table.
pub struct Table<'a>(pub &'a [Found]);

impl fmt::Display for Table<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return writeln!(f, "no HTTP server found on this machine; start yours, or name it with --local");
        }
        writeln!(f, "{:<6} {:<6} {:<28} {:<19} TITLE", "PORT", "STATUS", "SERVER", "FRAMEWORK")?;
        for found in self.0 {
            let text = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
            let (server, title) = (text(&found.server), text(&found.title));
            let framework = found.framework.unwrap_or("-");
            let (port, status) = (found.address.port(), found.status.as_u16());
            writeln!(f, "{port:<6} {status:<6} {server:<28} {framework:<19} {title}")?;
        }
        writeln!(f, "\n--local auto would take {}", self.0[0].url())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;
    use std::io::Write;
    use std::net::TcpListener;

    #[cfg(target_endian = "little")]
    #[test]
    fn listening_sockets_on_loopback_or_everywhere_are_read_from_the_kernels_table() {
        let v4 = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid\n\
             0: 0100007F:1F40 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000\n\
             1: 00000000:0BB8 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0\n\
             2: 0A00020F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0\n\
             3: 0100007F:1F41 0100007F:D431 01 00000000:00000000 00:00000000 00000000     0\n\
             garbage\n";
        let v4_at = |port| (port, IpAddr::from(Ipv4Addr::LOCALHOST));
        assert_eq!(parse(v4).collect::<Vec<_>>(), [v4_at(8000), v4_at(3000)]);
        let v6 = "  sl  local_address                         remote_address                        st\n\
             0: 00000000000000000000000001000000:1435 00000000000000000000000000000000:0000 0A\n\
             1: 00000000000000000000000000000000:0050 00000000000000000000000000000000:0000 0A\n\
             2: 0000000000000000FFFF00000100007F:0051 00000000000000000000000000000000:0000 0A\n\
             3: B80D01200000000000000000010000AB:0052 00000000000000000000000000000000:0000 0A\n";
        let v6_at = (5173, IpAddr::from(Ipv6Addr::LOCALHOST));
        assert_eq!(parse(v6).collect::<Vec<_>>(), [v6_at, v4_at(80), v4_at(81)]);
    }

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
        assert_eq!(Search::default().ask(vec![address], Duration::from_millis(200)), []);
    }

    #[test]
    fn a_search_can_be_stopped_and_none_begins_after() {
        let (address, asked) = dripping();
        let search = Search::default();
        thread::scope(|scope| {
            let found = scope.spawn(|| search.ask(vec![address; 3], Duration::from_secs(3600)));
            asked.recv().unwrap();
            search.stop();
            assert_eq!(found.join().unwrap(), []);
        });
        assert_eq!(search.ask(vec![address], Duration::from_secs(3600)), []);
    }

    #[test]
    fn development_servers_come_first() {
        let mut ports = [443, 9000, 80, 5173, 5000, 81, 8080, 3000, 8000];
        ports.sort_by_key(|port| rank(*port));
        assert_eq!(ports, [8000, 8080, 3000, 5173, 80, 5000, 9000, 81, 443]);
    }

    #[test]
    fn a_title_is_one_short_line() {
        for (page, expected) in [
            ("<html><head><TITLE lang=en>\n My\t site </Title>", Some("My site")),
            ("<title>a\u{1b}[31mb</title>", Some("a[31mb")),
            ("<title>\u{202e}txt.exe</title>", Some("txt.exe")),
            ("<title>a\u{200b}\u{feff}\u{61c}\u{e0041}b</title>", Some("ab")),
            ("<title>\u{1}</title>", None),
            ("<title></title>", None),
            ("<title>never ends", None),
            ("none", None),
        ] {
            assert_eq!(title(page).as_deref(), expected, "{page}");
        }
        assert_eq!(title(&format!("<title>{}</title>", "é".repeat(100))).unwrap().chars().count(), TITLE_MAX);
    }

    #[test]
    fn frameworks_are_known_by_what_they_say() {
        for (headers, page, expected) in [
            (&[("set-cookie", "laravel_session=x"), ("x-powered-by", "PHP/8.3")][..], "", Some("Laravel")),
            (&[("set-cookie", "XSRF-TOKEN=x"), ("set-cookie", "shop_session=y")], "", Some("Laravel")),
            (&[("x-powered-by", "PHP/8.3")], "", Some("PHP")),
            (&[], "<script src=\"/@vite/client\">", Some("Vite")),
            (&[("set-cookie", "csrftoken=x")], "", Some("Django")),
            (&[("x-runtime", "0.1"), ("x-request-id", "1")], "", Some("Rails")),
            (&[("server", "nginx")], "", None),
        ] {
            let mut map = HeaderMap::new();
            for (name, value) in headers {
                map.append(*name, HeaderValue::from_static(value));
            }
            assert_eq!(framework(&map, page), expected, "{headers:?}");
        }
    }
}
