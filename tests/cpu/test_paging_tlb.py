"""The TLB may never be seen: whatever a guest changes and invalidates, every access is as if there were no TLB.

The reference has none.  Between accesses the guest changes page tables, MOVs to CR0, CR3 and CR4, runs INVLPG and
INVPCID, changes PKRU and EFLAGS.AC; after a change of an entry it invalidates what SDM Vol. 3, 4.10.4.1 says is enough,
and no more.

``XENFAST_PAGING_CASES`` and ``XENFAST_PAGING_SEED`` are as in test_paging_walks.
"""

from __future__ import annotations

import dataclasses
import os
import random
import struct

import pytest

from tests.cpu.paging_machine import DATA, MODES, PS, RW, TABLES, US, A, D, G, P, PagingMachine
from tests.cpu.paging_random import LEVELS
from tests.cpu.paging_reference import FETCH, READ, WRITE, Registers, translate

STEPS = int(os.environ.get("XENFAST_PAGING_CASES", "2500"))
SEED = int(os.environ.get("XENFAST_PAGING_SEED", "20241"))
ROOTS, PAGES, OPERAND = 3, 6, 0x8000


class Guest:
    """Three address spaces (PCIDs 1 to 3 in 64-bit mode) over a shared GiB of global pages and one of their own.

    Each has a table of 4-KByte pages and a large page at the same linear addresses.  Only the last level is random:
    what is between it
    and CR3 allows everything.
    """

    def __init__(self, mode: str, rng: random.Random) -> None:
        self.mode, self.rng, self.machine = mode, rng, PagingMachine()
        self.lma, self.size = mode in ("4level", "5level"), 4 if mode == "32" else 8
        self.user = rng.random() < 0.5
        self.own, self.shared = (0x400000, 0x40000000) if self.lma or mode == "pae" else (0x400000, 0x800000)
        self.levels = LEVELS[mode]
        self.big = 0x400000 if mode == "32" else 0x200000
        self.leaves: dict[
            tuple[int, int], tuple[int, bool]
        ] = {}  # (root, linear page) -> address of its entry, is it large?
        self.r = Registers(
            pse=True,
            pae=mode != "32",
            lma=self.lma,
            la57=mode == "5level",
            nxe=mode != "32",
            smep=not self.user and rng.random() < 0.3,
            smap=rng.random() < 0.5,
            pke=self.lma and rng.random() < 0.5,
        )
        self.pge, self.pcide, self.root = True, False, 0
        self.build()

    def build(self) -> None:
        self.next_table, self.tables = TABLES, {}
        self.tops = [self.table(root, self.levels, 0) for root in range(ROOTS)]
        for root in range(ROOTS):
            for area in (self.own, self.shared):
                for i in range(PAGES):
                    self.leaves[root, area + i * 0x1000] = self.slot(root, area + i * 0x1000, 1), False
                self.leaves[root, area + self.big] = self.slot(root, area + self.big, 2), True
        for key, (at, _) in self.leaves.items():
            self.machine.store(at, self.entry(*key), self.size)

    def table(self, root: int, level: int, linear: int) -> int:
        """The table of a level for an address, made when it is missing.  Those below the PDPT are all roots' in the
        shared area.
        """
        width = 10 if self.mode == "32" else 9
        prefix = linear >> 12 + level * width
        if linear >= self.shared and level <= (1 if self.mode == "32" else 2):
            root = -1
        if (root, level, prefix) not in self.tables:
            self.tables[root, level, prefix] = self.next_table
            self.next_table += 0x1000
        return self.tables[root, level, prefix]

    def slot(self, root: int, linear: int, level: int) -> int:
        """Address of the entry of a level for an address; the tables above it lead there."""
        width = 10 if self.mode == "32" else 9
        index = linear >> 12 + (level - 1) * width & ((1 << width) - 1)
        table = self.table(root, level, linear)
        if level < self.levels:
            flags = P if self.mode == "pae" and level == 2 else P | RW | US | A
            self.machine.store(self.slot(root, linear, level + 1), table | flags, self.size)
        return table + index * self.size

    # -- entries ------------------------------------------------------------------------------------------------------
    def is_global(self, page: int) -> bool:
        """In 32-bit paging the large page of the shared area has an entry a root: not global, then."""
        return page >= self.shared and not (self.mode == "32" and page == self.shared + self.big)

    def entry(self, root: int, page: int) -> int:
        rng, large = self.rng, self.leaves[root, page][1]
        value = sum(
            flag
            for flag, p in ((P, 0.85), (RW, 0.7), (US, 0.7 if self.user else 0.4), (A, 0.5), (D, 0.5))
            if rng.random() < p
        )
        frame = rng.randrange(DATA + 0x400000, 16 << 20) & (-self.big if large else ~0xFFF)
        value |= frame | (PS if large else 0) | (G if self.is_global(page) else 0)
        if self.size == 8 and rng.random() < 0.2:
            value |= 1 << 63
        if self.lma:
            value |= rng.randrange(4) << 59
        return value

    # -- steps --------------------------------------------------------------------------------------------------------
    def start(self) -> None:
        self.r.cr3 = self.tops[0]
        for top in reversed(self.tops):
            self.machine.map_code(dataclasses.replace(self.r, cr3=top), self.user)
        self.load_pdptes()
        self.machine.set(self.r, self.user)
        self.machine.cpu.cr4 |= 1 << 7
        self.pcide = self.lma and self.rng.random() < 0.7
        if self.pcide:
            self.machine.cpu.cr4 |= 1 << 17
            self.machine.cpu.cr3 = self.r.cr3 = self.tops[0] | 1

    def load_pdptes(self) -> None:
        if self.mode == "pae":
            self.r.pdpte = struct.unpack("<4Q", bytes(self.machine.ram[self.r.cr3 : self.r.cr3 + 32]))

    def run(self, name: str, rax: int = 0, rbx: int = 0, rcx: int = 0, rdx: int = 0) -> None:
        """A privileged instruction; a guest in ring 3 has its kernel do it."""
        cpu = self.machine.cpu
        if self.user and name != "wrpkru":
            return self.from_outside(name, rax, rbx, rcx)
        cpu.rax, cpu.rbx, cpu.rcx, cpu.rdx = rax, rbx, rcx, rdx
        assert self.machine.execute(name) is None, name
        return None

    def from_outside(self, name: str, rax: int, rbx: int, rcx: int) -> None:
        """In ring 3: to ring 0 and back by the segment registers, and with AC set for what INVPCID reads."""
        cpu, flags = self.machine.cpu, self.machine.cpu.rflags
        segments = {name: cpu.segment(name) for name in ("cs", "ss")}
        for register, (sel, base, limit, attr) in segments.items():
            cpu.set_segment(register, sel & ~3, base, limit, attr & ~0x60)
        cpu.cpl = 0
        cpu.rflags = flags | 1 << 18
        cpu.rax, cpu.rbx, cpu.rcx = rax, rbx, rcx
        assert self.machine.execute(name) is None, name
        for register, (sel, base, limit, attr) in segments.items():
            cpu.set_segment(register, sel, base, limit, attr)
        cpu.cpl = 3
        cpu.rflags = flags

    def invpcid(self, kind: int, pcid: int = 0, address: int = 0) -> None:
        """The descriptor is read through a supervisor mapping: the code page's."""
        self.machine.ram[0x1800:0x1810] = struct.pack("<QQ", pcid, address)
        code = (0xFFFFFFFFFFE00000) | 0x800
        self.run("invpcid", rbx=code, rcx=kind)

    def change_entry(self) -> None:
        """A new entry, then what makes every TLB forget the old one: an invalidation of the kind that is enough for
        it.
        """
        rng = self.rng
        root, page = rng.choice(list(self.leaves))
        at, large = self.leaves[root, page]
        self.machine.store(at, self.entry(root, page), self.size)
        everywhere = self.is_global(page)
        address = page + rng.randrange(0, self.big if large else 0x1000)
        ways = []
        if everywhere or root == self.root:
            ways.append(lambda: self.run("invlpg", rbx=address))
        if not everywhere and root == self.root:
            ways.append(lambda: self.run("mov cr3", rax=self.r.cr3))
        if not everywhere and root != self.root and not self.pcide:
            ways.append(lambda: None)  # MOV CR3 to there forgets it
        if self.pcide and not everywhere:
            ways += [
                lambda: self.invpcid(0, root + 1, address),
                lambda: self.invpcid(1, root + 1),
                lambda: self.invpcid(3),
            ]
        if self.pcide:
            ways.append(lambda: self.invpcid(2))
        ways.append(self.toggle_pge)
        rng.choice(ways)()

    def toggle_pge(self) -> None:
        cr4 = self.machine.cpu.cr4
        self.run("mov cr4", rax=cr4 ^ 1 << 7)
        self.run("mov cr4", rax=cr4)

    def switch(self) -> None:
        """To another address space; with PCIDs usually without a flush, for entries there have been invalidated as
        they changed.
        """
        self.root = self.rng.randrange(ROOTS)
        self.r.cr3 = self.tops[self.root] | (self.root + 1 if self.pcide else 0)
        keep = 1 << 63 if self.pcide and self.rng.random() < 0.8 else 0
        self.load_pdptes()
        self.run("mov cr3", rax=self.r.cr3 | keep)

    def change_rights(self) -> None:
        """WP, SMAP, AC, PKRU."""
        r, rng = self.r, self.rng
        what = rng.randrange(4)
        if what == 0:
            r.wp = not r.wp
            self.run("mov cr0", rax=0x80000011 | r.wp << 16)
        elif what == 1:
            r.smap = not r.smap
            self.run("mov cr4", rax=self.machine.cpu.cr4 ^ 1 << 21)
        elif what == 2:
            r.ac = not r.ac
            if self.user:
                self.machine.cpu.rflags ^= 1 << 18
            else:
                self.run("stac" if r.ac else "clac")
        elif r.pke:
            r.pkru = rng.getrandbits(8) & ~3  # key 0 is the code page's, which INVPCID reads
            self.run("wrpkru", rax=r.pkru)

    def access(self) -> str | None:
        rng = self.rng
        page = rng.choice([page for root, page in self.leaves if root == self.root])
        address = page + rng.randrange(0, self.big if self.leaves[self.root, page][1] else 0x1000) & ~7
        kind = rng.choice((READ, READ, WRITE, FETCH))
        expected = translate(self.machine.load, self.r, address, kind, self.user)
        wrong = self.machine.access(kind, address, rng.getrandbits(64), expected)
        if wrong:
            return f"{kind} of {address:#x} in address space {self.root}: {wrong}"
        for at, value in expected.marks.items():
            got = self.machine.load(at, self.size)
            if got & (A | D) & value != value & (A | D):
                return f"entry {at:#x} is {got:#x}, not {value:#x}"
        return None


@pytest.mark.parametrize("mode", MODES)
def test_the_tlb_cannot_be_seen(mode):
    """Thousands of accesses among changes of entries, address spaces and rights are all as the reference says."""
    rng = random.Random(f"{mode} {SEED}")
    done = 0
    while done < STEPS:
        guest = Guest(mode, rng)
        guest.start()
        for step in range(300):
            what = rng.random()
            if what < 0.1:
                guest.change_entry()
            elif what < 0.2:
                guest.switch()
            elif what < 0.3:
                guest.change_rights()
            else:
                wrong = guest.access()
                assert wrong is None, (
                    f"seed {SEED}, {mode}, step {done} + {step}: {wrong} under {guest.r}, PCIDs {guest.pcide}"
                )
        done += 300
