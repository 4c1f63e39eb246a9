# shellcheck shell=bash
# SCSI devices passed through, seen at the initiator as they are seen locally: a disk of scsi_debug
# with errors and delays, what else scsi_debug plays, and a tape of tgt behind iSCSI. The contract
# suite of block devices runs on the disk first: srp-sg.sh FULL CONTRACT-BINARY.
# shellcheck source=lib.sh
. /host/guest/lib.sh
# shellcheck source=target.sh
. /host/guest/target.sh
# shellcheck source=tests.sh
. /host/guest/tests.sh
# Process substitution looks there, and no udevd has made it.
[ -e /dev/fd ] || ln --symbolic /proc/self/fd /dev/fd
SIZE=8M TREE=etc SECTORS="512"
contract=$2
[ "${1:-no}" = no ] || SIZE=48M TREE="etc usr/bin" SECTORS="512 4096"
debug=/sys/bus/pseudo/drivers/scsi_debug
rxe_up || fail "soft-RoCE"
initiator_up || fail "ib_srp"
modprobe --all sg st ses || fail "modules"

run() { "$@" >/tmp/out 2>&1 || { cat /tmp/out; fail "$*: status $?"; }; }
# The sg node of the first local device of a type.
local_sg() { # PERIPHERAL-TYPE
    local node host
    for node in /sys/class/scsi_generic/*; do
        host=$(realpath "$node/device" | grep --only-matching '/host[0-9]*' | head --lines=1)
        [ ! -e "/sys/class/srp_host$host" ] || continue
        [ "$(cat "$node/device/type")" = "$1" ] && basename "$node" && return
    done
    return 1
}
has_nodes() { # COUNT
    local nodes=(/sys/class/srp_host/*/device/target*/*/scsi_generic/sg*)
    [ -e "${nodes[0]}" ] && [ ${#nodes[@]} -ge "$1" ]
}
log_in() { # LUNS
    srp_login "$GUID" && until_true 20 has_nodes "$1" || fail "login"
}
# Designators of page 83h but those of the target port, which are ours.
identification() {
    sg_vpd --page=0x83 --raw "$1" | perl -e '
        local $/; my $p = <STDIN>; my $end = 4 + unpack("n", substr($p, 2, 2)); my $at = 4;
        while ($at < $end) {
            my ($association, $bytes) = unpack("xCxC", substr($p, $at, 4));
            print unpack("H*", substr($p, $at, 4 + $bytes)), "\n" if ($association & 0x30) != 0x10;
            $at += 4 + $bytes;
        }'
}
# A command's output, status and sense data, without names of nodes.
said() { "$@" 2>&1 | sed 's,/dev/[a-z]*[0-9]*,,g'; echo "status ${PIPESTATUS[0]}"; }
same() { # LOCAL REMOTE COMMAND...: DEVICE stands for the node
    local here=$1 there=$2
    shift 2
    said "${@/DEVICE/$here}" >/tmp/here
    said "${@/DEVICE/$there}" >/tmp/there
    cmp --silent /tmp/here /tmp/there || { diff /tmp/here /tmp/there; fail "$*: differs from the local device"; }
}
compare() { # LOCAL-SG LUN: identity, pages, mode pages, sense
    local here=/dev/$1 there page pages
    there=/dev/$(srp_sg "$2")
    run sg_turs --number=3 "$there"
    same "$here" "$there" sg_raw --request=96 DEVICE 12 00 00 00 60 00
    pages=$(sg_vpd --page=0 --raw "$here" | od --address-radix=n --format=x1 --skip-bytes=4)
    for page in $pages; do
        [ "$page" = 83 ] || same "$here" "$there" sg_raw --request=255 DEVICE 12 01 "$page" 00 ff 00
    done
    [ "$(identification "$here")" = "$(identification "$there")" ] || fail "designators of LUN $2"
    sg_vpd --page=0x83 "$there" >/tmp/out
    grep --quiet 'transport: SCSI RDMA' /tmp/out || { cat /tmp/out; fail "no port of ours"; }
    same "$here" "$there" sg_raw --request=252 DEVICE 1a 00 3f 00 fc 00
    same "$here" "$there" sg_raw DEVICE d1 00 00 00 00 00 00 00 00 00
    same "$here" "$there" sg_raw --request=252 DEVICE 1a 00 2e 00 fc 00
    same "$here" "$there" sg_raw --request=64 DEVICE 12 01 ee 00 40 00
    same "$here" "$there" sg_raw --request=18 DEVICE 03 00 00 00 12 00
    compared="$pages"
}

disk() { # SECTOR-BYTES
    local here block disk there before kind
    run modprobe scsi_debug dev_size_mb=64 sector_size="$1" lbpu=1 lbpws=1 lbprz=1 delay=0 max_luns=1
    until_true 10 local_sg 0 >/dev/null || fail "scsi_debug"
    if [ "$1" = 512 ]; then
        # More hosts, of other kinds: tape, processor, changer.
        for type in 1 3 8; do
            echo $type >$debug/ptype && echo 1 >$debug/add_host || fail "scsi_debug host of type $type"
            until_true 10 local_sg $type >/dev/null || fail "no device of type $type"
        done
        echo 0 >$debug/ptype
    fi
    here=$(local_sg 0)
    until_true 10 test -d "/sys/class/scsi_generic/$here/device/block" || fail "no disk"
    block=$(ls "/sys/class/scsi_generic/$here/device/block")
    for kind in scsi_disk block_device; do
        SRPT_SG_DEVICE=/dev/$here SRPT_BLOCK_DEVICE=/dev/$block \
            run all_run "$contract" --nocapture --exact "a_${kind}_obeys_every_rule"
        say "$1: the contract: a $kind passed $(grep --count ': passed$' /tmp/out) checks"
    done
    # What moves more than this is done in parts.
    echo 64 >"/sys/block/$block/queue/max_sectors_kb"
    if [ "$1" = 512 ]; then
        target_luns "sg:/dev/$block" "sg:/dev/$(local_sg 1)" "sg:/dev/$(local_sg 8)" "sg:/dev/$(local_sg 3)"
    else
        target_luns "sg:/dev/$here"
    fi
    target_start || fail "srpt_tgt"
    # What was saved makes the same devices.
    rpc save_config | jq .result >/tmp/saved && cp /tmp/saved $target_config
    grep --quiet bdev_sg_create /tmp/saved || fail "save_config"
    target_stop && target_start || fail "a start with the saved configuration"
    rpc save_config | jq .result | cmp - /tmp/saved || fail "the saved configuration changed"
    log_in "$([ "$1" = 512 ] && echo 4 || echo 1)"
    wait_disks 1 || fail "no disk at the initiator"
    compare "$here" 0
    disk=$(srp_disk 0) there=/dev/$(srp_sg 0)
    same "/dev/$here" "$there" sg_raw --request=32 DEVICE 9e 10 00 00 00 00 00 00 00 00 00 00 00 20 00 00
    same "/dev/$here" "$there" sg_raw --request=512 DEVICE 28 00 ff ff ff ff 00 00 01 00
    same "/dev/$here" "$there" sg_raw --request=2048 DEVICE a3 0c 00 00 00 00 00 00 08 00 00 00
    say "$1: pages$compared, mode pages and sense as local"
    run fio --name=verify --filename="/dev/$disk" --direct=1 --ioengine=libaio --rw=randwrite \
        --bsrange=4k-512k --iodepth=16 --size=$SIZE --verify=crc32c --verify_state_save=0
    dd if="/dev/$disk" bs=1M iflag=direct status=none | cmp - <(dd if="/dev/$block" bs=1M status=none) ||
        fail "the disk differs from the local one"
    run blkdiscard "/dev/$disk"
    [ -z "$(cat $debug/map)" ] || fail "discarded blocks are still there: $(cat $debug/map)"
    say "$1: fio verified in parts of 64 KiB, all discarded"
    run mkfs.ext4 -q -F "/dev/$disk"
    mkdir --parents /mnt/lun && run mount "/dev/$disk" /mnt/lun
    tar --create --directory=/ $TREE 2>/dev/null | tar --extract --directory=/mnt/lun 2>/dev/null
    (cd /mnt/lun && find . -type f -exec sha256sum {} +) | sort >/tmp/sums
    run umount /mnt/lun
    run fsck.ext4 -n -f "/dev/$disk"
    run mount -o ro "/dev/$disk" /mnt/lun
    (cd /mnt/lun && find . -type f -exec sha256sum {} +) | sort | cmp - /tmp/sums || fail "files differ"
    run umount /mnt/lun
    say "$1: ext4 with $(wc --lines </tmp/sums) files, fsck clean"
    errors "/dev/$here" "$there"
    [ "$1" != 512 ] || others
    reservations "$there"
    run sg_reset --device "$there"
    run sg_turs --number=3 "$there"
    [ "$1" != 512 ] || gone "$here"
    srp_logout || fail "logout"
    target_stop || fail "target stop"
    until_true 10 rmmod scsi_debug || fail "the target keeps scsi_debug"
}

errors() { # LOCAL REMOTE
    # Errors of the medium at block 1234h, then of the transport, then slow commands.
    echo 2 >$debug/opts
    same "$1" "$2" sg_raw --request=4096 DEVICE 28 00 00 00 12 34 00 00 01 00
    grep --quiet 'Medium Error' /tmp/there || { cat /tmp/there; fail "no medium error"; }
    same "$1" "$2" sg_raw --request=4096 DEVICE 88 00 00 00 00 00 00 00 12 34 00 00 00 01 00 00
    echo 0 >$debug/opts
    echo 20000000 >$debug/ndelay
    run fio --name=slow --filename="/dev/$disk" --direct=1 --ioengine=libaio --rw=randwrite --bs=4k \
        --iodepth=8 --size=1M --verify=crc32c --verify_state_save=0
    echo 0 >$debug/ndelay
    echo 0 >$debug/delay
    say "medium errors as local; commands of 20 ms"
}

others() {
    compare "$(local_sg 1)" 1
    say "tape: pages$compared and sense as local"
    compare "$(local_sg 8)" 2
    say "changer: pages$compared and sense as local"
    compare "$(local_sg 3)" 3
    say "processor: pages$compared and sense as local"
}

reservations() { # NODE: of the first session
    local second
    INITIATOR_EXT=0000000000000002 srp_login "$GUID" || fail "a second session"
    second() {
        local host node
        for node in /sys/class/srp_host/*/device/target*/*:0/scsi_generic/*; do
            [ "/dev/$(basename "$node")" = "$1" ] || { basename "$node"; return; }
        done
        return 1
    }
    until_true 20 second "$1" >/dev/null || fail "no second path"
    second=/dev/$(second "$1")
    run sg_turs --number=3 "$1"
    sg_turs --number=3 "$second" >/dev/null 2>&1
    run sg_raw "$1" 16 00 00 00 00 00
    sg_turs "$second" >/tmp/out 2>&1
    [ $? = 24 ] || { cat /tmp/out; fail "no reservation conflict"; }
    run sg_turs "$1"
    run sg_inq "$second"
    run sg_raw "$1" 17 00 00 00 00 00
    run sg_turs "$second"
    say "reservations belong to sessions"
}

gone() { # LOCAL-SG
    local host there second
    there=/dev/$(srp_sg 0)
    host=$(basename "$(realpath "/sys/class/scsi_generic/$1/device/../..")")
    echo 1 >"/sys/class/scsi_generic/$1/device/delete"
    not_ready() { sg_turs "$there" >/dev/null 2>&1; [ $? = 2 ]; }
    until_true 20 not_ready || fail "a device that is gone is ready"
    echo '- - -' >"/sys/class/scsi_host/$host/scan"
    back() { sg_turs "$there" >/dev/null 2>&1; }
    until_true 30 back || { rpc bdev_get_bdevs; fail "the device did not come back"; }
    run sg_inq "$there"
    say "gone: not ready; back: served again"
}

tape() {
    local here nst block
    run modprobe iscsi_tcp
    tgtd --iscsi portal=127.0.0.1:3260 >/tmp/tgtd 2>&1 || { cat /tmp/tgtd; fail "tgtd"; }
    until_true 10 tgtadm --lld iscsi --mode sys --op show >/tmp/out 2>&1 || { cat /tmp/out; fail "tgtd"; }
    run tgtimg --op new --device-type tape --barcode A00001 --size 64 --type data --file /var/tmp/tape.img
    run tgtadm --lld iscsi --mode target --op new --tid 1 --targetname iqn.2001-04.com.example:tape
    run tgtadm --lld iscsi --mode logicalunit --op new --tid 1 --lun 1 --backing-store /var/tmp/tape.img \
        --device-type tape --bstype ssc
    run tgtadm --lld iscsi --mode target --op bind --tid 1 --initiator-address ALL
    run iscsistart --initiatorname iqn.2001-04.com.example:me --targetname iqn.2001-04.com.example:tape \
        --tgpt 1 --address 127.0.0.1 --port 3260
    until_true 20 local_sg 1 >/dev/null || fail "no local tape"
    here=$(local_sg 1)
    until_true 10 test -c /dev/nst0 || fail "no local tape node"
    target_luns "sg:/dev/nst0"
    target_start || fail "srpt_tgt"
    log_in 1
    until_true 20 test -c /dev/nst1 || fail "no tape at the initiator"
    nst=/dev/nst1
    compare "$here" 0
    head --bytes=300000 /host/bin/srpt_tgt >/tmp/one
    tail --bytes=200000 /host/bin/srpt_tgt >/tmp/two
    # Blocks of any length.
    run mt -f $nst rewind
    run mt -f $nst setblk 0
    run dd if=/tmp/one of=$nst bs=10000
    run dd if=/tmp/two of=$nst bs=10000
    run mt -f $nst rewind
    run dd if=$nst of=/tmp/back bs=64k
    cmp /tmp/one /tmp/back || fail "the first file of the tape"
    run dd if=$nst of=/tmp/back bs=64k
    cmp /tmp/two /tmp/back || fail "the second file of the tape"
    run mt -f $nst rewind
    run mt -f $nst fsf 1
    run dd if=$nst of=/tmp/back bs=64k
    cmp /tmp/two /tmp/back || fail "the second file after a space"
    mt -f $nst tell >/tmp/out 2>&1
    mt -f $nst status >>/tmp/out 2>&1
    grep --quiet 'File number=' /tmp/out || { cat /tmp/out; fail "mt status"; }
    say "tape, variable blocks: two files with filemarks, space, read back in 64 KiB reads"
    # A read shorter than its block ends with an error that says so.
    run mt -f $nst rewind
    ! dd if=$nst of=/tmp/back bs=512 count=1 2>/tmp/out || fail "a block was cut without an error"
    run mt -f $nst rewind
    run mt -f $nst setblk 1024
    dd if=/tmp/one of=/tmp/even bs=1024 count=200 status=none
    run dd if=/tmp/even of=$nst bs=32k
    run mt -f $nst rewind
    run dd if=$nst of=/tmp/back bs=64k
    cmp /tmp/even /tmp/back || fail "fixed blocks"
    block=$(rpc bdev_get_bdevs | grep --only-matching '"block_length":[0-9]*')
    [ "$block" = '"block_length":1024' ] || fail "the target believes in $block"
    say "tape, fixed blocks of 1024: read back, residual at the filemark right; $block learnt"
    srp_logout || fail "logout"
    target_stop || fail "target stop"
}

for sector in $SECTORS; do disk "$sector"; done
tape
kernel_is_clean 'Medium Error|critical|scsi_debug|Sense Key|Add. Sense|I/O error|blk_print_req|FAILED|st[0-9]|Unaligned|device offline' || fail "dmesg"
say "done"
