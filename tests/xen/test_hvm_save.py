"""A domain with a p2m saved as plain values and loaded into another machine goes on as if nothing had been."""

import copy
import pickle

import pytest

from tests.cpu.asm import assemble
from tests.xen.hvmguest import FIRST, HvmGuest
from xenfast._core import ExitReason
from xenfast.abi import memory, sched, vcpu, xen
from xenfast.xen.hvm import save
from xenfast.xen.hvm.bus import Region
from xenfast.xen.hypervisor import Hypervisor
from xenfast.xen.time import VirtualClock

PROGRAM = """
    mov ebx, 0xFEE00000
    mov rax, cr4
    or eax, 0x600
    mov cr4, rax
    mov rax, 0x123456789ABCDEF0
    movq xmm5, rax
    fldpi
    mov r15, 77
    mov dword ptr [rbx + 0xF0], 0x1FF
    mov dword ptr [rbx + 0x3E0], 0xB
    mov dword ptr [rbx + 0x320], 0x40       # one shot, vector 40h
    mov dword ptr [rbx + 0x380], 500000     # 5 ms
    out 0x80, al
    sti
    hlt
back:
    cli
    fstp qword ptr [{data} + 8]
    movq [{data} + 16], xmm5
    mov [{data} + 24], r15
    hlt
    .org 0x100
    inc dword ptr [{data}]
    mov dword ptr [rbx + 0xB0], 0
    iretq
"""


def guest_of(hv):
    guest = HvmGuest(hv, vcpus=2)
    data, gdt, idt = guest.va(11), guest.va(12), guest.va(7)
    physmem = guest.domain.hvm.physmem
    physmem.write(guest.va(5), assemble(PROGRAM.format(data=data), 64, guest.va(5)))
    physmem.write(gdt, (0).to_bytes(8, "little") + 0x00AF9B000000FFFF.to_bytes(8, "little") + 0x00CF93000000FFFF.to_bytes(8, "little"))
    handler = guest.va(5, 0x100)
    physmem.write_int(idt + 0x400, 8, handler & 0xFFFF | 8 << 16 | 0x8E << 40 | (handler >> 16) << 48)
    guest.core.set_table("gdtr", gdt, 23)
    guest.core.set_table("idtr", idt, 0xFFF)
    guest.core.set_segment("cs", 8, 0, 0xFFFFFFFF, 0xA09B)
    guest.core.set_segment("ss", 16, 0, 0xFFFFFFFF, 0xC093)
    guest.core.rsp = guest.va(4, 0xF00)
    # the map: HvmGuest maps the first 16 MiB; the local APIC is found through one more large page
    physmem.write_int(0x11000 + 8 * 3, 8, 0x13000 | 3)
    guest.domain.hvm.populate(0x13, 1)
    physmem.write_int(0x13000 + 8 * 0x1F7, 8, 0xFEE00000 | 0x83)
    return guest


def moved(domain, hv):
    """The domain in another machine, by way of bytes."""
    state = pickle.loads(pickle.dumps(save.save(domain)))
    pages = [(gfn, bytes(view)) for gfn, view in save.contents(domain)]
    new = hv.create_domain("moved", kind=domain.hvm.kind, vcpus=len(domain.vcpus), max_pages=1000)
    save.load(new, state)
    for gfn, page in pages:
        new.hvm.physmem.write(gfn << 12, page, rom=True)
    save.start(new, state)
    return new


@pytest.mark.parametrize("asleep", [False, True], ids=["in code", "in HLT"])
def test_it_goes_on(asleep):
    """Registers, vectors, x87, the sleep in HLT and the timer of the local APIC that ends it: the rest runs on the other machine."""
    with Hypervisor(4, clock=VirtualClock()) as hv, Hypervisor(4, clock=VirtualClock()) as other:
        guest = guest_of(hv)
        hits = []
        guest.domain.hvm.ports.add(0x80, Region(1, lambda o, s: 0, lambda o, s, v: hits.append(v)))
        while not hits:
            guest.vcpu.run_slice(1)
        if asleep:
            assert guest.core.run(1000) == ExitReason.EXIT_HLT and guest.core.halted
        other.clock.advance_to(123_456_789)
        domain = moved(guest.domain, other)
        other.run(timeout=10)
        assert domain.shutdown_code == sched.SHUTDOWN_poweroff
        physmem, data = domain.hvm.physmem, guest.va(11)
        assert [physmem.read_int(data + 8 * i, 8) for i in range(4)] == [1, 0x400921FB54442D18, 0x123456789ABCDEF0, 77]


def test_what_xen_keeps():
    """Parameters, the pages of Xen in the map, a registered vcpu_info, ROM, and what saves equal when saved again."""
    with Hypervisor(4, clock=VirtualClock()) as hv, Hypervisor(4, clock=VirtualClock()) as other:
        guest = HvmGuest(hv, vcpus=2)
        guest.domain.hvm.rom(0xF0000, b"rom")
        add = memory.add_to_physmap
        assert guest.op("memory_op", memory.XENMEM_add_to_physmap, add, domid=xen.DOMID_SELF, space=0, gpfn=0xF0001)[0] == 0
        assert guest.op("memory_op", memory.XENMEM_add_to_physmap, add, domid=xen.DOMID_SELF, space=1, idx=2, gpfn=0xF0002)[0] == 0
        guest.write(guest.va(8), vcpu.register_vcpu_info.pack(mfn=FIRST + 12, offset=128))
        assert guest.call("vcpu_op", vcpu.VCPUOP_register_vcpu_info, 1, guest.va(8)) == 0
        guest.domain.hvm.params[2] = 17
        domain = moved(guest.domain, other)
        physmap = domain.hvm.physmap
        assert physmap.get(0xF0001) == domain.shared_info_mfn and physmap.get(0xF0002) == domain.gnttab.frames[2]
        assert physmap.is_readonly(0xF0) and domain.hvm.physmem.read(0xF0000, 3) == b"rom"
        assert domain.hvm.params[2] == 17 and domain.vcpus[1].info_mfn == physmap.get(FIRST + 12)
        a, b = save.save(guest.domain), save.save(domain)
        for state in (a, b):
            for one in state["vcpus"]:
                one["core"].pop("tsc")
                one.pop("runstate_times")
                one["core"].pop("seed")
        assert a == b


def test_bad_states():
    """What is no state, or one of another kind of domain, is a ValueError; a core loads nothing that crashes it."""
    with Hypervisor(4, clock=VirtualClock()) as hv:
        guest = HvmGuest(hv)
        state = save.save(guest.domain)
        new = hv.create_domain("x", kind="pvh", vcpus=1, max_pages=100)
        for bad in ({}, state, state | {"kind": "pvh", "vcpus": []}, state | {"kind": "pvh", "frames": [(1, "x", False)]}):
            with pytest.raises(ValueError):
                save.load(new, bad)
        core = guest.core.save()
        for key in core:
            bad = copy.deepcopy(core)
            bad[key] = None
            if key not in ("halted",):
                with pytest.raises(ValueError):
                    guest.core.load(bad)
