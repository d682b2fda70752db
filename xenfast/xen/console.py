"""The hypervisor's console ring: ``(XEN)`` messages and what guests write with console_io.

Specified in xen/include/public/xen.h (CONSOLEIO_*); follows xen/drivers/char/console.c.  Lines of a guest appear as Xen
prints those of an unprivileged domain, ``(XEN) (d1) text``.  The ring is bounded, as a guest may write for ever.
"""

import logging
from collections import deque
from collections.abc import Callable
from typing import Any

log = logging.getLogger("xenfast.xen")

RING_LINES = 4096
LINE_MAX = 1024         # a guest's line without a newline is cut here


class Console:
    """``hypervisor.console``."""

    def __init__(self) -> None:
        self.lines: deque[str] = deque(maxlen=RING_LINES)
        self.listeners: list[Callable[[str], Any]] = []
        self._partial: dict[int, bytearray] = {}

    def printk(self, text: str) -> None:
        """A message of the hypervisor, line by line."""
        for line in text.splitlines() or [""]:
            self._emit(f"(XEN) {line}")

    def guest_write(self, domid: int, data: bytes) -> None:
        """CONSOLEIO_write of a domain; shown when a line is complete."""
        partial = self._partial.setdefault(domid, bytearray())
        partial += data
        while partial:
            end = partial.find(b"\n", 0, LINE_MAX + 1)
            if end < 0 and len(partial) <= LINE_MAX:
                break
            cut, skip = (end, end + 1) if end >= 0 else (LINE_MAX, LINE_MAX)
            self.printk(f"(d{domid}) {printable(bytes(partial[:cut]))}")
            del partial[:skip]

    def forget(self, domid: int) -> None:
        """The domain is gone; an unfinished line is shown as it is."""
        partial = self._partial.pop(domid, None)
        if partial:
            self.printk(f"(d{domid}) {printable(bytes(partial))}")

    def _emit(self, line: str) -> None:
        self.lines.append(line)
        log.info("%s", line)
        for listener in self.listeners:
            listener(line)


def printable(data: bytes) -> str:
    """Text of a guest without what could steer a terminal."""
    text = data.rstrip(b"\r").decode("utf-8", "replace")
    return "".join(c if c.isprintable() or c == "\t" else "?" for c in text)
