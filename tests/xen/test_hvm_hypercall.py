"""Hypercalls of guests with a p2m: what they may, the map of their memory, upcalls, grants, vcpus."""

import struct

import pytest

from tests.cpu.asm import assemble
from tests.xen.hvmguest import FIRST, HvmGuest
from tests.xen.pvguest import DATA, NR
from xenfast.abi import event_channel, features, grant_table, memory, sched, vcpu, version, xen
from xenfast.abi.hvm import hvm_op, hvm_vcpu, params
from xenfast.xen.hvm import msr
from xenfast.xen.hypervisor import Hypervisor
from xenfast.xen.time import VirtualClock

EPERM, ENOENT, ESRCH, EFAULT, EINVAL, ENOSYS, EOPNOTSUPP = -1, -2, -3, -14, -22, -38, -95
SELF = xen.DOMID_SELF
abi_runstate = vcpu.runstate_info.compat


@pytest.fixture
def hv():
    with Hypervisor(4, clock=VirtualClock()) as hv:
        yield hv


@pytest.fixture
def guest(hv):
    return HvmGuest(hv, vcpus=2)


# --- which, and by which ABI -------------------------------------------------------------------------------------------
def test_what_such_guests_may_call(guest):
    """Hypercalls of page tables and descriptors do not exist for them; those of the control domain are refused."""
    for name in ("mmu_update", "set_trap_table", "update_va_mapping", "iret", "stack_switch", "sched_op_compat", "nmi_op"):
        assert guest.call(name, 0, 0) == ENOSYS, name
    assert guest.call("domctl", 0) == EPERM and guest.call("sysctl", 0) == EPERM


def test_features(guest):
    """auto_translated_physmap, hvm_callback_vector and hvm_safe_pvclock; no pirqs, no PV page tables."""
    result, info = guest.op("xen_version", version.XENVER_get_features, version.feature_info)
    assert result == 0
    for bit in (features.XENFEAT_auto_translated_physmap, features.XENFEAT_hvm_callback_vector, features.XENFEAT_hvm_safe_pvclock):
        assert info.submap >> bit & 1
    for bit in (features.XENFEAT_hvm_pirqs, features.XENFEAT_mmu_pt_update_preserve_ad, features.XENFEAT_dom0):
        assert not info.submap >> bit & 1


def run(hv, guest, text, bits=64):
    guest.hv.memory.view(guest.domain.hvm.physmap.get(FIRST + 5))[:] = assemble(text, bits, guest.va(5)).ljust(4096, b"\xf4")
    hv.run(timeout=10)


@pytest.mark.parametrize("instruction", ["vmcall", "vmmcall"])
def test_by_instruction(hv, guest, instruction):
    """VMCALL and VMMCALL: number in RAX, arguments in RDI and RSI, the answer in RAX; nothing else changes."""
    code = f"mov eax, {NR['xen_version']}\n xor edi, edi\n mov ebx, 7\n {instruction}\n mov [{guest.va(DATA)}], rax\n"
    code += f"mov eax, {NR['sched_op']}\n mov edi, 99\n {instruction}\n mov [{guest.va(DATA, 8)}], rax\n mov [{guest.va(DATA, 16)}], rbx\n"
    run(hv, guest, code + "cli\n hlt")
    assert guest.domain.hvm.physmem.read(guest.va(DATA), 24) == struct.pack("<QqQ", 4 << 16 | 17, ENOSYS, 7)
    assert guest.domain.shutdown_code == sched.SHUTDOWN_poweroff


def test_by_the_page(hv, guest):
    """WRMSR of 40000000h fills a page with stubs; a frame that is no RAM, and other registers of the range, are #GP."""
    run(hv, guest, f"""
        mov ecx, 0x40000000
        mov eax, {guest.va(8)}
        xor edx, edx
        wrmsr
        xor edi, edi
        mov eax, {guest.va(8) + 32 * NR['xen_version']}
        call rax
        mov [{guest.va(DATA)}], rax
        cli
        hlt""")
    assert guest.domain.hvm.physmem.read_int(guest.va(DATA), 8) == 4 << 16 | 17
    page = guest.domain.hvm.physmem.read(guest.va(8), 4096)
    assert page == msr.hypercall_page() and page[23 * 32:23 * 32 + 2] == b"\x0f\x0b"


@pytest.mark.parametrize(("number", "value"), [(0x40000000, 0xF1000000), (0x40000000, 0x101001), (0x40000001, 0)])
def test_bad_registers(hv, guest, number, value):
    """Here the #GP finds no handler, so that the machine resets."""
    run(hv, guest, f"lidt [{guest.va(9)}]\n mov ecx, {number}\n mov eax, {value}\n xor edx, edx\n wrmsr\n cli\n hlt")
    assert guest.domain.shutdown_code == sched.SHUTDOWN_reboot


def test_the_32_bit_abi(hv, guest):
    """From 32-bit code: arguments in EBX, ECX, EDX, structs of 32-bit words; and shared_info has them too, once Xen has noticed."""
    regs = hvm_vcpu.vcpu_hvm_x86_32.pack(
        eip=guest.va(5), eflags=2, cr0=0x11, **{f"{name}_limit": 0xFFFFFFFF for name in ("cs", "ds", "ss", "es")}, tr_limit=0x67,
        cs_ar=0xC9B, ds_ar=0xC93, ss_ar=0xC93, es_ar=0xC93, tr_ar=0x8B,
    )  # fmt: skip
    guest.vcpu.set_context(hvm_vcpu.vcpu_hvm_context.pack(mode=hvm_vcpu.VCPU_HVM_MODE_32B, cpu_regs=regs))
    physmem = guest.domain.hvm.physmem
    physmem.write(guest.va(DATA), hvm_op.param.pack(domid=SELF, index=params.HVM_PARAM_CALLBACK_IRQ, value=2 << 56 | 0x40))
    physmem.write(guest.va(8), memory.add_to_physmap.compat.pack(domid=SELF, space=0, gpfn=0xF0000))
    physmem.write(guest.va(9), struct.pack("<Q", 0))
    call = "mov eax, {}\n mov ebx, {}\n mov ecx, {}\n mov edx, {}\n vmcall\n mov [{}], eax\n".format
    code = call(NR["hvm_op"], hvm_op.HVMOP_set_param, guest.va(DATA), 0, guest.va(10))
    code += call(NR["memory_op"], memory.XENMEM_add_to_physmap, guest.va(8), 0, guest.va(10, 4))
    code += call(NR["vcpu_op"], vcpu.VCPUOP_get_runstate_info, 0, guest.va(11), guest.va(10, 8))
    code += call(NR["set_timer_op"], 5, 1, 0, guest.va(10, 12))
    run(hv, guest, code + "cli\n hlt", 32)
    assert struct.unpack("<4i", physmem.read(guest.va(10), 16)) == (0, 0, 0, 0)
    assert guest.domain.shared_places is xen.SHARED_32 and guest.domain.evtchn.abi.max_ports == 1024
    shared = physmem.read(0xF0000000, 4096)
    seconds, = struct.unpack_from("<I", shared, xen.SHARED_32.wall_clock + 4)
    assert seconds == hv.clock.wall_at_zero // 10**9
    state = abi_runstate.unpack(physmem.read(guest.va(11), abi_runstate.size))
    assert abi_runstate.size == 44 and state.state == vcpu.RUNSTATE_running and state.state_entry_time < 1 << 40
    assert guest.core.timer_deadline == 5 + (1 << 32)
    port = guest.domain.evtchn.alloc_unbound(0)
    hv.dom0.evtchn.send(hv.dom0.evtchn.bind_interdomain(guest.domain.domid, port))
    assert guest.domain.shared_info[0x800] >> port & 1 and guest.domain.shared_info[4] == 1


def test_multicall(guest):
    """A list of calls, each with its answer; a multicall in it is refused."""
    at = guest.va(8)
    entries = [
        (NR["xen_version"], 0, *([0] * 6)), (NR["multicall"], 0, *([0] * 6)), (NR["sched_op"], 0, 0, *([0] * 5)), (77, 0, *([0] * 6))
    ]
    guest.write(at, b"".join(struct.pack("<8Q", *entry) for entry in entries * 20))
    assert guest.call("multicall", at, 80) == 0 and guest.continued == 1
    results = [struct.unpack("<q", guest.core.copy_from_guest(at + 64 * i + 8, 8))[0] for i in range(80)]
    assert results == [4 << 16 | 17, EINVAL, 0, ENOSYS] * 20
    assert guest.call("multicall", 0xFFFFFFFFF000, 1) == EFAULT


# --- parameters and upcalls --------------------------------------------------------------------------------------------
def test_parameters(hv, guest):
    """A guest reads where its console and store are, sets its callback, and nothing else."""
    guest.domain.hvm.params[params.HVM_PARAM_STORE_PFN] = 0xFEFFC
    param = hvm_op.param
    assert guest.op("hvm_op", hvm_op.HVMOP_get_param, param, domid=SELF, index=params.HVM_PARAM_STORE_PFN)[1].value == 0xFEFFC
    for index, result in ((params.HVM_PARAM_STORE_PFN, EPERM), (params.HVM_PARAM_IDENT_PT, EPERM), (39, EINVAL),
                          (params.HVM_PARAM_VM86_TSS, 0)):
        assert guest.op("hvm_op", hvm_op.HVMOP_set_param, param, domid=SELF, index=index, value=5)[0] == result, index
    assert guest.op("hvm_op", hvm_op.HVMOP_get_param, param, domid=SELF, index=params.HVM_PARAM_IOREQ_PFN)[0] == EPERM
    other = HvmGuest(hv)
    assert guest.op("hvm_op", hvm_op.HVMOP_get_param, param, domid=other.domain.domid, index=1)[0] == EPERM
    assert guest.op("hvm_op", hvm_op.HVMOP_get_param, param, domid=999, index=1)[0] == ESRCH
    assert guest.call("hvm_op", 99, 0) == ENOSYS


def set_callback(guest, value):
    return guest.op("hvm_op", hvm_op.HVMOP_set_param, hvm_op.param, domid=SELF, index=params.HVM_PARAM_CALLBACK_IRQ, value=value)[0]


HANDLER = """
    lidt [{idtr}]
    sti
    hlt
wait:
    jmp wait
    .org 0x100
    mov byte ptr [{info}], 0
    inc dword ptr [{data}]
    cli
    hlt
    .org 0x200
idtr:
"""


def with_handler(guest, vector):
    """Code that waits with interrupts on, and a handler of one vector that takes the upcall, counts and halts."""
    gdt, idt, info = guest.va(12), guest.va(7), guest.va(10)
    assert guest.op("memory_op", memory.XENMEM_add_to_physmap, memory.add_to_physmap, domid=SELF, space=0, gpfn=FIRST + 10)[0] == 0
    handler = guest.va(5, 0x100)
    guest.write(gdt, struct.pack("<QQQ", 0, 0x00AF9B000000FFFF, 0x00CF93000000FFFF))
    guest.write(idt + 16 * vector, struct.pack("<QQ", handler & 0xFFFF | 8 << 16 | 0x8E << 40 | (handler >> 16 & 0xFFFF) << 48, 0))
    guest.write(guest.va(12, 0x100), struct.pack("<HQ", 0xFFF, idt))
    for v in guest.domain.vcpus:
        v.core.set_table("gdtr", gdt, 23)
        v.core.set_table("idtr", idt, 0xFFF)
    return HANDLER.format(idtr=guest.va(12, 0x100), info=info, data=guest.va(11))


@pytest.mark.parametrize("how", ["callback", "upcall vector"])
def test_upcalls_by_vector(hv, guest, how):
    """An event ends HLT with the vector of the callback, or of the vcpu's own; the handler finds evtchn_upcall_pending."""
    code = with_handler(guest, 0x40)
    if how == "callback":
        assert set_callback(guest, 2 << 56 | 0x40) == 0
    else:
        guest.core.set_lapic_register(0x0F, 0x1FF)
        assert guest.op("hvm_op", hvm_op.HVMOP_set_evtchn_upcall_vector, hvm_op.evtchn_upcall_vector, vcpu=0, vector=0x40)[0] == 0
    port = guest.domain.evtchn.alloc_unbound(0)
    dom0 = hv.dom0.evtchn.bind_interdomain(guest.domain.domid, port)
    hv.loop.call_later(1_000_000, hv.dom0.evtchn.send, dom0)
    run(hv, guest, code)
    assert guest.domain.hvm.physmem.read_int(guest.va(11), 4) == 1
    assert guest.domain.shutdown_code == sched.SHUTDOWN_poweroff


def test_upcalls_by_a_line(hv, guest):
    """A callback of type GSI or PCI INTx is a line: high while vcpu 0 has an upcall pending, low again once it has not."""
    heard = []
    guest.domain.hvm.gsi_sinks.append(lambda n, level: heard.append(("gsi", n, level)))
    guest.domain.hvm.pci_intx = lambda device, pin, level: heard.append((device, pin, level))
    port = guest.domain.evtchn.alloc_unbound(0)
    dom0 = hv.dom0.evtchn.bind_interdomain(guest.domain.domid, port)
    assert set_callback(guest, 10) == 0
    hv.dom0.evtchn.send(dom0)
    assert heard == [("gsi", 10, True)]
    guest.domain.shared_info[0] = 0
    guest.domain.hvm.lower_callback()
    assert heard.pop() == ("gsi", 10, False)
    set_callback(guest, 1 << 56 | 3 << 11 | 1)
    guest.domain.shared_info[0] = 1
    guest.domain.hvm.raise_callback()
    set_callback(guest, 0)
    assert heard[1:] == [(3, 1, True), (3, 1, False)]


def test_upcall_vectors_are_checked(guest):
    """Vectors below 16 and vcpus that are not there are refused."""
    layout = hvm_op.evtchn_upcall_vector
    assert guest.op("hvm_op", hvm_op.HVMOP_set_evtchn_upcall_vector, layout, vcpu=0, vector=15)[0] == EINVAL
    assert guest.op("hvm_op", hvm_op.HVMOP_set_evtchn_upcall_vector, layout, vcpu=2, vector=33)[0] == ENOENT


# --- the map of memory -------------------------------------------------------------------------------------------------
def add(guest, space, index, gfn, domid=SELF):
    return guest.op("memory_op", memory.XENMEM_add_to_physmap, memory.add_to_physmap, domid=domid, space=space, idx=index, gpfn=gfn)[0]


def test_shared_info_and_grant_table_in_the_map(hv, guest):
    """They appear at the frame asked for, whose own page goes back to Xen; asked for elsewhere, they move."""
    domain, physmap = guest.domain, guest.domain.hvm.physmap
    before = domain.tot_pages
    assert add(guest, memory.XENMAPSPACE_shared_info, 0, FIRST + 20) == 0
    assert physmap.get(FIRST + 20) == domain.shared_info_mfn and domain.tot_pages == before - 1
    assert add(guest, memory.XENMAPSPACE_grant_table, 3, 0xF0100) == 0
    assert physmap.get(0xF0100) == domain.gnttab.frames[3] and domain.tot_pages == before - 1
    assert add(guest, memory.XENMAPSPACE_shared_info, 0, 0xF0101) == 0
    assert physmap.get(FIRST + 20) is None and physmap.get(0xF0101) == domain.shared_info_mfn
    assert add(guest, memory.XENMAPSPACE_gmfn, 0xF0101, 0xF0102) == 0
    assert physmap.get(0xF0101) is None and physmap.get(0xF0102) == domain.shared_info_mfn
    for space, index, gfn, result in (
        (0, 1, FIRST, EINVAL), (1, 64, FIRST, EINVAL), (1, 1 << 31, FIRST, EINVAL), (2, 0xF0200, FIRST, EINVAL),
        (0, 0, 1 << 40, EINVAL), (4, 0, FIRST, EPERM), (9, 0, FIRST, ENOSYS),
    ):  # fmt: skip
        assert add(guest, space, index, gfn) == result
    assert add(guest, 0, 0, FIRST, domid=0) == EPERM
    assert guest.op("memory_op", memory.XENMEM_remove_from_physmap, memory.remove_from_physmap, domid=SELF, gpfn=0xF0102)[0] == 0
    assert physmap.get(0xF0102) is None
    assert guest.op("memory_op", memory.XENMEM_remove_from_physmap, memory.remove_from_physmap, domid=SELF, gpfn=0xF0102)[0] == ENOENT


def test_a_batch(guest):
    """XENMEM_add_to_physmap_batch tells of each frame by itself."""
    lists = guest.va(8)
    guest.write(lists, struct.pack("<6Q", 0, 1, 99, 0xF0000, 0xF0001, 0xF0002))
    result, _ = guest.op("memory_op", memory.XENMEM_add_to_physmap_batch, memory.add_to_physmap_batch, domid=SELF, space=1, size=3,
                         idxs=lists, gpfns=lists + 24, errs=lists + 64)
    assert result == 0 and guest.read(lists + 64, "<3i") == (0, 0, EINVAL)
    assert guest.domain.hvm.physmap.get(0xF0001) == guest.domain.gnttab.frames[1]


def test_ballooning(guest):
    """Frames go back to Xen and come again; what is not the guest's own is not taken, and the limit holds."""
    domain, at, physmap = guest.domain, guest.va(8), guest.domain.hvm.physmap
    guest.write(at, struct.pack("<3Q", FIRST + 30, FIRST + 31, 0xF0000))
    fields = {"extent_start": at, "nr_extents": 3, "domid": SELF}
    before = domain.tot_pages
    assert guest.op("memory_op", memory.XENMEM_decrease_reservation, memory.reservation, **fields)[0] == 2
    assert domain.tot_pages == before - 2 and physmap.get(FIRST + 30) is None
    assert guest.op("memory_op", memory.XENMEM_populate_physmap, memory.reservation, **fields)[0] == 3
    assert physmap.get(0xF0000) is not None and domain.tot_pages == before + 1
    assert guest.read(at, "<Q") == (FIRST + 30,)            # the list stays guest frames
    guest.write(at, struct.pack("<Q", 0xF0010))
    fields = {"extent_start": at, "nr_extents": 1, "extent_order": 9, "domid": SELF}
    assert guest.op("memory_op", memory.XENMEM_populate_physmap, memory.reservation, **fields)[0] == 0
    assert guest.op("memory_op", memory.XENMEM_exchange, memory.exchange)[0] == EOPNOTSUPP
    assert guest.op("memory_op", memory.XENMEM_maximum_gpfn, memory.reservation, extent_start=SELF)[0] == 0xF0000


# --- grants ------------------------------------------------------------------------------------------------------------
def test_a_grant_is_mapped_into_the_map(hv, guest):
    """GNTTABOP_map_grant_ref puts a frame of another domain at a guest frame; unmapping takes it away there and nowhere else."""
    other = HvmGuest(hv)
    other.domain.gnttab.seed(3, FIRST + 12, guest.domain.domid)
    other.write(other.va(12), b"hello")
    layout = grant_table.map_grant_ref
    at = 0xF1000 << 12
    _, op = guest.op("grant_table_op", grant_table.GNTTABOP_map_grant_ref, layout, 1, host_addr=at, flags=grant_table.GNTMAP_host_map,
                     ref=3, dom=other.domain.domid)
    assert op.status == 0 and guest.domain.hvm.physmem.read(at, 5) == b"hello"
    for cmd, fields in ((memory.XENMEM_add_to_physmap, {"domid": SELF, "space": 0, "gpfn": 0xF1000}),):
        assert guest.op("memory_op", cmd, memory.add_to_physmap, **fields)[0] == EINVAL
    unmap = grant_table.unmap_grant_ref
    _, bad = guest.op("grant_table_op", grant_table.GNTTABOP_unmap_grant_ref, unmap, 1, host_addr=guest.va(3), handle=op.handle)
    assert bad.status == grant_table.GNTST_general_error
    _, done = guest.op("grant_table_op", grant_table.GNTTABOP_unmap_grant_ref, unmap, 1, host_addr=at, handle=op.handle)
    assert done.status == 0 and guest.domain.hvm.physmap.get(0xF1000) is None and not other.domain.gnttab.active


# --- vcpus -------------------------------------------------------------------------------------------------------------
def test_a_vcpu_started_by_vcpuop(hv, guest):
    """VCPUOP_initialise with a vcpu_hvm_context and VCPUOP_up start a vcpu that no SIPI has started."""
    at = guest.va(8)
    guest.write(at, guest.context(9))
    guest.domain.hvm.physmem.write(guest.va(9), assemble(f"mov dword ptr [{guest.va(DATA)}], 9\n cli\n hlt", 64, 0))
    assert guest.call("vcpu_op", vcpu.VCPUOP_is_up, 1, 0) == 0
    assert guest.call("vcpu_op", vcpu.VCPUOP_up, 1, 0) == EINVAL
    assert guest.call("vcpu_op", vcpu.VCPUOP_initialise, 1, at) == 0
    assert guest.call("vcpu_op", vcpu.VCPUOP_initialise, 1, at) == -17
    assert guest.call("vcpu_op", vcpu.VCPUOP_up, 1, 0) == 0
    assert guest.call("vcpu_op", vcpu.VCPUOP_is_up, 1, 0) == 1
    run(hv, guest, "cli\n hlt")
    assert guest.domain.hvm.physmem.read_int(guest.va(DATA), 4) == 9


@pytest.mark.parametrize("field", [{"cr0": 0x80000010}, {"cr4": 1 << 63}, {"cr4": 0}, {"efer": 0}, {"rflags": 1 << 17}, {"cr3": 1 << 60}])
def test_bad_contexts(guest, field):
    """Control registers that the processor would refuse are EINVAL."""
    good = {"rflags": 2, "cr0": 0x80000011, "cr4": 0x20, "efer": 0x500}
    regs = hvm_vcpu.vcpu_hvm_x86_64.pack(**(good | field))
    guest.write(guest.va(8), hvm_vcpu.vcpu_hvm_context.pack(mode=1, cpu_regs=regs))
    assert guest.call("vcpu_op", vcpu.VCPUOP_initialise, 1, guest.va(8)) == EINVAL


def test_vcpu_info_and_events_by_gfn(hv, guest):
    """Frames in registrations are guest frames: vcpu_info, and the control block and array of the FIFO."""
    info = vcpu.register_vcpu_info
    guest.write(guest.va(8), info.pack(mfn=FIRST + 12, offset=64))
    assert guest.call("vcpu_op", vcpu.VCPUOP_register_vcpu_info, 1, guest.va(8)) == 0
    assert guest.read(guest.va(12, 64), "<B") == (1,)
    guest.write(guest.va(8), info.pack(mfn=0xF0000, offset=64))
    assert guest.call("vcpu_op", vcpu.VCPUOP_register_vcpu_info, 0, guest.va(8)) == EINVAL
    control = event_channel.init_control
    assert guest.op("event_channel_op", event_channel.EVTCHNOP_init_control, control, control_gfn=FIRST + 13, vcpu=0)[0] == 0
    expand = event_channel.expand_array
    assert guest.op("event_channel_op", event_channel.EVTCHNOP_expand_array, expand, array_gfn=FIRST + 14)[0] == 0
    port = guest.domain.evtchn.alloc_unbound(0)
    hv.dom0.evtchn.send(hv.dom0.evtchn.bind_interdomain(guest.domain.domid, port))
    assert guest.read(guest.va(14, 4 * port), "<I")[0] >> 31 == 1
