#!/bin/sh
# Checks that library and programs compile for macOS and Windows, on which no test runs.
set -eu
cd "$(dirname "$0")/../.."
here=$PWD/tests/static
. tests/static/tools.sh

for pair in 'aarch64-apple-darwin aarch64-macos' 'x86_64-pc-windows-gnu x86_64-windows-gnu'; do
    target=${pair% *}
    under=$(echo "$target" | tr - _)
    export ZIG_TARGET="${pair#* }" "CC_$under=$here/zig-cc" "AR_$under=$here/zig-ar"
    # Windows's libraries are linked by what this tool makes, when std is.
    mkdir -p target/dlltool
    printf '#!/bin/sh\nexec %s dlltool "$@"\n' "$ZIG" > target/dlltool/x86_64-w64-mingw32-dlltool
    chmod +x target/dlltool/x86_64-w64-mingw32-dlltool
    PATH=$PWD/target/dlltool:$PATH RUSTFLAGS='-D warnings' \
        ${CARGO:-cargo} check --quiet --locked --lib --bins --target "$target" -Zbuild-std=std,panic_unwind
    PATH=$PWD/target/dlltool:$PATH \
        ${CARGO:-cargo} check --quiet --locked --lib --no-default-features --target "$target" -Zbuild-std=std,panic_unwind
    echo "other systems: it compiles for $target"
done
