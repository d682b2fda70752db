"""INT 15h/53h: Advanced Power Management BIOS 1.2, as much as a machine without batteries needs: idle, standby, power off.

Connected in real mode, or in 16- or 32-bit protected mode by the far entry in ROM.
"""

from collections.abc import Callable

from xenfast.firmware.bda import ebda
from xenfast.firmware.bios_rom import SEGMENT
from xenfast.firmware.int15 import System
from xenfast.firmware.traps import Call

DISABLED, ALREADY, NOT_CONNECTED, BAD_DEVICE, BAD_VALUE, CANNOT, NO_EVENT, UNSUPPORTED = 0x01, 0x02, 0x03, 0x09, 0x0A, 0x60, 0x80, 0x86
ALL_DEVICES, BIOS = 0x0001, 0x0000
OFF, SUSPEND, STANDBY = 3, 2, 1
FLAGS = 0x0003              # 16- and 32-bit interface there


class Apm:
    """``power_off`` is what state 3 for all devices does."""

    def __init__(self, system: System, labels: dict[str, int], power_off: Callable[[], None]) -> None:
        self.labels, self.power_off = labels, power_off
        system.functions[0x53] = self.apm

    def far(self, call: Call) -> None:
        """The far entry of protected mode; flags are live."""
        call.flags_at = None
        self.apm(call)

    def apm(self, call: Call) -> None:
        functions = {
            0x00: self.present, 0x01: self.connect, 0x02: self.connect, 0x03: self.connect, 0x04: self.disconnect, 0x05: self.idle,
            0x06: self.nothing, 0x07: self.set_state, 0x08: self.nothing, 0x09: self.nothing, 0x0A: self.power_status, 0x0B: self.event,
            0x0C: self.get_state, 0x0D: self.nothing, 0x0E: self.version, 0x0F: self.nothing,
        }   # fmt: skip
        status = functions[call.al](call) if call.al in functions else UNSUPPORTED
        call.cf = status != 0
        if status:
            call.ah = status

    def present(self, call: Call) -> int:
        if call.bx != BIOS:
            return BAD_DEVICE
        call.ax, call.bx, call.cx = 0x0102, 0x504D, FLAGS
        return 0

    def connect(self, call: Call) -> int:
        area = ebda(call.mem)
        if call.bx != BIOS:
            return BAD_DEVICE
        if area.apm:
            return ALREADY
        area.apm = call.al
        entry = self.labels["apm"]
        if call.al == 2:
            call.ax, call.bx, call.cx, call.si, call.di = SEGMENT, entry, SEGMENT, 0xFFFF, 0xFFFF
        elif call.al == 3:
            call.ax, call.ebx, call.cx, call.dx = SEGMENT, entry, SEGMENT, SEGMENT
            call.esi, call.di = 0xFFFFFFFF, 0xFFFF
        return 0

    def disconnect(self, call: Call) -> int:
        area = ebda(call.mem)
        if not area.apm:
            return NOT_CONNECTED
        area.apm = 0
        return 0

    def version(self, call: Call) -> int:
        call.ax = 0x0102 if call.cx >= 0x0102 else 0x0100 | min(call.cl, 2)
        return 0

    def idle(self, call: Call) -> int:
        """05h: nothing to do.  The caller halts itself: this is called with interrupts off as well."""
        return 0

    def nothing(self, call: Call) -> int:
        return 0

    def set_state(self, call: Call) -> int:
        if call.bx == ALL_DEVICES and call.cx == OFF:
            self.power_off()
            return 0
        return 0 if call.cx in (0, STANDBY) else CANNOT

    def get_state(self, call: Call) -> int:
        call.cx = 0
        return 0

    def power_status(self, call: Call) -> int:
        """0Ah: on the mains, no battery."""
        if call.bx not in (ALL_DEVICES, 0x8001):
            return BAD_DEVICE
        call.bx, call.cx, call.dx, call.si = 0x01FF, 0x80FF, 0xFFFF, 0
        return 0

    def event(self, call: Call) -> int:
        return NO_EVENT
