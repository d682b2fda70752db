"""What the PIIX3 has of the PC/AT's board: port 61h, port 92h, the NMI mask, the reset control register.

Intel 82371SB data sheet, 2.5 (NMI status and control 61h, NMI enable 70h bit 7, port 92h, reset control CF9h).  The speaker is not heard.
A20 is always on: the gate's bit is kept, and masks nothing, as on processors since Haswell.
"""

from collections.abc import Callable
from typing import Any

from xenfast.xen.hvm.bus import Region
from xenfast.xen.hvm.timers import Timers
from xenfast.xen.hvm.vpit import Pit

# Port 61h (NSC)
TIMER2_GATE, SPEAKER, PCI_SERR_OFF, IOCHK_OFF = 1, 2, 4, 8
REFRESH, TIMER2_OUT = 0x10, 0x20
REFRESH_NS = 15_085             # between toggles of the refresh bit

FAST_INIT, FAST_A20 = 1, 2      # port 92h
RESET_CPU, RESET_HARD = 4, 2    # port CF9h: a rising bit 2 resets; hard or soft
NMI_OFF = 0x80                  # port 70h


class Board:
    """``reset()`` restarts the machine, ``init()`` the processor only."""

    def __init__(self, timers: Timers, pit: Pit, rtc_index: Callable[[int, int, int], Any], reset: Callable[[], Any],
                 init: Callable[[], Any]) -> None:
        self.timers, self.pit, self.rtc_index, self._reset, self._init = timers, pit, rtc_index, reset, init
        self.nsc = Region(1, self._read_nsc, self._write_nsc, width=1, name="port 61h")
        self.port92 = Region(1, self._read_92, self._write_92, width=1, name="port 92h")
        self.reset_control = Region(1, self._read_rc, self._write_rc, width=1, name="reset control")        # CF9h
        self.nmi = Region(1, lambda offset, size: 0xFF, self._write_70, width=1, name="port 70h")
        self.reset()

    def reset(self) -> None:
        self.control = 0
        self.a20 = FAST_A20
        self.rc = 0
        self.nmi_off = False

    def _read_nsc(self, offset: int, size: int) -> int:
        refresh = REFRESH if self.timers.now() // REFRESH_NS & 1 else 0
        return self.control | refresh | (TIMER2_OUT if self.pit.out2() else 0)

    def _write_nsc(self, offset: int, size: int, value: int) -> None:
        self.control = value & (TIMER2_GATE | SPEAKER | PCI_SERR_OFF | IOCHK_OFF)
        self.pit.set_gate2(bool(value & TIMER2_GATE))

    def _read_92(self, offset: int, size: int) -> int:
        return self.a20

    def _write_92(self, offset: int, size: int, value: int) -> None:
        before, self.a20 = self.a20, value & (FAST_A20 | FAST_INIT)
        if value & FAST_INIT and not before & FAST_INIT:
            self._init()

    def set_a20(self, on: bool) -> None:
        """By the keyboard controller, whose bit is the other half of the gate."""
        self.a20 = self.a20 & ~FAST_A20 | (FAST_A20 if on else 0)

    def _read_rc(self, offset: int, size: int) -> int:
        return self.rc

    def _write_rc(self, offset: int, size: int, value: int) -> None:
        rises = value & RESET_CPU and not self.rc & RESET_CPU
        self.rc = value & (RESET_CPU | RESET_HARD)
        if rises:
            self.rc &= ~RESET_CPU
            self._reset()

    def _write_70(self, offset: int, size: int, value: int) -> None:
        self.nmi_off = bool(value & NMI_OFF)
        self.rtc_index(offset, size, value)

    def save(self) -> dict[str, Any]:
        return {"control": self.control, "a20": self.a20, "rc": self.rc, "nmi_off": self.nmi_off}

    def load(self, state: dict[str, Any]) -> None:
        self.control, self.a20, self.rc, self.nmi_off = state["control"], state["a20"], state["rc"], state["nmi_off"]
