# shellcheck shell=bash
# srpt_perf against srpt_tgt over soft-RoCE, from user space to user space.
# shellcheck source=lib.sh
. /host/guest/lib.sh
# shellcheck source=target.sh
. /host/guest/target.sh
rxe_up || fail "soft-RoCE"
target_configure 64
target_start || fail "srpt_tgt"
perf() {
    say "srpt_perf $*"
    /host/bin/srpt_perf --target "rdma:$ADDRESS:$PORT" --guid "$GUID" -t 2 "$@" ||
        { tail $target_log; fail "srpt_perf"; }
}
perf -l 1 -w randread -o 4k -q 1
perf -l 1 -w randread -o 4k -q 32
perf -l 0 -w randrw -o 512-64k -q 16 --verify
target_stop || fail "target stop"
say "done"
