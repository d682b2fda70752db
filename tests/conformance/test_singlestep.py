"""Real-mode cases captured on an 80286 (SingleStepTests): registers, flags and memory come out as on the hardware.

The cases are in ``../shared/singlestep`` beside the repository, or where ``XENFAST_SINGLESTEP`` says.  A case passes, or
falls under a rule of RULES, each of which says what a 386 and later do instead and where the SDM says so; where that can
be told exactly, it is tested too (an exception with its vector), and not merely left out.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conformance import moo
from tests.conformance.moo import Case
from tests.conformance.realmode import Hardware, difference, exception_of

ROOT = Path(__file__).resolve().parents[2]
DIRECTORY = Path(os.environ.get("XENFAST_SINGLESTEP", ROOT.parent / "shared" / "singlestep"))
PREFIXES = {0x26, 0x2E, 0x36, 0x3E, 0xF0, 0xF2, 0xF3}
STRING = {0x6C, 0x6D, 0x6E, 0x6F, 0xA4, 0xA5, 0xA6, 0xA7, 0xAA, 0xAB, 0xAC, 0xAD, 0xAE, 0xAF}
GP, UD = 13, 6
NOTHING = -1                           # Rule.raises: no exception
OF = 1 << 11
ARITH = 0x8D5


def split(case: Case) -> tuple[bytes, bytes]:
    """(prefixes, the rest of the instruction without the HLT behind it)."""
    code = case.code[:-1] if case.code[-1:] == b"\xf4" and len(case.code) > 1 else case.code
    n = 0
    while n < len(code) - 1 and code[n] in PREFIXES:
        n += 1
    return code[:n], code[n:]


def reg_field(rest: bytes) -> int:
    return rest[1] >> 3 & 7 if len(rest) > 1 else 0


def has_memory(rest: bytes) -> bool:
    return len(rest) > 1 and rest[1] < 0xC0


def may_lock(rest: bytes) -> bool:
    """Instructions LOCK is allowed with, of those a 286 has: ADD ADC AND OR SBB SUB XOR, INC DEC, NEG NOT, XCHG on memory."""
    op = rest[0]
    if not has_memory(rest):
        return False
    if op < 0x38:
        return op & 7 < 2
    if 0x80 <= op <= 0x83:
        return reg_field(rest) != 7
    return op in (0x86, 0x87) or (op in (0xF6, 0xF7) and reg_field(rest) in (2, 3)) or (op in (0xFE, 0xFF) and reg_field(rest) < 2)


def count(case: Case, rest: bytes) -> int | None:
    """Count of a shift or rotate, as the processor masks it; None for other instructions."""
    if rest[0] in (0xC0, 0xC1):
        return rest[-1] & 31
    if rest[0] in (0xD0, 0xD1):
        return 1
    if rest[0] in (0xD2, 0xD3):
        return case.initial.regs["cx"] & 31
    return None


@dataclass(frozen=True)
class Rule:
    name: str
    applies: Callable[[Case, bytes, bytes], bool]
    why: str
    raises: int | None = None           # what a later processor does: this exception
    ignore: tuple[str, ...] = ()        # registers not compared
    flags: int = 0                      # flags not compared


RULES = (
    # realmode.FLAGS_286: bits 12-15 of FLAGS are neither loaded nor compared.  A 286 in real mode holds IOPL and NT at 0; a 386
    # lets POPF and IRET change them (SDM Vol. 1, 3.4.3; Vol. 3, 20.3).  realmode.difference: a word across the end of the stack
    # segment is #GP on a 286 and #SS from the 386 on (SDM Vol. 3, 20.1.4, table 20-1): vector 12 leads where 13 does.
    Rule("lock", lambda c, p, r: 0xF0 in p and not may_lock(r), raises=UD,
         why="LOCK is #UD with all but some read-modify-write instructions on memory (SDM Vol. 2, LOCK); a 286 allows it anywhere"),
    Rule("length", lambda c, p, r: len(p) + len(r) > 10 and c.vector == GP, raises=NOTHING,
         why="a 286 limits an instruction to 10 bytes; the limit is 15 since the 386 (SDM Vol. 2, 2.3.11)"),
    Rule("FS and GS", lambda c, p, r: r[0] in (0x8C, 0x8E) and reg_field(r) in (4, 5), raises=NOTHING,
         why="FS and GS came with the 386; a 286 raises #UD for them (SDM Vol. 2, MOV)"),
    Rule("string faults", lambda c, p, r: r[0] in STRING and c.vector == GP, ignore=("si", "di", "cx"), flags=ARITH,
         why="a fault leaves SI, DI and CX as they were before the iteration, and CMPS and SCAS leave the flags as they were before"
             " the instruction (SDM Vol. 2, REP); a 286 has moved some of them"),
    Rule("pop to memory faults", lambda c, p, r: r[0] == 0x8F and c.vector == GP, raises=GP,
         why="a fault leaves SP as it was (SDM Vol. 3, 6.5: restartable); a 286 has popped by then"),
    Rule("shift counts", lambda c, p, r: count(c, r) not in (None, 1), flags=OF,
         why="OF is undefined for counts other than 1 (SDM Vol. 2, RCL and SAL)"),
)


def verdict(hw: Hardware, case: Case, flags_mask: int) -> str:
    """Empty when the case passes, with the rules that it falls under."""
    prefixes, rest = split(case)
    ignore: tuple[str, ...] = ()
    for rule in RULES:
        if not rule.applies(case, prefixes, rest):
            continue
        if rule.raises is not None:
            vector = exception_of(hw, case)
            vector = NOTHING if vector is None else vector
            return "" if vector == rule.raises else f"exception {vector}, not {rule.raises} (rule {rule.name})"
        ignore += rule.ignore
        flags_mask &= ~rule.flags
    return ", ".join(difference(hw, case, flags_mask, ignore))


def flags_mask(metadata: dict[str, dict], stem: str) -> int:
    """The flags that are defined for the opcode of a file (``C0.3``: opcode and ModRM reg)."""
    opcode, _, reg = stem.partition(".")
    entry = metadata[opcode]
    return (entry["reg"][reg] if reg else entry).get("flags-mask", 0xFFFF)


FILES = sorted(DIRECTORY.glob("**/*.MOO*"))
METADATA = {path: json.loads((path / "metadata.json").read_text())["opcodes"] for path in {file.parent for file in FILES}}


@pytest.fixture(scope="module")
def hardware() -> Hardware:
    return Hardware()


@pytest.mark.skipif(not FILES, reason=f"there are no captured cases in {DIRECTORY}")
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name.split(".MOO")[0])
def test_captured_cases(path: Path, hardware: Hardware) -> None:
    """Every captured case of the opcode passes, or does what its rule says."""
    stem = path.name.split(".MOO")[0]
    mask = flags_mask(METADATA[path.parent], stem)
    failures = []
    for case in moo.load(path):
        found = verdict(hardware, case, mask)
        if found:
            failures.append(f"{case.index} {case.name} [{case.code.hex()}]: {found}")
    stray = hardware.stray()
    if stray is not None:
        hardware.wipe()
        failures.append(f"a case wrote to {stray:#x}, which the hardware did not")
    assert not failures, f"{len(failures)} cases:\n" + "\n".join(failures[:10])
