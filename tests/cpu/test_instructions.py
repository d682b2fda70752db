"""Instructions the host cannot be asked about, on a bare machine: random numbers, MONITOR, cache control, FOP."""

import struct

import pytest

from tests.cpu.asm import assemble
from xenfast import _core
from xenfast.machine import Machine, Reason

CODE, DATA, STACK = 0x10000, 0x20000, 0x31000
CF = 1


def machine(ring=0, clock=None, mode=64):
    m = Machine(memory=1 << 20, mode=mode, ring=ring)
    if clock is not None:
        m.cpu = _core.Vcpu(m.memory, m.physmap, clock)
        m.cpu.exact = True
        m._start(ring)
    for page in (CODE, DATA, STACK - 0x1000):
        m.map(page, 0x1000)
    m.rsp = STACK
    return m


def go(m, text, count=100):
    code = assemble(text, m.mode, CODE)
    m.write(CODE, code)
    m.rip = CODE
    return m.run(count, until=CODE + len(code))


NUMBERS = "rdrand rax; rdseed rbx; rdrand ecx; mov rdx, -1; rdrand dx; setc r8b; rdseed r9"


def drawn(m):
    assert go(m, NUMBERS).reason is Reason.UNTIL
    return m.rax, m.rbx, m.rcx, m.rdx, m.r9


def test_random_numbers_repeat_in_virtual_time():
    """SDM Vol. 1, 7.3.17: CF is 1, the other flags 0, the width that of the operand.  The same seed draws the same numbers."""
    machines = [machine(clock=_core.MachineClock(virtual=True)) for _ in range(3)]
    for m, seed in zip(machines, (7, 7, 8), strict=True):
        m.cpu.seed = seed
    first, same, other = (drawn(m) for m in machines)
    assert first == same and not set(first) & set(other)
    assert len(set(first)) == 5 and first[2] >> 32 == 0 and first[3] >> 16 == (1 << 48) - 1
    assert machines[0].rflags & 0x8D5 == CF and machines[0].r8 == 1


def test_random_numbers_are_the_hosts_in_real_time():
    """Two machines with the same seed draw different numbers."""
    assert not set(drawn(machine())) & set(drawn(machine()))


@pytest.mark.parametrize("feature, text", [("rdrand", "rdrand eax"), ("rdseed", "rdseed eax"), ("rdpid", "rdpid rax")])
def test_instructions_whose_feature_is_off(feature, text):
    """#UD."""
    m = machine()
    assert go(m, text).reason is Reason.UNTIL
    m.cpu.set_cpuid(feature, False)
    assert go(m, text).vector == 6


def test_rdpid():
    """TSC_AUX, in any ring."""
    m = machine()
    assert go(m, "mov ecx, 0xc0000103; mov eax, 77; xor edx, edx; wrmsr; mov rbx, -1; rdpid rbx").reason is Reason.UNTIL
    assert m.rbx == 77


def test_monitor_and_mwait():
    """SDM Vol. 2: MONITOR takes no extensions, MWAIT one; both are #UD without the feature and outside ring 0."""
    m = machine()
    assert go(m, "monitor").vector == 6
    m.cpu.set_cpuid("monitor", True)
    assert m.cpu.cpuid(5)[:3] == (64, 64, 3)
    m.rax = DATA
    assert go(m, f"xor ecx, ecx; monitor; mov dword ptr [{DATA + 60}], 1; mwait; inc ecx; mwait").reason is Reason.UNTIL
    assert go(m, "mov ecx, 1; monitor").vector == 13
    assert go(m, "mov ecx, 2; mwait").vector == 13
    m.rax = 0x80000
    assert go(m, "xor ecx, ecx; monitor").vector == 14
    m = machine(ring=3)
    m.cpu.set_cpuid("monitor", True)
    assert go(m, "xor ecx, ecx; mwait").vector == 6 and go(m, "monitor").vector == 6


def test_mwait_comes_back_though_nobody_writes():
    """The wait is bounded: software looks again (SDM Vol. 3, 9.10.5)."""
    m = machine()
    m.cpu.set_cpuid("monitor", True)
    m.rax = DATA
    assert go(m, "xor ecx, ecx; monitor; mwait").reason is Reason.UNTIL


@pytest.mark.parametrize("text", ["clflush [{}]", "clflushopt [{}]", "clwb [{}]"])
def test_cache_line_instructions_are_checked_like_loads(text):
    """They fault like a read of one byte; of a page that may only be read they are no write."""
    m = machine()
    m.map(DATA, 0x1000, writable=False)
    assert go(m, text.format(DATA + 4095)).reason is Reason.UNTIL
    stop = go(m, text.format(0x80000))
    assert (stop.vector, stop.error) == (14, 0)


@pytest.mark.parametrize("text", [
    "endbr64", "prefetchw [0x80000]", "prefetch [0x80000]", "prefetcht0 [0x80000]", "prefetchnta [0x80000]",
    "nop dword ptr [rax + 0x80000]", "rdsspq rax", ".byte 0x0f, 0x1c, 0x00",
])
def test_hints_touch_nothing(text):
    """Prefetches of pages that are not there, ENDBR and the reserved NOPs do nothing."""
    assert go(machine(), text).reason is Reason.UNTIL


@pytest.mark.parametrize("code", ["0f0b", "0fb9c0", "0fffc0"])
def test_ud0_ud1_ud2(code):
    """#UD, with RIP at the instruction."""
    m = machine()
    m.write(CODE, bytes.fromhex(code))
    m.rip = CODE
    assert m.run(1).vector == 6 and m.rip == CODE


def test_fop_is_that_of_the_last_unmasked_exception():
    """SDM Vol. 1, 8.1.9.1: low three bits of the first byte and ModRM of the instruction; masked exceptions leave it."""
    m = machine()
    text = f"fninit; fld1; fldz; fdiv st(1), st; fnstenv [{DATA}]; fnclex; mov word ptr [{DATA + 64}], 0x37e; fldcw [{DATA + 64}]; "
    assert go(m, text + f"there: fdiv dword ptr [rsp - 8]; fnstenv [{DATA + 32}]; lea rax, [rip + there]").reason is Reason.UNTIL
    assert struct.unpack("<H", m.read(DATA + 18, 2))[0] == 0
    fip, cs_fop, fdp = struct.unpack("<3I", m.read(DATA + 32 + 12, 12))
    assert (fip, cs_fop >> 16, fdp) == (m.rax, 0x074, STACK - 8)
