"""Paging as the SDM words it, slowly: the reference that the core's page walk is compared with.

SDM Vol. 3, chapter 4, section by section, without a TLB and without a thought for speed.  It shares nothing with the
core: no constants, no tables, no order of checks beyond what the text gives.  Two things the SDM leaves to the
processor are settled as the core settles them: the accessed flag of an entry that references a table is set as soon as
the walk uses the entry, even when a lower level then faults (4.8 says "whenever the processor uses"), and a table
outside memory reads as zero.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

MAXPHYADDR = 46
READ, WRITE, FETCH = "read", "write", "fetch"


@dataclass
class Registers:
    """What paging depends on."""

    wp: bool = True
    pse: bool = False
    pae: bool = False
    la57: bool = False
    lma: bool = False
    nxe: bool = False
    smep: bool = False
    smap: bool = False
    pke: bool = False
    ac: bool = False
    pkru: int = 0
    cr3: int = 0
    pdpte: tuple[int, int, int, int] = (0, 0, 0, 0)
    pse36: bool = True
    page1gb: bool = True


@dataclass
class Outcome:
    """A physical address, or the error code of a page fault; and the flags that were set: (address of the entry, its
    new value).
    """

    physical: int | None = None
    error: int | None = None
    large: bool = False
    marks: dict[int, int] = field(default_factory=dict)


class _Fault(Exception):
    def __init__(self, present: bool, reserved: bool = False, key: bool = False) -> None:
        self.bits = present | reserved << 3 | key << 5


def bit(value: int, n: int) -> bool:
    return bool(value >> n & 1)


def bits(value: int, high: int, low: int) -> int:
    return value >> low & ((1 << (high - low + 1)) - 1)


def canonical(address: int, la57: bool) -> bool:
    """Vol. 1, 3.3.7.1: all bits above the implemented ones equal the highest of them."""
    top = 56 if la57 else 47
    return bits(address, 63, top) in (0, (1 << (64 - top)) - 1)


# -- reserved bits: tables 4-4 to 4-20 -------------------------------------------------------------------------------
def reserved_32(entry: int, level: int, r: Registers) -> bool:
    """Table 4-4: a PDE that maps a 4-MByte page; bit 21 with PSE-36 and a MAXPHYADDR of 40 or more, all of 21:13
    without it.
    """
    if level == 2 and r.pse and bit(entry, 7):
        return bit(entry, 21) if r.pse36 else bits(entry, 21, 13) != 0
    return False


def reserved_pae(entry: int, level: int, r: Registers) -> bool:
    """Tables 4-9 to 4-11."""
    if bits(entry, 62, MAXPHYADDR) or (bit(entry, 63) and not r.nxe):
        return True
    return level == 2 and bit(entry, 7) and bits(entry, 20, 13) != 0


def reserved_long(entry: int, level: int, r: Registers) -> bool:
    """Tables 4-14 to 4-20."""
    if bits(entry, 51, MAXPHYADDR) or (bit(entry, 63) and not r.nxe):
        return True
    if level >= 4 and bit(entry, 7):
        return True
    if level == 3 and bit(entry, 7):
        return not r.page1gb or bits(entry, 29, 13) != 0
    return level == 2 and bit(entry, 7) and bits(entry, 20, 13) != 0


def pdpte_ok(entry: int) -> bool:
    """Table 4-8: what MOV to CR3 accepts."""
    return not bit(entry, 0) or not (bits(entry, 2, 1) or bits(entry, 8, 5) or bits(entry, 63, MAXPHYADDR))


# -- access rights: 4.6 ----------------------------------------------------------------------------------------------
def allowed_supervisor(access: str, user_page: bool, writable: bool, nx: bool, r: Registers, implicit: bool) -> bool:
    """4.6.1, supervisor-mode accesses."""
    if access == FETCH:
        return not (user_page and r.smep) and not (nx and r.nxe)
    if user_page and r.smap and (implicit or not r.ac):
        return False
    return access == READ or writable or not r.wp


def allowed_user(access: str, user_page: bool, writable: bool, nx: bool, r: Registers) -> bool:
    """4.6.1, user-mode accesses."""
    if not user_page:
        return False
    if access == FETCH:
        return not (nx and r.nxe)
    return access == READ or writable


def key_denies(access: str, user: bool, user_page: bool, key: int, r: Registers) -> bool:
    """4.6.2: protection keys, for data accesses to user-mode addresses in IA-32e mode."""
    if access == FETCH or not user_page or not r.pke or not r.lma:
        return False
    access_disable, write_disable = bit(r.pkru, 2 * key), bit(r.pkru, 2 * key + 1)
    return access_disable or (access == WRITE and write_disable and (user or r.wp))


# -- the walk: 4.3, 4.4, 4.5 -----------------------------------------------------------------------------------------
class _Walk:
    def __init__(self, load: Callable[[int, int], int], r: Registers, linear: int, access: str) -> None:
        self.load, self.r, self.linear, self.access = load, r, linear, access
        self.marks: dict[int, int] = {}
        self.user_page = self.writable = True
        self.nx = False

    def entry(self, address: int, level: int, size: int, reserved: Callable[[int, int, Registers], bool]) -> int:
        """Use an entry: it is present, has no reserved bit set, and counts for the access rights."""
        value = self.load(address, size)
        if not bit(value, 0):
            raise _Fault(present=False)
        if reserved(value, level, self.r):
            raise _Fault(present=True, reserved=True)
        self.writable &= bit(value, 1)
        self.user_page &= bit(value, 2)
        self.nx |= size == 8 and bit(value, 63)
        return value

    def accessed(self, address: int, value: int) -> None:
        if not bit(value, 5):
            self.marks[address] = value | 1 << 5

    def four_bytes(self) -> tuple[int, int, int, int]:
        """32-bit paging, 4.3: (address of the last entry, the entry, physical address, key)."""
        r = self.r
        at = bits(r.cr3, 31, 12) << 12 | bits(self.linear, 31, 22) << 2
        pde = self.entry(at, 2, 4, reserved_32)
        if r.pse and bit(pde, 7):
            return at, pde, bits(pde, 20, 13) << 32 | bits(pde, 31, 22) << 22 | bits(self.linear, 21, 0), 0
        self.accessed(at, pde)
        at = bits(pde, 31, 12) << 12 | bits(self.linear, 21, 12) << 2
        pte = self.entry(at, 1, 4, reserved_32)
        return at, pte, bits(pte, 31, 12) << 12 | bits(self.linear, 11, 0), 0

    def eight_bytes(self) -> tuple[int, int, int, int]:
        """PAE paging, 4.4; 4-level and 5-level paging, 4.5."""
        r = self.r
        if r.lma:
            table, level, reserved = bits(r.cr3, MAXPHYADDR - 1, 12) << 12, 5 if r.la57 else 4, reserved_long
        else:
            pdpte = r.pdpte[bits(self.linear, 31, 30)]
            if not bit(pdpte, 0):
                raise _Fault(present=False)
            table, level, reserved = bits(pdpte, MAXPHYADDR - 1, 12) << 12, 2, reserved_pae
        while True:
            low = 12 + 9 * (level - 1)
            at = table | bits(self.linear, low + 8, low) << 3
            value = self.entry(at, level, 8, reserved)
            if level == 1 or bit(value, 7):
                frame = bits(value, MAXPHYADDR - 1, low) << low
                return at, value, frame | bits(self.linear, low - 1, 0), bits(value, 62, 59)
            self.accessed(at, value)
            table, level = bits(value, MAXPHYADDR - 1, 12) << 12, level - 1


def translate(
    load: Callable[[int, int], int], r: Registers, linear: int, access: str, user: bool, implicit: bool = False
) -> Outcome:
    """One access.  load(address, size) reads physical memory; the marks of the outcome are the caller's to store."""
    walk = _Walk(load, r, linear, access)
    try:
        at, value, physical, key = walk.eight_bytes() if r.pae else walk.four_bytes()
        denied = key_denies(access, user, walk.user_page, key, r)
        if user:
            allowed = allowed_user(access, walk.user_page, walk.writable, walk.nx, r)
        else:
            allowed = allowed_supervisor(access, walk.user_page, walk.writable, walk.nx, r, implicit)
        if denied or not allowed:
            raise _Fault(present=True, key=denied)
    except _Fault as fault:
        # 4.7: W/R, U/S; I/D only where instruction fetches can be denied at all
        error = fault.bits | (access == WRITE) << 1 | user << 2
        if access == FETCH and (r.smep or (r.pae and r.nxe)):
            error |= 1 << 4
        return Outcome(error=error, marks=walk.marks)
    marked = value | 1 << 5 | (access == WRITE) << 6
    if marked != value:
        walk.marks[at] = marked
    return Outcome(physical=physical, marks=walk.marks)
