"""Boot catalogs, and INT 13h functions 4Ah to 4Dh."""

import json

import pytest

from tests.firmware.pc import BiosPc, disk
from tests.firmware.test_boot import HELLO, boot_sector
from xenfast.firmware.drives import CDROM, FLOPPY
from xenfast.firmware.eltorito import NotBootable, parse_catalog
from xenfast.machine import Reason

CATALOG, IMAGE = 20, 24             # sectors of the disc


def validation(platform=0):
    entry = bytearray(32)
    entry[0], entry[1], entry[30:32] = 1, platform, b"\x55\xAA"
    total = sum(int.from_bytes(entry[i:i + 2], "little") for i in range(0, 32, 2))
    entry[28:30] = (-total & 0xFFFF).to_bytes(2, "little")
    return bytes(entry)


def boot_entry(media=0, segment=0, count=4, lba=IMAGE, bootable=0x88):
    return bytes((bootable, media)) + segment.to_bytes(2, "little") + bytes(2) + count.to_bytes(2, "little") + lba.to_bytes(4, "little") + \
        bytes(20)


def section(platform, entries, last=True):
    return bytes((0x91 if last else 0x90, platform)) + entries.to_bytes(2, "little") + bytes(28)


def disc(catalog, image, size=4 << 20):
    data = bytearray(size)
    data[17 * 2048:17 * 2048 + 39] = b"\0CD001\1" + b"EL TORITO SPECIFICATION".ljust(32, b"\0")
    data[17 * 2048 + 0x47:17 * 2048 + 0x4B] = CATALOG.to_bytes(4, "little")
    data[CATALOG * 2048:CATALOG * 2048 + len(catalog)] = catalog
    data[IMAGE * 2048:IMAGE * 2048 + len(image)] = image
    return data


def booted(media, image, **more):
    pc = BiosPc(cdroms=[disk(disc(validation() + boot_entry(media, **more), image), CDROM, channel=1, unit=0)],
                floppies=[disk(bytes(720 << 10), FLOPPY)], disks=[disk(bytes(1 << 20))], boot="d")
    assert pc.power_on() == Reason.HLT
    return pc


def test_without_emulation():
    """As many sectors of 512 bytes as the entry says, at its segment; DL is the CD-ROM."""
    pc = booted(0, boot_sector(HELLO), count=4)
    assert pc.screen.text.endswith("Hello") and pc.cpu.rdx & 0xFF == 0xE0
    pc = booted(0, b"\xFA\xF4" + bytes(2046) + b"more", segment=0x2000, count=5)
    assert pc.cpu.segment("cs")[0] == 0x2000 and pc.mem.read(0x20800, 4) == b"more"


def test_an_emulated_diskette():
    """It is A, the real one is B; 4Bh tells of it and ends it."""
    pc = booted(2, boot_sector(HELLO), count=1)
    assert pc.screen.text.endswith("Hello") and pc.cpu.rdx & 0xFF == 0
    assert pc.interrupt(0x13, ax=0x0800, dx=0).dx == 0x0102
    assert pc.interrupt(0x13, ax=0x0201, bx=0x8000, cx=1).ax == 1 and pc.mem.read(0x8000, 510) == boot_sector(HELLO)[:510]
    assert pc.interrupt(0x13, ax=0x0301, bx=0x8000, cx=1).ah == 3
    assert pc.interrupt(0x13, ax=0x0800, dx=1).cx == 0x4F09
    assert not pc.interrupt(0x13, ax=0x4B01, si=0x600).cf
    packet = pc.mem.read(0x600, 19)
    assert packet[:4] == b"\x13\x02\x00\x01" and int.from_bytes(packet[4:8], "little") == IMAGE and packet[16:] == b"\x4F\x12\x01"
    assert not pc.interrupt(0x13, ax=0x4B00, si=0x600).cf and pc.interrupt(0x13, ax=0x0800, dx=0).cx == 0x4F09
    assert pc.interrupt(0x13, ax=0x4B00, si=0x600).cf


def test_an_emulated_disk():
    """It is 80h, with the geometry of its partition; the real disk is 81h."""
    mbr = bytearray(boot_sector(HELLO))
    mbr[446:462] = bytes((0x80, 1, 1, 0, 6, 3, 17, 19)) + (17).to_bytes(4, "little") + (4 * 17 * 20 - 17).to_bytes(4, "little")
    pc = booted(4, bytes(mbr), count=1)
    assert pc.screen.text.endswith("Hello") and pc.cpu.rdx & 0xFF == 0x80
    after = pc.interrupt(0x13, ax=0x0800, dx=0x80)
    assert (after.cx, after.dx) == (0x1311, 0x0302)
    assert pc.bios.drives.get(0x81) is pc.bios.drives.of["disk"][0]
    after = pc.interrupt(0x13, ax=0x4100, bx=0x55AA, dx=0x80)
    assert not after.cf


def test_other_platforms_first():
    """A catalog whose initial entry is for EFI: the section for PCs counts."""
    catalog = validation(0xEF) + boot_entry(lba=99) + section(0xEF, 1, last=False) + boot_entry(lba=98) + section(0, 2)
    catalog += boot_entry(bootable=0) + boot_entry(lba=IMAGE, count=7)
    assert parse_catalog(catalog.ljust(2048, b"\0")).count == 7


@pytest.mark.parametrize("catalog", [
    bytes(2048), validation()[:-1] + b"\0" + boot_entry(), validation(0xEF) + boot_entry(), validation() + boot_entry(bootable=0),
    validation() + boot_entry(media=9), validation(0xEF) + bytes(32) + section(0, 0xFFFF),
])   # fmt: skip
def test_damaged_catalogs(catalog):
    """Each is refused in a few words."""
    with pytest.raises(NotBootable):
        parse_catalog(catalog.ljust(2048, b"\0"))


def test_images_beyond_the_disc():
    """What the catalog or the record points to may be anywhere."""
    for catalog_at, lba, media in ((CATALOG, 0xFFFFFFFF, 2), (0xFFFFFFFF, IMAGE, 0), (CATALOG, 0xFFFFFFF0, 0), (CATALOG, 2047, 0)):
        data = disc(validation() + boot_entry(media, lba=lba, count=0xFFFF), b"")
        data[17 * 2048 + 0x47:17 * 2048 + 0x4B] = catalog_at.to_bytes(4, "little")
        pc = BiosPc(cdroms=[disk(data, CDROM)], boot="d")
        pc.power_on(budget=20_000)
        assert "CD-ROM: not bootable" in pc.screen.text or lba == 2047


def test_functions_by_packet():
    """4Ah starts an emulation, 4Ch boots it, 4Dh reads the catalog."""
    pc = booted(0, b"\xFA\xF4", count=1)
    packet = bytes((19, 2, 0, 1)) + IMAGE.to_bytes(4, "little") + bytes(4) + bytes(2) + (1).to_bytes(2, "little") + bytes(3)
    pc.mem.write(0x600, packet)
    assert not pc.interrupt(0x13, ax=0x4A00, si=0x600).cf and pc.bios.drives.get(0).emulated
    assert pc.interrupt(0x13, ax=0x4A00, si=0x600).ah == 0xB3
    pc.mem.write(0x700, bytes((8, 1)) + (0x8000).to_bytes(4, "little") + bytes(2))
    assert not pc.interrupt(0x13, ax=0x4D00, si=0x700).cf and pc.mem.read(0x8000, 32) == validation()
    assert not pc.interrupt(0x13, ax=0x4B00, si=0x620).cf
    pc.mem.write(0x600, packet)
    pc.interrupt(0x13, ax=0x4C00, si=0x600)
    assert pc.cpu.rip == 0x7C02 and pc.mem.read(0x7C00, 2) == b"\xFA\xF4"
    pc.mem.write(0x600, bytes((19, 7)))
    assert pc.interrupt(0x13, ax=0x4A00, si=0x600).ah == 1


def test_the_state_of_the_bios():
    """Saved and loaded into a new machine of the same kind: emulation, order of drives, locks, memory blocks; drives may be empty."""
    pc = booted(2, boot_sector(HELLO), count=1)
    pc.bios.memory_manager.allocate(16, 7, 1)
    pc.interrupt(0x13, ax=0x4500, dx=0xE0)
    state = json.loads(json.dumps(pc.bios.save()))
    other = BiosPc(cdroms=[disk(disc(validation() + boot_entry(2, count=1), boot_sector(HELLO)), CDROM)],
                   floppies=[disk(bytes(720 << 10), FLOPPY)], disks=[disk(bytes(1 << 20))])
    other.bios.load(state)
    assert other.bios.save() == state and other.bios.drives.get(0).emulated and other.bios.drives.get(0xE0).locks == 1
    two = BiosPc(disks=[disk(bytes(1 << 20)), disk(boot_sector(HELLO).ljust(1 << 20, b"\0"))], boot="c")
    two.bios.drives.of["disk"].reverse()
    again = BiosPc(disks=[disk(bytes(1 << 20)), disk(bytes(2 << 20))])
    again.bios.load(two.bios.save())
    assert again.bios.drives.get(0x80).sectors == 4096


def test_saved_in_the_boot_menu():
    """A machine that was saved while power-on waited for a key begins power-on again."""
    pc = BiosPc(boot="")
    pc.power_on(budget=3000)
    assert "No bootable device" in pc.screen.text
    state = pc.bios.save()
    pc.bios.routines.running.clear()
    pc.bios.load(state)
    pc.bios.config.boot = "c"
    pc.bios.drives.of["disk"].append(disk(boot_sector(HELLO).ljust(1 << 20, b"\0")))
    assert pc.run(budget=100_000) == Reason.HLT and pc.screen.text.count("xenfast BIOS") == 2 and pc.screen.text.endswith("Hello")
