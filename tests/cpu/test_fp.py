"""Floating point and the machine around it: what CR0, CR4 and the host's own floating-point state have to do with it."""

import math
import struct

import pytest

from xenfast.machine import Machine, Reason

CODE, DATA = 0x10000, 0x20000
ADDSD, FLD1, PADDB, FXSAVE, FWAIT = "f2 0f 58 c1", "d9 e8", "0f fc c1", "0f ae 07", "9b"
UD, NM, MF, XM = 6, 7, 16, 19


def machine(code: str, mode: int = 64) -> Machine:
    m = Machine(memory=1 << 20, mode=mode)
    m.map(CODE, 0x1000)
    m.map(DATA, 0x1000)
    m.write(CODE, bytes.fromhex(code) + b"\xf4")
    m.cpu.rip, m.cpu.rdi, m.cpu.exact = CODE, DATA, True
    return m


def vector(m: Machine) -> int | None:
    """Run one instruction: the exception it raised, or None."""
    return m.cpu.exit_nr if m.cpu.run(1) == Reason.EXCEPTION else None


def set_doubles(m: Machine, *values: float) -> None:
    for i, value in enumerate(values):
        m.cpu.set_vector(i, struct.pack("<d", value))


@pytest.mark.parametrize(("code", "cr0", "cr4", "expected"), [
    (ADDSD, 8, 0, NM), (ADDSD, 4, 0, UD), (ADDSD, 12, 0, UD), (ADDSD, 0, 1 << 9, UD), (ADDSD, 8, 1 << 9, UD),
    (PADDB, 8, 0, NM), (PADDB, 4, 0, UD), (PADDB, 0, 1 << 9, None), (FLD1, 8, 0, NM), (FLD1, 4, 0, NM), (FLD1, 0, 1 << 9, None),
    (FXSAVE, 8, 0, NM), (FXSAVE, 4, 0, NM), (FWAIT, 8, 0, None), (FWAIT, 10, 0, NM), (FWAIT, 2, 0, None),
])
def test_availability(code, cr0, cr4, expected):
    """CR0.EM, MP and TS and CR4.OSFXSR make #UD or #NM as SDM Vol. 3, tables 9-3, 12-1 and 13-1 say."""
    m = machine(code)
    m.cpu.cr0 = (m.cpu.cr0 & ~0xE) | cr0
    m.cpu.cr4 &= ~cr4
    assert vector(m) == expected


def test_the_host_keeps_its_own_rounding():
    """The guest's MXCSR (towards zero, flush to zero, denormals are zero) is gone from the host when run() returns."""
    m = machine(ADDSD)
    m.cpu.mxcsr = 0xFFC0
    set_doubles(m, 1.0, 2.0**-60)
    m.cpu.run(1)
    one = float("1")                                             # not known to the compiler, which would fold it all
    assert one + 1.5 * 2.0**-53 > one and math.nextafter(0.0, 1.0) * one > 0.0


def test_flags_stick_until_somebody_looks():
    """PE of an addition is in MXCSR when run() returns, and stays there."""
    m = machine(ADDSD + ADDSD)
    set_doubles(m, 1.0, 2.0**-60)
    m.cpu.run(1)
    assert m.cpu.mxcsr == 0x1FA0
    m.cpu.run(1)
    assert m.cpu.mxcsr == 0x1FA0


def test_two_vcpus_round_each_in_its_own_way():
    """MXCSR belongs to a vcpu: two that take turns on one thread do not see each other's."""
    up, down = machine(ADDSD * 4), machine(ADDSD * 4)
    up.cpu.mxcsr, down.cpu.mxcsr = 0x5F80, 0x3F80
    for m in (up, down):
        set_doubles(m, 1.0, 2.0**-60)
    for _ in range(3):
        up.cpu.run(1)
        down.cpu.run(1)
    assert struct.unpack("<d", up.cpu.vector(0)[:8])[0] == 1.0 + 3 * 2.0**-52
    assert struct.unpack("<d", down.cpu.vector(0)[:8])[0] == 1.0


def test_unmasked_exception_without_osxmmexcpt():
    """With CR4.OSXMMEXCPT clear an unmasked SIMD floating-point exception is #UD, otherwise #XM; nothing is stored."""
    for cr4, expected in ((0, UD), (1 << 10, XM)):
        m = machine("f2 0f 5e c1")
        m.cpu.cr4 = (m.cpu.cr4 & ~(1 << 10)) | cr4
        m.cpu.mxcsr = 0x1F80 & ~0x200
        set_doubles(m, 1.0, 0.0)
        assert vector(m) == expected
        assert m.cpu.mxcsr & 0x3F == 4 and m.cpu.vector(0)[:8] == struct.pack("<d", 1.0)


def test_x87_exception_waits_for_the_next_instruction():
    """An unmasked division by zero shows at the next waiting instruction, with the operands untouched; FNSTSW sees it first."""
    m = machine("d9 ee d9 e8 de f1 df e0 9b")                    # fldz; fld1; fdivrp... 1 / 0; fnstsw ax; fwait
    m.cpu.set_x87(0x37F & ~4, 0, 0, [(0, 0)] * 8)
    for _ in range(4):
        assert vector(m) is None
    assert m.cpu.rax & 0x8084 == 0x8084
    assert m.cpu.x87()[2] == 0xC0, "the division must not pop"
    assert vector(m) == MF


def test_fxsave_in_32_bit_mode_keeps_eight_registers():
    """Outside 64-bit mode FXSAVE writes XMM0 to XMM7 and leaves the bytes behind them alone."""
    m = machine(FXSAVE, mode=32)
    m.write(DATA, b"\xaa" * 512)
    for i in range(16):
        m.cpu.set_vector(i, bytes([i + 1]) * 16)
    assert vector(m) is None
    image = m.read(DATA, 512)
    assert image[160:288] == b"".join(bytes([i + 1]) * 16 for i in range(8))
    assert image[288:] == b"\xaa" * 224


@pytest.mark.parametrize(("code", "offset", "expected"), [
    ("0f 10 07", 0xFF8, 14), ("0f 28 07", 0xFF8, 13), ("f2 0f 10 07", 0xFFC, 14), ("f2 0f 10 07", 0xFF8, None), ("0f 11 07", 0xFF8, 14),
    ("dd 07", 0xFFC, 14), ("df 37", 0xFF8, 14), ("0f ae 07", 0xE10, 14), ("0f ae 0f", 0xE10, 14), ("dd 37", 0xFC0, 14),
])
def test_faults_at_the_end_of_memory(code, offset, expected):
    """An operand that runs into an unmapped page is #PF (misaligned #GP comes first), and nothing is loaded or stored."""
    m = machine(code)
    m.cpu.rdi = DATA + offset
    before = m.read(DATA, 0x1000), m.cpu.vectors(), m.cpu.x87(), m.cpu.mxcsr
    assert vector(m) == expected
    if expected:
        assert (m.read(DATA, 0x1000), m.cpu.vectors(), m.cpu.x87(), m.cpu.mxcsr) == before
