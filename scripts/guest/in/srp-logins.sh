# shellcheck shell=bash
# Logins: a second login of the same initiator port ends its first session; hundreds of logins and
# thousands of rejects leave memory, descriptors and queue pairs where they were; channels go to cores
# in order when asked to.
# shellcheck source=lib.sh
. /host/guest/lib.sh
# shellcheck source=target.sh
. /host/guest/target.sh
LOGINS=20 REJECTS=50
[ "${1:-no}" = no ] || LOGINS=200 REJECTS=2000
rxe_up || fail "soft-RoCE"
target_luns malloc:16
target_start || fail "srpt_tgt"
initiator_up || fail "ib_srp"

# The kernel's initiator refuses a second login of its own port before it says anything, so two
# srpt_perf with the same port identifier show it: it ends in the process id, and each is the first
# process of a namespace.
perf() { # SECONDS
    unshare --pid --fork /host/bin/srpt_perf --target "rdma:$ADDRESS:$PORT" --guid "$GUID" -l 0 -w randread -q 4 -t "$1"
}
session_ids() { rpc srpt_get_sessions | grep --only-matching '"id":[0-9]*,"target"' | tr --complement --delete '0-9\n'; }
one_session() { now=$(session_ids) && [[ $now =~ ^[0-9]+$ ]]; }
other_session() { one_session && [ "$now" != "$first" ]; }
perf 60 >/tmp/first 2>&1 &
first_pid=$!
until_true 10 one_session || fail "first login: $(cat /tmp/first)"
first=$now
perf 5 >/tmp/second 2>&1 &
second_pid=$!
until_true 10 other_session || fail "the second login did not end the first: sessions $(session_ids)"
say "session $first ended, session $now serves"
! wait $first_pid || fail "the first session's initiator noticed nothing"
say "first initiator: $(tail --lines=1 /tmp/first)"
wait $second_pid || { cat /tmp/second; fail "the second initiator was disturbed"; }

in_and_out() { srp_login "$GUID" && wait_disks 1 && srp_logout; }
rejected() { ! srp_login 00000000000bad00 2>/dev/null; }
queue_pairs() { rdma resource show qp link "$RXE" | wc --lines; }
settled() { [ "$(queue_pairs)" = "$pairs" ] && [ "$(target_descriptors)" = "$descriptors" ]; }

# Once of each first: what the target keeps after that is its to keep.
in_and_out || fail "login"
rejected || fail "a wrong GUID was accepted"
descriptors=$(target_descriptors) rss=$(target_rss_kb) pairs=$(queue_pairs)
say "before: $rss kB, $descriptors descriptors, $pairs queue pairs"
for number in $(seq $LOGINS); do in_and_out || fail "login $number"; done
for number in $(seq $REJECTS); do rejected || fail "a wrong GUID was accepted, attempt $number"; done
until_true 10 settled || fail "left over: $(target_descriptors) descriptors of $descriptors, $(queue_pairs) queue pairs of $pairs"
say "after $LOGINS logins and $REJECTS rejects: $(target_rss_kb) kB, $(target_descriptors) descriptors, $(queue_pairs) queue pairs"
[ "$(target_rss_kb)" -lt $((rss + 2048)) ] || fail "memory grew from $rss to $(target_rss_kb) kB"
in_and_out || fail "login at the end"
target_stop || fail "target stop"

# Two cores and four sessions of one channel, of which those on the second core end: the first
# channel of a fifth goes there, and the second to the next core, although that has more.
TARGET_ARGUMENTS="--cpumask 0x3 --mem-size 128 --no-huge --idle adaptive"
TARGET_OPTIONS='"channels_in_order": true'
target_luns malloc:16
target_start || fail "srpt_tgt on two cores"
sessions_cores() { rpc srpt_get_sessions | jq --compact-output '[.result[].channels | map(.core)]'; }
sessions_are() { [ "$(sessions_cores)" = "$1" ]; }
declare -a loads
load() { # CHANNELS
    /host/bin/srpt_perf --target "rdma:$ADDRESS:$PORT" --guid "$GUID" -l 0 -w randread -q 1 -c "$1" -t 60 \
        >/tmp/load 2>&1 &
    loads+=($!)
}
wanted=""
for core in 0 1 0 1; do
    load 1
    wanted+="${wanted:+,}[$core]"
    until_true 20 sessions_are "[$wanted]" || fail "cores $(sessions_cores), not [$wanted]"
done
kill "${loads[1]}" "${loads[3]}"
until_true 20 sessions_are '[[0],[0]]' || fail "sessions stay: $(sessions_cores)"
load 2
until_true 20 sessions_are '[[0],[0],[0,1]]' || fail "cores $(sessions_cores), not in order"
say "channels in order: $(sessions_cores)"
kill "${loads[0]}" "${loads[2]}" "${loads[4]}"
target_stop || fail "target stop on two cores"
# A logout can come while the kernel still looks for partitions.
look='device offline error, dev sd|Buffer I/O error on dev sd[a-z]+, logical block 0, async page read'
# The loads were killed, with what the target was writing into their memory.
killed='qp#[0-9]+ (do_complete|make_send_cqe): non-flush error status'
kernel_is_clean "SRP LOGIN|ib_srp: REJ|Connection.*failed|bad target login|$look|$killed" || fail "dmesg"
say "done"
