"""Random page tables: a chain of entries for one linear address, with every bit thrown now and then."""

from __future__ import annotations

import random
from dataclasses import dataclass

from tests.cpu.paging_machine import DATA, MEMORY, NX, PS, RW, TABLES, US, A, D, G, P
from tests.cpu.paging_reference import FETCH, READ, WRITE, Outcome, Registers, translate

LEVELS = {"32": 2, "pae": 3, "4level": 4, "5level": 5}


@dataclass
class Case:
    """Registers, the entries of the chain {physical address: (value, size)}, and one access."""

    r: Registers
    entries: dict[int, tuple[int, int]]
    linear: int
    access: str
    user: bool

    def expected(self, load) -> Outcome:
        return translate(load, self.r, self.linear, self.access, self.user)

    def __str__(self) -> str:
        table = ", ".join(f"[{at:#x}]={value:#x}" for at, (value, _) in self.entries.items())
        return f"{'user' if self.user else 'supervisor'} {self.access} of {self.linear:#x} under {self.r} with {table}"


def registers(rng: random.Random, mode: str) -> Registers:
    def often(p: float) -> bool:
        return rng.random() < p

    pae, lma = mode != "32", mode in ("4level", "5level")
    return Registers(
        wp=often(0.6),
        pse=often(0.6),
        pae=pae,
        la57=mode == "5level",
        lma=lma,
        nxe=often(0.6),
        smep=often(0.4),
        smap=often(0.4),
        pke=lma and often(0.5),
        ac=often(0.3),
        pkru=rng.getrandbits(32) & rng.getrandbits(32),
        cr3=TABLES | rng.choice((0, 0, 8, 16, 24)),
        pse36=often(0.8),
        page1gb=often(0.8),
    )


def linear_address(rng: random.Random, mode: str) -> int:
    """Anywhere but under the entry that maps the code; a few bytes from the end of a page at most."""
    offset = rng.randrange(0, 4089)
    if mode in ("32", "pae"):
        return rng.randrange(0, 0xC0000000) & ~0xFFF | offset
    width = 57 if mode == "5level" else 48
    page = rng.getrandbits(width - 1) & ~0xFFF
    if rng.random() < 0.3 and page >> (width - 9) != 255:
        page |= ((1 << 64) - 1) & ~((1 << (width - 1)) - 1)  # the upper half
    if rng.random() < 0.7:  # low in its GiB, so that a 1-GByte page is in memory
        page = page & ~(0x3FFFFFFF & ~(MEMORY - 1)) | MEMORY >> 1
    return page | offset


def chain(rng: random.Random, r: Registers, mode: str, linear: int) -> dict[int, tuple[int, int]]:
    """An entry a level, with the next table's address or a frame of DATA."""
    entries = {}
    size, width = (4, 10) if mode == "32" else (8, 9)
    table = r.cr3 & ~0x1F
    for level in range(LEVELS[mode], 0, -1):
        low = 12 + (level - 1) * width
        pdpte = mode == "pae" and level == 3
        index = linear >> low & (3 if pdpte else (1 << width) - 1)
        value = sum(
            flag for flag, p in ((P, 0.96), (RW, 0.75), (US, 0.75), (A, 0.5), (D, 0.5), (G, 0.3)) if rng.random() < p
        )
        value |= rng.choice((0, 0, 0x18, 8, 16)) | rng.choice((0, 0, 0xE00))
        if not pdpte and rng.random() < 0.25 and (level in (2, 3) or rng.random() < 0.1):
            value |= PS
        child = table + 0x1000 if level > 1 else rng.randrange(DATA, MEMORY) & ~0xFFF
        if level > 1 and value & PS:
            child = rng.randrange(DATA, MEMORY) >> low << low | rng.choice((0, 0, 1 << 12))
            if rng.random() < 0.15:
                child |= 1 << rng.randrange(13, low + 1)
        if rng.random() < 0.02:
            child = rng.randrange(MEMORY, 1 << 32) & ~0xFFF  # outside memory
        value |= child
        if size == 8:
            if rng.random() < 0.15:
                value |= NX
            if rng.random() < 0.04:
                value |= 1 << rng.randrange(46, 63)
            if mode != "pae":
                value |= rng.choice((0, rng.getrandbits(11) << 52))  # ignored, and the protection key
        if pdpte:
            value &= ~(RW | US | A | D | G | PS | NX | ((1 << 63) - (1 << 46)))  # MOV CR3 would have refused them
        entries[table + index * size] = value & ((1 << 8 * size) - 1), size
        table += 0x1000
    return entries


def case(rng: random.Random, mode: str) -> Case:
    r = registers(rng, mode)
    linear = linear_address(rng, mode)
    entries = chain(rng, r, mode, linear)
    if mode == "pae":
        pdptes = [0] * 4
        for at, (value, _) in entries.items():
            if at & ~0xFFF == r.cr3 & ~0xFFF:
                pdptes[(at - (r.cr3 & ~0x1F)) // 8] = value
        r.pdpte = tuple(pdptes)  # the code's is the machine's own business
    return Case(r, entries, linear, rng.choice((READ, WRITE, FETCH)), rng.random() < 0.5)
