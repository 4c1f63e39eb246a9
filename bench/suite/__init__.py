"""Measures the target, its block devices and what the machine can do; see scripts/bench.sh."""
