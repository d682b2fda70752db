"""memory_op of a domain with a p2m: frame numbers are guest frames, and it is Xen who keeps the map.

Specified in xen/include/public/memory.h; follows xenmem_add_to_physmap of xen/common/memory.c and xen/arch/x86/mm.c.  Left out:
foreign frames of other domains and the frames of devices, which take privileges.
"""

import errno
import struct
from typing import TYPE_CHECKING, Any

import numpy

from xenfast.abi import memory as abi
from xenfast.errors import XenError
from xenfast.xen import memory as pv
from xenfast.xen.guest import U64, Continuation, read_struct, read_word, read_words, word, write_field

if TYPE_CHECKING:
    from xenfast.xen.domain import Domain
    from xenfast.xen.vcpu import Vcpu

BATCH = 256
GRANT_STATUS = 1 << 31          # XENMAPIDX_grant_table_status


def do_memory_op(domain: "Domain", vcpu: "Vcpu", cmd: int, arg: int) -> int:
    op, start = cmd & abi.MEMOP_CMD_MASK, (cmd & U64) >> abi.MEMOP_EXTENT_SHIFT
    operation = OPERATIONS.get(op)
    if operation is not None:
        return operation(domain, vcpu, arg)
    extents = EXTENTS.get(op)
    if extents is not None:
        done = extents(domain, vcpu, arg, start)
        if done == start + pv.BATCH:
            raise Continuation(op | done << abi.MEMOP_EXTENT_SHIFT, arg)
        return done
    raise XenError(errno.ENOSYS, f"XENMEM {op}")


def _invalid(domain: "Domain", gfn: int) -> bool:
    """Can nothing be mapped there?"""
    hvm: Any = domain.hvm
    return gfn >= hvm.physmap.max_gfn or gfn in hvm.foreign


# --- reservations ----------------------------------------------------------------------------------------------------
def _populate(domain: "Domain", vcpu: "Vcpu", arg: int, start: int) -> int:
    """XENMEM_populate_physmap: new memory at the guest frames listed."""
    return pv.work_off(domain, vcpu, arg, start, _populate_one)


def _populate_one(domain: "Domain", vcpu: "Vcpu", r: Any, i: int) -> bool:
    hvm: Any = domain.hvm
    gfn, n = read_word(vcpu, r.extent_start + word(vcpu) * i), 1 << r.extent_order
    if any(_invalid(domain, gfn + j) for j in range(n)):
        return False
    try:
        mfns = domain.alloc_pages(n)
    except MemoryError:
        return False
    _drop(domain, [gfn + j for j in range(n)])
    hvm.place(gfn, mfns)
    return True


def _decrease(domain: "Domain", vcpu: "Vcpu", arg: int, start: int) -> int:
    """XENMEM_decrease_reservation: the memory at the guest frames listed goes back to Xen."""
    gfns: list[int] = []

    def one(domain: "Domain", vcpu: "Vcpu", r: Any, i: int) -> bool:
        hvm: Any = domain.hvm
        gfn = read_word(vcpu, r.extent_start + word(vcpu) * i)
        for at in range(gfn, gfn + (1 << r.extent_order)):
            mfn = hvm.physmap.get(at) if not _invalid(domain, at) else None
            if mfn is None or mfn in domain.xen_pages or not domain.owns(mfn):
                return False
            gfns.append(at)
        return True

    try:
        return pv.work_off(domain, vcpu, arg, start, one)
    finally:
        _drop(domain, gfns)


def _drop(domain: "Domain", gfns: list[int]) -> None:
    """guest_remove_page() of each: out of the map first, so that no vcpu reaches it any more; Xen's own pages are kept."""
    hvm: Any = domain.hvm
    mfns = {hvm.physmap.get(gfn) for gfn in gfns} - {None}
    hvm.physmap.clear_list(numpy.array(gfns, dtype=numpy.uint64))
    for mfn in mfns:
        pv.remove_page(domain, mfn)


def _increase(domain: "Domain", vcpu: "Vcpu", arg: int, start: int) -> int:
    """XENMEM_increase_reservation would make memory without a place in the map: nobody does that."""
    read_struct(vcpu, abi.reservation, arg)
    return start


# --- the map ---------------------------------------------------------------------------------------------------------
def _add_to_physmap(domain: "Domain", vcpu: "Vcpu", arg: int) -> int:
    op = read_struct(vcpu, abi.add_to_physmap, arg)
    pv.self_only(domain, op.domid)
    if op.space == abi.XENMAPSPACE_gmfn_range:
        if op.size == 0:
            return 0
        raise XenError(errno.EINVAL, "XENMAPSPACE_gmfn_range is for the toolstack")
    _add(domain, op.space, op.idx, op.gpfn)
    return 0


def _add_to_physmap_batch(domain: "Domain", vcpu: "Vcpu", arg: int) -> int:
    """Each with an error of its own; the count and the lists are advanced in the guest's memory when it takes long, as in Xen."""
    op = read_struct(vcpu, abi.add_to_physmap_batch, arg)
    pv.self_only(domain, op.domid)
    core, n = vcpu.core, min(op.size, BATCH)
    indices, gfns = read_words(vcpu, op.idxs, n), read_words(vcpu, op.gpfns, n)
    for i, (index, gfn) in enumerate(zip(indices, gfns, strict=True)):
        try:
            _add(domain, op.space, index, gfn)
            error = 0
        except XenError as e:
            error = -e.errno
        core.copy_to_guest(op.errs + 4 * i & U64, struct.pack("<i", error))
    if n < op.size:
        write_field(vcpu, abi.add_to_physmap_batch, arg, "size", op.size - n, 2)
        for field, size in (("idxs", word(vcpu)), ("gpfns", word(vcpu)), ("errs", 4)):
            write_field(vcpu, abi.add_to_physmap_batch, arg, field, getattr(op, field) + size * n, 8)
        raise Continuation(abi.XENMEM_add_to_physmap_batch, arg)
    return 0


def _add(domain: "Domain", space: int, index: int, gfn: int) -> None:
    """xenmem_add_to_physmap_one(): a frame of some kind moves to a place in the map; what was there before is given back."""
    hvm: Any = domain.hvm
    m2p = domain.hypervisor.memory.m2p
    if space == abi.XENMAPSPACE_shared_info:
        mfn = domain.shared_info_mfn if index == 0 else None
    elif space == abi.XENMAPSPACE_grant_table:
        mfn = _grant_frame(domain, index)
    elif space == abi.XENMAPSPACE_gmfn:
        mfn = hvm.physmap.get(index) if index not in hvm.foreign else None
    elif space in (abi.XENMAPSPACE_gmfn_foreign, abi.XENMAPSPACE_dev_mmio):
        raise XenError(errno.EPERM, f"map space {space}")
    else:
        raise XenError(errno.ENOSYS, f"map space {space}")
    if space == abi.XENMAPSPACE_shared_info:
        for vcpu in domain.vcpus:
            vcpu.renew_time()
    if mfn is None or _invalid(domain, gfn):
        raise XenError(errno.EINVAL, f"nothing at {index:#x}, or {gfn:#x} cannot be mapped")
    before = hvm.physmap.get(gfn)
    if before == mfn:
        return
    old = int(m2p[mfn])
    if old < hvm.physmap.max_gfn and hvm.physmap.get(old) == mfn:
        hvm.remove(old)
    if before is not None:
        _drop(domain, [gfn])
    hvm.place(gfn, [mfn])


def _grant_frame(domain: "Domain", index: int) -> int | None:
    """gnttab_map_frame(): the table grows as far as the guest asks for."""
    table = domain.gnttab
    number = index & ~GRANT_STATUS
    status = bool(index & GRANT_STATUS) and table.version == 2
    if index & GRANT_STATUS and not status:
        return None
    limit = table.max_frames
    if number >= limit:
        return None
    if status:
        return table.status_frames[number] if number < len(table.status_frames) else None
    table.grow(number + 1)
    return table.frames[number]


def _remove_from_physmap(domain: "Domain", vcpu: "Vcpu", arg: int) -> int:
    op = read_struct(vcpu, abi.remove_from_physmap, arg)
    pv.self_only(domain, op.domid)
    hvm: Any = domain.hvm
    if hvm.physmap.get(op.gpfn) is None or _invalid(domain, op.gpfn):
        raise XenError(errno.ENOENT, f"nothing at {op.gpfn:#x}")
    hvm.remove(op.gpfn)
    return 0


# --- questions -------------------------------------------------------------------------------------------------------
def _maximum_gpfn(domain: "Domain", vcpu: "Vcpu", arg: int) -> int:
    pv.self_only(domain, int.from_bytes(vcpu.core.copy_from_guest(arg, 2), "little"))
    used = domain.hvm.physmap.used()            # type: ignore[union-attr]
    return int(used[-1]) if len(used) else 0


def _not_translated(domain: "Domain", vcpu: "Vcpu", arg: int) -> int:
    raise XenError(errno.EOPNOTSUPP, "for domains without a p2m")


def _no_m2p(domain: "Domain", vcpu: "Vcpu", arg: int) -> int:
    return -errno.ENOSYS        # known, and not for such domains


EXTENTS = {
    abi.XENMEM_increase_reservation: _increase,
    abi.XENMEM_decrease_reservation: _decrease,
    abi.XENMEM_populate_physmap: _populate,
}

def _no_vnuma(domain: "Domain", vcpu: "Vcpu", arg: int) -> int:
    """Nodes are told by ACPI; hvmloader asks, and makes no SRAT then."""
    return -errno.EOPNOTSUPP


OPERATIONS = pv.OPERATIONS | {
    abi.XENMEM_add_to_physmap: _add_to_physmap,
    abi.XENMEM_add_to_physmap_batch: _add_to_physmap_batch,
    abi.XENMEM_remove_from_physmap: _remove_from_physmap,
    abi.XENMEM_maximum_gpfn: _maximum_gpfn,
    abi.XENMEM_exchange: _not_translated,
    abi.XENMEM_machphys_mapping: _no_m2p,
    abi.XENMEM_machine_memory_map: _no_m2p,
    abi.XENMEM_get_vnumainfo: _no_vnuma,
}
