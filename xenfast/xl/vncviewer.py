"""``xenfast vncviewer``: start the viewer that is installed on this host, as ``xl vncviewer`` does."""

from __future__ import annotations

import argparse
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from xenfast.errors import XenfastError
from xenfast.libxl import displays

# program -> how it is given the display
VIEWERS: dict[str, Callable[[displays.Display], list[str]]] = {
    "vncviewer": lambda display: [display.viewer],
    "xtigervncviewer": lambda display: [display.viewer],
    "xtightvncviewer": lambda display: [display.viewer],
    "gvncviewer": lambda display: [f"{display.host}:{display.port - displays.FIRST_PORT}"],
    "remote-viewer": lambda display: [f"vnc://{display.host}:{display.port}"],
    "vinagre": lambda display: [display.viewer],
    "krdc": lambda display: [f"vnc://{display.host}:{display.port}"],
}


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise XenfastError(f"{message} (see xenfast vncviewer --help)")


def find(text: str) -> displays.Display:
    """The display that somebody means."""
    display = displays.parse(text)
    if display is None:
        raise XenfastError(f"{text!r} is no VNC display: HOST:DISPLAY, :DISPLAY or HOST::PORT")
    return display


def read_password(path: str) -> str:
    try:
        return Path(path).read_text().split("\n")[0]
    except (OSError, UnicodeDecodeError) as error:
        raise XenfastError(f"{path}: {getattr(error, 'strerror', '') or 'no text'}") from None


def main(arguments: list[str], run: Callable[[str, list[str]], Any] = os.execv) -> int:
    p = Parser(prog="xenfast vncviewer", description="Start a VNC viewer of this host.", allow_abbrev=False)
    p.add_argument("display", metavar="HOST:DISPLAY", help="the VNC display: HOST:1, :1, HOST::5901")
    display = find(p.parse_args(arguments).display)
    for name, argument in VIEWERS.items():
        program = shutil.which(name)
        if program is not None:
            run(program, [name, *argument(display)])
            return 0
    raise XenfastError(f"no VNC viewer is installed (one of {', '.join(VIEWERS)}); the screen is at {display.host}:{display.port}")
