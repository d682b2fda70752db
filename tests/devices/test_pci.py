"""PCI: configuration mechanism 1, BARs that move regions, interrupt pins, MSI and MSI-X, the router."""

import random

import pytest

from xenfast.devices import msi, pci
from xenfast.devices.piix import Piix3, PirqRouter
from xenfast.xen.hvm import bus, irq


class Board:
    """A PCI bus with its ports, and what comes out of it."""

    def __init__(self):
        self.ports, self.mmio = bus.ports(), bus.memory()
        self.pins, self.irqs, self.messages = {}, {}, []
        shared = [irq.Shared(lambda n, level: self.irqs.__setitem__(n, level), n) for n in range(16)]
        self.router = PirqRouter(lambda n, level: self.pins.__setitem__(n, level), lambda n: shared[n].line())
        self.pci = pci.PciBus(self.ports, self.mmio, self.router.interrupt, lambda *message: self.messages.append(message))
        self.ports.add(0xCF8, self.pci.address)
        self.ports.add(0xCFC, self.pci.data)

    def select(self, slot, function, offset):
        self.ports.write(0xCF8, 4, 1 << 31 | slot << 11 | function << 8 | offset & 0xFC)
        return 0xCFC + (offset & 3)

    def read(self, slot, function, offset, size):
        return self.ports.read(self.select(slot, function, offset), size)

    def write(self, slot, function, offset, size, value):
        self.ports.write(self.select(slot, function, offset), size, value)


def ram(size, width=4):
    data = bytearray(size)

    def write(offset, n, value):
        data[offset:offset + n] = (value & (1 << 8 * n) - 1).to_bytes(n, "little")

    return bus.Region(size, lambda offset, n: int.from_bytes(data[offset:offset + n], "little"), write, width=width, name="ram")


def card(**options):
    return pci.PciDevice("card", 0x1234, 0x5678, 0x020000, revision=3, **options)


def test_mechanism_1():
    """CONFADD takes dwords only and reads back; CONFDATA reaches bytes, words and dwords; nobody there reads as all ones."""
    b = Board()
    b.pci.attach(card(), 5)
    assert b.read(5, 0, 0, 4) == 0x56781234 and b.read(5, 0, 2, 2) == 0x5678 and b.read(5, 0, 1, 1) == 0x12
    assert b.read(5, 0, 8, 4) == 0x02000003
    assert b.read(6, 0, 0, 4) == 0xFFFFFFFF and b.read(5, 1, 0, 2) == 0xFFFF
    b.ports.write(0xCF8, 4, 0xFFFFFFFF)
    assert b.ports.read(0xCF8, 4) == 0x80FFFFFC
    b.ports.write(0xCF8, 1, 0)
    assert b.ports.read(0xCF8, 4) == 0x80FFFFFC, "a byte is not for CONFADD"
    b.ports.write(0xCF8, 4, 5 << 11)
    assert b.ports.read(0xCFC, 4) == 0xFFFFFFFF, "not enabled"
    b.ports.write(0xCF8, 4, 1 << 31 | 1 << 16 | 5 << 11)
    assert b.ports.read(0xCFC, 4) == 0xFFFFFFFF, "bus 1"


def test_read_only_and_write_one_to_clear():
    """IDs cannot be written; error bits of the status register are cleared by ones; the interrupt line register is free."""
    b = Board()
    d = b.pci.attach(card(pin=pci.PIN_A), 4)
    b.write(4, 0, 0, 4, 0)
    assert b.read(4, 0, 0, 4) == 0x56781234
    d.config[7] |= 0x20
    b.write(4, 0, 4, 4, 0x00000005)
    assert b.read(4, 0, 4, 4) == 0x22000005
    b.write(4, 0, 4, 4, 0x20000007)
    assert b.read(4, 0, 4, 4) == 0x02000007
    b.write(4, 0, 0x3C, 2, 0xFF0B)
    assert b.read(4, 0, 0x3C, 2) == 0x010B


def test_bars_are_sized_and_move_regions():
    """All ones reads back the size; a region is where the BAR says while the command register allows it."""
    b = Board()
    d = card()
    d.bar_io(0, ram(32))
    d.bar_memory(1, ram(4096))
    d.bar_memory(2, ram(1 << 16), wide=True, prefetch=True)
    b.pci.attach(d, 3)
    b.write(3, 0, 4, 2, 3)
    for offset in (0x10, 0x14, 0x18, 0x1C):
        b.write(3, 0, offset, 4, 0xFFFFFFFF)
    assert [b.read(3, 0, offset, 4) for offset in (0x10, 0x14, 0x18, 0x1C)] == [0xFFFFFFE1, 0xFFFFF000, 0xFFFF000C, 0xFFFFFFFF]
    assert [bar.address for bar in d.bars] == [None, None, None]
    b.write(3, 0, 0x10, 4, 0xC100)
    b.write(3, 0, 0x14, 4, 0xF2000000)
    b.write(3, 0, 0x18, 4, 0x20000)
    b.write(3, 0, 0x1C, 4, 1)
    assert [bar.address for bar in d.bars] == [0xC100, 0xF2000000, 0x100020000]
    b.mmio.write(0x100020008, 4, 77)
    assert b.mmio.read(0x100020008, 4) == 77
    b.ports.write(0xC11C, 4, 5)
    b.write(3, 0, 4, 2, 2)
    assert b.ports.read(0xC11C, 4) == 0xFFFFFFFF
    b.write(3, 0, 0x10, 4, 0xC200)
    b.write(3, 0, 4, 2, 3)
    assert b.ports.read(0xC21C, 4) == 5
    b.pci.reset()
    assert b.read(3, 0, 0x10, 4) == 1 and b.ports.read(0xC21C, 4) == 0xFFFFFFFF and b.mmio.read(0x100020008, 4) == 0xFFFFFFFF


def test_ram_bars_and_roms():
    """A RAM BAR tells where it is and when it goes; a ROM answers while both its own bit and memory space are on."""
    b, moves = Board(), []
    d = card()
    d.bar_ram(0, 1 << 24, moves.append)
    d.rom(b"\x55\xaa" + bytes(3000))
    b.pci.attach(d, 2)
    b.write(2, 0, 0x10, 4, 0xE0000000)
    b.write(2, 0, 0x30, 4, 0xFFFFFFFE)
    assert b.read(2, 0, 0x30, 4) == 0xFFFFF000
    b.write(2, 0, 0x30, 4, 0xF1000001)
    assert moves == [] and b.mmio.read(0xF1000000, 2) == 0xFFFF
    b.write(2, 0, 4, 1, 2)
    assert moves == [0xE0000000] and b.mmio.read(0xF1000000, 2) == 0xAA55
    b.write(2, 0, 0x30, 4, 0xF1000000)
    b.write(2, 0, 0x10, 4, 0xD0000000)
    assert moves == [0xE0000000, 0xD0000000] and b.mmio.read(0xF1000000, 2) == 0xFFFF
    b.pci.detach(d)
    assert moves[-1] is None and b.read(2, 0, 0, 4) == 0xFFFFFFFF


def test_interrupt_pins():
    """INTx goes to the pin's own input and through the router; the status bit shows it even when the command register silences it."""
    b = Board()
    one, two = b.pci.attach(card(pin=pci.PIN_A), 3), b.pci.attach(card(pin=pci.PIN_B), 2)
    b.pci.attach(Piix3(b.router), 1)
    b.write(1, 0, 0x63, 1, 11)                     # both are link 3: (3 + 0) & 3, (2 + 1) & 3
    one.intx.set(True)
    assert b.pins == {pci.gsi(3, pci.PIN_A): True} and b.irqs == {11: True}
    two.intx.set(True)
    one.intx.set(False)
    assert b.irqs == {11: True} and b.pins == {28: False, 25: True}
    b.write(1, 0, 0x63, 1, 10)
    assert b.irqs == {11: False, 10: True}
    b.write(2, 0, 4, 2, 0x400)
    assert b.irqs[10] is False and b.read(2, 0, 6, 2) & 8
    b.write(2, 0, 4, 2, 0)
    assert b.irqs[10] is True
    b.pci.reset()
    assert b.irqs == {10: False, 11: False} and not any(b.pins.values()) and b.read(1, 0, 0x60, 4) == 0x80808080


def test_the_router_ignores_reserved_irqs():
    """PIRQRC set to IRQ 0, 1, 2, 8 or 13 leads nowhere."""
    b = Board()
    d = b.pci.attach(card(pin=pci.PIN_A), 4)
    b.pci.attach(Piix3(b.router), 1)
    d.intx.set(True)
    for value in (0, 1, 2, 8, 13, 0x8B):
        b.write(1, 0, 0x60, 1, value)
        assert b.irqs == {}
    b.write(1, 0, 0x60, 1, 5)
    assert b.irqs == {5: True}


def enable_msi(b, slot, at, control=1, address=0xFEE01000, data=0x41):
    b.write(slot, 0, at + 4, 4, address)
    b.write(slot, 0, at + 8, 4, 0)
    b.write(slot, 0, at + 12, 2, data)
    b.write(slot, 0, 4, 2, 6)
    b.write(slot, 0, at + 2, 2, control)


def test_msi():
    """With MSI on, the interrupt is a message instead of the line; masked ones are pending until they are unmasked."""
    b = Board()
    d = card(pin=pci.PIN_A)
    d.add_power_management()
    d.add_msi(4)
    b.pci.attach(d, 3)
    first = b.read(3, 0, 0x34, 1)
    at = b.read(3, 0, first + 1, 1)
    assert (b.read(3, 0, first, 1), b.read(3, 0, at, 1)) == (pci.CAP_PM, pci.CAP_MSI) and b.read(3, 0, 6, 2) & 0x10
    assert b.read(3, 0, at + 2, 2) == 0x184
    enable_msi(b, 3, at, 0x21)
    d.intx.set(True)
    assert b.messages == [(0xFEE01000, 0x40)] and not any(b.pins.values())
    d.notify(3)
    assert b.messages[-1] == (0xFEE01000, 0x43)
    b.write(3, 0, at + 16, 4, 4)
    d.notify(2)
    assert len(b.messages) == 2 and b.read(3, 0, at + 20, 4) == 4
    b.write(3, 0, at + 16, 4, 0)
    assert b.messages[-1] == (0xFEE01000, 0x42) and b.read(3, 0, at + 20, 4) == 0
    b.write(3, 0, at + 2, 2, 0)
    assert any(b.pins.values()) and not d.notify(1)


def test_msix():
    """Each vector has address, data and mask in the table; pending bits read back."""
    b = Board()
    d = card(pin=pci.PIN_A)
    d.add_msix(1, 3)
    b.pci.attach(d, 3)
    at = b.read(3, 0, 0x34, 1)
    assert b.read(3, 0, at + 2, 2) == 2 and b.read(3, 0, at + 4, 4) == 1 and b.read(3, 0, at + 8, 4) == 0x801
    b.write(3, 0, 0x14, 4, 0xF0000000)
    b.write(3, 0, 4, 2, 6)
    b.write(3, 0, at + 2, 2, 0x8000)
    b.mmio.write(0xF0000010, 8, 0xFEE00000)
    b.mmio.write(0xF0000018, 4, 0x55)
    assert d.notify(1) and b.messages == [] and b.mmio.read(0xF0000800, 8) == 2
    b.mmio.write(0xF000001C, 4, 0)
    assert b.messages == [(0xFEE00000, 0x55)] and b.mmio.read(0xF0000800, 4) == 0
    other = Board()
    copy = card(pin=pci.PIN_A)
    copy.add_msix(1, 3)
    other.pci.attach(copy, 3)
    copy.load(d.save())
    assert copy.notify(1) and other.messages == [(0xFEE00000, 0x55)] and other.mmio.read(0xF0000010, 4) == 0xFEE00000


def test_messages_without_bus_mastering_are_not_sent():
    """MSI is a memory write of the device, which needs the bus master bit."""
    b = Board()
    d = card()
    d.add_msi()
    b.pci.attach(d, 3)
    enable_msi(b, 3, d.msi.offset)
    b.write(3, 0, 4, 2, 2)
    d.notify(0)
    assert b.messages == []


def test_power_states():
    """In D3hot a function decodes nothing, does no DMA and raises no interrupt; it comes back as it was."""
    b = Board()
    d = card(pin=pci.PIN_A)
    at = d.add_power_management()
    d.bar_memory(0, ram(4096))
    b.pci.attach(d, 3)
    b.write(3, 0, 0x10, 4, 0xF0000000)
    b.write(3, 0, 4, 2, 6)
    b.mmio.write(0xF0000000, 4, 9)
    d.intx.set(True)
    b.write(3, 0, at + 4, 2, 3)
    assert not d.bus_master and b.mmio.read(0xF0000000, 4) == 0xFFFFFFFF and not any(b.pins.values())
    b.write(3, 0, at + 4, 2, 0)
    assert d.bus_master and b.mmio.read(0xF0000000, 4) == 9 and any(b.pins.values())


def test_decoding_of_messages():
    """The address names the destination, the data vector and mode; other addresses are no messages."""
    assert msi.decode(0xFEE0300C, 0x8141) == {"dest": 3, "vector": 0x41, "mode": 1, "logical": True, "level": True}
    assert msi.decode(0xFED00000, 1) is None and msi.decode(0x1_FEE00000, 1) is None


def test_multifunction_bit():
    """Function 0 says so when the slot has others."""
    b = Board()
    b.pci.attach(card(), 1, 1)
    b.pci.attach(card(), 1)
    assert b.read(1, 0, 0x0E, 1) == 0x80 and b.read(1, 1, 0x0E, 1) == 0
    b.pci.reset()
    assert b.read(1, 0, 0x0E, 1) == 0x80


@pytest.mark.parametrize("seed", range(4))
def test_random_configuration_writes(seed):
    """Whatever is written to configuration space: no exception, and the state can be saved and loaded."""
    random.seed(seed)
    b = Board()
    d = card(pin=pci.PIN_B)
    d.bar_io(0, ram(64))
    d.bar_memory(1, ram(4096), wide=True)
    d.bar_ram(3, 1 << 20, lambda address: None)
    d.rom(bytes(100))
    d.add_power_management()
    d.add_msi(8)
    d.add_msix(4, 16)
    b.pci.attach(d, 31, 7)
    b.pci.attach(Piix3(b.router), 1)
    for _ in range(1500):
        slot, function = random.choice([(31, 7), (1, 0)])
        offset, size = random.randrange(256), random.choice([1, 2, 4])
        value = random.choice([0, 0xFFFFFFFF, random.getrandbits(32), random.getrandbits(8)])
        if random.random() < .7:
            b.write(slot, function, offset, size, value)
        else:
            assert b.read(slot, function, offset, size) < 1 << 8 * size
        if random.random() < .1:
            d.intx.set(random.random() < .5)
            d.notify(random.randrange(20))
        if d.bars[1].address is not None and random.random() < .5:
            b.mmio.write(d.bars[-1].address or 0xF0000000, 4, value)
    saved = d.save()
    d.reset()
    d.load(saved)
    assert d.save() == saved
