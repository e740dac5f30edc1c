#!/bin/sh
# Builds the static agent for x86_64-unknown-linux-musl, and proves that it is static.
# Where rustup has the target it is an ordinary build; elsewhere std is built from Debian's sources.
set -eu

binary=$1
target=x86_64-unknown-linux-musl
cargo=${CARGO:-cargo}

if ! command -v musl-gcc >/dev/null; then
    echo 'make musl: musl-gcc is missing, which compiles the C of the TLS library.' >&2
    echo '  On Debian or Ubuntu: apt-get install musl-tools' >&2
    exit 1
fi
export CC_x86_64_unknown_linux_musl=musl-gcc
export CARGO_TARGET_X86_64_UNKNOWN_LINUX_MUSL_LINKER=musl-gcc

if rustc --print target-libdir --target $target 2>/dev/null | xargs -I{} sh -c 'ls {}/libstd-*.rlib' >/dev/null 2>&1; then
    echo "musl: an ordinary build, since rustup has $target"
    unset CARGO_TARGET_X86_64_UNKNOWN_LINUX_MUSL_LINKER
    $cargo build --profile small --bin agent --target $target
elif [ -d /usr/lib/rustlib/src/rust/library ] || [ -d /usr/src/rustc-"$(/usr/bin/rustc --version 2>/dev/null | cut -d' ' -f2)" ]; then
    echo "musl: building std from source with Debian's /usr/bin/rustc, since rustup has no $target"
    # std links an unwinder, which a build that aborts on panic never calls: stubs stand in for it.
    stubs=$PWD/target/musl-stubs
    mkdir -p "$stubs"
    for name in _Unwind_Backtrace _Unwind_GetIP _Unwind_GetIPInfo _Unwind_GetCFA _Unwind_FindEnclosingFunction; do
        echo "void *$name(void) { return 0; }"
    done > "$stubs/unwind.c"
    musl-gcc -c -o "$stubs/unwind.o" "$stubs/unwind.c"
    ar rcs "$stubs/libunwind.a" "$stubs/unwind.o"
    export RUSTC=/usr/bin/rustc RUSTC_BOOTSTRAP=1
    export CFLAGS_x86_64_unknown_linux_musl='-fno-asynchronous-unwind-tables -fno-unwind-tables'
    export CARGO_TARGET_X86_64_UNKNOWN_LINUX_MUSL_RUSTFLAGS="-C target-feature=+crt-static -C link-self-contained=no -C relocation-model=static -C force-unwind-tables=no -L native=$stubs"
    $cargo build --profile small --bin agent --target $target -Zbuild-std=std,panic_abort -Zbuild-std-features=
else
    echo "make musl: neither rustup's target nor Debian's std sources are there. One of:" >&2
    echo "  rustup target add $target" >&2
    echo '  apt-get install rustc-web rust-web-src musl-tools' >&2
    exit 1
fi

echo "musl: $binary, $(wc -c < "$binary") bytes"
if linked=$(ldd "$binary" 2>&1); then
    case $linked in
        *statically*) ;;
        *) echo "make musl: not static: $linked" >&2; exit 1 ;;
    esac
fi
echo "musl: static (ldd says:$(echo " $linked" | tr -s '\t\n ' ' ' | sed 's/ $//'))"
