"""INT 13h and 40h: diskettes and disks, by cylinder, head and sector; what goes by sector number is in edd.py.

Functions as the IBM PS/2 and Personal Computer BIOS Interface Technical Reference and Ralf Brown's list have them.  Data goes
straight between the image of the drive and the guest's memory, so a call never waits.  Left out: read and write long (0Ah, 0Bh),
which no drive of this century has.
"""

import logging
from typing import Any

from xenfast.devices.drive import Geometry
from xenfast.firmware.bda import VECTOR_DPT, Area, vector
from xenfast.firmware.bios_rom import DISKETTE_TABLE, SEGMENT
from xenfast.firmware.drives import CDROM, DISK, FLOPPIES, FLOPPY, SECTOR, BiosDrive, Drives
from xenfast.firmware.traps import PG, Call

log = logging.getLogger("xenfast")

# status (AH)
OK, BAD_COMMAND, BAD_MARK, WRITE_PROTECTED, NOT_FOUND, RESET_FAILED, CHANGED = 0x00, 0x01, 0x02, 0x03, 0x04, 0x05, 0x06
PARAMETERS_FAILED, OUT_OF_RANGE, NO_MEDIA_FORMAT, CONTROLLER, TIMEOUT, NOT_READY = 0x07, 0x0D, 0x0C, 0x20, 0x80, 0xAA
NOT_LOCKED, LOCKED, NOT_REMOVABLE, IN_USE, LOCK_COUNT, EJECT_FAILED = 0xB0, 0xB1, 0xB2, 0xB3, 0xB4, 0xB5
MAX_SECTORS = 128               # 64 KiB in one call of 02h to 04h


class DiskError(Exception):
    """A request ends with this status."""

    def __init__(self, status: int) -> None:
        self.status = status


def check_medium(drive: BiosDrive) -> None:
    """Is there something to read, and has it been changed since?"""
    if not drive.ready:
        raise DiskError(TIMEOUT if drive.kind == FLOPPY else NOT_READY)
    if drive.kind == FLOPPY and not drive.emulated and drive.take_change():
        raise DiskError(CHANGED)


def check_writable(drive: BiosDrive) -> None:
    if drive.readonly:
        raise DiskError(WRITE_PROTECTED)


def into_memory(call: Call, drive: BiosDrive, lba: int, count: int, linear: int) -> None:
    """Read sectors to a linear address, without a copy where that is plain memory."""
    size = count * drive.sector_size
    try:
        if call.cpu.cr0 & PG or (linear < 0xC0000 and linear + size > 0xA0000):
            call.mem.write(linear, drive.read(lba, count))
        else:
            drive.readv(lba, call.hvm.physmem.views(linear, size))
            call.hvm.physmem.wrote(linear, size)
    except OSError:
        raise DiskError(CONTROLLER) from None


def from_memory(call: Call, drive: BiosDrive, lba: int, count: int, linear: int) -> None:
    try:
        drive.write(lba, call.mem.read(linear, count * drive.sector_size))
    except OSError:
        raise DiskError(CONTROLLER) from None


class Int13:
    """The functions by number; ``extensions`` has those of edd.py and eltorito.py, given by whoever makes the BIOS."""

    def __init__(self, drives: Drives) -> None:
        self.drives = drives
        self.extensions: dict[int, Any] = {}
        self.functions = {
            0x00: self.reset, 0x01: self.status, 0x02: self.read, 0x03: self.write, 0x04: self.verify, 0x05: self.format_track,
            0x06: self.format_track, 0x07: self.format_drive, 0x08: self.parameters, 0x09: self.ready_now, 0x0C: self.seek,
            0x0D: self.reset, 0x10: self.ready, 0x11: self.ready_now, 0x14: self.ready_now, 0x15: self.type,
            0x16: self.changed, 0x17: self.set_type, 0x18: self.set_media,
        }   # fmt: skip

    # --- the interrupt -----------------------------------------------------------------------------------------------
    def int13(self, call: Call) -> None:
        number, function = call.dl, call.ah
        try:
            if function in self.extensions:
                self.extensions[function](call)
                return
            handler = self.functions.get(function)
            if handler is None or (number < 0x80 and function in (0x09, 0x0D, 0x10, 0x11, 0x14)):
                raise DiskError(BAD_COMMAND)
            if number >= 0x80 and function in (0x16, 0x17, 0x18):
                raise DiskError(BAD_COMMAND)
            handler(call)
        except DiskError as error:
            self.finish(call, number, error.status)

    def finish(self, call: Call, number: int, status: int = OK) -> None:
        """AH, CF and the status in the BIOS data area."""
        call.ah, call.cf = status, status != OK
        bda = Area(call.mem)
        if number < 0x80:
            bda.fdd_status = status
        else:
            bda.hdd_status = status

    def drive(self, call: Call) -> BiosDrive:
        drive = self.drives.get(call.dl)
        if drive is None:
            raise DiskError(TIMEOUT if call.dl < 0x80 else BAD_COMMAND)
        return drive

    # --- transfers ---------------------------------------------------------------------------------------------------
    def _range(self, call: Call) -> tuple[BiosDrive, int, int]:
        """The drive, first sector and count of 02h, 03h and 04h."""
        drive, count = self.drive(call), call.al
        if (drive.kind == CDROM and not drive.emulated) or not 1 <= count <= MAX_SECTORS:
            raise DiskError(BAD_COMMAND)
        check_medium(drive)
        cylinder, head, sector = call.ch | (call.cl & 0xC0) << 2, call.dh, call.cl & 0x3F
        lba = drive.geometry.lba(cylinder, head, sector)
        if lba is None or cylinder >= max(drive.geometry.cylinders, 1024 if drive.kind == DISK else 0) or lba + count > drive.sectors:
            raise DiskError(NOT_FOUND if drive.kind == FLOPPY else BAD_COMMAND if lba is None else NOT_FOUND)
        return drive, lba, count

    def read(self, call: Call) -> None:
        count = call.al
        try:
            drive, lba, count = self._range(call)
            into_memory(call, drive, lba, count, call.linear("es", call.bx))
        except DiskError:
            call.al = 0
            raise
        self.finish(call, call.dl)

    def write(self, call: Call) -> None:
        try:
            drive, lba, count = self._range(call)
            check_writable(drive)
            from_memory(call, drive, lba, count, call.linear("es", call.bx))
        except DiskError:
            call.al = 0
            raise
        self.finish(call, call.dl)

    def verify(self, call: Call) -> None:
        self._range(call)
        self.finish(call, call.dl)

    def format_track(self, call: Call) -> None:
        """A track gets the fill byte of the diskette parameters; the sector marks that ES:BX lists are as they always are."""
        drive = self.drive(call)
        check_medium(drive)
        check_writable(drive)
        cylinder, head = call.ch | (call.cl & 0xC0) << 2 if drive.kind == DISK else call.ch, call.dh
        first = drive.geometry.lba(cylinder, head, 1)
        if first is None or cylinder >= drive.geometry.cylinders or first + drive.geometry.sectors > drive.sectors:
            raise DiskError(NOT_FOUND)
        fill = call.mem.read(call.far(vector(call.mem, VECTOR_DPT)) + 8, 1) if drive.kind == FLOPPY else b"\0"
        try:
            drive.write(first, fill * (drive.geometry.sectors * SECTOR))
        except OSError:
            raise DiskError(CONTROLLER) from None
        self.finish(call, call.dl)

    def format_drive(self, call: Call) -> None:
        raise DiskError(BAD_COMMAND)        # of the XT's controller

    # --- state -------------------------------------------------------------------------------------------------------
    def reset(self, call: Call) -> None:
        """All diskettes, and from 80h on the disk, too.  A diskette drive that is not there resets as well as one that is."""
        if call.dl >= 0x80:
            self.drive(call)
        self.finish(call, call.dl)

    def status(self, call: Call) -> None:
        """Of the last request: in AH, as newer BIOSes have it, and in AL, as the XT's did."""
        bda = Area(call.mem)
        status = bda.fdd_status if call.dl < 0x80 else bda.hdd_status
        call.al = call.ah = status
        call.cf = status != OK

    def ready(self, call: Call) -> None:
        if not self.drive(call).ready:
            raise DiskError(NOT_READY)
        self.finish(call, call.dl)

    def ready_now(self, call: Call) -> None:
        """Initialise, recalibrate, diagnose: nothing to do for a drive that is there."""
        self.drive(call)
        self.finish(call, call.dl)

    def seek(self, call: Call) -> None:
        drive = self.drive(call)
        if drive.kind == DISK and (call.ch | (call.cl & 0xC0) << 2) >= max(drive.geometry.cylinders, 1):
            raise DiskError(NOT_FOUND)
        self.finish(call, call.dl)

    def parameters(self, call: Call) -> None:
        """08h: the geometry."""
        number, kind = call.dl, FLOPPY if call.dl < 0x80 else DISK
        drive = self.drives.get(number)
        if drive is None or (drive.kind == CDROM and not drive.emulated):
            call.cx = call.dx = 0
            call.dl = self.drives.count(kind)
            raise DiskError(BAD_COMMAND if kind == FLOPPY else PARAMETERS_FAILED)
        geometry = drive.geometry
        last = max(0, min(geometry.cylinders, 1024) - 1)
        call.al = 0
        call.ch, call.cl = last & 0xFF, geometry.sectors & 0x3F | last >> 2 & 0xC0
        call.dh, call.dl = min(geometry.heads - 1, 255), self.drives.count(kind)
        if kind == FLOPPY:
            call.bx = drive.cmos_type or 4
            table = vector(call.mem, VECTOR_DPT)
            call.es, call.di = table >> 16, table & 0xFFFF
        self.finish(call, number)

    def type(self, call: Call) -> None:
        """15h: what kind of drive; AH is not a status."""
        drive = self.drives.get(call.dl)
        call.cf = False
        if drive is None or (drive.kind == CDROM and not drive.emulated):
            call.ah = 0
            if call.dl >= 0x80:
                call.cx = call.dx = 0
        elif call.dl < 0x80:
            call.ah = 2                     # a diskette drive that knows when its medium is changed
        else:
            sectors = min(drive.geometry.size, 0xFFFFFFFF)
            call.ah, call.cx, call.dx = 3, sectors >> 16, sectors
        Area(call.mem).hdd_status = OK

    def changed(self, call: Call) -> None:
        """16h: has the diskette been changed?"""
        drive = self.drive(call)
        if not drive.ready:
            raise DiskError(TIMEOUT)
        if drive.take_change():
            raise DiskError(CHANGED)
        self.finish(call, call.dl)

    def set_type(self, call: Call) -> None:
        """17h: the medium that is to be formatted; the image says what it is."""
        self.drive(call)
        if not 1 <= call.al <= 4:
            raise DiskError(BAD_COMMAND)
        self.finish(call, call.dl)

    def set_media(self, call: Call) -> None:
        """18h: tracks and sectors a track to format; ES:DI is a table of parameters for it."""
        drive = self.drive(call)
        tracks, sectors = (call.ch | (call.cl & 0xC0) << 2) + 1, call.cl & 0x3F
        if not drive.ready:
            raise DiskError(TIMEOUT)
        known = [geometry for geometry, _ in FLOPPIES.values()]
        if Geometry(tracks, drive.geometry.heads, sectors) not in known or tracks * drive.geometry.heads * sectors > drive.sectors:
            raise DiskError(NO_MEDIA_FORMAT)
        call.es, call.di = SEGMENT, DISKETTE_TABLE
        self.finish(call, call.dl)
