"""The floppy disk controller, an 82077AA in AT mode with two drives.

Intel 82077AA data sheet (order 290166): registers 2.0, command summary 5.1, status registers 5.2 and 6, reset 4.
Data goes by DMA channel 2 or, with SPECIFY's ND bit, byte by byte through the FIFO.

A drive reads what the size of its image says: 160 KiB to 2.88 MB, and the formats with more sectors (``FORMATS``).  The data
rate has to fit the format, as drivers find the format by trying rates.  Sectors are of 512 bytes, in MFM, in order, with
the identifications that the geometry gives them; FORMAT TRACK fills them; deleted data marks are not kept.  Motors, head
load and step times have no effect; a command takes as long as ``COMMAND_TIME`` and ``STEP_TIME`` say.  A drive without a
medium ends commands with a missing address mark, where a real one waits for index holes forever.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

from xenfast.devices.drive import SECTOR, Drive, Geometry
from xenfast.xen.hvm.bus import Region
from xenfast.xen.hvm.irq import Line
from xenfast.xen.hvm.timers import Timers

# Registers, from 3F0h on
SRA, SRB, DOR, TDR, MSR_DSR, FIFO, _, DIR_CCR = range(8)
DOR_DRIVE, DOR_RESET, DOR_DMAGATE = 0x03, 0x04, 0x08            # bits 4 to 7: motors
MSR_RQM, MSR_DIO, MSR_NDMA, MSR_CB = 0x80, 0x40, 0x20, 0x10     # bits 0 to 3: drives that seek
DSR_RESET, DSR_RATE = 0x80, 0x03
DIR_CHANGED = 0x80

# Status registers 0 to 3
ST0_ABNORMAL, ST0_INVALID, ST0_POLLING, ST0_SEEK_END, ST0_CHECK = 0x40, 0x80, 0xC0, 0x20, 0x10
ST1_END, ST1_OVERRUN, ST1_NO_DATA, ST1_NOT_WRITABLE, ST1_MISSING_MARK = 0x80, 0x10, 0x04, 0x02, 0x01
ST2_CONTROL_MARK, ST2_DATA_ERROR, ST2_WRONG_CYLINDER, ST2_HIT, ST2_NOT_SATISFIED = 0x40, 0x20, 0x10, 0x08, 0x04
ST3_PROTECTED, ST3_TRACK0, ST3_ALWAYS = 0x40, 0x10, 0x28
ST1_DATA_ERROR = 0x20

COMMAND_TIME, STEP_TIME, RESET_TIME = 100_000, 20_000, 20_000   # ns
MT, MFM, SK = 0x80, 0x40, 0x20
LAST_TRACK = 84

RATE_500, RATE_300, RATE_250, RATE_1000 = range(4)
HD, DD, ED = (RATE_500,), (RATE_250, RATE_300), (RATE_1000,)


class Format(NamedTuple):
    geometry: Geometry
    rates: tuple[int, ...]


FORMATS = {
    f.geometry.size: f
    for f in (
        Format(Geometry(40, 1, 8), DD), Format(Geometry(40, 1, 9), DD), Format(Geometry(40, 2, 8), DD), Format(Geometry(40, 2, 9), DD),
        Format(Geometry(41, 2, 10), DD), Format(Geometry(80, 2, 8), DD),
        Format(Geometry(80, 2, 9), DD), Format(Geometry(80, 2, 10), DD), Format(Geometry(82, 2, 10), DD), Format(Geometry(80, 2, 15), HD),
        Format(Geometry(80, 2, 18), HD), Format(Geometry(80, 2, 20), HD), Format(Geometry(80, 2, 21), HD), Format(Geometry(82, 2, 21), HD),
        Format(Geometry(83, 2, 21), HD), Format(Geometry(80, 2, 22), HD), Format(Geometry(80, 2, 23), HD), Format(Geometry(80, 2, 24), HD),
        Format(Geometry(80, 2, 36), ED), Format(Geometry(80, 2, 40), ED), Format(Geometry(80, 2, 44), ED),
    )
}  # fmt: skip


def format_of(sectors: int) -> Format | None:
    """The format of a medium with so many sectors; of odd sizes the smallest that holds them; None: too large."""
    for size in sorted(FORMATS):
        if sectors <= size:
            return FORMATS[size]
    return None


class DmaChannel(Protocol):
    """What the controller has of its channel of an 8237: both end at the terminal count, after which ``terminal_count`` is true."""

    terminal_count: bool

    def from_memory(self, size: int) -> bytes: ...

    def to_memory(self, data: bytes | bytearray | memoryview) -> int: ...


class Command(NamedTuple):
    name: str
    parameters: int
    method: str


# By the low five bits, or all eight (5.1); MT, MFM and SK are above them.
TRANSFERS = {
    0x02: Command("READ TRACK", 8, "read_track"),
    0x05: Command("WRITE DATA", 8, "transfer"),
    0x06: Command("READ DATA", 8, "transfer"),
    0x09: Command("WRITE DELETED DATA", 8, "transfer"),
    0x0A: Command("READ ID", 1, "read_id"),
    0x0C: Command("READ DELETED DATA", 8, "transfer"),
    0x0D: Command("FORMAT TRACK", 5, "format_track"),
    0x11: Command("SCAN EQUAL", 8, "transfer"),
    0x16: Command("VERIFY", 8, "transfer"),
    0x19: Command("SCAN LOW OR EQUAL", 8, "transfer"),
    0x1D: Command("SCAN HIGH OR EQUAL", 8, "transfer"),
}
CONTROLS = {
    0x03: Command("SPECIFY", 2, "specify"),
    0x04: Command("SENSE DRIVE STATUS", 1, "sense_drive"),
    0x07: Command("RECALIBRATE", 1, "recalibrate"),
    0x08: Command("SENSE INTERRUPT STATUS", 0, "sense_interrupt"),
    0x0E: Command("DUMPREG", 0, "dump_registers"),
    0x0F: Command("SEEK", 2, "seek"),
    0x10: Command("VERSION", 0, "version"),
    0x12: Command("PERPENDICULAR MODE", 1, "perpendicular"),
    0x13: Command("CONFIGURE", 3, "configure"),
    0x14: Command("UNLOCK", 0, "lock"),
    0x8F: Command("RELATIVE SEEK", 2, "relative_seek"),
    0x94: Command("LOCK", 0, "lock"),
    0xCF: Command("RELATIVE SEEK", 2, "relative_seek"),
}
INVALID = Command("INVALID", 0, "invalid")
READS, WRITES, SCANS = (0x06, 0x0C), (0x05, 0x09), (0x11, 0x19, 0x1D)
IDLE, PARAMETERS, EXECUTION, RESULT = "idle", "parameters", "execution", "result"


def find(opcode: int) -> Command:
    return CONTROLS.get(opcode) or TRANSFERS.get(opcode & 0x1F) or INVALID


class FloppyDrive:
    """A drive on the cable: where its head is, and the change line."""

    def __init__(self, drive: Drive | None) -> None:
        self.drive = drive
        self.cylinder = 0
        self.changed = True         # DSKCHG, until the head is stepped over a medium
        if drive is not None:
            drive.on_change = self._medium_changed

    def _medium_changed(self) -> None:
        self.changed = True

    @property
    def format(self) -> Format | None:
        """Of the medium; None without one."""
        if self.drive is None or not self.drive.ready:
            return None
        return format_of(self.drive.size_sectors)

    def step_to(self, cylinder: int) -> None:
        self.cylinder = max(0, min(cylinder, LAST_TRACK))
        if self.drive is not None and self.drive.ready:
            self.changed = False


class Fdc:
    """``region`` is for 3F0h to 3F5h, ``region7`` for 3F7h (3F6h is the IDE controller's)."""

    def __init__(self, timers: Timers, irq: Line, dma: DmaChannel, drives: Sequence[Drive | None]) -> None:
        self.timers, self.irq, self.dma = timers, irq, dma
        self.drives = [FloppyDrive(drives[n] if n < len(drives) else None) for n in range(4)]
        self.region = Region(6, self._read, self._write, width=1, name="FDC", read_block=self._read_fifo)
        self.region7 = Region(1, lambda at, size: self._read(7, 1), lambda at, size, value: self._write(7, 1, value), width=1, name="FDC")
        self.events: dict[str, tuple[int, tuple, Any]] = {}         # what happens when: deadline, arguments, timer
        self.locked = False
        self.config = self.precompensation = 0
        self.reset()

    def reset(self) -> None:
        """The RESET pin: also what LOCK protects from a software reset goes back to its default."""
        self.locked = False
        self.dor, self.tdr, self.rate = DOR_RESET | DOR_DMAGATE, 0, RATE_250
        self.srt_hut = self.hlt_nd = 0
        self.perpendicular_mode = 0
        self.interrupt = False
        for drive in self.drives:
            drive.cylinder = 0
        self._restart()
        self._cancel()
        self.waiting: list[int] = []                # ST0 of interrupts that SENSE INTERRUPT STATUS will tell

    def _restart(self) -> None:
        """What every reset does (4.0)."""
        self._cancel()
        self.phase = IDLE
        self.command, self.bytes, self.results = INVALID, b"", b""
        self.data, self.position = bytearray(), 0   # of a transfer without DMA
        self.after = ""                             # who takes that data
        self.at, self.head = [0, 0, 0, 0], 0        # C, H, R, N of the sector in work, and the head over it
        self.where = self.left = self.last_eot = 0
        self.seeking = 0                            # a bit a drive
        self.waiting = []
        # Of CONFIGURE, LOCK keeps EFIFO, FIFOTHR and PRETRK; EIS goes off and polling on in any case (5.2.8)
        self.config = self.config & 0x2F if self.locked else 0x20
        self.precompensation = self.precompensation if self.locked else 0
        self._interrupt(False)

    # --- time ----------------------------------------------------------------------------------------------------------
    def _later(self, name: str, delay: int, method: str, *args: Any) -> None:
        deadline = self.timers.now() + delay
        timer = self.timers.call_at(deadline, self._happen, name)
        self.events[name] = deadline, (method, *args), timer

    def _happen(self, name: str) -> None:
        event = self.events.pop(name, None)
        if event is not None:
            method, *args = event[1]
            getattr(self, method)(*args)

    def _cancel(self) -> None:
        for _, _, timer in self.events.values():
            timer.cancel()
        self.events.clear()

    def _interrupt(self, level: bool) -> None:
        self.interrupt = level
        self.irq.set(level and self.dor & DOR_DMAGATE)

    # --- registers -----------------------------------------------------------------------------------------------------
    def _read(self, offset: int, size: int) -> int:
        match offset:
            case 2:
                return self.dor
            case 3:
                return self.tdr
            case 4:
                return self._main_status()
            case 5:
                return self._pop()
            case 7:
                drive = self.drives[self.dor & DOR_DRIVE]
                return DIR_CHANGED if drive.drive is not None and (drive.changed or not drive.drive.ready) else 0
        return 0xFF             # SRA and SRB are there in PS/2 mode only

    def _read_fifo(self, offset: int, size: int, count: int) -> bytes:
        return bytes([self._read(offset, 1) for _ in range(count)]) if size == 1 else b"\xff" * (size * count)

    def _write(self, offset: int, size: int, value: int) -> None:
        match offset:
            case 2:
                self._write_dor(value)
            case 3:
                self.tdr = value & 3
            case 4:
                self.rate = value & DSR_RATE
                if value & DSR_RESET:
                    self._software_reset()
            case 5:
                self._push(value)
            case 7:
                self.rate = value & DSR_RATE

    def _write_dor(self, value: int) -> None:
        before, self.dor = self.dor, value
        if not value & DOR_RESET:
            self._restart()
        elif not before & DOR_RESET:
            self._software_reset()
        self._interrupt(self.interrupt)

    def _software_reset(self) -> None:
        """Out of reset: with polling on, an interrupt, and four of SENSE INTERRUPT STATUS to ask for each drive's (5.2.4)."""
        self._restart()
        if not self.config & 0x10:
            self._later("reset", RESET_TIME, "_reset_done")

    def _reset_done(self) -> None:
        self.waiting = [ST0_POLLING | n for n in range(4)]
        self._interrupt(True)

    def _main_status(self) -> int:
        if not self.dor & DOR_RESET:
            return 0
        if self.phase == EXECUTION:
            if not self.data:
                return MSR_CB | self.seeking
            return MSR_CB | MSR_RQM | MSR_NDMA | self.seeking | (MSR_DIO if self._code in (*READS, 0x02) else 0)
        busy = 0 if self.phase == IDLE else MSR_CB
        return MSR_RQM | busy | (MSR_DIO if self.phase == RESULT else 0) | self.seeking

    @property
    def _code(self) -> int:
        return self.bytes[0] & 0x1F if self.bytes else 0

    # --- phases --------------------------------------------------------------------------------------------------------
    def _push(self, value: int) -> None:
        if not self.dor & DOR_RESET:
            return
        if self.phase == EXECUTION:
            if self.data and self._code not in (*READS, 0x02):
                self.data[self.position] = value
                self._moved()
            return
        if self.phase == RESULT:
            return
        if self.phase == IDLE:
            self.command, self.bytes = find(value), b""
            self.phase = PARAMETERS
        self.bytes += bytes([value])
        if len(self.bytes) > self.command.parameters:
            self.phase = IDLE
            getattr(self, self.command.method)()

    def _pop(self) -> int:
        if self.phase == EXECUTION and self.data and self._code in (*READS, 0x02):
            value = self.data[self.position]
            self._moved()
            return value
        if self.phase != RESULT:
            return 0
        self._interrupt(False)
        value, self.results = self.results[0], self.results[1:]
        if not self.results:
            self.phase = IDLE
        return value

    def _moved(self) -> None:
        """A byte of a transfer without DMA."""
        self._interrupt(False)
        self.position += 1
        if self.position == len(self.data):
            data, self.data = bytes(self.data), bytearray()
            getattr(self, self.after)(data)

    def _answer(self, *values: int) -> None:
        self.results, self.phase = bytes(value & 0xFF for value in values), RESULT

    # --- commands that control ---------------------------------------------------------------------------------------------
    def invalid(self) -> None:
        self._answer(ST0_INVALID)

    def specify(self) -> None:
        self.srt_hut, self.hlt_nd = self.bytes[1], self.bytes[2]

    def version(self) -> None:
        self._answer(0x90)

    def configure(self) -> None:
        self.config, self.precompensation = self.bytes[2] & 0x7F, self.bytes[3]

    def perpendicular(self) -> None:
        self.perpendicular_mode = self.bytes[1] & 0x3F if self.bytes[1] & 0x80 else self.perpendicular_mode & 0x3C | self.bytes[1] & 3

    def lock(self) -> None:
        self.locked = bool(self.bytes[0] & 0x80)
        self._answer(0x10 if self.locked else 0)

    def dump_registers(self) -> None:
        cylinders = [drive.cylinder for drive in self.drives]
        modes = self.locked << 7 | self.perpendicular_mode
        self._answer(*cylinders, self.srt_hut, self.hlt_nd, self.last_eot, modes, self.config, self.precompensation)

    def sense_drive(self) -> None:
        select = self.bytes[1] & 7
        floppy = self.drives[select & 3]
        protected = floppy.drive is not None and floppy.drive.ready and floppy.drive.readonly
        self._answer(ST3_ALWAYS | select | (ST3_PROTECTED if protected else 0) | (0 if floppy.cylinder else ST3_TRACK0))

    def sense_interrupt(self) -> None:
        if not self.waiting:
            self._answer(ST0_INVALID)
            return
        st0 = self.waiting.pop(0)
        self._interrupt(False)
        self._answer(st0, self.drives[st0 & 3].cylinder)

    def recalibrate(self) -> None:
        self._seek(self.bytes[1] & 3, 0, self.bytes[1] & 3)

    def seek(self) -> None:
        self._seek(self.bytes[1] & 3, self.bytes[2], self.bytes[1] & 7)

    def relative_seek(self) -> None:
        number = self.bytes[1] & 3
        step = self.bytes[2] if self.bytes[0] & 0x40 else -self.bytes[2]
        self._seek(number, self.drives[number].cylinder + step, self.bytes[1] & 7)

    def _seek(self, number: int, cylinder: int, select: int) -> None:
        steps = min(abs(self.drives[number].cylinder - cylinder), LAST_TRACK)
        self.seeking |= 1 << number
        self._later(f"seek {number}", COMMAND_TIME + steps * STEP_TIME, "_seek_done", number, cylinder, select)

    def _seek_done(self, number: int, cylinder: int, select: int) -> None:
        floppy = self.drives[number]
        self.seeking &= ~(1 << number)
        floppy.step_to(cylinder)
        # A drive that is not there never says that it is at track 0
        missing = floppy.drive is None and cylinder == 0
        self.waiting = [st0 for st0 in self.waiting if st0 & 3 != number]
        self.waiting.append(select | ST0_SEEK_END | (ST0_ABNORMAL | ST0_CHECK if missing else 0))
        self._interrupt(True)

    # --- commands that move data ------------------------------------------------------------------------------------------
    def transfer(self) -> None:
        self._start("_transfer")

    def read_track(self) -> None:
        self._start("_transfer")

    def read_id(self) -> None:
        self._start("_read_id")

    def format_track(self) -> None:
        self._start("_format")

    def _start(self, method: str) -> None:
        self.phase = EXECUTION
        self._later("command", COMMAND_TIME, method)

    def _select(self) -> tuple[FloppyDrive, int]:
        """The drive and the head that the second byte names."""
        return self.drives[self.bytes[1] & 3], self.bytes[1] >> 2 & 1

    def _readable(self, floppy: FloppyDrive, head: int) -> Format | None:
        """The format of the track under the head; None: no address marks there, in this mode, at this rate."""
        found = floppy.format
        if found is None or not self.bytes[0] & MFM or self.rate not in found.rates:
            return None
        return found if head < found.geometry.heads and floppy.cylinder < found.geometry.cylinders else None

    def _end(self, st0: int, st1: int, st2: int, chrn: Sequence[int]) -> None:
        """The result phase of a command that moved data, and its interrupt."""
        self._answer(st0 | self.bytes[1] & 7, st1, st2, *chrn)
        self._interrupt(True)

    def _read_id(self) -> None:
        floppy, head = self._select()
        if self._readable(floppy, head) is None:
            self._end(ST0_ABNORMAL, ST1_MISSING_MARK, 0, (0, 0, 0, 0))
        else:
            self._end(0, 0, 0, (floppy.cylinder, head, 1, 2))

    def _transfer(self) -> None:
        """READ, WRITE, VERIFY, SCAN: sector by sector until the terminal count, EOT or an error."""
        floppy, head = self._select()
        self.at = list(self.bytes[2:6])             # C, H, R, N
        self.head = head
        self.left = 0
        self.last_eot = self.bytes[6]
        if self.config & 0x40 and floppy.drive is not None:         # implied seek
            floppy.step_to(self.at[0])
        if self._code in WRITES and floppy.drive is not None and floppy.drive.ready and floppy.drive.readonly:
            self._end(ST0_ABNORMAL, ST1_NOT_WRITABLE, 0, self.at)
            return
        if self._code == 0x02:
            self.at[2] = 1
        if self._code == 0x16 and self.bytes[1] & 0x80:             # VERIFY with a sector count
            self.left = self.bytes[8] or 256
        self._next_sector()

    def _next_sector(self) -> None:
        """Go on until something has to be waited for, or the command ends."""
        for _ in range(2 * 256):
            where = self._find_sector()
            if where is None:
                return
            code = self._code
            if code == 0x16:
                ended = self._verify_sector(where)
            elif self.hlt_nd & 1:
                self._move_by_fifo(where)
                return
            else:
                ended = self._move_by_dma(where)
            if ended:
                return
        self._end(ST0_ABNORMAL, ST1_END, 0, self.at)

    def _find_sector(self) -> int | None:
        """Where on the medium the sector is; None: it is not there, and the command has ended."""
        floppy = self.drives[self.bytes[1] & 3]
        found = self._readable(floppy, self.head)
        cylinder, head, sector, size = self.at
        if found is None:
            self._end(ST0_ABNORMAL, ST1_MISSING_MARK, 0, self.at)
            return None
        where = found.geometry.lba(floppy.cylinder, self.head, sector)
        assert floppy.drive is not None
        if cylinder != floppy.cylinder:
            self._end(ST0_ABNORMAL, ST1_NO_DATA, ST2_WRONG_CYLINDER, self.at)
        elif head != self.head or size != 2 or where is None or where >= floppy.drive.size_sectors:
            self._end(ST0_ABNORMAL, ST1_NO_DATA, 0, self.at)
        else:
            return where * SECTOR
        return None

    def _medium(self, action: Callable[[Drive], Any]) -> Any:
        """Use the medium; None: the host has failed, and the command has ended."""
        drive = self.drives[self.bytes[1] & 3].drive
        assert drive is not None
        try:
            return action(drive) or True
        except OSError:
            self._end(ST0_ABNORMAL, ST1_DATA_ERROR, ST2_DATA_ERROR, self.at)
            return None

    def _verify_sector(self, where: int) -> bool:
        if self._medium(lambda drive: drive.read(where, SECTOR)) is None:
            return True
        self.left -= 1 if self.left else 0
        return self._advance(bool(self.bytes[1] & 0x80) and not self.left)

    def _move_by_dma(self, where: int) -> bool:
        """One sector; true when the command has ended."""
        code = self._code
        if code in (*READS, 0x02):
            data = self._medium(lambda drive: drive.read(where, SECTOR))
            if data is None:
                return True
            moved = self.dma.to_memory(data)
        else:
            got = self.dma.from_memory(SECTOR)
            moved = len(got)
            if moved and code in WRITES and self._medium(lambda drive: drive.write(where, got.ljust(SECTOR, b"\0"))) is None:
                return True
            if moved and code in SCANS and self._scan(where, got):
                return True
        if not moved and not self.dma.terminal_count:
            self._end(ST0_ABNORMAL, ST1_OVERRUN, 0, self.at)
            return True
        return self._advance(self.dma.terminal_count)

    def _scan(self, where: int, data: bytes) -> bool:
        """Compare a sector with the host's data, FFh of either matches everything; true: the command has ended."""
        sector = self._medium(lambda drive: drive.read(where, SECTOR))
        if sector is None:
            return True
        pairs = [(disk, host) for disk, host in zip(sector, data, strict=False) if disk != 0xFF != host]
        differ = next((disk - host for disk, host in pairs if disk != host), 0)
        code = self._code
        if not differ or (code == 0x19 and differ < 0) or (code == 0x1D and differ > 0):
            self._end(0, 0, 0 if differ else ST2_HIT, self.at)
            return True
        return False

    def _move_by_fifo(self, where: int) -> None:
        """One sector without DMA: there is no terminal count then, so the command ends at EOT (5.1.1)."""
        self.where, self.position = where, 0
        if self._code in (*READS, 0x02):
            data = self._medium(lambda drive: drive.read(where, SECTOR))
            if data is None:
                return
            self.data, self.after = data, "_fifo_read"
        else:
            self.data, self.after = bytearray(SECTOR), "_fifo_written"
        self._interrupt(True)

    def _fifo_read(self, data: bytes) -> None:
        if not self._advance(False):
            self._next_sector()

    def _fifo_written(self, data: bytes) -> None:
        where = self.where
        if self._code in WRITES:
            if self._medium(lambda drive: drive.write(where, data)) is None:
                return
        elif self._scan(where, data):
            return
        if not self._advance(False):
            self._next_sector()

    def _advance(self, ended: bool) -> bool:
        """To the next sector (table 5-6); true when the command has ended, by its host or at the end of the track."""
        cylinder, head, sector, size = self.at
        code, multi = self._code, self.bytes[0] & MT and self._code != 0x02
        st0 = st1 = st2 = 0
        if code == 0x0C:                            # what is there is never deleted data: one sector, and the control mark
            ended, st2 = True, ST2_CONTROL_MARK
        if sector not in (self.last_eot, 0xFF):
            self.at[2] = sector + 1
        elif multi and not head & 1:
            self.at[1:3] = [head | 1, 1]
            self.head = 1
        else:
            self.at = [cylinder + 1 & 0xFF, head & ~1 if multi else head, 1, size]
            if not ended and code not in (*SCANS, 0x16):
                st0, st1 = ST0_ABNORMAL, ST1_END
            ended = True
        if ended:
            self._end(st0, st1, st2 | (ST2_NOT_SATISFIED if code in SCANS else 0), self.at)
        return ended

    def _format(self) -> None:
        """FORMAT TRACK: the host gives C, H, R, N of each sector; those that the geometry has are filled."""
        floppy, head = self._select()
        found = self._readable(floppy, head)
        count = self.bytes[3]
        self.at = [floppy.cylinder, head, 1, self.bytes[2]]
        if found is None:
            self._end(ST0_ABNORMAL, ST1_MISSING_MARK, 0, self.at)
            return
        assert floppy.drive is not None
        if floppy.drive.readonly:
            self._end(ST0_ABNORMAL, ST1_NOT_WRITABLE, 0, self.at)
            return
        if self.hlt_nd & 1:
            self.data, self.position, self.after = bytearray(4 * max(count, 1)), 0, "_format_fields"
            self._interrupt(True)
            return
        fields = self.dma.from_memory(4 * count)
        self._format_fields(fields)

    def _format_fields(self, fields: bytes) -> None:
        floppy, head = self._select()
        found = self._readable(floppy, head)
        if found is None or floppy.drive is None:
            self._end(ST0_ABNORMAL, ST1_MISSING_MARK, 0, self.at)
            return
        filler = bytes([self.bytes[5]]) * SECTOR
        for at in range(0, len(fields) - 3, 4):
            self.at = list(fields[at:at + 4])
            cylinder, side, sector, size = self.at
            where = found.geometry.lba(floppy.cylinder, head, sector)
            if (cylinder, side, size) != (floppy.cylinder, head, 2) or where is None or where >= floppy.drive.size_sectors:
                self._end(ST0_ABNORMAL, ST1_NO_DATA, 0, self.at)
                return
            if self._fill(where * SECTOR, filler) is None:
                return
        self._end(0, 0, 0, self.at)

    def _fill(self, where: int, filler: bytes) -> Any:
        return self._medium(lambda drive: drive.write(where, filler))

    # --- state ------------------------------------------------------------------------------------------------------------
    SAVED = ("locked", "dor", "tdr", "rate", "srt_hut", "hlt_nd", "perpendicular_mode", "interrupt", "config", "precompensation", "phase",
             "bytes", "results", "position", "after", "head", "where", "left", "last_eot", "seeking")

    def save(self) -> dict[str, Any]:
        now = self.timers.now()
        return {name: getattr(self, name) for name in self.SAVED} | {
            "data": bytes(self.data), "at": list(self.at), "waiting": list(self.waiting), "irq": self.irq.level,
            "drives": [(floppy.cylinder, floppy.changed) for floppy in self.drives],
            "events": {name: (deadline - now, what) for name, (deadline, what, _) in self.events.items()},
        }  # fmt: skip

    def load(self, state: dict[str, Any]) -> None:
        self._cancel()
        for name in self.SAVED:
            setattr(self, name, state[name])
        self.command = find(self.bytes[0]) if self.bytes else INVALID
        self.data, self.at, self.waiting = bytearray(state["data"]), list(state["at"]), list(state["waiting"])
        for floppy, (cylinder, changed) in zip(self.drives, state["drives"], strict=True):
            floppy.cylinder, floppy.changed = cylinder, changed
        for name, (delay, what) in state["events"].items():
            self._later(name, delay, *what)
        self.irq.level = bool(state["irq"])
