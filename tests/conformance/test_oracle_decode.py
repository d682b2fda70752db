"""Random opcode bytes against the host CPU: what is an instruction, how long it is, and which exception it raises.

The bytes behind an instruction are CC, so that INT3 tells natively where it ended.  Left out by rule: branches (their targets are
anywhere), instructions that look at the machine (CPUID, RDTSC, selectors, descriptor tables), system calls, x87 and vector opcodes
(test_oracle_simd), and encodings newer or older than what we announce (VEX, EVEX, XOP, 3DNow!, BMI, SHA).
"""

import os
import random

import pytest

from tests.conformance import hostcpu
from tests.conformance.hostcpu import CODE, WINDOW, Case
from tests.conformance.test_oracle_int import NAMES, SEED, VECTOR_OF_SIGNAL, Emulated
from xenfast.machine import Reason

capstone = pytest.importorskip("capstone")
pytestmark = pytest.mark.skipif(not hostcpu.available(), reason="the host is not x86-64 Linux")
COUNT = int(os.environ.get("XENFAST_ROUNDS", "20")) * 200

LEGACY_PREFIXES = b"\x66\x67\xf2\xf3\xf0\x2e\x36\x3e\x26"
BRANCHES = {*range(0x70, 0x80), *range(0xE0, 0xE4), 0xC2, 0xC3, 0xE8, 0xE9, 0xEA, 0xEB, 0x9A, 0xCA, 0xCB, 0xCF}
OF_THE_MACHINE = {0x8C, 0x8E, 0x06, 0x0E, 0x16, 0x1E, 0x07, 0x17, 0x1F, 0x9D, 0xC4, 0xC5, 0x62, 0x8F, 0xCC, 0xCD, 0xCE, 0xF1, 0x64,
                  0x65}
FLOATING = {*range(0xD8, 0xE0), 0x9B}
DIFFERENT = {0xC8, 0xD7}                       # ENTER: the SDM checks the new top of stack; XLAT: reads outside the window
TWO_BYTE = {*range(0x00, 0x06), 0x07, 0x0E, 0x0F, *range(0x10, 0x24), *range(0x28, 0x30), 0x31, 0x33, 0x34, 0x35, 0x38, 0x3A,
            *range(0x50, 0x90), 0xA0, 0xA1, 0xA2, *range(0xA4, 0xAA), 0xAC, 0xAD, 0xAE, 0xB2, 0xB4, 0xB5, 0xC2,
            *range(0xC4, 0xC8), *range(0xD0, 0x100)}


def comparable(code: bytes, mode: int) -> bool:
    """Is it one of the instructions this test is about?"""
    at = 0
    while at < len(code) - 2 and (code[at] in LEGACY_PREFIXES or (mode == 64 and code[at] & 0xF0 == 0x40)):
        at += 1
    byte, after = code[at], code[at + 1]
    if byte in LEGACY_PREFIXES or byte in BRANCHES | OF_THE_MACHINE | FLOATING | DIFFERENT:
        return False
    if byte == 0xFF and after >> 3 & 7 in (2, 3, 4, 5):
        return False
    if byte & 0xF6 == 0xA6 and code[:at].translate(None, LEGACY_PREFIXES) != code[:at]:
        return False                           # REP CMPS and SCAS run far outside the window
    if byte & 0xFC == 0xA4 or byte & 0xFC == 0xAC or byte & 0xFE == 0xAA:
        return False                           # and so do the others
    return byte != 0x0F or after not in TWO_BYTE


def draw(rng: random.Random, mode: int) -> Case:
    disassembler = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64 if mode == 64 else capstone.CS_MODE_32)
    while True:
        code = b"".join(rng.choice([b"", b"", b"", b"\x66", b"\xf2", b"\xf3", b"\xf0", b"\x67"]) for _ in range(2))
        if mode == 64 and rng.random() < 0.5:
            code += bytes([0x40 | rng.randrange(16)])
        if rng.random() < 0.4:
            code += b"\x0f"
        code = (code + rng.randbytes(10))[:15]
        if not comparable(code, mode):
            continue
        known = next(disassembler.disasm(code, CODE), None)
        if known is not None:
            break
    regs = [WINDOW + rng.randrange(64, 400) if rng.random() < 0.7 else rng.getrandbits(64) >> rng.choice([0, 32, 60]) for _ in range(16)]
    regs[4] = WINDOW + 256
    if mode == 32:
        regs = [r & 0xFFFFFFFF for r in regs]
    text = f"{known.mnemonic} {known.op_str}: {code[:known.size].hex()}"
    return Case(code[:known.size] + b"\xcc" * 16, regs, 0x202, rng.randbytes(512), mode, text=text)


@pytest.mark.parametrize("mode", [64, 32])
def test_random_bytes_decode_as_on_the_host(mode):
    """Random opcode bytes end where they do on the host, with the same kind of exception and the same registers."""
    rng = random.Random(SEED * 1000 + mode)
    cases = [draw(rng, mode) for _ in range(COUNT)]
    machine = Emulated(mode)
    mask = (1 << 64) - 1 if mode == 64 else 0xFFFFFFFF
    wrong = []
    for case, want in zip(cases, hostcpu.run_all(cases), strict=True):
        if want.signal == hostcpu.ENDLESS:
            continue
        m = machine.machine
        m.write(CODE, case.code)
        m.write(WINDOW, case.data)
        for name, v in zip(NAMES, case.regs, strict=True):
            setattr(m.cpu, name, v)
        m.cpu.rflags, m.cpu.rip, m.cpu.exact = case.flags, CODE, True
        for _ in range(20):
            stop = m.run(1)
            if stop.reason is not Reason.BUDGET:
                break
        vector = stop.vector if stop.reason is Reason.EXCEPTION else -1
        bad = vector not in VECTOR_OF_SIGNAL[want.signal]
        if want.signal == 5 and not bad:
            registers = range(16 if mode == 64 else 8)
            bad = want.rip != m.cpu.rip or any((want.regs[i] ^ getattr(m.cpu, NAMES[i])) & mask for i in registers if i != 4)
        if bad:
            wrong.append(f"{case.text}: native signal {want.signal} at {want.rip:#x}, exception {vector} at {m.cpu.rip:#x}")
    assert not wrong, f"seed {SEED}: {len(wrong)} of {COUNT} differ\n" + "\n".join(wrong[:40])
