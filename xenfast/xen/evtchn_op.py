"""event_channel_op: the arguments of the operations in evtchn.py, copied in and out.

Specified in xen/include/public/event_channel.h; follows do_event_channel_op of xen/common/event_channel.c.
"""

import errno
from typing import TYPE_CHECKING

from xenfast.abi import event_channel as abi
from xenfast.abi import xen
from xenfast.errors import XenError
from xenfast.xen.evtchn_fifo import FifoPorts
from xenfast.xen.guest import read_struct, write_field
from xenfast.xen.vcpu_op import get_writable_page

if TYPE_CHECKING:
    from xenfast.xen.domain import Domain
    from xenfast.xen.vcpu import Vcpu


def do_event_channel_op(domain: "Domain", vcpu: "Vcpu", cmd: int, arg: int) -> int:
    operation = OPERATIONS.get(cmd & 0xFFFFFFFF)
    if operation is None:
        raise XenError(errno.ENOSYS, f"EVTCHNOP {cmd & 0xFFFFFFFF}")
    return operation(domain, vcpu, arg) or 0


def do_event_channel_op_compat(domain: "Domain", vcpu: "Vcpu", arg: int) -> int:
    """struct evtchn_op of Xen 3.0: the command, and its argument 4 bytes on."""
    cmd = int.from_bytes(vcpu.core.copy_from_guest(arg, 4), "little")
    return do_event_channel_op(domain, vcpu, cmd, arg + 4)


def _self_only(domain: "Domain", domid: int) -> None:
    """Operations on another domain are for domain 0."""
    if domid not in (xen.DOMID_SELF, domain.domid):
        domain.hypervisor.domain(domid)
        raise XenError(errno.EPERM)


def _port_out(domain: "Domain", vcpu: "Vcpu", layout, arg: int, port: int, field: str = "port") -> None:
    """The new port; when the guest's buffer cannot be written, the port is closed again (as Xen does)."""
    try:
        write_field(vcpu, layout, arg, field, port, 4)
    except Exception:
        domain.evtchn.close(port)
        raise


def _alloc_unbound(domain: "Domain", vcpu: "Vcpu", arg: int) -> None:
    op = read_struct(vcpu, abi.alloc_unbound, arg)
    _self_only(domain, op.dom)
    _port_out(domain, vcpu, abi.alloc_unbound, arg, domain.evtchn.alloc_unbound(op.remote_dom))


def _bind_interdomain(domain: "Domain", vcpu: "Vcpu", arg: int) -> None:
    op = read_struct(vcpu, abi.bind_interdomain, arg)
    port = domain.evtchn.bind_interdomain(op.remote_dom, op.remote_port)
    _port_out(domain, vcpu, abi.bind_interdomain, arg, port, "local_port")


def _bind_virq(domain: "Domain", vcpu: "Vcpu", arg: int) -> None:
    op = read_struct(vcpu, abi.bind_virq, arg)
    _port_out(domain, vcpu, abi.bind_virq, arg, domain.evtchn.bind_virq(op.virq, op.vcpu))


def _bind_pirq(domain: "Domain", vcpu: "Vcpu", arg: int) -> None:
    read_struct(vcpu, abi.bind_pirq, arg)
    raise XenError(errno.EPERM, "no domain has physical interrupts")


def _bind_ipi(domain: "Domain", vcpu: "Vcpu", arg: int) -> None:
    op = read_struct(vcpu, abi.bind_ipi, arg)
    _port_out(domain, vcpu, abi.bind_ipi, arg, domain.evtchn.bind_ipi(op.vcpu))


def _close(domain: "Domain", vcpu: "Vcpu", arg: int) -> None:
    domain.evtchn.close(read_struct(vcpu, abi.close, arg).port)


def _send(domain: "Domain", vcpu: "Vcpu", arg: int) -> None:
    domain.evtchn.send(int.from_bytes(vcpu.core.copy_from_guest(arg, 4), "little"))


def _status(domain: "Domain", vcpu: "Vcpu", arg: int) -> None:
    op = read_struct(vcpu, abi.status, arg)
    _self_only(domain, op.dom)
    status = domain.evtchn.status(op.port)
    u0, u1 = 0, 0
    if status["status"] == abi.EVTCHNSTAT_virq:
        u0 = status["virq"]
    elif "remote_domid" in status:
        u0, u1 = status["remote_domid"], status.get("remote_port", 0)
    answer = abi.status.pack(dom=op.dom, port=op.port, status=status["status"], vcpu=status["vcpu"], u0=u0, u1=u1)
    vcpu.core.copy_to_guest(arg, answer)


def _bind_vcpu(domain: "Domain", vcpu: "Vcpu", arg: int) -> None:
    op = read_struct(vcpu, abi.bind_vcpu, arg)
    domain.evtchn.bind_vcpu(op.port, op.vcpu)


def _unmask(domain: "Domain", vcpu: "Vcpu", arg: int) -> None:
    domain.evtchn.unmask(read_struct(vcpu, abi.unmask, arg).port)


def _reset(domain: "Domain", vcpu: "Vcpu", arg: int) -> None:
    """All ports are closed, and the domain is back to the two-level ABI."""
    _self_only(domain, read_struct(vcpu, abi.reset, arg).dom)
    domain.evtchn.reset()


def _init_control(domain: "Domain", vcpu: "Vcpu", arg: int) -> None:
    op = read_struct(vcpu, abi.init_control, arg)
    if op.vcpu >= len(domain.vcpus):
        raise XenError(errno.ENOENT, f"no vcpu {op.vcpu}")
    if op.offset > xen.PAGE_SIZE - abi.control_block.size or op.offset % 8:
        raise XenError(errno.EINVAL, f"offset {op.offset:#x}")
    evtchn = domain.evtchn
    fifo = evtchn.abi
    if isinstance(fifo, FifoPorts) and fifo.has_control_block(op.vcpu):
        raise XenError(errno.EINVAL, "the vcpu has a control block")
    mfn = domain.frame(op.control_gfn)
    get_writable_page(domain, mfn)
    if not isinstance(fifo, FifoPorts):
        fifo = FifoPorts(domain)
        fifo.take_over(evtchn)
    fifo.set_control_block(op.vcpu, mfn, op.offset)
    write_field(vcpu, abi.init_control, arg, "link_bits", abi.EVTCHN_FIFO_LINK_BITS, 1)


def _expand_array(domain: "Domain", vcpu: "Vcpu", arg: int) -> None:
    mfn = domain.frame(read_struct(vcpu, abi.expand_array, arg).array_gfn)
    fifo = domain.evtchn.abi
    if not isinstance(fifo, FifoPorts):
        raise XenError(errno.EOPNOTSUPP, "the domain has no FIFO")
    if fifo.is_full:
        raise XenError(errno.ENOSPC, "the event array is complete")
    get_writable_page(domain, mfn)
    fifo.expand_array(domain.evtchn, mfn)


def _set_priority(domain: "Domain", vcpu: "Vcpu", arg: int) -> None:
    op = read_struct(vcpu, abi.set_priority, arg)
    domain.evtchn.set_priority(op.port, op.priority)


OPERATIONS = {
    abi.EVTCHNOP_bind_interdomain: _bind_interdomain,
    abi.EVTCHNOP_bind_virq: _bind_virq,
    abi.EVTCHNOP_bind_pirq: _bind_pirq,
    abi.EVTCHNOP_close: _close,
    abi.EVTCHNOP_send: _send,
    abi.EVTCHNOP_status: _status,
    abi.EVTCHNOP_alloc_unbound: _alloc_unbound,
    abi.EVTCHNOP_bind_ipi: _bind_ipi,
    abi.EVTCHNOP_bind_vcpu: _bind_vcpu,
    abi.EVTCHNOP_unmask: _unmask,
    abi.EVTCHNOP_reset: _reset,
    abi.EVTCHNOP_init_control: _init_control,
    abi.EVTCHNOP_expand_array: _expand_array,
    abi.EVTCHNOP_set_priority: _set_priority,
}
