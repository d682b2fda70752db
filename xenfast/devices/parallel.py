"""The parallel printer port, in its first form (SPP): what is strobed goes to ``output``; a printer is always ready.

IBM Personal Computer AT Technical Reference, "Serial/Parallel Adapter".  EPP and ECP are left out.
"""

from collections.abc import Callable
from typing import Any

from xenfast.xen.hvm.bus import Region
from xenfast.xen.hvm.irq import Line

DATA, STATUS, CONTROL = 0, 1, 2
ACK, NOT_BUSY, SELECTED, NO_ERROR = 0x40, 0x80, 0x10, 0x08
STROBE, INIT, IRQ_ENABLE, INPUT = 0x01, 0x04, 0x10, 0x20


class ParallelPort:
    def __init__(self, irq: Line, output: Callable[[bytes], Any] | None = None) -> None:
        self.irq, self.output = irq, output
        self.region = Region(4, self.read, self.write, width=1, name="LPT")
        self.reset()

    def reset(self) -> None:
        self.data, self.control = 0, 0x0C
        self.irq.set(False)

    def read(self, offset: int, size: int) -> int:
        if offset == DATA:
            return self.data
        if offset == STATUS:
            self.irq.set(False)
            return ACK | NOT_BUSY | SELECTED | NO_ERROR | 7
        return self.control | 0xC0 if offset == CONTROL else 0xFF

    def write(self, offset: int, size: int, value: int) -> None:
        if offset == DATA:
            self.data = value & 0xFF
        elif offset == CONTROL:
            falls = self.control & STROBE and not value & STROBE
            self.control = value & 0x3F
            if falls:
                if self.output is not None:
                    self.output(bytes((self.data,)))
                if self.control & IRQ_ENABLE:
                    self.irq.set(True)

    def save(self) -> dict[str, Any]:
        return {"data": self.data, "control": self.control, "irq": self.irq.level}

    def load(self, state: dict[str, Any]) -> None:
        self.data, self.control = state["data"], state["control"]
        self.irq.set(state["irq"])
