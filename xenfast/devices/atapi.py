"""ATAPI CD-ROM and DVD-ROM drives: packet commands of SFF-8020i and MMC-3 (T10 1363D), with the task file of ata.py.

A packet is 12 bytes of command descriptor block; its data goes to the host in blocks of at most what the host has put in
the Byte Count register (LBA Mid and High).  An error is a sense key and code in the Error register and in REQUEST SENSE.

The disc is one data track of 2,048-byte blocks: an ISO image.  What holds more than a CD (90 minutes) is a DVD-ROM.
Left out: audio, multisession, writing, CSS.
"""

from xenfast.devices import ata_data, atapi_pages
from xenfast.devices.ata import (
    ABRT,
    DEVICE_RESET,
    DRDY,
    DSC,
    ERR,
    EXECUTE_DEVICE_DIAGNOSTIC,
    IDENTIFY_PACKET_DEVICE,
    PACKET,
    AtaDevice,
    AtaError,
    Command,
    Transfer,
)
from xenfast.devices.drive import Drive

BLOCK = 2048
CDB_SIZE = 12
RAW_BLOCK = 2352

# Interrupt Reason register (Sector Count)
COMMAND_DATA, IO = 1, 2
# Feature register of PACKET
FEATURE_DMA = 1

# Sense keys; additional sense code and qualifier (MMC-3, annex F)
NO_SENSE, NOT_READY, MEDIUM_ERROR, HARDWARE_ERROR, ILLEGAL_REQUEST, UNIT_ATTENTION = 0x0, 0x2, 0x3, 0x4, 0x5, 0x6
MEDIUM_NOT_PRESENT, TRAY_OPEN = 0x3A00, 0x3A02
UNRECOVERED_READ_ERROR = 0x1100
INVALID_OPCODE, LBA_OUT_OF_RANGE, INVALID_FIELD, INVALID_FIELD_IN_PARAMETERS = 0x2000, 0x2100, 0x2400, 0x2600
SAVING_NOT_SUPPORTED, ILLEGAL_MODE, REMOVAL_PREVENTED = 0x3900, 0x6400, 0x5302
MEDIUM_CHANGED = 0x2800


class Sense(AtaError):
    """CHECK CONDITION."""

    def __init__(self, key: int, code: int) -> None:
        super().__init__(key << 4 | (ABRT if key == ILLEGAL_REQUEST else 0))
        self.key, self.code = key, code


# Opcode: (name, method, needs a medium, goes ahead of a unit attention)
PACKETS = {
    0x00: ("TEST UNIT READY", "test_unit_ready", True, False),
    0x03: ("REQUEST SENSE", "request_sense", False, True),
    0x12: ("INQUIRY", "inquiry", False, True),
    0x15: ("MODE SELECT(6)", "mode_select", False, False),
    0x1A: ("MODE SENSE(6)", "mode_sense", False, False),
    0x1B: ("START STOP UNIT", "start_stop", False, False),
    0x1E: ("PREVENT ALLOW MEDIUM REMOVAL", "prevent_allow", False, False),
    0x25: ("READ CAPACITY", "read_capacity", True, False),
    0x28: ("READ(10)", "read", True, False),
    0x2B: ("SEEK", "seek", True, False),
    0x2F: ("VERIFY(10)", "verify", True, False),
    0x35: ("SYNCHRONIZE CACHE", "test_unit_ready", True, False),
    0x42: ("READ SUB-CHANNEL", "read_sub_channel", True, False),
    0x43: ("READ TOC/PMA/ATIP", "read_toc", True, False),
    0x44: ("READ HEADER", "read_header", True, False),
    0x46: ("GET CONFIGURATION", "get_configuration", False, True),
    0x4A: ("GET EVENT STATUS NOTIFICATION", "get_event_status", False, True),
    0x4E: ("STOP PLAY/SCAN", "test_unit_ready", True, False),
    0x51: ("READ DISC INFORMATION", "read_disc_information", True, False),
    0x52: ("READ TRACK INFORMATION", "read_track_information", True, False),
    0x55: ("MODE SELECT(10)", "mode_select", False, False),
    0x5A: ("MODE SENSE(10)", "mode_sense", False, False),
    0xA8: ("READ(12)", "read", True, False),
    0xAD: ("READ DVD STRUCTURE", "read_dvd_structure", True, False),
    0xB9: ("READ CD MSF", "read_cd_msf", True, False),
    0xBB: ("SET CD SPEED", "set_speed", False, False),
    0xBD: ("MECHANISM STATUS", "mechanism_status", False, False),
    0xBE: ("READ CD", "read_cd", True, False),
}


def field(cdb: bytes, at: int, size: int) -> int:
    return int.from_bytes(cdb[at:at + size], "big")


class AtapiDrive(AtaDevice):
    """A CD-ROM drive."""

    commands = {
        DEVICE_RESET: Command("DEVICE RESET", "device_reset"),
        EXECUTE_DEVICE_DIAGNOSTIC: Command("EXECUTE DEVICE DIAGNOSTIC", "execute_diagnostic"),
        PACKET: Command("PACKET", "packet_command"),
        IDENTIFY_PACKET_DEVICE: Command("IDENTIFY PACKET DEVICE", "identify"),
        0x20: Command("READ SECTORS", "abort_with_signature"),
        0xE0: Command("STANDBY IMMEDIATE", "nothing"),
        0xE1: Command("IDLE IMMEDIATE", "nothing"),
        0xE2: Command("STANDBY", "nothing"),
        0xE3: Command("IDLE", "nothing"),
        0xE5: Command("CHECK POWER MODE", "check_power"),
        0xE6: Command("SLEEP", "nothing"),
        0xE7: Command("FLUSH CACHE", "nothing"),
        0xEC: Command("IDENTIFY DEVICE", "abort_with_signature"),
        0xEF: Command("SET FEATURES", "set_features"),
    }
    signature = (1, 1, 0x14, 0xEB)

    def __init__(self, drive: Drive, *, number: int = 0, sata: bool = False) -> None:
        self.sense = (NO_SENSE, 0)
        self.attention = False          # the medium may have changed: reported once
        self.event = 0                  # of GET EVENT STATUS NOTIFICATION: 2 new medium, 3 removed, 1 eject request
        super().__init__(drive, number=number, sata=sata)
        drive.on_change, drive.on_eject_request = self._medium_changed, self._eject_requested

    def reset(self) -> None:
        super().reset()
        self.sense = (NO_SENSE, 0)
        self.drive.locked = False

    def set_signature(self) -> None:
        super().set_signature()
        self.status = 0                 # DRDY comes with the first command (9.12)

    def _medium_changed(self) -> None:
        self.attention = self.drive.ready
        self.event = 2 if self.drive.ready else 3

    def _eject_requested(self) -> None:
        self.event = 1

    # --- ATA commands ------------------------------------------------------------------------------------------------
    def device_reset(self) -> None:
        self.sense = (NO_SENSE, 0)
        self.set_signature()

    def execute_diagnostic(self) -> None:
        self.set_signature()

    def abort_with_signature(self) -> None:
        """IDENTIFY DEVICE tells the host that this is no disk (8.15.5.2)."""
        self.count, self.lba_low, self.lba_mid, self.lba_high = self.signature
        raise AtaError(ABRT)

    def identify(self) -> Transfer:
        return self.from_memory(ata_data.identify_packet(self))

    def check_power(self) -> None:
        self.count = 0xFF

    def set_features(self) -> None:
        if self.feature == 0x03 and ata_data.valid_mode(self.count):
            self.transfer_mode = self.count
        elif self.feature not in (0x66, 0xCC):
            raise AtaError(ABRT)

    def packet_command(self) -> Transfer:
        """PACKET: take 12 bytes, then do what they say (8.23)."""
        if self.feature & 2:            # overlap
            raise AtaError(ABRT)
        self.count = COMMAND_DATA
        return Transfer(
            CDB_SIZE, to_host=False, data=bytearray(CDB_SIZE), block=CDB_SIZE, first_irq=False, then="packet_received",
            extra=(bool(self.feature & FEATURE_DMA), self.lba_high << 8 | self.lba_mid),
        )  # fmt: skip

    def packet_received(self, transfer: Transfer) -> Transfer | None:
        assert transfer.data is not None
        return self.packet(bytes(transfer.data), *transfer.extra)

    # --- packets -----------------------------------------------------------------------------------------------------
    def packet(self, cdb: bytes, dma: bool, limit: int = 0xFFFE) -> Transfer | None:
        """Do a packet command: the transfer of its data, or None when there is none."""
        self.status, self.error = DRDY | DSC, 0
        entry = PACKETS.get(cdb[0])
        try:
            if entry is None:
                raise Sense(ILLEGAL_REQUEST, INVALID_OPCODE)
            _, method, medium, ahead = entry
            if self.attention and not ahead:
                self.attention = False
                raise Sense(UNIT_ATTENTION, MEDIUM_CHANGED)
            if medium and not self.drive.ready:
                raise Sense(NOT_READY, TRAY_OPEN if self.drive.tray_open else MEDIUM_NOT_PRESENT)
            if cdb[0] != 0x03:
                self.sense = (NO_SENSE, 0)
            answer = getattr(self, method)(cdb)
        except Sense as sense:
            self._check_condition(sense)
            return None
        except OSError:
            self._check_condition(Sense(MEDIUM_ERROR, UNRECOVERED_READ_ERROR))
            return None
        if isinstance(answer, bytes):
            answer = self.from_memory(answer)
        if answer is None or not answer.size:
            self._end()
            return None
        limit &= 0xFFFE
        answer.dma, answer.block, answer.then = dma, limit or 0xFFFE, answer.then or "finished"
        return answer

    def finished(self, transfer: Transfer) -> None:
        self._end()

    def _end(self) -> None:
        self.status, self.error, self.count = DRDY | DSC, 0, COMMAND_DATA | IO

    def _check_condition(self, sense: Sense) -> None:
        self.sense = (sense.key, sense.code)
        self.error, self.status, self.count = sense.error, DRDY | DSC | ERR, COMMAND_DATA | IO

    def failed(self, transfer: Transfer, error: OSError) -> None:
        self._check_condition(Sense(MEDIUM_ERROR, UNRECOVERED_READ_ERROR))

    def complete(self, transfer: Transfer) -> Transfer | None:
        try:
            return super().complete(transfer)
        finally:
            if self.status & ERR:
                self.count = COMMAND_DATA | IO

    def end_with_error(self, error: int, fault: bool = False) -> None:
        super().end_with_error(error, fault)
        if self.command == PACKET:
            self.count = COMMAND_DATA | IO

    def begin_block(self, transfer: Transfer, size: int) -> None:
        if transfer.then == "packet_received":
            self.count = COMMAND_DATA
            return
        self.count = IO if transfer.to_host else 0
        self.lba_mid, self.lba_high = size & 0xFF, size >> 8

    @property
    def blocks(self) -> int:
        """Of 2,048 bytes."""
        return self.drive.size_sectors // 4

    def _range(self, lba: int, count: int) -> None:
        if lba + count > self.blocks:
            raise Sense(ILLEGAL_REQUEST, LBA_OUT_OF_RANGE)

    # --- reading -----------------------------------------------------------------------------------------------------
    def read(self, cdb: bytes) -> Transfer | None:
        lba, count = field(cdb, 2, 4), field(cdb, 6, 4) if cdb[0] == 0xA8 else field(cdb, 7, 2)
        return self._read_blocks(lba, count)

    def _read_blocks(self, lba: int, count: int) -> Transfer | None:
        self._range(lba, count)
        return Transfer(count * BLOCK, to_host=True, offset=lba * BLOCK) if count else None

    def read_cd(self, cdb: bytes) -> Transfer | None:
        return self._read_cd(field(cdb, 2, 4), field(cdb, 6, 3), cdb)

    def read_cd_msf(self, cdb: bytes) -> Transfer | None:
        start, end = atapi_pages.from_msf(cdb[3:6]), atapi_pages.from_msf(cdb[6:9])
        if start < 0 or end < start:
            raise Sense(ILLEGAL_REQUEST, INVALID_FIELD)
        return self._read_cd(start, end - start, cdb)

    def _read_cd(self, lba: int, count: int, cdb: bytes) -> Transfer | None:
        """READ CD: which parts of a block of 2,352 bytes (sync, headers, user data, EDC and ECC) the host wants."""
        if cdb[1] >> 2 & 7 not in (0, 2):                       # any sector type, or mode 1
            raise Sense(ILLEGAL_REQUEST, ILLEGAL_MODE)
        if cdb[10] & 7:                                         # sub-channel data
            raise Sense(ILLEGAL_REQUEST, INVALID_FIELD)
        self._range(lba, count)
        flags = cdb[9] & 0xF8
        if not count or not flags:
            return None
        if flags == 0x10:
            return self._read_blocks(lba, count)
        parts = atapi_pages.raw_parts(flags)
        if parts is None:
            raise Sense(ILLEGAL_REQUEST, INVALID_FIELD)
        low, high = parts
        return Transfer(count * (high - low), to_host=True, source=(lba, low, high))

    def produce(self, transfer: Transfer, at: int, size: int) -> bytes:
        """Raw blocks, or parts of them."""
        lba, low, high = transfer.source or (0, 0, RAW_BLOCK)
        each = high - low
        first, last = at // each, (at + size - 1) // each
        data = memoryview(self.drive.read((lba + first) * BLOCK, (last - first + 1) * BLOCK))
        made = b"".join(
            atapi_pages.raw_block(lba + first + n, bytes(data[n * BLOCK:(n + 1) * BLOCK]))[low:high] for n in range(last - first + 1)
        )
        at -= first * each
        return made[at:at + size]

    def seek(self, cdb: bytes) -> None:
        self._range(field(cdb, 2, 4), 1)

    def verify(self, cdb: bytes) -> None:
        lba, count = field(cdb, 2, 4), field(cdb, 7, 2)
        self._range(lba, count)
        for n in range(0, count, 512):
            self.drive.read((lba + n) * BLOCK, min(512, count - n) * BLOCK)

    def read_capacity(self, cdb: bytes) -> bytes:
        return (self.blocks - 1 & 0xFFFFFFFF).to_bytes(4, "big") + BLOCK.to_bytes(4, "big")

    # --- the drive ---------------------------------------------------------------------------------------------------
    def test_unit_ready(self, cdb: bytes) -> None:
        """The medium has been looked for already."""

    def request_sense(self, cdb: bytes) -> bytes:
        if self.attention:
            self.attention = False
            self.sense = (UNIT_ATTENTION, MEDIUM_CHANGED)
        key, code = self.sense
        self.sense = (NO_SENSE, 0)
        return (bytes([0x70, 0, key, 0, 0, 0, 0, 10, 0, 0, 0, 0]) + code.to_bytes(2, "big") + bytes(4))[:cdb[4]]

    def inquiry(self, cdb: bytes) -> bytes:
        if cdb[1] & 1:
            raise Sense(ILLEGAL_REQUEST, INVALID_FIELD)
        return atapi_pages.inquiry()[:cdb[4]]

    def start_stop(self, cdb: bytes) -> None:
        """LoEj and Start: 2 opens the tray, 3 closes it."""
        if cdb[4] & 2:
            opened = not cdb[4] & 1
            if opened and self.drive.locked:
                raise Sense(NOT_READY if not self.drive.ready else ILLEGAL_REQUEST, REMOVAL_PREVENTED)
            self.drive.set_tray(opened)

    def prevent_allow(self, cdb: bytes) -> None:
        self.drive.locked = bool(cdb[4] & 1)

    def set_speed(self, cdb: bytes) -> None:
        """As fast as the host is."""

    def mode_sense(self, cdb: bytes) -> bytes:
        if cdb[2] >> 6 == 3:
            raise Sense(ILLEGAL_REQUEST, SAVING_NOT_SUPPORTED)
        short = cdb[0] == 0x1A
        pages = atapi_pages.mode_pages(cdb[2] & 0x3F, self.drive.locked, changeable=cdb[2] >> 6 == 1)
        if pages is None:
            raise Sense(ILLEGAL_REQUEST, INVALID_FIELD)
        medium = 0x71 if self.drive.tray_open else 0x70 if not self.drive.ready else 0x01
        if short:
            return (bytes([3 + len(pages), medium, 0, 0]) + pages)[:cdb[4]]
        return ((6 + len(pages)).to_bytes(2, "big") + bytes([medium, 0, 0, 0, 0, 0]) + pages)[:field(cdb, 7, 2)]

    def mode_select(self, cdb: bytes) -> Transfer | None:
        """Pages are taken as long as they are those there are; none of their fields changes anything."""
        short = cdb[0] == 0x15
        size, header = (cdb[4], 4) if short else (field(cdb, 7, 2), 8)

        return Transfer(size, to_host=False, data=bytearray(size), then="mode_selected", extra=(header, short)) if size else None

    def mode_selected(self, transfer: Transfer) -> None:
        header, short = transfer.extra
        data = bytes(transfer.data or b"")
        at = header + (field(data, header - 1 if short else 6, 1 if short else 2) if len(data) >= header else 0)
        self._end()
        while at + 2 <= len(data):
            if atapi_pages.mode_pages(data[at] & 0x3F, False) is None:
                self._check_condition(Sense(ILLEGAL_REQUEST, INVALID_FIELD_IN_PARAMETERS))
                return
            at += 2 + data[at + 1]

    def mechanism_status(self, cdb: bytes) -> bytes:
        door = 0x10 if self.drive.tray_open else 0
        return bytes([0, door, 0, 0, 0, 0, 0, 0])[:field(cdb, 8, 2)]

    def get_event_status(self, cdb: bytes) -> bytes:
        """Polled only: operational and media events."""
        if not cdb[1] & 1:
            raise Sense(ILLEGAL_REQUEST, INVALID_FIELD)
        size = field(cdb, 7, 2)
        classes = 0x10
        if cdb[4] & classes:
            event, self.event = (self.event, 0) if size >= 8 else (0, self.event)
            status = (1 if self.drive.tray_open else 0) | (2 if self.drive.image is not None else 0)
            return bytes([0, 6, 4, classes, event, status, 0, 0])[:size]
        return bytes([0, 2, 0x80, classes])[:size]

    def get_configuration(self, cdb: bytes) -> bytes:
        data = atapi_pages.features(self._profile(), field(cdb, 2, 2), cdb[1] & 3, self.drive.locked)
        return data[:field(cdb, 7, 2)]

    def _profile(self) -> int:
        if not self.drive.ready:
            return 0
        return atapi_pages.DVD_ROM if self.blocks > atapi_pages.CD_MAX_BLOCKS else atapi_pages.CD_ROM

    # --- the disc ----------------------------------------------------------------------------------------------------
    def read_toc(self, cdb: bytes) -> bytes:
        form = cdb[2] & 15 or cdb[9] >> 6           # SFF-8020i has the format in byte 9
        data = atapi_pages.toc(form, cdb[6], bool(cdb[1] & 2), self.blocks)
        if data is None:
            raise Sense(ILLEGAL_REQUEST, INVALID_FIELD)
        return data[:field(cdb, 7, 2)]

    def read_sub_channel(self, cdb: bytes) -> bytes:
        """No audio is being played; there is no catalogue number."""
        if not cdb[2] & 0x40:
            return bytes([0, 0x15, 0, 0])[:field(cdb, 7, 2)]
        match cdb[3]:
            case 1:
                data = bytes([0, 0x15, 0, 12, 1, 0x14, 1, 1]) + bytes(8)
            case 2 | 3:
                data = bytes([0, 0x15, 0, 20, cdb[3], 0x14 if cdb[3] == 3 else 0, cdb[6] if cdb[3] == 3 else 0, 0]) + bytes(16)
            case _:
                raise Sense(ILLEGAL_REQUEST, INVALID_FIELD)
        return data[:field(cdb, 7, 2)]

    def read_header(self, cdb: bytes) -> bytes:
        lba = field(cdb, 2, 4)
        self._range(lba, 1)
        address = bytes([0]) + atapi_pages.msf(lba) if cdb[1] & 2 else lba.to_bytes(4, "big")
        return (bytes([1, 0, 0, 0]) + address)[:field(cdb, 7, 2)]

    def read_disc_information(self, cdb: bytes) -> bytes:
        if cdb[1] & 7:
            raise Sense(ILLEGAL_REQUEST, INVALID_FIELD)
        return atapi_pages.disc_information()[:field(cdb, 7, 2)]

    def read_track_information(self, cdb: bytes) -> bytes:
        kind, number = cdb[1] & 3, field(cdb, 2, 4)
        if not ((kind == 0 and number < self.blocks) or (kind == 1 and number == 1) or (kind == 2 and number == 1)):
            raise Sense(ILLEGAL_REQUEST, INVALID_FIELD)
        return atapi_pages.track_information(self.blocks)[:field(cdb, 7, 2)]

    def read_dvd_structure(self, cdb: bytes) -> bytes:
        if self._profile() != atapi_pages.DVD_ROM:
            raise Sense(ILLEGAL_REQUEST, 0x3002)        # incompatible format
        data = atapi_pages.dvd_structure(cdb[7], self.blocks)
        if data is None or cdb[6]:
            raise Sense(ILLEGAL_REQUEST, INVALID_FIELD)
        return data[:field(cdb, 8, 2)]

    # --- state -------------------------------------------------------------------------------------------------------
    def save(self) -> dict:
        return super().save() | {
            "sense": self.sense, "attention": self.attention, "event": self.event, "drive": self.drive.save(),
        }  # fmt: skip

    def load(self, state: dict) -> None:
        super().load(state)
        self.sense, self.attention, self.event = tuple(state["sense"]), state["attention"], state["event"]
        self.drive.load(state["drive"])
