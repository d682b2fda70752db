"""Where everything lies in a new PV domain, and the page tables it starts on.

Specified in xen/include/public/xen.h, "Start-of-day memory layout": from VIRT_BASE on, pseudo-physical memory is
mapped one to one and holds, each on a page boundary and in this order,

    kernel image | initrd | p2m list | start_info | xenstore ring | console ring | page tables | stack | 512 KiB or
    more of padding

and the region ends on a 4 MiB boundary.  A kernel with MOD_START_PFN gets its initrd, and one with INIT_P2M its p2m
list, behind that region: the initrd is not mapped at all, the list where the kernel wants it, by page tables that lie
behind the list.

Pure arithmetic and numpy; nothing here touches a domain.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from xenfast.errors import XenfastError
from xenfast.libxl.kernel import PvKernel

PAGE, SHIFT = 4096, 12
PADDING = 512 << 10
ALIGN = 4 << 20
CANONICAL = 0x0000_8000_0000_0000

# Page-table entry bits (SDM Vol. 3, 4.5); bootstrap entries are present, user (PV kernels run in ring 3) and accessed.
PTE_P, PTE_RW, PTE_US, PTE_A, PTE_D = 1, 2, 4, 0x20, 0x40
L1_PROT = PTE_P | PTE_RW | PTE_US | PTE_A
TABLE_PROT = PTE_P | PTE_RW | PTE_US | PTE_A | PTE_D

TableKey = tuple[int, int]      # (level, virtual address >> (12 + 9 * level)): which table this is


@dataclass
class PvLayout:
    """Pseudo-physical frame numbers of the parts; virtual addresses follow by ``virt``."""

    virt_base: int
    nr_pages: int
    initrd_size: int
    virt_end: int = 0               # end of the bootstrap region
    initrd_pfn: int = 0
    p2m_pfn: int = 0
    p2m_pages: int = 0
    p2m_virt: int = 0
    start_info_pfn: int = 0
    store_pfn: int = 0
    console_pfn: int = 0
    pt_pfn: int = 0
    stack_pfn: int = 0
    end_pfn: int = 0                # first frame that nothing uses
    initrd_is_mapped: bool = True
    p2m_is_apart: bool = False      # mapped where INIT_P2M says
    tables: dict[TableKey, int] = field(default_factory=dict)       # bootstrap tables -> pfn, L4 first
    p2m_tables: dict[TableKey, int] = field(default_factory=dict)   # more of them, for the p2m list

    def virt(self, pfn: int) -> int:
        return self.virt_base + (pfn << SHIFT)

    @property
    def nr_p2m_frames(self) -> int:
        return self.p2m_pages + len(self.p2m_tables)


def pages(size: int) -> int:
    return size + PAGE - 1 >> SHIFT


def plan(kernel: PvKernel, nr_pages: int, initrd_size: int = 0) -> PvLayout:
    """Lay out a domain of ``nr_pages`` frames; raises XenfastError when the parts do not fit."""
    lay = PvLayout(kernel.virt_base, nr_pages, initrd_size)
    lay.p2m_pages = pages(nr_pages * 8)
    lay.initrd_is_mapped = not kernel.unmapped_initrd
    lay.p2m_is_apart = kernel.init_p2m is not None
    cursor = pages(kernel.virt_end - kernel.virt_base)
    if lay.initrd_is_mapped:
        lay.initrd_pfn, cursor = cursor, cursor + pages(initrd_size)
    if not lay.p2m_is_apart:
        lay.p2m_pfn, cursor = cursor, cursor + lay.p2m_pages
        lay.p2m_virt = lay.virt(lay.p2m_pfn)
    lay.start_info_pfn, lay.store_pfn, lay.console_pfn = cursor, cursor + 1, cursor + 2
    lay.pt_pfn = cursor + 3
    _check_size(lay.pt_pfn, nr_pages)
    _plan_bootstrap_tables(lay)
    cursor = lay.virt_end - lay.virt_base >> SHIFT
    if not lay.initrd_is_mapped:
        lay.initrd_pfn, cursor = cursor, cursor + pages(initrd_size)
    if kernel.init_p2m is not None:
        lay.p2m_virt = kernel.init_p2m
        lay.p2m_pfn, cursor = cursor, cursor + lay.p2m_pages
        end = lay.p2m_virt + lay.p2m_pages * PAGE
        if end > 1 << 64:
            raise XenfastError("the kernel's address for the p2m list leaves no room for it")
        for key in _tables_for(lay.p2m_virt, end):
            if key not in lay.tables:
                lay.p2m_tables[key] = cursor
                cursor += 1
    lay.end_pfn = cursor
    _check_size(cursor, nr_pages)
    return lay


def _check_size(wanted: int, nr_pages: int) -> None:
    if wanted > nr_pages:
        raise XenfastError(
            f"a domain of {nr_pages >> 8} MiB is too small: kernel, initrd and page tables need {wanted + 255 >> 8} MiB"
        )


def _plan_bootstrap_tables(lay: PvLayout) -> None:
    """The region must hold the tables that map it: extend it until it does."""
    end = lay.virt(lay.pt_pfn)
    while True:
        end += ALIGN - 1
        end &= ~(ALIGN - 1)
        if end > 1 << 64 or lay.virt_base < CANONICAL < end:
            raise XenfastError("the kernel's virtual address range leaves no room for the bootstrap region")
        keys = list(_tables_for(lay.virt_base, end))
        stack_pfn = lay.pt_pfn + len(keys)
        if lay.virt(stack_pfn + 1) + PADDING <= end:
            break
        end += 1
    lay.virt_end, lay.stack_pfn = end, stack_pfn
    lay.tables = {key: lay.pt_pfn + i for i, key in enumerate(keys)}


def _tables_for(start: int, end: int) -> Iterator[TableKey]:
    """Every page table that maps [start, end): the L4, then L3s, L2s and L1s in order of address."""
    for level in (4, 3, 2, 1):
        shift = SHIFT + 9 * level
        low, high = (start & (1 << 48) - 1) >> shift, ((end - 1) & (1 << 48) - 1) >> shift
        for index in range(low, high + 1):
            yield level, index


def page_tables(lay: PvLayout, p2m: np.ndarray) -> dict[int, np.ndarray]:
    """Contents of every page table: pfn -> 512 entries holding machine frames."""
    where = lay.tables | lay.p2m_tables
    contents = {pfn: np.zeros(512, dtype=np.uint64) for pfn in where.values()}
    for (level, index), pfn in where.items():
        if level < 4:
            parent = where[level + 1, index >> 9]
            contents[parent][index & 511] = _entry(p2m[pfn], TABLE_PROT)
    region = _entries(p2m[: lay.virt_end - lay.virt_base >> SHIFT], L1_PROT)
    first = lay.pt_pfn
    region[first : first + len(lay.tables)] &= ~np.uint64(PTE_RW)
    _map(lay, contents, lay.virt_base, region)
    if lay.p2m_is_apart:
        entries = _entries(p2m[lay.p2m_pfn : lay.p2m_pfn + lay.p2m_pages], L1_PROT)
        _map(lay, contents, lay.p2m_virt, entries)
    return contents


def _map(lay: PvLayout, contents: dict[int, np.ndarray], virt: int, entries: np.ndarray) -> None:
    """Put L1 entries where ``virt`` says, a table at a time."""
    where = lay.tables | lay.p2m_tables
    page = (virt & (1 << 48) - 1) >> SHIFT
    done = 0
    while done < len(entries):
        slot = page + done & 511
        count = min(512 - slot, len(entries) - done)
        table = contents[where[1, page + done >> 9]]
        table[slot : slot + count] = entries[done : done + count]
        done += count


def _entry(mfn: int, prot: int) -> np.uint64:
    return np.uint64(int(mfn) << SHIFT | prot)


def _entries(mfns: np.ndarray, prot: int) -> np.ndarray:
    return mfns.astype(np.uint64) << np.uint64(SHIFT) | np.uint64(prot)
