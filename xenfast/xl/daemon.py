"""``xenfast daemon``: be the host that stays, or ask it how it is, or end it.  Commands start it by themselves."""

from __future__ import annotations

from typing import Any

from xenfast.errors import XenfastError
from xenfast.xl.client import Client, NoDaemon
from xenfast.xl.options import Parser, number, print_json


def main(arguments: list[str]) -> int:
    parser = Parser("daemon")
    parser.add_argument("--status", action="store_true", help="say whether it runs, and how it is")
    parser.add_argument("--stop", action="store_true", help="end it")
    parser.add_argument("--force", action="store_true", help="with --stop: also when domains run, which end with it")
    parser.add_argument("--memory", metavar="MIB", help="machine memory (what this machine has)")
    parser.add_argument("--idle-exit", metavar="SECONDS", help="end after so much time without domains")
    parser.add_argument("-v", "--verbose", action="store_true", help="log more")
    parser.add_argument("--ready-fd", metavar="FD", help="write there when it is ready")
    options = parser.parse_args(arguments)
    if options.status or options.stop:
        return _ask(options)
    from xenfast.libxl import daemon

    memory, idle, fd = (None if text is None else number(text, name) for text, name in (
        (options.memory, "--memory"), (options.idle_exit, "--idle-exit"), (options.ready_fd, "--ready-fd")))
    daemon.serve(memory=memory, idle_exit=idle, ready_fd=fd, verbose=options.verbose)
    return 0


def _ask(options: Any) -> int:
    try:
        with Client(start=False) as client:
            if options.stop:
                client.call("daemon.stop", force=options.force)
                list(client.messages())         # until it closes the connection
                return 0
            status = client.call("daemon.status")
    except NoDaemon:
        if options.json:
            print_json({"running": False})
        raise XenfastError("the daemon does not run") from None
    if options.json:
        return print_json({"running": True} | status)
    for name, value in status.items():
        print(f"{name:<23}: {value}")
    return 0
