"""GNTTABOP_copy: bytes from a frame or grant to a frame or grant, within one page each.

Specified in xen/include/public/grant_table.h; follows gnttab_copy of xen/common/grant_table.c.
"""

from typing import TYPE_CHECKING, Any

from xenfast.abi import grant_table as abi
from xenfast.abi import xen
from xenfast.errors import XenError
from xenfast.xen.gnttab import GrantTable, fail

if TYPE_CHECKING:
    from xenfast.xen.domain import Domain
    from xenfast.xen.vcpu import Vcpu

PAGE_SIZE = 4096


def copy_one(domain: "Domain", vcpu: "Vcpu", op: Any) -> tuple[int]:
    try:
        _check(op)
        source = _Side(domain, op.source_domid, op.source, bool(op.flags & abi.GNTCOPY_source_gref), readonly=True)
        try:
            dest = _Side(domain, op.dest_domid, op.dest, bool(op.flags & abi.GNTCOPY_dest_gref), readonly=False)
            try:
                memory = domain.hypervisor.memory
                data = bytes(memory.view(source.mfn)[op.source_offset:op.source_offset + op.len])
                memory.view(dest.mfn)[op.dest_offset:op.dest_offset + op.len] = data
                memory.wrote(dest.mfn)
            finally:
                dest.release()
        finally:
            source.release()
    except XenError as e:
        return (e.errno,)
    return (abi.GNTST_okay,)


def _check(op: Any) -> None:
    if op.source_offset + op.len > PAGE_SIZE or op.dest_offset + op.len > PAGE_SIZE:
        raise fail(abi.GNTST_bad_copy_arg, "the copy leaves its page")
    for domid, flag in ((op.source_domid, abi.GNTCOPY_source_gref), (op.dest_domid, abi.GNTCOPY_dest_gref)):
        if domid != xen.DOMID_SELF and not op.flags & flag:
            raise fail(abi.GNTST_permission_denied, "a frame of another domain, without a grant")


class _Side:
    """One end of a copy, held while it lasts."""

    def __init__(self, domain: "Domain", domid: int, frame: int, is_ref: bool, readonly: bool) -> None:
        self.domain, self.memory, self.readonly = domain, domain.hypervisor.memory, readonly
        self.table: GrantTable | None = None
        if is_ref:
            owner = domain if domid == xen.DOMID_SELF else domain.hypervisor.domains.get(domid)
            if owner is None:
                raise fail(abi.GNTST_bad_domain, f"no domain {domid}")
            self.ref = frame & 0xFFFFFFFF
            self.mfn = owner.gnttab.acquire(self.ref, domain.domid, readonly)
            self.table = owner.gnttab
            return
        self.mfn = mfn = domain.frame(frame)
        if not (self.memory.get_page(mfn, domain.domid) if readonly else domain.get_writable_page(mfn)):
            raise fail(abi.GNTST_bad_page, f"frame {frame:#x} is not the domain's, or not plain memory")

    def release(self) -> None:
        if self.table is not None:
            self.table.release(self.ref, self.readonly)
            return
        if self.readonly:
            self.memory.put_page(self.mfn)
        else:
            self.domain.put_writable_page(self.mfn)


# --- domain 0, whose kernel is Python ---------------------------------------------------------------------------------
# A network packet of 64 KiB is copied page by page, so this is short: a grant that is in use already, or that does not
# look as it should, takes the long way (acquire and release), which says what is wrong.
GRANTED = abi.GTF_type_mask | abi.GTF_sub_page
READ, WRITE = abi.GTF_reading, abi.GTF_reading | abi.GTF_writing


def _pin(table: GrantTable, ref: int, want: int, refused: int) -> tuple[Any, int, int] | None:
    """Mark a grant to domain 0 as in use: the words and the place of its status, and the frame.  With the lock held."""
    if ref in table.active or not 0 <= ref < table.nr_entries:
        return None
    if table.version == 1:
        words, index = table._words[ref // abi.V1_PER_PAGE], ref % abi.V1_PER_PAGE
        head = words.load32(index * 2)
        if head & refused != abi.GTF_permit_access or head >> 16 or not words.cas32(index * 2, head, head | want):
            return None
        return words, index * 4, words.load32(index * 2 + 1)
    words, index = table._words[ref // abi.V2_PER_PAGE], ref % abi.V2_PER_PAGE * 4
    status, slot = table._status_words[ref // abi.STATUS_PER_PAGE], ref % abi.STATUS_PER_PAGE
    head = words.load32(index)
    if head & refused != abi.GTF_permit_access or head >> 16:
        return None
    status.or16(slot, want)
    if words.load32(index) != head:
        status.and16(slot, ~want & 0xFFFF)
        return None
    return status, slot, words.load32(index + 2) | words.load32(index + 3) << 32


def copy_from(table: GrantTable, ref: int, offset: int, size: int) -> bytes:
    """Bytes of a page granted to domain 0; ``offset + size`` is within the page."""
    memory = table.memory
    with table.lock:
        pinned = _pin(table, ref, READ, GRANTED)
        if pinned is None:
            mfn = table.acquire(ref, 0, True)
            try:
                return bytes(memory.view(mfn)[offset : offset + size])
            finally:
                table.release(ref, True)
        words, slot, gfn = pinned
        try:
            mfn = table.domain.frame(gfn)
            if not memory.get_page(mfn, table.domain.domid):
                raise fail(abi.GNTST_general_error, f"frame {mfn:#x} is not domain {table.domain.domid}'s to grant")
            data = bytes(memory.view(mfn)[offset : offset + size])
            memory.put_page(mfn)
            return data
        finally:
            words.and16(slot, ~READ & 0xFFFF)


def copy_to(table: GrantTable, ref: int, data: memoryview) -> None:
    """Bytes, at most a page, to the beginning of a page granted to domain 0."""
    memory = table.memory
    with table.lock:
        pinned = _pin(table, ref, WRITE, GRANTED | abi.GTF_readonly)
        if pinned is None:
            mfn = table.acquire(ref, 0, False)
            try:
                memory.view(mfn)[: len(data)] = data
                memory.wrote(mfn)
            finally:
                table.release(ref, False)
            return
        words, slot, gfn = pinned
        try:
            domain = table.domain
            mfn = domain.frame(gfn)
            if not domain.get_writable_page(mfn):
                raise fail(abi.GNTST_general_error, f"frame {mfn:#x} is not domain {domain.domid}'s to grant for writing")
            memory.view(mfn)[: len(data)] = data
            memory.wrote(mfn)
            domain.put_writable_page(mfn)
        finally:
            words.and16(slot, ~WRITE & 0xFFFF)
