"""INT 13h, functions 41h to 4Eh: Enhanced Disk Drive Specification 3.0 (Phoenix; T13 1226DT for the device path).

Disks and CD-ROMs by sector number, locks, ejection, and what a loader may know of where a drive hangs.
"""

from dataclasses import dataclass
from typing import Any

from xenfast.devices.drive import default_geometry
from xenfast.firmware.bda import ebda
from xenfast.firmware.drives import CDROM, DISK, BiosDrive
from xenfast.firmware.int13 import (
    BAD_COMMAND,
    CHANGED,
    EJECT_FAILED,
    IN_USE,
    LOCK_COUNT,
    LOCKED,
    NOT_FOUND,
    NOT_LOCKED,
    NOT_READY,
    NOT_REMOVABLE,
    DiskError,
    Int13,
    check_medium,
    check_writable,
    from_memory,
    into_memory,
)
from xenfast.firmware.traps import Call

VERSION = 0x30
ACCESS, LOCKING, EDD, SIXTY_FOUR_BIT = 1, 2, 4, 8       # 41h, CX
DMA_BOUNDARY, GEOMETRY_VALID, REMOVABLE, VERIFIES, CHANGE_LINE, LOCKABLE, NO_MEDIUM_GEOMETRY = 1, 2, 4, 8, 16, 32, 64   # 48h, flags
MAX_BLOCKS = 0x7FFF
FLAT = 0xFFFFFFFF           # a buffer pointer that says: the address is behind the packet
IDE_PORTS = {0: (0x1F0, 0x3F4, 14), 1: (0x170, 0x374, 15)}


@dataclass
class Packet:
    """The disk address packet at DS:SI (EDD 3.0, table 1)."""

    count: int
    linear: int
    lba: int
    at: int

    @classmethod
    def read(cls, call: Call) -> "Packet":
        at = call.linear("ds", call.si)
        raw = call.mem.read(at, 24)
        if raw[0] < 16:
            raise DiskError(BAD_COMMAND)
        count, pointer = int.from_bytes(raw[2:4], "little"), int.from_bytes(raw[4:8], "little")
        linear = call.far(pointer)
        if pointer == FLAT and raw[0] >= 24:
            linear = int.from_bytes(raw[16:24], "little")
            if linear >> 32:
                raise DiskError(BAD_COMMAND)
        return cls(count, linear, int.from_bytes(raw[8:16], "little"), at)

    def done(self, call: Call, count: int) -> None:
        call.mem.write_int(self.at + 2, 2, count)


class Edd:
    """The extensions of one ``Int13``."""

    def __init__(self, int13: Int13) -> None:
        self.int13 = int13
        int13.extensions |= {
            0x41: self.present, 0x42: self.read, 0x43: self.write, 0x44: self.verify, 0x45: self.lock, 0x46: self.eject,
            0x47: self.seek, 0x48: self.parameters, 0x49: self.changed, 0x4E: self.configure,
        }   # fmt: skip

    def drive(self, call: Call) -> BiosDrive:
        """Diskettes are not reached this way."""
        drive = self.int13.drives.get(call.dl)
        if drive is None or call.dl < 0x80:
            raise DiskError(BAD_COMMAND)
        return drive

    def present(self, call: Call) -> None:
        drive = self.drive(call)
        if call.bx != 0x55AA:
            raise DiskError(BAD_COMMAND)
        call.bx = 0xAA55
        call.cx = ACCESS | EDD | SIXTY_FOUR_BIT | (LOCKING if drive.removable else 0)
        self.int13.finish(call, call.dl)
        call.ah = VERSION

    def _range(self, call: Call, transfer: bool = True) -> tuple[BiosDrive, Packet]:
        drive, packet = self.drive(call), Packet.read(call)
        check_medium(drive)
        if packet.count > MAX_BLOCKS or (transfer and not packet.count):
            packet.done(call, 0)
            raise DiskError(BAD_COMMAND)
        if packet.lba + packet.count > drive.sectors or packet.lba >= drive.sectors:
            packet.done(call, 0)
            raise DiskError(NOT_FOUND)
        return drive, packet

    def read(self, call: Call) -> None:
        drive, packet = self._range(call)
        try:
            into_memory(call, drive, packet.lba, packet.count, packet.linear)
        except DiskError:
            packet.done(call, 0)
            raise
        self.int13.finish(call, call.dl)

    def write(self, call: Call) -> None:
        if call.al > 2:
            raise DiskError(BAD_COMMAND)
        drive, packet = self._range(call)
        try:
            check_writable(drive)
            from_memory(call, drive, packet.lba, packet.count, packet.linear)
        except DiskError:
            packet.done(call, 0)
            raise
        self.int13.finish(call, call.dl)

    def verify(self, call: Call) -> None:
        self._range(call)
        self.int13.finish(call, call.dl)

    def seek(self, call: Call) -> None:
        self._range(call, transfer=False)
        self.int13.finish(call, call.dl)

    # --- removable media ---------------------------------------------------------------------------------------------
    def lock(self, call: Call) -> None:
        drive, action = self.drive(call), call.al
        if not drive.removable:
            raise DiskError(NOT_REMOVABLE)
        if action == 0:
            if drive.locks == 255:
                raise DiskError(LOCK_COUNT)
            drive.locks += 1
        elif action == 1:
            if not drive.locks:
                raise DiskError(NOT_LOCKED)
            drive.locks -= 1
        elif action != 2:
            raise DiskError(BAD_COMMAND)
        drive.drive.locked = bool(drive.locks)
        call.al = int(drive.locks > 0)
        self.int13.finish(call, call.dl)

    def eject(self, call: Call) -> None:
        drive = self.drive(call)
        if not drive.removable:
            raise DiskError(NOT_REMOVABLE)
        if drive.locks:
            raise DiskError(LOCKED)
        if drive.emulated:
            raise DiskError(IN_USE)
        if not drive.ready:
            raise DiskError(EJECT_FAILED)
        drive.drive.set_tray(True)
        self.int13.finish(call, call.dl)

    def changed(self, call: Call) -> None:
        drive = self.drive(call)
        if drive.removable and not drive.ready:
            raise DiskError(NOT_READY)
        if drive.removable and not drive.emulated and drive.take_change():
            raise DiskError(CHANGED)
        self.int13.finish(call, call.dl)

    # --- what a drive is ---------------------------------------------------------------------------------------------
    def parameters(self, call: Call) -> None:
        """48h: as much of the result as the caller's buffer holds."""
        drive = self.drive(call)
        at = call.linear("ds", call.si)
        size = call.mem.read_int(at, 2)
        if size < 26:
            raise DiskError(BAD_COMMAND)
        result = self._basic(drive)
        if size >= 30 and drive.kind == DISK and not drive.emulated:
            pointer = self._extension(call, drive)
            result += pointer.to_bytes(4, "little")
        elif size >= 30:
            result += b"\xff" * 4
        if size >= 66 and not drive.emulated:
            result += device_path(drive)
        result = result[:size]
        call.mem.write(at, len(result).to_bytes(2, "little") + result[2:])
        self.int13.finish(call, call.dl)

    def _basic(self, drive: BiosDrive) -> bytes:
        flags = 0
        chs = (0xFFFFFFFF,) * 3
        sectors = drive.sectors
        if drive.kind == DISK or drive.emulated:
            flags |= GEOMETRY_VALID
            geometry = default_geometry(sectors) if not drive.emulated else drive.geometry
            chs = (geometry.cylinders, geometry.heads, geometry.sectors)
        if drive.kind == CDROM and not drive.emulated:
            flags |= REMOVABLE | CHANGE_LINE | LOCKABLE
            if not drive.ready:
                flags |= NO_MEDIUM_GEOMETRY
                sectors = (1 << 64) - 1
        return b"".join((
            bytes(2), flags.to_bytes(2, "little"), *(n.to_bytes(4, "little") for n in chs), sectors.to_bytes(8, "little"),
            drive.sector_size.to_bytes(2, "little"),
        ))   # fmt: skip

    def _extension(self, call: Call, drive: BiosDrive) -> int:
        """Put the device parameter table extension (EDD 3.0, table 5) in the EBDA; a far pointer to it."""
        base, control, irq = IDE_PORTS.get(drive.channel, (0, 0, 0))
        area = ebda(call.mem)
        options = 1 << 4 | (1 << 3 if drive.geometry != default_geometry(drive.sectors) else 0)     # LBA; translated
        table = base.to_bytes(2, "little") + control.to_bytes(2, "little")
        table += bytes((0xE0 | (drive.unit & 1) << 4, 0xCB, irq, 1, 0, 0)) + options.to_bytes(2, "little") + bytes(2) + bytes((0x11,))
        call.mem.write(area.address("dpte"), table + bytes((-sum(table) & 0xFF,)))
        segment = area.address("dpte") >> 4
        return segment << 16 | area.address("dpte") & 15

    def configure(self, call: Call) -> None:
        """4Eh: prefetch, PIO and DMA modes: as good as they get already."""
        self.drive(call)
        if call.al > 6:
            raise DiskError(BAD_COMMAND)
        if call.al in (0, 2, 4, 5):
            call.al = 0                     # the setting concerns this drive only
        self.int13.finish(call, call.dl)


def device_path(drive: BiosDrive) -> bytes:
    """Which bus, which interface, which device (T13 1226DT, 8.21.6): 36 bytes."""
    info: dict[str, Any] = drive.info
    interface = str(info.get("interface", "ATAPI" if drive.kind == CDROM else "ATA")).encode().ljust(8)[:8]
    bus, device, function = info.get("pci", (0, 1, 1))
    where = bytes((bus, device, function, drive.channel & 0xFF)) + bytes(4)
    path = b"\xdd\xbe" + bytes((36, 0, 0, 0)) + b"PCI " + interface + where + bytes((drive.unit & 1,)) + bytes(7) + bytes(2)
    return path[:35] + bytes((-sum(path[:35]) & 0xFF,))
