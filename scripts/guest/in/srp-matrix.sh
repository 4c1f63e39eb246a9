# shellcheck shell=bash
# fio verify over the parameters of the kernel's initiator: channels, descriptors per command
# (registered as one region, or never registered, so that up to 2048 of them go into an external
# table), immediate data, shared receive queue of the target; direct and buffered. A line a cell.
# shellcheck source=lib.sh
. /host/guest/lib.sh
# shellcheck source=target.sh
. /host/guest/target.sh
FULL=${1:-no}
rxe_up || fail "soft-RoCE"
failed=0 cells=0

job() { # BUFFERED SIZE
    timeout 120 fio --name=cell --filename="/dev/$(srp_disk 0)" --rw=randwrite \
        --bsrange=512-8m --iodepth=64 --ioengine=libaio --direct=$((1 - $1)) --buffered="$1" \
        --size="$2" --verify=md5 --verify_state_save=0 --do_verify=1 --end_fsync=1 >/tmp/fio 2>&1 &&
        grep --quiet 'err= 0' /tmp/fio
}
cell() { # CH_COUNT CMD_SG_ENTRIES NEVER_REGISTER USE_IMM_DATA MODE...
    local channels=$1 entries=$2 never=$3 immediate=$4 mode buffered status started
    shift 4
    initiator_up ch_count="$channels" cmd_sg_entries="$entries" allow_ext_sg=1 \
        indirect_sg_entries=2048 never_register="$never" use_imm_data="$immediate" || fail "ib_srp"
    srp_login "$GUID" && wait_disks 1 || fail "login"
    for mode; do
        buffered=0
        [ "$mode" = direct ] || buffered=1
        [ $buffered = 0 ] || echo 3 >/proc/sys/vm/drop_caches
        status=PASS started=$SECONDS
        job $buffered 24M || status=FAIL
        cells=$((cells + 1))
        say "$status ch_count=$channels cmd_sg_entries=$entries never_register=$never use_imm_data=$immediate $mode use_srq=$srq $((SECONDS - started)) s"
        [ $status = PASS ] || { failed=$((failed + 1)); tail --lines=20 /tmp/fio; }
    done
    srp_logout || fail "logout"
    rmmod ib_srp || fail "rmmod ib_srp"
}

pass() { # USE_SRQ: all cells with one setting of the target
    srq=$1
    [ "$srq" = default ] || TARGET_OPTIONS="\"use_srq\": $srq"
    target_luns malloc:32
    target_start || fail "srpt_tgt"
    if [ "$FULL" != no ]; then
        for channels in 1 4; do
            for entries in 1 12 255; do
                for never in N Y; do
                    for immediate in Y N; do
                        cell $channels $entries $never $immediate direct buffered
                    done
                done
            done
        done
    else
        [ "$srq" = true ] || { cell 1 12 N Y direct; cell 4 12 N N buffered; }
        [ "$srq" = false ] || { cell 4 1 Y N direct; cell 1 255 Y Y buffered; }
    fi
    target_stop || fail "target stop"
}
has_use_srq() {
    target_luns malloc:32
    target_start || fail "srpt_tgt"
    rpc srpt_get_options >/dev/null
    local has=$?
    target_stop || fail "target stop"
    return $has
}
if has_use_srq; then
    pass false
    pass true
else
    say "this srpt_tgt has no use_srq: its default only"
    pass default
fi
say "$((cells - failed)) of $cells cells pass"
[ $failed = 0 ] || fail "matrix"
kernel_is_clean || fail "dmesg"
say "done"
