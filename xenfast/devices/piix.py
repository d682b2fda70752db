"""PIIX3, the PCI-to-ISA bridge: configuration registers and the interrupt router.

Intel 82371SB data sheet (order 290550), 2.2.  The registers of its ISA half are in isa.py, the DMA controllers in dma8237.py, the
interrupt and timer chips in xen/hvm/.  ISA recovery times, the X-bus decoder, the BIOS chip select and the SMI registers keep
what is written to them, which has no other effect.
"""

from collections.abc import Callable
from typing import Any

from xenfast.devices.pci import PciDevice, gsi, link
from xenfast.xen.hvm.irq import Line, Shared

PIRQRCA, PIRQRCD = 0x60, 0x63           # one byte each: bit 7 off, bits 3:0 the IRQ
PIRQ_OFF = 0x80
PIRQ_IRQS = frozenset((3, 4, 5, 6, 7, 9, 10, 11, 12, 14, 15))       # the others are reserved

# Registers that keep what is written: offset, size, default, bits that can be written.
REGISTERS = (
    (0x4C, 1, 0x4D, 0xFF),              # IORT    ISA I/O recovery timer
    (0x4E, 2, 0x0003, 0x07FF),          # XBCS    X-bus chip select
    (0x60, 1, PIRQ_OFF, 0x8F),          # PIRQRCA
    (0x61, 1, PIRQ_OFF, 0x8F),          # PIRQRCB
    (0x62, 1, PIRQ_OFF, 0x8F),          # PIRQRCC
    (0x63, 1, PIRQ_OFF, 0x8F),          # PIRQRCD
    (0x69, 1, 0x02, 0xFE),              # TOM     top of memory
    (0x6A, 2, 0x0000, 0x80F0),          # MSTAT   miscellaneous status
    (0x70, 1, 0x80, 0xEF),              # MBIRQ0  motherboard device IRQ route
    (0x76, 1, 0x0C, 0x8F),              # MBDMA0
    (0x77, 1, 0x0C, 0x8F),              # MBDMA1
    (0x78, 2, 0x0002, 0xFFFF),          # PCSC    programmable chip select
    (0x80, 1, 0x00, 0x7F),              # APICBASE
    (0x82, 1, 0x00, 0x0F),              # DLC     deterministic latency
    (0xA0, 1, 0x08, 0x1F),              # SMICNTL
    (0xA2, 2, 0x0000, 0x00FF),          # SMIEN
    (0xA4, 4, 0x00000000, 0xFFFFFFFF),  # SEE     system event enable
    (0xA8, 1, 0x0F, 0xFF),              # FTMR    fast-off timer
    (0xAA, 2, 0x0000, 0x00FF),          # SMIREQ
    (0xAC, 1, 0x00, 0xFF),              # CTLTMR  clock scale, low
    (0xAE, 1, 0x00, 0xFF),              # CTHTMR  clock scale, high
)


class PirqRouter:
    """From interrupt pins of slots to inputs: each has an input of the I/O APIC of its own (16 to 47), and is one of the four PIRQ
    lines, which the guest routes to IRQs of the ISA bus, as Xen wires it.

    ``pin(number, level)`` drives an input of the I/O APIC, ``isa(irq)`` makes one more line into an IRQ.
    """

    def __init__(self, pin: Callable[[int, bool], None], isa: Callable[[int], Line]) -> None:
        self.pin, self.isa = pin, isa
        self.inputs: dict[int, Shared] = {}
        self.links = [Shared(self._link_changed, number) for number in range(4)]
        self.routes: list[int | None] = [None] * 4
        self._lines: dict[tuple[int, int], Line] = {}       # (link, irq)

    def input(self, number: int) -> Line:
        """One more line into an input of the I/O APIC."""
        return self.inputs.setdefault(number, Shared(self.pin, number)).line()

    def interrupt(self, slot: int, pin: int) -> Line:
        """The wire from a pin (``PciBus.interrupt``)."""
        direct = self.input(gsi(slot, pin))
        routed = self.links[link(slot, pin)].line()

        def changed(_number: int, level: bool) -> None:
            direct.set(level)
            routed.set(level)

        return Line(changed)

    def route(self, number: int, value: int) -> None:
        """PIRQRC of a link has been written."""
        irq = value & 15
        new = irq if not value & PIRQ_OFF and irq in PIRQ_IRQS else None
        old, self.routes[number] = self.routes[number], new
        if old != new:
            if old is not None:
                self._line(number, old).set(False)
            self._link_changed(number, self.links[number].out.level)

    def _line(self, number: int, irq: int) -> Line:
        if (number, irq) not in self._lines:
            self._lines[number, irq] = self.isa(irq)
        return self._lines[number, irq]

    def _link_changed(self, number: int, level: bool) -> None:
        irq = self.routes[number]
        if irq is not None:
            self._line(number, irq).set(level)


class Piix3(PciDevice):
    """Function 0: the bridge."""

    def __init__(self, router: PirqRouter) -> None:
        super().__init__("PIIX3", 0x8086, 0x7000, 0x060100)
        self.router = router
        self.put(0x04, 2, 0x0007, 0x0008)       # PCICMD: I/O, memory, master are always on; special cycles
        self.put(0x06, 2, 0x0200)
        for offset, size, default, writable in REGISTERS:
            self.put(offset, size, default, writable)

    def config_changed(self, offset: int, size: int) -> None:
        super().config_changed(offset, size)
        if offset <= PIRQRCD and offset + size > PIRQRCA:
            self._routes()

    def _routes(self) -> None:
        for number in range(4):
            self.router.route(number, self.config[PIRQRCA + number])

    def reset(self) -> None:
        super().reset()
        self._routes()

    def load(self, state: dict[str, Any]) -> None:
        super().load(state)
        self._routes()
