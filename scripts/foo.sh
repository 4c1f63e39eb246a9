#!/usr/bin/env bash
# Adds a planted "foo" of each kind (a bdev, an option, an RPC, a SCSI command) to a copy of the
# sources, as ARCHITECTURE.md says under "How to add", and tries it.
set -euo pipefail
cd "$(dirname "$0")/.."

usage() {
    cat <<'USAGE'
Usage: scripts/foo.sh [--check] [KIND..]

Applies tests/corpus/foo/KIND.patch (all, if none is named) to one copy of the sources in target/foo,
compiles the copy, and runs the test that each patch names. How many files a patch may touch is in
tests/tidy/rules/foo.rs.

  --check  has the compiler look at the copy and its unit tests, and runs nothing: less than a minute
  --help   this text
USAGE
}

only_check=no
case "${1:-}" in
    --help) usage; exit 0 ;;
    --check) only_check=yes; shift ;;
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

export PATH="${CARGO_HOME:-$HOME/.cargo}/bin:$PATH"
# The packages outside the workspace are compiled already where this checkout was.
export CARGO_TARGET_DIR="$root/target"
if [ "$only_check" = yes ]; then
    cd "$copy"
    # With the tests beside the code.
    exec cargo check --quiet --workspace --lib --profile test
fi
command -v cargo-nextest >/dev/null || PATH="$(scripts/nextest.sh):$PATH"
cd "$copy"
cargo check --quiet --workspace
tests=()
for kind in "${kinds[@]}"; do
    tests+=("$(sed -n 's/^test: //p' "$root/tests/corpus/foo/$kind.patch")")
done
cargo nextest run --cargo-quiet --no-fail-fast --workspace --lib "${tests[@]}" 2>&1 | tee tests.log
# One that is not there would not be missed.
grep --quiet " ${#tests[@]} tests\? run: ${#tests[@]} passed" tests.log

touch before
SRPT_KEEP=1 cargo nextest run --cargo-quiet --status-level fail --workspace --lib reference
echo "== files that this command has written anew:"
find docs scripts -type f -newer before
