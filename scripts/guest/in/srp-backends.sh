# shellcheck shell=bash
# What is behind the LUNs: LVM on a mirror that loses legs under load, unmap down to the file, a
# full file system, a loop device that is detached and comes back, a file that grows.
# shellcheck source=lib.sh
. /host/guest/lib.sh
# shellcheck source=target.sh
. /host/guest/target.sh
SIZE=16M LEG=48M ROUNDS=1
[ "${1:-no}" = no ] || SIZE=32M ROUNDS=3
export MDADM_NO_UDEV=1
images=/var/tmp # in memory: small
rxe_up || fail "soft-RoCE"
modprobe --all loop raid1 dm_mod ext4 || fail "modules"

# Attaches a new file of SIZE to loop device NUMBER.
backing() { # NUMBER SIZE
    [ -b "/dev/loop$1" ] || mknod "/dev/loop$1" b 7 "$1"
    truncate --size="$2" "$images/$1.img" && losetup "/dev/loop$1" "$images/$1.img"
}
lvm_() { "$@" --config 'activation { udev_sync = 0 udev_rules = 0 }' >/tmp/out 2>&1 || { cat /tmp/out; fail "$*"; }; }

# LUN 0: a logical volume on a mirror with a leg more than the rounds take away.
legs=()
for round in $(seq 0 "$ROUNDS"); do
    legs+=("/dev/loop$((20 + round))")
    backing $((20 + round)) $LEG || fail "loop device"
done
mdadm --create /dev/md0 --run --assume-clean --level=1 --raid-devices=${#legs[@]} --bitmap=none \
    "${legs[@]}" >/tmp/out 2>&1 || { cat /tmp/out; fail "mdadm"; }
lvm_ pvcreate --yes /dev/md0
lvm_ vgcreate vg0 /dev/md0
lvm_ lvcreate --yes --wipesignatures n --zero n --name lun --extents 100%FREE vg0
# LUN 1: a file with holes. LUN 2: one that its file system has no room for.
truncate --size=128M $images/holes.img
mkdir --parents /run/small && mount -t tmpfs -o size=16M none /run/small || fail "tmpfs"
truncate --size=64M /run/small/full.img
# LUN 3: a loop device.
backing 12 32M || fail "loop device"

target_luns file:/dev/vg0/lun file:$images/holes.img file:/run/small/full.img file:/dev/loop12
target_start || fail "srpt_tgt"
initiator_up || fail "ib_srp"
srp_login "$GUID" && wait_disks 4 || fail "login"
disk() { echo "/dev/$(srp_disk "$1")"; }
blocks() { stat --format=%b "$1"; }

# --- a leg fails
writes() { awk '{ print $5 }' "/sys/block/$(srp_disk 0)/stat"; }
for round in $(seq "$ROUNDS"); do
    fio --name=verify --filename="$(disk 0)" --direct=1 --ioengine=libaio --rw=randwrite --bs=16k \
        --iodepth=16 --size=$SIZE --verify=crc32c --verify_state_save=0 --rate_iops=400 >/tmp/fio 2>&1 &
    fio_pid=$!
    before=$(writes)
    writing() { [ "$(writes)" -gt $((before + 200)) ]; }
    until_true 30 writing || fail "no load"
    # It stays where it is: a write that io_uring submits while md marks the leg as failed keeps the
    # leg busy for ever (raid1 in Linux 6.12), so it can't always be removed.
    mdadm /dev/md0 --fail "${legs[round]}" >/tmp/out 2>&1 || { cat /tmp/out; fail "mdadm --fail"; }
    kill -0 $fio_pid || fail "fio ended before the leg failed"
    wait $fio_pid || { cat /tmp/fio; fail "fio saw the failed leg"; }
    left=$((${#legs[@]} - round))
    grep --quiet "/$left]" /proc/mdstat || { cat /proc/mdstat; fail "not $left legs"; }
    say "round $round: a leg of the mirror failed under fio --verify, no error"
done

# --- unmap down to the file
mkfs.ext4 -q -F "$(disk 1)" >/tmp/out 2>&1 || { cat /tmp/out; fail "mkfs.ext4"; }
mount "$(disk 1)" /mnt || fail "mount"
dd if=/dev/urandom of=/mnt/large bs=1M count=40 status=none && sync --file-system /mnt || fail "dd"
sync --file-system $images
full=$(blocks $images/holes.img)
rm /mnt/large && sync --file-system /mnt
fstrim /mnt || fail "fstrim"
sync --file-system $images
less=$(blocks $images/holes.img)
umount /mnt
[ "$less" -lt $((full - 60000)) ] || fail "fstrim: the file had $full blocks of 512 bytes and has $less"
say "fstrim at the initiator: the file's blocks went from $full to $less"

# --- the file system is full
full=$(disk 2)
dd if=/dev/urandom of=/tmp/random bs=1M count=8 status=none
dd if=/tmp/random of="$full" bs=64k oflag=direct status=none || fail "the first 8 MiB"
dd if=/dev/zero of="$full" bs=64k oflag=direct seek=128 status=none 2>/tmp/out && fail "64 MiB went into 16"
grep --quiet 'No space left' /tmp/out || { cat /tmp/out; fail "not ENOSPC"; }
dmesg | grep --quiet 'Space allocation failed write protect' || fail "not 07/27/07"
dd if="$full" bs=1M count=8 iflag=direct status=none | cmp - /tmp/random || fail "what was written"
sg_turs "/dev/$(srp_sg 2)" || fail "the LUN did not survive"
mount -o remount,size=80M /run/small
dd if=/tmp/random of="$full" bs=64k seek=512 oflag=direct status=none || fail "with room again"
say "disk full: 07/27/07, the LUN survived"

# --- detached, and back
loop=$(disk 3) sg=/dev/$(srp_sg 3)
dd if=/tmp/random of="$loop" bs=64k oflag=direct,sync status=none || fail "write to the loop device"
losetup --detach /dev/loop12
not_ready() { sg_turs "$sg" >/dev/null 2>&1; [ $? = 2 ]; }
until_true 10 not_ready || fail "still ready"
detached() { ! losetup /dev/loop12 >/dev/null 2>&1; }
until_true 10 detached || fail "the target holds the device"
dd if="$loop" of=/dev/null bs=4k count=1 iflag=direct status=none 2>/dev/null && fail "read without a medium"
sg_turs "/dev/$(srp_sg 0)" || fail "another LUN was touched"
losetup /dev/loop12 $images/12.img || fail "losetup"
ready() { sg_turs "$sg" >/dev/null 2>&1; }
until_true 10 ready || fail "not ready again"
dd if="$loop" bs=1M count=8 iflag=direct status=none | cmp - /tmp/random || fail "other data"
say "loop device detached: not ready; attached again: served, same data"

# --- a file grows
truncate --size=192M $images/holes.img
larger() { sg_readcap --long "/dev/$(srp_sg 1)" 2>/dev/null | grep --quiet "last LBA=$((192 * 2048 - 1))\|Number of logical blocks=$((192 * 2048))"; }
until_true 10 larger || { sg_readcap --long "/dev/$(srp_sg 1)"; fail "the capacity is the old one"; }
say "a file that grew is a larger disk"

srp_logout || fail "logout"
target_stop || fail "the target did not stop with status 0"
lvm_ vgchange --activate n vg0
mdadm --stop /dev/md0 >/dev/null 2>&1 || fail "mdadm --stop"
losetup --detach-all
kernel_is_clean 'Space allocation failed|Data Protect|Not Ready|not ready|critical (space|target)|I/O error|Disk failure|Operation continuing|md/raid1|CDB|Capacity data|critical medium|Write Protect|tag#' || fail "dmesg"
say "done"
