# shellcheck shell=bash
# The target killed, and stopped, under a verified load on a file LUN. The initiator is tuned as a
# user with one path would tune it: reconnect_delay 1 s, fast_io_fail_tmo off, dev_loss_tmo 600 s.
# shellcheck source=lib.sh
. /host/guest/lib.sh
# shellcheck source=target.sh
. /host/guest/target.sh
ROUNDS=1
[ "${1:-no}" = no ] || ROUNDS=5
rxe_up || fail "soft-RoCE"
truncate --size=64M /var/tmp/lun.img
target_luns file:/var/tmp/lun.img
target_start || fail "srpt_tgt"
initiator_up || fail "ib_srp"
srp_login "$GUID" && wait_disks 1 || fail "login"
wait_for_target || fail "recovery parameters"
disk=$(srp_disk 0)
say "one path: reconnect_delay 1, fast_io_fail_tmo off, dev_loss_tmo 600"

load() { # starts fio: writes that are read back and compared, until it is told to stop
    fio --name=load --filename="/dev/$disk" --direct=1 --ioengine=libaio --rw=randwrite \
        --bsrange=512-64k --iodepth=32 --size=32M --loops=1000 --verify=md5 \
        --verify_backlog=256 --time_based --runtime="$1" --verify_state_save=0 >/tmp/fio 2>&1 &
    fio_pid=$!
}
completed() { awk '{ print $1 + $5 }' "/sys/block/$disk/stat"; }
progressed() { [ "$(completed)" -gt "$1" ]; }
remote_ports=/sys/class/srp_remote_ports
noticed() { ! grep --quiet running $remote_ports/*/state; }
outlive() { # WHAT COMMAND...: the load outlives the target
    local what=$1 before started first
    shift
    load 15
    before=$(completed)
    until_true 10 progressed $((before + 300)) || fail "no load"
    "$@"
    until_true 30 noticed || fail "the initiator does not notice $what: $(cat $remote_ports/*/state)"
    before=$(completed)
    started=$(uptime_s)
    target_start || fail "restart"
    until_true 60 progressed "$((before + 64))" || fail "no I/O after $what"
    first=$(uptime_s)
    say "$what: I/O again $(echo "$first - $started" | bc) s after the restart"
    wait "$fio_pid" || { cat /tmp/fio; fail "fio after $what: status $?"; }
    grep --quiet 'err= 0' /tmp/fio || { cat /tmp/fio; fail "fio errors after $what"; }
}
terminate() {
    local started
    started=$(uptime_s)
    target_stop || fail "SIGTERM under load: status $?"
    started=$(echo "$(uptime_s) - $started" | bc)
    say "SIGTERM under load: exit after $started s"
    [ "$(echo "$started < 2" | bc)" = 1 ] || fail "SIGTERM took $started s"
}
for _ in $(seq $ROUNDS); do
    outlive "kill -9" target_kill
    outlive "SIGTERM" terminate
done
srp_logout || fail "logout"
target_stop || fail "target stop"
say "done"
