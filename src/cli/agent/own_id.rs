//! The tunnel ID of an agent that was given none: it is made once, and kept in a file of the user's.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};

use super::folders::user_folder;
use crate::agent::addresses::{is_socket, local_url};
use crate::agent::options::tunnel_id_in;
use crate::cli::UsageError;
use crate::protocol::id::{random_uuid, uuid};
use crate::{LocalUrl, TunnelId};

/// The purpose of an ID that is made here.
const PURPOSE: &str = "tunnel";

/// Characters of a purpose at most.
const PURPOSE_MAX: usize = 64;

/// A new tunnel ID, with a suffix that shows the tunnel's name if there is one.
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

/// The purpose that a tunnel ID is kept for: no two share one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum KeptAs {
    /// A tunnel's name.
    Name(String),
    /// The address of a local server, as it was typed.
    Address(String),
}

impl KeptAs {
    /// The name of the file: `tunnel-id.shop`, `tunnel-id@8000`.
    fn file(&self) -> String {
        match self {
            KeptAs::Name(name) => format!("tunnel-id.{name}"),
            KeptAs::Address(address) => {
                // A socket has more than one spelling, and paths differ by their capitals.
                let socket = if is_socket(address) { address.parse::<LocalUrl>().ok() } else { None };
                let url = socket
                    .map_or_else(|| local_url(address).to_ascii_lowercase(), |socket| socket.to_string());
                let here = ["http://127.0.0.1:", "http://localhost:"];
                let address = here.iter().find_map(|here| url.strip_prefix(here)).unwrap_or(&url);
                let is_kept = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-');
                let encoded = address.bytes().map(|byte| match byte {
                    byte if is_kept(byte) => char::from(byte).to_string(),
                    byte => format!("%{byte:02x}"),
                });
                format!("tunnel-id@{}", shortened(encoded.collect()))
            }
        }
    }
}

/// A name that file systems take: of a long one the beginning, and a number that is made of all of it (FNV-1a).
fn shortened(name: String) -> String {
    const LENGTH_MAX: usize = 200;
    if name.len() <= LENGTH_MAX {
        return name;
    }
    let mix = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325, mix);
    // It is ASCII, like all that is encoded.
    format!("{}-{hash:016x}", &name[..LENGTH_MAX - 17])
}

/// The file in which the ID of a tunnel is kept: below `$XDG_STATE_HOME`, or `~/.local/state`.
fn file_of(kept_as: &KeptAs, environment: &dyn Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let state = user_folder("XDG_STATE_HOME", ".local/state", environment)?;
    Some(state.join("tunnel-agent").join(kept_as.file()))
}

/// Whether an ID that is made is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Keeping {
    Kept,
    /// It serves a rehearsal, and is not kept.
    Forgotten,
}

/// The ID of a tunnel that was given none.
#[derive(Debug)]
pub(super) struct OwnId {
    pub(super) id: TunnelId,
    /// The log's text about it.
    pub(super) note: String,
    pub(super) is_kept: bool,
}

/// The ID that is kept, or one that is made, and kept from now on if it is to be.
pub(super) fn own_id(
    kept_as: &KeptAs,
    keeping: Keeping,
    environment: &dyn Fn(&str) -> Option<OsString>,
) -> Result<OwnId, UsageError> {
    let name = if let KeptAs::Name(name) = kept_as { Some(name.as_str()) } else { None };
    let file = file_of(kept_as, environment);
    if keeping == Keeping::Forgotten && !file.as_deref().is_some_and(Path::exists) {
        let id: Result<TunnelId, _> = new_id(name).parse();
        let id = id.map_err(|error| UsageError(error.to_string()))?;
        let note = format!("there is no tunnel ID for this yet: {id} is for this once");
        return Ok(OwnId { id, note, is_kept: false });
    }
    let Some(path) = file else {
        let text = "which tunnel? There is no home directory to keep a new tunnel ID in: give --tunnel-id";
        return Err(UsageError(text.to_owned()));
    };
    let failed = |what: &str, error: &io::Error| {
        let text = format!("cannot {what} the tunnel ID in {}: {error}; give --tunnel-id", path.display());
        UsageError(text)
    };
    let is_new = match keep(&path, &new_id(name)) {
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
    Ok(OwnId { id, note, is_kept: true })
}

/// Writes a file that other users may not read, unless there is one. It is there whole, or not at all.
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
            file_of(&KeptAs::Address("8000".to_owned()), &move |name: &str| match name {
                "XDG_STATE_HOME" => xdg.map(OsString::from),
                "HOME" => home.map(OsString::from),
                _ => None,
            })
        };
        let in_home = Some(PathBuf::from("/home/x/.local/state/tunnel-agent/tunnel-id@8000"));
        assert_eq!(path(None, Some("/home/x")), in_home);
        assert_eq!(path(Some(""), Some("/home/x")), in_home);
        assert_eq!(path(Some("relative"), Some("/home/x")), in_home);
        assert_eq!(path(Some("/state"), Some("/home/x")), Some("/state/tunnel-agent/tunnel-id@8000".into()));
        assert_eq!(path(None, None), None);
    }

    #[test]
    fn each_address_has_an_id_of_its_own() {
        for (address, file) in [
            ("8000", "tunnel-id@8000"),
            (":8000", "tunnel-id@8000"),
            ("localhost:8000", "tunnel-id@8000"),
            ("http://127.0.0.1:8000", "tunnel-id@8000"),
            ("https://Site.test:8443/base", "tunnel-id@https%3a%2f%2fsite.test%3a8443%2fbase"),
            ("http://a_b.test:1", "tunnel-id@http%3a%2f%2fa%5fb.test%3a1"),
            ("http://[::1]:8000/../../x", "tunnel-id@http%3a%2f%2f%5b%3a%3a1%5d%3a8000%2f..%2f..%2fx"),
        ] {
            assert_eq!(KeptAs::Address(address.to_owned()).file(), file, "{address}");
        }
        assert_eq!(KeptAs::Name("8000".to_owned()).file(), "tunnel-id.8000");
    }

    #[test]
    fn agents_that_start_at_once_have_one_id() {
        let folder = std::env::temp_dir().join(format!("own-id-{}", random_uuid()));
        let environment = |name: &str| (name == "XDG_STATE_HOME").then(|| folder.clone().into_os_string());
        let path = file_of(&KeptAs::Name("x".to_owned()), &environment).unwrap();
        for _ in 0..20 {
            let ids = std::thread::scope(|scope| {
                let start = || {
                    own_id(&KeptAs::Name("x".to_owned()), Keeping::Kept, &|name| {
                        (name == "XDG_STATE_HOME").then(|| folder.clone().into())
                    })
                };
                let agents: Vec<_> = (0..4).map(|_| scope.spawn(start)).collect();
                agents.into_iter().map(|agent| agent.join().unwrap().unwrap().id).collect::<Vec<_>>()
            });
            assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
            assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
            fs::remove_file(&path).unwrap();
        }
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_rehearsal_keeps_no_id_and_uses_the_one_that_is_kept() {
        let folder = std::env::temp_dir().join(format!("no-id-{}", random_uuid()));
        let name = KeptAs::Name("x".to_owned());
        let id = |keeping| {
            own_id(&name, keeping, &|variable| {
                (variable == "XDG_STATE_HOME").then(|| folder.clone().into_os_string())
            })
            .unwrap()
            .id
        };
        let first = id(Keeping::Forgotten);
        assert_ne!(first.expose(), id(Keeping::Forgotten).expose());
        assert!(!folder.exists());
        let kept = id(Keeping::Kept);
        assert_eq!(kept.expose(), id(Keeping::Forgotten).expose());
        fs::remove_dir_all(folder).unwrap();
        // Without a home nothing can be kept, and nothing need be.
        assert!(own_id(&name, Keeping::Forgotten, &|_| None).is_ok());
        assert!(own_id(&name, Keeping::Kept, &|_| None).is_err());
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
