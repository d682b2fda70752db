"""INT 14h (serial ports) and 17h (printers), by the ports that power-on has found (IBM PS/2 BIOS reference)."""

from typing import Any

from xenfast.firmware.bda import Area
from xenfast.firmware.portio import PortIo
from xenfast.firmware.traps import Call

BAUD = (110, 150, 300, 600, 1200, 2400, 4800, 9600)
EXTENDED_BAUD = (110, 150, 300, 600, 1200, 2400, 4800, 9600, 19200)
CLOCK = 115200
THR, IER, LCR, MCR, LSR, MSR = 0, 1, 3, 4, 5, 6
DATA_READY, THR_EMPTY = 0x01, 0x20
DTR, RTS = 1, 2
TIMEOUT = 0x80
SECOND = 1_000_000_000

LPT_BUSY, LPT_ACK, LPT_IO_ERROR, LPT_TIMEOUT = 0x80, 0x40, 0x08, 0x01


class Serial:
    def __init__(self, ports: PortIo, timers: Any) -> None:
        self.ports, self.timers = ports, timers
        self.deadline: int | None = None

    def int14(self, call: Call) -> None:
        functions = (self.initialize, self.send, self.receive, self.status, self.extended_initialize, self.modem)
        base = Area(call.mem).get("com", call.dx) if call.dx < 4 else 0
        if not base:
            call.ah = TIMEOUT
            return
        if call.ah < len(functions):
            functions[call.ah](call, base)

    def _line(self, base: int, rate: int, control: int) -> None:
        divisor = CLOCK // rate
        self.ports.outs((base + LCR, control | 0x80), (base + THR, divisor), (base + IER, divisor >> 8), (base + LCR, control),
                        (base + IER, 0))

    def initialize(self, call: Call, base: int) -> None:
        self._line(base, BAUD[call.al >> 5], call.al & 0x1F)
        self.status(call, base)

    def extended_initialize(self, call: Call, base: int) -> None:
        """04h: break, parity, stop bits, length, rate in AL, BH, BL, CH, CL."""
        if call.cl >= len(EXTENDED_BAUD) or call.bh > 4 or call.ch > 3:
            call.ah = TIMEOUT
            return
        parity = (0, 1, 3, 5, 7)[call.bh] << 3
        self._line(base, EXTENDED_BAUD[call.cl], call.ch | (4 if call.bl else 0) | parity | (0x40 if call.al else 0))
        self.status(call, base)

    def status(self, call: Call, base: int) -> None:
        call.ah, call.al = self.ports.inb(base + LSR), self.ports.inb(base + MSR)

    def _wait(self, call: Call, base: int, bit: int) -> bool | None:
        """Until a bit of the line status is set: True, None after the time-out, False: ask again."""
        if self.ports.inb(base + LSR) & bit:
            self.deadline = None
            return True
        now = self.timers.now()
        if self.deadline is None:
            self.deadline = now + (Area(call.mem).get("com_timeout", call.dx) or 1) * SECOND
        if now < self.deadline:
            call.wait()
            return False
        self.deadline = None
        call.ah = self.ports.inb(base + LSR) | TIMEOUT
        return None

    def send(self, call: Call, base: int) -> None:
        self.ports.outb(base + MCR, self.ports.inb(base + MCR) | DTR | RTS)
        if self._wait(call, base, THR_EMPTY):
            self.ports.outb(base + THR, call.al)
            call.ah = self.ports.inb(base + LSR) & 0x7F

    def receive(self, call: Call, base: int) -> None:
        self.ports.outb(base + MCR, self.ports.inb(base + MCR) | DTR)
        if self._wait(call, base, DATA_READY):
            call.ah = self.ports.inb(base + LSR) & 0x1E        # errors only
            call.al = self.ports.inb(base + THR)

    def modem(self, call: Call, base: int) -> None:
        """05h: the modem control register, read or written."""
        if call.al == 0:
            call.bl = self.ports.inb(base + MCR)
        elif call.al == 1:
            self.ports.outb(base + MCR, call.bl & 0x1F)
        self.status(call, base)

    # --- printers ----------------------------------------------------------------------------------------------------
    def int17(self, call: Call) -> None:
        base = Area(call.mem).get("lpt", call.dx) if call.dx < 3 else 0
        if not base:
            call.ah = LPT_TIMEOUT | LPT_IO_ERROR
            return
        if call.ah == 0:
            self.ports.outs((base, call.al), (base + 2, 0x0D), (base + 2, 0x0C))        # strobe
        elif call.ah == 1:
            self.ports.outs((base + 2, 0x08), (base + 2, 0x0C))                         # reset
        elif call.ah != 2:
            return
        call.ah = (self.ports.inb(base + 1) ^ (LPT_ACK | LPT_IO_ERROR)) & 0xF8
