#!/usr/bin/env python3
"""Client for the JSON-RPC socket of srpt_tgt: one subcommand per method.

Prints the result on standard output. Exit codes: 0 done, 1 refused or not reached (the reason is on
standard error), 2 wrong command line.
"""

import argparse
import json
import os
import socket
import sys
import time

SOCKET = "/var/tmp/srpt_tgt.sock"
MIB = 1024 * 1024
RETRY_SECONDS = 0.2


class Refused(Exception):
    """The target's answer was an error, or there was no answer."""


class Client:
    """One connection."""

    def __init__(self, path, timeout, verbose, retries):
        self.timeout = timeout
        self.verbose = verbose
        self.number = 0
        self.rest = b""
        self.socket = self.connect(path, retries)

    def connect(self, path, retries):
        """A target that has just been started needs a moment for its socket."""
        for _ in range(retries):
            try:
                return self.connect_once(path)
            except Refused:
                time.sleep(RETRY_SECONDS)
        return self.connect_once(path)

    def connect_once(self, path):
        link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        link.settimeout(self.timeout)
        try:
            link.connect(path)
        except OSError as error:
            link.close()
            raise Refused(f"cannot connect to {path}: {error.strerror or error}") from error
        return link

    def call(self, method, params):
        self.number += 1
        request = {"jsonrpc": "2.0", "method": method, "id": self.number}
        if params:
            request["params"] = params
        if self.verbose:
            print("request:", json.dumps(request, indent=2), sep="\n", file=sys.stderr)
        try:
            self.socket.sendall(json.dumps(request).encode())
        except BrokenPipeError:
            pass  # The target has answered already and reads no further.
        except OSError as error:
            raise Refused(f"{method}: {error.strerror or error}") from error
        answer = self.receive(method)
        if self.verbose:
            print("response:", json.dumps(answer, indent=2), sep="\n", file=sys.stderr)
        if "error" in answer:
            error = answer["error"]
            raise Refused(f"{method}: {error['message']} (code {error['code']})")
        return answer["result"]

    def receive(self, method):
        """One answer is one line."""
        pieces = [self.rest]
        while b"\n" not in pieces[-1]:
            try:
                piece = self.socket.recv(65536)
            except TimeoutError as error:
                raise Refused(f"{method}: no answer within {self.timeout:g} s") from error
            except OSError as error:
                raise Refused(f"{method}: {error.strerror or error}") from error
            if not piece:
                raise Refused(f"{method}: the target closed the connection")
            pieces.append(piece)
        line, _, self.rest = b"".join(pieces).partition(b"\n")
        return json.loads(line)


def given(args, *names):
    """The parameters that are on the command line."""
    return {name: getattr(args, name) for name in names if getattr(args, name) is not None}


def as_json(result):
    print(json.dumps(result, indent=2))


def bare(result):
    print(result if isinstance(result, str) else json.dumps(result))


def quiet(_):
    pass


def positive_float(text):
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return value


def natural(text):
    """A number in decimal or, with 0x, hexadecimal."""
    try:
        value = int(text, 0)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text} is not a number") from None
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text} is negative")
    return value


class Commands:
    """Collects subcommands: a name, how its parameters are made, how its result is shown."""

    def __init__(self, parsers):
        self.parsers = parsers

    def add(self, method, text, params=lambda args: {}, show=as_json):
        parser = self.parsers.add_parser(method, help=text, description=text)
        parser.set_defaults(method=method, params=params, show=show)
        return parser

    def named(self, method, text, show=as_json):
        """One whose only parameter is a name."""
        parser = self.add(method, text, lambda args: given(args, "name"), show)
        parser.add_argument("name", help="its name")


def identity(parser):
    parser.add_argument("-u", "--uuid", help="identity; derived from host and name when absent")


def flag(parser, text, *names):
    parser.add_argument(*names, action="store_true", default=None, help=text)


def app_commands(commands):
    commands.add("spdk_get_version", "Show the version of the target")
    p = commands.add(
        "rpc_get_methods",
        "List the methods of the target",
        lambda args: {"current": args.current, "include_aliases": args.include_aliases},
    )
    p.add_argument("-c", "--current", action="store_true", help="only those allowed now")
    p.add_argument("-i", "--include-aliases", action="store_true", help="deprecated names too")
    p = commands.add(
        "rpc_get_schema", "Describe the methods", lambda args: given(args, "method")
    )
    p.add_argument("-m", "--method", help="only this one")
    commands.add(
        "framework_start_init", "Start the subsystems (they are started already)", show=quiet
    )
    commands.add("framework_wait_init", "Wait until the subsystems are started", show=quiet)
    p = commands.add(
        "spdk_kill_instance",
        "Send a signal to the target; SIGTERM stops it in order",
        lambda args: given(args, "sig_name"),
        quiet,
    )
    p.add_argument("sig_name", help="SIGINT, SIGTERM, SIGQUIT, SIGHUP, SIGKILL or SIGUSR1")
    for method, what in (("log_set_level", "log"), ("log_set_print_level", "print")):
        p = commands.add(method, f"Set the {what} level", lambda args: given(args, "level"), quiet)
        p.add_argument("level", help="ERROR, WARNING, NOTICE, INFO or DEBUG")
    commands.add("log_get_level", "Show the log level")
    commands.add("log_get_print_level", "Show the print level")
    commands.add("framework_get_reactors", "Show the cores and their times")
    commands.add("thread_get_stats", "Show busy and idle times of the threads")
    commands.add("thread_get_pollers", "Show the pollers of the threads")
    commands.add("thread_get_io_channels", "Show the I/O channels of the threads")
    commands.add("iobuf_get_stats", "Show free I/O buffers")
    commands.add("srpt_get_stats", "Show buffers, slots and counters of every core")


def config_params(args):
    with args.json_conf as file:
        try:
            return json.load(file)
        except json.JSONDecodeError as error:
            raise Refused(f"load_config: {file.name}: {error}") from error


def show_config(args):
    indent = args.indent if args.indent >= 0 else None
    return lambda result: print(json.dumps(result, indent=indent))


def config_commands(commands):
    commands.add("framework_get_subsystems", "List the parts of a configuration")
    p = commands.add(
        "framework_get_config",
        "Show one part of the configuration",
        lambda args: given(args, "name"),
    )
    p.add_argument("name", help="bdev or srpt")
    p = commands.add("save_config", "Write the configuration, as --config and load_config read it")
    p.add_argument(
        "-i", "--indent", type=int, default=2, help="spaces per level; negative: one line"
    )
    p.set_defaults(show_with=show_config)
    p = commands.add(
        "load_config", "Load a configuration of at most 1 MiB: all or nothing", config_params, quiet
    )
    p.add_argument(
        "-j",
        "--json-conf",
        metavar="FILE",
        type=argparse.FileType("r"),
        default=sys.stdin,
        help="file; standard input when absent",
    )


def sized(args, *names):
    """Parameters of a bdev whose size is given in MiB."""
    # The target refuses a block size that can't be divided by, and says why.
    blocks = int(args.total_size * MIB / args.block_size) if args.block_size > 0 else 1
    params = {"num_blocks": blocks, "block_size": args.block_size}
    params.update(given(args, "physical_block_size", "name", "uuid", *names))
    return params


def bdev_commands(commands):
    p = commands.add(
        "bdev_null_create",
        "Create a bdev without data",
        lambda args: sized(args, "dummy", "read_zero"),
        bare,
    )
    flag(p, "show initiators nothing connected", "--dummy")
    flag(p, "reads write zeros into memory", "--read-zero")
    identity(p)
    p.add_argument("-p", "--physical-block-size", type=int, help="bytes of a physical block")
    p.add_argument("name", help="its name")
    p.add_argument("total_size", type=positive_float, help="size in MiB")
    p.add_argument("block_size", type=int, help="bytes of a block, 512 to 32768")

    p = commands.add(
        "bdev_malloc_create", "Create a bdev in memory", lambda args: sized(args, "numa_id"), bare
    )
    p.add_argument("--numa-id", type=int, help="memory node to prefer; any when absent")
    p.add_argument("-b", "--name", help="its name; Malloc0 and so on when absent")
    identity(p)
    p.add_argument("-p", "--physical-block-size", type=int, help="bytes of a physical block")
    p.add_argument("total_size", type=positive_float, help="size in MiB")
    p.add_argument("block_size", type=int, help="bytes of a block, 512 to 32768")

    p = commands.add(
        "bdev_uring_create", "Create a bdev of a file or block device", uring_params, bare
    )
    identity(p)
    flag(p, "refuse writes", "-r", "--read-only")
    flag(p, "share it with others that say so too", "--shared")
    p.add_argument("--serial", help="serial number that initiators see; the UUID when absent")
    p.add_argument("--direct", choices=["auto", "on", "off"], help="bypass the page cache")
    p.add_argument(
        "--write-cache", choices=["on", "off"], help="off: put every write on stable storage"
    )
    p.add_argument(
        "--no-write-cache",
        dest="write_cache",
        action="store_const",
        const="off",
        help="the same as --write-cache off",
    )
    flag(p, "a kernel thread per core takes submissions", "--sq-poll")
    flag(p, "poll the device for the ends of reads and writes", "--io-poll")
    p.add_argument(
        "--rotational", action=argparse.BooleanOptionalAction, help="a spinning disk or not"
    )
    p.add_argument("filename", help="path of the file or block device")
    p.add_argument("name", help="its name")
    p.add_argument("block_size", type=natural, nargs="?", help="bytes of a block; chosen if absent")

    commands.named("bdev_uring_rescan", "Look at the size of a file or block device again", quiet)

    p = commands.add(
        "bdev_sg_create", "Create a bdev of a SCSI device that is passed through", sg_params, bare
    )
    p.add_argument("-b", "--name", help="its name; Sg0 and so on when absent")
    identity(p)
    p.add_argument("-t", "--timeout-ms", type=natural, help="when a command is given up")
    p.add_argument("filename", help="any node of the device: /dev/sgN, /dev/sdX, /dev/stN")

    for kind in ("null", "malloc", "uring", "sg", "passthru", "delay", "error"):
        what = f"Delete a {kind} bdev that neither a LUN nor a bdev uses"
        commands.named(f"bdev_{kind}_delete", what, quiet)

    p = commands.add(
        "bdev_null_resize",
        "Change the size of a null bdev",
        lambda args: given(args, "name", "new_size"),
    )
    p.add_argument("name", help="its name")
    p.add_argument("new_size", type=natural, help="size in MiB")

    p = commands.add("bdev_get_bdevs", "Show bdevs", lambda args: given(args, "name", "timeout"))
    p.add_argument("-b", "--name", help="only this one, by name or UUID")
    p.add_argument(
        "-t", "--timeout-ms", dest="timeout", type=natural, help="milliseconds to wait for it"
    )

    p = commands.add("bdev_get_iostat", "Show I/O counts of bdevs", iostat_params)
    p.add_argument("-b", "--name", "--names", dest="names", nargs="+", help="only these")
    p.add_argument("-c", "--per-channel", action="store_true", help="one bdev, per core")
    p.add_argument("--reset-mode", choices=["none", "all", "maxmin"], help="what to start anew")

    p = commands.add(
        "bdev_reset_iostat",
        "Start I/O counts of bdevs anew",
        lambda args: given(args, "name", "mode"),
    )
    p.add_argument("-b", "--name", help="only this one")
    p.add_argument("-m", "--mode", choices=["all", "maxmin"], help="what to start anew")


LIMITS = (
    ("rw-ios-per-sec", "reads and writes per second"),
    ("rw-mbytes-per-sec", "MiB read and written per second"),
    ("r-mbytes-per-sec", "MiB read per second"),
    ("w-mbytes-per-sec", "MiB written per second"),
)


def meter_commands(commands):
    p = commands.add(
        "bdev_set_qos_limit",
        "Limit the rate of a bdev",
        lambda args: given(args, "name", *(n.replace("-", "_") for n, _ in LIMITS)),
        quiet,
    )
    p.add_argument("name", help="its name")
    for name, text in LIMITS:
        p.add_argument(f"--{name}", type=natural, help=f"{text}; 0: no limit, absent: as it is")

    p = commands.add(
        "bdev_enable_histogram",
        "Count how long operations of a bdev take",
        lambda args: {"enable": args.enable, **given(args, "name", "opc")},
        quiet,
    )
    p.add_argument("-e", "--histogram", dest="enable", action="store_true", help="begin, anew")
    p.add_argument("-d", "--no-histogram", dest="enable", action="store_false", help="stop")
    p.add_argument("-o", "--opc", help="only read, write, unmap, flush or write_zeroes")
    p.add_argument("name", help="its name")
    p.set_defaults(enable=True)

    commands.named(
        "bdev_get_histogram", "Show how long operations of a bdev took, for histogram.py of SPDK"
    )


def stacked_bdev_commands(commands):
    p = commands.add(
        "bdev_passthru_create",
        "Create a bdev that hands everything on to another one",
        lambda args: given(args, "base_bdev_name", "name", "uuid"),
        bare,
    )
    p.add_argument("-b", "--base-bdev-name", required=True, help="name of the bdev below")
    p.add_argument("-p", "--name", required=True, help="its name")
    identity(p)

    p = commands.add(
        "bdev_delay_create", "Create a bdev that makes another one slow", delay_params, bare
    )
    p.add_argument("-b", "--base-bdev-name", required=True, help="name of the bdev below")
    p.add_argument("-d", "--delay-bdev-name", dest="name", required=True, help="its name")
    identity(p)
    for letter, option, dest, text in (
        ("-r", "--avg-read-latency", "avg_read_latency", "of 99 reads in 100"),
        ("-t", "--nine-nine-read-latency", "p99_read_latency", "of 1 read in 100"),
        ("-w", "--avg-write-latency", "avg_write_latency", "of 99 writes in 100"),
        ("-n", "--nine-nine-write-latency", "p99_write_latency", "of 1 write in 100"),
    ):
        p.add_argument(
            letter, option, dest=dest, type=natural, required=True, help=f"microseconds {text}"
        )

    p = commands.add(
        "bdev_delay_update_latency",
        "Change one latency of a delay bdev",
        lambda args: given(args, "delay_bdev_name", "latency_type", "latency_us"),
    )
    p.add_argument("delay_bdev_name", help="its name")
    p.add_argument("latency_type", help="avg_read, p99_read, avg_write or p99_write")
    p.add_argument("latency_us", type=natural, help="microseconds")

    p = commands.add(
        "bdev_error_create",
        "Create a bdev EE_NAME that makes another one, NAME, fail on demand",
        lambda args: given(args, "base_name", "uuid"),
    )
    p.add_argument("--uuid", help="identity; derived from host and name when absent")
    p.add_argument("base_name", help="name of the bdev below")

    p = commands.add(
        "bdev_error_inject_error", "Make operations of an error bdev fail", inject_params, quiet
    )
    p.add_argument("name", help="its name")
    p.add_argument("io_type", help="read, write, unmap, flush, write_zeroes, all, or clear: none")
    p.add_argument("error_type", help="failure, pending or corrupt_data")
    p.add_argument("-n", "--num", type=natural, help="how many operations; one when absent")
    p.add_argument(
        "-q", "--queue-depth", type=natural, help="only while so many are under way on a core"
    )
    p.add_argument("-o", "--corrupt-offset", type=natural, help="place of the byte to change")
    p.add_argument("-v", "--corrupt-value", type=natural, help="exclusive-or with it, 1 to 255")

    commands.named(
        "bdev_error_resume_pending", "Let the pending operations of an error bdev go on", quiet
    )


def delay_params(args):
    latencies = ("avg_read_latency", "p99_read_latency", "avg_write_latency", "p99_write_latency")
    return given(args, "base_bdev_name", "name", "uuid", *latencies)


def inject_params(args):
    optional = ("num", "queue_depth", "corrupt_offset", "corrupt_value")
    return given(args, "name", "io_type", "error_type", *optional)


def uring_params(args):
    names = ("name", "block_size", "uuid", "serial", "read_only", "shared", "direct")
    more = ("write_cache", "rotational", "sq_poll", "io_poll")
    return {"filename": os.path.abspath(args.filename), **given(args, *names, *more)}


def sg_params(args):
    names = ("name", "timeout_ms", "uuid")
    return {"filename": os.path.abspath(args.filename), **given(args, *names)}


def iostat_params(args):
    return {"per_channel": args.per_channel, **given(args, "reset_mode", "names")}


OPTIONS = (
    ("srp-max-req-size", natural, "largest IU from an initiator, 996 to 65536 bytes"),
    ("srp-max-rsp-size", natural, "largest IU to an initiator, 54 to 8276 bytes"),
    ("srp-max-rdma-size", natural, "advertised transfer size, 256 to 16777216 bytes"),
    ("srpt-srq-size", natural, "receives of a shared receive queue, 4 to 65535"),
    ("srpt-sq-size", natural, "send work requests of a connection, 16 to 65535"),
    ("srpt-service-guid", str, "service GUID of targets created without one; 0: derived"),
    ("rdma-cm-port", natural, "port of rdma listeners without one; 0: none"),
)


def option_commands(commands):
    flags = ["use_srq", "channels_in_order"]
    names = [name.replace("-", "_") for name, _, _ in OPTIONS] + flags
    p = commands.add(
        "srpt_set_options",
        "Set parameters of ib_srpt; sizes only before the first rdma listener",
        lambda args: given(args, *names),
        quiet,
    )
    for name, kind, text in OPTIONS:
        p.add_argument(f"--{name}", type=kind, help=text)
    p.add_argument(
        "--use-srq",
        action=argparse.BooleanOptionalAction,
        help="connections of a core and device share their receives",
    )
    p.add_argument(
        "--channels-in-order",
        action=argparse.BooleanOptionalAction,
        help="channel k of an rdma session goes to the k-th core after its first",
    )
    commands.add("srpt_get_options", "Show the parameters of ib_srpt")


def target_commands(commands):
    p = commands.add(
        "srpt_create_target",
        "Create a target",
        lambda args: given(args, "name", "service_guid", "relative_port"),
        quiet,
    )
    p.add_argument("name", help="its name")
    p.add_argument("-g", "--service-guid", help="16 hexadecimal digits; derived from host and name")
    p.add_argument("-p", "--relative-port", type=natural, help="1 to 65535; lowest free if absent")

    commands.named("srpt_delete_target", "Delete a target, ending its sessions", quiet)

    p = commands.add("srpt_get_targets", "Show targets", lambda args: given(args, "name"))
    p.add_argument("name", nargs="?", help="only this one")

    for method, text in (
        ("srpt_add_listener", "Let initiators reach a target"),
        ("srpt_remove_listener", "End a listener; its sessions stay"),
    ):
        p = commands.add(
            method, text, lambda args: given(args, "target", "trtype", "traddr", "trsvcid"), quiet
        )
        p.add_argument("target", help="name of the target")
        p.add_argument("-t", "--trtype", required=True, help="shm or rdma")
        p.add_argument("-a", "--traddr", required=True, help="socket path; address, ib or ib:GID")
        p.add_argument("-s", "--trsvcid", help="port, for rdma; rdma_cm_port if absent")

    p = commands.add(
        "srpt_map_lun",
        "Show a bdev to the initiators of a target; prints the LUN",
        lambda args: given(
            args, "target", "lun", "bdev_name", "read_only", "vendor", "product", "serial"
        ),
        bare,
    )
    p.add_argument("target", help="name of the target")
    p.add_argument("bdev_name", help="name of the bdev")
    p.add_argument("-l", "--lun", type=natural, help="0 to 16383; lowest free when absent")
    flag(p, "refuse writes", "-r", "--read-only")
    p.add_argument("--vendor", help="T10 vendor identification, up to 8 characters")
    p.add_argument("--product", help="product identification, up to 16 characters")
    p.add_argument("--serial", help="unit serial number, up to 36 characters")

    p = commands.add(
        "srpt_unmap_lun", "Take a LUN away", lambda args: given(args, "target", "lun"), quiet
    )
    p.add_argument("target", help="name of the target")
    p.add_argument("lun", type=natural, help="LUN")

    p = commands.add("srpt_get_sessions", "Show sessions", lambda args: given(args, "target"))
    p.add_argument("target", nargs="?", help="only those of this target")

    p = commands.add(
        "srpt_disconnect_session", "End a session", lambda args: given(args, "session"), quiet
    )
    p.add_argument("session", type=natural, help="its id, as srpt_get_sessions shows it")

    p = commands.add(
        "srpt_get_login_info",
        "Show what an initiator needs to log in",
        lambda args: given(args, "target"),
    )
    p.add_argument("target", help="name of the target")


def agent_commands(commands):
    for method, text in (
        ("srpt_enable_dm_agent", "Answer device management datagrams (srp_daemon) at a port"),
        ("srpt_disable_dm_agent", "Stop answering device management datagrams at a port"),
    ):
        p = commands.add(method, text, lambda args: given(args, "device", "port"), quiet)
        p.add_argument("device", help="RDMA device, such as mlx5_0")
        p.add_argument("port", type=natural, nargs="?", default=1, help="port, 1 if absent")
    commands.add("srpt_get_dm_agents", "Show ports that answer device management datagrams")


def command_line():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument(
        "-s", dest="socket", metavar="PATH", default=SOCKET, help=f"Unix socket, {SOCKET} if absent"
    )
    parser.add_argument(
        "-t",
        dest="rpc_timeout",
        metavar="SECONDS",
        type=positive_float,
        default=60.0,
        help="time for an answer, 60 if absent",
    )
    parser.add_argument(
        "-r",
        dest="retries",
        metavar="TIMES",
        type=natural,
        default=0,
        help="try again to connect, this often, every 0.2 s; 0 if absent",
    )
    parser.add_argument(
        "-v", dest="verbose", action="store_true", help="show requests and answers on stderr"
    )
    commands = Commands(parser.add_subparsers(title="methods", metavar="METHOD", required=True))
    app_commands(commands)
    config_commands(commands)
    bdev_commands(commands)
    stacked_bdev_commands(commands)
    meter_commands(commands)
    option_commands(commands)
    target_commands(commands)
    agent_commands(commands)
    return parser


def main():
    args = command_line().parse_args()
    show = args.show_with(args) if "show_with" in args else args.show
    try:
        params = args.params(args)
        client = Client(args.socket, args.rpc_timeout, args.verbose, args.retries)
        show(client.call(args.method, params))
    except Refused as refused:
        print(f"rpc.py: {refused}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        sys.stderr.close()
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
