# shellcheck shell=bash
# Resets of device and host while fio writes and verifies: no error may reach it. Commands that a
# reset of the device aborts are not answered (SAM-6, TAS is 0), and the kernel's initiator lets them
# time out before it sends them again: a command timeout of 4 s in place of 30 s shortens that.
# shellcheck source=lib.sh
. /host/guest/lib.sh
# shellcheck source=target.sh
. /host/guest/target.sh
RESETS=3
[ "${1:-no}" = no ] || RESETS=25
rxe_up || fail "soft-RoCE"
target_luns malloc:64
target_start || fail "srpt_tgt"
initiator_up || fail "ib_srp"
srp_login "$GUID" && wait_disks 1 || fail "login"
wait_for_target || fail "recovery parameters"
disk=$(srp_disk 0)
sg=/dev/$(srp_sg 0)
echo 4 >"/sys/block/$disk/device/timeout"
completed() { awk '{ print $1 + $5 }' "/sys/block/$disk/stat"; }
progressed() { [ "$(completed)" -gt "$1" ]; }
under_load() { # KIND OPTION: resets while fio runs, I/O goes on after each
    local number before
    fio --name=load --filename="/dev/$disk" --direct=1 --ioengine=libaio --rw=randwrite \
        --bsrange=512-64k --iodepth=32 --size=32M --loops=1000 --verify=md5 \
        --verify_backlog=256 --time_based --runtime=$((RESETS * 8)) \
        --verify_state_save=0 >/tmp/fio 2>&1 &
    local fio_pid=$!
    for number in $(seq $RESETS); do
        before=$(completed)
        until_true 60 progressed $((before + 64)) || fail "no I/O before reset $number of the $1"
        kill -0 $fio_pid 2>/dev/null || break
        timeout 60 sg_reset "$2" "$sg" || fail "reset $number of the $1"
    done
    before=$(completed)
    wait $fio_pid || { cat /tmp/fio; fail "fio under resets of the $1: status $?"; }
    grep --quiet 'err= 0' /tmp/fio || { cat /tmp/fio; fail "fio errors under resets of the $1"; }
    progressed "$before" || fail "no I/O after the last reset of the $1"
    say "$number resets of the $1 under load: fio verified, no error"
}
under_load device --device
under_load host --host
# Each command that the initiator had to abort was one that a reset had ended.
late=$(dmesg | grep --count 'SRP abort called')
ended=$(rpc srpt_get_stats | grep --only-matching '"commands_aborted":[0-9]*' | tail --lines=1)
say "resets of the device ended ${ended##*:} commands, $late timed out at the initiator"
[ "$late" -le "${ended##*:}" ] || fail "commands were lost"
srp_logout || fail "logout"
target_stop || fail "target stop"
say "done"
