#!/bin/bash
# Boots the guest, runs one job in it, streams the job's output, returns its status, powers off.
#
#   run.sh [options] -- command [argument]...
#   run.sh [options] --script FILE [argument]...
#     --memory MB          (1536)
#     --cpus N             (2)
#     --limit SECONDS      time from power on to power off (600)
#     --share TAG=DIR      host directory, seen at /host/TAG; may repeat
#     --results DIR        keep the run directory: seen at /run/vm; dmesg, serial.log, status
#     --disk FILE          a second disk, /dev/vdb, that keeps what is written to it
#     --link DIR:ME:PEER   eth0 is a cable to the guest that was started with DIR:PEER:ME
#     --udev               run udevd (multipath needs it)
#     --kernel-args ARGS   added to the kernel's command line
#     --icount             the guest's time counts instructions: 4 ns each, whatever the host does
#
# scripts/guest/in is always shared, at /host/guest. Exit status: the job's; 124 past the limit; 125
# when the guest can't be built or died. SIGTERM and SIGINT switch the guest off.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=common.sh
. "$(dirname "$0")/common.sh"

memory=1536 cpus=2 limit=600 script="" results="" link="" disk="" udev=no kernel_args="" clock=()
shares=("guest=$guest_here/in")
while [ $# -gt 0 ]; do
    case $1 in
        --memory) memory=$2 ;;
        --cpus) cpus=$2 ;;
        --limit) limit=$2 ;;
        --share) shares+=("$2") ;;
        --results) results=$2 ;;
        --disk) disk=$2 ;;
        --link) link=$2 ;;
        --kernel-args) kernel_args=$2 ;;
        --script) script=$2 ;;
        --udev) udev=yes; shift; continue ;;
        --icount) clock=(-icount "shift=2,sleep=off"); shift; continue ;;
        --) shift; break ;;
        -*) sed --quiet '2,/^set/s/^# \{0,1\}//p' "$0"; exit 2 ;;
        *) break ;;
    esac
    shift 2
done
[ -n "$script" ] || [ $# -gt 0 ] || die "nothing to run: give --script FILE or a command"

"$guest_here/build.sh"

if [ -n "$results" ]; then
    mkdir --parents "$results"
    run=$(realpath "$results")
    rm --force "$run"/{job,started,status,dmesg,serial.log}
else
    run=$(mktemp --directory)
    trap 'rm --recursive --force "$run"' EXIT
fi
if [ -n "$script" ]; then
    { printf 'echo >/run/vm/started; set --'; printf ' %q' "$@"; echo; cat "$script"; } >"$run/job"
else
    { printf 'echo >/run/vm/started; '; printf '%q ' "$@"; } >"$run/job"
fi

tags=""
devices=()
share() {
    devices+=(-virtfs "local,path=$2,mount_tag=$1,security_model=none,multidevs=remap")
}
share run "$run"
for pair in "${shares[@]}"; do
    [ -d "${pair#*=}" ] || die "--share $pair: no such directory"
    share "${pair%%=*}" "$(realpath "${pair#*=}")"
    tags+=${tags:+,}${pair%%=*}
done
if [ -n "$disk" ]; then
    devices+=(-drive "file=$disk,format=raw,if=none,id=second" -device "virtio-blk-pci,drive=second")
fi
name=guest
if [ -n "$link" ]; then
    IFS=: read -r directory name peer <<<"$link"
    mkdir --parents "$directory"
    rm --force "$directory/$name"
    # A fixed address by name: GUIDs come from it and must not change from boot to boot.
    mac=02:00:00:00:78:$(printf %s "$name" | sha256sum | cut --characters=1-2)
    devices+=(-netdev "dgram,id=cable,local.type=unix,local.path=$directory/$name,remote.type=unix,remote.path=$directory/$peer"
        -device "virtio-net-pci,netdev=cable,mac=$mac,host_mtu=9000")
fi

# A slow serial console is kept out of the job's way: its output takes a virtio console. The time
# stamp counter is declared reliable, or the kernel spends its time in doubt under emulation.
threads=multi
[ ${#clock[@]} = 0 ] || threads=single
power_on() {
    timeout --kill-after=5 "$limit" qemu-system-x86_64 \
        -machine q35 -accel "tcg,thread=$threads,tb-size=512" "${clock[@]}" -cpu qemu64 -smp "$cpus" -m "$memory" \
        -nodefaults -no-user-config -display none -no-reboot \
        -kernel "$guest_image/vmlinux" -initrd "$guest_image/initrd.img" \
        -append "console=ttyS0 quiet loglevel=1 log_buf_len=8M panic=-1 mitigations=off tsc=reliable no_timer_check rcupdate.rcu_expedited=1 nokaslr audit=0 net.ifnames=0 guest.name=$name guest.shares=$tags guest.udev=$udev $kernel_args" \
        -drive "file=$guest_image/root.img,format=raw,if=none,id=root,snapshot=on,cache=unsafe" \
        -device virtio-blk-pci,drive=root \
        -device virtio-rng-pci \
        -serial "file:$run/serial.log" \
        -device virtio-serial-pci -chardev stdio,id=out,signal=off -device virtconsole,chardev=out \
        "${devices[@]}" </dev/null &
    machine=$!
    ended=0
    wait $machine || ended=$?
    # A signal ends the first wait early.
    wait $machine 2>/dev/null || true
}
machine="" stopped=no
trap 'stopped=yes; [ -z "$machine" ] || kill $machine 2>/dev/null || true' INT TERM
# QEMU's emulation of code that the kernel patches under way sometimes kills a booting kernel.
# Nothing of the job has run then, so the guest may be switched on again.
for _ in 1 2 3; do
    power_on
    [ ! -e "$run/started" ] && [ $ended != 124 ] && [ $stopped = no ] || break
    echo "run.sh: the guest died while booting" >&2
done

if [ -s "$run/status" ]; then
    exit "$(cat "$run/status")"
fi
[ $ended != 124 ] || { echo "run.sh: the limit of $limit s is over" >&2; exit 124; }
echo "run.sh: the guest died without a status; the end of its console:" >&2
tail --lines=30 "$run/serial.log" >&2 || true
exit 125
