"""Read a kernel file and find out how Xen would start it.

A PV kernel names its entry in the note XEN_ELFNOTE_ENTRY, a PVH kernel in XEN_ELFNOTE_PHYS32_ENTRY
(xen/include/public/elfnote.h); a kernel may have both, one or none.  What the notes ask for is checked here, so that
a kernel that cannot run is refused in one sentence before a domain exists.  The older ``__xen_guest`` section with
its string of options is not read.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from xenfast.abi import elfnote
from xenfast.errors import XenfastError
from xenfast.libxl import bzimage, elf

PAGE = 4096

# What the hypervisor offers a PV guest; a kernel may require ("!name") any of these.
PV_FEATURES = frozenset(
    {
        "writable_page_tables",
        "pae_pgdir_above_4gb",
        "mmu_pt_update_preserve_ad",
        "highmem_assist",
        "gnttab_map_avail_bits",
    }
)


@dataclass(frozen=True)
class PvKernel:
    """A 64-bit PV kernel and what its notes say."""

    image: elf.Elf
    entry: int
    virt_base: int              # virtual address of pseudo-physical 0
    virt_offset: int            # virtual address of p_paddr 0
    virt_start: int
    virt_end: int
    hypercall_page: int | None
    init_p2m: int | None        # where the p2m list is to be mapped
    unmapped_initrd: bool       # the initrd may be given as a PFN and need not be mapped
    guest_os: str


def read_file(path: str | Path, what: str) -> bytes:
    """The contents of a file that the user named."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise XenfastError(f"cannot read the {what} {path}: {error.strerror}") from None


def load_pv(path: str | Path) -> PvKernel:
    """Read a kernel file that is to run as a PV guest."""
    data = read_file(path, "kernel")
    try:
        return pv_kernel(elf.parse(bzimage.unpack(data)))
    except XenfastError as error:
        raise XenfastError(f"{path}: {error}") from None


def pv_kernel(image: elf.Elf) -> PvKernel:
    """What an ELF image's notes say; XenfastError when it has no PV entry or asks for what is not there."""
    notes = image.xen_notes
    entry = notes.get(elfnote.XEN_ELFNOTE_ENTRY)
    if not isinstance(entry, int):
        raise XenfastError(f"the kernel has no PV entry point; {_could_run_as(image)}")
    if image.bits != 64:
        raise XenfastError("the kernel is a 32-bit PV kernel; only 64-bit PV kernels are supported")
    _check_features(str(notes.get(elfnote.XEN_ELFNOTE_FEATURES, "")))
    virt_base = _number(notes, elfnote.XEN_ELFNOTE_VIRT_BASE, 0)
    virt_offset = virt_base - _number(notes, elfnote.XEN_ELFNOTE_PADDR_OFFSET, 0)
    segments = image.load_segments()
    if not segments:
        raise XenfastError("the kernel has nothing to load")
    start = min(segment.paddr for segment in segments) + virt_offset
    end = max(segment.paddr + segment.memsz for segment in segments) + virt_offset
    if not virt_base <= start < end < 1 << 64:
        raise XenfastError("the kernel's segments lie outside its virtual address range")
    if virt_base % PAGE:
        raise XenfastError("the kernel's virtual base is not page-aligned")
    if not virt_base <= entry < end:
        raise XenfastError(f"the kernel's entry point {entry:#x} lies outside its image")
    page = notes.get(elfnote.XEN_ELFNOTE_HYPERCALL_PAGE)
    if isinstance(page, int) and (page % PAGE or not start <= page < end):
        raise XenfastError(f"the kernel's hypercall page {page:#x} lies outside its image")
    p2m = notes.get(elfnote.XEN_ELFNOTE_INIT_P2M)
    if isinstance(p2m, int) and p2m % PAGE:
        raise XenfastError("the kernel's address for the p2m list is not page-aligned")
    return PvKernel(
        image=image,
        entry=entry,
        virt_base=virt_base,
        virt_offset=virt_offset,
        virt_start=start,
        virt_end=end,
        hypercall_page=page if isinstance(page, int) else None,
        init_p2m=p2m if isinstance(p2m, int) else None,
        unmapped_initrd=bool(notes.get(elfnote.XEN_ELFNOTE_MOD_START_PFN)),
        guest_os=str(notes.get(elfnote.XEN_ELFNOTE_GUEST_OS, "")),
    )


@dataclass(frozen=True)
class PvhKernel:
    """A kernel with a PVH entry: where it goes in guest-physical memory, and where it is entered in 32-bit mode."""

    image: elf.Elf
    entry: int
    start: int
    end: int


def load_pvh(path: str | Path) -> PvhKernel:
    """Read a kernel file that is to run as a PVH guest."""
    data = read_file(path, "kernel")
    try:
        return pvh_kernel(elf.parse(bzimage.unpack(data)))
    except XenfastError as error:
        raise XenfastError(f"{path}: {error}") from None


def pvh_kernel(image: elf.Elf) -> PvhKernel:
    """What an ELF image's notes say; XenfastError when it has no PVH entry."""
    entry = image.xen_notes.get(elfnote.XEN_ELFNOTE_PHYS32_ENTRY)
    if not isinstance(entry, int):
        raise XenfastError(f"the kernel has no PVH entry point; {_could_run_as(image)}")
    segments = image.load_segments()
    if not segments:
        raise XenfastError("the kernel has nothing to load")
    start = min(segment.paddr for segment in segments)
    end = max(segment.paddr + segment.memsz for segment in segments)
    if not start <= entry < end:
        raise XenfastError(f"the kernel's entry point {entry:#x} lies outside its image")
    return PvhKernel(image, entry, start, end)


def _could_run_as(image: elf.Elf) -> str:
    notes = image.xen_notes
    if elfnote.XEN_ELFNOTE_PHYS32_ENTRY in notes:
        return "it has a PVH entry and could run as a PVH guest (type = \"pvh\")"
    if elfnote.XEN_ELFNOTE_ENTRY in notes:
        return "it has a PV entry and could run as a PV guest (type = \"pv\")"
    if notes:
        return "it has Xen notes but neither a PV nor a PVH entry"
    return "without Xen notes it could only run as an HVM guest, from a disk"


def _check_features(text: str) -> None:
    for name in text.replace(",", "|").split("|"):
        name = name.strip()
        if name.startswith("!") and name[1:] not in PV_FEATURES:
            raise XenfastError(f"the kernel requires the Xen feature {name[1:]!r}, which PV guests do not have here")


def _number(notes: dict[int, int | str], note: int, default: int) -> int:
    value = notes.get(note, default)
    return value if isinstance(value, int) else default
