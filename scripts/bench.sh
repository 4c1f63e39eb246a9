#!/usr/bin/env bash
# Measures the target, its block devices and the machine, and writes a report: table, JSON, plots.
set -euo pipefail
cd "$(dirname "$0")/.."

usage() {
    cat <<'USAGE'
Usage: scripts/bench.sh [--quick | --bars] [--out DIR] [--runs N] [--seconds S] [--only PART]..
                        [--no-priority] [--skip-setup]

Without an option, the whole matrix: null, malloc and file; 512 B to 1 MiB; read, write, 70/30;
depth 1 to 128; 1 to 4 channels; over shared memory, in-process (bdevperf), and fio's io_uring on
the file as its ceiling, in alternating order. It takes about an hour.

  --quick         a small matrix: under 5 minutes
  --bars          what is measured against what the peers reach, in about 6 minutes; status 1 when
                  a bar is not met
  --only PART     with --bars: seam, second, instructions, file, shm, adaptive or scale
  --into FILE     with --bars: put the table into a file, say bench/RESULTS.md, for its last one
  --out DIR       folder of the report (default: target/bench/<time>)
  --runs N        runs of each figure (default 3; quick 1; bars 5), of which the median counts
  --seconds S     length of a run (default 1; quick 0.5)
  --no-priority   don't run the tools ahead of all other work, as root would
  --skip-setup    don't look for missing packages
  --help          this text

As root it takes huge pages for the time of the run, and gives them back.
USAGE
}

setup=yes
arguments=()
for argument in "$@"; do
    case "$argument" in
        --help) usage; exit 0 ;;
        --skip-setup) setup=no ;;
        *) arguments+=("$argument") ;;
    esac
done
export PATH="${CARGO_HOME:-$HOME/.cargo}/bin:/usr/sbin:/sbin:$PATH"
[ "$setup" = no ] || bash scripts/setup.sh --bench
cargo build --quiet --release --workspace --bin srpt_tgt --bin srpt_perf --bin srpt_dd --bin bdevperf --examples
scripts/fio-engine.sh
# The distribution's Python has the distribution's matplotlib, whatever comes first in PATH.
python=python3
python3 -c 'import matplotlib' 2>/dev/null || python=/usr/bin/python3
exec "$python" -B bench/suite/main.py --binaries "$PWD/${CARGO_TARGET_DIR:-target}/release" "${arguments[@]}"
