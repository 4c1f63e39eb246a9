# shellcheck shell=bash
# srpt_tgt in the guest, with the kernel's initiator. Source after lib.sh.
# The shares: bin (srpt_tgt), scripts (rpc.py).
TARGET_ARGUMENTS=${TARGET_ARGUMENTS:---cpumask 0x1 --mem-size 64 --no-huge --idle adaptive}
GUID=${GUID:-00000000deadbeef}
rpc_socket=/run/srpt_tgt.sock
target_log=/run/vm/target.log

rpc() { python3 /host/scripts/rpc.py -s $rpc_socket "$@"; }

target_start() {    # arguments beyond TARGET_ARGUMENTS
    # shellcheck disable=SC2086
    /host/bin/srpt_tgt --rpc-socket $rpc_socket $TARGET_ARGUMENTS "$@" >>$target_log 2>&1 &
    target_pid=$!
    until_true 10 rpc srpt_get_targets >/dev/null 2>&1
}
target_stop() {
    kill -TERM "$target_pid"
    wait "$target_pid"
}
