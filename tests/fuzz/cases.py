"""Random machines for fuzzing: a mode, paging, tables of descriptors, registers and a program, all from one number.

Nothing here is meant to be right, only to come near it: most descriptors, page tables and addresses nearly work, so
that the program gets somewhere before it runs into what does not.
"""

from __future__ import annotations

import random
import struct
from dataclasses import dataclass, field
from functools import cache

import numpy as np

from tests.conformance import codebytes
from xenfast import _core

FRAMES = 64                           # 256 KiB; guest frames above are device memory
IDT, GDT, LDT, TSS = 0x1000, 0x2000, 0x2800, 0x3000
PML4, PDPT, PD, PT, PAE_PDPT, PD32, PT32 = 0x4000, 0x5000, 0x6000, 0x7000, 0x8000, 0x9000, 0xA000
CODE, DATA, STACK = 0x10000, 0x18000, 0x20000
P, RW, US, A, D, PS, G, NX = 1, 2, 4, 32, 64, 128, 256, 1 << 63

# name: bits of the code, CR0.PE, paging ("", "32", "pae", "4level"), weight
MODES = {
    "real": (16, 0, "", 3), "protected16": (16, 1, "", 2), "protected32": (32, 1, "", 2), "paging32": (32, 1, "32", 2),
    "pae": (32, 1, "pae", 2), "vm86": (16, 1, "32", 2), "vm86-flat": (16, 1, "", 1), "long": (64, 1, "4level", 8),
    "compatibility32": (32, 1, "4level", 2), "compatibility16": (16, 1, "4level", 1),
}
SEGMENTS = ("es", "cs", "ss", "ds", "fs", "gs")
CR0_BITS = (1 << 1, 1 << 2, 1 << 3, 1 << 5, 1 << 16, 1 << 18)           # MP EM TS NE WP AM
CR4_BITS = (1 << 0, 1 << 1, 1 << 2, 1 << 3, 1 << 4, 1 << 7, 1 << 8, 1 << 11, 1 << 16, 1 << 18, 1 << 20, 1 << 21, 1 << 22)
EDGES = (0, 1, 0xFFF, 0x7FFF, 0xFFFF, 0x10000, 0xFFFFF, 0x100000, 0x1FFFFF, 0x200000, 0x3FFFFFFF, 0x40000000, 0x7FFFFFFF, 0x80000000,
         0xFFFFFFF0, 0xFFFFFFFF, 0x100000000, 0x7FFFFFFFFFFF, 0x800000000000, 0xFFFF800000000000, 0xFFFFFFFF80000000,
         0x7FFFFFFFFFFFFFFF, 0x8000000000000000, 0xFFFFFFFFFFFFF000, 0xFFFFFFFFFFFFFFFF)


@cache
def corpus(bits: int) -> list[list[bytes]]:
    """Legal instructions by row of the opcode table, so that rare ones are as likely as common ones."""
    rng = np.random.default_rng(bits)
    records = np.concatenate([codebytes.cases(rng, 150_000, bits), codebytes.every_legacy_opcode(bits)[::5]])
    lengths, ops = _core.decode_many(records.reshape(-1), bits, codebytes.STRIDE)
    rows: dict[int, list[bytes]] = {}
    names = _core.opcode_rows()
    for i in np.flatnonzero(lengths > 0):
        if names[ops[i]][0] in ("RDTSC", "RDTSCP"):
            continue
        row = rows.setdefault(int(ops[i]), [])
        if len(row) < 40:
            row.append(records[i, : lengths[i]].tobytes())
    return list(rows.values())


@dataclass
class Case:
    number: int
    mode: str
    cpl: int
    cr0: int
    cr3: int
    cr4: int
    efer: int
    xcr0: int
    rflags: int
    rip: int
    general: bytes
    vectors: bytes
    mxcsr: int
    x87: tuple
    segments: dict[str, tuple[int, int, int, int]]
    tables: dict[str, tuple[int, int]]
    memory: bytearray
    starts: list[int]                 # where instructions of the program begin (as RIP)
    budget: int
    answers: list[int]                # what devices say
    holes: list[int] = field(default_factory=list)      # guest frames that are device memory
    readonly: list[int] = field(default_factory=list)


class Maker:
    def __init__(self, seed: int, number: int) -> None:
        self.rng = random.Random(seed << 40 | number)
        self.number = number

    # -- numbers ------------------------------------------------------------------------------------------------------
    def some(self, probability: float) -> bool:
        return self.rng.random() < probability

    def value(self) -> int:
        """A register: mostly an address that is mapped."""
        r = self.rng
        kind = r.random()
        if kind < 0.45:
            return DATA + r.randrange(0x8000)
        if kind < 0.55:
            return STACK + r.randrange(0x4000)
        if kind < 0.6:
            return CODE + r.randrange(0x4000)
        if kind < 0.75:
            return r.randrange(-64, 64) & 0xFFFFFFFFFFFFFFFF
        if kind < 0.85:
            return (r.choice(EDGES) + r.randrange(-16, 16)) & 0xFFFFFFFFFFFFFFFF
        if kind < 0.9:
            return r.randrange(1 << 21)
        return r.getrandbits(64) >> r.choice((0, 0, 16, 32, 48))

    # -- descriptors --------------------------------------------------------------------------------------------------
    def descriptor(self) -> int:
        """SDM Vol. 3, 3.4.5: code, data, and now and then a system segment or a gate."""
        r = self.rng
        base = r.choice((0, 0, 0, CODE, DATA, TSS, r.getrandbits(32)))
        limit = r.choice((0xFFFFF, 0xFFFFF, 0xFFFF, 0x67, 0xFFF, r.getrandbits(20)))
        system = self.some(0.25)
        access = r.randrange(16) | (0 if system else 0x10) | r.choice((0, 3, 3, r.randrange(4))) << 5 | (not self.some(0.05)) << 7
        if system and access & 15 in (2, 9, 11):
            base, limit = r.choice((TSS, LDT, DATA)), r.choice((0x67, 0x2067, 0x7F))
        if system and access & 15 in (4, 5, 12, 14, 15):
            return self.gate(access)
        flags = r.choice((0xC, 0xC, 0x4, 0x0, 0x8, 0xA, 0xA, r.randrange(16)))
        return (limit & 0xFFFF | (base & 0xFFFFFF) << 16 | access << 40 | (limit >> 16) << 48 | flags << 52 | base >> 24 << 56)

    def selector(self) -> int:
        r = self.rng
        return r.choice((8, 0x10, 0x1B, 0x23, 0x2B, 0x30, r.randrange(64) << 3 | r.randrange(8), r.getrandbits(16), 0))

    def gate(self, access: int) -> int:
        offset = CODE + self.rng.randrange(0x3F00)
        return (offset & 0xFFFF | self.rng.choice((8, 8, 0x40, self.selector())) << 16 | access << 40
                | self.rng.choice((0, 0, 3, 31)) << 32 | offset >> 16 << 48)

    def descriptor_tables(self, memory: bytearray, long: bool) -> None:
        r = self.rng
        code0, code3 = (0xAF9B, 0xAFFB) if long else (0xCF9B, 0xCFFB)
        fixed = [0, self.flat(code0), self.flat(0xCF93), self.flat(0xCFFB), self.flat(0xCFF3), self.flat(code3),
                 0x67 | (TSS & 0xFFFFFF) << 16 | 0x89 << 40 | 0x2000, 0, self.flat(0xCF9B), self.flat(0x8F9B), self.flat(0x8F93)]
        some = [self.descriptor() for _ in range(16)]
        struct.pack_into("<64Q", memory, GDT, *fixed, *r.choices(some, k=64 - len(fixed)))
        struct.pack_into("<16Q", memory, LDT, *some)
        struct.pack_into("<512Q", memory, IDT, *r.choices([self.gates(long) for _ in range(16)], k=512))
        for i in range(TSS, TSS + 0x68, 4):
            struct.pack_into("<I", memory, i, self.value() & 0xFFFFFFFF)
        struct.pack_into("<IH", memory, TSS + 4, STACK + 0x1000, 0x10)
        if long:
            struct.pack_into("<7Q", memory, TSS + 36, *((STACK + 0x800 * i if r.random() < 0.9 else self.value()) for i in range(1, 8)))
        struct.pack_into("<H", memory, TSS + 0x66, r.choice((0x68, 0x88, 0x67, 0xFFFF, r.getrandbits(16))))

    @staticmethod
    def flat(rights: int) -> int:
        return 0xFFFF | (rights & 0xFF) << 40 | (rights >> 8) << 48

    def gates(self, long: bool) -> int:
        if long and self.some(0.5):
            return 0                                          # the upper half, mostly
        return self.gate(self.rng.choice((0x8E, 0x8E, 0xEE, 0x8F, 0xEF, 0x86, 0x87, 0xE5, self.rng.randrange(256))))

    # -- page tables --------------------------------------------------------------------------------------------------
    def page_tables(self, memory: bytearray) -> None:
        """Identity over RAM in three formats, large pages behind it, and a few mistakes."""
        r = self.rng
        put = struct.pack_into
        rights = P | RW | US | r.choice((0, A, A | D))
        put("<Q", memory, PML4, PDPT | rights)
        put("<Q", memory, PML4 + 511 * 8, PDPT | rights)
        put("<Q", memory, PML4 + 256 * 8, PML4 | rights)              # the tables themselves
        put("<4Q", memory, PDPT, PD | rights, 0 | rights | PS, PD | rights, 1 << 30 | rights | PS | G)
        put("<2Q", memory, PDPT + 510 * 8, PD | rights, PD | rights)
        put("<3Q", memory, PD, PT | rights, 0 | rights | PS, 1 << 21 | rights | PS | G)
        put(f"<{FRAMES}Q", memory, PT, *(i << 12 | rights for i in range(FRAMES)))
        put("<4Q", memory, PAE_PDPT, PD | P, PD | P, PD | P, r.choice((0, PD | P, PD | P | RW)))
        put("<3I", memory, PD32, PT32 | rights, 0 | rights | PS, PD32 | rights)
        put("<I", memory, PD32 + 4092, PT32 | rights)
        put(f"<{FRAMES}I", memory, PT32, *(i << 12 | rights for i in range(FRAMES)))
        for _ in range(r.choice((0, 0, 1, 3, 12))):
            table = r.choice((PML4, PDPT, PD, PT, PT, PT, PAE_PDPT, PD32, PT32, PT32))
            at = table + r.choice((r.randrange(4), r.randrange(256), (DATA >> 12) + r.randrange(8), (STACK >> 12) + r.randrange(4))) * 8
            entry = struct.unpack_from("<Q", memory, at)[0]
            put("<Q", memory, at, r.choice((entry ^ 1 << r.choice((0, 1, 2, 5, 6, 7, 63, r.randrange(64))), 0, r.getrandbits(64),
                                            r.randrange(FRAMES) << 12 | rights, r.randrange(1 << 14) << 12 | rights)))

    # -- the program --------------------------------------------------------------------------------------------------
    def instruction(self, bits: int) -> bytes:
        r = self.rng
        if self.some(0.12):
            return r.randbytes(r.randrange(1, 16))
        code = r.choice(r.choice(corpus(bits)))
        if self.some(0.12):
            i = r.randrange(len(code))
            code = code[:i] + bytes([r.choice((code[i] ^ 1 << r.randrange(8), r.randrange(256)))]) + code[i + 1:]
        if self.some(0.05):
            code = bytes([r.choice(codebytes.LEGACY.tolist())]) + code
        return code

    def program(self, memory: bytearray, bits: int) -> list[int]:
        """Fill the code pages from a random offset, which may be near a page's end; returns where instructions start."""
        r = self.rng
        memory[CODE : CODE + 0x4000] = r.choice((bytes(0x4000), b"\x90" * 0x4000, r.randbytes(0x4000)))
        at = CODE + r.choice((0, r.randrange(0x3000), 0xFC0, 0x1FE0))
        starts = []
        for _ in range(r.choice((8, 20, 40))):
            code = self.instruction(bits)
            starts.append(at)
            memory[at : at + len(code)] = code
            at += len(code)
        return starts

    def make(self) -> Case:
        r = self.rng
        mode = r.choices(list(MODES), [m[3] for m in MODES.values()])[0]
        bits, pe, paging, _ = MODES[mode]
        long, vm86 = paging == "4level", mode.startswith("vm86")
        memory = bytearray(FRAMES << 12)
        memory[DATA : DATA + 0x8000] = r.randbytes(0x8000) if self.some(0.5) else bytes(0x8000)
        self.descriptor_tables(memory, long)
        self.page_tables(memory)
        if not pe:
            struct.pack_into("<256I", memory, 0, *r.choices([r.randrange(0x4000) | CODE << 12 for _ in range(16)], k=256))
        starts = self.program(memory, bits)
        cpl = 3 if vm86 else r.choice((0, 0, 3)) if pe else 0
        cr0 = pe | (1 << 31 if paging else 0) | 0x10 | sum(b for b in CR0_BITS if self.some(0.15)) | 0x20
        cr4 = sum(b for b in CR4_BITS if self.some(0.2)) | (0x600 if self.some(0.8) else 0)
        cr4 = cr4 & ~0x20 | (0x20 if paging in ("pae", "4level") else 0)
        efer = (0x500 if long else 0) | (0x800 if self.some(0.7) else 0) | (1 if self.some(0.7) else 0)
        cr4, xcr0 = (cr4 | 1 << 18, 7) if self.some(0.6) else (cr4, r.choice((1, 3, 7)))
        based = not pe or vm86
        rflags = 2 | r.getrandbits(12) & 0xCD5 | r.choice((0, 0, 0x3000)) | (0x20000 if vm86 else 0)
        rflags |= (0x200 if self.some(0.5) else 0) | (0x100 if self.some(0.03) else 0) | (0x40000 if self.some(0.05) else 0)
        general = [self.value() for _ in range(16)]
        general[1] = r.choice((r.randrange(40), r.randrange(40), general[1]))
        general[4] = STACK + 0x1000 + 8 * r.randrange(-8, 8) if self.some(0.85) else general[4]
        if based:
            general[4] &= 0xFFFF
        if bits < 64 and self.some(0.9):
            general = [g & 0xFFFFFFFF for g in general]
        segments = self.segments(bits, based, cpl)
        base = segments["cs"][1] if bits < 64 else 0
        starts = [(s - base) & 0xFFFFFFFF for s in starts]
        return Case(
            self.number, mode, cpl, cr0, {"32": PD32, "pae": PAE_PDPT}.get(paging, PML4), cr4, efer, xcr0, rflags, starts[0],
            struct.pack("<16Q", *general), r.randbytes(512), r.choice((0x1F80, 0x1F80, r.getrandbits(16))),
            (r.choice((0x37F, r.getrandbits(16))), r.getrandbits(16), r.getrandbits(8),
             [(r.getrandbits(16), r.getrandbits(64)) for _ in range(8)]),
            segments, self.system_tables(pe), memory, starts, r.choice((60, 300)), [r.getrandbits(64) for _ in range(8)],
            [(DATA >> 12) + r.randrange(8)] if self.some(0.1) else [], [(DATA >> 12) + r.randrange(8)] if self.some(0.1) else [])

    def segments(self, bits: int, based: bool, cpl: int) -> dict[str, tuple[int, int, int, int]]:
        r = self.rng
        out = {}
        for name in SEGMENTS:
            if based:
                sel = {"cs": CODE, "ss": STACK}.get(name, DATA) >> 4 if self.some(0.9) else r.getrandbits(16)
                sel = CODE >> 4 if name == "cs" else sel
                out[name] = (sel, sel << 4, 0xFFFF, 0xF3 if cpl else (0x9B if name == "cs" else 0x93))
                continue
            kind = 0x9B if name == "cs" else 0x93
            size = {64: 0xA000, 32: 0xC000, 16: 0x8000}[bits] if name == "cs" else r.choice((0xC000, 0xC000, 0x8000, 0x4000))
            base = 0 if bits == 64 or name == "cs" or self.some(0.7) else r.choice((DATA, STACK, r.getrandbits(32)))
            limit = 0xFFFFFFFF if self.some(0.8) or bits == 64 else r.choice((0xFFFF, 0x20FFF, CODE + r.randrange(0x4000)))
            if name not in ("cs", "ss") and self.some(0.15):
                kind = 0x80 | 0x10 | r.randrange(16)
            sel = (0x1B if bits != 64 else 0x2B) if cpl and name == "cs" else 0x23 if cpl else 8 if name == "cs" else 0x10
            out[name] = (sel, base, limit, kind | size | cpl << 5)
        if bits == 64 and self.some(0.3):
            out["gs"] = (0, self.value() & 0x7FFFFFFFFFFF, 0xFFFFFFFF, out["gs"][3])
        return out

    def system_tables(self, pe: int) -> dict[str, tuple[int, int]]:
        if not pe:
            return {"idtr": (0, 0x3FF if self.some(0.5) else 0), "gdtr": (GDT, 0x1FF)}
        return {"idtr": (IDT, 0xFFF if self.some(0.55) else 0), "gdtr": (GDT, 0x1FF if self.some(0.9) else self.rng.randrange(0x200))}


def make(seed: int, number: int) -> Case:
    return Maker(seed, number).make()
