"""The 16550A serial port.

National Semiconductor PC16550D data sheet: registers (8.0), FIFO operation, interrupts, loopback.  What is sent leaves at once,
however the baud rate is set, so the transmitter is always empty; what is received is held back until there is room in the FIFO, so
nothing that the host types is lost to an overrun.  Left out: parity, framing and overrun errors, DMA mode, the time a character takes.
"""

from collections import deque
from collections.abc import Callable
from typing import Any

from xenfast.xen.hvm.bus import Region
from xenfast.xen.hvm.irq import Line
from xenfast.xen.hvm.timers import Timers

RBR = THR = DLL = 0
IER = DLM = 1
IIR = FCR = 2
LCR, MCR, LSR, MSR, SCR = 3, 4, 5, 6, 7

IER_RDI, IER_THRI, IER_RLSI, IER_MSI = 1, 2, 4, 8
IIR_NONE, IIR_MSI, IIR_THRI, IIR_RDI, IIR_RLSI, IIR_TIMEOUT, IIR_FIFO = 0x01, 0x00, 0x02, 0x04, 0x06, 0x0C, 0xC0
FCR_ENABLE, FCR_CLEAR_RECEIVER = 0x01, 0x02
LCR_BREAK, LCR_DLAB = 0x40, 0x80
MCR_DTR, MCR_RTS, MCR_OUT1, MCR_OUT2, MCR_LOOP = 1, 2, 4, 8, 16
LSR_DR, LSR_OE, LSR_BI, LSR_THRE, LSR_TEMT = 0x01, 0x02, 0x10, 0x20, 0x40
MSR_DCTS, MSR_DDSR, MSR_TERI, MSR_DDCD, MSR_CTS, MSR_DSR, MSR_RI, MSR_DCD = (1 << n for n in range(8))

FIFO_SIZE = 16
TRIGGERS = (1, 4, 8, 14)                # FCR 7:6
TIMEOUT = 400_000                       # ns: four characters at 115,200 baud
WAITING_LIMIT = 1 << 20                 # characters of the host's that wait for room


class Uart:
    """``output(bytes)`` gets what the guest sends, ``receive(bytes)`` gives it what comes in."""

    def __init__(self, timers: Timers, irq: Line, output: Callable[[bytes], Any] | None = None) -> None:
        self.timers, self.irq, self.output = timers, irq, output
        self.waiting: deque[int] = deque()      # beyond the FIFO
        self._timer: Any = None
        self.region = Region(8, self.read, self.write, width=1, name="16550A")
        self.reset()

    def reset(self) -> None:
        self.fifo: deque[int] = deque()
        self.ier = self.lcr = self.mcr = self.scr = self.fcr = 0
        self.divisor = 12
        self.lsr = 0                            # of its bits: OE, BI
        self.msr = MSR_DCD | MSR_DSR | MSR_CTS
        self.thri = self.timeout = False
        self._stop_timer()
        self.irq.set(False)

    # --- from outside ---------------------------------------------------------------------------------------------------
    def receive(self, data: bytes) -> None:
        """Characters from the line, with the lock held; they wait until the guest has taken those before."""
        room = WAITING_LIMIT - len(self.waiting)
        self.waiting.extend(data[:max(0, room)])
        self._refill()
        self._update()

    def send_break(self) -> None:
        """The line is held low: a zero and BI."""
        self.lsr |= LSR_BI
        self._push(0)
        self._update()

    # --- the receiver ----------------------------------------------------------------------------------------------------
    def _capacity(self) -> int:
        return FIFO_SIZE if self.fcr & FCR_ENABLE else 1

    def _push(self, value: int) -> None:
        if len(self.fifo) < self._capacity():
            self.fifo.append(value)
        else:
            self.lsr |= LSR_OE
            if not self.fcr & FCR_ENABLE:
                self.fifo[0] = value

    def _refill(self) -> None:
        if self.mcr & MCR_LOOP:
            return
        moved = False
        while self.waiting and len(self.fifo) < self._capacity():
            self.fifo.append(self.waiting.popleft())
            moved = True
        if moved:
            self._received()

    def _received(self) -> None:
        """Below the trigger level the interrupt comes when nothing else has come for the time of four characters."""
        self._stop_timer()
        if self.fcr & FCR_ENABLE and self.ier & IER_RDI and self.fifo and len(self.fifo) < self._trigger() and not self.timeout:
            self._timer = self.timers.call_later(TIMEOUT, self._timed_out)

    def _timed_out(self) -> None:
        self._timer = None
        if self.fifo:
            self.timeout = True
            self._update()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _trigger(self) -> int:
        return TRIGGERS[self.fcr >> 6] if self.fcr & FCR_ENABLE else 1

    # --- interrupts -----------------------------------------------------------------------------------------------------
    def _identification(self) -> int:
        """IIR without the FIFO bits: the most urgent of what is pending and enabled (table IV)."""
        if self.ier & IER_RLSI and self.lsr:
            return IIR_RLSI
        if self.ier & IER_RDI and self.fifo:
            if len(self.fifo) >= self._trigger():
                return IIR_RDI
            if self.timeout:
                return IIR_TIMEOUT
        if self.ier & IER_THRI and self.thri:
            return IIR_THRI
        if self.ier & IER_MSI and self.msr & 0x0F:
            return IIR_MSI
        return IIR_NONE

    def _update(self) -> None:
        self.irq.set(self._identification() != IIR_NONE and self.mcr & (MCR_OUT2 | MCR_LOOP) == MCR_OUT2)

    # --- registers --------------------------------------------------------------------------------------------------------
    def read(self, offset: int, size: int) -> int:
        if self.lcr & LCR_DLAB and offset in (DLL, DLM):
            return self.divisor >> 8 * offset & 0xFF
        if offset == RBR:
            return self._take()
        if offset == IER:
            return self.ier
        if offset == IIR:
            value = self._identification()
            if value == IIR_THRI:
                self.thri = False
                self._update()
            return value | (IIR_FIFO if self.fcr & FCR_ENABLE else 0)
        if offset == LSR:
            value = self.lsr | LSR_THRE | LSR_TEMT | (LSR_DR if self.fifo else 0)
            self.lsr = 0
            self._update()
            return value
        if offset == MSR:
            return self._read_msr()
        return {LCR: self.lcr, MCR: self.mcr, SCR: self.scr}[offset]

    def _take(self) -> int:
        value = self.fifo.popleft() if self.fifo else 0
        self.timeout = False
        if not self.fifo:               # the line goes low before more comes: interrupt controllers wait for an edge
            self._update()
            self._refill()
        self._received()
        self._update()
        return value

    def _lines(self) -> int:
        """MSR 7:4; in loopback they are MCR's outputs (8.6.7)."""
        if not self.mcr & MCR_LOOP:
            return MSR_DCD | MSR_DSR | MSR_CTS
        m = self.mcr
        return (m & MCR_RTS) << 3 | (m & MCR_DTR) << 5 | (m & MCR_OUT1) << 4 | (m & MCR_OUT2) << 4

    def _read_msr(self) -> int:
        value, self.msr = self.msr, self.msr & 0xF0
        self._update()
        return value

    def write(self, offset: int, size: int, value: int) -> None:
        value &= 0xFF
        if self.lcr & LCR_DLAB and offset in (DLL, DLM):
            shift = 8 * offset
            self.divisor = self.divisor & ~(0xFF << shift) | value << shift
        elif offset == THR:
            self._send(value)
        elif offset == IER:
            if value & ~self.ier & IER_THRI:
                self.thri = True
            self.ier = value & 0x0F
            self._received()
        elif offset == FCR:
            self._write_fcr(value)
        elif offset == LCR:
            self.lcr = value
        elif offset == MCR:
            self._write_mcr(value & 0x1F)
        elif offset == SCR:
            self.scr = value
        self._update()

    def _send(self, value: int) -> None:
        self.thri = True
        if self.mcr & MCR_LOOP:
            self._push(value)
            self._received()
        elif self.output is not None:
            self.output(bytes((value,)))

    def _write_fcr(self, value: int) -> None:
        if (value ^ self.fcr) & FCR_ENABLE or value & FCR_CLEAR_RECEIVER:
            self.fifo.clear()
            self.timeout = False
        self.fcr = value & 0xC9 if value & FCR_ENABLE else 0
        self._refill()
        self._received()

    def _write_mcr(self, value: int) -> None:
        self.mcr = value
        old, new = self.msr & 0xF0, self._lines()
        changed = (old ^ new) >> 4
        delta = changed & (MSR_DCTS | MSR_DDSR | MSR_DDCD) | (MSR_TERI if old & ~new & MSR_RI else 0)
        self.msr = new | self.msr & 0x0F | delta
        self._refill()

    FIELDS = ("ier", "lcr", "mcr", "scr", "fcr", "divisor", "lsr", "msr", "thri", "timeout")

    def save(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.FIELDS} | {"fifo": bytes(self.fifo), "waiting": bytes(self.waiting)}

    def load(self, state: dict[str, Any]) -> None:
        for name in self.FIELDS:
            setattr(self, name, state[name])
        self.fifo, self.waiting = deque(state["fifo"]), deque(state["waiting"])
        self._received()
        self._update()
