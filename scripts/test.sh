#!/usr/bin/env bash
# Everything that must hold before a change is merged. The last line is the test runner's summary.
set -euo pipefail
cd "$(dirname "$0")/.."

usage() {
    cat <<'USAGE'
Usage: scripts/test.sh

Formatting, lints, licences, build, scripts and all tests. Stops at the first step that fails.

  --help   this text
USAGE
}

case "${1:-}" in
    "") ;;
    --help) usage; exit 0 ;;
    *) usage >&2; exit 2 ;;
esac

export PATH="${CARGO_HOME:-$HOME/.cargo}/bin:/usr/sbin:/sbin:$PATH"

# step NAME COMMAND..: runs it and says how long it took.
step() {
    local name="$1" start=$SECONDS
    shift
    echo "== $name"
    "$@" || { echo "== $name: FAILED after $((SECONDS - start)) s" >&2; exit 1; }
    echo "== $name: $((SECONDS - start)) s"
}

licences() {
    cargo deny --workspace --offline check --hide-inclusion-graph bans licenses sources
    if timeout 60 cargo deny fetch db >/dev/null 2>&1; then
        cargo deny --workspace --offline check advisories
    else
        echo "advisories: NOT checked, the database can't be fetched from here"
    fi
}

python_syntax() {
    python3 - scripts/*.py <<'PYTHON'
import ast, sys
for name in sys.argv[1:]:
    with open(name, encoding="utf-8") as file:
        ast.parse(file.read(), name)
    print(f"{name}: parses")
PYTHON
}

shell_scripts() {
    for script in scripts/*.sh .ci/run; do
        bash -n "$script"
    done
    if command -v shellcheck >/dev/null; then
        shellcheck scripts/*.sh .ci/run
    else
        echo "shellcheck is not installed: syntax checked only"
    fi
}

step "setup" bash scripts/setup.sh --test-tools
step "format" cargo fmt --all --check
step "lints" cargo clippy --workspace --all-targets -- -D warnings
step "licences" licences
step "scripts: python" python_syntax
step "scripts: shell" shell_scripts
step "build" cargo build --workspace --all-targets
step "documentation tests" cargo test --workspace --doc --quiet
echo "== tests"
exec cargo nextest run --workspace --no-fail-fast
