#!/usr/bin/env bash
# srpt_setup in a root of its own: what it changes, and that reset undoes all of that.
set -euo pipefail
cd "$(dirname "$0")/.."
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
export SRPT_SETUP_ROOT=$scratch
fail() { echo "setup-test: $*" >&2; exit 1; }

pages=sys/kernel/mm/hugepages/hugepages-2048kB
node=sys/devices/system/node/node0/hugepages/hugepages-2048kB
mkdir -p "$scratch"/{"$pages","$node",proc/sys/vm,sys/class/net/eth9,sys/module/rdma_rxe,run,bin}
echo "Hugepagesize: 2048 kB" >"$scratch/proc/meminfo"
for folder in "$pages" "$node"; do
    echo 3 >"$scratch/$folder/nr_hugepages"
    echo 3 >"$scratch/$folder/free_hugepages"
done
echo 65530 >"$scratch/proc/sys/vm/max_map_count"
# What the script calls of the system, and what that does to the root.
cat >"$scratch/bin/rdma" <<'TOOL'
#!/bin/sh
echo "rdma $*" >>"$SRPT_SETUP_ROOT/called"
case "$2" in
    add) mkdir -p "$SRPT_SETUP_ROOT/sys/class/infiniband/$3" ;;
    delete) rm -r "$SRPT_SETUP_ROOT/sys/class/infiniband/$3" ;;
esac
TOOL
# shellcheck disable=SC2016  # for the tool
printf '#!/bin/sh\necho "modprobe $*" >>"$SRPT_SETUP_ROOT/called"\n' >"$scratch/bin/modprobe"
chmod +x "$scratch"/bin/*
export PATH=$scratch/bin:$PATH

# says WORDS ARGUMENT..: what srpt_setup prints.
says() { grep --quiet -e "$1" <<<"$(scripts/srpt_setup "${@:2}")"; }
image() { (cd "$scratch" && find . -path ./called -prune -o -type f -printf '%p ' -exec cat {} \; | sort && find . -type d | sort); }
before=$(image)
[ "$(scripts/srpt_setup reset)" = "srpt_setup: nothing to set back" ] || fail "reset of nothing"
says "hugepages-2048kB/nr_hugepages: 3, free 3" status || fail "status"
[ "$(image)" = "$before" ] || fail "status has changed something"

scripts/srpt_setup hugepages 64 >/dev/null
says "64 -> 128" hugepages 128 || fail "a change is not shown"
scripts/srpt_setup hugepages 32 0 >/dev/null
scripts/srpt_setup limits >/dev/null
scripts/srpt_setup rxe eth9 >/dev/null
says "there already" rxe eth9 || fail "a second device"
[ "$(cat "$scratch/$pages/nr_hugepages") $(cat "$scratch/$node/nr_hugepages")" = "128 32" ] || fail "pages"
[ "$(cat "$scratch/proc/sys/vm/max_map_count")" = 1048576 ] || fail "max_map_count"
grep --quiet "rdma link add rxe_eth9 type rxe netdev eth9" "$scratch/called" || fail "rxe"
says "nr_hugepages, before: 3" status || fail "status of a change"
scripts/srpt_setup reset >/dev/null
rmdir "$scratch/sys/class/infiniband" 2>/dev/null || fail "the device stays"
[ "$(image)" = "$before" ] || { diff <(echo "$before") <(image); fail "reset has left something"; }

echo 2147483642 >"$scratch/proc/sys/vm/max_map_count"
says "2147483642 is enough" limits || fail "a limit that is high enough"
[ "$(cat "$scratch/proc/sys/vm/max_map_count")" = 2147483642 ] || fail "a limit was lowered"
echo 65530 >"$scratch/proc/sys/vm/max_map_count"

for wrong in "hugepages many" "hugepages 5 7" "rxe eth7" "hugepages 1 x"; do
    # shellcheck disable=SC2086
    ! scripts/srpt_setup $wrong >/dev/null 2>"$scratch/said" || fail "'$wrong' is accepted"
    grep --quiet "srpt_setup: " "$scratch/said" || fail "'$wrong' is refused without a word"
    rm "$scratch/said"
done
for wrong in "" "nothing" "status all" "hugepages"; do
    status=0
    # shellcheck disable=SC2086
    scripts/srpt_setup $wrong >/dev/null 2>&1 || status=$?
    [ $status = 2 ] || fail "'$wrong' ends with $status"
done
[ "$(image)" = "$before" ] || fail "what was refused has changed something"
echo "setup-test: srpt_setup changes what it says, and undoes that"
