"""The MC146818 real-time clock and 256 bytes of CMOS memory.

Motorola MC146818A data sheet; the second bank of 128 bytes at ports 72h and 73h and the century at 32h are a PC's (82371AB data
sheet, 11).  The time is that of the machine's clock plus an offset, and setting it changes the offset.  There is a timer only while an
interrupt is enabled; flags that nobody waits for are computed when register C is read.  Daylight saving and the square wave are
kept as bits only.
"""

import calendar
import time
from typing import Any

from xenfast.xen.hvm.bus import Region
from xenfast.xen.hvm.irq import Line
from xenfast.xen.hvm.timers import Timers
from xenfast.xen.hvm.vpt import NO_DELAY_FOR_MISSED_TICKS, Ticks

SECONDS, SECONDS_ALARM, MINUTES, MINUTES_ALARM, HOURS, HOURS_ALARM, DAY_OF_WEEK, DAY, MONTH, YEAR = range(10)
REG_A, REG_B, REG_C, REG_D = 0x0A, 0x0B, 0x0C, 0x0D
CENTURY = 0x32
TIME = frozenset((SECONDS, MINUTES, HOURS, DAY_OF_WEEK, DAY, MONTH, YEAR, CENTURY))

A_UIP, A_DV, A_DV_RUN, A_RS = 0x80, 0x70, 0x20, 0x0F
B_SET, B_PIE, B_AIE, B_UIE, B_SQWE, B_DM, B_24, B_DSE = 0x80, 0x40, 0x20, 0x10, 0x08, 0x04, 0x02, 0x01
C_IRQF, C_PF, C_AF, C_UF = 0x80, 0x40, 0x20, 0x10
D_VRT = 0x80

SECOND = 10**9
UIP_NS = 244_000                # UIP is set so long before an update
CRYSTAL = 32768
DAY_SECONDS = 86400


class Rtc:
    """Ports 70h to 73h.  ``irq`` is IRQ 8; ``offset`` seconds (rtc_timeoffset, localtime) are added to the wall clock."""

    def __init__(self, timers: Timers, irq: Line, offset: int = 0, mode: int = NO_DELAY_FOR_MISSED_TICKS) -> None:
        self.timers, self.irq = timers, irq
        self.wall_at_zero = timers.loop.clock.wall_at_zero + offset * SECOND     # ns since 1970 at time 0, as the guest has it
        self.cmos = bytearray(256)
        self.index, self.index2 = 0, 128
        self.ticks = Ticks(timers, self._periodic, mode)
        self._timer: Any = None
        self.region = Region(4, self.read, self.write, width=1, name="RTC")
        self.cmos[REG_A], self.cmos[REG_B], self.cmos[REG_D] = 0x26, B_24, D_VRT
        self.flags = 0                          # of register C, without IRQF
        self._seen = self._wall()               # until when flags have been computed
        self._to_registers()

    def reset(self) -> None:
        """RESET clears interrupt enables, flags and the square wave; time and memory are kept by the battery."""
        self.cmos[REG_B] &= ~(B_PIE | B_AIE | B_UIE | B_SQWE)
        self.flags = self.index = 0
        self._seen = self._wall()
        self._schedule()

    # --- time ---------------------------------------------------------------------------------------------------------------
    def _wall(self) -> int:
        return self.wall_at_zero + self.timers.now()

    @property
    def runs(self) -> bool:
        """Are there updates?  Not while it is being set or the divider is held."""
        return not self.cmos[REG_B] & B_SET and self.cmos[REG_A] & A_DV == A_DV_RUN

    def _encode(self, value: int) -> int:
        return value if self.cmos[REG_B] & B_DM else value // 10 << 4 | value % 10

    def _decode(self, value: int) -> int:
        return value if self.cmos[REG_B] & B_DM else (value >> 4) * 10 + (value & 15)

    def _encode_hour(self, hour: int) -> int:
        if self.cmos[REG_B] & B_24:
            return self._encode(hour)
        return self._encode((hour + 11) % 12 + 1) | (0x80 if hour >= 12 else 0)

    def _decode_hour(self, value: int) -> int:
        if self.cmos[REG_B] & B_24:
            return self._decode(value)
        return self._decode(value & 0x7F) % 12 + (12 if value & 0x80 else 0)

    def _to_registers(self) -> None:
        """The registers show the time."""
        t = time.gmtime(self._wall() // SECOND % (253402300800))       # the year 9999 is the last
        c, e = self.cmos, self._encode
        c[SECONDS], c[MINUTES], c[HOURS] = e(t.tm_sec), e(t.tm_min), self._encode_hour(t.tm_hour)
        c[DAY_OF_WEEK], c[DAY], c[MONTH] = e((t.tm_wday + 1) % 7 + 1), e(t.tm_mday), e(t.tm_mon)
        c[YEAR], c[CENTURY] = e(t.tm_year % 100), e(t.tm_year // 100)

    def _from_registers(self) -> None:
        """The time goes on from what the registers show; nonsense is taken as far as a calendar can."""
        c, d = self.cmos, self._decode
        year = max(1970, min(d(c[CENTURY]) * 100 + d(c[YEAR]), 9998))
        month = max(1, min(d(c[MONTH]), 12))
        days = calendar.timegm((year, month, 1, 0, 0, 0)) // DAY_SECONDS + max(d(c[DAY]), 1) - 1
        seconds = days * DAY_SECONDS + self._decode_hour(c[HOURS]) * 3600 + d(c[MINUTES]) * 60 + d(c[SECONDS])
        self.wall_at_zero += seconds * SECOND - (self._wall() - self._wall() % SECOND)
        self._seen = self._wall()

    # --- registers -----------------------------------------------------------------------------------------------------------
    def read(self, offset: int, size: int) -> int:
        if offset == 1:
            return self._read_register(self.index)
        return self.cmos[self.index2] if offset == 3 else 0xFF

    def write(self, offset: int, size: int, value: int) -> None:
        value &= 0xFF
        if offset == 0:
            self.index = value & 0x7F
        elif offset == 1:
            self._write_register(self.index, value)
        elif offset == 2:
            self.index2 = value | 0x80
        else:
            self.cmos[self.index2] = value

    def _read_register(self, index: int) -> int:
        if index in TIME and self.runs:
            self._to_registers()
        elif index == REG_A:
            uip = self.runs and SECOND - self._wall() % SECOND <= UIP_NS
            return self.cmos[REG_A] & ~A_UIP | (A_UIP if uip else 0)
        elif index == REG_C:
            self._catch_up()
            value, self.flags = self._flags(), 0
            self.irq.set(False)
            self._schedule()
            return value
        return self.cmos[index]

    def _write_register(self, index: int, value: int) -> None:
        if index in (REG_C, REG_D):
            return
        self._catch_up()
        if index in TIME:
            if self.runs:
                self._to_registers()
            self.cmos[index] = value
            if self.runs:
                self._from_registers()
                self._schedule()
        elif index in (REG_A, REG_B):
            self._write_control(index, value)
        else:
            self.cmos[index] = value
            if index in (SECONDS_ALARM, MINUTES_ALARM, HOURS_ALARM):
                self._schedule()

    def _write_control(self, index: int, value: int) -> None:
        ran = self.runs
        if ran:
            self._to_registers()
        if index == REG_A:
            value &= ~A_UIP
            released = self.cmos[REG_A] & 0x60 == 0x60 and value & A_DV == A_DV_RUN
        else:
            released = False
            if value & B_SET:
                value &= ~B_UIE
        self.cmos[index] = value
        if self.runs and not ran:
            self._from_registers()
            if released:                        # the first update comes half a second after the divider's reset
                self.wall_at_zero += SECOND // 2 - self._wall() % SECOND
                self._seen = self._wall()
        self._interrupt()
        self._schedule()

    # --- interrupts -----------------------------------------------------------------------------------------------------------
    def _flags(self) -> int:
        return self.flags | (C_IRQF if self.flags & self.cmos[REG_B] & (C_PF | C_AF | C_UF) else 0)

    def _interrupt(self) -> None:
        self.irq.set(self._flags() & C_IRQF)

    def period(self) -> int:
        """Of the periodic interrupt, in cycles of the crystal; 0: none (data sheet, table 5)."""
        rate = self.cmos[REG_A] & A_RS
        if not rate or self.cmos[REG_A] & A_DV != A_DV_RUN:
            return 0
        return 1 << (rate + 6 if rate <= 2 else rate - 1)

    def _next_alarm(self, after: int) -> int | None:
        """The first second after this one at which the alarm goes off; C0h to FFh match anything."""
        hour, minute, second = (self.cmos[n] for n in (HOURS_ALARM, MINUTES_ALARM, SECONDS_ALARM))
        hours = range(24) if hour >= 0xC0 else [self._decode_hour(hour)]
        minutes = range(60) if minute >= 0xC0 else [self._decode(minute)]
        seconds = range(60) if second >= 0xC0 else [self._decode(second)]
        if hours[0] > 23 or minutes[0] > 59 or seconds[0] > 59:
            return None
        t = after + 1
        while t % 60 not in seconds:
            t += 1
        while t // 60 % 60 not in minutes:
            t = t - t % 60 + 60 + seconds[0]
        while t // 3600 % 24 not in hours:
            t = t - t % 3600 + 3600 + minutes[0] * 60 + seconds[0]
        return t

    def _catch_up(self) -> None:
        """Set the flags of what has happened since this was done last."""
        now, before = self._wall(), self._seen
        if now <= before:
            return
        self._seen = now
        period = self.period()
        if period and now * CRYSTAL // (period * SECOND) > before * CRYSTAL // (period * SECOND):
            self.flags |= C_PF
        if self.runs and now // SECOND > before // SECOND:
            self.flags |= C_UF
            alarm = self._next_alarm(before // SECOND)
            if alarm is not None and alarm <= now // SECOND:
                self.flags |= C_AF

    def _periodic(self) -> None:
        self.flags |= C_PF
        self.irq.set(False)             # ticks are edges, even if register C is not read in between
        self._interrupt()

    def _update(self) -> None:
        self._timer = None
        self._catch_up()
        self._interrupt()
        self._schedule()

    def _schedule(self) -> None:
        """Timers for the interrupts that are enabled and have not been raised yet."""
        b, now = self.cmos[REG_B], self._wall()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self.runs and b & (B_UIE | B_AIE):
            alarm = self._next_alarm(now // SECOND) if b & B_AIE and not self.flags & C_AF else None
            second = now // SECOND + 1 if b & B_UIE and not self.flags & C_UF else alarm
            if second is not None:
                self._timer = self.timers.call_at(second * SECOND - self.wall_at_zero, self._update)
        period = self.period() if b & B_PIE else 0
        if (period, self.wall_at_zero) != getattr(self, "_ticking", None) or not self.ticks.running:
            self._ticking = period, self.wall_at_zero
            if period:
                self.ticks.every(-(self.wall_at_zero % SECOND), period * SECOND, CRYSTAL)
            else:
                self.ticks.stop()

    # --- for firmware and the machine --------------------------------------------------------------------------------------------
    def set_checksum(self) -> None:
        """Of 10h to 2Dh, which a BIOS keeps at 2Eh and 2Fh."""
        total = sum(self.cmos[0x10:0x2E])
        self.cmos[0x2E], self.cmos[0x2F] = total >> 8 & 0xFF, total & 0xFF

    def save(self) -> dict[str, Any]:
        if self.runs:
            self._to_registers()
        self._catch_up()
        return {"cmos": bytes(self.cmos), "index": self.index, "index2": self.index2, "flags": self.flags, "wall": self._wall(),
                "irq": self.irq.level}

    def load(self, state: dict[str, Any]) -> None:
        """Guest time goes on where it was."""
        self.cmos[:] = state["cmos"]
        self.index, self.index2, self.flags = state["index"], state["index2"], state["flags"]
        self.wall_at_zero += state["wall"] - self._wall()
        self._seen = self._wall()
        self._schedule()
        self.irq.set(state["irq"])
