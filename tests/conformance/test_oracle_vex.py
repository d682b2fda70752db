"""AVX, AVX2, F16C and FMA against the host's own processor: every opcode at every VEX.L and VEX.W, registers and memory.

All 32 bytes of every register are compared, so that what an instruction clears or keeps of the upper halves is seen.
XENFAST_ROUNDS multiplies the number of cases; XENFAST_SEED makes others.
"""

import os

import numpy as np
import pytest

from tests.conformance.native import MEM, Emulator, blank, differences, emulated, host_has, native, set_code
from tests.conformance.test_oracle_simd import FIELDS, SEED, forgive, random_state, vectors
from tests.conformance.vex_forms import AVX, AVX3A, AVX38, F16C, FMA, GATHER, VexForm, vex_forms

CASES = 2 * int(os.environ.get("XENFAST_ROUNDS", "20"))           # for each opcode at one VEX.L and VEX.W
needs_avx2 = pytest.mark.skipif(not host_has("avx", "avx2", "xsave", "aes", "pclmulqdq"), reason="the host has no AVX2")


def vex_vectors(rng: np.random.Generator, form: VexForm, shape: tuple[int, ...]) -> np.ndarray:
    count = int(np.prod(shape))
    if form.data == "h":
        return rng.integers(0, 1 << 16, count // 2, "u2").view("u1").reshape(shape)
    if form.data == "k":
        small = rng.integers(0, 70, count // 4).astype("u4")
        small[rng.random(count // 4) < 0.3] = 0
        return np.where(rng.random(count // 4) < 0.7, small, rng.integers(0, 1 << 32, count // 4, "u4")).view("u1").reshape(shape)
    if form.data == "g":
        wide = form.byte & 1
        values = rng.integers(-28, 29, count // (8 if wide else 4)).astype("i8" if wide else "i4")
        wild = rng.random(len(values)) < 0.01
        values[wild] = rng.integers(-(1 << 31), 1 << 31, int(wild.sum()))
        return values.view("u1").reshape(shape)
    return vectors(rng, form.data, shape)


def encode(rng: np.random.Generator, form: VexForm, case: np.void, mode: int) -> None:
    registers = 16 if mode == 64 else 8
    reg, rm, vvvv, index = (int(x) for x in rng.integers(0, registers, 4))
    if rng.random() < 0.3:
        vvvv = reg
    if rng.random() < 0.3:
        rm = vvvv if rng.random() < 0.5 else reg
    if form.reg is not None:
        reg = form.reg
    memory, base = None, 0
    if form.memory is not None and (form.only_memory or rng.random() < 0.4):
        offset = int(rng.integers(64, 400))
        if form.aligned and rng.random() < 0.9:
            offset &= ~31
        if form.data == "m":
            offset &= ~3
        disp = int(rng.integers(-64, 64))
        base = int(rng.choice([0, 2, 3, 5, 6, 7, 8, 10, 11, 14, 15] if mode == 64 else [0, 2, 3, 5, 6, 7]))
        if form.vsib:
            case["gpr"][base] = (MEM + 256 - disp) & 0xFFFFFFFFFFFFFFFF
            memory = bytes([0x44, int(rng.integers(4)) << 6 | (index & 7) << 3 | base & 7, disp & 0xFF])
        else:
            case["gpr"][base] = (MEM + offset - disp) & 0xFFFFFFFFFFFFFFFF
            memory = bytes([0x40 | base & 7, disp & 0xFF])
    if form.name.endswith("F7 V,U"):
        case["gpr"][7] = MEM + int(rng.integers(0, 480))
    code = form.encode(rng, reg, rm, vvvv if form.has_h else 0, memory, base, index if form.vsib else 0)
    case["code"][: len(code)] = np.frombuffer(code, "u1")
    case["length"] = len(code)


def generate(table: list[VexForm], seed: int, each: int, mode: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    cases = random_state(rng, len(table) * each)
    cases["mode"] = mode
    if mode == 32:
        cases["gpr"] &= 0x7FFFFFFF
    for i, form in enumerate(table):
        part = cases[i * each : (i + 1) * each]
        both = vex_vectors(rng, form, (each, 16, 32))
        part["fx"]["xmm"], part["ymmh"] = both[:, :, :16], both[:, :, 16:]
        part["mem"] = vex_vectors(rng, form, (each, 512))
        if form.data == "t":
            part["gpr"][:, :3] = rng.integers(-20, 20, (each, 3)).astype("u8")
        for case in part:
            encode(rng, form, case, mode)
    if mode == 32:
        cases["gpr"] &= 0xFFFFFFFF
    return cases


def check(table: list[VexForm], seed: int, each: int = CASES, mode: int = 64) -> None:
    """Once by exec functions and once as decoded blocks."""
    cases = generate(table, seed, each, mode)
    expected = native(cases)
    for blocks in (False, True):
        want, got = expected.copy(), emulated(cases, blocks)
        forgive(table, each, cases, want, got)
        if mode == 32:                                   # what only 64-bit mode can see
            for name in ("fx", "ymmh"):
                for results in (want, got):
                    (results[name]["xmm"] if name == "fx" else results[name])[:, 8:] = 0
            want["gpr"] &= 0xFFFFFFFF
            got["gpr"] &= 0xFFFFFFFF
            want["gpr"][:, 8:] = got["gpr"][:, 8:] = 0
        lines = differences(cases, want, got, FIELDS)
        bad = sorted({table[int(line[1:].split()[0]) // each].name for line in lines if line[0] == "#"})
        assert not lines, f"seed {seed}, blocks {blocks}; {', '.join(bad)}\n" + "\n".join(lines[:60])


@needs_avx2
@pytest.mark.parametrize("group", range(8))
def test_avx_counterparts_of_sse(group):
    """Every VEX opcode of map 0F leaves the registers, flags, MXCSR, memory and faults of the host."""
    check(vex_forms(AVX)[group::8], SEED + 300 + group)


@needs_avx2
@pytest.mark.parametrize("group", range(4))
def test_avx_maps_38_and_3a(group):
    """Every AVX and AVX2 opcode of maps 0F38 and 0F3A is as on the host."""
    check((vex_forms(AVX38) + vex_forms(AVX3A))[group::4], SEED + 320 + group)


@pytest.mark.skipif(not host_has("f16c"), reason="the host has no F16C")
def test_f16c():
    """Conversions from and to half precision are as on the host, in every rounding mode, with every exception mask."""
    check(vex_forms(F16C), SEED + 340, 20 * CASES)


@pytest.mark.skipif(not host_has("fma"), reason="the host has no FMA")
@pytest.mark.parametrize("group", range(3))
def test_fma(group):
    """Every FMA opcode rounds once, chooses the NaN and raises the exceptions of the host."""
    check(vex_forms(FMA)[group::3], SEED + 350 + group, 2 * CASES)


@needs_avx2
def test_gathers():
    """Gathers load what the host's load, clear their mask, and fault where the host's fault with the elements below done."""
    check(vex_forms(GATHER), SEED + 360, 4 * CASES)


@needs_avx2
@pytest.mark.parametrize("group", range(2))
def test_in_32_bit_mode(group):
    """VEX instructions in compatibility mode: eight registers, LES and LDS told apart, VEX.W without 64-bit integers."""
    check((vex_forms(AVX) + vex_forms(AVX38) + vex_forms(AVX3A) + vex_forms(GATHER))[group::2], SEED + 370 + group, CASES // 4, 32)


@needs_avx2
def test_what_vex_forbids():
    """#UD as on the host: legacy prefixes, maps that do not exist, VEX.L, VEX.W and VEX.vvvv that must have a value."""
    rng = np.random.default_rng(SEED)
    cases = blank(4000)
    prefixes = [b"", b"", b"\x66", b"\xf2", b"\xf3", b"\xf0", b"\x48", b"\x67", b"\x2e"]
    for i in range(len(cases)):
        opcode = int(rng.choice([0x10, 0x12, 0x28, 0x50, 0x58, 0x6E, 0x6F, 0x77, 0x7E, 0xC5, 0xD6, 0xD7, 0xEF, 0x16, 0x36]))
        code = prefixes[int(rng.integers(len(prefixes)))] + bytes([0xC4, int(rng.integers(256)) & 0xE3, int(rng.integers(256)), opcode])
        modrm = bytes([0xC0 | int(rng.integers(64))])
        set_code(cases, i, code if opcode == 0x77 else code + modrm)       # without an immediate: the INT3 behind it is one
    assert not differences(cases, native(cases), emulated(cases), FIELDS)


@needs_avx2
@pytest.mark.parametrize("scalar", [False, True], ids=["PS", "SS"])
@pytest.mark.parametrize("opcode", [0x52, 0x53], ids=["VRSQRT", "VRCP"])
def test_approximations(opcode, scalar):
    """VRCP and VRSQRT give each element what RCP and RSQRT give it, whose error test_oracle_simd has; a scalar takes the rest of
    the first source."""
    rng = np.random.default_rng(SEED)
    cases = blank(100)
    cases["fx"]["xmm"], cases["ymmh"] = vectors(rng, "s", (100, 16, 16)), vectors(rng, "s", (100, 16, 16))
    low, high = cases.copy(), cases.copy()
    high["fx"]["xmm"] = cases["ymmh"]
    if scalar:
        low["fx"]["xmm"][:, 0] = low["fx"]["xmm"][:, 1]
    for i in range(len(cases)):
        set_code(cases, i, bytes([0xC5, 0xF2 if scalar else 0xFC, opcode, 0xC2]))       # XMM0, XMM1, XMM2 or YMM0, YMM2
        for legacy in (low, high):
            set_code(legacy, i, (b"\xf3" if scalar else b"") + bytes([0x0F, opcode, 0xC2]))
    got, low, high = emulated(cases), emulated(low), emulated(high)
    assert not differences(cases, native(cases), got, ["vector", "rip", "mxcsr"])
    assert (got["fx"]["xmm"][:, 0] == low["fx"]["xmm"][:, 0]).all()
    assert (got["ymmh"][:, 0] == (0 if scalar else high["fx"]["xmm"][:, 0])).all()


# One memory operand at [rDI] each; the mask is YMM1, the indices are YMM2 (zero).
ACCESSES = {
    "vmovups xmm": "c5f81007", "vmovups ymm": "c5fc1007", "vmovups store": "c5fc1107", "vmovups xmm store": "c5f81107",
    "vmovdqu ymm": "c5fe6f07", "vlddqu": "c5fff007", "vmovss": "c5fa1007", "vmovsd": "c5fb1007", "vmovlps": "c5f01207",
    "vaddps xmm": "c5f05807", "vaddps ymm": "c5f45807", "vaddsd": "c5f35807", "vbroadcastss": "c4e27d1807",
    "vbroadcastf128": "c4e27d1a07", "vpbroadcastw": "c4e27d7907", "vpmovzxbw": "c4e2793007", "vpmovzxbw ymm": "c4e27d3007",
    "vcvtph2ps": "c4e2791307", "vcvtph2ps ymm": "c4e27d1307", "vcvtps2ph": "c4e3791d0700", "vcvtps2ph ymm": "c4e37d1d0700",
    "vinsertf128": "c4e375180701", "vextractf128": "c4e37d190701", "vmaskmovps": "c4e2752c07", "vmaskmovpd store": "c4e2752f07",
    "vpmaskmovq": "c4e2f58c07", "vgatherdps": "c4e275920497", "vpgatherqq": "c4e2f5910497", "vpinsrw": "c5f1c40700",
    "vmovd": "c5f96e07", "vfmadd231ss": "c4e271b907", "vldmxcsr": "c5f8ae17", "vmovaps": "c5fc2807", "xsave": "0fae27", "xrstor": "0fae2f",
}


@needs_avx2
@pytest.mark.parametrize("mode", [64, 32])
@pytest.mark.parametrize("name", ACCESSES)
def test_alignment_check(name, mode):
    """With EFLAGS.AC a VEX access is #AC, #GP or neither as on the host, at every misalignment and across a page boundary."""
    offsets = [*range(0, 34), *range(224, 258)]
    cases = blank(len(offsets))
    cases["mode"] = mode
    cases["gpr"][:, 7] = MEM + np.array(offsets)
    cases["rflags"] |= 1 << 18
    cases["fx"]["xmm"][:, 1] = cases["ymmh"][:, 1] = 0xFF
    for i in range(len(offsets)):
        set_code(cases, i, bytes.fromhex(ACCESSES[name]))
    emulator = Emulator()
    emulator.vcpu.cr0 |= 1 << 18
    assert not differences(cases, native(cases), emulator.run(cases), ["vector", "error", "rip", "gpr"])
