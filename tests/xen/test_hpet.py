"""The HPET: the counter, one-shot and periodic timers of both widths, levels, routing, legacy replacement."""

import random

from tests.devices.clock import FakeTimers
from xenfast.xen.hvm import bus
from xenfast.xen.hvm.hpet import Hpet
from xenfast.xen.hvm.irq import Line

US = 1000


class Board:
    def __init__(self):
        self.timers, self.edges, self.levels, self.replaced = FakeTimers(now=12345), [], {}, []
        self.chip = Hpet(self.timers, self.line, (self.line("irq0"), self.line("irq8")), self.replaced.append)
        self.bus = bus.memory()
        self.bus.add(0xFED00000, self.chip.region)

    def line(self, name):
        def changed(_number, level):
            self.levels[name] = level
            if level:
                self.edges.append((name, self.timers.now()))
        return Line(changed)

    def read(self, offset, size=8):
        return self.bus.read(0xFED00000 + offset, size)

    def write(self, offset, value, size=8):
        self.bus.write(0xFED00000 + offset, size, value)


def test_identity():
    """Three 64-bit timers, periodic, inputs 20 to 23; 16 ns a tick; legacy replacement."""
    b = Board()
    assert b.read(0) == 16_000_000 << 32 | 0x8086A201 and b.read(4, 4) == 16_000_000
    assert b.read(0x140) == 0xF0_0000_0000_0030 and b.read(0x148) == (1 << 64) - 1 and b.read(0x160) == 0


def test_the_counter():
    """It stands still until it is enabled, can be set, and is read in halves too."""
    b = Board()
    b.timers.advance(10 * US)
    assert b.read(0xF0) == 0
    b.write(0xF0, 0xFFFFFFFF)
    b.write(0x10, 1)
    b.timers.advance(160)
    assert b.read(0xF0) == 0x100000009 and b.read(0xF4, 4) == 1 and b.read(0xF0, 4) == 9
    b.write(0x10, 0)
    b.timers.advance(160)
    assert b.read(0xF0) == 0x100000009


def test_one_shot():
    """At the match there is one edge at the input it is routed to; a later comparator makes another."""
    b = Board()
    b.write(0x10, 1)
    b.write(0x100, 21 << 9 | 4)
    b.write(0x108, b.read(0xF0) + 1000)
    b.timers.advance(15 * US)
    assert b.edges == []
    b.timers.advance(2 * US)
    assert [name for name, _ in b.edges] == [21] and b.timers.pending == 0
    b.write(0x108, b.read(0xF0) + 1000, 4)
    b.timers.advance(20 * US)
    assert len(b.edges) == 2


def test_periodic():
    """With SET_VALUE the first write is the moment, the second the period; the comparator goes on with the counter."""
    b = Board()
    b.write(0x10, 1)
    b.write(0x120, 22 << 9 | 4 | 8 | 0x40)
    start = b.read(0xF0)
    b.write(0x128, start + 62500)
    b.write(0x128, 62500)
    b.timers.advance(10_500_000)
    assert len(b.edges) == 10 and b.timers.pending == 1
    assert b.read(0x128) == start + 62500 * 11
    b.write(0x120, 22 << 9)
    assert b.timers.pending == 0


def test_32_bits():
    """A 32-bit timer matches the lower half, across a wrap too."""
    b = Board()
    b.write(0xF0, 0x5_FFFFFF00)
    b.write(0x10, 1)
    b.write(0x100, 20 << 9 | 4 | 0x100)
    b.write(0x108, 0x100)
    b.timers.advance(0x1FF * 16)
    assert b.edges == []
    b.timers.advance(2 * 16)
    assert len(b.edges) == 1 and b.read(0x108) == 0x100


def test_levels():
    """A level stays until its status bit is cleared by a one."""
    b = Board()
    b.write(0x10, 1)
    b.write(0x140, 23 << 9 | 4 | 2)
    b.write(0x148, b.read(0xF0) + 100)
    b.timers.advance(2 * US)
    assert b.levels[23] and b.read(0x20) == 4
    b.write(0x20, 3)
    assert b.levels[23]
    b.write(0x20, 4, 4)
    assert not b.levels[23] and b.read(0x20) == 0


def test_legacy_replacement():
    """Timers 0 and 1 are IRQ 0 and 8 whatever their routes say, and PIT and RTC are told to stand back."""
    b = Board()
    b.write(0x10, 3)
    assert b.replaced == [True]
    b.write(0x100, 21 << 9 | 4)
    b.write(0x120, 4)
    b.write(0x108, b.read(0xF0) + 100)
    b.write(0x128, b.read(0xF0) + 200)
    b.timers.advance(5 * US)
    assert [name for name, _ in b.edges] == ["irq0", "irq8"]
    b.chip.reset()
    assert b.replaced[-1] is False and b.timers.pending == 0


def test_state_moves():
    """Another one with the saved state goes on counting and fires."""
    b, c = Board(), Board()
    b.write(0x10, 1)
    b.timers.advance(123 * US)
    b.write(0x100, 21 << 9 | 4)
    b.write(0x108, b.read(0xF0) + 1000)
    c.chip.load(b.chip.save())
    assert c.read(0xF0) == b.read(0xF0)
    c.timers.advance(17 * US)
    assert len(c.edges) == 1


def test_random_accesses():
    """Whatever is written: no exception, at most a timer each, no flood of ticks, and the state can be saved and loaded."""
    rng, b = random.Random(13), Board()
    for _ in range(15000):
        offset = rng.choice([0, 0x10, 0x20, 0xF0, 0x100, 0x108, 0x120, 0x128, 0x140, 0x148, rng.randrange(0x400)]) + rng.choice([0, 0, 4])
        size, kind = rng.choice([1, 2, 4, 4, 8, 8]), rng.randrange(4)
        if kind < 2:
            b.write(offset % 0x400, rng.choice([rng.getrandbits(8 * size), rng.randrange(256), 0x104 | 20 << 9]), size)
        elif kind == 2:
            assert 0 <= b.read(offset % 0x400, size) < 1 << 8 * size
        else:
            before = len(b.edges)
            b.timers.advance(rng.choice([100, 10**4, 10**6]))
            assert len(b.edges) - before <= 200
        assert b.timers.pending <= 3
    c = Board()
    c.chip.load(b.chip.save())
    c.chip.save()
