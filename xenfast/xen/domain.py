"""A domain: its vcpus, its shared info page, its event channels and grants, how much memory it has, and how it ends.

Follows xen/common/domain.c.  A domain ends by ``shutdown(code)``, by ``crash(reason)``, which records the registers of its vcpus, or
by ``destroy()``, which also gives its memory back.
"""

import logging
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from xenfast.abi import sched as abi
from xenfast.errors import XenfastError
from xenfast.xen.evtchn import EventChannels, PythonPorts
from xenfast.xen.evtchn_2l import TwoLevelPorts
from xenfast.xen.gnttab import GrantTable
from xenfast.xen.time import write_wall_clock
from xenfast.xen.vcpu import Vcpu

if TYPE_CHECKING:
    from xenfast.xen.hypervisor import Hypervisor

log = logging.getLogger("xenfast")

MAX_VCPUS = 128


class Domain:
    """struct domain.  ``vcpus=0`` makes a domain whose kernel is Python."""

    def __init__(self, hypervisor: "Hypervisor", domid: int, name: str, *, max_pages: int, vcpus: int,
                 uuid: bytes = bytes(16), max_grant_frames: int = 64, max_evtchns: int = 1023) -> None:
        if not 0 <= vcpus <= MAX_VCPUS:
            raise XenfastError(f"a domain cannot have {vcpus} vcpus (at most {MAX_VCPUS})")
        self.hypervisor = hypervisor
        self.domid, self.name, self.uuid = domid, name, uuid
        self.max_pages = max_pages
        self.tot_pages = 0
        self.is_alive = True                    # until destroy()
        self.shutdown_code: int | None = None   # SHUTDOWN_* once it has ended
        self.crash_reason: str | None = None
        self.crash_dump: str | None = None
        self.on_shutdown: list[Callable[[Domain, int], Any]] = []
        self.hypercalls: Counter[str] = Counter()
        self.e820: list[tuple[int, int, int]] = []
        self.vm_assist = 0
        self.max_pfn = 0
        self.pollers = 0                        # vcpus in SCHEDOP_poll
        self.pause_count = 0
        self.created_ns = hypervisor.clock.now()
        memory = hypervisor.memory
        self.shared_info_mfn = int(memory.alloc(domid, 1, shared=True)[0])
        self.shared_info: memoryview = memory.view(self.shared_info_mfn)
        write_wall_clock(self.shared_info, hypervisor.clock)
        self.evtchn = EventChannels(self, max_evtchns if vcpus else PythonPorts.max_ports)
        self.gnttab = GrantTable(self, max_grant_frames if vcpus else 1 << 16)
        self.vcpus = [Vcpu(self, i) for i in range(vcpus)]
        self.evtchn.abi = TwoLevelPorts(self) if vcpus else PythonPorts(self)

    def __repr__(self) -> str:
        return f"<Domain {self.domid} {self.name!r}>"

    # --- memory ------------------------------------------------------------------------------------------------------
    def alloc_pages(self, n: int, contiguous: bool = False) -> Any:
        """``n`` more frames as a numpy array of frame numbers; MemoryError beyond max_pages or when the host has no more."""
        with self.hypervisor.lock:
            if self.max_pages and self.tot_pages + n > self.max_pages:
                raise MemoryError(f"domain {self.domid} may have {self.max_pages} pages and has {self.tot_pages}")
            mfns = self.hypervisor.memory.alloc(self.domid, n, contiguous)
            self.tot_pages += n
            return mfns

    # --- events ------------------------------------------------------------------------------------------------------
    def check_pollers(self, port: int) -> None:
        """A port was raised: wake the vcpus that wait for it in SCHEDOP_poll (evtchn_check_pollers)."""
        if self.pollers:
            for vcpu in self.vcpus:
                if vcpu.polling is not None and (port in vcpu.polling or not vcpu.polling):
                    vcpu.end_poll()

    # --- the end -----------------------------------------------------------------------------------------------------
    @property
    def is_running(self) -> bool:
        return self.is_alive and self.shutdown_code is None

    def shutdown(self, code: int) -> None:
        """All vcpus stop for good; SHUTDOWN_* says why.  Only the first call counts."""
        with self.hypervisor.lock:
            if self.shutdown_code is not None:
                return
            self.shutdown_code = code
        for vcpu in self.vcpus:
            vcpu.stop()
        self.hypervisor.console.forget(self.domid)
        for callback in list(self.on_shutdown):
            self.hypervisor.loop.call_soon(callback, self, code)

    def crash(self, reason: str) -> None:
        """domain_crash(): the guest left no way to go on.  Its registers are recorded and printed; the host goes on."""
        if self.shutdown_code is not None:
            return
        self.crash_reason = reason
        lines = [f"Domain {self.domid} ({self.name}) crashed: {reason}"]
        for vcpu in self.vcpus:
            if vcpu.online:
                lines += vcpu.dump()
        self.crash_dump = "\n".join(lines)
        self.hypervisor.console.printk(self.crash_dump)
        self.shutdown(abi.SHUTDOWN_crash)

    def pause(self) -> None:
        with self.hypervisor.lock:
            self.pause_count += 1
        for vcpu in self.vcpus:
            vcpu.stop()

    def unpause(self) -> None:
        with self.hypervisor.lock:
            self.pause_count = max(0, self.pause_count - 1)
        for vcpu in self.vcpus:
            vcpu.wake()

    def destroy(self) -> None:
        """Close its ports and give its memory back; the number may be used again."""
        if not self.is_alive:
            return
        self.shutdown(abi.SHUTDOWN_poweroff)
        self.hypervisor.scheduler.quiesce(self)
        with self.hypervisor.lock:
            self.is_alive = False
            self.evtchn.close_all()
            for vcpu in self.vcpus:
                vcpu.destroy()
            self.hypervisor.memory.free_domain(self.domid)
            self.hypervisor.domains.pop(self.domid, None)
