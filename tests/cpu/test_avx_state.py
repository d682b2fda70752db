"""AVX and the machine around it: what turns it on, which elements may fault, what XSAVE, XCR0 and CPUID say of its state."""

import struct

import pytest

from tests.cpu.asm import assemble
from xenfast.machine import Machine, Reason

CODE, DATA = 0x10000, 0x20000                    # DATA: one page, the next one is not mapped
END = DATA + 0x1000
UD, NM, GP, PF = 6, 7, 13, 14
OSXSAVE = 1 << 18


def machine(text: str, mode: int = 64, ring: int = 0, cpu: str = "max", **registers: int) -> Machine:
    m = Machine(memory=1 << 20, mode=mode, ring=ring, cpu=cpu)
    m.map(CODE, 0x1000)
    if mode != 16:
        m.map(DATA, 0x1000)
        m.cpu.cr4 |= OSXSAVE if "xsave" in m.cpu.features() else 0
    m.cpu.xcr0 = 7
    m.write(CODE, assemble(text + "\nhlt", mode, CODE) if text else b"")
    m.rip = CODE
    for name, value in registers.items():
        setattr(m, name, value)
    return m


def vector(m: Machine) -> int | None:
    """Run to the HLT: the exception that came first, or None."""
    stop = m.run(1000)
    assert stop.reason in (Reason.HLT, Reason.EXCEPTION)
    return stop.vector if stop.reason is Reason.EXCEPTION else None


def words(m: Machine, n: int) -> list[int]:
    return list(struct.unpack("<8I", m.cpu.vector(n)))


def set_words(m: Machine, n: int, *values: int) -> None:
    m.cpu.set_vector(n, struct.pack("<8I", *(v & 0xFFFFFFFF for v in values)))


# ---- availability ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("engine", ["steps", "blocks", "translator"])
@pytest.mark.parametrize(("cr0", "cr4", "xcr0", "expected"), [
    (0, 0, 7, None), (8, 0, 7, NM), (4, 0, 7, None), (0, OSXSAVE, 7, UD), (8, OSXSAVE, 7, UD), (0, 0, 3, UD), (8, 0, 3, UD), (0, 0, 1, UD),
    (0, 1 << 9, 7, None),
])
def test_availability(cr0, cr4, xcr0, expected, engine):
    """#UD without CR4.OSXSAVE or XCR0's SSE and AVX, else #NM with CR0.TS; CR0.EM and CR4.OSFXSR do not matter (SDM Vol. 2, 2.4)."""
    m = machine("vaddps ymm0, ymm1, ymm2")
    m.cpu.exact = engine == "steps"
    if engine == "translator":
        m.cpu.hot_after = 0
    m.cpu.cr0 = (m.cpu.cr0 & ~0xE) | cr0
    m.cpu.cr4 &= ~cr4
    m.cpu.xcr0 = xcr0
    assert vector(m) == expected


def test_general_register_vex_needs_no_state():
    """ANDN works with XCR0 and CR4.OSXSAVE off: VEX on general registers is no state component's."""
    m = machine("andn eax, ecx, edx", rcx=0xF0, rdx=0xFF)
    m.cpu.cr4 &= ~OSXSAVE
    m.cpu.xcr0 = 1
    assert vector(m) is None and m.rax == 0x0F


def test_vex_in_real_mode():
    """In real mode C5 with mod = 3 is LDS of a register and C4 is LES: #UD, whatever follows."""
    for code in ("c5 f8 58 c1", "c4 e1 78 58 c1"):
        m = Machine(memory=1 << 20, mode=16)
        m.map(CODE, 0x1000)
        m.write(CODE, bytes.fromhex(code))
        m.cpu.set_segment("cs", CODE >> 4, CODE, 0xFFFF, 0x9B)
        m.rip = 0
        stop = m.run(1)
        assert stop.reason is Reason.EXCEPTION and stop.vector == UD


@pytest.mark.parametrize("text", ["vmovaps ymm0, [rsi+{}]", "vmovdqa [rsi+{}], ymm0", "vmovntps [rsi+{}], ymm0",
                                  "vmovntdqa ymm0, [rsi+{}]"])
def test_alignment(text):
    """Aligned moves want 32 bytes with VEX.256, and #GP(0) otherwise; others take any address."""
    assert vector(machine(text.format(16), rsi=DATA)) == GP
    assert vector(machine(text.format(32), rsi=DATA)) is None
    assert vector(machine("vaddps ymm0, ymm1, [rsi+1]; vmovups [rsi+3], ymm0", rsi=DATA)) is None


def test_zero_all_outside_64_bit_mode():
    """VZEROALL and VZEROUPPER outside 64-bit mode clear eight registers."""
    m = machine("vzeroall", 32)
    for n in range(16):
        set_words(m, n, *range(1, 9))
    assert vector(m) is None
    assert [any(words(m, n)) for n in range(16)] == [False] * 8 + [True] * 8


# ---- elements that fault ----------------------------------------------------------------------------------------------
def test_masked_load_touches_only_what_it_loads():
    """VMASKMOVPS across the end of mapped memory is no fault while the elements beyond are masked; they read as 0."""
    m = machine("vmaskmovps ymm0, ymm1, [rsi]", rsi=END - 16)
    m.write(END - 16, struct.pack("<4I", 1, 2, 3, 4))
    set_words(m, 0, *[9] * 8)
    set_words(m, 1, -1, 0, -1, -1, 0, 0, 0, 0)
    assert vector(m) is None and words(m, 0) == [1, 0, 3, 4, 0, 0, 0, 0]


def test_masked_load_of_a_missing_page():
    """With one element beyond: #PF at that element, and the destination is as it was."""
    m = machine("vmaskmovps ymm0, ymm1, [rsi]", rsi=END - 16)
    set_words(m, 0, *[9] * 8)
    set_words(m, 1, -1, 0, 0, 0, 0, -1, 0, 0)
    assert vector(m) == PF and m.cpu.cr2 == END + 4 and words(m, 0) == [9] * 8


def test_masked_store_writes_all_or_nothing():
    """VPMASKMOVD to memory writes the elements asked for, and none of them when one faults."""
    m = machine("vpmaskmovd [rsi], ymm1, ymm0", rsi=END - 16)
    set_words(m, 0, *range(1, 9))
    set_words(m, 1, -1, 0, 0, -1, 0, 0, 0, 0)
    assert vector(m) is None
    assert struct.unpack("<4I", m.read(END - 16, 16)) == (1, 0, 0, 4)
    m.write(END - 16, bytes(16))
    m.rip = CODE
    set_words(m, 1, -1, 0, 0, -1, 0, 0, -1, 0)
    assert vector(m) == PF and m.cpu.cr2 == END + 8 and m.read(END - 16, 16) == bytes(16)


def test_gather_goes_on_where_it_faulted():
    """A gather that faults has loaded the elements below and cleared their mask; restarted, it does not load them again."""
    m = machine("vpgatherdd ymm0, [rsi+ymm1*4], ymm2", rsi=DATA)
    m.write(DATA, struct.pack("<8I", *range(10, 18)))
    set_words(m, 0, *[99] * 8)
    set_words(m, 1, 0, 1, 2, 0x400, 4, 5, 6, 7)
    set_words(m, 2, -1, -1, 0, -1, -1, 0, -1, -1)
    assert vector(m) == PF and m.cpu.cr2 == END
    assert words(m, 0)[:4] == [10, 11, 99, 99] and words(m, 2)[:4] == [0, 0, 0, 0xFFFFFFFF]
    m.map(END, 0x1000)
    m.write(END, struct.pack("<I", 77))
    m.write(DATA, struct.pack("<2I", 0, 0))
    assert vector(m) is None
    assert words(m, 0) == [10, 11, 99, 77, 14, 99, 16, 17] and not any(words(m, 2))


@pytest.mark.parametrize("code", ["c4e26d900486", "c4e27d90048e", "c4e27590048e"], ids=["index", "mask", "mask and index"])
def test_gather_wants_three_registers(code):
    """#UD when destination, indices and mask are not three different registers."""
    m = machine("", rsi=DATA)
    m.write(CODE, bytes.fromhex(code) + b"\xf4")
    assert vector(m) == UD


# ---- XCR0, XSAVE and CPUID --------------------------------------------------------------------------------------------
XSETBV = "mov ecx, {index}; mov eax, {value}; xor edx, edx; xsetbv"


@pytest.mark.parametrize(("value", "index", "expected"), [
    (7, 0, None), (3, 0, None), (1, 0, None), (6, 0, GP), (5, 0, GP), (0, 0, GP), (0x207, 0, None), (0x17, 0, GP), (7, 1, GP),
])
def test_xsetbv(value, index, expected):
    """XCR0 has x87 always and AVX not without SSE; what is not there cannot be set (SDM Vol. 1, 13.3)."""
    m = machine(XSETBV.format(index=index, value=value))
    m.cpu.xcr0 = 1
    assert vector(m) == expected
    assert m.cpu.xcr0 == (1 if expected else value)


def test_xsetbv_wants_ring_0_and_osxsave():
    """#GP outside ring 0; XSETBV and XGETBV are #UD without CR4.OSXSAVE."""
    assert vector(machine(XSETBV.format(index=0, value=7), ring=3)) == GP
    for text in (XSETBV.format(index=0, value=7), "xor ecx, ecx; xgetbv"):
        m = machine(text)
        m.cpu.cr4 &= ~OSXSAVE
        assert vector(m) == UD


def test_avx_that_is_off_cannot_be_enabled():
    """Without AVX in CPUID, XCR0's bit 2 cannot be set, and leaf Dh does not have it."""
    m = machine(XSETBV.format(index=0, value=7), cpu="max,-avx,-pku")
    assert m.cpu.cpuid(0xD)[0] == 3 and m.cpu.cpuid(0xD)[2] == 576 and m.cpu.cpuid(0xD, 2) == (0, 0, 0, 0)
    m.cpu.xcr0 = 1
    assert vector(m) == GP


def test_leaf_d():
    """CPUID leaf Dh: what XCR0 may have, the sizes of areas for XCR0 and for all there is, where components are."""
    m = machine("nop")
    assert m.cpu.cpuid(0xD) == (0x207, 832, 840, 0)
    assert m.cpu.cpuid(0xD, 1) == (0xF, 832, 0, 0)
    assert m.cpu.cpuid(0xD, 2)[:2] == (256, 576) and m.cpu.cpuid(0xD, 9)[:2] == (8, 832)
    m.cpu.xcr0 = 0x203
    assert m.cpu.cpuid(0xD)[1] == 840 and m.cpu.cpuid(0xD, 1)[1] == 584        # compacted: PKRU follows the header
    assert m.cpu.cpuid(1)[2] >> 26 & 3 == 3


def test_xgetbv_tells_what_is_in_use():
    """XGETBV with ECX = 1 has the components of XCR0 that are not in their initial configuration; MXCSR counts as SSE's."""
    m = machine("mov ecx, 1; xgetbv")
    assert vector(m) is None and m.rax == 0
    m.rip = CODE
    set_words(m, 3, 0, 0, 0, 0, 0, 0, 0, 1)
    assert vector(m) is None and m.rax == 4
    m.rip, m.cpu.mxcsr = CODE, 0x1FA0
    assert vector(m) is None and m.rax == 6


def test_xsave_faults_before_it_writes():
    """An area that ends in a missing page: #PF, and nothing of it has been written."""
    m = machine("mov eax, 7; xor edx, edx; xsave [rsi]", rsi=END - 576)
    set_words(m, 0, *range(1, 9))
    assert vector(m) == PF and m.cpu.cr2 & ~0xFFF == END
    assert m.read(END - 576, 576) == bytes(576)
    m.rip = CODE
    m.rsi = DATA + 32
    assert vector(m) == GP


@pytest.mark.parametrize("text", ["xsave [rsi]", "xrstor [rsi]", "xsaveopt [rsi]", "xsavec [rsi]", "xsaves [rsi]", "xrstors [rsi]"])
def test_xsave_availability(text):
    """All of them: #UD without CR4.OSXSAVE, #NM with CR0.TS, whatever CR0.EM says."""
    for cr0, cr4, expected in ((0, OSXSAVE, UD), (8, 0, NM), (8, OSXSAVE, UD)):
        m = machine(text, rsi=DATA)
        m.cpu.cr0 |= cr0
        m.cpu.cr4 &= ~cr4
        assert vector(m) == expected


def test_xsaves_and_xrstors_in_ring_0():
    """XSAVES writes the compacted format, XRSTORS reads it back and refuses the standard one; IA32_XSS stays 0."""
    m = machine("mov eax, 7; xor edx, edx; xsaves [rsi]; vzeroall; xrstors [rsi]", rsi=DATA)
    set_words(m, 5, *range(1, 9))
    assert vector(m) is None and words(m, 5) == list(range(1, 9))
    assert struct.unpack("<2Q", m.read(DATA + 512, 16)) == (6, 1 << 63 | 7)
    m = machine("mov eax, 7; xor edx, edx; xsave [rsi]; xrstors [rsi]", rsi=DATA)
    assert vector(m) == GP
    assert vector(machine("mov ecx, 0xDA0; rdmsr; wrmsr")) is None
    assert vector(machine("mov ecx, 0xDA0; mov eax, 0x100; xor edx, edx; wrmsr")) == GP


def test_protection_keys_are_a_component():
    """PKRU is saved and restored with XCR0's bit 9, behind AVX in the standard format and without a gap in the compacted one."""
    m = machine("mov eax, 0x201; xor edx, edx; xsave [rsi]; xsavec [rdi]", rsi=DATA, rdi=DATA + 0x400)
    m.cpu.xcr0 = 0x207
    m.cpu.pkru = 0x55555554
    assert vector(m) is None
    assert struct.unpack("<Q", m.read(DATA + 832, 8))[0] == 0x55555554 == struct.unpack("<Q", m.read(DATA + 0x400 + 576, 8))[0]
    m.cpu.pkru = 0
    m.write(CODE, assemble("xrstor [rdi]; hlt", 64, CODE))
    m.rip = CODE
    assert vector(m) is None and m.cpu.pkru == 0x55555554
