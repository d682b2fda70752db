"""The HPET: a 64-bit counter of 62.5 MHz and three timers, as Xen's, at FED00000h.

IA-PC HPET specification 1.0a.  Every timer can be periodic, 64 or 32 bits wide, edge or level, and routed to inputs 20 to 23 of the I/O
APIC; with legacy replacement timers 0 and 1 take the places of PIT and RTC.  There are no FSB interrupts.
"""

from collections.abc import Callable
from typing import Any

from xenfast.xen.hvm.bus import Region
from xenfast.xen.hvm.irq import Line
from xenfast.xen.hvm.timers import Timers
from xenfast.xen.hvm.vpt import CLOSEST

TIMERS = 3
TICK = 16                               # ns: the period in femtoseconds is 1,000,000 times that
CAPABILITIES, CONFIGURATION, STATUS, COUNTER, TIMER = 0x000, 0x010, 0x020, 0x0F0, 0x100
VENDOR, REVISION = 0x8086, 1

ENABLE, LEGACY = 1, 2                   # general configuration
# Timer configuration and capabilities (2.3.8)
LEVEL, INT_ENABLE, PERIODIC, CAN_PERIODIC, CAN_64, SET_VALUE, MODE_32 = 2, 4, 8, 0x10, 0x20, 0x40, 0x100
ROUTE_SHIFT, ROUTE_MASK = 9, 0x3E00
ROUTES = 0x00F00000                     # inputs 20 to 23
WRITABLE = LEVEL | INT_ENABLE | PERIODIC | SET_VALUE | MODE_32 | ROUTE_MASK
U32, U64 = (1 << 32) - 1, (1 << 64) - 1


class HpetTimer:
    def __init__(self, hpet: "Hpet", number: int) -> None:
        self.hpet, self.number = hpet, number
        self.event: Any = None
        self.line: Line | None = None           # which it has raised (level)
        self.reset()

    def reset(self) -> None:
        self.cancel()
        self.config, self.comparator, self.period = 0, U64, 0

    def cancel(self) -> None:
        if self.event is not None:
            self.event.cancel()
            self.event = None

    @property
    def mask(self) -> int:
        return U32 if self.config & MODE_32 else U64

    def read(self) -> int:
        return self.config | CAN_PERIODIC | CAN_64 | ROUTES << 32

    def write_config(self, value: int) -> None:
        old, self.config = self.config, value & WRITABLE
        if self.config & MODE_32:
            self.comparator &= U32
            self.period &= U32
        if (old & (LEVEL | INT_ENABLE)) != (self.config & (LEVEL | INT_ENABLE)):
            self.hpet.show(self)
        self.arm()

    def write_comparator(self, value: int) -> None:
        """In periodic mode a write sets the period, and the comparator too if SET_VALUE was set before (2.3.9.2.2)."""
        if not self.config & PERIODIC or self.config & SET_VALUE:
            self.comparator = value & self.mask
        if self.config & PERIODIC:
            self.period = value & self.mask
        self.config &= ~SET_VALUE
        self.arm()

    def settle(self) -> None:
        """A periodic comparator has gone on with the counter."""
        if self.config & PERIODIC and self.period:
            now = self.hpet.counter() & self.mask
            behind = now - self.comparator & self.mask
            if behind < 1 << (31 if self.config & MODE_32 else 63):
                self.comparator = self.comparator + (behind // self.period + 1) * self.period & self.mask

    def arm(self) -> None:
        """A timer of the machine for the next match, if anybody would hear of it."""
        self.cancel()
        if not self.hpet.enabled or not self.config & (INT_ENABLE | LEVEL):
            return
        self.settle()
        ahead = self.comparator - self.hpet.counter() & self.mask
        if ahead > 1 << 62:                     # beyond any machine's life, or just passed: after the counter has wrapped
            return
        wait = max(ahead * TICK, CLOSEST if self.config & PERIODIC else 0)
        self.event = self.hpet.timers.call_later(wait, self.fire)

    def fire(self) -> None:
        self.event = None
        if self.config & LEVEL:
            self.hpet.status |= 1 << self.number
            self.hpet.show(self)
        elif self.config & INT_ENABLE:
            line = self.hpet.route(self)
            if line is not None:
                line.set(False)
                line.set(True)
        if self.config & PERIODIC and self.period:
            self.arm()


class Hpet:
    """``input(n)`` is a line into input n of the I/O APIC; ``legacy`` are the lines that replace IRQ 0 and IRQ 8, ``replace(on)`` says
    whether they do.
    """

    def __init__(self, timers: Timers, input: Callable[[int], Line], legacy: tuple[Line, Line], replace: Callable[[bool], Any]) -> None:
        self.timers, self.legacy, self.replace = timers, legacy, replace
        self.inputs = {n: input(n) for n in range(32) if ROUTES >> n & 1}
        self.config = self.status = 0
        self.origin = self.stopped = 0          # counter = (now - origin) / TICK, or as it stopped
        self.all = [HpetTimer(self, n) for n in range(TIMERS)]
        self.region = Region(0x400, self.read, self.write, width=8, name="HPET")

    def reset(self) -> None:
        self.config = self.status = self.stopped = 0
        for timer in self.all:
            timer.reset()
        for line in (*self.legacy, *self.inputs.values()):
            line.set(False)
        self.replace(False)

    @property
    def enabled(self) -> bool:
        return bool(self.config & ENABLE)

    def counter(self) -> int:
        return (self.timers.now() - self.origin) // TICK & U64 if self.enabled else self.stopped

    def route(self, timer: HpetTimer) -> Line | None:
        if self.config & LEGACY and timer.number < 2:
            return self.legacy[timer.number]
        return self.inputs.get((timer.config & ROUTE_MASK) >> ROUTE_SHIFT)

    def show(self, timer: HpetTimer) -> None:
        """The line of a level-triggered timer follows its status bit."""
        wanted = None
        if timer.config & LEVEL and timer.config & INT_ENABLE and self.status >> timer.number & 1:
            wanted = self.route(timer)
        if timer.line is not None and timer.line is not wanted:
            old, timer.line = timer.line, None
            if not any(other.line is old for other in self.all):
                old.set(False)
        timer.line = wanted
        if wanted is not None:
            wanted.set(True)

    # --- registers: 64 bits each, reached as dwords or whole ------------------------------------------------------------------
    def _get(self, offset: int) -> int:
        if offset == CAPABILITIES:
            return TICK * 1_000_000 << 32 | VENDOR << 16 | 1 << 15 | 1 << 13 | TIMERS - 1 << 8 | REVISION
        if offset == CONFIGURATION:
            return self.config
        if offset == STATUS:
            return self.status
        if offset == COUNTER:
            return self.counter()
        if TIMER <= offset < TIMER + 0x20 * TIMERS:
            timer = self.all[offset - TIMER >> 5]
            if offset & 0x1F == 0:
                return timer.read()
            if offset & 0x1F == 8:
                if self.enabled:
                    timer.settle()
                return timer.comparator
        return 0

    def _set(self, offset: int, value: int) -> None:
        if offset == CONFIGURATION:
            self._configure(value & (ENABLE | LEGACY))
        elif offset == STATUS:
            self.status &= ~value
            for timer in self.all:
                self.show(timer)
        elif offset == COUNTER:
            self.stopped, self.origin = value, self.timers.now() - value * TICK
            for timer in self.all:
                timer.arm()
        elif TIMER <= offset < TIMER + 0x20 * TIMERS:
            timer = self.all[offset - TIMER >> 5]
            if offset & 0x1F == 0:
                timer.write_config(value)
            elif offset & 0x1F == 8:
                timer.write_comparator(value)

    def _configure(self, value: int) -> None:
        counter, changed = self.counter(), value ^ self.config
        self.config = value
        if changed & ENABLE:
            self.stopped, self.origin = counter, self.timers.now() - counter * TICK
        if changed & LEGACY:
            self.replace(bool(value & LEGACY))
            for timer in self.all:
                self.show(timer)
        for timer in self.all:
            timer.arm()

    def read(self, offset: int, size: int) -> int:
        return self._get(offset & ~7) >> 8 * (offset & 7)

    def write(self, offset: int, size: int, value: int) -> None:
        """Of dwords and quadwords; smaller ones change their bytes only."""
        register, shift = offset & ~7, 8 * (offset & 7)
        mask = (1 << 8 * size) - 1 << shift
        if mask & U64 == U64:
            self._set(register, value & U64)
        elif register == STATUS:
            self._set(register, value << shift & mask)
        else:
            if TIMER <= register < TIMER + 0x20 * TIMERS and register & 0x1F == 8:
                timer = self.all[register - TIMER >> 5]
                keep = timer.config & SET_VALUE         # the two halves of a value are set by one SET_VALUE
                self._set(register, self._get(register) & ~mask & U64 | value << shift & mask & U64)
                if shift == 0:
                    timer.config |= keep
            else:
                self._set(register, self._get(register) & ~mask & U64 | value << shift & mask & U64)

    def save(self) -> dict[str, Any]:
        return {"config": self.config, "status": self.status, "counter": self.counter(),
                "timers": [{"config": t.config, "comparator": t.comparator, "period": t.period} for t in self.all]}

    def load(self, state: dict[str, Any]) -> None:
        self.config, self.status, self.stopped = state["config"], state["status"], state["counter"]
        self.origin = self.timers.now() - self.stopped * TICK
        self.replace(bool(self.config & LEGACY))
        for timer, saved in zip(self.all, state["timers"]):
            timer.config, timer.comparator, timer.period = saved["config"], saved["comparator"], saved["period"]
            self.show(timer)
            timer.arm()
