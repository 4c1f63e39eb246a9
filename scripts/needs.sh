#!/usr/bin/env bash
# Which tests this machine can't run, as a filter for cargo-nextest.
set -euo pipefail
cd "$(dirname "$0")/.."

usage() {
    cat <<'USAGE'
Usage: scripts/needs.sh [--list]

A test that needs something that not every machine has says so: #[ignore = "needs WHAT"], with one of
the WHATs that are listed below. Prints a filter expression for

  cargo nextest run --workspace --run-ignored all --filterset "$(scripts/needs.sh)"

which leaves out those tests whose WHAT is not here. Says on standard error what is not here, and how
many tests that are. scripts/guest/test.sh has all that a host may lack.

  --list   each WHAT, whether it is here, and its tests
  --help   this text
USAGE
}

list=no
case "${1:-}" in
    "") ;;
    --list) list=yes ;;
    --help) usage; exit 0 ;;
    *) usage >&2; exit 2 ;;
esac

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

can_loop_and_mount() {
    local device
    truncate -s 1M "$scratch/file" && mkdir "$scratch/folder" || return 1
    device=$(losetup --find --show "$scratch/file" 2>/dev/null) && losetup --detach "$device" || return 1
    mount -t tmpfs none "$scratch/folder" 2>/dev/null && umount "$scratch/folder"
}
version_is() { printf '%s\n' "$1" "$(uname --kernel-release)" | sort --version-sort --check=quiet; }

# The list that tests/tidy/rules/rules.rs has, too.
is_here() {
    case $1 in
        "needs an RDMA device") [ -n "${RDMA_TEST_ADDRESS:-}" ] && [ -n "${RDMA_TEST_ADDRESS6:-}" ] ;;
        "needs a SCSI disk to overwrite") [ -n "${SRPT_SG_DEVICE:-}" ] ;;
        "needs a block device to overwrite") [ -n "${SRPT_BLOCK_DEVICE:-}" ] ;;
        "needs loop devices and mounts") can_loop_and_mount ;;
        "needs the headers of rdma-core and a C compiler")
            [ -e /usr/include/rdma/rdma_cma.h ] && command -v cc >/dev/null
            ;;
        "needs a kernel with huge pages") [ -e /sys/kernel/mm/hugepages ] ;;
        "needs Linux 6.1") version_is 6.1 ;;
        "is a part of another test") false ;;
        *) echo "needs: no word of: $1" >&2; exit 1 ;;
    esac
}

# Lines of reason, tab, name; and the names of all tests.
find reactor bdev transport src bench tests -name '*.rs' -not -path 'tests/tidy/*' -exec awk '
    match($0, /#\[ignore = "[^"]*"/) { reason = substr($0, RSTART + 12, RLENGTH - 13) }
    /#\[test\]/ { test = 1 }
    test && match($0, /fn [a-z0-9_]+/) {
        print (reason ? reason : "-") "\t" substr($0, RSTART + 3, RLENGTH - 3)
        reason = test = ""
    }' {} + | sort >"$scratch/all"
grep --invert-match '^-' "$scratch/all" >"$scratch/tests"
# The filter goes by name.
twice=$(cut -f 2 "$scratch/all" | sort | uniq -d |
    grep --fixed-strings --line-regexp --file=<(cut -f 2 "$scratch/tests") || true)
[ -z "$twice" ] || { echo "needs: two tests have the name" "$twice" >&2; exit 1; }

filter="none()"
while read -r reason; do
    names=$(awk -F '\t' -v reason="$reason" '$1 == reason { print $2 }' "$scratch/tests")
    here=yes
    is_here "$reason" || here=no
    if [ $list = yes ]; then
        echo "$reason: $here"
        awk '{ print "    " $0 }' <<<"$names"
    elif [ $here = no ]; then
        [ "$reason" = "is a part of another test" ] ||
            echo "skipped: $(wc -l <<<"$names") tests: $reason" >&2
        # Names are of a test in any module.
        filter+=" | test(/(^|::)($(paste -sd '|' <<<"$names"))\$/)"
    fi
done < <(cut -f 1 "$scratch/tests" | uniq)
[ $list = yes ] || echo "not ($filter)"
