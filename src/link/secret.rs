//! Secrets, and the files that hold them: others renew those while the agent runs.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, RwLock};

use log::warn;

use crate::sync::{read, write};

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

/// A secret that a file may hold.
pub trait SecretFile: Clone {
    /// The secret's name in the log.
    const NAME: &str;

    /// Reads it.
    fn from_file(path: &Path) -> io::Result<Self>;
}

/// A secret, or the file that holds it. Clones share what was read last.
#[derive(Debug, Clone)]
pub enum SecretSource<T> {
    /// This one.
    Fixed(T),
    /// In a file, and what was in it when it could be read last.
    File(PathBuf, Arc<RwLock<T>>),
}

impl<T: SecretFile> SecretSource<T> {
    /// In this file.
    pub fn file(path: &Path) -> io::Result<Self> {
        let secret = T::from_file(path)?;
        Ok(SecretSource::File(path.to_owned(), Arc::new(RwLock::new(secret))))
    }

    /// Reads it again. A file that cannot be used changes nothing.
    pub fn read(&self) -> T {
        match self {
            SecretSource::Fixed(secret) => secret.clone(),
            SecretSource::File(path, last) => match T::from_file(path) {
                Ok(secret) => {
                    write(last).clone_from(&secret);
                    secret
                }
                Err(why) => {
                    warn!("the {} stays as it was: {}: {why}", T::NAME, path.display());
                    read(last).clone()
                }
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;
    use crate::link::Token;

    #[test]
    fn a_token_is_what_its_file_holds_now_or_held_last() {
        let directory = std::env::temp_dir().join(format!("tunnel-agent-token-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let path = directory.join("token");
        let shows = |source: &SecretSource<Token>, token: &str| {
            source.read().is_shown_by(&HeaderValue::from_str(&format!("Bearer {token}")).unwrap())
        };
        assert!(SecretSource::<Token>::file(&path).is_err());
        std::fs::write(&path, "first\n").unwrap();
        let source = SecretSource::<Token>::file(&path).unwrap();
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
}
