#!/usr/bin/env python3
"""Client for the JSON-RPC socket of srpt_tgt: one subcommand per method.

Prints the result on standard output. Without a method, commands are read from a file or standard
input, one a line, and go over one connection; the first that fails ends it. Exit codes: 0 done, 1
refused or not reached (the reason is on standard error), 2 wrong command line.
"""

import argparse
import json
import re
import shlex
import socket
import sys
import time

import rpc_commands

SOCKET = "/var/tmp/srpt_tgt.sock"
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


class Parser(argparse.ArgumentParser):
    """Says which method is meant when there is none of a name."""

    known = ()

    def error(self, message):
        wrong = re.match(r"argument METHOD: invalid choice: '(.*?)'", message)
        if wrong:
            hint = rpc_commands.did_you_mean(wrong.group(1), self.known)
            message = f"there is no method {wrong.group(1)}{hint}"
        super().error(message)


def command_line():
    """The parser, and those of the methods by name."""
    table = rpc_commands.table()
    parser = Parser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument(
        "-s", dest="socket", metavar="PATH", default=SOCKET, help=f"Unix socket, {SOCKET} if absent"
    )
    parser.add_argument(
        "-t",
        dest="rpc_timeout",
        metavar="SECONDS",
        type=rpc_commands.positive_float,
        default=60.0,
        help="time for an answer, 60 if absent",
    )
    parser.add_argument(
        "-r",
        dest="retries",
        metavar="TIMES",
        type=rpc_commands.natural,
        default=0,
        help="try again to connect, this often, every 0.2 s; 0 if absent",
    )
    parser.add_argument(
        "-v", dest="verbose", action="store_true", help="show requests and answers on stderr"
    )
    parser.add_argument(
        "-f",
        "--file",
        metavar="FILE",
        help="read commands from a file, - for standard input; a line with # in front is a comment",
    )
    parser.add_argument(
        "-k", "--keep-going", action="store_true", help="go on after a command that failed"
    )
    parser.add_argument(
        "--completion", choices=["bash"], help="print a script that completes words, and end"
    )
    parser.add_argument("-V", "--version", action="version", version=f"rpc.py {table['version']}")
    parsers = parser.add_subparsers(title="methods", metavar="METHOD", parser_class=Parser)
    methods = rpc_commands.add_methods(parsers, table["methods"])
    parser.known = list(methods)
    return parser, methods


def parse(parser, methods, words):
    """The arguments of one command line. Ends the process, or raises SystemExit, if it is wrong."""
    args, rest = parser.parse_known_args(words)
    if rest:
        own = methods.get(getattr(args, "method", None), parser)
        known = [option for action in own._actions for option in action.option_strings]
        hint = rpc_commands.did_you_mean(rest[0], known)
        own.error(f"unrecognized arguments: {' '.join(rest)}{hint}")
    return args


def connect(args):
    return Client(args.socket, args.rpc_timeout, args.verbose, args.retries)


def run(client, args):
    rpc_commands.show(args, client.call(args.method, args.params(args)))


def commands_of(file):
    """Lines with commands, with their numbers."""
    for number, line in enumerate(file, 1):
        try:
            words = [] if line.lstrip().startswith("#") else shlex.split(line)
        except ValueError as error:
            words = error
        if words:
            yield number, words


def batch(parser, methods, args):
    """Carries out the commands of a file; the exit code."""
    name = "standard input" if args.file in (None, "-") else args.file
    try:
        file = sys.stdin if args.file in (None, "-") else open(args.file, encoding="utf-8")
    except OSError as error:
        raise Refused(f"cannot read {name}: {error.strerror}") from error
    client, code = None, 0
    with file:
        for number, words in commands_of(file):
            try:
                if isinstance(words, ValueError):
                    raise Refused(f"{words}")
                command = parse(parser, methods, words)
                if "method" not in command:
                    raise Refused("there is no method in this line")
                if getattr(command, "json_conf", None) is sys.stdin:
                    raise Refused("load_config needs -j here: commands come from elsewhere")
                client = client or connect(args)
                run(client, command)
                continue
            except (Refused, rpc_commands.WrongInput) as refused:
                failed, reason = 1, f": {refused}"
            except SystemExit as wrong:
                if not wrong.code:
                    continue  # It asked for help.
                failed, reason = wrong.code, ": this command line is wrong"
            print(f"rpc.py: {name}, line {number}{reason}", file=sys.stderr)
            code = code or failed
            if not args.keep_going:
                break
    return code


def main():
    parser, methods = command_line()
    args = parse(parser, methods, sys.argv[1:])
    try:
        if args.completion:
            print(rpc_commands.completion("rpc.py", parser, methods), end="")
        elif "method" in args:
            if args.file:
                parser.error("a method and -f do not go together")
            params = args.params(args)
            rpc_commands.show(args, connect(args).call(args.method, params))
        elif args.file is None and sys.stdin.isatty():
            parser.error("the following arguments are required: METHOD")
        else:
            return batch(parser, methods, args)
    except (Refused, rpc_commands.WrongInput) as refused:
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
