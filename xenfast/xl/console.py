"""``xenfast console``: a domain's console on the terminal; Ctrl-] leaves it."""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Callable
from typing import Any

from xenfast.xl.client import Client
from xenfast.xl.options import Parser

ESCAPE = b"\x1d"        # Ctrl-]


def main(arguments: list[str]) -> int:
    parser = Parser("console")
    parser.add_argument("domain")
    parser.add_argument("-t", choices=("pv", "serial"), default="", help="which console")
    parser.add_argument("-n", default="0", metavar="NUM", help="number of the console (0)")
    options = parser.parse_args(arguments)
    if options.n != "0":
        parser.error("a domain has one console, number 0")
    return attach(options.domain, kind=options.t)


def attach(domain: str, *, follow: bool = False, kind: str = "", started: Callable[[], Any] | None = None) -> int:
    """Join the terminal to a console until Ctrl-] or the end."""
    with Client() as client:
        client.call("console.attach", domain=domain, follow=follow, kind=kind)
        if started is not None:
            started()
        terminal = sys.stdin is not None and sys.stdin.isatty()
        saved = None
        if terminal:
            import termios
            import tty

            saved = termios.tcgetattr(0)
            tty.setraw(0)
        try:
            _carry(client, terminal)
        finally:
            if saved is not None:
                termios.tcsetattr(0, termios.TCSADRAIN, saved)
                print()
    return 0


def _carry(client: Client, terminal: bool) -> None:
    sock = client.sock
    inputs: list[Any] = [0] if sys.stdin is not None else []
    while True:
        ready, _, _ = select.select([sock, *inputs], [], [])
        if sock in ready:
            data = sock.recv(65536)
            if not data:
                return
            while data:
                data = data[os.write(1, data) :]
        if 0 in ready:
            typed = os.read(0, 4096)
            if terminal and ESCAPE in typed:
                sock.sendall(typed[: typed.index(ESCAPE)])
                return
            if typed:
                sock.sendall(typed)
            else:
                inputs = []         # the end of a file: what the domain prints is still shown
