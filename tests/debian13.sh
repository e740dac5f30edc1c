#!/bin/sh
# Makes a Debian 13 in the folder that is named, with its Rust and systemd's tools, unless there is one: debian13.sh FOLDER
# Needs debootstrap, and to be run by root. Nothing outside of the folder changes.
set -eu
root=$1
if [ "$(realpath -m "$root")" = / ]; then
    echo 'debian13.sh: / is this system itself' >&2
    exit 1
fi
if [ -x "$root/usr/bin/cargo" ] && [ -x "$root/usr/bin/systemd-analyze" ]; then exit 0; fi
if ! command -v debootstrap >/dev/null || [ "$(id -u)" != 0 ]; then
    echo 'debian13.sh: needs debootstrap (apt-get install debootstrap), and root' >&2
    exit 1
fi
mkdir -p "$(dirname "$root")"
rm -rf --one-file-system "$root.new"
debootstrap --variant=minbase --include=rustc,cargo,gcc,libc6-dev,systemd trixie "$root.new" \
    "${DEBIAN_MIRROR:-http://deb.debian.org/debian}" >"$root.log" 2>&1 || { tail -20 "$root.log" >&2; exit 1; }
mv "$root.new" "$root"
