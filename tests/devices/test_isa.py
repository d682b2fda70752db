"""The board's small things: port 61h, port 92h, reset control, the NMI mask, the printer, debug ports."""

import logging
import random

from tests.devices.clock import FakeTimers
from xenfast.devices.debugcon import DebugPort, PostPort
from xenfast.devices.isa import Board as Isa
from xenfast.devices.parallel import ParallelPort
from xenfast.xen.hvm.irq import Line, nowhere
from xenfast.xen.hvm.vpit import Pit


class Board:
    def __init__(self):
        self.timers, self.calls = FakeTimers(), []
        self.pit = Pit(self.timers, nowhere())
        self.isa = Isa(self.timers, self.pit, lambda offset, size, value: self.calls.append(("index", value)),
                       lambda: self.calls.append("reset"), lambda: self.calls.append("init"))


def test_port_61():
    """It gates counter 2, shows its output and the refresh toggle."""
    b = Board()
    b.pit.write(3, 1, 0xB0)
    b.pit.write(2, 1, 100)
    b.pit.write(2, 1, 0)
    b.isa.nsc.write(0, 1, 0xFD)
    assert b.isa.nsc.read(0, 1) & 0xCF == 0x0D and not b.isa.nsc.read(0, 1) & 0x20
    b.timers.advance(100_000)
    assert b.isa.nsc.read(0, 1) & 0x20
    seen = set()
    for _ in range(10):
        b.timers.advance(7_000)
        seen.add(b.isa.nsc.read(0, 1) & 0x10)
    assert seen == {0, 0x10}


def test_resets():
    """Port CF9h resets on a rising bit 2, port 92h on a rising bit 0, once each."""
    b = Board()
    b.isa.reset_control.write(0, 1, 2)
    assert b.calls == [] and b.isa.reset_control.read(0, 1) == 2
    b.isa.reset_control.write(0, 1, 6)
    assert b.calls == ["reset"]
    b.isa.port92.write(0, 1, 3)
    b.isa.port92.write(0, 1, 3)
    assert b.calls == ["reset", "init"] and b.isa.port92.read(0, 1) == 3


def test_the_nmi_mask_is_seen_on_the_way_to_the_rtc():
    """Bit 7 of port 70h is the mask, the index goes on."""
    b = Board()
    b.isa.nmi.write(0, 1, 0x8F)
    assert b.isa.nmi_off and b.calls == [("index", 0x8F)]


def test_the_printer():
    """A falling strobe prints the byte; the port interrupts if it is asked to."""
    out, irq = bytearray(), []
    lpt = ParallelPort(Line(lambda n, level: irq.append(level)), out.extend)
    for character in b"ok":
        lpt.write(0, 1, character)
        lpt.write(2, 1, 0x1D)
        lpt.write(2, 1, 0x1C)
    assert out == b"ok" and irq == [True] and lpt.read(1, 1) == 0xDF and irq == [True, False]


def test_debug_ports(caplog):
    """Lines are logged; reading tells that the port is there; the last power-on test is kept."""
    caplog.set_level(logging.INFO, "xenfast")
    out, port, post = bytearray(), DebugPort("guest"), PostPort()
    port.output = out.extend
    for character in b"one\r\ntwo\n":
        port.write(0, 1, character)
    assert [record.message for record in caplog.records] == ["guest: one", "guest: two"] and out == b"one\r\ntwo\n"
    assert port.read(0, 1) == 0xE9
    post.write(0, 1, 0x55)
    assert post.read(0, 1) == 0x55


def test_random_accesses():
    """Whatever is written: no exception, bounded memory."""
    rng, b, port, lpt = random.Random(6), Board(), DebugPort("guest"), ParallelPort(nowhere())
    for _ in range(5000):
        for region in (b.isa.nsc, b.isa.port92, b.isa.reset_control, b.isa.nmi, port.region, lpt.region):
            region.write(rng.randrange(region.size), 1, rng.getrandbits(8))
            assert 0 <= region.read(rng.randrange(region.size), 1) < 256
        b.calls.clear()
    assert len(port.line) <= 513
    b.isa.load(b.isa.save())
    lpt.load(lpt.save())
