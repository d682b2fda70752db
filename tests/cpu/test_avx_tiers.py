"""SSE and AVX mixed at random mean the same in every tier: stepped one by one, as threaded blocks, as translated code.

The translator keeps XMM registers, or whole YMM registers, in the host's, and calls the exec functions of some instructions: what each
does to the halves the other one holds is what is looked for here.
"""

import random

import pytest

from tests.cpu.asm import assemble
from xenfast.machine import Machine, Reason

CODE, DATA = 0x10000, 0x20000

# a b c: vector registers; d: an offset in DATA; r: a general register.
TEMPLATES = """
paddd xmm{a}, xmm{b}              | vpaddd ymm{a}, ymm{b}, ymm{c}       | vpaddd xmm{a}, xmm{b}, xmm{c}    | pxor xmm{a}, xmm{b}
addps xmm{a}, xmm{b}              | vaddps ymm{a}, ymm{b}, ymm{c}       | vmulss xmm{a}, xmm{b}, xmm{c}    | mulsd xmm{a}, xmm{b}
movups [rsi+{d}], xmm{a}          | vmovups [rsi+{d}], ymm{a}           | movups xmm{a}, [rsi+{d}]         | vmovups ymm{a}, [rsi+{d}]
movaps xmm{a}, xmm{b}             | vmovaps ymm{a}, ymm{b}              | vmovaps xmm{a}, xmm{b}           | movss xmm{a}, [rsi+{d}]
vextracti128 xmm{a}, ymm{b}, 1    | vinserti128 ymm{a}, ymm{b}, xmm{c}, 1 | vpermq ymm{a}, ymm{b}, 0x1B
vperm2f128 ymm{a}, ymm{b}, ymm{c}, 0x31
cvtsi2sd xmm{a}, {r}              | vcvttsd2si {r}, xmm{a}              | movq xmm{a}, {r}                 | vmovq {r}, xmm{a}
vfmadd231ps ymm{a}, ymm{b}, ymm{c} | vpcmpeqb ymm{a}, ymm{b}, [rsi+{d}] | vpmovmskb {r}, ymm{a}            | pmovmskb {r}, xmm{a}
vptest ymm{a}, ymm{b}; setc {l}   | ucomiss xmm{a}, xmm{b}; setp {l}    | xor {r}, {r}; add {r}, {s}       | vpsrlvq ymm{a}, ymm{b}, ymm{c}
vpgatherdd ymm1, [rsi+ymm0], ymm2 | vpmaskmovd [rsi+{d}], ymm{a}, ymm{b} | vcvtps2ph [rsi+{d}], ymm{a}, 0  | vzeroupper
xsavec [rdi]; xrstor [rdi]        | vbroadcastss ymm{a}, xmm{b}         | shufps xmm{a}, xmm{b}, 0x1B      | vpshufb ymm{a}, ymm{b}, ymm{c}
"""
CHOICES = [text.strip() for line in TEMPLATES.strip().splitlines() for text in line.split("|")]


def program(rng: random.Random) -> str:
    lines = []
    for _ in range(120):
        text = rng.choice(CHOICES)
        if "ymm0]" in text:
            text = "vpand ymm0, ymm0, ymm15; " + text        # indices within DATA
        if text == "vzeroupper" and rng.random() < 0.7:
            continue
        a, b, c = (rng.randrange(15) for _ in range(3))
        register = rng.choice(["rbx", "rcx", "r8", "r12"])
        low = {"rbx": "bl", "rcx": "cl", "r8": "r8b", "r12": "r12b"}[register]
        source = rng.choice(["rbx", "rcx", "r8", "r12"])
        lines.append(text.format(a=a, b=b, c=c, d=rng.randrange(0, 960), r=register, l=low, s=source))
    return "\n".join([*lines, "hlt"])


def machine(code: bytes, seed: int) -> Machine:
    rng = random.Random(seed)
    m = Machine(memory=1 << 20)
    m.map(CODE, 0x2000)
    m.map(DATA, 0x2000)
    m.cpu.cr4 |= 1 << 18
    m.cpu.xcr0 = 7
    m.write(CODE, code)
    m.write(DATA, rng.randbytes(1024))
    for n in range(15):
        m.cpu.set_vector(n, rng.randbytes(32))
    m.cpu.set_vector(15, b"\xff\x03\0\0" * 8)
    m.rip, m.rsi, m.rdi, m.rax, m.rdx = CODE, DATA, DATA + 0x1000, 7, 0
    for name in ("rbx", "rcx", "r8", "r12"):
        setattr(m, name, rng.getrandbits(64))
    return m


def state(m: Machine) -> tuple:
    general = [hex(getattr(m, name)) for name in ("rbx", "rcx", "r8", "r12", "rip", "rflags")]
    return general, [m.cpu.vector(n).hex() for n in range(16)], hex(m.cpu.mxcsr), m.read(DATA, 0x2000)


@pytest.mark.parametrize("engine", ["blocks", "translator"])
@pytest.mark.parametrize("seed", range(15))
def test_sse_and_avx_in_every_tier(seed, engine):
    """The same 120 random vector instructions leave the same 512 bytes of registers, MXCSR and memory."""
    code = assemble(program(random.Random(seed)), 64, CODE)
    fast, slow = machine(code, seed), machine(code, seed)
    fast.cpu.exact = False
    if engine == "translator":
        fast.cpu.hot_after = 0
    assert fast.run().reason is Reason.HLT
    if engine == "translator":
        if fast.cpu.engine != "translator":
            pytest.skip("this host gives no executable memory")
        assert fast.cpu.statistics()["translated"] > 0
    while slow.run(1).reason is Reason.BUDGET:
        pass
    assert state(fast) == state(slow)
