"""INT 15h: system services.  Memory sizes, block moves, waits, A20, the way into protected mode, tables.

Functions as the IBM PS/2 and Personal Computer BIOS Interface Technical Reference and Ralf Brown's list have them; E820h as ACPI 6.3,
15.1, has it.  Mouse (C2h) is in pointing.py, power management (53h) in apm.py.
"""

from collections.abc import Callable
from typing import Any

from xenfast.firmware.bda import Area
from xenfast.firmware.bios_rom import CONFIGURATION, SEGMENT
from xenfast.firmware.portio import PortIo
from xenfast.firmware.traps import PG, VM, Call

UNSUPPORTED, INVALID = 0x86, 0x80
SMAP = 0x534D4150
US = 1000               # ns
TICK = 54_925_000       # ns between two interrupts of the timer: a wait that is shorter does not halt
A20_PORT, A20 = 0x92, 2
MAX_MOVE = 0x8000       # words
PIC = (0x20, 0x21), (0xA0, 0xA1)

E820Map = list[tuple[int, int, int]]        # start, size, type


class System:
    """``e820()`` gives the memory map; ``functions`` are extended by others (pointing.py, apm.py)."""

    def __init__(self, ports: PortIo, timers: Any, labels: dict[str, int], e820: Callable[[], E820Map]) -> None:
        self.ports, self.timers, self.labels, self.e820 = ports, timers, labels, e820
        self.deadline: int | None = None            # of a wait by function 86h
        self.event: Any = None                      # the timer of function 83h
        self.functions: dict[int, Callable[[Call], None]] = {
            0x24: self.a20, 0x41: self.unsupported, 0x4F: self.intercept, 0x52: self.eject_check, 0x80: self.nothing, 0x81: self.nothing,
            0x82: self.nothing, 0x83: self.event_wait, 0x84: self.joystick, 0x85: self.nothing, 0x86: self.wait, 0x87: self.move,
            0x88: self.extended_memory, 0x89: self.protected_mode, 0x90: self.device_busy, 0x91: self.nothing, 0xC0: self.configuration,
            0xC1: self.ebda_segment, 0xE8: self.memory_map,
        }   # fmt: skip

    def int15(self, call: Call) -> None:
        self.functions.get(call.ah, self.unsupported)(call)

    def unsupported(self, call: Call) -> None:
        call.ah, call.cf = UNSUPPORTED, True

    def nothing(self, call: Call) -> None:
        """For programs to hook: devices open and close, SysRq, something has completed."""
        call.ah, call.cf = 0, False

    def intercept(self, call: Call) -> None:
        """4Fh: the scan code in AL stays what it is."""
        call.cf = True

    def eject_check(self, call: Call) -> None:
        """52h: may the medium be ejected?  Nobody has said no."""
        call.ah, call.cf = 0, False

    def device_busy(self, call: Call) -> None:
        """90h: the caller waits itself."""
        call.ah, call.cf = 0, False

    def joystick(self, call: Call) -> None:
        """84h: there is no game port."""
        if call.dx == 0:
            call.al = 0
        elif call.dx == 1:
            call.ax = call.bx = call.cx = call.dx = 0
        self.unsupported(call)

    # --- A20 ---------------------------------------------------------------------------------------------------------
    def a20(self, call: Call) -> None:
        """24h: off, on, state, how it can be switched: by the keyboard controller and by port 92h."""
        function = call.al
        if function > 3:
            self.unsupported(call)
            return
        if function < 2:
            self.set_a20(bool(function))
        elif function == 2:
            call.al = int(bool(self.ports.inb(A20_PORT) & A20))
        else:
            call.bx = 3
        call.ah, call.cf = 0, False

    def set_a20(self, on: bool) -> None:
        value = self.ports.inb(A20_PORT)
        wanted = (value | A20 if on else value & ~A20) & ~1         # bit 0 resets the processor
        if wanted != value & ~1 or value == 0xFF:
            self.ports.outb(A20_PORT, wanted)

    # --- time --------------------------------------------------------------------------------------------------------
    def wait(self, call: Call) -> None:
        """86h: CX:DX microseconds."""
        now = self.timers.now()
        if self.deadline is None:
            if Area(call.mem).wait_flag & 1:
                call.cf, call.ah = True, 0x83               # function 83h is at it
                return
            self.deadline = now + (call.cx << 16 | call.dx) * US
        left = self.deadline - now
        if left <= 0:
            self.deadline = None
            call.ah, call.cf = 0, False
        elif left > TICK and not self.ports.inb(PIC[0][1]) & 1:
            call.wait()
        else:
            call.jump(SEGMENT, self.labels["int15_poll"])

    def event_wait(self, call: Call) -> None:
        """83h: bit 7 of the byte at ES:BX is set in CX:DX microseconds; AL = 1 cancels."""
        bda = Area(call.mem)
        if call.al == 1:
            self._cancel(bda)
            call.ah, call.cf = 0, False
            return
        if call.al or bda.wait_flag & 1:
            call.ah, call.cf = INVALID if call.al else 0, True
            return
        microseconds = call.cx << 16 | call.dx
        bda.wait_pointer, bda.wait_us, bda.wait_flag = call.es << 16 | call.bx, microseconds, 1
        self.event = self.timers.call_later(microseconds * US, self._event, call.hvm.physmem, call.linear("es", call.bx))
        call.ah, call.cf = 0, False

    def _cancel(self, bda: Area) -> None:
        if self.event is not None:
            self.event.cancel()
            self.event = None
        bda.wait_flag = 0

    def _event(self, mem: Any, linear: int) -> None:
        self.event = None
        mem.write_int(linear, 1, mem.read_int(linear, 1) | 0x80)
        Area(mem).wait_flag = 0x80

    def reset(self) -> None:
        if self.event is not None:
            self.event.cancel()
        self.deadline = self.event = None

    # --- memory ------------------------------------------------------------------------------------------------------
    def above_1m(self) -> tuple[int, int]:
        """RAM from 1 MiB on in one piece, and from 16 MiB on, in bytes."""
        size = 0
        for start, length, kind in sorted(self.e820()):
            if kind == 1 and start <= (1 << 20) + size < start + length:
                size = start + length - (1 << 20)
        return min(size, 15 << 20), max(0, size - (15 << 20))

    def extended_memory(self, call: Call) -> None:
        """88h: KiB from 1 MiB on; 63 MiB at most, which is what old programs expect never to overflow."""
        low, high = self.above_1m()
        call.ax, call.cf = min(low + high, 63 << 20) >> 10, False

    def memory_map(self, call: Call) -> None:
        """E801h, E820h, E881h."""
        function = call.al
        if function == 0x20 and call.edx == SMAP:
            self._e820(call)
        elif function in (0x01, 0x81):
            low, high = self.above_1m()
            if function == 0x81:
                call.eax = call.ecx = low >> 10
                call.ebx = call.edx = high >> 16
            else:
                call.ax = call.cx = low >> 10
                call.bx = call.dx = min(high >> 16, 0xFFFF)
            call.cf = False
        else:
            self.unsupported(call)

    def _e820(self, call: Call) -> None:
        entries, index = self.e820(), call.ebx
        if index >= len(entries) or call.ecx < 20:
            self.unsupported(call)
            return
        start, size, kind = entries[index]
        linear = call.linear("es", call.di)
        call.mem.write(linear, start.to_bytes(8, "little") + size.to_bytes(8, "little") + kind.to_bytes(4, "little"))
        if call.ecx >= 24:
            call.mem.write_int(linear + 20, 4, 1)           # ACPI 3.0 attributes: the entry is enabled
            call.ecx = 24
        else:
            call.ecx = 20
        call.eax, call.ebx, call.cf = SMAP, index + 1 if index + 1 < len(entries) else 0, False

    def move(self, call: Call) -> None:
        """87h: CX words, by source and target of the descriptors at ES:SI.  Interrupts wait, A20 is as it was."""
        if call.cx > MAX_MOVE:
            call.ah, call.cf, call.zf = 2, True, False
            return
        table = call.mem.read(call.linear("es", call.si), 0x30)
        source, target = descriptor_base(table[0x10:0x18]), descriptor_base(table[0x18:0x20])
        size = call.cx * 2
        if call.cpu.cr0 & PG:               # below a monitor: it does this itself if it means physical memory
            call.mem.write(target, call.mem.read(source, size))
        else:
            a20 = self.ports.inb(A20_PORT) & A20
            self.set_a20(True)
            call.mem.write(target, call.mem.read(source, size))
            if not a20:
                self.set_a20(False)
        call.ah, call.cf, call.zf = 0, False, True

    # --- protected mode ----------------------------------------------------------------------------------------------
    def protected_mode(self, call: Call) -> None:
        """89h: GDT and IDT of the table at ES:SI, interrupts at BH and BL, back to the caller with CS, DS, ES, SS of the table."""
        cpu = call.cpu
        if cpu.cr0 & 1 or cpu.rflags & VM:
            call.ah, call.cf = 0xFF, True
            return
        table = call.mem.read(call.linear("es", call.si), 0x40)
        for (command, data), first, cascade in ((PIC[0], call.bh, 4), (PIC[1], call.bl, 2)):
            self.ports.outs((command, 0x11), (data, first & 0xF8), (data, cascade), (data, 1), (data, 0xFF))
        self.set_a20(True)
        back = call.mem.read_int(call.stack_linear(), 2)            # the caller's IP
        call.sp += 6
        call.ah = 0
        cpu.set_table("gdtr", descriptor_base(table[8:16]), int.from_bytes(table[8:10], "little"))
        cpu.set_table("idtr", descriptor_base(table[16:24]), int.from_bytes(table[16:18], "little"))
        cpu.cr0 |= 1
        for name, at in (("ds", 0x18), ("es", 0x20), ("ss", 0x28), ("cs", 0x30)):
            raw = table[at:at + 8]
            cpu.set_segment(name, at, descriptor_base(raw), descriptor_limit(raw), raw[5] | (raw[6] & 0xF0) << 8)
        cpu.rip = back
        cpu.rflags = 2
        cpu.flush()

    # --- tables ------------------------------------------------------------------------------------------------------
    def configuration(self, call: Call) -> None:
        call.es, call.bx, call.ah, call.cf = SEGMENT, CONFIGURATION, 0, False

    def ebda_segment(self, call: Call) -> None:
        call.es, call.cf = Area(call.mem).ebda, False


def descriptor_base(raw: bytes) -> int:
    return int.from_bytes(raw[2:5], "little") | raw[7] << 24


def descriptor_limit(raw: bytes) -> int:
    limit = int.from_bytes(raw[0:2], "little") | (raw[6] & 15) << 16
    return limit << 12 | 0xFFF if raw[6] & 0x80 else limit
