"""Ports to which firmware and kernels write messages: E9h (Bochs' and Xen's), 402h (SeaBIOS), 80h (the number of a power-on test).

Text is logged line by line (logger ``xenfast``) and handed to ``output``; what is read from E9h and 402h is E9h, as its presence is told.
"""

import logging
from collections.abc import Callable
from typing import Any

from xenfast.xen.hvm.bus import Region

log = logging.getLogger("xenfast")

PRESENT = 0xE9
LINE = 512                      # a longer line is cut


class DebugPort:
    """One byte wide; a string of bytes (REP OUTSB) comes one by one."""

    def __init__(self, name: str, output: Callable[[bytes], Any] | None = None) -> None:
        self.name, self.output = name, output
        self.line = bytearray()
        self.region = Region(1, self.read, self.write, width=1, name=name)

    def read(self, offset: int, size: int) -> int:
        return PRESENT

    def write(self, offset: int, size: int, value: int) -> None:
        value &= 0xFF
        if self.output is not None:
            self.output(bytes((value,)))
        if value == 10 or len(self.line) >= LINE:
            log.info("%s: %s", self.name, self.line.decode("utf-8", "replace").rstrip())
            self.line.clear()
        if value not in (10, 13):
            self.line.append(value)

    def reset(self) -> None:
        self.line.clear()

    def save(self) -> dict[str, Any]:
        return {"line": bytes(self.line)}

    def load(self, state: dict[str, Any]) -> None:
        self.line[:] = state["line"]


class PostPort:
    """Port 80h: the last code is kept; reading it back works, as the port is a page register of DMA no channel uses."""

    def __init__(self) -> None:
        self.code = 0
        self.region = Region(1, self.read, self.write, width=1, name="POST")

    def read(self, offset: int, size: int) -> int:
        return self.code

    def write(self, offset: int, size: int, value: int) -> None:
        self.code = value & 0xFF

    def reset(self) -> None:
        self.code = 0

    def save(self) -> dict[str, Any]:
        return {"code": self.code}

    def load(self, state: dict[str, Any]) -> None:
        self.code = state["code"]
