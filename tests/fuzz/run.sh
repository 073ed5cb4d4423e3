#!/bin/sh
# Builds all fuzz targets once and runs each for SECONDS, two at a time; one line each. Fails when any of them crashed.
# usage: tests/fuzz/run.sh SECONDS [TARGET..]
# A soak of the devices, ten minutes each: tests/fuzz/run.sh 600 serial virtio_balloon virtio_blk virtio_console virtio_mmio virtio_vsock
# What was found so far stays in target/fuzz/corpus and is where the next run begins; the inputs of crashes are in target/fuzz/crashes.
# With KAPSEL_FUZZ_ASAN=1 the targets are built with AddressSanitizer.
set -eu

[ $# -ge 1 ] || { echo "usage: $0 SECONDS [TARGET..]" >&2; exit 2; }
seconds=$1
shift
here=$(cd "$(dirname "$0")" && pwd)
out=$(cd "$here/../.." && pwd)/target/fuzz
triple=x86_64-unknown-linux-gnu
targets=${*:-$(sed -n 's/^path = "targets\/\(.*\)\.rs"$/\1/p' "$here/Cargo.toml" | grep -vx seeds)}

flags="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters"
flags="$flags -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares --cfg fuzzing"
if [ "${KAPSEL_FUZZ_ASAN:-0}" = 1 ]; then
    # The flag is not stable; the compiler is.
    export RUSTC_BOOTSTRAP=1
    flags="$flags -Zsanitizer=address"
    out=$out/asan
fi
export RUSTFLAGS="$flags"
export TMPDIR="${TMPDIR:-/tmp}"
"${CARGO:-cargo}" build --quiet --release --bins \
    --manifest-path "$here/Cargo.toml" --target "$triple" --target-dir "$out"
bin=$out/$triple/release
mkdir -p "$out/crashes"
KAPSEL_SEEDS=$out/seeds "$bin/seeds" -runs=0 >"$out/seeds.log" 2>&1 || { cat "$out/seeds.log" >&2; exit 1; }

# Runs one target and says how it went; leaves a file behind when it crashed.
run() {
    mkdir -p "$out/corpus/$1"
    log=$out/$1.log
    if "$bin/$1" -max_total_time="$seconds" -rss_limit_mb=1024 -timeout=20 -max_len=8192 -print_final_stats=1 \
        -artifact_prefix="$out/crashes/$1-" "$out/corpus/$1" "$out/seeds/$1" >"$log" 2>&1; then
        runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
        cover=$(sed -n 's/.* cov: \([0-9]*\) .*/\1/p' "$log" | tail -1)
        echo "fuzz $1: ok, $runs runs in $seconds s, $cover edges"
    else
        : >"$out/failed-$1"
        echo "fuzz $1: CRASHED, see $log; the input is in $out/crashes"
    fi
}

rm -f "$out"/failed-*
first=
for target in $targets; do
    run "$target" &
    if [ -z "$first" ]; then
        first=$!
    else
        # Two at a time: wait for both before the next pair.
        wait "$first" "$!"
        first=
    fi
done
wait
for failed in "$out"/failed-*; do
    [ -e "$failed" ] || exit 0
    tail -30 "$out/${failed##*/failed-}.log"
done
exit 1
