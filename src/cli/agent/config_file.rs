//! The configuration file: an option a line, and a section for each of several tunnels.
//!
//! ```text
//! # What stands before the first section holds for all tunnels.
//! gateway = wss://tunnel.example
//!
//! [tunnel shop]
//! local = 8000
//! deny = /admin/**
//! ```

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use super::folders::user_folder;
use super::table::TABLE;
use crate::agent::options::{OptionOwner, Secrecy, find};
use crate::cli::options::{Given, Provenance};
use crate::cli::table::distance;
use crate::cli::{Opt, UsageError};

/// The largest file that is read, in bytes.
const SIZE_MAX: u64 = 1 << 20;

/// The content of a configuration file.
pub(super) struct ConfigFile {
    pub(super) path: PathBuf,
    /// The settings of all tunnels.
    pub(super) common: Vec<Given<'static>>,
    pub(super) sections: Vec<Section>,
}

/// A tunnel of a file.
pub(super) struct Section {
    pub(super) name: String,
    /// Where it begins, as an error says it.
    pub(super) source: String,
    pub(super) given: Vec<Given<'static>>,
}

/// The file that is read where none is named.
pub(super) fn default_path(environment: &dyn Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let config = user_folder("XDG_CONFIG_HOME", ".config", environment);
    let paths = config.into_iter().chain([PathBuf::from("/etc")]);
    paths.map(|folder| folder.join("tunnel-agent").join("agent.conf")).find(|path| path.exists())
}

impl ConfigFile {
    /// Reads a file.
    pub(super) fn read(path: &Path) -> Result<Self, UsageError> {
        let failed = |what: String| UsageError(format!("--config: {}: {what}", path.display()));
        let metadata = fs::metadata(path).map_err(|error| failed(error.to_string()))?;
        if !metadata.is_file() {
            return Err(failed("it is no regular file".to_owned()));
        }
        if metadata.len() > SIZE_MAX {
            return Err(failed(format!("it is larger than {} MiB", SIZE_MAX >> 20)));
        }
        let bytes = fs::read(path).map_err(|error| failed(error.to_string()))?;
        let text = String::from_utf8(bytes).map_err(|_| failed("it is not valid UTF-8".to_owned()))?;
        ConfigFile::parse(path, &text)
    }

    fn parse(path: &Path, text: &str) -> Result<Self, UsageError> {
        let mut file = ConfigFile { path: path.to_owned(), common: Vec::new(), sections: Vec::new() };
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with(['#', ';']) {
                continue;
            }
            let at = format!("{}, line {}", path.display(), index + 1);
            file.take(line, &at).map_err(|what| UsageError(format!("{at}: {what}")))?;
        }
        Ok(file)
    }

    /// Takes a line. Values are not repeated in errors: they may be secrets.
    fn take(&mut self, line: &str, at: &str) -> Result<(), String> {
        if let Some(header) = line.strip_prefix('[') {
            let name = header.strip_suffix(']').and_then(|header| header.trim().strip_prefix("tunnel "));
            let name = name.map(str::trim).filter(|name| !name.is_empty());
            let name = name.ok_or("expected a section such as [tunnel shop]")?;
            if self.sections.iter().any(|section| section.name == name) {
                return Err(format!("there is a section [tunnel {}] already", name.escape_debug()));
            }
            self.sections.push(Section { name: name.to_owned(), source: at.to_owned(), given: Vec::new() });
            return Ok(());
        }
        let (name, text) =
            line.split_once('=').ok_or("expected OPTION = VALUE, or a section such as [tunnel shop]")?;
        let (name, text) = (name.trim(), text.trim());
        let opt = opt_named(name)?;
        let is_path = opt.value == "FILE" && !text.is_empty();
        let text = if is_path { self.beside(text)? } else { text.to_owned() };
        let source = format!("{at}: {}", opt.name.replace('_', "-"));
        match self.sections.last_mut() {
            None => self.common.push(Given { opt, text, source, from: Provenance::File }),
            Some(_) if is_of_agent(opt) => {
                return Err(format!(
                    "{name} is the agent's, and not one tunnel's: give it before the first section"
                ));
            }
            Some(section) => section.given.push(Given { opt, text, source, from: Provenance::Section }),
        }
        Ok(())
    }

    /// A path as the file means it: relative to its own folder.
    fn beside(&self, path: &str) -> Result<String, String> {
        let folder = self.path.parent().unwrap_or(Path::new(""));
        let full = folder.join(path);
        // Perhaps it is no path, but the secret itself.
        if !path.contains('/') && !full.exists() {
            let text = "there is no file of that name beside this one; the name is not shown, since it may be the secret itself";
            return Err(text.to_owned());
        }
        Ok(full.to_string_lossy().into_owned())
    }

    /// A warning for the log where other users can read a file that holds credentials.
    pub(super) fn warning(&self) -> Option<String> {
        let all = self.common.iter().chain(self.sections.iter().flat_map(|section| &section.given));
        // A proxy is a credential where it has a password.
        let is_secret = |given: &&Given<'_>| match given.opt.name {
            "proxy" => given.text.contains('@'),
            name => find(name).is_some_and(|option| option.secrecy == Secrecy::Secret),
        };
        let secret = all.into_iter().find(is_secret)?;
        let name = secret.opt.name.replace('_', "-");
        is_readable_by_others(&self.path).then(|| {
            format!("{} holds a credential ({name}), and others can read it: chmod 600", self.path.display())
        })
    }
}

/// Whether an option belongs to the whole agent.
pub(super) fn is_of_agent(opt: &Opt) -> bool {
    find(opt.name).is_none_or(|option| option.owner == OptionOwner::Agent)
}

/// The option with this name.
fn opt_named(name: &str) -> Result<&'static Opt, String> {
    let asked = name.replace('-', "_");
    let may_be_given = |opt: &&Opt| opt.name != "config";
    let table = || TABLE.iter().filter(may_be_given);
    if let Some(opt) = table().find(|opt| opt.name == asked) {
        return Ok(opt);
    }
    let nearest = table().map(|opt| (distance(opt.name, &asked), opt.name)).min();
    let hint = match nearest.filter(|(edits, name)| *edits <= 3 && *edits < name.len() / 2) {
        Some((_, name)) => format!("; did you mean {}?", name.replace('_', "-")),
        None => "; agent --help lists the options, which are written here without their dashes".to_owned(),
    };
    Err(format!("there is no option {}{hint}", name.escape_debug()))
}

#[cfg(unix)]
pub(super) fn is_readable_by_others(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    fs::metadata(path).is_ok_and(|metadata| metadata.permissions().mode() & 0o004 != 0)
}

#[cfg(not(unix))]
pub(super) fn is_readable_by_others(_: &Path) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<ConfigFile, String> {
        ConfigFile::parse(Path::new("/x/agent.conf"), text).map_err(|error| error.0)
    }

    #[test]
    fn lines_belong_to_all_tunnels_or_to_a_section() {
        let text = "\u{feff}# a remark\r\n\r\ngateway = ws://127.0.0.1:3000 \nqueue=5\n\n[tunnel shop]\n local = 8000\n\
                    allow = GET /a=b\n; a remark\n[tunnel  blog ]\ntoken-file = ./token\nca_file=/etc/ca.pem\n";
        let file = parse(text).unwrap();
        let shown = |given: &[Given<'_>]| -> Vec<String> {
            given.iter().map(|given| format!("{}={}", given.opt.name, given.text)).collect()
        };
        assert_eq!(shown(&file.common), ["gateway=ws://127.0.0.1:3000", "queue=5"]);
        let sections: Vec<_> = file.sections.iter().map(|section| section.name.as_str()).collect();
        assert_eq!(sections, ["shop", "blog"]);
        assert_eq!(shown(&file.sections[0].given), ["local=8000", "allow=GET /a=b"]);
        // Paths are relative to the file.
        assert_eq!(shown(&file.sections[1].given), ["token_file=/x/./token", "ca_file=/etc/ca.pem"]);
        assert_eq!(file.sections[1].given[0].source, "/x/agent.conf, line 11: token-file");
    }

    #[test]
    fn what_cannot_be_read_is_refused_with_its_line_and_without_its_value() {
        let at = "/x/agent.conf, line 2:";
        for (line, what) in [
            ("quue = s3cret", "there is no option quue; did you mean queue?"),
            ("colour = s3cret", "there is no option colour; agent --help"),
            ("config = s3cret", "there is no option config; "),
            ("local", "expected OPTION = VALUE"),
            ("token-file = s3cret", "there is no file of that name beside this one"),
            ("[shop]", "expected a section such as [tunnel shop]"),
            ("[tunnel]", "expected a section such as [tunnel shop]"),
            ("[tunnel shop", "expected a section such as [tunnel shop]"),
        ] {
            let error = parse(&format!("\n{line}\n")).err().unwrap();
            assert!(error.starts_with(&format!("{at} {what}")), "{error}");
            assert!(!error.contains("s3cret"), "{error}");
        }
        let error = parse("[tunnel a]\n[tunnel a]").err().unwrap();
        assert_eq!(error, format!("{at} there is a section [tunnel a] already"));
        let error = parse("[tunnel a]\nworkers = 3").err().unwrap();
        assert!(error.starts_with(&format!("{at} workers is the agent's")), "{error}");
    }

    #[test]
    fn the_users_own_file_is_looked_for_first() {
        let folder = std::env::temp_dir().join(format!("config-{}", crate::protocol::random_uuid()));
        let own = folder.join("tunnel-agent");
        fs::create_dir_all(&own).unwrap();
        let path = || {
            default_path(&|name: &str| (name == "XDG_CONFIG_HOME").then(|| folder.clone().into_os_string()))
        };
        assert_ne!(path(), Some(own.join("agent.conf")));
        fs::write(own.join("agent.conf"), "").unwrap();
        assert_eq!(path(), Some(own.join("agent.conf")));
        fs::remove_dir_all(folder).unwrap();
    }
}
