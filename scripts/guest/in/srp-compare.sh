# shellcheck shell=bash
# The kernel's own target (ib_srpt, LIO) against srpt_tgt in one guest, with the same initiator and
# the same fio jobs, turn about: a LUN without data and one in memory. Only the ratios mean anything.
#
#   srp-compare.sh no|yes [PROCESSOR of fio]
#
# Our core has processor 0. Where fio is decides a part of each figure, so that it is not left to the
# scheduler. On the same processor (the default) a command wakes one processor less: the fewest
# instructions. By the clock the other one is better: the emulator, which has no tags in its TLB,
# forgets all translations when one processor changes from fio to our process and back.
# shellcheck source=lib.sh
. /host/guest/lib.sh
# shellcheck source=target.sh
. /host/guest/target.sh
ROUNDS=1
[ "${1:-no}" = no ] || ROUNDS=5
SECONDS_A_JOB=${SECONDS_A_JOB:-3}
fio_processor=${2:-0}
rxe_up || fail "soft-RoCE"
jobs=("randread 4k 1" "randread 4k 32" "randwrite 4k 1" "randwrite 4k 32" "read 1m 4")
: >/run/figures

kernel_up() {
    kernel_target_up srp_max_req_size=8260 || fail "ib_srpt"
    kernel_backend rd_mcp_0/null rd_pages=65536,rd_nullio=1 null || fail "nullio"
    kernel_backend rd_mcp_1/ram rd_pages=32768 ram || fail "rd_mcp"
    kernel_lun 0 rd_mcp_1/ram && kernel_lun 1 rd_mcp_0/null || fail "LUNs"
    kernel_target_enable || fail "ACLs"
    guid=$(kernel_guid)
}
kernel_down() {
    local acl
    echo 0 >"$kernel_tpg/enable"
    for acl in "$kernel_tpg"/acls/*; do
        rm "$acl"/lun_*/x
        rmdir "$acl"/lun_* "$acl"
    done
    rm "$kernel_tpg"/lun/lun_*/x
    rmdir "$kernel_tpg"/lun/lun_* "$kernel_tpg" "$(dirname "$kernel_tpg")"
    # The directory of the fabric holds the module.
    rmdir $configfs/target/srpt $configfs/target/core/rd_mcp_0/null $configfs/target/core/rd_mcp_1/ram \
        $configfs/target/core/rd_mcp_{0,1}
    until_true 20 rmmod ib_srpt 2>/dev/null || fail "rmmod ib_srpt"
}
ours_up() {
    target_luns malloc:128 null:256
    target_start || fail "srpt_tgt"
    guid=$GUID
}
ours_down() { target_stop || fail "target stop"; }

# Busy time of the whole guest in hundredths of a second: all but idle and iowait.
busy() { awk '/^cpu / { print $2 + $3 + $4 + $7 + $8 }' /proc/stat; }
measure() { # WHOSE LUN NAME
    local job rw size depth before spent
    for job in "${jobs[@]}"; do
        read -r rw size depth <<<"$job"
        before=$(busy)
        fio --name=job --filename="/dev/$(srp_disk "$2")" --direct=1 --ioengine=libaio --rw="$rw" \
            --bs="$size" --iodepth="$depth" --cpus_allowed="$fio_processor" --time_based --runtime="$SECONDS_A_JOB" \
            --eta=never --output-format=json --output=/tmp/fio.json || fail "fio $job on $1 $3"
        spent=$(($(busy) - before))
        jq --raw-output --arg spent $spent --arg name "$3 $rw $size depth $depth" --arg whose "$1" '
            .jobs[0] | (if .read.total_ios > 0 then .read else .write end) |
            [$whose, $name, .iops, .clat_ns.percentile["99.000000"] / 1000,
             ($spent | tonumber) * 10000 / .total_ios] | @tsv' /tmp/fio.json >>/run/figures
    done
}
turn() { # WHOSE(kernel|ours)
    "${1}_up"
    srp_login "$guid" && wait_disks 2 || fail "login to $1"
    # The kernel's memory is there from the start, ours with the first write.
    dd if=/dev/zero of="/dev/$(srp_disk 0)" bs=1M count=128 oflag=direct status=none || fail "fill of $1"
    measure "$1" 0 ram
    measure "$1" 1 null
    srp_logout || fail "logout from $1"
    "${1}_down"
}
initiator_up ch_count=1 || fail "ib_srp"
for round in $(seq $ROUNDS); do
    if [ $((round % 2)) = 1 ]; then turn kernel; turn ours; else turn ours; turn kernel; fi
    say "round $round of $ROUNDS"
done

cat >/run/table.py <<'PYTHON'
import statistics
import sys

rows = {}
for line in sys.stdin:
    whose, name, *figures = line.rstrip("\n").split("\t")
    rows.setdefault(name, {}).setdefault(whose, []).append([float(figure) for figure in figures])
print("medians; ours / kernel's, and the ratio (IOPS: above 1 is better; p99, CPU: below 1)")
print(f"{'job':28} {'IOPS':>22} {'p99, us':>24} {'CPU s per M I/Os':>24}")
for name, turns in rows.items():
    ours, kernel = ([statistics.median(column) for column in zip(*turns[whose])] for whose in ("ours", "kernel"))
    cells = [f"{a:9.0f} /{b:7.0f} {a / b:5.2f}" for a, b in zip(ours, kernel)]
    print(f"{name:28} " + "  ".join(cells))
PYTHON
python3 /run/table.py </run/figures
kernel_is_clean || fail "dmesg"
say "done"
