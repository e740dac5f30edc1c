#!/bin/sh
# Writes what belongs to an installed agent, as PROGRAM prints it, into FOLDER: texts.sh PROGRAM FOLDER
set -eu
program=$1
folder=$2
mkdir -p "$folder/man" "$folder/completions" "$folder/systemd"
"$program" print man > "$folder/man/tunnel-agent.1"
"$program" print completions bash > "$folder/completions/tunnel-agent.bash"
"$program" print completions zsh > "$folder/completions/_tunnel-agent"
"$program" print completions fish > "$folder/completions/tunnel-agent.fish"
"$program" print unit > "$folder/systemd/tunnel-agent.service"
"$program" print config > "$folder/agent.conf"
