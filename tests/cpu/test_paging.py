"""Paging as a system sees it: small guests in every paging mode, and what MOV to the control registers refuses.

SDM Vol. 3, ch. 2, 4 and 9.  Random page walks are in test_paging_walks, random lives of a TLB in test_paging_tlb.
"""

import struct

import pytest

from tests.cpu.asm import assemble
from tests.cpu.paging_machine import MODES, NX, PS, RW, US, A, D, G, P
from xenfast import _core

MEMORY, CODE, STACK, TABLES, DATA, OTHER = 16 << 20, 0x1000, 0x9000, 0x100000, 0x200000, 0x300000
PCIDE, PGE, LA57, SMEP, SMAP, PKE, OSXSAVE, VMXE = 1 << 17, 1 << 7, 1 << 12, 1 << 20, 1 << 21, 1 << 22, 1 << 18, 1 << 13
WRITABLE = P | RW | US


class Guest:
    """16 MBytes mapped one to one with pages of 4 KBytes, ring 0, no IDT: an exception ends the run."""

    def __init__(self, mode, features=()):
        self.mode, self.bits = mode, 64 if "level" in mode else 32
        self.memory = _core.Memory(MEMORY >> 12)
        physmap = _core.GuestPhysMap(MEMORY >> 12)
        physmap.set(0, range(MEMORY >> 12))
        self.ram = self.memory.view(0, MEMORY >> 12)
        self.cpu = cpu = _core.Vcpu(self.memory, physmap)
        cpu.exact = True
        for name in features:
            cpu.set_cpuid(name, True)
        if mode == "5level":
            cpu.set_cpuid("la57", True)
        self.size = 4 if mode == "32" else 8
        self.levels = {"32": 2, "pae": 3, "4level": 4, "5level": 5}[mode]
        self.next_table = TABLES
        self.root = self.tables()
        cpu.set_table("idtr", 0, 0)
        cpu.cr4 = {"32": 0x10, "pae": 0x20, "4level": 0x20, "5level": 0x20 | LA57}[mode]
        cpu.efer = {"32": 0, "pae": 0x800}.get(mode, 0xD00)
        cpu.cr3 = self.root
        cpu.cr0 = 0x80010011
        cpu.set_segment("cs", 8, 0, 0xFFFFFFFF, 0xA09B if self.bits == 64 else 0xC09B)
        for name in ("ss", "ds", "es"):
            cpu.set_segment(name, 16, 0, 0xFFFFFFFF, 0xC093)
        cpu.rsp = STACK

    def put(self, address, value, size=None):
        size = size or self.size
        self.ram[address : address + size] = value.to_bytes(size, "little")

    def get(self, address, size=None):
        return int.from_bytes(self.ram[address : address + (size or self.size)], "little")

    def tables(self):
        """A new root over 16 MBytes; its address."""
        root = at = self.next_table
        for level in range(self.levels, 2, -1):
            self.put(at, at + 0x1000 | (P if level == 3 and self.mode == "pae" else WRITABLE))
            at += 0x1000
        per_table = 4096 // self.size
        for i in range(MEMORY // 4096 // per_table):
            table = at + (i + 1) * 0x1000
            self.put(at + i * self.size, table | WRITABLE)
            for k in range(per_table):
                self.put(table + k * self.size, (i * per_table + k) * 4096 | P | RW)
        self.directory = at
        self.next_table = at + 0x10000
        return root

    def pte(self, linear, root=None):
        """Address of the last entry for a linear address below 16 MBytes."""
        directory = self.directory if root is None else root + (self.levels - 2) * 0x1000
        per_table = 4096 // self.size
        page = linear >> 12
        return directory + (page // per_table + 1) * 0x1000 + page % per_table * self.size

    def flags(self, linear, flags, root=None, frame=None):
        self.put(self.pte(linear, root), (linear if frame is None else frame) & ~0xFFF | flags)

    def run(self, text, at=CODE, count=200):
        """Run assembly to its end; (vector, error code) of the exception that stopped it, or None."""
        code = assemble(text, self.bits, at)
        self.ram[at : at + len(code)] = code
        self.memory.wrote(at >> 12)
        cpu = self.cpu
        cpu.rip, cpu.until = at, at + len(code)
        reason = cpu.run(count)
        if reason == _core.ExitReason.EXIT_EXCEPTION:
            return cpu.exit_nr, cpu.exit_code
        assert reason == _core.ExitReason.EXIT_UNTIL, _core.ExitReason(reason)
        return None

    def ring3(self):
        self.cpu.set_segment("cs", 0x1B, 0, 0xFFFFFFFF, 0xA0FB if self.bits == 64 else 0xC0FB)
        for name in ("ss", "ds", "es"):
            self.cpu.set_segment(name, 0x23, 0, 0xFFFFFFFF, 0xC0F3)
        self.cpu.cpl = 3


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


# -- PAE directory pointers ------------------------------------------------------------------------------------------
def test_pdptes_are_registers():
    """In PAE paging the directory pointers are read when CR3 is loaded: a change in memory counts from the next MOV
    CR3 on.
    """
    g = Guest("pae")
    other = g.tables()
    g.put(g.root + 8, g.get(other) & ~0xFFF | P)  # the second GiB now shows the first again: not yet
    g.put(DATA, 0x77, 4)
    assert g.run(f"invlpg [{0x40000000 + DATA}]; mov eax, [{0x40000000 + DATA}]") == (14, 0)
    assert g.run(f"mov eax, cr3; mov cr3, eax; mov eax, [{0x40000000 + DATA}]") is None and g.cpu.rax == 0x77
    g.put(g.root + 8, 0)
    assert g.run(f"mov ebx, {0x40000000 + DATA}; invlpg [ebx]; mov eax, [ebx]") is None


@pytest.mark.parametrize("bit", [1, 2, 5, 6, 7, 8, 46, 51, 52, 62, 63])
def test_mov_cr3_refuses_a_bad_pdpte(bit):
    """Bits 2:1, 8:5 and 63:MAXPHYADDR of a present PDPTE: #GP(0), and the old CR3 and directories stay; not present,
    all are free.
    """
    g = Guest("pae")
    other = g.tables()
    g.put(other + 16, 1 << bit | P)
    assert g.run(f"mov eax, {other}; mov cr3, eax") == (13, 0)
    assert g.cpu.cr3 == g.root and g.run(f"mov eax, [{DATA}]") is None
    g.put(other + 16, 1 << bit)
    assert g.run(f"mov eax, {other}; mov cr3, eax; mov eax, [{DATA}]") is None


@pytest.mark.parametrize(
    "text",
    [
        "mov eax, cr4; bts eax, 7; mov cr4, eax",
        "mov eax, cr4; bts eax, 4; mov cr4, eax",
        "mov eax, cr4; bts eax, 20; mov cr4, eax",
        "mov eax, cr0; bts eax, 30; mov cr0, eax",
    ],
)
def test_what_else_loads_the_pdptes(text):
    """MOV CR4 that changes PGE, PSE or SMEP and MOV CR0 that changes CD load them too; one with a reserved bit is #GP
    (4.4.1).
    """
    g = Guest("pae")
    g.put(g.root + 24, 1 << 63 | P)
    before = g.cpu.cr0, g.cpu.cr4
    assert g.run(text) == (13, 0) and (g.cpu.cr0, g.cpu.cr4) == before
    g.put(g.root + 24, g.get(g.root) & ~0xFFF | P)
    assert g.run(f"{text}; mov eax, [{0xC0000000 + DATA}]") is None


def test_what_does_not_load_the_pdptes():
    """MOV CR4 that changes TSD, MOV CR0 that changes TS."""
    g = Guest("pae")
    g.put(g.root + 24, 1 << 63 | P)
    assert g.run("mov eax, cr4; bts eax, 2; mov cr4, eax; mov eax, cr0; bts eax, 3; mov cr0, eax") is None


# -- what control registers refuse -----------------------------------------------------------------------------------
def cr0(change):
    return f"mov rax, cr0; {change}; mov cr0, rax"


def cr4(change):
    return f"mov rax, cr4; {change}; mov cr4, rax"


LEGALITY = [  # 64-bit mode unless it says otherwise; None or #GP(0)
    ("4level", cr0("btr eax, 31"), True, "PG off in 64-bit mode"),
    ("4level", cr0("btr eax, 0"), True, "PE off with PG on"),
    ("4level", cr0("bts rax, 32"), True, "bits 63:32"),
    ("4level", cr0("bts eax, 29"), True, "NW without CD"),
    ("4level", cr0("bts eax, 30"), False, "CD"),
    ("4level", cr0("bts eax, 6"), False, "an undefined bit of the lower half is ignored"),
    ("4level", "mov rax, cr3; bts rax, 46; mov cr3, rax", True, "CR3 beyond MAXPHYADDR"),
    ("4level", "mov rax, cr3; bts rax, 63; mov cr3, rax", True, "CR3 bit 63 without PCIDE"),
    ("4level", "mov rax, cr3; or eax, 0x18; mov cr3, rax", False, "PWT and PCD"),
    ("4level", cr4("btr eax, 5"), True, "PAE off in IA-32e mode"),
    ("4level", cr4("bts eax, 12"), True, "LA57 while in IA-32e mode, or without the feature"),
    ("4level", cr4("bts eax, 13"), True, "VMXE without VMX"),
    ("4level", cr4("bts eax, 14"), True, "SMXE"),
    ("4level", cr4("bts eax, 15"), True, "reserved"),
    ("4level", cr4("bts eax, 19"), True, "key locker"),
    ("4level", cr4("bts eax, 23"), True, "CET"),
    ("4level", cr4("bts rax, 32"), True, "the upper half"),
    ("4level", cr4("bts eax, 17"), False, "PCIDE with PCID 0"),
    ("4level", "mov rax, cr3; or eax, 1; mov cr3, rax; " + cr4("bts eax, 17"), True, "PCIDE with a PCID in CR3"),
    (
        "4level",
        cr4("bts eax, 17") + "; mov rax, cr3; or eax, 0x123; bts rax, 63; mov cr3, rax; mov rax, cr3",
        False,
        "bit 63 with PCIDE",
    ),
    ("4level", cr4("bts eax, 17") + "; mov rax, cr3; bts rax, 62; mov cr3, rax", True, "bit 62 with PCIDE"),
    ("4level", "mov ecx, 0xc0000080; rdmsr; btr eax, 8; wrmsr", True, "LME off with PG on"),
    ("4level", "mov ecx, 0xc0000080; rdmsr; btr eax, 10; wrmsr", False, "LMA is read-only, and ignored"),
    ("4level", "mov ecx, 0xc0000080; rdmsr; bts eax, 1; wrmsr", True, "a reserved bit of EFER"),
    ("4level", "mov ecx, 0xc0000080; rdmsr; bts eax, 12; wrmsr", True, "SVME"),
    ("5level", cr4("btr eax, 12"), True, "LA57 off in IA-32e mode"),
    ("pae", "mov eax, cr4; bts eax, 17; mov cr4, eax", True, "PCIDE outside IA-32e mode"),
    ("pae", "mov ecx, 0xc0000080; rdmsr; bts eax, 8; wrmsr", True, "LME on with PG on"),
    ("32", "mov eax, cr4; bts eax, 22; mov cr4, eax", False, "PKE may be set outside IA-32e mode"),
    ("32", "mov eax, cr4; bts eax, 12; mov cr4, eax", True, "LA57 without the feature"),
]


@pytest.mark.parametrize("mode, text, refused, why", LEGALITY, ids=[row[3] for row in LEGALITY])
def test_legality(mode, text, refused, why):
    """MOV to CR0, CR3 and CR4, WRMSR of EFER: #GP(0) with nothing changed, or done."""
    g = Guest(mode)
    g.cpu.set_cpuid("xsave", False)
    before = g.cpu.cr0, g.cpu.cr4, g.cpu.efer
    assert g.run(text) == ((13, 0) if refused else None)
    if refused and "bts eax, 17" not in text:
        assert (g.cpu.cr0, g.cpu.cr4, g.cpu.efer) == before


def test_cr3_reads_back_without_bit_63():
    """With PCIDE bit 63 says only not to flush; it is not kept."""
    g = Guest("4level")
    assert g.run(cr4("bts eax, 17") + "; mov rax, cr3; or eax, 0x123; bts rax, 63; mov cr3, rax; mov rbx, cr3") is None
    assert g.cpu.rbx == g.root | 0x123


def test_paging_cannot_be_left_with_pcids():
    """MOV CR0 that clears PG while CR4.PCIDE is set is #GP(0); this needs compatibility mode to see."""
    g = Guest("4level")
    g.cpu.cr4 |= PCIDE
    g.cpu.set_segment("cs", 8, 0, 0xFFFFFFFF, 0xC09B)
    g.bits = 32
    assert g.run("mov eax, cr0; btr eax, 31; mov cr0, eax") == (13, 0)
    g.cpu.cr4 &= ~PCIDE
    assert g.run("mov eax, cr0; btr eax, 31; mov cr0, eax; mov ecx, 0xc0000080; rdmsr") is None
    assert g.cpu.rax & 0x500 == 0x100 and g.cpu.rip < 0x2000  # LME stays, LMA has gone


@pytest.mark.parametrize("attr, tr, refused", [(0xC09B, 0x8B, False), (0xE09B, 0x8B, True), (0xC09B, 0x83, True)])
def test_entering_ia32e_mode(attr, tr, refused):
    """CR0.PG with EFER.LME: #GP(0) with CS.L set or a 16-bit TSS in TR (9.8.5); else IA-32e mode."""
    g = Guest("4level")
    g.cpu.cr0, g.cpu.efer, g.bits = 0x11, 0x900, 32
    g.cpu.set_segment("cs", 8, 0, 0xFFFFFFFF, attr)
    g.cpu.set_segment("tr", 0, 0, 0xFFFF, tr)
    assert g.run("mov eax, cr0; bts eax, 31; mov cr0, eax") == ((13, 0) if refused else None)
    assert g.cpu.efer & 0x400 == (0 if refused else 0x400)


def test_entering_ia32e_mode_without_pae():
    """CR0.PG with EFER.LME and CR4.PAE clear is #GP(0)."""
    g = Guest("32")
    g.cpu.cr0, g.cpu.efer = 0x11, 0x900
    assert g.run("mov eax, cr0; bts eax, 31; mov cr0, eax") == (13, 0)


def test_nxe_needs_nx():
    """Without the feature EFER.NXE is a reserved bit."""
    g = Guest("pae")
    g.cpu.efer = 0
    g.cpu.set_cpuid("nx", False)
    assert g.run("mov ecx, 0xc0000080; rdmsr; bts eax, 11; wrmsr") == (13, 0)


# -- from mode to mode -----------------------------------------------------------------------------------------------
def test_a_walk_through_the_paging_modes():
    """No paging, 32-bit with 4-MByte pages, PAE, IA-32e with 4 levels, compatibility mode, and back to no paging;
    then 5 levels.

    In each mode a page is reached that only that mode's tables have.
    """
    g = Guest("32")
    g.cpu.set_cpuid("la57", True)
    t32, tpae, t4, t5 = 0x400000, 0x401000, 0x402000, 0x406000
    g.put(t32, PS | P | RW, 4)
    g.put(t32 + 4, 0x800000 | PS | P | RW, 4)  # 4 MBytes: 0x800000
    g.put(tpae, 0x404000 | P, 8)
    g.put(0x404000, PS | P | RW, 8)  # the directory PAE and 4 levels share
    g.put(0x404000 + 16, 0x800000 | PS | P | RW, 8)
    g.put(t4, 0x403000 | P | RW, 8)
    g.put(0x403000, 0x404000 | P | RW, 8)
    g.put(t5, t4 | P | RW, 8)
    g.put(t5 + 8, t4 | P | RW, 8)  # 1 << 48 on
    g.put(0x800000, 0x600DF00D, 4)
    gdt = 0x6000
    g.ram[gdt : gdt + 32] = struct.pack("<4Q", 0, 0x00CF9B000000FFFF, 0x00CF93000000FFFF, 0x00AF9B000000FFFF)
    cpu = g.cpu
    cpu.set_table("gdtr", gdt, 31)
    cpu.cr0, cpu.cr4, cpu.efer = 0x11, 0, 0
    on, off = "mov eax, cr0; bts eax, 31; mov cr0, eax", "mov eax, cr0; btr eax, 31; mov cr0, eax"
    lme = "mov ecx, 0xc0000080; rdmsr; or eax, 0x100; wrmsr"
    to64, to32 = ".byte 0xea; .long {0}; .word 0x18; .code64; {0}:", "push 8; push offset {0}; retfq; .code32; {0}:"
    g.bits = 64  # for the assembler; the code starts as 32-bit code
    text = f""".code32
        mov eax, [0x800000]; push eax
        mov eax, 0x10; mov cr4, eax; mov eax, {t32}; mov cr3, eax; {on}; mov eax, [0x400000]; push eax; {off}
        mov eax, 0x20; mov cr4, eax; mov eax, {tpae}; mov cr3, eax; {on}; mov eax, [0x400000]; push eax; {off}
        mov eax, {t4}; mov cr3, eax; {lme}; {on}; mov eax, [0x400000]; push eax
        {to64.format("four")} mov rax, [0x400000]; push rax; {to32.format("back")}
        mov eax, [0x400000]; push eax; {off}
        mov eax, 0x1020; mov cr4, eax; mov eax, {t5}; mov cr3, eax; {on}
        {to64.format("five")} mov rbx, {(1 << 48) + 0x400000}; mov rax, [rbx]; push rax"""
    assert g.run(text) is None
    assert struct.unpack("<QIQIIII", g.ram[STACK - 36 : STACK]) == (0x600DF00D,) * 7


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
    assert g.run(cr4("btr eax, 7") + f"; mov eax, [{DATA}]") == (14, 0)


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


# -- memory types ----------------------------------------------------------------------------------------------------
MTRRS = [  # MSR, value, #GP?
    (0x277, 0x0007040600070406, False),
    (0x277, 0x02, True),
    (0x277, 0x0300000000000000, True),
    (0x277, 0x08, True),
    (0x2FF, 0xC06, False),
    (0x2FF, 0xC02, True),
    (0x2FF, 0x1000, True),
    (0x2FF, 0x306, True),
    (0x250, 0x0001040506000104, False),
    (0x250, 0x02, True),
    (0x26F, 7 << 56, True),
    (0x200, 0x80000006, False),
    (0x200, 0x80000007, True),
    (0x200, 0x106, True),
    (0x200, 1 << 46 | 6, True),
    (0x201, 0x3FFF80000800, False),
    (0x201, 0x3FFF80000801, True),
    (0x201, 1 << 46, True),
    (0x20F, 0x800, False),
    (0xFE, 0, True),
]


@pytest.mark.parametrize("msr, value, refused", MTRRS, ids=[f"{msr:x}-{value:x}" for msr, value, _ in MTRRS])
def test_memory_type_registers(msr, value, refused):
    """PAT and MTRRs keep what they are given; reserved types and bits are #GP(0) (SDM Vol. 3, 11.11.2, 11.12.2)."""
    g = Guest("4level")
    text = f"mov ecx, {msr}; mov eax, {value & 0xFFFFFFFF}; mov edx, {value >> 32}; wrmsr; xor eax, eax; rdmsr"
    assert g.run(text) == ((13, 0) if refused else None)
    if not refused:
        assert g.cpu.rdx << 32 | g.cpu.rax == value


def test_execution_of_a_page_that_is_not_executable():
    """XD with EFER.NXE: a fetch faults with I/D; without NXE it is a reserved bit."""
    g = Guest("pae")
    g.flags(DATA, P | RW | NX)
    assert g.run("nop", at=DATA) == (14, 0x11)
    g.cpu.efer = 0
    assert g.run("nop", at=DATA) == (14, 9)
