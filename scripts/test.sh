#!/usr/bin/env bash
# Everything that must hold before a change is merged. The last line is the test runner's summary.
set -euo pipefail
cd "$(dirname "$0")/.."

usage() {
    cat <<'USAGE'
Usage: scripts/test.sh [--guest-full | --no-guest]

Formatting, lints, licences, build, scripts, a little fuzzing, instructions per command, a guest with
the stock kernel, and all tests. Stops at the first step that fails.

  --guest-full   all suites of the guest in their long forms (more than an hour), not the quick set
  --no-guest     leaves the guest out
  --help         this text
USAGE
}

guest=quick
case "${1:-}" in
    "") ;;
    --guest-full) guest=full ;;
    --no-guest) guest=no ;;
    --help) usage; exit 0 ;;
    *) usage >&2; exit 2 ;;
esac

export PATH="${CARGO_HOME:-$HOME/.cargo}/bin:/usr/sbin:/sbin:$PATH"

# step NAME COMMAND..: runs it and says how long it took. The command is in no condition, or bash would
# not stop at the first failure inside a function.
running=""
trap '[ -z "$running" ] || echo "== $running: FAILED" >&2' EXIT
step() {
    local start=$SECONDS
    running="$1"
    shift
    echo "== $running"
    "$@"
    echo "== $running: $((SECONDS - start)) s"
    running=""
}

lints() {
    cargo clippy --workspace --all-targets -- -D warnings
    cargo clippy -p srpt_tests --features libfuzzer --bin fuzz -- -D warnings
}

licences() {
    cargo deny --workspace --all-features --offline check --hide-inclusion-graph bans licenses sources
    if timeout 60 cargo deny fetch db >/dev/null 2>&1; then
        cargo deny --workspace --all-features --offline check advisories
    else
        echo "advisories: NOT checked, the database can't be fetched from here"
    fi
}

python_syntax() {
    python3 - scripts/*.py bench/suite/*.py <<'PYTHON'
import ast, sys
for name in sys.argv[1:]:
    with open(name, encoding="utf-8") as file:
        ast.parse(file.read(), name)
    print(f"{name}: parses")
PYTHON
}

shell_scripts() {
    local script scripts=(scripts/*.sh scripts/guest/*.sh scripts/guest/in/{*.sh,init} .ci/run)
    for script in "${scripts[@]}"; do
        bash -n "$script"
    done
    if command -v shellcheck >/dev/null; then
        shellcheck "${scripts[@]}"
    else
        echo "shellcheck is not installed: syntax checked only"
    fi
}

tools=(--test-tools)
[ "$guest" != no ] || tools+=(--no-guest)
step "setup" bash scripts/setup.sh "${tools[@]}"
step "format" cargo fmt --all --check
step "lints" lints
step "licences" licences
step "scripts: python" python_syntax
step "scripts: shell" shell_scripts
step "build" cargo build --workspace --all-targets
step "soak: corpus" cargo run --quiet -p srpt_tests --bin soak -- --corpus
step "soak" cargo run --quiet -p srpt_tests --bin soak -- --count 2000 --jobs "$(nproc)"
step "scripts: planted bugs" bash scripts/planted.sh --check
step "fuzzing" scripts/fuzz.sh --for 3 --jobs "$(nproc)"
step "documentation tests" cargo test --workspace --doc --quiet
step "instructions per command" scripts/instructions.sh
step "fio engine" scripts/fio-verify.sh
case "$guest" in
    quick) step "guest" scripts/guest/test.sh ;;
    full) step "guest" scripts/guest/test.sh --full ;;
    no) echo "== guest: LEFT OUT (--no-guest): nothing was tried with a stock kernel over RDMA" ;;
esac
echo "== tests"
exec cargo nextest run --workspace --no-fail-fast
