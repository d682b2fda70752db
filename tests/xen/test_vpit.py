"""The 8254: counting in all modes, latches, read-back, BCD, gates, and the ticks of counter 0, missed ones too."""

import random

import pytest

from tests.devices.clock import FakeTimers
from tests.devices.qtest import qemu
from xenfast.xen.hvm import vpt
from xenfast.xen.hvm.irq import Line
from xenfast.xen.hvm.vpit import FREQUENCY, Pit


class Board:
    def __init__(self, mode=vpt.NO_DELAY_FOR_MISSED_TICKS):
        self.timers, self.edges = FakeTimers(), []
        self.pit = Pit(self.timers, Line(lambda n, level: self.edges.append(self.timers.now()) if level else None), mode)

    def clocks(self, n):
        """n pulses of CLK go by."""
        self.timers.advance(-(-n * 10**9 // FREQUENCY))

    def program(self, counter, mode, count, bcd=0):
        self.pit.write(3, 1, counter << 6 | 0x30 | mode << 1 | bcd)
        self.pit.write(counter, 1, count & 0xFF)
        self.pit.write(counter, 1, count >> 8)

    def value(self, counter):
        self.pit.write(3, 1, counter << 6)
        return self.pit.read(counter, 1) | self.pit.read(counter, 1) << 8


def test_rate_generator():
    """Mode 2: the count is reloaded; the output is low for one pulse; IRQ 0 comes once a period and never drifts."""
    b = Board()
    b.program(0, 2, 11932)
    b.clocks(932)
    assert b.value(0) == 11000
    b.edges.clear()
    b.timers.advance(10**9)
    assert len(b.edges) == 100 and b.timers.pending == 1
    b.timers.advance(99 * 10**9)
    assert len(b.edges) == FREQUENCY * 100 // 11932
    b.program(2, 2, 10)
    b.pit.set_gate2(True)
    outs = []
    for _ in range(20):
        outs.append(b.pit.out2())
        b.clocks(1)
    assert outs.count(False) == 2 and b.timers.pending == 1


def test_square_wave():
    """Mode 3: counts by two, high for the first half of the period, the longer one if it is odd."""
    b = Board()
    b.pit.set_gate2(True)
    b.program(2, 3, 10)
    b.clocks(3)
    assert b.value(2) == 4
    outs = []
    for _ in range(10):
        outs.append(b.pit.out2())
        b.clocks(1)
    assert outs.count(True) == 5
    b.program(2, 3, 7)
    assert [b.pit.out2() for _ in range(7) if b.clocks(1) is None].count(True) == 4


def test_interrupt_on_terminal_count():
    """Mode 0: the output is low from the control word on, rises once after the count and stays; counting goes on; the gate holds it."""
    b = Board()
    b.program(0, 0, 1000)
    b.clocks(1000)
    assert b.edges == [] and b.value(0) == 0
    b.clocks(2)
    assert len(b.edges) == 1 and b.value(0) == 0xFFFE
    b.clocks(100000)
    assert len(b.edges) == 1 and b.timers.pending == 0
    b.pit.set_gate2(True)
    b.program(2, 0, 100)
    b.clocks(40)
    b.pit.set_gate2(False)
    b.clocks(500)
    assert b.value(2) == 60 and not b.pit.out2()
    b.pit.set_gate2(True)
    b.clocks(62)
    assert b.pit.out2()


def test_one_shots_wait_for_the_gate():
    """Modes 1 and 5: a rising gate starts the count, again at each rise."""
    b = Board()
    b.program(2, 1, 50)
    assert b.pit.out2()
    b.clocks(500)
    b.pit.set_gate2(True)
    b.clocks(30)
    assert not b.pit.out2() and b.value(2) == 20
    b.pit.set_gate2(False)
    b.pit.set_gate2(True)
    b.clocks(30)
    assert not b.pit.out2()
    b.clocks(20)
    assert b.pit.out2()
    b.program(2, 5, 50)
    b.pit.set_gate2(False)
    b.pit.set_gate2(True)
    b.clocks(50)
    assert not b.pit.out2()
    b.clocks(1)
    assert b.pit.out2()


def test_software_triggered_strobe():
    """Mode 4: one low pulse after the count."""
    b = Board()
    b.program(0, 4, 100)
    b.edges.clear()
    b.clocks(101)
    assert len(b.edges) == 1
    b.clocks(70000)
    assert len(b.edges) == 1


def test_a_new_count_waits_for_the_end_of_the_period():
    """Modes 2 and 3: a count written while it counts is used from the next period on; NULL COUNT says so until then."""
    b = Board()
    b.program(0, 2, 1000)
    b.clocks(100)
    b.edges.clear()
    b.pit.write(0, 1, 200)
    b.pit.write(0, 1, 0)
    assert b.value(0) == 900
    b.pit.write(3, 1, 0xE2)
    assert b.pit.read(0, 1) == 0xF4
    b.clocks(901)
    assert len(b.edges) == 1 and 190 <= b.value(0) <= 200
    b.clocks(401)
    assert len(b.edges) == 3
    b.pit.write(3, 1, 0xE2)
    assert b.pit.read(0, 1) == 0xB4


def test_latches_and_read_back():
    """A latched count stays until it has been read; status comes before count; the flip-flop tells low from high."""
    b = Board()
    b.program(2, 2, 0x1234)
    b.pit.set_gate2(True)
    b.pit.write(3, 1, 0x80)
    b.clocks(100)
    b.pit.write(3, 1, 0x80)
    assert b.pit.read(2, 1) == 0x34 and b.pit.read(2, 1) == 0x12
    b.pit.write(3, 1, 0xC8)
    b.clocks(10)
    assert b.pit.read(2, 1) == 0xB4 and b.pit.read(2, 1) | b.pit.read(2, 1) << 8 == 0x1234 - 100
    assert b.pit.read(3, 1) == 0
    b.pit.write(3, 1, 0x94)
    b.pit.write(2, 1, 77)
    b.pit.write(3, 1, 0x80)
    b.pit.write(3, 1, 0x54)
    b.pit.write(1, 1, 18)
    b.clocks(5)
    assert b.pit.read(1, 1) == 13


def test_bcd():
    """Counts are four decimal digits; zero is 10000."""
    b = Board()
    b.pit.set_gate2(True)
    b.program(2, 2, 0x1000, bcd=1)
    b.clocks(1)
    assert b.value(2) == 0x0999
    b.program(2, 0, 0, bcd=1)
    b.clocks(1)
    assert b.value(2) == 0x9999


@pytest.mark.parametrize(("mode", "expected"), [(vpt.NO_DELAY_FOR_MISSED_TICKS, 20), (vpt.NO_MISSED_TICKS_PENDING, 11),
                                                (vpt.ONE_MISSED_TICK_PENDING, 12)])
def test_missed_ticks(mode, expected):
    """A host that is late by ten periods: all ticks come in the end, or none, or one of the missed ones."""
    b = Board(mode)
    b.program(0, 2, 11932)
    b.edges.clear()
    b.timers.advance(0, late=100_020_000)
    b.timers.advance(100_000_000 - 40_000)
    assert len(b.edges) in (expected - 1, expected)


def test_fast_ticks_are_not_all_made():
    """A counter of 1 does not keep the host busy: at most 10,000 ticks a second."""
    b = Board()
    b.program(0, 2, 1)
    b.edges.clear()
    b.timers.advance(10**9)
    assert 5000 < len(b.edges) <= 10001


def test_state_moves():
    """Another one with the saved state counts on and ticks."""
    b, c = Board(), Board()
    b.program(0, 3, 5000)
    b.program(2, 0, 9999)
    b.clocks(123)
    c.timers.advance(777)
    c.pit.load(b.pit.save())
    c.edges.clear()
    for board in (b, c):
        board.edges.clear()
        board.clocks(500)
    assert abs(b.value(0) - c.value(0)) <= 2 and abs(b.value(2) - c.value(2)) <= 1
    b.clocks(50000)
    c.clocks(50000)
    assert len(b.edges) == len(c.edges) == 10


def test_latches_as_qemu_has_them():
    """While time stands still, what is read after random control words, counts and latches is what QEMU's reads (mode 2 and 3 restart
    there at once when a count is written, so each follows a control word).
    """
    rng = random.Random(3)
    with qemu() as q:
        b = Board()
        b.pit.set_gate2(True)
        q.write(0x61, 1, 1)

        def out(port, value):
            q.write(port, 1, value)
            b.pit.write(port - 0x40, 1, value)

        for n in range(3):                          # known states: each counter programmed
            out(0x43, n << 6 | 0x34)
            out(0x40 + n, 0x55)
            out(0x40 + n, 0x12)
        for _ in range(1500):
            n, rw, mode = rng.randrange(3), rng.choice([1, 2, 3, 3]), rng.choice([0, 2, 3, 4])
            out(0x43, n << 6 | rw << 4 | mode << 1)
            for _ in range(2 if rw == 3 else 1):
                odd = 0 if mode == 3 else 1         # odd counts are loaded as they are there
                out(0x40 + n, rng.choice([0, 1, 255, rng.randrange(256)]) & (0xFE | odd))
            for _ in range(rng.randrange(4)):
                out(0x43, rng.choice([n << 6, 0xC0 | 0x20 | 2 << n, 0xC0 | 0x10 | 2 << n, 0xC0 | 2 << n]))
            reads = rng.randrange(1, 6)
            while reads > 0 or b.pit.counters[n].latched or b.pit.counters[n].status is not None:     # a control word forgets none there
                reads -= 1
                mask = 0xFF if b.pit.counters[n].status is None else 0x3F       # its OUT is upside down in mode 2, NULL COUNT never set
                assert b.pit.read(n, 1) & mask == q.read(0x40 + n, 1) & mask


def test_random_accesses():
    """Whatever is written: no exception, no more than one timer, and the state can be saved and loaded."""
    rng, b = random.Random(11), Board()
    for _ in range(20000):
        kind = rng.randrange(5)
        if kind < 2:
            b.pit.write(rng.randrange(4), 1, rng.getrandbits(8))
        elif kind == 2:
            assert 0 <= b.pit.read(rng.randrange(4), 1) < 256
        elif kind == 3:
            b.pit.set_gate2(rng.random() < .5)
            b.pit.out2()
        else:
            b.timers.advance(rng.choice([100, 10**4, 10**6]), late=rng.choice([0, 0, 0, 10**6]))
        assert b.timers.pending <= 1
    other = Board()
    other.pit.load(b.pit.save())
    other.pit.save()
