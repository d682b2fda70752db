"""What of a domain with a p2m is saved and loaded: its vcpus, the shape of its memory, parameters.  Plain values only.

What xen/include/public/arch-x86/hvm/save.h has of processors, and what tools/libs/guest keeps in the stream beside it.  Chips and
devices save themselves (devices/machine.py); event channels, grants and the store are what every domain has.  The contents of memory are
apart, by the page: ``contents()``; whoever loads writes them with ``physmem.write(gfn << 12, page, rom=True)``.  Grants of others that
are mapped must be unmapped before.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy

from xenfast.abi import xen
from xenfast.abi.hvm import params
from xenfast.abi.vcpu import runstate_info
from xenfast.errors import XenfastError
from xenfast.xen.hvm.callback import parse
from xenfast.xen.hvm.domain import PAGE

if TYPE_CHECKING:
    from xenfast.xen.domain import Domain
    from xenfast.xen.hvm.vcpu import HvmVcpu

ZEROES = bytes(PAGE)


def save(domain: "Domain") -> dict[str, Any]:
    """The state of a domain that does not run."""
    hvm: Any = domain.hvm
    if hvm.foreign:
        raise XenfastError(f"domain {domain.domid} has memory of other domains mapped, and cannot be saved so")
    table = domain.gnttab
    return {
        "kind": hvm.kind, "low_pages": hvm.low_pages, "high_pages": hvm.high_pages, "e820": list(domain.e820),
        "narrow": domain.shared_places is xen.SHARED_32, "params": list(hvm.params), "callback_high": hvm.callback_high,
        "vm_assist": domain.vm_assist,
        "frames": list(_runs(domain)),
        "shared_info": _place(domain, domain.shared_info_mfn), "shared_info_contents": bytes(domain.shared_info),
        "grant_frames": [_place(domain, mfn) for mfn in table.frames],
        "vcpus": [_save_vcpu(vcpu) for vcpu in domain.vcpus],       # type: ignore[arg-type]
    }  # fmt: skip


def _own(domain: "Domain") -> numpy.ndarray:
    """The guest frames that are memory of the domain's own."""
    hvm: Any = domain.hvm
    return numpy.array([gfn for gfn in hvm.physmap.used().tolist() if hvm.physmap.get(gfn) not in domain.xen_pages], dtype=numpy.int64)


def _runs(domain: "Domain") -> Iterator[tuple[int, int, bool]]:
    """(first guest frame, frames, read-only) of each stretch."""
    physmap = domain.hvm.physmap        # type: ignore[union-attr]
    start = count = 0
    rom = False
    for gfn in _own(domain).tolist():
        readonly = physmap.is_readonly(gfn)
        if count and (gfn != start + count or readonly != rom):
            yield start, count, rom
            count = 0
        if not count:
            start, rom = gfn, readonly
        count += 1
    if count:
        yield start, count, rom


def _place(domain: "Domain", mfn: int) -> int | None:
    """Where a page of Xen's is in the map."""
    gfn = int(domain.hypervisor.memory.m2p[mfn])
    return gfn if domain.hvm.physmap.get(gfn) == mfn else None        # type: ignore[union-attr]


def contents(domain: "Domain") -> Iterator[tuple[int, memoryview]]:
    """(guest frame, its bytes) of all memory that is not zero; the views are for reading."""
    memory, physmap = domain.hypervisor.memory, domain.hvm.physmap        # type: ignore[union-attr]
    for gfn in _own(domain).tolist():
        view = memory.view(physmap.get(gfn), readonly=True)     # type: ignore[arg-type]
        if view != ZEROES:
            yield gfn, view


def _save_vcpu(vcpu: "HvmVcpu") -> dict[str, Any]:
    info = None if vcpu.info_mfn is None else (_place_of_own(vcpu, vcpu.info_mfn), vcpu.info_offset)
    return {
        "core": vcpu.core.save(), "initialised": vcpu.initialised, "online": vcpu.online,
        "info": info, "runstate_area": vcpu.runstate_area, "runstate_times": list(vcpu.runstate_times),
        "runstate_narrow": vcpu.runstate_layout.word == 4,
    }  # fmt: skip


def _place_of_own(vcpu: "HvmVcpu", mfn: int) -> int:
    return int(vcpu.hypervisor.memory.m2p[mfn])


def load(domain: "Domain", state: dict[str, Any]) -> None:
    """Into a new domain of the same kind with as many vcpus, which does not run yet; ValueError when the state is none of such a one.

    Then write the contents of memory, and ``start()``.
    """
    hvm: Any = domain.hvm
    try:
        if state["kind"] != hvm.kind or len(state["vcpus"]) != len(domain.vcpus) or len(state["params"]) != len(hvm.params):
            raise ValueError(f"the state is of a {state['kind']} domain with {len(state['vcpus'])} vcpus")
        domain.set_shared_places(xen.SHARED_32 if state["narrow"] else xen.SHARED_64)
        for gfn, count, readonly in state["frames"]:
            hvm.populate(gfn, count, readonly=readonly)
        hvm.low_pages, hvm.high_pages = state["low_pages"], state["high_pages"]
        domain.e820 = [tuple(entry) for entry in state["e820"]]
        hvm.params[:] = state["params"]
        domain.core.vm_assist = state["vm_assist"]
        domain.shared_info[:] = state["shared_info_contents"]
        if state["shared_info"] is not None:
            hvm.place(state["shared_info"], [domain.shared_info_mfn])
        domain.gnttab.grow(len(state["grant_frames"]))
        for mfn, gfn in zip(domain.gnttab.frames, state["grant_frames"], strict=True):
            if gfn is not None:
                hvm.place(gfn, [mfn])
    except (KeyError, TypeError, OverflowError) as error:
        raise ValueError(f"this is not the state of a domain: {error!r}") from None


def start(domain: "Domain", state: dict[str, Any]) -> None:
    """The vcpus go on where they were; memory has its contents again."""
    hvm: Any = domain.hvm
    hvm.callback_via, hvm.callback_high = parse(hvm.params[params.HVM_PARAM_CALLBACK_IRQ]), state["callback_high"]
    for vcpu, saved in zip(domain.vcpus, state["vcpus"], strict=True):
        _load_vcpu(vcpu, saved)                 # type: ignore[arg-type]
    for vcpu, saved in zip(domain.vcpus, state["vcpus"], strict=True):
        if saved["online"]:
            vcpu.bring_up()


def _load_vcpu(vcpu: "HvmVcpu", state: dict[str, Any]) -> None:
    vcpu.core.load(state["core"])
    vcpu.initialised = state["initialised"]
    vcpu.runstate_area, vcpu.runstate_times = state["runstate_area"], list(state["runstate_times"])
    vcpu.runstate_layout = runstate_info.compat if state["runstate_narrow"] else runstate_info
    if state["info"] is not None:
        gfn, offset = state["info"]
        mfn = vcpu.domain.frame(gfn)
        if not vcpu.domain.get_writable_page(mfn):
            raise ValueError(f"vcpu {vcpu.vcpu_id} has its vcpu_info in a frame that is not there")
        vcpu.domain.held_pages.append(mfn)
        vcpu.take_info(mfn, offset)
