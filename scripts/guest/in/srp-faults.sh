# shellcheck shell=bash
# What goes wrong around a target over soft-RoCE: logins by the hundred, a removed device, a killed
# target; each with the kernel's initiator. Argument: yes for the long form.
# shellcheck source=lib.sh
. /host/guest/lib.sh
# shellcheck source=target.sh
. /host/guest/target.sh
LOGINS=20 REJECTS=50
[ "${1:-no}" = no ] || LOGINS=200 REJECTS=2000
rxe_up || fail "soft-RoCE"
target_configure 64
target_start || fail "srpt_tgt"
initiator_up || fail "ib_srp"
in_and_out() {
    srp_login "$GUID" || return 1
    wait_disks 2 || return 1
    srp_logout
}
rejected() { ! srp_login 00000000000bad00 2>/dev/null; }

in_and_out || fail "login"
rejected || fail "a wrong GUID was accepted"
descriptors=$(target_descriptors) rss=$(target_rss_kb)
say "before: $descriptors descriptors, $rss kB; $(rxe_objects)"
for _ in $(seq "$LOGINS"); do in_and_out || fail "login"; done
for _ in $(seq "$REJECTS"); do rejected || fail "a wrong GUID was accepted"; done
say "after $LOGINS logins and $REJECTS rejects: $(target_descriptors) descriptors, $(target_rss_kb) kB; $(rxe_objects)"
[ "$(target_descriptors)" = "$descriptors" ] || fail "descriptors were lost"
[ "$(target_rss_kb)" -lt $((rss + 4096)) ] || fail "memory grew"

load() {        # SECONDS: writes with verification in the background
    fio --name=load --filename="/dev/$(srp_disk 0)" --direct=1 --ioengine=libaio --rw=randwrite \
        --bs=16k --iodepth=32 --size=16M --verify=md5 --time_based --runtime="$1" \
        --verify_state_save=0 --minimal >/tmp/fio 2>&1 &
    fio_pid=$!
}
reconnect_at_once() {
    local port
    for port in /sys/class/srp_remote_ports/*; do
        echo 1 >"$port/reconnect_delay"
        echo 60 >"$port/dev_loss_tmo"
        echo off >"$port/fast_io_fail_tmo"
    done
}

srp_login "$GUID" && wait_disks 2 || fail "login"
reconnect_at_once
load 12
sleep 3
kill -KILL "$target_pid"
say "target killed"
rm --force $rpc_socket
target_start || fail "restart"
restarted=$(uptime_s)
running() { grep --quiet running /sys/class/srp_remote_ports/*/state; }
until_true 30 running || fail "no reconnect"
say "reconnected ($restarted: restarted)"
wait "$fio_pid"
say "fio after the kill: status $? (memory is lost with the target, so it may see differences)"
srp_logout || fail "logout after the kill"

srp_login "$GUID" && wait_disks 2 || fail "login"
load 8
sleep 3
timeout 20 rdma link delete "$RXE" || fail "the device can't be removed while the target has it"
say "device removed under load; $(rxe_objects)"
kill -0 "$target_pid" || fail "the target died with the device"
wait "$fio_pid"
rdma link add "$RXE" type rxe netdev "$NETDEV" || fail "the device does not come back"
until_true 5 grep --quiet ACTIVE "/sys/class/infiniband/$RXE/ports/1/state"
until_true 10 grep --quiet "listening again" $target_log || fail "the listener did not come back"
until_true 10 no_srp_hosts || fail "old hosts"
srp_login "$GUID" && wait_disks 2 || { tail $target_log; fail "login after the device came back"; }
say "logged in again after the device came back"
dd if=/dev/zero of="/dev/$(srp_disk 0)" bs=1M count=4 oflag=direct status=none || fail "write"
target_stop || fail "SIGTERM under a session"
say "done"
