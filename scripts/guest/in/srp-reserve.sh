# shellcheck shell=bash
# RESERVE and RELEASE (SPC-2) by two initiator ports that see one file as a disk. Each session has a
# channel on each of the target's two cores, and each command is sent from each processor, so over
# each channel: what one session reserves over one channel holds for the other session on all.
# shellcheck source=lib.sh
. /host/guest/lib.sh
# shellcheck source=target.sh
. /host/guest/target.sh
TARGET_ARGUMENTS="--cpumask 0x3 --mem-size 128 --no-huge --idle adaptive"
TARGET_OPTIONS='"channels_in_order": true'
# Process substitution looks there, and no udevd has made it.
[ -e /dev/fd ] || ln --symbolic /proc/self/fd /dev/fd
image=/var/tmp/reserve.img
GOOD=0 ATTENTION=6 CONFLICT=24      # exit status of sg_raw
rxe_up || fail "soft-RoCE"
truncate --size=16M $image
target_luns file:$image malloc:16
target_start || fail "srpt_tgt"
initiator_up ch_count=2 || fail "ib_srp"

hosts() { ls /sys/class/srp_host 2>/dev/null; }
node() { # HOST LUN CLASS
    local node
    for node in /sys/class/srp_host/"$1"/device/target*/*:"$2"/"$3"/*; do
        [ -e "$node" ] && echo "/dev/${node##*/}" && return
    done
    return 1
}
has_nodes() { # HOST
    node "$1" 0 block && node "$1" 1 block && node "$1" 0 scsi_generic && node "$1" 1 scsi_generic
}
log_in() { # INITIATOR_EXT: leaves the new host's name in `host`
    local before
    before=$(hosts)
    INITIATOR_EXT=$1 srp_login "$GUID" || fail "login of $1"
    host=$(comm -13 <(echo "$before") <(hosts))
    until_true 20 has_nodes "$host" >/dev/null || fail "disks of $1"
    # The kernel has looked for partitions once the disk can be opened.
    dd if="$(node "$host" 0 block)" of=/dev/null bs=4k count=1 iflag=direct status=none || fail "read"
}
is_gone() { [ ! -e "/sys/class/srp_host/$1" ]; }
log_out() { # HOST
    echo 1 >"/sys/class/srp_remote_ports/port-${1#host}:1/delete" || fail "logout of $1"
    until_true 10 is_gone "$1" || fail "$1 stays"
}

# What sg_raw says of a command that is sent from a processor: its exit status.
sends() { # PROCESSOR NODE COMMAND
    local options=() cdb
    case $3 in
        reserve6) cdb="16 00 00 00 00 00" ;;
        release6) cdb="17 00 00 00 00 00" ;;
        reserve10) cdb="56 00 00 00 00 00 00 00 00 00" ;;
        release10) cdb="57 00 00 00 00 00 00 00 00 00" ;;
        ready) cdb="00 00 00 00 00 00" ;;
        read) cdb="28 00 00 00 00 08 00 00 01 00" options=(--request=512 --outfile=/tmp/read) ;;
        write) cdb="2a 00 00 00 00 08 00 00 01 00" options=(--send=512 --infile=/tmp/block) ;;
        inquiry) cdb="12 00 00 00 60 00" options=(--request=96) ;;
        sense) cdb="03 00 00 00 12 00" options=(--request=18) ;;
        luns) cdb="a0 00 00 00 00 00 00 00 00 40 00 00" options=(--request=64) ;;
    esac
    # shellcheck disable=SC2086
    taskset --cpu-list "$1" sg_raw "${options[@]}" "$2" $cdb >/tmp/out 2>&1
}
ends() { # STATUS PROCESSOR NODE COMMAND...
    local status=$1 processor=$2 node=$3 command got
    shift 3
    for command; do
        got=0
        sends "$processor" "$node" "$command" || got=$?
        [ $got = "$status" ] || { cat /tmp/out; fail "$command, $node, processor $processor: $got, not $status"; }
    done
}
block() { head --bytes=512 /dev/zero | tr '\0' "$1" >/tmp/block; } # LETTER: what is written next
holds() { ends $GOOD "$1" "$2" read && cmp --silent /tmp/read "$3" || fail "$2: other data than in $3"; }
is_reset() { # PROCESSOR NODE
    ends $ATTENTION "$1" "$2" ready
    grep --quiet 'Power on, reset, or bus device reset occurred' /tmp/out || { cat /tmp/out; fail "$2: another attention"; }
}
is_free() { # NODE
    local processor
    for processor in 0 1; do ends $GOOD $processor "$1" read write; done
}

log_in 0000000000000001
mine_host=$host mine=$(node "$host" 0 scsi_generic)
log_in 0000000000000002
other_host=$host other=$(node "$host" 0 scsi_generic) other_disk=$(node "$host" 0 block)
other_lun=$(node "$host" 1 scsi_generic)
cores() { rpc srpt_get_sessions | jq --compact-output "[.result[].channels | map($1) | sort]"; }
[ "$(cores .core)" = '[[0,1],[0,1]]' ] || fail "sessions on cores $(cores .core)"
say "sessions on cores $(cores .core)"

for size in 6 10; do
    ends $GOOD 0 "$mine" reserve$size
    ends $GOOD 1 "$mine" reserve$size
    for processor in 0 1; do
        block a
        ends $GOOD $processor "$mine" ready write
        cp /tmp/block /tmp/kept
        block b
        ends $CONFLICT $processor "$other" read write ready reserve6 reserve10
        ends $GOOD $processor "$other" inquiry sense luns release6 release10
        ends $CONFLICT $processor "$other" ready
        ends $GOOD $processor "$other_lun" write
        holds $processor "$mine" /tmp/kept
    done
    ! dd if="$other_disk" of=/dev/null bs=4k count=1 iflag=direct 2>/tmp/out || fail "the other's disk can be read"
    grep --quiet 'Invalid exchange' /tmp/out || { cat /tmp/out; fail "another error"; }
    ends $GOOD 1 "$mine" release$size
    is_free "$other"
    holds 0 "$mine" /tmp/block
    say "RESERVE ($size) and RELEASE ($size)"
done
least=$(cores .commands | jq 'flatten | min')
[ "$least" -ge 20 ] || fail "commands of the channels: $(cores .commands)"

# Each port is once the one that has reserved the unit.
for node in "$mine" "$other"; do
    ends $GOOD 0 "$node" reserve6
    for each in "$mine" "$other"; do [ "$each" = "$node" ] || ends $CONFLICT 0 "$each" ready; done
    sg_reset --device "$mine" || fail "reset"
    is_reset 1 "$mine"
    is_reset 0 "$other"
    is_free "$mine"
    is_free "$other"
done
say "reset by who has reserved it, and by the other"

ends $GOOD 0 "$mine" reserve10
ends $CONFLICT 0 "$other" ready
log_out "$mine_host"
until_true 10 sends 0 "$other" ready || { cat /tmp/out; fail "reserved after the logout"; }
is_free "$other"
ends $GOOD 1 "$other" reserve6 release6
log_in 0000000000000001
ends $GOOD 0 "$(node "$host" 0 scsi_generic)" ready reserve6 release6
say "logout"

log_out "$host"
log_out "$other_host"
target_stop || fail "target stop"
kernel_is_clean 'reservation conflict' || fail "dmesg"
say "done"
