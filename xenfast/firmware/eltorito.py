"""Booting from CD-ROM, and INT 13h functions 4Ah to 4Dh: "El Torito" Bootable CD-ROM Format Specification 1.0.

A boot entry either is loaded and run as it is (no emulation), or its sectors play a diskette or a disk while it boots.  Of the
catalog, the initial entry counts; where it is for another platform than a PC (EFI), the first section for one does.
"""

from dataclasses import dataclass
from struct import pack

from xenfast.devices.drive import Geometry
from xenfast.firmware.drives import CD_SECTOR, CDROM, DISK, FIRST, FLOPPY, SECTOR, BiosDrive
from xenfast.firmware.int13 import BAD_COMMAND, CONTROLLER, IN_USE, DiskError, Int13, into_memory
from xenfast.firmware.traps import Call

BOOT_RECORD = 17                    # sector of the boot record volume descriptor
SYSTEM_ID = b"EL TORITO SPECIFICATION"
X86 = 0
NO_EMULATION, EMULATED_DISK = 0, 4
FLOPPY_MEDIA = {1: (2400, Geometry(80, 2, 15), 2), 2: (2880, Geometry(80, 2, 18), 4), 3: (5760, Geometry(80, 2, 36), 5)}
PACKET_SIZE = 0x13
MAX_CATALOG = 16                    # sectors of 2048 bytes


@dataclass
class Entry:
    """A boot entry of the catalog (figure 3 of the specification)."""

    media: int
    segment: int
    system: int
    count: int          # sectors of 512 bytes to load
    lba: int            # of the CD-ROM


class NotBootable(Exception):
    """Why a CD-ROM does not boot, in a few words."""


def find_entry(drive: BiosDrive) -> Entry:
    """The entry to boot."""
    if not drive.ready:
        raise NotBootable("no disc")
    try:
        record = bytes(drive.read(BOOT_RECORD, 1))
        if record[:6] != b"\0CD001" or not record[7:].startswith(SYSTEM_ID):
            raise NotBootable("not a bootable disc")
        at = int.from_bytes(record[0x47:0x4B], "little")
        catalog = bytes(drive.read(at, min(MAX_CATALOG, max(1, drive.sectors - at))))
    except OSError:
        raise NotBootable("cannot be read") from None
    return parse_catalog(catalog)


def parse_catalog(catalog: bytes) -> Entry:
    validation = catalog[:32]
    words = sum(int.from_bytes(validation[i:i + 2], "little") for i in range(0, 32, 2))
    if validation[0] != 1 or validation[30:32] != b"\x55\xAA" or words & 0xFFFF:
        raise NotBootable("the boot catalog is damaged")
    if validation[1] == X86 and catalog[32] == 0x88:
        return parse_entry(catalog[32:64])
    at = 64
    while at + 32 <= len(catalog) and catalog[at] in (0x90, 0x91):        # section headers
        platform, entries = catalog[at + 1], int.from_bytes(catalog[at + 2:at + 4], "little")
        last = catalog[at] == 0x91
        at += 32
        for _ in range(entries):
            while at + 32 <= len(catalog) and catalog[at] == 0x44:      # extensions of the entry before
                at += 32
            if at + 32 > len(catalog):
                break
            if platform == X86 and catalog[at] == 0x88:
                return parse_entry(catalog[at:at + 32])
            at += 32
        if last:
            break
    raise NotBootable("nothing on the disc is for a PC")


def parse_entry(raw: bytes) -> Entry:
    entry = Entry(raw[1] & 15, int.from_bytes(raw[2:4], "little") or 0x7C0, raw[4], int.from_bytes(raw[6:8], "little"),
                  int.from_bytes(raw[8:12], "little"))
    if entry.media > EMULATED_DISK:
        raise NotBootable(f"it emulates a medium of unknown type {entry.media}")
    return entry


class ElTorito:
    """CD-ROMs that boot, and the state of the emulation."""

    def __init__(self, int13: Int13) -> None:
        self.int13, self.drives = int13, int13.drives
        self.cdrom: BiosDrive | None = None
        self.entry: Entry | None = None
        int13.extensions |= {0x4A: self.initiate, 0x4B: self.terminate, 0x4C: self.boot, 0x4D: self.catalog}

    def prepare(self, cdrom: BiosDrive) -> tuple[int, Entry]:
        """Make a disc the one that boots; the number of its drive, and what to load.  NotBootable says why not."""
        self.drives.stop_emulation()
        entry = find_entry(cdrom)
        self.cdrom, self.entry = cdrom, entry
        if entry.media == NO_EMULATION:
            return FIRST[CDROM] + self.drives.of[CDROM].index(cdrom), entry
        self.resume()
        return self.drives.emulation_number, entry

    def resume(self) -> None:
        """Emulate what the entry of the disc describes."""
        assert self.cdrom is not None and self.entry is not None
        number = FIRST[DISK] if self.entry.media == EMULATED_DISK else FIRST[FLOPPY]
        self.drives.start_emulation(emulated_drive(self.cdrom, self.entry), number)

    def load(self, call: Call, entry: Entry) -> None:
        """The sectors of the entry to where it wants them; DiskError where that fails."""
        assert self.cdrom is not None
        count = entry.count or 1
        if entry.media != NO_EMULATION:
            count = 1
        sectors = min(-(-count // (CD_SECTOR // SECTOR)), max(1, self.cdrom.sectors - entry.lba))
        try:
            data = bytes(self.cdrom.read(entry.lba, sectors))[:count * SECTOR]
        except OSError:
            raise DiskError(CONTROLLER) from None
        call.mem.write(entry.segment << 4, data)

    # --- INT 13h -----------------------------------------------------------------------------------------------------
    def packet(self, call: Call) -> bytes:
        """The specification packet (4.2 of the specification) of the disc that has booted."""
        if self.cdrom is None or self.entry is None:
            raise DiskError(BAD_COMMAND)
        entry, emulation = self.entry, self.drives.emulation
        number = self.drives.emulation_number if emulation else FIRST[CDROM] + self.drives.of[CDROM].index(self.cdrom)
        geometry = emulation.geometry if emulation else Geometry(1, 1, 0)
        cylinder = geometry.cylinders - 1
        head = pack("<BBBBI4H", PACKET_SIZE, entry.media, number, self.cdrom.channel & 0xFF, entry.lba, self.cdrom.unit, 0, entry.segment,
                    entry.count)
        return head + bytes((cylinder & 0xFF, geometry.sectors & 0x3F | cylinder >> 2 & 0xC0, geometry.heads - 1 & 0xFF))

    def write_packet(self, call: Call) -> None:
        call.mem.write(call.linear("ds", call.si), self.packet(call))

    def initiate(self, call: Call) -> None:
        """4Ah: emulate what the packet at DS:SI describes, without booting it."""
        self._begin(call)
        self.int13.finish(call, call.dl)

    def _begin(self, call: Call) -> Entry:
        raw = call.mem.read(call.linear("ds", call.si), PACKET_SIZE)
        if raw[0] < PACKET_SIZE or raw[1] & 15 > EMULATED_DISK:
            raise DiskError(BAD_COMMAND)
        cdroms = self.drives.of[CDROM]
        drive = next((d for d in cdroms if (d.channel & 0xFF, d.unit) == (raw[3], raw[8] & 1)), None)
        if drive is None or not drive.ready:
            raise DiskError(BAD_COMMAND)
        if self.drives.emulation is not None:
            raise DiskError(IN_USE)
        entry = Entry(raw[1] & 15, int.from_bytes(raw[12:14], "little") or 0x7C0, 0, int.from_bytes(raw[14:16], "little") or 1,
                      int.from_bytes(raw[4:8], "little"))
        self.cdrom, self.entry = drive, entry
        if entry.media != NO_EMULATION:
            try:
                self.resume()
            except NotBootable:
                raise DiskError(CONTROLLER) from None
        return entry

    def terminate(self, call: Call) -> None:
        """4Bh: the packet of what is emulated, and, with AL = 0, the end of it."""
        self.write_packet(call)
        if call.al == 0:
            if self.drives.emulation is None:
                raise DiskError(BAD_COMMAND)
            self.drives.stop_emulation()
        elif call.al != 1:
            raise DiskError(BAD_COMMAND)
        self.int13.finish(call, call.dl)

    def boot(self, call: Call) -> None:
        """4Ch: emulate, load, and start."""
        entry = self._begin(call)
        self.load(call, entry)
        call.dl = self.packet(call)[2]
        call.jump(0, entry.segment << 4 & 0xFFFF) if entry.segment < 0x1000 else call.jump(entry.segment, 0)

    def catalog(self, call: Call) -> None:
        """4Dh: sectors of the boot catalog, by the packet at DS:SI (4.3 of the specification)."""
        raw = call.mem.read(call.linear("ds", call.si), 8)
        if self.cdrom is None or raw[0] < 8:
            raise DiskError(BAD_COMMAND)
        count, first = raw[1], int.from_bytes(raw[6:8], "little")
        try:
            at = int.from_bytes(bytes(self.cdrom.read(BOOT_RECORD, 1))[0x47:0x4B], "little")
        except OSError:
            raise DiskError(CONTROLLER) from None
        into_memory(call, self.cdrom, at + first, count, int.from_bytes(raw[2:6], "little") & 0xFFFFFFFF)
        self.int13.finish(call, call.dl)


def emulated_drive(cdrom: BiosDrive, entry: Entry) -> BiosDrive:
    """The sectors of an entry as a drive."""
    first = entry.lba * (CD_SECTOR // SECTOR)
    available = cdrom.drive.size_sectors - first
    if available <= 0:
        raise NotBootable("the boot image is beyond the end of the disc")
    if entry.media in FLOPPY_MEDIA:
        count, geometry, cmos_type = FLOPPY_MEDIA[entry.media]
        return BiosDrive(cdrom.drive, FLOPPY, geometry, cmos_type, first=first, count=min(count, available), emulated=True)
    try:
        mbr = bytes(cdrom.drive.read(first * SECTOR, SECTOR))
    except OSError:
        raise NotBootable("cannot be read") from None
    partition = mbr[446:462]            # the image's one partition says how large it is (1.0, 2.2)
    heads, sectors = partition[5] + 1, partition[6] & 0x3F
    cylinders = (partition[7] | (partition[6] & 0xC0) << 2) + 1
    if mbr[510:512] != b"\x55\xAA" or not sectors:
        raise NotBootable("the disk image on it has no partition table")
    geometry = Geometry(cylinders, heads, sectors)
    return BiosDrive(cdrom.drive, DISK, geometry, first=first, count=min(geometry.size, available), emulated=True)
