#!/bin/sh
# Runs what `agent print dockerfile` makes an image of, in an empty root and as its user: try-image.sh PROGRAM. Needs root.
set -eu
program=$1
root=$(mktemp -d)
running=
chroot=$(PATH=$PATH:/usr/sbin command -v chroot)
trap '[ -z "$running" ] || kill "$running" 2>/dev/null; rm -rf "$root"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
install -m 755 "$program" "$root/tunnel-agent"
chmod 755 "$root"
# The variables and the user of the Dockerfile, on a port that is free.
user=$("$program" print dockerfile | sed -n 's/^USER //p')
[ -n "$user" ] || { echo 'image: the Dockerfile names no user' >&2; exit 1; }
variables=$("$program" print dockerfile | sed -n 's/^ENV //p')
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
# shellcheck disable=SC2086 # Variables, each a word.
in_image() { exec env -i $variables TUNNEL_AGENT_ADMIN="127.0.0.1:$port" "$chroot" --userspec="$user" "$root" /tunnel-agent "$@"; }

(in_image --tunnel-id agent_550e8400-e29b-41d4-a716-446655440000_image --gateway ws://127.0.0.1:1) 2>"$root/log" & running=$!
tries=0
until said=$( (in_image health) 2>&1); do
    tries=$((tries + 1))
    [ $tries -lt 300 ] || { echo "image: health says: $said; the log: $(cat "$root/log")" >&2; exit 1; }
    sleep 0.1
done
echo "image: as $user in an empty root, health says: $said"
kill "$running"
wait "$running" || { echo "image: exit code $?: $(cat "$root/log")" >&2; exit 1; }
running=
echo 'image: it ended with exit code 0'
