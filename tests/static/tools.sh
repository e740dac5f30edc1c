# shellcheck shell=sh
# What build.sh and other-systems.sh need, to be read by them (`.`): sets ZIG, RUSTC and SOURCES, or says what is missing.

case $PWD in
    *[[:space:]]*) echo "$0: cargo and C compilers take lists of words: build in a folder without a space in its name" >&2; exit 1 ;;
esac

# zig: $ZIG, or on the PATH, or Python's package.
if [ -z "${ZIG:-}" ]; then
    for candidate in zig "$PWD/target/zig/bin/python -m ziglang" 'python3 -m ziglang'; do
        if $candidate version >/dev/null 2>&1; then ZIG=$candidate; break; fi
    done
fi
# It is called in other folders.
case ${ZIG:-} in
    /*) ;;
    */*) ZIG=$PWD/$ZIG ;;
esac
if ! ${ZIG:-false} version >/dev/null 2>&1; then
    echo "$0: ${ZIG:-zig} is missing or does not run, which compiles C and links for other systems. One of:" >&2
    echo '  python3 -m venv target/zig && target/zig/bin/pip install ziglang==0.15.2    (Debian: apt-get install python3-venv)' >&2
    echo '  https://ziglang.org/download, and ZIG=path/to/zig' >&2
    exit 1
fi

# A Rust compiler that has the sources of std: the usual one, or Debian's.
for RUSTC in "${RUSTC:-rustc}" /usr/bin/rustc; do
    sysroot=$("$RUSTC" --print sysroot 2>/dev/null) || sysroot=
    SOURCES=$sysroot/lib/rustlib/src/rust/library
    if [ -n "$sysroot" ] && [ -f "$SOURCES/std/Cargo.toml" ]; then break; fi
    RUSTC=
done
if [ -z "$RUSTC" ]; then
    echo "$0: the sources of Rust's std are missing. One of:" >&2
    echo '  rustup component add rust-src' >&2
    echo '  Debian 13: apt-get install rust-src' >&2
    echo '  Debian 12: apt-get install rustc-web rust-web-src (they take the place of its cargo and rustc)' >&2
    exit 1
fi

echo "$0: with $("$RUSTC" --version | cut -d' ' -f1,2) and zig $($ZIG version)"

# They would be taken in place of ours.
unset RUSTFLAGS CARGO_ENCODED_RUSTFLAGS
# To build std is cargo's, but not yet stable.
export ZIG RUSTC RUSTC_BOOTSTRAP=1
