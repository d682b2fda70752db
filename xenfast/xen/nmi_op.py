"""nmi_op: the NMI callback as older kernels set it.  Specified in xen/include/public/nmi.h."""

import errno
from typing import TYPE_CHECKING

from xenfast.abi import callback
from xenfast.errors import XenError
from xenfast.xen.guest import read_u64

if TYPE_CHECKING:
    from xenfast.xen.domain import Domain
    from xenfast.xen.vcpu import Vcpu


NMI = 2                 # its vector


def do_nmi_op(domain: "Domain", vcpu: "Vcpu", cmd: int, arg: int) -> int:
    """The NMI callback of vcpu 0; the newer way to set it is callback_op."""
    cmd &= 0xFFFFFFFF
    if cmd == callback.XENNMI_register_callback:
        address = read_u64(vcpu, arg)           # struct xennmi_callback: handler_address, pad
        rc = domain.vcpus[0].core.set_callback(callback.CALLBACKTYPE_nmi, address)
        if rc:
            raise XenError(-rc)
    elif cmd == callback.XENNMI_unregister_callback:
        domain.vcpus[0].core.set_trap(NMI, 0)
    else:
        raise XenError(errno.ENOSYS, f"XENNMI {cmd}")
    return 0
