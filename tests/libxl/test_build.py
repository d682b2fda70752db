"""The domain builder: what a new PV domain's memory holds, looked at from outside before its first instruction."""

import random

import pytest

pytest.importorskip("xenfast._core")

import numpy as np

from tests.libxl.elfmaker import PV_NOTES, make
from xenfast.abi import elfnote, start_info, xen
from xenfast.errors import XenfastError
from xenfast.libxl import build, elf, kernel
from xenfast.xen.hypervisor import Hypervisor

BASE = 0xFFFFFFFF80000000
CODE = bytes(range(256)) * 40
RAMDISK = random.Random(5).randbytes(20_000)
LINUX = {elfnote.XEN_ELFNOTE_INIT_P2M: 0x8000000000, elfnote.XEN_ELFNOTE_MOD_START_PFN: 1}


@pytest.fixture(params=["adjacent", "scattered"])
def hypervisor(request):
    """A machine whose free memory is in one piece, or in pieces of one and two frames."""
    with Hypervisor(32) as machine:
        if request.param == "scattered":
            held = machine.memory.alloc(77, machine.memory.free_pages)
            machine.memory.free(np.concatenate([held[1::3], held[2::6], held[5::6]]))
        yield machine


def make_domain(hypervisor, notes, *, memsz=0, ramdisk=RAMDISK, cmdline="a b", nr_pages=2048):
    domain = hypervisor.create_domain("test", max_pages=nr_pages)
    image = kernel.pv_kernel(elf.parse(make(PV_NOTES | notes, CODE, memsz=memsz)))
    return domain, build.build_pv(domain, image, ramdisk, cmdline)


class Seen:
    """A domain's memory by pseudo-physical frame, found by the M2P."""

    def __init__(self, hypervisor, domain):
        self.memory = hypervisor.memory
        owners = self.memory.frame_table["owner"] == domain.domid
        pfns = self.memory.m2p[owners]
        mfns = np.flatnonzero(owners)
        self.p2m = {int(pfn): int(mfn) for pfn, mfn in zip(pfns, mfns) if pfn < 1 << 40}

    def read(self, pfn, size):
        pages = (bytes(self.memory.view(self.p2m[pfn + i])) for i in range((size + 4095) // 4096))
        return b"".join(pages)[:size]


@pytest.mark.parametrize("notes", [{}, LINUX], ids=["plain", "linux"])
def test_contents(hypervisor, notes):
    """Kernel, initrd, p2m list and start_info are where the layout says, whatever machine frames the domain got."""
    domain, built = make_domain(hypervisor, notes)
    seen, lay = Seen(hypervisor, domain), built.layout
    assert sorted(seen.p2m) == list(range(2048))
    assert seen.read(0x100, len(CODE)) == CODE
    assert seen.read(lay.initrd_pfn, len(RAMDISK)) == RAMDISK
    p2m = np.frombuffer(seen.read(lay.p2m_pfn, 2048 * 8), dtype=np.uint64)
    assert p2m.tolist() == [seen.p2m[pfn] for pfn in range(2048)]
    info = start_info.unpack(seen.read(lay.start_info_pfn, start_info.SIZE))
    assert info["magic"] == b"xen-3.0-x86_64" and info["cmd_line"] == b"a b" and info["nr_pages"] == 2048
    assert info["store_mfn"] == seen.p2m[lay.store_pfn] and info["console_mfn"] == seen.p2m[lay.console_pfn]
    assert info["shared_info"] == domain.shared_info_mfn << 12
    assert info["mod_len"] == len(RAMDISK)
    if notes:
        assert info["flags"] == start_info.SIF_MOD_START_PFN and info["mod_start"] == lay.initrd_pfn
        assert info["mfn_list"] == 0x8000000000
        assert (info["first_p2m_pfn"], info["nr_p2m_frames"]) == (lay.p2m_pfn, 4 + 3)
    else:
        assert info["flags"] == 0 and info["mod_start"] == lay.virt(lay.initrd_pfn)
        assert info["mfn_list"] == lay.virt(lay.p2m_pfn) and info["nr_p2m_frames"] == 0


def test_first_registers(hypervisor):
    """Vcpu 0 starts at the entry, with RSI = start_info, on the boot stack, events masked; the L4 is pinned."""
    domain, built = make_domain(hypervisor, {})
    core, lay = domain.vcpus[0].core, built.layout
    assert core.rip == BASE + 0x100000 and core.rsi == lay.virt(lay.start_info_pfn)
    assert core.rsp == lay.virt(lay.stack_pfn) + 4096 and core.rflags & 0x200
    assert core.rax == core.rbx == core.rdi == 0
    assert core.cr3 >> 12 == Seen(hypervisor, domain).p2m[lay.pt_pfn]
    assert domain.shared_info[xen.vcpu_info.offset["evtchn_upcall_mask"]] == 1
    assert core.copy_from_guest(BASE + 0x100000, 16) == CODE[:16]
    assert hypervisor.memory.type(core.cr3 >> 12)[0] == 4


def test_hypercall_page(hypervisor):
    """A kernel with the note gets 128 stubs of 32 bytes, each with its number; iret's keeps RAX on the stack."""
    notes = {elfnote.XEN_ELFNOTE_HYPERCALL_PAGE: BASE + 0x101000}
    domain, _ = make_domain(hypervisor, notes)
    page = Seen(hypervisor, domain).read(0x101, 4096)
    for nr in range(128):
        stub = page[32 * nr : 32 * nr + 32]
        where = 5 if nr == 23 else 4
        assert int.from_bytes(stub[where : where + 4], "little") == nr and b"\x0f\x05" in stub
    assert page[23 * 32 : 23 * 32 + 4] == bytes.fromhex("51415350")


def test_grants_and_ports(hypervisor):
    """Grant references 0 and 1 give domain 0 the console and store rings; their ports wait for domain 0."""
    domain, built = make_domain(hypervisor, {})
    table = hypervisor.memory.view(domain.gnttab.frames[0])
    for ref, mfn in ((0, built.console_mfn), (1, built.store_mfn)):
        assert bytes(table[8 * ref : 8 * ref + 8]) == b"\x01\0\0\0" + mfn.to_bytes(4, "little")
    assert built.store_port != built.console_port


def test_memory_that_cannot_be_had(hypervisor):
    """More memory than the machine has left is refused in one sentence."""
    with pytest.raises(XenfastError, match="the domain's memory cannot be had"):
        make_domain(hypervisor, {}, nr_pages=1 << 20)


def test_hostile_kernels(hypervisor):
    """Whatever a kernel's addresses are, the outcome is a domain or XenfastError, and no frame is lost."""
    rng = random.Random(9)
    free = hypervisor.memory.free_pages
    edges = [0, 1, 0x1000, 0x7FFFFFFFF000, 1 << 47, (1 << 64) - 4096, BASE, 0xFFFF800000000000, 0xFFFF880000000000]
    for _ in range(60):
        virt_base = rng.choice(edges)
        vaddr = (virt_base + rng.choice([0, 0x1000, 0x100000])) & (1 << 64) - 1
        notes = dict(PV_NOTES)
        notes[elfnote.XEN_ELFNOTE_VIRT_BASE] = virt_base
        notes[elfnote.XEN_ELFNOTE_ENTRY] = vaddr
        if rng.random() < 0.5:
            notes[elfnote.XEN_ELFNOTE_INIT_P2M] = rng.choice(edges)
        if rng.random() < 0.3:
            notes[elfnote.XEN_ELFNOTE_MOD_START_PFN] = 1
        image = make(notes, CODE, vaddr=vaddr, paddr=(vaddr - virt_base) & (1 << 64) - 1, memsz=rng.choice([0, 0x300000]))
        domain = hypervisor.create_domain("test", max_pages=1200)
        try:
            build.build_pv(domain, kernel.pv_kernel(elf.parse(image)), RAMDISK, "")
        except XenfastError:
            pass
        domain.destroy()
        assert hypervisor.memory.free_pages == free
