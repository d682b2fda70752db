"""The drives that int 13h knows: numbers, geometries, and transfers straight to the images of domain 0.

Numbers: 00h.. diskettes, 80h.. disks, E0h.. CD-ROMs; a CD-ROM that boots by emulation takes 00h or 80h and the drives of that kind
move up by one (El Torito 1.0, 5.2).  Which controller a drive hangs on makes no difference here.

Geometry of a disk, in this order: what its partition table was made for, what the BPB of its boot sector says, what
LBA-assisted translation gives (Enhanced Disk Drive Specification 3.0, annex).
"""

from dataclasses import dataclass, field
from typing import Any

from xenfast.devices.drive import Drive, Geometry, bios_geometry, default_geometry, partitioned_geometry

FLOPPY, DISK, CDROM = "floppy", "disk", "cdrom"
FIRST = {FLOPPY: 0x00, DISK: 0x80, CDROM: 0xE0}
SECTOR, CD_SECTOR = 512, 2048

# sectors -> geometry, type in CMOS and in int 13h/08h
FLOPPIES = {
    320: (Geometry(40, 1, 8), 1), 360: (Geometry(40, 1, 9), 1), 640: (Geometry(40, 2, 8), 1), 720: (Geometry(40, 2, 9), 1),
    1440: (Geometry(80, 2, 9), 3), 2400: (Geometry(80, 2, 15), 2), 2880: (Geometry(80, 2, 18), 4), 5760: (Geometry(80, 2, 36), 5),
    1640: (Geometry(82, 2, 10), 3), 2952: (Geometry(82, 2, 18), 4), 3280: (Geometry(82, 2, 20), 4),      # formats of those who wanted more
    3360: (Geometry(80, 2, 21), 4), 3444: (Geometry(82, 2, 21), 4), 3200: (Geometry(80, 2, 20), 4),
}   # fmt: skip
UNKNOWN = Geometry(1, 1, 1)         # until it is measured
EMPTY_FLOPPY = (Geometry(80, 2, 18), 4)


@dataclass
class BiosDrive:
    """A drive under one of the BIOS's numbers; ``first`` and ``count`` are the sectors of the medium that it shows."""

    drive: Drive
    kind: str
    geometry: Geometry = UNKNOWN
    cmos_type: int = 0
    channel: int = 0                    # where it hangs, for EDD: IDE channel and unit, or what there is
    unit: int = 0
    first: int = 0                      # of an emulated drive: first sector (of 512 bytes) of the medium
    count: int | None = None
    locks: int = 0                      # int 13h/45h
    seen: Any = None                    # the medium of the last call
    emulated: bool = False
    info: dict[str, Any] = field(default_factory=dict)

    @property
    def sector_size(self) -> int:
        return CD_SECTOR if self.kind == CDROM and not self.emulated else SECTOR

    @property
    def ready(self) -> bool:
        return self.drive.ready

    @property
    def readonly(self) -> bool:
        return self.emulated or self.drive.readonly

    @property
    def sectors(self) -> int:
        """Of ``sector_size``."""
        if self.count is not None:
            return self.count
        return self.drive.size_sectors // (self.sector_size // SECTOR)

    @property
    def removable(self) -> bool:
        return self.kind != DISK

    def read(self, lba: int, count: int) -> bytearray:
        """OSError where the medium fails or ends."""
        return self.drive.read(self.first * SECTOR + lba * self.sector_size, count * self.sector_size)

    def readv(self, lba: int, views: list[memoryview]) -> None:
        self.drive.readv(self.first * SECTOR + lba * self.sector_size, views)

    def write(self, lba: int, data: bytes | bytearray | memoryview) -> None:
        self.drive.write(self.first * SECTOR + lba * self.sector_size, data)

    def take_change(self) -> bool:
        """Has the medium been changed since this was last asked?"""
        changed = self.seen is not self.drive.image
        if changed:
            self.measure()
        return changed

    def measure(self) -> None:
        """Find the geometry of the medium."""
        self.seen = self.drive.image
        if self.kind == FLOPPY:
            self.geometry, self.cmos_type = floppy_geometry(self.drive)
        elif self.kind == DISK:
            self.geometry = disk_geometry(self)


def floppy_geometry(drive: Drive) -> tuple[Geometry, int]:
    """Geometry and type of a diskette: by its size, or the next larger format."""
    size = drive.size_sectors
    if not size:
        return EMPTY_FLOPPY
    if size in FLOPPIES:
        return FLOPPIES[size]
    larger = [n for n in FLOPPIES if n >= size]
    return FLOPPIES[min(larger)] if larger else (Geometry(max(1, min(size // 72, 255)), 2, 36), 5)


def disk_geometry(disk: BiosDrive) -> Geometry:
    sectors = disk.sectors
    try:
        head = bytes(disk.read(0, 1)) if disk.ready and sectors else bytes(SECTOR)
    except OSError:
        head = bytes(SECTOR)
    return partitioned_geometry(head, sectors) or bpb_geometry(head, sectors) or bios_geometry(sectors)


def bpb_geometry(sector: bytes, sectors: int) -> Geometry | None:
    """What the BIOS parameter block of a FAT boot sector says, where the whole disk is one file system."""
    per_track, heads = int.from_bytes(sector[24:26], "little"), int.from_bytes(sector[26:28], "little")
    looks_like_fat = sector[0] in (0xE9, 0xEB) and sector[11:13] == b"\0\2" and sector[13] and not sector[13] & sector[13] - 1
    if sector[510:512] != b"\x55\xAA" or not looks_like_fat or not 1 <= per_track <= 63 or not 1 <= heads <= 255:
        return None
    return Geometry(max(1, min(sectors // (heads * per_track), 1024)), heads, per_track)


class Drives:
    """All drives.  ``get(dl)`` finds one by number, minding a CD-ROM that plays a disk."""

    def __init__(self, floppies: list[BiosDrive], disks: list[BiosDrive], cdroms: list[BiosDrive]) -> None:
        self.of = {FLOPPY: floppies, DISK: disks, CDROM: cdroms}
        self.emulation: BiosDrive | None = None
        self.emulation_number = 0

    def measure(self) -> None:
        for drives in self.of.values():
            for drive in drives:
                drive.measure()

    def get(self, number: int) -> BiosDrive | None:
        if number >= FIRST[CDROM]:
            kind, index = CDROM, number - FIRST[CDROM]
        elif number >= FIRST[DISK]:
            kind, index = DISK, number - FIRST[DISK]
        else:
            kind, index = FLOPPY, number
        if self.emulation is not None and kind != CDROM and kind == self.emulated_kind:
            if index == 0:
                return self.emulation
            index -= 1
        drives = self.of[kind]
        return drives[index] if index < len(drives) else None

    @property
    def emulated_kind(self) -> str:
        return DISK if self.emulation_number >= 0x80 else FLOPPY

    def count(self, kind: str) -> int:
        extra = self.emulation is not None and kind == self.emulated_kind
        return len(self.of[kind]) + extra

    def start_emulation(self, drive: BiosDrive, number: int) -> None:
        self.emulation, self.emulation_number = drive, number

    def stop_emulation(self) -> None:
        self.emulation = None


def parameter_table(disk: BiosDrive) -> bytes:
    """The fixed disk parameter table of int 41h and 46h; translated ones carry A0h and the physical geometry (EDD 3.0, annex)."""
    logical, physical = disk.geometry, default_geometry(disk.sectors)
    control = 0xC0 | (8 if physical.heads > 8 else 0)
    if logical.heads == physical.heads and logical.sectors == physical.sectors:
        table = bytearray(16)
        table[0:2] = logical.cylinders.to_bytes(2, "little")
        table[2] = logical.heads & 0xFF
        table[5:7] = b"\xff\xff"                                    # no write precompensation
        table[8] = control
        table[12:14] = min(logical.cylinders, 0xFFFF).to_bytes(2, "little")    # landing zone
        table[14] = logical.sectors
        return bytes(table)
    table = bytearray(logical.cylinders.to_bytes(2, "little"))
    table += bytes((logical.heads & 0xFF, 0xA0, physical.sectors)) + b"\xff\xff" + bytes((0, control))
    table += physical.cylinders.to_bytes(2, "little") + bytes((physical.heads, 0, 0, logical.sectors))
    table.append(-sum(table) & 0xFF)
    return bytes(table)
