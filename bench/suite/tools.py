"""The programs that measure, each call one run and its figures."""

import json
import os
import signal
import socket
import subprocess
import time

PATTERNS = {"read": "randread", "write": "randwrite", "mixed": "randrw"}
RAM_BYTES = 64 << 20
NULL_BYTES = 1 << 40


class Failed(Exception):
    """A tool did not do what it was asked."""


class Setup:
    """Where things are, and who runs where."""

    def __init__(self, binaries, scratch, prefixes, seconds, huge):
        self.binaries = binaries
        self.scratch = scratch
        self.ahead, self.favoured = prefixes
        self.seconds = seconds
        self.huge = huge
        cores = sorted(os.sched_getaffinity(0))
        self.target_core, self.load_core = cores[0], cores[-1]
        self.cores = cores

    def mask(self, *cores):
        return hex(sum(1 << core for core in cores))

    def pages(self):
        return [] if self.huge else ["--no-huge"]

    def run(self, command, timeout=120, ahead=True):
        prefix = self.ahead if ahead else self.favoured
        done = subprocess.run([*prefix, *command], capture_output=True, text=True,
                              timeout=timeout, check=False)
        if done.returncode != 0:
            raise Failed(f"{' '.join(command)}: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout


def figures(report):
    """Of a JSON report of srpt_perf or bdevperf."""
    total = report["total"]
    us = total["latency_us"]
    return {"iops": total["iops"], "mib_per_s": total["mib_per_s"], "p50_us": us["p50"],
            "p99_us": us["p99"], "p99_9_us": us["p99_9"]}


def job_options(size, mix, depth, read_percent=70):
    return ["-o", size, "-w", PATTERNS.get(mix, mix), "-M", str(read_percent), "-q", str(depth)]


def bdevperf(setup, device, size, mix, depth, *more, cores=None, config=None):
    """In this machine's memory, straight on the device."""
    command = [f"{setup.binaries}/bdevperf", *job_options(size, mix, depth),
               "-t", str(setup.seconds), "-m", setup.mask(*(cores or [setup.load_core])),
               *setup.pages(), "--json", *more]
    if config:
        command += ["-c", config]
    devices = [device] if isinstance(device, str) else device
    # A loop ahead of all other work on its core would keep the kernel's from ending I/O there.
    is_file = bool(config) or any(one.startswith("file:") for one in devices)
    for one in devices:
        command += ["-b", one]
    report = json.loads(setup.run(command, ahead=not is_file))
    return figures(report) | {"cores": report["cores"]}


def memcpy(setup, size, mix, core=None):
    """The copies alone, on the load's core unless another one is named."""
    command = [f"{setup.binaries}/bdevperf", *job_options(size, mix, 32), "-t", str(setup.seconds),
               "-m", setup.mask(setup.load_core if core is None else core), *setup.pages(),
               "--memcpy", str(RAM_BYTES), "--json"]
    return figures(json.loads(setup.run(command)))


def round_trip_ns(setup):
    """What a cache line costs from the target's core to the load's and back."""
    return float(setup.run([f"{setup.binaries}/examples/round_trip", str(setup.target_core),
                            str(setup.load_core)]))


def srpt_perf(setup, address, lun, size, mix, depth, channels=1, ahead=True):
    """Through the target, from the other core."""
    command = [f"{setup.binaries}/srpt_perf", "--target", address, "-l", str(lun),
               *job_options(size, mix, depth), "-t", str(setup.seconds), "-c", str(channels),
               "-P", str(setup.load_core), "--json"]
    return figures(json.loads(setup.run(command, ahead=ahead)))


def fio(setup, filename, size, mix, depth, *more, engine="io_uring", seconds=None):
    """fio on one core; its own engine on the file itself unless another one is named."""
    runtime = seconds or max(1, round(setup.seconds))
    own = ["--fixedbufs=1", "--registerfiles=1"] if engine == "io_uring" else []
    command = ["fio", "--name=job", f"--filename={filename}", f"--ioengine={engine}", *own,
               "--direct=1", "--thread", f"--cpus_allowed={setup.load_core}",
               f"--rw={PATTERNS.get(mix, mix)}", "--rwmixread=70", f"--bs={size}",
               f"--iodepth={depth}", "--norandommap", "--randrepeat=1", "--time_based",
               f"--runtime={runtime}", "--output-format=json", *more]
    text = setup.run(command, ahead=False)
    job = json.loads(text[text.index("{"):])["jobs"][0]
    sides = [job[side] for side in ("read", "write") if job[side]["total_ios"]]
    busiest = max(sides, key=lambda side: side["total_ios"])
    at = busiest["clat_ns"].get("percentile", {})
    point = lambda name: at.get(name, 0) / 1e3
    return {"iops": sum(side["iops"] for side in sides),
            "mib_per_s": sum(side["bw_bytes"] for side in sides) / 1048576,
            "p50_us": point("50.000000"), "p99_us": point("99.000000"),
            "p99_9_us": point("99.900000")}


def call(path, method, params=None):
    """One JSON-RPC call."""
    with socket.socket(socket.AF_UNIX) as link:
        link.connect(path)
        request = {"jsonrpc": "2.0", "id": 1, "method": method}
        if params:
            request["params"] = params
        link.sendall(json.dumps(request).encode() + b"\n")
        answer = b""
        while not answer.endswith(b"\n"):
            piece = link.recv(65536)
            if not piece:
                break
            answer += piece
    answer = json.loads(answer)
    if "error" in answer:
        raise Failed(f"{method}: {answer['error']}")
    return answer["result"]


def entry(method, **params):
    return {"method": method, "params": params}


def bdev_entries(file=None, read_only=False):
    """Null, memory and file devices of 512-byte blocks."""
    made = [entry("bdev_null_create", name="Null0", num_blocks=NULL_BYTES // 512, block_size=512),
            entry("bdev_malloc_create", name="Malloc0", num_blocks=RAM_BYTES // 512,
                  block_size=512)]
    if file:
        made.append(entry("bdev_uring_create", name="File0", filename=file, block_size=512,
                          read_only=read_only))
    return made


class Target:
    """A running target with LUN 0 null, 1 memory and 2 a file, over shared memory."""

    def __init__(self, setup, file=None, read_only=False, options=(), more=((), ()), ahead=True):
        self.setup = setup
        self.rpc_path = f"{setup.scratch}/rpc.sock"
        self.path = f"{setup.scratch}/srp.sock"
        self.address = f"shm:{self.path}"
        config = f"{setup.scratch}/target.json"
        luns = ["Null0", "Malloc0"] + (["File0"] if file else [])
        srpt = [entry("srpt_create_target", name="bench")]
        srpt += [entry("srpt_map_lun", target="bench", bdev_name=bdev, lun=lun)
                 for lun, bdev in enumerate(luns)]
        more_bdevs, more_luns = more
        srpt += more_luns
        srpt.append(entry("srpt_add_listener", target="bench", trtype="shm",
                          traddr=self.path))
        with open(config, "w", encoding="utf-8") as out:
            json.dump({"subsystems": [
                {"subsystem": "bdev", "config": bdev_entries(file, read_only) + [*more_bdevs]},
                {"subsystem": "srpt", "config": srpt}]}, out)
        self.log = open(f"{setup.scratch}/target.log", "w", encoding="utf-8")
        prefix = [*setup.favoured, *(setup.ahead if ahead else [])]
        command = [*prefix, f"{setup.binaries}/srpt_tgt", "-m",
                   setup.mask(setup.target_core), "-s", "256", *setup.pages(), "-r",
                   self.rpc_path, "-c", config, *options]
        self.process = subprocess.Popen(command, stdout=self.log, stderr=self.log)
        try:
            self.wait_ready()
            # What was never written would read from one page of zeros.
            srpt_perf(setup, self.address, 1, "1m", "write", 8)
        except BaseException:
            self.stop()
            raise

    def wait_ready(self):
        until = time.monotonic() + 30
        while time.monotonic() < until:
            if self.process.poll() is not None:
                break
            try:
                call(self.rpc_path, "rpc_get_methods")
                return
            except OSError:
                time.sleep(0.05)
        with open(self.log.name, encoding="utf-8") as log:
            raise Failed(f"the target did not start: {log.read()[-2000:]}")

    def run_ahead(self, ahead):
        """As started with `ahead`, for all threads from now on."""
        if not self.setup.ahead:
            return
        for task in map(int, os.listdir(f"/proc/{self.process.pid}/task")):
            policy = os.SCHED_FIFO if ahead else os.SCHED_OTHER
            os.sched_setscheduler(task, policy, os.sched_param(1 if ahead else 0))
            os.setpriority(os.PRIO_PROCESS, task, 0 if ahead else -10)

    def reactor(self):
        """Thread of the core."""
        for task in os.listdir(f"/proc/{self.process.pid}/task"):
            with open(f"/proc/{self.process.pid}/task/{task}/comm", encoding="utf-8") as file:
                if file.read().startswith("reactor_"):
                    return int(task)
        raise Failed("no reactor thread")

    def reactor_ticks(self):
        """Clock ticks that the core's thread has used, user and system."""
        path = f"/proc/{self.process.pid}/task/{self.reactor()}/stat"
        with open(path, encoding="utf-8") as file:
            fields = file.read().rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])

    def ios(self):
        """Reads of all devices so far."""
        stats = call(self.rpc_path, "bdev_get_iostat")
        return sum(bdev["num_read_ops"] for bdev in stats["bdevs"])

    def wait_sessions(self, count):
        """Until so many are logged in."""
        until = time.monotonic() + 60
        while len(call(self.rpc_path, "srpt_get_sessions")) < count:
            if time.monotonic() > until:
                raise Failed(f"there are no {count} sessions after 60 s")
            time.sleep(0.1)

    def pause(self):
        """Takes the target off its core until resume."""
        self.process.send_signal(signal.SIGSTOP)

    def resume(self):
        self.process.send_signal(signal.SIGCONT)

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.terminate()
            try:
                self.process.wait(5)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.log.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()
