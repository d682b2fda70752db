"""Virtio devices as drivers use them: both interfaces, rings, indirect tables, event indices, interrupts, disks, networks, hostility."""

import struct

import pytest

from tests.devices.fuzz import storm
from tests.devices.storage import MemImage, guest_memory, pattern
from tests.devices.test_e1000 import Port
from tests.devices.test_pci import Board
from xenfast.devices.drive import Drive
from xenfast.devices.pci import gsi
from xenfast.devices.virtio_blk import VirtioBlk
from xenfast.devices.virtio_net import VirtioNet
from xenfast.dom0.net.frame import PLAIN

MAC = bytes.fromhex("00163e010203")
IO, TABLE, MODERN = 0xC000, 0xF0000000, 0xF0010000
RING, HEADERS = 0x10000, 0x30000
DATA = pattern(512)
NEXT, WRITE, INDIRECT = 1, 2, 4


class Guest:
    """A driver of one device: ``modern`` or legacy, with one ring a queue at RING + 10000h * queue."""

    def __init__(self, make, modern=False, features=None, msix=False, start=True):
        self.mem, self.board = guest_memory(), Board()
        self.device = self.board.pci.attach(make(self.mem), 4)
        for offset, value in ((0x10, IO), (0x14, TABLE), (0x20, MODERN), (4, 7)):
            self.board.write(4, 0, offset, 4, value)
        self.modern, self.msix = modern, msix
        self.free = [0] * 3
        self.avail = [0] * 3
        if msix:
            self.board.write(4, 0, self.device.msix.offset + 2, 2, 0x8000)
            for n in range(self.device.msix.vectors):
                for at, value in ((0, 0xFEE00000), (4, 0), (8, 0x40 + n), (12, 0)):
                    self.board.mmio.write(TABLE + 16 * n + at, 4, value)
        self.offered = self.r(0) if not modern else self.modern_features()
        self.features = self.offered if features is None else self.offered & features
        if start:
            self.start()

    def r(self, at, size=4):
        return self.board.ports.read(IO + at, size)

    def w(self, at, value, size=4):
        self.board.ports.write(IO + at, size, value)

    def c(self, at, size):
        return self.board.mmio.read(MODERN + at, size)

    def cw(self, at, size, value):
        self.board.mmio.write(MODERN + at, size, value)

    def modern_features(self):
        self.cw(0, 4, 0)
        low = self.c(4, 4)
        self.cw(0, 4, 1)
        return low | self.c(4, 4) << 32

    def where(self, queue, size=256):
        desc = RING + 0x10000 * queue
        avail = desc + 16 * size
        return desc, avail, avail + 6 + 2 * size + 4095 & -4096

    def start(self):
        if not self.modern:
            self.w(18, 0, 1)
            self.w(18, 3, 1)
            self.w(4, self.features)
            for n in range(len(self.device.queues)):
                self.w(14, n, 2)
                assert self.r(12, 2) == 256
                self.w(8, RING + 0x10000 * n >> 12)
                if self.msix:
                    self.w(22, n + 1, 2)
            self.w(18, 7, 1)
            return
        self.cw(0x14, 1, 0)
        self.cw(0x14, 1, 3)
        for n in range(2):
            self.cw(8, 4, n)
            self.cw(0xC, 4, self.features >> 32 * n & 0xFFFFFFFF)
        self.cw(0x14, 1, 11)
        assert self.c(0x14, 1) == 11
        for n in range(len(self.device.queues)):
            self.cw(0x16, 2, n)
            for at, value in zip((0x20, 0x28, 0x30), self.where(n), strict=True):
                self.cw(at, 4, value)
                self.cw(at + 4, 4, 0)
            self.cw(0x1A, 2, n + 1 if self.msix else 0xFFFF)
            self.cw(0x1C, 2, 1)
        self.cw(0x14, 1, 15)

    def put(self, queue, *pieces, indirect=False):
        """One chain of (address, size, flags); it is in the available ring afterwards."""
        desc, avail, _ = self.where(queue)
        table = b"".join(
            struct.pack("<QIHH", address, size, flags | (NEXT if n < len(pieces) - 1 else 0),
                        (n if indirect else self.free[queue] + n) + 1 & 0xFF)
            for n, (address, size, flags) in enumerate(pieces)
        )
        head = self.free[queue] & 0xFF
        if indirect:
            self.mem.write(0x50000, table)
            table = struct.pack("<QIHH", 0x50000, len(table), INDIRECT, 0)
        for n in range(len(table) // 16):
            self.mem.write(desc + 16 * (head + n & 0xFF), table[16 * n:16 * n + 16])
        self.free[queue] += len(table) // 16
        self.mem.write_int(avail + 4 + 2 * (self.avail[queue] & 0xFF), 2, head)
        self.avail[queue] += 1
        self.mem.write_int(avail + 2, 2, self.avail[queue])

    def kick(self, queue):
        if self.modern:
            self.cw(0x3000 + 4 * queue, 2, queue)
        else:
            self.w(16, queue, 2)

    def used(self, queue):
        """(index, length of the last one)."""
        used = self.where(queue)[2]
        index = self.mem.read_int(used + 2, 2)
        return index, self.mem.read_int(used + 4 + 8 * (index - 1 & 0xFF) + 4, 4)

    @property
    def line(self):
        return self.board.pins.get(gsi(4, 1), False)

    def request(self, kind, sector, *pieces, **options):
        """One of a disk; its status."""
        self.mem.write(HEADERS, struct.pack("<IIQ", kind, 0, sector))
        self.mem.write(HEADERS + 16, b"\xee")
        self.put(0, (HEADERS, 16, 0), *pieces, (HEADERS + 16, 1, WRITE), **options)
        self.kick(0)
        return self.mem.read(HEADERS + 16, 1)[0]


def disk(**options):
    image = MemImage(512, DATA, **options)
    return lambda mem: VirtioBlk(mem, Drive(image, serial="XF00007"))


def card(mem):
    return VirtioNet(mem, Port(), MAC)


@pytest.mark.parametrize("modern", [False, True])
@pytest.mark.parametrize("indirect", [False, True])
def test_a_disk(modern, indirect):
    """Reading, writing, flushing, identification, by both interfaces, with and without indirect tables."""
    guest = Guest(disk(), modern)
    image = guest.device.drive.image
    assert guest.request(0, 5, (0x8000, 512, WRITE), (0x9000, 1024, WRITE), indirect=indirect) == 0
    assert guest.mem.read(0x8000, 512) + guest.mem.read(0x9000, 1024) == DATA[5 * 512:8 * 512] and guest.used(0) == (1, 1537)
    guest.mem.write(0x8000, b"v" * 1024)
    assert guest.request(1, 9, (0x8000, 1024, 0), indirect=indirect) == 0 and image.data[9 * 512:11 * 512] == b"v" * 1024
    assert image.flushed[9 * 512:] == DATA[9 * 512:]
    assert guest.request(4, 0) == 0 and image.flushed[9 * 512:11 * 512] == b"v" * 1024
    assert guest.request(8, 0, (0x8000, 20, WRITE)) == 0 and guest.mem.read(0x8000, 20) == b"XF00007".ljust(20, b"\0")
    assert guest.request(0, 511, (0x8000, 1024, WRITE)) == 1 and guest.request(77, 0) == 2
    image.bad = {3}
    assert guest.request(0, 3, (0x8000, 512, WRITE)) == 1


def test_what_a_disk_tells():
    """1AF4:1001, subsystem 2; the capacity at both interfaces; four vendor capabilities and MSI-X."""
    guest = Guest(disk())
    assert guest.board.read(4, 0, 0, 4) == 0x10011AF4 and guest.board.read(4, 0, 0x2C, 4) == 0x00021AF4
    assert guest.r(20) == 512 and guest.c(0x2000, 4) == 512
    kinds, at = [], guest.board.read(4, 0, 0x34, 1)
    while at:
        kinds.append((guest.board.read(4, 0, at, 1), guest.board.read(4, 0, at + 3, 1)))
        at = guest.board.read(4, 0, at + 1, 1)
    assert [kind for number, kind in kinds if number == 9] == [1, 3, 4, 2] and any(number == 0x11 for number, _ in kinds)


def test_discard_and_write_zeroes():
    """Ranges as the configuration offers them; others are unsupported; a read-only disk offers neither."""
    guest = Guest(disk())
    image = guest.device.drive.image
    guest.mem.write(0x8000, struct.pack("<QII", 8, 16, 0))
    assert guest.request(11, 0, (0x8000, 16, 0)) == 0 and image.discarded == [(4096, 8192)]
    guest.mem.write(0x8000, struct.pack("<QII", 100, 3, 1))
    assert guest.request(13, 0, (0x8000, 16, 0)) == 0 and image.data[100 * 512:103 * 512] == bytes(1536)
    assert guest.request(13, 0, (0x8000, 32, 0)) == 2
    guest.mem.write(0x8000, struct.pack("<QII", 511, 3, 0))
    assert guest.request(13, 0, (0x8000, 16, 0)) == 1
    readonly = Guest(disk(readonly=True))
    assert readonly.offered & 0x20 and not readonly.offered & 0x6000 and readonly.request(1, 0, (0x8000, 512, 0)) == 1


def test_the_write_cache():
    """A driver without FLUSH has every write on the host's disk at once; one with WCE chooses."""
    guest = Guest(disk(), features=0)
    guest.mem.write(0x8000, b"s" * 512)
    assert guest.request(1, 0, (0x8000, 512, 0)) == 0 and guest.device.drive.image.flushed[:512] == b"s" * 512
    guest = Guest(disk())
    guest.w(20 + 32, 0, 1)
    assert not guest.device.drive.write_cache and guest.r(20 + 32, 1) == 0
    guest.w(18, 0, 1)
    assert guest.device.drive.write_cache


def test_interrupts():
    """INTx with its status that a read clears; NO_INTERRUPT; a used event; a message by MSI-X."""
    guest = Guest(disk(), features=0)
    guest.request(4, 0)
    assert guest.line and guest.r(19, 1) == 1 and not guest.line and guest.r(19, 1) == 0
    guest.mem.write_int(guest.where(0)[1], 2, 1)
    guest.request(4, 0)
    assert not guest.line
    guest = Guest(disk())
    guest.mem.write_int(guest.where(0)[1] + 4 + 512, 2, 1)
    seen = []
    for _ in range(3):
        guest.request(4, 0)
        seen.append(guest.r(19, 1))
    assert seen == [1, 1, 0]
    for modern in (False, True):
        guest = Guest(disk(), modern, features=1 << 32, msix=True)
        guest.request(4, 0)
        assert guest.board.messages == [(0xFEE00000, 0x41)] and not guest.line


def test_negotiation():
    """FEATURES_OK does not stay for features that are not offered; a reset forgets everything."""
    guest = Guest(disk(), modern=True, start=False)
    for value in (0, 3):
        guest.cw(0x14, 1, value)
    guest.cw(8, 4, 1)
    guest.cw(0xC, 4, 0xFFFFFFFF)
    guest.cw(0x14, 1, 11)
    assert guest.c(0x14, 1) == 3
    guest.cw(0x14, 1, 0)
    assert guest.c(0x14, 1) == 0 and guest.device.driver_features == 0


@pytest.mark.parametrize("pieces", [
    [(0x8000, 512, NEXT)] * 256, [(0x8000, 8, WRITE), (0x8000, 8, 0)], [(0x8000, 1 << 31, WRITE)],
])  # fmt: skip
def test_broken_rings_stop_the_device(pieces, caplog):
    """Loops, wrong order, requests of gigabytes, an index that runs away: NEEDS_RESET until there is a reset."""
    guest = Guest(disk())
    guest.put(0, *pieces)
    if len(pieces) == 256:
        guest.mem.write_int(guest.where(0)[0] + 255 * 16 + 12, 2, NEXT)
    guest.kick(0)
    assert guest.r(18, 1) & 64 and "stops until" in caplog.text
    guest.mem.write_int(guest.where(0)[1] + 2, 2, 0)
    guest.avail, guest.free = [0] * 3, [0] * 3
    guest.start()
    guest.mem.write(guest.where(0)[2], bytes(8))
    assert guest.request(4, 0) == 0
    guest.mem.write_int(guest.where(0)[1] + 2, 2, 40000)
    guest.kick(0)
    assert guest.r(18, 1) & 64


@pytest.mark.parametrize("modern", [False, True])
def test_a_network_card(modern):
    """Frames go and come with a header; several small buffers take a large frame; without buffers frames wait."""
    guest = Guest(card, modern)
    nic, header = guest.device, 12
    frame = MAC + bytes(6) + b"\x08\x00" + bytes(range(246)) * 4
    guest.mem.write(0x8000, bytes(header) + frame)
    guest.put(1, (0x8000, header, 0), (0x8000 + header, len(frame), 0))
    guest.kick(1)
    assert nic.port.sent == [(frame, PLAIN)] and guest.used(1)[0] == 1
    for n in range(3):
        guest.put(0, (0x9000 + 0x400 * n, 512, WRITE))
    guest.kick(0)
    assert nic.port.receiver(frame) and guest.used(0) == (2, len(frame) + header - 512)
    assert guest.mem.read(0x9000, 12) == bytes(10) + b"\x02\0"
    assert guest.mem.read(0x900C, 500) + guest.mem.read(0x9400, len(frame) - 500) == frame
    nic.port.receiver(frame)
    assert len(nic.waiting) == 1
    guest.put(0, (0xA000, 2048, WRITE))
    guest.kick(0)
    assert not nic.waiting and guest.used(0)[0] == 4
    assert bytes(guest.c(0x2000 + n, 1) for n in range(6)) == MAC


def test_offload_of_what_is_sent():
    """NEEDS_CSUM and GSO become the switch's offload; nonsense is not sent."""
    guest = Guest(card)
    frame = MAC + bytes(6) + b"\x08\x00" + bytes(2000)
    for head, expected in (
        ((1, 0, 0, 0, 34, 16), (True, 0)), ((1, 1, 54, 1400, 34, 16), (True, 1400)),
        ((1, 1, 54, 10, 34, 16), None), ((0, 9, 0, 500, 0, 0), None),
    ):  # fmt: skip
        guest.device.port.sent.clear()
        guest.mem.write(0x8000, struct.pack("<BBHHHH", *head) + bytes(2) + frame)
        guest.put(1, (0x8000, 12 + len(frame), 0))
        guest.kick(1)
        sent = [(offload.blank, offload.gso_size) for _, offload in guest.device.port.sent]
        assert sent == ([expected] if expected else [])


def test_state():
    """A device loaded from another's state goes on with the ring."""
    one, other = Guest(disk()), Guest(disk(), start=False)
    one.request(0, 1, (0x8000, 512, WRITE))
    for at in range(0, 512 * 4096, 4096):
        other.mem.write(at, one.mem.read(at, 4096))
    other.device.load(one.device.save())
    other.free, other.avail = list(one.free), list(one.avail)
    assert other.request(0, 2, (0x8000, 512, WRITE)) == 0 and other.mem.read(0x8000, 512) == DATA[1024:1536]


@pytest.mark.parametrize("make", [disk(), card], ids=["disk", "card"])
def test_hostile_guest(make, caplog):
    """Random registers, rings and descriptors: no traceback, no long loop."""
    caplog.set_level("ERROR", "xenfast")
    guest = Guest(make)

    def interesting(rng):
        if rng.random() < 0.3:
            guest.start()
            guest.avail, guest.free = [0] * 3, [0] * 3
            for _ in range(rng.randrange(4)):
                queue = rng.randrange(len(guest.device.queues))
                guest.mem.write(HEADERS, struct.pack("<IIQ", rng.choice((0, 1, 4, 8, 11, 13, 99)), 0, rng.choice((0, 511, 1 << 40))))
                pieces = [(rng.choice((HEADERS, 0x8000, rng.getrandbits(22))), rng.choice((0, 1, 16, 512, 4096, 1 << 20)),
                           rng.choice((0, 2, 2, 4))) for _ in range(rng.randrange(1, 6))]
                guest.put(queue, (HEADERS, 16, 0), *pieces, indirect=rng.random() < 0.3)
                guest.kick(queue)
        if hasattr(guest.device, "receive"):
            guest.device.port.sent.clear()
            guest.device.receive(bytes(rng.randrange(14, 3000)))
        return rng.choice(((0, 16, 2, 0), (0, 18, 1, rng.choice((0, 7, 15))), (0, 14, 2, rng.randrange(3)), (0, 8, 4, rng.getrandbits(10))))

    storm([bar.region for bar in guest.device.bars], guest.mem, 5000, interesting=interesting)
    guest.device.load(guest.device.save())
    guest.device.reset()
