"""vcpu_op: starting and stopping vcpus, their timers, and the memory they share with Xen.

Specified in xen/include/public/vcpu.h; follows do_vcpu_op of xen/common/domain.c and arch_do_vcpu_op of
xen/arch/x86/domain.c.
"""

import errno
from typing import TYPE_CHECKING

from xenfast.abi import sched, xen
from xenfast.abi import vcpu as abi
from xenfast.errors import XenError
from xenfast.xen.guest import layout_of, read_struct, read_word

if TYPE_CHECKING:
    from xenfast.xen.domain import Domain
    from xenfast.xen.vcpu import Vcpu

PERIOD_MIN = 1_000_000                  # shorter ones are refused
PERIOD_MAX = (1 << 63) - 1              # STIME_DELTA_MAX is somewhat less; what matters is that it never comes


def do_vcpu_op(domain: "Domain", vcpu: "Vcpu", cmd: int, vcpuid: int, arg: int) -> int:
    cmd, vcpuid = cmd & 0xFFFFFFFF, vcpuid & 0xFFFFFFFF
    if vcpuid >= len(domain.vcpus):
        raise XenError(errno.ENOENT, f"no vcpu {vcpuid}")
    operation = OPERATIONS.get(cmd)
    if operation is None:
        raise XenError(errno.ENOSYS, f"VCPUOP {cmd}")
    return operation(domain.vcpus[vcpuid], vcpu, arg)


def _initialise(v: "Vcpu", current: "Vcpu", arg: int) -> int:
    if not v.has_info:
        raise XenError(errno.EINVAL, "the vcpu has no vcpu_info yet")
    context = current.core.copy_from_guest(arg, v.context_size)
    if v.initialised:
        raise XenError(errno.EEXIST)
    v.set_context(context)
    return 0


def _up(v: "Vcpu", current: "Vcpu", arg: int) -> int:
    if not v.initialised:
        raise XenError(errno.EINVAL, "the vcpu is not initialised")
    v.bring_up()
    return 0


def _down(v: "Vcpu", current: "Vcpu", arg: int) -> int:
    """The last vcpu to go down takes the domain with it."""
    if not any(other.online for other in v.domain.vcpus if other is not v):
        v.domain.shutdown(sched.SHUTDOWN_poweroff)
    else:
        v.take_down()
    return 0


def _is_up(v: "Vcpu", current: "Vcpu", arg: int) -> int:
    return int(v.online)


def _get_runstate_info(v: "Vcpu", current: "Vcpu", arg: int) -> int:
    current.core.copy_to_guest(arg, v.runstate_info(layout_of(current, abi.runstate_info)))
    return 0


def _register_runstate_memory_area(v: "Vcpu", current: "Vcpu", arg: int) -> int:
    """Written at once, and from then on whenever the vcpu's state has changed."""
    address = read_word(current, arg)
    v.runstate_layout = layout_of(current, abi.runstate_info)
    current.core.copy_to_guest(address, v.runstate_info(v.runstate_layout))
    v.runstate_area = address
    return 0


def _set_periodic_timer(v: "Vcpu", current: "Vcpu", arg: int) -> int:
    period = read_struct(current, abi.set_periodic_timer, arg).period_ns
    if not PERIOD_MIN <= period <= PERIOD_MAX:
        raise XenError(errno.EINVAL, f"period {period} ns")
    v.set_period(period)
    return 0


def _stop_periodic_timer(v: "Vcpu", current: "Vcpu", arg: int) -> int:
    v.set_period(0)
    return 0


def _set_singleshot_timer(v: "Vcpu", current: "Vcpu", arg: int) -> int:
    if v is not current:
        raise XenError(errno.EINVAL, "the timer of another vcpu")
    timer = read_struct(current, abi.set_singleshot_timer, arg)
    if timer.flags & abi.VCPU_SSHOTTMR_future and timer.timeout_abs_ns < v.hypervisor.clock.now():
        raise XenError(errno.ETIME)
    v.core.timer_deadline = timer.timeout_abs_ns
    return 0


def _stop_singleshot_timer(v: "Vcpu", current: "Vcpu", arg: int) -> int:
    if v is not current:
        raise XenError(errno.EINVAL, "the timer of another vcpu")
    v.core.timer_deadline = None
    return 0


def _register_vcpu_info(v: "Vcpu", current: "Vcpu", arg: int) -> int:
    """Once per vcpu, by itself or while it is down.  The frame stays referenced and writable for the domain's life."""
    info = read_struct(current, abi.register_vcpu_info, arg)
    if info.offset > xen.PAGE_SIZE - xen.VCPU_INFO_SIZE or info.offset % 8:
        raise XenError(errno.EINVAL, f"offset {info.offset:#x}")
    if v.info_mfn is not None or (v is not current and v.online):
        raise XenError(errno.EINVAL, "vcpu_info is registered, or the vcpu runs")
    mfn = v.domain.frame(info.mfn)
    get_writable_page(v.domain, mfn)
    v.register_info(mfn, info.offset)
    return 0


def get_writable_page(domain: "Domain", mfn: int) -> None:
    """get_page_and_type(PGT_writable_page) for as long as the domain lives: the guest cannot make it a page table any
    more.
    """
    if not domain.get_writable_page(mfn):
        raise XenError(errno.EINVAL, f"frame {mfn:#x} is not the domain's, or not plain memory")
    domain.held_pages.append(mfn)


def _send_nmi(v: "Vcpu", current: "Vcpu", arg: int) -> int:
    if arg:
        raise XenError(errno.EINVAL)
    v.send_nmi()
    return 0


def _get_physid(v: "Vcpu", current: "Vcpu", arg: int) -> int:
    raise XenError(errno.EINVAL, "only pinned vcpus of the hardware domain")


def _register_vcpu_time_memory_area(v: "Vcpu", current: "Vcpu", arg: int) -> int:
    address = read_word(current, arg)
    current.register_time_area(address)
    return 0


OPERATIONS = {
    abi.VCPUOP_initialise: _initialise,
    abi.VCPUOP_up: _up,
    abi.VCPUOP_down: _down,
    abi.VCPUOP_is_up: _is_up,
    abi.VCPUOP_get_runstate_info: _get_runstate_info,
    abi.VCPUOP_register_runstate_memory_area: _register_runstate_memory_area,
    abi.VCPUOP_set_periodic_timer: _set_periodic_timer,
    abi.VCPUOP_stop_periodic_timer: _stop_periodic_timer,
    abi.VCPUOP_set_singleshot_timer: _set_singleshot_timer,
    abi.VCPUOP_stop_singleshot_timer: _stop_singleshot_timer,
    abi.VCPUOP_register_vcpu_info: _register_vcpu_info,
    abi.VCPUOP_send_nmi: _send_nmi,
    abi.VCPUOP_get_physid: _get_physid,
    abi.VCPUOP_register_vcpu_time_memory_area: _register_vcpu_time_memory_area,
}
