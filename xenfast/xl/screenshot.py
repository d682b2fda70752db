"""``xenfast screenshot``: the picture of a screen into a PNG file, by VNC."""

from __future__ import annotations

import argparse
from typing import NoReturn

from xenfast.errors import XenfastError
from xenfast.libxl import png, rfb_client
from xenfast.xl.vncviewer import find, read_password


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise XenfastError(f"{message} (see xenfast screenshot --help)")


def main(arguments: list[str]) -> int:
    p = Parser(prog="xenfast screenshot", description="Write what a screen shows into a PNG file.", allow_abbrev=False)
    p.add_argument("--passwd-file", default="", help="a file with the VNC password in its first line")
    p.add_argument("display", metavar="HOST:DISPLAY", help="the VNC display: HOST:1, :1, HOST::5901")
    p.add_argument("file", metavar="FILE.png")
    options = p.parse_args(arguments)
    display = find(options.display)
    password = read_password(options.passwd_file) if options.passwd_file else display.password
    png.write(options.file, rfb_client.picture(display.host, display.port, password))
    return 0
