"""The bar table: what is measured, against what, in alternating order."""

import concurrent.futures
import json
import os
import re
import shutil
import statistics
import subprocess
import time

import scale
import tools
from rows import Row, number, table
from tools import RAM_BYTES, NULL_BYTES

RAM = f"malloc:{RAM_BYTES}"
NULL = f"null:{NULL_BYTES}"


def alternate(runs, jobs):
    """Runs named jobs in turns, forwards and backwards; the results by name."""
    names = list(jobs)
    results = {name: [] for name in names}
    for turn in range(runs):
        for name in names if turn % 2 == 0 else reversed(names):
            results[name].append(jobs[name]())
    return results


def column(results, name):
    return [result[name] for result in results]


def ratios(above, below):
    """Of runs that were next to each other."""
    return [a / b for a, b in zip(above, below)]


def seam(setup, runs, say):
    """Null and memory devices, in this process."""
    jobs = {}
    for depth in (32, 128):
        jobs[f"null {depth}"] = lambda depth=depth: tools.bdevperf(setup, NULL, "4k", "read", depth)
    jobs["malloc 4k"] = lambda: tools.bdevperf(setup, RAM, "4k", "read", 32, "--fill")
    for mix in ("read", "write"):
        jobs[f"malloc {mix}"] = (
            lambda mix=mix: tools.bdevperf(setup, RAM, "128k", mix, 32, "--fill"))
        jobs[f"memcpy {mix}"] = lambda mix=mix: tools.memcpy(setup, "128k", mix)
    got = alternate(runs, jobs)
    iops = lambda name: column(got[name], "iops")
    say([Row("bdev seam, null, 4 KiB, depth 32, one core", iops("null 32"), 13.8e6, "IOPS"),
         Row("bdev seam, null, 4 KiB, depth 128, one core", iops("null 128"), 14.1e6, "IOPS"),
         Row("malloc, 4 KiB random read, depth 32", iops("malloc 4k"), 1.76e6, "IOPS")])
    for mix, spdk in (("read", 9504), ("write", 9045)):
        mib = column(got[f"malloc {mix}"], "mib_per_s")
        copy = column(got[f"memcpy {mix}"], "mib_per_s")
        bar = min(spdk, 0.95 * statistics.median(copy))
        say([Row(f"malloc, 128 KiB random {mix}, depth 32", mib, bar, "MiB/s",
                 note=f"memcpy in the same run {statistics.median(copy):,.0f}")])


def file_seam(setup, runs, say, file):
    """A file past the page cache, against fio's io_uring on the same file."""
    config = file_config(setup, file)
    for depth in (1, 32, 128):
        got = alternate(runs, {
            "ours": lambda: tools.bdevperf(setup, [], "4k", "read", depth, config=config),
            "fio": lambda: tools.fio(setup, file, "4k", "read", depth, "--readonly"),
        })
        ours, fio = column(got["ours"], "iops"), column(got["fio"], "iops")
        say([Row(f"file, O_DIRECT, 4 KiB random read, depth {depth}, against fio io_uring",
                 ratios(ours, fio), 0.97, "ratio",
                 note=f"{statistics.median(ours):,.0f} against {statistics.median(fio):,.0f} "
                      "IOPS")])
    say(submit_calls(setup, config))


def submit_calls(setup, config):
    """System calls that submit, per batch of operations."""
    if not shutil.which("strace"):
        return []
    trace = f"{setup.scratch}/strace"
    command = ["strace", "-f", "-o", trace, "-e", "trace=io_uring_enter",
               f"{setup.binaries}/bdevperf", "-c", config, "-q", "32", "-t", "0.5", "-m",
               setup.mask(setup.load_core), *setup.pages()]
    subprocess.run(command, capture_output=True, timeout=60, check=True)
    submits, operations, others = 0, 0, 0
    with open(trace, encoding="utf-8") as file:
        for line in file:
            call = re.search(r"io_uring_enter\(\d+, (\d+),", line)
            if not call:
                continue
            if int(call.group(1)) == 0:
                others += 1
                continue
            submits += 1
            operations += int(call.group(1))
    # A turn submits after it has found completions, in one call however many: never more calls
    # than operations, and fewer as soon as two completions come together.
    return [Row("file, depth 32: submitting system calls per operation (strace)",
                [submits / max(operations, 1)], 1.0, "ratio", lower_is_better=True,
                note=f"{submits} calls for {operations} operations, {others} to collect")]


def through_target(setup, runs, say, file, config):
    """Over shared memory, the target on the other core."""
    with tools.Target(setup) as target:
        perf = lambda *job: (lambda: tools.srpt_perf(setup, target.address, *job))
        # The target's core does the copying.
        copy = lambda mix: (lambda: paused(
            target, lambda: tools.memcpy(setup, "128k", mix, setup.target_core)))
        got = alternate(runs, {
            "round trip": lambda: paused(target, lambda: tools.round_trip_ns(setup)),
            "null 1": perf(0, "4k", "read", 1),
            "null 32": perf(0, "4k", "read", 32),
            "null 128": perf(0, "4k", "read", 128),
            "malloc 4k": perf(1, "4k", "read", 32),
            "malloc 128k": perf(1, "128k", "read", 32),
            "malloc 128k write": perf(1, "128k", "write", 32),
            "memcpy": copy("read"),
            "memcpy write": copy("write"),
        })
    iops = lambda name: column(got[name], "iops")
    trips = got["round trip"]
    # Processors of a guest change their places: one figure would hide that there are two kinds.
    by_trip = lambda name: ", ".join(
        f"{trip:.0f} ns: {number(value, 'IOPS')}" for trip, value in sorted(zip(trips, iops(name))))
    say([Row("a cache line to the other core and back", trips, None, "ns"),
         Row("shm, null, 4 KiB random read, depth 1: p50", column(got["null 1"], "p50_us"), 0.8,
             "us", lower_is_better=True),
         Row("shm, null, 4 KiB random read, depth 1: p99", column(got["null 1"], "p99_us"), 1.1,
             "us", lower_is_better=True),
         Row("shm, null, 4 KiB random read, depth 1", iops("null 1"), 1.15e6, "IOPS",
             note=f"by that round trip: {by_trip('null 1')}"),
         Row("shm, null, 4 KiB, depth 32, one core", iops("null 32"), 3.28e6, "IOPS",
             note=by_trip("null 32")),
         Row("shm, null, 4 KiB, depth 128, one core", iops("null 128"), 3.94e6, "IOPS",
             note=by_trip("null 128")),
         Row("shm, malloc, 4 KiB random read, depth 32", iops("malloc 4k"), 1.35e6, "IOPS")])
    for name, copy, text in (("malloc 128k", "memcpy", "read"),
                             ("malloc 128k write", "memcpy write", "write")):
        say([Row(f"shm, malloc, 128 KiB random {text}, depth 32, against one memcpy",
                 ratios(column(got[name], "mib_per_s"), column(got[copy], "mib_per_s")), 0.9,
                 "ratio",
                 note=f"{statistics.median(column(got[name], 'mib_per_s')):,.0f} MiB/s")])
    with tools.Target(setup, file, read_only=True, ahead=False) as target:
        got = alternate(runs, {
            "file": lambda: tools.srpt_perf(setup, target.address, 2, "4k", "read", 32,
                                            ahead=False),
            # Where the target runs: the disk's interrupts come to one of the cores.
            "bdevperf": lambda: paused(
                target, lambda: tools.bdevperf(setup, [], "4k", "read", 32, config=config,
                                               cores=[setup.target_core])),
        })
    say([Row("shm, file, 4 KiB random read, depth 32, against bdevperf on the same file",
             ratios(iops("file"), iops("bdevperf")), 0.95, "ratio",
             note=f"{statistics.median(iops('file')):,.0f} IOPS")])


def paused(target, run):
    """Runs without the target on the machine."""
    target.pause()
    try:
        return run()
    finally:
        target.resume()


def second_core(setup, runs, say):
    """Two reactors with a device each, and with one device, against one."""
    if len(setup.cores) < 2:
        return
    both = [setup.cores[0], setup.cores[-1]]
    got = alternate(runs, {
        "one": lambda: tools.bdevperf(setup, NULL, "4k", "read", 128),
        "two": lambda: tools.bdevperf(setup, [NULL, NULL], "4k", "read", 128, cores=both),
        "shared": lambda: tools.bdevperf(setup, NULL, "4k", "read", 128, "-C", cores=both),
    })
    one = column(got["one"], "iops")
    say([Row("second reactor, a null device each, in-process",
             ratios(column(got["two"], "iops"), one), 1.95, "ratio"),
         Row("second reactor, one null device for both, in-process",
             ratios(column(got["shared"], "iops"), one), None, "ratio")])


def instructions(setup, say):
    """What callgrind counts; a breakdown by layer is in the script's own output."""
    done = subprocess.run(["bash", "scripts/instructions.sh", "--report"], capture_output=True,
                          text=True, timeout=600, check=False)
    if done.returncode != 0:
        print(f"instructions are left out: {done.stderr.strip()[-300:]}")
        return
    for case, what in (("null-read-d32", "read"), ("null-write-d32", "write")):
        line = next(one for one in done.stdout.splitlines() if one.startswith(f"{case}:"))
        words = line.split()[1:]
        by = dict(zip(words[::2], map(float, words[1::2])))
        total = by.pop("sum")
        parts = ", ".join(f"{layer} {count:.0f}" for layer, count in by.items())
        say([Row(f"instructions per 4 KiB {what}, target side, null, shm, depth 32", [total],
                 600 if what == "read" else None, "instructions", lower_is_better=True,
                 note=parts)])


def nothing_else(setup, say):
    """System calls of a core under load. Allocations are counted by tests/tests/allocations.rs."""
    if not shutil.which("strace"):
        return
    # Nothing is ahead of strace, which needs a core too.
    with tools.Target(setup, ahead=False) as target:
        trace = f"{setup.scratch}/calls"
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            load = pool.submit(tools.srpt_perf, setup, target.address, 0, "4k", "read", 32,
                               ahead=False)
            # Logins, logouts and answers to RPCs wake other threads: between them, nothing does.
            before = 0
            while not load.done() and before == 0:
                before = target.ios()
            strace = subprocess.Popen(["strace", "-c", "-o", trace, "-p", str(target.reactor())],
                                      stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
            attached = strace.stderr.readline()
            if "attached" not in attached:
                raise tools.Failed(f"strace: {attached}")
            time.sleep(setup.seconds / 2)
            strace.send_signal(subprocess.signal.SIGINT)
            strace.communicate(timeout=10)
            ios = target.ios() - before
            load.result()
        with open(trace, encoding="utf-8") as file:
            total = re.search(r"(\d+)\s+(?:\d+\s+)?total", file.read())
        calls = int(total.group(1)) if total else 0
    say([Row("system calls of the core per null read, shm, depth 32 (strace)",
             [calls / max(ios, 1)], 0, "calls", lower_is_better=True,
             note=f"{calls} calls in {ios:,} reads; heap allocations: "
                  "`cargo nextest run -p srpt_tests --test allocations`")])


def adaptive(setup, runs, say, engine):
    """A slow load on a core that sleeps, against one that polls."""
    if not os.path.exists(engine):
        print(f"no {engine}: adaptive idle is left out (scripts/fio-engine.sh builds it)")
        return
    ticks_per_s = os.sysconf("SC_CLK_TCK")
    results = {"poll": [], "adaptive": []}
    for turn in range(runs):
        for idle in ("poll", "adaptive") if turn % 2 == 0 else ("adaptive", "poll"):
            with tools.Target(setup, options=("--idle", idle)) as target:
                before, start = target.reactor_ticks(), time.monotonic()
                ran = tools.fio(setup, target.path, "4k", "read", 1, "--rate_iops=1000",
                                engine=f"external:{engine}", seconds=2)
                spent = (target.reactor_ticks() - before) / ticks_per_s
                ran["cpu_percent"] = 100 * spent / (time.monotonic() - start)
                results[idle].append(ran)
    more = [a - p for a, p in zip(column(results["adaptive"], "p99_us"),
                                  column(results["poll"], "p99_us"))]
    say([Row("adaptive idle at 1,000 IOPS: processor time of the core",
             column(results["adaptive"], "cpu_percent"), 5, "%", lower_is_better=True),
         Row("adaptive idle at 1,000 IOPS: p99 above that of polling", more, 60, "us",
             lower_is_better=True)])


def measure(setup, runs, file, engine, select):
    """All rows, each printed as soon as it is known."""
    rows = []

    def say(new):
        for row in new:
            rows.append(row)
            print(table([row]).splitlines()[-1], flush=True)

    parts = [("seam", lambda: seam(setup, runs, say)),
             ("second", lambda: second_core(setup, runs, say)),
             ("instructions", lambda: (instructions(setup, say), nothing_else(setup, say))),
             ("file", lambda: file_seam(setup, runs, say, file)),
             ("shm", lambda: through_target(setup, runs, say, file, file_config(setup, file))),
             ("adaptive", lambda: adaptive(setup, min(runs, 3), say, engine)),
             ("scale", lambda: scale.measure(setup, say))]
    for name, part in parts:
        if not select or name in select:
            part()
    return rows


def file_config(setup, file):
    """A configuration with the file alone, read-only, so that several can open it."""
    config = f"{setup.scratch}/file.json"
    with open(config, "w", encoding="utf-8") as out:
        entries = [tools.bdev_entries(file, read_only=True)[-1]]
        json.dump({"subsystems": [{"subsystem": "bdev", "config": entries}]}, out)
    return config
