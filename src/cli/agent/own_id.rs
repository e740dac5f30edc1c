//! The tunnel ID of an agent that was given none: it is made once, and kept in a file of the user's.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};

use crate::TunnelId;
use crate::cli::UsageError;
use crate::link::token::read_secret;
use crate::protocol::random_uuid;

/// The purpose of an ID that is made here.
const PURPOSE: &str = "tunnel";

/// A tunnel ID that nobody has.
pub(super) fn new_id() -> String {
    format!("agent_{}_{PURPOSE}", uuid())
}

/// A UUID of the system's chance, since it is a credential.
fn uuid() -> String {
    let mut bytes = [0; 16];
    match File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes)) {
        Ok(()) => {
            // Version 4 (RFC 9562 §5.4).
            let bits = u128::from_be_bytes(bytes) & !(0xf << 76) & !(0x3 << 62) | 0x4 << 76 | 0x2 << 62;
            let hex = format!("{bits:032x}");
            format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
        }
        // Another system; this is keyed by its chance, too.
        Err(_) => random_uuid(),
    }
}

/// The file in which the ID is kept: below `$XDG_STATE_HOME`, or `~/.local/state`.
fn file_of(environment: &dyn Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let set = |name| environment(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let state = set("XDG_STATE_HOME").or_else(|| Some(set("HOME")?.join(".local/state")))?;
    Some(state.join("tunnel-agent").join("tunnel-id"))
}

/// The ID that is kept, or one that is made and kept from now on; and what the log says of it.
pub(super) fn own_id(
    environment: &dyn Fn(&str) -> Option<OsString>,
) -> Result<(TunnelId, String), UsageError> {
    let Some(path) = file_of(environment) else {
        let text = "which tunnel? There is no home directory to keep a new tunnel ID in: give --tunnel-id";
        return Err(UsageError(text.to_owned()));
    };
    let failed = |what: &str, error: &io::Error| {
        let text = format!("cannot {what} the tunnel ID in {}: {error}; give --tunnel-id", path.display());
        UsageError(text)
    };
    let is_new = match keep(&path, &new_id()) {
        Ok(()) => true,
        Err(error) if error.kind() == ErrorKind::AlreadyExists => false,
        Err(error) => return Err(failed("keep", &error)),
    };
    let id = from_file(&path).map_err(|text| UsageError(format!("{text}; or give --tunnel-id")))?;
    let note = match is_new {
        true => format!("made a tunnel ID, {id}, and keeps it in {}", path.display()),
        false => format!("the tunnel ID, {id}, is that in {}", path.display()),
    };
    Ok((id, note))
}

/// Writes a file that nobody else may read, unless there is one.
fn keep(path: &Path, id: &str) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)?.write_all(format!("{id}\n").as_bytes())
}

/// The tunnel ID in a file.
pub(super) fn from_file(path: &Path) -> Result<TunnelId, String> {
    let text = read_secret(path).map_err(|error| format!("{}: {error}", path.display()))?;
    text.parse().map_err(|error| format!("{}: it holds no tunnel ID: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_the_users() {
        let path = |xdg: Option<&'static str>, home: Option<&'static str>| {
            file_of(&move |name: &str| match name {
                "XDG_STATE_HOME" => xdg.map(OsString::from),
                "HOME" => home.map(OsString::from),
                _ => None,
            })
        };
        let in_home = Some(PathBuf::from("/home/x/.local/state/tunnel-agent/tunnel-id"));
        assert_eq!(path(None, Some("/home/x")), in_home);
        assert_eq!(path(Some(""), Some("/home/x")), in_home);
        assert_eq!(path(Some("/state"), Some("/home/x")), Some("/state/tunnel-agent/tunnel-id".into()));
        assert_eq!(path(None, None), None);
    }

    #[test]
    fn a_new_id_is_one_and_no_other() {
        let (first, second) = (new_id(), new_id());
        assert!(first.parse::<TunnelId>().is_ok(), "{first}");
        assert_eq!((&first[20..21], &first[42..]), ("4", "_tunnel"));
        assert_ne!(first, second);
    }
}
