# shellcheck shell=bash
# The job file that scripts/fio-verify.sh runs on a target, unchanged, on the kernel initiator's disk.
# shellcheck source=lib.sh
. /host/guest/lib.sh
# shellcheck source=target.sh
. /host/guest/target.sh
rxe_up || fail "soft-RoCE"
target_configure 128
target_start || fail "srpt_tgt"
initiator_up || fail "ib_srp"
srp_login "$GUID" || fail "login"
wait_disks 2 || fail "2 disks"
FILENAME=/dev/$(srp_disk 0) IOENGINE=libaio fio --minimal /host/fio/verify.fio >/tmp/fio ||
    { cat /tmp/fio; fail "fio"; }
say "fio: bench/fio/verify.fio passed on the disk of ib_srp"
srp_logout || fail "logout"
target_stop || fail "target stop"
kernel_is_clean || fail "dmesg"
say "done"
