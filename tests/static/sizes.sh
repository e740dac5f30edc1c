#!/bin/sh
# What each feature adds to the static agent, as the rows of a table: sizes.sh
set -eu
cd "$(dirname "$0")/../.."
target=x86_64-unknown-linux-musl
build=${CARGO_TARGET_DIR:-$PWD/target}/sizes
for features in 'cli' 'cli,tls' 'cli,gateway,tls'; do
    CARGO_TARGET_DIR=$build STATIC_FEATURES="--no-default-features --features $features" \
        sh tests/static/build.sh $target agent >/dev/null
    echo "| \`$features\` | $(wc -c < "$build/$target/small/agent") bytes |"
done
