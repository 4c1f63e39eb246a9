#!/bin/bash
# Two guests joined by a cable, the target in one and the kernel's initiator in the other, and each
# is switched off under load without a word to its peer.
#
#   link.sh BIN RESULTS
#
# BIN has srpt_tgt; RESULTS keeps what the guests leave. The target's LUN is a disk that outlives its
# machine. Status 0 when verified I/O goes on after the target's machine is back, and when nothing
# of an initiator whose machine is gone stays with the target, not even a channel without traffic.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
[ $# = 2 ] || { sed --quiet '2,/^set/s/^# \{0,1\}//p' "$0"; exit 2; }
bin=$1
mkdir --parents "$2"
results=$(realpath "$2")
rm --recursive --force "$results"/{target,initiator}-*
truncate --size=64M "$results/lun.img"
cable=$(mktemp --directory)
machines=()
trap '[ ${#machines[@]} = 0 ] || kill "${machines[@]}" 2>/dev/null || true; wait; rm --recursive --force "$cable" "$results/lun.img"' EXIT

fail() {
    echo "link.sh: $*" >&2
    tail --lines=5 "$results"/*.err >&2
    exit 1
}
until_there() { # SECONDS FILE PID: the guest says so by making the file
    local tries=$(($1 * 10))
    until [ -e "$2" ]; do
        kill -0 "$3" 2>/dev/null || fail "the guest ended before ${2##*/}"
        [ $((tries -= 1)) -gt 0 ] || fail "no ${2#"$results"/} within $1 s"
        sleep 0.1
    done
}
machine() { # RESULTS-NAME ME PEER SCRIPT [argument]...
    local name=$1 me=$2 peer=$3 disk=()
    shift 3
    [ "$me" != target ] || disk=(--disk "$results/lun.img")
    "$here/run.sh" --limit 900 --memory 1024 --results "$results/$name" --link "$cable:$me:$peer" \
        --share "bin=$bin" "${disk[@]}" --script "$here/in/$1" "${@:2}" 2>"$results/$name.err" &
    pid=$!
    machines+=("$pid")
}
cut() { # PID: power off, at once
    kill -TERM "$1"
    wait "$1" || true
}
"$here/build.sh"

machine target-1 target initiator link-target.sh
target=$pid
until_there 180 "$results/target-1/ready" "$target"
machine initiator-1 initiator target link-initiator.sh survive
initiator=$pid
until_there 180 "$results/initiator-1/loaded" "$initiator"
cut "$target"
echo "the target's machine is off"
machine target-2 target initiator link-target.sh
target=$pid
until_there 180 "$results/target-2/ready" "$target"
echo "the target's machine is on again"
touch "$results/initiator-1/back"
wait "$initiator" || fail "the initiator did not survive"

initiator_dies() { # NUMBER load|rest WORD-TO-THE-TARGET LAST-WORD
    machine "initiator-$1" initiator target link-initiator.sh "$2"
    initiator=$pid
    until_there 180 "$results/initiator-$1/loaded" "$initiator"
    touch "$results/target-2/$3"
    until_there 60 "$results/target-2/seen-$3" "$target"
    cut "$initiator"
    echo "the initiator's machine is off ($3)"
    touch "$results/target-2/$4"
}
initiator_dies 2 load loaded alone
until_there 180 "$results/target-2/home" "$target"
initiator_dies 3 rest resting silent
wait "$target" || fail "something of the initiator stays"
