#!/usr/bin/env bash
# Hostile initiators against the release build, beside a good session: prints what the target did in
# each case, and the good session's p99 before and meanwhile.
set -euo pipefail
cd "$(dirname "$0")/.."

case "${1:-}" in
    "") ;;
    --help) sed --quiet '2,/^set/s/^# \{0,1\}//p' "$0"; exit ;;
    *) echo "Usage: scripts/hostile.sh [--help]" >&2; exit 2 ;;
esac

export PATH="${CARGO_HOME:-$HOME/.cargo}/bin:$PATH"
exec cargo test --release --workspace --test hostile -- --nocapture
