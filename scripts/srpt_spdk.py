"""Plugin for SPDK's own client: the methods that srpt_tgt has and SPDK has not.

    PYTHONPATH=scripts spdk-rpc --plugin srpt_spdk -s /var/tmp/srpt_tgt.sock srpt_get_targets

Methods that SPDK has, too, keep SPDK's subcommands.
"""

import rpc_commands


def call(args):
    try:
        result = args.client.call(args.method, args.params(args))
    except rpc_commands.WrongInput as wrong:
        raise SystemExit(f"{wrong}") from wrong
    rpc_commands.show(args, result)


def spdk_rpc_plugin_initialize(subparsers):
    for method in rpc_commands.table()["methods"]:
        if method["name"] not in subparsers.choices:
            rpc_commands.add_method(subparsers, method).set_defaults(func=call)
