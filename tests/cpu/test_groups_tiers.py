"""Accesses that translated code checks together mean what each of them means alone: across pages, faulting, with a moving stack."""

import random

import pytest

from tests.cpu.test_tiers import CODE, DATA, REGISTERS, STACK, UNDEFINED, state
from xenfast.machine import Machine, Reason

BASES = {3: 0x1000, 5: 0x2000, 6: 0x3000, 7: 0x4000}       # rbx rbp rsi rdi: the page boundary each stays near
FREE = (0, 1, 2, 8, 9, 10, 11, 12, 13)                      # registers that hold anything
TURNS, LENGTH = 3, 60


def near(rng, base, reg, wide, op):
    """op reg, [base + disp8]"""
    return bytes([0x40 | wide | (reg >> 3) << 2, *op, 0x40 | (reg & 7) << 3 | base, rng.randrange(-64, 64) & 0xFF])


def instruction(rng):
    kind, base, reg, wide = rng.randrange(18), rng.choice(list(BASES)), rng.choice(FREE), rng.choice((0, 8))
    if kind < 8:
        return near(rng, base, reg, wide, [rng.choice((0x89, 0x89, 0x8B, 0x8B, 0x8B, 0x88, 0x01, 0x03, 0x3B, 0x85))])
    if kind == 8:
        return near(rng, base, reg, 8, [0x0F, rng.choice((0xB6, 0xBF, 0x44))])
    if kind == 9:                                           # MOVDQU both ways
        at = bytes([0x40 | (reg & 7) << 3 | base, rng.randrange(-64, 64) & 0xFF])
        return bytes([0xF3, 0x0F, rng.choice((0x6F, 0x7F))]) + at
    if kind == 10:                                          # the base moves, and comes back with the next turn
        return bytes([0x48, 0x83, 0xC0 | base, rng.randrange(-4, 4) & 0xFF])
    if kind == 11:                                          # pushes, pops
        some = [rng.choice(FREE) for _ in range(rng.randrange(1, 5))]
        push = b"".join(bytes([0x40 | r >> 3, 0x50 | r & 7]) for r in some)
        return push + b"".join(bytes([0x40 | r >> 3, 0x58 | r & 7]) for r in reversed(some))
    if kind == 12:                                          # a frame: sub rsp, 8n; mov [rsp + x], reg; mov reg, [rsp + x]; add rsp, 8n
        size, at = 8 * rng.randrange(1, 12), rng.randrange(0, 60)
        there = bytes([0x44 | (reg & 7) << 3, 0x24, at])
        rex = 0x48 | (reg >> 3) << 2
        back = bytes([0x48, 0x8D, 0x64, 0x24, size]) if at & 1 else bytes([0x48, 0x83, 0xC4, size])
        return bytes([0x48, 0x83, 0xEC, size, rex, 0x89]) + there + bytes([rex, 0x8B]) + there + back
    if kind == 13:                                          # a call of a routine that returns
        return bytes.fromhex("e802000000eb0a 50 8b4424 04 0145 08 58 c3".replace(" ", ""))
    if kind > 15:                                           # reads and writes by rSP, one of them far from the others
        op = rng.choice((0x89, 0x8B))
        close = [bytes([0x48, op, 0x44 | (r & 7) << 3, 0x24, rng.randrange(-64, 64) & 0xFF]) for r in rng.choices((0, 1, 2), k=4)]
        far = bytes([0x48, op, 0x84 | rng.choice((0, 1, 2)) << 3, 0x24]) + rng.randrange(-0xF00, 0xF00).to_bytes(4, "little", signed=True)
        return b"".join([*close[:2], far, *close[2:]])
    if kind == 14:                                          # a branch over a write
        write = near(rng, base, reg, wide, [0x89])
        return bytes([0x48, 0x39, 0xC0 | reg & 7, 0x70 | rng.randrange(16), len(write)]) + write
    return bytes([rng.choice((0x9F, 0xF5, 0xF5))])          # LAHF, which is called; CMC


def program(rng, length):
    """TURNS times the same instructions; the bases are set again in each turn."""
    body = b"".join(instruction(rng) for _ in range(length))
    bases = b"".join(bytes([0x48, 0xC7, 0xC0 | n]) + (DATA + at + rng.randrange(-80, 80)).to_bytes(4, "little") for n, at in BASES.items())
    code = bases + body + b"\x49\xff\xcf"
    return code + b"\x0f\x85" + (-len(code) - 6).to_bytes(4, "little", signed=True) + b"\xf4"


def machine(seed, code, holes):
    """Data pages whose frames are not in order; with holes, one is read-only and one is not there."""
    rng = random.Random(seed)
    m = Machine(8 << 20)
    m.map(CODE, 0x3000)
    order = list(range(6))
    rng.shuffle(order)
    for page in order:
        if not (holes and page == 3):
            m.map(DATA + 0x1000 * page, 0x1000, writable=not (holes and page == 4))
            m.write(DATA + 0x1000 * page, rng.randbytes(0x1000))
    for page in rng.sample(range(3), 3):
        m.map(STACK + 0x1000 * page, 0x1000)
    m.write(CODE, code)
    for name in REGISTERS:
        setattr(m, name, rng.getrandbits(64))
    m.rsp, m.r15, m.rflags, m.rip = STACK + 0x1000 * rng.randrange(1, 3) + rng.randrange(-64, 64), TURNS, 0x202, CODE
    for n in range(16):
        m.cpu.set_vector(n, rng.randbytes(32))
    return m


def memory(m, holes):
    data = b"".join(m.read(DATA + 0x1000 * page, 0x1000) for page in range(6) if not (holes and page == 3))
    return data + m.read(STACK, 0x3000)


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("holes", [False, True])
@pytest.mark.parametrize("seed", range(50))
def test_groups_mean_what_their_accesses_mean(seed, holes, strict):
    """Translated code and single steps end alike: registers, memory, the place and kind of a fault, and with strict flags those too."""
    rng = random.Random(seed * 2 + holes)
    code = program(rng, LENGTH if not holes else rng.randrange(4, 20))
    fast, slow = machine(seed, code, holes), machine(seed, code, holes)
    if fast.cpu.engine != "translator":
        pytest.skip("this host gives no executable memory")
    fast.cpu.strict_flags, fast.cpu.hot_after = strict, 0
    end = fast.run(1_000_000)
    for _ in range(1_000_000):
        step = slow.run(1)
        if step.reason is not Reason.BUDGET:
            break
    assert end == step
    assert end.reason is Reason.HLT or (holes and end.reason is Reason.EXCEPTION)
    hidden = UNDEFINED if strict or end.reason is Reason.HLT else 0x8D5
    fast.rflags, slow.rflags = fast.rflags & ~hidden, slow.rflags & ~hidden
    assert state(fast) == state(slow)
    assert fast.cpu.instructions == slow.cpu.instructions
    assert fast.cpu.vectors() == slow.cpu.vectors()
    assert memory(fast, holes) == memory(slow, holes)
