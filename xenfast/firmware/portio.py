"""Port I/O of firmware that runs in Python: as the instructions IN and OUT, and the CMOS behind two of the ports."""

from typing import Any

CMOS_INDEX, CMOS_DATA = 0x70, 0x71


class PortIo:
    def __init__(self, hvm: Any) -> None:
        self.hvm = hvm

    def inb(self, port: int) -> int:
        return self.hvm.ports.read(port & 0xFFFF, 1)

    def outb(self, port: int, value: int) -> None:
        self.hvm.ports.write(port & 0xFFFF, 1, value & 0xFF)

    def inw(self, port: int) -> int:
        return self.hvm.ports.read(port & 0xFFFF, 2)

    def outw(self, port: int, value: int) -> None:
        self.hvm.ports.write(port & 0xFFFF, 2, value & 0xFFFF)

    def inl(self, port: int) -> int:
        return self.hvm.ports.read(port & 0xFFFF, 4)

    def outl(self, port: int, value: int) -> None:
        self.hvm.ports.write(port & 0xFFFF, 4, value & 0xFFFFFFFF)

    def outs(self, *pairs: tuple[int, int]) -> None:
        """Several bytes to several ports, in order."""
        for port, value in pairs:
            self.outb(port, value)

    def cmos(self, index: int) -> int:
        """A byte of the CMOS.  The NMI bit of the index port stays off: NMIs come through."""
        self.outb(CMOS_INDEX, index & 0x7F)
        return self.inb(CMOS_DATA)

    def set_cmos(self, index: int, value: int) -> None:
        self.outb(CMOS_INDEX, index & 0x7F)
        self.outb(CMOS_DATA, value)
