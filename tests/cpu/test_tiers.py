"""Threaded handlers and exec functions give the same result, flags included, on generated code."""

import random
import threading

import pytest

from xenfast.machine import Machine, Reason

CODE, DATA, STACK = 0x100000, 0x200000, 0x300000
REGISTERS = "rax rcx rdx rbx rsp rbp rsi rdi r8 r9 r10 r11 r12 r13 r14 r15".split()
UNDEFINED = 0x10                  # AF behind a shift or a logical instruction is the host's own business
POINTERS = (3, 5, 6, 10)          # rbx rbp rsi r10 always point into DATA


def modrm_memory(rng, reg):
    """ModRM and what follows for a random memory operand near a pointer, with the REX bits it needs."""
    base, disp = rng.choice(POINTERS), rng.randrange(-96, 96)
    rex = (reg >> 3) << 2 | base >> 3
    if rng.random() < 0.3:        # an index of r12, which stays small
        rex |= 2
        return rex, bytes([0x44 | (reg & 7) << 3, rng.randrange(4) << 6 | 4 << 3 | base & 7, disp & 0xFF])
    return rex, bytes([0x40 | (reg & 7) << 3 | base & 7, disp & 0xFF])


def operand(rng, reg, memory):
    if memory:
        return modrm_memory(rng, reg)
    rm = destination(rng)
    return (reg >> 3) << 2 | rm >> 3, bytes([0xC0 | (reg & 7) << 3 | rm & 7])


def destination(rng):
    return rng.choice([n for n in range(16) if n not in (*POINTERS, 4, 12)])


def instruction(rng):
    """One random integer instruction that cannot fault and cannot leave the data page."""
    kind = rng.randrange(12)
    wide = rng.choice((0, 0, 8))
    memory = rng.random() < 0.4
    reg = destination(rng)
    prefix = b"\x66" if rng.random() < 0.1 else b""
    if kind < 4:                                           # ALU, MOV, TEST, XCHG: E,G and G,E, byte and full
        op = rng.choice([8 * k + f for k in range(8) for f in range(4)] + [0x88, 0x89, 0x8A, 0x8B, 0x84, 0x85, 0x86, 0x87])
        rex, rm = operand(rng, reg, memory)
        return prefix + bytes([0x40 | wide | rex, op]) + rm
    if kind == 4:                                          # ALU E,Ib
        rex, rm = operand(rng, rng.randrange(8), memory)
        return prefix + bytes([0x40 | wide | rex, rng.choice((0x80, 0x83))]) + rm + bytes([rng.randrange(256)])
    if kind == 5:                                          # shifts and rotates
        rex, rm = operand(rng, rng.randrange(8), memory)
        op = rng.choice((0xC0, 0xC1, 0xD0, 0xD1, 0xD2, 0xD3))
        return prefix + bytes([0x40 | wide | rex, op]) + rm + (bytes([rng.randrange(256)]) if op < 0xD0 else b"")
    if kind == 6:                                          # INC DEC NOT NEG
        rex, rm = operand(rng, rng.randrange(2), memory)
        rex2, rm2 = operand(rng, rng.choice((2, 3)), memory)
        return bytes([0x40 | wide | rex, rng.choice((0xFE, 0xFF))]) + rm + bytes([0x40 | wide | rex2, rng.choice((0xF6, 0xF7))]) + rm2
    if kind == 7:                                          # MOVZX MOVSX IMUL CMOVcc
        rex, rm = operand(rng, reg, memory)
        op = rng.choice((0xB6, 0xB7, 0xBE, 0xBF, 0xAF, 0x40 | rng.randrange(16)))
        defined = b"\x48\x39\xd0" if op == 0xAF else b""     # CMP: IMUL leaves SF ZF AF PF undefined
        return prefix + bytes([0x40 | wide | rex, 0x0F, op]) + rm + defined
    if kind == 8:                                          # SETcc, MOVSXD
        rex, rm = operand(rng, reg, memory)
        return bytes([0x40 | rex, 0x0F, 0x90 | rng.randrange(16)]) + rm + bytes([0x48 | rex, 0x63]) + rm
    if kind == 9:                                          # PUSH and POP
        r = destination(rng)
        return bytes([0x41 if r > 7 else 0x40, 0x50 | r & 7, 0x41 if reg > 7 else 0x40, 0x58 | reg & 7])
    if kind == 10:                                         # CMP or TEST and a branch over one byte of NOP
        rex, rm = operand(rng, reg, memory)
        compare = bytes([0x40 | wide | rex, rng.choice((0x38, 0x39, 0x3A, 0x3B, 0x84, 0x85))])
        return compare + rm + bytes([0x70 | rng.randrange(16), 1, 0x90])
    return bytes([0x40 | wide, rng.choice((0x98, 0x99))])  # CBW family, CWD family


def machine(seed, code):
    rng = random.Random(seed)
    m = Machine(8 << 20)
    m.map(CODE, 0x2000)
    m.map(DATA, 0x2000)
    m.map(STACK, 0x2000)
    m.write(CODE, code)
    m.write(DATA, rng.randbytes(0x2000))
    for n, name in enumerate(REGISTERS):
        setattr(m, name, rng.choice((rng.getrandbits(64), rng.getrandbits(32), rng.getrandbits(7), 0, (1 << 63), 0xFFFFFFFF)))
        if n in POINTERS:
            setattr(m, name, DATA + 0x800 + rng.randrange(8, 0x700))
    m.r12 = rng.randrange(8)
    m.rsp = STACK + 0x1800
    m.rflags = rng.getrandbits(12) & 0x8D5 | 2
    m.rip = CODE
    return m


def state(m):
    return {name: hex(getattr(m, name)) for name in (*REGISTERS, "rip", "rflags")}


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("seed", range(60))
def test_translated_code_means_what_the_exec_functions_mean(seed, strict):
    """As below, with every block translated before it runs; twice, with flags kept exact everywhere or only where code reads them."""
    rng = random.Random(seed)
    code = b"".join(instruction(rng) for _ in range(400)) + b"\xf4"
    fast, slow = machine(seed, code), machine(seed, code)
    if fast.cpu.engine != "translator":
        pytest.skip("this host gives no executable memory")
    fast.cpu.strict_flags = strict
    fast.cpu.hot_after = 0
    assert fast.run().reason is Reason.HLT
    assert fast.cpu.statistics()["translated"] > 0
    while slow.run(1).reason is Reason.BUDGET:
        pass
    fast.rflags, slow.rflags = fast.rflags & ~UNDEFINED, slow.rflags & ~UNDEFINED
    assert state(fast) == state(slow)
    assert fast.cpu.instructions == slow.cpu.instructions
    assert fast.read(DATA, 0x2000) == slow.read(DATA, 0x2000)
    assert fast.read(STACK, 0x2000) == slow.read(STACK, 0x2000)


@pytest.mark.parametrize("seed", range(60))
def test_threaded_handlers_mean_what_the_exec_functions_mean(seed):
    """The same 400 random instructions, run as blocks and stepped one by one, end in the same registers, flags and memory."""
    rng = random.Random(seed)
    code = b"".join(instruction(rng) for _ in range(400)) + b"\xf4"
    fast, slow = machine(seed, code), machine(seed, code)
    fast.cpu.exact = False
    assert fast.run().reason is Reason.HLT
    while slow.run(1).reason is Reason.BUDGET:
        pass
    assert state(fast) == state(slow)
    assert fast.cpu.instructions == slow.cpu.instructions
    assert fast.read(DATA, 0x2000) == slow.read(DATA, 0x2000)
    assert fast.read(STACK, 0x2000) == slow.read(STACK, 0x2000)


BACK_AND_FORTH = bytes.fromhex("48ff05") + (0x1000 - 7 - 0x50).to_bytes(4, "little")     # inc qword [CODE + 0x1000]


def test_a_loop_of_followed_jumps_looks_for_requests():
    """A loop whose only backward branch is a jump that was left out of its block still stops when another thread asks."""
    m = Machine(8 << 20, virtual=True)
    m.map(CODE, 0x2000)
    m.cpu.hot_after = 1
    back = BACK_AND_FORTH + b"\x48\x85\xdb" + b"\x0f\x84"                                 # test rbx, rbx; jz near
    m.write(CODE + 0x50, back + (0x100 - 0x50 - len(back) - 4).to_bytes(4, "little") + b"\xf4")
    m.write(CODE + 0x100, b"\xe9" + (0x50 - 0x105).to_bytes(4, "little", signed=True))   # jmp near, backward
    m.rip, m.rbx = CODE + 0x100, 0
    stops = []
    runner = threading.Thread(target=lambda: stops.append(m.run(4_000_000_000).reason))
    runner.start()
    counter = m.memory.view(m._pages[(CODE + 0x1000) >> 12], readonly=True)
    while runner.is_alive() and int.from_bytes(counter[:8], "little") < 100_000:
        pass
    m.cpu.kick()
    runner.join()
    assert stops == [Reason.STOP]


def test_a_flush_forgets_where_the_stack_was():
    """Pushes of translated code go to the new frame after a page of the stack, a global one, has been mapped elsewhere and flushed."""
    m = Machine(8 << 20)
    m.map(CODE, 0x1000)
    m.map(STACK, 0x2000)
    m.cpu.hot_after = 0
    m.cpu.cr4 |= 0x80                                     # PGE
    table, index, old, new = m._table(1, STACK >> 21), STACK >> 12 & 511, m._pages[STACK >> 12], m._pages[(STACK >> 12) + 1]
    m._pte(table, index, old << 12 | 0x103)
    m.cpu.flush()
    m.write(CODE, b"\x50\x58\xf4" + b"\x50\x90\x58\xf4")   # push rax; pop rax; hlt, and once more with a nop
    for start, value in ((CODE, 1), (CODE, 2), (CODE + 3, 3), (CODE, 4)):
        if value == 4:
            m._pte(table, index, new << 12 | 0x103)
            m.cpu.flush()
        m.rip, m.rsp, m.rax = start, STACK + 0x800, value
        assert m.run().reason is Reason.HLT
    pushed = [int.from_bytes(m.memory.view(frame, readonly=True)[0x7F8:0x800], "little") for frame in (old, new)]
    assert pushed == [3, 4]
