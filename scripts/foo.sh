#!/usr/bin/env bash
# Adds a planted "foo" of each kind (a bdev, an option, an RPC, a SCSI command) to a copy of the
# sources, as ARCHITECTURE.md says under "How to add", and tries it.
set -euo pipefail
cd "$(dirname "$0")/.."

usage() {
    cat <<'USAGE'
Usage: scripts/foo.sh [KIND..]

Applies tests/corpus/foo/KIND.patch (all, if none is named) to one copy of the sources in target/foo,
compiles the copy, and runs the test that each patch names. How many files a patch may touch is in
tests/tests/tidy/foo.rs.

  --help   this text
USAGE
}

case "${1:-}" in
    --help) usage; exit 0 ;;
    -*) usage >&2; exit 2 ;;
esac

kinds=("$@")
if [ "${#kinds[@]}" -eq 0 ]; then
    for patch in tests/corpus/foo/*.patch; do
        kinds+=("$(basename "$patch" .patch)")
    done
fi

root=$PWD
copy=target/foo/sources
rm -rf "$copy"
mkdir -p "$copy"
git ls-files -z --cached --others --exclude-standard |
    tar --null --files-from=- -cf - | tar -xf - -C "$copy"

for kind in "${kinds[@]}"; do
    echo "== $kind"
    # A repository of its own: git apply in a folder that another repository ignores does nothing.
    [ -d "$copy/.git" ] || git -C "$copy" init --quiet
    git -C "$copy" apply -C1 --stat --apply "$root/tests/corpus/foo/$kind.patch"
done

# The packages outside the workspace are compiled already where this checkout was.
export CARGO_TARGET_DIR="$root/target"
cd "$copy"
cargo check --quiet --workspace --all-targets
for kind in "${kinds[@]}"; do
    read -r package test < <(sed -n 's/^test: //p' "$root/tests/corpus/foo/$kind.patch")
    echo "== $kind: $test"
    cargo nextest run --cargo-quiet --no-tests fail --package "$package" --lib "$test"
done
