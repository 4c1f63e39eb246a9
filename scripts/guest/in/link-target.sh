# shellcheck shell=bash
# One of two guests: the target. The host says with a file when its initiator's machine has gone.
NETDEV=eth0
# shellcheck source=lib.sh
. /host/guest/lib.sh
# shellcheck source=target.sh
. /host/guest/target.sh
rxe_up || fail "soft-RoCE"
queue_pairs() { rdma resource show qp link "$RXE" | wc --lines; }
# An initiator that lives already logs in as soon as it can: what was there before is counted now.
pairs=$(queue_pairs)
target_luns file:/dev/vdb
target_start || fail "srpt_tgt"
touch /run/vm/ready
alone() { [ -e /run/vm/alone ]; }
until_true 600 alone || fail "the host says nothing"
# A peer that is gone shows when what was sent to it is not acknowledged, after all retries.
sessions() { rpc srpt_get_sessions | jq '.result | length'; }
gone() { [ "$(sessions)" = 0 ]; }
started=$(uptime_s)
until_true 60 gone || { rpc srpt_get_sessions; fail "the session stays"; }
say "the session of a dead initiator ended $(echo "$(uptime_s) - $started" | bc) s after its machine"
home() {
    [ "$(queue_pairs)" = "$pairs" ] &&
        rpc srpt_get_stats | jq --exit-status '[.result.cores[] | .slots.used, .channels, (.buffers[] | .total - .free)] | add == 0' >/dev/null
}
until_true 30 home || { rpc srpt_get_stats; fail "resources are missing: $(queue_pairs) queue pairs of $pairs"; }
say "queue pairs, slots and buffers are home"
target_stop || fail "target stop"
# What was resent to the machine that is gone.
kernel_is_clean "make_send_cqe: non-flush error" || fail "dmesg"
say "done"
