"""Interrupt lines: what a device holds instead of an interrupt controller.

``irq.set(True)`` raises the line, ``irq.set(False)`` lowers it; a device of the ISA bus may ``pulse()``.  Who wires the machine
says where a line ends: at a pin of the PICs and the I/O APIC, or at a router in between.
"""

from collections.abc import Callable

Sink = Callable[[int, bool], None]      # number of the pin, level


class Line:
    """One line from one device to one pin.  The sink hears of changes only."""

    __slots__ = ("level", "number", "sink")

    def __init__(self, sink: Sink, number: int = 0) -> None:
        self.sink, self.number, self.level = sink, number, False

    def set(self, level: object) -> None:
        level = bool(level)
        if level != self.level:
            self.level = level
            self.sink(self.number, level)

    def pulse(self) -> None:
        """An edge; the line is low afterwards."""
        self.set(False)
        self.set(True)
        self.set(False)


class Shared:
    """Several lines wired together (PCI INTx): the pin is high while any of them is."""

    def __init__(self, sink: Sink, number: int = 0) -> None:
        self.out = Line(sink, number)
        self._high = 0

    def line(self) -> Line:
        """One more line into it."""
        return Line(self._changed)

    def _changed(self, _number: int, level: bool) -> None:
        self._high += 1 if level else -1
        self.out.set(self._high)


def nowhere() -> Line:
    """A line that ends nowhere, for tests and for pins that are not wired."""
    return Line(lambda _number, _level: None)
