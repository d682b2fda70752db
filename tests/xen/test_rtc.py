"""The real-time clock: the date in every format, setting it, update, alarm and periodic interrupts, CMOS memory."""

import random

import pytest

from tests.devices.clock import FakeTimers
from tests.devices.qtest import qemu
from xenfast.xen.hvm.irq import Line
from xenfast.xen.hvm.rtc import REG_A, REG_B, REG_C, REG_D, Rtc

SECOND = 10**9


class Board:
    def __init__(self, offset=0):
        self.timers, self.edges = FakeTimers(now=10**6), []
        self.rtc = Rtc(self.timers, Line(lambda n, level: self.edges.append(self.timers.now()) if level else None), offset)

    def read(self, index):
        self.rtc.write(0, 1, index)
        return self.rtc.read(1, 1)

    def write(self, index, value):
        self.rtc.write(0, 1, index | 0x80)
        self.rtc.write(1, 1, value)

    def date(self):
        return [self.read(index) for index in (0x32, 9, 8, 7, 6, 4, 2, 0)]


def test_the_date():
    """2023-11-14 22:13:20, a Tuesday, in BCD and binary, 24 and 12 hours; the offset counts."""
    b = Board()
    assert b.date() == [0x20, 0x23, 0x11, 0x14, 3, 0x22, 0x13, 0x20]
    b.timers.advance(41 * SECOND)
    assert b.date()[-2:] == [0x14, 0x01]
    b.write(REG_B, 0x06)
    assert b.date() == [20, 23, 11, 14, 3, 22, 14, 1]
    b.write(REG_B, 0x04)
    assert b.read(4) == 0x8A
    b.write(REG_B, 0x00)
    assert b.read(4) == 0x90
    assert Board(-3600 * 22).date()[5] == 0


def test_setting_it():
    """With SET the registers stand still and take a new date; it goes on from there, the century too."""
    b = Board()
    b.write(REG_B, 0x82)
    for index, value in ((0x32, 0x19), (9, 0x99), (8, 0x12), (7, 0x31), (4, 0x23), (2, 0x59), (0, 0x58)):
        b.write(index, value)
    b.timers.advance(5 * SECOND)
    assert b.read(0) == 0x58
    b.write(REG_B, 0x02)
    b.timers.advance(2 * SECOND)
    assert b.date() == [0x20, 0x00, 0x01, 0x01, 7, 0, 0, 0]
    b.write(4, 0x11)
    assert b.read(4) == 0x11 and b.read(2) == 0


def test_the_divider():
    """Held in reset there are no updates; the first comes half a second after it is released."""
    b = Board()
    b.write(REG_A, 0x76)
    before = b.read(0)
    b.timers.advance(3 * SECOND)
    assert b.read(0) == before
    b.write(REG_A, 0x26)
    b.timers.advance(SECOND // 2 - 1000)
    assert b.read(0) == before
    b.timers.advance(2000)
    assert b.read(0) == before + 1


def test_update_in_progress():
    """UIP is set shortly before each second."""
    b = Board()
    wall = b.rtc.wall_at_zero + b.timers.now()
    b.timers.advance(SECOND - wall % SECOND - 100_000)
    assert b.read(REG_A) == 0xA6
    b.timers.advance(100_001)
    assert b.read(REG_A) == 0x26


def test_update_interrupt():
    """UIE: one interrupt a second; without reading register C there is no second one; no timer afterwards."""
    b = Board()
    b.write(REG_B, 0x12)
    b.timers.advance(3 * SECOND)
    assert len(b.edges) == 1 and b.timers.pending == 0
    assert b.read(REG_C) == 0xD0 and b.read(REG_C) == 0
    b.timers.advance(SECOND)
    assert len(b.edges) == 2
    b.write(REG_B, 0x02)
    assert b.timers.pending == 0


def test_alarm():
    """An alarm at a time of day, and with wildcards every hour or minute."""
    b = Board()
    for index, value in ((1, 0x00), (3, 0x00), (5, 0x23)):
        b.write(index, value)
    b.write(REG_B, 0x22)
    b.timers.advance(46 * 60 * SECOND)
    assert b.edges == []
    b.timers.advance(60 * SECOND)
    assert len(b.edges) == 1 and b.read(REG_C) & 0xA0 == 0xA0
    b.write(5, 0xFF)
    b.write(3, 0xC0)
    b.timers.advance(180 * SECOND)
    assert len(b.edges) == 2 and b.read(REG_C) & 0x20
    b.write(1, 0x61)
    b.timers.advance(90000 * SECOND)
    assert len(b.edges) == 2


@pytest.mark.parametrize(("rate", "hertz"), [(6, 1024), (15, 2), (3, 8192), (1, 256), (2, 128)])
def test_periodic_interrupt(rate, hertz):
    """PIE: ticks at the rate selected, for as long as it is enabled."""
    b = Board()
    b.write(REG_A, 0x20 | rate)
    b.write(REG_B, 0x42)
    for _ in range(hertz):
        b.timers.advance(SECOND // hertz + 1)
        assert b.read(REG_C) & 0xC0 == 0xC0
    assert abs(len(b.edges) - hertz) <= 1
    b.write(REG_A, 0x20)
    assert b.timers.pending == 0


def test_flags_without_interrupts():
    """Polling register C shows updates, alarms and periods although there is no timer."""
    b = Board()
    b.read(REG_C)
    b.timers.advance(2 * SECOND)
    assert b.timers.pending == 0 and b.read(REG_C) == 0x50
    for index in (1, 3, 5):
        b.write(index, 0xFF)
    b.timers.advance(SECOND)
    assert b.read(REG_C) == 0x70 and b.edges == []


def test_memory():
    """Bytes from 0Eh on and the second bank are memory that survives a reset; registers C and D are read-only."""
    b = Board()
    b.write(0x10, 0x40)
    b.write(0x7F, 0xAA)
    b.rtc.write(2, 1, 5)
    b.rtc.write(3, 1, 0x77)
    b.write(REG_D, 0)
    b.rtc.set_checksum()
    b.write(REG_B, 0x72)
    b.rtc.reset()
    assert b.read(0x10) == 0x40 and b.read(0x7F) == 0xAA and b.rtc.read(3, 1) == 0x77 and b.read(REG_D) == 0x80
    assert b.read(0x2F) == 0x40 and b.read(REG_B) == 0x02 and b.rtc.read(0, 1) == 0xFF and b.timers.pending == 0


def test_state_moves():
    """Another one with the saved state shows the same time and raises the next interrupt."""
    b, c = Board(), Board()
    b.write(REG_B, 0x86)
    b.write(4, 5)
    b.write(REG_B, 0x16)
    c.timers.advance(12345 * SECOND)
    c.rtc.load(b.rtc.save())
    assert c.date() == b.date() and c.read(4) == 5
    c.timers.advance(SECOND)
    assert len(c.edges) == 1


def test_as_qemu_has_it():
    """The date in all formats after it has been set is what QEMU's shows."""
    rng = random.Random(5)
    with qemu("-rtc", "base=2023-11-14T22:13:20,clock=vm") as q:
        b = Board()

        def out(index, value):
            q.write(0x70, 1, index)
            q.write(0x71, 1, value)
            b.write(index, value)

        def check(*indices):
            for index in indices:
                q.write(0x70, 1, index)
                assert q.read(0x71, 1) == b.read(index), index

        for _ in range(150):
            mode = rng.choice([0, 2, 4, 6])
            out(REG_B, 0x80 | mode)
            decimal = (lambda v: v) if mode & 4 else (lambda v: v // 10 << 4 | v % 10)
            hour = rng.randrange(24) if mode & 2 else rng.randrange(1, 13)
            fields = ((0x32, rng.choice([19, 20]), 99), (9, rng.randrange(70, 100), 0), (8, rng.randrange(1, 13), 0),
                      (7, rng.randrange(1, 29), 0), (4, hour, 0), (2, rng.randrange(60), 0), (0, rng.randrange(59), 0))
            for index, value, _ in fields:
                out(index, decimal(value) | (rng.choice([0, 0x80]) if index == 4 and not mode & 2 else 0))
            out(REG_B, mode)
            check(0x32, 9, 8, 7, 4, 2, 0)
            other = rng.choice([0, 2, 4, 6])
            out(0x0E, rng.getrandbits(8))
            check(0x0E, REG_D)
            assert other in (0, 2, 4, 6)


def test_random_accesses():
    """Whatever is written: no exception, at most two timers, and the state can be saved and loaded."""
    rng, b = random.Random(9), Board()
    for _ in range(12000):
        kind = rng.randrange(6)
        if kind < 2:
            b.rtc.write(rng.randrange(4), 1, rng.getrandbits(8))
        elif kind == 2:
            assert 0 <= b.rtc.read(rng.randrange(4), 1) < 256
        elif kind == 3:
            b.write(rng.randrange(14), rng.getrandbits(8))
        elif kind == 4:
            assert 0 <= b.read(rng.randrange(128)) < 256
        else:
            b.timers.advance(rng.choice([1000, 10**6, 10**8]))
        assert b.timers.pending <= 2
    c = Board()
    c.rtc.load(b.rtc.save())
    c.rtc.save()
