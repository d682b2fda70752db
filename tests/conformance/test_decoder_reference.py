"""The decoder against a reference decoder: length and legality of random bytes in 16-, 32- and 64-bit code.

XENFAST_DECODER_CASES is the number of random cases a mode (the long run: 10,000,000), XENFAST_SEED the seed.
"""

import os
from collections import Counter

import numpy as np
import pytest

from xenfast import _core

pytest.importorskip("iced_x86")
from tests.conformance import codebytes, reference
from tests.conformance.decoder_rules import ABSENT, DIFFERENT, RULES, Disagreement, explain

CASES = int(os.environ.get("XENFAST_DECODER_CASES", "100000"))
SEED = int(os.environ.get("XENFAST_SEED", "1"))
LONG = CASES >= 1_000_000
BATCH = 250_000
ROWS = _core.opcode_rows()


def compare(records: codebytes.Bytes, bits: int, used: Counter) -> list[str]:
    """Disagreements that no rule explains; the rules that explained one are counted."""
    lengths, ops = _core.decode_many(records.reshape(-1), bits, codebytes.STRIDE)
    theirs, mnemonics = reference.reference(records, bits)
    unexplained = []
    for i in np.flatnonzero(np.maximum(lengths, 0) != theirs):
        instruction = reference.describe(records[i], bits)
        d = Disagreement(bits, records[i].tobytes(), int(lengths[i]), int(theirs[i]), ROWS[ops[i]],
                         reference.MNEMONICS[mnemonics[i]], frozenset(reference.features(instruction)))
        rule = explain(d)
        used[rule.name if rule else "unexplained"] += 1
        if rule is None and len(unexplained) < 40:
            unexplained.append(f"{d.record.hex()}: ours {d.ours} ({' '.join(d.row)}), theirs {d.theirs} ({instruction}; {set(d.features)})")
    return unexplained


def check(batches, bits: int) -> Counter:
    used: Counter = Counter()
    for records in batches:
        used["cases"] += len(records)
        lines = compare(records, bits, used)
        assert not lines, f"seed {SEED}, {bits}-bit code: {used['unexplained']} unexplained\n" + "\n".join(lines)
    return used


@pytest.mark.parametrize("bits", [64, 32, 16])
def test_random_bytes(bits):
    """Random instructions have the length, and are legal or not, as the reference decoder says, or a written rule says why not."""
    rng = np.random.default_rng([SEED, bits])
    sizes = [min(BATCH, CASES - done) for done in range(0, CASES, BATCH)]
    used = check((codebytes.cases(rng, n, bits) for n in sizes), bits)
    print(f"\nseed {SEED}, {bits}-bit code:", ", ".join(f"{name} {n:,}" for name, n in used.most_common()))
    if LONG and bits == 64:
        unused = {rule.name for rule in [*ABSENT, *DIFFERENT]} - set(used) - {"SYSRET outside 64-bit mode"}
        assert not unused, f"rules that explain nothing: {unused}"


@pytest.mark.slow
@pytest.mark.parametrize("bits", [64, 32, 16])
def test_every_opcode(bits):
    """Every opcode of the four legacy maps with every mandatory prefix and ModRM byte, and every opcode of the three VEX maps."""
    used = check([codebytes.every_legacy_opcode(bits), codebytes.every_vex_opcode(np.random.default_rng(SEED))], bits)
    print(f"\n{bits}-bit code:", ", ".join(f"{name} {n:,}" for name, n in used.most_common()))


def test_rules_have_reasons():
    """Every rule cites where it is written, and no feature stands under two of them."""
    assert all(any(word in rule.why for word in ("SDM", "APM", "VIA")) for rule in RULES)
    named = [feature for rule in ABSENT for feature in rule.features]
    assert len(named) == len(set(named))
    assert len({rule.name for rule in RULES}) == len(RULES)


@pytest.mark.parametrize("mode", [64, 32])
def test_registers_that_do_not_exist_are_refused(mode):
    """What the rules say of MOV with a segment, control or debug register that does not exist: #UD, when it runs."""
    from xenfast.machine import Machine, Reason

    machine = Machine(mode=mode)
    machine.map(0x1000, 0x1000)
    codes = ["8cf0", "8cf8", "8c30", "8ef0", "8ef8", "8e30", "8ec8", "0f20c8", "0f22e8", "0f20f0", "0f22f8"]
    if mode == 64:
        codes += [f"{rex}0f{op}{modrm:02x}" for rex in ("44", "4c") for op in ("21", "23") for modrm in range(0xC0, 0x100, 8)]
        codes += [f"{rex}0f{op}{modrm:02x}" for rex in ("44", "4c") for op in ("20", "22") for modrm in range(0xC8, 0x100, 8)]
    for code in codes:
        machine.write(0x1000, bytes.fromhex(code) + b"\xf4" * 8)
        machine.cpu.rip, machine.cpu.rax = 0x1000, 0x1800
        stop = machine.run(1)
        assert (stop.reason, stop.vector) == (Reason.EXCEPTION, 6), code


def test_bytes_that_end_early():
    """decode_many() tells bytes that end inside an instruction from those that are too long for one."""
    lengths, _ = _core.decode_many(b"\xb8\1\2" + b"\x66" * 15, 64, 3)
    assert list(lengths) == [-2] * 6
    lengths, ops = _core.decode_many(b"\x66" * 15 + b"\x90" + b"\x90" * 16 + b"\x0f\x04" + bytes(14), 64)
    assert list(lengths) == [-1, 1, 0]
    assert ROWS[ops[1]][0] == "XCHG"
    with pytest.raises(ValueError, match="bits"):
        _core.decode_many(b"", 8)
