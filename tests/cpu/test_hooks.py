"""Hooks: what a tool sees of a run, against the same run looked at step by step."""

import doctest
import itertools
import random
import threading
from pathlib import Path

import pytest

from tests.cpu.asm import assemble
from xenfast import _core
from xenfast.machine import Machine, Reason

CODE, DATA, STACK = 0x100000, 0x200000, 0x300000

LOOP = """
    mov ecx, 5
again:
    call double
    test eax, 1
    jnz odd
    inc ebx
odd:
    dec ecx
    jnz again
    hlt
double:
    add eax, ecx
    ret
"""


def machine(text="hlt", bits=64, **registers):
    m = Machine(8 << 20, mode=bits)
    m.map(CODE, 0x3000)
    m.map(DATA, 0x3000)
    m.map(STACK, 0x1000)
    m.write(CODE, assemble(text, bits, CODE))
    m.rip, m.rsp = CODE, STACK + 0x800
    for name, value in registers.items():
        setattr(m, name, value)
    return m


def trace(text, bits=64, **registers):
    """Addresses of all instructions run, one step at a time, without hooks."""
    m = machine(text, bits, **registers)
    out, reason = [], Reason.BUDGET
    while reason is Reason.BUDGET:
        out.append(m.rip)
        reason = m.run(1).reason
    return out


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 1 << 40])
def test_code_hook_sees_every_instruction_once(chunk, bits):
    """A code hook over everything is called before each instruction, in order, however the run is cut into pieces."""
    m, seen = machine(LOOP, bits), []
    m.hook_code(lambda _, address, size: seen.append(address))
    while m.run(chunk).reason is Reason.BUDGET:
        pass
    assert seen == trace(LOOP, bits)


@pytest.mark.parametrize("count", [True, False])
@pytest.mark.parametrize("chunk", [1, 2, 5, 1 << 40])
def test_block_hook_sees_every_basic_block_once(chunk, count):
    """A block begins where a branch goes and behind one that is not taken: counted in the core, and by a callback."""
    m, seen = machine(LOOP), []
    hook = m.hook_block(None if count else lambda _, address, size: seen.append((address, size)))
    while m.run(chunk).reason is Reason.BUDGET:
        pass
    path = trace(LOOP)
    again, odd, double = CODE + 5, CODE + 0x13, CODE + 0x18
    starts = {CODE, again, CODE + 10, CODE + 0x11, odd, CODE + 0x17, double}
    expected = [a for i, a in enumerate(path) if a in starts and (a, path[i - 1]) not in ((odd, CODE + 0x11), (again, CODE))]
    # (odd and again are also fallen into, from code that does not end with a branch)
    assert hook.hits == len(expected)
    assert count or [a for a, _ in seen] == expected


def test_size_of_a_block():
    """The size is of the instructions up to and with the branch, a jump that was followed while decoding included."""
    m, seen = machine("nop\n jmp 1f\n .byte 0x90,0x90\n 1: xor eax, eax\n jz 2f\n nop\n 2: hlt"), []
    m.hook_block(lambda _, address, size: seen.append((address - CODE, size)))
    m.run()
    assert seen == [(0, 3), (5, 4), (10, 1)]


def test_a_block_that_is_decoded_in_pieces_is_one():
    """Two hundred instructions in a row, over a page end, are one basic block."""
    m = machine()
    m.write(CODE + 0xFA0, b"\x90" * 200 + b"\xF4")
    m.rip = CODE + 0xFA0
    hook = m.hook_block()
    m.run()
    assert hook.hits == 1 and m.cpu.instructions == 200 + 1


def test_hooks_do_not_count_as_instructions():
    """A hooked run retires as many instructions as one without hooks, and stops where it should."""
    for count in range(1, 40):
        plain, hooked = machine(LOOP), machine(LOOP)
        hooked.hook_code()
        hooked.hook_block(lambda *_: None)
        assert plain.run(count).reason == hooked.run(count).reason
        assert (plain.rip, plain.rax, plain.rflags, plain.cpu.instructions) == (
            hooked.rip, hooked.rax, hooked.rflags, hooked.cpu.instructions)


def test_filters_decide_in_the_core():
    """Python is entered for what meets range, condition, ``after`` and ``every`` only; hits count what meets the first two."""
    m, seen = machine(LOOP), []
    hook = m.hook_code(lambda m, *_: seen.append(m.rcx), CODE + 5, CODE + 5, when=[("rcx", "<", 5)], after=2, every=2)
    m.run()
    assert seen == [3, 1] and hook.hits == 4
    with pytest.raises(ValueError, match="no such condition"):
        m.hook_code(when=[("rcx", "~", 5)])


@pytest.mark.parametrize("test, expected", [("==", [3]), ("!=", [5, 4, 2, 1]), (">", [5, 4]), (">=", [5, 4, 3]), ("<=", [3, 2, 1])])
def test_conditions(test, expected):
    """Every test, unsigned."""
    m, seen = machine(LOOP), []
    m.hook_code(lambda m, *_: seen.append(m.rcx), CODE + 5, CODE + 5, when=[("rcx", test, 3)])
    m.run()
    assert seen == expected


def test_instruction_filter_and_leaving_out():
    """mnemonics= hooks these instructions only; a callback that returns True has done the instruction's work."""
    m = machine("mov eax, 7\n cpuid\n inc eax\n syscall\n hlt")
    calls = []

    def cpuid(m, address, size):
        calls.append((address, size))
        m.rax = 0x1234
        return True

    m.hook_code(cpuid, mnemonics=["cpuid"])
    m.hook_code(lambda m, *_: True, mnemonics=["SYSCALL"])
    assert m.run().reason is Reason.HLT
    assert calls == [(CODE + 5, 2)] and m.rax == 0x1235 and m.cpu.instructions == 3
    with pytest.raises(ValueError, match="no such instruction: FROB"):
        m.hook_code(mnemonics=["frob"])


def test_exception_of_a_hook_reaches_the_caller():
    """run() raises what the hook raised, before the instruction; the next run goes on with it."""
    m = machine(LOOP)
    boom = m.hook_code(lambda *_: 1 / 0, CODE + 0x17, CODE + 0x17)
    with pytest.raises(ZeroDivisionError):
        m.run()
    assert m.rip == CODE + 0x17 and boom.hits == 1
    assert m.run().reason is Reason.HLT and boom.hits == 1


def test_hooks_come_and_go_in_hooks():
    """A hook may remove itself and add others while the code it stands in runs."""
    m, seen = machine(LOOP), []

    def first(m, address, size):
        hook.remove()
        seen.append("first")
        m.hook_code(lambda *_: seen.append("later"), CODE + 0x13, CODE + 0x13)

    hook = m.hook_code(first, CODE + 5, CODE + 5)
    m.run()
    assert seen == ["first"] + ["later"] * 5


def test_hook_moves_rip_and_stops():
    """A callback that sets rip goes on there; stop() ends the run before the instruction."""
    m = machine(LOOP)
    m.hook_code(lambda m, *_: setattr(m, "rip", CODE + 0x17), CODE + 5, CODE + 5)
    assert m.run().reason is Reason.HLT and m.cpu.instructions == 2
    m = machine(LOOP)
    m.hook_code(lambda m, *_: m.stop(), CODE + 10, CODE + 10)
    assert (m.run().reason, m.rip) == (Reason.STOP, CODE + 10)
    assert (m.run().reason, m.rcx) == (Reason.STOP, 4)


def test_until_many_addresses():
    """run(until=...) with one address after the other, also those run through before, stops before each."""
    m = machine(LOOP)
    for address in random.Random(1).choices([CODE + 5, CODE + 10, CODE + 0x13, CODE + 0x15], k=30):
        m.rip, m.rcx = CODE, 0
        assert m.run(until=address).reason is Reason.UNTIL
        assert m.rip == address
    decoded = m.cpu.statistics()["blocks_decoded"]
    for address in (CODE + 5, CODE + 10) * 10:
        m.rip = CODE
        m.run(until=address)
    assert m.cpu.statistics()["blocks_decoded"] == decoded         # known addresses cost nothing


def test_memory_hooks():
    """Reads, writes and read-modify-writes of a range are told before they are done, with the value."""
    m, seen = machine("mov [rdi], rax\n mov bl, [rdi+1]\n add dword ptr [rdi+4], 3\n mov [rsi], rax\n push rax\n hlt",
                      rdi=DATA + 8, rsi=DATA + 16, rax=0x1122334455667788), []
    hook = m.hook_memory(lambda m, *event: seen.append(event), DATA + 8, DATA + 15)
    m.hook_code(None)
    assert m.run().reason is Reason.HLT
    assert seen == [(DATA + 8, 8, True, 0x1122334455667788), (DATA + 9, 1, False, 0x77), (DATA + 12, 4, False, 0x11223344),
                    (DATA + 12, 4, True, 0x11223347)]
    assert hook.hits == 4 and m.read(DATA + 8, 8) == bytes.fromhex("8877665547332211")
    assert m.rbx & 0xFF == 0x77


@pytest.mark.parametrize("text, accesses", [
    ("movsq", [("r", 0), ("w", 64)]), ("rep movsb", [("r", 0), ("w", 64), ("r", 1), ("w", 65), ("r", 2), ("w", 66)]),
    ("push [rsi]", [("r", 0)]),
    ("xchg [rsi], rax", [("r", 0), ("w", 0)]), ("lock cmpxchg [rsi], rbx", [("r", 0), ("w", 0)]),
    ("movdqu xmm0, [rsi]", [("r", 0)]), ("movdqa [rsi], xmm0", [("w", 0)]), ("fld qword ptr [rsi]", [("r", 0)]),
    ("mov rax, [rsi+0x1ffc]", [("r", 0x1FFC)]), ("call [rsi]", [("r", 0)]), ("cmpxchg16b [rsi]", [("r", 0), ("w", 0)]),
])
def test_every_access_is_told_once(text, accesses):
    """An instruction that is restarted for its hooks tells of each access once, and does its work once."""
    cell = DATA.to_bytes(8, "little")
    plain = machine(text + "\n hlt", rsi=DATA, rdi=DATA + 64, rcx=3, rax=9, rbx=5)
    m, seen = machine(text + "\n hlt", rsi=DATA, rdi=DATA + 64, rcx=3, rax=9, rbx=5), []
    for x in (plain, m):
        x.write(DATA, (CODE + 0x10).to_bytes(8, "little") + cell)
        x.write(CODE + 0x10, b"\xF4")
    steps = m.hook_code()
    m.hook_memory(lambda m, address, size, is_write, value: seen.append(("w" if is_write else "r", address - DATA)), DATA, DATA + 0x2FFF)
    assert plain.run().reason is m.run().reason is Reason.HLT
    assert seen == accesses and steps.hits == m.cpu.instructions == plain.cpu.instructions
    assert m.cpu.general() == plain.cpu.general() and m.read(DATA, 0x3000) == plain.read(DATA, 0x3000)


def test_memory_hook_changes_what_is_read():
    """The hook is called before the access: it may put the value there, as a device would."""
    m = machine("mov eax, [rdi]\n mov ebx, [rdi]\n hlt", rdi=DATA)
    values = iter((11, 22))
    m.hook_memory(lambda m, address, *_: m.write(address, next(values).to_bytes(4, "little")), DATA, DATA, write=False)
    m.run()
    assert (m.rax, m.rbx) == (11, 22)


def test_memory_filters():
    """Conditions on the value and the size of an access."""
    m, seen = machine("mov [rdi], al\n mov [rdi], eax\n inc eax\n mov [rdi], eax\n hlt", rdi=DATA, rax=4), []
    hook = m.hook_memory(lambda m, *event: seen.append(event), when=[("value", "==", 4), ("size", "==", 4)], read=False)
    m.run()
    assert seen == [(DATA, 4, True, 4)] and hook.hits == 1


def test_interrupt_hook_handles_a_page_fault():
    """A hook of vector 14 maps the page and has the instruction run again; one that does not answer leaves it to the machine."""
    m = machine("mov eax, [rdi]\n ud2", rdi=0x700000)
    seen = []

    def fault(m, vector, error):
        seen.append((vector, error, m.cpu.cr2))
        m.map(m.cpu.cr2 & ~0xFFF, 0x1000)
        return True

    m.hook_interrupt(fault, 14, 14)
    others = m.hook_interrupt(lambda *_: None)
    stop = m.run()
    assert seen == [(14, 0, 0x700000)] and (stop.reason, stop.vector) == (Reason.EXCEPTION, 6)
    assert m.rip == CODE + 2 and others.hits == 2


def test_interrupt_hook_as_system_call():
    """INT 80h is answered by a hook, with rip behind it."""
    m = machine("mov eax, 20\n int 0x80\n inc eax\n hlt")
    m.hook_interrupt(lambda m, *_: setattr(m, "rax", 41) or True, 0x80, 0x80)
    assert m.run().reason is Reason.HLT and m.rax == 42


def test_port_hooks():
    """Ports answered by Python, by the core, and by nobody."""
    m, seen = machine("out 0x80, al\n in al, 0x60\n mov bl, al\n in eax, 0x61\n in al, 0x70\n hlt", rax=0x55), []
    m.hook_port(lambda m, *event: seen.append(event) or (0x33 if event[2] is None else None), 0x60, 0x80, when=[("address", "!=", 0x61),
                                                                                                      ("address", "!=", 0x70)])
    silent = m.hook_port(None, 0x61, 0x61, answer=0x12345678)
    stop = m.run()
    assert (stop.reason, stop.port) == (Reason.PIO, 0x70) and silent.hits == 1
    assert seen == [(0x80, 1, 0x55), (0x60, 1, None)] and m.rbx == 0x33 and m.rax == 0x12345678


def test_hypercall_hooks():
    """VMCALL is #UD unless hooked; Python or the core answers."""
    m = machine("mov eax, 3\n vmcall\n mov ebx, eax\n mov eax, 4\n vmmcall\n hlt")
    assert m.run().vector == 6
    m.rip = CODE
    m.hook_hypercall(lambda m, number: number * 10, 3, 3)
    m.hook_hypercall(None, 4, 4, answer=99)
    assert m.run().reason is Reason.HLT and (m.rbx, m.rax) == (30, 99)


def test_coverage_maps():
    """COVER_OFFSET marks addresses, COVER_HASH and COVER_EDGE blocks and pairs of blocks; bytes wrap from 255 to 1."""
    m, offsets, edges, blocks = machine(LOOP, rcx=0), bytearray(64), bytearray(1 << 12), bytearray(1 << 12)
    m.hook_code(None, CODE, CODE + 63, cover=offsets, cover_mode=_core.HookCover.COVER_OFFSET)
    m.run()
    path = trace(LOOP)
    assert {i: n for i, n in enumerate(offsets) if n} == {a - CODE: path.count(a) for a in set(path)}
    m = machine(LOOP)
    hook = m.hook_block(cover=edges)
    m.hook_block(cover=blocks, cover_mode=_core.HookCover.COVER_HASH)
    m.run()
    assert sum(edges) == sum(blocks) == hook.hits
    assert sum(n > 0 for n in edges) > sum(n > 0 for n in blocks) == 6 + 1
    m = machine("1: dec ecx\n jnz 1b\n hlt", rcx=300)
    m.hook_code(None, CODE, CODE, cover=(wrapped := bytearray(1)), cover_mode=_core.HookCover.COVER_OFFSET)
    m.run()
    assert wrapped == bytes([300 - 255])
    with pytest.raises(ValueError, match="power of two"):
        m.hook_block(cover=bytearray(100))


def test_self_modifying_code_under_hooks():
    """Code written under a hook is decoded again, with the hook."""
    text = "mov byte ptr [rip+2], 5\n 2: nop\n 1: mov al, 1\n hlt"
    m, seen = machine(text), []
    m.hook_code(lambda _, address, size: seen.append(address))
    assert m.run().reason is Reason.HLT and m.rax == 5
    assert seen == trace(text)


def test_block_counts_of_random_programs():
    """Blocks counted in the core are those of a walk step by step, for programs of random branches."""
    rng = random.Random(7)
    for _ in range(12):
        lines = [f"mov r15d, {rng.randrange(5, 30)}"]
        for i in range(30):
            lines.append(f"l{i}: add eax, {rng.randrange(1 << 20)}\n" + "nop\n" * rng.randrange(4))
            lines.append(rng.choice(["", f"test eax, {1 << rng.randrange(8)}\n jz l{rng.randrange(i + 1, 31)}\n",
                                     f"jmp l{rng.randrange(i + 1, 31)}\n"]))
        text = "\n".join(lines) + "\nl30: dec r15d\n jnz l0\n hlt"
        code = assemble(text, 64, CODE)
        path, branch = trace(text), {}
        m = machine(text)
        hook, places = m.hook_block(), m.hook_code(None, cover=(cover := bytearray(0x1000)), cover_mode=_core.HookCover.COVER_OFFSET,
                                                   first=CODE)
        m.run()
        expected = 1
        for before, _after in itertools.pairwise(path):
            byte = code[before - CODE]
            branch = 0x70 <= byte < 0x80 or byte == 0xEB or byte == 0xE9 or (byte == 0x0F and 0x80 <= code[before - CODE + 1] < 0x90)
            expected += branch
        assert hook.hits == expected and places.hits == len(path)
        assert {i for i, n in enumerate(cover) if n} == {a - CODE for a in set(path)}


def test_removed_hooks_leave_nothing():
    """Without hooks left, the same code runs, and nothing is counted."""
    m = machine(LOOP)
    with m.hook_block() as block, m.hook_code() as code, m.hook_memory() as memory:
        m.run()
    hits = block.hits, code.hits, memory.hits
    m.rip, m.rax, m.rbx = CODE, 0, 0
    m.run()
    assert (block.hits, code.hits, memory.hits) == hits and min(hits) > 0
    code.remove()


HOT = """
    mov r15d, 3000
l0: add eax, r15d
    test eax, 4
    jz l1
    adc ebx, eax
    jnc l2
l1: call f
    xor ecx, eax
l2: cmp r15d, 7
    setb dl
    dec r15d
    jnz l0
    hlt
f:  rol eax, 3
    ret
"""


@pytest.mark.parametrize("what", ["count", "edge", "hash", "offset", "code", "both", "callback"])
def test_translated_code_counts_as_the_interpreter_does(what):
    """Counters, maps, registers and flags at the end are the same on both tiers, in code that is hot."""
    ends = []
    for engine in ("interpreter", "auto"):
        for exact in (True, False):
            m, cover, seen = machine(HOT), bytearray(4096), []
            m.cpu.engine, m.cpu.exact, m.cpu.strict_flags = engine, exact, exact
            hooks = []
            if what in ("count", "both"):
                hooks.append(m.hook_block())
            if what == "edge":
                hooks.append(m.hook_block(cover=cover))
            if what == "hash":
                hooks.append(m.hook_block(cover=cover, cover_mode=_core.HookCover.COVER_HASH))
            if what == "offset":
                hooks.append(m.hook_code(None, CODE, cover=cover, cover_mode=_core.HookCover.COVER_OFFSET))
            if what in ("code", "both"):
                hooks.append(m.hook_code(None, CODE + 6, CODE + 20))
            if what == "callback":
                hooks.append(m.hook_block(lambda m, a, s, seen=seen: seen.append((a, s, m.rax, m.rflags)), every=7))
            assert m.run().reason is Reason.HLT
            ends.append(([h.hits for h in hooks], bytes(cover), m.cpu.general(), m.cpu.instructions, [s[:3] for s in seen],
                         [s[3] for s in seen if exact], m.rflags if exact else None))
    # (without strict_flags, those that no code reads may be stale)
    assert ends[0] == ends[2] and ends[1] == ends[3] and ends[0][:5] == ends[1][:5]


def test_hooks_of_a_running_vcpu_are_refused():
    """From another thread, hooks cannot be changed while run() is on; after stop() they can."""
    m = machine("1: jmp 1b")
    thread = threading.Thread(target=m.run)
    thread.start()
    while True:
        try:
            hook = m.hook_block()                         # until it runs, it can be hooked
            hook.remove()
        except RuntimeError as error:
            assert "stop it first" in str(error)
            break
    m.stop()
    thread.join()
    m.hook_block().remove()


@pytest.mark.parametrize("how", ["until", "code", "memory"])
def test_flags_seen_in_hot_code_are_exact(how):
    """Where a tool looks in the middle of translated code, the flags are the guest's, though later code overwrites them unread."""
    text = "1: cmp eax, 5\n jmp 2f\n nop\n 2: mov edx, [rdi]\n add ebx, eax\n dec ecx\n jnz 1b\n hlt"
    m, seen = machine(text, rcx=1000, rdi=DATA, rax=3), []
    m.run()
    m.rip, m.rcx = CODE, 1000
    if how == "code":
        m.hook_code(lambda m, *_: seen.append(m.rflags & 0x8D5), CODE + 6, CODE + 6)
    elif how == "memory":
        m.hook_memory(lambda m, *_: seen.append(m.rflags & 0x8D5), DATA, DATA)
    if how == "until":
        for _ in range(300):
            assert m.run(until=CODE + 6).reason is Reason.UNTIL
            seen.append(m.rflags & 0x8D5)
            m.run(1)
    else:
        assert m.run().reason is Reason.HLT
    assert set(seen) == {0x91}                                # 3 - 5: CF, SF, AF


def test_examples_of_the_documentation():
    """Every example in docs/tools.md does what it says."""
    path = Path(__file__).parents[2] / "docs" / "tools.md"
    text = "\n".join(line for line in path.read_text().splitlines() if not line.startswith("```"))
    example = doctest.DocTestParser().get_doctest(text, {}, "tools.md", str(path), 0)
    assert doctest.DocTestRunner().run(example).failed == 0
