"""Debug exceptions, interrupt shadows, NMI, alignment checks: what comes before or behind which instruction; after SDM Vol. 3."""

import struct

import pytest

from tests.cpu.asm import assemble
from tests.cpu.legacy import (
    CODE,
    IDT,
    IF,
    K_CODE,
    K_DATA,
    OTHER,
    RF,
    STACK0,
    TF,
    TR1,
    TSS0,
    TSS1,
    gate,
    new_task,
    paged,
    protected,
    ring3,
    set_idt,
    word,
)
from xenfast.machine import Reason

THIRD = 0x12000                      # a second handler
DE, AM, AC = 1 << 3, 1 << 18, 1 << 18
SEEN = 0x50000
COUNT_DB = f"""inc ebx; push eax; mov eax, dr6; mov [{SEEN}], eax; mov eax, [esp+12]; mov [{SEEN}+ebx*8], eax
    mov eax, [esp+4]; mov [{SEEN}+4+ebx*8], eax; xor eax, eax; mov dr6, eax; pop eax; iretd"""


@pytest.fixture
def m():
    """#DB goes to OTHER; COUNT_DB there counts in EBX, and keeps DR6 and the frames' EFLAGS and EIP."""
    machine = protected()
    set_idt(machine, 1, gate(14, K_CODE, OTHER))
    return machine


def traps(m):
    """(RF, EIP relative to CODE) of the frames COUNT_DB has seen."""
    frames = [struct.unpack("<II", m.read(SEEN + 8 + 8 * i, 8)) for i in range(m.rbx)]
    return [(flags >> 16 & 1, eip - CODE) for flags, eip in frames]


def watch(number, address, kind, length=0):
    """Assembly that sets a breakpoint: 30 bytes, when it is the first thing at CODE."""
    return (f"mov eax, {address}\n mov dr{number}, eax\n mov eax, {2 << 2 * number | kind << 16 + 4 * number | length << 18 + 4 * number}\n"
            " mov dr7, eax\n .org 30\n")


TRACE = f"pushfd\n or dword ptr [esp], {TF}\n popfd\n"
T = CODE + 9                         # where what follows TRACE begins


def ports(m, count=100):
    """Answer port reads with 0 until something else happens."""
    stop = m.run(count)
    seen = 0
    while stop.reason is Reason.PIO:
        seen += 1
        if not stop.is_write:
            m.cpu.pio_return(0)
        stop = m.run(count)
    return stop, seen


def start(m, text, other=COUNT_DB, third="hlt"):
    m.write(CODE, assemble(text + "\nhlt", 32, CODE))
    m.write(OTHER, assemble(other, 32, OTHER))
    m.write(THIRD, assemble(third, 32, THIRD))
    m.rip = CODE


# -- breakpoints on ports ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("text, hits", [
    ("in al, 0x60", [(0, 32)]), ("out 0x60, al", [(0, 32)]), ("in al, 0x61", []), ("in eax, 0x5e", [(0, 32)]), ("in ax, 0x5e", []),
])
def test_port_breakpoints(m, text, hits):
    """SDM Vol. 3, 17.2.4: with CR4.DE, R/W = 10 is a trap behind an access to any byte of the ports."""
    m.cpu.cr4 = DE
    start(m, watch(0, 0x60, 2) + text)
    assert ports(m)[0].reason is Reason.HLT
    assert traps(m) == hits and (not hits or word(m, SEEN) & 0xF == 1)


def test_port_breakpoints_need_de(m):
    """SDM Vol. 3, 17.2.4: without CR4.DE the encoding is undefined; here it is nothing.  Setting DE brings them to life."""
    start(m, watch(0, 0x60, 2) + "in al, 0x60")
    ports(m)
    assert traps(m) == []
    start(m, watch(0, 0x60, 2) + "mov eax, 8\n mov cr4, eax\n in al, 0x60")
    ports(m)
    assert len(traps(m)) == 1


def test_port_breakpoints_of_string_instructions(m):
    """SDM Vol. 3, 17.3.1.1 and 17.3.1.3: a trap behind each iteration, with RF set in the frames of all but the last."""
    m.cpu.cr4 = DE
    start(m, watch(0, 0x70, 2) + "mov edx, 0x70\n mov edi, 0x40000\n mov ecx, 3\n rep insb")
    stop, seen = ports(m)
    assert (stop.reason, seen, m.rcx) == (Reason.HLT, 3, 0)
    assert traps(m) == [(1, 45), (1, 45), (0, 47)]


# -- single step --------------------------------------------------------------------------------------------------------------
def test_single_step_goes_through_iterations(m):
    """SDM Vol. 2, REP; Vol. 3, 17.3.1.4: a trap behind each iteration; RF says that there are more."""
    start(m, TRACE + "rep stosb\n nop")
    m.rdi, m.rcx = 0x40000, 3
    m.run(100, until=T + 3)
    assert traps(m) == [(1, 9), (1, 9), (0, 11), (0, 12)]


def test_single_step_across_a_port(m):
    """The trap of IN comes when the machine around has answered."""
    start(m, TRACE + "in al, 0x60\n nop")
    assert m.run(100).reason is Reason.PIO and m.rbx == 0
    m.cpu.pio_return(0x55)
    m.run(100, until=T + 2)
    assert traps(m) == [] and m.rax & 0xFF == 0x55
    m.run(100, until=T + 3)
    assert traps(m) == [(0, 11), (0, 12)]


def test_single_step_across_hlt(m):
    """SDM Vol. 2, HLT: a debug exception ends the halt at once."""
    start(m, TRACE + "hlt\n inc ecx")
    assert m.run(50, until=T + 2).reason is Reason.UNTIL
    assert m.rcx == 1 and traps(m) == [(0, 10), (0, 11)]


def test_int_n_is_not_stepped_into(m):
    """SDM Vol. 3, 17.3.1.4: INT n clears TF before the handler; the trap comes behind the first instruction after IRET."""
    set_idt(m, 0x20, gate(14, K_CODE, THIRD))
    start(m, TRACE + "int 0x20\n nop\n nop", third="inc ecx\n iretd")
    m.run(50, until=T + 4)
    assert m.rcx == 1 and traps(m) == [(0, 12), (0, 13)]


def test_a_fault_has_no_trap_behind_it(m):
    """SDM Vol. 3, table 6-2: the instruction has not completed; the fault's frame has TF, its handler has not."""
    set_idt(m, 6, gate(14, K_CODE, THIRD))
    start(m, TRACE + "ud2", third="mov esi, [esp+8]\n pushfd\n pop ecx\n hlt")
    assert m.run(50).reason is Reason.HLT
    assert traps(m) == [] and not m.rcx & TF and m.rsi & TF


def test_icebp(m):
    """SDM Vol. 2, INT1: a #DB trap that passes a gate of any DPL and leaves DR6 alone; INT 1 does not pass."""
    ring3(m)
    set_idt(m, 1, gate(14, K_CODE, OTHER))
    start(m, ".byte 0xf1\n nop", "mov edx, dr6\n mov ecx, [esp]\n hlt")
    assert m.run(10).reason is Reason.HLT
    assert (m.rdx, m.rcx) == (0xFFFF0FF0, CODE + 1)
    ring3(m)
    set_idt(m, 13, gate(14, K_CODE, THIRD))
    start(m, ".byte 0xcd, 1", third="pop ecx\n hlt")
    m.run(10)
    assert (m.rcx, m.rip) == (1 * 8 + 2, THIRD + 2)


def test_debug_registers_from_outside(m):
    """Vcpu.debug_registers sets breakpoints as MOV does, with the fixed bits of DR6 and DR7 as they are."""
    m.cpu.debug_registers = SEEN + 0x100, 0, 0, 0, 0, 1 | 1 << 16
    assert m.cpu.debug_registers == (SEEN + 0x100, 0, 0, 0, 0xFFFF0FF0, 0x10401)
    start(m, f"mov [{SEEN + 0x100}], al\n mov ecx, dr7")
    assert m.run(50).reason is Reason.HLT
    assert traps(m) == [(0, 5)] and m.rcx == 0x10401


# -- RF -----------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("vector, text, rf", [(6, "ud2", 1), (13, "mov ax, 0x78\n mov ds, ax", 1), (3, "int3", 0), (0x20, "int 0x20", 0),
                                              (0, "xor ecx, ecx\n div ecx", 1), (4, "mov al, 127\n inc al\n into", 0)])
def test_rf_in_the_frame(m, vector, text, rf):
    """SDM Vol. 3, 17.3.1.1: a fault pushes RF set, a trap does not."""
    set_idt(m, vector, gate(14, K_CODE, THIRD))
    start(m, text, third=f"mov ecx, [esp+{12 if vector == 13 else 8}]\n hlt")
    assert m.run(20).reason is Reason.HLT
    assert m.rcx >> 16 & 1 == rf


def test_rf_of_breakpoint_and_general_detect(m):
    """SDM Vol. 3, 17.3.1.1: the frame of an instruction breakpoint has RF clear, that of general detect set."""
    start(m, watch(0, CODE + 30, 0) + "nop", "mov ecx, [esp+8]\n hlt")
    m.run(20)
    assert m.rip > OTHER and not m.rcx & RF
    start(m, "mov eax, 0x2000\n mov dr7, eax\n mov ecx, dr0", "mov ecx, [esp+8]\n hlt")
    m.run(20)
    assert m.rcx & RF


def test_rf_lasts_through_the_iterations(m):
    """SDM Vol. 3, 17.3.1.1: one breakpoint at a REP instruction, not one an iteration; RF is clear behind it."""
    handler = f"inc ebx\n or dword ptr [esp+8], {RF}\n iretd"
    start(m, watch(0, CODE + 40, 0) + "mov edi, 0x40000\n mov ecx, 3\n .org 40\n rep stosb\n dec dword ptr [0x50000]\n jz 1f\n"
          " mov ecx, 3\n jmp 2f\n .org 60\n 1: hlt\n 2: jmp near_\n .org 80\n near_: .byte 0xe9\n .long 40 - 85", handler)
    m.write(0x50000, struct.pack("<I", 2))
    assert m.run(100).reason is Reason.HLT
    assert m.rbx == 2


def test_data_breakpoint_inside_a_repetition(m):
    """SDM Vol. 3, 17.3.1.2: the trap comes behind the iteration that touched the bytes, not at the end."""
    start(m, watch(0, 0x40004, 1, 3) + "mov edi, 0x40000\n mov ecx, 4\n rep stosd")
    m.run(100)
    assert traps(m) == [(1, 40)]


# -- MOV SS and POP SS --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("text, size", [("mov ss, word ptr [0x40000]", 6), ("mov esp, 0x40000\n pop ss\n .set at, 6", 6)])
def test_a_data_breakpoint_of_a_stack_load_waits(m, text, size):
    """SDM Vol. 3, 6.8.3: the #DB comes behind the instruction after MOV SS or POP SS."""
    m.write(0x40000, struct.pack("<I", K_DATA))
    start(m, watch(0, 0x40000, 3, 3) + text + f"\n mov esp, {STACK0}\n inc ecx\n")
    m.run(50)
    assert [eip for _, eip in traps(m)] == [30 + size + 5]


def test_a_debug_exception_waits_until_the_handler_of_int_3(m):
    """SDM Vol. 3, 6.8.3: MOV SS with a breakpoint, then INT3: #DB comes at the first instruction of #BP's handler."""
    m.write(0x40000, struct.pack("<I", K_DATA))
    set_idt(m, 3, gate(14, K_CODE, THIRD))
    start(m, watch(0, 0x40000, 3, 1) + "mov ss, word ptr [0x40000]\n int3", third="inc ecx\n hlt")
    m.run(50)
    assert traps(m) == [(0, THIRD - CODE)] and m.rcx == 1


def test_mov_ss_is_not_stepped(m):
    """SDM Vol. 3, 6.8.3: no single-step trap between MOV SS and the next instruction; the second of two in a row traps."""
    start(m, TRACE + "mov ss, eax\n nop\n nop")
    m.rax = K_DATA
    m.run(50, until=T + 4)
    assert traps(m) == [(0, 12), (0, 13)]
    m.rbx, m.rflags = 0, 2
    start(m, TRACE + "mov ss, eax\n mov ss, eax\n nop")
    m.run(50, until=T + 5)
    assert traps(m) == [(0, 13), (0, 14)]


def test_an_instruction_breakpoint_behind_mov_ss_is_lost(m):
    """SDM Vol. 3, 6.8.3: debug exceptions are held off there, instruction breakpoints too."""
    start(m, watch(0, CODE + 37, 0) + f"mov eax, {K_DATA}\n mov ss, eax\n inc ecx\n inc ecx")
    assert m.run(50).reason is Reason.HLT
    assert (m.rcx, m.rbx) == (2, 0)


# -- interrupts from outside ----------------------------------------------------------------------------------------------------
def stepwise(m, text, steps, event, vector=0x20, flags=IF):
    """Run some instructions, have something happen, run on: the EIP of the frame, or None."""
    set_idt(m, vector, gate(14, K_CODE, THIRD))
    start(m, text, third="mov edx, [esp]\n inc ebx\n hlt")
    m.rax, m.rbx, m.rdx, m.rsp = K_DATA, 0, 0, STACK0
    m.rflags = 2 | flags
    m.run(steps)
    event()
    m.run(50)
    return m.rdx - CODE if m.rbx else None


def test_sti_holds_interrupts_off_for_one_instruction(m):
    """SDM Vol. 2, STI: an interrupt is taken behind the next instruction; STI CLI has no window; NMI is taken at once."""
    assert stepwise(m, "sti\n inc ecx\n inc ecx", 1, lambda: m.cpu.interrupt(0x20), flags=0) == 2
    assert stepwise(m, "sti\n cli\n inc ecx", 1, lambda: None, flags=0) is None
    assert stepwise(m, "sti\n inc ecx\n inc ecx", 1, m.cpu.nmi, vector=2, flags=0) == 1


def test_sti_with_interrupts_on_holds_nothing_off(m):
    """SDM Vol. 2, STI: only a change of IF from 0 to 1 does."""
    assert stepwise(m, "sti\n inc ecx\n inc ecx", 1, lambda: m.cpu.interrupt(0x20)) == 1


def test_sti_cli_has_no_window(m):
    """SDM Vol. 2, STI: an interrupt that waits is not taken between STI and CLI."""
    m.cpu.interrupt(0x20)
    assert stepwise(m, "sti\n cli\n inc ecx", 0, lambda: None, flags=0) is None
    assert stepwise(m, "inc ecx\n sti\n nop", 0, lambda: None, flags=0) == 3


def test_mov_ss_holds_everything_off(m):
    """SDM Vol. 3, 6.8.3: interrupts and NMI wait behind MOV SS, but not behind a second one in a row."""
    assert stepwise(m, "mov ss, eax\n inc ecx\n inc ecx", 1, lambda: m.cpu.interrupt(0x20)) == 3
    m.rflags = 2
    assert stepwise(m, "mov ss, eax\n inc ecx\n inc ecx", 1, m.cpu.nmi, vector=2) == 3


def test_nmi_waits_for_iret(m):
    """SDM Vol. 3, 6.7.1: no NMI in an NMI handler until IRET; one is remembered."""
    set_idt(m, 2, gate(14, K_CODE, OTHER))
    start(m, "nop\n nop", "inc ebx\n nop\n iretd")
    m.cpu.nmi()
    m.run(1)
    m.cpu.nmi()
    m.cpu.nmi()
    m.run(1)
    assert (m.rbx, m.rip) == (1, OTHER + 2)
    assert m.run(50).reason is Reason.HLT
    assert m.rbx == 2 and m.rsp == STACK0


def test_interrupts_wait_for_if(m):
    """SDM Vol. 3, 6.8.1: POPF and IRET open the window as STI does, without a shadow; there is room for one."""
    m.cpu.interrupt(0x20)
    assert m.cpu.interrupt(0x21) is False
    assert stepwise(m, f"push {IF | 2}\n inc ecx\n popfd\n nop", 0, lambda: None, flags=0) == 7
    m.cpu.interrupt(0x20)
    assert stepwise(m, f"push {IF | 2}\n push {K_CODE}\n push offset there\n iretd\n .org 32\n there: nop", 0, lambda: None, flags=0) == 32


def test_an_interrupt_ends_hlt(m):
    """SDM Vol. 2, HLT: the saved EIP is behind it; with an interrupt waiting there is no halt."""
    set_idt(m, 0x20, gate(14, K_CODE, THIRD))
    start(m, "hlt\n inc ecx", third="inc ebx\n iretd")
    m.rflags = IF | 2
    assert m.run(10).reason is Reason.HLT and m.rcx == 0
    m.cpu.interrupt(0x20)
    assert m.run(10).reason is Reason.HLT and (m.rbx, m.rcx) == (1, 1)


@pytest.mark.parametrize("vector", [0x20, 13])
def test_an_interrupt_through_a_bad_gate(m, vector):
    """SDM Vol. 3, 6.13 and table 6-5: #GP with EXT set in the error code; an interrupt is benign whatever its vector."""
    m.cpu.set_table("idtr", IDT, 0x1FF)
    set_idt(m, 13, gate(14, K_CODE, THIRD) if vector != 13 else gate(14, K_DATA, THIRD))
    set_idt(m, 8, gate(14, K_CODE, OTHER))
    start(m, "nop", "mov ecx, 8\n hlt", third="pop ecx\n hlt")
    m.rflags = IF | 2
    m.cpu.interrupt(vector)
    m.run(10)
    # 13's own gate is the bad one: the #GP cannot be delivered either, and that is the double fault
    assert m.rcx == (0x20 * 8 + 3 if vector == 0x20 else 8)


# -- faults in faults -------------------------------------------------------------------------------------------------------------
FIRST = {"benign": (6, "ud2"), "contributory": (0, "xor ecx, ecx\n div ecx"), "page fault": (14, "mov eax, [0x70000]")}


@pytest.mark.parametrize("first, result", [("benign", 11), ("contributory", 8), ("page fault", 8)])
def test_a_contributory_fault_in_the_delivery(m, first, result):
    """SDM Vol. 3, table 6-5, with #NP (the gate is not present): #DF, but for a benign first exception."""
    paged(m)
    vector, text = FIRST[first]
    for v in (8, 11):
        set_idt(m, v, gate(14, K_CODE, THIRD + 16 * v))
    set_idt(m, vector, gate(14, K_CODE, OTHER) & ~(1 << 47))
    start(m, text)
    for v in (8, 11):
        m.write(THIRD + 16 * v, assemble(f"mov ebp, {v}\n hlt", 32))
    assert m.run(20).reason is Reason.HLT
    assert m.rbp == result


@pytest.mark.parametrize("first, error", [("benign", 2), ("contributory", 2), ("page fault", 0)])
def test_a_page_fault_in_the_delivery(m, first, error):
    """SDM Vol. 3, table 6-5, with #PF (the inner stack is on a missing page): #DF, with code 0, only when the first is #PF too."""
    paged(m)
    vector, text = FIRST[first]
    m.write(TSS0 + 4, struct.pack("<I", 0x71000))
    new_task(m)
    m.write(TSS1 + 0x1C, struct.pack("<I", 0x60000))
    for v in (14, 8):
        set_idt(m, v, gate(5, TR1))
    set_idt(m, vector, gate(14, K_CODE, THIRD))
    ring3(m)
    start(m, text, other="pop ebp\n hlt")
    assert m.run(20).reason is Reason.HLT
    assert (m.cpu.segment("tr")[0], m.rbp) == (TR1, error)


def test_a_fault_in_the_delivery_of_a_double_fault(m):
    """SDM Vol. 3, 6.15 (#DF): the processor shuts down."""
    start(m, "ud2")
    m.cpu.set_table("idtr", IDT, 0x1FF)
    assert m.run(20).reason is Reason.SHUTDOWN


def test_an_idt_where_nothing_is(m):
    """Tables in memory that is not there read as ones: no gate, and a shutdown, whatever the host."""
    m.cpu.set_table("idtr", 0x80000000, 0x7FF)
    start(m, "ud2")
    assert m.run(20).reason is Reason.SHUTDOWN


# -- alignment --------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("text, fault", [
    ("mov eax, [0x40001]", True), ("mov eax, [0x40002]", True), ("mov eax, [0x40004]", False), ("mov ax, [0x40001]", True),
    ("mov al, [0x40001]", False), ("mov [0x40001], eax", True), ("lock inc dword ptr [0x40002]", True), ("inc word ptr [0x40002]", False),
    ("fld qword ptr [0x40004]", True), ("fld dword ptr [0x40004]", False), ("mov esi, 0x40001\n lodsd", True), ("push ax\n push eax", True),
    ("fnstcw [0x40001]", True), ("mov edi, 0x40002\n mov ecx, 2\n rep stosw", False), ("mov eax, [0x40ffe]", True),
])
def test_alignment_check(m, text, fault):
    """SDM Vol. 3, 6.15 (#AC) and table 6-7: in ring 3, with CR0.AM and EFLAGS.AC; error code 0, at the instruction."""
    m.cpu.cr0 = 0x11 | AM
    set_idt(m, 17, gate(14, K_CODE, THIRD))
    set_idt(m, 3, gate(14, K_CODE, OTHER, dpl=3))
    for ac, expect in ((AC, fault), (0, False)):
        ring3(m)
        start(m, f"push {ac | 2}\n popfd\n {text}\n int3", "mov ebx, 3\n hlt", third="pop ebx\n mov ebp, 17\n hlt")
        m.rbx, m.rbp = 99, 0
        assert m.run(30).reason is Reason.HLT
        assert (m.rbp, m.rbx) == ((17, 0) if expect else (0, 3))


def test_alignment_is_not_checked_in_inner_rings(m):
    """SDM Vol. 3, 6.15 (#AC): rings 0 to 2, and the processor's own accesses to tables and inner stacks, are exempt."""
    m.cpu.cr0 = 0x11 | AM
    start(m, f"push {AC | 2}\n popfd\n mov eax, [0x40001]")
    assert m.run(30).reason is Reason.HLT and m.rip == CODE + 12
    set_idt(m, 3, gate(14, K_CODE, OTHER, dpl=3))
    m.write(TSS0 + 4, struct.pack("<I", STACK0 - 2))
    ring3(m)
    start(m, f"push {AC | 2}\n popfd\n int3", "mov ebx, [esp+1]\n hlt")
    assert m.run(30).reason is Reason.HLT and m.rip > OTHER
