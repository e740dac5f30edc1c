//! The terms of a search. Pure.

use std::borrow::Cow;

use crate::inspect::{InspectedBody, InspectedExchange};

/// The value of a parameter in a query, decoded as forms encode it.
pub(super) fn parameter<'a>(query: &'a str, name: &str) -> Option<Cow<'a, str>> {
    let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    pairs.find(|(key, _)| *key == name).map(|(_, value)| decoded(value))
}

/// Decodes `%20` and `+`. What is not encoded so stays as it is.
fn decoded(text: &str) -> Cow<'_, str> {
    if !text.contains(['%', '+']) {
        return Cow::Borrowed(text);
    }
    let (mut bytes, mut rest) = (Vec::new(), text.as_bytes());
    while let [first, behind @ ..] = rest {
        let code = behind.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        let code = code.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match (first, code) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = &behind[2..];
            }
            (byte, _) => {
                bytes.push(if *byte == b'+' { b' ' } else { *byte });
                rest = behind;
            }
        }
    }
    Cow::Owned(String::from_utf8_lossy(&bytes).into_owned())
}

/// The terms of a search, at most; further ones are ignored.
const TERMS_MAX: usize = 16;

/// Terms, all of which an exchange has to match.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Search(Vec<Term>);

/// Text in lower case that some part of an exchange has to hold.
#[derive(Debug, PartialEq, Eq)]
enum Term {
    Any(String),
    Method(String),
    Path(String),
    /// The beginning of the status, such as `5` for `5xx`.
    Status(String),
    Header(String),
    Body(String),
    Outcome(String),
}

impl Search {
    /// Reads terms with blanks between them: plain text, or `method:POST`, `path:/cart`, `status:404` or `status:5xx`,
    /// `header:json`, `body:jane`.
    pub(super) fn parse(text: &str) -> Self {
        let term = |word: &str| {
            // Of other letters than ASCII the case counts.
            let word = word.to_ascii_lowercase();
            match word.split_once(':') {
                Some(("method", text)) => Term::Method(text.to_owned()),
                Some(("path", text)) => Term::Path(text.to_owned()),
                Some(("status", text)) => Term::Status(text.trim_end_matches('x').to_owned()),
                Some(("header", text)) => Term::Header(text.to_owned()),
                Some(("body", text)) => Term::Body(text.to_owned()),
                Some(("outcome", text)) => Term::Outcome(text.to_owned()),
                _ => Term::Any(word),
            }
        };
        Search(text.split_whitespace().take(TERMS_MAX).map(term).collect())
    }

    /// Whether an exchange matches.
    pub(super) fn matches(&self, exchange: &InspectedExchange) -> bool {
        self.0.iter().all(|term| term.matches(exchange))
    }
}

impl Term {
    fn matches(&self, exchange: &InspectedExchange) -> bool {
        let has_header = |text: &str| {
            let fields = exchange.request_headers.iter().chain(exchange.response_headers.iter());
            let holds = |(name, value): (&str, Option<&str>)| {
                name.contains(text) || value.is_some_and(|value| contains(value.as_bytes(), text.as_bytes()))
            };
            fields.into_iter().any(holds)
        };
        let has_body = |text: &str| {
            let bodies: [&InspectedBody; 2] = [&exchange.request_body, &exchange.response_body];
            bodies.iter().any(|body| contains(&body.bytes, text.as_bytes()))
        };
        let status = exchange.status.map(|status| status.to_string()).unwrap_or_default();
        match self {
            Term::Method(text) => exchange.method.as_str().eq_ignore_ascii_case(text),
            Term::Path(text) => contains(exchange.url.as_bytes(), text.as_bytes()),
            Term::Status(text) => !status.is_empty() && status.starts_with(text),
            Term::Header(text) => has_header(text),
            Term::Body(text) => has_body(text),
            Term::Outcome(text) => super::json::outcome(exchange) == text,
            Term::Any(text) => {
                contains(exchange.url.as_bytes(), text.as_bytes())
                    || exchange.method.as_str().eq_ignore_ascii_case(text)
                    || status == *text
                    || has_header(text)
                    || has_body(text)
            }
        }
    }
}

/// Whether bytes hold this text, whatever the case of its letters.
fn contains(bytes: &[u8], text: &[u8]) -> bool {
    text.is_empty() || bytes.windows(text.len()).any(|window| window.eq_ignore_ascii_case(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_decoded_as_forms_encode_them() {
        let query = "q=a+b%20%C3%A4%zz&limit=5";
        assert_eq!(parameter(query, "q").as_deref(), Some("a b ä%zz"));
        assert_eq!(parameter(query, "limit").as_deref(), Some("5"));
        assert_eq!(parameter(query, "before"), None);
        assert_eq!(parameter("q=%", "q").as_deref(), Some("%"));
    }

    #[test]
    fn terms_say_where_to_look() {
        let terms = Search::parse(" status:5xx  method:POST cart ");
        let expected = [Term::Status("5".into()), Term::Method("post".into()), Term::Any("cart".into())];
        assert_eq!(terms.0, expected);
        assert!(contains(b"Hello World", b"lo wo") && !contains(b"short", b"longer than it"));
    }
}
