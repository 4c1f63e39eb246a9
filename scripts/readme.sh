#!/usr/bin/env bash
# Runs the commands that README.md and the manual show, as they are printed there.
set -euo pipefail
cd "$(dirname "$0")/.."

usage() {
    cat <<'USAGE'
Usage: scripts/readme.sh [--print [KIND]]

Takes every block of commands out of README.md, docs/operating.md and docs/measuring.md and runs the
blocks one after the other, each in a shell of its own that stops at the first command that fails:
what builds in this checkout, the rest in a folder that ends with the script. Then looks whether the
measurements have left the disk alone.

A block is fenced with ```sh. Blocks with one more word (```sh rdma) need what this machine need not
have: scripts/guest/test.sh readme runs the blocks of the kind rdma, in the guest with the stock
initiator.

  --print [KIND]  shows the blocks of a kind and runs nothing; without KIND, those that run here
  --help          this text
USAGE
}

action=run kind=""
case "${1:-}" in
    "") ;;
    --print) action=print kind=${2:-} ;;
    --help) usage; exit 0 ;;
    *) usage >&2; exit 2 ;;
esac
fail() { echo "readme: $*" >&2; exit 1; }

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# blocks KIND FILE..: writes them to files NAME-NUMBER in the scratch folder, and their names.
blocks() {
    local kind=$1
    shift
    awk -v fence="\`\`\`sh${kind:+ $kind}" -v scratch="$scratch" '
        FNR == 1 { name = FILENAME; gsub(/.*\/|\.md$/, "", name); number = 0; inside = 0 }
        inside && /^```$/ { inside = 0; close(file); next }
        inside { print > file; next }
        $0 == fence { inside = 1; file = scratch "/" name "-" ++number; print name "-" number }' "$@"
}
pages=(README.md docs/operating.md docs/measuring.md)
# Every block is of a kind that somebody runs.
unknown=$(awk '/^```sh/ && !/^```sh( rdma)?$/ { print FILENAME ": " $0 }' "${pages[@]}")
[ -z "$unknown" ] || fail "blocks that nobody runs: $unknown"
mapfile -t names < <(blocks "$kind" "${pages[@]}")
[ "${#names[@]}" -gt 0 ] || fail "there are no commands${kind:+ of the kind $kind}"
if [ "$action" = print ]; then
    for name in "${names[@]}"; do cat "$scratch/$name"; done
    exit
fi
for name in README-1 operating-1 measuring-1; do
    [ -s "$scratch/$name" ] || fail "no commands where $name was"
done
for name in "${names[@]}"; do
    ! grep --quiet '/tmp' "$scratch/$name" || fail "the commands of $name leave files in /tmp"
done

export PATH="${CARGO_HOME:-$HOME/.cargo}/bin:$PATH"
bash -euo pipefail "$scratch/README-1"
scripts/fio-engine.sh
# As a clone looks to these commands.
mkdir -p "$scratch/clone/target"
ln -s "$PWD/scripts" "$scratch/clone/scripts"
ln -s "$(realpath "${CARGO_TARGET_DIR:-target}")/release" "$scratch/clone/target/release"

# shellcheck disable=SC2016  # for the inner shell
run() { # NAME: what is left running ends with the shell
    echo "readme: $1"
    (
        cd "$scratch/clone"
        timeout --kill-after=5 300 bash -euo pipefail -c \
            'trap '\''kill $(jobs -p) 2>/dev/null || true'\'' EXIT; . "$1"' readme "$scratch/$1"
    ) || fail "the commands of $1 failed: scripts/readme.sh --print"
}
disk="$scratch/clone/target/first/disk.img"
for name in "${names[@]}"; do
    case $name in
        README-1) ;;
        measuring-*)
            before=$(sha256sum "$disk")
            run "$name"
            [ "$(sha256sum "$disk")" = "$before" ] ||
                fail "the measurements have written to the exported disk"
            ;;
        *) run "$name" ;;
    esac
done
echo "readme: the commands of ${#names[@]} blocks work, and the exported disk is as it was"
