"""Many sessions and LUNs on one core: memory, the price of a turn, what stays of the load."""

import re
import subprocess
import time

import tools
from rows import Row
from tools import entry

SESSIONS = 1000
ACTIVE = SESSIONS // 10
LUNS = 4096


def sessions(setup, target, count, active, depth=4):
    """Logs in `count` times and loads `active` of the sessions; what it printed."""
    command = [f"{setup.binaries}/examples/sessions", target.path, str(count), str(active),
               str(depth), "2", str(target.process.pid)]
    return ["taskset", "-c", str(setup.load_core), *command]


def kib(text, words):
    return float(re.search(rf"(-?[0-9.]+) KiB {words}", text).group(1))


def iops_of(text):
    return float(re.search(r"^total +([0-9]+)", text, re.M).group(1))


def turn_ns(target, seconds=1.0):
    """Nanoseconds of a turn, over a time in which nothing is ready."""
    def sample():
        poller = tools.call(target.rpc_path, "thread_get_pollers")["threads"][0]
        stats = tools.call(target.rpc_path, "thread_get_stats")["threads"][0]
        return poller["active_pollers"][0]["run_count"], stats["idle"] + stats["busy"]
    before = sample()
    time.sleep(seconds)
    after = sample()
    return (after[1] - before[1]) / max(after[0] - before[0], 1)


def measure(setup, say):
    with tools.Target(setup) as target:
        say([Row("turn with nothing ready, no session", [turn_ns(target)], None, "ns")])
        idle = subprocess.Popen(sessions(setup, target, SESSIONS, 0), stdout=subprocess.PIPE,
                                text=True)
        target.wait_sessions(SESSIONS)
        say([Row(f"turn with nothing ready, {SESSIONS:,} sessions", [turn_ns(target)], None,
                 "ns")])
        say([Row(f"memory of the target per idle session, {SESSIONS:,} sessions",
                 [kib(idle.communicate(timeout=60)[0], "each")], None, "KiB")])
    with tools.Target(setup) as target:
        text = setup.run(sessions(setup, target, SESSIONS, ACTIVE))
        say([Row(f"{SESSIONS:,} sessions, {ACTIVE} of them active with depth 4, 4 KiB random read",
                 [iops_of(text)], None, "IOPS"),
             Row("memory of the target that an active channel adds", [kib(text, "more each")],
                 None, "KiB")])
    names = [f"Null{number}" for number in range(1, 1 + LUNS)]
    bdevs = [entry("bdev_null_create", name=name, num_blocks=8192, block_size=512)
             for name in names]
    luns = [entry("srpt_map_lun", target="bench", bdev_name=name, lun=2 + number)
            for number, name in enumerate(names)]
    with tools.Target(setup, more=(bdevs, luns)) as target:
        ran = tools.srpt_perf(setup, target.address, 1 + LUNS, "4k", "read", 32)
        say([Row(f"{LUNS:,} LUNs, 4 KiB random read of the last one, depth 32", [ran["iops"]],
                 None, "IOPS"),
             Row(f"turn with nothing ready, {LUNS:,} LUNs", [turn_ns(target)], None, "ns")])
