"""Buses find the region of an address, split what is too wide, and answer all ones where nobody is; lines tell of changes only."""

import pytest

from xenfast import _core
from xenfast.xen.hvm import bus, irq
from xenfast.xen.hvm.physmem import PAGE, PhysMem


def ram(size, width=4, log=None):
    data = bytearray(size)

    def write(offset, n, value):
        if log is not None:
            log.append((offset, n, value))
        data[offset:offset + n] = value.to_bytes(n, "little")

    return bus.Region(size, lambda offset, n: int.from_bytes(data[offset:offset + n], "little"), write, width=width, name="ram")


def test_nobody_answers_with_all_ones():
    """A read of an address without a region is all ones, a write is lost, and both can be noticed."""
    b, seen = bus.ports(), []
    b.unclaimed = lambda *what: seen.append(what)
    assert b.read(0x80, 2) == 0xFFFF
    b.write(0x80, 1, 5)
    assert seen == [(0x80, 2, False, 0), (0x80, 1, True, 5)]


def test_wide_accesses_become_several():
    """A region of byte registers sees a dword as four bytes, low address first."""
    b, log = bus.ports(), []
    b.add(0x3F8, ram(8, width=1, log=log))
    b.write(0x3F8, 4, 0x44332211)
    assert log == [(0, 1, 0x11), (1, 1, 0x22), (2, 1, 0x33), (3, 1, 0x44)]
    assert b.read(0x3F8, 4) == 0x44332211


def test_an_access_across_the_end_goes_on_in_the_next_region():
    """What crosses two regions reaches both; what crosses into nothing reads as ones there."""
    b = bus.memory()
    b.add(0x1000, ram(0x10))
    b.add(0x1010, ram(0x10))
    b.write(0x100E, 4, 0xAABBCCDD)
    assert b.read(0x100E, 2) == 0xCCDD and b.read(0x1010, 2) == 0xAABB and b.read(0x100E, 4) == 0xAABBCCDD
    b.write(0x101E, 2, 0)
    assert b.read(0x101E, 4) == 0xFFFF0000


def test_the_last_region_put_on_top_answers():
    """Regions may overlap, and taking the upper one away shows the lower one again."""
    b = bus.memory()
    low, high = ram(PAGE), ram(0x100)
    b.add(0x10000, low)
    b.write(0x10080, 1, 1)
    b.add(0x10080, high)
    assert b.read(0x10080, 1) == 0
    b.remove(high)
    b.remove(high)
    assert b.read(0x10080, 1) == 1


def test_regions_are_refused_where_they_do_not_fit():
    """A region cannot stick out of the address space, nor be in two places."""
    b = bus.ports()
    region = ram(8)
    with pytest.raises(ValueError):
        b.add(0xFFFC, region)
    b.add(0xFFF8, region)
    with pytest.raises(ValueError):
        b.add(0, region)


def test_lines_tell_of_changes_only():
    """Setting a line to the level it has says nothing; shared lines are high while one of them is."""
    seen = []
    pin = irq.Shared(lambda n, level: seen.append((n, level)), 9)
    a, b = pin.line(), pin.line()
    a.set(1)
    a.set(1)
    b.set(1)
    a.set(0)
    b.set(0)
    b.pulse()
    assert seen == [(9, True), (9, False), (9, True), (9, False)]


def test_dma_outside_of_ram_harms_nobody():
    """Reads of what is no RAM are all ones, writes are lost, and what lies beside it is not."""
    memory = _core.Memory(16)
    physmap = _core.GuestPhysMap(8)
    physmap.set(0, [3])
    physmap.set(2, [5])
    mem = PhysMem(memory, physmap)
    mem.write(0xFFE, b"ab" + bytes(PAGE) + b"xyz")
    assert mem.read(0xFFE, 6) == b"ab\xff\xff\xff\xff"
    assert bytes(memory.view(3)[0xFFE:]) == b"ab" and mem.read(0x2000, 4) == b"xyz\0" == bytes(memory.view(5)[:4])
    assert [len(v) for v in mem.views(0xFFF, 0x1002)] == [1, PAGE, 1]
    assert mem.read(1 << 45, 2) == b"\xff\xff"


def test_string_io_is_one_call_where_a_region_wants_it():
    """read_block and write_block reach a region that has them in one call, at its offset."""
    b, calls = bus.ports(), []

    def read_block(offset, size, count):
        calls.append((offset, size, count))
        return bytes(range(size * count))

    region = bus.Region(
        8, lambda offset, size: 0, lambda offset, size, value: None,
        read_block=read_block, write_block=lambda offset, size, data: calls.append((offset, size, bytes(data))),
    )  # fmt: skip
    b.add(0x1F0, region)
    assert b.read_block(0x1F0, 2, 4) == bytes(range(8))
    b.write_block(0x1F0, 2, b"abcd")
    assert calls == [(0, 2, 4), (0, 2, b"abcd")]


def test_string_io_is_made_of_single_accesses_elsewhere():
    """A region without block functions, and nobody, are asked item by item."""
    b, log = bus.ports(), []
    b.add(0x3F8, ram(8, width=1, log=log))
    b.write_block(0x3F8, 2, b"\x11\x22\x33\x44")
    assert log == [(0, 1, 0x11), (1, 1, 0x22), (0, 1, 0x33), (1, 1, 0x44)]
    assert b.read_block(0x3F8, 2, 2) == b"\x33\x44\x33\x44"
    assert b.read_block(0x80, 4, 2) == b"\xff" * 8
