#!/usr/bin/env bash
# Instructions of the target per command, counted by callgrind, against the figures that are checked in.
set -euo pipefail
cd "$(dirname "$0")/.."

usage() {
    cat <<'USAGE'
Usage: scripts/instructions.sh [--update | --report | --planted]

Runs one core's target over shared memory in one thread (bench/examples/instructions.rs) and counts
what it executes per 4 KiB command, and per turn with 100 idle sessions (null-idle-d100), in all and
by layer. Fails when a sum, or a layer of at least 50 instructions, differs by more than 2 % from
bench/baselines/instructions.txt, in either direction.
With another compiler or processor than the baseline's the figures are shown and not compared.

  --update    writes the baseline anew: belongs into the commit that changes a figure, with the why
  --report    shows the figures and compares nothing
  --planted   applies each change of bench/baselines/planted/ in turn, and fails unless the check
              finds it
  --help      this text
USAGE
}

baseline=bench/baselines/instructions.txt
mode="${1:-}"
case "$mode" in
    "" | --update | --report | --planted) ;;
    --help) usage; exit 0 ;;
    *) usage >&2; exit 2 ;;
esac

export PATH="${CARGO_HOME:-$HOME/.cargo}/bin:$PATH"
command -v valgrind >/dev/null || { echo "valgrind is not installed: scripts/setup.sh" >&2; exit 1; }

readonly COMMANDS=5000
# What the figures depend on besides the sources: the compiler, and which memcpy the C library picks.
made_with="$(rustc --version), $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -1)"
scratch="$(mktemp -d)"
trap 'rm -rf "$scratch"' EXIT

# layers: self cost of a callgrind file by the source file that each instruction comes from, so that
# inlined code counts where it was written.
layers() {
    awk -v commands="$COMMANDS" '
        function named(text,  id) {
            id = text; sub(/\).*/, ")", id)
            if (text ~ /\) /) { names[id] = text; sub(/^[^)]*\) /, "", names[id]) }
            return names[id]
        }
        function layer(file) {
            if (file ~ /transport\/src\/srp\//) return "srp"
            if (file ~ /src\/scsi\//) return "scsi"
            if (file ~ /bdev\/src\//) return "bdev"
            if (file ~ /transport\/src\//) return "fabric"
            if (file ~ /reactor\/src\//) return "reactor"
            if (file ~ /src\/shard\//) return "target"
            return "library"
        }
        /^(fl|fi|fe)=/ { sub(/^[^=]*=/, ""); file = named($0); next }
        /^(cfi|cfl)=/ { sub(/^[^=]*=/, ""); named($0); next }
        /^calls=/ { called = 1; next }
        /^[0-9+*-]/ { if (called) called = 0; else { cost[layer(file)] += $2; cost["sum"] += $2 } }
        END {
            count = split("srp scsi bdev fabric target reactor library sum", order, " ")
            for (i = 1; i <= count; i++) printf "%s %.1f\n", order[i], cost[order[i]] / commands
        }' "$1"
}

# case_of OP DEPTH DEVICE FILE: one case, lines of case, layer, instructions.
case_of() {
    local name=$3-$1-d$2
    valgrind --tool=callgrind --callgrind-out-file="$scratch/$name.out" --collect-atstart=no \
        '--toggle-collect=*loaded_turn*' "$target/release/examples/instructions" \
        "$1" "$2" "$COMMANDS" "$3" >"$scratch/$name.log" 2>&1 ||
        { cat "$scratch/$name.log" >&2; return 1; }
    layers "$scratch/$name.out" | sed "s/^/$name /" >"$4"
}

# measure FILE: the lines of all cases. As many at a time as there are cores: nothing here goes by time.
measure() {
    local target number=0 pid pids=() op depth device
    cargo build --quiet --release --workspace --example instructions
    target="$(cargo metadata --format-version 1 --no-deps |
        sed -n 's/.*"target_directory":"\([^"]*\)".*/\1/p')"
    rm -f "$scratch"/case-*
    while read -r op depth device; do
        if [ ${#pids[@]} -ge "$(nproc)" ]; then
            wait "${pids[0]}" || return 1
            pids=("${pids[@]:1}")
        fi
        case_of "$op" "$depth" "$device" "$scratch/case-$number" &
        pids+=($!)
        number=$((number + 1))
    done <<'CASES'
read 1 null
read 32 null
write 32 null
read 32 malloc
read 32 passthru
idle 100 null
CASES
    for pid in "${pids[@]}"; do
        wait "$pid" || return 1
    done
    cat "$scratch"/case-* >"$1"
}

# compare FILE: fails with a line for each figure that moved.
compare() {
    awk '
        /^#/ { next }
        NR == FNR { want[$1 " " $2] = $3; next }
        {
            key = $1 " " $2
            if (!(key in want)) { printf "%s: %s, not in the baseline\n", key, $3; bad = 1; next }
            difference = $3 - want[key]
            size = difference < 0 ? -difference : difference
            if (($2 == "sum" || want[key] >= 50) && size > want[key] * 0.02) {
                printf "%s: %s instructions per command, the baseline has %s (%+.1f %%)\n",
                    key, $3, want[key], 100 * difference / want[key]
                bad = 1
            }
            delete want[key]
        }
        END {
            for (key in want) { printf "%s: in the baseline only\n", key; bad = 1 }
            exit bad
        }' "$baseline" "$1"
}

check() {
    measure "$scratch/now"
    compare "$scratch/now"
}

table() {
    awk '{ line[$1] = line[$1] sprintf(" %s %s", $2, $3); if ($2 == "sum") print $1 ":" line[$1] }' "$1"
}

case "$mode" in
    --update)
        measure "$scratch/now"
        {
            echo "# Instructions per command: case, layer, count. By scripts/instructions.sh --update."
            echo "# $made_with"
            cat "$scratch/now"
        } >"$baseline"
        table "$scratch/now"
        ;;
    --report)
        measure "$scratch/now"
        table "$scratch/now"
        ;;
    --planted)
        # In a copy: nobody's commit takes a planted change along.
        copy=target/planted/instructions
        for change in bench/baselines/planted/*.patch; do
            rm -rf "$copy"
            mkdir -p "$copy"
            git ls-files -z --cached --others --exclude-standard |
                tar --null --files-from=- -cf - | tar -xf - -C "$copy"
            git apply --directory="$copy" "$change"
            (export CARGO_TARGET_DIR="$PWD/target/planted/build"; cd "$copy"; measure "$scratch/now")
            if compare "$scratch/now"; then
                echo "$change: NOT found" >&2
                exit 1
            fi
            echo "$change: found"
        done
        ;;
    *)
        if ! grep -qxF "# $made_with" "$baseline"; then
            echo "not compared: the baseline is not of $made_with"
            measure "$scratch/now"
        elif ! check; then
            echo "If the change is meant: scripts/instructions.sh --update, and say why in the commit." >&2
            exit 1
        fi
        table "$scratch/now"
        ;;
esac
