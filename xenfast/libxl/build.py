"""The domain builder: make a PV domain's first memory contents and its first vcpu's registers.

Follows tools/libs/guest (xg_dom_*.c): kernel.py reads the kernel, pvlayout.py says where everything lies, and this
module fills the frames, the p2m list, the M2P, start_info and the page tables, pins the L4 and sets vcpu 0 off.  The
kernel's entry conditions are those of xen/include/public/xen.h and arch-x86/xen.h ("start of day").  Other guest
types are left out until they exist.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from xenfast.abi import start_info, vcpu, xen
from xenfast.errors import XenfastError
from xenfast.libxl import pvlayout
from xenfast.libxl.kernel import PvKernel
from xenfast.libxl.pvlayout import PAGE, SHIFT, PvLayout, pages

if TYPE_CHECKING:
    from xenfast.xen.domain import Domain

E820_RAM = 1
GTF_PERMIT_ACCESS = 1
GNTTAB_RESERVED_CONSOLE, GNTTAB_RESERVED_XENSTORE = 0, 1
RFLAGS_IF = 1 << 9

# What a hypercall page holds for each number: push rcx; push r11; mov eax, NR; syscall; pop r11; pop rcx; ret
STUB = bytes.fromhex("51 41 53 b8"), bytes.fromhex("0f 05 41 5b 59 c3")
# iret does not return, and leaves RAX on the stack where Xen expects it: push rcx; push r11; push rax; mov eax, NR;
# syscall
STUB_IRET = bytes.fromhex("51 41 53 50 b8"), bytes.fromhex("0f 05")
STUB_SIZE = 32


@dataclass(frozen=True)
class Built:
    """What the toolstack must know of a domain that has been built."""

    layout: PvLayout
    store_mfn: int
    store_port: int
    console_mfn: int
    console_port: int

    @property
    def store_frame(self) -> int:
        """As the guest calls it."""
        return self.store_mfn

    @property
    def console_frame(self) -> int:
        return self.console_mfn


class Frames:
    """The domain's memory as the builder sees it: pseudo-physical frames over machine frames."""

    def __init__(self, domain: Domain, nr_pages: int) -> None:
        self.memory = domain.hypervisor.memory
        try:
            self.p2m: np.ndarray = domain.alloc_pages(nr_pages, contiguous=True)
        except MemoryError:
            try:
                self.p2m = domain.alloc_pages(nr_pages)
            except MemoryError as error:
                raise XenfastError(f"the domain's memory cannot be had: {error}") from None
        self.memory.m2p[self.p2m] = np.arange(nr_pages, dtype=np.uint64)

    def write(self, address: int, data: bytes | memoryview) -> None:
        """Write at a pseudo-physical address, a run of adjacent machine frames at a time."""
        data = memoryview(data).cast("B")
        done = 0
        while done < len(data):
            pfn, offset = address + done >> SHIFT, address + done & PAGE - 1
            count = self._run(pfn, pages(offset + len(data) - done))
            size = min(count * PAGE - offset, len(data) - done)
            mfn = int(self.p2m[pfn])
            self.memory.view(mfn, count)[offset : offset + size] = data[done : done + size]
            done += size

    def _run(self, pfn: int, wanted: int) -> int:
        """How many of the frames from ``pfn`` on are adjacent in machine memory."""
        mfns = self.p2m[pfn : pfn + wanted]
        breaks = np.flatnonzero(np.diff(mfns) != 1)
        return int(breaks[0]) + 1 if len(breaks) else len(mfns)


def build_pv(domain: Domain, image: PvKernel, ramdisk: bytes = b"", cmdline: str = "", memory_mib: int = 0) -> Built:
    """Fill a new domain's memory from a kernel and an initial ramdisk, and make its vcpu 0 ready to run."""
    nr_pages = memory_mib << 8 if memory_mib else domain.max_pages
    layout = pvlayout.plan(image, nr_pages, len(ramdisk))
    frames = Frames(domain, nr_pages)
    _load(frames, image)
    if ramdisk:
        frames.write(layout.initrd_pfn << SHIFT, ramdisk)
    frames.write(layout.p2m_pfn << SHIFT, frames.p2m.astype("<u8", copy=False).tobytes())
    for pfn, entries in pvlayout.page_tables(layout, frames.p2m).items():
        frames.write(pfn << SHIFT, entries.astype("<u8", copy=False).tobytes())
    built = Built(
        layout,
        store_mfn=int(frames.p2m[layout.store_pfn]),
        store_port=domain.evtchn.alloc_unbound(0),
        console_mfn=int(frames.p2m[layout.console_pfn]),
        console_port=domain.evtchn.alloc_unbound(0),
    )
    frames.write(layout.start_info_pfn << SHIFT, _start_info(domain, layout, built, cmdline, frames))
    _prepare_shared(domain, built)
    domain.max_pfn = nr_pages
    domain.e820 = [(0, max(nr_pages, domain.max_pages) << SHIFT, E820_RAM)]     # room for the balloon driver to grow into
    _start_vcpu(domain, image, layout, int(frames.p2m[layout.pt_pfn]))
    return built


def _load(frames: Frames, image: PvKernel) -> None:
    """Copy the segments; memory is zero already, so .bss needs nothing."""
    for segment in image.image.load_segments():
        frames.write(segment.paddr + image.virt_offset - image.virt_base, image.image.contents(segment))
    if image.hypercall_page is not None:
        frames.write(image.hypercall_page - image.virt_base, hypercall_page())


def hypercall_page() -> bytes:
    """The page of stubs: hypercall NR is called at offset NR * 32."""
    page = b""
    for nr in range(PAGE // STUB_SIZE):
        before, after = STUB_IRET if nr == xen.__HYPERVISOR_iret else STUB
        page += (before + struct.pack("<I", nr) + after).ljust(STUB_SIZE, b"\xcc")
    return page


def _start_info(domain: Domain, layout: PvLayout, built: Built, cmdline: str, frames: Frames) -> bytes:
    has_initrd = bool(layout.initrd_size)
    by_pfn = has_initrd and not layout.initrd_is_mapped
    return start_info.pack(
        nr_pages=layout.nr_pages,
        shared_info=domain.shared_info_mfn << SHIFT,
        flags=start_info.SIF_MOD_START_PFN if by_pfn else 0,
        store_mfn=built.store_mfn,
        store_evtchn=built.store_port,
        console_mfn=built.console_mfn,
        console_evtchn=built.console_port,
        pt_base=layout.virt(layout.pt_pfn),
        nr_pt_frames=len(layout.tables),
        mfn_list=layout.p2m_virt,
        mod_start=0 if not has_initrd else layout.initrd_pfn if by_pfn else layout.virt(layout.initrd_pfn),
        mod_len=layout.initrd_size,
        cmd_line=cmdline.encode()[: start_info.MAX_GUEST_CMDLINE - 1],
        first_p2m_pfn=layout.p2m_pfn if layout.p2m_is_apart else 0,
        nr_p2m_frames=layout.nr_p2m_frames if layout.p2m_is_apart else 0,
    )


def _prepare_shared(domain: Domain, built: Built) -> None:
    """Events are masked on every vcpu, and the ring pages granted to domain 0 by their reserved references."""
    for i in range(xen.XEN_LEGACY_MAX_VCPUS):
        domain.shared_info[i * xen.VCPU_INFO_SIZE + xen.vcpu_info.offset["evtchn_upcall_mask"]] = 1
    table = domain.hypervisor.memory.view(domain.gnttab.frames[0])
    struct.pack_into("<HHI", table, 8 * GNTTAB_RESERVED_CONSOLE, GTF_PERMIT_ACCESS, 0, built.console_mfn)
    struct.pack_into("<HHI", table, 8 * GNTTAB_RESERVED_XENSTORE, GTF_PERMIT_ACCESS, 0, built.store_mfn)


def _start_vcpu(domain: Domain, image: PvKernel, layout: PvLayout, l4_mfn: int) -> None:
    """The registers at the kernel's first instruction, as xen.h and arch-x86/xen.h describe them."""
    stack = layout.virt(layout.stack_pfn + 1)
    registers = vcpu.cpu_user_regs.pack(
        rip=image.entry,
        rsp=stack,
        rsi=layout.virt(layout.start_info_pfn),
        rflags=RFLAGS_IF,
        cs=xen.FLAT_KERNEL_CS,
        ss=xen.FLAT_KERNEL_SS,
    )
    context = vcpu.vcpu_guest_context.pack(
        fpu_ctxt=bytes(512),
        flags=vcpu.VGCF_in_kernel | vcpu.VGCF_online,
        user_regs=registers,
        trap_ctxt=bytes(256 * vcpu.trap_info.size),
        kernel_ss=xen.FLAT_KERNEL_SS,
        kernel_sp=stack,
        ctrlreg=(0, 0, 0, l4_mfn << SHIFT, 0, 0, 0, 0),
    )
    domain.start_pv(l4_mfn, context)
