"""grant_table_op: the arguments of grant operations, copied in and out, one array element after the other.

Specified in xen/include/public/grant_table.h; follows xen/common/grant_table.c.  Each element has its own GNTST_*
status; the call as a whole fails only when the array cannot be read or written.  Transfers are refused (no Linux uses
them), and cache_flush is for ARM.
"""

import errno
import struct
from typing import TYPE_CHECKING, Any

from xenfast.abi import grant_table as abi
from xenfast.abi import xen
from xenfast.abi.layout import Layout
from xenfast.errors import XenError
from xenfast.xen.gnttab import fail
from xenfast.xen.gnttab_copy import copy_one
from xenfast.xen.gnttab_map import map_one, unmap_and_replace_one, unmap_one
from xenfast.xen.guest import Continuation, layout_of, read_struct, write_field, write_words

if TYPE_CHECKING:
    from xenfast.xen.domain import Domain
    from xenfast.xen.gnttab import GrantTable
    from xenfast.xen.vcpu import Vcpu

BATCH = 128             # operations until a vcpu looks at what others want of it


def do_grant_table_op(domain: "Domain", vcpu: "Vcpu", cmd: int, arg: int, count: int) -> int:
    cmd, count = cmd & 0xFFFFFFFF, count & 0xFFFFFFFF
    if count >= 1 << 31:
        raise XenError(errno.EINVAL, f"{count} operations")
    if cmd in EACH:
        done = _each(domain, vcpu, arg, min(count, BATCH), *EACH[cmd])
        if done < count:
            raise Continuation(cmd, arg + done * layout_of(vcpu, EACH[cmd][0]).size, count - done)
        return 0
    if cmd in ONCE:
        return ONCE[cmd](domain, vcpu, arg, count) or 0
    raise XenError(errno.ENOSYS, f"GNTTABOP {cmd}")


def _each(domain: "Domain", vcpu: "Vcpu", arg: int, count: int, layout: Layout, operation: Any, outputs: tuple) -> int:
    """Do an array of operations; ``outputs`` are the fields written back.  Returns how many."""
    layout = layout_of(vcpu, layout)
    core, size = vcpu.core, layout.size
    for i in range(count):
        at = arg + i * size
        data = bytearray(core.copy_from_guest(at, size))
        results = operation(domain, vcpu, layout.unpack(data))
        for (field, code), value in zip(outputs, results, strict=True):
            struct.pack_into(code, data, layout.offset[field], value)
        core.copy_to_guest(at, bytes(data))
    return count


def _target(domain: "Domain", domid: int) -> "GrantTable":
    """The caller's own table: that of another domain is for domain 0."""
    if domid not in (xen.DOMID_SELF, domain.domid):
        if domid not in domain.hypervisor.domains:
            raise fail(abi.GNTST_bad_domain, f"no domain {domid}")
        raise fail(abi.GNTST_permission_denied, f"the table of domain {domid}")
    return domain.gnttab


def _one(count: int) -> None:
    if count != 1:
        raise XenError(errno.EINVAL, f"{count} operations where one is allowed")


def _status(vcpu: "Vcpu", arg: int, layout: Layout, status: int) -> None:
    write_field(vcpu, layout, arg, "status", status, 2)


def _names(domain: "Domain", frames: list[int]) -> list[int]:
    """What the guest calls these frames: where it has mapped them, if it has a p2m."""
    if domain.hvm is None:
        return frames
    return [int(domain.hypervisor.memory.m2p[mfn]) for mfn in frames]


def _setup_table(domain: "Domain", vcpu: "Vcpu", arg: int, count: int) -> None:
    _one(count)
    op = read_struct(vcpu, abi.setup_table, arg)
    status = abi.GNTST_okay
    try:
        table = _target(domain, op.dom)
        if op.nr_frames > table.max_frames:
            raise XenError(errno.EINVAL, f"{op.nr_frames} grant frames, at most {table.max_frames}")
        table.grow(op.nr_frames)
        frames = _names(domain, table.frames[:op.nr_frames])
        write_words(vcpu, op.frame_list, frames)
    except XenError as e:
        if e.errno > 0:
            raise
        status = e.errno
    except MemoryError:
        status = abi.GNTST_no_space
    _status(vcpu, arg, abi.setup_table, status)


def _query_size(domain: "Domain", vcpu: "Vcpu", arg: int, count: int) -> None:
    _one(count)
    op = read_struct(vcpu, abi.query_size, arg)
    try:
        table = _target(domain, op.dom)
        values = {"nr_frames": len(table.frames), "max_nr_frames": table.max_frames, "status": abi.GNTST_okay}
    except XenError as e:
        values = {"nr_frames": op.nr_frames, "max_nr_frames": op.max_nr_frames, "status": e.errno}
    vcpu.core.copy_to_guest(arg, abi.query_size.pack(dom=op.dom, **values))


def _set_version(domain: "Domain", vcpu: "Vcpu", arg: int, count: int) -> None:
    _one(count)
    version = read_struct(vcpu, abi.set_version, arg).version
    if version not in (1, 2):
        raise XenError(errno.EINVAL, f"grant table version {version}")
    table = domain.gnttab
    if version != table.version:
        if table.active:
            raise XenError(errno.EBUSY, "grants are in use")
        table.set_version(version)
    vcpu.core.copy_to_guest(arg, abi.set_version.pack(version=table.version))


def _get_version(domain: "Domain", vcpu: "Vcpu", arg: int, count: int) -> None:
    _one(count)
    op = read_struct(vcpu, abi.get_version, arg)
    try:
        table = _target(domain, op.dom)
    except XenError as e:
        raise XenError(errno.EPERM if e.errno == abi.GNTST_permission_denied else errno.ESRCH) from None
    vcpu.core.copy_to_guest(arg, abi.get_version.pack(dom=op.dom, pad=op.pad, version=table.version))


def _get_status_frames(domain: "Domain", vcpu: "Vcpu", arg: int, count: int) -> None:
    _one(count)
    op = read_struct(vcpu, abi.get_status_frames, arg)
    status = abi.GNTST_okay
    try:
        table = _target(domain, op.dom)
        frames = _names(domain, table.status_frames)
        if table.version != 2 or op.nr_frames > len(frames):
            raise fail(abi.GNTST_general_error, f"{op.nr_frames} status frames wanted, there are {len(frames)}")
        vcpu.core.copy_to_guest(op.frame_list, struct.pack(f"<{op.nr_frames}Q", *frames[:op.nr_frames]))
    except XenError as e:
        status = e.errno
    _status(vcpu, arg, abi.get_status_frames, status)


def _swap_one(domain: "Domain", vcpu: "Vcpu", op: Any) -> tuple[int]:
    try:
        domain.gnttab.swap(op.ref_a, op.ref_b)
    except XenError as e:
        return (e.errno,)
    return (abi.GNTST_okay,)


def _transfer_one(domain: "Domain", vcpu: "Vcpu", op: Any) -> tuple[int]:
    return (abi.GNTST_general_error,)


def _dump_table(domain: "Domain", vcpu: "Vcpu", arg: int, count: int) -> None:
    raise XenError(errno.EPERM)


def _cache_flush(domain: "Domain", vcpu: "Vcpu", arg: int, count: int) -> None:
    """The caches of this machine are coherent, as a PV guest's on x86 are."""
    raise XenError(errno.EOPNOTSUPP)


STATUS = (("status", "<h"),)

# cmd: layout of the array element, function, fields written back
EACH = {
    abi.GNTTABOP_map_grant_ref: (abi.map_grant_ref, map_one, (*STATUS, ("handle", "<I"), ("dev_bus_addr", "<Q"))),
    abi.GNTTABOP_unmap_grant_ref: (abi.unmap_grant_ref, unmap_one, STATUS),
    abi.GNTTABOP_unmap_and_replace: (abi.unmap_and_replace, unmap_and_replace_one, STATUS),
    abi.GNTTABOP_transfer: (abi.transfer, _transfer_one, STATUS),
    abi.GNTTABOP_copy: (abi.copy, copy_one, STATUS),
    abi.GNTTABOP_swap_grant_ref: (abi.swap_grant_ref, _swap_one, STATUS),
}

ONCE = {
    abi.GNTTABOP_setup_table: _setup_table,
    abi.GNTTABOP_dump_table: _dump_table,
    abi.GNTTABOP_query_size: _query_size,
    abi.GNTTABOP_set_version: _set_version,
    abi.GNTTABOP_get_status_frames: _get_status_frames,
    abi.GNTTABOP_get_version: _get_version,
    abi.GNTTABOP_cache_flush: _cache_flush,
}
