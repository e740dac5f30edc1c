#!/bin/sh
# Makes a Debian package of the static programs in target/dist: deb.sh TARGET
set -eu
cd "$(dirname "$0")/../.."
cargo=${CARGO:-cargo}
target=$1
build=${CARGO_TARGET_DIR:-$PWD/target}
: "${SOURCE_DATE_EPOCH:=$(git log -1 --format=%ct 2>/dev/null || echo 0)}"
export SOURCE_DATE_EPOCH

if ! $cargo deb --version >/dev/null 2>&1; then
    echo 'make deb: cargo-deb is missing: cargo install cargo-deb@3.8.0 --locked' >&2
    exit 1
fi
command -v readelf >/dev/null || { echo 'make deb: readelf is missing: apt-get install binutils' >&2; exit 1; }
sh tests/static/build.sh "$target" agent gateway

# What the package's metadata in Cargo.toml names, beside the programs; it does so by fixed paths.
files=target/deb
rm -rf "$files" "$build/dist/"*.deb
mkdir -p "$build/dist"
sh tests/static/texts.sh "$files"
cp tests/static/debian/postrm "$files"
# For the gateway's token. The unit loads the file, so it has to be there; as long as it is empty, agent.conf does not name it.
: > "$files/token"
# Packages install into /usr, not /usr/local, and their units stand where they are.
sed -e 's#/usr/local/bin/#/usr/bin/#' -e '1,/^$/d' "$files/systemd/tunnel-agent.service" > "$files/tunnel-agent.service"
$cargo deb --quiet --no-build --no-strip --profile small --target "$target" --output "$build/dist/"
