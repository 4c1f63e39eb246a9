#!/usr/bin/env bash
# fio writes with checksums, reads back and compares: through a target over shared memory, and
# straight on block devices in fio's own process.
set -euo pipefail
cd "$(dirname "$0")/.."

usage() {
    cat <<'USAGE'
Usage: scripts/fio-verify.sh [--release]

Builds the engine and a target, exports a malloc and a file LUN, and runs bench/fio/verify.fio on
each; then the same job on a malloc and a file bdev without a target; then jobs that trim. Leaves
nothing behind.
USAGE
}

profile=debug
case "${1:-}" in
    "") ;;
    --release) profile=release ;;
    --help) usage; exit 0 ;;
    *) usage >&2; exit 2 ;;
esac
export PATH="${CARGO_HOME:-$HOME/.cargo}/bin:/usr/sbin:/sbin:$PATH"
cargo_flags=()
engine_flags=(--debug)
[ "$profile" = debug ] || { cargo_flags=(--release); engine_flags=(); }
cargo build --quiet "${cargo_flags[@]}" --workspace --bin srpt_tgt
scripts/fio-engine.sh "${engine_flags[@]}"
bin="${CARGO_TARGET_DIR:-target}/$profile"

# shellcheck source=scripts/target.sh
. scripts/target.sh
target_start -m 0x1 -s 64 --no-huge --idle adaptive
truncate -s 128M "$scratch/disk.img" "$scratch/direct.img"
rpc bdev_malloc_create -b Malloc0 128 512
rpc bdev_uring_create "$scratch/disk.img" File0 512
rpc srpt_create_target fio
rpc srpt_map_lun fio Malloc0 --lun 0
rpc srpt_map_lun fio File0 --lun 1
rpc srpt_add_listener fio -t shm -a "$srp_socket"

# job NAME FILENAME [option of fio]..
job() {
    echo "fio-verify: $1"
    IOENGINE="external:$PWD/$bin/libsrpt_fio.so" FILENAME="$2" \
        fio --minimal --output="$scratch/fio.out" "${@:3}" bench/fio/verify.fio ||
        { cat "$scratch/fio.out" >&2; echo "fio-verify: $1 FAILED" >&2; exit 1; }
    ! grep -q 'verify\|error' "$scratch/fio.out" || { cat "$scratch/fio.out" >&2; exit 1; }
}
job "malloc LUN over shared memory" "$srp_socket"
job "file LUN over shared memory" "$srp_socket,1"
# The engine's own options can't stand in a job file that other engines run, too.
direct() {
    sed "s|^ioengine=.*|&\nbdev=$2|" bench/fio/verify.fio >"$scratch/direct.fio"
    echo "fio-verify: $1"
    IOENGINE="external:$PWD/$bin/libsrpt_fio.so" FILENAME=device \
        fio --minimal --output="$scratch/fio.out" "$scratch/direct.fio" ||
        { cat "$scratch/fio.out" >&2; echo "fio-verify: $1 FAILED" >&2; exit 1; }
}
direct "malloc bdev in fio's process" "malloc:128m"
direct "file bdev in fio's process" "file:$scratch/direct.img"

echo "fio-verify: a job of a given rate ends"
timeout 60 fio --minimal --output="$scratch/fio.out" --name=rate --filename="$srp_socket" \
    --ioengine="external:$PWD/$bin/libsrpt_fio.so" --rw=randread --bs=4k --rate_iops=1000 \
    --time_based --runtime=1

# What is damaged behind the target's back must be found, or all of the above proves nothing.
echo "fio-verify: a damaged block is found"
python3 - "$scratch/disk.img" <<'PYTHON'
import sys
with open(sys.argv[1], "r+b") as file:
    for block in range(0, 32 << 20, 4096):
        file.seek(block + 100)
        file.write(b"damage")
PYTHON
if IOENGINE="external:$PWD/$bin/libsrpt_fio.so" FILENAME="$srp_socket,1" fio --minimal \
    --section=small --verify_only --output="$scratch/fio.out" bench/fio/verify.fio 2>"$scratch/err"; then
    echo "fio-verify: fio did not find the damage" >&2
    exit 1
fi
grep -q 'verify' "$scratch/err" "$scratch/fio.out" || { cat "$scratch/err" >&2; exit 1; }
# trims NAME FILENAME IMAGE [option of fio]..: what was written reads as zeros, and fio counts it.
trims() {
    echo "fio-verify: $1"
    local common=(--name=trim --filename="$2" --ioengine="external:$PWD/$bin/libsrpt_fio.so" "${@:4}"
        --size=32m --bs=64k --iodepth=8 --output-format=json --output="$scratch/fio.out")
    fio "${common[@]}" --rw=write
    ! cmp --silent --bytes=33554432 /dev/zero "$3" ||
        { echo "fio-verify: $1: nothing was written" >&2; exit 1; }
    fio "${common[@]}" --rw=trim
    python3 - "$scratch/fio.out" <<'PYTHON' || { cat "$scratch/fio.out" >&2; exit 1; }
import json, sys
(job,) = json.load(open(sys.argv[1]))["jobs"]
assert (job["error"], job["trim"]["total_ios"]) == (0, 512), "512 trims and no error"
PYTHON
    cmp --bytes=33554432 /dev/zero "$3"
}
trims "trim of a file LUN over shared memory" "$srp_socket,1" "$scratch/disk.img"
trims "trim of a file bdev in fio's process" device "$scratch/direct.img" \
    --bdev="file:$scratch/direct.img"
echo "fio-verify: trims beside writes leave the writes alone"
fio --minimal --output="$scratch/fio.out" --name=mixed --filename="$srp_socket" --rw=randtrimwrite \
    --ioengine="external:$PWD/$bin/libsrpt_fio.so" --bs=4k --iodepth=1 --size=16m --verify=md5 \
    --verify_fatal=1 --verify_state_save=0 || { cat "$scratch/fio.out" >&2; exit 1; }
echo "fio-verify: a trim-only job without a target fails"
if fio --minimal --output="$scratch/fio.out" --name=none --filename="$scratch/none.sock" --rw=trim \
    --ioengine="external:$PWD/$bin/libsrpt_fio.so" --size=16m 2>/dev/null; then
    echo "fio-verify: fio did not say so" >&2
    exit 1
fi

kill -TERM "$target_pid"
wait "$target_pid"
target_pid=""
echo "fio-verify: passed with $(fio --version)"
