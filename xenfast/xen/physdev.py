"""physdev_op: what a domain without physical devices may ask.  Specified in xen/include/public/physdev.h.

Follows xen/arch/x86/physdev.c: a domain that is not the hardware domain may set its I/O privilege level and I/O bitmap,
which give it no port; there are no physical interrupts, so asking about one is EINVAL; everything else is EPERM.
"""

import errno
from typing import TYPE_CHECKING

from xenfast.abi import physdev as abi
from xenfast.errors import XenError
from xenfast.xen.guest import read_struct

if TYPE_CHECKING:
    from xenfast.xen.domain import Domain
    from xenfast.xen.vcpu import Vcpu

NO_PIRQ = frozenset({abi.PHYSDEVOP_eoi, abi.PHYSDEVOP_irq_status_query})
KNOWN = frozenset(value for name, value in vars(abi).items() if name.startswith("PHYSDEVOP_"))


def do_physdev_op(domain: "Domain", vcpu: "Vcpu", cmd: int, arg: int) -> int:
    cmd &= 0xFFFFFFFF
    if cmd == abi.PHYSDEVOP_set_iopl:
        iopl = read_struct(vcpu, abi.set_iopl, arg).iopl
        if iopl > 3:
            raise XenError(errno.EINVAL, f"iopl {iopl}")
        vcpu.core.iopl = iopl
        return 0
    if cmd == abi.PHYSDEVOP_set_iobitmap:
        return 0
    if cmd in NO_PIRQ:
        read_struct(vcpu, abi.eoi, arg)
        raise XenError(errno.EINVAL, "there are no physical interrupts")
    raise XenError(errno.EPERM if cmd in KNOWN else errno.ENOSYS, f"PHYSDEVOP {cmd}")


def do_physdev_op_compat(domain: "Domain", vcpu: "Vcpu", arg: int) -> int:
    """struct physdev_op: the command, and its argument 8 bytes on."""
    cmd = int.from_bytes(vcpu.core.copy_from_guest(arg, 4), "little")
    return do_physdev_op(domain, vcpu, cmd, arg + 8)
