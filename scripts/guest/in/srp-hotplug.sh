# shellcheck shell=bash
# LUNs that come, go, and show another device while the kernel's initiator is logged in: what comes
# later is a disk after a rescan, and no command of one that knew another device reaches the new one
# before a rescan.
# shellcheck source=lib.sh
. /host/guest/lib.sh
# shellcheck source=target.sh
. /host/guest/target.sh
MEGABYTES=8
rxe_up || fail "soft-RoCE"
target_luns
target_start || fail "srpt_tgt"
initiator_up || fail "ib_srp"

call() { rpc "$@" >/tmp/answer || { cat /tmp/answer; fail "$*"; }; }
map() { # BDEV LUN
    call srpt_map_lun "{\"target\":\"t0\",\"bdev_name\":\"$1\",\"lun\":$2}"
}
unmap() { # LUN
    call srpt_unmap_lun "{\"target\":\"t0\",\"lun\":$1}"
}
scan() {
    local host
    for host in /sys/class/srp_host/*/device/scsi_host/*; do
        echo "- - -" >"$host/scan" || return 1
    done
}
log_in() { srp_login "$GUID" || fail "login"; }
devices() { find /sys/class/scsi_device -mindepth 1 | wc --lines; }
# Linux counts LUNs above 255 with the bits of their address method.
flat() { echo $((0x4000 + $1)); }
has_disk() { [ -n "$(srp_disk "$1")" ]; }
wait_disk() { until_true 20 has_disk "$1"; }
disk() { echo "/dev/$(srp_disk "$1")"; }
# A file of MEGABYTES that holds one letter.
image() { # LETTER
    [ -f "/var/tmp/$1.img" ] || head --bytes=${MEGABYTES}M /dev/zero | tr '\0' "$1" >"/var/tmp/$1.img"
}
create() { # LETTER [UUID]: the bdev of that letter, on its file
    image "$1"
    call bdev_uring_create "{\"name\":\"$1\",\"filename\":\"/var/tmp/$1.img\",\"block_size\":512${2:+,\"uuid\":\"$2\"}}"
}
holds() { # LUN LETTER: the whole disk
    dd if="$(disk "$1")" bs=1M count=$MEGABYTES iflag=direct status=none 2>/tmp/out |
        cmp --bytes=$((MEGABYTES << 20)) - "/var/tmp/$2.img" || { cat /tmp/out; return 1; }
}
# Reads fail and give nothing, writes fail, by each of several tries.
refuses() { # LUN
    local try
    for try in 1 2 3 4 5; do
        if dd if="$(disk "$1")" of=/tmp/read bs=4k count=1 skip=$try iflag=direct status=none 2>/dev/null; then
            fail "try $try: read $(head --bytes=1 /tmp/read) from a device that it does not know"
        fi
        [ ! -s /tmp/read ] || fail "try $try: $(wc --bytes </tmp/read) bytes came"
        if dd if=/dev/urandom of="$(disk "$1")" bs=4k count=1 seek=$try oflag=direct conv=notrunc status=none 2>/dev/null; then
            fail "try $try: wrote to a device that it does not know"
        fi
    done
}
wwid() { cat "/sys/block/$(srp_disk "$1")/device/wwid"; }

# --- LUNs that come later
log_in
[ "$(devices)" = 0 ] || fail "a device without a LUN"
create a
map a 0
scan && wait_disk 0 || fail "LUN 0, mapped after a login without LUNs, is no disk"
holds 0 a || fail "LUN 0"
create b
create c
map b 5
map c 300
scan && wait_disk 5 && wait_disk "$(flat 300)" || fail "LUN 5 and LUN 300 are no disks"
holds 5 b && holds "$(flat 300)" c || fail "LUN 5 or LUN 300"
say "LUN 0, 5 and 300 after a login without LUNs"
srp_logout || fail "logout"
unmap 0
unmap 300
log_in
wait_disk 5 || fail "LUN 5"
[ "$(devices)" = 1 ] || fail "$(devices) devices with one LUN"
holds 5 b || fail "LUN 5"
map a 0
scan && wait_disk 0 || fail "LUN 0, mapped after a login with LUN 5, is no disk"
holds 0 a && holds 5 b || fail "LUN 0 or LUN 5"
say "LUN 0 after a login with LUN 5"

# --- another device under a LUN
before=$(wwid 5)
unmap 5
map c 5
refuses 5
holds 0 a || fail "another LUN"
echo 1 >"/sys/block/$(srp_disk 5)/device/rescan" || fail "rescan"
holds 5 c || fail "LUN 5 after a rescan of the device"
[ "$(wwid 5)" != "$before" ] || fail "the kernel still calls it $before"
say "replaced: refused, and there after a rescan of the device"
unmap 5
map b 5
refuses 5
scan || fail "scan"
holds 5 b || fail "LUN 5 after a scan of the host"
say "replaced: refused, and there after a scan of the host"
unmap 5
map c 5
refuses 5
echo 1 >"/sys/block/$(srp_disk 5)/device/delete" || fail "delete"
scan && wait_disk 5 || fail "LUN 5 after delete and scan"
holds 5 c || fail "LUN 5 after delete and scan"
say "replaced: refused, and there after delete and scan"

# --- under load
fio --name=load --filename="$(disk 5)" --direct=1 --ioengine=libaio --rw=randrw --bs=4k --iodepth=16 \
    --size=${MEGABYTES}M --time_based --runtime=600 --buffer_pattern='"c"' >/tmp/fio 2>&1 &
fio_pid=$!
moved() { awk '{ exit !($1 > 100 && $5 > 100) }' "/sys/block/$(srp_disk 5)/stat"; }
until_true 60 moved || { cat /tmp/fio; fail "no load"; }
unmap 5
map b 5
! wait $fio_pid || { cat /tmp/fio; fail "fio saw no error"; }
refuses 5
echo 1 >"/sys/block/$(srp_disk 5)/device/rescan" || fail "rescan"
holds 5 b || fail "LUN 5 after a replacement under load"
say "replaced under load: nothing was written to the new device"

# --- while the initiator is away
listener='{"target":"t0","trtype":"rdma","traddr":"'$ADDRESS'","trsvcid":"'$PORT'"}'
wait_for_target || fail "recovery parameters"
call srpt_remove_listener "$listener"
call srpt_get_sessions
session=$(jq '.result[0].id' /tmp/answer)
call srpt_disconnect_session "{\"session\":$session}"
unmap 5
image c
map c 5
call srpt_add_listener "$listener"
is_back() {
    rpc srpt_get_sessions >/tmp/answer && [ "$(jq '.result | length' /tmp/answer)" = 1 ] && holds 0 a >/dev/null 2>&1
}
until_true 60 is_back || fail "the initiator did not come back"
refuses 5
echo 1 >"/sys/block/$(srp_disk 5)/device/rescan" || fail "rescan"
holds 5 c || fail "LUN 5 after a new login"
say "replaced between two logins: refused, and there after a rescan"

# --- the same unit again, on a copy
unmap 5
uuid=6a0d31fd-3d9c-4d3f-9a6b-0f6f0b2c8b11
create d $uuid
map d 5
echo 1 >"/sys/block/$(srp_disk 5)/device/rescan" || fail "rescan"
holds 5 d || fail "LUN 5"
unmap 5
call bdev_uring_delete '{"name":"d"}'
tr d e </var/tmp/d.img >/var/tmp/e.img
create e $uuid
map e 5
holds 5 e || fail "a unit with the same name was not taken for the one before"
dd if=/var/tmp/d.img of="$(disk 5)" bs=1M count=$MEGABYTES oflag=direct status=none || fail "write"
holds 5 d || fail "what was written"
say "replaced by a device of the same identity: goes on without a rescan"

srp_logout || fail "logout"
target_stop || fail "the target did not stop with status 0"
kernel_is_clean 'I/O error|blk_print_req_error|flushed|critical|Sense|FAILED Result|Result: |CDB|assignments|capacity change|reconnect|[Ll]ogin|connection|QP' || fail "dmesg"
say "done"
