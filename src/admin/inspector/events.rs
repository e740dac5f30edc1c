//! Changes of the records as server-sent events: for the page, and for `tail`.

use std::io;
use std::time::{Duration, Instant};

use http::Response;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use serde_json::{Value, json};

use super::json::{summary, unix_milliseconds};
use crate::http1::{Head, Persistence, ServerConnection};
use crate::inspect::{Changes, Inspector};

/// The exchanges in one event, at most.
const CHANGES_MAX: usize = 500;

/// Changes meanwhile go into one event.
const PAUSE: Duration = Duration::from_millis(100);

/// Between two looks whether the server stops.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// After this time without a change a comment is sent, so that a connection that is gone is noticed.
const IDLE: Duration = Duration::from_secs(5);

/// Sends each change until the client disconnects, or the server stops. The first event holds what is there.
pub(super) fn stream(
    inspector: &Inspector,
    connection: &mut ServerConnection,
    head: &Head,
    is_stopping: &dyn Fn() -> bool,
) -> io::Result<Persistence> {
    let (mut parts, ()) = Response::new(()).into_parts();
    parts.headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    parts.headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    let mut writer = connection.output.start(Some(head), parts, None, Persistence::Close);
    let since = unix_milliseconds(inspector.began());
    let (mut seen, mut sent) = (0, Instant::now());
    writer.send(event(since, inspector.newest(CHANGES_MAX, summary), &mut seen).as_bytes())?;
    while !is_stopping() {
        if inspector.wait_changed(seen, LOOK_EVERY) > seen {
            let changes = inspector.changed_since(seen, CHANGES_MAX, summary);
            writer.send(event(since, changes, &mut seen).as_bytes())?;
            sent = Instant::now();
            std::thread::sleep(PAUSE);
        } else if sent.elapsed() >= IDLE {
            writer.send(b":\n\n")?;
            sent = Instant::now();
        }
    }
    Ok(Persistence::Close)
}

fn event(since: u64, changes: Changes<Value>, seen: &mut u64) -> String {
    *seen = changes.version;
    let event = json!({ "since_ms": since, "oldest": changes.oldest, "exchanges": changes.exchanges });
    format!("data: {event}\n\n")
}
