#!/usr/bin/env bash
# The fuzz targets under libFuzzer, with coverage and the address sanitizer compiled in.
set -euo pipefail
cd "$(dirname "$0")/.."

usage() {
    cat <<'USAGE'
Usage: scripts/fuzz.sh [--for SECONDS] [--jobs N] [TARGET..]
       scripts/fuzz.sh --replay FILE TARGET
       scripts/fuzz.sh --merge [TARGET..]

Builds the targets of tests/src/fuzz and runs each for a while, from the corpus in the repository and
from what earlier runs have found (target/fuzz/corpus). Prints runs, runs per second and covered
places of each. Exits 1 when there are findings, each with the command that repeats it.

  --for SECONDS   time for each target (default 60)
  --jobs N        targets at a time (default 1)
  --replay FILE   runs a target on one input
  --merge         makes the repository's corpus anew: the fewest inputs that cover what all that
                  are known cover. Inputs named regression-* stay.
  --list          the targets
  --help          this text

Switches of the sanitizer and of the coverage are not stable: RUSTC_BOOTSTRAP=1 makes the pinned
compiler take them. libFuzzer comes with the crate libfuzzer-sys and needs a C++ compiler.
USAGE
}

seconds=60 jobs=1 action=run file=""
while [ $# -gt 0 ]; do
    case $1 in
        --for) seconds=$2; shift 2 ;;
        --jobs) jobs=$2; shift 2 ;;
        --replay) action=replay; file=$2; shift 2 ;;
        --merge) action=merge; shift ;;
        --list) action=list; shift ;;
        --help) usage; exit 0 ;;
        -*) usage >&2; exit 2 ;;
        *) break ;;
    esac
done
for number in "$seconds" "$jobs"; do
    [[ $number =~ ^[1-9][0-9]*$ ]] || { usage >&2; exit 2; }
done

corpus=$PWD/tests/corpus/fuzz
known=()
for folder in "$corpus"/*/; do
    known+=("$(basename "$folder")")
done
if [ "$action" = list ]; then
    printf '%s\n' "${known[@]}"
    exit 0
fi
targets=("$@")
[ $# -gt 0 ] || targets=("${known[@]}")
for target in "${targets[@]}"; do
    [ -d "$corpus/$target" ] || { echo "fuzz: $target is none of ${known[*]}" >&2; exit 2; }
done

home=$(realpath --canonicalize-missing "${CARGO_TARGET_DIR:-target}/fuzz")
findings=$home/findings
mkdir -p "$findings"
host=$(rustc --version --verbose | sed --quiet 's/^host: //p')
# A target triple keeps build scripts and macros out of it; the standard library's own code is not
# instrumented, which the second switch allows.
flags=(-Zsanitizer=address -Cunsafe-allow-abi-mismatch=sanitizer -Cpasses=sancov-module)
for switch in level=4 inline-8bit-counters pc-table trace-compares; do
    flags+=("-Cllvm-args=-sanitizer-coverage-$switch")
done
RUSTC_BOOTSTRAP=1 RUSTFLAGS="${flags[*]}" cargo build --quiet --profile soak --target "$host" \
    --target-dir "$home" --package srpt_tests --features libfuzzer --bin fuzz
binary=$home/$host/soak/fuzz

# fuzz TARGET ARGUMENT..: libFuzzer. Memory that somebody may still write to is leaked on purpose.
fuzz() {
    SRPT_FUZZ_TARGET=$1 ASAN_OPTIONS="detect_leaks=0:detect_stack_use_after_return=1" \
        "$binary" -detect_leaks=0 -max_len=4096 -timeout=20 -rss_limit_mb=3072 "${@:2}"
}

run() {
    local target=$1 log=$home/$1.log
    mkdir -p "$home/corpus/$target"
    fuzz "$target" -max_total_time="$seconds" -print_final_stats=1 \
        -artifact_prefix="$findings/$target-" "$home/corpus/$target" "$corpus/$target" \
        >"$log" 2>&1 || true
    local runs cover
    runs=$(sed --quiet 's/^stat::number_of_executed_units: *//p' "$log")
    cover=$(sed --quiet --regexp-extended 's/.* cov: ([0-9]+) .*/\1/p' "$log" | tail -1)
    # Without its last lines libFuzzer has ended otherwise than at the end of its time.
    if grep --quiet '^Done [0-9]* runs in' "$log"; then
        printf '%-16s %9s runs %7s/s %6s places\n' \
            "$target" "$runs" "$((runs / seconds))" "${cover:-?}"
    else
        echo "$target FAILED: $(grep --max-count 1 --extended-regexp 'panicked at|ERROR: ' "$log" ||
            tail -1 "$log")"
        touch "$findings/$target.failed"
    fi
}

merge() {
    local target=$1 fresh=$home/merged
    rm -rf "$fresh"
    mkdir -p "$fresh" "$home/corpus/$target"
    # Counters and values are left out: one input per place is enough for a replay.
    fuzz "$target" -set_cover_merge=1 -use_counters=0 "$fresh" "$corpus/$target" \
        "$home/corpus/$target" >"$home/$target.log" 2>&1
    find "$corpus/$target" -type f ! -name 'regression-*' -delete
    cp "$fresh"/* "$corpus/$target/"
    echo "$target: $(find "$corpus/$target" -type f | wc -l) inputs"
}

case $action in
    replay) fuzz "${targets[0]}" "$file" ;;
    merge)
        for target in "${targets[@]}"; do
            merge "$target"
        done
        ;;
    run)
        rm -f "$findings"/*.failed
        before=$(mktemp)
        trap 'rm -f "$before"' EXIT
        for target in "${targets[@]}"; do
            while [ "$(jobs -rp | wc -l)" -ge "$jobs" ]; do
                wait -n
            done
            run "$target" &
        done
        wait
        failed=0
        for target in "${targets[@]}"; do
            [ -e "$findings/$target.failed" ] || continue
            failed=1
            echo "fuzz: $target, log $home/$target.log:" >&2
            find "$findings" -name "$target-*" -newer "$before" |
                sed "s|.*|    scripts/fuzz.sh --replay & $target|" >&2
        done
        exit "$failed"
        ;;
esac
