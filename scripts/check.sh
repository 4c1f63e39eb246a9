#!/usr/bin/env bash
# What a change must pass before anybody else looks at it. In less than two minutes, once all is built.
set -euo pipefail
cd "$(dirname "$0")/.."

usage() {
    cat <<'USAGE'
Usage: scripts/check.sh [STEP..]

Formatting, lints, the house rules, unit tests and documentation. Stops at the first step that fails.
scripts/test.sh has everything that must hold before a change is merged.

  STEP     only these steps, of: format lints rules unit docs
  --help   this text
USAGE
}

case "${1:-}" in
    --help) usage; exit 0 ;;
    -*) usage >&2; exit 2 ;;
esac

export PATH="${CARGO_HOME:-$HOME/.cargo}/bin:$PATH"
# Built once where nobody has installed it.
command -v cargo-nextest >/dev/null || PATH="$(scripts/nextest.sh):$PATH"

format() {
    cargo fmt --all --check
}

lints() {
    cargo clippy --quiet --workspace --all-targets -- -D warnings
}

rules() {
    cargo nextest run --cargo-quiet --status-level fail -p srpt_tidy
}

# Tests beside the code: no process, no guest, no simulated world.
unit() {
    cargo nextest run --cargo-quiet --status-level fail --no-fail-fast --workspace --lib \
        --filterset 'not package(srpt_tests)'
}

# Every link leads somewhere, in the documentation of private items, too; and the examples run.
docs() {
    RUSTDOCFLAGS="-D warnings" cargo doc --quiet --workspace --no-deps --document-private-items
    cargo test --quiet --workspace --doc
}

all=(format lints rules unit docs)
steps=("$@")
[ "${#steps[@]}" -gt 0 ] || steps=("${all[@]}")
for step in "${steps[@]}"; do
    case " ${all[*]} " in
        *" $step "*) ;;
        *) echo "check.sh: there is no step $step" >&2; usage >&2; exit 2 ;;
    esac
done

running=""
trap '[ -z "$running" ] || echo "== $running: FAILED" >&2' EXIT
for step in "${steps[@]}"; do
    running=$step
    start=$SECONDS
    echo "== $step"
    "$step"
    echo "== $step: $((SECONDS - start)) s"
    running=""
done
echo "== all steps pass: $SECONDS s"
