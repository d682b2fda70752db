"""AHCI as a driver uses it: start-up, DMA, PIO, queued commands, ATAPI, errors and recovery, interrupts, reset, unplug."""

import struct

import pytest

from tests.devices.fuzz import storm
from tests.devices.storage import MemImage, guest_memory, pattern
from xenfast.devices import ahci
from xenfast.devices.drive import Drive
from xenfast.devices.pci import PciBus
from xenfast.xen.hvm import bus
from xenfast.xen.hvm.irq import Line

SECTORS = 4096
DATA = pattern(SECTORS)
BAR = 0xF0000000
CLB, FIS, TABLE = 0x10000, 0x11000, 0x20000


class Host:
    """A controller with its BAR mapped, and port 0 (or another) started the way drivers start it."""

    def __init__(self, *drives, start=True):
        self.mem, self.irqs, self.messages = guest_memory(), [], []
        self.mmio = bus.memory()
        self.line = Line(lambda number, level: self.irqs.append(level))
        self.pci = PciBus(bus.ports(), self.mmio, lambda slot, pin: self.line, lambda address, data: self.messages.append((address, data)))
        self.ahci = ahci.Ahci(self.mem, drives)
        self.pci.attach(self.ahci, 5)
        self.pci.config_write(5, 0, 0x24, 4, BAR)
        self.pci.config_write(5, 0, 0x20, 4, 0xC000)
        self.pci.config_write(5, 0, 4, 2, 7)
        if start:
            self.start()

    def read(self, offset):
        return self.mmio.read(BAR + offset, 4)

    def write(self, offset, value):
        self.mmio.write(BAR + offset, 4, value)

    def port(self, register, port=0):
        return self.read(0x100 + 0x80 * port + register)

    def set(self, register, value, port=0):
        self.write(0x100 + 0x80 * port + register, value)

    def start(self, port=0):
        self.write(4, 0x80000002)
        self.set(0x00, CLB, port)
        self.set(0x08, FIS, port)
        self.set(0x18, 0x10, port)
        self.set(0x30, 0xFFFFFFFF, port)
        self.set(0x10, 0xFFFFFFFF, port)
        self.set(0x14, 0x7D8000FF, port)
        self.set(0x18, 0x11, port)
        self.write(8, 0xFFFFFFFF)

    def prepare(self, slot, command, *pieces, lba=0, count=0, feature=0, device=0x40, write=False, packet=None, control=None):
        table = TABLE + slot * 0x1000
        fis = struct.pack(
            "<BBBBHBBHBBBBBB4x", 0x27, 0x80 if control is None else 0, command, feature & 0xFF, lba & 0xFFFF, lba >> 16 & 0xFF, device,
            lba >> 24 & 0xFFFF, lba >> 40 & 0xFF, feature >> 8, count & 0xFF, count >> 8, 0, control or 0,
        )  # fmt: skip
        self.mem.write(table, fis.ljust(0x40, b"\0") + (packet or b"").ljust(0x40, b"\0"))
        self.mem.write(table + 0x80, b"".join(struct.pack("<QII", address, 0, size - 1) for address, size in pieces))
        flags = 5 | len(pieces) << 16 | (1 << 6 if write else 0) | (1 << 5 if packet else 0)
        self.mem.write(CLB + 32 * slot, struct.pack("<IIQ", flags, 0, table))

    def issue(self, command, *pieces, slot=0, port=0, **options):
        """Do a command; (status, error) and PxIS, which is acknowledged."""
        self.prepare(slot, command, *pieces, **options)
        self.set(0x38, 1 << slot, port)
        return self.finish(port)

    def finish(self, port=0):
        tfd, pxis = self.port(0x20, port), self.port(0x10, port)
        self.set(0x10, pxis, port)
        self.write(8, 1 << port)
        return tfd & 0xFF, tfd >> 8, pxis


@pytest.fixture
def host():
    return Host(Drive(MemImage(SECTORS, DATA)))


def test_what_it_looks_like(host):
    """8086:2922, class 010601h; six ports, 32 slots, NCQ; the link is up where there is a drive."""
    assert host.pci.config_read(5, 0, 0, 4) == 0x29228086 and host.pci.config_read(5, 0, 8, 4) == 0x01060102
    assert host.read(0) == 0xC1248000 | 31 << 8 | 5 and host.read(0xC) == 0x3F and host.read(0x10) == 0x10301
    assert host.port(0x28) == 0x123 and host.port(0x24) == 0x0101 << 0 and host.port(0x20) == 0x150
    assert host.port(0x28, 1) == 0 and host.port(0x24, 1) == 0xFFFFFFFF and host.port(0x20, 1) == 0x7F


def test_identify_is_serial(host):
    """IDENTIFY DEVICE by PIO: the PIO Setup FIS interrupts; words 75 and 76 offer NCQ, 93 is 0."""
    assert host.issue(0xEC, (0x8000, 512)) == (0x50, 0, 2)
    w = struct.unpack("<256H", host.mem.read(0x8000, 512))
    assert w[75] == 31 and w[76] & 0x100 and w[93] == 0 and w[60] == SECTORS
    fis = host.mem.read(FIS + 0x20, 20)
    assert fis[0] == 0x5F and fis[1] == 0x60 and fis[15] == 0x50 and fis[16] | fis[17] << 8 == 512
    assert host.irqs == [True, False]


def test_dma_read_and_write(host):
    """READ and WRITE DMA EXT scatter and gather; PRDBC counts, CI is clear, the D2H FIS interrupts."""
    assert host.issue(0x25, (0x8000, 512), (0xA000, 1024), (0x9000, 512), lba=7, count=4) == (0x50, 0, 1)
    mem = host.mem
    assert mem.read(0x8000, 512) + mem.read(0xA000, 1024) + mem.read(0x9000, 512) == DATA[7 * 512:11 * 512]
    assert mem.read_int(CLB + 4, 4) == 2048 and host.port(0x38) == 0
    fis = mem.read(FIS + 0x40, 20)
    assert fis[:3] == b"\x34\x40\x50"
    mem.write(0x8000, b"w" * 1024)
    assert host.issue(0x35, (0x8000, 1024), lba=100, count=2, write=True) == (0x50, 0, 1)
    assert host.ahci.ports[0].device.drive.image.data[100 * 512:102 * 512] == b"w" * 1024


def test_queued_commands(host):
    """Three commands at once by tag; SACT clears with Set Device Bits, one interrupt."""
    for tag, lba in ((0, 5), (3, 50), (31, 500)):
        host.prepare(tag, 0x60, (0x30000 + tag * 0x1000, 1024), lba=lba, feature=2, count=tag << 3)
    host.set(0x34, 1 << 0 | 1 << 3 | 1 << 31)
    host.irqs.clear()
    host.set(0x38, 1 << 0 | 1 << 3 | 1 << 31)
    assert host.port(0x34) == 0 == host.port(0x38) and host.irqs == [True]
    assert host.finish() == (0x50, 0, 8)
    for tag, lba in ((0, 5), (3, 50), (31, 500)):
        assert host.mem.read(0x30000 + tag * 0x1000, 1024) == DATA[lba * 512:(lba + 2) * 512]
    assert host.mem.read(FIS + 0x58, 3) == b"\xa1\x40\x50"
    host.mem.write(0x8000, b"n" * 512)
    host.prepare(1, 0x61, (0x8000, 512), lba=9, feature=1, count=1 << 3, device=0xC0, write=True)
    host.set(0x34, 2)
    host.set(0x38, 2)
    image = host.ahci.ports[0].device.drive.image
    assert image.flushed[9 * 512:10 * 512] == b"n" * 512


def test_a_queued_error(host):
    """The failing command keeps its SACT bit and those behind it wait; log 10h names it; ST off and on recovers."""
    host.ahci.ports[0].device.drive.image.bad = {51}
    for tag, lba in ((0, 5), (2, 50), (4, 500)):
        host.prepare(tag, 0x60, (0x30000, 1024), lba=lba, feature=2, count=tag << 3)
    host.set(0x34, 0x15)
    host.set(0x38, 0x15)
    assert host.port(0x34) == 0x14 and host.port(0x10) & (1 << 30 | 8) == 1 << 30 | 8
    assert host.finish()[:2] == (0x51, 0x40)
    host.set(0x18, 0x10)
    assert host.port(0x38) == 0 == host.port(0x34)
    host.set(0x18, 0x11)
    assert host.issue(0x2F, (0x8000, 512), lba=0x10, count=1)[0] == 0x50
    log = host.mem.read(0x8000, 512)
    assert log[0] == 2 and log[2] == 0x51 and log[3] == 0x40 and log[4] == 50 and sum(log) & 0xFF == 0


def test_errors_stop_the_port(host):
    """A command outside of the disk: TFES, CI keeps it, CCS names it, nothing runs until ST has been off."""
    host.prepare(6, 0x25, (0x8000, 512), lba=SECTORS, count=1)
    host.set(0x38, 1 << 6)
    assert host.finish() == (0x51, 0x10, 1 << 30 | 1)
    assert host.port(0x38) == 1 << 6 and host.port(0x18) >> 8 & 31 == 6
    host.set(0x38, 1)
    assert host.port(0x38) == 0x41
    host.set(0x18, 0x10)
    host.set(0x18, 0x11)
    assert host.issue(0x25, (0x8000, 512), lba=1, count=1) == (0x50, 0, 1)


def test_comreset_and_software_reset(host):
    """SCTL.DET 1 and 0 bring the link up again with a new signature; a control FIS with SRST resets the drive."""
    host.set(0x2C, 0x301)
    assert host.port(0x28) == 0 and host.port(0x20) == 0x7F
    host.set(0x2C, 0x300)
    assert host.port(0x28) == 0x123 and host.port(0x24) == 0x101 and host.port(0x30) & 1 << 26 and host.port(0x10) & 1 << 6
    host.set(0x30, 0xFFFFFFFF)
    assert not host.port(0x10) & 1 << 6
    host.issue(0x25, (0x8000, 512), lba=77, count=1)
    for control in (4, 0):
        host.issue(0, control=control)
    assert host.mem.read(FIS + 0x44, 3) == b"\x01\0\0" and host.port(0x20) == 0x150


def test_atapi():
    """PACKET with its command in ACMD, by DMA and without; sense data; the signature EB140101h."""
    host = Host(None, Drive(MemImage(256, DATA[:256 * 512], readonly=True), cdrom=True), start=False)
    host.start(1)
    assert host.port(0x24, 1) == 0xEB140101
    read = struct.pack(">BBIBHB", 0x28, 0, 3, 0, 2, 0)
    assert host.issue(0xA0, (0x8000, 4096), port=1, feature=1, packet=read)[:2] == (0x50, 0)
    assert host.mem.read(0x8000, 4096) == DATA[3 * 2048:5 * 2048]
    assert host.issue(0xA0, (0xA000, 8), port=1, packet=b"\x25", lba=8 << 8)[:2] == (0x50, 0)
    assert host.mem.read(0xA000, 8) == struct.pack(">II", 63, 2048)
    assert host.issue(0xA0, port=1, packet=b"\xff")[:2] == (0x51, 0x54)
    host.set(0x18, 0x10, 1)
    host.set(0x18, 0x11, 1)
    host.issue(0xA0, (0x8000, 18), port=1, packet=bytes([3, 0, 0, 0, 18]))
    assert host.mem.read(0x8000, 14)[2::10] == b"\x05\x20"


def test_short_tables_overflow(host):
    """A descriptor table shorter than the transfer takes what fits, and says so."""
    assert host.issue(0x25, (0x8000, 512), lba=1, count=4) == (0x50, 0, 1 << 24 | 1)
    assert host.mem.read(0x8000, 1024) == DATA[512:1024] + bytes(512)


def test_message_signalled_interrupts(host):
    """With MSI there is a message for every time the status becomes non-zero, and for what is left after acknowledging."""
    host.pci.config_write(5, 0, 0x84, 4, 0xFEE00000)
    host.pci.config_write(5, 0, 0x8C, 2, 0x4041)
    host.pci.config_write(5, 0, 0x82, 2, 1)
    host.irqs.clear()
    host.issue(0x25, (0x8000, 512), lba=1, count=1)
    host.issue(0x25, (0x8000, 512), lba=1, count=1)
    assert host.messages == [(0xFEE00000, 0x4041)] * 2 and not host.irqs
    host.prepare(0, 0x25, (0x8000, 512), lba=1, count=1)
    host.set(0x38, 1)
    host.write(8, 1)
    assert len(host.messages) == 4


def test_index_and_data_ports(host):
    """The registers behind BAR 4."""
    ports = host.pci.ports
    ports.write(0xC010, 4, 0x10)
    assert ports.read(0xC014, 4) == 0x10301
    ports.write(0xC010, 4, 0x104)
    ports.write(0xC014, 4, 0x12)
    assert host.port(4) == 0x12


def test_unplug_and_state():
    """A disk that is unplugged is flushed and its link is down; the state goes to another machine."""
    def make():
        return Host(Drive(MemImage(SECTORS, DATA)), Drive(MemImage(SECTORS, DATA), cdrom=True))

    one, other = make(), make()
    one.issue(0x25, (0x8000, 512), lba=1, count=1)
    one.ahci.unplug()
    assert one.port(0x28) == 0 and one.port(0x28, 1) == 0x123 and one.port(0x20) == 0x7F
    other.ahci.load(one.ahci.save())
    assert other.ahci.save() == one.ahci.save() and other.port(0x28) == 0
    one.ahci.reset()
    assert one.ahci.config[4] == 0


def test_hostile_guest():
    """Random accesses, command lists and tables of random bytes: no traceback, no long loop."""
    host = Host(Drive(MemImage(SECTORS, DATA)), Drive(MemImage(SECTORS, DATA), cdrom=True), Drive(MemImage(64, readonly=True)))
    device = host.ahci.ports[0].device
    region = host.ahci.bars[1].region

    def interesting(rng):
        port = rng.randrange(3)
        if rng.random() < 0.3:
            command = rng.choice([*device.commands, 0x60, 0x61, 0xA0])
            pieces = [(rng.randrange(0, 1 << 22), rng.choice((2, 512, 4096, 1 << 22))) for _ in range(rng.randrange(4))]
            host.prepare(rng.randrange(32), command, *pieces, lba=rng.choice((0, 1, rng.getrandbits(48))), count=rng.randrange(0, 300),
                         feature=rng.randrange(0, 4), packet=rng.choice((None, rng.randbytes(12))))
            if rng.random() < 0.1:
                host.mem.write_int(CLB + 32 * rng.randrange(32), 4, rng.getrandbits(32))
        base = 0x100 + 0x80 * port
        return rng.choice((
            (0, base + 0x38, 4, 1 << rng.randrange(32)), (0, base + 0x34, 4, rng.getrandbits(32)), (0, base + 0x18, 4, 0x10),
            (0, base + 0x18, 4, 0x11), (0, base, 4, CLB), (0, base + 8, 4, FIS), (0, base + 0x2C, 4, rng.choice((0, 1, 4))),
        ))  # fmt: skip

    storm([region, host.ahci.bars[0].region], host.mem, 10000, interesting=interesting)
    host.ahci.load(host.ahci.save())
    host.ahci.reset()
