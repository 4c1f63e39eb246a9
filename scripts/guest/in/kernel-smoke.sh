# shellcheck shell=bash
# The harness proves itself: the kernel's initiator logs in to the kernel's own target.
# shellcheck source=lib.sh
. /host/guest/lib.sh
rxe_up || fail "soft-RoCE"
say "soft-RoCE up"
null_block nb0 128 1 || fail "null_blk"
kernel_target_up srp_max_req_size=8260 || fail "ib_srpt"
kernel_backend iblock_0/nb0 udev_path=/dev/nb0 nb0 || fail "iblock"
kernel_backend rd_mcp_0/null rd_pages=65536,rd_nullio=1 null || fail "nullio"
kernel_backend rd_mcp_1/ram rd_pages=32768 ram || fail "rd_mcp"
truncate --size=128M /tmp/file
kernel_backend fileio_0/file fd_dev_name=/tmp/file,fd_dev_size=134217728 file || fail "fileio"
number=0
for backend in iblock_0/nb0 rd_mcp_0/null rd_mcp_1/ram fileio_0/file; do
    kernel_lun $((number++)) $backend || fail "LUN $backend"
done
kernel_target_enable || fail "ACLs"
say "target up"
initiator_up allow_ext_sg=1 indirect_sg_entries=2048 || fail "ib_srp"
srp_login "$(kernel_guid)" || fail "login"
wait_disks 4 || fail "4 disks"
say "4 disks"
lsscsi --generic
disk=/dev/$(srp_disk 2)
dd if=/dev/urandom of=/tmp/data bs=1M count=16 status=none
dd if=/tmp/data of="$disk" bs=1M oflag=direct status=none || fail "write"
dd if="$disk" bs=1M count=16 iflag=direct status=none | cmp - /tmp/data || fail "compare"
say "16 MiB written, read and compared"
srp_logout || fail "logout"
say "done"
