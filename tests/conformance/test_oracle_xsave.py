"""The XSAVE family against the host's own processor: the area byte for byte, and every register it restores.

An area is 832 bytes and a case carries 512 bytes of memory, so a round is several cases: they copy memory of their own into
two areas, run the instruction, and copy the second area back.  Only components 0 to 2 are asked for: the host may have more.
XINUSE of the host is known only of what XRSTOR has initialised, which is why most rounds begin with one.
"""

import os

import numpy as np
import pytest

from tests.conformance.native import DATA, MEM, differences, emulated, host_has, native, set_code
from tests.conformance.test_oracle_simd import FIELDS, SEED, random_state, vectors

A, B = DATA + 0x200, DATA + 0x600                # XRSTOR from the first, saves to the second
ROUNDS = 10 * int(os.environ.get("XENFAST_ROUNDS", "20"))
PER_ROUND = 7
SAVES = {"xsave": "0fae21", "xsaveopt": "0fae31", "xsavec": "0fc721"}      # [rcx]
XRSTOR = "0fae2b"                                                          # [rbx]
MOVE = bytes.fromhex("f3a4")
pytestmark = pytest.mark.skipif(not host_has("xsave", "xsaveopt", "xsavec", "avx"), reason="the host has no XSAVEC")


def header(rng: np.random.Generator) -> bytes:
    """XSTATE_BV, XCOMP_BV and the reserved bytes: mostly legal."""
    words = np.zeros(8, "u8")
    words[0] = rng.integers(0, 8)
    if rng.random() < 0.5:
        words[1] = int(rng.integers(0, 8)) | 1 << 63
        if rng.random() < 0.8:
            words[0] &= words[1]
    if rng.random() < 0.15:
        words[int(rng.integers(0, 8))] |= np.uint64(1 << int(rng.choice([3, 4, 20, 62])))
    return words.tobytes()


def area(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """1024 bytes in two halves."""
    low, high = vectors(rng, "i", (512,)), vectors(rng, "i", (512,))
    low[24:28] = vectors(rng, "m", (4,))
    low[0] |= 0x3F                                                         # no unmasked x87 exception
    low[2:4] = np.frombuffer(int(int(rng.integers(0, 8)) << 11).to_bytes(2, "little"), "u1")
    high[:64] = np.frombuffer(header(rng), "u1")
    return low, high


def copy(case: np.void, source: int, target: int, data: np.ndarray | None = None) -> None:
    case["gpr"][[6, 7, 1]] = source, target, 512
    case["rflags"] = 2
    if data is not None:
        case["mem"] = data
    case["code"][:2], case["length"] = np.frombuffer(MOVE, "u1"), 2


def generate(code: bytes, rounds: int, seed: int, mode: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    cases = random_state(rng, rounds * PER_ROUND)
    cases["mode"] = mode
    cases["fx"]["xmm"] = vectors(rng, "i", (len(cases), 16, 16))
    cases["ymmh"] = vectors(rng, "i", (len(cases), 16, 16))
    for r in range(rounds):
        part = cases[r * PER_ROUND : (r + 1) * PER_ROUND]
        for i, (place, halves) in enumerate(((A, area(rng)), (B, area(rng)))):
            copy(part[2 * i], MEM, place, halves[0])
            copy(part[2 * i + 1], MEM, place + 512, halves[1])
        part[4]["gpr"][[0, 1, 2, 3]] = int(rng.integers(0, 8)), B, 0, A
        if rng.random() < 0.05:
            part[4]["gpr"][[1, 3]] += 32
        set_code(part, 4, code)
        copy(part[5], B, MEM)
        copy(part[6], B + 512, MEM)
    if mode == 32:
        cases["gpr"] &= 0xFFFFFFFF
    return cases


def check(code: bytes, seed: int, mode: int) -> None:
    cases = generate(code, ROUNDS, seed, mode)
    want, got = native(cases), emulated(cases, blocks=True)                # the whole of code, not one instruction
    for results in (want, got):
        results["gpr"] &= 0xFFFFFFFF if mode == 32 else 0xFFFFFFFFFFFFFFFF
        results["mem"][5::PER_ROUND, 6:24] = 0                             # FOP, FIP, FDP: vendors differ
        results["mem"][5::PER_ROUND, 28:32] = 0                            # MXCSR_MASK
        if mode == 32:
            results["gpr"][:, 8:] = 0
            results["fx"]["xmm"][:, 8:] = results["ymmh"][:, 8:] = 0
    lines = differences(cases, want, got, FIELDS)
    assert not lines, f"seed {seed}\n" + "\n".join(lines[:40])


@pytest.mark.parametrize("mode", [64, 32])
@pytest.mark.parametrize("wide", [False, True])
def test_xrstor(wide, mode):
    """XRSTOR loads or initialises what it is asked for, in both formats, and refuses what the header rules forbid."""
    if wide and mode == 32:
        pytest.skip("REX.W is 64-bit mode's")
    check((b"\x48" if wide else b"") + bytes.fromhex(XRSTOR), SEED + 400 + mode + wide, mode)


@pytest.mark.parametrize("mode", [64, 32])
@pytest.mark.parametrize("name", SAVES)
def test_saves_of_all_in_use(name, mode):
    """With everything in use, XSAVE, XSAVEOPT and XSAVEC write the components asked for and the header."""
    check(bytes.fromhex(SAVES[name]), SEED + 410 + mode, mode)


@pytest.mark.parametrize("mode", [64, 32])
@pytest.mark.parametrize("name", SAVES)
def test_init_optimisation(name, mode):
    """After XRSTOR has initialised components, saves say so in XSTATE_BV, and XSAVEOPT and XSAVEC leave them out."""
    check(bytes.fromhex(XRSTOR + SAVES[name]), SEED + 420 + mode, mode)


@pytest.mark.parametrize("code", ["0fc729", "0fc71b"], ids=["XSAVES", "XRSTORS"])
def test_supervisor_forms_are_privileged(code):
    """XSAVES and XRSTORS are #GP outside ring 0."""
    check(bytes.fromhex(code), SEED + 430, 64)
