"""Pictures of a matrix: operations a second and bandwidth over depth, latencies at the lowest."""

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402  the backend comes first
from matplotlib.ticker import EngFormatter, FuncFormatter  # noqa: E402

DEVICES = ["null", "malloc", "file"]
SIZE = "4k"
# The same way has the same colour in every panel and picture.
COLOURS = {"bdevperf": "tab:blue", "fio io_uring": "tab:grey", "shm, 1 ch": "tab:orange",
           "shm, 2 ch": "tab:green", "shm, 4 ch": "tab:red"}


def chosen(results, **wanted):
    return [one for one in results if all(one[key] == value for key, value in wanted.items())]


def micros(value, _=None):
    """Microseconds as a short text."""
    if value >= 1e6:
        return f"{value / 1e6:.3g} s"
    if value >= 1e3:
        return f"{value / 1e3:.3g} ms"
    return f"{value:.2g}" if value < 1 else f"{value:.3g}"


def lines(panel, mine, value, spread=None):
    """One line per way; the depths at equal distances."""
    depths = sorted({one["depth"] for one in mine})
    for way in dict.fromkeys(one["way"] for one in mine):
        line = sorted(chosen(mine, way=way), key=lambda one: one["depth"])
        at = [depths.index(one["depth"]) for one in line]
        panel.errorbar(at, [value(one) for one in line],
                       yerr=spread and [[max(side(one), 0) for one in line] for side in spread],
                       marker="o", capsize=3, label=way, color=COLOURS.get(way))
    panel.set_xticks(range(len(depths)), [str(depth) for depth in depths])
    panel.set_xlim(-0.3, len(depths) - 0.7)
    panel.set_ylim(0, panel.get_ylim()[1] * 1.05)
    panel.set_xlabel("commands in flight per channel")
    panel.grid(True, alpha=0.3)


def legend(figure, panels):
    """One for all panels, below them."""
    found = {}
    for panel in panels:
        found |= {name: handle for handle, name in zip(*panel.get_legend_handles_labels())}
    figure.legend(found.values(), found.keys(), loc="lower center", ncols=len(found))


def over_depth(results, path, title):
    """4 KiB random reads: one panel per device, one line per way."""
    figure, panels = plt.subplots(1, 3, figsize=(15, 5))
    for panel, device in zip(panels, DEVICES):
        lines(panel, chosen(results, device=device, size=SIZE, mix="read"),
              lambda one: one["iops"],
              (lambda one: one["iops"] - one["iops_low"],
               lambda one: one["iops_high"] - one["iops"]))
        panel.yaxis.set_major_formatter(EngFormatter(sep=" "))
        panel.set_title(device)
    panels[0].set_ylabel("operations a second")
    legend(figure, panels)
    finish(figure, path, f"4 KiB random read {title}")


def latency(results, path, title):
    """4 KiB random reads one at a time: p50, p99 and p99.9 per device and way."""
    figure, panel = plt.subplots(figsize=(11, 5.5))
    lowest = min((one["depth"] for one in results), default=1)
    mine = chosen(results, size=SIZE, mix="read", depth=lowest)
    mine = [one for one in mine if one["way"] in ("bdevperf", "shm, 1 ch", "fio io_uring")]
    places = range(len(mine))
    for shift, (key, name) in enumerate(
            (("p50_us", "p50"), ("p99_us", "p99"), ("p99_9_us", "p99.9"))):
        bars = panel.bar([at + 0.29 * (shift - 1) for at in places],
                         [max(one[key], 0.01) for one in mine], width=0.27, label=name)
        panel.bar_label(bars, labels=[micros(one[key]) for one in mine], fontsize=8, padding=1)
    panel.set_xticks(list(places), [f"{one['device']}\n{one['way']}" for one in mine])
    panel.set_yscale("log")
    panel.margins(y=0.1)
    panel.yaxis.set_major_formatter(FuncFormatter(micros))
    panel.set_ylabel("microseconds, where no other unit is given")
    panel.grid(True, axis="y", alpha=0.3)
    panel.set_axisbelow(True)
    panel.legend(loc="upper left")
    finish(figure, path, f"Latency, 4 KiB random read, depth {lowest} {title}", 0)


def bandwidth(results, path, title):
    """The largest size over depth; a null device moves nothing."""
    sizes = list(dict.fromkeys(one["size"] for one in results))
    figure, panels = plt.subplots(1, 2, figsize=(11, 5))
    for panel, device in zip(panels, DEVICES[1:]):
        lines(panel, chosen(results, device=device, size=sizes[-1], mix="read"),
              lambda one: one["mib_per_s"] / 1024)
        panel.set_title(device)
    panels[0].set_ylabel("GiB/s")
    legend(figure, panels)
    finish(figure, path, f"{sizes[-1]} random read {title}")


def finish(figure, path, title, bottom=0.06):
    figure.suptitle(title)
    figure.tight_layout(rect=(0, bottom, 1, 1))
    figure.savefig(path, dpi=100)
    plt.close(figure)
