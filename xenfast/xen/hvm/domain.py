"""What a domain with a p2m (HVM, PVH) has: its physical memory, buses, interrupt lines, parameters; how it ends.

Follows struct hvm_domain of xen/arch/x86/include/asm/hvm/domain.h.  The memory map is Xen's: RAM from 0 with a hole for the
legacy VGA, the MMIO hole from F0000000h to 4 GiB, the rest of the RAM behind it; pages that Xen's toolstack shares with the
guest below FF000000h (tools/libs/guest/xg_dom_x86.c).

Chips and devices are wired to it by whoever makes the machine: it knows buses, lines and hooks only.
"""

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from xenfast import _core
from xenfast.abi import sched
from xenfast.abi.hvm import params
from xenfast.xen.hvm import bus, callback
from xenfast.xen.hvm.physmem import PhysMem
from xenfast.xen.hvm.timers import Timers

if TYPE_CHECKING:
    from xenfast.xen.domain import Domain
    from xenfast.xen.hvm.vcpu import HvmVcpu

PAGE = 4096
VGA_HOLE = range(0xA0, 0xC0)            # frames of the legacy VGA and its memory
MMIO_HOLE = 0xF0000                     # first frame of the hole below 4 GiB
FOUR_GIB = 0x100000                     # frames
SLACK = 1 << 18                         # frames beyond RAM that can be mapped: memory BARs, grants, foreign pages

# Pages of the toolstack's, downward from FF000h (SPECIALPAGE_*).
SPECIAL_FIRST, SPECIAL_PAGES = 0xFF000 - 8, 8
GFN_STORE, GFN_IDENT_PT, GFN_CONSOLE = SPECIAL_FIRST + 4, SPECIAL_FIRST + 6, SPECIAL_FIRST + 7


class Apics(_core.ApicBus):
    """The local APICs; a message to one that sleeps also has it run."""

    def __init__(self, hvm: "HvmDomain") -> None:
        self.hvm = hvm

    def send(self, dest: int, vector: int, mode: int = 0, logical: bool = False, level: bool = False,
             extended: bool = False) -> bool:
        """As of an I/O APIC, with the lock held."""
        asleep = super().send(dest, vector, mode, logical, level, extended)
        if asleep:
            self.hvm.look_all()
        return asleep


class HvmDomain:
    """``domain.hvm``."""

    def __init__(self, domain: "Domain", kind: str, max_pages: int) -> None:
        hypervisor = domain.hypervisor
        self.domain, self.kind = domain, kind
        self.physmap = _core.GuestPhysMap(FOUR_GIB + max_pages + SLACK)
        self.physmem = PhysMem(hypervisor.memory, self.physmap)
        self.ports = bus.ports()
        self.mmio = bus.memory()
        self.ports.unclaimed = self._no_port
        self.mmio.unclaimed = self._no_memory
        self.apics = Apics(self)
        self.timers = Timers(hypervisor.loop, hypervisor.lock)
        self.params = [0] * params.HVM_NR_PARAMS
        self.params[params.HVM_PARAM_TRIPLE_FAULT_REASON] = sched.SHUTDOWN_reboot
        self.current: HvmVcpu = None        # type: ignore[assignment]      # whose access is being answered
        self.low_pages = self.high_pages = 0        # RAM below and above 4 GiB, the end of it in frames
        self.foreign: set[int] = set()      # guest frames that are mapped grants
        self.callback_via = callback.NOWHERE        # where upcalls go that have no vector of their own
        self.callback_high = False          # that line is high
        # What chips hang themselves into:
        self.gsi_sinks: list[Callable[[int, bool], None]] = []      # of the I/O APIC and the PICs
        self.intack: Callable[[HvmVcpu], int | None] = lambda _vcpu: None   # the PICs' answer to INTA
        self.eoi: Callable[[int], None] = lambda _vector: None      # a level-triggered vector has ended at a local APIC
        self.pci_intx: Callable[[int, int, bool], None] = lambda _device, _pin, _level: None    # a slot's INTA (0) to INTD

    # --- memory ------------------------------------------------------------------------------------------------------
    def populate(self, gfn: int, count: int, *, readonly: bool = False) -> Any:
        """New zeroed memory of the domain at these guest frames; the machine frames.  MemoryError beyond max_pages."""
        mfns = self.domain.alloc_pages(count)
        self.place(gfn, mfns, readonly=readonly)
        return mfns

    def place(self, gfn: int, mfns: Any, *, readonly: bool = False) -> None:
        """Map frames that the domain has, such as video memory, at guest frames.  Read-only memory is ROM, for DMA as well."""
        self.physmap.set(gfn, mfns, readonly)
        self.domain.hypervisor.memory.m2p[mfns] = range(gfn, gfn + len(mfns))

    def remove(self, gfn: int, count: int = 1) -> None:
        """Take frames out of the map; they stay the domain's."""
        self.physmap.clear(gfn, count)

    def map_foreign(self, gfn: int, mfn: int, readonly: bool) -> bool:
        """A frame of another domain, which the caller holds, takes a place in the map; what was there is no longer mapped."""
        if gfn >= self.physmap.max_gfn or gfn in self.foreign:
            return False
        self.physmap.set(gfn, [mfn], readonly)
        self.foreign.add(gfn)
        return True

    def unmap_foreign(self, gfn: int) -> None:
        self.foreign.discard(gfn)
        self.physmap.clear(gfn)

    def populate_ram(self, pages: int) -> None:
        """The RAM of a machine with so much memory.  A PC's has the hole of the legacy VGA, which is not used for anything."""
        self.low_pages = min(pages, MMIO_HOLE)
        self.high_pages = pages - self.low_pages
        below = self.low_pages if self.kind == "pvh" else min(self.low_pages, VGA_HOLE.start)
        self.populate(0, below)
        if self.kind != "pvh" and self.low_pages > VGA_HOLE.stop:
            self.populate(VGA_HOLE.stop, self.low_pages - VGA_HOLE.stop)
        if self.high_pages:
            self.populate(FOUR_GIB, self.high_pages)

    def rom(self, address: int, data: bytes) -> None:
        """A ROM at a physical address, a multiple of 4 KiB, in place of what was there."""
        if address % PAGE:
            raise ValueError(f"a ROM at {address:#x} does not begin at a page")
        data = data.ljust(-(-len(data) // PAGE) * PAGE, b"\xff")
        memory = self.domain.hypervisor.memory
        for i in range(len(data) // PAGE):
            gfn = (address >> 12) + i
            mfn = self.physmap.get(gfn)
            if mfn is None:
                mfn = int(self.domain.alloc_pages(1)[0])
            memory.view(mfn)[:] = data[i * PAGE:(i + 1) * PAGE]
            memory.wrote(mfn)
            self.place(gfn, [mfn], readonly=True)

    def alias(self, address: int, of: int, size: int) -> None:
        """The same read-only memory at a second address: the top of a BIOS below 4 GiB."""
        for i in range(size // PAGE):
            mfn = self.physmap.get((of >> 12) + i)
            if mfn is None:
                raise ValueError(f"there is no memory at {of + i * PAGE:#x}")
            self.physmap.set((address >> 12) + i, [mfn], readonly=True)

    # --- interrupts --------------------------------------------------------------------------------------------------
    def gsi(self, n: int, level: object) -> None:
        """A pin of the I/O APIC, and below 16 of the PICs."""
        for sink in self.gsi_sinks:
            sink(n, bool(level))

    def intr(self, level: object) -> None:
        """INTR, the output of the PICs: to the vcpu whose LINT0 takes it, the first one if none does."""
        vcpus: Any = self.domain.vcpus
        if not level:
            for vcpu in vcpus:
                if vcpu.core is not None:
                    vcpu.core.lint(0, False)
            return
        target = next((v for v in vcpus if v.core is not None and v.core.takes_extint), vcpus[0])
        if target.core is not None:
            target.core.lint(0, True)
            target.look()

    def msi(self, address: int, data: int) -> None:
        """A message signalled interrupt (SDM Vol. 3, 10.11)."""
        if address >> 20 != 0xFEE:
            return
        self.apics.send(address >> 12 & 0xFF, data & 0xFF, data >> 8 & 7, bool(address >> 2 & 1), bool(data >> 15 & 1))

    def set_callback(self, via: int) -> None:
        """HVM_PARAM_CALLBACK_IRQ."""
        self.lower_callback(always=True)
        self.callback_via = callback.parse(via)
        vector = self.callback_via.number if self.callback_via.kind == callback.VECTOR else 0
        for vcpu in self.domain.vcpus:
            vcpu.core.callback_vector = vector
        self.raise_callback()

    def raise_callback(self) -> None:
        """The line is high while vcpu 0 has an upcall pending (hvm_set_callback_irq_level)."""
        if not self.callback_high and self.callback_via.is_line and self.domain.vcpus[0].info_view[0]:
            self.callback_high = True
            self._callback_level(True)

    def lower_callback(self, always: bool = False) -> None:
        if self.callback_high and (always or not self.domain.vcpus[0].info_view[0]):
            self.callback_high = False
            self._callback_level(False)

    def _callback_level(self, level: bool) -> None:
        via = self.callback_via
        if via.kind == callback.GSI:
            self.gsi(via.number, level)
        else:
            self.pci_intx(via.number, via.pin, level)

    def look_all(self) -> None:
        """Have every vcpu run that something has come for."""
        for vcpu in self.domain.vcpus:
            vcpu.look()                     # type: ignore[attr-defined]

    # --- the end -----------------------------------------------------------------------------------------------------
    def reset(self) -> None:
        """The machine is to start anew: the toolstack builds the domain again, as under Xen."""
        self.domain.shutdown(sched.SHUTDOWN_reboot)

    def power_off(self) -> None:
        self.domain.shutdown(sched.SHUTDOWN_poweroff)

    def triple_fault(self, vcpu: "HvmVcpu") -> None:
        """A shutdown of the processor is a reset, or what the builder has put into HVM_PARAM_TRIPLE_FAULT_REASON."""
        reason = self.params[params.HVM_PARAM_TRIPLE_FAULT_REASON]
        lines = "\n".join(vcpu.dump())
        who = f"d{self.domain.domid}v{vcpu.vcpu_id}"
        self.domain.hypervisor.console.printk(f"{who} Triple fault - invoking HVM shutdown action {reason}\n{lines}")
        if reason == sched.SHUTDOWN_crash:
            self.domain.crash("triple fault", vcpu)
        else:
            self.domain.shutdown(reason)

    # --- what nobody answers -----------------------------------------------------------------------------------------
    def _no_port(self, port: int, size: int, is_write: bool, value: int) -> None:
        what = f"port {port:#x}, {size} bytes"
        self._unclaimed(("port", port, is_write), what, is_write, value)

    def _no_memory(self, address: int, size: int, is_write: bool, value: int) -> None:
        what = f"physical address {address:#x}, {size} bytes"
        self._unclaimed(("mmio", address >> 12, is_write), what, is_write, value)

    def _unclaimed(self, key: Any, what: str, is_write: bool, value: int) -> None:
        text = "write of %#x to %s: nobody answers" if is_write else "read of %s: nobody answers"
        self.domain.log_once(key, text, *((value, what) if is_write else (what,)), level=logging.INFO)
