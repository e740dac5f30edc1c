//! A small HTTP server that tells operators how a program is doing.
//!
//! Few connections, each on a thread of its own with little stack: what it does cannot starve the tunnel.

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, Response, StatusCode};
use log::{debug, info, warn};

#[cfg(feature = "inspect")]
use super::pages::{Access, InteractivePages, ProgramState};
use super::pages::{Reported, text};
use crate::http1::{
    HEAD_TIME, Head, KEEP_ALIVE, Persistence, RequestError, ServerConnection, names_loopback,
};
use crate::link::Token;
use crate::net::{Closer, Socket};
use crate::protocol::X_TUNNEL_SOURCE;
use crate::sync::{Replaceable, lock};

/// Connections at once; one more takes the place of the oldest that has shown nothing yet: no request, or not the token
/// where one is wanted. Where all have, that of the oldest.
const CONNECTIONS_MAX: usize = 32;

/// A connection's stack: heads, and texts that others make.
const STACK: usize = 256 << 10;

/// How long to wait when the system gives no connection.
const EXHAUSTED_WAIT: Duration = Duration::from_millis(100);

/// How long waking the acceptor may take.
const WAKE_TIME: Duration = Duration::from_secs(1);

/// The server; dropping it ends its threads.
pub(crate) struct Admin {
    shared: Arc<AdminShared>,
    address: SocketAddr,
    acceptor: Option<JoinHandle<()>>,
}

struct AdminShared {
    /// The token, as it is now.
    token: Arc<Replaceable<Option<Token>>>,
    program: Box<dyn Reported + Send + Sync>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    stopping: bool,
    next_id: u64,
    /// By age.
    open: BTreeMap<u64, AdminClient>,
    threads: Vec<JoinHandle<()>>,
}

/// The trust in a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Standing {
    /// It has made no request that it may make.
    Unknown,
    Known,
}

struct AdminClient {
    closer: Closer,
    standing: Standing,
}

impl State {
    /// Ends the connection that is missed least.
    fn make_room(&mut self) {
        let least = self.open.iter().min_by_key(|(id, client)| (client.standing, **id)).map(|(id, _)| *id);
        if let Some(client) = least.and_then(|id| self.open.remove(&id)) {
            debug!("admin: closed one of {CONNECTIONS_MAX} connections for a new one");
            client.closer.close();
        }
    }
}

impl Admin {
    /// Listens at this address. With a token, everything but `/healthz` wants it.
    pub(crate) fn start(
        address: SocketAddr,
        token: Arc<Replaceable<Option<Token>>>,
        program: impl Reported + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let listener = TcpListener::bind(address)?;
        let address = listener.local_addr()?;
        let shared = Arc::new(AdminShared { token, program: Box::new(program), state: Mutex::default() });
        let accepting = shared.clone();
        let acceptor =
            thread::Builder::new().name("admin".to_owned()).spawn(move || accept(&listener, &accepting))?;
        #[cfg(feature = "inspect")]
        if shared.program.interactive().is_some() {
            info!("the inspector shows what passes at http://{address}/");
        }
        info!("admin at http://{address}: /healthz, /readyz, /status, /metrics");
        Ok(Admin { shared, address, acceptor: Some(acceptor) })
    }
}

impl Admin {
    /// The address at which it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Admin {
    fn drop(&mut self) {
        {
            let mut state = self.shared.state();
            state.stopping = true;
            state.open.values().for_each(|client| client.closer.close());
        }
        // The acceptor waits for a connection.
        if TcpStream::connect_timeout(&self.address, WAKE_TIME).is_ok() {
            if let Some(acceptor) = self.acceptor.take() {
                let _ = acceptor.join();
            }
        }
        let threads = std::mem::take(&mut self.shared.state().threads);
        for thread in threads {
            // One that panicked has said so on its own.
            let _ = thread.join();
        }
    }
}

impl AdminShared {
    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    fn answer(&self, head: &Head) -> Response<Vec<u8>> {
        let path = head.request.uri().path();
        if !matches!(*head.request.method(), Method::GET | Method::HEAD) {
            let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n");
            response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
            return response;
        }
        if path != "/healthz" && !self.is_addressed(head.request.headers()) {
            let what = "this answers to its own address and to localhost; other names need a token\n";
            return text(StatusCode::MISDIRECTED_REQUEST, what);
        }
        if path != "/healthz" && !self.is_allowed(head.request.headers()) {
            let mut response =
                text(StatusCode::UNAUTHORIZED, "this needs the admin token (Authorization: Bearer …)\n");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            return response;
        }
        let nothing = || text(StatusCode::NOT_FOUND, "there are /healthz, /readyz, /status and /metrics\n");
        self.program.answer(path).unwrap_or_else(nothing)
    }

    /// The interactive pages, if a request is for them.
    #[cfg(feature = "inspect")]
    fn interactive(&self, head: &Head) -> Option<&dyn InteractivePages> {
        self.program.interactive().filter(|pages| pages.have(head.request.uri().path()))
    }

    #[cfg(feature = "inspect")]
    fn access(&self, headers: &HeaderMap) -> Access {
        if !self.is_addressed(headers) {
            Access::Misdirected
        } else if self.is_allowed(headers) {
            Access::Allowed
        } else {
            Access::TokenMissing
        }
    }

    /// Whether a request names this server. One by another name may come from a page that a browser shows, whose own name
    /// was made to lead here; where a token is wanted, it has none.
    fn is_addressed(&self, headers: &HeaderMap) -> bool {
        // Without a token it listens on loopback alone.
        self.token.get().is_some() || headers.get(header::HOST).is_none_or(names_loopback)
    }

    fn is_allowed(&self, headers: &HeaderMap) -> bool {
        let token = self.token.get();
        let Some(token) = &*token else { return true };
        headers.get(header::AUTHORIZATION).is_some_and(|value| token.is_shown_by(value))
    }
}

fn accept(listener: &TcpListener, shared: &Arc<AdminShared>) {
    loop {
        let accepted = listener.accept();
        if shared.state().stopping {
            return;
        }
        let taken = accepted.and_then(|(socket, _)| take(socket, shared));
        if let Err(error) = taken {
            warn!("admin: cannot take a connection: {error}");
            thread::sleep(EXHAUSTED_WAIT);
        }
    }
}

fn take(socket: TcpStream, shared: &Arc<AdminShared>) -> io::Result<()> {
    let socket = Socket::plain(socket)?;
    let mut state = shared.state();
    state.threads.retain(|thread| !thread.is_finished());
    if state.open.len() >= CONNECTIONS_MAX {
        state.make_room();
    }
    let id = state.next_id;
    state.next_id += 1;
    state.open.insert(id, AdminClient { closer: socket.closer(), standing: Standing::Unknown });
    let serving = shared.clone();
    let thread = thread::Builder::new().name("admin".to_owned()).stack_size(STACK);
    let spawned = thread.spawn(move || {
        // An error means that the client has disconnected.
        let _ = serve(socket, id, &serving);
        serving.state().open.remove(&id);
    });
    match spawned {
        Ok(thread) => state.threads.push(thread),
        Err(error) => {
            state.open.remove(&id);
            return Err(error);
        }
    }
    Ok(())
}

fn serve(socket: Socket, id: u64, shared: &AdminShared) -> io::Result<()> {
    let mut connection = ServerConnection::new(socket)?;
    while connection.wait(KEEP_ALIVE) {
        let head = match connection.read_head(HEAD_TIME) {
            Ok(head) => head,
            Err(error) => return refuse(connection, error),
        };
        if shared.is_allowed(head.request.headers()) {
            if let Some(client) = shared.state().open.get_mut(&id) {
                client.standing = Standing::Known;
            }
        }
        #[cfg(feature = "inspect")]
        if let Some(pages) = shared.interactive(&head) {
            let (status, is_stopping) = (|| shared.program.status(), || shared.state().stopping);
            let program = ProgramState { status: &status, is_stopping: &is_stopping };
            match pages.serve(&mut connection, &head, shared.access(head.request.headers()), &program)? {
                Persistence::KeepAlive => continue,
                Persistence::Close => break,
            }
        }
        if let Err(error) = connection.skip_body(&head, 0) {
            return refuse(connection, error);
        }
        let mut response = shared.answer(&head);
        // A search for local servers goes on elsewhere.
        response.headers_mut().insert(X_TUNNEL_SOURCE, HeaderValue::from_static(shared.program.name()));
        if connection.respond(Some(&head), response)? == Persistence::Close {
            break;
        }
    }
    connection.linger();
    Ok(())
}

fn refuse(mut connection: ServerConnection, error: RequestError) -> io::Result<()> {
    if let RequestError::Refused(status, what) = error {
        connection.respond(None, text(status, format!("{what}\n")))?;
        connection.linger();
    }
    Ok(())
}
