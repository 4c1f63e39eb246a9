# shellcheck shell=bash
# A target of one script's own, which ends with the script. Source it with `bin` set, the folder of
# the binaries; `scratch` is a folder that ends with the script, too.
scratch=$(mktemp -d "${TMPDIR:-/tmp}/srpt.XXXXXX")
rpc_socket="$scratch/rpc.sock"
# shellcheck disable=SC2034  # scripts add a listener there
srp_socket="$scratch/srp.sock"
target_pid=""

target_end() {
    local status=$?
    if [ -n "$target_pid" ]; then
        # It may have ended by itself, which the status of the script tells.
        kill -TERM "$target_pid" 2>/dev/null || true
        wait "$target_pid" 2>/dev/null || true
    fi
    if [ "$status" -ne 0 ] && [ -s "$scratch/target.log" ]; then
        echo "--- the target's log ---" >&2
        tail -40 "$scratch/target.log" >&2
    fi
    rm -rf "$scratch"
}
trap target_end EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

rpc() { python3 scripts/rpc.py -s "$rpc_socket" "$@" >>"$scratch/rpc.log"; }

# target_start OPTION..: of srpt_tgt; returns when it answers.
target_start() {
    # shellcheck disable=SC2154  # the script's
    "$bin/srpt_tgt" "$@" -r "$rpc_socket" >"$scratch/target.log" 2>&1 &
    target_pid=$!
    for _ in $(seq 100); do
        kill -0 "$target_pid" 2>/dev/null || break
        ! rpc rpc_get_methods 2>/dev/null || return 0
        sleep 0.1
    done
    echo "$0: the target does not answer on $rpc_socket" >&2
    return 1
}
