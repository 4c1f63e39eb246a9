# shellcheck shell=bash
# The RDMA device is removed under load, as by a hot unplug, and comes back: the target survives,
# leaves nothing behind and serves again by itself.
# shellcheck source=lib.sh
. /host/guest/lib.sh
# shellcheck source=target.sh
. /host/guest/target.sh
ROUNDS=1
[ "${1:-no}" = no ] || ROUNDS=10
rxe_up || fail "soft-RoCE"
target_luns malloc:64
target_start || fail "srpt_tgt"
initiator_up || fail "ib_srp"
listening_again() { [ "$(grep --count 'listening again' $target_log)" -ge "$1" ]; }

for round in $(seq $ROUNDS); do
    srp_login "$GUID" && wait_disks 1 || fail "login, round $round"
    disk=$(srp_disk 0)
    # The only path goes away for good, so fio may and will see errors; the kernel may not hang.
    fio --name=load --filename="/dev/$disk" --direct=1 --ioengine=libaio --rw=randwrite --bs=16k \
        --iodepth=32 --size=16M --time_based --runtime=20 --minimal >/tmp/fio 2>&1 &
    fio_pid=$!
    busy() { [ "$(awk '{ print $5 }' "/sys/block/$disk/stat")" -gt 200 ]; }
    until_true 20 busy || fail "no load"
    timeout 20 rdma link delete "$RXE" || fail "the device can't be removed while the target has it"
    kill -0 "$target_pid" || fail "the target died with the device"
    wait "$fio_pid"
    rdma link add "$RXE" type rxe netdev "$NETDEV" || fail "the device does not come back"
    until_true 5 grep --quiet ACTIVE "/sys/class/infiniband/$RXE/ports/1/state"
    until_true 20 listening_again "$round" || fail "the listener did not come back"
    until_true 20 no_srp_hosts || fail "the old host stays"
    # After one round everything is there that the target keeps.
    [ "$round" != 1 ] || descriptors=$(target_descriptors) rss=$(target_rss_kb)
    say "round $round: device removed and back; $(target_descriptors) descriptors, $(target_rss_kb) kB"
done
[ "$(target_descriptors)" -le "$descriptors" ] || fail "descriptors were lost"
[ "$(target_rss_kb)" -lt $((rss + 2048)) ] || fail "memory grew from $rss to $(target_rss_kb) kB"
srp_login "$GUID" && wait_disks 1 || fail "login after the device came back"
fio --name=verify --filename="/dev/$(srp_disk 0)" --direct=1 --ioengine=libaio --rw=randwrite \
    --bs=16k --iodepth=16 --size=8M --verify=md5 --verify_state_save=0 >/tmp/fio 2>&1 ||
    { cat /tmp/fio; fail "fio after the device came back"; }
target_stop || fail "SIGTERM under a session"
say "done"
