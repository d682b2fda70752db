"""Unicorn (QEMU's translator as a library) as a second oracle: the same instruction there and here, in legacy modes.

Both begin in the same environment, which a few instructions of a prologue set up in both: real mode, protected mode
with 16- and 32-bit code in rings 0 and 3, virtual-8086 mode.  No segment but CS has base 0.  There is no IDT: an
exception ends the run with its vector, and its error code, which Unicorn does not tell but keeps in its context.
"""

from __future__ import annotations

import ctypes
import struct
from dataclasses import dataclass, field
from typing import Any

from tests.conformance.forms import WINDOW_SIZE
from xenfast import _core

MEMORY = 1 << 20
CODE, CODE_END, WINDOW, STACK0, GDT, LDT, TSS, TABLES_END = (
    0x1000,
    0x3000,
    0x4000,
    0x3FF0,
    0x7000,
    0x7400,
    0x7800,
    0x8000,
)
SEGMENTS = ("es", "cs", "ss", "ds", "fs", "gs")
BASES = {"es": 0x20000, "cs": 0, "ss": 0x30000, "ds": 0x40000, "fs": 0x50000, "gs": 0x60000}
REGISTERS = "eax ecx edx ebx esp ebp esi edi".split()
ARITH, IF, NT, RF, VM = 0x8D5, 0x200, 0x4000, 0x10000, 0x20000
NAMES_64 = "rax rcx rdx rbx rsp rbp rsi rdi".split()


def descriptor(
    kind: int,
    dpl: int = 0,
    base: int = 0,
    limit: int = 0xFFFFF,
    flags: int = 0xC,
    present: int = 1,
    system: bool = False,
) -> int:
    """SDM Vol. 3, 3.4.5; flags are G D/B L AVL."""
    access = kind | (0 if system else 0x10) | dpl << 5 | present << 7
    return (
        limit & 0xFFFF
        | (base & 0xFFFFFF) << 16
        | access << 40
        | (limit >> 16 & 15) << 48
        | flags << 52
        | (base >> 24 & 0xFF) << 56
    )


def gate(kind: int, sel: int, offset: int, dpl: int, count: int = 0, present: int = 1) -> int:
    return offset & 0xFFFF | sel << 16 | count << 32 | (kind | dpl << 5 | present << 7) << 40 | (offset >> 16) << 48


def tables() -> dict[int, int]:
    """THE GDT: selector -> descriptor; rings 0 and 3, segments with bases, and some of every kind that is refused."""
    rows = {
        0x08: descriptor(10),
        0x10: descriptor(2),
        0x18: descriptor(10, 3),
        0x20: descriptor(2, 3),
        0x28: descriptor(10, 0, limit=0xFFFF, flags=0),
        0x30: descriptor(10, 3, limit=0xFFFF, flags=0),
    }
    at = 0x40
    for ring in (0, 3):  # 0x40.. and 0x68..: ES SS DS FS GS
        for name in ("es", "ss", "ds", "fs", "gs"):
            rows[at] = descriptor(2, ring, BASES[name], 0xFFFF, 4)
            at += 8
    rows |= {
        0x90: descriptor(9, base=TSS, limit=0x67, flags=0, system=True),  # ours
        0x98: descriptor(9, base=TSS + 0x80, limit=0x67, flags=0, system=True),
        0xA0: descriptor(2, base=LDT, limit=0x3F, flags=0, system=True),
        0xA8: descriptor(2, 3, present=0),
        0xB0: descriptor(10, 3, present=0),
        0xB8: descriptor(8, 3),
        0xC0: descriptor(0, 3),
        0xC8: descriptor(14),
        0xD0: descriptor(14, 3),
        0xD8: descriptor(12, 3),
        0xE0: descriptor(6, 3, 0x20000, 0xFFF, 4),
        0xE8: gate(12, 0x08, 0x2800, 3),
        0xF0: gate(12, 0x08, 0x2800, 0),
        0xF8: gate(12, 0x18, 0x2800, 3, present=0),
        0x100: gate(14, 0x08, 0x2800, 3),
        0x108: descriptor(3, 3, 0x40000, 0x123, 0),
        0x110: gate(4, 0x28, 0x2800, 3),
        0x118: descriptor(10, 1),
        0x120: descriptor(2, 1),
        0x128: gate(12, 0xC8, 0x2800, 3),
        0x130: gate(12, 0x10, 0x2800, 3),
    }
    return rows


SELECTORS = [*tables(), 0, 4, 0x0C, 0x14, 0x1C, 0x44, 0x138, 0x400]  # with an LDT's, and beyond the ends


def memory_image() -> bytes:
    image = bytearray(TABLES_END - GDT)
    for sel, value in tables().items():
        image[sel : sel + 8] = struct.pack("<Q", value)
    ldt = [0, descriptor(2, 3, 0x40000, 0xFFFF, 4), descriptor(10, 3), descriptor(2, 0, 0x20000, 0xFFFF, 4), 0]
    image[LDT - GDT : LDT - GDT + 8 * len(ldt)] = struct.pack(f"<{len(ldt)}Q", *ldt)
    image[TSS - GDT + 4 : TSS - GDT + 12] = struct.pack("<II", 0x3F00, 0x48)
    image[TSS - GDT + 0x66 : TSS - GDT + 0x68] = b"\xff\xff"  # no permission bitmap
    return bytes(image)


@dataclass
class Environment:
    """Where an instruction runs; bits are the default operand and address size."""

    name: str
    bits: int
    ring: int = 0
    real: bool = False
    vm: bool = False
    iopl: int = 0

    @property
    def selectors(self) -> dict[str, int]:
        if self.real or self.vm:
            return {name: base >> 4 for name, base in BASES.items()}
        first = 0x40 if self.ring == 0 else 0x68
        data = {name: first + 8 * i | self.ring for i, name in enumerate(("es", "ss", "ds", "fs", "gs"))}
        code = {(16, 0): 0x28, (32, 0): 0x08, (16, 3): 0x33, (32, 3): 0x1B}[self.bits, self.ring]
        return data | {"cs": code}

    @property
    def flags(self) -> int:
        return 2 | self.iopl << 12 | (VM if self.vm else 0)

    def prologue(self) -> bytes:
        """From flat 32-bit code in ring 0 with a stack: LDT and TSS, the segments, IRETD."""
        s = self.selectors
        frame = [
            (s["gs"], s["fs"], s["ds"], s["es"]) if self.vm else (),
            (s["ss"], 0x4100),
            (self.flags, s["cs"], CODE),
        ]
        out = b"\xb8\xa0\0\0\0\x0f\x00\xd0\xb8\x90\0\0\0\x0f\x00\xd8"  # lldt, ltr
        if not self.vm:
            loads = (("es", b"\x8e\xc0"), ("ds", b"\x8e\xd8"), ("fs", b"\x8e\xe0"), ("gs", b"\x8e\xe8"))
            for name, code in loads:
                out += b"\xb8" + struct.pack("<I", s[name]) + code
        if self.ring == 0 and not self.vm:  # no change of ring: SS first, then CS by IRET
            out += b"\xb8" + struct.pack("<I", s["ss"]) + b"\x8e\xd0" + b"\xbc\x00\x41\0\0"
            frame = [frame[2]]
        for words in frame:
            for word in words:
                out += b"\x68" + struct.pack("<I", word)
        return out + b"\xcf"


ENVIRONMENTS = {
    e.name: e
    for e in (
        Environment("real16", 16, real=True),
        Environment("ring0-16", 16),
        Environment("ring0-32", 32),
        Environment("ring3-16", 16, 3),
        Environment("ring3-32", 32, 3),
        Environment("ring3-32-iopl3", 32, 3, iopl=3),
        Environment("vm86", 16, 3, vm=True),
        Environment("vm86-iopl3", 16, 3, vm=True, iopl=3),
    )
}


@dataclass
class Case:
    """Code at CODE, registers, the same data in every segment's window; single: one instruction, wherever it leads."""

    name: str
    code: bytes
    regs: list[int]
    flags: int
    data: bytes
    undefined: int = 0
    single: bool = False
    stack: bytes = b""  # from SS:ESP on


@dataclass
class State:
    """What is compared."""

    regs: list[int] = field(default_factory=list)
    eip: int = 0
    eflags: int = 0
    cr0: int = 0
    selectors: list[int] = field(default_factory=list)
    memory: bytes = b""
    vector: int | None = None
    error: int | None = None


WITH_ERROR = (8, 10, 11, 12, 13, 14, 17)
WINDOWS = [(base + WINDOW, WINDOW_SIZE) for base in sorted(set(BASES.values()))] + [
    (GDT, TABLES_END - GDT),
    (STACK0 - 0x100, 0x100),
]


class UnicornCpu:
    """An environment on Unicorn."""

    def __init__(self, environment: Environment) -> None:
        import unicorn
        from unicorn import x86_const

        self.e, self.error = environment, unicorn.UcError
        mode = unicorn.UC_MODE_16 if environment.real else unicorn.UC_MODE_32
        self.uc = unicorn.Uc(unicorn.UC_ARCH_X86, mode)
        self.id = {
            name: getattr(x86_const, f"UC_X86_REG_{name.upper()}")
            for name in (*REGISTERS, *SEGMENTS, "eip", "eflags", "cr0", "cr4", "gdtr")
        }
        self.uc.mem_map(0, MEMORY)
        self.seen: list[int] = []
        self.uc.hook_add(unicorn.UC_HOOK_INTR, self._interrupt)
        self.uc.mem_write(GDT, memory_image())
        self.uc.reg_write(self.id["cr4"], 0)
        if environment.real:
            self.uc.reg_write(self.id["cr0"], 0x10)
            self.uc.reg_write(self.id["gdtr"], (0, 0, 0xFFFF, 0))
            for name, sel in environment.selectors.items():
                self.uc.reg_write(self.id[name], sel)
        else:
            self._error_at = self._find_error_code()
            self._enter()
        self.clean = self.uc.context_save()

    def _interrupt(self, uc: Any, number: int, _: Any) -> None:
        self.seen.append(number)
        uc.emu_stop()

    def _context(self) -> bytes:
        context = self.uc.context_save()
        return ctypes.string_at(context.context, context.size)

    def _flat(self) -> None:
        self.uc.reg_write(self.id["gdtr"], (0, GDT, 0x3FF, 0))
        self.uc.reg_write(self.id["esp"], STACK0)

    def _find_error_code(self) -> int:
        """Where in its context Unicorn keeps the error code: what is 0xA8, 0xB0, 0x3F8 after faults with those."""
        self._flat()
        start = self.uc.context_save()
        images = []
        for sel in (0xA8, 0xB0, 0x3F8):
            self.uc.context_restore(start)
            self.uc.mem_write(CODE, b"\xb8" + struct.pack("<I", sel) + b"\x8e\xd8\xb8\0\0\0\0")
            self.uc.ctl_remove_cache(CODE, CODE + 64)
            self.uc.emu_start(CODE, CODE + 7)
            self.uc.reg_write(self.id["eax"], 0)
            images.append((sel, self._context()))
        found = [
            i
            for i in range(0, len(images[0][1]) - 4, 4)
            if all(struct.unpack_from("<I", image, i)[0] == sel for sel, image in images)
        ]
        assert found, "Unicorn's context holds no error code"
        self.uc.context_restore(start)
        return found[-1]

    def _enter(self) -> None:
        self._flat()
        code = b"\xea" + struct.pack("<IH", 0x1800, 8)
        self.uc.mem_write(CODE, code)
        self.uc.emu_start(CODE, 0x1800, count=1)
        self.uc.reg_write(self.id["ss"], 0x10)
        self.uc.mem_write(0x1800, self.e.prologue())
        self.seen.clear()
        at = 0x1800
        for _ in range(40):  # it stops early now and then, at segment loads
            self.uc.emu_start(at, CODE, count=1)
            at = self.uc.reg_read(self.id["eip"])
            assert not self.seen, f"{self.e.name}: the prologue raised {self.seen} at {at:#x}"
            if at == CODE:
                break
        assert at == CODE, hex(at)

    def run(self, case: Case) -> State:
        uc, ids = self.uc, self.id
        uc.context_restore(self.clean)
        uc.mem_write(CODE, case.code + b"\x90" * 8)
        uc.ctl_remove_cache(CODE, CODE + 64)
        for address, _ in WINDOWS[:-2]:
            uc.mem_write(address, case.data)
        uc.mem_write(GDT, memory_image())
        uc.mem_write(STACK0 - 0x100, bytes(0x100))
        for name, value in zip(REGISTERS, case.regs, strict=True):
            uc.reg_write(ids[name], value)
        if case.stack:
            uc.mem_write(BASES["ss"] + (case.regs[4] & 0xFFFF), case.stack)
        uc.reg_write(ids["eflags"], case.flags | self.e.flags)
        self.seen.clear()
        vector = None
        try:
            uc.emu_start(CODE, CODE + len(case.code), count=1 if case.single else 0)
        except self.error as error:
            vector = 6 if error.errno == 10 else 14 if error.errno in (6, 7, 8) else -error.errno  # invalid, unmapped
        if self.seen:
            vector = self.seen[0]
        code = None
        if vector in WITH_ERROR and not self.e.real:
            code = struct.unpack_from("<I", self._context(), self._error_at)[0]
        regs = [uc.reg_read(ids[name]) for name in REGISTERS]
        memory = b"".join(bytes(uc.mem_read(at, n)) for at, n in WINDOWS)
        return State(
            regs,
            uc.reg_read(ids["eip"]),
            uc.reg_read(ids["eflags"]),
            uc.reg_read(ids["cr0"]),
            [uc.reg_read(ids[name]) for name in SEGMENTS],
            memory,
            vector,
            code,
        )


class OurCpu:
    """The same environment here."""

    def __init__(self, environment: Environment) -> None:
        self.e = environment
        self.memory = _core.Memory(MEMORY >> 12)
        physmap = _core.GuestPhysMap(MEMORY >> 12)
        physmap.set(0, range(MEMORY >> 12))
        self.ram = self.memory.view(0, MEMORY >> 12)
        self.cpu = cpu = _core.Vcpu(self.memory, physmap)
        cpu.exact = True
        cpu.set_table("idtr", 0, 0)
        self.ram[GDT:TABLES_END] = memory_image()
        if environment.real:
            cpu.cr0 = 0x10
            for name, sel in environment.selectors.items():
                cpu.set_segment(name, sel, sel << 4, 0xFFFF, 0x9B if name == "cs" else 0x93)
        else:
            cpu.cr0 = 0x11
            cpu.set_table("gdtr", GDT, 0x3FF)
            cpu.set_segment("cs", 0x08, 0, 0xFFFFFFFF, 0xC09B)
            cpu.set_segment("ss", 0x10, 0, 0xFFFFFFFF, 0xC093)
            cpu.rsp, cpu.rip = STACK0, 0x1800
            self.ram[0x1800 : 0x1800 + len(environment.prologue())] = environment.prologue()
            for _ in range(40):
                assert cpu.run(1) == _core.ExitReason.EXIT_BUDGET, (environment.name, cpu.exit_nr, cpu.exit_code)
                if cpu.rip == CODE:
                    break
        self.clean = {name: cpu.segment(name) for name in _core.SEGMENTS}
        self.cr0, self.cpl = cpu.cr0, cpu.cpl

    def run(self, case: Case) -> State:
        cpu, ram = self.cpu, self.ram
        cpu.cr0, cpu.cr4 = self.cr0, 0
        cpu.set_table("idtr", 0, 0)
        cpu.set_table("gdtr", 0 if self.e.real else GDT, 0xFFFF if self.e.real else 0x3FF)
        cpu.rflags = case.flags | self.e.flags
        cpu.cpl = self.cpl
        for name, value in self.clean.items():
            cpu.set_segment(name, *value)
        ram[CODE : CODE + len(case.code) + 8] = case.code + b"\x90" * 8
        for address, size in WINDOWS[:-2]:
            ram[address : address + size] = case.data
        ram[GDT:TABLES_END] = memory_image()
        ram[STACK0 - 0x100 : STACK0] = bytes(0x100)
        if case.stack:
            at = BASES["ss"] + (case.regs[4] & 0xFFFF)
            ram[at : at + len(case.stack)] = case.stack
        for frame in {at >> 12 for at, _ in WINDOWS} | {CODE >> 12}:
            self.memory.wrote(frame)
        for name, value in zip(NAMES_64, case.regs, strict=True):
            setattr(cpu, name, value)
        cpu.rip = CODE
        vector = error = None
        for _ in range(1 if case.single else 300):
            reason = cpu.run(1)
            if reason == _core.ExitReason.EXIT_PIO and not cpu.exit_is_write:
                cpu.pio_return(0)
            if reason == _core.ExitReason.EXIT_EXCEPTION:
                vector, error = cpu.exit_nr, cpu.exit_code if cpu.exit_nr in WITH_ERROR and not self.e.real else None
                break
            if reason == _core.ExitReason.EXIT_HLT or cpu.rip == CODE + len(case.code):
                break
        regs = [getattr(cpu, name) & 0xFFFFFFFF for name in NAMES_64]
        memory = b"".join(bytes(ram[at : at + n]) for at, n in WINDOWS)
        return State(
            regs, cpu.rip, cpu.rflags, cpu.cr0, [cpu.segment(name)[0] for name in SEGMENTS], memory, vector, error
        )


def differences(case: Case, want: State, got: State) -> list[str]:
    """Every way in which our state is not Unicorn's."""
    out = []
    if (want.vector, want.error) != (got.vector, got.error):
        out.append(f"exception: Unicorn {want.vector}({want.error}), ours {got.vector}({got.error})")
    for i, name in enumerate(REGISTERS):
        if want.regs[i] != got.regs[i]:
            out.append(f"{name}: Unicorn {want.regs[i]:#x}, ours {got.regs[i]:#x}, was {case.regs[i]:#x}")
    mask = 0x7FFFF & ~case.undefined & ~RF
    if (want.eflags ^ got.eflags) & mask:
        out.append(f"eflags: Unicorn {want.eflags & mask:#x}, ours {got.eflags & mask:#x}, was {case.flags:#x}")
    if want.eip != got.eip and not (got.vector is not None and got.vector == want.vector):
        out.append(f"eip: Unicorn {want.eip:#x}, ours {got.eip:#x}")
    if want.cr0 != got.cr0:
        out.append(f"cr0: Unicorn {want.cr0:#x}, ours {got.cr0:#x}")
    for i, name in enumerate(SEGMENTS):
        if want.selectors[i] != got.selectors[i]:
            out.append(f"{name}: Unicorn {want.selectors[i]:#x}, ours {got.selectors[i]:#x}")
    if want.memory != got.memory:
        at = next(i for i in range(len(want.memory)) if want.memory[i] != got.memory[i])
        where = at
        for start, size in WINDOWS:
            if where < size:
                where += start
                break
            where -= size
        out.append(
            f"memory at {where:#x}: Unicorn {want.memory[at : at + 8].hex()}, ours {got.memory[at : at + 8].hex()}"
        )
    return out
