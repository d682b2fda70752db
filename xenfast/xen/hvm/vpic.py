"""The pair of 8259A interrupt controllers of a PC, with the edge/level registers of the PIIX3.

Intel 8259A data sheet (order 231468): initialisation (ICW1 to ICW4), operation (OCW1 to OCW3), fully nested mode, rotation,
special mask, poll, automatic EOI, special fully nested mode.  ELCR: 82371SB data sheet, 2.5.4.  MCS-80 mode, buffered mode and
controllers without a cascade are accepted and make no difference.

An edge stays requested until it is acknowledged or the controller is initialised, even if the line falls before (the data sheet
then promises a spurious IRQ 7): that is what guests find on other virtual machines, too.  A level that falls before the
acknowledgement makes a spurious IRQ 7 or 15.
"""

from collections.abc import Callable
from typing import Any

from xenfast.xen.hvm.bus import Region

# Command words: offset 0, told apart by bits 4 and 3
ICW1 = 0x10                             # bit 4
ICW1_IC4, ICW1_SNGL = 0x01, 0x02
OCW3 = 0x08                             # bit 3, with bit 4 clear; otherwise OCW2
ICW4_AEOI, ICW4_SFNM = 0x02, 0x10
OCW3_RIS, OCW3_RR, OCW3_POLL, OCW3_SMM, OCW3_ESMM = 0x01, 0x02, 0x04, 0x20, 0x40

# OCW2, bits 7:5
ROTATE_IN_AEOI_CLEAR, EOI, NO_OPERATION, SPECIFIC_EOI, ROTATE_IN_AEOI_SET, ROTATE_ON_EOI, SET_PRIORITY, ROTATE_ON_SPECIFIC_EOI = range(8)

CASCADE = 2                             # the slave's place on the master
SPURIOUS = 7
ELCR_MASKS = (0xF8, 0xDE)               # IRQ 0, 1, 2, 8 and 13 are edges


class Pic:
    """One controller.  ``output(level)`` hears of changes of INT."""

    def __init__(self, number: int, output: Callable[[bool], None]) -> None:
        self.number, self.output = number, output
        self.follows = 0 if number else 1 << CASCADE    # inputs that follow their line always
        self.pins = 0               # levels of the lines, outside our control
        self.reset()

    def reset(self) -> None:
        """Power-on; the data sheet leaves this to ICW1, so nothing gets through before it."""
        self.irr = self.isr = self.imr = self.elcr = 0
        self.vector, self.lowest = 0, 7
        self.step = 0               # which ICW comes next at offset 1; 0: none
        self.single = self.needs_icw4 = False
        self.aeoi = self.rotate_in_aeoi = self.special_mask = self.sfnm = self.poll = self.read_isr = False
        self.initialised = False
        self.int = False

    # --- requests ----------------------------------------------------------------------------------------------------
    def set(self, pin: int, level: bool) -> None:
        bit = 1 << pin
        if level:
            if not self.pins & bit or self._is_level(bit):
                self.irr |= bit
            self.pins |= bit
        else:
            self.pins &= ~bit
            if self._is_level(bit):
                self.irr &= ~bit
        self.update()

    def _is_level(self, bit: int) -> bool:
        return bool((self.elcr | self.follows) & bit)

    def _rank(self, bits: int) -> int:
        """The urgency of the most urgent one of them, 0 to 7; 8 for none."""
        first = self.lowest + 1 & 7
        turned = (bits >> first | bits << 8 - first) & 0xFF
        return (turned & -turned).bit_length() - 1 if turned else 8

    def pending(self) -> int | None:
        """The input that would be acknowledged now."""
        wanted = self._rank(self.irr & ~self.imr)
        if wanted == 8 or not self.initialised:
            return None
        serving = self.isr
        if self.special_mask:
            serving &= ~self.imr
        if self.sfnm and self.follows:
            serving &= ~self.follows
        return wanted + self.lowest + 1 & 7 if wanted < self._rank(serving) else None

    def update(self) -> None:
        level = self.pending() is not None
        if level != self.int:
            self.int = level
            self.output(level)

    def acknowledge(self) -> int:
        """INTA: the input that is served from now on, or 7."""
        pin = self.pending()
        if pin is None:
            return SPURIOUS
        bit = 1 << pin
        if not self._is_level(bit):
            self.irr &= ~bit
        if not self.aeoi:
            self.isr |= bit
        elif self.rotate_in_aeoi:
            self.lowest = pin
        self.update()
        return pin

    # --- registers ------------------------------------------------------------------------------------------------------
    def read(self, offset: int, size: int) -> int:
        if self.poll:
            self.poll = False
            pin = self.pending()
            return 0 if pin is None else 0x80 | self.acknowledge()
        if offset == 1:
            return self.imr
        return self.isr if self.read_isr else self.irr

    def write(self, offset: int, size: int, value: int) -> None:
        value &= 0xFF
        if offset == 0:
            if value & ICW1:
                self._icw1(value)
            elif value & OCW3:
                self._ocw3(value)
            else:
                self._ocw2(value >> 5, value & 7)
        elif self.step == 0:
            self.imr = value
        else:
            self._icw(value)
        self.update()

    def _icw1(self, value: int) -> None:
        self.irr = self.pins & (self.elcr | self.follows)      # edges have to come again
        self.isr = self.imr = 0
        self.lowest = 7
        self.special_mask = self.read_isr = self.poll = False
        self.aeoi = self.rotate_in_aeoi = self.sfnm = False
        self.single, self.needs_icw4 = bool(value & ICW1_SNGL), bool(value & ICW1_IC4)
        self.step, self.initialised = 2, False

    def _icw(self, value: int) -> None:
        if self.step == 2:
            self.vector = value & 0xF8
            self.step = 3 if not self.single else 4 if self.needs_icw4 else 0
        elif self.step == 3:                                    # which input has a slave, or which slave this is: as wired
            self.step = 4 if self.needs_icw4 else 0
        else:
            self.aeoi, self.sfnm, self.step = bool(value & ICW4_AEOI), bool(value & ICW4_SFNM), 0
        self.initialised = self.step == 0

    def _ocw2(self, command: int, pin: int) -> None:
        if command in (ROTATE_IN_AEOI_CLEAR, ROTATE_IN_AEOI_SET):
            self.rotate_in_aeoi = command == ROTATE_IN_AEOI_SET
        elif command in (EOI, ROTATE_ON_EOI):
            serving = self.isr & ~self.imr if self.special_mask else self.isr
            rank = self._rank(serving)
            if rank < 8:
                pin = rank + self.lowest + 1 & 7
                self.isr &= ~(1 << pin)
                if command == ROTATE_ON_EOI:
                    self.lowest = pin
        elif command in (SPECIFIC_EOI, ROTATE_ON_SPECIFIC_EOI):
            self.isr &= ~(1 << pin)
            if command == ROTATE_ON_SPECIFIC_EOI:
                self.lowest = pin
        elif command == SET_PRIORITY:
            self.lowest = pin

    def _ocw3(self, value: int) -> None:
        if value & OCW3_POLL:
            self.poll = True
        if value & OCW3_RR:
            self.read_isr = bool(value & OCW3_RIS)
        if value & OCW3_ESMM:
            self.special_mask = bool(value & OCW3_SMM)

    def set_elcr(self, value: int) -> None:
        self.elcr = value & ELCR_MASKS[self.number]
        level = self.elcr | self.follows
        self.irr = self.irr & ~level | self.pins & level
        self.update()

    FIELDS = ("pins", "irr", "isr", "imr", "elcr", "vector", "lowest", "step", "single", "needs_icw4", "aeoi", "rotate_in_aeoi",
              "special_mask", "sfnm", "poll", "read_isr", "initialised", "int")

    def save(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.FIELDS}

    def load(self, state: dict[str, Any]) -> None:
        for name in self.FIELDS:
            setattr(self, name, state[name])


class Pics:
    """Master and slave.  ``intr(level)`` is the processor's INTR; ``set(irq, level)`` drives IRQ 0 to 15 (2 is the cascade)."""

    def __init__(self, intr: Callable[[bool], None]) -> None:
        self.intr = intr
        self.master = Pic(0, intr)
        self.slave = Pic(1, lambda level: self.master.set(CASCADE, level))
        self.regions = [Region(2, pic.read, pic.write, width=1, name="8259A") for pic in (self.master, self.slave)]     # 20h, A0h
        self.elcr = Region(2, self._read_elcr, self._write_elcr, width=1, name="ELCR")                                  # 4D0h

    def set(self, irq: int, level: bool) -> None:
        if irq >= 8:
            self.slave.set(irq - 8, level)
        elif irq != CASCADE:
            self.master.set(irq, level)

    def acknowledge(self) -> int:
        """The interrupt acknowledge cycle: the vector."""
        pin = self.master.acknowledge()
        if pin == CASCADE and self.slave.initialised:
            return self.slave.vector | self.slave.acknowledge()
        return self.master.vector | pin

    @property
    def pending(self) -> bool:
        return self.master.int

    def _read_elcr(self, offset: int, size: int) -> int:
        return (self.slave if offset else self.master).elcr

    def _write_elcr(self, offset: int, size: int, value: int) -> None:
        (self.slave if offset else self.master).set_elcr(value)

    def reset(self) -> None:
        for pic in (self.slave, self.master):
            pic.reset()
        self.intr(False)
        for pic in (self.slave, self.master):
            pic.update()

    def save(self) -> dict[str, Any]:
        return {"master": self.master.save(), "slave": self.slave.save()}

    def load(self, state: dict[str, Any]) -> None:
        self.slave.load(state["slave"])
        self.master.load(state["master"])
        self.intr(self.master.int)
