"""A domain: its vcpus, its shared info page, its event channels and grants, how much memory it has, and how it ends.

Follows xen/common/domain.c.  A domain ends by ``shutdown(code)``, by ``crash(reason)``, which records the registers of
its vcpus, or by ``destroy()``, which also gives its memory back.
"""

import errno
import logging
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy

from xenfast import _core
from xenfast.abi import sched as abi
from xenfast.abi import xen
from xenfast.errors import XenfastError
from xenfast.xen import version
from xenfast.xen.eventloop import Timer
from xenfast.xen.evtchn import EventChannels, PythonPorts
from xenfast.xen.evtchn_2l import TwoLevelPorts
from xenfast.xen.gnttab import GrantTable
from xenfast.xen.gnttab_map import Mapping, release_all
from xenfast.xen.hvm.domain import HvmDomain
from xenfast.xen.hvm.vcpu import HvmVcpu
from xenfast.xen.hypercall import name_of
from xenfast.xen.time import write_wall_clock
from xenfast.xen.vcpu import Vcpu

if TYPE_CHECKING:
    from xenfast.xen.hypervisor import Hypervisor

log = logging.getLogger("xenfast")

MAX_VCPUS = 128
PGT_WRITABLE = 7        # cpu/state.pxd: Frame.type, Frame.flags
FRAME_ALLOCATED = 4
NO_FRAME = (1 << 64) - 1
LOG_KINDS = 256         # different warnings a domain may cause
VCPU_CLASSES: dict[str, type[Vcpu]] = {"pv": Vcpu, "hvm": HvmVcpu, "pvh": HvmVcpu}


class Domain:
    """struct domain.  ``vcpus=0`` makes a domain whose kernel is Python."""

    def __init__(self, hypervisor: "Hypervisor", domid: int, name: str, *, max_pages: int, vcpus: int,
                 uuid: bytes = bytes(16), max_grant_frames: int = 64, max_evtchns: int = 1023, cpuid: Any = None,
                 kind: str = "pv") -> None:
        if not 0 <= vcpus <= MAX_VCPUS:
            raise XenfastError(f"a domain cannot have {vcpus} vcpus (at most {MAX_VCPUS})")
        if kind not in VCPU_CLASSES:
            raise XenfastError(f"there are no domains of kind {kind!r} ({', '.join(VCPU_CLASSES)})")
        self.hypervisor = hypervisor
        self.domid, self.name, self.uuid = domid, name, uuid
        self.cpuid = cpuid
        self.max_pages = max_pages
        self.tot_pages = 0
        self.is_alive = True                    # until destroy()
        self.shutdown_code: int | None = None   # SHUTDOWN_* once it has ended
        self.crash_reason: str | None = None
        self.crash_dump: str | None = None
        self.on_shutdown: list[Callable[[Domain, int], Any]] = []
        self.core = _core.PvDomain(hypervisor.memory, domid)
        self.core.version = version.MAJOR << 16 | version.MINOR
        self._counted: Counter[str] = Counter()     # hypercalls of vcpus that are gone
        self._retired = 0                           # their instructions
        self.e820: list[tuple[int, int, int]] = []
        self.max_pfn = 0
        self.pollers = 0                        # vcpus in SCHEDOP_poll
        self.pause_count = 0
        self.created_ns = hypervisor.clock.now()
        self.watchdogs: dict[int, Timer] = {}
        self.maptrack: dict[int, Mapping] = {}  # grants it has mapped, by handle
        self._last_handle = -1
        self.held_pages: list[int] = []         # frames Xen writes to: referenced and typed writable until the end
        self.xen_pages: set[int] = set()        # frames of Xen's that the domain may map but not give away
        self._logged: set[Any] = set()
        self.shared_places = xen.SHARED_64      # as wide as its words are
        self.shared_info_mfn = self.alloc_xen_page()
        self.shared_info: memoryview = hypervisor.memory.view(self.shared_info_mfn)
        write_wall_clock(self.shared_info, hypervisor.clock, self.shared_places)
        self.evtchn = EventChannels(self, max_evtchns if vcpus else PythonPorts.max_ports)
        self.gnttab = GrantTable(self, max_grant_frames if vcpus else 1 << 16)
        self.vcpu_count = vcpus
        self.hvm = None if kind == "pv" else HvmDomain(self, kind, max_pages)
        self.vcpus: list[Vcpu] = [VCPU_CLASSES[kind](self, i) for i in range(vcpus)]
        self.evtchn.abi = self.first_port_abi()

    def __repr__(self) -> str:
        return f"<Domain {self.domid} {self.name!r}>"

    @property
    def vm_assist(self) -> int:
        """Bit per VMASST_TYPE."""
        return self.core.vm_assist

    @property
    def hypercalls(self) -> Counter[str]:
        """How often each hypercall was made, by name."""
        counts = Counter(self._counted)
        for vcpu in self.vcpus:
            if vcpu.core is not None:
                counts.update(hypercall_counts(vcpu.core))
        return counts

    @property
    def instructions(self) -> int:
        """Instructions retired by all its vcpus."""
        return self._retired + sum(vcpu.core.instructions for vcpu in self.vcpus if vcpu.core is not None)

    def count(self, core: Any) -> None:
        """A vcpu is about to go: keep what it has counted."""
        self._counted.update(hypercall_counts(core))
        self._retired += core.instructions
        if self.hypervisor.profiler is not None:
            self.hypervisor.profiler.collect(core)

    def start_pv(self, l4_mfn: int, context: bytes) -> None:
        """The builder has written page tables and everything else: validate and pin them, and start vcpu 0."""
        rc = self.core.pin_l4(l4_mfn)
        if rc:
            raise XenfastError(f"the page tables of domain {self.domid} are not valid ({errno.errorcode.get(-rc, rc)})")
        self.vcpus[0].set_context(context)
        self.vcpus[0].bring_up()

    def start_hvm(self) -> None:
        """Firmware or a builder has written memory, and perhaps the registers of vcpu 0: start it."""
        self.vcpus[0].initialised = True
        self.vcpus[0].bring_up()

    def set_shared_places(self, places: xen.SharedPlaces) -> None:
        """An HVM guest shows how wide its words are (hvm_latch_shinfo_size)."""
        if places == self.shared_places:
            return
        self.shared_places = places
        write_wall_clock(self.shared_info, self.hypervisor.clock, places)
        if isinstance(self.evtchn.abi, TwoLevelPorts):
            self.evtchn.abi.set_places()

    def first_port_abi(self) -> TwoLevelPorts | PythonPorts:
        return TwoLevelPorts(self) if self.vcpus else PythonPorts(self)

    def log_once(self, key: Any, text: str, *values: Any, level: int = logging.WARNING) -> None:
        """A message about something the guest did, the first time it does it."""
        if key not in self._logged and len(self._logged) < LOG_KINDS:
            self._logged.add(key)
            log.log(level, "domain %d: " + text, self.domid, *values)

    # --- memory ------------------------------------------------------------------------------------------------------
    def alloc_pages(self, n: int, contiguous: bool = False, beyond: bool = False) -> Any:
        """``n`` more frames as a numpy array of frame numbers; MemoryError beyond max_pages or when the host has no
        more.  ``beyond``: the toolstack's own, by which the limit is raised.
        """
        with self.hypervisor.lock:
            if beyond and self.max_pages:
                self.max_pages += n
            if self.max_pages and self.tot_pages + n > self.max_pages:
                raise MemoryError(f"domain {self.domid} may have {self.max_pages} pages and has {self.tot_pages}")
            mfns = self.hypervisor.memory.alloc(self.domid, n, contiguous)
            self.tot_pages += n
            return mfns

    def alloc_xen_page(self) -> int:
        """A page of Xen's that it shares with the domain (shared info, grant table); not part of its reservation."""
        mfn = int(self.hypervisor.memory.alloc(self.domid, 1, shared=True)[0])
        self.xen_pages.add(mfn)
        return mfn

    def frame(self, gfn: int) -> int:
        """The machine frame that the guest means by a frame number: itself for PV; ~0, which nobody owns, for none."""
        if self.hvm is None:
            return gfn
        mfn = self.hvm.physmap.get(gfn)
        return NO_FRAME if mfn is None or self.hvm.physmap.is_readonly(gfn) else mfn

    def owns(self, mfn: int) -> bool:
        memory = self.hypervisor.memory
        return mfn < memory.frames and memory.owner(mfn) == self.domid

    def get_writable_page(self, mfn: int) -> bool:
        """get_page_and_type(PGT_writable_page): a reference to a frame of the domain, which cannot become a page table
        meanwhile.
        """
        return mfn != NO_FRAME and self.core.get_page_and_type(mfn, PGT_WRITABLE) == 0

    def put_writable_page(self, mfn: int) -> None:
        self.core.put_page_and_type(mfn)

    def next_handle(self) -> int:
        """A number for a new entry of maptrack."""
        self._last_handle = (self._last_handle + 1) & 0x7FFFFFFF
        while self._last_handle in self.maptrack:
            self._last_handle = (self._last_handle + 1) & 0x7FFFFFFF
        return self._last_handle

    # --- events ------------------------------------------------------------------------------------------------------
    def check_pollers(self, port: int) -> None:
        """A port was raised: wake the vcpus that wait for it in SCHEDOP_poll (evtchn_check_pollers)."""
        if self.pollers:
            for vcpu in self.vcpus:
                if vcpu.polling is not None and port in vcpu.polling:
                    vcpu.wake()

    # --- the end -----------------------------------------------------------------------------------------------------
    @property
    def is_running(self) -> bool:
        return self.is_alive and self.shutdown_code is None

    @property
    def may_run(self) -> bool:
        return self.is_alive and self.shutdown_code is None and not self.pause_count

    def shutdown(self, code: int) -> None:
        """All vcpus stop for good; SHUTDOWN_* says why.  Only the first call counts."""
        with self.hypervisor.lock:
            if self.shutdown_code is not None:
                return
            self.shutdown_code = code
        for watchdog in self.watchdogs.values():
            watchdog.cancel()
        for vcpu in self.vcpus:
            vcpu.stop()
        self.hypervisor.console.forget(self.domid)
        self.hypervisor.loop.wake()
        for callback in list(self.on_shutdown):
            self.hypervisor.loop.call_soon(callback, self, code)

    def crash(self, reason: str, vcpu: "Vcpu | None" = None) -> None:
        """domain_crash(): the guest left no way to go on.  Its registers are recorded and printed; the host goes on.

        ``vcpu`` is the one that did it, if the caller is its thread; otherwise those that are not running just now are
        shown.
        """
        if self.shutdown_code is not None:
            return
        lines = [f"Domain {self.domid} ({self.name}) crashed: {reason}"]
        for each in self.vcpus:
            if each is vcpu or (each.online and not each.in_guest and vcpu is None):
                lines += each.dump()
        self.crash_reason = reason
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
            if self.hvm is not None:
                self.hvm.timers.close()
            self.evtchn.close_all()
            release_all(self)
            for vcpu in self.vcpus:
                vcpu.destroy()
            for mfn in self.held_pages:
                self.put_writable_page(mfn)
            self.core.release_page_tables()
            frames = self.hypervisor.memory.frame_table
            mine = (frames["owner"] == self.domid) & (frames["flags"] & FRAME_ALLOCATED != 0)
            self.hypervisor.memory.free(numpy.nonzero(mine)[0])
            self.hypervisor.domains.pop(self.domid, None)
        self.hypervisor.scheduler.forget(self)


def hypercall_counts(core: Any) -> Counter[str]:
    return Counter({name_of(nr): count for nr, count in core.hypercall_counts().items()})
