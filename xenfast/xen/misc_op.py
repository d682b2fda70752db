"""Small hypercalls: vm_assist and nmi_op.  Specified in xen/include/public/xen.h and nmi.h."""

import errno
from typing import TYPE_CHECKING

from xenfast.abi import callback, xen
from xenfast.errors import XenError
from xenfast.xen.guest import read_u64

if TYPE_CHECKING:
    from xenfast.xen.domain import Domain
    from xenfast.xen.vcpu import Vcpu

# PV_VM_ASSIST_MASK (xen/arch/x86/include/asm/config.h)
VALID_ASSISTS = frozenset({
    xen.VMASST_TYPE_4gb_segments, xen.VMASST_TYPE_4gb_segments_notify, xen.VMASST_TYPE_writable_pagetables,
    xen.VMASST_TYPE_pae_extended_cr3, xen.VMASST_TYPE_architectural_iopl, xen.VMASST_TYPE_runstate_update_flag,
    xen.VMASST_TYPE_m2p_strict,
})


def do_vm_assist(domain: "Domain", vcpu: "Vcpu", cmd: int, kind: int) -> int:
    cmd, kind = cmd & 0xFFFFFFFF, kind & 0xFFFFFFFF
    if kind not in VALID_ASSISTS:
        raise XenError(errno.EINVAL, f"vm assist {kind}")
    if cmd == xen.VMASST_CMD_enable:
        domain.vm_assist |= 1 << kind
    elif cmd == xen.VMASST_CMD_disable:
        domain.vm_assist &= ~(1 << kind)
    else:
        raise XenError(errno.ENOSYS, f"VMASST_CMD {cmd}")
    for each in domain.vcpus:
        each.core.vm_assist = domain.vm_assist & 0xFF
    return 0


def do_nmi_op(domain: "Domain", vcpu: "Vcpu", cmd: int, arg: int) -> int:
    """The NMI callback of vcpu 0; the newer way to set it is callback_op."""
    cmd &= 0xFFFFFFFF
    if cmd == callback.XENNMI_register_callback:
        domain.vcpus[0].core.nmi_callback = read_u64(vcpu, arg)     # struct xennmi_callback: handler_address, pad
    elif cmd == callback.XENNMI_unregister_callback:
        domain.vcpus[0].core.nmi_callback = 0
    else:
        raise XenError(errno.ENOSYS, f"XENNMI {cmd}")
    return 0
