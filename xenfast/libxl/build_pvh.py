"""The domain builder for PVH: a kernel entered in 32-bit mode without paging, hvm_start_info, ACPI tables, no firmware.

Specified in docs/misc/pvh.pandoc of Xen and xen/include/public/arch-x86/hvm/start_info.h; follows tools/libs/guest/xg_dom_x86.c
(bootlate_hvm, alloc_magic_pages_hvm).  The kernel's segments go to their physical addresses, behind them, each from a new page,
the modules and start_info with all it points to; ACPI tables are at FC001000h, the pages of console and store below FF000000h.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from xenfast.abi.hvm import params, start_info
from xenfast.errors import XenfastError
from xenfast.firmware import e820
from xenfast.firmware.acpi import build as acpi
from xenfast.firmware.acpi import machine
from xenfast.libxl.build import GNTTAB_RESERVED_CONSOLE, GNTTAB_RESERVED_XENSTORE
from xenfast.libxl.kernel import PAGE, PvhKernel
from xenfast.libxl.pvlayout import pages
from xenfast.xen import hvm_op
from xenfast.xen.hvm.domain import GFN_CONSOLE, GFN_STORE, SPECIAL_FIRST, SPECIAL_PAGES

if TYPE_CHECKING:
    from xenfast.xen.domain import Domain
    from xenfast.xen.hvm.domain import HvmDomain

CODE32, DATA32, TSS32 = 0xC09B, 0xC093, 0x8B
CR0_PE, CR0_ET = 1, 1 << 4
TSS_LIMIT = 0x67


@dataclass(frozen=True)
class Built:
    """What the toolstack must know of a domain that has been built."""

    store_mfn: int
    store_port: int
    console_mfn: int
    console_port: int
    store_frame: int = GFN_STORE
    console_frame: int = GFN_CONSOLE


def build_pvh(domain: Domain, image: PvhKernel, ramdisk: bytes = b"", cmdline: str = "", memory_mib: int = 0) -> Built:
    """Fill a new domain's memory from a kernel and an initial ramdisk, and make its vcpu 0 ready to run."""
    hvm: Any = domain.hvm
    try:
        hvm.populate_ram(memory_mib << 8 if memory_mib else domain.max_pages)
        built = special_pages(domain)
        tables = acpi.build(machine.Machine(kind="pvh", vcpus=domain.vcpu_count))
        rsdp, end = tables.end, tables.end + len(tables.rsdp)
        hvm.place(e820.RESERVED_MEMORY // PAGE, domain.alloc_pages(pages(end - e820.RESERVED_MEMORY), beyond=True))
    except MemoryError as error:
        raise XenfastError(f"the domain's memory cannot be had: {error}") from None
    if image.end > hvm.low_pages * PAGE:
        raise XenfastError(f"the kernel needs memory up to {image.end:#x}, the domain has {hvm.low_pages * PAGE:#x} bytes")
    for segment in image.image.load_segments():
        hvm.physmem.write(segment.paddr, image.image.contents(segment))
    hvm.physmem.write(machine.TABLES, tables.data + tables.rsdp)        # not in RAM, where a boot loader would overwrite it
    ranges = e820.pvh(hvm.low_pages * PAGE, (1 << 32) + hvm.high_pages * PAGE if hvm.high_pages else 0, tables_end=end)
    domain.e820 = [(one.start, one.size, one.type) for one in ranges]
    start = _start_info(hvm, image, ramdisk, cmdline, rsdp, domain.e820)
    _start_vcpu(domain.vcpus[0].core, image.entry, start)
    domain.start_hvm()
    return built


def special_pages(domain: Domain) -> Built:
    """The pages that the toolstack shares with the guest, and the parameters that say where; not part of its RAM."""
    hvm: Any = domain.hvm
    mfns = domain.alloc_pages(SPECIAL_PAGES, beyond=True)
    hvm.place(SPECIAL_FIRST, mfns)
    built = Built(
        store_mfn=int(mfns[GFN_STORE - SPECIAL_FIRST]),
        store_port=domain.evtchn.alloc_unbound(0),
        console_mfn=int(mfns[GFN_CONSOLE - SPECIAL_FIRST]),
        console_port=domain.evtchn.alloc_unbound(0),
    )
    for index, value in (
        (params.HVM_PARAM_STORE_PFN, GFN_STORE),
        (params.HVM_PARAM_STORE_EVTCHN, built.store_port),
        (params.HVM_PARAM_CONSOLE_PFN, GFN_CONSOLE),
        (params.HVM_PARAM_CONSOLE_EVTCHN, built.console_port),
        (params.HVM_PARAM_PAE_ENABLED, 1),
    ):
        hvm_op.set_param(domain, index, value)
    domain.gnttab.seed(GNTTAB_RESERVED_CONSOLE, GFN_CONSOLE, 0)
    domain.gnttab.seed(GNTTAB_RESERVED_XENSTORE, GFN_STORE, 0)
    return built


class _Room:
    """Memory behind the kernel, handed out upward."""

    def __init__(self, hvm: HvmDomain, start: int) -> None:
        self.hvm, self.at, self.end = hvm, start, hvm.low_pages * PAGE

    def put(self, data: bytes, align: int = 8) -> int:
        """Write it; the address."""
        at = -(-self.at // align) * align
        self.at = at + len(data)
        if self.at > self.end:
            raise XenfastError(f"kernel and ramdisk need {self.at} bytes of memory, the domain has {self.end} below 4 GiB")
        self.hvm.physmem.write(at, data)
        return at


def _start_info(hvm: HvmDomain, image: PvhKernel, ramdisk: bytes, cmdline: str, rsdp: int,
                ranges: list[tuple[int, int, int]]) -> int:
    """Modules, command line, memory map and struct hvm_start_info; returns where the last is."""
    room = _Room(hvm, image.end)
    modules = b""
    if ramdisk:
        at = room.put(ramdisk, PAGE)
        modules = start_info.hvm_modlist_entry.pack(paddr=at, size=len(ramdisk))
    cmdline_at = room.put(cmdline.encode() + b"\0", PAGE)
    modules_at = room.put(modules) if modules else 0
    entries = b"".join(start_info.hvm_memmap_table_entry.pack(addr=a, size=size, type=kind) for a, size, kind in ranges)
    memmap_at = room.put(entries)
    return room.put(start_info.hvm_start_info.pack(
        magic=start_info.XEN_HVM_START_MAGIC_VALUE, version=1, nr_modules=1 if modules else 0, modlist_paddr=modules_at,
        cmdline_paddr=cmdline_at, rsdp_paddr=rsdp, memmap_paddr=memmap_at, memmap_entries=len(ranges)))


def _start_vcpu(core: Any, entry: int, start: int) -> None:
    """32-bit protected mode, flat, no paging; EBX has the address of start_info."""
    core.cr0 = CR0_PE | CR0_ET
    core.set_segment("cs", 0, 0, 0xFFFFFFFF, CODE32)
    for name in ("ds", "es", "ss"):
        core.set_segment(name, 0, 0, 0xFFFFFFFF, DATA32)
    core.set_segment("tr", 0, 0, TSS_LIMIT, TSS32)
    core.rflags = 2
    core.rbx = start
    core.rip = entry
