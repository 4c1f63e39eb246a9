# shellcheck shell=bash
# LUNs as disks: what the SCSI tools see, file systems on a file and a malloc LUN, and what is still
# there after a new login and, for the file LUN, after a restart of the target.
# shellcheck source=lib.sh
. /host/guest/lib.sh
# shellcheck source=target.sh
. /host/guest/target.sh
TREE="etc usr/share/perl" ROUNDS=("ext4 xfs")
[ "${1:-no}" = no ] || TREE="etc usr/bin usr/share/perl" ROUNDS=("ext4 xfs" "xfs ext4")
rxe_up || fail "soft-RoCE"
truncate --size=400M /var/tmp/lun.img
target_luns file:/var/tmp/lun.img malloc:400 null:1024
target_start || fail "srpt_tgt"
initiator_up || fail "ib_srp"
log_in() { srp_login "$GUID" && wait_disks 3 || fail "login"; }
log_in

lsscsi --generic --size | tee /tmp/lsscsi
[ "$(grep --count 'SRPT.*disk\|disk.*SRPT' /tmp/lsscsi)" = 3 ] || fail "vendor or product in lsscsi"

# A tool must end well and must not complain about what it got.
clean() {
    "$@" >/tmp/out 2>&1 || { cat /tmp/out; fail "$*: status $?"; }
    ! grep --ignore-case --extended-regexp \
        'reserved|unsupported|illegal|malformed|too short|truncated|error|invalid|wrong' /tmp/out ||
        { cat /tmp/out; fail "$* complains"; }
}
for lun in 0 1 2; do
    sg=/dev/$(srp_sg $lun)
    clean sg_turs "$sg"
    clean sg_inq "$sg"
    clean sg_luns "$sg"
    clean sg_readcap "$sg"
    clean sg_readcap --long "$sg"
    clean sg_modes --all "$sg"
    # Page 00h: a header of four bytes, then the page codes.
    pages=$(sg_vpd --page=0 --raw "$sg" | od --address-radix=n --format=x1 --skip-bytes=4)
    [ -n "$pages" ] || fail "no VPD pages"
    for page in $pages; do clean sg_vpd --page="0x$page" "$sg"; done
    clean sg_vpd --all "$sg"
done
say "SCSI tools: clean; VPD pages$pages"
[ "$(sg_luns "/dev/$(srp_sg 0)" | grep --count '^ *0')" = 3 ] || fail "sg_luns: not 3 LUNs"

tar --create --file=/tmp/tree.tar --directory=/ $TREE 2>/dev/null
say "tree of $(du --summarize --block-size=1M /tmp/tree.tar | cut --fields=1) MB, $(tar --list --file=/tmp/tree.tar | wc --lines) files"
sums() { # DIRECTORY
    (cd "$1" && find . -type f -print0 | sort --zero-terminated | xargs --null sha1sum)
}
fill() { # LUN TYPE
    local disk
    disk=/dev/$(srp_disk "$1")
    case $2 in
        ext4) mkfs.ext4 -q -F "$disk" >/tmp/out 2>&1 ;;
        xfs) mkfs.xfs -q -f "$disk" >/tmp/out 2>&1 ;;
    esac || { cat /tmp/out; fail "mkfs.$2 on LUN $1"; }
    mount -t "$2" "$disk" /mnt || fail "mount $2 on LUN $1"
    tar --extract --file=/tmp/tree.tar --directory=/mnt || fail "tar on $2, LUN $1"
    sums /mnt >"/tmp/sums.$1"
    umount /mnt || fail "umount"
}
check() { # LUN TYPE
    local disk
    disk=/dev/$(srp_disk "$1")
    case $2 in
        ext4) e2fsck -f -n "$disk" >/tmp/out 2>&1 ;;
        xfs) xfs_repair -n "$disk" >/tmp/out 2>&1 ;;
    esac || { cat /tmp/out; fail "fsck of $2 on LUN $1"; }
    mount -t "$2" -o ro "$disk" /mnt || fail "mount again"
    sums /mnt | cmp - "/tmp/sums.$1" || fail "checksums of $2 on LUN $1"
    umount /mnt
}
log_in_again() {
    srp_logout || fail "logout"
    log_in
}
modprobe --all ext4 xfs
for types in "${ROUNDS[@]}"; do
    read -r on_file on_malloc <<<"$types"
    fill 0 "$on_file"
    fill 1 "$on_malloc"
    say "filled: $on_file on the file LUN, $on_malloc on the malloc LUN"
    log_in_again
    check 0 "$on_file"
    check 1 "$on_malloc"
    say "after a new login: fsck clean, checksums equal"
    srp_logout || fail "logout"
    target_stop || fail "the target did not stop with status 0"
    target_start || fail "restart"
    log_in
    check 0 "$on_file"
    say "after a restart of the target: fsck clean, checksums equal ($on_file)"
done
srp_logout || fail "logout"
target_stop || fail "the target did not stop with status 0"
kernel_is_clean || fail "dmesg"
say "done"
