//! Changes of the records as server-sent events: for the page, and for `tail`.

use std::io;
use std::time::Duration;

use http::Response;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use serde_json::{Value, json};

use super::json::summary;
use crate::http1::{Head, Persistence, ServerConnection};
use crate::inspect::Inspector;

/// The exchanges in one event, at most: of more changes at once, the newest.
const CHANGES_MAX: usize = 500;

/// Changes meanwhile go into one event.
const PAUSE: Duration = Duration::from_millis(100);

/// After this time without a change a comment is sent, so that a connection that is gone is noticed.
const IDLE: Duration = Duration::from_secs(5);

/// Sends each change until the client disconnects. The first event holds what is there.
pub(super) fn stream(
    inspector: &Inspector,
    connection: &mut ServerConnection,
    head: &Head,
) -> io::Result<Persistence> {
    let (mut parts, ()) = Response::new(()).into_parts();
    parts.headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    parts.headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    let mut writer = connection.output.start(Some(head), parts, None, Persistence::Close);
    let mut seen = 0;
    writer.send(event(inspector, &mut seen).as_bytes())?;
    loop {
        let has_changed = inspector.wait_changed(seen, IDLE) > seen;
        let text = if has_changed { event(inspector, &mut seen) } else { ":\n\n".to_owned() };
        writer.send(text.as_bytes())?;
        std::thread::sleep(PAUSE);
    }
}

fn event(inspector: &Inspector, seen: &mut u64) -> String {
    let (changed, version, oldest): (Vec<Value>, _, _) = inspector.changed_since(*seen, CHANGES_MAX, summary);
    *seen = version;
    format!("data: {}\n\n", json!({ "oldest": oldest, "exchanges": changed }))
}
