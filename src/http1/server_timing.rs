//! The times that a page's developer tools show: the field `Server-Timing` (W3C Server Timing §3).

use std::time::Duration;

use http::header::{HeaderMap, HeaderName, HeaderValue};

const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");

/// Adds times by their names, which are tokens, behind those that a response has.
pub fn append_server_timing(headers: &mut HeaderMap, times: &[(&str, Duration)]) {
    let metric = |(name, time): &(&str, Duration)| format!("{name};dur={:.1}", time.as_secs_f64() * 1e3);
    let text = times.iter().map(metric).collect::<Vec<_>>().join(", ");
    if let Ok(value) = HeaderValue::from_str(&text) {
        headers.append(SERVER_TIMING, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_stand_behind_those_of_the_server() {
        let mut headers = HeaderMap::new();
        headers.insert(SERVER_TIMING, HeaderValue::from_static("db;dur=3"));
        let millis = |micros| Duration::from_micros(micros);
        append_server_timing(&mut headers, &[("tunnel", millis(12_345)), ("upstream", millis(9_960))]);
        let values: Vec<_> = headers.get_all(SERVER_TIMING).iter().collect();
        assert_eq!(values, ["db;dur=3", "tunnel;dur=12.3, upstream;dur=10.0"]);
    }
}
