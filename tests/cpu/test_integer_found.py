"""What comparing integer instructions with the host CPU has found: one test a bug, so that it stays fixed."""

import pytest

from xenfast.machine import Machine, Reason

CODE, DATA = 0x10000, 0x20000


def machine(mode=64, ring=3):
    m = Machine(memory=1 << 20, mode=mode, ring=ring)
    m.map(CODE, 0x1000)
    m.map(DATA, 0x1000)
    return m


def run(m, code):
    m.write(CODE, bytes.fromhex(code) + b"\xcc")
    m.rip = CODE
    return m.run(1)


@pytest.mark.parametrize("code", ["0f2045", "0f2085", "0f2105", "0f2245"])
def test_mod_of_moves_to_control_registers_is_ignored(code):
    """MOV to and from CR and DR takes a register whatever ModRM.mod says, and no displacement follows."""
    m = machine(ring=0)
    assert run(m, code + "90" * 4).reason is Reason.BUDGET or code == "0f2245"
    assert run(machine(), code).vector == 13


def test_rex_r_of_a_segment_register_is_ignored():
    """MOV r/m, Sreg: REX.R does not make another register of CS."""
    m = machine()
    assert run(m, "4c8cc8").reason is Reason.BUDGET
    assert m.rax == m.cpu.segment("cs")[0]


@pytest.mark.parametrize("code", ["4990", "f34990"])
def test_90_with_rex_b_exchanges_with_r8(code):
    """F3 90 is PAUSE, but with REX.B it is XCHG R8, rAX all the same."""
    m = machine()
    m.rax, m.r8 = 1, 2
    run(m, code)
    assert (m.rax, m.r8) == (2, 1)


def test_a_plain_90_leaves_the_upper_half_alone():
    """90 is NOP, not XCHG EAX, EAX."""
    m = machine()
    m.rax = 0x1234567800000000
    run(m, "90")
    assert m.rax == 0x1234567800000000


def test_prefetchw_of_a_register_is_undefined():
    """0F 0D takes memory only."""
    assert run(machine(), "0f0dc0").vector == 6


@pytest.mark.parametrize("code", ["f36c", "f36e"])
def test_string_io_checks_permission_before_the_count(code):
    """REP INS and REP OUTS with rCX = 0 are #GP all the same where the ports are not allowed."""
    m = machine()
    m.rcx = 0
    m.cpu.set_segment("tr", 0, 0, 0, 0x8B)             # no permission bitmap
    assert run(m, code).vector == 13


def test_writes_through_cs_fault():
    """A code segment is never writable, flat or not."""
    m = machine(mode=32)
    m.rax = DATA
    assert run(m, "2e8910").vector == 13
    assert run(m, "2e8b10").reason is Reason.BUDGET


def test_block_that_is_full_at_a_jump_to_the_start_of_its_page():
    """A followed jump may be the last instruction of a block, and its target the first byte of the page."""
    m = machine()
    m.cpu.exact = False
    m.write(CODE, b"\xcc")
    m.write(CODE + 0x800, b"\x90" * 63 + b"\xe9" + (-0x800 - 63 - 5).to_bytes(4, "little", signed=True))
    m.rip = CODE + 0x800
    assert m.run(1000).vector == 3
