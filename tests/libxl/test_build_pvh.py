"""The PVH builder: where things are, what hvm_start_info says, and kernels that cannot be started so."""

import pytest

pytest.importorskip("xenfast._core")

from tests.cpu.asm import assemble
from tests.libxl.elfmaker import make
from xenfast.abi import elfnote
from xenfast.abi.hvm import params, start_info
from xenfast.errors import XenfastError
from xenfast.libxl import build_pvh, elf, kernel
from xenfast.xen.hypervisor import Hypervisor
from xenfast.xen.sched import StopReason
from xenfast.xen.time import VirtualClock

ENTRY = 0x100000
NOTES = {elfnote.XEN_ELFNOTE_PHYS32_ENTRY: ENTRY}
RAMDISK = bytes(range(256)) * 30


@pytest.fixture
def hv():
    with Hypervisor(16, clock=VirtualClock()) as hv:
        yield hv


def build(hv, code=b"\xf4" * 64, ramdisk=RAMDISK, cmdline="a b", pages=2048, memsz=0, notes=NOTES, vcpus=1):
    domain = hv.create_domain("pvh", kind="pvh", vcpus=vcpus, max_pages=pages)
    image = kernel.pvh_kernel(elf.parse(make(notes, code, memsz=memsz)))
    return domain, build_pvh.build_pvh(domain, image, ramdisk, cmdline)


def test_start_info(hv):
    """EBX points to hvm_start_info; command line, module, memory map and RSDP are where it says."""
    domain, _ = build(hv)
    read = domain.hvm.physmem.read
    core = domain.vcpus[0].core
    info = start_info.hvm_start_info.unpack(read(core.rbx, start_info.hvm_start_info.size))
    assert (info.magic, info.version, info.nr_modules) == (0x336EC578, 1, 1)
    assert read(info.cmdline_paddr, 4) == b"a b\0"
    module = start_info.hvm_modlist_entry.unpack(read(info.modlist_paddr, 32))
    assert module.paddr % 4096 == 0 and read(module.paddr, module.size) == RAMDISK
    entry = start_info.hvm_memmap_table_entry
    ranges = [entry.unpack(read(info.memmap_paddr + i * entry.size, entry.size)) for i in range(info.memmap_entries)]
    assert [(r.addr, r.size, r.type) for r in ranges] == domain.e820
    assert domain.e820[0] == (0, 2048 << 12, 1)
    rsdp = read(info.rsdp_paddr, 36)
    assert rsdp[:8] == b"RSD PTR " and sum(rsdp) % 256 == 0
    assert any(start <= info.rsdp_paddr < start + size and kind != 1 for start, size, kind in domain.e820)
    xsdt = int.from_bytes(rsdp[24:32], "little")
    assert read(xsdt, 4) == b"XSDT" and sum(read(xsdt, int.from_bytes(read(xsdt + 4, 4), "little"))) % 256 == 0


def test_first_vcpu(hv):
    """32-bit protected mode without paging, flat segments, interrupts off; the others wait for SIPI or VCPUOP."""
    domain, _ = build(hv, vcpus=2)
    core = domain.vcpus[0].core
    assert (core.rip, core.cr0 & 0x80000001, core.efer, core.rflags) == (ENTRY, 1, 0, 2)
    assert core.segment("cs")[1:] == (0, 0xFFFFFFFF, 0xC09B) and core.segment("ds")[1:] == (0, 0xFFFFFFFF, 0xC093)
    assert not domain.vcpus[1].online and domain.vcpus[0].online


def test_rings_of_console_and_store(hv):
    """Their pages lie below FF000000h, as the parameters say; domain 0 may map them by the reserved grants."""
    domain, built = build(hv)
    p = domain.hvm.params
    assert p[params.HVM_PARAM_STORE_PFN] == built.store_frame == 0xFEFFC
    assert p[params.HVM_PARAM_CONSOLE_PFN] == built.console_frame == 0xFEFFF
    assert (p[params.HVM_PARAM_STORE_EVTCHN], p[params.HVM_PARAM_CONSOLE_EVTCHN]) == (built.store_port, built.console_port)
    assert domain.hvm.physmap.get(0xFEFFC) == built.store_mfn
    mapping = domain.gnttab.map(0)
    assert mapping.mfn == built.console_mfn
    mapping.unmap()


def test_it_runs(hv):
    """Code at the entry finds its command line through EBX and says so to Xen's console."""
    offset = start_info.hvm_start_info.offset["cmdline_paddr"]
    code = assemble(f"mov edx, [ebx + {offset}]\n mov eax, 18\n xor ebx, ebx\n mov ecx, 4\n vmcall\n cli\n hlt", 32, ENTRY)
    domain, _ = build(hv, code, cmdline="hey\n")
    assert hv.run(timeout=10) is StopReason.ENDED
    assert "(XEN) (d1) hey" in hv.console.lines


@pytest.mark.parametrize(("notes", "memsz", "ramdisk", "says"), [
    ({elfnote.XEN_ELFNOTE_ENTRY: 1}, 0, 0, "no PVH entry point; it has a PV entry"),
    ({}, 0, 0, "no PVH entry point"),
    ({elfnote.XEN_ELFNOTE_PHYS32_ENTRY: 0x90000000}, 0, 0, "lies outside its image"),
    (NOTES, 9 << 20, 0, "needs memory up to"),
    (NOTES, 0, 9 << 20, "kernel and ramdisk need"),
])
def test_what_cannot_be_built(hv, notes, memsz, ramdisk, says):
    """One sentence says why."""
    with pytest.raises(XenfastError, match=says):
        build(hv, ramdisk=bytes(ramdisk), notes=notes, memsz=memsz)


def test_memory_that_is_not_there(hv):
    """More RAM than the machine has is one sentence too."""
    with pytest.raises(XenfastError, match="the domain's memory cannot be had"):
        build(hv, pages=1 << 20)


def test_memory_above_4_gib():
    """RAM that does not fit below F0000000h goes above 4 GiB; the host pays for what is used."""
    with Hypervisor(6 << 10, clock=VirtualClock()) as hv:
        domain, _ = build(hv, pages=5 << 18)
        assert domain.e820[0] == (0, 0xF0000000, 1) and domain.e820[-1] == (1 << 32, (5 << 30) - 0xF0000000, 1)
        domain.hvm.physmem.write((1 << 32) + 0x5000, b"high")
        assert domain.hvm.physmem.read((1 << 32) + 0x5000, 4) == b"high"
