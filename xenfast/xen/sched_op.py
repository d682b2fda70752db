"""sched_op: a vcpu gives up the processor, waits, or ends its domain.

Specified in xen/include/public/sched.h; follows xen/common/sched/core.c.  SCHEDOP_pin_override is for domain 0 alone.
"""

import errno
import struct
from typing import TYPE_CHECKING

from xenfast.abi import sched as abi
from xenfast.errors import XenError
from xenfast.xen.guest import read_struct
from xenfast.xen.time import NEVER

if TYPE_CHECKING:
    from xenfast.xen.domain import Domain
    from xenfast.xen.vcpu import Vcpu

POLL_MAX = 128          # ports of one SCHEDOP_poll
WATCHDOGS = 2           # NR_DOMAIN_WATCHDOG_TIMERS


def do_sched_op(domain: "Domain", vcpu: "Vcpu", cmd: int, arg: int) -> int:
    operation = OPERATIONS.get(cmd & 0xFFFFFFFF)
    if operation is None:
        raise XenError(errno.ENOSYS, f"SCHEDOP {cmd & 0xFFFFFFFF}")
    return operation(domain, vcpu, arg)


def do_sched_op_compat(domain: "Domain", vcpu: "Vcpu", cmd: int, arg: int) -> int:
    """The call of Xen 3.0: the reason of a shutdown is the argument itself."""
    if cmd == abi.SCHEDOP_shutdown:
        return _end(domain, arg & 0xFFFFFFFF)
    if cmd in (abi.SCHEDOP_yield, abi.SCHEDOP_block):
        return do_sched_op(domain, vcpu, cmd, 0)
    raise XenError(errno.ENOSYS, f"SCHEDOP {cmd}")


def _yield(domain: "Domain", vcpu: "Vcpu", arg: int) -> int:
    """Of a PV guest only in a multicall or by sched_op_compat; otherwise the core answers it."""
    vcpu.give_way()
    return 0


def _block(domain: "Domain", vcpu: "Vcpu", arg: int) -> int:
    vcpu.block()
    return 0


def _end(domain: "Domain", reason: int) -> int:
    if reason > abi.SHUTDOWN_MAX:
        raise XenError(errno.EINVAL, f"shutdown reason {reason}")
    domain.shutdown(reason)
    return 0


def _shutdown(domain: "Domain", vcpu: "Vcpu", arg: int) -> int:
    return _end(domain, read_struct(vcpu, abi.shutdown, arg).reason)


def _shutdown_code(domain: "Domain", vcpu: "Vcpu", arg: int) -> int:
    """Only records the code that a later crash or power-off will report."""
    reason = read_struct(vcpu, abi.shutdown, arg).reason
    if reason > abi.SHUTDOWN_MAX or domain.shutdown_code is not None:
        raise XenError(errno.EINVAL)
    return 0


def _poll(domain: "Domain", vcpu: "Vcpu", arg: int) -> int:
    """Wait until one of some ports is pending, an event is to be delivered, or a time has come."""
    poll = read_struct(vcpu, abi.poll, arg)
    if poll.nr_ports > POLL_MAX:
        raise XenError(errno.EINVAL, f"{poll.nr_ports} ports to poll")
    data = vcpu.core.copy_from_guest(poll.ports, 4 * poll.nr_ports) if poll.nr_ports else b""
    ports = struct.unpack(f"<{poll.nr_ports}I", data)
    if vcpu.needs_delivery:
        return 0
    evtchn = domain.evtchn
    for port in ports:
        if evtchn.abi.is_pending(evtchn.channel(port)):
            return 0
    vcpu.poll(frozenset(ports), poll.timeout or NEVER)
    return 0


def _remote_shutdown(domain: "Domain", vcpu: "Vcpu", arg: int) -> int:
    """A domain may end only itself this way."""
    request = read_struct(vcpu, abi.remote_shutdown, arg)
    target = domain.hypervisor.domain(request.domain_id)
    if target is not domain:
        raise XenError(errno.EPERM)
    return _end(domain, request.reason & 0xFF)


def _watchdog(domain: "Domain", vcpu: "Vcpu", arg: int) -> int:
    """Set up (id 0), poke or remove (timeout 0) a watchdog of the domain; ids count from 1."""
    request = read_struct(vcpu, abi.watchdog, arg)
    if request.id > WATCHDOGS:
        raise XenError(errno.EINVAL, f"watchdog {request.id}")
    if request.id == 0:
        if request.timeout == 0:
            raise XenError(errno.EINVAL)
        for number in range(1, WATCHDOGS + 1):
            if number not in domain.watchdogs:
                _arm(domain, number, request.timeout)
                return number
        raise XenError(errno.ENOSPC)
    if request.id not in domain.watchdogs:
        raise XenError(errno.EINVAL)
    domain.watchdogs.pop(request.id).cancel()
    if request.timeout:
        _arm(domain, request.id, request.timeout)
    return 0


def _arm(domain: "Domain", number: int, seconds: int) -> None:
    domain.watchdogs[number] = domain.hypervisor.loop.call_later(seconds * 10**9, _bite, domain)


def _bite(domain: "Domain") -> None:
    if domain.is_running:
        domain.hypervisor.console.printk(f"Watchdog timer fired for domain {domain.domid}")
        domain.shutdown(abi.SHUTDOWN_watchdog)


def _refused(domain: "Domain", vcpu: "Vcpu", arg: int) -> int:
    raise XenError(errno.EPERM)


OPERATIONS = {
    abi.SCHEDOP_yield: _yield,
    abi.SCHEDOP_block: _block,
    abi.SCHEDOP_shutdown: _shutdown,
    abi.SCHEDOP_poll: _poll,
    abi.SCHEDOP_remote_shutdown: _remote_shutdown,
    abi.SCHEDOP_shutdown_code: _shutdown_code,
    abi.SCHEDOP_watchdog: _watchdog,
    abi.SCHEDOP_pin_override: _refused,
}

