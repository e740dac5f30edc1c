//! What a client proves itself with, and whom it believes, as the files that hold it say now: others renew them while the
//! agent runs.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, RwLock};

use http::HeaderValue;
use log::warn;

use crate::sync::{read, write};

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
    pub(super) fn header(&self) -> &HeaderValue {
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

/// Whether two secrets are the same. The time it takes depends on the length of ours alone: it does not tell where the
/// first difference is.
pub(crate) fn is_same_secret(ours: &[u8], theirs: &[u8]) -> bool {
    let pairs = ours.iter().zip(theirs.iter().chain(std::iter::repeat(&0)));
    pairs.fold(ours.len() ^ theirs.len(), |difference, (a, b)| difference | usize::from(a ^ b)) == 0
}

/// Reads a secret from a file: its content without the line ends behind it. A file above 16 KiB is an error.
pub(crate) fn read_secret(path: &Path) -> io::Result<String> {
    /// Longer than any token, in bytes.
    const MAX: u64 = 16 << 10;
    let mut content = String::new();
    if File::open(path)?.take(MAX + 1).read_to_string(&mut content)? as u64 > MAX {
        let text = format!("it is larger than {} KiB", MAX >> 10);
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    }
    content.truncate(content.trim_end_matches(['\r', '\n']).len());
    Ok(content)
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

/// A token for the gateway.
#[derive(Debug, Clone)]
pub enum TokenSource {
    /// This one.
    Fixed(Token),
    /// In a file, and what was in it when it could be read last.
    File(PathBuf, Arc<RwLock<Token>>),
}

impl TokenSource {
    /// In this file.
    pub fn file(path: &Path) -> io::Result<Self> {
        let token = Token::from_file(path)?;
        Ok(TokenSource::File(path.to_owned(), Arc::new(RwLock::new(token))))
    }

    /// Reads it again.
    pub fn read(&self) -> Token {
        match self {
            TokenSource::Fixed(token) => token.clone(),
            TokenSource::File(path, last) => match Token::from_file(path) {
                Ok(token) => {
                    write(last).clone_from(&token);
                    token
                }
                Err(why) => {
                    warn!("the token stays as it was: {}: {why}", path.display());
                    read(last).clone()
                }
            },
        }
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
    fn a_token_is_what_its_file_holds_now_or_held_last() {
        let directory = std::env::temp_dir().join(format!("tunnel-agent-token-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let path = directory.join("token");
        let shows = |source: &TokenSource, token: &str| {
            source.read().is_shown_by(&HeaderValue::from_str(&format!("Bearer {token}")).unwrap())
        };
        assert!(TokenSource::file(&path).is_err());
        std::fs::write(&path, "first\n").unwrap();
        let source = TokenSource::file(&path).unwrap();
        assert!(shows(&source, "first"));
        std::fs::write(&path, "second").unwrap();
        assert!(shows(&source, "second"));
        for unusable in ["", "two words"] {
            std::fs::write(&path, unusable).unwrap();
            assert!(shows(&source, "second"));
        }
        std::fs::remove_dir_all(directory).unwrap();
        assert!(shows(&source, "second"));
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
