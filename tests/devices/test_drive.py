"""Drives: geometry, transfers of any shape, write cache, media that come and go."""

import pytest

from tests.devices.storage import MemImage, pattern
from xenfast.devices.drive import Drive, Geometry, bios_geometry, default_geometry, partitioned_geometry


@pytest.mark.parametrize(
    ("sectors", "ata", "bios"),
    [
        (1, (1, 16, 63), (1, 16, 63)),
        (20160, (20, 16, 63), (20, 16, 63)),
        (1024 * 16 * 63, (1024, 16, 63), (1024, 16, 63)),
        (1024 * 16 * 63 + 1, (1024, 16, 63), (512, 32, 63)),
        (4 << 20, (4161, 16, 63), (520, 128, 63)),
        (20 << 21, (16383, 16, 63), (1024, 255, 63)),
    ],
)
def test_geometry_follows_from_the_size(sectors, ata, bios):
    """ATA has 16 heads and 63 sectors up to 16,383 cylinders, the BIOS twice the heads until 1,024 cylinders suffice."""
    assert default_geometry(sectors) == ata
    assert bios_geometry(sectors) == bios


def test_chs_and_lba_are_each_others_inverse():
    """Every sector of a small geometry has one address, and what is outside has none."""
    g = Geometry(5, 3, 7)
    seen = [g.lba(c, h, s) for c in range(5) for h in range(3) for s in range(1, 8)]
    assert seen == list(range(g.size)) and [g.lba(*g.chs(n)) for n in seen] == seen
    assert g.lba(0, 0, 0) is None and g.lba(0, 3, 1) is None and g.lba(0, 0, 8) is None


def test_a_partition_table_tells_the_geometry_it_was_made_for():
    """The end of a partition in CHS and in LBA agree on one geometry; a table where they do not tells nothing."""
    mbr = bytearray(512)
    mbr[510:] = b"\x55\xaa"
    sectors = 100 * 4 * 17
    mbr[446:462] = bytes([0x80, 1, 1, 0, 6, 3, 17, 99]) + (17).to_bytes(4, "little") + (sectors - 17).to_bytes(4, "little")
    assert partitioned_geometry(bytes(mbr), sectors) == (100, 4, 17)
    mbr[458] ^= 1
    assert partitioned_geometry(bytes(mbr), sectors) is None
    assert partitioned_geometry(bytes(512), sectors) is None and partitioned_geometry(b"", 1) is None


def test_many_small_pieces_go_through_a_buffer():
    """More pieces than readv() takes, none a whole sector, still reach every byte in order."""
    data = pattern(4096)
    image = MemImage(4096, data)
    drive = Drive(image)
    target = bytearray(len(data))
    views, at = [], 0
    while at < len(data):
        views.append(memoryview(target)[at:at + 1002])
        at += 1002
    drive.readv(0, views)
    assert target == data and len(image.calls) == 2 and all(size % 512 == 0 for _, _, size in image.calls)
    image.data[:] = bytes(len(data))
    drive.writev(0, views)
    assert image.data == data


@pytest.mark.parametrize(("cache", "fua", "flushes"), [(True, False, 0), (True, True, 1), (False, False, 1)])
def test_the_write_cache_decides_when_data_is_on_the_host(cache, fua, flushes):
    """With a cache a write is safe after flush(), with FUA or without a cache when it returns."""
    image = MemImage()
    drive = Drive(image)
    drive.write_cache = cache
    drive.writev(512, [memoryview(b"x" * 512)], fua=fua)
    assert image.flushes == flushes
    drive.flush()
    assert image.flushed[512:1024] == b"x" * 512


def test_errors_are_oserrors():
    """Outside of the medium, without a medium, read-only, an open tray, a bad sector."""
    image = MemImage(8)
    image.bad = {3}
    drive = Drive(image)
    for bad in (lambda: drive.read(8 * 512, 1), lambda: drive.read(0, 9 * 512), lambda: drive.read(3 * 512, 1), lambda: drive.read(-1, 1)):
        with pytest.raises(OSError):
            bad()
    assert drive.counts["errors"] == 1
    for readonly in (Drive(MemImage(readonly=True)), Drive(MemImage(), cdrom=True), Drive(None)):
        assert readonly.readonly
        with pytest.raises(OSError):
            readonly.write(0, b"x" * 512)
        with pytest.raises(OSError):
            readonly.discard(0, 512)
    drive.set_tray(True)
    with pytest.raises(OSError):
        drive.read(0, 512)


def test_media_come_and_go():
    """insert() and eject() tell the device; a locked drive asks the guest when the button is pressed."""
    told, asked = [], []
    drive = Drive(None, cdrom=True)
    drive.on_change, drive.on_eject_request = lambda: told.append(drive.ready), lambda: asked.append(1)
    disc = MemImage(8)
    drive.insert(disc)
    drive.locked = True
    drive.request_eject()
    assert told == [True] and asked == [1] and drive.ready
    drive.locked = False
    drive.request_eject()
    assert not drive.ready and drive.tray_open
    assert drive.eject() is disc and drive.size_sectors == 0 and told == [True, False, False]


def test_discard_is_a_hint():
    """An image that cannot discard is no error."""
    image = MemImage()
    image.no_discard = True
    drive = Drive(image)
    drive.discard(0, 512)
    assert drive.counts["discards"] == 0
    image.no_discard = False
    drive.discard(0, 1024)
    assert image.discarded == [(0, 1024)] and drive.counts["discards"] == 1
