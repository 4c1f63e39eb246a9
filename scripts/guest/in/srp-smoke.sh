# shellcheck shell=bash
# The kernel's initiator logs in to srpt_tgt over soft-RoCE and uses its LUNs as disks.
# shellcheck source=lib.sh
. /host/guest/lib.sh
# shellcheck source=target.sh
. /host/guest/target.sh
rxe_up || fail "soft-RoCE"
target_configure 64
target_start || fail "srpt_tgt"
say "target up"
initiator_up allow_ext_sg=1 indirect_sg_entries=2048 || fail "ib_srp"
srp_login "$GUID" || { dmesg | tail -5; cat $target_log; fail "login"; }
wait_disks 2 || { dmesg | tail -20; cat $target_log; fail "2 disks"; }
say "2 disks"
lsscsi --generic
disk=/dev/$(srp_disk 0)
dd if=/dev/urandom of=/tmp/data bs=1M count=16 status=none
dd if=/tmp/data of="$disk" bs=1M oflag=direct status=none || fail "write"
dd if="$disk" bs=1M count=16 iflag=direct status=none | cmp - /tmp/data || fail "compare"
say "16 MiB written, read and compared"
sg_inq "/dev/$(srp_sg 0)" >/dev/null || fail "sg_inq"
fio --name=verify --filename="$disk" --direct=1 --ioengine=libaio --rw=randwrite --bsrange=512-1M \
    --iodepth=64 --size=24M --verify=md5 --minimal >/tmp/fio || { cat /tmp/fio; fail "fio"; }
say "fio verified"
srp_logout || fail "logout"
target_stop || fail "target stop"
kernel_is_clean || fail "dmesg"
say "done"
