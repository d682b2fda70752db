"""32-bit protected mode without paging: tasks, virtual-8086 mode, gates, stack segments, breakpoints; after SDM Vol. 3."""

import struct

import pytest

from tests.cpu.asm import assemble
from tests.cpu.legacy import (
    CODE,
    DOWN,
    GATE,
    GDT,
    IF,
    IOPL3,
    K_CODE,
    NT,
    OTHER,
    RF,
    SMALL,
    STACK0,
    STACK3,
    TASK_GATE,
    TF,
    TR0,
    TR1,
    TSS0,
    TSS1,
    U_DATA,
    VM,
    descriptor,
    gate,
    go,
    new_task,
    protected,
    ring3,
    set_idt,
    to_vm,
    word,
)
from xenfast.machine import Reason


@pytest.fixture
def m():
    return protected()


# -- tasks ----------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("sel", [TR1, TASK_GATE])
def test_a_jump_to_a_task_saves_one_and_loads_the_other(m, sel):
    """SDM Vol. 3, 7.3: registers go to the old TSS and come from the new one; busy moves, TS is set, no link is made."""
    new_task(m)
    m.rbx = 77
    stop = go(m, f"jmp {sel}:0\n nop")
    assert (stop.reason, m.rax, m.rip, m.cpu.segment("tr")[0]) == (Reason.HLT, 0x1234, OTHER + 1, TR1)
    assert (word(m, TSS0 + 0x20), word(m, TSS0 + 0x34)) == (CODE + 7, 77)
    assert (word(m, GDT + TR0 + 5, 1) & 15, word(m, GDT + TR1 + 5, 1) & 15) == (9, 11)
    assert m.cpu.cr0 & 8 and not m.rflags & NT and word(m, TSS1, 2) == 0


def test_a_called_task_returns_by_iret(m):
    """SDM Vol. 3, 7.4: CALL links the tasks and sets NT, IRET goes back through the link and clears busy."""
    new_task(m)
    stop = go(m, f"mov ecx, 5\n call {TR1}:0\n inc ecx", "pushfd\n pop ebx\n iretd")
    assert (stop.reason, m.rcx, m.rip, m.cpu.segment("tr")[0]) == (Reason.HLT, 6, CODE + 14, TR0)
    assert word(m, TSS1 + 0x34) & NT and word(m, TSS1, 2) == TR0
    assert (word(m, GDT + TR0 + 5, 1) & 15, word(m, GDT + TR1 + 5, 1) & 15) == (11, 9)


def test_a_busy_task_is_refused(m):
    """SDM Vol. 2, CALL: a TSS that is busy is #GP(selector)."""
    stop = go(m, f"call {TR0}:0")
    assert (stop.reason, stop.vector, stop.error, m.rip) == (Reason.EXCEPTION, 13, TR0, CODE)


def test_a_bad_segment_of_a_task_faults_in_the_new_task(m):
    """SDM Vol. 3, table 7-1: #TS(selector), with the new task's registers and EIP."""
    new_task(m, ds=0x78)
    stop = go(m, f"jmp {TR1}:0")
    assert (stop.reason, stop.vector, stop.error) == (Reason.EXCEPTION, 10, 0x78)
    assert (m.rip, m.cpu.segment("tr")[0]) == (OTHER, TR1)


def test_an_exception_through_a_task_gate(m):
    """SDM Vol. 3, 6.14.5 (task gates): the error code is on the new task's stack; the old EIP is that of the fault."""
    new_task(m)
    set_idt(m, 13, gate(5, TR1))
    stop = go(m, "mov ax, 0x78\n mov ds, ax", "pop edx\n hlt")
    assert (stop.reason, m.rdx, word(m, TSS0 + 0x20)) == (Reason.HLT, 0x78, CODE + 4)


# -- virtual-8086 mode ------------------------------------------------------------------------------------------------------
def test_interrupts_leave_virtual_8086_mode(m):
    """SDM Vol. 3, 20.2 and figure 20-4: GS FS DS ES SS ESP EFLAGS CS EIP on the stack of ring 0, data segments null."""
    stop = to_vm(m, "mov ax, ds\n int 0x20", IOPL3, vector=0x20)
    frame = struct.unpack("<9I", m.read(STACK0 - 36, 36))
    assert stop.reason is Reason.HLT and m.cpu.cpl == 0 and not m.rflags & VM
    assert frame == (4, 0x4000, IOPL3 | VM | 2, 0x100, 0x3000, 0x44, 0x55, 0x66, 0x77)
    assert (m.rax & 0xFFFF, m.rsp, [m.cpu.segment(s)[0] for s in ("ds", "es", "fs", "gs")]) == (0x55, STACK0 - 36, [0, 0, 0, 0])


@pytest.mark.parametrize("text", ["cli", "sti", "pushf", "popf", "int 0x21", "iret", "hlt", "in al, 0x60"])
def test_sensitive_instructions_fault_without_iopl_3(m, text):
    """SDM Vol. 3, 20.2.7: CLI STI PUSHF POPF INT n IRET are #GP(0) below IOPL 3; HLT and ports without permission always."""
    m.write(TSS0 + 0x88, b"\xff" * 0x70)
    stop = to_vm(m, text, handler="pop eax\n hlt")
    assert (stop.reason, m.rax, word(m, m.rsp), m.cpu.cpl) == (Reason.HLT, 0, 0, 0)


def test_vme_gives_a_virtual_interrupt_flag(m):
    """SDM Vol. 3, 20.3: with VME, CLI STI PUSHF work on VIF; PUSHF shows it as IF, with IOPL 3."""
    m.cpu.cr4 = 1
    to_vm(m, "sti\n pushf\n pop bx\n cli\n pushf\n pop cx\n hlt")
    assert m.rbx & IF and not m.rcx & IF and m.rbx & m.rcx & IOPL3 == IOPL3


@pytest.mark.parametrize("bit, redirected", [(0, True), (1, False)])
def test_vme_redirects_software_interrupts(m, bit, redirected):
    """SDM Vol. 3, table 20-2: a clear bit of the map sends INT n to the program's own vector, a set one to #GP at IOPL 0."""
    m.cpu.cr4 = 1
    m.write(TSS0 + 0x68 + 4, bytes([bit]))
    m.write(4 * 0x20, struct.pack("<HH", 0x50, 0x4000))
    m.write(0x40050, b"\xb8\x99\x00\xf4")
    to_vm(m, "int 0x20", handler="hlt")
    assert (m.rax & 0xFFFF == 0x99) is redirected


# -- gates and stacks ---------------------------------------------------------------------------------------------------
def test_a_call_gate_copies_its_parameters(m):
    """SDM Vol. 3, 5.8.5: SS ESP, the parameters, CS EIP on the inner stack; RET n drops them from both."""
    ring3(m)
    stop = go(m, f"push 11\n push 22\n call {GATE}:0\n mov edx, esp\n int3", "mov eax, [esp+8]\n mov ebx, [esp+12]\n retf 8")
    assert (stop.vector, m.rax, m.rbx, m.rdx, m.cpu.cpl) == (3, 22, 11, STACK3, 3)


def test_an_inner_stack_that_is_not_one(m):
    """SDM Vol. 3, 6.12.1: the SS of the TSS must be a writable segment of the ring, else #TS(SS)."""
    m.write(TSS0 + 8, struct.pack("<I", U_DATA))
    ring3(m)
    stop = go(m, f"call {GATE}:0")
    assert (stop.vector, stop.error) == (10, U_DATA & ~3)


def test_expand_down_segments(m):
    """SDM Vol. 3, 5.3: an expand-down segment begins above its limit."""
    assert go(m, f"mov ax, {DOWN}\n mov ds, ax\n mov eax, [0x41000]").reason is Reason.HLT
    stop = go(m, f"mov ax, {DOWN}\n mov ds, ax\n mov eax, [0x40ffc]")
    assert (stop.reason, stop.vector, stop.error) == (Reason.EXCEPTION, 13, 0)


def test_a_word_across_the_limit(m):
    """SDM Vol. 3, 5.3: the last byte counts; #SS for the stack, #GP for the rest."""
    load = f"mov ax, {SMALL}\n mov ds, ax\n"
    assert go(m, load + "mov eax, [0xfc]").reason is Reason.HLT
    assert go(m, load + "mov eax, [0xfd]").vector == 13
    assert go(m, f"mov ax, {SMALL}\n mov ss, ax\n mov esp, 0x101\n push eax").vector == 12


def test_code_ends_at_the_limit_of_its_segment(m):
    """SDM Vol. 3, 5.3: an instruction whose bytes cross the limit of CS is #GP(0), the one before it runs."""
    m.cpu.set_segment("cs", K_CODE, 0, CODE + 6, 0x409B)
    stop = go(m, "nop\n nop\n nop\n mov eax, 5")
    assert (stop.reason, stop.vector, m.rip) == (Reason.EXCEPTION, 13, CODE + 3)


# -- breakpoints --------------------------------------------------------------------------------------------------------
def test_instruction_breakpoint_and_resume_flag(m):
    """SDM Vol. 3, 17.3.1.1: #DB before the instruction; IRET with RF goes past it."""
    set_idt(m, 1, gate(14, K_CODE, OTHER))
    stop = go(m, f"mov eax, {CODE + 30}\n mov dr0, eax\n mov eax, 1\n mov dr7, eax\n xor ecx, ecx\n .org 30\n inc ecx\n inc ecx",
              f"mov edx, dr6\n inc ebx\n or dword ptr [esp+8], {RF}\n iretd")
    assert (stop.reason, m.rcx, m.rbx, m.rdx & 0xF) == (Reason.HLT, 2, 1, 1)


@pytest.mark.parametrize("kind, text, hits", [(1, "mov [0x40004], eax", 1), (1, "mov eax, [0x40004]", 0), (3, "mov eax, [0x40004]", 1),
                                              (1, "inc dword ptr [0x40007]", 1),
                                              (1, "mov [0x40008], eax", 0),
                                              (1, "mov edi, 0x40000\n mov ecx, 4\n rep stosd", 1)])
def test_data_breakpoints(m, kind, text, hits):
    """SDM Vol. 3, 17.3.1.2: a trap behind the instruction that touches the bytes, for writes or for both."""
    set_idt(m, 1, gate(14, K_CODE, OTHER))
    go(m, f"mov eax, 0x40004\n mov dr1, eax\n mov eax, {4 | kind << 20 | 3 << 22}\n mov dr7, eax\n {text}",
       "mov edx, dr6\n inc ebx\n iretd")
    assert (m.rbx, m.rdx & 0xF) == (hits, 2 * hits)


def test_single_step(m):
    """SDM Vol. 3, 17.3.1.4: TF traps behind the instruction after the one that sets it; the handler runs without it."""
    set_idt(m, 1, gate(14, K_CODE, OTHER))
    go(m, f"pushfd\n or dword ptr [esp], {TF}\n popfd\n nop\n nop\n pushfd\n and dword ptr [esp], {~TF & 0xFFFFFFFF}\n popfd\n nop",
       "mov edx, dr6\n inc ebx\n iretd")
    assert (m.rbx, m.rdx >> 14 & 1) == (5, 1)


def test_general_detect(m):
    """SDM Vol. 3, 17.2.4: with GD set an access to a debug register is #DB, and GD is clear in the handler."""
    set_idt(m, 1, gate(14, K_CODE, OTHER))
    go(m, "mov eax, 0x2000\n mov dr7, eax\n mov ecx, dr0", "mov edx, dr6\n mov ebx, dr7\n hlt")
    assert m.rdx >> 13 & 1 and not m.rbx & 0x2000


# -- faults in faults -----------------------------------------------------------------------------------------------------
def test_double_and_triple_faults(m):
    """SDM Vol. 3, 6.15: a contributory fault in the delivery of another is #DF with code 0; one in that is a shutdown."""
    set_idt(m, 8, gate(14, K_CODE, OTHER))
    stop = go(m, "mov ax, 0x78\n mov ds, ax", "pop edx\n hlt")
    assert (stop.reason, m.rdx) == (Reason.HLT, 0)
    set_idt(m, 8, 0)
    assert go(m, "mov ax, 0x78\n mov ds, ax").reason is Reason.SHUTDOWN


def test_real_mode_again(m):
    """SDM Vol. 3, 9.9.2: back to real mode through 16-bit code; limits stay as they were loaded ("unreal mode")."""
    m.write(GDT + 0x58, struct.pack("<Q", descriptor(10, flags=0, limit=0xFFFF)))
    m.write(0x9000, assemble("mov eax, cr0\n and al, 0xfe\n mov cr0, eax\n ljmp 0x900,0x20\n .org 0x20\n mov ebx, 0x50000\n"
                             " mov ax, 0\n mov ds, ax\n mov ecx, [ebx]\n hlt", 16))
    m.write(0x50000, b"\x78\x56\x34\x12")
    stop = go(m, "jmp 0x58:0x9000")
    assert (stop.reason, m.rcx, m.cpu.segment("cs")[:2]) == (Reason.HLT, 0x12345678, (0x900, 0x9000))
