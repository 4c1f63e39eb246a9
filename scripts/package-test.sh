#!/usr/bin/env bash
# Installs, upgrades, removes and purges the packages in a Debian root made for that.
set -euo pipefail
cd "$(dirname "$0")/.."

usage() {
    cat <<'USAGE'
Usage: scripts/package-test.sh TARGET.deb TOOLS.deb

Makes a minimal Debian with debootstrap (needs root; once, then kept in target/package-root.tar), installs
the packages with apt, starts the target as the unit starts it, exports a disk, upgrades to a copy of
the packages with a higher version, removes and purges. No systemd runs in the root: what the unit
says is read, not carried out. The root ends with the script.
USAGE
}

case "${1:-}" in
    *.deb) [ $# -eq 2 ] || { usage >&2; exit 2; } ;;
    --help) usage; exit 0 ;;
    *) usage >&2; exit 2 ;;
esac
fail() { echo "package-test: $*" >&2; exit 1; }
say() { echo "package-test: $*"; }
[ "$(id -u)" -eq 0 ] || fail "debootstrap and chroot need root"
command -v debootstrap >/dev/null || fail "debootstrap is not installed (scripts/setup.sh --test-tools)"

suite=bookworm
archive=$PWD/target/package-root.tar
root=$(mktemp -d)
trap 'rm -rf --one-file-system "$root"' EXIT
if [ ! -f "$archive" ]; then
    # shellcheck disable=SC2016  # apt's own variables
    mirror=$(apt-get indextargets --format '$(SITE)' 'Created-By: Packages' "Codename: $suite" | head -1)
    debootstrap --variant=minbase --include=ca-certificates,systemd,python3 "$suite" "$root" ${mirror:+"$mirror"} \
        >"$root.log" 2>&1 || { tail -20 "$root.log" >&2; fail "debootstrap failed"; }
    rm "$root.log"
    mkdir -p target
    tar -C "$root" -cf "$archive" .
else
    tar -C "$root" -xf "$archive"
fi

chmod 755 "$root" # mktemp gives it to its user alone
mkdir "$root/packages"
cp "$1" "$root/packages/target-1.deb"
cp "$2" "$root/packages/tools-1.deb"
# The next version: the same files under a higher number.
for name in target tools; do
    again=$(mktemp -d)
    dpkg-deb --raw-extract "$root/packages/$name-1.deb" "$again"
    sed -i 's/^Version: .*/&+next/' "$again/DEBIAN/control"
    dpkg-deb --root-owner-group --build "$again" "$root/packages/$name-2.deb" >/dev/null
    rm -rf "$again"
done

inside() { # COMMAND..: in the root, with processes and mounts of its own
    # shellcheck disable=SC2016  # for the inner shell
    unshare --mount --pid --fork --kill-child bash -euc '
        root=$1
        shift
        mount -t proc proc "$root/proc"
        mount -t tmpfs tmpfs "$root/run"
        mount --rbind /dev "$root/dev"
        exec env --ignore-environment HOME=/root TERM=dumb LANG=C.UTF-8 DEBIAN_FRONTEND=noninteractive \
            PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin chroot "$root" "$@"' \
        package-test "$root" "$@"
}
image() { (cd "$root" && find etc lib usr var -path var/lib/dpkg -prune -o -path var/cache -prune -o -path var/log -prune -o \( -type f -o -type l \) -print | sort); }
before=$(image)
started=$SECONDS

inside dpkg --install /packages/target-1.deb /packages/tools-1.deb >"$root/install.log" 2>&1 ||
    { cat "$root/install.log" >&2; fail "installing"; }
say "installed in $((SECONDS - started)) s"
inside srpt_tgt --version
inside srpt_rpc --version
inside getent passwd srpt_tgt >/dev/null || fail "no user srpt_tgt"
[ "$(stat -c '%a' "$root/etc/srpt_tgt/config.json")" = 640 ] || fail "everybody reads the configuration"
inside systemd-analyze verify --man=no /lib/systemd/system/srpt_tgt.service || fail "the unit"
# As the unit starts the target, with a disk of its own, and as its user.
cat >"$root/run.sh" <<'INSIDE'
set -eu
. /etc/default/srpt_tgt
install -d -o srpt_tgt -g srpt_tgt -m 750 /run/srpt_tgt /var/lib/srpt_tgt
setpriv --reuid srpt_tgt --regid srpt_tgt --clear-groups truncate -s 64M /var/lib/srpt_tgt/disk.img
setpriv --reuid srpt_tgt --regid srpt_tgt --clear-groups --bounding-set=-all --no-new-privs \
    srpt_tgt --config /etc/srpt_tgt/config.json --rpc-socket /run/srpt_tgt/rpc.sock $SRPT_OPTIONS &
target=$!
srpt_rpc -r 100 framework_wait_init
if [ "$1" = first ]; then
    srpt_rpc bdev_uring_create /var/lib/srpt_tgt/disk.img disk0
    srpt_rpc srpt_create_target t0
    srpt_rpc srpt_map_lun t0 disk0
    srpt_rpc srpt_add_listener t0 -t shm -a /run/srpt_tgt/t0.sock
    srpt_rpc save_config -o /etc/srpt_tgt/config.json
fi
head -c 1M /dev/urandom > /run/data
srpt_dd --target shm:/run/srpt_tgt/t0.sock --lun 0 --if /run/data --conv=fsync
srpt_dd --target shm:/run/srpt_tgt/t0.sock --lun 0 --of /run/back --bs 1M --count 1
cmp /run/data /run/back
kill -TERM $target
wait $target
rm /run/data /run/back
INSIDE
inside sh /run.sh first >"$root/run.log" 2>&1 || { cat "$root/run.log" >&2; fail "running"; }
say "a disk was exported by the service's user, without capabilities, written and read"
kept=$(sha256sum "$root/etc/srpt_tgt/config.json")
inside dpkg --install /packages/target-2.deb /packages/tools-2.deb >"$root/install.log" 2>&1 ||
    { cat "$root/install.log" >&2; fail "upgrading"; }
[ "$(sha256sum "$root/etc/srpt_tgt/config.json")" = "$kept" ] || fail "the upgrade has lost the configuration"
inside sh /run.sh again >"$root/run.log" 2>&1 || { cat "$root/run.log" >&2; fail "running after the upgrade"; }
say "upgraded: the configuration and its disk are there"
inside dpkg --remove srpt-tgt-tools srpt-tgt >"$root/install.log" 2>&1 || { cat "$root/install.log" >&2; fail "removing"; }
[ "$(sha256sum "$root/etc/srpt_tgt/config.json")" = "$kept" ] || fail "removing has lost the configuration"
inside dpkg --purge srpt-tgt-tools srpt-tgt >"$root/install.log" 2>&1 || { cat "$root/install.log" >&2; fail "purging"; }
[ -f "$root/var/lib/srpt_tgt/disk.img" ] || fail "purging has deleted an exported disk"
rm -r "$root/var/lib/srpt_tgt"
after=$(image)
left=$(diff <(echo "$before") <(echo "$after") | grep '^[<>]' || true)
[ -z "$left" ] || fail "purging has left: $left"
say "removed and purged: nothing is left but the exported disk; $((SECONDS - started)) s in all"
