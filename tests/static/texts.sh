#!/bin/sh
# Writes what belongs to an installed agent, as the agent prints it, into FOLDER: texts.sh FOLDER
# It is the same for every target, so a program of this machine prints it, by the name that it is installed as.
set -eu
folder=$1
cargo=${CARGO:-cargo}
build=${CARGO_TARGET_DIR:-target}
programs=$(mktemp -d)
trap 'rm -rf "$programs"' EXIT
# shellcheck disable=SC2086 # CARGO may be several words.
env -u CARGO_BUILD_TARGET $cargo build --quiet --locked --bin agent
program=$programs/tunnel-agent
cp "$build/debug/agent" "$program"
mkdir -p "$folder/man" "$folder/completions" "$folder/systemd"
"$program" print man > "$folder/man/tunnel-agent.1"
"$program" print completions bash > "$folder/completions/tunnel-agent.bash"
"$program" print completions zsh > "$folder/completions/_tunnel-agent"
"$program" print completions fish > "$folder/completions/tunnel-agent.fish"
"$program" print unit > "$folder/systemd/tunnel-agent.service"
"$program" print config > "$folder/agent.conf"
