"""What the figures were taken on, and the few things of it that a measurement changes."""

import json
import os
import platform
import shutil
import subprocess
import time

HUGE_PATH = "/sys/kernel/mm/hugepages/hugepages-2048kB"


def first_line(command):
    """Output of a command, or an empty text when there is no such command."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout.strip().split("\n")[0]


def cpuinfo(key):
    with open("/proc/cpuinfo", encoding="ascii") as file:
        for line in file:
            name, _, value = line.partition(":")
            if name.strip() == key:
                return value.strip()
    return "?"


def describe(directory):
    """The facts that a figure depends on."""
    with open("/proc/meminfo", encoding="ascii") as file:
        memory_kb = int(file.readline().split()[1])
    dirty = first_line(["git", "status", "--porcelain", "--untracked-files=no"])
    return {
        "time": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        "processor": cpuinfo("model name"),
        "mhz": cpuinfo("cpu MHz"),
        "cores": os.cpu_count(),
        "memory_gib": round(memory_kb / 1048576, 1),
        "hypervisor": first_line(["systemd-detect-virt"]) or "?",
        "kernel": platform.release(),
        "file_system": first_line(["stat", "--file-system", "--format=%T", directory]),
        "fio": first_line(["fio", "--version"]),
        "rust": first_line(["rustc", "--version"]),
        "commit": first_line(["git", "rev-parse", "--short=12", "HEAD"])
        + (" with changes" if dirty else ""),
        "load_average": os.getloadavg()[0],
    }


class HugePages:
    """At least so many free huge pages of 2 MiB while it lasts, where this process may ask."""

    def __init__(self, pages):
        self.pages = pages
        self.before = None

    def read(self, name):
        with open(f"{HUGE_PATH}/{name}", encoding="ascii") as file:
            return int(file.read())

    def write(self, pages):
        with open(f"{HUGE_PATH}/nr_hugepages", "w", encoding="ascii") as file:
            file.write(str(pages))

    def __enter__(self):
        try:
            missing = self.pages - self.read("free_hugepages")
            if missing > 0:
                before = self.read("nr_hugepages")
                self.write(before + missing)
                self.before = before
        except OSError:
            pass
        return self

    def free(self):
        """Huge pages free now."""
        try:
            return self.read("free_hugepages")
        except OSError:
            return 0

    def __exit__(self, *_):
        if self.before is not None:
            self.write(self.before)


# Where sessions have shares of their own (sched_autogroup_enabled), nice counts only inside one.
FAVOURED = ["setsid", "--wait", "sh", "-c",
            'echo -10 2>/dev/null >/proc/self/autogroup; exec nice -n -10 "$@"', "favoured"]


def priority_prefixes(wanted):
    """What runs a command ahead of all other work, and what only favours it, if that is wanted and
    allowed. The second is for loads on files: ahead of the kernel's threads on their core they
    would keep those from ending I/O."""
    prefixes = []
    for prefix in (["chrt", "-f", "1"], FAVOURED):
        tried = wanted and shutil.which(prefix[0]) and subprocess.run(
            [*prefix, "true"], capture_output=True, check=False)
        prefixes.append(prefix if tried and tried.returncode == 0 and not tried.stderr else [])
    return prefixes


def save(path, value):
    with open(path, "w", encoding="utf-8") as file:
        json.dump(value, file, indent=2)
        file.write("\n")
