//! Enough open files for all places.
//!
//! Many systems start a program with 1,024, and let it have more. Only the process itself can ask for them, by a system
//! call that Rust's library does not make; the shell's `ulimit` does. So a gateway that has too few starts anew through a
//! shell that asks first: the process stays the same.

use std::env;

use crate::gateway::PLACES;

/// A descriptor for each place and each agent, and some for everything else.
const WANTED: u64 = 2 * PLACES as u64 + 64;

/// Set when it has begun anew: once is enough.
const MARK: &str = "DESCRIPTORS_RAISED_FOR_TUNNEL_GATEWAY";

/// Raises the limit of open files (RLIMIT_NOFILE) as far as the system allows. Returns what the log is to say when
/// they are too few.
pub fn raise() -> Option<String> {
    let (soft, hard) = limits()?;
    if soft >= WANTED {
        return None;
    }
    if hard > soft && env::var_os(MARK).is_none() {
        begin_anew();
    }
    Some(format!(
        "this process may have {soft} files open, fewer than the {WANTED} that {PLACES} visitors and as many agents need; \
         raise the limit (ulimit -n, LimitNOFILE=)"
    ))
}

/// The limits of open files: what there is, and what may be asked for (Linux).
fn limits() -> Option<(u64, u64)> {
    let limits = std::fs::read_to_string("/proc/self/limits").ok()?;
    parse(&limits)
}

fn parse(limits: &str) -> Option<(u64, u64)> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    let mut numbers = line.split_ascii_whitespace().map(|number| match number {
        "unlimited" => Some(u64::MAX),
        number => number.parse().ok(),
    });
    Some((numbers.next()??, numbers.next()??))
}

/// Replaces this process by itself with more open files. Returns when that is not possible.
#[cfg(unix)]
fn begin_anew() {
    use std::os::unix::process::CommandExt;
    use std::process::Command;
    const SCRIPT: &str = "ulimit -S -n \"$(ulimit -H -n)\" && exec \"$@\"";
    let Ok(program) = env::current_exe() else { return };
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", SCRIPT, "sh"]).arg(program).args(env::args_os().skip(1)).env(MARK, "1");
    // It returns only when there is no such shell.
    let _ = shell.exec();
}

#[cfg(not(unix))]
fn begin_anew() {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read_as_linux_prints_them() {
        let text = "Limit                     Soft Limit           Hard Limit           Units     \n\
                    Max processes             95942                95942                processes \n\
                    Max open files            1024                 1048576              files     \n";
        assert_eq!(parse(text), Some((1024, 1_048_576)));
        let text = "Max open files            unlimited            unlimited            files     \n";
        assert_eq!(parse(text), Some((u64::MAX, u64::MAX)));
        assert_eq!((parse(""), parse("Max open files   x y")), (None, None));
    }
}
