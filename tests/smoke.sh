#!/usr/bin/env bash
# A request through a tunnel whose agent is the binary that is named: smoke.sh path/to/agent
set -euo pipefail
cd "$(dirname "$0")/.."
agent=$(realpath "$1")
cargo build --quiet --bin gateway
log=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null || true; rm -rf "$log"' EXIT

wait_for() { # FILE TEXT
    for _ in $(seq 600); do
        if grep -q "$2" "$1"; then return; fi
        sleep 0.1
    done
    echo "smoke: no '$2' in:" >&2
    cat "$1" >&2
    exit 1
}

start_gateway() { # NAME
    target/debug/gateway --listen 127.0.0.1:0 2>"$log/$1" &
    wait_for "$log/$1" 'listening on'
    address=$(sed -n 's#.*listening on http://\([0-9.:]*\);.*#\1#p' "$log/$1")
}

# Another gateway's own /health is the local site: nothing else has to be there.
start_gateway site
site=$address
start_gateway gateway
RUST_LOG=info "$agent" --tunnel-id agent_550e8400-e29b-41d4-a716-446655440000_smoke \
    --gateway "ws://$address" --local "http://$site" 2>"$log/agent" &
running=$!
wait_for "$log/gateway" 'connected, version'

# With the header the request goes to the agent, whatever its path.
answer=$(curl -sS --max-time 20 -H 'X-Tunnel-Id: agent_550e8400-e29b-41d4-a716-446655440000_smoke' "http://$address/health")
wait_for "$log/agent" 'GET /health 200'
case $answer in
    *'"status":"ok"'*) echo "smoke: $agent answered through the tunnel" ;;
    *) echo "smoke: unexpected answer: $answer" >&2; exit 1 ;;
esac
kill -TERM "$running"
wait "$running"
echo 'smoke: it ended with exit code 0'
