#!/bin/sh
# Installs a package into a Debian 13 of its own, has systemd's tools judge its unit, starts its programs by hand, sends a
# request through them, and purges it: try-deb.sh PACKAGE. Needs root; DEBIAN_ROOT is the Debian (see tests/debian13.sh).
set -eu
package=$(realpath "$1")
cd "$(dirname "$0")/../.."
root=${DEBIAN_ROOT:-$PWD/target/debian13}
sh tests/debian13.sh "$root"
say() { echo "deb: $*"; }
fail() { echo "deb: $*" >&2; exit 1; }
become() { exec chroot "$root" env DEBIAN_FRONTEND=noninteractive PATH=/usr/sbin:/usr/bin:/sbin:/bin "$@"; }
in_root() { (become "$@"); }

running=
clean_up() {
    for one in $running; do kill "$one" 2>/dev/null || true; done
    umount "$root/proc" 2>/dev/null || true
    in_root dpkg --purge tunnel-agent >/dev/null 2>&1 || true
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
# What a run before may have left.
clean_up

cp "$package" "$root/package.deb"
in_root dpkg --install /package.deb >/dev/null
rm "$root/package.deb"
in_root tunnel-agent --version
in_root tunnel-gateway --version

# systemd-analyze reads /proc, and asks no running systemd. By itself it only warns of a word that it does not know.
mount -t proc proc "$root/proc"
in_root systemd-analyze verify --man=no --recursive-errors=no /usr/lib/systemd/system/tunnel-agent.service
level=$(in_root systemd-analyze security --offline=true --no-pager tunnel-agent.service | sed -n 's/.*Overall exposure level.*: \([0-9.]*\).*/\1/p')
say "the unit verifies; its exposure level is $level"
awk -v level="$level" 'BEGIN { exit !(level != "" && level <= 2.0) }' || fail "no exposure level of 2.0 or less"

log=$root/tmp
start_gateway() { # NAME
    (become tunnel-gateway --listen 127.0.0.1:0 --own-paths new) 2>"$log/$1" & running="$running $!"
    until address=$(sed -n 's#.*listening on http://\([0-9.:]*\);.*#\1#p' "$log/$1") && [ -n "$address" ]; do
        wait_more "no gateway: $(cat "$log/$1")"
    done
}
waited=0
wait_more() { # TEXT
    waited=$((waited + 1))
    [ $waited -lt 300 ] || fail "$1"
    sleep 0.1
}
# The local server is another gateway with its health page; the rest of the configuration is the package's.
start_gateway site
site=$address
start_gateway gateway
sed -i "s#^gateway = .*#gateway = ws://$address#; s#^local = .*#local = http://$site#; s#^admin = .*#admin = 127.0.0.1:0#" \
    "$root/etc/tunnel-agent/agent.conf"
(become XDG_STATE_HOME=/var/lib RUST_LOG=info tunnel-agent --config /etc/tunnel-agent/agent.conf) 2>"$log/agent" &
running="$running $!"
until grep -q 'is open' "$log/agent"; do wait_more "no tunnel: $(cat "$log/agent")"; done
answer=$(curl -sS --max-time 20 -H "Host: $(sed -n 's#.*http://\([^ ]*\) is open.*#\1#p' "$log/agent")" "http://$address/.tunnel/health")
case $answer in
    *'"status":"ok"'*) say "through the installed programs: $answer" ;;
    *) fail "not the local server's answer: $answer" ;;
esac
for one in $running; do kill "$one"; wait "$one" || fail "exit code $?: $(cat "$log/agent" "$log/gateway")"; done
running=

in_root dpkg --purge tunnel-agent >/dev/null
left=$(find "$root/etc" "$root/usr" "$root/var/lib" \( -name '*tunnel-agent*' -o -name '*tunnel-gateway*' \) | head)
[ -z "$left" ] || fail "purged, and there are still $left"
say 'purged, without a trace'
