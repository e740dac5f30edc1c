#!/bin/sh
# Compiles everything with the oldest Rust that Cargo.toml promises: rustup's where it has it, else Debian 13's, in a
# root folder of its own (DEBIAN_ROOT; needs debootstrap, and to be run by root).
set -eu
cd "$(dirname "$0")/.."
version=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)

if rustup toolchain list 2>/dev/null | grep -q "^$version-"; then
    echo "msrv: with rustup's $version"
    cargo "+$version" check --quiet --locked --all-targets
    exec cargo "+$version" check --quiet --locked --lib --no-default-features
fi

root=${DEBIAN_ROOT:-$PWD/target/debian13}
sh tests/debian13.sh "$root"
found=$(chroot "$root" rustc --version | cut -d' ' -f2)
case $found in
    "$version".*) echo "msrv: with Debian's rustc $found" ;;
    *) echo "msrv: Debian 13 has rustc $found; Cargo.toml promises $version" >&2; exit 1 ;;
esac
# The crates are fetched here: the folder has no network of its own.
trap 'rm -rf "$root/msrv"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
rm -rf "$root/msrv" && mkdir "$root/msrv"
git ls-files -z --cached --others --exclude-standard | xargs -0 cp --parents -t "$root/msrv"
mkdir "$root/msrv/.cargo"
cargo vendor --quiet --locked "$root/msrv/vendor" >/dev/null
cat > "$root/msrv/.cargo/config.toml" <<'CONFIG'
[source.crates-io]
replace-with = "vendored"
[source.vendored]
directory = "vendor"
CONFIG
chroot "$root" sh -c 'cd /msrv && HOME=/root CARGO_NET_OFFLINE=true cargo check --quiet --locked --all-targets &&
    cargo check --quiet --locked --lib --no-default-features'
echo "msrv: it compiles"
