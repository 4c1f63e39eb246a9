#!/bin/bash
# Runs the guest's suites with the release binaries of this checkout.
#
#   test.sh [--full] [--debug] [suite...]
#     --full     the suites' long forms, and every suite
#     --debug    binaries with debug assertions, slower
#
# Suites, the quick set: contract (fabric against connector), smoke (the kernel's initiator), disks
# (SCSI tools, file systems), hotplug (LUNs that come later or show another device), logins (by the
# hundred; a second of the same port), reserve (RESERVE and RELEASE by two ports), faults (device
# removed under load), restart (kill and SIGTERM under load), matrix (fio verify over the
# initiator's parameters), backends (LVM on md, unmap, disk full, devices that go and return), sg
# (SCSI devices passed through: disks, a tape, a changer; the contract of block devices). Then:
# hostile (initiators that break every rule), aborts (of commands that are stuck in a device), agent
# (options, login lines, device management), reset, multipath, link (two guests, each switched off
# under load), perf (srpt_perf over RDMA), fio (the fio engine's job file), compare (with the
# kernel's own target, by the instructions of the guest), compare-time (the same by the clock, for a
# host that does nothing else), readme (README's first export, as printed), kernel (the harness
# itself).
# A table ends the output; status 1 if one failed.
set -euo pipefail
cd "$(dirname "$0")/../.."

quick=(contract smoke disks hotplug logins reserve faults restart matrix backends sg)
full=no profile=release suites=()
for option; do
    case $option in
        --full) full=yes ;;
        --debug) profile=debug ;;
        -*) sed --quiet '2,/^set/s/^# \{0,1\}//p' "$0"; exit 2 ;;
        *)
            case $option in
                agent | compare-time | contract | hostile | kernel | link) ;;
                *)
                    if ! [ -f "scripts/guest/in/srp-$option.sh" ]; then
                        echo "test.sh: no suite $option" >&2
                        exit 2
                    fi
                    ;;
            esac
            suites+=("$option")
            ;;
    esac
done
if [ ${#suites[@]} -eq 0 ]; then
    suites=("${quick[@]}")
    [ $full = no ] || suites+=(hostile aborts agent reset multipath link perf fio compare compare-time readme kernel)
fi

bin=${CARGO_TARGET_DIR:-target}/$profile
flag=()
[ $profile = debug ] || flag=(--release)
cargo build --quiet --workspace --bin srpt_tgt --bin srpt_perf "${flag[@]}"
scripts/guest/build.sh

guest() { # SCRIPT [argument]...
    local own=()
    case $suite in
        multipath) own=(--udev) ;;
        # The host's other work would decide the ratios.
        compare) own=(--icount) ;;
    esac
    scripts/guest/run.sh --limit 2400 --memory 2048 --results "$bin/guest/$suite" "${own[@]}" \
        --share "bin=$bin" --share fio=bench/fio \
        --script "scripts/guest/in/$1" "${@:2}"
}
test_binary() { # TEST: its path in the guest
    local built
    built=$(cargo test --quiet --workspace --test "$1" --no-run "${flag[@]}" --message-format=json |
        sed --quiet 's/.*"executable":"\([^"]*\/'"$1"'-[^"]*\)".*/\1/p')
    echo "/host/bin/deps/$(basename "$built")"
}
# What README's commands find in a clone's folder, and the commands.
readme_share() {
    rm --recursive --force "$bin/guest/clone"
    mkdir --parents "$bin/guest/clone"
    cp --recursive scripts/rpc*.* "$bin/guest/clone/"
    scripts/readme.sh --print rdma >"$bin/guest/clone/commands"
}
run() {
    case $suite in
        kernel) guest kernel-smoke.sh ;;
        agent) guest dm-agent.sh ;;
        link) scripts/guest/link.sh "$bin" "$bin/guest/link" ;;
        hostile) guest hostile.sh "$(test_binary hostile)" ;;
        contract) guest rdma.sh "$(test_binary rdma_contract)" --test-threads=1 ;;
        compare-time) guest srp-compare.sh $full 1 ;;
        sg) guest srp-sg.sh $full "$(test_binary contract)" ;;
        readme)
            readme_share
            guest srp-readme.sh
            ;;
        *) guest "srp-$suite.sh" $full ;;
    esac
}

table="" failed=0
for suite in "${suites[@]}"; do
    echo "== guest: $suite"
    started=$SECONDS result=passed
    run || result="FAILED ($?)"
    [ "$result" = passed ] || failed=1
    table+=$(printf '%-10s %-12s %4d s' "$suite" "$result" $((SECONDS - started)))$'\n'
done
printf '== guest\n%s' "$table"
exit $failed
