#!/usr/bin/env bash
# Runs the commands that README.md shows, as they are printed there.
set -euo pipefail
cd "$(dirname "$0")/.."

usage() {
    cat <<'USAGE'
Usage: scripts/readme.sh [--print]

Takes the blocks of commands under "A first export" and "Measuring" out of README.md and runs them
one after the other, each in a shell of its own that stops at the first command that fails: what
builds in this checkout, the rest in a folder that ends with the script. Then looks whether the
measurements have left the disk alone.

  --print   shows the blocks and runs nothing
  --help    this text
USAGE
}

action=run
case "${1:-}" in
    "") ;;
    --print) action=print ;;
    --help) usage; exit 0 ;;
    *) usage >&2; exit 2 ;;
esac
fail() { echo "readme: $*" >&2; exit 1; }

block() { # HEADING NUMBER: one of the blocks of commands below it, from 1
    awk -v heading="## $1" -v wanted="$2" '
        /^## / { under = $0 == heading }
        /^```$/ { inside = 0 }
        inside && number == wanted
        /^```sh$/ && under { inside = 1; number++ }' README.md
}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
block "A first export" 1 >"$scratch/build"
block "A first export" 2 >"$scratch/first"
block "Measuring" 1 >"$scratch/measuring"
for name in build first measuring; do
    [ -s "$scratch/$name" ] || fail "README.md has no commands for $name"
    ! grep --quiet '/tmp' "$scratch/$name" || fail "the commands for $name leave files in /tmp"
done
if [ "$action" = print ]; then
    cat "$scratch"/{build,first,measuring}
    exit
fi

export PATH="${CARGO_HOME:-$HOME/.cargo}/bin:$PATH"
bash -euo pipefail "$scratch/build"
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
    ) || fail "the commands for $1 failed: scripts/readme.sh --print"
}
disk="$scratch/clone/target/first/disk.img"
run first
before=$(sha256sum "$disk")
run measuring
[ "$(sha256sum "$disk")" = "$before" ] || fail "the measurements have written to the exported disk"
echo "readme: the commands work, and the exported disk is as it was"
