"""Command line of the suite; scripts/bench.sh builds first and calls this."""

import argparse
import os
import signal
import sys
import tempfile
import time

import bars
import machine
import matrix
import rows
import tools

FILE_BYTES = 512 << 20
HUGE_PAGES = 400


def prepare_files(folder, count):
    """Files with every block written, so that reads meet the disk."""
    paths = []
    for number in range(count):
        path = os.path.join(folder, f"bench{number}.img")
        with open(path, "wb") as file:
            piece = os.urandom(1 << 20)
            for _ in range(FILE_BYTES >> 20):
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        paths.append(path)
    return paths


def options():
    parser = argparse.ArgumentParser(prog="scripts/bench.sh", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a small matrix, under 5 minutes")
    parser.add_argument("--bars", action="store_true", help="the bar table instead of the matrix")
    parser.add_argument("--only", action="append", default=[],
                        help="with --bars: seam, second, instructions, file, shm, adaptive or "
                             "scale; several times")
    parser.add_argument("--into", default="",
                        help="with --bars: a file whose table is replaced, between the lines "
                             "bars:begin and bars:end")
    parser.add_argument("--out", default="", help="folder of the report")
    parser.add_argument("--runs", type=int, default=0, help="runs of each figure")
    parser.add_argument("--seconds", type=float, default=0, help="length of a run")
    parser.add_argument("--no-priority", action="store_true",
                        help="at the priority of everybody else")
    parser.add_argument("--binaries", required=True, help=argparse.SUPPRESS)
    return parser.parse_args()


def heading(facts, setup, args):
    huge = "2 MiB pages" if setup.huge else "ordinary pages"
    priority = ("ahead of all other work (chrt -f 1), those on files at nice -10"
                if setup.ahead else "at ordinary priority")
    return (f"{facts['time']}: {facts['processor']}, {facts['cores']} cores, "
            f"{facts['memory_gib']} GiB, {facts['hypervisor']}, Linux {facts['kernel']}, "
            f"file on {facts['file_system']}, {facts['fio']}, {facts['rust']}, commit "
            f"{facts['commit']}. Load average before {facts['load_average']:.1f}. Target on core "
            f"{setup.target_core}, load on core {setup.load_core}, buffers on {huge}, tools "
            f"{priority}. Median of {args.runs} runs of {args.seconds:g} s in alternating order.")


def main():
    args = options()
    args.runs = args.runs or (5 if args.bars else 1 if args.quick else 3)
    args.seconds = args.seconds or (1 if args.bars or not args.quick else 0.5)
    stamp = time.strftime("%Y%m%d-%H%M%S")
    out = args.out or os.path.join(os.path.dirname(args.binaries), "bench", stamp)
    os.makedirs(out, exist_ok=True)
    facts = machine.describe(out)
    prefixes = machine.priority_prefixes(not args.no_priority)
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="srpt-bench.", dir=out) as scratch, \
            tempfile.TemporaryDirectory(prefix="srpt-bench.") as sockets, \
            machine.HugePages(HUGE_PAGES) as pages:
        files = prepare_files(scratch, 1 if args.bars else 2)
        huge = pages.free() >= HUGE_PAGES
        setup = tools.Setup(args.binaries, sockets, prefixes, args.seconds, huge)
        facts |= {"huge_pages": huge, "priority": bool(prefixes[0]), "runs": args.runs,
                  "seconds": args.seconds}
        text = heading(facts, setup, args)
        print(text, flush=True)
        if args.bars:
            engine = os.path.join(args.binaries, "libsrpt_fio.so")
            lines = bars.measure(setup, args.runs, files[0], engine, args.only)
            found = {"machine": facts, "rows": [line.as_dict() for line in lines]}
            body = rows.table(lines)
        else:
            plan = matrix.QUICK if args.quick else matrix.FULL
            results = matrix.measure(setup, plan, args.runs, files, show)
            found = {"machine": facts, "results": results}
            body = matrix.table(results)
    machine.save(os.path.join(out, "report.json"), found)
    pictures = [] if args.bars else draw(found, out)
    with open(os.path.join(out, "report.md"), "w", encoding="utf-8") as file:
        shown = "".join(f"\n![{name}]({name})\n" for name in pictures)
        file.write(f"{text}\n\n{body}\n{shown}")
    if args.into:
        replace(args.into, f"{text}\n\n{body}\n")
    if not args.bars:
        print(body)
    print(f"{out}: report.md, report.json{''.join(', ' + name for name in pictures)}; "
          f"{time.monotonic() - started:.0f} s")
    if args.bars and not all(row["met"] for row in found["rows"]):
        print("not all bars are met")
        return 1
    return 0


def replace(path, body):
    """Puts a table in the place of the last one."""
    begin, end = "<!-- bars:begin -->\n", "<!-- bars:end -->\n"
    with open(path, encoding="utf-8") as file:
        before, _, rest = file.read().partition(begin)
    _, found, after = rest.partition(end)
    if not found:
        raise tools.Failed(f"{path}: no lines {begin.strip()} and {end.strip()}")
    with open(path, "w", encoding="utf-8") as file:
        file.write(f"{before}{begin}{body}{end}{after}")


def draw(found, out):
    import plots  # matplotlib is needed for the matrix only
    facts = found["machine"]
    title = f"({facts['processor']}, commit {facts['commit']})"
    drawn = [("iops.png", plots.over_depth), ("latency.png", plots.latency),
             ("bandwidth.png", plots.bandwidth)]
    for name, plot in drawn:
        plot(found["results"], os.path.join(out, name), title)
    return [name for name, _ in drawn]


def show(done, of, what):
    print(f"{done + 1}/{of} {what}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    # A request to stop ends like an error: what was changed or started is put back.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        sys.exit(main())
    except tools.Failed as error:
        sys.exit(f"bench: {error}")
