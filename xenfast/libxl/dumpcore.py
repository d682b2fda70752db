"""Core dumps of domains: an ELF file as ``xl dump-core`` writes it.

Specified in docs/misc/dump-core-format.txt of Xen: sections .note.Xen (kind of dump, Xen's version, version of the format),
.xen_prstatus (struct vcpu_guest_context of each vcpu), .xen_shared_info, .xen_p2m (PV: frame numbers of the guest and of
the machine) or .xen_pfn, and .xen_pages (the memory itself).  Pages that nobody has written are left as holes.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from xenfast.abi import vcpu as vcpu_abi
from xenfast.errors import XenfastError
from xenfast.xen import version

if TYPE_CHECKING:
    from xenfast.libxl.domain import Domain

PAGE = 4096
EHDR, SHDR = struct.Struct("<16sHHIQQQIHHHHHH"), struct.Struct("<IIQQQQIIQQ")
SHT_PROGBITS, SHT_STRTAB, SHT_NOTE = 1, 3, 7
ET_CORE, EM_X86_64 = 4, 62
NOTE_NONE, NOTE_HEADER, NOTE_XEN_VERSION, NOTE_FORMAT_VERSION = 0x2000000, 0x2000001, 0x2000002, 0x2000003
MAGIC_PV, MAGIC_HVM = 0xF00FEBED, 0xF00FEBEE
FORMAT_VERSION = 1
BATCH = 256             # pages written at once


def dump(domain: Domain, path: str | Path) -> None:
    """Write the memory and registers of a domain to a file; its vcpus rest meanwhile."""
    xen = domain.xen
    xen.pause()
    try:
        xen.hypervisor.scheduler.quiesce(xen)
        with open(path, "wb") as file:
            os.fchmod(file.fileno(), 0o600)
            _write(domain, file)
    except OSError as error:
        raise XenfastError(f"the core cannot be written to {path}: {error.strerror}") from None
    finally:
        xen.unpause()


def _write(domain: Domain, file: BinaryIO) -> None:
    pfns, mfns, table_name, table = _frames(domain)
    sections = [
        (".note.Xen", SHT_NOTE, _notes(domain, len(mfns)), 0),
        (".xen_prstatus", SHT_PROGBITS, b"".join(_context(vcpu) for vcpu in domain.xen.vcpus), vcpu_abi.vcpu_guest_context.size),
        (".xen_shared_info", SHT_PROGBITS, bytes(domain.xen.shared_info), PAGE),
        (table_name, SHT_PROGBITS, table, 16 if table_name == ".xen_p2m" else 8),
    ]
    names = b"\0" + b"".join(name.encode() + b"\0" for name, *_ in sections) + b".xen_pages\0.shstrtab\0"
    count = len(sections) + 3                       # the null section, the pages, the names
    offset = EHDR.size + count * SHDR.size
    headers = [SHDR.pack(*[0] * 10)]
    body = b""
    for name, kind, data, entry in sections:
        headers.append(_header(names, name, kind, offset + len(body), len(data), entry))
        body += data + bytes(-len(data) % 8)
    pages_at = (offset + len(body) + len(names) + PAGE - 1) & ~(PAGE - 1)
    headers.append(_header(names, ".xen_pages", SHT_PROGBITS, pages_at, len(mfns) * PAGE, PAGE))
    headers.append(_header(names, ".shstrtab", SHT_STRTAB, offset + len(body), len(names), 0))
    ident = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    file.write(EHDR.pack(ident, ET_CORE, EM_X86_64, 1, 0, 0, EHDR.size, 0, EHDR.size, 0, 0, SHDR.size, count, count - 1))
    file.write(b"".join(headers) + body + names)
    _write_pages(domain, file, pages_at, mfns)


def _header(names: bytes, name: str, kind: int, offset: int, size: int, entry: int) -> bytes:
    return SHDR.pack(names.index(b"\0" + name.encode() + b"\0") + 1, kind, 0, 0, offset, size, 0, 0, 8, entry)


def _note(kind: int, data: bytes) -> bytes:
    return struct.pack("<III", 4, len(data), kind) + b"Xen\0" + data + bytes(-len(data) % 4)


def _notes(domain: Domain, pages: int) -> bytes:
    magic = MAGIC_PV if domain.config.type == "pv" else MAGIC_HVM
    # struct xen_dumpcore_elfnote_header_desc, ..._xen_version_desc, ..._format_version_desc
    header = struct.pack("<QQQQ", magic, len(domain.xen.vcpus), pages, PAGE)
    xen_version = struct.pack("<QQ16s64s16s32s32s1024s64sQQ", version.MAJOR, version.MINOR, b"", b"", b"", b"", b"", b"", b"", 0, PAGE)
    return (_note(NOTE_NONE, b"") + _note(NOTE_HEADER, header) + _note(NOTE_XEN_VERSION, xen_version)
            + _note(NOTE_FORMAT_VERSION, struct.pack("<Q", FORMAT_VERSION)))


def _frames(domain: Domain) -> tuple[Any, Any, str, bytes]:
    """Which frames there are: of the guest, of the machine, and the section that tells."""
    memory = domain.xen.hypervisor.memory
    physmap = getattr(getattr(domain.xen, "hvm", None), "physmap", None)
    if physmap is not None:
        pairs = [(gfn, mfn) for gfn in range(domain.xen.max_pfn) if (mfn := physmap.get(gfn)) is not None]
        pfns = np.array([pair[0] for pair in pairs], dtype="<u8")
        return pfns, np.array([pair[1] for pair in pairs], dtype=np.int64), ".xen_pfn", pfns.tobytes()
    mfns = np.nonzero((memory.frame_table["owner"] == domain.domid) & (memory.frame_table["flags"] & 4 != 0))[0]
    gpfns = memory.m2p[mfns]
    inside = gpfns < max(domain.xen.max_pfn, domain.config.maxmem << 8)
    order = np.argsort(gpfns[inside], kind="stable")
    pfns, mfns = gpfns[inside][order].astype("<u8"), mfns[inside][order]
    table = np.empty((len(pfns), 2), dtype="<u8")
    table[:, 0], table[:, 1] = pfns, mfns
    return pfns, mfns, ".xen_p2m", table.tobytes()


def _context(vcpu: Any) -> bytes:
    """struct vcpu_guest_context: general registers, control registers, bases."""
    if vcpu.core is None:
        return bytes(vcpu_abi.vcpu_guest_context.size)
    r = vcpu.core.registers()
    names = {"rflags": "rflags"}
    fields = {name: int(r.get(names.get(name, name), 0)) for name in
              "r15 r14 r13 r12 rbp rbx r11 r10 r9 r8 rax rcx rdx rsi rdi rip cs rflags rsp ss es ds fs gs".split()}
    return vcpu_abi.vcpu_guest_context.pack(
        fpu_ctxt=bytes(512),
        flags=vcpu_abi.VGCF_online if vcpu.online else 0,
        user_regs=vcpu_abi.cpu_user_regs.pack(**fields),
        trap_ctxt=bytes(256 * vcpu_abi.trap_info.size),
        ctrlreg=(int(r.get("cr0", 0)), 0, int(r.get("cr2", 0)), int(r.get("cr3", 0)), int(r.get("cr4", 0)), 0, 0, 0),
        kernel_sp=int(r.get("kernel_sp", 0)),
    )


def _write_pages(domain: Domain, file: BinaryIO, at: int, mfns: Any) -> None:
    """The memory, a run of adjacent frames at a time; pages of zeroes are holes."""
    memory = domain.xen.hypervisor.memory
    zero = bytes(PAGE)
    position = at
    done = 0
    while done < len(mfns):
        run = 1
        while run < BATCH and done + run < len(mfns) and mfns[done + run] == mfns[done] + run:
            run += 1
        view = memory.view(int(mfns[done]), run)
        for i in range(run):
            page = view[i * PAGE : (i + 1) * PAGE]
            if page != zero:
                file.seek(position)
                file.write(page)
            position += PAGE
        done += run
    file.truncate(position)
