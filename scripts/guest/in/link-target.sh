# shellcheck shell=bash
# One of two guests: the target. The host says with a file when an initiator's load has begun that
# will end with its machine, and with another one when that machine has gone.
NETDEV=eth0
TARGET_ARGUMENTS="--cpumask 0x3 --mem-size 128 --no-huge --idle adaptive"
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
told() { [ -e "/run/vm/$1" ]; }
# Commands of each channel so far.
commands() { rpc srpt_get_sessions | jq --compact-output '[.result[].channels[].commands]'; }
moved() { # BEFORE: commands of each channel since then, fewest first
    jq --null-input --compact-output --argjson before "$1" --argjson now "$(commands)" \
        '[$now, $before] | transpose | map(.[0] - .[1]) | sort'
}
busy() { [ "$(moved "$before" | jq .[-1])" -gt 200 ]; }
until_true 600 told loaded || fail "the host says nothing"
before=$(commands)
until_true 60 busy || fail "no load: $before, $(commands)"
after=$(moved "$before")
jq --exit-status 'length == 2 and .[0] == 0' <<<"$after" >/dev/null || fail "no channel rests: $after"
say "commands of the two channels meanwhile: $after"
links() { rpc srpt_get_stats | jq '[.result.cores[].closed.link // 0] | add'; }
sessions() { rpc srpt_get_sessions | jq '.result | length'; }
gone() { [ "$(sessions)" = 0 ]; }
home() {
    [ "$(queue_pairs)" = "$pairs" ] &&
        rpc srpt_get_stats | jq --exit-status '[.result.cores[] | .slots.used, .channels, (.buffers[] | .total - .free)] | add == 0' >/dev/null
}
ends() { # HOW WORD: the session ends after the host has said that its machine is off
    local links started
    links=$(links)
    touch "/run/vm/seen-$1"
    until_true 600 told "$2" || fail "the host says nothing"
    started=$(uptime_s)
    until_true 90 gone || { rpc srpt_get_sessions; fail "the session stays"; }
    say "the session of a dead initiator ($1) ended $(echo "$(uptime_s) - $started" | bc) s after its machine"
    links=$(($(links) - links))
    [ $links = 2 ] || fail "$links channels ended with their link"
    until_true 30 home || { rpc srpt_get_stats; fail "resources are missing: $(queue_pairs) queue pairs of $pairs"; }
    say "queue pairs, slots and buffers are home"
}
# A peer that is gone shows when what was sent to it is not acknowledged, after all retries. Then the
# channel without traffic asks, and is not answered either.
ends loaded alone
# Where nothing is sent to it, the channels ask from time to time.
touch /run/vm/home
until_true 600 told resting || fail "the host says nothing"
[ "$(sessions)" = 1 ] || fail "no session"
# That nothing comes shows in a time only.
rests() {
    before=$(commands)
    sleep 1
    [ "$(moved "$before")" = "[0,0]" ]
}
until_true 30 rests || fail "the session does not rest: $(moved "$before")"
ends resting silent
target_stop || fail "target stop"
# What was resent to the machine that is gone.
kernel_is_clean "make_send_cqe: non-flush error" || fail "dmesg"
say "done"
