"""The e1000: EEPROM, PHY, rings both ways, filters, checksums, segmentation, interrupts."""

import random

import pytest

from tests.devices.test_pci import Board
from xenfast import _core
from xenfast.devices.e1000 import E1000
from xenfast.devices.pci import gsi
from xenfast.dom0.net.frame import PLAIN, finish, is_valid
from xenfast.xen.hvm.physmem import PhysMem

MAC = bytes.fromhex("00163e010203")
BASE = 0xF0000000
TX, RX, BUFFERS = 0x10000, 0x11000, 0x20000


class Port:
    def __init__(self):
        self.sent, self.receiver, self.closed = [], None, False

    def send(self, frame, offload=PLAIN):
        self.sent.append((bytes(frame), offload))
        return True

    def close(self):
        self.closed = True


class Card:
    """A card on a bus, its registers at BASE, in a machine with 1 MiB."""

    def __init__(self):
        memory, physmap = _core.Memory(256), _core.GuestPhysMap(0x1000)
        physmap.set(0, range(256))
        self.mem, self.port, self.board = PhysMem(memory, physmap), Port(), Board()
        self.nic = self.board.pci.attach(E1000(self.mem, self.port, MAC), 4)
        self.board.write(4, 0, 0x10, 4, BASE)
        self.board.write(4, 0, 0x14, 4, 0xC000)
        self.board.write(4, 0, 4, 2, 7)

    def r(self, register):
        return self.board.mmio.read(BASE + register, 4)

    def w(self, register, value):
        self.board.mmio.write(BASE + register, 4, value)

    @property
    def line(self):
        return self.board.pins.get(gsi(4, 1), False)

    def rings(self, count=8):
        for base, ring in ((0x3800, TX), (0x2800, RX)):
            self.w(base, ring)
            self.w(base + 4, 0)
            self.w(base + 8, count * 16)
            self.w(base + 0x10, 0)
            self.w(base + 0x18, 0)
        for n in range(count):
            self.mem.write(RX + 16 * n, (BUFFERS + 2048 * n).to_bytes(8, "little") + bytes(8))
        self.w(0x400, 2)
        self.w(0x100, 1 << 1 | 1 << 15 | 1 << 26)
        self.w(0x2818, count - 1)

    def transmit(self, *descriptors):
        at = self.r(0x3810)
        for low, high in descriptors:
            self.mem.write(TX + 16 * at, low.to_bytes(8, "little") + high.to_bytes(8, "little"))
            at = (at + 1) % 8
        self.w(0x3818, at)

    def received(self, n):
        raw = self.mem.read(RX + 16 * n, 16)
        return raw[12], self.mem.read(int.from_bytes(raw[:8], "little"), int.from_bytes(raw[8:10], "little"))


def frame(to, size=60, kind=b"\x08\x00"):
    return to + b"\x02\0\0\0\0\x01" + kind + bytes(range(256))[:size - 14].ljust(size - 14, b"x")


def tcp(payload, total=None):
    """A TCP segment over IPv4 with blank sums."""
    ip = bytes.fromhex("45000000123440004006") + b"\0\0" + bytes((10, 0, 0, 1, 10, 0, 0, 2))
    header = bytes.fromhex("0050 1234 00000001 00000002 5018 2000 0000 0000".replace(" ", ""))
    ip = ip[:2] + (len(ip) + len(header) + len(payload) if total is None else total).to_bytes(2, "big") + ip[4:]
    return MAC + b"\x02\0\0\0\0\x01\x08\0" + ip + header + payload


def test_the_eeprom_by_wire_and_by_word():
    """The address and a sum of BABAh, read bit by bit through EECD and a word at a time through EERD."""
    c = Card()

    def clock(bit):
        c.w(0x10, 0x42 | bit << 2)
        c.w(0x10, 0x43 | bit << 2)
        c.w(0x10, 0x42 | bit << 2)

    def read(address):
        c.w(0x10, 0x40)
        c.w(0x10, 0x42)
        for bit in f"110{address:06b}":
            clock(int(bit))
        value = 0
        for _ in range(16):
            c.w(0x10, 0x43)
            value = value << 1 | c.r(0x10) >> 3 & 1
            c.w(0x10, 0x42)
        c.w(0x10, 0)
        return value

    words = [read(n) for n in range(64)]
    assert b"".join(word.to_bytes(2, "little") for word in words[:3]) == MAC and sum(words) & 0xFFFF == 0xBABA
    c.w(0x14, 0x0201)
    assert c.r(0x14) == words[2] << 16 | 0x0210


def test_the_phy():
    """Identity, link status that follows the cable, an error for what is not there."""
    c = Card()

    def phy(number, operation=2, value=0):
        c.w(0x20, operation << 26 | 1 << 21 | number << 16 | value)
        return c.r(0x20)

    assert phy(2) & 0xFFFF == 0x0141 and phy(1) & 0x24 == 0x24 and c.r(8) & 2
    c.w(0xD0, 4)
    c.nic.set_link(False)
    assert c.line and not phy(1) & 0x24 and not c.r(8) & 2 and c.r(0xC0) == 0x80000004 and not c.line
    assert phy(12) & 1 << 30
    phy(4, 1, 0x1E1)
    assert phy(4) & 0xFFFF == 0x1E1


def test_sending():
    """Packets of one or several descriptors leave when TDT moves; DD is written where it is asked for; TXDW interrupts."""
    c = Card()
    c.rings()
    c.w(0xD0, 1)
    c.mem.write(BUFFERS, frame(b"\xff" * 6, 100))
    c.transmit((BUFFERS, 100 | 0x0B << 24), (BUFFERS, 50), (BUFFERS + 50, 50 | 0x09 << 24))
    assert [len(data) for data, _ in c.port.sent] == [100, 100] and c.port.sent[0][0] == c.port.sent[1][0]
    assert c.r(0x3810) == 3 and c.mem.read(TX + 12, 1) == b"\x01" and c.mem.read(TX + 28, 1) == b"\0"
    assert c.line and c.r(0xC0) & 1 and not c.line and c.r(0x4080) == 2 and c.r(0x4080) == 0


def test_checksums():
    """The sums of IP and TCP are put in as a context descriptor says."""
    c = Card()
    c.rings()
    data = bytearray(tcp(b"hello, world"))
    pseudo = sum(int.from_bytes(data[n:n + 2], "big") for n in range(26, 34, 2)) + 6 + 32
    data[50:52] = (pseudo % 0xFFFF).to_bytes(2, "big")
    c.mem.write(BUFFERS, bytes(data))
    context = 14 | 24 << 8 | 33 << 16 | 34 << 32 | 50 << 40
    c.transmit((context, 0x20 << 24), (BUFFERS, len(data) | 1 << 20 | 0x21 << 24 | 3 << 40))
    sent, offload = c.port.sent[0]
    assert offload is PLAIN and is_valid(sent) and sent[54:] == b"hello, world" and sent[24:26] != b"\0\0"


def test_segmentation():
    """A large TCP packet leaves whole, with the size of its segments; these are as the receiver would have them."""
    c = Card()
    c.rings()
    payload = bytes(range(256)) * 20
    data = bytearray(tcp(payload, total=0))
    pseudo = sum(int.from_bytes(data[n:n + 2], "big") for n in range(26, 34, 2)) + 6
    data[50:52] = (pseudo % 0xFFFF).to_bytes(2, "big")
    c.mem.write(BUFFERS, bytes(data))
    context = 14 | 24 << 8 | 33 << 16 | 34 << 32 | 50 << 40
    c.transmit((context, len(payload) | 0x27 << 24 | 54 << 40 | 1460 << 48), (BUFFERS, 54 | 1 << 20 | 0x24 << 24 | 3 << 40),
               (BUFFERS + 54, len(payload) | 1 << 20 | 0x2D << 24))
    sent, offload = c.port.sent[0]
    assert offload.gso_size == 1460 and len(c.port.sent) == 1
    parts = [bytes(part) for part in finish(sent, offload)]
    assert [len(part) - 54 for part in parts] == [1460, 1460, 1460, 740] and all(map(is_valid, parts))
    assert b"".join(part[54:] for part in parts) == payload


def test_receiving():
    """Frames go into the buffers in turn, padded to 60 bytes; an interrupt; small buffers are filled one after the other."""
    c = Card()
    c.rings()
    c.w(0xD0, 0x80)
    c.port.receiver(frame(MAC, 42))
    c.port.receiver(frame(b"\xff" * 6, 1000))
    assert c.received(0) == (7, frame(MAC, 42).ljust(60, b"\0")) and c.received(1) == (7, frame(b"\xff" * 6, 1000)) and c.r(0x2810) == 2
    assert c.line and c.r(0xC0) & 0x80 and c.r(0x4074) == 2
    c.w(0x100, 1 << 1 | 1 << 15 | 3 << 16)
    c.port.receiver(frame(MAC, 600))
    assert [c.received(n)[0] for n in (2, 3, 4)] == [5, 5, 7] and [len(c.received(n)[1]) for n in (2, 3, 4)] == [256, 256, 92]


def test_a_full_ring():
    """Frames wait for room, up to a bound; then they are missed."""
    c = Card()
    c.rings()
    for n in range(9):
        c.port.receiver(frame(MAC, 60 + n))
    assert c.r(0x2810) == 7 and len(c.nic.waiting) == 2
    c.w(0x2818, 1)
    assert not c.nic.waiting and len(c.received(0)[1]) == 68
    for _ in range(300):
        last = c.port.receiver(frame(MAC))
    assert last is False and len(c.nic.waiting) == 256 and c.r(0x4010) == 44 and c.r(0xC0) & 0x40


@pytest.mark.parametrize(("control", "to", "comes"), [
    (0, MAC, True), (0, b"\x02\0\0\0\0\x09", False), (8, b"\x02\0\0\0\0\x09", True), (0, b"\xff" * 6, False), (1 << 15, b"\xff" * 6, True),
    (0, b"\x01\0\x5e\0\0\x01", False), (16, b"\x01\0\x5e\0\0\x01", True), (0, b"\x01\0\x5e\0\0\xfb", True),
])  # fmt: skip
def test_filters(control, to, comes):
    """Its own address, broadcast, promiscuous, all multicasts, and those whose bit in the table is set."""
    c = Card()
    c.rings()
    index = (0x00 | 0xFB << 8) >> 4 & 0xFFF
    c.w(0x5200 + 4 * (index >> 5), 1 << (index & 31))
    c.w(0x100, 1 << 1 | control)
    c.port.receiver(frame(to))
    assert (c.r(0x2810) == 1) == comes


def test_ports_reset_and_unplug():
    """IOADDR and IODATA reach the registers; CTRL.RST forgets everything but the address; unplug pulls the cable."""
    c = Card()
    c.rings()
    c.board.ports.write(0xC000, 4, 0x5400)
    assert c.board.ports.read(0xC004, 4) == int.from_bytes(MAC[:4], "little")
    c.w(0x5400, 0)
    c.board.ports.write(0xC000, 4, 0)
    c.board.ports.write(0xC004, 4, 1 << 26)
    assert c.r(0x5400) == int.from_bytes(MAC[:4], "little") and c.r(0x5404) == 0x80000302 and c.r(0x100) == 0 and c.r(0x2808) == 0
    c.board.pci.detach(c.nic)
    assert c.port.closed


def test_state_moves():
    """Another card with the saved state goes on with the rings and delivers what waits."""
    c, d = Card(), Card()
    c.rings()
    for _ in range(9):
        c.port.receiver(frame(MAC))
    d.mem.write(RX, c.mem.read(RX, 128))
    d.nic.load(c.nic.save())
    assert d.r(0x2810) == 7 and len(d.nic.waiting) == 2
    d.w(0x2818, 2)
    assert d.r(0x2810) == 1 and d.nic.save()["registers"] == c.nic.save()["registers"]


@pytest.mark.parametrize(("seed", "count"), [(1, 6000), pytest.param(2, 1_000_000, marks=pytest.mark.slow)])
def test_random_accesses(seed, count):
    """Whatever is in registers, rings and frames: no exception, nothing endless, and the state can be saved and loaded."""
    rng, c = random.Random(seed), Card()
    known = [0, 8, 0x10, 0x14, 0x18, 0x20, 0xC0, 0xC8, 0xD0, 0xD8, 0x100, 0x400, 0x5400, *range(0x2800, 0x281C, 4),
             *range(0x3800, 0x381C, 4)]
    for n in range(count):
        kind = rng.randrange(8)
        register = rng.choice(known) if rng.random() < .9 else rng.randrange(0x20000)
        if kind < 4:
            value = rng.choice([rng.getrandbits(32), rng.getrandbits(8), TX, RX, 2, 128])
            c.board.mmio.write(BASE + register, rng.choice([4, 4, 4, 2, 1]), value)
        elif kind == 4:
            assert 0 <= c.board.mmio.read(BASE + register & ~3, 4) < 1 << 32
        elif kind == 5:
            c.port.receiver(frame(rng.choice([MAC, b"\xff" * 6, rng.randbytes(6)]), rng.choice([60, 1514, 9000])))
        elif kind == 6:
            c.mem.write(TX + 16 * rng.randrange(8), rng.choice([rng.randbytes(16), BUFFERS.to_bytes(8, "little") + rng.randbytes(8)]))
        elif n % 50 == 0:
            c.rings()
        c.port.sent.clear()
    c.nic.load(c.nic.save())
