//! The token that an agent shows to its gateway.

use std::path::Path;
use std::{fmt, io};

use http::HeaderValue;

use super::secret::{SecretFile, is_same_secret, read_secret};

/// A token for the gateway: the upgrade request carries it as `Authorization: Bearer TOKEN`. Never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(HeaderValue);

impl Token {
    /// A token. `None` when it is empty or holds what a header cannot carry.
    pub fn new(token: &str) -> Option<Self> {
        let printable = !token.is_empty() && token.bytes().all(|b| b.is_ascii_graphic());
        let mut value = HeaderValue::from_str(&format!("Bearer {token}")).ok().filter(|_| printable)?;
        value.set_sensitive(true);
        Some(Token(value))
    }

    /// Reads one from a file: its content without the line's end.
    pub fn from_file(path: &Path) -> io::Result<Self> {
        let token = read_secret(path)?;
        let unusable = match token.as_str() {
            "" => "it is empty",
            token if token.starts_with('\u{feff}') => {
                "it begins with a byte-order mark: save it as plain text"
            }
            token if token.contains(['\r', '\n']) => "it has more than one line",
            _ => "it holds a space or a character that is not ASCII",
        };
        Token::new(&token).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, unusable))
    }

    /// The value of an `Authorization` header that shows it.
    pub(crate) fn header(&self) -> &HeaderValue {
        &self.0
    }

    /// Whether an `Authorization` header shows it. How long it takes does not tell where the difference is.
    pub fn is_shown_by(&self, authorization: &HeaderValue) -> bool {
        let (ours, theirs) = (self.0.as_bytes(), authorization.as_bytes());
        // The scheme's capitals make no difference (RFC 9110 §11.1).
        let scheme = "Bearer ".len();
        let has_scheme =
            theirs.get(..scheme).is_some_and(|theirs| theirs.eq_ignore_ascii_case(&ours[..scheme]));
        let (ours, theirs) = if has_scheme { (&ours[scheme..], &theirs[scheme..]) } else { (ours, theirs) };
        is_same_secret(ours, theirs)
    }
}

impl SecretFile for Token {
    const NAME: &str = "token";

    fn from_file(path: &Path) -> io::Result<Self> {
        Token::from_file(path)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_holds_no_token_says_why() {
        let path = std::env::temp_dir().join(format!("token-{}", std::process::id()));
        for (content, why) in [
            ("", "it is empty"),
            ("\n", "it is empty"),
            ("\u{feff}sesame\n", "byte-order mark"),
            ("one\ntwo\n", "more than one line"),
            ("open sesame", "a space"),
            ("s\u{e4}same", "not ASCII"),
        ] {
            std::fs::write(&path, content).unwrap();
            let error = Token::from_file(&path).unwrap_err().to_string();
            assert!(error.contains(why) && !error.contains("same"), "{content:?}: {error}");
        }
        std::fs::write(&path, "sesame\r\n").unwrap();
        assert!(Token::from_file(&path).is_ok());
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn a_token_is_printable_and_never_shown() {
        let token = Token::new("s3cret").unwrap();
        assert_eq!(format!("{token:?}"), "Token(…)");
        for (shown, is_it) in [
            ("Bearer s3cret", true),
            ("bearer s3cret", true),
            ("Bearer S3cret", false),
            ("s3cret", false),
            ("Bearer s3cre", false),
            ("Bearer s3crets", false),
            ("", false),
        ] {
            assert_eq!(token.is_shown_by(&HeaderValue::from_static(shown)), is_it, "{shown:?}");
        }
        for bad in ["", "two words", "line\nbreak", "é"] {
            assert!(Token::new(bad).is_none(), "{bad:?}");
        }
    }
}
