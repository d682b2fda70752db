"""What MOV to the control registers, WRMSR and changes of mode refuse and do for paging.

SDM Vol. 2, MOV to control registers; Vol. 3, 2.5, 4.4.1, 9.8.5, 11.11.
"""

import struct

import pytest

from tests.cpu.paging_guest import DATA, PCIDE, STACK, Guest
from tests.cpu.paging_machine import PS, RW, P


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
