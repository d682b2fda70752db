"""The machine: its memory, its clock, its domains, and the loop that drives them.

One ``Hypervisor`` is one Xen host.  Everything it holds hangs from it, so several live in one process.  Domain 0 exists
from the start: a domain without vcpus, whose kernel is Python.  ``run()`` drives all domains until something asked for
has happened.
"""

import errno
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from xenfast import _core
from xenfast.errors import XenError, XenfastError
from xenfast.xen.console import Console
from xenfast.xen.domain import Domain
from xenfast.xen.eventloop import EventLoop
from xenfast.xen.sched import StopReason, make_scheduler
from xenfast.xen.time import Clock

if TYPE_CHECKING:
    from xenfast.xen.profile import Profiler

MIB_FRAMES = 256        # frames of 4 KiB in a MiB


class Hypervisor:
    """A Xen host with so much machine memory.

    ``lock`` guards everything the hypercalls in Python change: one lock, as the interpreter serialises them anyway.
    """

    def __init__(self, memory_mib: int, *, clock: Clock | None = None, memory: Any = None, seed: int = 0,
                 engine: str = "auto") -> None:
        self.memory: _core.Memory = _core.Memory(memory_mib * MIB_FRAMES) if memory is None else memory
        self.clock = clock if clock is not None else Clock()
        self.seed = seed
        self.engine = engine
        self.lock = threading.RLock()
        self.console = Console()
        self.loop = EventLoop(self.clock)
        self.scheduler = make_scheduler(self)
        self.profiler: Profiler | None = None       # set before domains are created
        self.domains: dict[int, Domain] = {}
        self._next_domid = 1
        self.dom0 = Domain(self, 0, "Domain-0", max_pages=1 << 40, vcpus=0)
        self.domains[0] = self.dom0

    def create_domain(self, name: str = "", *, max_pages: int = 0, vcpus: int = 1, uuid: bytes = bytes(16),
                      domid: int | None = None, max_grant_frames: int = 64, max_evtchns: int = 1023,
                      cpuid: Any = None, kind: str = "pv") -> Domain:
        """A new domain with vcpus that are all down; the builder brings up vcpu 0.  ``vcpus=0``: a kernel in Python.

        ``cpuid`` is its CPUID policy (``xenfast.cpuid.Policy``), None for all there is.  ``kind`` is pv, hvm or pvh; the last
        two have ``domain.hvm`` (xen/hvm/domain.py), and their vcpu 0 is at the reset vector.
        """
        with self.lock:
            if domid is None:
                domid = self._next_domid
                self._next_domid += 1
            if domid in self.domains:
                raise XenfastError(f"there is a domain {domid} already")
            domain = Domain(self, domid, name or f"domain-{domid}", max_pages=max_pages, vcpus=vcpus, uuid=uuid,
                            max_grant_frames=max_grant_frames, max_evtchns=max_evtchns, cpuid=cpuid, kind=kind)
            self.domains[domid] = domain
            return domain

    def domain(self, domid: int) -> Domain:
        """A domain by number; ESRCH when there is none."""
        domain = self.domains.get(domid)
        if domain is None:
            raise XenError(errno.ESRCH, f"no domain {domid}")
        return domain

    def make_core(self, vcpu: Any) -> Any:
        """What runs the instructions of a new vcpu."""
        core = vcpu.new_core()
        core.exact = self.clock.is_virtual
        core.engine = self.engine
        core.seed = (self.seed << 24 ^ vcpu.domain.domid << 8 ^ vcpu.vcpu_id) & (1 << 64) - 1
        if vcpu.domain.cpuid is not None:
            vcpu.domain.cpuid.apply(core, threads=vcpu.threads)
        return core

    def run(self, until: Callable[[], Any] | None = None, timeout: float | None = None, forever: bool = False) -> StopReason:
        """Run all domains until ``until()`` is true, ``timeout`` seconds of the host have passed, or nothing is left to
        run (not with ``forever``: another thread may create a domain at any time; real time only).

        ``until`` is asked after every batch of domain 0's events.  No vcpu runs once this has returned.
        """
        with self.loop.woken_by_signals():
            return self.scheduler.run(until, timeout, forever)

    def close(self) -> None:
        """End all domains and the threads; the machine is of no use afterwards."""
        for domid in sorted(self.domains, reverse=True):
            self.domains[domid].destroy()
        self.scheduler.close()
        self.loop.close()

    def __enter__(self) -> "Hypervisor":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
