//! The trace that a request belongs to: the field `traceparent` (W3C Trace Context, level 1).

use std::fmt;

use http::header::{HeaderMap, HeaderName};

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// The ID of a trace, which a request's `traceparent` names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceId(u128);

impl TraceId {
    /// The trace of a request. `None` where its head names none, or not in the one way that is allowed (§3.2).
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        let mut values = headers.get_all(TRACEPARENT).iter();
        let (value, others) = (values.next()?.to_str().ok()?, values.next());
        let mut parts = value.split('-');
        let mut hex = |length: usize| {
            let digits = |part: &&str| {
                part.len() == length && part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
            };
            u128::from_str_radix(parts.next().filter(digits)?, 16).ok()
        };
        let (version, trace, parent, _flags) = (hex(2)?, hex(32)?, hex(16)?, hex(2)?);
        // Later versions may add parts.
        let is_whole = parts.next().is_none() || version > 0;
        let is_valid = version != 0xff && trace != 0 && parent != 0 && is_whole && others.is_none();
        is_valid.then_some(TraceId(trace))
    }
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// The text of a trace in a line of the log, if there is one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct InTrace(pub(crate) Option<TraceId>);

impl fmt::Display for InTrace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |trace| write!(f, " trace={trace}"))
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn a_trace_is_named_in_one_way() {
        const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let of = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(TRACEPARENT, HeaderValue::from_str(value).unwrap());
            }
            TraceId::of(&headers).map(|trace| trace.to_string())
        };
        assert_eq!(of(&[GOOD]).as_deref(), Some("4bf92f3577b34da6a3ce929d0e0e4736"));
        let later = GOOD.replace("00-4", "cc-4") + "-what-comes";
        assert!(of(&[&later]).is_some());
        let zero_trace = format!("00-{}-00f067aa0ba902b7-01", "0".repeat(32));
        let zero_parent = format!("00-4bf92f3577b34da6a3ce929d0e0e4736-{}-01", "0".repeat(16));
        for bad in [
            "",
            "00",
            &zero_trace,
            &zero_parent,
            &GOOD.to_uppercase(),
            &GOOD.replace("00-4", "ff-4"),
            &format!("{GOOD}-x"),
            &GOOD[..54],
            &GOOD.replace('b', "+"),
            &GOOD.replace('b', "\u{e9}"),
        ] {
            assert_eq!(of(&[bad]), None, "{bad}");
        }
        assert_eq!((of(&[]), of(&[GOOD, GOOD])), (None, None));
    }
}
