"""Unicorn as a second oracle: 16- and 32-bit code, segments and privileged instructions do the same there and here.

The host CPU (test_oracle_int) cannot be asked about real, virtual-8086 and 16-bit protected mode, about rings, or about
segments with bases.  Unicorn 2.1.4 is QEMU 5.0's translator; where it is not what the SDM says, a rule below says so,
and every rule must still be needed.  What it does not do at all is not asked: segment limits (it checks none), delivery
through an IDT, SYSENTER and SYSCALL (it hands them to its caller).

``XENFAST_ROUNDS`` and ``XENFAST_SEED`` are as in test_oracle_int.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from tests.conformance import second_forms
from tests.conformance.second_oracle import (
    ENVIRONMENTS,
    GDT,
    TABLES_END,
    VM,
    WINDOWS,
    Case,
    Environment,
    OurCpu,
    State,
    UnicornCpu,
    differences,
)

pytest.importorskip("unicorn")
SEED = int(os.environ.get("XENFAST_SEED", "1"))
ROUNDS = int(os.environ.get("XENFAST_ROUNDS", "20"))
FAR = ("JMP far", "CALL far", "RET far", "IRET")


@dataclass
class Rule:
    """A disagreement in which Unicorn is not right, or nobody is."""

    name: str
    why: str
    applies: Callable[[Environment, Case, State, State, list[str]], bool]


def only(wrong: list[str], *kinds: str) -> bool:
    return all(text.split(" ")[0].rstrip(":") in kinds for text in wrong)


def changed(want: State, got: State) -> list[tuple[int, int, int]]:
    """Bytes of memory that differ: (address, Unicorn's, ours)."""
    out, at = [], 0
    for start, size in WINDOWS:
        out += [
            (start + i, want.memory[at + i], got.memory[at + i])
            for i in range(size)
            if want.memory[at + i] != got.memory[at + i]
        ]
        at += size
    return out


def second_row_of_test(e: Environment, case: Case, want: State, got: State, wrong: list[str]) -> bool:
    opcode = next((i for i, byte in enumerate(case.code) if byte in (0xF6, 0xF7)), None)
    return case.name == "TEST" and opcode is not None and case.code[opcode + 1] >> 3 & 7 == 1 and want.vector == 6


RULES = [
    Rule(
        "TEST /1",
        "SDM Vol. 2, table A-6 leaves F6 /1 and F7 /1 blank; every processor does TEST (test_oracle_int asks one), "
        "Unicorn raises #UD for F6 /1",
        second_row_of_test,
    ),
    Rule(
        "LOCK NEG",
        "SDM Vol. 2, NEG: SF, ZF, AF, PF according to the result; Unicorn's LOCKed form has others",
        lambda e, case, want, got, wrong: case.name == "NEG" and 0xF0 in case.code and only(wrong, "eflags"),
    ),
    Rule(
        "CR4.OSFXSR",
        "SDM Vol. 2, CRC32, MOVBE: #UD for want of the feature only; Unicorn wants CR4.OSFXSR for their forms with 66h",
        lambda e, case, want, got, wrong: case.name in ("CRC32", "MOVBE") and want.vector == 6 and got.vector is None,
    ),
    Rule(
        "operand size in 16-bit code",
        "SDM Vol. 1, table 3-3: without 66h the operand has 16 bits; Unicorn takes POPCNT, CRC32 and "
        "MOVBE for 32-bit ones",
        lambda e, case, want, got, wrong: e.bits == 16 and case.name in ("POPCNT", "CRC32", "MOVBE"),
    ),
    Rule(
        "PUSHFD in virtual-8086 mode",
        "SDM Vol. 2, PUSHF: VM and RF are clear in the image; Unicorn pushes VM",
        lambda e, case, want, got, wrong: (
            e.vm
            and case.name == "PUSHF"
            and only(wrong, "memory")
            and [w ^ g for _, w, g in changed(want, got)] == [VM >> 16]
        ),
    ),
    Rule(
        "accessed bit",
        "SDM Vol. 3, 3.4.5.1: the accessed bit is set whenever a selector is loaded; Unicorn's far transfers do not",
        lambda e, case, want, got, wrong: (
            case.name in FAR
            and only(wrong, "memory")
            and all(GDT <= at < TABLES_END and at & 7 == 5 and g == w | 1 for at, w, g in changed(want, got))
        ),
    ),
    Rule(
        "call gate to conforming code",
        "SDM Vol. 2, CALL: at the same privilege level the RPL of CS becomes CPL; Unicorn makes it DPL",
        lambda e, case, want, got, wrong: (
            case.name == "CALL far"
            and only(wrong, "cs", "memory")
            and (want.selectors[1], got.selectors[1]) == (0xC8, 0xC8 | e.ring)
        ),
    ),
    Rule(
        "SMSW",
        "SDM Vol. 2, SMSW: bits 31:16 of a 32-bit register are undefined",
        lambda e, case, want, got, wrong: (
            case.name == "SMSW" and only(wrong, "eax") and (want.regs[0] ^ got.regs[0]) & 0xFFFF == 0
        ),
    ),
    Rule(
        "unknown MSR",
        "SDM Vol. 2, RDMSR: #GP(0) for a reserved or unimplemented MSR; Unicorn reads zero",
        lambda e, case, want, got, wrong: case.name == "RDMSR" and want.vector is None and got.vector == 13,
    ),
    Rule(
        "LTR null",
        "SDM Vol. 2, LTR: #GP(0) for a null selector; Unicorn loads it",
        lambda e, case, want, got, wrong: case.name == "LTR" and case.regs[0] & 0xFFFC == 0 and got.vector == 13,
    ),
    Rule(
        "MOV CR1",
        "SDM Vol. 3, table 6-2: an invalid opcode is found before the privilege level; Unicorn looks at CPL first",
        lambda e, case, want, got, wrong: case.code.endswith(b"\x0f\x20\xc8") and (want.vector, got.vector) == (13, 6),
    ),
    Rule(
        "I/O permission",
        "SDM Vol. 1, 18.5: ports need IOPL or the bitmap, in virtual-8086 mode the bitmap; Unicorn checks nothing",
        lambda e, case, want, got, wrong: (
            case.name in ("IN", "OUT")
            and (e.vm or e.ring > e.iopl)
            and want.vector is None
            and (got.vector, got.error) == (13, 0)
        ),
    ),
]


def compare(environment: Environment, rows: list, make: Callable, rounds: int) -> dict[str, int]:
    """Every row so many times; how often each rule was needed."""
    rng = random.Random(f"{environment.name} {SEED}")
    theirs, ours = UnicornCpu(environment), OurCpu(environment)
    needed = dict.fromkeys((rule.name for rule in RULES), 0)
    unexplained = []
    for row in rows:
        for _ in range(rounds):
            case = make(rng, row, environment)
            want, got = theirs.run(case), ours.run(case)
            wrong = differences(case, want, got)
            if not wrong:
                continue
            rule = next((rule for rule in RULES if rule.applies(environment, case, want, got, wrong)), None)
            if rule is None:
                unexplained.append(f"{case.name} {case.code.hex()}: " + "; ".join(wrong))
            else:
                needed[rule.name] += 1
    assert not unexplained, f"seed {SEED}: {len(unexplained)} cases differ\n" + "\n".join(unexplained[:30])
    return needed


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_integer_instructions(name):
    """Every integer form, both operand and address sizes, every segment: registers, flags, memory are Unicorn's."""
    compare(ENVIRONMENTS[name], second_forms.INTEGER, second_forms.integer, max(1, ROUNDS // 4))


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_system_instructions(name):
    """Segment loads, far transfers, gates, rings, privileged instructions: state, exception and error code."""
    compare(ENVIRONMENTS[name], second_forms.SYSTEM, second_forms.system, ROUNDS)


def test_no_rule_is_idle():
    """Each disagreement that a rule explains does occur."""
    integer = [form for form in second_forms.INTEGER if form.name in ("TEST", "NEG", "POPCNT", "CRC32", "PUSHF")]
    system = [
        row for row in second_forms.SYSTEM if row[0] in ("IRET", "CALL far", "SMSW", "RDMSR", "LTR", "MOV CR", "IN")
    ]
    needed = dict.fromkeys((rule.name for rule in RULES), 0)
    for name in ("ring0-16", "ring3-32", "vm86-iopl3"):
        for rows, make in ((integer, second_forms.integer), (system, second_forms.system)):
            for rule, n in compare(ENVIRONMENTS[name], rows, make, 60).items():
                needed[rule] += n
    assert [name for name, n in needed.items() if not n] == []
