#!/bin/sh
# Makes a Debian package of the static programs in target/dist: deb.sh TARGET
set -eu
cd "$(dirname "$0")/../.."
target=$1
build=${CARGO_TARGET_DIR:-$PWD/target}
: "${SOURCE_DATE_EPOCH:=$(git log -1 --format=%ct 2>/dev/null || echo 0)}"
export SOURCE_DATE_EPOCH

if ! cargo deb --version >/dev/null 2>&1; then
    echo 'make deb: cargo-deb is missing: cargo install cargo-deb@3.8.0 --locked' >&2
    exit 1
fi
sh tests/static/build.sh "$target" agent gateway

# What the package's metadata in Cargo.toml names, beside the programs.
rm -rf "$build/deb"
mkdir -p "$build/deb/program" "$build/dist"
cargo build --quiet --locked --bin agent
cp "$build/debug/agent" "$build/deb/program/tunnel-agent"
sh tests/static/texts.sh "$build/deb/program/tunnel-agent" "$build/deb"
cp tests/static/debian/postrm "$build/deb"
# For the gateway's token. The unit loads the file, so it has to be there; as long as it is empty, agent.conf does not name it.
: > "$build/deb/token"
# Packages install into /usr, not /usr/local.
sed 's#/usr/local/bin/#/usr/bin/#' "$build/deb/systemd/tunnel-agent.service" > "$build/deb/tunnel-agent.service"
cargo deb --quiet --no-build --no-strip --profile small --target "$target" --output "$build/dist/"
ls -l "$build/dist/"*.deb
