"""The 8254 interval timer: three counters of 1.193182 MHz.

Intel 8254 data sheet (order 231164).  Counters are computed from the machine's clock when they are read; only counter 0 has a timer,
while its output can rise.  Its gate is always high, counter 1 (refresh) is there for reading, the gate and the output of counter 2
are bits of port 61h (devices/isa.py).
"""

from typing import Any

from xenfast.xen.hvm.bus import Region
from xenfast.xen.hvm.irq import Line
from xenfast.xen.hvm.timers import Timers
from xenfast.xen.hvm.vpt import NO_DELAY_FOR_MISSED_TICKS, Ticks

FREQUENCY, SECOND = 1_193_182, 10**9

# Control word: SC 7:6, RW 5:4, M 3:1, BCD 0
READ_BACK = 3                           # SC
RW_LATCH, RW_LSB, RW_MSB, RW_BOTH = range(4)
MODES = (0, 1, 2, 3, 4, 5, 2, 3)        # of the M bits: 6 and 7 are 2 and 3
BACK_NO_COUNT, BACK_NO_STATUS = 0x20, 0x10      # read-back: what is not latched
STATUS_OUT, STATUS_NULL_COUNT = 0x80, 0x40


class Counter:
    """One of the three.  ``origin`` is the moment from which ``count`` is counted; ``count`` 0: not written yet."""

    def __init__(self, timers: Timers, gate: bool) -> None:
        self.timers = timers
        self.default_gate = gate
        self.reset()

    def reset(self) -> None:
        self.mode, self.rw, self.bcd = 3, RW_BOTH, False
        self.gate = self.default_gate
        self.count = 0
        self.origin = 0
        self.held: int | None = None            # clocks passed when the gate stopped it
        self.next_count: int | None = None      # taken at the end of the period (modes 2, 3) or by the next trigger (1, 5)
        self.armed = False                      # modes 1 and 5: has it been triggered?
        self.low: int | None = None             # first byte of two that has been written
        self.latched: list[int] = []            # bytes to read before anything else
        self.status: int | None = None
        self.read_high = False

    # --- time ------------------------------------------------------------------------------------------------------------
    def clocks(self) -> int:
        """CLK pulses since the count was loaded."""
        if self.held is not None:
            return self.held
        passed = (self.timers.now() - self.origin) * FREQUENCY // SECOND
        if self.next_count is not None and self.mode in (2, 3) and passed >= self.count:
            periods = passed // self.count
            self.origin += periods * self.count * SECOND // FREQUENCY
            passed -= periods * self.count
            self.count, self.next_count = self.next_count, None
        return passed

    def value(self) -> int:
        """What the counting element holds, as it is read."""
        if not self.count:
            return 0
        modulus = 10000 if self.bcd else 65536
        passed = self.clocks()
        if self.mode == 2:
            value = self.count - passed % self.count
        elif self.mode == 3:
            value = (self.count & ~1) - 2 * passed % (self.count & ~1 or 2)
        elif self.mode in (1, 5) and not self.armed:
            value = self.count
        else:
            value = self.count - passed
        value %= modulus
        return to_bcd(value) if self.bcd else value

    def out(self) -> bool:
        if not self.count:
            return self.mode != 0
        passed = self.clocks()
        if self.mode == 0:
            return passed > self.count
        if self.mode == 1:
            return not self.armed or passed >= self.count
        if self.mode == 2:
            return not self.gate or passed % self.count != self.count - 1
        if self.mode == 3:
            return not self.gate or passed % self.count < (self.count + 1) // 2
        return passed != self.count or (self.mode == 5 and not self.armed)

    def start(self, count: int) -> None:
        self.count, self.origin, self.next_count = count, self.timers.now(), None
        self.held = None if self.gate or self.mode in (1, 5) else 0

    def set_gate(self, level: bool) -> None:
        rises, falls = level and not self.gate, self.gate and not level
        self.gate = level
        if self.mode in (1, 5):
            if rises and (self.count or self.next_count):
                self.start(self.next_count or self.count)
                self.armed = True
        elif rises and self.count:
            if self.mode in (2, 3):                         # a rising gate starts the period anew
                self.start(self.next_count or self.count)
            elif self.held is not None:
                self.origin, self.held = self.timers.now() - self.held * SECOND // FREQUENCY, None
        elif falls and self.count:
            self.held = self.clocks()

    # --- registers --------------------------------------------------------------------------------------------------------
    def control(self, value: int) -> None:
        """A control word for this counter; it is stopped until a count is written."""
        self.mode, self.rw, self.bcd = MODES[value >> 1 & 7], value >> 4 & 3, bool(value & 1)
        self.count, self.next_count, self.low, self.held = 0, None, None, None
        self.latched, self.status, self.read_high, self.armed = [], None, False, False

    def latch(self) -> None:
        if not self.latched:
            value = self.value()
            self.latched = {RW_LSB: [value & 0xFF], RW_MSB: [value >> 8]}.get(self.rw, [value & 0xFF, value >> 8])
            if self.rw == RW_BOTH and self.read_high:
                self.latched = [value >> 8]

    def latch_status(self) -> None:
        if self.status is None:
            null = STATUS_NULL_COUNT if not self.count or self.next_count is not None else 0
            mode = self.mode << 1
            self.status = (STATUS_OUT if self.out() else 0) | null | self.rw << 4 | mode | self.bcd

    def read(self) -> int:
        if self.status is not None:
            value, self.status = self.status, None
            return value
        if self.latched:
            if self.rw == RW_BOTH:
                self.read_high = len(self.latched) == 2
            return self.latched.pop(0)
        value = self.value()
        if self.rw == RW_LSB:
            return value & 0xFF
        if self.rw == RW_MSB:
            return value >> 8
        self.read_high = not self.read_high
        return value & 0xFF if self.read_high else value >> 8

    def write(self, value: int) -> bool:
        """Returns whether a whole count has been written."""
        if self.rw == RW_BOTH and self.low is None:
            self.low = value
            if self.mode == 0:
                self.count = 0                              # the first byte stops it
            return False
        count = value if self.rw == RW_LSB else value << 8 | (self.low or 0)
        self.low = None
        if self.bcd:
            count = min(from_bcd(count), 9999)
        count = count or (10000 if self.bcd else 65536)
        if self.mode in (1, 5):
            self.next_count = count
            if not self.count:
                self.count = count
        elif self.mode in (2, 3) and self.count and self.held is None:
            self.clocks()
            self.next_count = count
        else:
            self.start(count)
        return True

    FIELDS = ("mode", "rw", "bcd", "gate", "count", "held", "next_count", "armed", "low", "latched", "status", "read_high")

    def save(self) -> dict[str, Any]:
        state = {name: getattr(self, name) for name in self.FIELDS}
        state["latched"] = list(self.latched)
        state["passed"] = self.timers.now() - self.origin
        return state

    def load(self, state: dict[str, Any]) -> None:
        for name in self.FIELDS:
            setattr(self, name, state[name])
        self.latched = list(state["latched"])
        self.origin = self.timers.now() - state["passed"]


class Pit:
    """Ports 40h to 43h.  ``irq`` is IRQ 0."""

    def __init__(self, timers: Timers, irq: Line, mode: int = NO_DELAY_FOR_MISSED_TICKS) -> None:
        self.timers, self.irq = timers, irq
        self.counters = [Counter(timers, gate=n != 2) for n in range(3)]
        self.ticks = Ticks(timers, self._tick, mode)
        self.region = Region(4, self.read, self.write, width=1, name="8254")

    def reset(self) -> None:
        for counter in self.counters:
            counter.reset()
        self.ticks.stop()
        self.irq.set(False)

    def read(self, offset: int, size: int) -> int:
        return 0 if offset == 3 else self.counters[offset].read()

    def write(self, offset: int, size: int, value: int) -> None:
        value &= 0xFF
        if offset < 3:
            if self.counters[offset].write(value):
                if offset == 0:
                    self._schedule()
            elif offset == 0 and self.counters[0].mode == 0:
                self._schedule()
        elif value >> 6 == READ_BACK:
            for n, counter in enumerate(self.counters):
                if value >> n + 1 & 1:
                    if not value & BACK_NO_COUNT:
                        counter.latch()
                    if not value & BACK_NO_STATUS:
                        counter.latch_status()
        elif not value & 0x30:
            self.counters[value >> 6].latch()
        else:
            self.counters[value >> 6].control(value)
            if value >> 6 == 0:
                self._schedule()

    def set_gate2(self, level: bool) -> None:
        if level != self.counters[2].gate:
            self.counters[2].set_gate(level)

    def out2(self) -> bool:
        return self.counters[2].out()

    # --- IRQ 0 ----------------------------------------------------------------------------------------------------------------
    def _schedule(self) -> None:
        """Counter 0 has been programmed: when does its output rise?"""
        c = self.counters[0]
        self.ticks.stop()
        self.irq.set(c.out())
        if not c.count or c.mode in (1, 5):                 # its gate never rises
            return
        if c.mode in (2, 3):
            if c.next_count is None:
                self.ticks.every(c.origin, c.count * SECOND, FREQUENCY)
            else:                                           # the old period comes to its end first
                self.ticks.once(c.origin + -(-c.count * SECOND // FREQUENCY))
        else:
            self.ticks.once(c.origin + -(-(c.count + 1) * SECOND // FREQUENCY))

    def _tick(self) -> None:
        c = self.counters[0]
        self.irq.set(False)
        self.irq.set(True)
        if c.mode in (2, 3) and not self.ticks.running:
            c.clocks()
            self._schedule()

    def save(self) -> dict[str, Any]:
        return {"counters": [counter.save() for counter in self.counters], "irq": self.irq.level}

    def load(self, state: dict[str, Any]) -> None:
        for counter, saved in zip(self.counters, state["counters"]):
            counter.load(saved)
        self._schedule()
        self.irq.set(state["irq"])


def to_bcd(value: int) -> int:
    return value % 10 | value // 10 % 10 << 4 | value // 100 % 10 << 8 | value // 1000 % 10 << 12


def from_bcd(value: int) -> int:
    return (value & 15) + (value >> 4 & 15) * 10 + (value >> 8 & 15) * 100 + (value >> 12 & 15) * 1000
