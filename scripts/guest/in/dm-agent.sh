#!/bin/bash
# Runs in the guest: options, login lines, and the device management agent on soft-RoCE.
# shellcheck source-path=SCRIPTDIR source=lib.sh
. /host/guest/lib.sh
# shellcheck source-path=SCRIPTDIR source=target.sh
. /host/guest/target.sh

rxe_up || fail "soft-RoCE"
cat >$target_config <<JSON
{"subsystems": [{"subsystem": "srpt", "config": [
  {"method": "srpt_set_options", "params": {"use_srq": true, "rdma_cm_port": $PORT}},
  {"method": "srpt_create_target", "params": {"name": "t0", "service_guid": "$GUID"}},
  {"method": "srpt_add_listener",
   "params": {"target": "t0", "trtype": "rdma", "traddr": "0.0.0.0"}},
  {"method": "srpt_add_listener",
   "params": {"target": "t0", "trtype": "rdma", "traddr": "ib", "trsvcid": "5000"}},
  {"method": "srpt_enable_dm_agent", "params": {"device": "$RXE", "port": 1}}
]}]}
JSON
target_start || fail "srpt_tgt"
rpc srpt_get_login_info '{"target":"t0"}' || fail "login lines"
say "agent registered"
rpc srpt_set_options '{"srpt_sq_size":32}' && fail "sizes changed while an rdma listener is there"
for entry in "/sys/class/infiniband/$RXE/ports/1/gids/"[0-3]; do
    read -r address <"$entry" || continue
    [ "$address" != 0000:0000:0000:0000:0000:0000:0000:0000 ] || continue
    echo "GID ${entry##*/}: $address"
    index=${entry##*/}
    ask="timeout 60 python3 /host/guest/dm_ask.py /dev/infiniband/umad0"
    # shellcheck disable=SC2086
    asked=$($ask "$address" "$index" 2>&1) &&
        answered=yes
    echo "$asked"
    [ -z "${answered-}" ] || break
done
rpc srpt_get_dm_agents
[ -n "${answered-}" ] || fail "no answer over soft-RoCE"
say "agent answered"
target_stop || fail "target stop"
say "done"
