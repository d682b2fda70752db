"""The I/O APIC: 48 inputs, as Xen's, at FEC00000h.

Intel 82093AA data sheet (order 290566), 3.0 to 3.4; the EOI register at 40h is that of later ones (version 20h; ours says 11h as Xen's
does).  Inputs 0 to 15 are the ISA bus (IRQ 0 at input 2), 16 to 47 the pins of the PCI slots, which have one each.  Polarity is what the
guest wants it to be: an input is active or not.  ExtINT is there for input 0, where the PICs are in virtual
wire mode (``extint``).  Left out: SMI has no effect, as there is no SMM.
"""

from collections.abc import Callable
from typing import Any

from xenfast.xen.hvm.bus import Region

PINS = 48
IOREGSEL, IOWIN, EOI = 0x00, 0x10, 0x40
IOAPICID, IOAPICVER, IOAPICARB, IOREDTBL = 0x00, 0x01, 0x02, 0x10
VERSION = 0x11

# Redirection table entry (3.2.4)
VECTOR, MODE, LOGICAL, DELIVERY_STATUS, POLARITY = 0xFF, 7 << 8, 1 << 11, 1 << 12, 1 << 13
REMOTE_IRR, LEVEL, MASK = 1 << 14, 1 << 15, 1 << 16
READ_ONLY = REMOTE_IRR | DELIVERY_STATUS
FIXED, LOWEST_PRIORITY, SMI, NMI, INIT, EXTINT = 0, 1, 2, 4, 5, 7
DELIVERED = frozenset((FIXED, LOWEST_PRIORITY, NMI, INIT))

Send = Callable[[int, int, int, bool, bool], Any]       # destination, vector, mode, logical, level: ApicBus.send


class IoApic:
    def __init__(self, send: Send) -> None:
        self.send = send
        self.extint: Callable[[int | None], Any] = lambda _destination: None    # told who gets the PICs' interrupts by input 0
        self.pins = 0               # levels of the inputs
        self.region = Region(0x1000, self.read, self.write, name="I/O APIC")
        self.reset()

    def reset(self) -> None:
        self.id = self.select = 0
        self.table = [MASK] * PINS
        self.extint(None)

    def set(self, pin: int, level: bool) -> None:
        """An input changes.  What is masked is not kept (3.2.4)."""
        bit = 1 << pin
        rises = level and not self.pins & bit
        self.pins = self.pins | bit if level else self.pins & ~bit
        if rises:
            self._try(pin)

    def _try(self, pin: int) -> None:
        """The input is active, or has become so: send its message unless it is masked or has been sent and not been answered."""
        entry = self.table[pin]
        if entry & MASK:
            return
        mode = (entry & MODE) >> 8
        level = bool(entry & LEVEL) and mode in (FIXED, LOWEST_PRIORITY)
        if level:
            if entry & REMOTE_IRR:
                return
            self.table[pin] = entry | REMOTE_IRR
        if mode in DELIVERED:
            self.send(entry >> 56, entry & VECTOR, mode, bool(entry & LOGICAL), level)

    def eoi(self, vector: int) -> None:
        """A local APIC has ended a level-triggered interrupt."""
        for pin, entry in enumerate(self.table):
            if entry & REMOTE_IRR and entry & VECTOR == vector:
                self.table[pin] = entry & ~REMOTE_IRR
                if self.pins >> pin & 1:
                    self._try(pin)

    # --- registers ------------------------------------------------------------------------------------------------------
    def read(self, offset: int, size: int) -> int:
        if offset & 0xFC == IOREGSEL:
            value = self.select
        elif offset & 0xFC == IOWIN:
            value = self._read_register(self.select)
        else:
            value = 0
        return value >> 8 * (offset & 3)

    def write(self, offset: int, size: int, value: int) -> None:
        if offset == IOREGSEL:
            self.select = value & 0xFF
        elif offset == IOWIN and size == 4:
            self._write_register(self.select, value & 0xFFFFFFFF)
        elif offset == EOI:
            self.eoi(value & 0xFF)

    def _read_register(self, number: int) -> int:
        if number in (IOAPICID, IOAPICARB):
            return self.id << 24
        if number == IOAPICVER:
            return PINS - 1 << 16 | VERSION
        pin, high = divmod(number - IOREDTBL, 2)
        return self.table[pin] >> 32 * high & 0xFFFFFFFF if 0 <= pin < PINS else 0

    def _write_register(self, number: int, value: int) -> None:
        if number == IOAPICID:
            self.id = value >> 24 & 15
        pin, high = divmod(number - IOREDTBL, 2)
        if not 0 <= pin < PINS:
            return
        entry = self.table[pin]
        if high:
            self.table[pin] = entry & 0xFFFFFFFF | (value & 0xFF000000) << 32
            self._wire(pin)
            return
        entry = entry & ~0xFFFFFFFF | value & 0x1FFFF & ~READ_ONLY | entry & REMOTE_IRR
        if not entry & LEVEL:
            entry &= ~REMOTE_IRR
        self.table[pin] = entry
        self._wire(pin)
        if entry & LEVEL and self.pins >> pin & 1:
            self._try(pin)

    def _wire(self, pin: int) -> None:
        """Virtual wire mode (MultiProcessor Specification 3.6.2.2): input 0 is the PICs' INTR."""
        if pin == 0:
            entry = self.table[0]
            wired = not entry & (MASK | LOGICAL) and (entry & MODE) >> 8 == EXTINT
            self.extint(entry >> 56 if wired else None)

    def save(self) -> dict[str, Any]:
        return {"id": self.id, "select": self.select, "table": list(self.table), "pins": self.pins}

    def load(self, state: dict[str, Any]) -> None:
        self.id, self.select, self.pins = state["id"], state["select"], state["pins"]
        self.table[:] = state["table"]
        self._wire(0)
