#!/usr/bin/env bash
# Rate limits as they are held, and what they cost.
set -euo pipefail
cd "$(dirname "$0")/.."

usage() {
    cat <<'USAGE'
Usage: scripts/qos.sh [--seconds N] [--no-cost]

Starts a release build of srpt_tgt with a null LUN over shared memory on core 0, sets each limit with
rpc.py, and runs srpt_perf on core 1: 100, 10,000 and 500,000 IOPS, and 50 MB/s. Prints what was
measured beside each limit; status 1 when one is missed by more than 2 %. Then, by callgrind, the
target's instructions per 4 KiB read: without a limit ever set, after one was set and taken away,
which has to be the same within 0.1 %, and with one that never holds a command back.

  --seconds N   length of each run, default 10
  --no-cost     without the instructions
  --help        this text
USAGE
}

seconds=10 cost=yes
while [ $# -gt 0 ]; do
    case "$1" in
        --seconds) seconds="${2:?--seconds needs a number}"; shift ;;
        --no-cost) cost=no ;;
        --help) usage; exit 0 ;;
        *) usage >&2; exit 2 ;;
    esac
    shift
done
export PATH="${CARGO_HOME:-$HOME/.cargo}/bin:$PATH"
cargo build --quiet --release --workspace --bin srpt_tgt --bin srpt_perf
[ $cost = no ] || cargo build --quiet --release --workspace --example instructions
bin="${CARGO_TARGET_DIR:-target}/release"

# shellcheck source=scripts/target.sh
. scripts/target.sh
target_start -m 0x1 -s 64 --no-huge
rpc bdev_null_create Null0 1024 512
rpc srpt_create_target qos
rpc srpt_map_lun qos Null0 --lun 0
rpc srpt_add_listener qos -t shm -a "$srp_socket"

failed=0
printf '%-14s %14s %12s\n' limit measured deviation
# limited NAME OPTION VALUE FIGURE WANTED [option of srpt_perf]..: FIGURE is a member of the report.
limited() {
    rpc bdev_set_qos_limit Null0 "$2" "$3"
    "$bin/srpt_perf" -r "shm:$srp_socket" -P 1 -w randrw -t "$seconds" "${@:6}" \
        --json "$scratch/run.json" >"$scratch/run.log" || { cat "$scratch/run.log" >&2; exit 1; }
    rpc bdev_set_qos_limit Null0 "$2" 0
    python3 - "$scratch/run.json" "$1" "$4" "$5" <<'PYTHON' || failed=1
import json
import sys
path, name, figure, wanted = sys.argv[1:]
with open(path, encoding="utf-8") as file:
    measured = json.load(file)["total"][figure]
deviation = 100 * (measured / float(wanted) - 1)
print(f"{name:14} {measured:14,.1f} {deviation:+10.2f} %")
sys.exit(abs(deviation) > 2)
PYTHON
}
limited "100 IOPS" --rw-ios-per-sec 100 iops 100
limited "10,000 IOPS" --rw-ios-per-sec 10000 iops 10000
limited "500,000 IOPS" --rw-ios-per-sec 500000 iops 500000 -q 64
limited "50 MB/s" --rw-mbytes-per-sec 50 mib_per_s 50 -o 64k
"$bin/srpt_perf" -r "shm:$srp_socket" -P 1 -w randrw -t 2 --json "$scratch/run.json" >/dev/null
python3 - "$scratch/run.json" <<'PYTHON'
import json
import sys
with open(sys.argv[1], encoding="utf-8") as file:
    print(f'{"none":14} {json.load(file)["total"]["iops"]:14,.1f}')
PYTHON
[ $failed -eq 0 ] || echo "qos: a limit was missed by more than 2 %" >&2
[ $cost = yes ] || exit $failed

command -v valgrind >/dev/null || { echo "valgrind is not installed: scripts/setup.sh" >&2; exit 1; }
readonly COMMANDS=5000
# instructions LIMIT: of the target per command.
instructions() {
    valgrind --tool=callgrind --callgrind-out-file="$scratch/out" --collect-atstart=no \
        '--toggle-collect=*loaded_turn*' "$bin/examples/instructions" read 32 $COMMANDS null "$1" \
        >"$scratch/log" 2>&1 || { cat "$scratch/log" >&2; return 1; }
    awk -v commands=$COMMANDS '/Collected *:/ { printf "%.1f", $NF / commands }' "$scratch/log"
}
never=$(instructions never) removed=$(instructions removed) on=$(instructions on)
printf '%-14s %14s\n' "" "instructions" "never limited" "$never" "limit removed" "$removed" "limited" "$on"
awk -v a="$never" -v b="$removed" 'BEGIN { exit !(a > 0 && b > 0 && (b - a) / a < 0.001) }' ||
    { echo "qos: a limit that is off costs something" >&2; failed=1; }
exit $failed
