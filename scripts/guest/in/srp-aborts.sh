# shellcheck shell=bash
# Commands that a device keeps: the kernel's initiator lets them time out, aborts them, and resets
# the device. LUN 0 is in memory behind a delay that is longer than the command timeout; LUN 1
# keeps what its error device is told to. Afterwards no credit is missing and no byte wrong.
# shellcheck source=lib.sh
. /host/guest/lib.sh
# shellcheck source=target.sh
. /host/guest/target.sh
ROUNDS=1
[ "${1:-no}" = no ] || ROUNDS=10
TIMEOUT=2   # of a command, in seconds
rxe_up || fail "soft-RoCE"
cat >$target_config <<JSON
{"subsystems": [
  {"subsystem": "bdev", "config": [
    {"method": "bdev_malloc_create", "params": {"name": "m0", "num_blocks": 65536, "block_size": 512}},
    {"method": "bdev_delay_create", "params": {"name": "slow", "base_bdev_name": "m0",
      "avg_read_latency": 0, "p99_read_latency": 0, "avg_write_latency": 0, "p99_write_latency": 0}},
    {"method": "bdev_malloc_create", "params": {"name": "m1", "num_blocks": 65536, "block_size": 512}},
    {"method": "bdev_error_create", "params": {"base_name": "m1"}}]},
  {"subsystem": "srpt", "config": [
    {"method": "srpt_create_target", "params": {"name": "t0", "service_guid": "$GUID"}},
    {"method": "srpt_map_lun", "params": {"target": "t0", "bdev_name": "slow"}},
    {"method": "srpt_map_lun", "params": {"target": "t0", "bdev_name": "EE_m1"}},
    {"method": "srpt_add_listener", "params": {"target": "t0", "trtype": "rdma",
      "traddr": "$ADDRESS", "trsvcid": "$PORT"}}]}]}
JSON
target_start || fail "srpt_tgt"
initiator_up ch_count=1 || fail "ib_srp"
srp_login "$GUID" && wait_disks 2 || fail "login"
wait_for_target || fail "recovery parameters"
for lun in 0 1; do
    device=/sys/block/$(srp_disk $lun)/device
    echo $TIMEOUT >"$device/timeout" && echo 2 >"$device/eh_timeout" || fail "timeouts"
done

aborts() { dmesg | grep --count 'SRP abort called'; }
aborted_more() { [ "$(aborts)" -gt "$1" ]; }
resets() { dmesg | grep --count 'SRP reset_device called'; }
reset_more() { [ "$(resets)" -gt "$1" ]; }
host_reset() { dmesg | grep --quiet 'reset_host called'; }
idle() { # every credit is with the initiator again, and no command with the target
    rpc srpt_get_sessions >/tmp/sessions
    jq --exit-status '[.result[].channels[] | select(.in_flight > 0)] | length == 0' </tmp/sessions >/dev/null
}
waits() { ! idle; }
credits() { rpc srpt_get_sessions | jq --compact-output '[.result[].channels[].req_lim]'; }
full_depth() { # LUN: as many commands as the initiator has credits for, verified
    fio --name=depth --filename="/dev/$(srp_disk "$1")" --direct=1 --ioengine=libaio --rw=randwrite \
        --bsrange=512-16k --iodepth=62 --size=4M --verify=md5 --verify_state_save=0 >/tmp/fio 2>&1 &&
        grep --quiet 'err= 0' /tmp/fio
}
latency() { # MICROSECONDS of each write to LUN 0
    local kind kinds=(p99_write avg_write)    # the hundredth write's is never below the others'
    [ "$1" != 0 ] || kinds=(avg_write p99_write)
    for kind in "${kinds[@]}"; do
        rpc bdev_delay_update_latency "{\"delay_bdev_name\":\"slow\",\"latency_type\":\"$kind\",\"latency_us\":$1}" >/dev/null ||
            fail "bdev_delay_update_latency"
    done
}
pending() { # COUNT of writes to LUN 1 that get no answer
    rpc bdev_error_inject_error "{\"name\":\"EE_m1\",\"io_type\":\"write\",\"error_type\":\"pending\",\"num\":$1}" >/dev/null ||
        fail "bdev_error_inject_error"
}
resume() {
    rpc bdev_error_resume_pending '{"name":"EE_m1"}' >/dev/null || fail "bdev_error_resume_pending"
}
write_one() { # LUN: one block, sent again by the kernel until it is answered
    dd if=/dev/zero of="/dev/$(srp_disk "$1")" bs=4k count=1 oflag=direct status=none
}
full_depth 0 && full_depth 1 || { cat /tmp/fio; fail "before the first abort"; }
until_true 5 idle || fail "not idle: $(cat /tmp/sessions)"
before=$(credits)
say "credits before: $before"

for round in $(seq $ROUNDS); do
    seen=$(aborts)
    latency $(((TIMEOUT + 4) * 1000000))
    write_one 0 &
    writer=$!
    until_true 30 aborted_more "$seen" || fail "no abort of a delayed command"
    latency 0
    wait $writer || fail "the delayed write was not sent again"
    say "round $round: a delayed command was aborted and sent again"

    seen=$(aborts)
    pending 1
    write_one 1 &
    writer=$!
    until_true 30 aborted_more "$seen" || fail "no abort of a pending command"
    resume
    wait $writer || fail "the pending write was not sent again"
    say "round $round: a pending command was aborted and sent again"

    seen=$(resets)
    pending 1
    write_one 1 &
    writer=$!
    until_true 10 waits || fail "the write does not get to the target"
    timeout 30 sg_reset --device "/dev/$(srp_sg 1)" &
    reset=$!
    until_true 10 reset_more "$seen" || fail "no reset of the device"
    resume
    wait $reset || fail "sg_reset of the device"
    wait $writer || fail "the write that a reset met was not sent again"
    say "round $round: a reset met a pending command"
done

# What the device keeps for longer: abort and reset of the device time out, and the initiator resets
# the host, which means a new login. That is answered once the command can change no more data.
pending 1
write_one 1 &
writer=$!
until_true 60 host_reset || fail "no reset of the host over a command that is stuck"
resume
wait $writer || fail "the stuck write was not sent again"
say "a command that stays stuck: the initiator logged in again and went on"

until_true 30 idle || fail "commands are left: $(cat /tmp/sessions)"
full_depth 0 && full_depth 1 || { cat /tmp/fio; fail "full depth after aborts"; }
until_true 5 idle || fail "not idle: $(cat /tmp/sessions)"
say "credits after: $(credits)"
[ "$(credits)" = "$before" ] || fail "credits were lost: $before before"
srp_logout || fail "logout"
target_stop || fail "target stop"
say "done"
