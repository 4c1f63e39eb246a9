"""Pictures of a matrix: operations a second over depth, and latencies at the lowest depth."""

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402  the backend comes first

DEVICES = ["null", "malloc", "file"]
SIZE = "4k"


def chosen(results, **wanted):
    return [one for one in results if all(one[key] == value for key, value in wanted.items())]


def over_depth(results, path, title):
    """4 KiB random reads: one panel per device, one line per way."""
    figure, panels = plt.subplots(1, 3, figsize=(15, 4.8))
    for panel, device in zip(panels, DEVICES):
        mine = chosen(results, device=device, size=SIZE, mix="read")
        for way in dict.fromkeys(one["way"] for one in mine):
            line = sorted(chosen(mine, way=way), key=lambda one: one["depth"])
            depths = [one["depth"] for one in line]
            low = [max(one["iops"] - one["iops_low"], 0) / 1e3 for one in line]
            high = [max(one["iops_high"] - one["iops"], 0) / 1e3 for one in line]
            panel.errorbar(depths, [one["iops"] / 1e3 for one in line], yerr=[low, high],
                           marker="o", capsize=3, label=way)
        panel.set_xscale("log", base=2)
        panel.set_yscale("log")
        ticks = sorted({one["depth"] for one in mine})
        panel.set_xticks(ticks, [str(depth) for depth in ticks])
        panel.set_title(device)
        panel.set_xlabel("commands in flight per channel")
        panel.set_ylabel("thousand operations a second")
        panel.grid(True, which="both", alpha=0.3)
        panel.legend()
    finish(figure, path, f"4 KiB random read {title}")


def latency(results, path, title):
    """4 KiB random reads one at a time: p50, p99 and p99.9 per device and way."""
    figure, panel = plt.subplots(figsize=(11, 5))
    lowest = min((one["depth"] for one in results), default=1)
    mine = chosen(results, size=SIZE, mix="read", depth=lowest)
    mine = [one for one in mine if one["way"] in ("bdevperf", "shm, 1 ch", "fio io_uring")]
    places = range(len(mine))
    for shift, (key, name) in enumerate(
            (("p50_us", "p50"), ("p99_us", "p99"), ("p99_9_us", "p99.9"))):
        bars = panel.bar([at + 0.27 * (shift - 1) for at in places],
                         [max(one[key], 0.01) for one in mine], width=0.27, label=name)
        panel.bar_label(bars, fmt="%.3g", fontsize=8)
    panel.set_xticks(list(places), [f"{one['device']}\n{one['way']}" for one in mine])
    panel.set_yscale("log")
    panel.set_ylabel("microseconds")
    panel.grid(True, axis="y", which="both", alpha=0.3)
    panel.legend()
    finish(figure, path, f"Latency, 4 KiB random read, depth {lowest} {title}")


def bandwidth(results, path, title):
    """The largest size: bandwidth over depth."""
    sizes = list(dict.fromkeys(one["size"] for one in results))
    figure, panels = plt.subplots(1, 3, figsize=(15, 4.8))
    for panel, device in zip(panels, DEVICES):
        mine = chosen(results, device=device, size=sizes[-1], mix="read")
        for way in dict.fromkeys(one["way"] for one in mine):
            line = sorted(chosen(mine, way=way), key=lambda one: one["depth"])
            panel.plot([one["depth"] for one in line], [one["mib_per_s"] / 1024 for one in line],
                       marker="o", label=way)
        panel.set_xscale("log", base=2)
        ticks = sorted({one["depth"] for one in mine})
        panel.set_xticks(ticks, [str(depth) for depth in ticks])
        panel.set_ylim(bottom=0)
        panel.set_title(device)
        panel.set_xlabel("commands in flight per channel")
        panel.set_ylabel("GiB/s")
        panel.grid(True, alpha=0.3)
        panel.legend()
    finish(figure, path, f"{sizes[-1]} random read {title}")


def finish(figure, path, title):
    figure.suptitle(title)
    figure.tight_layout()
    figure.savefig(path, dpi=100)
    plt.close(figure)
