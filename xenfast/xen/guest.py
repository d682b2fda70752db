"""How a hypercall reads and writes the memory of its caller: by guest virtual address, with the guest's own rights.

GuestFault becomes -EFAULT (xen/hypercall.py).
"""

from typing import TYPE_CHECKING, Any

from xenfast._core import GuestFault
from xenfast.abi.layout import Layout

if TYPE_CHECKING:
    from xenfast.xen.vcpu import Vcpu

__all__ = ["Continuation", "GuestFault", "read_struct", "read_u64", "write_field", "write_u32", "write_u64"]

U64 = (1 << 64) - 1


class Continuation(Exception):
    """hypercall_create_continuation(): the call has done a part, and the guest is to make it again with these
    arguments.

    So one that works off a long list neither keeps the hypervisor's lock nor makes its vcpu unstoppable.
    """

    def __init__(self, *arguments: int) -> None:
        super().__init__(*arguments)
        self.arguments = arguments



def read_struct(vcpu: "Vcpu", layout: Layout, address: int) -> Any:
    """copy_from_guest() of one struct."""
    return layout.unpack(vcpu.core.copy_from_guest(address, layout.size))


def write_field(vcpu: "Vcpu", layout: Layout, address: int, field: str, value: int, size: int) -> None:
    """copy_field_to_guest(): one field, as an unsigned number of ``size`` bytes."""
    mask = (1 << 8 * size) - 1
    vcpu.core.copy_to_guest((address + layout.offset[field]) & U64, (value & mask).to_bytes(size, "little"))


def read_u64(vcpu: "Vcpu", address: int) -> int:
    return int.from_bytes(vcpu.core.copy_from_guest(address & U64, 8), "little")


def write_u64(vcpu: "Vcpu", address: int, value: int) -> None:
    vcpu.core.copy_to_guest(address & U64, value.to_bytes(8, "little"))


def write_u32(vcpu: "Vcpu", address: int, value: int) -> None:
    vcpu.core.copy_to_guest(address & U64, (value & 0xFFFFFFFF).to_bytes(4, "little"))
