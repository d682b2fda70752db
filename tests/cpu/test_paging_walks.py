"""The page walk against a reference written straight from the SDM, over random tables in every paging mode.

``XENFAST_PAGING_CASES=1000000`` makes as many cases a mode; ``XENFAST_PAGING_SEED`` chooses the seed, which a failure
names.
"""

from __future__ import annotations

import os
import random

import pytest

from tests.cpu import paging_random
from tests.cpu.paging_machine import MODES, PagingMachine
from tests.cpu.paging_reference import FETCH, READ, WRITE

CASES = int(os.environ.get("XENFAST_PAGING_CASES", "2500"))
SEED = int(os.environ.get("XENFAST_PAGING_SEED", "20241"))


def check(machine: PagingMachine, case: paging_random.Case, where: str) -> None:
    """The access, and the same once more; then every entry has exactly the flags the reference set."""
    for at, (value, size) in case.entries.items():
        machine.store(at, value, size)
    machine.set(case.r, case.user)
    want = {at: value for at, (value, _) in case.entries.items()}
    for again in (False, True):
        expected = case.expected(machine.load)
        want.update(expected.marks)
        wrong = machine.access(case.access, case.linear, 0x1122334455667788, expected)
        assert wrong is None, f"{where}{', cached' if again else ''}: {wrong}\n{case}"
        for at, (_, size) in case.entries.items():
            got = machine.load(at, size)
            assert got == want[at], f"{where}: the entry at {at:#x} is {got:#x}, not {want[at]:#x}\n{case}"


@pytest.mark.parametrize("mode", MODES)
def test_random_walks(mode, capsys):
    """Fault or address, error code, CR2, A and D: as the SDM says, for random entries, rights, modes and accesses."""
    rng = random.Random(f"{mode} {SEED}")
    machine = PagingMachine()
    for i in range(CASES):
        check(machine, paging_random.case(rng, mode), f"seed {SEED}, {mode}, case {i}")


@pytest.mark.parametrize("mode", MODES)
def test_the_cases_are_worth_something(mode):
    """Every kind of access both succeeds and faults in every way the mode has, in the cases above."""
    rng = random.Random(f"{mode} {SEED}")
    machine = PagingMachine()
    seen = set()
    for _ in range(2500):
        case = paging_random.case(rng, mode)
        for at, (value, size) in case.entries.items():
            machine.store(at, value, size)
        outcome = case.expected(machine.load)
        seen.add((case.access, case.user, None if outcome.error is None else outcome.error & ~0x16))
    wanted = {
        (access, user, kind) for access in (READ, WRITE, FETCH) for user in (False, True) for kind in (None, 0, 1, 9)
    }
    if mode in ("4level", "5level"):
        wanted |= {(access, user, 0x21) for access in (READ, WRITE) for user in (False, True)}
    assert wanted <= seen
