"""CD-ROM drives behind an IDE channel: packets, data in blocks of the host's size, sense data, media, the disc's tables."""

import struct

import pytest

from tests.devices.storage import Host, MemImage, pattern
from xenfast.devices import atapi_pages
from xenfast.devices.drive import Drive

BLOCKS = 64
DATA = pattern(BLOCKS * 4)


@pytest.fixture
def host():
    return Host(Drive(MemImage(BLOCKS * 4, DATA, readonly=True), cdrom=True))


def cdb(opcode, *rest):
    return bytes([opcode, *rest])


def read10(lba, count):
    return struct.pack(">BBIBHB", 0x28, 0, lba, 0, count, 0)


READ_TOC = struct.pack(">BBBBBBBHB", 0x43, 0, 0, 0, 0, 0, 0, 100, 0)


def test_the_signature_and_the_identification(host):
    """14h EBh after a reset and after the aborted IDENTIFY DEVICE; IDENTIFY PACKET DEVICE says CD-ROM and DMA."""
    host.channel.reset()
    assert host.registers()[:4] == (1, 1, 0x14, 0xEB) and host.alternate == 0
    host.command(0xEC, device=0)
    assert host.status == 0x51 and host.error == 4 and host.registers()[2:4] == (0x14, 0xEB)
    host.command(0xA1, device=0)
    w = struct.unpack("<256H", host.read_data(512))
    assert w[0] == 0x85C0 and w[49] & 0x300 == 0x300 and not host.alternate & 8


@pytest.mark.parametrize("limit", [0xFFFE, 2048, 512, 0, 6, 0xFFFF])
def test_read_in_blocks_of_the_hosts_size(host, limit):
    """READ(10) gives the same data whatever the byte count limit is."""
    data = b""
    host.packet(read10(3, 5), limit)
    while host.alternate & 8:
        assert host.line.level and host.channel.read(2, 1) == 2
        size = host.channel.read(4, 1) | host.channel.read(5, 1) << 8
        assert host.status >= 0
        assert 0 < size <= ((limit & 0xFFFE) or 0xFFFE) and not size & 1
        data += host.read_data(size)
    assert data == DATA[3 * 2048:8 * 2048] and host.channel.read(2, 1) == 3 and host.line.level and host.status == 0x50


def test_read_by_dma(host):
    """The data of a packet goes through the bus master, started before or after the packet is sent."""
    host.packet(read10(1, 2), dma=True)
    assert host.dma(True, (0x8000, 4096)) == 4 and host.status == 0x50
    assert host.mem.read(0x8000, 4096) == DATA[2048:6144]
    host.prepare((0xA000, 4096))
    host.channel.master.write(0, 9)
    host.packet(read10(3, 2), dma=True)
    assert host.channel.master.status == 4 and host.mem.read(0xA000, 4096) == DATA[3 * 2048:5 * 2048]
    assert host.registers()[0] == 3


def test_read12_and_capacity(host):
    """READ(12) has a longer count; READ CAPACITY names the last block and its size."""
    assert host.packet_in(struct.pack(">BBIIBB", 0xA8, 0, 62, 2, 0, 0)) == DATA[62 * 2048:]
    assert host.packet_in(cdb(0x25)) == struct.pack(">II", BLOCKS - 1, 2048)
    assert host.packet_in(read10(0, 0)) == b""


def test_errors_are_sense_data(host):
    """Outside of the disc, an unknown command, a bad field, a bad block: key and code, once."""
    assert host.packet_in(read10(63, 2)) == (5, (5, 0x2100))
    assert host.sense() == (0, 0)
    assert host.packet_in(cdb(0xFF)) == (5, (5, 0x2000))
    assert host.packet_in(cdb(0x12, 1, 0, 0, 36)) == (5, (5, 0x2400))
    host.drives[0].image.bad = {40}
    assert host.packet_in(read10(10, 1)) == (3, (3, 0x1100))


def test_without_a_medium():
    """Commands that need one fail with MEDIUM NOT PRESENT, the others do not; a new medium is announced once."""
    host = Host(Drive(None, cdrom=True))
    for command in (cdb(0x00), read10(0, 1), cdb(0x25), READ_TOC):
        assert host.packet_in(command) == (2, (2, 0x3A00))
    assert len(host.packet_in(cdb(0x12, 0, 0, 0, 36))) == 36
    host.drives[0].insert(MemImage(BLOCKS * 4, DATA, readonly=True))
    event = struct.pack(">BBBBBBBHB", 0x4A, 1, 0, 0, 0x10, 0, 0, 8, 0)
    assert host.packet_in(event)[4:6] == b"\x02\x02" and host.packet_in(event)[4:6] == b"\x00\x02"
    assert host.packet_in(cdb(0x00)) == (6, (6, 0x2800))
    assert host.packet_in(cdb(0x00)) == b"" and host.packet_in(read10(0, 1)) == DATA[:2048]


def test_the_tray(host):
    """START STOP UNIT opens and closes it, unless the medium is locked; the button asks a guest that has locked it."""
    drive = host.drives[0]
    assert host.packet_in(cdb(0x1E, 0, 0, 0, 1)) == b"" and drive.locked
    assert host.packet_in(cdb(0x1B, 0, 0, 0, 2)) == (5, (5, 0x5302))
    drive.request_eject()
    event = struct.pack(">BBBBBBBHB", 0x4A, 1, 0, 0, 0x10, 0, 0, 8, 0)
    assert not drive.tray_open and host.packet_in(event)[4] == 1
    host.packet_in(cdb(0x1E))
    assert host.packet_in(cdb(0x1B, 0, 0, 0, 2)) == b"" and drive.tray_open
    assert host.packet_in(cdb(0x00)) == (2, (2, 0x3A02))
    assert host.packet_in(struct.pack(">B7xHxx", 0xBD, 8))[1] == 0x10
    host.packet_in(cdb(0x1B, 0, 0, 0, 3))
    assert not drive.tray_open and host.packet_in(cdb(0x00)) == (6, (6, 0x2800)) and host.packet_in(cdb(0x00)) == b""


def test_table_of_contents(host):
    """One data track and the lead-out, in blocks and in MSF; sessions; the full table; the old place of the format."""
    toc = host.packet_in(READ_TOC)
    assert toc == bytes.fromhex("001201010014010000000000" "0014aa0000000040")
    assert host.packet_in(cdb(0x43, 2, 0, 0, 0, 0, 0xAA, 0, 100))[-3:] == bytes([0, 2, 64])
    assert host.packet_in(cdb(0x43, 0, 1, 0, 0, 0, 0, 0, 100))[:4] == b"\0\x0a\x01\x01"
    assert host.packet_in(cdb(0x43, 0, 0, 0, 0, 0, 0, 0, 100, 0x40))[:4] == b"\0\x0a\x01\x01"
    assert len(host.packet_in(cdb(0x43, 2, 2, 0, 0, 0, 0, 0, 100))) == 4 + 4 * 11
    assert host.packet_in(cdb(0x43, 0, 5, 0, 0, 0, 0, 0, 100)) == (5, (5, 0x2400))


def test_mode_sense_and_features(host):
    """Page 2Ah in both sizes of command, all pages, none; GET CONFIGURATION names the profile that fits the disc."""
    page = host.packet_in(struct.pack(">BBB4xHB", 0x5A, 0, 0x2A, 100, 0))
    assert page[8] == 0x2A and len(page) == 8 + 2 + page[9] and int.from_bytes(page[:2], "big") == len(page) - 2
    assert host.packet_in(cdb(0x1A, 0, 0x2A, 0, 100))[4:] == page[8:]
    assert len(host.packet_in(struct.pack(">BBB4xHB", 0x5A, 0, 0x3F, 4096, 0))) > 50
    assert host.packet_in(struct.pack(">BBB4xHB", 0x5A, 0, 0x05, 100, 0)) == (5, (5, 0x2400))
    config = host.packet_in(struct.pack(">BBH3xHB", 0x46, 0, 0, 1000, 0))
    assert int.from_bytes(config[:4], "big") == len(config) - 4 and config[6:8] == b"\0\x08"
    one = host.packet_in(struct.pack(">BBH3xHB", 0x46, 2, 3, 1000, 0))
    assert one[8:10] == b"\0\x03" and len(one) == 16
    host.drives[0].image.size_sectors = 2 << 20
    assert host.packet_in(struct.pack(">BBH3xHB", 0x46, 0, 0, 8, 0))[6:8] == b"\0\x10"


def test_mode_select(host):
    """Pages that there are are accepted, others refused; the data comes from the host."""
    for page, end in ((0x0E, 0x50), (0x05, 0x51)):
        host.packet(struct.pack(">BB5xHB", 0x55, 0x10, 16, 0))
        assert host.alternate & 8 and host.channel.read(2, 1) == 0
        host.write_data(bytes(8) + bytes([page, 6]) + bytes(6))
        assert host.status == end


def test_other_tables(host):
    """Disc and track information, sub-channel, header: as long as they say."""
    for opcode, rest in ((0x51, b"\0\0\0\0\0\0\x01\0\0"), (0x52, b"\x01\0\0\0\x01\0\x01\0\0")):
        data = host.packet_in(bytes([opcode]) + rest)
        assert int.from_bytes(data[:2], "big") == len(data) - 2
    assert host.packet_in(struct.pack(">BBBB3xHB", 0x42, 0, 0x40, 1, 100, 0))[1] == 0x15
    assert host.packet_in(struct.pack(">BBI1xHB", 0x44, 2, 0, 100, 0)) == bytes([1, 0, 0, 0, 0, 0, 2, 0])
    assert host.packet_in(struct.pack(">BB6xHBB", 0xAD, 0, 100, 0, 0)) == (5, (5, 0x3002))


def test_read_cd(host):
    """User data is what READ gives; a raw block has sync, header in BCD, the data and parity that checks."""
    user = struct.pack(">BBI", 0xBE, 0, 5) + b"\0\0\x02\x10\0\0"
    assert host.packet_in(user) == DATA[5 * 2048:7 * 2048]
    raw = host.packet_in(struct.pack(">BBI", 0xBE, 0, 5) + b"\0\0\x02\xf8\0\0", limit=1000)
    assert len(raw) == 2 * 2352 and raw[:12] == b"\0" + b"\xff" * 10 + b"\0" and raw[12:16] == bytes([0, 2, 5, 1])
    assert raw[16:2064] == DATA[5 * 2048:6 * 2048] and raw[2352 + 14] == 6
    host.packet(struct.pack(">BBI", 0xBE, 0, 5) + b"\0\0\x02\xf8\0\0", dma=True)
    host.dma(True, (0x8000, 4704))
    assert host.mem.read(0x8000, 4704) == raw
    assert host.packet_in(struct.pack(">BBI", 0xBE, 4, 5) + b"\0\0\x01\x10\0\0") == (5, (5, 0x6400))
    msf = host.packet_in(cdb(0xB9, 0, 0, 0, 2, 5, 0, 2, 6, 0x10))
    assert msf == DATA[5 * 2048:6 * 2048]


def test_parity_of_raw_blocks():
    """Every P and Q vector of a block is a code word: both syndromes are zero (ECMA-130, annex A)."""
    block = atapi_pages.raw_block(1234, DATA[:2048])[12:]

    def times(a, n):
        for _ in range(n):
            a = a << 1 ^ (0x11D if a & 0x80 else 0)
        return a

    for column in range(86):        # P: 24 rows of 86 and two of parity
        vector = [block[column + 86 * row] for row in range(26)]
        total = weighted = 0
        for i, value in enumerate(vector):
            total ^= value
            weighted ^= times(value, len(vector) - 1 - i)
        assert total == 0 and weighted == 0
    for diagonal in range(26):      # Q: 43 steps of 88 in each half, and two of parity
        for half in (0, 1):
            at = [(43 * diagonal + 44 * i) % 1118 for i in range(43)] + [1118 + diagonal, 1144 + diagonal]
            total = weighted = 0
            for i, n in enumerate(at):
                value = block[2 * n + half]
                total ^= value
                weighted ^= times(value, len(at) - 1 - i)
            assert total == 0 and weighted == 0


def test_saved_in_the_middle_of_a_packet():
    """A read stopped in its second block goes on elsewhere, and so do sense data."""
    one, other = (Host(Drive(MemImage(BLOCKS * 4, DATA, readonly=True), cdrom=True)) for _ in range(2))
    one.packet(read10(3, 5), 2048)
    first = one.read_data(3000)
    other.channel.load(one.channel.save())
    rest = other.read_data(5 * 2048 - 3000)
    assert first + rest == DATA[3 * 2048:8 * 2048] and other.status == 0x50
    one.packet_in(b"\x12\x01")
    one.packet(b"\xff")
    other.channel.load(one.channel.save())
    assert other.status & 1 and other.sense() == (5, 0x2000)


def test_device_reset_gives_no_interrupt(host):
    """DEVICE RESET ends what is under way and leaves the signature."""
    host.packet(read10(0, 4))
    host.irqs.clear()
    host.channel.write(7, 1, 0x08)
    assert host.registers()[:4] == (1, 1, 0x14, 0xEB) and host.alternate == 0 and True not in host.irqs
