"""hvm_op: parameters of a domain with a p2m, and where its vcpus get their upcalls.

Specified in xen/include/public/hvm/hvm_op.h and params.h; follows xen/arch/x86/hvm/hvm.c.  A PV domain has no parameters (EINVAL),
and nobody but the toolstack may touch those of others.  Left out: altp2m, vm events.
"""

import errno
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from xenfast.abi import xen
from xenfast.abi.hvm import hvm_op as abi
from xenfast.abi.hvm import params
from xenfast.errors import XenError
from xenfast.xen.guest import read_struct, write_field

if TYPE_CHECKING:
    from xenfast.xen.domain import Domain
    from xenfast.xen.vcpu import Vcpu

FIRST_VECTOR = 16

# What the guest itself may set (hvm_allow_set_param), and read (hvm_allow_get_param); all else is the toolstack's.
GUEST_MAY_SET = frozenset({
    params.HVM_PARAM_CALLBACK_IRQ,
    params.HVM_PARAM_VM86_TSS,
    params.HVM_PARAM_ACPI_IOPORTS_LOCATION,
    params.HVM_PARAM_VM_GENERATION_ID_ADDR,
    params.HVM_PARAM_VM86_TSS_SIZED,
})
GUEST_MAY_GET = GUEST_MAY_SET | {
    params.HVM_PARAM_STORE_PFN,
    params.HVM_PARAM_STORE_EVTCHN,
    params.HVM_PARAM_CONSOLE_PFN,
    params.HVM_PARAM_CONSOLE_EVTCHN,
    params.HVM_PARAM_ALTP2M,
    params.HVM_PARAM_X87_FIP_WIDTH,
}


def do_hvm_op_pv(domain: "Domain", vcpu: "Vcpu", cmd: int, arg: int) -> int:
    cmd &= 0xFFFFFFFF
    if cmd in (abi.HVMOP_set_param, abi.HVMOP_get_param):
        domid = int.from_bytes(vcpu.core.copy_from_guest(arg, 16)[:2], "little")
        target = domain if domid == xen.DOMID_SELF else domain.hypervisor.domain(domid)
        raise XenError(errno.EINVAL if target is domain else errno.EPERM, "a PV domain has no HVM parameters")
    raise XenError(errno.ENOSYS, f"HVMOP {cmd}")


def do_hvm_op(domain: "Domain", vcpu: "Vcpu", cmd: int, arg: int) -> int:
    operation = OPERATIONS.get(cmd & 0xFFFFFFFF)
    if operation is None:
        raise XenError(errno.ENOSYS, f"HVMOP {cmd & 0xFFFFFFFF}")
    return operation(domain, vcpu, arg)


def _param(domain: "Domain", vcpu: "Vcpu", arg: int) -> Any:
    op = read_struct(vcpu, abi.param, arg)
    if op.index >= params.HVM_NR_PARAMS:
        raise XenError(errno.EINVAL, f"parameter {op.index}")
    if op.domid not in (xen.DOMID_SELF, domain.domid):
        domain.hypervisor.domain(op.domid)
        raise XenError(errno.EPERM)
    return op


def _set_param(domain: "Domain", vcpu: "Vcpu", arg: int) -> int:
    op = _param(domain, vcpu, arg)
    if op.index not in GUEST_MAY_SET:
        raise XenError(errno.EPERM, f"parameter {op.index} is the toolstack's")
    set_param(domain, op.index, op.value)
    if op.index == params.HVM_PARAM_CALLBACK_IRQ:
        vcpu.latch_width()              # type: ignore[attr-defined]
    return 0


def set_param(domain: "Domain", index: int, value: int) -> None:
    """With what follows from it; for the toolstack as well."""
    hvm: Any = domain.hvm
    hvm.params[index] = value
    if index == params.HVM_PARAM_CALLBACK_IRQ:
        hvm.set_callback(value)


def _get_param(domain: "Domain", vcpu: "Vcpu", arg: int) -> int:
    op = _param(domain, vcpu, arg)
    if op.index not in GUEST_MAY_GET:
        raise XenError(errno.EPERM, f"parameter {op.index} is the toolstack's")
    write_field(vcpu, abi.param, arg, "value", domain.hvm.params[op.index], 8)      # type: ignore[union-attr]
    return 0


def _set_evtchn_upcall_vector(domain: "Domain", vcpu: "Vcpu", arg: int) -> int:
    """Upcalls of one vcpu by its local APIC: an edge-triggered interrupt, which it has to end."""
    op = read_struct(vcpu, abi.evtchn_upcall_vector, arg)
    if op.vector < FIRST_VECTOR:
        raise XenError(errno.EINVAL, f"vector {op.vector}")
    if op.vcpu >= len(domain.vcpus):
        raise XenError(errno.ENOENT, f"no vcpu {op.vcpu}")
    target: Any = domain.vcpus[op.vcpu]
    target.core.upcall_vector = op.vector
    if target.info_view[0]:
        target.kick()
    return 0


def _get_time(domain: "Domain", vcpu: "Vcpu", arg: int) -> int:
    vcpu.core.copy_to_guest(arg, abi.get_time.pack(now=domain.hypervisor.clock.now()))
    return 0


def _flush_tlbs(domain: "Domain", vcpu: "Vcpu", arg: int) -> int:
    if arg:
        raise XenError(errno.EINVAL)
    for each in domain.vcpus:
        each.core.kick(REQ_FLUSH)
    return 0


def _pagetable_dying(domain: "Domain", vcpu: "Vcpu", arg: int) -> int:
    """A hint for shadow page tables, which there are none of: a guest asks once whether it is of use."""
    return -errno.ENOSYS


REQ_FLUSH = 4           # cpu/state.pxd

OPERATIONS: dict[int, Callable[..., int]] = {
    abi.HVMOP_set_param: _set_param,
    abi.HVMOP_get_param: _get_param,
    abi.HVMOP_flush_tlbs: _flush_tlbs,
    abi.HVMOP_pagetable_dying: _pagetable_dying,
    abi.HVMOP_get_time: _get_time,
    abi.HVMOP_set_evtchn_upcall_vector: _set_evtchn_upcall_vector,
}
