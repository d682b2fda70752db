"""A bare CPU with page tables made by hand: one access at a time, and what came of it.

Physical memory: the instruction that makes the access at CODE_FRAME, the tables that map it behind it, then TABLES, the
tables under test, and DATA.  The top-level entry for CODE is the last one; every other linear address is the test's.
"""

from __future__ import annotations

import struct

from tests.cpu.paging_reference import FETCH, READ, WRITE, Outcome, Registers
from xenfast import _core

MEMORY = 16 << 20
CODE_FRAME, CODE_TABLES, TABLES, DATA = 0x1000, 0x10000, 0x100000, 0x400000
CODE = {"32": 0xFFC00000, "pae": 0xFFE00000, "4level": 0xFFFFFFFFFFE00000, "5level": 0xFFFFFFFFFFE00000}
MODES = tuple(CODE)
P, RW, US, A, D, PS, G, NX = 1, 2, 4, 32, 64, 128, 256, 1 << 63

# what is executed: 64-bit code, 32-bit code
INSTRUCTIONS = {
    READ: ("488b03", "8b03"),  # mov rax, [rbx]
    WRITE: ("488903", "8903"),  # mov [rbx], rax
    "mov cr0": ("0f22c0", "0f22c0"),
    "mov cr3": ("0f22d8", "0f22d8"),
    "mov cr4": ("0f22e0", "0f22e0"),
    "invlpg": ("0f013b", "0f013b"),
    "invpcid": ("660f38820b", "660f38820b"),  # rcx, [rbx]
    "wrpkru": ("0f01ef", "0f01ef"),
    "stac": ("0f01cb", "0f01cb"),
    "clac": ("0f01ca", "0f01ca"),
    "wrmsr": ("0f30", "0f30"),
}


def mode_of(r: Registers) -> str:
    if not r.pae:
        return "32"
    return ("5level" if r.la57 else "4level") if r.lma else "pae"


class PagingMachine:
    """One vcpu; features beyond the default are on."""

    def __init__(self) -> None:
        self.memory = _core.Memory(MEMORY >> 12)
        self.physmap = _core.GuestPhysMap(MEMORY >> 12)
        self.physmap.set(0, range(MEMORY >> 12))
        self.ram = self.memory.view(0, MEMORY >> 12)
        self.cpu = _core.Vcpu(self.memory, self.physmap)
        self.cpu.exact = True
        self.cpu.set_cpuid("la57", True)
        self.cpu.set_table("idtr", 0, 0)
        self._code: dict[tuple[str, bool], int] = {}
        at = CODE_FRAME
        for wide in (True, False):
            for name, texts in INSTRUCTIONS.items():
                text = bytes.fromhex(texts[not wide])
                self.ram[at : at + len(text)] = text
                self._code[name, wide] = at - CODE_FRAME
                at += 16

    # -- physical memory ----------------------------------------------------------------------------------------------
    def load(self, address: int, size: int = 8) -> int:
        """As the walk sees it: what is not there reads as zero."""
        return int.from_bytes(self.ram[address : address + size], "little") if address + size <= MEMORY else 0

    def store(self, address: int, value: int, size: int = 8) -> None:
        self.ram[address : address + size] = value.to_bytes(size, "little")

    # -- state --------------------------------------------------------------------------------------------------------
    def map_code(self, r: Registers, user: bool) -> None:
        """The last entry of the top level leads to CODE_FRAME, for this privilege."""
        flags = P | RW | A | (US if user else 0)
        top = r.cr3 & ~0xFFF if r.lma else r.cr3 & ~0x1F
        if not r.pae:
            self.store(top + 4 * 1023, CODE_TABLES | flags, 4)
            self.store(CODE_TABLES, CODE_FRAME | flags, 4)
            return
        levels = (5 if r.la57 else 4) if r.lma else 3
        table = top
        for level in range(levels, 0, -1):
            child = CODE_TABLES + level * 0x1000 if level > 1 else CODE_FRAME
            pdpte = not r.lma and level == 3
            index = 0 if level == 1 else 3 if pdpte else 511
            self.store(table + 8 * index, child | (P if pdpte else flags))
            table = child

    def set(self, r: Registers, user: bool) -> None:
        """Control registers and segments, from outside; flushes the TLB."""
        self.r, self.user = r, user
        cpu = self.cpu
        cpu.set_cpuid("pse36", r.pse36)
        cpu.set_cpuid("page1gb", r.page1gb)
        self.map_code(r, user)
        cpu.cr0 = 0x11
        cpu.efer = r.nxe << 11 | (0x500 if r.lma else 0)
        cpu.cr4 = self.cr4(r)
        cpu.cr3 = r.cr3
        dpl = 0x60 if user else 0
        cpu.set_segment("cs", 0x8 | 3 * user, 0, 0xFFFFFFFF, (0xA09B if r.lma else 0xC09B) | dpl)
        for name in ("ss", "ds", "es"):
            cpu.set_segment(name, 0x10 | 3 * user, 0, 0xFFFFFFFF, 0xC093 | dpl)
        cpu.cpl = 3 * user
        cpu.rflags = 2 | r.ac << 18
        cpu.pkru = r.pkru
        cpu.cr0 = self.cr0(r)

    @staticmethod
    def cr0(r: Registers) -> int:
        return 0x80000011 | r.wp << 16

    @staticmethod
    def cr4(r: Registers) -> int:
        return r.pse << 4 | r.pae << 5 | r.la57 << 12 | r.smep << 20 | r.smap << 21 | r.pke << 22

    # -- running ------------------------------------------------------------------------------------------------------
    def execute(self, name: str) -> tuple[int, int] | None:
        """One instruction of the table; the exception it raises, if any: (vector, error code)."""
        self.cpu.rip = CODE[mode_of(self.r)] + self._code[name, self.r.lma]
        return self._run()

    def _run(self) -> tuple[int, int] | None:
        reason = self.cpu.run(1)
        if reason == _core.ExitReason.EXIT_EXCEPTION:
            return self.cpu.exit_nr, self.cpu.exit_code
        self.mmio = self.cpu.exit_address if reason == _core.ExitReason.EXIT_MMIO else None
        return None

    def access(self, kind: str, linear: int, value: int, expected: Outcome) -> str | None:
        """Make one access and compare with what is expected; the difference in words, or None.

        Where it lands is seen by a value: planted where a read or fetch must find it, looked for where a write must
        leave it.
        """
        cpu, size = self.cpu, 8 if self.r.lma else 4
        value &= (1 << 8 * size) - 1
        there = expected.physical is not None and expected.physical + 8 <= MEMORY
        if there:
            assert expected.physical is not None
            planted = value.to_bytes(size, "little")
            if kind == FETCH:
                planted = b"\xb8" + struct.pack("<I", value & 0xFFFFFFFF)  # mov eax, value
            before = bytes(self.ram[expected.physical : expected.physical + len(planted)])
            if kind != WRITE:
                self.ram[expected.physical : expected.physical + len(planted)] = planted
                self.memory.wrote(expected.physical >> 12)
        cpu.rbx, cpu.rax = linear, value if kind == WRITE else 0
        if kind == FETCH:
            cpu.rip = linear
            trap = self._run()
        else:
            trap = self.execute(kind)
        if expected.error is not None:
            if trap != (14, expected.error):
                return f"{trap} instead of #PF({expected.error:#x})"
            return None if cpu.cr2 == linear else f"CR2 is {cpu.cr2:#x}"
        if not there:
            if kind == FETCH:
                return None if trap == (13, 0) else f"{trap} for a fetch outside RAM"
            if trap is None and self.mmio == expected.physical:
                return None
            return f"{trap}, {self.mmio} instead of MMIO at {expected.physical:#x}"
        assert expected.physical is not None
        if trap:
            return f"{trap} instead of {expected.physical:#x}"
        found = self.load(expected.physical, size) if kind == WRITE else cpu.rax
        self.ram[expected.physical : expected.physical + len(planted)] = before
        self.memory.wrote(expected.physical >> 12)
        wanted = value & 0xFFFFFFFF if kind == FETCH else value
        return None if found == wanted else f"{kind} of {expected.physical:#x} gave {found:#x}, not {wanted:#x}"
