# shellcheck shell=bash
# One of two guests: the kernel's initiator. link-initiator.sh survive|load|rest. It says with a file
# that I/O runs, or with `rest` that it has logged in and none does; with `survive`, the host says with
# a file that the target's machine is on again.
NETDEV=eth0 ADDRESS=192.168.77.2 ADDRESS6=fd77::2 TARGET_ADDRESS=192.168.77.1
GUID=00000000deadbeef
# shellcheck source=lib.sh
. /host/guest/lib.sh
rxe_up || fail "soft-RoCE"
# A channel for each processor. The load runs on one of them, so the other channel has no traffic.
initiator_up ch_count=2 || fail "ib_srp"
until_true 20 ping -c 1 -W 1 $TARGET_ADDRESS >/dev/null || fail "no cable"
# Both ends try that often before they give a connection up; soft-RoCE takes 7, the default, for ever.
srp_login $GUID tl_retry_count=3 && wait_disks 1 || fail "login"
grep --quiet --line-regexp 2 /sys/class/scsi_host/*/ch_count || fail "not two channels"
wait_for_target || fail "recovery parameters"
back() { [ -e /run/vm/back ]; }
if [ "$1" = rest ]; then
    touch /run/vm/loaded
    until_true 600 back || fail "the host says nothing"
fi
disk=$(srp_disk 0)
completed() { awk '{ print $1 + $5 }' "/sys/block/$disk/stat"; }
progressed() { [ "$(completed)" -gt "$1" ]; }
fio --name=load --filename="/dev/$disk" --direct=1 --ioengine=libaio --rw=randwrite \
    --bsrange=512-64k --iodepth=32 --size=32M --loops=1000 --verify=md5 --verify_backlog=256 \
    --cpus_allowed=0 --time_based --runtime=3600 --verify_state_save=0 >/tmp/fio 2>&1 &
fio_pid=$!
before=$(completed)
until_true 60 progressed $((before + 300)) || fail "no load"
touch /run/vm/loaded
until_true 600 back || fail "the host says nothing"
started=$(uptime_s) before=$(completed)
until_true 120 progressed $((before + 64)) || fail "no I/O with the target's new machine"
say "I/O again $(echo "$(uptime_s) - $started" | bc) s after the target's machine was ready"
until_true 60 progressed $((before + 1000)) || fail "no more I/O"
kill -INT $fio_pid
wait $fio_pid
grep --quiet 'err= 0' /tmp/fio || { cat /tmp/fio; fail "an error reached fio"; }
! grep --quiet 'verify:' /tmp/fio || { cat /tmp/fio; fail "fio found wrong data"; }
srp_logout || fail "logout"
say "done"
