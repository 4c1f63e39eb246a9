"""Subcommands for the methods of srpt_tgt, made of rpc_methods.json.

rpc_methods.json is what rpc_get_schema shows; a test of the target keeps the file up to date. What
stands here is only what a command line needs besides: which parameters have no option in front,
short options, and the few that are given in another form than the method takes.
"""

import argparse
import contextlib
import difflib
import json
import os
import stat
import sys
import tempfile
import textwrap

MIB = 1024 * 1024
DEST = "param_"

# Words of the command line. A bare word is a parameter without an option in front, in this order;
# "-x:parameter" is one more option for a parameter, besides --parameter.
WORDS = {
    "rpc_get_methods": "-c:current -i:include_aliases",
    "rpc_get_schema": "-m:method",
    "spdk_kill_instance": "sig_name",
    "log_set_level": "level",
    "log_set_print_level": "level",
    "framework_get_config": "name",
    "bdev_null_create": "-u:uuid -p:physical_block_size name num_blocks block_size",
    "bdev_null_delete": "name",
    "bdev_null_resize": "name new_size",
    "bdev_malloc_create": (
        "-b:name -u:uuid -p:physical_block_size -n:numa_id num_blocks block_size"
    ),
    "bdev_malloc_delete": "name",
    "bdev_uring_create": "-u:uuid -r:read_only filename name block_size",
    "bdev_uring_delete": "name",
    "bdev_uring_rescan": "name",
    "bdev_sg_create": "-b:name -u:uuid -t:timeout_ms filename",
    "bdev_sg_delete": "name",
    "bdev_get_bdevs": "-b:name -t:timeout --timeout-ms:timeout",
    "bdev_passthru_create": "-b:base_bdev_name -p:name -u:uuid",
    "bdev_passthru_delete": "name",
    "bdev_delay_create": (
        "-b:base_bdev_name -d:name --delay-bdev-name:name -u:uuid -r:avg_read_latency"
        " -t:p99_read_latency --nine-nine-read-latency:p99_read_latency -w:avg_write_latency"
        " -n:p99_write_latency --nine-nine-write-latency:p99_write_latency"
    ),
    "bdev_delay_delete": "name",
    "bdev_delay_update_latency": "delay_bdev_name latency_type latency_us",
    "bdev_error_create": "base_name",
    "bdev_error_delete": "name",
    "bdev_error_inject_error": (
        "name io_type error_type -n:num -q:queue_depth -o:corrupt_offset -v:corrupt_value"
    ),
    "bdev_error_resume_pending": "name",
    "bdev_get_iostat": "-b:names --name:names -c:per_channel",
    "bdev_reset_iostat": "-b:name -m:mode",
    "bdev_set_qos_limit": "name",
    "bdev_enable_histogram": "name -o:opc",
    "bdev_get_histogram": "name",
    "srpt_create_target": "name -g:service_guid -p:relative_port",
    "srpt_delete_target": "name",
    "srpt_get_targets": "name",
    "srpt_add_listener": "target -t:trtype -a:traddr -s:trsvcid",
    "srpt_remove_listener": "target -t:trtype -a:traddr -s:trsvcid",
    "srpt_get_login_info": "target",
    "srpt_map_lun": "target bdev_name -l:lun -r:read_only",
    "srpt_unmap_lun": "target lun",
    "srpt_get_sessions": "target",
    "srpt_disconnect_session": "session",
    "srpt_enable_dm_agent": "device port",
    "srpt_disable_dm_agent": "device port",
}

# Methods that answer `true` and whose answer is printed nevertheless, as SPDK's client does.
LOUD = {"bdev_null_resize", "bdev_delay_update_latency", "bdev_error_create", "bdev_reset_iostat"}


class WrongInput(Exception):
    """What is not a parameter of the method is wrong, such as a file."""


def table():
    """What rpc_get_schema shows."""
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "rpc_methods.json")
    with open(path, encoding="utf-8") as file:
        return json.load(file)


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


def whole(text):
    """A number in decimal or, with 0x, hexadecimal."""
    try:
        return int(text, 0)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text} is not a number") from None


def natural(text):
    value = whole(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text} is negative")
    return value


def names(text):
    return text.split(",")


def show_for(method):
    """How a result is printed."""
    kind = method["result"]["type"]
    if kind == "boolean":
        return as_json if method["name"] in LOUD else quiet
    return bare if "rank" in method else as_json


def accepted(param):
    """What a parameter accepts, in words."""
    words = []
    if "enum" in param:
        words.append(", ".join(str(value) for value in param["enum"] if value not in (True, False)))
    elif "minimum" in param:
        words.append(f"{param['minimum']} to {param['maximum']}")
    elif "maxLength" in param:
        words.append(f"up to {param['maxLength']} characters")
    if "unit" in param:
        words.append(param["unit"])
    text = " ".join(words)
    if param.get("default") not in (None, False):
        text = f"{text}; default {param['default']}".lstrip("; ")
    return f" ({text})" if text else ""


def help_of(param):
    return (param["description"] + accepted(param)).replace("%", "%%")


def filled(text):
    return textwrap.fill(text, 90)


def epilog_of(method):
    """The result and the errors of a method."""
    result = method["result"]
    lines = ["", f"result: {result['type']}. {result['description']}"]
    lines += [f"  {m['name']} ({m['type']}): {m['description']}" for m in result.get("members", [])]
    lines.append("errors:")
    for error in method["errors"]:
        code = "errno" if error["code"] is None else error["code"]
        lines.append(f"  {code} {error['text']}: {error['when']}")
    return "\n".join(lines)


def add_flag(parser, param, options):
    """A boolean: --option, or where absent differs from false, also --no-option."""
    if param.get("nullable"):
        action = argparse.BooleanOptionalAction
        options = [option for option in options if option.startswith("--")]
        parser.add_argument(
            *options, dest=DEST + param["name"], action=action, help=help_of(param)
        )
    else:
        parser.add_argument(
            *options,
            dest=DEST + param["name"],
            action="store_true",
            default=None,
            help=help_of(param),
        )


def value_of(param):
    """How the words for a parameter become its value: arguments of add_argument."""
    if param["type"] == "integer":
        return {"type": natural if param.get("minimum", 0) >= 0 else whole}
    if param["type"] == "array":
        return {"type": names, "nargs": "+", "action": "extend"}
    choices = [value for value in param.get("enum", []) if isinstance(value, str)]
    if choices and not param.get("any_case"):
        # Left to the target where the words stand alone: its message says more.
        return {"choices": choices}
    return {}


def add_option(parser, param, options):
    if param["type"] == "boolean":
        add_flag(parser, param, options)
        return
    value = value_of(param)
    if "choices" not in value:
        value["metavar"] = param["name"].upper()
    parser.add_argument(
        *options,
        dest=DEST + param["name"],
        required=param["required"],
        help=help_of(param),
        **value,
    )


def add_word(parser, param):
    """A parameter without an option in front."""
    value = value_of(param)
    value.pop("choices", None)
    if not param["required"]:
        value["nargs"] = "?"
    parser.add_argument(
        DEST + param["name"], metavar=param["name"], help=help_of(param), **value
    )


def default_params(method, args):
    """The parameters that are on the command line."""
    given = {p["name"]: getattr(args, DEST + p["name"], None) for p in method["params"]}
    for param in method["params"]:
        if param["type"] == "array" and given[param["name"]]:
            given[param["name"]] = [name for words in given[param["name"]] for name in words]
    return {name: value for name, value in given.items() if value is not None}


class Special:
    """Parameters that are given in another form than the method takes: how the parser of a method
    is changed, by parameter, and how the parameters of all are made."""

    @staticmethod
    def total_size(parser, _):
        parser.add_argument("total_size", type=positive_float, help="size in MiB")

    @staticmethod
    def sized(params, args):
        # The target refuses a block size that can't be divided by, and says why.
        size = params["block_size"]
        blocks = int(args.total_size * MIB / size) if size > 0 else 1
        return {**params, "num_blocks": blocks}

    @staticmethod
    def absolute(params, _):
        return {**params, "filename": os.path.abspath(params["filename"])}

    @staticmethod
    def write_cache(parser, param):
        add_option(parser, param, ["--write-cache"])
        parser.add_argument(
            "--no-write-cache",
            dest=DEST + "write_cache",
            action="store_const",
            const="off",
            help="the same as --write-cache off",
        )

    @staticmethod
    def histogram(parser, param):
        dest = DEST + param["name"]
        parser.add_argument(
            "-e",
            "--histogram",
            dest=dest,
            action="store_true",
            default=True,
            help="begin, anew; this is the default",
        )
        parser.add_argument(
            "-d", "--no-histogram", dest=dest, action="store_false", help="stop"
        )

    @staticmethod
    def agent_port(parser, param):
        parser.add_argument(
            DEST + "port",
            metavar="port",
            type=natural,
            nargs="?",
            default=1,
            help=help_of(param) + "; 1 if absent",
        )

    @staticmethod
    def config_file(parser, _):
        parser.add_argument(
            "-j",
            "--json-conf",
            metavar="FILE",
            type=argparse.FileType("r"),
            default=sys.stdin,
            help="file; standard input when absent",
        )

    @staticmethod
    def config(_, args):
        with args.json_conf as file:
            try:
                return json.load(file)
            except json.JSONDecodeError as error:
                raise WrongInput(f"load_config: {file.name}: {error}") from error

    @staticmethod
    def hidden(*_):
        pass


# By method and parameter: what is added to the parser instead.
INSTEAD = {
    ("bdev_null_create", "num_blocks"): Special.total_size,
    ("bdev_malloc_create", "num_blocks"): Special.total_size,
    ("bdev_uring_create", "write_cache"): Special.write_cache,
    ("bdev_get_iostat", "name"): Special.hidden,
    ("framework_get_config", "with_batches"): Special.hidden,
    ("bdev_enable_histogram", "enable"): Special.histogram,
    ("srpt_enable_dm_agent", "port"): Special.agent_port,
    ("srpt_disable_dm_agent", "port"): Special.agent_port,
    ("load_config", "subsystems"): Special.config_file,
}

# By method: what its parameters are made with, from those that are on the command line.
MADE = {
    "bdev_null_create": Special.sized,
    "bdev_malloc_create": Special.sized,
    "bdev_uring_create": Special.absolute,
    "bdev_sg_create": Special.absolute,
    "load_config": Special.config,
}


def add_method(parsers, method, parents=()):
    """A subcommand for a method. Its `params` makes the parameters of the parsed arguments, its
    `show` prints the result."""
    name = method["name"]
    doc = method["description"].replace("%", "%%")
    parser = parsers.add_parser(
        name,
        help=doc.split(". ", maxsplit=1)[0].rstrip("."),
        description=filled(doc),
        epilog=epilog_of(method).replace("%", "%%"),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        parents=list(parents),
    )
    # A parameter with only one value says nothing.
    params = {param["name"]: param for param in method["params"] if "const" not in param}
    words, options = [], {param: [] for param in params}
    for word in WORDS.get(name, "").split():
        option, colon, param = word.partition(":")
        if colon:
            options[param].append(option)
        else:
            words.append(word)
    for param in [p for p in params if p not in words] + words:
        spec = params[param]
        if (name, param) in INSTEAD:
            INSTEAD[name, param](parser, spec)
        elif param in words:
            add_word(parser, spec)
        else:
            add_option(parser, spec, [*options[param], "--" + param.replace("_", "-")])
    if name == "save_config":
        parser.add_argument(
            "-i", "--indent", type=int, default=2, help="spaces per level; negative: one line"
        )
        parser.add_argument(
            "-o",
            "--output",
            metavar="FILE",
            help="write a file, whole or not at all; the one before is kept as FILE.bak",
        )
    make = MADE.get(name, lambda params, args: params)
    parser.set_defaults(
        method=name,
        params=lambda args: make(default_params(method, args), args),
        show=show_for(method),
    )
    return parser


def add_methods(parsers, methods, parents=()):
    """Subcommands for methods; their parsers by name."""
    return {method["name"]: add_method(parsers, method, parents) for method in methods}


def replace(path, text):
    """Writes a file whole, so that at every moment there is the old one or the new one, also after
    a loss of power. The new one has the mode and the owners of the old one, so that a service that
    reads the old one reads the new one, too. The old one is kept as `.bak`."""
    folder = os.path.dirname(path)
    old = os.stat(path) if os.path.exists(path) else None
    handle, temporary = tempfile.mkstemp(prefix=os.path.basename(path) + ".", dir=folder)
    spare = temporary + ".bak"
    try:
        with open(handle, "w", encoding="utf-8") as file:
            file.write(text)
            if old:
                own = os.fstat(file.fileno())
                if (own.st_uid, own.st_gid) != (old.st_uid, old.st_gid):
                    os.fchown(file.fileno(), old.st_uid, old.st_gid)
                os.fchmod(file.fileno(), stat.S_IMODE(old.st_mode))
            file.flush()
            os.fsync(file.fileno())
        if old:
            os.link(path, spare)
            os.rename(spare, path + ".bak")
        os.rename(temporary, path)
    except BaseException:
        for left in (temporary, spare):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(left)
        raise
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def show(args, result):
    """Prints the result of a subcommand."""
    if args.method == "save_config":
        text = json.dumps(result, indent=args.indent if args.indent >= 0 else None) + "\n"
        if args.output is None:
            print(text, end="")
        else:
            try:
                replace(os.path.realpath(args.output), text)
            except OSError as error:
                raise WrongInput(f"save_config: {args.output}: {error.strerror}") from error
    else:
        args.show(result)


def did_you_mean(word, known):
    """A hint at the end of a message, or nothing."""
    close = difflib.get_close_matches(word, known, n=3, cutoff=0.6)
    return f"; did you mean {' or '.join(close)}?" if close else ""


BASH = """\
# Completion for {program}: source this file, or put it into /etc/bash_completion.d.
_srpt_rpc() {{
    local current="${{COMP_WORDS[COMP_CWORD]}}" before="${{COMP_WORDS[COMP_CWORD-1]}}"
    local method="" word words=""
    for word in "${{COMP_WORDS[@]:1:COMP_CWORD-1}}"; do
        case "$word" in
            {methods}) method="$word"; break ;;
        esac
    done
    case "$method $before" in
{values}
    esac
    if [ -z "$words" ]; then
        case "$method" in
            "") words="{start}" ;;
{options}
        esac
    fi
    mapfile -t COMPREPLY < <(compgen -W "$words" -- "$current")
}}
complete -o default -F _srpt_rpc {program}
"""


def completion(program, parser, parsers):
    """A script that completes the words of a command line in bash."""
    values, options = [], []
    for name, sub in parsers.items():
        words = []
        for action in sub._actions:  # pylint: disable=protected-access
            words += action.option_strings
            if action.choices and action.option_strings:
                where = " | ".join(f'"{name} {option}"' for option in action.option_strings)
                values.append(f'        {where}) words="{" ".join(action.choices)}" ;;')
        options.append(f'            {name}) words="{" ".join(words)}" ;;')
    start = [o for action in parser._actions for o in action.option_strings]
    return BASH.format(
        program=program,
        methods="|".join(parsers),
        values="\n".join(values),
        start=" ".join([*start, *parsers]),
        options="\n".join(options),
    )
