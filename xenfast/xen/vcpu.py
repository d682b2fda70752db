"""A virtual CPU: the loop that runs the core and answers what it exits for, and the states a vcpu can be in.

Follows xen/common/domain.c and sched/core.c: a vcpu is down, blocked (by SCHEDOP_block until an event, by SCHEDOP_poll
until one of some ports) or runnable.  What runs the guest's instructions is ``core``, a ``_core.PvVcpu``; nothing else
in xen/ touches it while it runs, but for ``kick()``.  Those of domains with a p2m: xen/hvm/vcpu.py.
"""

import logging
from typing import TYPE_CHECKING, Any

from xenfast import _core
from xenfast._core import ExitReason, SharedWords
from xenfast.abi import vcpu as abi
from xenfast.abi import xen
from xenfast.abi.layout import Layout
from xenfast.xen import hypercall
from xenfast.xen.context import set_info_guest
from xenfast.xen.guest import GuestFault
from xenfast.xen.time import NEVER, time_info, write_time_info

if TYPE_CHECKING:
    from xenfast.xen.domain import Domain

log = logging.getLogger("xenfast")

REQ_STOP = 1            # cpu/state.pxd
REQ_EVENT = 2
EXIT_BUDGET, EXIT_STOP, EXIT_HLT = ExitReason.EXIT_BUDGET, ExitReason.EXIT_STOP, ExitReason.EXIT_HLT
EXIT_HYPERCALL, EXIT_CRASH, EXIT_TIMER = ExitReason.EXIT_HYPERCALL, ExitReason.EXIT_CRASH, ExitReason.EXIT_TIMER
DEFAULT_PERIOD = 10_000_000     # the periodic timer of a PV guest that sets none: 100 Hz (xen/arch/x86/pv/domain.c)

# Bit numbers in struct vcpu_info.
_UPCALL_PENDING = 0
_MASK = xen.vcpu_info.offset["evtchn_upcall_mask"]


class Vcpu:
    """struct vcpu."""

    def __init__(self, domain: "Domain", vcpu_id: int) -> None:
        self.domain = domain
        self.hypervisor = domain.hypervisor
        self.vcpu_id = vcpu_id
        self.initialised = False
        self.online = False             # VCPUOP_up (_VPF_down is clear)
        self.blocked = False            # in SCHEDOP_block or SCHEDOP_poll
        self.in_guest = False           # its thread is inside run_slice()
        self.polling: frozenset[int] | None = None      # ports of SCHEDOP_poll; empty: any
        self.poll_deadline = NEVER
        self.period = DEFAULT_PERIOD
        self.next_tick = NEVER
        self.runstate = abi.RUNSTATE_offline
        self.runstate_entry = domain.hypervisor.clock.now()
        self.runstate_times = [0, 0, 0, 0]
        self.runstate_area = 0          # guest linear address of the registered copy
        self.runstate_dirty = False     # the copy is out of date
        self.runstate_layout = abi.runstate_info        # as wide as the caller was that registered it
        self.info_mfn: int | None = None    # frame of a registered vcpu_info, and where in it
        self.info_offset = 0
        self.core: Any = domain.hypervisor.make_core(self)
        if domain.hypervisor.profiler is not None:
            self.core.profiling = True
        self._place_info(self._default_info())
        if self.vcpu_id < xen.XEN_LEGACY_MAX_VCPUS:
            self.core.set_vcpu_info(domain.shared_info_mfn, vcpu_id * xen.VCPU_INFO_SIZE)

    @property
    def threads(self) -> int:
        """Processors of the machine as CPUID counts them; a PV guest does not look."""
        return 1

    def __repr__(self) -> str:
        return f"<Vcpu {self.domain.domid}v{self.vcpu_id}>"

    def new_core(self) -> Any:
        """What runs the instructions of this kind of vcpu."""
        return _core.PvVcpu(self.hypervisor.memory, clock=self.hypervisor.clock.core, domain=self.domain.core, vcpu_id=self.vcpu_id)

    # --- vcpu_info ---------------------------------------------------------------------------------------------------
    def _default_info(self) -> memoryview:
        """The place in shared_info; vcpus beyond its 32 have none until they register one, and get no events."""
        size = xen.VCPU_INFO_SIZE
        if self.vcpu_id < xen.XEN_LEGACY_MAX_VCPUS:
            return self.domain.shared_info[self.vcpu_id * size:(self.vcpu_id + 1) * size]
        dummy = memoryview(bytearray(size))
        dummy[0] = dummy[_MASK] = 1
        return dummy

    @property
    def has_info(self) -> bool:
        return self.info_mfn is not None or self.vcpu_id < xen.XEN_LEGACY_MAX_VCPUS

    def _place_info(self, view: memoryview) -> None:
        self.info_view = view
        self.info = SharedWords(view)
        write_time_info(view, xen.VCPU_INFO_TIME)

    def renew_time(self) -> None:
        """Xen writes the time again whenever it differs: whoever had the page before may have cleared it, as hvmloader does."""
        if self.has_info:
            write_time_info(self.info_view, xen.VCPU_INFO_TIME)

    def register_info(self, mfn: int, offset: int) -> None:
        """VCPUOP_register_vcpu_info: the frame is referenced and writable.  Everything is marked pending, lest
        something is lost.
        """
        view = self.hypervisor.memory.view(mfn)[offset:offset + xen.VCPU_INFO_SIZE]
        view[:] = self.info_view
        self.take_info(mfn, offset)
        places = self.domain.shared_places
        view[places.selector:places.selector + (1 << places.shift) // 8] = b"\xff" * ((1 << places.shift) // 8)
        self.mark_events_pending()

    def take_info(self, mfn: int, offset: int) -> None:
        """From now on that is the vcpu_info, with what it holds."""
        self.info_mfn, self.info_offset = mfn, offset
        self._place_info(self.hypervisor.memory.view(mfn)[offset:offset + xen.VCPU_INFO_SIZE])
        self.core.set_vcpu_info(mfn, offset)

    # --- events ------------------------------------------------------------------------------------------------------
    def mark_events_pending(self) -> None:
        """vcpu_mark_events_pending(): set evtchn_upcall_pending and see to it that the vcpu notices."""
        if not self.info.test_and_set_bit(_UPCALL_PENDING):
            self.kick()

    @property
    def needs_delivery(self) -> bool:
        """local_events_need_delivery()."""
        return bool(self.info_view[0]) and not self.info_view[_MASK]

    def kick(self) -> None:
        """Wake the vcpu if it is blocked, and have it look for events if it runs.  The lock is held."""
        if self.blocked:
            self.wake()
        if self.core is not None:
            self.core.kick(REQ_EVENT)

    def wake(self) -> None:
        """The vcpu is no longer blocked."""
        with self.hypervisor.lock:
            if self.blocked:
                self.blocked = False
                if self.polling is not None:
                    self.polling = None
                    self.poll_deadline = NEVER
                    self.domain.pollers -= 1
                self.set_runstate(abi.RUNSTATE_runnable if self.online else abi.RUNSTATE_offline)
            self.hypervisor.scheduler.wake(self)

    def block(self) -> None:
        """SCHEDOP_block: unmask events and wait for one, unless it is there already."""
        with self.hypervisor.lock:
            self.info_view[_MASK] = 0
            if self.info_view[0]:
                self.core.kick(REQ_EVENT)
                return
            self._set_blocked()

    def poll(self, ports: frozenset[int], deadline: int) -> None:
        """SCHEDOP_poll, once the ports have been found not pending."""
        self.polling = ports
        self.poll_deadline = deadline
        self.domain.pollers += 1
        self._set_blocked()

    def _set_blocked(self) -> None:
        self.blocked = True
        self.set_runstate(abi.RUNSTATE_blocked)

    def give_way(self) -> None:
        """SCHEDOP_yield that the core has not answered."""

    def stop(self) -> None:
        """Have the vcpu leave the core as soon as it can, and its thread look at what it may do."""
        if self.core is not None:
            self.core.kick(REQ_STOP)
        self.hypervisor.scheduler.wake(self)

    @property
    def runnable(self) -> bool:
        return self.online and not self.blocked and self.domain.may_run

    def send_nmi(self) -> None:
        self.core.send_nmi()
        self.wake()

    # --- up and down -------------------------------------------------------------------------------------------------
    context_size = abi.vcpu_guest_context.size

    def set_context(self, context: bytes) -> None:
        """Load a struct vcpu_guest_context; XenError when it is not valid."""
        set_info_guest(self, context)
        self.initialised = True
        self.set_period(self.period)

    def bring_up(self) -> None:
        with self.hypervisor.lock:
            if not self.online:
                self.online = True
                self.set_runstate(abi.RUNSTATE_runnable)
                self.hypervisor.scheduler.add(self)
                self.wake()

    def take_down(self) -> None:
        with self.hypervisor.lock:
            if self.online:
                self.online = False
                self.set_runstate(abi.RUNSTATE_offline)
                self.stop()

    def destroy(self) -> None:
        """The domain is dying: give back page tables and GDT."""
        self.online = False
        core, self.core = self.core, None
        if core is not None:
            self.domain.count(core)
            core.release()
        self.hypervisor.scheduler.wake(self)        # its thread ends

    # --- time --------------------------------------------------------------------------------------------------------
    def deadline(self) -> int:
        """When something of this vcpu is due next while it is blocked.  The ticker rests while a vcpu is blocked, as in
        Xen.
        """
        timer = self.core.timer_deadline
        return min(self.poll_deadline, NEVER if timer is None else timer)

    def fire_timers(self, now: int) -> None:
        """Do what is due.  The lock is held."""
        timer = self.core.timer_deadline
        if timer is not None and timer <= now:
            self.core.timer_deadline = None
            self.domain.evtchn.send_virq(xen.VIRQ_TIMER, self.vcpu_id)
        if self.poll_deadline <= now:
            self.wake()

    def tick(self, now: int) -> None:
        """The periodic timer, looked at whenever the vcpu is about to run."""
        if self.next_tick <= now:
            with self.hypervisor.lock:
                self.next_tick = now + self.period
                self.domain.evtchn.send_virq(xen.VIRQ_TIMER, self.vcpu_id)

    def set_period(self, period: int) -> None:
        """VCPUOP_set_periodic_timer; 0 stops it."""
        self.period = period
        self.next_tick = self.hypervisor.clock.now() + period if period else NEVER

    def set_runstate(self, state: int) -> None:
        now = self.hypervisor.clock.now()
        if state != self.runstate:
            self.runstate_times[self.runstate] += now - self.runstate_entry
            self.runstate, self.runstate_entry = state, now
            self.runstate_dirty = bool(self.runstate_area)

    def runstate_info(self, layout: Layout = abi.runstate_info) -> bytes:
        """struct vcpu_runstate_info as of now."""
        times = list(self.runstate_times)
        times[self.runstate] += self.hypervisor.clock.now() - self.runstate_entry
        return layout.pack(state=self.runstate, state_entry_time=self.runstate_entry, time=times)

    def update_runstate_area(self) -> None:
        """Copy the runstate to where the guest wants it (update_runstate_area()); a bad address is the guest's own
        loss.
        """
        self.runstate_dirty = False
        data = self.runstate_layout.pack(
            state=self.runstate, state_entry_time=self.runstate_entry, time=self.runstate_times
        )
        try:
            if self.domain.vm_assist >> xen.VMASST_TYPE_runstate_update_flag & 1:
                self._update_flagged(data)
            else:
                self.core.copy_to_guest(self.runstate_area, data)
        except GuestFault:
            pass

    def _update_flagged(self, data: bytes) -> None:
        """With XEN_RUNSTATE_UPDATE set in state_entry_time while the rest is written."""
        entry = self.runstate_layout.offset["state_entry_time"]
        at = self.runstate_area + entry
        self.core.copy_to_guest(at, (self.runstate_entry | abi.XEN_RUNSTATE_UPDATE).to_bytes(8, "little"))
        self.core.copy_to_guest(self.runstate_area, data[:4])
        self.core.copy_to_guest(at + 8, data[entry + 8:])
        self.core.copy_to_guest(at, data[entry:entry + 8])

    def register_time_area(self, address: int) -> None:
        """VCPUOP_register_vcpu_time_memory_area: the values never change, so writing them once is enough."""
        self.core.copy_to_guest(address, time_info())

    def preempted(self) -> None:
        """Another vcpu gets the processor."""
        if self.runstate == abi.RUNSTATE_running:
            self.set_runstate(abi.RUNSTATE_runnable)

    # --- running -----------------------------------------------------------------------------------------------------
    def run_slice(self, budget: int) -> int:
        """Run the guest until it needs something, see to that, and return what it was."""
        if self.next_tick != NEVER:
            self.tick(self.hypervisor.clock.now())
        if self.runstate != abi.RUNSTATE_running:
            self.set_runstate(abi.RUNSTATE_running)
        if self.runstate_dirty:
            self.update_runstate_area()
        reason = self.core.run(budget)
        if self.hypervisor.profiler is None:
            self._answer(reason)
        else:
            self.hypervisor.profiler.timed(self, reason, self._answer)
        return reason

    def _answer(self, reason: int) -> None:
        if reason != EXIT_HYPERCALL:
            self.log_unknown()
        if reason == EXIT_HYPERCALL:
            hypercall.dispatch(self)
        elif reason == EXIT_HLT:
            self.block()
        elif reason == EXIT_TIMER:
            with self.hypervisor.lock:
                self.fire_timers(self.hypervisor.clock.now())
        elif reason not in (EXIT_BUDGET, EXIT_STOP):
            self._odd_exit(reason)

    def log_unknown(self) -> None:
        """What the guest asked for since last time that the core does not have, once each."""
        for kind, value in self.core.unknown():
            if kind == "instruction":
                code = value.to_bytes(8, "little").hex(" ")
                self.domain.log_once((kind, value), "#UD for an instruction that is not known here: %s", code)
            else:       # a kernel tries registers of every processor there is: no reason to warn
                self.domain.log_once((kind, value), "%s %#x is not known here", kind, value, level=logging.INFO)

    def _odd_exit(self, reason: int) -> None:
        core = self.core
        if reason == EXIT_CRASH:
            self.domain.crash(core.crash_text(), self)
        else:
            self.domain.crash(f"unexpected exit {reason} of the core", self)

    def dump(self) -> list[str]:
        """Its registers, as lines to be read."""
        return [f"vcpu {self.vcpu_id}:", *format_registers(self.core.registers() if self.core is not None else {})]


_DUMP = (
    ("rip", "rsp", "rflags"), ("rax", "rbx", "rcx"), ("rdx", "rsi", "rdi"), ("rbp", "r8", "r9"), ("r10", "r11", "r12"),
    ("r13", "r14", "r15"), ("cr0", "cr2", "cr3"), ("cr4", "fs_base", "gs_base"),
    ("gs_base_user", "gs_base_kernel", "kernel_sp"),
    ("cs", "ss", "ds", "es", "fs", "gs"),
)


def format_registers(registers: dict[str, Any]) -> list[str]:
    """A register dump as Xen lays one out: three to a line, selectors last, then whatever else the core tells."""
    left = dict(registers)
    lines = []
    for names in _DUMP:
        width = 4 if len(names) == 6 else 16
        have = [f"{name}: {left.pop(name):0{width}x}" for name in names if isinstance(left.get(name), int)]
        if have:
            lines.append("   ".join(have))
    lines += [f"{name}: {value:#x}" if isinstance(value, int) else f"{name}: {value}" for name, value in left.items()]
    return lines
