"""hvm_op, as far as a PV guest gets.  Specified in xen/include/public/hvm/hvm_op.h; follows xen/arch/x86/hvm/hvm.c.

Parameters belong to HVM domains: a PV domain has none (EINVAL), and may not touch those of others.
"""

import errno
from typing import TYPE_CHECKING

from xenfast.abi import xen
from xenfast.abi.hvm import hvm_op as abi
from xenfast.errors import XenError

if TYPE_CHECKING:
    from xenfast.xen.domain import Domain
    from xenfast.xen.vcpu import Vcpu


def do_hvm_op(domain: "Domain", vcpu: "Vcpu", cmd: int, arg: int) -> int:
    cmd &= 0xFFFFFFFF
    if cmd in (abi.HVMOP_set_param, abi.HVMOP_get_param):
        domid = int.from_bytes(vcpu.core.copy_from_guest(arg, 16)[:2], "little")
        target = domain if domid == xen.DOMID_SELF else domain.hypervisor.domain(domid)
        raise XenError(errno.EINVAL if target is domain else errno.EPERM, "a PV domain has no HVM parameters")
    raise XenError(errno.ENOSYS, f"HVMOP {cmd}")
