# shellcheck shell=bash
# README's first export over RDMA, as printed there: from the modules to a mounted disk and back.
# shellcheck source=lib.sh
. /host/guest/lib.sh
# shellcheck source=target.sh
. /host/guest/target.sh
# The network card, the address and the folder that the commands name.
ip link add eth0 address 02:00:00:00:77:01 type dummy && ip link set eth0 mtu 9000 up &&
    ip address add 192.168.77.1/24 dev eth0 || fail "netdev"
# Loaded by udev elsewhere, for the disk that comes.
modprobe sd_mod || fail "sd_mod"
clone=/tmp/clone
mkdir --parents $clone/target
cp --recursive /host/bin/guest/clone $clone/scripts
ln --symbolic /host/bin $clone/target/release
cd $clone || fail "no clone"
# In the middle of the commands, so that the disk is seen mounted.
mounted() {
    mountpoint --quiet /mnt || fail "no disk is mounted"
    say "mounted: $(findmnt --noheadings --output SOURCE,FSTYPE,SIZE /mnt)"
    cp --recursive scripts /mnt/ && sync && diff --recursive scripts /mnt/scripts || fail "files"
}
awk '{ if (/^umount /) print "mounted"; print }' scripts/commands >/tmp/commands
set -e
# shellcheck source=/dev/null
. /tmp/commands
set +e
wait || fail "the target ended with status $?"
grep --quiet bdev_uring_create /var/tmp/srpt.json || fail "no configuration was saved"
kernel_is_clean || fail "dmesg"
say "done"
