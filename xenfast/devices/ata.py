"""ATA disks: the commands of ATA/ATAPI-6 (T13 1410D), and of ATA8-ACS what systems of today ask for (TRIM, FUA, logs).

A device is a task file (the command block registers, each with its "previous content" for 48-bit addresses) and a table of
commands.  How data gets to the host is not its business: ``execute()`` returns the ``Transfer`` that a command needs, and
a host controller (ide.py, ahci.py) moves it through a data port or by DMA and says ``complete()`` or ``failed()``.

Everything is done when it is asked for: BSY is never seen set, except while the host holds SRST.

Left out: security, removable media and CFA feature sets, overlapped and queued commands of ATA-4 (NCQ is in ahci.py), SET MAX, streaming,
advanced power and acoustic management: their commands are aborted and IDENTIFY DEVICE does not offer them.
"""

import errno
from typing import NamedTuple

from xenfast.devices import ata_data
from xenfast.devices.dma import Scatter, scatter
from xenfast.devices.drive import SECTOR, Drive, Geometry

# Status register (7.15)
BSY, DRDY, DF, DSC, DRQ, ERR = 0x80, 0x40, 0x20, 0x10, 0x08, 0x01
# Error register (7.9)
ICRC, UNC, MC, IDNF, MCR, ABRT = 0x80, 0x40, 0x20, 0x10, 0x08, 0x04
# Device register (7.7)
DEV, LBA = 0x10, 0x40
# Device Control register (7.8)
NIEN, SRST, HOB = 0x02, 0x04, 0x80

DIAGNOSTIC_PASSED = 0x01    # code in the Error register after reset: device 0 passed, device 1 passed or absent
PACKET, IDENTIFY_PACKET_DEVICE, DEVICE_RESET, EXECUTE_DEVICE_DIAGNOSTIC = 0xA0, 0xA1, 0x08, 0x90
MAX_MULTIPLE = 16           # sectors in a data block of READ MULTIPLE
PRODUCE = 1 << 20           # bytes made at a time
MAX_TRIM_BLOCKS = 8         # of 512 bytes, 64 ranges each
LBA28_SECTORS = 0x0FFFFFFF
REGISTERS = ("feature", "count", "lba_low", "lba_mid", "lba_high")     # those with a previous content, from register 1 on


class AtaError(Exception):
    """The command ends with ERR and these bits in the Error register."""

    def __init__(self, error: int = ABRT) -> None:
        self.error = error


class Transfer:
    """The data phase of a command: between host and ``data`` or, if that is None, what the device ``source`` makes, or the medium
    at ``offset``.

    ``position`` is how much is done; ``block`` how much goes through the data port between two interrupts, ``first_irq`` whether
    there is one before the first; ``then`` the device's method that is called when all is done, with ``extra`` to go by.
    Plain values all: a transfer can be saved.
    """

    __slots__ = ("block", "data", "dma", "extra", "first_irq", "fua", "offset", "position", "size", "source", "then", "to_host")

    def __init__(
        self, size: int, *, to_host: bool, data: bytearray | None = None, offset: int = 0, block: int = SECTOR, dma: bool = False,
        fua: bool = False, first_irq: bool = True, source: tuple | None = None, then: str | None = None, extra: tuple = (),
        position: int = 0,
    ) -> None:  # fmt: skip
        self.size, self.to_host, self.data, self.offset, self.block, self.dma = size, to_host, data, offset, block, dma
        self.fua, self.first_irq, self.source, self.then, self.extra, self.position = fua, first_irq, source, then, extra, position

    @property
    def left(self) -> int:
        return self.size - self.position

    def save(self) -> dict:
        state = {name: getattr(self, name) for name in self.__slots__}
        return state | {"data": None if self.data is None else bytes(self.data)}

    @classmethod
    def loaded(cls, state: dict) -> "Transfer":
        data, source = state["data"], state["source"]
        return cls(**state | {
            "data": None if data is None else bytearray(data), "source": None if source is None else tuple(source),
            "extra": tuple(state["extra"]),
        })  # fmt: skip


class Command(NamedTuple):
    name: str
    method: str
    option: tuple = ()


class AtaDevice:
    """The task file and what every device does with it; a disk or a packet device fills in the commands."""

    commands: dict[int, Command] = {}
    signature = (1, 1, 0, 0)        # Sector Count, LBA Low, Mid, High after a reset (9.12)

    def __init__(self, drive: Drive, *, number: int = 0, sata: bool = False) -> None:
        self.drive, self.number, self.sata = drive, number, sata
        self.transfer_mode = 0x0C                   # as SET FEATURES 03h has it
        self.diagnostic = DIAGNOSTIC_PASSED
        self.reset()

    def reset(self) -> None:
        """Power-on and hardware reset; a software reset also changes nothing that lasts (9.2, 9.3)."""
        for name in REGISTERS:
            setattr(self, name, 0)
            setattr(self, f"hob_{name}", 0)
        self.device = self.command = 0
        self.set_signature()

    def set_signature(self) -> None:
        self.count, self.lba_low, self.lba_mid, self.lba_high = self.signature
        self.device &= DEV
        self.error = self.diagnostic
        self.status = DRDY | DSC

    # --- registers ---------------------------------------------------------------------------------------------------
    feature = count = lba_low = lba_mid = lba_high = 0
    hob_feature = hob_count = hob_lba_low = hob_lba_mid = hob_lba_high = 0

    def write_register(self, number: int, value: int) -> None:
        """Registers 1 to 5 keep what they held before; 6 is the Device register."""
        if number == 6:
            self.device = value
            return
        name = REGISTERS[number - 1]
        setattr(self, f"hob_{name}", getattr(self, name))
        setattr(self, name, value)

    def read_register(self, number: int, hob: bool = False) -> int:
        if number == 1:
            return self.error
        if number == 6:
            return self.device | 0xA0
        name = REGISTERS[number - 1]
        return getattr(self, f"hob_{name}" if hob else name)

    @property
    def lba28(self) -> int:
        return (self.device & 15) << 24 | self.lba_high << 16 | self.lba_mid << 8 | self.lba_low

    @property
    def lba48(self) -> int:
        return (self.hob_lba_high << 40 | self.hob_lba_mid << 32 | self.hob_lba_low << 24
                | self.lba_high << 16 | self.lba_mid << 8 | self.lba_low)

    @lba48.setter
    def lba48(self, lba: int) -> None:
        self.lba_low, self.lba_mid, self.lba_high = lba & 0xFF, lba >> 8 & 0xFF, lba >> 16 & 0xFF
        self.hob_lba_low, self.hob_lba_mid, self.hob_lba_high = lba >> 24 & 0xFF, lba >> 32 & 0xFF, lba >> 40 & 0xFF

    @property
    def count48(self) -> int:
        return self.hob_count << 8 | self.count

    # --- commands ----------------------------------------------------------------------------------------------------
    def execute(self, command: int) -> Transfer | None:
        """Begin a command: the transfer it needs, or None when it is over; status and error say how it ended."""
        self.command = command
        self.status, self.error = DRDY | DSC, 0
        entry = self.commands.get(command)
        try:
            if entry is None:
                raise AtaError(ABRT)
            transfer = getattr(self, entry.method)(*entry.option)
        except AtaError as error:
            self.end_with_error(error.error)
            return None
        except OSError as error:
            self.end_with_error(host_error(error))
            return None
        return transfer

    def complete(self, transfer: Transfer) -> Transfer | None:
        """All data of a transfer has been moved: the next transfer of the command, or None when it is over."""
        try:
            return getattr(self, transfer.then)(transfer) if transfer.then is not None else None
        except AtaError as error:
            self.end_with_error(error.error)
        except OSError as error:
            self.end_with_error(host_error(error))
        return None

    def failed(self, transfer: Transfer, error: OSError) -> None:
        """The medium has failed at ``transfer.position``."""
        self.end_with_error(host_error(error) if transfer.to_host else ABRT, fault=not transfer.to_host and error.errno != errno.EROFS)

    def end_with_error(self, error: int, fault: bool = False) -> None:
        self.error = error
        self.status = DRDY | DSC | ERR | (DF if fault else 0)

    # --- data ----------------------------------------------------------------------------------------------------------
    def fetch(self, transfer: Transfer, size: int) -> bytes | bytearray:
        """The next bytes for the host."""
        at = transfer.position
        if transfer.data is not None:
            return transfer.data[at:at + size]
        if transfer.source is not None:
            return self.produce(transfer, at, size)
        return self.drive.read(transfer.offset + at, size)

    def store(self, transfer: Transfer, data: bytes | bytearray) -> None:
        """The next bytes from the host."""
        at = transfer.position
        if transfer.data is not None:
            transfer.data[at:at + len(data)] = data
        else:
            self.drive.writev(transfer.offset + at, [memoryview(data)], fua=transfer.fua)

    def move(self, transfer: Transfer, memory: Scatter) -> None:
        """The next ``memory.size`` bytes by DMA."""
        at, size = transfer.position, memory.size
        if transfer.data is not None and not transfer.to_host:
            transfer.data[at:at + size] = memory.read()
        elif transfer.data is not None:
            memory.write(transfer.data[at:at + size])
        elif transfer.source is not None:
            for n in range(0, size, PRODUCE):
                made = self.produce(transfer, at + n, min(PRODUCE, size - n))
                scatter(made, memory.between(n, len(made)))
            memory.wrote()
        elif transfer.to_host:
            self.drive.readv(transfer.offset + at, memory.views)
            memory.wrote()
        else:
            self.drive.writev(transfer.offset + at, memory.views, fua=transfer.fua)

    def produce(self, transfer: Transfer, at: int, size: int) -> bytes:
        """Data of a transfer with a ``source``."""
        raise NotImplementedError

    def begin_block(self, transfer: Transfer, size: int) -> None:
        """A block of so many bytes is about to go through the data port."""

    def from_memory(self, data: bytes | bytearray, **options: object) -> Transfer:
        return Transfer(len(data), to_host=True, data=bytearray(data), **options)     # type: ignore[arg-type]

    def nothing(self) -> None:
        """A command that needs nothing done."""

    # --- state -------------------------------------------------------------------------------------------------------
    SAVED = (*REGISTERS, *(f"hob_{name}" for name in REGISTERS), "device", "command", "status", "error", "transfer_mode")

    def save(self) -> dict:
        return {name: getattr(self, name) for name in self.SAVED}

    def load(self, state: dict) -> None:
        for name in self.SAVED:
            setattr(self, name, state[name])


def host_error(error: OSError) -> int:
    """What the host's error is in the Error register."""
    return {errno.EINVAL: IDNF, errno.EROFS: ABRT, errno.ENODATA: ABRT}.get(error.errno or 0, UNC)


# In the order of the opcodes (ATA-6, annex E; ACS-2 for what is later).  Options of transfers: protocol, 48-bit, FUA.
PIO, MULTIPLE, DMA = range(3)
DISK_COMMANDS = {
    0x06: Command("DATA SET MANAGEMENT", "data_set_management"),
    **{code: Command("RECALIBRATE", "recalibrate") for code in range(0x10, 0x20)},
    0x20: Command("READ SECTORS", "read", (PIO, False)),
    0x21: Command("READ SECTORS (no retries)", "read", (PIO, False)),
    0x24: Command("READ SECTORS EXT", "read", (PIO, True)),
    0x25: Command("READ DMA EXT", "read", (DMA, True)),
    0x27: Command("READ NATIVE MAX ADDRESS EXT", "read_native_max", (True,)),
    0x29: Command("READ MULTIPLE EXT", "read", (MULTIPLE, True)),
    0x2F: Command("READ LOG EXT", "read_log"),
    0x30: Command("WRITE SECTORS", "write", (PIO, False)),
    0x31: Command("WRITE SECTORS (no retries)", "write", (PIO, False)),
    0x34: Command("WRITE SECTORS EXT", "write", (PIO, True)),
    0x35: Command("WRITE DMA EXT", "write", (DMA, True)),
    0x39: Command("WRITE MULTIPLE EXT", "write", (MULTIPLE, True)),
    0x3C: Command("WRITE VERIFY", "write", (PIO, False)),
    0x3D: Command("WRITE DMA FUA EXT", "write", (DMA, True, True)),
    0x40: Command("READ VERIFY SECTORS", "verify", (False,)),
    0x41: Command("READ VERIFY SECTORS (no retries)", "verify", (False,)),
    0x42: Command("READ VERIFY SECTORS EXT", "verify", (True,)),
    0x47: Command("READ LOG DMA EXT", "read_log", (True,)),
    **{code: Command("SEEK", "seek") for code in range(0x70, 0x80)},
    0x90: Command("EXECUTE DEVICE DIAGNOSTIC", "execute_diagnostic"),
    0x91: Command("INITIALIZE DEVICE PARAMETERS", "initialize_parameters"),
    0x94: Command("STANDBY IMMEDIATE", "power", (0x00,)),
    0x95: Command("IDLE IMMEDIATE", "power", (0x80,)),
    0x96: Command("STANDBY", "power", (0x00,)),
    0x97: Command("IDLE", "power", (0x80,)),
    0x98: Command("CHECK POWER MODE", "check_power"),
    0x99: Command("SLEEP", "power", (0x00,)),
    0xA1: Command("IDENTIFY PACKET DEVICE", "abort_with_signature"),
    0xB0: Command("SMART", "smart"),
    0xC4: Command("READ MULTIPLE", "read", (MULTIPLE, False)),
    0xC5: Command("WRITE MULTIPLE", "write", (MULTIPLE, False)),
    0xC6: Command("SET MULTIPLE MODE", "set_multiple"),
    0xC8: Command("READ DMA", "read", (DMA, False)),
    0xC9: Command("READ DMA (no retries)", "read", (DMA, False)),
    0xCA: Command("WRITE DMA", "write", (DMA, False)),
    0xCB: Command("WRITE DMA (no retries)", "write", (DMA, False)),
    0xCE: Command("WRITE MULTIPLE FUA EXT", "write", (MULTIPLE, True, True)),
    0xE0: Command("STANDBY IMMEDIATE", "power", (0x00,)),
    0xE1: Command("IDLE IMMEDIATE", "power", (0x80,)),
    0xE2: Command("STANDBY", "power", (0x00,)),
    0xE3: Command("IDLE", "power", (0x80,)),
    0xE4: Command("READ BUFFER", "read_buffer"),
    0xE5: Command("CHECK POWER MODE", "check_power"),
    0xE6: Command("SLEEP", "power", (0x00,)),
    0xE7: Command("FLUSH CACHE", "flush_cache"),
    0xE8: Command("WRITE BUFFER", "write_buffer"),
    0xEA: Command("FLUSH CACHE EXT", "flush_cache"),
    0xEC: Command("IDENTIFY DEVICE", "identify"),
    0xEF: Command("SET FEATURES", "set_features"),
    0xF8: Command("READ NATIVE MAX ADDRESS", "read_native_max", (False,)),
}


class AtaDisk(AtaDevice):
    """A hard disk."""

    commands = DISK_COMMANDS

    def __init__(self, drive: Drive, *, number: int = 0, sata: bool = False) -> None:
        self.geometry = drive.geometry      # the current translation
        self.multiple = MAX_MULTIPLE
        self.look_ahead = self.smart_enabled = True
        self.power_mode = 0xFF
        self.buffer = bytearray(SECTOR)
        self.ncq_error = bytes(SECTOR)      # log 10h
        super().__init__(drive, number=number, sata=sata)

    def reset(self) -> None:
        super().reset()
        self.geometry = self.drive.geometry
        self.multiple = MAX_MULTIPLE
        self.power_mode = 0xFF

    # --- addresses ---------------------------------------------------------------------------------------------------
    def address(self, ext: bool) -> tuple[int, int]:
        """(first sector, number of sectors) that the registers name; IDNF when they are not on the disk."""
        if ext:
            lba: int | None = self.lba48
            count = self.count48 or 65536
            if not self.device & LBA:
                raise AtaError(ABRT)
        else:
            count = self.count or 256
            if self.device & LBA:
                lba = self.lba28
            else:
                lba = self.geometry.lba(self.lba_high << 8 | self.lba_mid, self.device & 15, self.lba_low)
        self.power_mode = 0xFF
        if lba is None or lba + count > self.drive.size_sectors:
            raise AtaError(IDNF)
        return lba, count

    def set_address(self, lba: int, ext: bool) -> None:
        """Leave an address in the registers, the way the command was given one."""
        if ext:
            self.lba48 = lba
        elif self.device & LBA:
            self.lba_low, self.lba_mid, self.lba_high = lba & 0xFF, lba >> 8 & 0xFF, lba >> 16 & 0xFF
            self.device = self.device & 0xF0 | lba >> 24 & 15
        else:
            cylinder, head, sector = self.geometry.chs(lba)
            self.lba_low, self.lba_mid, self.lba_high = sector & 0xFF, cylinder & 0xFF, cylinder >> 8 & 0xFF
            self.device = self.device & 0xF0 | head & 15

    # --- reading and writing -----------------------------------------------------------------------------------------
    def _transfer(self, to_host: bool, protocol: int, ext: bool, fua: bool = False) -> Transfer:
        if protocol == MULTIPLE and not self.multiple:
            raise AtaError(ABRT)
        lba, count = self.address(ext)
        block = self.multiple * SECTOR if protocol == MULTIPLE else SECTOR
        return Transfer(
            count * SECTOR, to_host=to_host, offset=lba * SECTOR, block=block, dma=protocol == DMA, fua=fua, first_irq=to_host,
            then="moved_ext" if ext else "moved",
        )  # fmt: skip

    def read(self, protocol: int, ext: bool) -> Transfer:
        return self._transfer(True, protocol, ext)

    def write(self, protocol: int, ext: bool, fua: bool = False) -> Transfer:
        if self.drive.readonly:
            raise AtaError(ABRT)
        return self._transfer(False, protocol, ext, fua)

    def moved(self, transfer: Transfer) -> None:
        """The registers name the last sector, and none is left (ATA-1, 9.15)."""
        self.set_address((transfer.offset + transfer.size) // SECTOR - 1, False)
        self.count = 0

    def moved_ext(self, transfer: Transfer) -> None:
        self.set_address((transfer.offset + transfer.size) // SECTOR - 1, True)
        self.count = self.hob_count = 0

    def failed(self, transfer: Transfer, error: OSError) -> None:
        super().failed(transfer, error)
        if transfer.data is None:
            ext = transfer.then == "moved_ext"
            self.set_address((transfer.offset + transfer.position) // SECTOR, ext)
            left = -(-transfer.left // SECTOR)
            self.count = left & 0xFF
            if ext:
                self.hob_count = left >> 8 & 0xFF

    def verify(self, ext: bool) -> None:
        """Read and throw away, so that the host's errors are found."""
        lba, count = self.address(ext)
        buffer = memoryview(bytearray(min(count * SECTOR, 1 << 20)))
        for at in range(0, count * SECTOR, len(buffer)):
            self.drive.readv(lba * SECTOR + at, [buffer[:count * SECTOR - at]])
        self.set_address(lba + count - 1, ext)

    def seek(self) -> None:
        self.count = self.count or 1
        count, self.count = self.count, 1
        try:
            self.address(False)
        finally:
            self.count = count

    def recalibrate(self) -> None:
        self.lba_mid = self.lba_high = 0

    def flush_cache(self) -> None:
        try:
            self.drive.flush()
        except OSError:
            self.set_address(0, self.command == 0xEA)
            self.end_with_error(ABRT, fault=True)

    def data_set_management(self) -> Transfer:
        """TRIM: blocks of 64 ranges, 48 bits of address and 16 of length each (ACS-2, 7.10)."""
        blocks = self.count48
        if not self.feature & 1 or not 1 <= blocks <= MAX_TRIM_BLOCKS or self.drive.readonly:
            raise AtaError(ABRT)
        return Transfer(blocks * SECTOR, to_host=False, data=bytearray(blocks * SECTOR), dma=True, first_irq=False, then="trim")

    def trim(self, transfer: Transfer) -> None:
        assert transfer.data is not None
        for at in range(0, len(transfer.data), 8):
            entry = int.from_bytes(transfer.data[at:at + 8], "little")
            lba, count = entry & (1 << 48) - 1, entry >> 48
            if count:
                self.drive.discard(lba * SECTOR, count * SECTOR)

    def read_buffer(self) -> Transfer:
        return self.from_memory(self.buffer)

    def write_buffer(self) -> Transfer:
        return Transfer(SECTOR, to_host=False, data=bytearray(SECTOR), first_irq=False, then="buffer_written")

    def buffer_written(self, transfer: Transfer) -> None:
        assert transfer.data is not None
        self.buffer[:] = transfer.data

    # --- what the disk is --------------------------------------------------------------------------------------------
    def identify(self) -> Transfer:
        return self.from_memory(ata_data.identify_disk(self))

    def abort_with_signature(self) -> None:
        raise AtaError(ABRT)

    def read_native_max(self, ext: bool) -> None:
        if not self.device & LBA:
            raise AtaError(ABRT)
        last = self.drive.size_sectors - 1
        self.set_address(last if ext else min(last, LBA28_SECTORS - 1), ext)

    def execute_diagnostic(self) -> None:
        self.set_signature()
        self.device = 0

    def initialize_parameters(self) -> None:
        """The CHS translation the host wants: sectors a track, highest head (8.16)."""
        heads, sectors = (self.device & 15) + 1, self.count
        if not sectors:
            raise AtaError(ABRT)
        self.geometry = Geometry(max(1, min(self.drive.size_sectors // (heads * sectors), 65535)), heads, sectors)

    def set_multiple(self) -> None:
        if self.count > MAX_MULTIPLE or self.count & self.count - 1:
            raise AtaError(ABRT)
        self.multiple = self.count

    def power(self, mode: int) -> None:
        if mode == 0x00:
            self.drive.flush()
        self.power_mode = mode

    def check_power(self) -> None:
        self.count = self.power_mode

    def set_features(self) -> None:
        """Subcommands of 8.46; those of features that are not offered are aborted."""
        match self.feature:
            case 0x02:
                self.drive.write_cache = True
            case 0x82:
                self.drive.flush()
                self.drive.write_cache = False
            case 0x03:
                if not ata_data.valid_mode(self.count):
                    raise AtaError(ABRT)
                self.transfer_mode = self.count
            case 0x55 | 0xAA:
                self.look_ahead = self.feature == 0xAA
            case 0x66 | 0xCC:           # what a software reset brings back: nothing that differs
                pass
            case _:
                raise AtaError(ABRT)

    # --- SMART and logs ----------------------------------------------------------------------------------------------
    def smart(self) -> Transfer | None:
        """Subcommands of 8.55: a disk that is well."""
        if (self.lba_mid, self.lba_high) != (0x4F, 0xC2):
            raise AtaError(ABRT)
        if not self.smart_enabled and self.feature != 0xD8:
            raise AtaError(ABRT)
        match self.feature:
            case 0xD0:
                return self.from_memory(ata_data.smart_data(self.drive))
            case 0xD1:
                return self.from_memory(ata_data.smart_thresholds())
            case 0xD2 | 0xD4:           # attribute autosave; self-tests end at once and well
                return None
            case 0xD5:
                return self.from_memory(ata_data.smart_log(self.lba_low, self.count or 1))
            case 0xD8 | 0xD9:
                self.smart_enabled = self.feature == 0xD8
                return None
            case 0xDA:                  # 4Fh and C2h as they came: no threshold exceeded
                return None
        raise AtaError(ABRT)

    def read_log(self, dma: bool = False) -> Transfer:
        """READ LOG EXT: the directory and the log of NCQ errors (SATA 2.6, 13.7)."""
        page, count = self.hob_lba_mid << 8 | self.lba_mid, self.count48
        data = ata_data.log_pages(self.lba_low, page, count, self.ncq_error)
        if data is None:
            raise AtaError(ABRT)
        return self.from_memory(data, dma=dma)

    # --- state -------------------------------------------------------------------------------------------------------
    def save(self) -> dict:
        own = ("multiple", "look_ahead", "smart_enabled", "power_mode")
        return super().save() | {name: getattr(self, name) for name in own} | {
            "geometry": tuple(self.geometry), "buffer": bytes(self.buffer), "ncq_error": self.ncq_error, "drive": self.drive.save(),
        }  # fmt: skip

    def load(self, state: dict) -> None:
        super().load(state)
        for name in ("multiple", "look_ahead", "smart_enabled", "power_mode", "ncq_error"):
            setattr(self, name, state[name])
        self.geometry, self.buffer = Geometry(*state["geometry"]), bytearray(state["buffer"])
        self.drive.load(state["drive"])
