"""The RTL8139: EEPROM, four descriptors out, a ring in, filters, interrupts."""

import random

import pytest

from tests.devices.test_e1000 import MAC, Port, frame
from tests.devices.test_pci import Board
from xenfast import _core
from xenfast.devices.pci import gsi
from xenfast.devices.rtl8139 import Rtl8139, hash_of
from xenfast.xen.hvm.physmem import PhysMem

PORTS, RING, BUFFER = 0xC000, 0x10000, 0x40000
RE, TE = 8, 4


class Card:
    """A card on a bus, its registers at port C000h, in a machine with 1 MiB."""

    def __init__(self):
        memory, physmap = _core.Memory(256), _core.GuestPhysMap(0x1000)
        physmap.set(0, range(256))
        self.mem, self.port, self.board = PhysMem(memory, physmap), Port(), Board()
        self.nic = self.board.pci.attach(Rtl8139(self.mem, self.port, MAC), 4)
        self.board.write(4, 0, 0x10, 4, PORTS)
        self.board.write(4, 0, 4, 2, 7)

    def r(self, register, size=4):
        return self.board.ports.read(PORTS + register, size)

    def w(self, register, size, value):
        self.board.ports.write(PORTS + register, size, value)

    @property
    def line(self):
        return self.board.pins.get(gsi(4, 1), False)

    def start(self, rcr=0x8F):
        self.w(0x30, 4, RING)
        self.w(0x37, 1, RE | TE)
        self.w(0x44, 4, rcr)
        self.w(0x3C, 2, 0x7F)


def test_the_eeprom():
    """The address is in words 7 to 9, read through the three wires as drivers do."""
    c = Card()

    def read(address):
        c.w(0x50, 1, 0x80)
        c.w(0x50, 1, 0x88)
        for bit in f"00110{address:06b}":
            c.w(0x50, 1, 0x88 | int(bit) << 1)
            c.w(0x50, 1, 0x8C | int(bit) << 1)
        c.w(0x50, 1, 0x88)
        value = 0
        for _ in range(16):
            c.w(0x50, 1, 0x8C)
            value = value << 1 | c.r(0x50, 1) & 1
            c.w(0x50, 1, 0x88)
        return value

    assert read(0) == 0x8129 and b"".join(read(n).to_bytes(2, "little") for n in (7, 8, 9)) == MAC
    assert bytes(c.r(n, 1) for n in range(6)) == MAC and c.r(0x40) & 0x7CC00000 == 0x74000000


def test_sending():
    """A descriptor is sent when its OWN bit is cleared; OWN and TOK come back, and an interrupt; odd sizes are refused."""
    c = Card()
    c.start()
    c.mem.write(BUFFER, frame(b"\xff" * 6, 100))
    for n in range(4):
        assert c.r(0x10 + 4 * n) == 0x2000
        c.w(0x20 + 4 * n, 4, BUFFER)
        c.w(0x10 + 4 * n, 4, 60 + n)
    assert [len(data) for data, _ in c.port.sent] == [60, 61, 62, 63] and c.r(0x10) == 0xA03C and c.r(0x60, 2) == 0xF00F
    assert c.line and c.r(0x3E, 2) == 4
    c.w(0x3E, 2, 4)
    assert not c.line
    c.w(0x10, 4, 5)
    assert len(c.port.sent) == 4 and c.r(0x10) & 1 << 30 and c.r(0x3E, 2) == 8


def test_receiving():
    """Status and length stand before each packet, four bytes of sum behind, all at multiples of four; CAPR gives room back."""
    c = Card()
    c.start()
    assert c.r(0x37, 1) & 1
    c.port.receiver(frame(MAC, 61))
    c.port.receiver(frame(b"\xff" * 6, 1000))
    assert c.line and not c.r(0x37, 1) & 1 and c.r(0x3A, 2) == 72 + 1008
    assert c.mem.read(RING, 65) == bytes((0x01, 0x40, 65, 0)) + frame(MAC, 61) and c.mem.read(RING + 72, 4) == bytes((0x01, 0x20, 0xEC, 3))
    c.w(0x38, 2, 72 + 1008 - 16)
    assert c.r(0x37, 1) & 1


def test_what_is_left_is_told_of_again():
    """A driver that has acknowledged, left packets in the ring, and enables interrupts again gets one (Linux does, after 64)."""
    c = Card()
    c.start()
    c.w(0x3C, 2, 0)
    c.port.receiver(frame(MAC))
    c.w(0x3E, 2, 1)
    assert not c.line
    c.w(0x3C, 2, 0x7F)
    assert c.line and c.r(0x3E, 2) == 1
    c.w(0x38, 2, c.r(0x3A, 2) - 16 & 0xFFFF)
    c.w(0x3E, 2, 1)
    c.w(0x3C, 2, 0x7F)
    assert not c.line


def test_the_ring_wraps():
    """A packet at the end goes on at the beginning, or, with WRAP, behind the end."""
    for rcr, wraps in ((0x0F, True), (0x8F, False)):
        c = Card()
        c.start(rcr)
        for _ in range(5):
            c.port.receiver(frame(MAC, 1500))
            c.w(0x38, 2, c.r(0x3A, 2) - 16 & 0xFFFF)
        assert c.r(0x3A, 2) == 5 * 1508
        big = frame(MAC, 1200)
        c.port.receiver(big)
        first = 8192 - 5 * 1508 - 4
        assert c.mem.read(RING + 5 * 1508 + 4, first) == big[:first] and c.r(0x3A, 2) == 5 * 1508 + 1208 - 8192
        assert c.mem.read(RING if wraps else RING + 8192, 100) == big[first:first + 100]


def test_a_full_ring():
    """Frames wait for room, up to a bound; then they are missed."""
    c = Card()
    c.start()
    for _ in range(8):
        c.port.receiver(frame(MAC, 1500))
    assert c.r(0x3A, 2) == 5 * 1508 and len(c.nic.waiting) == 3
    c.w(0x38, 2, 2 * 1508 - 16)
    assert len(c.nic.waiting) == 1
    for _ in range(300):
        last = c.port.receiver(frame(MAC, 1500))
    assert last is False and c.r(0x4C) == 45 and c.r(0x3E, 2) & 0x10


@pytest.mark.parametrize(("rcr", "to", "status"), [
    (0x02, MAC, 0x4001), (0x02, b"\x02\0\0\0\0\x09", 0), (0x01, b"\x02\0\0\0\0\x09", 0x0001), (0x02, b"\xff" * 6, 0),
    (0x08, b"\xff" * 6, 0x2001), (0x04, b"\x01\0\x5e\0\0\xfb", 0x8001), (0x04, b"\x01\0\x5e\0\0\x01", 0),
    (0x01, b"\x01\0\x5e\0\0\x01", 0x8001),
])  # fmt: skip
def test_filters(rcr, to, status):
    """Its own address, broadcasts, all, and multicasts whose bit in the table is set."""
    c = Card()
    index = hash_of(b"\x01\0\x5e\0\0\xfb")
    c.w(8 + index // 8, 1, 1 << index % 8)
    c.start(rcr)
    c.port.receiver(frame(to))
    assert int.from_bytes(c.mem.read(RING, 2), "little") == status


def test_the_hash():
    """As published for the all-systems group: 01-00-5E-00-00-01 is entry 31."""
    assert hash_of(bytes.fromhex("01005e000001")) == 31


def test_reset_link_and_unplug():
    """CR.RST stops everything; the link is seen at MSR and BMSR; unplug pulls the cable; state moves."""
    c, d = Card(), Card()
    c.start()
    c.port.receiver(frame(MAC))
    d.nic.load(c.nic.save())
    assert d.r(0x3A, 2) == 68 and d.line
    c.w(0x37, 1, 0x10)
    assert c.r(0x37, 1) == 1 and not c.line and c.r(0x30) == 0
    assert c.r(0x58, 1) & 4 == 0 and c.r(0x64, 2) & 4
    c.w(0x3C, 2, 0x20)
    c.nic.set_link(False)
    assert c.line and c.r(0x58, 1) & 4 and not c.r(0x64, 2) & 4
    c.board.pci.detach(c.nic)
    assert c.port.closed


@pytest.mark.parametrize(("seed", "count"), [(1, 6000), pytest.param(2, 1_000_000, marks=pytest.mark.slow)])
def test_random_accesses(seed, count):
    """Whatever is in registers and frames: no exception, and the state can be saved and loaded."""
    rng, c = random.Random(seed), Card()
    for n in range(count):
        kind, size = rng.randrange(8), rng.choice([1, 2, 4])
        if kind < 5:
            c.w(rng.randrange(256), size, rng.choice([rng.getrandbits(32), rng.getrandbits(8), RING, 0xFFFF]) & (1 << 8 * size) - 1)
        elif kind == 5:
            assert 0 <= c.r(rng.randrange(256), size) < 1 << 8 * size
        else:
            c.port.receiver(frame(rng.choice([MAC, b"\xff" * 6, rng.randbytes(6)]), rng.choice([60, 1514, 4000, 9000])))
        if n % 40 == 0:
            c.start(rng.getrandbits(16) | 0x0F)
        c.port.sent.clear()
    c.nic.load(c.nic.save())
