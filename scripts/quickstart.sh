#!/usr/bin/env bash
# From a fresh clone to measured I/O: builds, starts a target, puts a file system through it, checks
# every byte, measures, stops. Touches nothing outside the clone and one temporary directory.
set -euo pipefail
cd "$(dirname "$0")/.."

usage() {
    cat <<'USAGE'
Usage: scripts/quickstart.sh [--seconds N] [--skip-setup]

  --seconds N    length of each load (default 1)
  --skip-setup   don't look for missing packages
  --help         this text
USAGE
}

seconds=1
setup=yes
while [ $# -gt 0 ]; do
    case "$1" in
        --seconds)
            [[ "${2:-}" =~ ^[1-9][0-9]*$ ]] || { usage >&2; exit 2; }
            seconds="$2"
            shift
            ;;
        --skip-setup) setup=no ;;
        --help) usage; exit 0 ;;
        *) usage >&2; exit 2 ;;
    esac
    shift
done

export PATH="${CARGO_HOME:-$HOME/.cargo}/bin:/usr/sbin:/sbin:$PATH"
IMAGE_MB=64
MEMORY_MB=256

say() { printf '\n==> %s\n' "$*"; }
fail() { echo "quickstart: $*" >&2; exit 1; }

[ "$setup" = no ] || bash scripts/setup.sh

say "Building"
cargo build --release --workspace --bin srpt_tgt --bin srpt_dd --bin srpt_perf
bin="${CARGO_TARGET_DIR:-target}/release"

# shellcheck source=scripts/target.sh
. scripts/target.sh
started=$SECONDS

# The target gets the first allowed core, the load generator the last.
read -r -a cores <<<"$(python3 -c 'import os; print(*sorted(os.sched_getaffinity(0)))')"
target_core="${cores[0]}"
load_core="${cores[-1]}"
[ "$target_core" != "$load_core" ] || echo "one core only: target and load share it"

memory_args=(-s "$MEMORY_MB")
huge_kb=$(awk '/^HugePages_Free/ {n=$2} /^Hugepagesize/ {s=$2} END {print n * s}' /proc/meminfo)
if [ "$huge_kb" -lt $((MEMORY_MB * 1024)) ]; then
    echo "too few free huge pages (${huge_kb} KiB): using ordinary memory (--no-huge)"
    memory_args+=(--no-huge)
fi

say "Starting the target on core $target_core"
target_start -m "$(printf '0x%x' $((1 << target_core)))" "${memory_args[@]}"

say "Exporting three logical units: 0 null, 1 malloc, 2 file"
truncate -s "${IMAGE_MB}M" "$scratch/backing.img"
rpc bdev_null_create Null0 1024 512
rpc bdev_malloc_create -b Malloc0 "$IMAGE_MB" 512
rpc bdev_uring_create "$scratch/backing.img" File0 512
rpc srpt_create_target quickstart
rpc srpt_map_lun quickstart Null0 --lun 0
rpc srpt_map_lun quickstart Malloc0 --lun 1
rpc srpt_map_lun quickstart File0 --lun 2
rpc srpt_add_listener quickstart -t shm -a "$srp_socket"

say "Making an ext4 image and writing it through SRP to the file LUN"
mkdir "$scratch/tree"
cp -r README.md Cargo.toml src "$scratch/tree/"
head -c 8M /dev/urandom >"$scratch/tree/random.bin"
mkfs.ext4 -q -d "$scratch/tree" "$scratch/image.img" "${IMAGE_MB}M"
address="shm:$srp_socket"
"$bin/srpt_dd" --target "$address" --lun 2 --if "$scratch/image.img" --bs 1M --conv=fsync
"$bin/srpt_dd" --target "$address" --lun 2 --of "$scratch/back.img" --bs 1M --count "$IMAGE_MB"

say "Checking"
cmp "$scratch/image.img" "$scratch/back.img"
echo "read back through SRP: equal to the image, byte for byte"
cmp "$scratch/image.img" "$scratch/backing.img"
echo "backing file: equal to the image, byte for byte"
e2fsck -fn "$scratch/backing.img"

say "Loads of $seconds s on each LUN (core $load_core)"
perf() { "$bin/srpt_perf" --target "$address" --cpu "$load_core" -t "$seconds" "$@"; }
reports=()
for lun in 0 1 2; do
    for job in "randread 4k 32" "randwrite 4k 32" "read 128k 8" "write 128k 8"; do
        read -r pattern size depth <<<"$job"
        report="$scratch/$lun-$pattern.json"
        perf -l "$lun" -w "$pattern" -o "$size" -q "$depth" --json "$report" >/dev/null
        reports+=("$report")
    done
done
perf -l 1 -w randrw -o 512-64k -q 16 --verify --json "$scratch/verify.json" >/dev/null
echo "LUN 1: mixed random sizes, every block read back and verified: no difference"
python3 - "${reports[@]}" <<'PYTHON'
import json, sys
names = {0: "0 null", 1: "1 malloc", 2: "2 file"}
row = "{:<9} {:<10} {:>7} {:>5} {:>11} {:>10} {:>9} {:>9} {:>9}"
print(row.format("LUN", "job", "size", "depth", "IOPS", "MiB/s", "avg us", "p50 us", "p99 us"))
for name in sys.argv[1:]:
    with open(name, encoding="utf-8") as file:
        report = json.load(file)
    job, total, us = report["job"], report["total"], report["total"]["latency_us"]
    print(row.format(names[job["luns"][0]], job["pattern"], job["io_size"], job["depth"],
                     f"{total['iops']:.0f}", f"{total['mib_per_s']:.1f}",
                     f"{us['avg']:.1f}", f"{us['p50']:.1f}", f"{us['p99']:.1f}"))
PYTHON

say "Stopping the target"
kill -TERM "$target_pid"
status=0
wait "$target_pid" || status=$?
target_pid=""
[ "$status" -eq 0 ] || fail "the target ended with status $status"
echo "stopped with status 0"

say "Done in $((SECONDS - started)) s without the build"
echo "A file system of $IMAGE_MB MiB went through SRP onto a file and back, equal byte for byte."
echo "Three LUNs were measured. Nothing is left behind."
