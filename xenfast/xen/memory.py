"""memory_op of a PV domain: its reservation of machine memory, and where the machine-to-physical table is.

Specified in xen/include/public/memory.h; follows xen/common/memory.c and xen/arch/x86/mm.c.  A PV domain names machine
frames itself, so what concerns translated domains (add_to_physmap and the like) is EACCES, and what concerns other
domains is EPERM; domains with a p2m: xen/hvm/memory.py.  Long lists are worked off a batch at a time, with the number
of extents done above the command, as Xen does.
"""

import errno
import struct
from typing import TYPE_CHECKING, Any

from xenfast.abi import memory as abi
from xenfast.abi import xen
from xenfast.errors import XenError
from xenfast.xen.guest import U64, Continuation, read_struct, read_u64, write_u32, write_u64

if TYPE_CHECKING:
    from xenfast.xen.domain import Domain
    from xenfast.xen.vcpu import Vcpu

MAX_ORDER = 9           # CONFIG_DOMU_MAX_ORDER
BATCH = 1024            # extents until a vcpu looks at what others want of it


def do_memory_op(domain: "Domain", vcpu: "Vcpu", cmd: int, arg: int) -> int:
    op, start = cmd & abi.MEMOP_CMD_MASK, (cmd & U64) >> abi.MEMOP_EXTENT_SHIFT
    operation = OPERATIONS.get(op)
    if operation is not None:
        return operation(domain, vcpu, arg)
    extents = EXTENTS.get(op)
    if extents is not None:
        done = work_off(domain, vcpu, arg, start, extents)
        if done == start + BATCH:
            raise Continuation(op | done << abi.MEMOP_EXTENT_SHIFT, arg)
        return done
    raise XenError(errno.ENOSYS, f"XENMEM {op}")


def self_only(domain: "Domain", domid: int) -> None:
    if domid not in (xen.DOMID_SELF, domain.domid):
        domain.hypervisor.domain(domid)
        raise XenError(errno.EPERM)


# --- lists of extents ------------------------------------------------------------------------------------------------
def work_off(domain: "Domain", vcpu: "Vcpu", arg: int, start: int, extent: Any) -> int:
    """Work off the extents of a struct xen_memory_reservation; returns how many are done, for whatever reason it
    ends.
    """
    r = read_struct(vcpu, abi.reservation, arg)
    if r.nr_extents > U64 >> abi.MEMOP_EXTENT_SHIFT or start >= r.nr_extents:
        return start
    self_only(domain, r.domid)
    if r.extent_order > MAX_ORDER:
        return start
    end = min(r.nr_extents, start + BATCH)
    for done in range(start, end):
        if not extent(domain, vcpu, r, done):
            return done
    return end


def _populate(domain: "Domain", vcpu: "Vcpu", r: Any, i: int) -> bool:
    """XENMEM_populate_physmap: memory for the pseudo-physical frames listed; the list gets the machine frames."""
    at = r.extent_start + 8 * i
    gpfn = read_u64(vcpu, at)
    return _give(domain, vcpu, r, at, gpfn)


def _increase(domain: "Domain", vcpu: "Vcpu", r: Any, i: int) -> bool:
    """XENMEM_increase_reservation: the list, if there is one, gets the machine frames."""
    return _give(domain, vcpu, r, r.extent_start + 8 * i if r.extent_start else 0, None)


def _give(domain: "Domain", vcpu: "Vcpu", r: Any, at: int, gpfn: int | None) -> bool:
    n = 1 << r.extent_order
    try:
        mfns = domain.alloc_pages(n, contiguous=n > 1)
    except MemoryError:
        return False
    if gpfn is not None:
        m2p = domain.hypervisor.memory.m2p
        for j, mfn in enumerate(mfns):
            m2p[int(mfn)] = (gpfn + j) & U64
    if at:
        write_u64(vcpu, at, int(mfns[0]))
    return True


def _decrease(domain: "Domain", vcpu: "Vcpu", r: Any, i: int) -> bool:
    """XENMEM_decrease_reservation: give back the machine frames listed."""
    mfn = read_u64(vcpu, r.extent_start + 8 * i)
    return all(remove_page(domain, mfn + j) for j in range(1 << r.extent_order))


def remove_page(domain: "Domain", mfn: int) -> bool:
    """guest_remove_page(): a frame that is still mapped or granted is freed by its last user.  False: not the domain's
    to give.
    """
    memory = domain.hypervisor.memory
    if mfn in domain.xen_pages or not domain.owns(mfn):
        return False
    try:
        memory.free([mfn])
    except ValueError:          # given back already, and only kept by who maps it
        return False
    domain.tot_pages -= 1
    return True


EXTENTS = {
    abi.XENMEM_increase_reservation: _increase,
    abi.XENMEM_decrease_reservation: _decrease,
    abi.XENMEM_populate_physmap: _populate,
}


# --- exchange --------------------------------------------------------------------------------------------------------
def _exchange(domain: "Domain", vcpu: "Vcpu", arg: int) -> int:
    """XENMEM_exchange: give frames of one order for as many of another, which are adjacent in machine memory.

    The pseudo-physical frames of the output list are where the new memory is to be; the list gets the machine frames.
    """
    head = read_struct(vcpu, abi.exchange, arg)
    give, take = abi.reservation.unpack(head.in_), abi.reservation.unpack(head.out)
    self_only(domain, give.domid)
    orders = give.extent_order, take.extent_order
    if give.domid != take.domid or head.nr_exchanged > give.nr_extents or max(orders) > MAX_ORDER or \
            give.nr_extents > U64 >> give.extent_order + 3 or \
            give.nr_extents << give.extent_order != take.nr_extents << take.extent_order:
        raise XenError(errno.EINVAL, "the lists do not match")
    if min(orders):
        raise XenError(errno.ENOSYS, "neither side has single frames")
    done, chunk = head.nr_exchanged, 1 << max(orders)
    per_in, per_out = chunk >> give.extent_order, chunk >> take.extent_order
    try:
        while done < give.nr_extents:
            if done - head.nr_exchanged >= BATCH:
                raise Continuation()
            in_at = give.extent_start + 8 * done
            out_at = take.extent_start + 8 * ((done << give.extent_order) >> take.extent_order)
            _exchange_chunk(domain, vcpu, (in_at, per_in, give.extent_order), (out_at, per_out, take.extent_order))
            done += per_in
    finally:
        write_u64(vcpu, arg + abi.EXCHANGE_DONE, done)
    return 0


def _exchange_chunk(domain: "Domain", vcpu: "Vcpu", give: tuple[int, int, int], take: tuple[int, int, int]) -> None:
    """Exchange one extent of the higher order; a side is (address of the list, entries, their order)."""
    memory = domain.hypervisor.memory
    (in_at, n_in, in_order), (out_at, n_out, out_order) = give, take
    data = vcpu.core.copy_from_guest(in_at, 8 * n_in)
    mfns = [mfn + j for mfn in struct.unpack(f"<{n_in}Q", data) for j in range(1 << in_order)]
    gpfns = struct.unpack(f"<{n_out}Q", vcpu.core.copy_from_guest(out_at, 8 * n_out))
    unused = all(domain.owns(mfn) and mfn not in domain.xen_pages and memory.count(mfn) == 1 for mfn in mfns)
    if len(set(mfns)) != len(mfns) or not unused:
        raise XenError(errno.EINVAL, "a frame is not the domain's, or in use")
    new = [memory.alloc(domain.domid, 1 << out_order, out_order > 0) for _ in range(n_out)]
    memory.free(mfns)
    m2p = memory.m2p
    for gpfn, extent in zip(gpfns, new, strict=True):
        for j, mfn in enumerate(extent):
            m2p[int(mfn)] = (gpfn + j) & U64
    vcpu.core.copy_to_guest(out_at, struct.pack(f"<{n_out}Q", *(int(extent[0]) for extent in new)))


# --- questions -------------------------------------------------------------------------------------------------------
def _maximum_ram_page(domain: "Domain", vcpu: "Vcpu", arg: int) -> int:
    return domain.hypervisor.memory.frames - 1


def _domid(domain: "Domain", vcpu: "Vcpu", arg: int) -> None:
    self_only(domain, int.from_bytes(vcpu.core.copy_from_guest(arg, 2), "little"))


def _current_reservation(domain: "Domain", vcpu: "Vcpu", arg: int) -> int:
    _domid(domain, vcpu, arg)
    return domain.tot_pages


def _maximum_reservation(domain: "Domain", vcpu: "Vcpu", arg: int) -> int:
    _domid(domain, vcpu, arg)
    return domain.max_pages


def _maximum_gpfn(domain: "Domain", vcpu: "Vcpu", arg: int) -> int:
    """The highest frame number; arch.max_pfn of a PV guest's shared_info counts frames."""
    _domid(domain, vcpu, arg)
    at = xen.shared_info.offset["arch_max_pfn"]
    return (int.from_bytes(domain.shared_info[at:at + 8], "little") or 1) - 1


def _memory_map(domain: "Domain", vcpu: "Vcpu", arg: int) -> int:
    """The E820 that the builder has set; ENOSYS when it has not, and the guest makes do with nr_pages."""
    request = read_struct(vcpu, abi.memory_map, arg)
    if not domain.e820:
        raise XenError(errno.ENOSYS, "the domain has no memory map")
    if request.nr_entries < len(domain.e820):
        raise XenError(errno.EINVAL, f"room for {request.nr_entries} entries, there are {len(domain.e820)}")
    data = b"".join(struct.pack(abi.E820_ENTRY, *entry) for entry in domain.e820)
    vcpu.core.copy_to_guest(request.buffer, data)
    write_u32(vcpu, arg, len(domain.e820))
    return 0


def _machphys_mapping(domain: "Domain", vcpu: "Vcpu", arg: int) -> int:
    vcpu.core.copy_to_guest(arg, abi.machphys_mapping.pack(
        v_start=domain.hypervisor.memory.m2p_start, v_end=xen.MACH2PHYS_VIRT_END, max_mfn=domain.hypervisor.memory.frames - 1))
    return 0


def _machphys_mfn_list(domain: "Domain", vcpu: "Vcpu", arg: int) -> int:
    """Here the table is not in machine frames, so there are none to list; the guest reads it where machphys_mapping
    says.
    """
    read_struct(vcpu, abi.machphys_mfn_list, arg)
    write_u32(vcpu, arg + abi.machphys_mfn_list.offset["nr_extents"], 0)
    return 0


def _not_translated(domain: "Domain", vcpu: "Vcpu", arg: int) -> int:
    self_only(domain, int.from_bytes(vcpu.core.copy_from_guest(arg, 2), "little"))
    raise XenError(errno.EACCES, "the domain's physical map is its own")


def _privileged(domain: "Domain", vcpu: "Vcpu", arg: int) -> int:
    raise XenError(errno.EPERM)


OPERATIONS = {
    abi.XENMEM_maximum_ram_page: _maximum_ram_page,
    abi.XENMEM_current_reservation: _current_reservation,
    abi.XENMEM_maximum_reservation: _maximum_reservation,
    abi.XENMEM_machphys_mfn_list: _machphys_mfn_list,
    abi.XENMEM_add_to_physmap: _not_translated,
    abi.XENMEM_memory_map: _memory_map,
    abi.XENMEM_machine_memory_map: _privileged,
    abi.XENMEM_exchange: _exchange,
    abi.XENMEM_machphys_mapping: _machphys_mapping,
    abi.XENMEM_set_memory_map: _privileged,
    abi.XENMEM_maximum_gpfn: _maximum_gpfn,
    abi.XENMEM_remove_from_physmap: _not_translated,
    abi.XENMEM_set_pod_target: _privileged,
    abi.XENMEM_get_pod_target: _privileged,
    abi.XENMEM_claim_pages: _privileged,
    abi.XENMEM_acquire_resource: _privileged,
}
