"""The 16550A: registers, FIFO, interrupts by priority, loopback, input that waits; and as QEMU's has it."""

import random

from tests.devices.clock import FakeTimers
from tests.devices.qtest import qemu
from xenfast.devices.serial import Uart
from xenfast.xen.hvm.irq import Line


class Board:
    def __init__(self):
        self.timers, self.sent, self.irq = FakeTimers(), bytearray(), []
        self.uart = Uart(self.timers, Line(lambda n, level: self.irq.append(level)), self.sent.extend)

    def r(self, offset):
        return self.uart.read(offset, 1)

    def w(self, offset, value):
        self.uart.write(offset, 1, value)

    @property
    def line(self):
        return bool(self.irq) and self.irq[-1]


def test_sending():
    """What is written to THR goes out; the transmitter is empty at once; THRE interrupts once until IIR is read."""
    b = Board()
    b.w(0, 65)
    assert b.sent == b"A" and b.r(5) == 0x60 and not b.line
    b.w(4, 8)
    b.w(1, 2)
    assert b.line and b.r(2) == 0x02 and b.r(2) == 0x01 and not b.line
    b.w(0, 66)
    assert b.line and b.sent == b"AB"


def test_receiving_without_fifo():
    """One character at a time; the rest waits and comes as each is read."""
    b = Board()
    b.w(4, 8)
    b.w(1, 1)
    b.uart.receive(b"xyz")
    got = []
    while b.r(5) & 1:
        assert b.line and b.r(2) == 0x04
        got.append(b.r(0))
    assert bytes(got) == b"xyz" and not b.line and b.r(0) == 0


def test_fifo_triggers_and_timeout():
    """The interrupt comes at the trigger level, or when fewer have waited for four characters' time."""
    b = Board()
    b.w(4, 8)
    b.w(2, 0x81)
    b.w(1, 1)
    b.uart.receive(b"1234567")
    assert not b.line and b.r(2) == 0xC1
    b.timers.advance(10**6)
    assert b.line and b.r(2) == 0xCC
    assert b.r(0) == ord("1") and not b.line
    b.uart.receive(b"89abcdefghijklmnop")
    assert b.line and b.r(2) == 0xC4
    assert bytes(b.r(0) for _ in range(16)) == b"23456789abcdefgh" and b.irq[-2:] == [False, True]
    assert bytes(b.r(0) for _ in range(8)) == b"ijklmnop" and b.r(5) == 0x60 and b.timers.pending == 0


def test_the_divisor_latch():
    """DLAB shows the divisor in place of data and interrupt enable; SCR and LCR keep what is written."""
    b = Board()
    b.w(3, 0x83)
    b.w(0, 0x01)
    b.w(1, 0x02)
    assert (b.r(0), b.r(1), b.uart.divisor) == (1, 2, 0x201)
    b.w(3, 3)
    assert b.r(1) == 0 and b.r(3) == 3 and b.sent == b""
    b.w(7, 0x5A)
    assert b.r(7) == 0x5A


def test_loopback():
    """What is sent comes back, modem outputs show at the inputs, and changes are told; nothing gets out."""
    b = Board()
    b.uart.receive(b"q")
    b.r(0)
    b.w(2, 1)
    b.w(4, 0x1A)
    assert b.r(6) & 0xF0 == 0x90 and b.r(6) & 0x0F == 0
    b.w(4, 0x1F)
    assert b.r(6) == 0xF2
    b.w(4, 0x10)
    assert b.r(6) == 0x0F
    b.w(0, 0x77)
    b.uart.receive(b"later")
    assert b.sent == b"" and b.r(5) & 1 and b.r(0) == 0x77 and not b.r(5) & 1
    b.w(4, 0)
    assert b.r(0) == ord("l")


def test_priorities():
    """Line status before data before transmitter before modem status."""
    b = Board()
    b.w(4, 0x18)
    b.w(1, 0x0F)
    b.w(4, 0x1B)
    b.w(4, 0x0B)
    b.w(0, 1)
    b.uart.send_break()
    assert b.line and b.r(2) == 0x06
    assert b.r(5) & 0x11 == 0x11
    assert b.r(2) == 0x04 and b.r(0) == 0
    assert b.r(2) == 0x02 and b.r(2) == 0x00
    b.r(6)
    assert b.r(2) == 0x01 and not b.line


def test_out2_gates_the_interrupt():
    """Without OUT2 no interrupt leaves the port, as on a PC."""
    b = Board()
    b.w(1, 1)
    b.uart.receive(b"a")
    assert not b.line
    b.w(4, 8)
    assert b.line


def test_state_moves():
    """Another one with the saved state has the same characters and asks for attention."""
    b, c = Board(), Board()
    b.w(4, 8)
    b.w(2, 1)
    b.w(1, 1)
    b.uart.receive(b"0123456789abcdefghij")
    c.uart.load(b.uart.save())
    assert c.line and bytes(c.r(0) for _ in range(20)) == b"0123456789abcdefghij"


def test_as_qemu_has_it():
    """Registers after random writes (no loopback, where QEMU sends with a delay) read as QEMU's."""
    rng = random.Random(2)
    with qemu("-serial", "null") as q:
        b = Board()
        q.write(0x3FC, 1, 0)
        for _ in range(2500):
            offset = rng.choice([1, 2, 3, 4, 7, 0])
            value = rng.getrandbits(8)
            if offset == 4:
                value &= 0xEF
            if offset == 0 and not b.uart.lcr & 0x80:
                continue
            if offset == 2:
                value &= 0xC7
            q.write(0x3F8 + offset, 1, value)
            b.w(offset, value)
            for read in (1, 3, 4, 5, 7, *([0] if b.uart.lcr & 0x80 else [])):
                assert b.r(read) == q.read(0x3F8 + read, 1), (offset, value, read)


def test_random_accesses():
    """Whatever is written: no exception, and the state can be saved and loaded."""
    rng, b = random.Random(3), Board()
    for _ in range(15000):
        kind = rng.randrange(5)
        if kind < 2:
            b.w(rng.randrange(8), rng.getrandbits(8))
        elif kind == 2:
            assert 0 <= b.r(rng.randrange(8)) < 256
        elif kind == 3:
            b.uart.receive(bytes(rng.randrange(30)))
        else:
            b.timers.advance(rng.randrange(10**6))
        assert len(b.uart.fifo) <= 16 and b.timers.pending <= 1
    c = Board()
    c.uart.load(b.uart.save())
    assert c.uart.save() == b.uart.save()
