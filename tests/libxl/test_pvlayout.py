"""The start-of-day memory layout of xen/include/public/xen.h, and the page tables a PV domain starts on."""

import numpy as np
import pytest

from tests.libxl.elfmaker import PV_NOTES, make
from xenfast.abi import elfnote
from xenfast.errors import XenfastError
from xenfast.libxl import elf, kernel, pvlayout

BASE = 0xFFFFFFFF80000000
LINUX = PV_NOTES | {elfnote.XEN_ELFNOTE_INIT_P2M: 0x8000000000, elfnote.XEN_ELFNOTE_MOD_START_PFN: 1}


def layout(notes=PV_NOTES, nr_pages=16384, initrd=5000, memsz=0):
    return pvlayout.plan(kernel.pv_kernel(elf.parse(make(notes, memsz=memsz))), nr_pages, initrd)


def walk(lay, tables, p2m, virt):
    """The L1 entry that maps a virtual address, found as a CPU would; None when there is none."""
    by_mfn = {int(p2m[pfn]): contents for pfn, contents in tables.items()}
    table = tables[lay.pt_pfn]
    for level in (4, 3, 2):
        entry = int(table[virt >> 12 + 9 * (level - 1) & 511])
        if not entry & 1:
            return None
        table = by_mfn[entry >> 12]
    entry = int(table[virt >> 12 & 511])
    return entry if entry & 1 else None


def test_order_of_the_parts():
    """Kernel, initrd, p2m list, start_info, xenstore, console, page tables, stack, padding; end on 4 MiB."""
    lay = layout()
    order = [lay.initrd_pfn, lay.p2m_pfn, lay.start_info_pfn, lay.store_pfn, lay.console_pfn, lay.pt_pfn, lay.stack_pfn]
    assert order == sorted(order)
    assert lay.initrd_pfn == 0x101 and lay.p2m_pfn == 0x103 and lay.p2m_pages == 32
    assert lay.stack_pfn == lay.pt_pfn + len(lay.tables)
    assert lay.virt_end % pvlayout.ALIGN == 0
    assert lay.virt_end - lay.virt(lay.stack_pfn + 1) >= pvlayout.PADDING


def test_the_tables_cover_themselves():
    """The region is extended until it has room for the tables that map it, whatever the kernel's size."""
    for memsz in range(0x1000, 0x1200000, 0x7F000):
        lay = layout(memsz=memsz, initrd=0)
        assert lay.virt_end - lay.virt(lay.stack_pfn + 1) >= pvlayout.PADDING
        assert len([key for key in lay.tables if key[0] == 1]) == (lay.virt_end - BASE) >> 21


@pytest.mark.parametrize("notes", [PV_NOTES, LINUX], ids=["plain", "linux"])
def test_page_tables(notes):
    """The region is mapped one to one, page tables read-only; with INIT_P2M the list is where the kernel wants it."""
    lay = layout(notes)
    p2m = np.random.default_rng(1).permutation(1 << 16)[: lay.nr_pages].astype(np.uint64)
    tables = pvlayout.page_tables(lay, p2m)
    assert set(tables) == set(lay.tables.values()) | set(lay.p2m_tables.values())
    for pfn in range(lay.virt_end - BASE >> 12):
        entry = walk(lay, tables, p2m, lay.virt(pfn))
        assert entry is not None and entry >> 12 == p2m[pfn]
        is_table = lay.pt_pfn <= pfn < lay.pt_pfn + len(lay.tables)
        assert bool(entry & pvlayout.PTE_RW) != is_table
    assert walk(lay, tables, p2m, lay.virt_end) is None
    for i in range(lay.p2m_pages):
        assert walk(lay, tables, p2m, lay.p2m_virt + i * 4096) >> 12 == p2m[lay.p2m_pfn + i]


def test_what_lies_behind_the_region():
    """With MOD_START_PFN and INIT_P2M the initrd and the list lie behind the region, the list's tables behind it."""
    lay = layout(LINUX)
    end = lay.virt_end - BASE >> 12
    assert lay.initrd_pfn == end and lay.p2m_pfn == end + 2
    assert list(lay.p2m_tables.values()) == [lay.p2m_pfn + lay.p2m_pages + i for i in range(3)]
    assert lay.nr_p2m_frames == lay.p2m_pages + 3


def test_too_small():
    """A domain without room for its kernel is refused with the size it would need."""
    with pytest.raises(XenfastError, match="1 MiB is too small: kernel, initrd and page tables need"):
        layout(nr_pages=256)
    with pytest.raises(XenfastError, match="too small"):
        layout(LINUX, nr_pages=4096, initrd=20 << 20)
    with pytest.raises(XenfastError, match="too small"):
        layout(memsz=1 << 30, nr_pages=4096)
