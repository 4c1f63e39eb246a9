# shellcheck shell=bash
# srpt_tgt in the guest, with the kernel's initiator. Source it after lib.sh.
# The share `bin` has srpt_tgt.
GUID=${GUID:-00000000deadbeef}
TARGET_ARGUMENTS=${TARGET_ARGUMENTS:---cpumask 0x1 --mem-size 64 --no-huge --idle adaptive}
TARGET_OPTIONS=${TARGET_OPTIONS:-}      # members of srpt_set_options, as JSON: "use_srq": true
LISTENERS=${LISTENERS:-$ADDRESS:$PORT}  # address:port, several apart by spaces
rpc_socket=/run/srpt_tgt.sock
target_log=/run/vm/target.log
target_config=/run/target.json
# Not that of an earlier run in the same results directory.
: >$target_log

# In place of lib.sh's: what the target and the kernel said last goes with the failure, and where the
# target's threads are.
fail() {
    local task
    say "FAILED: $*"
    echo "--- target log"
    tail --lines=15 $target_log
    echo "--- target threads"
    for task in /proc/"${target_pid:-none}"/task/*; do
        [ ! -e "$task" ] || grep . "$task"/comm "$task"/stat "$task"/stack
    done
    echo "--- dmesg"
    dmesg | tail --lines=15
    exit 1
}

# One call, its answer on standard output: rpc METHOD [PARAMETERS as JSON]. In Perl, because each
# start of rpc.py takes seconds under emulation. No answer within 30 s is a failure.
rpc() {
    perl -MIO::Socket::UNIX -e '
        alarm 30;
        my $s = IO::Socket::UNIX->new($ARGV[0]) or die "no target\n";
        my $params = defined $ARGV[2] ? qq(,"params":$ARGV[2]) : "";
        print $s qq({"jsonrpc":"2.0","id":1,"method":"$ARGV[1]"$params}\n);
        my $answer = <$s>;
        print $answer;
        exit($answer =~ /"error":/ ? 1 : 0)' $rpc_socket "$@"
}

# LUN 0 in memory and LUN 1 without data.
target_configure() { # MEGABYTES of LUN 0
    target_luns "malloc:$1" null:1024
}
# Writes the configuration. Each LUN, from 0, is malloc:MEGABYTES, null:MEGABYTES, file:PATH, or
# sg:PATH for a SCSI device that is passed through.
target_luns() {
    local lun number=0 bdevs="" options="" maps="" listeners="" kind value at
    [ -z "$TARGET_OPTIONS" ] || options="{\"method\": \"srpt_set_options\", \"params\": {$TARGET_OPTIONS}},"
    for lun; do
        kind=${lun%%:*} value=${lun#*:}
        case $kind in
            file) bdevs+="{\"method\": \"bdev_uring_create\", \"params\":
                {\"name\": \"lun$number\", \"filename\": \"$value\", \"block_size\": 512}}," ;;
            sg) bdevs+="{\"method\": \"bdev_sg_create\", \"params\":
                {\"name\": \"lun$number\", \"filename\": \"$value\"}}," ;;
            *) bdevs+="{\"method\": \"bdev_${kind}_create\", \"params\":
                {\"name\": \"lun$number\", \"num_blocks\": $((value * 2048)), \"block_size\": 512}}," ;;
        esac
        maps+=",{\"method\": \"srpt_map_lun\", \"params\": {\"target\": \"t0\", \"bdev_name\": \"lun$number\"}}"
        number=$((number + 1))
    done
    for at in $LISTENERS; do
        listeners+=",{\"method\": \"srpt_add_listener\", \"params\": {\"target\": \"t0\",
            \"trtype\": \"rdma\", \"traddr\": \"${at%:*}\", \"trsvcid\": \"${at##*:}\"}}"
    done
    cat >$target_config <<JSON
{"subsystems": [
  {"subsystem": "bdev", "config": [${bdevs%,}]},
  {"subsystem": "srpt", "config": [$options
    {"method": "srpt_create_target",
     "params": {"name": "t0", "service_guid": "$GUID"}}$maps$listeners]}]}
JSON
}
target_start() {
    # shellcheck disable=SC2086
    /host/bin/srpt_tgt --rpc-socket $rpc_socket --config $target_config $TARGET_ARGUMENTS \
        >>$target_log 2>&1 &
    target_pid=$!
    until_true 10 target_answers
}
target_answers() { [ -S $rpc_socket ] && rpc spdk_get_version >/dev/null 2>&1; }
target_stop() {
    kill -TERM "$target_pid"
    wait "$target_pid"
}
target_kill() {
    kill -KILL "$target_pid"
    wait "$target_pid" 2>/dev/null
    rm --force $rpc_socket
}
target_descriptors() { find "/proc/$target_pid/fd" -mindepth 1 | wc --lines; }
target_rss_kb() { awk '/^VmRSS/ { print $2 }' "/proc/$target_pid/status"; }
rxe_objects() { rdma resource show | tr '\n' ' '; }

# No kernel complaint. Lines that match the extended expression given are expected.
kernel_is_clean() { # [EXPECTED]
    ! dmesg --level=emerg,alert,crit,err,warn | grep --invert-match --extended-regexp "${1:-^$}" |
        grep --extended-regexp --ignore-case 'WARNING|BUG:|Call Trace|blocked for more|error|fail|timed out|unsupported'
}
