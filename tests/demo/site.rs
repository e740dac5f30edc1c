//! The small site behind the tunnel: pages, an upload and a download of any size, an event stream, a chat.

use std::io::{self, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Response, StatusCode};
use sha1::{Digest, Sha1};
use time::OffsetDateTime;
use tungstenite::handshake::server::{create_response, write_response};
use tungstenite::protocol::Role;
use tunnel_agent::unversioned::http1::has_token;
use tunnel_agent::unversioned::http1::{Decoder, HEAD_TIME, Head, KEEP_ALIVE, Persistence, ServerConnection};
use tunnel_agent::unversioned::link::{MessageReader, MessageWriter, Outbound, Received};
use tunnel_agent::unversioned::net::{Socket, WriteHalf};

/// A page that uses all of it at once.
const PAGE: &str = include_str!("page.html");

/// What is read and written at once.
const PIECE: usize = 64 << 10;

/// Largest message of the chat.
const MESSAGE_MAX: usize = 16 << 10;

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// Everybody in the chat.
#[derive(Clone, Default)]
struct Chat(Arc<Mutex<Vec<(u64, MessageWriter, WriteHalf)>>>);

/// Serves the site for ever.
pub(crate) fn serve(listener: &TcpListener) {
    let chat = Chat::default();
    for socket in listener.incoming().flatten() {
        let chat = chat.clone();
        thread::spawn(move || {
            // A visitor who leaves is nobody's concern.
            let _ = serve_visitor(socket, &chat);
        });
    }
}

fn serve_visitor(socket: TcpStream, chat: &Chat) -> Outcome<()> {
    let mut connection = ServerConnection::new(Socket::plain(socket)?)?;
    while connection.wait(KEEP_ALIVE) {
        let head = connection.read_head(HEAD_TIME)?;
        let path = head.request.uri().path();
        let persistence = match path {
            "/chat" if has_token(head.request.headers(), &http::header::UPGRADE, "websocket") => {
                return chat.join(connection, &head);
            }
            "/events" => send_events(&mut connection, &head)?,
            "/download" => send_file(&mut connection, &head)?,
            "/upload" => receive_file(&mut connection, &head)?,
            _ => {
                let body = connection.read_body(&head, 1 << 20, |_| true)?;
                connection.respond(Some(&head), answer(path, body))?
            }
        };
        // So that the lines of several programs come out one after the other.
        let _ = io::stdout().flush();
        if persistence == Persistence::Close {
            connection.linger();
            break;
        }
    }
    Ok(())
}

fn answer(path: &str, body: Vec<u8>) -> Response<Vec<u8>> {
    let (status, kind, body) = match path {
        "/" => (StatusCode::OK, "text/html; charset=utf-8", PAGE.as_bytes().to_vec()),
        "/time" => (StatusCode::OK, "text/plain", format!("{}\n", now()).into_bytes()),
        "/echo" => (StatusCode::OK, "text/plain; charset=utf-8", body),
        _ => (StatusCode::NOT_FOUND, "text/plain", b"Nothing here.\n".to_vec()),
    };
    response(status, kind, body)
}

fn response<T>(status: StatusCode, kind: &'static str, body: T) -> Response<T> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

fn now() -> String {
    let now = OffsetDateTime::now_utc();
    format!("{} {:02}:{:02}:{:02}", now.date(), now.hour(), now.minute(), now.second())
}

/// Server-sent events: the time, once a second, until the visitor leaves.
fn send_events(connection: &mut ServerConnection, head: &Head) -> Outcome<Persistence> {
    let parts = response(StatusCode::OK, "text/event-stream", ()).into_parts().0;
    let mut writer = connection.output.start(Some(head), parts, None, head.persistence);
    loop {
        writer.send(format!("data: {}\n\n", now()).as_bytes())?;
        thread::sleep(Duration::from_secs(1));
    }
}

/// As many bytes as `?bytes=` says.
fn send_file(connection: &mut ServerConnection, head: &Head) -> Outcome<Persistence> {
    let query = head.request.uri().query().unwrap_or_default();
    let length = query.strip_prefix("bytes=").and_then(|bytes| bytes.parse().ok()).unwrap_or(1 << 20);
    let parts = response(StatusCode::OK, "application/octet-stream", ()).into_parts().0;
    let mut writer = connection.output.start(Some(head), parts, Some(length), head.persistence);
    let piece: Vec<u8> = (0..PIECE).map(|at| (at % 251) as u8).collect();
    let mut left = length;
    while left > 0 {
        let now = left.min(PIECE as u64);
        writer.send(&piece[..now as usize])?;
        left -= now;
    }
    Ok(writer.finish()?)
}

/// Tells how much came, and its SHA-1.
fn receive_file(connection: &mut ServerConnection, head: &Head) -> Outcome<Persistence> {
    let mut decoder = Decoder::new(head.framing);
    connection.send_continue(head)?;
    let (mut sum, mut length) = (Sha1::new(), 0);
    let mut buffer = vec![0; PIECE];
    connection.input.socket_mut().set_deadline(None)?;
    while !decoder.is_done() {
        let read = connection.input.read_body(&mut decoder, &mut buffer)?;
        sum.update(&buffer[..read]);
        length += read;
    }
    let sum: String = sum.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    let text = format!("{length} bytes, SHA-1 {sum}\n");
    Ok(connection.respond(Some(head), response(StatusCode::OK, "text/plain", text.into_bytes()))?)
}

impl Chat {
    /// Passes on to everybody what each of them says.
    fn join(&self, mut connection: ServerConnection, head: &Head) -> Outcome<()> {
        let accepted = create_response(&head.request)?;
        let mut bytes = Vec::new();
        write_response(&mut bytes, &accepted)?;
        connection.output.send(&bytes)?;
        let (mut socket, rest) = connection.input.into_parts();
        socket.set_deadline(None)?;
        let id = {
            let mut everybody = self.everybody();
            let id = everybody.last().map_or(1, |(id, ..)| id + 1);
            everybody.push((id, MessageWriter::new(Role::Server), connection.output.into_half()));
            id
        };
        let mut reader = MessageReader::new(socket, rest, Role::Server, MESSAGE_MAX);
        self.say(&format!("visitor {id} is here"));
        while let Ok(Received::Text(text)) = reader.read() {
            self.say(&format!("visitor {id}: {text}"));
        }
        self.everybody().retain_mut(|(other, frames, half)| {
            if *other == id {
                frames.push(&Outbound::Close(1000, "bye"));
                let _ = frames.write_step(half).and_then(|()| half.finish());
            }
            *other != id
        });
        self.say(&format!("visitor {id} has left"));
        Ok(())
    }

    fn everybody(&self) -> std::sync::MutexGuard<'_, Vec<(u64, MessageWriter, WriteHalf)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn say(&self, text: &str) {
        for (_, frames, half) in self.everybody().iter_mut() {
            frames.push(&Outbound::Text(text.to_owned().into_bytes().into()));
            // Whoever does not listen any more is noticed by its reader.
            let _ = frames.write_step(half);
        }
    }
}
