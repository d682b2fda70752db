"""Tasks of both sizes, chains of them, gates of both sizes, segments of every kind, PVI and VME; after SDM Vol. 3, ch. 5, 6, 7 and 20."""

import struct

import pytest

from tests.cpu.asm import assemble
from tests.cpu.legacy import (
    CODE,
    GATE,
    GDT,
    IF,
    IOPL3,
    K_CODE,
    K_DATA,
    NT,
    OTHER,
    SMALL,
    STACK0,
    STACK1,
    STACK3,
    TF,
    TR0,
    TR1,
    TSS0,
    TSS1,
    U_CODE,
    U_DATA,
    VIF,
    descriptor,
    gate,
    go,
    new_task,
    paged,
    protected,
    ring3,
    set_idt,
    to_vm,
    word,
)
from xenfast.machine import Reason

A, B, C, D = 0x58, 0x60, 0x68, 0x70          # selectors for a test's own descriptors
THIRD, TSS16, TSS2, NOTES = 0x12000, 0x22000, 0x22800, 0x50000
VIP, PVI, VME = 1 << 20, 2, 1


@pytest.fixture
def m():
    return protected()


def put(m, sel, value):
    m.write(GDT + (sel & ~7), struct.pack("<Q", value))


def busy(m, sel):
    return word(m, GDT + (sel & ~7) + 5, 1) >> 1 & 1


def task16(m, text, **registers):
    """A 16-bit TSS at TSS16 with selector A; its code, 16-bit, is B:2000 at THIRD, its stack C:4000."""
    put(m, A, descriptor(1, base=TSS16, limit=0x2B, flags=0, system=True))
    put(m, B, descriptor(10, base=CODE, limit=0xFFFF, flags=0))
    put(m, C, descriptor(2, base=0x30000, limit=0xFFFF, flags=0))
    general = [registers.get(r, 0) for r in ("ax", "cx", "dx", "bx", "sp", "bp", "si", "di")]
    general[4] = 0x4000
    m.write(TSS16 + 2, struct.pack("<HH", 0x8000, C))
    m.write(TSS16 + 0x0E, struct.pack("<15H", 0x2000, 2, *general, K_DATA, B, C, K_DATA, 0))
    m.write(THIRD, assemble(text, 16))


def second_task(m, eip=THIRD):
    """A 32-bit TSS at TSS2 with selector D."""
    put(m, D, descriptor(9, base=TSS2, limit=0x67, flags=0, system=True))
    m.write(TSS2 + 0x20, struct.pack("<10I", eip, 2, 0, 0, 0, 0, 0x38000, 0, 0, 0))
    m.write(TSS2 + 0x48, struct.pack("<6I", K_DATA, K_CODE, K_DATA, K_DATA, 0, 0))


# -- 16-bit tasks -----------------------------------------------------------------------------------------------------------
def test_a_16_bit_task(m):
    """SDM Vol. 3, 7.6: words come from the TSS; FS and GS are null; the old, 32-bit task is saved whole."""
    task16(m, "mov bx, sp\n inc ax\n hlt", ax=0x1111, si=0x2222)
    stop = go(m, f"mov ebx, 0x12345678\n jmp {A}:0")
    assert stop.reason is Reason.HLT
    assert (m.rax & 0xFFFF, m.rsi & 0xFFFF, m.rbx & 0xFFFF) == (0x1112, 0x2222, 0x4000)
    assert [m.cpu.segment(s)[0] for s in ("tr", "cs", "ss", "ds", "fs", "gs")] == [A, B, C, K_DATA, 0, 0]
    assert word(m, TSS0 + 0x34) == 0x12345678 and busy(m, A) and not busy(m, TR0)


def test_back_from_a_16_bit_task(m):
    """SDM Vol. 3, 7.6: its words go back to its TSS, the 32-bit task goes on behind its jump."""
    task16(m, f"mov ax, 0x7777\n ljmp {TR0},0")
    stop = go(m, f"mov ebx, 0x12345678\n jmp {A}:0\n mov ecx, 7")
    assert (stop.reason, m.rbx, m.rcx, m.cpu.segment("tr")[0]) == (Reason.HLT, 0x12345678, 7, TR0)
    assert (word(m, TSS16 + 0x12, 2), word(m, TSS16 + 0x0E, 2)) == (0x7777, 0x2008)
    assert busy(m, TR0) and not busy(m, A)


def test_a_called_16_bit_task(m):
    """SDM Vol. 3, 7.4: CALL links it in the first word of its TSS, with NT; IRET goes back."""
    task16(m, "pushf\n pop ax\n iret")
    stop = go(m, f"call {A}:0\n mov ecx, 7")
    assert (stop.reason, m.rcx, word(m, TSS16, 2)) == (Reason.HLT, 7, TR0)
    assert word(m, TSS16 + 0x12, 2) & NT and not word(m, TSS16 + 0x10, 2) & NT


def test_an_inner_stack_of_a_16_bit_tss(m):
    """SDM Vol. 3, 7.6: SP0 and SS0 are words at 2 and 4."""
    task16(m, "hlt")
    m.cpu.set_segment("tr", A, TSS16, 0x2B, 0x83)
    set_idt(m, 0x20, gate(14, K_CODE, OTHER, dpl=3))
    ring3(m)
    assert go(m, "int 0x20").reason is Reason.HLT
    assert (m.cpu.segment("ss")[0], m.rsp & 0xFFFF) == (C, 0x8000 - 20)
    assert struct.unpack("<5I", m.read(0x38000 - 20, 20)) == (CODE + 2, U_CODE, 2, STACK3, U_DATA)


def test_an_error_code_for_a_16_bit_task(m):
    """SDM Vol. 3, 6.14.5 and 7.3: a task gate to a 16-bit TSS gets the error code as a word."""
    task16(m, "pop dx\n mov bx, sp\n hlt")
    set_idt(m, 13, gate(5, A))
    assert go(m, "mov ax, 0x78\n mov ds, ax").reason is Reason.HLT
    assert (m.rdx & 0xFFFF, m.rbx & 0xFFFF) == (0x78, 0x4000)


# -- chains ---------------------------------------------------------------------------------------------------------------------
def test_a_chain_of_three_tasks(m):
    """SDM Vol. 3, 7.4: CALL nests, each task busy meanwhile; IRET unwinds through the links and clears busy."""
    new_task(m)
    second_task(m)
    note = "".join(f"mov eax, [{GDT + sel + 4}]\n mov [{NOTES + 8 + 4 * i}], eax\n" for i, sel in enumerate((TR0, TR1, D)))
    m.write(THIRD, assemble(f"{note} pushfd\n pop ecx\n mov [{NOTES}], ecx\n iretd", 32))
    stop = go(m, f"call {TR1}:0\n mov ebx, 1", f"call {D}:0\n mov dword ptr [{NOTES + 4}], 2\n iretd")
    assert (stop.reason, m.rbx, m.cpu.segment("tr")[0]) == (Reason.HLT, 1, TR0)
    assert word(m, NOTES) & NT and word(m, NOTES + 4) == 2 and not m.rflags & NT
    assert [word(m, NOTES + 8 + 4 * i) >> 9 & 1 for i in range(3)] == [1, 1, 1]
    assert (busy(m, TR0), busy(m, TR1), busy(m, D)) == (1, 0, 0)
    assert (word(m, TSS1, 2), word(m, TSS2, 2)) == (TR0, TR1)


def test_tasks_do_not_recurse(m):
    """SDM Vol. 3, 7.4: a task of the chain is busy, and calling it #GP(its selector), in the task that tries."""
    new_task(m)
    second_task(m)
    m.write(THIRD, assemble(f"call {TR1}:0", 32))
    stop = go(m, f"call {TR1}:0", f"call {D}:0")
    assert (stop.reason, stop.vector, stop.error, m.rip, m.cpu.segment("tr")[0]) == (Reason.EXCEPTION, 13, TR1, THIRD, D)


@pytest.mark.parametrize("link, error", [(TR1, TR1), (0x200, 0x200), (K_DATA, K_DATA), (0x0C, 0x0C), (0, 0)])
def test_a_return_to_what_is_no_busy_task(m, link, error):
    """SDM Vol. 2, IRET: #TS with the link as error code, for a TSS that is available, no TSS, in the LDT, beyond the GDT."""
    new_task(m)
    m.write(TSS0, struct.pack("<H", link))
    m.rflags = NT | 2
    stop = go(m, "iretd")
    assert (stop.vector, stop.error, m.rip) == (10, error, CODE)


@pytest.mark.parametrize("kind, limit, present, how, vector, error", [
    (11, 0x67, True, "jmp {}:0", 13, A), (11, 0x67, True, "call {}:0", 13, A), (9, 0x67, False, "jmp {}:0", 11, A),
    (9, 0x66, True, "jmp {}:0", 10, A), (1, 0x2A, True, "call {}:0", 10, A), (3, 0x2B, True, "jmp {}:0", 13, A),
])
def test_tasks_that_are_refused(m, kind, limit, present, how, vector, error):
    """SDM Vol. 3, table 7-1: busy #GP, not present #NP, too short #TS, before anything has changed."""
    new_task(m)
    put(m, A, descriptor(kind, base=TSS1, limit=limit, flags=0, system=True) & ~(0 if present else 1 << 47))
    stop = go(m, how.format(A))
    assert (stop.vector, stop.error, m.rip, m.cpu.segment("tr")[0], word(m, TSS0 + 0x20)) == (vector, error, CODE, TR0, 0)


def test_a_task_gate_to_a_busy_task(m):
    """SDM Vol. 2, JMP: the error code names the TSS, not the gate."""
    put(m, A, gate(5, TR0))
    stop = go(m, f"jmp {A}:0")
    assert (stop.vector, stop.error) == (13, TR0)


# -- what a new task brings along --------------------------------------------------------------------------------------------
@pytest.mark.parametrize("what, vector, error", [
    ({"cs": 0}, 10, 0), ({"cs": K_DATA}, 10, K_DATA), ({"ss": U_DATA}, 10, U_DATA & ~3), ({"ss": 0}, 10, 0), ({"ds": 0x7B}, 10, 0x78),
    ({"cs": U_CODE & ~3}, 10, U_CODE & ~3), ({"ldt": K_DATA}, 10, K_DATA), ({"eip": 0x2000000}, 13, 0), ({"cs": A}, 11, A),
    ({"ss": C}, 12, C),
])
def test_a_task_whose_state_is_bad(m, what, vector, error):
    """SDM Vol. 3, table 7-1, steps from the LDT on: the fault is the new task's, at its EIP, with the old task saved."""
    put(m, A, descriptor(10) & ~(1 << 47))
    put(m, C, descriptor(2) & ~(1 << 47))
    ldt = what.pop("ldt", 0)
    if "eip" in what:
        put(m, K_CODE, descriptor(10, limit=0x1FFF))
    new_task(m, **what)
    m.write(TSS1 + 0x60, struct.pack("<I", ldt))
    stop = go(m, f"jmp {TR1}:0")
    assert (stop.reason, stop.vector, stop.error) == (Reason.EXCEPTION, vector, error)
    assert (m.rip, m.cpu.segment("tr")[0], word(m, TSS0 + 0x20)) == (what.get("eip", OTHER), TR1, CODE + 7)


def test_a_task_has_its_own_ldt(m):
    """SDM Vol. 3, 7.2.1: selectors of the new task are looked up in its own LDT."""
    put(m, A, descriptor(2, base=NOTES, limit=15, flags=0, system=True))
    m.write(NOTES, struct.pack("<QQ", 0, descriptor(2, base=0x48000)))
    m.write(0x48010, b"\x2a")
    new_task(m, ds=0x0C)
    m.write(TSS1 + 0x60, struct.pack("<I", A))
    assert go(m, f"jmp {TR1}:0", "mov bl, [0x10]\n hlt").reason is Reason.HLT
    assert m.rbx & 0xFF == 0x2A and m.cpu.segment("ldtr")[0] == A


def test_a_task_has_its_own_address_space(m):
    """SDM Vol. 3, 7.3, step 12: CR3 comes from a 32-bit TSS; the link is still written in the old space."""
    paged(m)
    m.write(0x62000, struct.pack("<I", 0x63007))
    m.write(0x63000, m.read(0x61000, 4096))
    m.write(0x63000 + 4 * (NOTES >> 12), struct.pack("<I", 0x48007))
    m.write(0x48000, b"\x2a")
    m.write(NOTES, b"\x17")
    new_task(m)
    m.write(TSS1 + 0x1C, struct.pack("<I", 0x62000))
    m.write(TSS0 + 0x1C, struct.pack("<I", 0x60000))
    stop = go(m, f"mov cl, [{NOTES}]\n call {TR1}:0\n mov ch, [{NOTES}]", f"mov al, [{NOTES}]\n mov [{NOTES + 1}], al\n iretd")
    assert (stop.reason, m.rcx & 0xFFFF, word(m, 0x48001, 1), m.cpu.cr3) == (Reason.HLT, 0x1717, 0x2A, 0x60000)


def test_the_debug_trap_of_a_task(m):
    """SDM Vol. 3, 17.3.1.5: T in the TSS is a #DB with BT, in the new task before its first instruction."""
    set_idt(m, 1, gate(14, K_CODE, OTHER))
    new_task(m, eip=THIRD)
    m.write(TSS1 + 0x64, b"\1")
    m.write(THIRD, assemble("inc ebx\n hlt", 32))
    assert go(m, f"jmp {TR1}:0", "mov edx, dr6\n mov ecx, [esp]\n hlt").reason is Reason.HLT
    assert (m.rbx, m.rdx >> 13 & 7, m.rcx, m.cpu.segment("tr")[0]) == (0, 4, THIRD, TR1)


def test_local_breakpoints_end_with_their_task(m):
    """SDM Vol. 3, 7.3 and 17.2.4: a task switch clears the L bits of DR7, not the G bits."""
    new_task(m)
    text = f"mov eax, {NOTES}\n mov dr0, eax\n mov dr1, eax\n mov eax, {9 | 0x110000}\n mov dr7, eax\n jmp {TR1}:0"
    set_idt(m, 1, gate(14, K_CODE, THIRD))
    m.write(THIRD, assemble("mov edx, dr6\n mov ecx, dr7\n hlt", 32))
    assert go(m, text, f"mov [{NOTES}], eax").reason is Reason.HLT
    assert (m.rdx & 15, m.rcx & 0xF) == (2, 8)


# -- task gates for interrupts -----------------------------------------------------------------------------------------------
def test_interrupts_through_a_task_gate(m):
    """SDM Vol. 3, 6.14.5: the handler task returns by IRET and goes on behind it the next time."""
    set_idt(m, 0x20, gate(5, TR1, dpl=3))
    new_task(m)
    text = f"1: inc dword ptr [{NOTES}]\n iretd\n jmp 1b"
    assert go(m, "nop\n int 0x20\n int 0x20\n inc ecx", text).reason is Reason.HLT
    assert (m.rcx, word(m, NOTES), m.cpu.segment("tr")[0]) == (1, 2, TR0)
    m.rflags = IF | 2
    m.cpu.interrupt(0x20)
    assert go(m, "nop\n inc ecx", text).reason is Reason.HLT
    assert (m.rcx, word(m, NOTES), word(m, TSS0 + 0x20), m.rflags & IF) == (2, 3, CODE, IF)


def test_a_fault_behind_a_task_gate_is_the_new_tasks(m):
    """SDM Vol. 3, 6.14.5: a bad segment of the handler task is #TS there, also when INT n began it."""
    set_idt(m, 0x20, gate(5, TR1))
    set_idt(m, 10, gate(14, K_CODE, THIRD))
    new_task(m, ds=0x7B)
    m.write(THIRD, assemble("pop edx\n pop ecx\n hlt", 32))
    assert go(m, "int 0x20").reason is Reason.HLT
    assert (m.rdx & ~7, m.rcx, m.cpu.segment("tr")[0]) == (0x78, OTHER, TR1)


# -- gates ----------------------------------------------------------------------------------------------------------------------
def test_a_16_bit_call_gate(m):
    """SDM Vol. 3, 5.8.5: a gate of the 80286 pushes words and copies words."""
    task16(m, "hlt")
    put(m, D, gate(4, B, 0x2000, dpl=3, count=2))
    ring3(m)
    assert go(m, f"push word ptr 0x1111\n push word ptr 0x2222\n call {D}:0").reason is Reason.HLT
    assert m.cpu.cpl == 0 and m.rsp == STACK0 - 12
    assert struct.unpack("<6H", m.read(STACK0 - 12, 12)) == ((CODE + 15) & 0xFFFF, U_CODE, 0x2222, 0x1111, STACK3 - 4 & 0xFFFF, U_DATA)


def test_a_call_gate_with_31_parameters(m):
    """SDM Vol. 3, 5.8.5: the count has five bits."""
    put(m, A, gate(12, K_CODE, OTHER, dpl=3, count=31))
    ring3(m)
    assert go(m, "mov ecx, 31\n 1: push ecx\n loop 1b\n" + f"call {A}:0").reason is Reason.HLT
    assert m.rsp == STACK0 - 35 * 4
    assert struct.unpack("<31I", m.read(STACK0 - 33 * 4, 124)) == tuple(range(1, 32))


def test_a_call_gate_of_the_same_ring(m):
    """SDM Vol. 2, CALL: without a change of ring no stack is switched and nothing is copied."""
    assert go(m, f"call {GATE}:0").reason is Reason.HLT
    assert m.rsp == STACK0 - 8 and struct.unpack("<2I", m.read(m.rsp, 8)) == (CODE + 7, K_CODE)


def test_a_call_gate_to_a_stack_without_room(m):
    """SDM Vol. 2, CALL: #SS with the new SS as error code; the caller's stack is untouched."""
    m.write(TSS0 + 4, struct.pack("<II", 16, SMALL))
    ring3(m)
    stop = go(m, f"call {GATE}:0")
    assert (stop.vector, stop.error, m.rsp, m.cpu.cpl) == (12, SMALL, STACK3, 3)


@pytest.mark.parametrize("value, how, vector, error", [
    (gate(12, K_CODE, OTHER, dpl=3) & ~(1 << 47), "call", 11, A), (gate(12, K_CODE, OTHER, dpl=0), "call", 13, A),
    (gate(12, K_CODE, OTHER, dpl=3), "jmp", 13, K_CODE), (gate(12, K_DATA, OTHER, dpl=3), "call", 13, K_DATA),
    (gate(12, 0, OTHER, dpl=3), "call", 13, 0), (gate(14, K_CODE, OTHER, dpl=3), "call", 13, A),
])
def test_call_gates_that_are_refused(m, value, how, vector, error):
    """SDM Vol. 2, CALL and JMP: not present, of an inner ring, a jump inward, to data, to null, an interrupt gate."""
    put(m, A, value)
    ring3(m)
    stop = go(m, f"{how} {A}:0")
    assert (stop.vector, stop.error, m.rip) == (vector, error, CODE)


def test_a_16_bit_interrupt_gate(m):
    """SDM Vol. 3, 6.11: a gate of the 80286 pushes words, the stack pointer and segment among them."""
    task16(m, "hlt")
    set_idt(m, 0x20, gate(6, B, 0x2000, dpl=3))
    ring3(m)
    assert go(m, "int 0x20").reason is Reason.HLT
    assert struct.unpack("<5H", m.read(STACK0 - 10, 10)) == ((CODE + 2) & 0xFFFF, U_CODE, 2, STACK3 & 0xFFFF, U_DATA)


@pytest.mark.parametrize("kind, left", [(14, 0), (15, IF)])
def test_interrupt_and_trap_gates(m, kind, left):
    """SDM Vol. 3, 6.12.1.3: TF, NT, RF and VM are cleared by both, IF by an interrupt gate only."""
    set_idt(m, 0x20, gate(kind, K_CODE, OTHER))
    m.rflags = IF | NT | 2
    assert go(m, "int 0x20", "pushfd\n pop ecx\n hlt").reason is Reason.HLT
    assert m.rcx & (IF | NT | TF) == left


def test_an_interrupt_to_conforming_code(m):
    """SDM Vol. 3, 6.12.1.1: a handler in a conforming segment runs in the ring it interrupted, on its stack."""
    put(m, A, descriptor(14))
    set_idt(m, 0x20, gate(14, A, OTHER, dpl=3))
    ring3(m)
    set_idt(m, 3, gate(14, K_CODE, THIRD, dpl=3))
    m.write(THIRD, b"\xf4")
    assert go(m, "int 0x20", "mov ax, cs\n mov ecx, esp\n int3").reason is Reason.HLT
    assert (m.rax & 0xFFFF, m.rcx) == (A | 3, STACK3 - 12)


# -- segments ---------------------------------------------------------------------------------------------------------------------
def test_conforming_code_keeps_the_ring(m):
    """SDM Vol. 3, 5.8.1.2: ring 3 may call conforming code of ring 0, and stays in ring 3; ring 0 may not call that of ring 3."""
    put(m, A, descriptor(14))
    put(m, B, descriptor(14, 3))
    ring3(m)
    stop = go(m, f"call {A}:{OTHER}\n mov bx, cs\n int3", "mov ax, cs\n retf")
    assert (stop.vector, m.rax & 0xFFFF, m.rbx & 0xFFFF, m.cpu.cpl) == (3, A | 3, U_CODE, 3)
    stop = go(protected_with(B, descriptor(14, 3)), f"call {B}:{OTHER}")
    assert (stop.vector, stop.error) == (13, B)


def protected_with(sel, value):
    machine = protected()
    put(machine, sel, value)
    return machine


def test_code_of_another_ring_is_not_reached_directly(m):
    """SDM Vol. 3, 5.8.1.1: a non-conforming segment needs DPL = CPL and RPL <= CPL."""
    ring3(m)
    assert go(m, f"jmp {K_CODE}:{OTHER}").error == K_CODE
    stop = go(protected(), f"jmp {K_CODE | 1}:{OTHER}")
    assert (stop.vector, stop.error) == (13, K_CODE)


def test_a_far_return_outward_drops_inner_segments(m):
    """SDM Vol. 3, 5.8.6: DS, ES, FS and GS of an inner ring become null; those ring 3 may use stay."""
    text = f"mov ax, {U_DATA}\n mov fs, ax\n push {U_DATA}\n push {STACK3}\n push {U_CODE}\n push {OTHER}\n retf"
    stop = go(m, text, "mov ax, ds\n mov bx, fs\n int3")
    assert (stop.vector, m.rax & 0xFFFF, m.rbx & 0xFFFF, m.rsp, m.cpu.cpl) == (3, 0, U_DATA, STACK3, 3)


@pytest.mark.parametrize("flags, offset, ok", [
    (0, 0xFFF, False), (0, 0x1000, True), (0, 0xFFFC, True), (0, 0xFFFD, False), (0, 0x10000, False), (4, 0x10000, True),
    (4, 0xFFFFFFFC, True), (4, 0xFFFFFFFD, False), (4, 0xFFE, False),
])
def test_bounds_of_expand_down_segments(m, flags, offset, ok):
    """SDM Vol. 3, 5.3: valid from limit + 1 to FFFFh, or to FFFFFFFFh with B set."""
    put(m, A, descriptor(6, base=0x40004, limit=0xFFF, flags=flags))
    stop = go(m, f"mov ax, {A}\n mov fs, ax\n mov ebx, {offset}\n mov fs:[ebx], eax")
    assert stop.reason is Reason.HLT if ok else (stop.vector, stop.error) == (13, 0)


def test_an_expand_down_stack(m):
    """SDM Vol. 3, 5.3: it grows down to its limit, and the push beyond is #SS(0)."""
    put(m, A, descriptor(6, base=0x40000, limit=0xFFF, flags=4))
    stop = go(m, f"mov ax, {A}\n mov ss, ax\n mov esp, 0x1008\n push eax\n push eax\n inc ecx\n push eax")
    assert (stop.vector, stop.error, m.rsp, m.rcx) == (12, 0, 0x1000, 1)


# -- PVI and VME ------------------------------------------------------------------------------------------------------------------
def test_protected_mode_virtual_interrupts(m):
    """SDM Vol. 3, 20.4: with CR4.PVI, CLI and STI of ring 3 below IOPL 3 act on VIF; STI is #GP while VIP is set."""
    m.cpu.cr4 = PVI
    ring3(m)
    m.rflags = IF | 2
    assert go(m, "sti\n pushfd\n pop ebx\n cli\n pushfd\n pop ecx\n int3").vector == 3
    assert (m.rbx & (IF | VIF), m.rcx & (IF | VIF)) == (IF | VIF, IF)
    ring3(m)
    m.rflags = IF | VIP | 2
    stop = go(m, "cli\n sti")
    assert (stop.vector, stop.error, m.rip) == (13, 0, CODE + 1)
    m.cpu.cr4 = 0
    assert go(m, "cli").vector == 13


def test_pvi_is_for_ring_3(m):
    """SDM Vol. 3, 20.4: at IOPL >= CPL, and so in ring 0, IF itself changes."""
    m.cpu.cr4 = PVI
    go(m, "sti\n pushfd\n pop ebx")
    assert m.rbx & (IF | VIF) == IF


@pytest.mark.parametrize("text, flags", [
    ("sti", VIP), ("push 0x202\n popf", VIP), ("push 0x102\n popf", 0), ("push 0x102\n push 0x4000\n push 0\n iret", 0),
    ("push 0x202\n push 0x4000\n push 0\n iret", VIP), (".byte 0x66\n pushf", 0), (".byte 0x66\n popf", 0), (".byte 0x66\n iret", 0),
])
def test_what_vme_does_not_do(m, text, flags):
    """SDM Vol. 3, 20.3.2: #GP for TF, for IF while VIP is set, and for the 32-bit forms, all below IOPL 3."""
    m.cpu.cr4 = VME
    stop = to_vm(m, text, flags, handler="pop eax\n hlt")
    assert (stop.reason, m.rax, m.cpu.cpl) == (Reason.HLT, 0, 0)


def test_vme_popf_and_iret_keep_if(m):
    """SDM Vol. 3, 20.3.2: they move IF of the image to VIF; IOPL and IF stay."""
    m.cpu.cr4 = VME
    stop = to_vm(m, "push 0x202\n popf\n push 0x3002\n push 0x4000\n push 0x20\n iret\n .org 0x20\n hlt", IF)
    frame = struct.unpack("<4I", m.read(STACK0 - 40, 16))
    assert stop.reason is Reason.HLT and frame[3] & (IF | VIF | IOPL3) == IF and frame[1] == 0x20


@pytest.mark.parametrize("iopl, image", [(0, IOPL3 | IF), (IOPL3, IOPL3 | IF)])
def test_the_image_of_a_redirected_interrupt(m, iopl, image):
    """SDM Vol. 3, table 20-2, methods 5 and 6: a 16-bit frame; at IOPL 0 with VIF as IF and IOPL 3."""
    m.cpu.cr4 = VME
    m.write(TSS0 + 0x68 + 4, b"\0")
    m.write(4 * 0x20, struct.pack("<HH", 0x50, 0x4000))
    m.write(0x40050, b"\xf4")
    to_vm(m, "int 0x20", iopl | (VIF if iopl == 0 else IF))
    ip, cs, flags = struct.unpack("<3H", m.read(0x30100 - 6, 6))
    assert (ip, cs, flags & (IOPL3 | IF)) == (2, 0x4000, image)


# -- SYSENTER outside IA-32e mode ---------------------------------------------------------------------------------------------
def set_msr(nr, value):
    return f"mov ecx, {nr}\n mov eax, {value}\n xor edx, edx\n wrmsr\n"


def test_sysenter_in_32_bit_mode(m):
    """SDM Vol. 2, SYSENTER, SYSEXIT: flat segments in a row from IA32_SYSENTER_CS; IF and VM cleared; SYSEXIT goes to ring 3."""
    text = set_msr(0x174, K_CODE) + set_msr(0x175, STACK1) + set_msr(0x176, OTHER)
    assert go(m, text).reason is Reason.HLT
    ring3(m)
    m.rflags = IF | 2
    m.rdi = CODE + 2
    kernel = f"pushfd\n pop esi\n mov ebp, esp\n mov edx, edi\n mov ecx, {STACK3}\n sysexit"
    stop = go(m, "sysenter\n mov ax, cs\n mov bx, ss\n int3", kernel)
    assert (stop.vector, m.rax & 0xFFFF, m.rbx & 0xFFFF, m.rsp, m.cpu.cpl) == (3, K_CODE + 16 | 3, K_CODE + 24 | 3, STACK3, 3)
    assert m.rbp == STACK1 and not m.rsi & IF


@pytest.mark.parametrize("text, ring", [("sysenter", 3), ("sysenter", 0), ("sysexit", 0), ("sysexit", 3)])
def test_sysenter_without_a_segment(m, text, ring):
    """SDM Vol. 2: IA32_SYSENTER_CS of 0 is #GP(0), as SYSEXIT is in ring 3 whatever it holds."""
    if ring == 3:
        ring3(m)
    stop = go(m, text)
    assert (stop.vector, stop.error, m.rip) == (13, 0, CODE)
