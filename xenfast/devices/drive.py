"""A drive: what a disk, a CD-ROM or a floppy controller moves data from and to.

A drive has an image of ``dom0/block`` or, if its medium can be changed, none.  Transfers are in bytes of the medium, between
it and pieces of the guest's memory.  Errors are OSError, whatever goes wrong on the host; a controller turns them into what
its kind of drive reports.

Write cache (ATA-8 ACS 4.22): while ``write_cache`` is on, what is written is sure to be on the host's disk after ``flush()``;
while it is off, when ``writev()`` returns.

Geometry: disks have had none for decades, but ATA reports one, the BIOS another, and partition tables a third.
``default_geometry`` is what ATA-5 (annex B) prescribes for disks of any size, ``bios_geometry`` what a BIOS makes of it so
that cylinders fit in ten bits (Enhanced Disk Drive Specification, LBA-assisted translation), ``partitioned_geometry`` what the
one who partitioned the disk believed.
"""

import errno
import logging
import os
from collections.abc import Callable
from typing import NamedTuple

from xenfast.devices.dma import scatter
from xenfast.dom0.block import Image
from xenfast.dom0.block.raw import Unsupported

log = logging.getLogger("xenfast")

SECTOR = 512
IOV_MAX = 1024          # pieces in one call of readv(2); more go through a buffer
MAX_BUFFERED = 1 << 20  # bytes in such a buffer


class Geometry(NamedTuple):
    cylinders: int
    heads: int
    sectors: int        # a track

    def lba(self, cylinder: int, head: int, sector: int) -> int | None:
        """The number of a sector; None where there is no such (sectors count from 1)."""
        if head >= self.heads or not 1 <= sector <= self.sectors:
            return None
        return (cylinder * self.heads + head) * self.sectors + sector - 1

    def chs(self, lba: int) -> tuple[int, int, int]:
        track, sector = divmod(lba, self.sectors)
        cylinder, head = divmod(track, self.heads)
        return cylinder, head, sector + 1

    @property
    def size(self) -> int:
        return self.cylinders * self.heads * self.sectors


def default_geometry(sectors: int) -> Geometry:
    """What IDENTIFY DEVICE reports: 16 heads of 63 sectors, at most 16,383 cylinders (8.4 GB)."""
    return Geometry(max(1, min(sectors // (16 * 63), 16383)), 16, 63)


def bios_geometry(sectors: int) -> Geometry:
    """What int 13h, function 08h, reports: heads double until the cylinders fit in ten bits."""
    for heads in (16, 32, 64, 128):
        if sectors <= 1024 * heads * 63:
            break
    else:
        heads = 255
    return Geometry(max(1, min(sectors // (heads * 63), 1024)), heads, 63)


def partitioned_geometry(mbr: bytes, sectors: int) -> Geometry | None:
    """The geometry a partition table was made for: partitions end at the end of a cylinder, so the end of one in CHS and the
    same in LBA tell heads and sectors.
    """
    if len(mbr) < 512 or mbr[510:512] != b"\x55\xaa":
        return None
    for entry in (mbr[at:at + 16] for at in range(446, 510, 16)):
        start, count = int.from_bytes(entry[8:12], "little"), int.from_bytes(entry[12:16], "little")
        heads, per_track = entry[5] + 1, entry[6] & 63
        if not entry[4] or not count or not per_track or start + count > sectors:
            continue
        cylinder = entry[7] | (entry[6] & 0xC0) << 2
        geometry = Geometry(max(1, min(sectors // (heads * per_track), 1024)), heads, per_track)
        if geometry.lba(cylinder, heads - 1, per_track) == start + count - 1:
            return geometry
    return None


class Drive:
    """One drive.  ``on_change`` is called when a medium has been put in or taken out by the user."""

    def __init__(
        self, image: Image | None = None, *, cdrom: bool = False, serial: str = "", model: str = "", geometry: Geometry | None = None,
    ) -> None:  # fmt: skip
        self.image, self.cdrom = image, cdrom
        self.serial, self.model = serial, model
        self.write_cache = True
        self.locked = False         # PREVENT ALLOW MEDIUM REMOVAL: the guest wants to keep it
        self.tray_open = False
        self.on_change: Callable[[], None] | None = None
        self.on_eject_request: Callable[[], None] | None = None
        self.geometry = geometry or default_geometry(self.size_sectors)
        self.counts = dict.fromkeys(("reads", "writes", "flushes", "discards", "errors", "bytes_read", "bytes_written"), 0)
        self._warned = False

    @property
    def size_sectors(self) -> int:
        """Of 512 bytes; 0 without a medium."""
        return self.image.size_sectors if self.image is not None else 0

    @property
    def size(self) -> int:
        return self.size_sectors * SECTOR

    @property
    def readonly(self) -> bool:
        return self.cdrom or self.image is None or self.image.readonly

    @property
    def ready(self) -> bool:
        return self.image is not None and not self.tray_open

    # --- transfers ---------------------------------------------------------------------------------------------------
    def readv(self, offset: int, views: list[memoryview]) -> None:
        """Fill the views from the medium."""
        image, size = self._image(), sum(map(len, views))
        self._check(offset, size)
        try:
            if len(views) <= IOV_MAX:
                image.readv(offset, views)
            else:
                for at, group in _groups(views):
                    data = bytearray(sum(map(len, group)))
                    image.readv(offset + at, [memoryview(data)])
                    scatter(data, group)
        except OSError as error:
            self._failed("read", offset, error)
            raise
        self.counts["reads"] += 1
        self.counts["bytes_read"] += size

    def writev(self, offset: int, views: list[memoryview], *, fua: bool = False) -> None:
        """Write the views; it is on the host's disk before this returns if ``fua`` or without a write cache."""
        image, size = self._image(), sum(map(len, views))
        if self.readonly:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        self._check(offset, size)
        try:
            if len(views) <= IOV_MAX:
                image.writev(offset, views)
            else:
                for at, group in _groups(views):
                    image.writev(offset + at, [memoryview(b"".join(group))])
            if fua or not self.write_cache:
                image.flush()
        except OSError as error:
            self._failed("written", offset, error)
            raise
        self.counts["writes"] += 1
        self.counts["bytes_written"] += size

    def read(self, offset: int, size: int) -> bytearray:
        data = bytearray(size)
        self.readv(offset, [memoryview(data)])
        return data

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        self.writev(offset, [memoryview(data)])

    def flush(self) -> None:
        """Everything written so far is on the host's disk when this returns."""
        if self.image is None or self.image.readonly:
            return
        try:
            self.image.flush()
        except OSError as error:
            self._failed("flushed", 0, error)
            raise
        self.counts["flushes"] += 1

    def discard(self, offset: int, length: int) -> None:
        """The guest does not need these bytes any longer: a hint, whatever the host can do with it."""
        image = self._image()
        if self.readonly:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        self._check(offset, length)
        try:
            image.discard(offset, length)
        except Unsupported:
            return
        except OSError as error:
            self._failed("discarded", offset, error)
            raise
        self.counts["discards"] += 1

    # --- the medium --------------------------------------------------------------------------------------------------
    def insert(self, image: Image) -> None:
        """Put a medium in, in place of the one that is there, which is not closed."""
        self.image, self.tray_open = image, False
        self._changed()

    def eject(self) -> Image | None:
        """Take the medium out, even if the guest has locked it."""
        image, self.image = self.image, None
        self.locked = False
        self._changed()
        return image

    def request_eject(self) -> None:
        """Press the button: a guest that has locked the drive is asked, otherwise the tray opens."""
        if not self.locked:
            self.set_tray(True)
        elif self.on_eject_request is not None:
            self.on_eject_request()

    def set_tray(self, opened: bool) -> None:
        """The tray moves, by the guest's command or the button; the medium stays in it."""
        if opened != self.tray_open:
            self.tray_open = opened
            self._changed()

    def _changed(self) -> None:
        if self.on_change is not None:
            self.on_change()

    def _image(self) -> Image:
        if self.image is None or self.tray_open:
            raise OSError(errno.ENODATA, "no medium")
        return self.image

    def _check(self, offset: int, size: int) -> None:
        if offset < 0 or offset + size > self.size:
            raise OSError(errno.EINVAL, f"{offset:#x}+{size:#x} is outside the medium")

    def _failed(self, what: str, offset: int, error: OSError) -> None:
        self.counts["errors"] += 1
        if not self._warned:
            self._warned = True
            path = self.image.path if self.image is not None else "drive"
            log.warning("%s cannot be %s at %#x: %s", path, what, offset, error)

    # --- state -------------------------------------------------------------------------------------------------------
    def save(self) -> dict:
        return {"write_cache": self.write_cache, "locked": self.locked, "tray_open": self.tray_open}

    def load(self, state: dict) -> None:
        self.write_cache, self.locked, self.tray_open = state["write_cache"], state["locked"], state["tray_open"]


def _groups(views: list[memoryview]) -> list[tuple[int, list[memoryview]]]:
    """Many small pieces as groups of at most 1 MiB, each but the last a whole number of sectors, with where each begins."""
    groups: list[tuple[int, list[memoryview]]] = []
    start = size = 0
    group: list[memoryview] = []
    for view in views:
        group.append(view)
        size += len(view)
        if size >= MAX_BUFFERED:
            spare = size % SECTOR
            rest: list[memoryview] = []
            while spare:                # what is beyond the last whole sector goes to the next group
                last = group.pop()
                if len(last) > spare:
                    group.append(last[:-spare])
                    rest.insert(0, last[-spare:])
                    spare = 0
                else:
                    rest.insert(0, last)
                    spare -= len(last)
            groups.append((start, group))
            taken = size - size % SECTOR
            start, size, group = start + taken, size - taken, rest
    if group:
        groups.append((start, group))
    return groups
