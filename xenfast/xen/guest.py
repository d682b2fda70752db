"""How a hypercall reads and writes the memory of its caller: by guest virtual address, with the guest's own rights.

A caller in 32-bit code has 32-bit structs (``Layout.compat``), handles and frame numbers: ``word()`` is 4 for it.

GuestFault becomes -EFAULT (xen/hypercall.py).
"""

import struct
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from xenfast._core import GuestFault
from xenfast.abi.layout import POINTER, Layout

if TYPE_CHECKING:
    from xenfast.xen.vcpu import Vcpu

__all__ = [
    "Continuation", "GuestFault", "layout_of", "read_struct", "read_u64", "read_word", "read_words", "word", "write_field", "write_struct",
    "write_u32", "write_u64", "write_word", "write_words",
]

U64 = (1 << 64) - 1


class Continuation(Exception):
    """hypercall_create_continuation(): the call has done a part, and the guest is to make it again with these
    arguments.

    So one that works off a long list neither keeps the hypervisor's lock nor makes its vcpu unstoppable.
    """

    def __init__(self, *arguments: int) -> None:
        super().__init__(*arguments)
        self.arguments = arguments



def word(vcpu: "Vcpu") -> int:
    """Bytes of a handle, an unsigned long, a frame number in the hypercall that is being answered."""
    return getattr(vcpu.core, "hypercall_size", 8) or 8


def layout_of(vcpu: "Vcpu", layout: Layout) -> Layout:
    """The struct as the caller has it."""
    return layout.compat if word(vcpu) == 4 else layout


def read_struct(vcpu: "Vcpu", layout: Layout, address: int) -> Any:
    """copy_from_guest() of one struct."""
    layout = layout_of(vcpu, layout)
    return layout.unpack(vcpu.core.copy_from_guest(address, layout.size))


def write_struct(vcpu: "Vcpu", layout: Layout, address: int, **values: Any) -> None:
    """copy_to_guest() of one struct with these fields."""
    vcpu.core.copy_to_guest(address, layout_of(vcpu, layout).pack(**values))


def write_field(vcpu: "Vcpu", layout: Layout, address: int, field: str, value: int, size: int) -> None:
    """copy_field_to_guest(): one field, as an unsigned number of ``size`` bytes (for a ``P``: of the caller's width)."""
    layout = layout_of(vcpu, layout)
    if layout.codes[field] == "P":
        size = layout.word
    mask = (1 << 8 * size) - 1
    vcpu.core.copy_to_guest((address + layout.offset[field]) & U64, (value & mask).to_bytes(size, "little"))


def read_u64(vcpu: "Vcpu", address: int) -> int:
    return int.from_bytes(vcpu.core.copy_from_guest(address & U64, 8), "little")


def write_u64(vcpu: "Vcpu", address: int, value: int) -> None:
    vcpu.core.copy_to_guest(address & U64, value.to_bytes(8, "little"))


def write_u32(vcpu: "Vcpu", address: int, value: int) -> None:
    vcpu.core.copy_to_guest(address & U64, (value & 0xFFFFFFFF).to_bytes(4, "little"))


def read_word(vcpu: "Vcpu", address: int) -> int:
    """An unsigned long or a frame number of the caller's."""
    return int.from_bytes(vcpu.core.copy_from_guest(address & U64, word(vcpu)), "little")


def write_word(vcpu: "Vcpu", address: int, value: int) -> None:
    size = word(vcpu)
    vcpu.core.copy_to_guest(address & U64, (value & (1 << 8 * size) - 1).to_bytes(size, "little"))


def read_words(vcpu: "Vcpu", address: int, count: int) -> tuple[int, ...]:
    """An array of them."""
    size = word(vcpu)
    return struct.unpack(f"<{count}{POINTER[size]}", vcpu.core.copy_from_guest(address & U64, size * count)) if count else ()


def write_words(vcpu: "Vcpu", address: int, values: Sequence[int]) -> None:
    if values:
        vcpu.core.copy_to_guest(address & U64, struct.pack(f"<{len(values)}{POINTER[word(vcpu)]}", *values))
