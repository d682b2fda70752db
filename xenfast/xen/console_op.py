"""console_io: what a guest writes to the hypervisor's console.

Specified in xen/include/public/xen.h.  Any domain may write, as in a debug build of Xen; nobody but domain 0 would
read.
"""

import errno
from typing import TYPE_CHECKING

from xenfast.abi import xen as abi
from xenfast.errors import XenError
from xenfast.xen.guest import Continuation

if TYPE_CHECKING:
    from xenfast.xen.domain import Domain
    from xenfast.xen.vcpu import Vcpu

CHUNK = 4096            # bytes of one go


def do_console_io(domain: "Domain", vcpu: "Vcpu", cmd: int, count: int, buffer: int) -> int:
    cmd, count = cmd & 0xFFFFFFFF, count & 0xFFFFFFFF
    if cmd == abi.CONSOLEIO_read:
        raise XenError(errno.EPERM)
    if cmd != abi.CONSOLEIO_write:
        raise XenError(errno.ENOSYS, f"CONSOLEIO {cmd}")
    if count >= 1 << 31:
        raise XenError(errno.E2BIG)
    n = min(count, CHUNK)
    domain.hypervisor.console.guest_write(domain.domid, vcpu.core.copy_from_guest(buffer, n))
    if n < count:
        raise Continuation(cmd, count - n, buffer + n)
    return 0
