"""A vcpu of a domain with a p2m: what the core leaves run() for is answered with the domain's buses, chips and hypercalls.

Follows xen/arch/x86/hvm/hvm.c.  Such a vcpu sleeps in HLT until an interrupt; HLT with interrupts off takes it down, and the last
one to go down takes the domain with it, as under Xen.  Application processors are down until a SIPI, or until VCPUOP_up.
"""

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from xenfast import _core
from xenfast._core import ExitReason
from xenfast.abi import sched, xen
from xenfast.abi.hvm import hvm_vcpu as abi
from xenfast.xen import vcpu as base
from xenfast.xen.hvm import msr
from xenfast.xen.hvm.context import set_hvm_context
from xenfast.xen.time import NEVER

if TYPE_CHECKING:
    from xenfast.xen.domain import Domain

PIO, MMIO = ExitReason.EXIT_PIO, ExitReason.EXIT_MMIO
QUICK = frozenset({PIO, MMIO, ExitReason.EXIT_EOI, ExitReason.EXIT_INTACK})     # after these the guest goes on at once
RFLAGS_IF = 1 << 9
WAIT_SIPI = 2           # cpu/lapic_bus.pxi
GP = 13                 # its vector
EFER_LMA, CS_L = 1 << 10, 1 << 13


class HvmVcpu(base.Vcpu):
    """struct hvm_vcpu.  ``core`` is a ``_core.HvmVcpu``."""

    core: _core.HvmVcpu

    def __init__(self, domain: "Domain", vcpu_id: int) -> None:
        self.hvm: Any = domain.hvm
        super().__init__(domain, vcpu_id)
        self.yielding = False           # SCHEDOP_yield

    def new_core(self) -> _core.HvmVcpu:
        hypervisor = self.hypervisor
        return _core.HvmVcpu(
            hypervisor.memory, self.hvm.physmap, hypervisor.clock.core, apics=self.hvm.apics, apic_id=2 * self.vcpu_id,
            vcpu_id=self.vcpu_id, domid=self.domain.domid,
        )  # fmt: skip

    @property
    def threads(self) -> int:
        """APIC IDs are even, as under Xen: room for twice as many."""
        return 2 * self.domain.vcpu_count

    # --- sleep and wakening ------------------------------------------------------------------------------------------
    def look(self) -> None:
        """Something may have come for it: if it sleeps, or waits for SIPI, and that ends it, have it run.  The lock is held."""
        if self.core is None:
            return
        if self.blocked and self.core.awake:
            self.wake()
        elif not self.online and self.core.awake:
            self.initialised = True
            self.bring_up()

    def kick(self) -> None:
        """An event channel has been raised.  The lock is held."""
        if self.core is None:
            return
        if self.core.upcall_vector:
            self.core.lapic_irq(self.core.upcall_vector)
        elif self.core.callback_vector:
            self.core.upcall()
        elif self.vcpu_id == 0:
            self.hvm.raise_callback()
        self.look()

    def send_nmi(self) -> None:
        with self.hypervisor.lock:
            self.core.nmi()
            self.look()

    def _halt(self) -> None:
        """EXIT_HLT: nothing to do until an interrupt; or for ever."""
        with self.hypervisor.lock:
            if self.core.awake:             # something came in between
                return
            if self.core.halted == WAIT_SIPI:
                self.take_down()
            elif not self.core.rflags & RFLAGS_IF:
                self._down()
            else:
                self._set_blocked()

    def _down(self) -> None:
        """hvm_vcpu_down()."""
        if any(other.online for other in self.domain.vcpus if other is not self):
            self.take_down()
        else:
            self.domain.shutdown(sched.SHUTDOWN_poweroff)

    def block(self) -> None:
        """SCHEDOP_block: until an event."""
        with self.hypervisor.lock:
            if not self.info_view[0]:
                self._set_blocked()

    def give_way(self) -> None:
        self.yielding = True

    @property
    def needs_delivery(self) -> bool:
        return bool(self.info_view[0]) and bool(self.core.rflags & RFLAGS_IF)

    # --- up and down -------------------------------------------------------------------------------------------------
    context_size = abi.vcpu_hvm_context.size

    def set_context(self, context: bytes) -> None:
        """Load a struct vcpu_hvm_context; XenError when it is not valid."""
        set_hvm_context(self.core, context)
        self.initialised = True

    def bring_up(self) -> None:
        if self.core.halted == WAIT_SIPI and not self.core.awake:
            self.core.start()               # VCPUOP_up
        super().bring_up()

    # --- time --------------------------------------------------------------------------------------------------------
    def deadline(self) -> int:
        lapic = self.core.lapic_deadline
        return min(super().deadline(), NEVER if lapic is None else lapic)

    def fire_timers(self, now: int) -> None:
        super().fire_timers(now)
        lapic = self.core.lapic_deadline
        if lapic is not None and lapic <= now and self.blocked:
            self.wake()                     # the core raises the interrupt, and sleeps again if it is masked

    # --- running -----------------------------------------------------------------------------------------------------
    def run_slice(self, budget: int) -> int:
        """In real time go on at once after what takes no time: a thread's turn costs more than a register of a device."""
        self.hvm.lower_callback()
        reason = super().run_slice(budget)
        if self.yielding:
            self.yielding = False
            return ExitReason.EXIT_BUDGET
        if not self.hypervisor.clock.is_virtual:
            while reason in QUICK and self.runnable:
                reason = super().run_slice(budget)
        return reason

    def _answer(self, reason: int) -> None:
        answer = ANSWERS.get(reason)
        if answer is None:
            super()._answer(reason)
            return
        with self.hypervisor.lock:
            self.hvm.current = self
            answer(self)

    def _pio(self) -> None:
        core, ports = self.core, self.hvm.ports
        port, size = core.exit_port, core.exit_size
        if core.exit_is_write:
            if core.exit_count == 1:
                ports.write(port, size, core.exit_value)
            else:
                ports.write_block(port, size, core.pio_data())
        elif core.exit_count == 1:
            core.pio_return(ports.read(port, size))
        else:
            try:
                core.pio_store(ports.read_block(port, size, core.exit_count))
            except _core.GuestFault:        # the memory is gone meanwhile
                pass

    def _mmio(self) -> None:
        core, mmio = self.core, self.hvm.mmio
        address = core.exit_address
        if not core.exit_is_write:
            core.mmio_return(mmio.read(address, core.exit_size))
            return
        if not self.hvm.physmap.is_readonly(address >> 12) or mmio.find(address) is not None:
            mmio.write(address, core.exit_size, core.exit_value)
        core.mmio_return()

    def _intack(self) -> None:
        """INTR is taken: the PICs say which interrupt it is."""
        vector = self.hvm.intack(self)
        if vector is None:
            self.core.lint(0, False)
        else:
            self.core.interrupt(vector)

    def _eoi(self) -> None:
        self.hvm.lower_callback()
        self.hvm.eoi(self.core.exit_nr)

    def _wake_others(self) -> None:
        self.hvm.look_all()

    def _wrmsr(self) -> None:
        msr.write(self, self.core.exit_nr, self.core.exit_value)

    def latch_width(self) -> None:
        """What the vcpu runs just now says how wide the guest's words are (hvm_latch_shinfo_size)."""
        wide = self.core.efer & EFER_LMA and self.core.segment("cs")[3] & CS_L
        self.domain.set_shared_places(xen.SHARED_64 if wide else xen.SHARED_32)

    def refuse(self) -> None:
        """#GP for the instruction of an EXIT_MSR."""
        reason = self.core.fault(GP, 0)
        if reason != ExitReason.EXIT_NONE:
            self._answer(reason)

    def _triple_fault(self) -> None:
        self.hvm.triple_fault(self)

    def _odd_exit(self, reason: int) -> None:
        if reason == ExitReason.EXIT_EXCEPTION:     # an exception with an empty IDT
            with self.hypervisor.lock:
                self.hvm.triple_fault(self)
        else:
            super()._odd_exit(reason)

    def log_unknown(self) -> None:
        for kind, value in self.core.unknown():
            self.domain.log_once((kind, value), "%s %#x is not known here", kind, value, level=logging.INFO)


ANSWERS: dict[int, Callable[[HvmVcpu], None]] = {
    ExitReason.EXIT_PIO: HvmVcpu._pio,
    ExitReason.EXIT_MMIO: HvmVcpu._mmio,
    ExitReason.EXIT_HLT: HvmVcpu._halt,
    ExitReason.EXIT_INTACK: HvmVcpu._intack,
    ExitReason.EXIT_EOI: HvmVcpu._eoi,
    ExitReason.EXIT_WAKE: HvmVcpu._wake_others,
    ExitReason.EXIT_MSR: HvmVcpu._wrmsr,
    ExitReason.EXIT_SHUTDOWN: HvmVcpu._triple_fault,
}
