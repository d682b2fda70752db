"""x87 code at random means the same stepped one by one and as translated code, where it runs on the host's FPU."""

import random

import pytest

from tests.cpu.asm import assemble
from xenfast.machine import Machine, Reason

CODE, DATA = 0x10000, 0x20000

# i: a stack register; d: an offset in DATA.  FXAM sets C1 anew: behind FCMOV it is undefined, FCOMI clears it (SDM) or leaves it (AMD).
TEMPLATES = """
fld st({i}) | fxch st({i}) | fadd st, st({i}) | fmulp st({i}), st | fsub st({i}), st | fdivr st, st({i}) | fchs | fabs | fsqrt | frndint
fld1 | fldpi | fldz | fild dword ptr [rsi+{d}] | fild qword ptr [rsi+{d}] | fld dword ptr [rsi+{d}] | fld qword ptr [rsi+{d}]
fld tbyte ptr [rsi+{d}] | fstp tbyte ptr [rsi+{d}] | fst dword ptr [rsi+{d}] | fstp qword ptr [rsi+{d}] | fistp dword ptr [rsi+{d}]
fistp qword ptr [rsi+{d}] | fisttp word ptr [rsi+{d}] | fadd qword ptr [rsi+{d}] | fimul word ptr [rsi+{d}]
fcomi st, st({i}); seta bl; fxam
fucomip st, st({i}); setp cl; fxam | fcmovb st, st({i}); fxam | fxam; fnstsw ax | ftst; fnstsw ax | fprem | fscale | fxtract; fstp st(0)
fnstcw [rsi+{d}] | fincstp | fdecstp | ffree st({i}) | fnclex | fldcw [rdi] | fldcw [rdi+2] | fsin | fnstenv [rdi+64]; fldenv [rdi+64]
add r8, rbx; cmp r8, r9 | xor r9, rax | addsd xmm0, xmm1 | fwait
"""
CHOICES = [text.strip() for line in TEMPLATES.strip().splitlines() for text in line.split("|")]


def program(rng: random.Random) -> str:
    lines = [rng.choice(CHOICES).format(i=rng.randrange(8), d=rng.randrange(0, 960)) for _ in range(150)]
    return "\n".join([*lines, "hlt"])


def machine(code: bytes, seed: int) -> Machine:
    rng = random.Random(seed)
    m = Machine(memory=1 << 20)
    m.map(CODE, 0x2000)
    m.map(DATA, 0x2000)
    m.write(CODE, code)
    m.write(DATA, rng.randbytes(1024))
    m.write(DATA + 0x1000, bytes.fromhex("7f037f0b" if seed % 3 else "7f037a03"))     # now and then one with exceptions unmasked
    m.cpu.set_x87(0x37F, 0, 0, [(0, 0)] * 8)
    m.rip, m.rsi, m.rdi = CODE, DATA, DATA + 0x1000
    for name in ("rax", "rbx", "rcx", "r8", "r9"):
        setattr(m, name, rng.getrandbits(64))
    return m


def state(m: Machine, image: bytes) -> tuple:
    general = [hex(getattr(m, name)) for name in ("rax", "rbx", "rcx", "r8", "r9", "rip")]
    return general, m.cpu.x87(), m.cpu.vector(0).hex(), image


@pytest.mark.parametrize("seed", range(40))
def test_x87_in_every_tier(seed):
    """The same 150 random instructions end in the same registers, tags, status, memory, and at the same fault if there is one."""
    code = assemble(program(random.Random(seed)), 64, CODE)
    fast, slow = machine(code, seed), machine(code, seed)
    if fast.cpu.engine != "translator":
        pytest.skip("this host gives no executable memory")
    fast.cpu.hot_after = 0
    end = fast.run()
    assert fast.cpu.statistics()["translated"] > 0
    while (stop := slow.run(1)).reason is Reason.BUDGET:
        pass
    assert (end.reason, end.vector) == (stop.reason, stop.vector)
    images = []
    for m in (fast, slow):
        image = bytearray(m.read(DATA, 0x2000))
        image[0x1040:0x1060] = bytes(32)                  # FNSTENV's: the pointers of the last instruction are not kept by both
        images.append(bytes(image))
    assert state(fast, images[0]) == state(slow, images[1])
