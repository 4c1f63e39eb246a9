# shellcheck shell=bash
# srpt_tgt in the guest, with the kernel's initiator. Source it after lib.sh.
# The share `bin` has srpt_tgt; the share `scripts` has rpc.py.
GUID=${GUID:-00000000deadbeef}
TARGET_ARGUMENTS=${TARGET_ARGUMENTS:---cpumask 0x1 --mem-size 64 --no-huge --idle adaptive}
rpc_socket=/run/srpt_tgt.sock
target_log=/run/vm/target.log
target_config=/run/target.json
# Not that of an earlier run in the same results directory.
: >$target_log

rpc() { python3 /host/scripts/rpc.py -s $rpc_socket "$@"; }

# A configuration with LUN 0 in memory and LUN 1 without data. A file, because each start of
# rpc.py takes seconds under emulation.
target_configure() { # MEGABYTES of LUN 0
    cat >$target_config <<JSON
{"subsystems": [
  {"subsystem": "bdev", "config": [
    {"method": "bdev_malloc_create",
     "params": {"name": "ram", "num_blocks": $(($1 * 2048)), "block_size": 512}},
    {"method": "bdev_null_create",
     "params": {"name": "null", "num_blocks": 2097152, "block_size": 512}}]},
  {"subsystem": "srpt", "config": [
    {"method": "srpt_create_target", "params": {"name": "t0", "service_guid": "$GUID"}},
    {"method": "srpt_map_lun", "params": {"target": "t0", "bdev_name": "ram"}},
    {"method": "srpt_map_lun", "params": {"target": "t0", "bdev_name": "null"}},
    {"method": "srpt_add_listener",
     "params": {"target": "t0", "trtype": "rdma", "traddr": "$ADDRESS", "trsvcid": "$PORT"}}]}]}
JSON
}
target_start() {
    # shellcheck disable=SC2086
    /host/bin/srpt_tgt --rpc-socket $rpc_socket --config $target_config $TARGET_ARGUMENTS \
        >>$target_log 2>&1 &
    target_pid=$!
    until_true 10 test -S $rpc_socket || { cat $target_log; return 1; }
}
target_stop() {
    kill -TERM "$target_pid"
    wait "$target_pid"
}
target_descriptors() { find "/proc/$target_pid/fd" -mindepth 1 | wc --lines; }
target_rss_kb() { awk '/^VmRSS/ { print $2 }' "/proc/$target_pid/status"; }
rxe_objects() { rdma resource show | tr '\n' ' '; }
kernel_is_clean() { ! dmesg | grep --extended-regexp 'WARNING:|BUG:|Call Trace|blocked for more'; }
