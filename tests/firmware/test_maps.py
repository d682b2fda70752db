"""The MP table, the $PIR table, the memory map and the MTRRs, read back as an operating system reads them."""

import struct
from itertools import pairwise

import pytest

from xenfast.firmware import e820, mptable, mtrr, pirq
from xenfast.firmware.acpi.machine import pci_gsi, pci_link

MIB, GIB = 1 << 20, 1 << 30


def test_mp_table():
    """The pointer leads to a table whose entries are processors, buses, I/O APIC and interrupts, in this order, and sum to zero."""
    data = mptable.build(0xF0400, [0, 2, 4, 300], (0x306A9, 0x1FBFF))
    pointer, table = data[:16], data[16:]
    assert sum(pointer) % 256 == 0 and pointer[:4] == b"_MP_" and struct.unpack_from("<I", pointer, 4)[0] == 0xF0410
    assert sum(table) % 256 == 0 and len(table) == struct.unpack_from("<H", table, 4)[0]
    count, lapic = struct.unpack_from("<HI", table, 34)
    entries, at = [], 44
    while at < len(table):
        size = 20 if table[at] == 0 else 8
        entries.append(table[at:at + size])
        at += size
    assert (len(entries), lapic) == (count, 0xFEE00000)
    assert [e[0] for e in entries] == sorted(e[0] for e in entries)
    assert [(e[1], e[3]) for e in entries if e[0] == 0] == [(0, 3), (2, 1), (4, 1)]
    pins = {(e[4], e[5]): (e[7], e[2]) for e in entries if e[0] == 3}
    assert pins[1, 0] == (2, 0) and pins[1, 4] == (4, 0) and pins[1, 9] == (9, 15)
    assert pins[0, 3 << 2] == (pci_gsi(3, 0), 15) and (1, 5) not in pins
    assert [(e[1], e[7]) for e in entries if e[0] == 4] == [(mptable.EXTINT, 0), (mptable.NMI, 1)]


def test_pir_table():
    """The router is the PIIX3, slots lead to its registers, the bytes sum to zero."""
    table = pirq.build()
    size = struct.unpack_from("<H", table, 6)[0]
    assert table[:4] == b"$PIR" and len(table) == size == 32 + 31 * 16 and sum(table) % 256 == 0
    assert struct.unpack_from("<BB", table, 8) == (0, 8) and struct.unpack_from("<HH", table, 12) == (0x8086, 0x7000)
    slot3 = table[32 + 2 * 16:][:16]
    assert slot3[:2] == bytes((0, 3 << 3))
    assert struct.unpack_from("<BH", slot3, 2) == (0x60 + pci_link(3, 0), 1 << 5 | 1 << 10 | 1 << 11)
    assert pirq.links() == [5, 10, 11, 5]


@pytest.mark.parametrize(("low", "high"), [(64 * MIB, 0), (0xF0000000, 6 * GIB), (0xC0000000, 1 << 40)])
def test_memory_map_is_sorted_and_whole(low, high):
    """No overlaps; RAM is all there is but the legacy hole and the EBDA; everything from FC000000h to 4 GiB is taken."""
    found = e820.hvm(low, high, tables_end=0xFC003123)
    assert all(a.end <= b.start for a, b in pairwise(found))
    ram = sum(one.size for one in found if one.type == e820.RAM)
    assert ram == low - 0x100000 + 0x9FC00 + max(0, high - 4 * GIB)
    assert [one[:2] for one in found if one.type == e820.NVS] == [(0xFC000000, 0x4000)]
    assert e820.Range(0xFC004000, 0x3FFC000, e820.RESERVED) in found
    assert len(e820.packed(found)) == 20 * len(found) and "ACPI NVS" in e820.text(found)
    assert not any(one.type == e820.NVS for one in e820.hvm(low, high))
    pvh = e820.pvh(low, high)
    assert pvh[0] == (0, low, e820.RAM) and e820.Range(0xFEFF8000, 0x8000, e820.RESERVED) in pvh


@pytest.mark.parametrize("hole", [(0xF0000000, 0xFC000000), (0xE0000000, 0xFC000000), (0x80000000, 0xFC000000)])
def test_mtrrs_make_the_hole_uncacheable(hole):
    """What covers the hole is uncacheable, the rest is write-back; ranges are powers of two at multiples of their size."""
    written = dict(mtrr.registers(hole, (0x200000000, 0x240000000)))
    assert written[0x2FF] == 0xC06 and written[0x259] == 0 and written[0x258] == written[0x268] == 0x0606060606060606
    covered = []
    for n in range(mtrr.RANGES):
        if 0x201 + 2 * n in written:
            base, mask = written[0x200 + 2 * n], written[0x201 + 2 * n]
            size = (1 << 46) - (mask & ~0xFFF)
            assert mask & mtrr.VALID and size & size - 1 == 0 and base % size == 0
            covered.append((base, base + size))
    assert min(covered)[0] == hole[0] and (0x200000000, 0x240000000) in covered
    assert all(b[0] == a[1] for a, b in pairwise(covered) if b[0] < 1 << 32)
