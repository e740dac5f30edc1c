#!/bin/sh
# Builds the programs for TARGET, statically, and says how large they are: build.sh TARGET agent [gateway]
#
# Rust's std is built from source, smaller than the usual one; zig compiles the C of the TLS library and of the
# allocator, links, and brings musl. STATIC_FEATURES are options of cargo's for other features than the usual ones.
set -eu
cd -P "$(dirname "$0")/../.."
here=$PWD/tests/static

target=$1
shift
case $target in
    x86_64-unknown-linux-musl) ZIG_TARGET='x86_64-linux-musl' ;;
    aarch64-unknown-linux-musl) ZIG_TARGET='aarch64-linux-musl' ;;
    armv7-unknown-linux-musleabihf) ZIG_TARGET='arm-linux-musleabihf -mcpu=generic+v7a+vfp3d16' ;;
    arm-unknown-linux-musleabihf) ZIG_TARGET='arm-linux-musleabihf -mcpu=arm1176jzf_s' ;;
    riscv64gc-unknown-linux-musl) ZIG_TARGET='riscv64-linux-musl' ;;
    *)
        echo "make musl: TARGET=$target is none of x86_64-unknown-linux-musl, aarch64-unknown-linux-musl," >&2
        echo '  armv7-unknown-linux-musleabihf, arm-unknown-linux-musleabihf, riscv64gc-unknown-linux-musl' >&2
        exit 2 ;;
esac

. tests/static/tools.sh
export ZIG_TARGET
# Only whether it could be built.
[ $# -gt 0 ] || exit 0

build=${CARGO_TARGET_DIR:-$PWD/target}
case $build in /*) ;; *) build=$PWD/$build ;; esac
mkdir -p "$build/static-$target"

# A panic aborts, so nothing unwinds; std names an unwinder all the same. Empty functions stand in for it.
UNWINDER=$build/static-$target/unwind.o
for name in _Unwind_Backtrace _Unwind_GetIP _Unwind_GetIPInfo _Unwind_GetCFA _Unwind_FindEnclosingFunction \
    _Unwind_VRS_Get; do
    echo "void *$name(void) { return 0; }"
done > "$build/static-$target/unwind.c"
(cd "$build/static-$target" && sh "$here/zig-cc" -Os -c -o unwind.o unwind.c)
export UNWINDER

name=$(echo "$target" | tr a-z- A-Z_)
under=$(echo "$target" | tr - _)
# No path of this machine gets into the binaries.
home=${CARGO_HOME:-$HOME/.cargo}
export RUSTC_WRAPPER="$here/rustc-anywhere"
export PATH_MAPS="--remap-path-prefix=$PWD=. --remap-path-prefix=$build=target --remap-path-prefix=$SOURCES=std --remap-path-prefix=$home=cargo"
export "CC_$under=$here/zig-cc" "AR_$under=$here/zig-ar" "CARGO_TARGET_${name}_LINKER=$here/zig-cc"
export "CFLAGS_$under=-fno-asynchronous-unwind-tables -fno-unwind-tables -ffile-prefix-map=$PWD=. -ffile-prefix-map=$home=cargo"
export "CARGO_TARGET_${name}_RUSTFLAGS=-C target-feature=+crt-static -C link-self-contained=no -C relocation-model=static -C force-unwind-tables=no"

programs=
for program in "$@"; do programs="$programs --bin $program"; done
# shellcheck disable=SC2086 # Options, each a word.
${CARGO:-cargo} build --locked --profile small $programs ${STATIC_FEATURES:-} --target "$target" \
    -Zbuild-std=std,panic_abort -Zbuild-std-features=optimize_for_size

for program in "$@"; do
    binary=$build/$target/small/$program
    [ -f "$binary" ] || { echo "make musl: there is no $binary" >&2; exit 1; }
    echo "musl: $binary, $(wc -c < "$binary") bytes"
    # The header names the program's dynamic linker, if it has one.
    headers=$(readelf --program-headers --wide "$binary")
    case $headers in
        *INTERP*) echo "make musl: $binary is not static" >&2; exit 1 ;;
    esac
done
echo 'musl: static'
