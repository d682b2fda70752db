"""Structs of hypercalls as 64- and 32-bit callers have them (xen/include/public, and what Xen generates in include/compat)."""

import struct
from types import SimpleNamespace

import pytest

from xenfast.abi import grant_table, memory, sched, vcpu, xen
from xenfast.abi.hvm import hvm_op
from xenfast.abi.layout import Layout
from xenfast.xen import guest


class Core:
    """Memory of a guest that has made a hypercall of this width."""

    def __init__(self, size):
        self.hypercall_size, self.data = size, bytearray(256)

    def copy_from_guest(self, at, n):
        return bytes(self.data[at:at + n])

    def copy_to_guest(self, at, data):
        self.data[at:at + len(data)] = data


def caller(size):
    return SimpleNamespace(core=Core(size))


@pytest.mark.parametrize(("layout", "wide", "narrow"), [
    (memory.reservation, 32, 20), (memory.memory_map, 16, 8), (memory.add_to_physmap, 24, 16), (memory.remove_from_physmap, 16, 8),
    (memory.add_to_physmap_batch, 32, 20), (sched.poll, 24, 16), (xen.multicall_entry, 64, 32), (grant_table.setup_table, 24, 16),
    (grant_table.map_grant_ref, 32, 32), (grant_table.unmap_grant_ref, 24, 24), (grant_table.copy, 40, 24),
    (hvm_op.param, 16, 16), (vcpu.register_vcpu_info, 16, 16),
], ids=lambda value: value.name if isinstance(value, Layout) else "")
def test_sizes(layout, wide, narrow):
    """Handles, longs and frame numbers have the caller's width; 64-bit numbers are aligned to 4 in 32-bit code."""
    assert (layout.size, layout.compat.size) == (wide, narrow)
    assert layout.compat.compat is layout.compat and layout.compat.fields == layout.fields


def test_offsets():
    """struct sched_poll, xen_memory_reservation and gnttab_copy of a 32-bit guest, field by field."""
    assert sched.poll.compat.offset == {"ports": 0, "nr_ports": 4, "timeout": 8}
    assert memory.reservation.compat.offset == {
        "extent_start": 0, "nr_extents": 4, "extent_order": 8, "mem_flags": 12, "domid": 16,
    }
    copy = grant_table.copy.compat.offset
    assert (copy["dest"], copy["dest_offset"], copy["len"], copy["status"]) == (8, 14, 16, 20)


@pytest.mark.parametrize("size", [8, 4])
def test_reading_and_writing(size):
    """read_struct(), write_field() and arrays of words follow the caller; what does not fit is cut off."""
    vcpu = caller(size)
    vcpu.core.data[:16] = struct.pack("<IxxxxQ", 7, 0x1234) if size == 8 else struct.pack("<II8x", 7, 0x1234)
    record = guest.read_struct(vcpu, memory.memory_map, 0)
    assert (record.nr_entries, record.buffer) == (7, 0x1234) and guest.word(vcpu) == size
    guest.write_field(vcpu, memory.memory_map, 0, "buffer", 0xABCD, 8)
    assert guest.read_struct(vcpu, memory.memory_map, 0).buffer == 0xABCD
    assert vcpu.core.data[16] == 0
    guest.write_words(vcpu, 32, [1, 2, 3])
    assert guest.read_words(vcpu, 32, 3) == (1, 2, 3) and guest.read_word(vcpu, 32 + 2 * size) == 3
    assert guest.read_words(vcpu, 0, 0) == ()
    guest.write_struct(vcpu, sched.poll, 64, ports=5, nr_ports=1, timeout=1 << 40)
    assert guest.read_struct(vcpu, sched.poll, 64).timeout == 1 << 40


def test_a_pv_guest_is_wide():
    """Its core says nothing of widths: 64-bit PV guests are all there are."""
    assert guest.word(SimpleNamespace(core=object())) == 8
