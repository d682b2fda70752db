"""MMX, SSE and x87 in compatibility mode, and alignment checks, against the host's own processor."""

import numpy as np
import pytest

from tests.conformance import test_oracle_simd as simd
from tests.conformance import test_oracle_x87 as x87
from tests.conformance.native import MEM, blank, differences, host_has, native, set_code
from tests.conformance.native import Emulator as Emulated
from tests.conformance.simd_forms import CRYPTO, SSE, SSE4, forms

AM, AC = 1 << 18, 1 << 18


@pytest.mark.parametrize("group", range(4))
def test_mmx_and_sse(group):
    """Every MMX and SSE opcode to SSE4.2, with eight registers and 32-bit addresses, is as on the host."""
    table = forms(SSE) + (forms(SSE4) if host_has("ssse3", "sse4_1", "sse4_2") else [])
    simd.check(table[group::4], simd.SEED + 300 + group, simd.CASES // 2, mode=32)


@pytest.mark.skipif(not host_has("aes", "pclmulqdq", "sha_ni"), reason="the host has no AES, PCLMULQDQ or SHA")
def test_aes_pclmulqdq_and_sha():
    """AES-NI, PCLMULQDQ and SHA are as on the host."""
    simd.check(forms(CRYPTO), simd.SEED + 310, simd.CASES // 2, mode=32)


@pytest.mark.parametrize("group", range(4))
def test_x87(group):
    """Every x87 instruction leaves the registers, status, tags, flags, memory and faults of the host."""
    table = x87.FORMS[group::4]
    lines = x87.compare(table, x87.SEED + 320 + group, x87.CASES // 2, mode=32)
    bad = sorted({table[int(line[1:].split()[0]) // (x87.CASES // 2)][0] for line in lines if line[0] == "#"})
    assert not lines, f"seed {x87.SEED + 320 + group}; {', '.join(bad)}\n" + "\n".join(lines[:60])


# One memory operand at [rDI] (or [rSI]) each.
ACCESSES = {
    "mov al, m8": "8a07", "mov ax, m16": "668b07", "mov eax, m32": "8b07", "mov m32, eax": "8907", "add m16, ax": "660107",
    "lock inc m32": "f0ff07", "push m": "ff37", "lodsd": "ad", "stosw": "66ab", "cmpxchg8b": "0fc70f", "bt m32, 0": "0fba2700",
    "fld m32": "d907", "fld m64": "dd07", "fld m80": "db2f", "fild m16": "df07", "fnstcw": "d93f", "fnstenv": "d937",
    "fldenv 16": "66d927", "fnsave": "dd37", "fbld": "df27", "movd mm0, m32": "0f6e07", "movq mm0, m64": "0f6f07",
    "movss": "f30f1007", "movsd": "f20f1007", "movlps": "0f1207", "movaps": "0f2807", "movups": "0f1007",
    "movups store": "0f1107", "movdqu": "f30f6f07", "ldmxcsr": "0fae17", "vmovups ymm": "c5fc1007", "vmovups ymm store": "c5fc1107",
    "vmovaps ymm": "c5fc2807", "vpmovzxbw ymm": "c4e27d3007", "vmaskmovps": "c4e27d2c07", "vbroadcastss": "c4e27d1807",
}


@pytest.mark.parametrize("mode", [64, 32])
@pytest.mark.parametrize("name", ACCESSES)
def test_alignment_check(name, mode):
    """With EFLAGS.AC an access that is not aligned is #AC where it is on the host, across a page boundary too."""
    offsets = [*range(0, 18), *range(240, 258)]
    cases = blank(len(offsets))
    cases["mode"] = mode
    cases["mem"][:, ::16] = np.arange(32)
    cases["gpr"][:, 6] = cases["gpr"][:, 7] = MEM + np.array(offsets)
    cases["rflags"] |= AC
    for i in range(len(offsets)):
        set_code(cases, i, bytes.fromhex(ACCESSES[name]))
    emulator = Emulated()
    emulator.vcpu.cr0 |= AM
    assert not differences(cases, native(cases), emulator.run(cases), ["vector", "error", "rip", "gpr"])
