#!/bin/bash
# Runs the guest's suites with the binaries of this checkout.
#
#   test.sh [--full] [suite...]
#     --full    the suites' long forms: 200 logins, 2000 rejects
#
# Suites: kernel (the harness itself), contract (fabric against connector), smoke (the kernel's
# initiator), faults (kill, device removal), perf (srpt_perf over RDMA). Default: all.
set -euo pipefail
cd "$(dirname "$0")/../.."

full=no suites=()
for option; do
    case $option in
        --full) full=yes ;;
        -*) sed --quiet '2,/^set/s/^# \{0,1\}//p' "$0"; exit 2 ;;
        *) suites+=("$option") ;;
    esac
done
[ ${#suites[@]} -gt 0 ] || suites=(kernel contract smoke faults perf)

cargo build --workspace --bins
contract=$(cargo test --package transport --test rdma_contract --no-run --message-format=json |
    sed --quiet 's/.*"executable":"\([^"]*rdma_contract[^"]*\)".*/\1/p')
bin=${CARGO_TARGET_DIR:-target}/debug

guest() { # SCRIPT [argument]...
    local results
    results=$bin/guest/$(basename "$1" .sh)
    scripts/guest/run.sh --limit 900 --results "$results" --share "bin=$bin" \
        --share scripts=scripts --script "scripts/guest/in/$1" "${@:2}"
}

for suite in "${suites[@]}"; do
    echo "== $suite"
    case $suite in
        kernel) guest kernel-smoke.sh ;;
        contract) guest rdma.sh "/host/bin/deps/$(basename "$contract")" --test-threads=1 ;;
        smoke) guest srp-smoke.sh ;;
        faults)
            counts=(20 50)
            [ $full = no ] || counts=(200 2000)
            guest srp-faults.sh "${counts[@]}"
            ;;
        perf) guest srp-perf.sh ;;
        *) echo "no suite $suite" >&2; exit 2 ;;
    esac
done
