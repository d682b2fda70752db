"""Grants mapped by a guest: GNTTABOP_map_grant_ref, unmap_grant_ref and unmap_and_replace, and the handles they deal
in.

Specified in xen/include/public/grant_table.h; follows xen/common/grant_table.c.  The page-table entry is written by the
core (cpu/pv_mmu.pxi), which takes its own reference to the frame; the grant stays pinned from map to unmap.  A guest with a
p2m names a frame of it instead of an address, which then is the granted one.
"""

from typing import TYPE_CHECKING, Any

from xenfast.abi import grant_table as abi
from xenfast.errors import XenError
from xenfast.xen.gnttab import GrantTable, fail

if TYPE_CHECKING:
    from xenfast.xen.domain import Domain
    from xenfast.xen.vcpu import Vcpu

MAX_HANDLES = 1 << 15       # max_maptrack_frames (1024 frames of 8-byte entries) and then some
BAD_HANDLE = 0xFFFFFFFF


class Mapping:
    """struct grant_mapping: what a handle stands for."""

    __slots__ = ("flags", "gfn", "mfn", "ref", "table")

    def __init__(self, table: GrantTable, ref: int, flags: int, mfn: int, gfn: int) -> None:
        self.table, self.ref, self.flags, self.mfn = table, ref, flags, mfn
        self.gfn = gfn                  # where it is in the p2m of a guest that has one

    @property
    def readonly(self) -> bool:
        return bool(self.flags & abi.GNTMAP_readonly)


def map_one(domain: "Domain", vcpu: "Vcpu", op: Any) -> tuple[int, int, int]:
    """(status, handle, dev_bus_addr)"""
    try:
        if not op.flags & (abi.GNTMAP_host_map | abi.GNTMAP_device_map):
            raise fail(abi.GNTST_bad_gntref, f"map flags {op.flags:#x}")
        owner = domain.hypervisor.domains.get(op.dom)
        if owner is None:
            raise fail(abi.GNTST_bad_domain, f"no domain {op.dom}")
        if len(domain.maptrack) >= MAX_HANDLES:
            raise fail(abi.GNTST_no_space, "no map handle is free")
        readonly = bool(op.flags & abi.GNTMAP_readonly)
        mfn = owner.gnttab.acquire(op.ref, domain.domid, readonly)
        if op.flags & abi.GNTMAP_host_map and not _enter(vcpu, op, mfn):
            owner.gnttab.release(op.ref, readonly)
            raise fail(abi.GNTST_general_error, f"no page-table entry for {op.host_addr:#x}")
    except XenError as e:
        return e.errno, BAD_HANDLE, 0
    handle = domain.next_handle()
    domain.maptrack[handle] = Mapping(owner.gnttab, op.ref, op.flags, mfn, op.host_addr >> 12)
    return abi.GNTST_okay, handle, mfn << 12 if op.flags & abi.GNTMAP_device_map else 0


def _enter(vcpu: "Vcpu", op: Any, mfn: int) -> bool:
    """An entry of a page table, or of the p2m."""
    if vcpu.domain.hvm is not None:
        if op.flags & abi.GNTMAP_contains_pte or op.host_addr & 0xFFF:
            return False
        return vcpu.domain.hvm.map_foreign(op.host_addr >> 12, mfn, bool(op.flags & abi.GNTMAP_readonly))
    return vcpu.core.grant_map(
        op.host_addr, mfn, readonly=bool(op.flags & abi.GNTMAP_readonly),
        contains_pte=bool(op.flags & abi.GNTMAP_contains_pte), user=bool(op.flags & abi.GNTMAP_application_map)) == 0


def unmap_one(domain: "Domain", vcpu: "Vcpu", op: Any) -> tuple[int]:
    return (_unmap(domain, vcpu, op.handle, op.host_addr, op.dev_bus_addr, 0),)


def unmap_and_replace_one(domain: "Domain", vcpu: "Vcpu", op: Any) -> tuple[int]:
    """The mapping at new_addr moves to host_addr."""
    if not op.new_addr:
        return (abi.GNTST_general_error,)
    return (_unmap(domain, vcpu, op.handle, op.host_addr, 0, op.new_addr),)


def _unmap(domain: "Domain", vcpu: "Vcpu", handle: int, host_addr: int, dev_bus_addr: int, new_addr: int) -> int:
    mapping = domain.maptrack.get(handle)
    if mapping is None:
        return abi.GNTST_bad_handle
    if dev_bus_addr and mapping.flags & abi.GNTMAP_device_map:
        if dev_bus_addr != mapping.mfn << 12:
            return abi.GNTST_general_error
        mapping.flags &= ~abi.GNTMAP_device_map
    if host_addr and mapping.flags & abi.GNTMAP_host_map:
        contains_pte = bool(mapping.flags & abi.GNTMAP_contains_pte)
        if domain.hvm is not None:
            if host_addr != mapping.gfn << 12 or new_addr:
                return abi.GNTST_general_error
            domain.hvm.unmap_foreign(mapping.gfn)
        elif vcpu.core.grant_unmap(host_addr, mapping.mfn, contains_pte, new_addr) != 0:
            return abi.GNTST_general_error
        mapping.flags &= ~abi.GNTMAP_host_map
    if not mapping.flags & (abi.GNTMAP_host_map | abi.GNTMAP_device_map):
        del domain.maptrack[handle]
        mapping.table.release(mapping.ref, mapping.readonly)
    return abi.GNTST_okay


def release_all(domain: "Domain") -> None:
    """gnttab_release_mappings(): the domain is gone, and its page tables with it."""
    for mapping in domain.maptrack.values():
        mapping.table.release(mapping.ref, mapping.readonly)
    domain.maptrack.clear()
