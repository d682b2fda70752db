"""Where a screen is: VNC displays as people write them."""

from __future__ import annotations

import re
from dataclasses import dataclass

from xenfast.errors import XenfastError

FIRST_PORT = 5900


@dataclass(frozen=True)
class Display:
    host: str
    port: int
    password: str = ""

    @property
    def viewer(self) -> str:
        """As VNC viewers take it."""
        return f"[{self.host}]::{self.port}" if ":" in self.host else f"{self.host}::{self.port}"


def parse(text: str) -> Display | None:
    """``:1``, ``host:1``, ``[::1]:1`` (a display), ``host::5901`` (a port); None: it is written as none of these."""
    match = re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[^:\s]*)(::?)(\d+)", text)
    if match is None:
        return None
    host, colons, digits = match.groups()
    port = int(digits) + (FIRST_PORT if colons == ":" and int(digits) < FIRST_PORT else 0)
    if not 0 < port < 0x10000:
        raise XenfastError(f"there is no VNC display {text!r}")
    return Display(host.strip("[]") or "127.0.0.1", port)
