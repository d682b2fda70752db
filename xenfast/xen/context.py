"""The start state of a PV vcpu: struct vcpu_guest_context checked and loaded into the core.

Specified in xen/include/public/arch-x86/xen.h; follows arch_set_info_guest of xen/arch/x86/domain.c.  The builder
starts vcpu 0 this way, the guest its other vcpus (VCPUOP_initialise).  32-bit contexts are left out with 32-bit PV
guests.
"""

import errno
import struct
from typing import TYPE_CHECKING, Any

from xenfast.abi import callback
from xenfast.abi import vcpu as abi
from xenfast.errors import XenError

if TYPE_CHECKING:
    from xenfast.xen.vcpu import Vcpu

GPRS = ("rax", "rcx", "rdx", "rbx", "rbp", "rsi", "rdi", "rsp", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15")
RFLAGS_IF, RFLAGS_IOPL, RFLAGS_GUEST = 1 << 9, 3 << 12, 0x254DD5     # arithmetic, TF, DF, IOPL, NT, AC, ID
LDT_MAX = GDT_MAX = 8192
_X87 = struct.Struct("<HHBxHQQII")      # head of an FXSAVE image


def set_info_guest(vcpu: "Vcpu", context: bytes) -> None:
    """Load everything, or raise XenError; a vcpu half loaded by a bad context stays uninitialised and never runs."""
    c = abi.vcpu_guest_context.unpack(context)
    core = vcpu.core
    _check(_gdt(core, c) or (core.set_ldt(c.ldt_base, c.ldt_ents) if c.ldt_ents <= LDT_MAX else -errno.EINVAL))
    _traps(core, c)
    _page_tables(core, c)
    _registers(core, c)
    if c.flags & abi.VGCF_i387_valid:
        _fpu(core, c.fpu_ctxt)
    for n, value in enumerate(c.debugreg):
        if n not in (4, 5):
            core.set_debugreg(n, value)         # a bad one stays as it is, as in Xen


def _check(rc: int) -> None:
    if rc:
        raise XenError(-rc, "the vcpu's context is not valid")


def _gdt(core: Any, c: Any) -> int:
    if c.gdt_ents > GDT_MAX:
        return -errno.EINVAL
    return core.set_gdt(c.gdt_frames[:(c.gdt_ents + 511) // 512], c.gdt_ents)


def _traps(core: Any, c: Any) -> None:
    for vector in range(256):
        trap = abi.trap_info.unpack(c.trap_ctxt, vector * abi.trap_info.size)
        _check(core.set_trap(vector, trap.address, trap.flags, trap.cs))
    for kind, address, masks in (
        (callback.CALLBACKTYPE_event, c.event_callback_eip, False),
        (callback.CALLBACKTYPE_failsafe, c.failsafe_callback_eip, c.flags & abi.VGCF_failsafe_disables_events),
        (callback.CALLBACKTYPE_syscall, c.syscall_callback_eip, c.flags & abi.VGCF_syscall_disables_events),
    ):
        _check(core.set_callback(kind, address, bool(masks)))


def _page_tables(core: Any, c: Any) -> None:
    """CR3 holds the kernel's L4, CR1 the user's."""
    _check(core.set_cr3(c.ctrlreg[3] >> 12))
    if c.ctrlreg[1]:
        _check(core.set_user_cr3(c.ctrlreg[1] >> 12))


def _registers(core: Any, c: Any) -> None:
    regs = abi.cpu_user_regs.unpack(c.user_regs)
    core.start(regs.rip, 0, 0)
    for name in GPRS:
        setattr(core, name, getattr(regs, name))
    core.rflags = regs.rflags & RFLAGS_GUEST & ~RFLAGS_IOPL | RFLAGS_IF
    core.iopl = (regs.rflags & RFLAGS_IOPL) >> 12
    core.set_kernel_stack(c.kernel_ss, c.kernel_sp)
    _check(core.load_segments(cs=regs.cs | 3, ss=regs.ss | 3, ds=regs.ds, es=regs.es, fs=regs.fs, gs=regs.gs))
    try:
        core.set_bases(c.fs_base, c.gs_base_kernel, c.gs_base_user)
        core.kernel_mode = bool(c.flags & abi.VGCF_in_kernel)
    except ValueError as e:
        raise XenError(errno.EINVAL, str(e)) from None


def _fpu(core: Any, image: bytes) -> None:
    """The FXSAVE image (SDM Vol. 2, FXSAVE, 64-bit format): ST(0) comes first, the registers are numbered from TOP."""
    fcw, fsw, ftw, _, _, _, mxcsr, _ = _X87.unpack_from(image)
    top = fsw >> 11 & 7
    registers: list[tuple[int, int]] = [(0, 0)] * 8
    for i in range(8):
        mantissa, exponent = struct.unpack_from("<QH", image, 32 + 16 * i)
        registers[top + i & 7] = exponent, mantissa
    core.set_x87(fcw, fsw, ftw, registers)
    core.mxcsr = mxcsr & 0xFFFF
    for i in range(16):
        core.set_vector(i, bytes(image[160 + 16 * i:176 + 16 * i]))
