"""A virtual CPU: the loop that runs the core and answers what it exits for, and the states a vcpu can be in.

Follows xen/common/domain.c and sched/core.c: a vcpu is down, blocked (by SCHEDOP_block until an event, by SCHEDOP_poll until one of
some ports) or runnable.  What runs the guest's instructions is ``core``, a ``_core.PvVcpu``; this is the only module that touches it
while it runs.
"""

import logging
from typing import TYPE_CHECKING, Any

from xenfast.abi import vcpu as abi
from xenfast.abi import xen
from xenfast.xen.atomics import SharedWords
from xenfast.xen.time import NEVER, write_time_info

if TYPE_CHECKING:
    from xenfast.xen.domain import Domain

log = logging.getLogger("xenfast")

REQ_STOP = 1            # cpu/state.pxd
REQ_EVENT = 2
DEFAULT_PERIOD = 10_000_000     # PV guests by default have a 100 Hz ticker


class Vcpu:
    """struct vcpu."""

    def __init__(self, domain: "Domain", vcpu_id: int) -> None:
        self.domain = domain
        self.hypervisor = domain.hypervisor
        self.vcpu_id = vcpu_id
        self.initialised = False
        self.online = False             # VCPUOP_up (_VPF_down is clear)
        self.blocked = False            # in SCHEDOP_block or SCHEDOP_poll
        self.polling: frozenset[int] | None = None      # ports of SCHEDOP_poll; empty: any
        self.poll_deadline = NEVER
        self.period = DEFAULT_PERIOD
        self.next_tick = NEVER
        self.runstate = abi.RUNSTATE_offline
        self.runstate_entry = domain.hypervisor.clock.now()
        self.runstate_times = [0, 0, 0, 0]
        self.runstate_area = 0          # guest linear address of the registered copy
        self.info_mfn = 0               # frame of a registered vcpu_info
        self.core: Any = domain.hypervisor.make_core(self)
        self._set_info(self._default_info())

    def __repr__(self) -> str:
        return f"<Vcpu {self.domain.domid}v{self.vcpu_id}>"

    # --- vcpu_info ---------------------------------------------------------------------------------------------------
    def _default_info(self) -> memoryview:
        """The place in shared_info; vcpus beyond its 32 have none until they register one, and get no events."""
        size = xen.VCPU_INFO_SIZE
        if self.vcpu_id < xen.XEN_LEGACY_MAX_VCPUS:
            return self.domain.shared_info[self.vcpu_id * size:(self.vcpu_id + 1) * size]
        dummy = memoryview(bytearray(size))
        dummy[0] = dummy[1] = 1
        return dummy

    def _set_info(self, view: memoryview) -> None:
        self.info_view = view
        self.info = SharedWords(view)
        write_time_info(view, xen.VCPU_INFO_TIME)

    # --- events ------------------------------------------------------------------------------------------------------
    def mark_events_pending(self) -> None:
        """vcpu_mark_events_pending(): set evtchn_upcall_pending and see to it that the vcpu notices."""
        if not self.info.test_and_set_bit(0):
            self.kick()

    def kick(self) -> None:
        """Wake the vcpu if it is blocked, and have it look for events if it runs."""
        if self.blocked:
            self.wake()
        elif self.core is not None:
            self.core.kick(REQ_EVENT)

    def wake(self) -> None:
        """The vcpu is runnable again."""
        with self.hypervisor.lock:
            self.blocked = False
            self.polling = None
            self.hypervisor.scheduler.wake(self)

    def end_poll(self) -> None:
        self.domain.pollers -= 1
        self.wake()

    def stop(self) -> None:
        """Have the vcpu leave the core as soon as it can."""
        if self.core is not None:
            self.core.kick(REQ_STOP)
        self.hypervisor.scheduler.wake(self)

    @property
    def runnable(self) -> bool:
        return self.online and not self.blocked and self.domain.is_running and not self.domain.pause_count

    def dump(self) -> list[str]:
        """Its registers, as lines to be read."""
        return [f"vcpu {self.vcpu_id}:"]

    def destroy(self) -> None:
        self.core = None
