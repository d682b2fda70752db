"""PCI at power-on, with the bus and the function class of devices/."""

import pytest

from xenfast.devices.pci import PIN_A, PciBus, PciDevice, gsi, link
from xenfast.devices.piix import Piix3, PirqRouter
from xenfast.errors import XenfastError
from xenfast.firmware import pci_setup
from xenfast.firmware.acpi.machine import PCI_SLOTS, pci_gsi, pci_link
from xenfast.xen.hvm import bus
from xenfast.xen.hvm.bus import Region
from xenfast.xen.hvm.irq import nowhere

MIB, GIB = 1 << 20, 1 << 30


@pytest.fixture
def pci():
    router = PirqRouter(lambda pin, level: None, lambda irq: nowhere())
    made = PciBus(bus.ports(), bus.memory(), router.interrupt, lambda address, data: None)
    made.router = router
    made.attach(PciDevice("i440FX", 0x8086, 0x1237, 0x060000), 0)
    made.attach(Piix3(router), 1, 0)
    return made


def device(*bars, kind=0x020000, pin=PIN_A, identity=(0x8086, 0x100E)):
    """A function whose BARs are ("io", size), ("mem", size), ("wide", size), ("rom", size)."""
    one = PciDevice("thing", *identity, kind, pin=pin)
    number = 0
    for what, size in bars:
        region = Region(size if size < 1 << 24 else 1 << 24, lambda at, n: 0, lambda at, n, v: None)
        if what == "io":
            one.bar_io(number, region)
        elif what == "rom":
            one.rom(bytes(size))
        else:
            one.bar_ram(number, size, lambda where: None, wide=what == "wide")
        number += 2 if what == "wide" else 1
    return one


def placed(placement):
    return {(bar.function.slot, bar.number): (bar.address, bar.size) for one in placement.functions for bar in one.bars}


def test_bars_are_placed_and_switched_on(pci):
    """Largest first from F0000000h and C000h on, at multiples of their size, apart from each other, and decoded afterwards."""
    nic = pci.attach(device(("mem", 0x20000), ("io", 64), ("rom", 0x10000)), 4)
    vga = pci.attach(device(("mem", 16 * MIB), ("mem", 0x1000), kind=0x030000, pin=0), 2)
    placement = pci_setup.place(pci)
    where = placed(placement)
    assert where[2, 0] == (0xF0000000, 16 * MIB) and where[4, 0] == (0xF1000000, 0x20000)
    assert where[4, 6] == (0xF1020000, 0x10000) and where[2, 1] == (0xF1030000, 0x1000) and where[4, 1] == (0xC000, 64)
    assert [bar.address for bar in nic.bars] == [0xF1000000, 0xC000, None]      # a ROM is not switched on
    assert [bar.address for bar in vga.bars] == [0xF0000000, 0xF1030000] and vga.command & 3 == 3
    assert nic.config[0x3C] == placement.irqs[link(4, PIN_A)] and nic.bus_master
    assert pci.router.routes == [5, 10, 11, 5]
    assert (placement.window, placement.window_high) == ((0xF0000000, 0xFC000000), None)
    assert "8086:100e BAR 0 at 0xf1000000" in placement.text()


def test_the_hole_grows(pci):
    """300 MiB of BARs do not fit above F0000000h: the hole begins at E0000000h; mmio_hole asks for more or less."""
    pci.attach(device(("mem", 256 * MIB), ("mem", 32 * MIB)), 3)
    assert pci_setup.place(pci).window == (0xE0000000, 0xFC000000)
    assert pci_setup.place(pci, hole_mib=1024).window == (0xC0000000, 0xFC000000)
    for wrong in (60, 4000, 1 << 20):
        with pytest.raises(XenfastError, match="mmio_hole cannot be"):
            pci_setup.place(pci, hole_mib=wrong)


def test_what_does_not_fit_goes_above_4_gib(pci):
    """A 64-bit BAR of 4 GiB lies above RAM, at a multiple of its size; a 32-bit one stays below."""
    pci.attach(device(("wide", 4 * GIB)), 3)
    pci.attach(device(("mem", 64 * MIB)), 4)
    placement = pci_setup.place(pci, high_start=5 * GIB + 123)
    where = placed(placement)
    assert where[3, 0] == (8 * GIB, 4 * GIB) and where[4, 0] == (0x80000000, 64 * MIB)
    assert placement.window_high == (8 * GIB, 12 * GIB)
    assert pci.config_read(3, 0, 0x14, 4) == 2


def test_what_fits_nowhere_is_left_out(pci, caplog):
    """A 32-bit BAR of 2 GiB has no place: it is not decoded, and the log says so."""
    lost = pci.attach(device(("mem", 2 * GIB), ("io", 16)), 3)
    pci_setup.place(pci)
    assert [bar.address for bar in lost.bars] == [None, 0xC000] and "no room for BAR 0" in caplog.text


def test_functions_with_registers_of_their_own(pci):
    """IDE gets its legacy ports, the power management function its block at B000h and interrupt 9."""
    ide, pm = PciDevice("IDE", 0x8086, 0x7010, 0x010180), PciDevice("PM", 0x8086, 0x7113, 0x068000, pin=PIN_A)
    ide.put(0x40, 4, 0, 0xFFFFFFFF)
    pm.put(0x40, 4, 1, 0xFFC0)
    pm.put(0x80, 1, 0, 1)
    pci.attach(ide, 1, 1)
    pci.attach(pm, 1, 3)
    pci_setup.place(pci)
    assert pci.config_read(1, 1, 0x40, 4) == 0x80008000 and pci.config_read(1, 1, 4, 1) & 1
    assert pci.config_read(1, 3, 0x40, 4) == 0xB001 and pci.config_read(1, 3, 0x80, 1) == 1 and pm.config[0x3C] == 9


def test_tables_and_router_agree_on_the_wiring():
    """What _PRT, MP table and $PIR say of a pin is what the router of devices/ does."""
    for slot in PCI_SLOTS:
        for pin in range(4):
            assert pci_gsi(slot, pin) == gsi(slot, pin + 1) and pci_link(slot, pin) == link(slot, pin + 1)


def test_a_hostile_function_is_survived(pci):
    """Registers that keep odd bits of the ones written have no BAR there, and stop nothing."""
    odd = PciDevice("odd", 0x1234, 0x5678, 0x020000, pin=7)
    odd.put(0x10, 4, 0x00000004, 0x0F0F0F00)
    odd.put(0x18, 4, 1, 0x10)
    odd.put(0x24, 4, 4, 0xFFFF0000)         # a 64-bit BAR that would reach into the next register
    pci.attach(odd, 9)
    assert len(pci_setup.place(pci).functions) == 3
