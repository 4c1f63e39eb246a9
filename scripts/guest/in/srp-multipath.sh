# shellcheck shell=bash
# dm-multipath over two listeners on two soft-RoCE devices: one path is closed again and again while
# fio verifies; no error may reach it. Each path is tuned as srp_daemon's users tune it for
# multipath: fast_io_fail_tmo 1 s, reconnect_delay 1 s.
# shellcheck source=lib.sh
. /host/guest/lib.sh
ADDRESS_2=192.168.78.1
LISTENERS="$ADDRESS:$PORT $ADDRESS_2:$PORT"
# shellcheck source=target.sh
. /host/guest/target.sh
ROUNDS=3
[ "${1:-no}" = no ] || ROUNDS=10
rxe_up || fail "soft-RoCE"
ip link add rdma1 address 02:00:00:00:78:01 type dummy && ip link set rdma1 mtu 9000 up || fail "netdev"
ip address add $ADDRESS_2/24 dev rdma1
rdma link add rxe1 type rxe netdev rdma1 || fail "second soft-RoCE device"
until_true 5 grep --quiet ACTIVE /sys/class/infiniband/rxe1/ports/1/state || fail "rxe1"

modprobe --all dm_multipath dm_service_time dm_queue_length scsi_dh_alua
cat >/etc/multipath.conf <<'CONF'
defaults {
    user_friendly_names yes
    find_multipaths no
    polling_interval 1
    max_polling_interval 1
    no_path_retry queue
    path_grouping_policy multibus
}
CONF
target_luns malloc:64
target_start || fail "srpt_tgt"
initiator_up || fail "ib_srp"
multipathd || fail "multipathd"
until_true 10 multipathd show daemon >/dev/null || fail "multipathd does not answer"
srp_login "$GUID" || fail "login on the first path"
ADDRESS=$ADDRESS_2 RXE=rxe1 srp_login "$GUID" || fail "login on the second path"
wait_disks 2 || fail "2 disks"
for port in /sys/class/srp_remote_ports/*; do
    echo 1 >"$port/fast_io_fail_tmo" && echo 600 >"$port/dev_loss_tmo" &&
        echo 1 >"$port/reconnect_delay" || fail "recovery parameters"
done
udevadm settle
paths() { multipathd show paths raw format '%d %t %o' | grep --count ' active running'; }
both_paths() { [ "$(paths)" = 2 ]; }
one_path() { [ "$(paths)" = 1 ]; }
map() { dmsetup ls --target multipath | awk '$1 != "No" { print $1; exit }'; }
has_map() { [ -n "$(map)" ]; }
until_true 20 has_map || { multipath -ll; fail "no multipath device"; }
until_true 20 both_paths || { multipath -ll; fail "2 paths"; }
multipath -ll

# One name, whoever is asked: the tool of udev, the rules of sg3-utils (which udev has asked first),
# lsblk, the kernel and multipath.
for path in $(srp_disks); do
    name=$(basename "$path")
    wwid=$(sed 's/^naa\./3/' "$path/device/wwid")
    [ "${wwid:0:2}" = 36 ] || fail "$name: the kernel calls it $wwid"
    grep --quiet "^E:SCSI_IDENT_LUN_NAA_REGEXT=${wwid:1}$" "/run/udev/data/b$(cat "$path/dev")" ||
        fail "the rules of sg3-utils were not asked"
    for other in "$(/lib/udev/scsi_id --whitelisted --device="/dev/$name")" \
        "$(udevadm info --query=property --property=ID_SERIAL --value --name="$name")" \
        "$(lsblk --nodeps --noheadings --output WWN "/dev/$name" | sed 's/^0x/3/')" \
        "$(multipathd show paths raw format '%d %w' | awk --assign name="$name" '$1 == name { print $2 }')" \
        "$(multipathd show maps raw format '%w')"; do
        [ "$other" = "$wwid" ] || fail "$name: $wwid and $other"
    done
done
say "WWID $wwid: scsi_id, the rules of sg3-utils, lsblk, the kernel, multipath"

disk=/dev/mapper/$(map)
completed() { awk '{ print $1 + $5 }' "/sys/block/$(basename "$(readlink --canonicalize "$disk")")/stat"; }
progressed() { [ "$(completed)" -gt "$1" ]; }
continues() { # WHEN
    local before
    before=$(completed)
    until_true 30 progressed $((before + 64)) || { multipath -ll; fail "no I/O $1"; }
}
fio --name=load --filename="$disk" --direct=1 --ioengine=libaio --rw=randwrite \
    --bsrange=512-64k --iodepth=16 --size=32M --loops=1000 --verify=md5 --verify_backlog=256 \
    --time_based --runtime=3600 --verify_state_save=0 >/tmp/fio 2>&1 &
fio_pid=$!
listener='{"target":"t0","trtype":"rdma","traddr":"'$ADDRESS_2'","trsvcid":"'$PORT'"}'
sessions_of() { # ADDRESS: ids of the sessions that came in there
    rpc srpt_get_sessions | python3 -c '
import json, sys
for session in json.load(sys.stdin)["result"]:
    if any(sys.argv[1] in str(channel["traddr"]) + str(channel["peer"]) for channel in session["channels"]):
        print(session["id"])' "$1"
}
for round in $(seq $ROUNDS); do
    continues "with two paths"
    rpc srpt_remove_listener "$listener" >/dev/null || fail "srpt_remove_listener"
    for session in $(sessions_of $ADDRESS_2); do
        rpc srpt_disconnect_session "{\"session\":$session}" >/dev/null || fail "srpt_disconnect_session"
    done
    until_true 30 one_path || { multipath -ll; fail "the path did not fail"; }
    continues "with one path"
    rpc srpt_add_listener "$listener" >/dev/null || fail "srpt_add_listener"
    until_true 60 both_paths || { multipath -ll; fail "the path did not come back"; }
    say "round $round: path closed and back"
done
continues "at the end"
kill -INT $fio_pid
wait $fio_pid
grep --quiet 'err= 0' /tmp/fio || { cat /tmp/fio; fail "an error reached fio"; }
! grep --quiet 'verify:' /tmp/fio || { cat /tmp/fio; fail "fio found wrong data"; }
say "fio: $ROUNDS rounds, no error"
multipath -F
multipathd shutdown >/dev/null
srp_logout || fail "logout"
target_stop || fail "target stop"
say "done"
