//! An exchange of the inspector as a line for people.

use serde_json::Value;
use time::OffsetDateTime;

/// The line of an exchange: its time in UTC, number, method, status, path, duration and size. What a terminal could take for
/// a command is escaped.
pub fn exchange_line(exchange: &Value) -> String {
    let milliseconds = exchange["started_ms"].as_i64().unwrap_or_default();
    let time = OffsetDateTime::from_unix_timestamp(milliseconds / 1000).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    let text = |name: &str| exchange[name].as_str().unwrap_or_default().escape_debug().to_string();
    let state = match (exchange["outcome"].as_str(), exchange["status"].as_u64()) {
        (Some("answered"), Some(status)) => status.to_string(),
        (Some("refused"), Some(status)) => format!("{status} refused ({})", text("code")),
        (Some("failed"), _) => format!("failed ({}: {})", text("code"), text("reason")),
        (Some("cancelled"), _) => format!("cancelled ({})", text("reason")),
        (_, status) => status.map_or_else(|| "…".to_owned(), |status| format!("{status} …")),
    };
    let tunnel = exchange["tunnel"].as_str().map(|name| format!("{name}: ")).unwrap_or_default();
    let replay = exchange["replay_of"].as_u64().map(|of| format!(" replay of {of}")).unwrap_or_default();
    format!(
        "{:02}:{:02}:{:02} {} {tunnel}{} {} {state} {} B {:.1} ms{replay}",
        time.hour(),
        time.minute(),
        time.second(),
        exchange["id"].as_u64().unwrap_or_default(),
        text("method"),
        text("url"),
        exchange["response_bytes"].as_u64().unwrap_or_default(),
        exchange["took_ms"].as_f64().unwrap_or_default(),
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_line_tells_what_became_of_a_request() {
        let mut exchange = json!({
            "id": 7, "started_ms": 1_795_762_048_674_u64, "method": "GET", "url": "/a?b=1\u{1b}[2J", "status": 200,
            "outcome": "answered", "response_bytes": 12, "took_ms": 3.25, "replay_of": null,
        });
        assert_eq!(exchange_line(&exchange), "06:47:28 7 GET /a?b=1\\u{1b}[2J 200 12 B 3.2 ms");
        exchange["outcome"] = "failed".into();
        (exchange["code"], exchange["reason"]) = ("unreachable".into(), "no connection".into());
        exchange["replay_of"] = 3.into();
        let line = exchange_line(&exchange);
        assert!(
            line.contains("failed (unreachable: no connection)") && line.ends_with(" replay of 3"),
            "{line}"
        );
        assert_eq!(exchange_line(&json!({})), "00:00:00 0   … 0 B 0.0 ms");
    }
}
