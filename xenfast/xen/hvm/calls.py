"""Hypercalls that the core answers for PV guests, as those with a p2m make them; and what they may not do.

Specified in xen/include/public/xen.h; follows xen/common/multicall.c, xen/common/kernel.c (vm_assist) and xen/common/schedule.c.
"""

import errno
from typing import TYPE_CHECKING

from xenfast.abi import xen
from xenfast.errors import XenError
from xenfast.xen.guest import U64, Continuation, layout_of, read_struct, word, write_field

if TYPE_CHECKING:
    from xenfast.xen.domain import Domain
    from xenfast.xen.vcpu import Vcpu

BATCH = 64
VM_ASSISTS = 1 << xen.VMASST_TYPE_runstate_update_flag


def do_multicall(domain: "Domain", vcpu: "Vcpu", list_: int, count: int) -> int:
    """Each entry's answer goes into it; one that has to be gone on with is, a piece at a time."""
    from xenfast.xen import hypercall

    count &= 0xFFFFFFFF
    layout = layout_of(vcpu, xen.multicall_entry)
    for i in range(min(count, BATCH)):
        at = list_ + i * layout.size & U64
        entry = read_struct(vcpu, layout, at)
        if entry.op == xen.__HYPERVISOR_multicall:
            result = -errno.EINVAL
        else:
            try:
                result = hypercall.call(domain, vcpu, entry.op, entry.args)
            except Continuation as again:
                arguments = (*again.arguments, *entry.args[len(again.arguments):])
                vcpu.core.copy_to_guest(at, layout.pack(op=entry.op, result=0, args=arguments))
                raise Continuation(at, count - i) from None
        write_field(vcpu, layout, at, "result", result, 8)
    if count > BATCH:
        raise Continuation(list_ + BATCH * layout.size & U64, count - BATCH)
    return 0


def do_set_timer_op(domain: "Domain", vcpu: "Vcpu", timeout: int, high: int) -> int:
    """VIRQ_TIMER at a time of the machine's clock; 0: never.  32-bit code has its upper half in a second argument."""
    if word(vcpu) == 4:
        timeout |= high << 32
    vcpu.core.timer_deadline = timeout or None
    return 0


def do_vm_assist(domain: "Domain", vcpu: "Vcpu", cmd: int, kind: int) -> int:
    bit = 1 << kind if kind < 64 else 0
    if not bit & VM_ASSISTS:
        raise XenError(errno.EINVAL, f"vm_assist {kind}")
    if cmd == xen.VMASST_CMD_enable:
        domain.core.vm_assist |= bit
    elif cmd == xen.VMASST_CMD_disable:
        domain.core.vm_assist &= ~bit
    else:
        raise XenError(errno.ENOSYS, f"vm_assist command {cmd}")
    return 0


def do_physdev_op(domain: "Domain", vcpu: "Vcpu", cmd: int, arg: int) -> int:
    """Interrupts of emulated devices have no event channels (XENFEAT_hvm_pirqs is not there)."""
    return -errno.ENOSYS
