#!/bin/sh
# Builds the fuzz targets with coverage, on the stable toolchain, and runs each for so many seconds: run.sh SECONDS
set -eu
cd "$(dirname "$0")"
seconds=$1
case $seconds in
'' | *[!0-9]* | 0*)
    echo "fuzz: FUZZ_SECONDS must be a whole number above 0, such as 60" >&2
    exit 2
    ;;
esac
target=$(rustc -vV | sed -n 's/^host: //p')
out=$(cd ../.. && pwd)/target/fuzz
# What `cargo fuzz` passes, without a sanitizer: there is no unsafe code to watch.
RUSTFLAGS="--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table
    -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1" \
    cargo build --quiet --release --target "$target" --target-dir "$out"
for name in decoders session; do
    mkdir -p "$out/corpus/$name"
    echo "fuzzing $name for $seconds s"
    "$out/$target/release/$name" "$out/corpus/$name" -max_total_time="$seconds" -max_len=4096 -timeout=60 \
        -artifact_prefix="$out/$name-" -print_final_stats=1 >"$out/$name.log" 2>&1 &
    fuzzer=$!
    # Whoever ends this script ends the fuzzer.
    trap 'kill "$fuzzer" 2>/dev/null; exit 1' HUP INT TERM
    if ! wait "$fuzzer"; then
        tail -40 "$out/$name.log"
        echo "fuzzing $name found something; its input is $out/$name-*, its log $out/$name.log" >&2
        exit 1
    fi
    grep 'stat::number_of_executed_units' "$out/$name.log"
done
