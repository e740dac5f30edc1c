#!/bin/sh
# Makes the archives of a release in target/dist, their checksums and a list of the crates in them: dist.sh TARGET …
# Two builds of one commit are the same bytes, wherever they are made by the same compilers.
set -eu
cd -P "$(dirname "$0")/../.."
export LC_ALL=C
cargo=${CARGO:-cargo}
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
build=${CARGO_TARGET_DIR:-$PWD/target}
dist=$build/dist
: "${SOURCE_DATE_EPOCH:=$(git log -1 --format=%ct 2>/dev/null || echo 0)}"
export SOURCE_DATE_EPOCH

if ! $cargo cyclonedx --version >/dev/null 2>&1; then
    echo 'make dist: cargo-cyclonedx is missing, which lists the crates: cargo install cargo-cyclonedx@0.5.9 --locked' >&2
    exit 1
fi
for target in "$@"; do sh tests/static/build.sh "$target" >/dev/null; done
mkdir -p "$dist"
rm -rf "$dist"/tunnel-agent-* "$dist/SHA256SUMS"

texts=$(mktemp -d)
trap 'rm -rf "$texts" tunnel-agent.json' EXIT
sh tests/static/texts.sh "$texts"

for target in "$@"; do
    sh tests/static/build.sh "$target" agent gateway
    name=tunnel-agent-$version-$target
    folder=$dist/$name
    mkdir "$folder"
    cp LICENSE-APACHE LICENSE-MIT README.md "$folder"
    cp -R "$texts/." "$folder"
    install -m 755 "$build/$target/small/agent" "$folder/tunnel-agent"
    install -m 755 "$build/$target/small/gateway" "$folder/tunnel-gateway"
    tar --sort=name --mtime="@$SOURCE_DATE_EPOCH" --owner=0 --group=0 --numeric-owner --mode=u=rwX,go=rX \
        -C "$dist" -cf - "$name" | gzip -n9 > "$folder.tar.gz"
    rm -rf "$folder"
done

# What is in them, as a bill of materials; one serves all targets.
$cargo cyclonedx --quiet --format json --spec-version 1.5 --all --target all --override-filename tunnel-agent
sed "s#file://$PWD#file:///tunnel-agent#" tunnel-agent.json > "$dist/tunnel-agent-$version.cdx.json"
(cd "$dist" && sha256sum -- *.tar.gz *.cdx.json > SHA256SUMS && cat SHA256SUMS)
