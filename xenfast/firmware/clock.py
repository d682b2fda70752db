"""INT 08h, 1Ah and 70h: ticks, and the real-time clock (IBM PS/2 BIOS reference; MC146818 data sheet for the registers)."""

from datetime import datetime

from xenfast.firmware.bda import Area, vector
from xenfast.firmware.portio import PortIo
from xenfast.firmware.traps import Call

TICKS_A_DAY = 0x1800B0
SECONDS, SECONDS_ALARM, MINUTES, MINUTES_ALARM, HOURS, HOURS_ALARM, DAY, MONTH, YEAR = 0, 1, 2, 3, 4, 5, 7, 8, 9
A, B, C, D, CENTURY = 0x0A, 0x0B, 0x0C, 0x0D, 0x32
UPDATING, SET, PIE, AIE, DAYLIGHT, BINARY, HOURS_24 = 0x80, 0x80, 0x40, 0x20, 0x01, 0x04, 0x02
POLLS = 4
PIC2_MASK, PIC1_MASK = 0xA1, 0x21


def bcd(value: int) -> int:
    return value // 10 << 4 | value % 10


def from_bcd(value: int) -> int:
    return (value >> 4) * 10 + (value & 15)


class Clock:
    def __init__(self, ports: PortIo) -> None:
        self.ports = ports

    # --- INT 08h -----------------------------------------------------------------------------------------------------
    def tick(self, call: Call) -> None:
        bda = Area(call.mem)
        ticks = bda.ticks + 1
        if ticks >= TICKS_A_DAY:
            ticks = 0
            bda.midnight = min(bda.midnight + 1, 255)
        bda.ticks = ticks
        if bda.fdd_timeout:
            bda.fdd_timeout -= 1
            if not bda.fdd_timeout:
                bda.fdd_motor &= 0xF0
        call.ds = 0x40

    def set_ticks(self, bda: Area) -> None:
        """At power-on: from the time of day."""
        seconds = sum(from_bcd(self._register(r)) * unit for r, unit in ((HOURS, 3600), (MINUTES, 60), (SECONDS, 1)))
        bda.ticks = min(seconds * 0x1800B0 // 86400, TICKS_A_DAY - 1)
        bda.midnight = 0

    # --- INT 1Ah -----------------------------------------------------------------------------------------------------
    def int1a(self, call: Call) -> None:
        functions = (
            self.get_ticks, self.put_ticks, self.get_time, self.set_time, self.get_date, self.set_date, self.set_alarm, self.no_alarm,
        )   # fmt: skip
        if call.ah < len(functions):
            functions[call.ah](call)
        else:
            call.cf = True

    def get_ticks(self, call: Call) -> None:
        bda = Area(call.mem)
        ticks = bda.ticks
        call.cx, call.dx, call.al = ticks >> 16, ticks, bda.midnight
        bda.midnight = 0
        call.cf = False

    def put_ticks(self, call: Call) -> None:
        bda = Area(call.mem)
        bda.ticks, bda.midnight = call.cx << 16 | call.dx, 0
        call.cf = False

    def _register(self, index: int) -> int:
        """A register of the time, as BCD in 24 hours."""
        value, mode = self.ports.cmos(index), self.ports.cmos(B)
        if index == HOURS and not mode & HOURS_24:
            afternoon, value = value & 0x80, value & 0x7F
            hour = (value if mode & BINARY else from_bcd(value)) % 12 + (12 if afternoon else 0)
            return bcd(hour)
        return bcd(value % 100) if mode & BINARY else value

    def _stopped(self) -> bool:
        """Not in an update; a clock that is always in one does not work."""
        return any(not self.ports.cmos(A) & UPDATING for _ in range(POLLS)) and self.ports.cmos(D) & 0x80 != 0

    def get_time(self, call: Call) -> None:
        if not self._stopped():
            call.cf = True
            return
        call.ch, call.cl, call.dh = self._register(HOURS), self._register(MINUTES), self._register(SECONDS)
        call.dl = self.ports.cmos(B) & DAYLIGHT
        call.ah, call.cf = 0, False

    def get_date(self, call: Call) -> None:
        if not self._stopped():
            call.cf = True
            return
        year = self._register(YEAR)
        century = self.ports.cmos(CENTURY)
        if century not in (0x19, 0x20, 0x21):
            century = 0x19 if year >= 0x80 else 0x20
        call.ch, call.cl, call.dh, call.dl = century, year, self._register(MONTH), self._register(DAY)
        call.ah, call.cf = 0, False

    def _write(self, values: tuple[tuple[int, int], ...], keep: int = 0xFF) -> None:
        mode = self.ports.cmos(B)
        self.ports.set_cmos(B, mode | SET)
        for index, value in values:
            self.ports.set_cmos(index, from_bcd(value) if mode & BINARY and index != CENTURY else value)
        self.ports.set_cmos(B, mode & ~SET & keep)

    def set_time(self, call: Call) -> None:
        mode = self.ports.cmos(B)
        self.ports.set_cmos(B, mode & ~DAYLIGHT | HOURS_24 | call.dl & DAYLIGHT)
        self._write(((SECONDS, call.dh), (MINUTES, call.cl), (HOURS, call.ch)))
        call.ah, call.cf = 0, False

    def set_date(self, call: Call) -> None:
        self._write(((DAY, call.dl), (MONTH, call.dh), (YEAR, call.cl), (CENTURY, call.ch)))
        call.ah, call.cf = 0, False

    def set_alarm(self, call: Call) -> None:
        """06h: INT 4Ah at this time of day."""
        if self.ports.cmos(B) & AIE:
            call.cf = True
            return
        self._write(((SECONDS_ALARM, call.dh), (MINUTES_ALARM, call.cl), (HOURS_ALARM, call.ch)))
        self.ports.outs((PIC2_MASK, self.ports.inb(PIC2_MASK) & ~1), (PIC1_MASK, self.ports.inb(PIC1_MASK) & ~4))
        self.ports.set_cmos(B, self.ports.cmos(B) & ~SET | AIE)
        call.ah, call.cf = 0, False

    def no_alarm(self, call: Call) -> None:
        self.ports.set_cmos(B, self.ports.cmos(B) & ~AIE)
        call.ah, call.cf = 0, False

    # --- INT 70h -----------------------------------------------------------------------------------------------------
    def interrupt(self, call: Call) -> None:
        """CF tells the stub that the alarm is due and somebody has taken INT 4Ah."""
        cause = self.ports.cmos(C) & self.ports.cmos(B)
        call.stub_cf(cause & AIE and vector(call.mem, 0x4A))


def now(clock: Clock) -> datetime | None:
    """The real-time clock as a date; None while it shows none."""
    read = clock._register
    try:
        return datetime(from_bcd(clock.ports.cmos(CENTURY)) * 100 + from_bcd(read(YEAR)), from_bcd(read(MONTH)), from_bcd(read(DAY)),
                        from_bcd(read(HOURS)), from_bcd(read(MINUTES)), from_bcd(read(SECONDS)))
    except ValueError:
        return None
