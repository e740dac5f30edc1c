//! The user's folders, as the XDG Base Directory Specification names them.

use std::ffi::OsString;
use std::path::PathBuf;

/// The folder that a variable names, or this one of the home directory.
pub(super) fn user_folder(
    variable: &str,
    in_home: &str,
    environment: &dyn Fn(&str) -> Option<OsString>,
) -> Option<PathBuf> {
    let set = |name: &str| environment(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let home = || set("HOME").or_else(|| set("USERPROFILE"));
    // A relative one is to be ignored.
    let folder = set(variable).filter(|path| path.is_absolute());
    folder.or_else(|| Some(home()?.join(in_home)))
}
