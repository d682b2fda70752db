"""Model-specific registers of a bare machine: the table of SDM Vol. 4 as far as it is there, by feature, quiet or with its rules."""

import pytest

from tests.cpu.asm import assemble
from xenfast.machine import Machine, Reason

CODE = 0x10000


def go(m: Machine, text: str) -> int | None:
    """The vector of the exception the text ends with; None when it ends."""
    m.map(CODE, 0x1000)
    code = assemble(text, 64, CODE)
    m.write(CODE, code)
    m.rip = CODE
    stop = m.run(100, until=CODE + len(code))
    assert stop.reason in (Reason.EXCEPTION, Reason.UNTIL)
    return stop.vector if stop.reason is Reason.EXCEPTION else None


def read(m: Machine, nr: int) -> int | None:
    """The register's value; None for #GP."""
    return None if go(m, f"mov ecx, {nr}\n rdmsr") == 13 else m.rdx << 32 | m.rax


def write(m: Machine, nr: int, value: int) -> bool:
    """False for #GP."""
    return go(m, f"mov ecx, {nr}\n mov eax, {value & 0xFFFFFFFF}\n mov edx, {value >> 32}\n wrmsr") is None


@pytest.fixture
def m():
    return Machine(memory=1 << 20, virtual=True)


def test_machine_checks_are_quiet(m):
    """The banks that MCG_CAP counts keep what is written to CTL; STATUS, ADDR and MISC take nothing but 0 (Vol. 3, 15.3.2)."""
    banks = read(m, 0x179) & 0xFF
    assert banks == 4 and read(m, 0x17A) == 0
    for bank in range(banks):
        assert write(m, 0x400 + 4 * bank, ~bank & 0xFFFFFFFFFFFFFFFF) and read(m, 0x400 + 4 * bank) == ~bank & 0xFFFFFFFFFFFFFFFF
        for offset in (1, 2, 3):
            nr = 0x400 + 4 * bank + offset
            assert read(m, nr) == 0 and write(m, nr, 0) and not write(m, nr, 1)
    assert read(m, 0x400 + 4 * banks) is None and not write(m, 0x179, 0)


def test_constants(m):
    """What firmware and systems look at: microcode revision, TSC frequency, fast strings, a locked feature control."""
    assert read(m, 0x8B) == 1 << 32 and read(m, 0xCE) == 10 << 8 and read(m, 0x1A0) & 1 and read(m, 0x3A) == 1
    assert not write(m, 0xCE, 0) and write(m, 0x79, 0x1234)


def test_tsc_adjust_follows_the_tsc(m):
    """Writing the TSC moves TSC_ADJUST by as much, and the other way round (Vol. 3, 17.17.3)."""
    assert read(m, 0x3B) == 0
    assert write(m, 0x3B, 1 << 40) and 1 << 40 <= read(m, 0x10) < (1 << 40) + 1000
    assert write(m, 0x10, 1 << 41)
    assert (1 << 41) - 1000 < read(m, 0x3B) <= 1 << 41


@pytest.mark.parametrize(("feature", "nr"), [
    ("sep", 0x174), ("mca", 0x179), ("mtrr", 0xFE), ("mtrr", 0x2FF), ("pat", 0x277), ("tsc_adjust", 0x3B), ("rdtscp", 0xC0000103),
    ("syscall", 0xC0000081), ("arch_caps", 0x10A), ("x2apic", 0x802), ("tsc_deadline", 0x6E0), ("xsaves", 0xDA0),
])  # fmt: skip
def test_registers_go_with_their_features(feature, nr):
    """A register whose feature is off is not there."""
    m = Machine(memory=1 << 20, cpu=f"max,-{feature}", lapic=True)
    assert read(m, nr) is None and not write(m, nr, 0)


def test_unknown_registers_are_said_once(m):
    """A register that is not in the table is #GP and is remembered once."""
    for _ in range(3):
        assert read(m, 0xC0010015) is None and not write(m, 0xC0010015, 0)
    assert sorted(m.cpu.unknown()) == [("rdmsr", 0xC0010015), ("wrmsr", 0xC0010015)]


def test_the_host_reads_and_writes_msrs_as_the_guest_does():
    """Vcpu.rdmsr() and wrmsr(): values come back; what would be #GP is KeyError or ValueError and changes nothing."""
    cpu = Machine(1 << 16).cpu
    cpu.wrmsr(0x200, 0xF0000000)
    cpu.wrmsr(0x2FF, 0xC00)
    assert (cpu.rdmsr(0x200), cpu.rdmsr(0x2FF)) == (0xF0000000, 0xC00)
    with pytest.raises(ValueError, match="MSR 0x2ff cannot be 0x2"):
        cpu.wrmsr(0x2FF, 2)
    with pytest.raises(KeyError):
        cpu.rdmsr(0x12345)
    assert cpu.rdmsr(0x2FF) == 0xC00
