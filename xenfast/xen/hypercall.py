"""THE TABLE of hypercalls that are answered in Python, and the one place where a failure becomes -errno.

Specified in xen/include/public/xen.h; the columns are those of xen/include/hypercall-defs.c.  The
calls that a guest makes all the time, and those about its page tables and descriptors, are answered in the core
(cpu/pv_hypercalls.pxi) and do not come here: CORE names them.  A function gets the calling domain and vcpu and as many
64-bit arguments as its row says, holds the hypervisor's lock, and returns a number or raises XenError.
"""

import errno
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from xenfast.abi import xen as abi
from xenfast.errors import XenError
from xenfast.xen import console_op, evtchn_op, gnttab_op, hvm_op, memory, nmi_op, physdev, sched_op, vcpu_op, version
from xenfast.xen.guest import Continuation, GuestFault
from xenfast.xen.hvm import calls as hvm_calls
from xenfast.xen.hvm import memory as hvm_memory

if TYPE_CHECKING:
    from xenfast.xen.domain import Domain
    from xenfast.xen.vcpu import Vcpu

log = logging.getLogger("xenfast")

U64 = (1 << 64) - 1


class Call(NamedTuple):
    name: str
    nargs: int
    pv: Callable[..., int] | None       # None: ENOSYS (or, PV, answered in the core)
    hvm: Callable[..., int] | None = None


def eperm(domain: "Domain", vcpu: "Vcpu", *args: int) -> int:
    """For the control domain only (and domain 0 here makes no hypercalls: it is Python)."""
    raise XenError(errno.EPERM)


def eopnotsupp(domain: "Domain", vcpu: "Vcpu", *args: int) -> int:
    """As a Xen answers whose administrator has not enabled the feature (vpmu=off)."""
    raise XenError(errno.EOPNOTSUPP)


# nr: name, number of arguments, function of PV guests, of those with a p2m
TABLE: dict[int, Call] = {
    abi.__HYPERVISOR_sched_op_compat: Call("sched_op_compat", 2, sched_op.do_sched_op_compat),
    abi.__HYPERVISOR_platform_op: Call("platform_op", 1, eperm, eperm),
    abi.__HYPERVISOR_memory_op: Call("memory_op", 2, memory.do_memory_op, hvm_memory.do_memory_op),
    abi.__HYPERVISOR_multicall: Call("multicall", 2, None, hvm_calls.do_multicall),
    abi.__HYPERVISOR_set_timer_op: Call("set_timer_op", 2, None, hvm_calls.do_set_timer_op),
    abi.__HYPERVISOR_event_channel_op_compat: Call("event_channel_op_compat", 1, evtchn_op.do_event_channel_op_compat),
    abi.__HYPERVISOR_xen_version: Call("xen_version", 2, version.do_xen_version, version.do_xen_version),
    abi.__HYPERVISOR_console_io: Call("console_io", 3, console_op.do_console_io, console_op.do_console_io),
    abi.__HYPERVISOR_physdev_op_compat: Call("physdev_op_compat", 1, physdev.do_physdev_op_compat),
    abi.__HYPERVISOR_grant_table_op: Call("grant_table_op", 3, gnttab_op.do_grant_table_op, gnttab_op.do_grant_table_op),
    abi.__HYPERVISOR_vm_assist: Call("vm_assist", 2, None, hvm_calls.do_vm_assist),
    abi.__HYPERVISOR_vcpu_op: Call("vcpu_op", 3, vcpu_op.do_vcpu_op, vcpu_op.do_vcpu_op),
    abi.__HYPERVISOR_nmi_op: Call("nmi_op", 2, nmi_op.do_nmi_op),
    abi.__HYPERVISOR_sched_op: Call("sched_op", 2, sched_op.do_sched_op, sched_op.do_sched_op),
    abi.__HYPERVISOR_event_channel_op: Call(
        "event_channel_op", 2, evtchn_op.do_event_channel_op, evtchn_op.do_event_channel_op),
    abi.__HYPERVISOR_physdev_op: Call("physdev_op", 2, physdev.do_physdev_op, hvm_calls.do_physdev_op),
    abi.__HYPERVISOR_hvm_op: Call("hvm_op", 2, hvm_op.do_hvm_op_pv, hvm_op.do_hvm_op),
    abi.__HYPERVISOR_sysctl: Call("sysctl", 1, eperm, eperm),
    abi.__HYPERVISOR_domctl: Call("domctl", 1, eperm, eperm),
    abi.__HYPERVISOR_kexec_op: Call("kexec_op", 2, eperm),
    abi.__HYPERVISOR_xenpmu_op: Call("xenpmu_op", 2, eopnotsupp, eopnotsupp),
}

# Answered in the core, like some operations of the table above: XENVER_version, SCHEDOP_yield and SCHEDOP_block, the
# one-shot timers of vcpu_op.  Named here for the counters.
CORE: dict[int, str] = {
    abi.__HYPERVISOR_set_trap_table: "set_trap_table",
    abi.__HYPERVISOR_mmu_update: "mmu_update",
    abi.__HYPERVISOR_set_gdt: "set_gdt",
    abi.__HYPERVISOR_stack_switch: "stack_switch",
    abi.__HYPERVISOR_set_callbacks: "set_callbacks",
    abi.__HYPERVISOR_fpu_taskswitch: "fpu_taskswitch",
    abi.__HYPERVISOR_set_debugreg: "set_debugreg",
    abi.__HYPERVISOR_get_debugreg: "get_debugreg",
    abi.__HYPERVISOR_update_descriptor: "update_descriptor",
    abi.__HYPERVISOR_multicall: "multicall",
    abi.__HYPERVISOR_update_va_mapping: "update_va_mapping",
    abi.__HYPERVISOR_set_timer_op: "set_timer_op",
    abi.__HYPERVISOR_vm_assist: "vm_assist",
    abi.__HYPERVISOR_update_va_mapping_otherdomain: "update_va_mapping_otherdomain",
    abi.__HYPERVISOR_iret: "iret",
    abi.__HYPERVISOR_set_segment_base: "set_segment_base",
    abi.__HYPERVISOR_mmuext_op: "mmuext_op",
    abi.__HYPERVISOR_callback_op: "callback_op",
}


def name_of(nr: int) -> str:
    """The hypercall's name, or its number where it has none here."""
    row = TABLE.get(nr)
    return row.name if row is not None else CORE.get(nr, f"hypercall_{nr}")


def dispatch(vcpu: "Vcpu") -> None:
    """Answer the hypercall the core has left run() for."""
    core, domain = vcpu.core, vcpu.domain
    try:
        result = call(domain, vcpu, core.exit_nr, core.exit_args)
    except Continuation as again:
        core.hypercall_retry(*again.arguments)
        return
    if vcpu.core is not None:           # unless the call was the domain's end
        core.hypercall_return(result & U64)


def call(domain: "Domain", vcpu: "Vcpu", nr: int, args: Any) -> int:
    """The result of a hypercall as the guest gets it: a number, or -errno.  Or a Continuation, raised."""
    row = TABLE.get(nr)
    function = None if row is None else row.pv if domain.hvm is None else row.hvm
    if row is None or function is None:
        domain.log_once(("hypercall", nr), "unknown hypercall %d(%s)", nr, ", ".join(f"{a:#x}" for a in args))
        return -errno.ENOSYS
    name, nargs = row.name, row.nargs
    try:
        with domain.hypervisor.lock:
            return function(domain, vcpu, *args[:nargs])
    except XenError as e:
        if e.errno == errno.ENOSYS:
            domain.log_once((name, args[0]), "%s(%s): not known here", name, ", ".join(f"{a:#x}" for a in args[:nargs]))
        return -abs(e.errno)
    except Continuation:
        raise
    except GuestFault:
        return -errno.EFAULT
    except MemoryError:
        return -errno.ENOMEM
    except Exception:
        values = ", ".join(f"{a:#x}" for a in args)
        log.exception("domain %d: %s(%s) failed: a bug of the hypervisor", domain.domid, name, values)
        domain.crash(f"hypercall {name} failed in the hypervisor", vcpu)
        return -errno.EINVAL
