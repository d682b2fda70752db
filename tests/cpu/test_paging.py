"""Paging as a system sees it: small guests in every paging mode, for faults, rights and the TLB (SDM Vol. 3, ch. 4).

What control registers refuse is in test_paging_registers, random page walks are in test_paging_walks, random lives of a
TLB in test_paging_tlb.
"""

import struct

import pytest

from tests.cpu.asm import assemble
from tests.cpu.paging_guest import CODE, DATA, OTHER, PCIDE, PGE, PKE, SMAP, SMEP, STACK, WRITABLE, Guest
from tests.cpu.paging_machine import MODES, NX, PS, RW, A, D, G, P


# -- faults and flags ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("mode", MODES)
def test_accessed_and_dirty(mode):
    """A read sets A of its entry, a write D too; a page nobody touches gets neither, and a write that faults sets
    none.
    """
    g = Guest(mode)
    for address in (DATA, OTHER):
        assert g.get(g.pte(address)) & (A | D) == 0
    assert g.run(f"mov eax, [{DATA}]") is None
    assert g.get(g.pte(DATA)) & (A | D) == A
    assert g.run(f"mov [{DATA}], eax") is None
    assert g.get(g.pte(DATA)) & (A | D) == A | D
    g.flags(OTHER, P)
    g.run(f"invlpg [{OTHER}]")
    assert g.run(f"mov [{OTHER}], eax") == (14, 3) and g.get(g.pte(OTHER)) & (A | D) == 0
    assert g.get(g.pte(DATA + 0x1000)) & (A | D) == 0


@pytest.mark.parametrize("mode", MODES)
def test_compare_and_exchange_always_writes(mode):
    """CMPXCHG that finds another value writes the old one back: D is set, and a read-only page faults with W/R set."""
    g = Guest(mode)
    g.put(DATA, 5, 4)
    assert g.run(f"mov eax, 1; lock cmpxchg [{DATA}], ecx") is None
    assert g.get(g.pte(DATA)) & D and g.get(DATA, 4) == 5
    g.flags(DATA, P)
    assert g.run(f"invlpg [{DATA}]; lock cmpxchg [{DATA}], ecx") == (14, 3)


@pytest.mark.parametrize("mode", MODES)
def test_a_write_across_a_page_end_is_all_or_nothing(mode):
    """When the second page faults, CR2 is its first byte and the first page is unchanged."""
    g = Guest(mode)
    g.flags(DATA + 0x1000, 0)
    g.put(DATA + 0xFFC, 0x11223344, 4)
    assert g.run(f"mov eax, -1; mov [{DATA + 0xFFE}], eax") == (14, 2)
    assert g.cpu.cr2 == DATA + 0x1000 and g.get(DATA + 0xFFC, 4) == 0x11223344


@pytest.mark.parametrize("mode", MODES)
def test_a_fault_reaches_its_handler(mode):
    """Through the IDT: the error code on the stack, CR2, and the access again once the handler has mapped the page."""
    g = Guest(mode)
    g.flags(DATA, 0)
    pte, value = g.pte(DATA), DATA | P | RW
    gdt, idt, handler = 0x6000, 0x7000, 0x5000
    code = 0x00AF9B000000FFFF if g.bits == 64 else 0x00CF9B000000FFFF
    g.ram[gdt : gdt + 24] = struct.pack("<3Q", 0, code, 0x00CF93000000FFFF)
    g.cpu.set_table("gdtr", gdt, 23)
    wide = 16 if g.bits == 64 else 8
    g.put(idt + 14 * wide, handler | 8 << 16 | 0x8E00 << 32, 8)
    g.cpu.set_table("idtr", idt, 15 * wide - 1)
    r = "r" if g.bits == 64 else "e"
    back = "iretq" if g.bits == 64 else "iretd"
    text = f"pop {r}bx; mov {r}cx, cr2; mov dword ptr [{pte}], {value}; invlpg [{DATA}]; {back}"
    handler_code = assemble(text, g.bits, handler)
    g.ram[handler : handler + len(handler_code)] = handler_code
    assert g.run(f"mov eax, 0x1234; mov [{DATA + 8}], eax; mov edx, [{DATA + 8}]") is None
    assert (g.cpu.rbx, g.cpu.rcx, g.cpu.rdx) == (2, DATA + 8, 0x1234)


def test_a_reserved_bit_of_a_large_page():
    """A 2-MByte page with an odd address: RSVD and P; with bit 12 (PAT) only, it is fine."""
    g = Guest("4level")
    entry = g.directory + (DATA >> 21) * 8
    g.put(entry, DATA | PS | P | RW | 1 << 12)
    assert g.run(f"mov eax, [{DATA}]") is None
    g.put(entry, DATA | PS | P | RW | 1 << 13)
    assert g.run(f"invlpg [{DATA + 0x5000}]; mov eax, [{DATA}]") == (14, 9)


def test_execution_of_a_page_that_is_not_executable():
    """XD with EFER.NXE: a fetch faults with I/D; without NXE it is a reserved bit."""
    g = Guest("pae")
    g.flags(DATA, P | RW | NX)
    assert g.run("nop", at=DATA) == (14, 0x11)
    g.cpu.efer = 0
    assert g.run("nop", at=DATA) == (14, 9)


# -- SMAP, SMEP, protection keys -------------------------------------------------------------------------------------
@pytest.mark.parametrize("mode", MODES)
def test_stac_and_clac(mode):
    """Under SMAP ring 0 reads a user page between STAC and CLAC only, whatever it has read before."""
    g = Guest(mode)
    g.flags(DATA, WRITABLE)
    r = "r" if g.bits == 64 else "e"
    assert g.run(f"mov {r}ax, cr4; or eax, {SMAP}; mov cr4, {r}ax") is None
    for _ in range(2):
        assert g.run(f"mov eax, [{DATA}]") == (14, 1)
        assert g.run(f"stac; mov eax, [{DATA}]; mov [{DATA}], eax") is None
        assert g.run(f"clac; mov [{DATA}], eax") == (14, 3)


@pytest.mark.parametrize("mode", MODES)
def test_popf_closes_what_stac_has_opened(mode):
    """EFLAGS.AC counts, however it changes."""
    g = Guest(mode)
    g.flags(DATA, WRITABLE)
    g.cpu.cr4 |= SMAP
    flags = "pushfq; pop rbx" if g.bits == 64 else "pushfd; pop ebx"
    restore = "push rbx; popfq" if g.bits == 64 else "push ebx; popfd"
    assert g.run(f"{flags}; stac; mov eax, [{DATA}]; {restore}; mov eax, [{DATA}]") == (14, 1)


@pytest.mark.parametrize("mode", MODES)
def test_descriptors_on_a_user_page(mode):
    """The processor's own accesses are supervisor accesses that EFLAGS.AC does not help, in ring 3 as well (4.6.1,
    implicit).
    """
    g = Guest(mode)
    g.flags(DATA, WRITABLE)
    g.ram[DATA : DATA + 24] = struct.pack("<3Q", 0, 0, 0x00CFF3000000FFFF)
    g.cpu.set_table("gdtr", DATA, 23)
    for page in (CODE, STACK - 0x1000):
        g.flags(page, WRITABLE)
    assert g.run("mov ax, 16; mov es, ax") is None
    g.cpu.cr4 |= SMAP
    g.ring3()
    g.cpu.rflags |= 1 << 18
    assert g.run("mov ax, 0x13; mov es, ax") == (14, 1)
    g.cpu.rflags &= ~(1 << 18)
    assert g.run("mov ax, 0x13; mov es, ax") == (14, 1)


@pytest.mark.parametrize("mode", MODES)
def test_smep(mode):
    """Ring 0 may not run a user page; the error code tells a fetch also without NX."""
    g = Guest(mode)
    g.flags(DATA, WRITABLE)
    g.ram[DATA : DATA + 8] = b"\x90" * 8
    assert g.run("nop; nop", at=DATA) is None
    g.cpu.cr4 |= SMEP
    g.cpu.efer &= ~0x800
    assert g.run("nop; nop", at=DATA) == (14, 0x11)


def test_protection_keys():
    """PKRU denies user pages by key: reads and writes (AD), writes (WD; to ring 0 with CR0.WP only); never fetches."""
    g = Guest("4level")
    g.flags(DATA, WRITABLE | 5 << 59)
    assert g.run("xor ecx, ecx; xor edx, edx; wrpkru") == (6, 0)
    assert g.run("mov rax, cr4; bts eax, 22; mov cr4, rax; xor ecx, ecx; rdpkru") is None and (
        g.cpu.rax,
        g.cpu.rdx,
    ) == (0, 0)
    assert g.run(
        f"mov [{DATA}], eax; mov eax, {2 << 10}; xor edx, edx; wrpkru; mov eax, [{DATA}]; mov [{DATA}], eax"
    ) == (14, 0x23)
    assert (
        g.run(f"mov rax, cr0; btr eax, 16; mov cr0, rax; mov [{DATA}], eax; mov rax, cr0; bts eax, 16; mov cr0, rax")
        is None
    )
    assert g.run(f"mov eax, {1 << 10}; wrpkru; mov eax, [{DATA}]") == (14, 0x21)
    assert g.run("nop", at=DATA) is None
    assert g.run("mov ecx, 1; rdpkru") == (13, 0) and g.run("xor ecx, ecx; mov edx, 1; wrpkru") == (13, 0)


def test_protection_keys_in_cpuid():
    """OSPKE (leaf 7 ECX bit 4) follows CR4.PKE; PKU hidden makes CR4.PKE reserved."""
    g = Guest("4level")
    assert g.cpu.cpuid(7)[2] & 0x18 == 8
    g.cpu.cr4 |= PKE
    assert g.cpu.cpuid(7)[2] & 0x18 == 0x18
    g.cpu.cr4 &= ~PKE
    g.cpu.set_cpuid("pku", False)
    assert g.run("mov rax, cr4; bts eax, 22; mov cr4, rax") == (13, 0)


# -- 5-level paging --------------------------------------------------------------------------------------------------
def test_canonical_addresses_of_57_bits():
    """With CR4.LA57 an address is canonical in 57 bits: below that a page fault, beyond it #GP(0), through RSP #SS(0).
    With CR4.LA57 an address is canonical in 57 bits: below that a page fault, beyond it #GP(0), through RSP #SS(0).
    """
    g = Guest("5level")
    assert g.run(f"mov rbx, {1 << 48}; mov rax, [rbx]") == (14, 0)
    assert g.run(f"mov rbx, {1 << 56}; mov rax, [rbx]") == (13, 0)
    assert g.run("mov rbx, 0xff00000000000000; mov rax, [rbx]") == (14, 0)
    assert g.run("mov rbx, 0xfe00000000000000; mov rax, [rbx]") == (13, 0)
    assert g.run(f"mov rsp, {1 << 57}; push rax") == (12, 0)
    assert g.run(f"mov rbx, {1 << 56}; jmp rbx") == (13, 0)
    assert g.run(f"mov rbx, {1 << 52}; jmp rbx") == (14, 0x10)


def test_bases_are_as_wide_as_the_processor():
    """A base that is only loaded may have 57 bits as soon as the processor has 5 levels, also with 4-level paging on;
    without, 48.
    """
    base = f"mov ecx, 0xc0000100; mov eax, 0; mov edx, {1 << 20}; wrmsr"  # 1 << 52
    g = Guest("4level")
    assert g.run(base) == (13, 0)
    assert g.cpu.cpuid(0x80000008)[0] >> 8 & 0xFF == 48
    g.cpu.set_cpuid("la57", True)
    assert g.cpu.cpuid(0x80000008)[0] >> 8 & 0xFF == 57
    assert g.run(base) is None
    assert g.run("mov rax, fs:[0]") == (13, 0)


# -- the TLB ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("mode", MODES)
def test_invlpg_forgets_all_of_a_large_page(mode):
    """After INVLPG of any byte of a large page none of its translations is left (4.10.4.1)."""
    g = Guest(mode)
    base, size = 0x800000, 0x400000 if mode == "32" else 0x200000
    entry = g.directory + (base // size) * g.size
    g.put(entry, base | PS | P | RW)
    g.put(0xC00000, 0x55, 4)
    assert g.run(f"mov eax, [{base}]; mov eax, [{base + 0x5000}]") is None
    g.put(entry, 0xC00000 | PS | P | RW)
    assert g.run(f"invlpg [{base + 0x7123}]; mov eax, [{base}]") is None and g.cpu.rax == 0x55
    g.put(entry, 0)
    assert g.run(f"invlpg [{base + size - 1}]; mov eax, [{base + 0x5000}]") == (14, 0)


def fills(g, text):
    """TLB fills while the assembly runs a second time."""
    assert g.run(text) is None
    before = g.cpu.statistics()["tlb_fills"]
    assert g.run(text) is None
    return g.cpu.statistics()["tlb_fills"] - before


@pytest.mark.parametrize("mode", MODES)
def test_mov_cr3_keeps_global_pages(mode):
    """Of what a guest touches after MOV CR3, pages with G are still there when CR4.PGE is set; without it they are
    not.
    """
    g = Guest(mode)
    for page in (CODE, STACK - 0x1000, DATA):
        g.flags(page, P | RW | G | D | A)
    r = "r" if g.bits == 64 else "e"
    text = f"mov {r}ax, cr3; mov cr3, {r}ax; mov eax, [{DATA}]; mov eax, [{OTHER}]"
    assert fills(g, text) >= 3
    g.cpu.cr4 |= PGE
    assert fills(g, text) == 1


def test_toggling_pge_forgets_global_pages():
    """MOV CR4 that changes PGE forgets every translation, global ones too."""
    g = Guest("4level")
    g.cpu.cr4 |= PGE
    g.flags(DATA, P | RW | G)
    assert g.run(f"mov eax, [{DATA}]") is None
    g.flags(DATA, 0)
    assert g.run(f"mov rax, cr3; mov cr3, rax; mov eax, [{DATA}]") is None
    assert g.run(f"mov rax, cr4; btr eax, 7; mov cr4, rax; mov eax, [{DATA}]") == (14, 0)


def test_pcids_keep_user_translations():
    """MOV CR3 with bit 63 finds what user code of that PCID had in the TLB; without it the PCID starts empty."""
    g = Guest("4level", ("pcid", "invpcid"))
    second = g.tables()
    g.ring3()
    for page in (CODE, DATA):
        for root in (g.root, second):
            g.flags(page, WRITABLE | A | D, root)
    g.put(DATA, 0x11, 4)
    g.cpu.cr4 |= PCIDE

    kernel, user = assemble("mov cr3, rax"), assemble(f"mov eax, [{DATA}]")
    g.ram[OTHER : OTHER + len(kernel)], g.ram[CODE : CODE + len(user)] = kernel, user

    def switch(cr3):
        g.cpu.cpl = 0
        g.cpu.rax, g.cpu.rip = cr3, OTHER
        g.cpu.run(1)
        assert g.cpu.cr3 == cr3 & (1 << 63) - 1
        g.cpu.cpl = 3

    def touched():
        before = g.cpu.statistics()["tlb_fills"]
        g.cpu.rip = CODE
        g.cpu.run(1)
        assert g.cpu.rip == CODE + len(user)
        return g.cpu.statistics()["tlb_fills"] - before

    switch(g.root | 1)
    assert touched() > 0
    switch(second | 2 | 1 << 63)
    assert touched() > 0
    switch(g.root | 1 | 1 << 63)
    assert touched() == 0
    switch(second | 2)
    assert touched() > 0


@pytest.mark.parametrize(
    "kind, pcid, address, pcide, refused",
    [
        (4, 0, 0, True, True),
        (1 << 32, 0, 0, True, True),
        (0, 1 << 12, 0, True, True),
        (2, 1 << 63, 0, True, True),
        (0, 0, 1 << 47, True, True),
        (0, 1, 0, False, True),
        (1, 1, 0, False, True),
        (0, 0, 0, False, False),
        (1, 0, 0, False, False),
        (2, 5, 1 << 63, False, False),
        (3, 0xFFF, 0, True, False),
        (1, 0xFFF, 0, True, False),
    ],
)
def test_invpcid_legality(kind, pcid, address, pcide, refused):
    """A type above 3, reserved bits, an address that is not canonical (type 0), a PCID without PCIDE (types 0, 1):
    #GP(0).
    """
    g = Guest("4level")
    if pcide:
        g.cpu.cr4 |= PCIDE
    g.ram[DATA : DATA + 16] = struct.pack("<QQ", pcid, address)
    g.cpu.rcx = kind
    assert g.run(f"invpcid rcx, [{DATA}]") == ((13, 0) if refused else None)


def test_invpcid_is_for_ring_0():
    """In ring 3 #GP(0); where CPUID does not have it, #UD."""
    g = Guest("4level")
    g.flags(CODE, WRITABLE)
    g.cpu.set_cpuid("invpcid", False)
    assert g.run(f"invpcid rcx, [{DATA}]") == (6, 0)
    g.cpu.set_cpuid("invpcid", True)
    g.ring3()
    assert g.run(f"invpcid rcx, [{DATA}]") == (13, 0)
