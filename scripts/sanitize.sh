#!/usr/bin/env bash
# The unit tests of the crates with unsafe code under a sanitizer.
set -euo pipefail
cd "$(dirname "$0")/.."

usage() {
    cat <<'USAGE'
Usage: scripts/sanitize.sh [--sanitizer address|thread] [--packages LIST] [-- TEST..]

Builds and runs the unit tests of reactor, bdev and transport with a sanitizer compiled in. The
sanitizers' switch is not stable: RUSTC_BOOTSTRAP=1 makes the pinned compiler take it. The standard
library is not compiled anew, so what happens inside it is not seen. Leaks are not looked for: memory
that somebody may still write to is leaked on purpose, and tests show that it is.

  --sanitizer S     address or thread; without it, both one after the other
  --packages LIST   crates, apart by commas (default reactor,bdev,transport)
  -- TEST..         names of tests, as for cargo test
  --help            this text
USAGE
}

sanitizers="address thread" packages=reactor,bdev,transport
while [ $# -gt 0 ]; do
    case $1 in
        --sanitizer) sanitizers=$2; shift 2 ;;
        --packages) packages=$2; shift 2 ;;
        --help) usage; exit 0 ;;
        --) shift; break ;;
        *) usage >&2; exit 2 ;;
    esac
done

host=$(rustc --version --verbose | sed --quiet 's/^host: //p')
selected=()
for package in ${packages//,/ }; do
    selected+=(--package "$package")
done

for sanitizer in $sanitizers; do
    echo "== $sanitizer sanitizer: $packages"
    # A target triple keeps build scripts and macros out of it; the standard library's own code is
    # not instrumented, which the second switch allows.
    RUSTC_BOOTSTRAP=1 \
        RUSTFLAGS="-Zsanitizer=$sanitizer -Cunsafe-allow-abi-mismatch=sanitizer" \
        ASAN_OPTIONS="detect_leaks=0:detect_stack_use_after_return=1:strict_string_checks=1" \
        TSAN_OPTIONS="suppressions=$PWD/scripts/sanitize.supp:halt_on_error=0" \
        CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-target}/sanitize-$sanitizer" \
        cargo test --target "$host" --no-fail-fast "${selected[@]}" --lib -- "$@"
done
