"""The matrix: devices, sizes, mixes, depths, channels; in-process, over shared memory, and fio."""

import itertools
import statistics

import tools
from tools import RAM_BYTES, NULL_BYTES

FULL = {"sizes": ["512", "4k", "64k", "1m"], "mixes": ["read", "write", "mixed"],
        "depths": [1, 8, 32, 128], "channels": [1, 2, 4]}
QUICK = {"sizes": ["4k", "64k"], "mixes": ["read", "mixed"], "depths": [1, 32, 128],
         "channels": [1]}
DEVICES = ["null", "malloc", "file"]
# fio's io_uring needs as much memory as is in flight; more is no faster.
IN_FLIGHT_BYTES_MAX = 64 << 20


def bytes_of(size):
    return int(size.rstrip("km")) << {"k": 10, "m": 20}.get(size[-1], 0)


def cells(plan):
    """Every combination whose buffers fit."""
    for device, size, mix, depth in itertools.product(DEVICES, plan["sizes"], plan["mixes"],
                                                      plan["depths"]):
        if bytes_of(size) * depth <= IN_FLIGHT_BYTES_MAX:
            yield device, size, mix, depth


def ways(setup, target, files, plan, cell):
    """What measures a cell, by name."""
    device, size, mix, depth = cell
    spec = {"null": f"null:{NULL_BYTES}", "malloc": f"malloc:{RAM_BYTES}",
            "file": f"file:{files[1]}"}[device]
    fill = ["--fill"] if device == "malloc" else []
    found = {"bdevperf": lambda: tools.bdevperf(setup, spec, size, mix, depth, *fill)}
    if device == "file":
        found["fio io_uring"] = lambda: tools.fio(setup, files[1], size, mix, depth)

    def shm(channels):
        # Writes to files end in the kernel's workers, which need the core too.
        target.run_ahead(device != "file")
        target.resume()
        try:
            return tools.srpt_perf(setup, target.address, DEVICES.index(device), size, mix,
                                   depth, channels, ahead=device != "file")
        finally:
            target.pause()

    for channels in plan["channels"]:
        if bytes_of(size) * depth * channels <= 2 * IN_FLIGHT_BYTES_MAX:
            found[f"shm, {channels} ch"] = lambda channels=channels: shm(channels)
    return found


def measure(setup, plan, runs, files, progress):
    """A list of results, one per cell and way."""
    results = []
    every = list(cells(plan))
    with tools.Target(setup, files[0]) as target:
        target.pause()
        for done, cell in enumerate(every):
            device, size, mix, depth = cell
            progress(done, len(every), " ".join(map(str, cell)))
            found = ways(setup, target, files, plan, cell)
            got = {name: [] for name in found}
            for turn in range(runs):
                for name in found if turn % 2 == 0 else reversed(found):
                    got[name].append(found[name]())
            for name, ran in got.items():
                iops = [one["iops"] for one in ran]
                middle = sorted(ran, key=lambda one: one["iops"])[len(ran) // 2]
                results.append({
                    "device": device, "size": size, "mix": mix, "depth": depth, "way": name,
                    "iops": statistics.median(iops), "iops_low": min(iops),
                    "iops_high": max(iops), "runs": len(ran),
                    **{key: middle[key] for key in
                       ("mib_per_s", "p50_us", "p99_us", "p99_9_us")}})
    return results


def table(results):
    lines = ["| device | size | job | depth | way | IOPS (lowest..highest) | MiB/s | p50 us "
             "| p99 us | p99.9 us |", "|---|---|---|---|---|---|---|---|---|---|"]
    for one in results:
        mix = {"mixed": "70/30"}.get(one["mix"], one["mix"])
        lines.append(
            f"| {one['device']} | {one['size']} | {mix} | {one['depth']} | {one['way']} "
            f"| {one['iops']:,.0f} ({one['iops_low']:,.0f}..{one['iops_high']:,.0f}) "
            f"| {one['mib_per_s']:,.0f} | {one['p50_us']:.2f} | {one['p99_us']:.2f} "
            f"| {one['p99_9_us']:.2f} |")
    return "\n".join(lines)
