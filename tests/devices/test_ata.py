"""ATA disks behind an IDE channel: commands, addresses, the two data protocols, DMA, errors, write cache."""

import struct

import pytest

from tests.devices.storage import Host, MemImage, pattern
from xenfast.devices import ata, ide
from xenfast.devices.drive import Drive

SECTORS = 4096
DATA = pattern(SECTORS)


@pytest.fixture
def host():
    return Host(MemImage(SECTORS, DATA))


def image_of(host):
    return host.drives[0].image


def words(data):
    return struct.unpack("<256H", data)


def identify(host, command=0xEC):
    host.command(command)
    assert host.alternate & 0x08
    return words(host.read_data(512))


# --- IDENTIFY --------------------------------------------------------------------------------------------------------
def test_identify(host):
    """Size in all three ways, names with swapped bytes, features and a valid checksum."""
    w = identify(host)
    raw = struct.pack("<256H", *w)
    assert w[0] == 0x40 and (w[1], w[3], w[6]) == (4, 16, 63)
    assert w[60] | w[61] << 16 == SECTORS == w[100] | w[101] << 16 | w[102] << 32
    swapped = bytearray(raw[54:94])
    swapped[0::2], swapped[1::2] = swapped[1::2], swapped[0::2]
    assert swapped.decode().rstrip() == "xenfast HARDDISK"
    assert w[83] >> 10 & 1 and w[49] & 0x300 == 0x300 and w[255] & 0xFF == 0xA5 and sum(raw) & 0xFF == 0
    assert not host.alternate & 0x08


def test_identify_of_a_huge_disk():
    """28-bit sectors end at 0FFFFFFFh, 48-bit ones do not."""
    drive = Drive(MemImage(64))
    drive.image.size_sectors = 1 << 33
    w = identify(Host(drive))
    assert w[60] | w[61] << 16 == 0x0FFFFFFF and w[102] == 2 and w[100] == w[101] == 0


# --- PIO -------------------------------------------------------------------------------------------------------------
def test_read_sectors(host):
    """An interrupt for each sector, DRQ until the last byte, then nothing; the registers name the last sector."""
    host.command(0x20, lba=5, count=3)
    for n in range(3):
        assert host.line.level and host.alternate == 0x58
        assert host.status == 0x58 and not host.line.level
        assert host.read_data(512) == DATA[(5 + n) * 512:(6 + n) * 512]
    assert host.status == 0x50 and host.irqs == [True, False] * 3
    assert host.registers() == (0, 7, 0, 0, 0xE0)
    assert host.read_data(4) == b"\xff" * 4


def test_a_count_of_zero_is_256(host):
    """READ SECTORS with Sector Count 0 moves 128 KiB, and one string instruction may take all of it."""
    host.command(0x20, lba=1, count=0)
    assert host.read_data(256 * 512) == DATA[512:257 * 512] and host.status == 0x50


def test_single_accesses_are_the_same_as_blocks(host):
    """Words, dwords and bytes at the data port give the same bytes as string I/O."""
    host.command(0x20, lba=9, count=1)
    data = b"".join(host.channel.read(0, size, ).to_bytes(size, "little") for size in (2, 4, 2, 1, 1) * 51 + (2,))
    assert data == DATA[9 * 512:10 * 512]


def test_write_sectors(host):
    """No interrupt before the first sector, one after each, the data is in the image."""
    new = pattern(2, 99)
    host.command(0x30, lba=7, count=2)
    assert not host.line.level and host.alternate == 0x58
    host.write_data(new[:512])
    assert host.line.level and host.status == 0x58
    host.write_data(new[512:])
    assert host.line.level and host.status == 0x50
    assert image_of(host).data == DATA[:7 * 512] + new + DATA[9 * 512:]


def test_read_and_write_multiple(host):
    """Blocks of as many sectors as SET MULTIPLE MODE says, the last one shorter; without it the command is aborted."""
    host.command(0xC6, count=4)
    assert host.status == 0x50
    host.command(0xC4, lba=0, count=6)
    host.irqs.clear()
    assert host.read_data(6 * 512) == DATA[:6 * 512]
    host.command(0xC5, lba=100, count=5)
    host.write_data(DATA[:5 * 512])
    assert host.status == 0x50 and image_of(host).data[100 * 512:105 * 512] == DATA[:5 * 512]
    for bad in (3, 32):
        host.command(0xC6, count=bad)
        assert host.status & 1 and host.error == 4
    host.command(0xC6, count=0)
    host.command(0xC4, count=1)
    assert host.status & 1 and host.error == 4


def test_48_bit_reads(host):
    """READ SECTORS EXT takes count and address from both contents of the registers, and HOB reads the older one."""
    host.command48(0x24, lba=0x123, count=2)
    assert host.read_data(1024) == DATA[0x123 * 512:0x125 * 512]
    host.command48(0x24, lba=0x123, count=0x201)
    assert host.read_data(0x201 * 512) == DATA[0x123 * 512:(0x123 + 0x201) * 512]
    host.channel.write(2, 1, 0xAB)
    host.channel.write(2, 1, 0xCD)
    assert host.channel.read(2, 1) == 0xCD
    host.channel.write_control(0, 1, 0x80)
    assert host.channel.read(2, 1) == 0xAB
    host.channel.write(3, 1, 0)
    assert host.channel.read(2, 1) == 0xCD


def test_chs(host):
    """Cylinder, head and sector; another translation by INITIALIZE DEVICE PARAMETERS, which IDENTIFY shows."""
    host.chs(0x20, 1, 2, 3)
    lba = (1 * 16 + 2) * 63 + 2
    assert host.read_data(512) == DATA[lba * 512:(lba + 1) * 512]
    assert host.registers() == (0, 3, 1, 0, 0xA2)
    host.chs(0x91, 0, 3, 0, count=17)
    w = identify(host)
    assert w[54:57] == (60, 4, 17) and w[57] == 60 * 4 * 17
    host.chs(0x20, 1, 2, 3)
    assert host.read_data(512) == DATA[(6 * 17 + 2) * 512:(6 * 17 + 3) * 512]
    host.chs(0x20, 0, 0, 0)
    assert host.status & 1 and host.error == 0x10


@pytest.mark.parametrize("command", [0x20, 0x30, 0x40, 0xC4, 0xC8, 0xCA])
def test_addresses_outside_of_the_disk(host, command):
    """ID not found, with an interrupt, and nothing moves; also when only the last sector is outside."""
    for lba, count in ((SECTORS, 1), (SECTORS - 1, 2), (0xFFFFFFF, 0)):
        host.irqs.clear()
        host.command(command, lba=lba, count=count)
        assert host.irqs == [True] and host.status == 0x51 and host.error == 0x10


def test_bad_sectors_are_found_where_they_are():
    """Sectors before the bad one are delivered, then ERR with UNC and its address; for writes a device fault."""
    image = MemImage(SECTORS, DATA)
    image.bad = {12}
    host = Host(image)
    host.command(0x20, lba=10, count=4)
    assert host.read_data(1024) == DATA[10 * 512:12 * 512]
    assert host.status == 0x51 and host.error == 0x40 and host.registers() == (2, 12, 0, 0, 0xE0)
    host.command(0x30, lba=12, count=1)
    host.write_data(bytes(512))
    assert host.status & 0x21 == 0x21 and host.error == 4
    host.command48(0x42, lba=0, count=100)
    assert host.status & 1 and host.error == 0x40


# --- DMA -------------------------------------------------------------------------------------------------------------
def test_dma_read_scatters(host):
    """READ DMA through a table of three pieces; the interrupt shows in the bus master's status, which is then idle."""
    host.command(0xC8, lba=3, count=8)
    assert not host.line.level and host.alternate & 0x08
    assert host.dma(True, (0x8000, 0x200), (0x9FFE, 0x804), (0xC000, 0x5FC)) == 0x04
    assert host.line.level and host.status == 0x50
    mem = host.mem
    assert mem.read(0x8000, 0x200) + mem.read(0x9FFE, 0x804) + mem.read(0xC000, 0x5FC) == DATA[3 * 512:11 * 512]


def test_dma_write_gathers(host):
    """WRITE DMA EXT takes memory as the table names it; the start bit may come before the command."""
    host.mem.write(0x20000, DATA[:2048])
    host.prepare((0x20000, 1024), (0x20400, 1024))
    host.channel.master.write(0, 1)
    assert host.channel.master.status == 1
    host.command48(0x35, lba=1000, count=4)
    assert host.channel.master.status == 4 and host.status == 0x50
    assert image_of(host).data[1000 * 512:1004 * 512] == DATA[:2048]


def test_dma_of_64_kib_pieces(host):
    """A count of 0 is 64 KiB."""
    host.command(0xC8, lba=0, count=128)
    assert host.dma(True, (0x10000, 0)) == 4
    assert host.mem.read(0x10000, 65536) == DATA[:65536]


def test_tables_that_do_not_fit(host):
    """A table that is longer than the transfer leaves the bus master active; one that is shorter leaves the drive waiting, and
    the next start goes on.
    """
    host.command(0xC8, lba=0, count=1)
    assert host.dma(True, (0x8000, 1024)) == 5
    host.channel.master.write(0, 0)
    host.command(0xC8, lba=0, count=2)
    assert host.dma(True, (0x8000, 512)) == 0 and not host.line.level and host.alternate & 8
    assert host.dma(True, (0x8200, 512)) == 4
    assert host.mem.read(0x8000, 1024) == DATA[:1024]


def test_an_endless_table_ends(host):
    """A table without an end stops at 64 KiB with the error bit."""
    for at in range(0x20000, 0x30000, 4096):
        host.mem.write(at, b"\0\0\x10\0\2\0\0\0" * 512)
    host.command48(0x25, lba=0, count=0x800)
    host.prepare((0, 2), table=0x20000)
    host.mem.write(0x20000, b"\0\0\x10\0\2\0\0\0")
    host.channel.master.write(0, 9)
    assert host.channel.master.status == 2 and host.channel.unit.transfer.position == 16384


def test_dma_waits_for_bus_mastering():
    """Without the bus master enable bit nothing moves until it is set."""
    host = Host(MemImage(SECTORS, DATA))
    allowed = [False]
    host.channel.master.allowed = lambda: allowed[0]
    host.command(0xC8, count=1)
    assert host.dma(True, (0x8000, 512)) == 1
    allowed[0] = True
    host.channel.master.run()
    host.channel.update()
    assert host.channel.master.status == 4


def test_dma_of_a_bad_sector(host):
    """The command ends with UNC and an interrupt, the bus master is idle."""
    image_of(host).bad = {5}
    host.command(0xC8, lba=4, count=4)
    host.dma(True, (0x8000, 2048))
    assert host.status == 0x51 and host.error == 0x40 and not host.channel.master.status & 1


# --- cache and other commands ----------------------------------------------------------------------------------------
def test_flush_reaches_the_host(host):
    """After FLUSH CACHE (EXT) everything is on the host's disk; the write cache can be switched off."""
    image = image_of(host)
    host.command(0x30, lba=0, count=1)
    host.write_data(b"a" * 512)
    assert image.flushed[:512] == DATA[:512]
    host.command(0xE7)
    assert host.status == 0x50 and image.flushed[:512] == b"a" * 512
    host.command(0xEF, feature=0x82)
    assert not identify(host)[85] & 0x20
    host.command(0x30, lba=0, count=1)
    host.write_data(b"b" * 512)
    assert image.flushed[:512] == b"b" * 512
    host.command(0xEF, feature=0x02)
    before = image.flushes
    host.command48(0x3D, lba=1, count=1)
    host.mem.write(0x8000, b"c" * 512)
    host.dma(False, (0x8000, 512))
    assert image.flushes == before + 1 and image.flushed[512:1024] == b"c" * 512


def test_a_failed_flush_is_reported(host):
    """An error of the host's disk is a device fault, not success."""
    def broken():
        raise OSError(5, "no")

    image_of(host).flush = broken
    host.command(0xE7)
    assert host.status & 0x21 == 0x21


def test_trim(host):
    """DATA SET MANAGEMENT discards its ranges; one outside of the disk is refused."""
    host.mem.write(0x8000, struct.pack("<3Q", 10 | 4 << 48, 100 | 1 << 48, 0).ljust(512, b"\0"))
    host.command48(0x06, feature=1, count=1)
    host.dma(False, (0x8000, 512))
    assert host.status == 0x50 and image_of(host).discarded == [(5120, 2048), (51200, 512)]
    host.mem.write(0x8000, struct.pack("<Q", SECTORS - 1 | 2 << 48).ljust(512, b"\0"))
    host.command48(0x06, feature=1, count=1)
    host.dma(False, (0x8000, 512))
    assert host.status & 1


def test_set_features_transfer_mode(host):
    """The chosen mode is shown in words 63 and 88; modes that are not there are refused."""
    for mode, word, value in ((0x22, 63, 0x0407), (0x45, 88, 0x203F), (0x40, 88, 0x013F)):
        host.command(0xEF, feature=3, count=mode)
        assert host.status == 0x50 and identify(host)[word] == value
    for mode in (0x23, 0x46, 0x0D, 0x80, 0x10):
        host.command(0xEF, feature=3, count=mode)
        assert host.status & 1


def test_read_native_max(host):
    """The last sector."""
    host.command(0xF8)
    assert host.registers()[1:] == (0xFF, 0x0F, 0, 0xE0)
    host.command48(0x27)
    assert host.registers()[1:4] == (0xFF, 0x0F, 0)


def test_diagnostic_and_reset_set_the_signature(host):
    """01h 01h 00h 00h and a passed diagnostic; SRST shows BSY while it is held, and gives no interrupt."""
    host.command(0x20, lba=9, count=5)
    host.command(0x90)
    assert host.registers() == (1, 1, 0, 0, 0xA0) and host.error == 1 and host.line.level
    assert host.status >= 0
    host.command(0x20, lba=9, count=5)
    host.channel.write_control(0, 1, 4)
    assert host.alternate == 0x80
    host.channel.write(7, 1, 0xEC)
    host.channel.write_control(0, 1, 0)
    assert host.status >= 0
    assert host.alternate == 0x50 and host.registers() == (1, 1, 0, 0, 0xA0)


def test_power_and_buffers(host):
    """CHECK POWER MODE, standby, READ and WRITE BUFFER, READ VERIFY, SEEK, RECALIBRATE."""
    host.command(0xE0)
    host.command(0xE5)
    assert host.registers()[0] == 0
    host.command(0x40, lba=0, count=1)
    host.command(0xE5)
    assert host.registers()[0] == 0xFF
    host.command(0xE8)
    host.write_data(DATA[:512])
    host.command(0xE4)
    assert host.read_data(512) == DATA[:512]
    for command in (0x10, 0x70, 0x7F):
        host.command(command)
        assert host.status == 0x50
    host.command(0x70, lba=SECTORS)
    assert host.error == 0x10


def test_smart_says_the_disk_is_well(host):
    """Data and thresholds with valid checksums, the status registers unchanged; a wrong key is aborted."""
    for feature in (0xD0, 0xD1, 0xD5):
        host.command(0xB0, feature=feature, count=1, lba=0xC24F01)
        data = host.read_data(512)
        assert sum(data) & 0xFF == 0 and any(data)
    host.command(0xB0, feature=0xDA, lba=0xC24F00)
    assert host.status == 0x50 and host.registers()[2:4] == (0x4F, 0xC2)
    host.command(0xB0, feature=0xDA, lba=0)
    assert host.error == 4
    host.command(0xB0, feature=0xD9, lba=0xC24F00)
    assert not identify(host)[85] & 1


def test_unknown_commands_are_aborted(host):
    """Whatever is not in the table ends with ABRT and an interrupt."""
    for command in sorted(set(range(256)) - set(ata.DISK_COMMANDS)):
        host.command(command)
        assert host.line.level and host.status == 0x51 and host.error == 4, hex(command)


def test_every_command_of_the_table_has_a_method():
    """The tables name methods that exist."""
    for commands, cls in ((ata.DISK_COMMANDS, ata.AtaDisk), (ide.AtapiDrive.commands, ide.AtapiDrive)):
        assert all(callable(getattr(cls, entry.method)) for entry in commands.values())


# --- two drives, none ------------------------------------------------------------------------------------------------
def test_two_drives_on_a_cable():
    """Both hear the registers, the selected one acts; the interrupt line is the selected one's."""
    host = Host(MemImage(SECTORS, DATA), MemImage(SECTORS, DATA[::-1]))
    host.command(0x20, lba=1, count=1, device=0x50)
    assert host.line.level
    host.channel.write(6, 1, 0x40)
    assert not host.line.level and not host.alternate & 8
    host.channel.write(6, 1, 0x50)
    assert host.line.level and host.read_data(512) == DATA[::-1][512:1024]
    host.channel.write_control(0, 1, 2)
    assert not host.line.level


def test_an_empty_channel_floats():
    """Without drives reads are 7Fh, which tells a driver at once that nobody is there."""
    host = Host()
    host.command(0xEC)
    assert host.status == 0x7F == host.alternate and not host.irqs


def test_a_missing_slave_is_answered_for_by_the_master(host):
    """Status 0, the master's registers; commands to it are lost."""
    host.command(0xEC, device=0x50)
    assert host.status == 0 == host.alternate and not host.irqs
    host.channel.write(6, 1, 0x40)
    assert host.alternate == 0x50


def test_state_is_saved_in_the_middle_of_a_transfer():
    """A read by PIO, a write by PIO and one by DMA go on in another machine where they stopped."""
    for begin, end in (
        (lambda h: (h.command(0x20, lba=3, count=4), h.read_data(700)), lambda h: h.read_data(2048 - 700) == DATA[3 * 512:7 * 512][700:]),
        (lambda h: (h.command(0x30, lba=3, count=2), h.write_data(DATA[:600])),
         lambda h: h.write_data(DATA[600:1024]) or h.drives[0].image.data[3 * 512:5 * 512] == DATA[:1024]),
        (lambda h: h.command(0xC8, lba=3, count=1), lambda h: h.dma(True, (0x8000, 512)) == 4),
    ):  # fmt: skip
        one, other = Host(MemImage(SECTORS, DATA)), Host(MemImage(SECTORS, DATA))
        begin(one)
        other.channel.load(one.channel.save())
        other.drives[0].image.data[:] = one.drives[0].image.data
        assert other.alternate == one.alternate and other.line.level == one.line.level
        assert end(other) and other.status == 0x50
