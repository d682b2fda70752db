"""ACPI power management: the timer, the buttons, S5, general purpose events, where its registers are."""

import random

import pytest

from tests.devices.clock import FakeTimers
from xenfast.devices.acpi_pm import AcpiPm
from xenfast.devices.pci import PciBus
from xenfast.xen.hvm import bus
from xenfast.xen.hvm.irq import Line, nowhere

PM = 0xB000


class Board:
    def __init__(self):
        self.timers, self.ports, self.sci, self.off = FakeTimers(), bus.ports(), [], []
        self.pm = AcpiPm(self.timers, self.ports, Line(lambda n, level: self.sci.append(level)), lambda: self.off.append(1))
        self.pci = PciBus(self.ports, bus.memory(), lambda slot, pin: nowhere(), lambda *message: None)
        self.pci.attach(self.pm, 1, 3)
        self.ports.add(0xB2, self.pm.smi_cmd)
        self.ports.add(0xAFE0, self.pm.gpe)
        self.pci.config_write(1, 3, 0x40, 4, PM | 1)
        self.pci.config_write(1, 3, 0x80, 1, 1)

    def r(self, offset, size=2):
        return self.ports.read(PM + offset, size)

    def w(self, offset, value, size=2):
        self.ports.write(PM + offset, size, value)


def test_the_registers_are_where_pmba_says():
    """PMBA moves them, PMREGMISC switches them on; reset takes them away."""
    b = Board()
    assert b.r(0) == 0 and b.r(4) == 1
    b.pci.config_write(1, 3, 0x40, 4, 0x600)
    assert b.r(4) == 0xFFFF and b.ports.read(0x604, 2) == 1
    b.pci.config_write(1, 3, 0x80, 1, 0)
    assert b.ports.read(0x604, 2) == 0xFFFF
    b.pci.config_write(1, 3, 0x80, 1, 1)
    b.pci.reset()
    assert b.ports.read(0x604, 2) == 0xFFFF and b.pci.config_read(1, 3, 0x40, 4) == 1


def test_the_timer():
    """3.579545 MHz in 32 bits; TMR_STS when the highest bit changes, an SCI if it is enabled; no timer of ours otherwise."""
    b = Board()
    b.timers.advance(10**9)
    assert b.r(8, 4) == 3_579_545 and b.r(8, 1) == 3_579_545 & 0xFF and b.timers.pending == 0
    b.timers.advance(600 * 10**9)
    assert b.r(8, 4) == 601 * 3_579_545 and b.r(0) == 1
    b.w(0, 1)
    b.w(2, 1)
    assert b.sci == [] and b.timers.pending == 1
    b.timers.advance(600 * 10**9)
    assert b.sci == [True] and b.r(0) == 1
    b.w(0, 1)
    assert b.sci == [True, False]


def test_the_power_button():
    """PWRBTN_STS and an SCI where that is enabled; a one clears it."""
    b = Board()
    b.pm.power_button()
    assert b.sci == [] and b.r(0) == 0x100
    b.w(2, 0x100)
    assert b.sci == [True]
    b.ports.write(PM + 1, 1, 1)
    assert b.sci == [True, False] and b.r(0) == 0
    b.w(2, 0x300)
    b.pm.sleep_button()
    assert b.sci[-1] and b.r(0, 4) == 0x03000200


def test_s5_is_the_end():
    """SLP_EN with type 0 turns the power off; other types wake up again at once."""
    b = Board()
    b.w(4, 0x0001)
    assert b.off == []
    b.w(4, 1 << 13 | 5 << 10 | 1)
    assert b.off == [] and b.r(0) & 0x8000
    b.w(4, 1 << 13 | 1)
    assert b.off == [1]


def test_general_purpose_events():
    """An enabled event raises the SCI until its status bit is cleared."""
    b = Board()
    b.ports.write(0xAFE2, 1, 0x04)
    b.pm.general_event(2)
    assert b.sci == [True] and b.ports.read(0xAFE0, 4) == 0x00040004
    b.ports.write(0xAFE0, 1, 4)
    assert b.sci == [True, False]


def test_legacy_mode():
    """F0h and F1h at port B2h leave and enter ACPI mode."""
    b = Board()
    b.ports.write(0xB2, 1, 0xF0)
    assert b.r(4) == 0
    b.ports.write(0xB2, 1, 0xF1)
    assert b.r(4) == 1 and b.ports.read(0xB2, 1) == 0xF1


def test_nobody_is_on_the_smbus():
    """A transaction ends with DEV_ERR."""
    b = Board()
    b.pci.config_write(1, 3, 0x90, 4, 0xB100)
    b.pci.config_write(1, 3, 0xD2, 1, 1)
    b.ports.write(0xB102, 1, 0x48)
    assert b.ports.read(0xB100, 1) == 4
    b.ports.write(0xB100, 1, 0xFF)
    assert b.ports.read(0xB100, 1) == 0


@pytest.mark.parametrize("seed", range(3))
def test_random_accesses(seed):
    """Whatever is written: no exception, and the state can be saved and loaded."""
    rng, b = random.Random(seed), Board()
    for _ in range(4000):
        kind, size = rng.randrange(5), rng.choice([1, 2, 4])
        address = rng.choice([PM + rng.randrange(64), 0xB2, 0xB3, 0xAFE0 + rng.randrange(4), 0xB100 + rng.randrange(16)])
        if kind < 2:
            b.ports.write(address, size, rng.getrandbits(8 * size))
        elif kind == 2:
            assert 0 <= b.ports.read(address, size) < 1 << 8 * size
        elif kind == 3:
            b.pci.config_write(1, 3, rng.choice([0x40, 0x41, 0x80, 0x90, 0xD2, rng.randrange(256)]), 1, rng.getrandbits(8))
        else:
            b.timers.advance(rng.randrange(10**12))
    c = Board()
    c.pm.load(b.pm.save())
    assert c.pm.save()["config"] == b.pm.save()["config"]
