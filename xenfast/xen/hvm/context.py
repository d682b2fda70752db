"""The start state of a vcpu with a p2m: struct vcpu_hvm_context checked and loaded into the core.

Specified in xen/include/public/hvm/hvm_vcpu.h; follows arch_set_info_hvm_guest of xen/arch/x86/hvm/domain.c.
"""

import errno
from typing import Any

from xenfast.abi.hvm import hvm_vcpu as abi
from xenfast.errors import XenError

CR0_PE, CR0_ET, CR0_PG = 1, 1 << 4, 1 << 31
CR4_PAE = 1 << 5
EFER_LME, EFER_LMA, EFER_LEGAL = 1 << 8, 1 << 10, 0xD01
RFLAGS_FIXED, RFLAGS_VM, RFLAGS_LEGAL = 1 << 1, 1 << 17, 0x3F7FD7
CODE, DATA, TSS = 0xA, 0x2, 0xB        # types of segments
S, P, DB, G, L = 1 << 4, 1 << 7, 1 << 14, 1 << 15, 1 << 13
FLAT_CODE64, FLAT_DATA = G | L | P | S | CODE | 1, G | DB | P | S | DATA | 1
GENERAL = ("ax", "cx", "dx", "bx", "sp", "bp", "si", "di")


def refuse(why: str) -> XenError:
    return XenError(errno.EINVAL, f"the vcpu's context is not valid: {why}")


def set_hvm_context(core: Any, context: bytes) -> None:
    """Load it, or raise XenError and leave the vcpu as it was."""
    head = abi.vcpu_hvm_context.unpack(context)
    if head.mode == abi.VCPU_HVM_MODE_32B:
        _load_32(core, abi.vcpu_hvm_x86_32.unpack(head.cpu_regs))
    elif head.mode == abi.VCPU_HVM_MODE_64B:
        _load_64(core, abi.vcpu_hvm_x86_64.unpack(head.cpu_regs))
    else:
        raise refuse(f"mode {head.mode}")


def _segment(regs: Any, name: str) -> tuple[int, int, int]:
    """Base, limit and access rights, checked as check_segment does."""
    base, limit, rights = getattr(regs, f"{name}_base"), getattr(regs, f"{name}_limit"), getattr(regs, f"{name}_ar")
    if rights >> 12:
        raise refuse(f"rights {rights:#x} of {name}")
    rights = rights & 0xFF | (rights & 0xF00) << 4          # as in a VMCS
    if not rights & P:
        if name in ("cs", "ss", "tr"):
            raise refuse(f"{name} is not present")
        return base, limit, 0
    rights |= 2 if name == "tr" else 1                      # busy, accessed
    kind = rights & 0xF
    if name == "tr":
        fits = not rights & S and kind == TSS
    elif name == "cs":
        fits = rights & S and kind & 8
    else:
        fits = rights & S and kind & 2 and not (name == "ss" and kind & 8)
    if not fits:
        raise refuse(f"type {kind} of {name}")
    return base, limit, rights


def _load_32(core: Any, regs: Any) -> None:
    segments = {name: _segment(regs, name) for name in ("cs", "ds", "ss", "es", "tr")}
    if regs.efer & EFER_LME and not regs.cr4 & CR4_PAE and regs.cr0 & CR0_PG:
        raise refuse("long mode without PAE")
    efer = regs.efer & EFER_LEGAL & ~EFER_LMA
    if efer & EFER_LME and regs.cr0 & CR0_PG:
        efer |= EFER_LMA
    _control(core, regs.cr0, regs.cr3, regs.cr4, efer, regs.eflags)
    for name, (base, limit, rights) in segments.items():
        core.set_segment(name, 0, base, limit, rights)
    core.cpl = segments["ss"][2] >> 5 & 3
    for name in GENERAL:
        setattr(core, f"r{name}", getattr(regs, f"e{name}"))
    core.rip = regs.eip


def _load_64(core: Any, regs: Any) -> None:
    if not (regs.efer & EFER_LME and regs.cr4 & CR4_PAE and regs.cr0 & CR0_PG):
        raise refuse("64-bit mode wants CR0.PG, CR4.PAE and EFER.LME")
    _control(core, regs.cr0, regs.cr3, regs.cr4, regs.efer & EFER_LEGAL | EFER_LMA, regs.rflags)
    core.set_segment("cs", 0, 0, 0xFFFFFFFF, FLAT_CODE64)
    for name in ("ds", "ss", "es"):
        core.set_segment(name, 0, 0, 0xFFFFFFFF, FLAT_DATA)
    core.set_segment("tr", 0, 0, 0x67, P | TSS)
    core.cpl = 0
    for name in GENERAL:
        setattr(core, f"r{name}", getattr(regs, f"r{name}"))
    core.rip = regs.rip


def _control(core: Any, cr0: int, cr3: int, cr4: int, efer: int, flags: int) -> None:
    """Control registers, after hvm_cr0_guest_valid and the like."""
    if cr0 >> 32 or (cr0 & CR0_PG and not cr0 & CR0_PE):
        raise refuse(f"cr0 {cr0:#x}")
    if cr4 & ~core.cr4_legal:
        raise refuse(f"cr4 {cr4:#x}")
    if cr3 >> 52:
        raise refuse(f"cr3 {cr3:#x}")
    if flags & RFLAGS_VM or flags & ~RFLAGS_LEGAL:
        raise refuse(f"flags {flags:#x}")
    core.cr4, core.efer, core.cr3 = cr4, efer, cr3
    core.cr0 = cr0 | CR0_ET
    core.rflags = flags | RFLAGS_FIXED
