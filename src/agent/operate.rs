//! Asks a running agent's admin server what passes, and has it send a request again: for the programs.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use http::Method;
use serde_json::Value;
use tungstenite::Bytes;

use super::Agent;
use super::config::DEFAULT_INSPECTOR;
use super::health::reachable;
use crate::http1::{UPGRADE_HEAD_MAX, end_head, parse_response, write_header, write_request_line};

/// How long connecting may take, and an answer: a replay waits for that of the local server.
const ANSWER_TIME: Duration = Duration::from_secs(60);

/// The longest line that is read, in bytes.
const LINE_MAX: u64 = 4 << 20;

impl Agent {
    /// Calls `take` with each exchange of the agent that runs with this configuration, when it has ended, for as long as both
    /// go on: with its summary in the API of the inspector.
    ///
    /// # Errors
    ///
    /// The reason why nothing more can be read, in words.
    #[doc(hidden)]
    pub fn tail(&self, mut take: impl FnMut(&Value) -> io::Result<()>) -> Result<(), String> {
        let answer = self.ask_inspector(&Method::GET, "/api/events")?;
        let mut lines = BufReader::new(answer);
        let mut is_first = true;
        loop {
            let mut line = String::new();
            match lines.by_ref().take(LINE_MAX).read_line(&mut line) {
                Ok(0) => return Err("the agent has ended, or closed the connection".to_owned()),
                Ok(_) => {}
                Err(error) => return Err(format!("the connection to the agent failed: {error}")),
            }
            // Chunks have lines of their own, which are no data.
            let Some(event) = line.strip_prefix("data: ") else { continue };
            let event: Value = serde_json::from_str(event).unwrap_or_default();
            // The first event holds what there was before.
            if std::mem::take(&mut is_first) {
                continue;
            }
            for exchange in event["exchanges"].as_array().into_iter().flatten() {
                if exchange["outcome"] != "pending" {
                    // A reader that goes away ends it.
                    take(exchange).map_err(|error| format!("cannot write: {error}"))?;
                }
            }
        }
    }

    /// Has the agent that runs with this configuration send a recorded request again. Returns the summary of the exchange that
    /// came of it, and the names of header fields that were left out.
    ///
    /// # Errors
    ///
    /// The reason why it was not sent, in words.
    #[doc(hidden)]
    pub fn replay_recorded(&self, id: u64) -> Result<(Value, Vec<String>), String> {
        let sent = self.json(&Method::POST, &format!("/api/exchanges/{id}/replay"))?;
        let left_out = sent["left_out"].as_array().into_iter().flatten();
        let left_out = left_out.filter_map(|name| name.as_str().map(str::to_owned)).collect();
        let again = self.json(&Method::GET, &format!("/api/exchanges/{}", sent["id"]))?;
        Ok((again, left_out))
    }

    fn json(&self, method: &Method, path: &str) -> Result<Value, String> {
        let mut body = Vec::new();
        let read = self.ask_inspector(method, path)?.take(LINE_MAX).read_to_end(&mut body);
        read.map_err(|error| format!("the connection to the agent failed: {error}"))?;
        serde_json::from_slice(&body).map_err(|_| "the agent's answer is no JSON".to_owned())
    }

    /// The body of the answer to a request, when that is a success.
    fn ask_inspector(&self, method: &Method, path: &str) -> Result<impl Read, String> {
        let process = &self.core.process;
        let address = reachable(process.admin.unwrap_or(DEFAULT_INSPECTOR));
        let unreachable = |error: io::Error| {
            let text = format!("no agent with an inspector at http://{address}: {error}");
            if process.admin.is_some() { text } else { format!("{text}; does it listen elsewhere?") }
        };
        let mut socket = TcpStream::connect_timeout(&address, ANSWER_TIME).map_err(unreachable)?;
        socket.set_read_timeout(Some(ANSWER_TIME)).map_err(unreachable)?;
        let mut request = Vec::new();
        write_request_line(&mut request, method, path);
        write_header(&mut request, "Host", address.to_string().as_bytes());
        write_header(&mut request, "Connection", b"close");
        write_header(&mut request, "X-Tunnel-Inspector", b"1");
        if *method == Method::POST {
            write_header(&mut request, "Content-Length", b"0");
        }
        if let Some(token) = &process.admin_token {
            write_header(&mut request, "Authorization", token.header().as_bytes());
        }
        end_head(&mut request);
        socket.write_all(&request).map_err(unreachable)?;
        let (mut answer, mut buffer) = (Vec::new(), [0; 4 << 10]);
        loop {
            let head = parse_response(&Bytes::copy_from_slice(&answer), UPGRADE_HEAD_MAX)
                .map_err(|_| format!("what answers at http://{address} is no agent"))?;
            if let Some((length, head)) = head {
                let rest = io::Cursor::new(answer.split_off(length)).chain(socket);
                return if head.status().is_success() { Ok(rest) } else { Err(said(rest, head.status())) };
            }
            match socket.read(&mut buffer).map_err(unreachable)? {
                0 => return Err(unreachable(io::ErrorKind::UnexpectedEof.into())),
                read => answer.extend_from_slice(&buffer[..read]),
            }
        }
    }
}

/// The reason in an answer that is no success.
fn said(body: impl Read, status: http::StatusCode) -> String {
    let mut text = Vec::new();
    // What cannot be read has no reason.
    let _ = body.take(64 << 10).read_to_end(&mut text);
    let value: Value = serde_json::from_slice(&text).unwrap_or_default();
    match value["error"].as_str() {
        Some(reason) => reason.chars().filter(|c| !c.is_control()).collect(),
        None if status == http::StatusCode::NOT_FOUND => "the agent there has no inspector".to_owned(),
        None => format!("the agent answered {status}"),
    }
}
