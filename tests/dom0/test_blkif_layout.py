"""The layouts of blkif.h, checked against the C compiler's rules by ctypes."""

import ctypes as c

import pytest

from xenfast.abi.io import blkif


def structures(pack):
    """blkif.h's structures; i386 aligns uint64_t to 4 bytes, which _pack_ = 4 says."""
    def make(name, *fields):
        return type(name, (c.Structure,), {"_pack_": pack, "_fields_": fields} if pack else {"_fields_": fields})

    segment = make("segment", ("gref", c.c_uint32), ("first", c.c_uint8), ("last", c.c_uint8))
    request = make("request", ("operation", c.c_uint8), ("nr_segments", c.c_uint8), ("handle", c.c_uint16),
                   ("id", c.c_uint64), ("sector_number", c.c_uint64), ("seg", segment * 11))
    discard = make("discard", ("operation", c.c_uint8), ("flag", c.c_uint8), ("handle", c.c_uint16),
                   ("id", c.c_uint64), ("sector_number", c.c_uint64), ("nr_sectors", c.c_uint64))
    indirect = make("indirect", ("operation", c.c_uint8), ("indirect_op", c.c_uint8), ("nr_segments", c.c_uint16),
                    ("id", c.c_uint64), ("sector_number", c.c_uint64), ("handle", c.c_uint16), ("_pad", c.c_uint16),
                    ("grefs", c.c_uint32 * 8), ("_pad64", c.c_uint64))
    response = make("response", ("id", c.c_uint64), ("operation", c.c_uint8), ("status", c.c_int16))
    return segment, request, discard, indirect, response


@pytest.mark.parametrize("abi, pack", [(blkif.ABI_X86_64, 0), (blkif.ABI_X86_32, 4)], ids=["x86-64", "x86-32"])
def test_layouts_are_the_compilers(abi, pack):
    """Each field is where C puts it."""
    segment, request, discard, indirect, response = structures(pack)
    assert c.sizeof(segment) == 8 == blkif.SEGMENT.size
    assert c.sizeof(request) == abi.slot_size
    assert request.seg.offset == abi.segments
    assert c.sizeof(response) == abi.response.size

    raw = request(1, 2, 3, 4 << 40, 5 << 40)
    assert abi.request.unpack_from(bytes(raw)) == (1, 2, 3, 4 << 40, 5 << 40)
    raw = discard(5, 1, 3, 4 << 40, 5 << 40, 6 << 40)
    assert abi.discard.unpack_from(bytes(raw)) == (5, 1, 4 << 40, 5 << 40, 6 << 40)
    raw = indirect(6, 1, 300, 4 << 40, 5 << 40, 7, 0, (c.c_uint32 * 8)(*range(10, 18)))
    assert abi.indirect.unpack_from(bytes(raw)) == (6, 1, 300, 4 << 40, 5 << 40, 7, *range(10, 18))
    assert bytes(response(4 << 40, 3, -2))[:10] == abi.response.pack(4 << 40, 3, -2)[:10]
    assert response.from_buffer_copy(abi.response.pack(4 << 40, 3, -2)).status == -2


def test_ring_sizes():
    """A page holds 32 requests of either layout, sixteen pages hold 512."""
    from xenfast.abi.io.ring import ring_slots

    for abi in (blkif.ABI_X86_64, blkif.ABI_X86_32):
        assert ring_slots(4096, abi.slot_size) == 32
        assert ring_slots(4096 << 4, abi.slot_size) == 512
