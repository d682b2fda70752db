"""How firmware in Python is reached: a stub in ROM writes to the firmware's port, and the place of the stub says what it wants.

The port is ``TRAP_PORT``; what is written to it does not matter, and neither does which register held it: a function is bound
to the linear address behind the OUT.  So a stub spoils no register, a guest that writes to the port from anywhere else
reaches nothing, and virtual-8086 mode works as real mode does.

A function gets a ``Call``: the registers, the memory the guest sees, and the FLAGS image in the frame of the INT, which becomes
the caller's flags by IRET.  The flags of the stub itself (``wait()``, ``again()``) tell it what to do next: by convention CF set
means "not yet": the stub lets interrupts in, halts, and asks again.
"""

import logging
from collections.abc import Callable
from typing import Any

from xenfast import _core
from xenfast.xen.hvm.bus import Region

log = logging.getLogger("xenfast")

TRAP_PORT = 0xE4            # no device of a PC has it
CF, ZF, TF, IF, VM = 1 << 0, 1 << 6, 1 << 8, 1 << 9, 1 << 17
PE, PG = 1 << 0, 1 << 31    # of CR0

Handler = Callable[["Call"], None]


def _register(name: str, shift: int, bits: int) -> property:
    """A register or a part of one; the other bits of it stay as they are."""
    mask = (1 << bits) - 1
    keep = ~(mask << shift)

    def get(self: "Call") -> int:
        return getattr(self.cpu, name) >> shift & mask

    def put(self: "Call", value: int) -> None:
        setattr(self.cpu, name, getattr(self.cpu, name) & keep | (value & mask) << shift)

    return property(get, put)


def _segment(name: str) -> property:
    """A segment register: reading gives the selector, writing loads it as real mode does (limits and rights stay)."""

    def get(self: "Call") -> int:
        return self.cpu.segment(name)[0]

    def put(self: "Call", value: int) -> None:
        _, _, limit, attr = self.cpu.segment(name)
        self.cpu.set_segment(name, value & 0xFFFF, (value & 0xFFFF) << 4, limit, attr)

    return property(get, put)


class Memory:
    """Guest memory by linear address, as the code that runs now sees it.  What is not there reads as ones and swallows writes."""

    def __init__(self, hvm: Any, cpu: Any) -> None:
        self.hvm, self.cpu = hvm, cpu

    def read(self, linear: int, size: int) -> bytes:
        try:
            return self.cpu.read(linear & 0xFFFFFFFF, size)
        except _core.GuestFault:
            return self._pieces(linear, size, None)

    def write(self, linear: int, data: bytes | bytearray | memoryview) -> None:
        try:
            self.cpu.write(linear & 0xFFFFFFFF, data)
        except _core.GuestFault:
            self._pieces(linear, len(data), bytes(data))

    def _pieces(self, linear: int, size: int, data: bytes | None) -> bytes:
        """Page by page: some of it is a device's memory (the screen), or nothing."""
        out = bytearray()
        done = 0
        while done < size:
            at = linear + done & 0xFFFFFFFF
            n = min(size - done, 4096 - (at & 4095))
            try:
                if data is None:
                    out += self.cpu.read(at, n)
                else:
                    self.cpu.write(at, data[done:done + n])
            except _core.GuestFault:
                out += self._device(at, n, data[done:done + n] if data is not None else None)
            done += n
        return bytes(out)

    def _device(self, at: int, n: int, data: bytes | None) -> bytes:
        bus = self.hvm.mmio
        if self.cpu.cr0 & PG or bus.find(at) is None:       # under paging: what the guest maps there is not for us to say
            return b"\xff" * n
        if data is None:
            return bytes(bus.read(at + i, 1) for i in range(n))
        for i in range(n):
            bus.write(at + i, 1, data[i])
        return b""

    def read_int(self, linear: int, size: int) -> int:
        return int.from_bytes(self.read(linear, size), "little")

    def write_int(self, linear: int, size: int, value: int) -> None:
        self.write(linear, (value & (1 << 8 * size) - 1).to_bytes(size, "little"))


class Call:
    """One request of the guest.  ``ax``, ``al``, ``eax`` ... are its registers, ``ds`` ... its segments."""

    __slots__ = ("cpu", "flags_at", "hvm", "mem")

    def __init__(self, hvm: Any, cpu: Any) -> None:
        self.hvm, self.cpu, self.mem = hvm, cpu, Memory(hvm, cpu)
        self.flags_at: int | None = self.stack_linear() + 4 & 0xFFFFFFFF       # IP, CS, FLAGS; None: the live flags

    eax, ebx, ecx, edx = (_register(n, 0, 32) for n in ("rax", "rbx", "rcx", "rdx"))
    esi, edi, ebp, esp = (_register(n, 0, 32) for n in ("rsi", "rdi", "rbp", "rsp"))
    ax, bx, cx, dx = (_register(n, 0, 16) for n in ("rax", "rbx", "rcx", "rdx"))
    si, di, bp, sp = (_register(n, 0, 16) for n in ("rsi", "rdi", "rbp", "rsp"))
    al, bl, cl, dl = (_register(n, 0, 8) for n in ("rax", "rbx", "rcx", "rdx"))
    ah, bh, ch, dh = (_register(n, 8, 8) for n in ("rax", "rbx", "rcx", "rdx"))
    cs, ds, es, ss = (_segment(n) for n in ("cs", "ds", "es", "ss"))

    # --- addresses ---------------------------------------------------------------------------------------------------
    def linear(self, segment: str, offset: int) -> int:
        """Linear address of an offset in a segment."""
        return self.cpu.segment(segment)[1] + offset & 0xFFFFFFFF

    def far(self, pointer: int) -> int:
        """Linear address of a real-mode far pointer (segment in the upper half)."""
        return (pointer >> 16 << 4) + (pointer & 0xFFFF)

    def stack_linear(self) -> int:
        """Linear address of the top of the stack; SS.D says whether SP or ESP points to it."""
        _, base, _, attr = self.cpu.segment("ss")
        return base + self.cpu.rsp & 0xFFFFFFFF if attr & 0x4000 else base + (self.cpu.rsp & 0xFFFF) & 0xFFFFFFFF

    # --- flags -------------------------------------------------------------------------------------------------------
    def _flag(self, bit: int, on: object) -> None:
        if self.flags_at is None:
            self.cpu.rflags = self.cpu.rflags | bit if on else self.cpu.rflags & ~bit
            return
        flags = self.mem.read_int(self.flags_at, 2)
        self.mem.write_int(self.flags_at, 2, flags | bit if on else flags & ~bit)

    @property
    def cf(self) -> bool:
        flags = self.cpu.rflags if self.flags_at is None else self.mem.read_int(self.flags_at, 2)
        return bool(flags & CF)

    @cf.setter
    def cf(self, on: object) -> None:
        self._flag(CF, on)

    @property
    def zf(self) -> bool:
        flags = self.cpu.rflags if self.flags_at is None else self.mem.read_int(self.flags_at, 2)
        return bool(flags & ZF)

    @zf.setter
    def zf(self, on: object) -> None:
        self._flag(ZF, on)

    def stub_cf(self, on: object) -> None:
        """CF of the stub itself, for its next jump."""
        self.cpu.rflags = self.cpu.rflags | CF if on else self.cpu.rflags & ~CF

    def wait(self) -> None:
        """Not done: the stub is to wait for an interrupt and ask again."""
        self.stub_cf(True)

    # --- control -----------------------------------------------------------------------------------------------------
    def jump(self, segment: int, offset: int) -> None:
        """Go on at a real-mode address."""
        self.cs = segment
        self.cpu.rip = offset & 0xFFFF

    def push(self, value: int) -> None:
        """A word on the stack."""
        self.sp -= 2
        self.mem.write_int(self.stack_linear(), 2, value)


class Traps:
    """The firmware's port and who is meant by a write to it: ``bind(linear address of the OUT, function)``."""

    def __init__(self, hvm: Any) -> None:
        self.hvm = hvm
        self.handlers: dict[int, Handler] = {}
        self.failures = 0           # services that raised
        self.region = Region(1, self._read, self._write, width=1, name="firmware")
        hvm.ports.add(TRAP_PORT, self.region)

    def bind(self, address: int, handler: Handler) -> None:
        """``address`` is linear, of the first byte of ``OUT TRAP_PORT, AL`` (2 bytes)."""
        self.handlers[address + 2] = handler

    def _read(self, _offset: int, _size: int) -> int:
        return 0xFF

    def _write(self, _offset: int, _size: int, value: int) -> None:
        cpu = current_cpu(self.hvm)
        if cpu is None:
            return
        address = cpu.segment("cs")[1] + cpu.rip & 0xFFFFFFFF
        handler = self.handlers.get(address)
        if handler is None:
            log.info("firmware: port %#x written from %#x, where no service is (value %#x)", TRAP_PORT, address, value)
            return
        cpu.rflags &= ~CF
        try:
            handler(Call(self.hvm, cpu))
        except Exception:           # a bug of ours, not the guest's right to stop the machine
            self.failures += 1
            log.exception("firmware: the service at %#x has failed", address)


def current_cpu(hvm: Any) -> Any:
    """The processor (``_core.Vcpu``) whose access is being answered."""
    current = hvm.current
    return getattr(current, "core", current)
