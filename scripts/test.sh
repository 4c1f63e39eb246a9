#!/usr/bin/env bash
# Everything that must hold before a change is merged. The last line is the test runner's summary.
set -euo pipefail
cd "$(dirname "$0")/.."

usage() {
    cat <<'USAGE'
Usage: scripts/test.sh [--guest-full | --no-guest] [--clean-home]

Formatting, lints, dependencies, build, the commands of README and the manual, scripts, a little fuzzing,
instructions per command, a guest with the stock kernel, and all tests. Stops at the first step that
fails. A table of the steps and their times comes before the summary.

  --guest-full   all suites of the guest in their long forms (more than an hour), not the quick set
  --no-guest     leaves the guest out
  --clean-home   with a cargo home of this checkout's own and the programs of the distribution only,
                 so that nothing that was installed or downloaded before can hide a missing step;
                 always so where CI=true
  --help         this text
USAGE
}

guest=quick
clean=no
[ "${CI:-}" != true ] || clean=yes
for argument in "$@"; do
    case "$argument" in
        --guest-full) guest=full ;;
        --no-guest) guest=no ;;
        --clean-home) clean=yes ;;
        --help) usage; exit 0 ;;
        *) usage >&2; exit 2 ;;
    esac
done

path_before="${CARGO_HOME:-$HOME/.cargo}/bin:$PATH"
target=$(realpath --canonicalize-missing "${CARGO_TARGET_DIR:-target}")
export PATH="$path_before:/usr/sbin:/sbin"
if [ "$clean" = yes ]; then
    # shellcheck source=scripts/clean-home.sh
    . scripts/clean-home.sh
    clean_home "$target/cargo-home"
fi
scratch=$(mktemp -d)

running="" runner="" table=""
ended() {
    [ -z "$runner" ] || kill -- -"$runner" 2>/dev/null || true
    rm -rf "$scratch"
    [ -z "$running" ] || printf '%s== %s: FAILED\n' "$table" "$running" >&2
}
trap ended EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# step NAME COMMAND..: runs it and says how long it took. The command is in no condition, or bash would
# not stop at the first failure inside a function.
step() {
    local start=$SECONDS
    running="$1"
    shift
    echo "== $running"
    "$@"
    took "$running" $((SECONDS - start))
    running=""
}

took() { # NAME SECONDS
    echo "== $1: $2 s"
    table+=$(printf '%-26s %5d s' "$1" "$2")$'\n'
}

lints() {
    # Lints link nothing, so libFuzzer need not be compiled for them: any name of a library will do.
    CUSTOM_LIBFUZZER_PATH="$target/libfuzzer.a" \
        cargo clippy --workspace --all-targets --features srpt_tests/libfuzzer -- -D warnings
}

# The short check knows deny.toml and runs everywhere. cargo-deny takes minutes to build and runs where
# somebody has installed it.
dependencies() {
    local deny
    python3 scripts/dependencies.py --check-itself
    python3 scripts/dependencies.py
    if ! deny=$(PATH="$path_before" command -v cargo-deny); then
        echo "cargo-deny is not installed: security advisories were NOT checked"
        return
    fi
    # Offline, cargo-deny wants the crates of all platforms.
    cargo fetch --locked
    "$deny" --workspace --all-features --offline check --hide-inclusion-graph bans licenses sources
    if timeout 60 "$deny" fetch db >/dev/null 2>&1; then
        "$deny" --workspace --all-features --offline check advisories
    else
        echo "the database can't be fetched from here: security advisories were NOT checked"
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
    local script scripts=(scripts/*.sh scripts/srpt_setup packaging/{srpt_rpc,target/p*,tools/p*} scripts/guest/*.sh scripts/guest/in/{*.sh,init} .ci/run .githooks/*)
    for script in "${scripts[@]}"; do
        bash -n "$script"
    done
    shellcheck "${scripts[@]}"
}

soak() {
    "$target/debug/soak" --corpus
    "$target/debug/soak" --count 2000 --jobs "$(nproc)"
}

runner_is_there() {
    wait "$runner" || { cat "$scratch/runner.log" >&2; return 1; }
    runner=""
    PATH="$(cat "$scratch/runner"):$PATH"
}

# tests FILTER: the summary is printed again as the last line of all.
tests() {
    local start=$SECONDS status=0
    echo "== tests"
    cargo nextest run --workspace --no-fail-fast --run-ignored all --filterset "$1" 2>&1 | tee "$scratch/tests.log" || status=$?
    took "tests" $((SECONDS - start))
    table+=$(printf '%-26s %5d s' "all" "$SECONDS")
    printf '== times\n%s\n' "$table"
    # From there on: what failed, if anything did.
    sed --quiet '/^ *Summary \[/,$p' "$scratch/tests.log"
    return $status
}

# What is run in its release build. The bins of srpt_tests are not, and take long.
programs=(--bin srpt_tgt --bin srpt_perf --bin srpt_dd --bin bdevperf)
tools=(--test-tools)
[ "$guest" != no ] || tools+=(--no-guest)
step "setup" bash scripts/setup.sh "${tools[@]}"
# Where it is not in the cache it is built beside the steps that compile. A group of its own, to end it.
setsid nice -n 5 scripts/nextest.sh >"$scratch/runner" 2>"$scratch/runner.log" &
runner=$!
step "format" cargo fmt --all --check
step "dependencies" dependencies
step "scripts: python" python_syntax
step "scripts: shell" shell_scripts
step "planted bugs: texts" scripts/planted.sh --check
step "host setup" scripts/setup-test.sh
step "lints" lints
step "planted additions" scripts/foo.sh --check
step "build" cargo build --workspace --all-targets
step "release build" cargo build --release --workspace "${programs[@]}" --example instructions
step "test runner" runner_is_there
step "quickstart" scripts/quickstart.sh --skip-setup
step "soak" soak
step "fuzzing" scripts/fuzz.sh --for 3 --jobs "$(nproc)"
step "documentation" scripts/check.sh docs
step "instructions per command" scripts/instructions.sh
step "fio engine" scripts/fio-verify.sh
step "commands of the manual" scripts/readme.sh
case "$guest" in
    quick) step "guest" scripts/guest/test.sh ;;
    full) step "guest" scripts/guest/test.sh --full ;;
    no) echo "== guest: LEFT OUT (--no-guest): nothing was tried with a stock kernel over RDMA" ;;
esac
filter=$(scripts/needs.sh)
tests "$filter"
