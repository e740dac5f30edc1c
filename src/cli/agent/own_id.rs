//! The tunnel ID of an agent that was given none: it is made once, and kept in a file of the user's.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};

use super::folders::user_folder;
use crate::TunnelId;
use crate::agent::options::tunnel_id_in;
use crate::cli::UsageError;
use crate::protocol::id::{random_uuid, uuid};

/// The purpose of an ID that is made here.
const PURPOSE: &str = "tunnel";

/// Characters of a purpose at most.
const PURPOSE_MAX: usize = 64;

/// A tunnel ID that nobody has, for a tunnel with this name, perhaps.
pub(super) fn new_id(name: Option<&str>) -> String {
    // The oldest gateways take no underscore.
    let purpose: String =
        name.unwrap_or_default().chars().filter(char::is_ascii_alphanumeric).take(PURPOSE_MAX).collect();
    let is_name = purpose.starts_with(|c: char| c.is_ascii_alphabetic());
    let purpose = if is_name { &purpose } else { PURPOSE };
    format!("agent_{}_{purpose}", secret_uuid())
}

/// A UUID of the system's chance, since it is a credential.
fn secret_uuid() -> String {
    let mut bytes = [0; 16];
    match File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes)) {
        Ok(()) => uuid(u128::from_be_bytes(bytes)),
        // Another system; this is keyed by its chance, too.
        Err(_) => random_uuid(),
    }
}

/// What the ID of a tunnel is kept as that has no name, but the address of its local server: `8000`, `site.test-8080`.
pub(super) fn of_address(address: &str) -> String {
    let address = address.rsplit("://").next().unwrap_or_default();
    let is_kept = |c: char| c.is_ascii_alphanumeric() || c == '.';
    let parts: Vec<&str> = address.split(|c| !is_kept(c)).filter(|part| !part.is_empty()).collect();
    let is_here = |part: &&str| matches!(*part, "localhost" | "127.0.0.1");
    parts.into_iter().filter(|part| !is_here(part)).collect::<Vec<_>>().join("-")
}

/// The file in which the ID of a tunnel is kept: below `$XDG_STATE_HOME`, or `~/.local/state`.
fn file_of(name: &str, environment: &dyn Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let state = user_folder("XDG_STATE_HOME", ".local/state", environment)?;
    Some(state.join("tunnel-agent").join(format!("tunnel-id.{name}")))
}

/// The ID that is kept, or one that is made and kept from now on; and what the log says of it.
pub(super) fn own_id(
    name: &str,
    environment: &dyn Fn(&str) -> Option<OsString>,
) -> Result<(TunnelId, String), UsageError> {
    let Some(path) = file_of(name, environment) else {
        let text = "which tunnel? There is no home directory to keep a new tunnel ID in: give --tunnel-id";
        return Err(UsageError(text.to_owned()));
    };
    let failed = |what: &str, error: &io::Error| {
        let text = format!("cannot {what} the tunnel ID in {}: {error}; give --tunnel-id", path.display());
        UsageError(text)
    };
    let is_new = match keep(&path, &new_id(Some(name))) {
        Ok(()) => true,
        Err(error) if error.kind() == ErrorKind::AlreadyExists => false,
        Err(error) => return Err(failed("keep", &error)),
    };
    let id =
        tunnel_id_in(&path).map_err(|text| UsageError(format!("{text}; delete it, or give --tunnel-id")))?;
    let note = match is_new {
        true => format!("made a tunnel ID, {id}, and keeps it in {}", path.display()),
        false => format!("the tunnel ID, {id}, is that in {}", path.display()),
    };
    Ok((id, note))
}

/// Writes a file that nobody else may read, unless there is one. It is there whole, or not at all.
fn keep(path: &Path, id: &str) -> io::Result<()> {
    if path.exists() {
        return Err(ErrorKind::AlreadyExists.into());
    }
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let draft = folder.join(format!(".{}", secret_uuid()));
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let written = options.open(&draft).and_then(|mut file| file.write_all(format!("{id}\n").as_bytes()));
    let kept = written.and_then(|()| match fs::hard_link(&draft, path) {
        // Another agent was first.
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Err(error),
        // Some file systems have no links.
        Err(_) => fs::rename(&draft, path),
        Ok(()) => Ok(()),
    });
    // After a rename it is gone.
    let _ = fs::remove_file(&draft);
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_the_users() {
        let path = |xdg: Option<&'static str>, home: Option<&'static str>| {
            file_of("8000", &move |name: &str| match name {
                "XDG_STATE_HOME" => xdg.map(OsString::from),
                "HOME" => home.map(OsString::from),
                _ => None,
            })
        };
        let in_home = Some(PathBuf::from("/home/x/.local/state/tunnel-agent/tunnel-id.8000"));
        assert_eq!(path(None, Some("/home/x")), in_home);
        assert_eq!(path(Some(""), Some("/home/x")), in_home);
        assert_eq!(path(Some("relative"), Some("/home/x")), in_home);
        assert_eq!(path(Some("/state"), Some("/home/x")), Some("/state/tunnel-agent/tunnel-id.8000".into()));
        assert_eq!(path(None, None), None);
    }

    #[test]
    fn each_address_has_an_id_of_its_own() {
        for (address, kept_as) in [
            ("8000", "8000"),
            (":8000", "8000"),
            ("localhost:8000", "8000"),
            ("http://127.0.0.1:8000", "8000"),
            ("https://site.test:8443/base", "site.test-8443-base"),
            ("http://[::1]:8000/../../x", "1-8000-..-..-x"),
        ] {
            assert_eq!(of_address(address), kept_as, "{address}");
        }
    }

    #[test]
    fn agents_that_start_at_once_have_one_id() {
        let folder = std::env::temp_dir().join(format!("own-id-{}", random_uuid()));
        let environment = |name: &str| (name == "XDG_STATE_HOME").then(|| folder.clone().into_os_string());
        let path = file_of("x", &environment).unwrap();
        for _ in 0..20 {
            let ids = std::thread::scope(|scope| {
                let start = || own_id("x", &|name| (name == "XDG_STATE_HOME").then(|| folder.clone().into()));
                let agents: Vec<_> = (0..4).map(|_| scope.spawn(start)).collect();
                agents.into_iter().map(|agent| agent.join().unwrap().unwrap().0).collect::<Vec<_>>()
            });
            assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
            assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
            fs::remove_file(&path).unwrap();
        }
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_new_id_is_one_and_no_other() {
        let (first, second) = (new_id(None), new_id(None));
        assert!(first.parse::<TunnelId>().is_ok(), "{first}");
        assert_eq!((&first[20..21], &first[42..]), ("4", "_tunnel"));
        assert_ne!(first, second);
        assert!(new_id(Some("my-shop")).ends_with("_myshop"));
        assert!(new_id(Some(&"x".repeat(100))).parse::<TunnelId>().is_ok());
        assert!(new_id(Some("8000")).ends_with("_tunnel"));
        assert!(new_id(Some("--")).ends_with("_tunnel"));
    }
}
