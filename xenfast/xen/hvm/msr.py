"""Registers of the hypervisor: MSRs 40000000h and up, the first of which places the hypercall page.

Specified in xen/include/public/arch-x86/cpuid.h (leaf 2); follows guest_wrmsr_xen of xen/arch/x86/traps.c and
hvm_init_hypercall_page.  The Viridian ones are left out.
"""

import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from xenfast.xen.hvm.vcpu import HvmVcpu

MSR_HYPERCALL_PAGE = 0x40000000
STUB = 32                       # bytes of a call
HYPERVISOR_IRET = 23            # has no use for such guests: its stub is UD2
VMCALL, VMMCALL = b"\x0f\x01\xc1", b"\x0f\x01\xd9"


def hypercall_page(amd: bool = False) -> bytes:
    """128 stubs: MOV EAX, nr; VMCALL (VMMCALL on an AMD processor); RET."""
    call = VMMCALL if amd else VMCALL
    stubs = [b"\xb8" + struct.pack("<I", nr) + call + b"\xc3" for nr in range(4096 // STUB)]
    stubs[HYPERVISOR_IRET] = b"\x0f\x0b"
    return b"".join(stub.ljust(STUB, b"\xcc") for stub in stubs)


def write(vcpu: "HvmVcpu", number: int, value: int) -> None:
    """WRMSR; the guest gets #GP for what is not there."""
    if number != MSR_HYPERCALL_PAGE:
        vcpu.refuse()
        return
    gfn, index = value >> 12, value & 0xFFF
    mfn = vcpu.hvm.physmap.get(gfn)
    if index != 0 or mfn is None or vcpu.hvm.physmap.is_readonly(gfn):
        vcpu.domain.log_once("hypercall page", "no hypercall page %d can be at %#x", index, gfn << 12)
        vcpu.refuse()
        return
    vcpu.latch_width()
    amd = vcpu.core.cpuid(0)[1] == int.from_bytes(b"Auth", "little")
    vcpu.hypervisor.memory.view(mfn)[:] = hypercall_page(amd)
    vcpu.hypervisor.memory.wrote(mfn)
