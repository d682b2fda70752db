"""INT 13h: diskettes and disks by cylinder, head and sector, and by number."""

import pytest

from tests.firmware.pc import BiosPc, Memory, disk
from xenfast.devices.drive import Geometry
from xenfast.firmware.drives import CDROM, DISK, FLOPPY

BUFFER = 0x8000
SECTORS = 256 * 63          # 16 cylinders, 16 heads, 63 sectors a track


def numbered(sectors):
    """An image in which each sector begins with its number."""
    data = bytearray(sectors * 512)
    for lba in range(sectors):
        data[lba * 512:lba * 512 + 4] = lba.to_bytes(4, "little")
    return data


@pytest.fixture(scope="module")
def image():
    return numbered(SECTORS)


@pytest.fixture
def pc(image):
    return BiosPc.started(disks=[disk(image), disk(bytes(1 << 20))], floppies=[disk(numbered(2880), FLOPPY)],
                          cdroms=[disk(numbered(8000), CDROM)])


def lba_of(pc, at=BUFFER):
    return pc.mem.read_int(at, 4)


def data_of(pc, kind=DISK, index=0):
    return pc.bios.drives.of[kind][index].drive.image.data


@pytest.mark.parametrize(("dl", "cx", "dh", "lba"), [
    (0x80, 0x0001, 0, 0), (0x80, 0x003F, 0, 62), (0x80, 0x0001, 1, 63), (0x80, 0x0101, 0, 16 * 63), (0x80, 0x0F3F, 15, SECTORS - 1),
    (0x00, 0x0001, 0, 0), (0x00, 0x0012, 0, 17), (0x00, 0x0001, 1, 18), (0x00, 0x4F12, 1, 2879),
])   # fmt: skip
def test_reading_by_chs(pc, dl, cx, dh, lba):
    """02h: sector CL of track CH of head DH; AL tells how many."""
    after = pc.interrupt(0x13, ax=0x0201, bx=BUFFER, cx=cx, dh=dh, dl=dl)
    assert (after.cf, after.ax, lba_of(pc)) == (False, 1, lba)


def test_cylinders_have_ten_bits():
    """Bits 6 and 7 of CL are bits 8 and 9 of the cylinder."""
    data = bytearray(600 * 16 * 63 * 512)
    lba = (0x157 * 16 + 3) * 63
    data[lba * 512:lba * 512 + 4] = lba.to_bytes(4, "little")
    pc = BiosPc.started(disks=[disk(data)])
    assert not pc.interrupt(0x13, ax=0x0201, bx=BUFFER, cx=0x5741, dh=3, dl=0x80).cf
    assert lba_of(pc) == lba


def test_many_sectors_at_once_cross_tracks_and_pages(pc):
    """127 sectors from the end of a track to an odd address."""
    assert not pc.interrupt(0x13, ax=0x027F, es=0x1000, bx=0x0123, cx=0x003E, dx=0x0080).cf
    for i in (0, 1, 2, 63, 126):
        assert lba_of(pc, 0x10123 + i * 512) == 61 + i


def test_writing(pc):
    """03h: what is written stands in the image, and is read back."""
    pc.mem.write(BUFFER, b"written here" * 100)
    assert pc.interrupt(0x13, ax=0x0302, bx=BUFFER, cx=0x0202, dx=0x0580).ax == 2
    lba = (2 * 16 + 5) * 63 + 1
    assert data_of(pc)[lba * 512:][:1024] == (b"written here" * 100)[:1024]
    assert not pc.interrupt(0x13, ax=0x0402, bx=BUFFER, cx=0x0202, dx=0x0580).cf


@pytest.mark.parametrize(("registers", "status"), [
    ({"ax": 0x0200, "cx": 1, "dx": 0x80}, 0x01),   # no sectors
    ({"ax": 0x0281, "cx": 1, "dx": 0x80}, 0x01),   # more than 64 KiB
    ({"ax": 0x0201, "cx": 0, "dx": 0x80}, 0x01),   # sectors count from 1
    ({"ax": 0x0201, "cx": 1, "dx": 0x1080}, 0x01),   # head 16
    ({"ax": 0x0202, "cx": 0x0F3F, "dx": 0x0F80}, 0x04),   # beyond the end
    ({"ax": 0x0201, "cx": 1, "dx": 0x82}, 0x01),   # no such disk
    ({"ax": 0x0201, "cx": 1, "dx": 0x01}, 0x80),   # no such diskette drive
    ({"ax": 0x0201, "cx": 0x13, "dx": 0x00}, 0x04),   # sector 19 of a diskette
    ({"ax": 0x0201, "cx": 0x5001, "dx": 0x00}, 0x04),   # track 80
    ({"ax": 0x7700, "dx": 0x80}, 0x01), ({"ax": 0x0A01, "cx": 1, "dx": 0x80}, 0x01), ({"ax": 0x1000, "dx": 0x00}, 0x01),
    ({"ax": 0x0201, "cx": 1, "dx": 0xE0}, 0x01),   # a CD-ROM has no cylinders
])   # fmt: skip
def test_requests_that_fail(pc, registers, status):
    """Status in AH, CF, and in the BIOS data area, where 01h finds it."""
    after = pc.interrupt(0x13, bx=BUFFER, **registers)
    assert after.cf and after.ah == status
    number = registers["dx"] & 0xFF
    assert pc.mem.read_int(0x474 if number >= 0x80 else 0x441, 1) == status
    again = pc.interrupt(0x13, ax=0x0100, dl=number)
    assert again.cf and again.ah == status


def test_a_read_only_disk(pc):
    """Write protected."""
    pc.bios.drives.of[DISK][0].drive.image.readonly = True
    assert pc.interrupt(0x13, ax=0x0301, bx=BUFFER, cx=1, dx=0x80).ah == 0x03


def test_host_errors_are_disk_errors(pc):
    """An I/O error of the host is status 20h."""
    def fail(*_):
        raise OSError(5, "broken")

    image = pc.bios.drives.of[DISK][0].drive.image
    image.readv = image.writev = fail
    for ax in (0x0201, 0x0301):
        after = pc.interrupt(0x13, ax=ax, bx=BUFFER, cx=1, dx=0x80)
        assert after.cf and after.ax == 0x2000


def test_parameters(pc):
    """08h: the last cylinder, sectors, heads, number of drives; ES:DI for diskettes."""
    after = pc.interrupt(0x13, ax=0x0800, dx=0x80)
    assert (after.cf, after.ax, after.cx, after.dx) == (False, 0, 0x0F3F, 0x0F02)
    after = pc.interrupt(0x13, ax=0x0800, dx=0x00)
    assert (after.ax, after.bl, after.cx, after.dx) == (0, 4, 0x4F12, 0x0101)
    assert pc.mem.read((after.es << 4) + after.di + 3, 2) == bytes((2, 18))
    after = pc.interrupt(0x13, ax=0x0800, dx=0x85)
    assert after.cf and after.ah == 7 and after.dl == 2


@pytest.mark.parametrize(("sectors", "geometry"), [
    (1_000_000, Geometry(992, 16, 63)), (2_000_000, Geometry(992, 32, 63)), (4_000_000, Geometry(992, 64, 63)),
    (8_000_000, Geometry(992, 128, 63)), (16_000_000, Geometry(995, 255, 63)), (1 << 34, Geometry(1024, 255, 63)),
])   # fmt: skip
def test_translation(sectors, geometry):
    """Heads double until the cylinders fit; the parameter table of int 41h shows both geometries."""
    class Large:
        readonly, path, size_sectors = True, "large", sectors

        def readv(self, offset, buffers):
            for buffer in buffers:
                buffer[:] = bytes(len(buffer))

    drive = disk(bytes(512))
    drive.drive.image = Large()
    pc = BiosPc.started(disks=[drive])
    assert drive.geometry == geometry
    after = pc.interrupt(0x13, ax=0x1500, dx=0x80)
    assert after.ah == 3 and after.cx << 16 | after.dx == geometry.size and not after.cf
    pointer = pc.mem.read_int(0x41 * 4, 4)
    table = pc.mem.read((pointer >> 16 << 4) + (pointer & 0xFFFF), 16)
    assert int.from_bytes(table[0:2], "little") == geometry.cylinders and table[2] == geometry.heads & 0xFF and table[14] == 63
    if geometry.heads != 16:
        assert table[3] == 0xA0 and sum(table) & 0xFF == 0 and table[11] == 16


def test_geometry_of_a_partition_table_and_of_a_boot_sector():
    """Who partitioned the disk, or made the file system, had a geometry in mind: it is ours."""
    mbr = bytearray(512)
    mbr[446:462] = bytes((0x80, 1, 1, 0, 6, 3, 32, 199)) + (32).to_bytes(4, "little") + (200 * 4 * 32 - 32).to_bytes(4, "little")
    mbr[510:] = b"\x55\xAA"
    pc = BiosPc.started(disks=[disk(bytes(mbr) + bytes(200 * 4 * 32 * 512))])
    assert pc.bios.drives.of[DISK][0].geometry[1:] == (4, 32)
    boot = bytearray(512)
    boot[0:3], boot[11:14], boot[24:28], boot[510:] = b"\xEB\x3C\x90", b"\0\2\4", b"\x20\0\x40\0", b"\x55\xAA"
    pc = BiosPc.started(disks=[disk(bytes(boot) + bytes(32 << 20))])
    assert pc.bios.drives.of[DISK][0].geometry[1:] == (64, 32)


@pytest.mark.parametrize(("kib", "cx", "kind"), [
    (160, 0x2708, 1), (360, 0x2709, 1), (720, 0x4F09, 3), (1200, 0x4F0F, 2), (1440, 0x4F12, 4), (1680, 0x4F15, 4), (2880, 0x4F24, 5),
])   # fmt: skip
def test_diskette_formats(kib, cx, kind):
    """The size of an image is its format."""
    pc = BiosPc.started(floppies=[disk(bytes(kib << 10), FLOPPY)])
    after = pc.interrupt(0x13, ax=0x0800)
    assert (after.cx, after.bl, after.dl) == (cx, kind, 1)
    assert pc.cmos.data[0x10] == kind << 4


def test_other_functions(pc):
    """Reset, recalibrate, seek, ready, diagnose: nothing to do, for drives that are there."""
    for ax in (0x0000, 0x0900, 0x0C00, 0x0D00, 0x1000, 0x1100, 0x1400):
        after = pc.interrupt(0x13, ax=ax, cx=1, dx=0x80)
        assert not after.cf and after.ah == 0
        assert pc.interrupt(0x13, ax=ax, cx=1, dx=0x84).cf
    assert pc.interrupt(0x13, ax=0x1500, dx=0x00).ah == 2
    assert pc.interrupt(0x13, ax=0x1500, dx=0x01).ah == 0
    assert not pc.interrupt(0x13, ax=0x1600, dx=0x00).cf
    assert not pc.interrupt(0x13, ax=0x1703, dx=0x00).cf


def test_a_changed_diskette(pc):
    """The first access after a change fails with status 06h; without a diskette, with a time-out."""
    drive = pc.bios.drives.of[FLOPPY][0]
    drive.drive.insert(Memory(numbered(1440)))
    assert pc.interrupt(0x13, ax=0x0201, bx=BUFFER, cx=1).ah == 0x06
    assert not pc.interrupt(0x13, ax=0x0201, bx=BUFFER, cx=1).cf
    drive.drive.eject()
    assert pc.interrupt(0x13, ax=0x0201, bx=BUFFER, cx=1).ah == 0x80


def test_formatting_a_track(pc):
    """05h and 18h: the fill byte of the diskette parameters."""
    assert not pc.interrupt(0x13, ax=0x1800, cx=0x4F12, dx=0).cf
    assert pc.interrupt(0x13, ax=0x1800, cx=0x4F30, dx=0).ah == 0x0C
    assert not pc.interrupt(0x13, ax=0x0512, bx=BUFFER, cx=0x0501, dx=0x0100).cf
    first = (5 * 2 + 1) * 18 * 512
    data = data_of(pc, FLOPPY)
    assert data[first:first + 18 * 512] == b"\xF6" * (18 * 512) and data[first + 18 * 512] != 0xF6


# --- by sector number ----------------------------------------------------------------------------------------------------


def packet(pc, lba, count=1, pointer=BUFFER, size=16, flat=None, at=0x600):
    pc.mem.write(at, bytes((size, 0)) + count.to_bytes(2, "little") + pointer.to_bytes(4, "little") + lba.to_bytes(8, "little"))
    if flat is not None:
        pc.mem.write(at + 16, flat.to_bytes(8, "little"))
    return at


def test_edd_is_there(pc):
    """41h: version 3.0, extended access, and locking where media can be taken out."""
    after = pc.interrupt(0x13, ax=0x4100, bx=0x55AA, dx=0x80)
    assert (after.cf, after.bx, after.ah, after.cx & 7) == (False, 0xAA55, 0x30, 5)
    assert pc.interrupt(0x13, ax=0x4100, bx=0x55AA, dx=0xE0).cx & 7 == 7
    assert pc.interrupt(0x13, ax=0x4100, bx=0x55AA, dx=0x00).cf
    assert pc.interrupt(0x13, ax=0x4100, bx=0x1234, dx=0x80).ah == 1


@pytest.mark.parametrize("lba", [0, 1, 4096, SECTORS - 1])
def test_reading_and_writing_by_number(pc, lba):
    """42h and 43h with a packet."""
    si = packet(pc, lba)
    assert not pc.interrupt(0x13, ax=0x4200, si=si, dx=0x80).cf and lba_of(pc) == lba
    pc.mem.write(BUFFER, b"new")
    assert not pc.interrupt(0x13, ax=0x4300, si=si, dx=0x80).cf
    assert data_of(pc)[lba * 512:lba * 512 + 3] == b"new"
    data_of(pc)[lba * 512:lba * 512 + 4] = lba.to_bytes(4, "little")


def test_a_flat_buffer_above_1_mib(pc):
    """FFFFFFFFh: the 64-bit address behind the packet counts."""
    si = packet(pc, 77, pointer=0xFFFFFFFF, size=24, flat=0x200001)
    assert not pc.interrupt(0x13, ax=0x4200, si=si, dx=0x80).cf and lba_of(pc, 0x200001) == 77
    si = packet(pc, 77, pointer=0xFFFFFFFF, size=24, flat=1 << 40)
    assert pc.interrupt(0x13, ax=0x4200, si=si, dx=0x80).ah == 1


@pytest.mark.parametrize(("lba", "count", "size", "status"), [
    (SECTORS, 1, 16, 4), (SECTORS - 1, 2, 16, 4), (1 << 63, 1, 16, 4), (0, 0, 16, 1), (0, 0x8000, 16, 1), (0, 1, 15, 1),
])   # fmt: skip
def test_bad_packets(pc, lba, count, size, status):
    """What is beyond the disk, or no packet: refused, nothing transferred."""
    pc.mem.write(BUFFER, b"same")
    after = pc.interrupt(0x13, ax=0x4200, si=packet(pc, lba, count, size=size), dx=0x80)
    assert after.cf and after.ah == status and pc.mem.read(BUFFER, 4) == b"same"
    if size == 16:
        assert pc.mem.read_int(0x602, 2) == 0


def test_drive_parameters(pc):
    """48h: 1Ah, 1Eh or 42h bytes, as the caller has room; the device path adds up to 0."""
    for room, size in ((26, 26), (30, 30), (66, 66), (512, 66)):
        pc.mem.write(0x600, room.to_bytes(2, "little") + b"\xEE" * 80)
        assert not pc.interrupt(0x13, ax=0x4800, si=0x600, dx=0x80).cf
        raw = pc.mem.read(0x600, 80)
        assert int.from_bytes(raw[0:2], "little") == size and raw[size] == 0xEE
        assert int.from_bytes(raw[16:24], "little") == SECTORS and int.from_bytes(raw[24:26], "little") == 512
    assert raw[30:34] == b"\xDD\xBE\x24\x00" and raw[36:40] == b"PCI " and raw[40:44] == b"ATA " and sum(raw[30:66]) & 0xFF == 0
    pointer = int.from_bytes(raw[26:30], "little")
    table = pc.mem.read((pointer >> 16 << 4) + (pointer & 0xFFFF), 16)
    assert table[:4] == b"\xF0\x01\xF4\x03" and sum(table) & 0xFF == 0
    pc.mem.write(0x600, (25).to_bytes(2, "little"))
    assert pc.interrupt(0x13, ax=0x4800, si=0x600, dx=0x80).ah == 1


def test_a_cdrom_has_sectors_of_2048_bytes(pc):
    """42h and 48h for E0h."""
    assert not pc.interrupt(0x13, ax=0x4200, si=packet(pc, 100), dx=0xE0).cf
    assert [lba_of(pc, BUFFER + 512 * i) for i in range(4)] == [400, 401, 402, 403]
    pc.mem.write(0x600, (30).to_bytes(2, "little"))
    assert not pc.interrupt(0x13, ax=0x4800, si=0x600, dx=0xE0).cf
    raw = pc.mem.read(0x600, 30)
    assert raw[2] & 0x34 == 0x34 and int.from_bytes(raw[16:24], "little") == 2000 and int.from_bytes(raw[24:26], "little") == 2048
    assert pc.interrupt(0x13, ax=0x4300, si=packet(pc, 100), dx=0xE0).ah == 3


def test_locking_and_ejecting(pc):
    """45h counts locks; 46h opens the tray of a drive that is not locked; then it is not ready."""
    assert pc.interrupt(0x13, ax=0x4501, dx=0xE0).ah == 0xB0
    assert pc.interrupt(0x13, ax=0x4500, dx=0xE0).ax == 1
    assert pc.interrupt(0x13, ax=0x4600, dx=0xE0).ah == 0xB1
    assert pc.interrupt(0x13, ax=0x4502, dx=0xE0).ax == 1
    assert pc.interrupt(0x13, ax=0x4501, dx=0xE0).ax == 0
    assert not pc.interrupt(0x13, ax=0x4600, dx=0xE0).cf
    assert pc.interrupt(0x13, ax=0x4200, si=packet(pc, 0), dx=0xE0).ah == 0xAA
    assert pc.interrupt(0x13, ax=0x4900, dx=0xE0).ah == 0xAA
    assert pc.interrupt(0x13, ax=0x4500, dx=0x80).ah == 0xB2
    assert not pc.interrupt(0x13, ax=0x4400, si=packet(pc, 5), dx=0x80).cf
    assert not pc.interrupt(0x13, ax=0x4700, si=packet(pc, 5, 0), dx=0x80).cf
    assert pc.interrupt(0x13, ax=0x4E01, dx=0x80).ah == 0
