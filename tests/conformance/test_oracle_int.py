"""Integer instructions against the host CPU: registers, the flags the SDM defines, memory and faults are the same."""

import os
import random

import pytest

from tests.conformance import forms, hostcpu, programs
from tests.conformance.hostcpu import ARITH, CODE, DATA, DATA_SIZE, WINDOW, WINDOW_SIZE, Case, Result
from tests.conformance.native import host_has
from xenfast.machine import Machine, Reason

SEED = int(os.environ.get("XENFAST_SEED", "1"))
ROUNDS = int(os.environ.get("XENFAST_ROUNDS", "20"))
VECTOR_OF_SIGNAL = {8: (0,), 11: (13, 14, 12, 5), 4: (6,), 7: (17, 12, 13), 5: (3, 4)}
PUSHF = b"\x9c"                    # behind the code, never run: somebody reads the flags
NAMES = "rax rcx rdx rbx rsp rbp rsi rdi r8 r9 r10 r11 r12 r13 r14 r15".split()

pytestmark = pytest.mark.skipif(not hostcpu.available(), reason="the host is not x86-64 Linux")


class Emulated:
    """The same cases on our CPU: one by one (the meaning), or as decoded blocks of threaded handlers."""

    def __init__(self, mode: int) -> None:
        self.machine = Machine(memory=1 << 20, mode=mode, ring=3)
        self.machine.map(CODE, 0x1000)
        self.machine.map(DATA, DATA_SIZE)
        self.machine.cpu.exact = False

    def run(self, case: Case, step: bool) -> Result:
        m = self.machine
        m.write(CODE, case.code + PUSHF)
        m.write(WINDOW, case.data)
        for name, v in zip(NAMES, case.regs, strict=True):
            setattr(m.cpu, name, v)
        m.cpu.rflags = case.flags
        m.cpu.rip = CODE
        end = CODE + len(case.code)
        vector = None
        if step:
            m.cpu.exact = True
            for _ in range(200):
                stop = m.run(1)
                if stop.reason is Reason.EXCEPTION:
                    vector = stop.vector
                    break
                if m.cpu.rip == end:
                    break
            m.cpu.exact = False
        else:
            stop = m.run(100000, until=end)
            vector = stop.vector if stop.reason is Reason.EXCEPTION else None
        signal = -1 if vector is None else vector
        return Result([getattr(m.cpu, n) for n in NAMES], m.cpu.rflags, m.read(WINDOW, WINDOW_SIZE), signal, m.cpu.rip)


def difference(case: Case, want: Result, got: Result) -> str:
    """Empty when they agree.

    Where the host and the SDM differ on instructions that fault in the middle, we follow the SDM: REP CMPS and SCAS restore the flags,
    POPA and ENTER have done nothing.
    """
    out = []
    name = case.text.split()[0]
    if want.signal and got.signal != -1 and name in ("POPA", "ENTER"):
        return ""
    if (want.signal != 0) != (got.signal != -1) or (want.signal and got.signal not in VECTOR_OF_SIGNAL[want.signal]):
        out.append(f"native signal {want.signal}, exception {got.signal}")
    count, mask = (16, forms.MASK64) if case.mode == 64 else (8, 0xFFFFFFFF)
    for i in range(count):
        if (want.regs[i] ^ got.regs[i]) & mask:
            a, b = want.regs[i] & mask, got.regs[i] & mask
            out.append(f"{NAMES[i]} native {a:#x} emulated {b:#x} before {case.regs[i]:#x}")
    flags = (ARITH | forms.DF) & ~case.undefined
    if want.signal and name in ("CMPS", "SCAS"):
        flags = 0
    if (want.flags ^ got.flags) & flags:
        out.append(f"flags native {want.flags & flags:#x} emulated {got.flags & flags:#x} before {case.flags:#x}")
    if want.data != got.data:
        at = next(i for i in range(WINDOW_SIZE) if want.data[i] != got.data[i])
        out.append(f"memory at window + {at}: native {want.data[at:at + 8].hex()} emulated {got.data[at:at + 8].hex()}")
    return f"{case.text}: " + "; ".join(out) if out else ""


def compare(cases: list[Case]) -> None:
    wanted = hostcpu.run_all(cases)
    machines = {mode: Emulated(mode) for mode in (64, 32)}
    wrong = []
    for case, want in zip(cases, wanted, strict=True):
        for step in (True, False):
            text = difference(case, want, machines[case.mode].run(case, step))
            if text:
                wrong.append(("one by one: " if step else "as a block: ") + text)
    assert not wrong, f"seed {SEED}: {len(wrong)} of {2 * len(cases)} differ\n" + "\n".join(wrong[:40])


@pytest.mark.parametrize("mode", [64, 32])
def test_every_form_does_what_the_host_does(mode):
    """Each integer instruction form, with random operands, addresses and flags, has the host's result."""
    rng = random.Random(SEED * 100 + mode)
    present = [form for form in forms.FORMS if mode in form.modes and host_has(*form.needs.split())]
    compare([forms.make(rng, form, mode) for form in present for _ in range(ROUNDS)])


@pytest.mark.parametrize("mode", [64, 32])
def test_programs_do_what_the_host_does(mode):
    """Random small programs with loops, branches and calls end in the host's state: no flag is skipped that is read."""
    rng = random.Random(SEED * 100 + mode + 1)
    compare([programs.make(rng, mode) for _ in range(50 * ROUNDS)])
