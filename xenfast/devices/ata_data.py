"""What ATA devices tell of themselves: IDENTIFY DEVICE (ATA-6, 8.15), IDENTIFY PACKET DEVICE (8.16), SMART data and logs."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from xenfast.devices.ata import AtaDevice, AtaDisk
    from xenfast.devices.drive import Drive

SECTOR = 512
DISK_MODEL, CDROM_MODEL, FIRMWARE = "xenfast HARDDISK", "xenfast DVD-ROM", "1.0"
NCQ_DEPTH = 32
MDMA_MODES, UDMA_MODES, PIO_MODES = 0x07, 0x3F, 0x03      # multiword DMA 0-2, Ultra DMA 0-5, PIO 3 and 4


def text(string: str, size: int) -> bytes:
    """A string as ATA has it: padded with blanks, the characters of a word swapped."""
    data = bytearray(string.encode("ascii", "replace")[:size].ljust(size))
    data[0::2], data[1::2] = data[1::2], data[0::2]
    return bytes(data)


def pack(words: dict[int, int | bytes]) -> bytes:
    """The 512 bytes: words by number, strings where they begin, and the checksum in word 255."""
    data = bytearray(SECTOR)
    for number, value in words.items():
        piece = value if isinstance(value, bytes) else (value & 0xFFFF).to_bytes(2, "little")
        data[2 * number:2 * number + len(piece)] = piece
    data[510] = 0xA5
    data[511] = -sum(data[:511]) & 0xFF
    return bytes(data)


def valid_mode(mode: int) -> bool:
    """Transfer modes of SET FEATURES 03h: PIO, PIO with flow control, multiword DMA, Ultra DMA."""
    kind, number = mode >> 3, mode & 7
    return mode in (0x00, 0x01) or {1: 0x1F, 4: MDMA_MODES, 8: UDMA_MODES}.get(kind, 0) >> number & 1 == 1


def _dma_words(device: "AtaDevice") -> dict[int, int | bytes]:
    """Words 63 and 88: modes there are, and above them the one that was chosen."""
    mode, chosen = device.transfer_mode, 1 << (device.transfer_mode & 7)
    return {
        63: MDMA_MODES | (chosen << 8 if mode >> 3 == 4 else 0),
        64: PIO_MODES,
        65: 120, 66: 120, 67: 120, 68: 120,         # ns of a cycle
        88: UDMA_MODES | (chosen << 8 if mode >> 3 == 8 else 0),
        93: 0 if device.sata else 0x6001,           # result of the hardware reset: 80 conductors
    }  # fmt: skip


def _sata_words(ncq: bool) -> dict[int, int | bytes]:
    return {
        75: NCQ_DEPTH - 1 if ncq else 0,
        76: 0x0106 if ncq else 0x0006,              # generations 1 and 2, NCQ
        222: 0x1000 | 0x3F,                         # transport: serial
    }


def identify_disk(disk: "AtaDisk") -> bytes:
    drive, geometry = disk.drive, disk.geometry
    default, sectors = drive.geometry, drive.size_sectors
    words: dict[int, int | bytes] = {
        0: 0x0040,                                  # a fixed disk
        1: default.cylinders, 3: default.heads, 6: default.sectors,
        10: text(drive.serial or f"XF{disk.number:05d}", 20),
        23: text(FIRMWARE, 8),
        27: text(drive.model or DISK_MODEL, 40),
        47: 0x8010,                                 # READ MULTIPLE: at most 16
        48: 0x0001,
        49: 0x0F00,                                 # IORDY, LBA, DMA
        50: 0x4000,
        51: 0x0200,
        53: 0x0007,                                 # words 54-58, 64-70, 88 are valid
        54: geometry.cylinders, 55: geometry.heads, 56: geometry.sectors,
        57: geometry.size & 0xFFFF, 58: geometry.size >> 16,
        59: 0x0100 | disk.multiple,
        60: min(sectors, 0x0FFFFFFF) & 0xFFFF, 61: min(sectors, 0x0FFFFFFF) >> 16,
        69: 0x4000,                                 # what is read after TRIM does not change
        80: 0x01F0,                                 # ATA-4 to ATA8-ACS
        81: 0x0000,
        82: 0x3069,                                 # READ and WRITE BUFFER, look-ahead, write cache, power, SMART
        83: 0x7400,                                 # FLUSH CACHE, FLUSH CACHE EXT, 48 bits
        84: 0x4063,                                 # WRITE FUA, logs, SMART errors and self-tests
        85: 0x3008 | (0x20 if drive.write_cache else 0) | (0x40 if disk.look_ahead else 0) | disk.smart_enabled,
        86: 0x3400,
        87: 0x4063,
        105: 8,                                     # blocks of ranges for TRIM
        106: 0x6003,                                # 8 logical sectors in a physical one: the host's page
        169: 0x0001,                                # TRIM
        217: 0x0001,                                # nothing rotates
    }  # fmt: skip
    for at in range(4):
        words[100 + at] = sectors >> 16 * at
    words |= _dma_words(disk)
    if disk.sata:
        words |= _sata_words(True)
    return pack(words)


def identify_packet(device: "AtaDevice") -> bytes:
    words: dict[int, int | bytes] = {
        0: 0x85C0,                                  # a CD-ROM drive with 12-byte packets, removable, DRQ within 50 us
        10: text(device.drive.serial or f"XF{device.number:05d}", 20),
        23: text(FIRMWARE, 8),
        27: text(device.drive.model or CDROM_MODEL, 40),
        48: 0x0001,
        49: 0x0F00,
        50: 0x4000,
        53: 0x0006,
        71: 30, 72: 30,                             # ns; overlap and service are not there
        80: 0x01F0,
        82: 0x0210,                                 # DEVICE RESET, PACKET
        83: 0x4000, 84: 0x4000,
        85: 0x0210,
        87: 0x4000,
    }  # fmt: skip
    words |= _dma_words(device)
    if device.sata:
        words |= _sata_words(False)
    return pack(words)


# --- SMART -----------------------------------------------------------------------------------------------------------
# id, flags, value, worst, threshold; raw values are filled in below
ATTRIBUTES = (
    (0x01, 0x0003, 100, 100, 6),        # read errors
    (0x03, 0x0003, 100, 100, 0),        # spin-up time
    (0x05, 0x0003, 100, 100, 36),       # reallocated sectors
    (0x09, 0x0003, 100, 100, 0),        # hours on
    (0x0C, 0x0003, 100, 100, 0),        # power cycles
    (0xF1, 0x0032, 100, 100, 0),        # sectors written
    (0xF2, 0x0032, 100, 100, 0),        # sectors read
)


def checked(data: bytearray) -> bytes:
    data[511] = -sum(data[:511]) & 0xFF
    return bytes(data)


def smart_data(drive: "Drive") -> bytes:
    data = bytearray(SECTOR)
    data[0] = 0x10
    raw = {0x01: drive.counts["errors"], 0x0C: 1, 0xF1: drive.counts["bytes_written"] >> 9, 0xF2: drive.counts["bytes_read"] >> 9}
    for i, (number, flags, value, worst, _) in enumerate(ATTRIBUTES):
        entry = bytes([number]) + flags.to_bytes(2, "little") + bytes([value, worst])
        data[2 + 12 * i:2 + 12 * i + 11] = entry + (raw.get(number, 0) & (1 << 48) - 1).to_bytes(6, "little")
    data[362] = 0x02                    # off-line collection completed without error
    data[367] = 0x1B                    # off-line immediate, abort by new command, self-test
    data[368:370] = (0x0003).to_bytes(2, "little")
    data[370] = 0x01                    # error logging
    data[372] = data[373] = 1           # minutes of self-tests
    return checked(data)


def smart_thresholds() -> bytes:
    data = bytearray(SECTOR)
    data[0] = 0x10
    for i, (number, *_, threshold) in enumerate(ATTRIBUTES):
        data[2 + 12 * i:4 + 12 * i] = bytes([number, threshold])
    return checked(data)


def smart_log(number: int, count: int) -> bytes:
    """Directory, summary of errors, self-tests: empty ones."""
    data = bytearray(SECTOR)
    if number == 0:
        data[0] = data[2] = data[12] = 1
        return bytes(data) + bytes(SECTOR * (count - 1))
    data[0] = 1
    return checked(data) + bytes(SECTOR * (count - 1))


def log_pages(number: int, page: int, count: int, ncq_error: bytes) -> bytes | None:
    """General purpose logs: 00h directory, 10h the NCQ error; None where there is no such page."""
    if page or count != 1:
        return None
    if number == 0x10:
        return ncq_error
    if number == 0:
        data = bytearray(SECTOR)
        data[0] = 1
        data[0x20] = 1
        return bytes(data)
    return None
