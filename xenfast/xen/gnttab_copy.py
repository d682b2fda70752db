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
