"""Segments, far transfers, rings, system registers and ports of a bare machine, after SDM Vol. 3, ch. 5 and 6."""

import struct

import pytest

from tests.cpu.asm import assemble
from xenfast.machine import Machine, Reason

CODE, TABLES, STACK0, STACK3, DATA = 0x10000, 0x20000, 0x31000, 0x41000, 0x50000
GDT, IDT, TSS = TABLES, TABLES + 0x400, TABLES + 0xD00


def descriptor(kind, dpl=0, base=0, limit=0xFFFFF, flags=0xC, present=1, system=False):
    """SDM Vol. 3, 3.4.5; flags are G D/B L AVL."""
    access = kind | (0 if system else 0x10) | dpl << 5 | present << 7
    return (limit & 0xFFFF | (base & 0xFFFFFF) << 16 | access << 40 | (limit >> 16 & 15) << 48 | flags << 52 | (base >> 24 & 0xFF) << 56)


def gate(kind, sel, offset, dpl=0, count=0, present=1):
    """Interrupt, trap or call gate in IA-32e format: two words."""
    low = offset & 0xFFFF | sel << 16 | count << 32 | (kind | dpl << 5 | present << 7) << 40 | (offset >> 16 & 0xFFFF) << 48
    return low, offset >> 32


K_CODE, K_DATA, U_CODE32, U_DATA, U_CODE64, TSS_SEL = 0x08, 0x10, 0x1B, 0x23, 0x2B, 0x30
GONE, CONFORMING, EXEC_ONLY, READ_ONLY, CALL_GATE, LDT_SEL, K_CODE32 = 0x40, 0x48, 0x50, 0x58, 0x60, 0x70, 0x80
TABLE = {
    K_CODE: descriptor(10, flags=0xA), K_DATA: descriptor(2), U_CODE32: descriptor(10, 3), U_DATA: descriptor(2, 3),
    U_CODE64: descriptor(10, 3, flags=0xA), TSS_SEL: descriptor(9, base=TSS, limit=0x67 + 0x20, flags=0, system=True),
    GONE: descriptor(2, present=0), CONFORMING: descriptor(14, flags=0xA), EXEC_ONLY: descriptor(8, 3, flags=0xA),
    READ_ONLY: descriptor(0, 3, base=0x12345678, limit=0x1234, flags=4), LDT_SEL: descriptor(2, base=DATA, limit=15, flags=0, system=True),
    K_CODE32: descriptor(10),
}


@pytest.fixture
def m():
    """Ring 0 of 64-bit mode with a GDT, a TSS and an empty IDT."""
    machine = Machine(memory=1 << 20, mode=64, ring=0)
    for page in (CODE, TABLES, STACK0 - 0x1000, STACK3 - 0x1000, DATA):
        machine.map(page, 0x1000)
    for sel, value in TABLE.items():
        machine.write(GDT + (sel & ~7), struct.pack("<Q", value))
    machine.write(TSS, bytes(4) + struct.pack("<Q", STACK0))
    machine.write(TSS + 0x66, struct.pack("<H", 0x68) + b"\xff" * 0x20)      # permission bitmap
    machine.cpu.set_table("gdtr", GDT, 0x8F)
    machine.cpu.set_segment("tr", TSS_SEL, TSS, 0x87, 0x8B)
    machine.cpu.set_segment("ldtr", 0, 0, 0, 0)
    machine.rsp = STACK0
    return machine


def go(m, text, count=100, bits=64):
    """Run assembly until the end of it, or until something else ends the run."""
    code = assemble(text, bits, CODE)
    m.write(CODE, code)
    m.rip = CODE
    return m.run(count, until=CODE + len(code))


def set_idt(m, vector, target, kind=14, dpl=0, sel=K_CODE):
    m.write(IDT + 16 * vector, struct.pack("<QQ", *gate(kind, sel, target, dpl)))
    m.cpu.set_table("idtr", IDT, 0x80F)


def ring3(m, bits=64):
    m.cpu.set_segment("cs", U_CODE64 if bits == 64 else U_CODE32, 0, 0xFFFFFFFF, 0xA0FB if bits == 64 else 0xC0FB)
    m.cpu.set_segment("ss", U_DATA, 0, 0xFFFFFFFF, 0xC0F3)
    for name in ("ds", "es"):
        m.cpu.set_segment(name, U_DATA, 0, 0xFFFFFFFF, 0xC0F3)
    m.cpu.cpl = 3
    m.rsp = STACK3


# -- loading segment registers ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize("ring, register, sel, vector, error", [
    (0, "ds", GONE, 11, GONE), (0, "ss", GONE, 12, GONE), (0, "ds", 0x200, 13, 0x200), (0, "ds", TSS_SEL, 13, TSS_SEL),
    (0, "ds", EXEC_ONLY | 3, 13, EXEC_ONLY), (0, "ss", READ_ONLY, 13, READ_ONLY), (0, "ss", U_DATA, 13, U_DATA & ~3),
    (3, "ds", K_DATA, 13, K_DATA), (3, "ds", K_DATA | 3, 13, K_DATA), (3, "ss", 3, 13, 0), (3, "ds", 0x74, 13, 0x74),
])
def test_selectors_that_are_refused(m, ring, register, sel, vector, error):
    """#NP, #SS or #GP with the selector as error code, and the old segment stays."""
    if ring == 3:
        ring3(m)
    before = m.cpu.segment(register)
    stop = go(m, f"mov ax, {sel}; mov {register}, ax")
    assert (stop.reason, stop.vector, stop.error) == (Reason.EXCEPTION, vector, error)
    assert m.cpu.segment(register) == before


def test_loading_sets_the_accessed_bit(m):
    """The descriptor's type bit 0 is set in memory, and what it says is in force."""
    go(m, f"mov ax, {READ_ONLY | 3}; mov fs, ax")
    assert m.cpu.segment("fs") == (READ_ONLY | 3, 0x12345678, 0x1234, 0x40F1)
    assert m.read(GDT + READ_ONLY + 5, 1)[0] & 1


def test_conforming_code_is_data_to_everybody(m):
    """A readable conforming code segment of ring 0 may be loaded in ring 3."""
    ring3(m)
    assert go(m, f"mov ax, {CONFORMING}; mov ds, ax").reason is Reason.UNTIL


def test_null_selectors_in_64_bit_mode(m):
    """DS, FS and, above ring 3, SS take null; FS loses its base (as on Intel)."""
    m.cpu.set_segment("fs", 0, 0x1234000)
    assert go(m, "xor eax, eax; mov ds, ax; mov ss, ax; mov fs, ax; push rax; pop rax").reason is Reason.UNTIL
    assert m.cpu.segment("fs")[1] == 0


def test_null_data_segment_faults_when_used_in_compatibility_mode(m):
    """A null DS is #GP(0) in 32-bit code."""
    ring3(m, 32)
    stop = go(m, "xor eax, eax; mov ds, ax; mov eax, [0x50000]", bits=32)
    assert (stop.vector, stop.error) == (13, 0)


def test_limits_hold_in_compatibility_mode(m):
    """Beyond the limit is #GP(0), through SS #SS(0); writing a read-only segment is #GP."""
    ring3(m, 32)
    m.cpu.set_segment("es", U_DATA, DATA, 0xFFF, 0x40F3)
    m.write(DATA + 0xFFC, b"\x11\x22\x33\x44")
    assert go(m, "mov eax, es:[0xffc]", bits=32).reason is Reason.UNTIL and m.rax == 0x44332211
    assert go(m, "mov eax, es:[0xffd]", bits=32).vector == 13
    m.cpu.set_segment("ss", U_DATA, 0, 0xFFF, 0x40F3)
    m.rsp = 0x2000
    assert go(m, "push eax", bits=32).vector == 12
    m.cpu.set_segment("es", U_DATA, DATA, 0xFFF, 0x40F1)
    assert go(m, "mov es:[0], eax", bits=32).vector == 13


def test_lar_lsl_verr_verw(m):
    """They tell what the privilege level may know, by ZF."""
    text = f"""mov ecx, {READ_ONLY | 3}; lar eax, cx; setz r8b; lsl ebx, ecx; setz r9b; verr cx; setz r10b; verw cx; setz r11b
        mov ecx, 0x200; lar edx, cx; setz r12b"""
    assert go(m, text).reason is Reason.UNTIL
    assert (m.rax, m.rbx) == (0x0040F000, 0x1234)
    assert [r & 0xFF for r in (m.r8, m.r9, m.r10, m.r11, m.r12)] == [1, 1, 1, 0, 0]


# -- far transfers ---------------------------------------------------------------------------------------------------------
def test_far_jump_to_compatibility_mode_and_back(m):
    """The same bytes are 64-bit code before a far jump and 32-bit code behind it."""
    ring3(m)
    text = f"""
        push {U_CODE32}; lea rax, [rip + there]; push rax; retfq
        there: .code32; inc eax; dec eax; mov ebx, 0x12345678
        .byte 0xea; .long back; .word {U_CODE64}
        back: .code64; mov rcx, rbx; shl rcx, 32"""
    # 40 48 are INC and DEC in 32-bit code; the mode is seen by what RBX and RCX become
    assert go(m, text).reason is Reason.UNTIL
    assert m.rcx == 0x12345678 << 32 and m.cpu.segment("cs")[0] == U_CODE64


@pytest.mark.parametrize("sel, vector, error", [(0, 13, 0), (GONE, 13, GONE), (K_DATA, 13, K_DATA), (U_CODE64 & ~3, 13, U_CODE64 & ~3)])
def test_far_jumps_that_are_refused(m, sel, vector, error):
    """Null, not code, of another ring."""
    stop = go(m, f"mov dword ptr [{DATA}], 0; mov word ptr [{DATA} + 4], {sel}; jmp fword ptr [{DATA}]")
    assert (stop.vector, stop.error) == (vector, error)


def test_call_gate_to_ring_0_and_return(m):
    """A 64-bit call gate takes the stack of the TSS, pushes SS RSP CS RIP; RETFQ returns to ring 3."""
    m.write(GDT + CALL_GATE, struct.pack("<QQ", *gate(12, K_CODE, CODE + 0x100, dpl=3)))
    m.write(CODE + 0x100, assemble("mov rbx, rsp; mov cx, cs; mov dx, ss; retfq"))
    ring3(m)
    m.write(DATA, struct.pack("<IH", 0, CALL_GATE))
    assert go(m, f"call fword ptr [{DATA}]; mov si, cs; nop").reason is Reason.UNTIL
    assert (m.rbx, m.rcx & 0xFFFF, m.rdx & 0xFFFF, m.rsi & 0xFFFF) == (STACK0 - 32, K_CODE, 0, U_CODE64)
    assert m.rsp == STACK3 and m.cpu.cpl == 3
    pushed = struct.unpack("<4Q", m.read(STACK0 - 32, 32))
    assert pushed == (CODE + 7, U_CODE64, STACK3, U_DATA)


def test_call_gate_of_an_inner_ring_is_refused(m):
    """A gate's DPL must not be below CPL."""
    m.write(GDT + CALL_GATE, struct.pack("<QQ", *gate(12, K_CODE, CODE + 0x100, dpl=0)))
    ring3(m)
    m.write(DATA, struct.pack("<IH", 0, CALL_GATE))
    stop = go(m, f"call fword ptr [{DATA}]")
    assert (stop.vector, stop.error) == (13, CALL_GATE)


# -- interrupts ------------------------------------------------------------------------------------------------------------
def test_int_and_iret_between_rings(m):
    """INT n through a gate of DPL 3: the TSS's stack, a frame with the old SS:RSP; IRETQ goes back with flags and ring."""
    set_idt(m, 0x80, CODE + 0x100, dpl=3)
    m.write(CODE + 0x100, assemble("mov rbx, rsp; mov cl, 1; pushfq; pop rdx; iretq"))
    ring3(m)
    m.rflags = 0x246
    assert go(m, "stc; int 0x80; nop").reason is Reason.UNTIL
    assert m.rbx == STACK0 - 40 and m.rdx & 0x200 == 0 and m.cpu.cpl == 3 and m.rsp == STACK3
    rip, cs, flags, rsp, ss = struct.unpack("<5Q", m.read(STACK0 - 40, 40))
    assert (rip, cs, flags, rsp, ss) == (CODE + 3, U_CODE64, 0x247, STACK3, U_DATA)
    assert m.rflags & 0x247 == 0x247


def test_int_through_a_gate_of_ring_0_is_refused(m):
    """#GP with the vector's entry as error code; an exception would have gone through."""
    set_idt(m, 0x80, CODE + 0x100)
    set_idt(m, 13, CODE + 0x100)
    m.write(CODE + 0x100, assemble("pop rax; pop rbx; hlt"))
    for vector in (0x80, 13):                              # 13: no double fault either, INT 13 is no contributory exception
        ring3(m)
        assert go(m, f"nop; int {vector}").reason is Reason.HLT
        assert (m.rax, m.rbx) == (vector * 8 + 2, CODE + 1)


@pytest.mark.parametrize("frame, error", [
    ((CODE, GONE | 3, 2, STACK3, U_DATA), GONE), ((CODE, U_CODE64, 2, STACK3, 3), 0), ((CODE, U_CODE64, 2, STACK3, K_DATA), K_DATA),
    ((1 << 63, U_CODE64, 2, STACK3, U_DATA), 0), ((CODE, 0, 2, STACK3, U_DATA), 0), ((CODE, K_CODE | 1, 2, STACK3, U_DATA), K_CODE),
])
def test_iret_frames_that_are_refused(m, frame, error):
    """Bad CS, SS or RIP in the frame: #GP with RSP where it was."""
    m.write(STACK0 - 40, struct.pack("<5Q", *frame))
    m.rsp = STACK0 - 40
    stop = go(m, "iretq")
    assert (stop.vector, stop.error, m.rsp) == (13, error, STACK0 - 40)


def test_iret_in_ring_3_changes_only_what_ring_3_may(m):
    """IOPL and IF stay as they were."""
    ring3(m)
    m.rflags = 0x202
    m.write(STACK3 - 40, struct.pack("<5Q", CODE + 2, U_CODE64, 0x3CD7, STACK3, U_DATA))
    m.rsp = STACK3 - 40
    assert go(m, "iretq; nop", count=1).reason is Reason.BUDGET
    assert m.rip == CODE + 2 and m.rflags == 0x0ED7


# -- system calls ----------------------------------------------------------------------------------------------------------
def test_syscall_and_sysret(m):
    """STAR, LSTAR, FMASK; RCX and R11 hold RIP and RFLAGS; SYSRET goes back to ring 3."""
    m.write(CODE + 0x100, assemble("mov rbx, rcx; mov dx, cs; mov si, ss; pushfq; pop rdi; sysretq"))
    setup = f"""mov ecx, 0xc0000081; xor eax, eax; mov edx, {(U_CODE32 | 3) << 16 | K_CODE}; wrmsr
        mov ecx, 0xc0000082; mov eax, {CODE + 0x100}; xor edx, edx; wrmsr
        mov ecx, 0xc0000084; mov eax, 0x200; wrmsr"""
    assert go(m, setup).reason is Reason.UNTIL
    ring3(m)
    m.rflags = 0x203
    assert go(m, "syscall; mov bp, cs").reason is Reason.UNTIL
    assert (m.rbx, m.rdx & 0xFFFF, m.rsi & 0xFFFF, m.rdi) == (CODE + 2, K_CODE, K_DATA, 3)
    assert (m.rbp & 0xFFFF, m.cpu.segment("ss")[0], m.rflags, m.cpu.cpl) == (U_CODE64, U_DATA, 0x203, 3)


def test_sysret_to_nowhere_faults_in_ring_0(m):
    """A return address that is not canonical is #GP(0) before the ring changes (Intel)."""
    m.rcx = 1 << 63
    assert go(m, "sysretq").vector == 13 and m.cpu.cpl == 0


@pytest.mark.parametrize("mask, stepped", [(0, True), (0x100, False)])
def test_syscall_is_stepped_by_the_tf_it_leaves(m, mask, stepped):
    """No #DB in the kernel behind SYSCALL when IA32_FMASK clears TF; without that, behind SYSCALL itself."""
    set_idt(m, 1, CODE + 0x200)
    m.write(CODE + 0x100, assemble("inc r14; hlt"))
    m.write(CODE + 0x200, assemble("mov r15, [rsp]; mov rax, dr6; hlt"))
    setup = "".join(f"mov ecx, {nr}; mov eax, {v & 0xffffffff}; mov edx, {v >> 32}; wrmsr;" for nr, v in (
        (0xC0000081, ((U_CODE32 | 3) << 16 | K_CODE) << 32), (0xC0000082, CODE + 0x100), (0xC0000084, mask)))
    assert go(m, setup).reason is Reason.UNTIL
    ring3(m)
    m.rflags = 0x102
    assert go(m, "syscall; nop").reason is Reason.HLT
    assert (m.r14, m.r15) == ((0, CODE + 0x100) if stepped else (1, 0))


def test_sysret_is_stepped_by_the_tf_it_loads(m):
    """TF in R11: #DB at once in ring 3, before its first instruction; IRET would let one pass."""
    set_idt(m, 1, CODE + 0x200)
    m.write(CODE + 0x200, assemble("mov r15, [rsp]; mov rax, dr6; hlt"))
    setup = f"mov ecx, 0xc0000081; xor eax, eax; mov edx, {(U_CODE32 | 3) << 16 | K_CODE}; wrmsr; lea rcx, [rip + there]; mov r11, 0x102;"
    assert go(m, setup + "sysretq; there: inc r14; nop").reason is Reason.HLT
    assert (m.r14, m.r15, m.rax >> 14 & 1) == (0, m.rcx, 1)


def test_sysret_to_compatibility_mode(m):
    """Without REX.W: CS is STAR[63:48] | 3, 32-bit code, at ECX; of R11 only flags that exist are loaded, VM and RF never."""
    setup = f"mov ecx, 0xc0000081; xor eax, eax; mov edx, {(U_CODE32 | 3) << 16 | K_CODE}; wrmsr; mov rbx, 1 << 40; "
    m.rflags = 2
    text = "lea rcx, [rip + there]; add rcx, rbx; mov r11, -1 ^ 0x100; .byte 0x0f, 0x07; there: .code32; nop"
    assert go(m, setup + text).reason is Reason.UNTIL
    assert (m.cpu.segment("cs")[0], m.cpu.segment("ss")[0], m.cpu.cpl) == (U_CODE32, U_DATA, 3)
    assert m.rflags == 0x3C7ED7


@pytest.mark.parametrize("text", ["syscall", "sysretq"])
def test_syscall_needs_sce(m, text):
    """#UD with EFER.SCE clear."""
    m.cpu.efer &= ~1
    assert go(m, text).vector == 6


def test_sysret_leaves_ring_0_only(m):
    """#GP(0) in ring 3, which is looked at before RCX."""
    ring3(m)
    m.rcx = 1 << 63
    stop = go(m, "sysretq")
    assert (stop.vector, stop.error) == (13, 0)


def test_rdtscp_and_tsd(m):
    """RDTSCP gives TSC_AUX in ECX and clears the upper halves; CR4.TSD keeps ring 3 from both, RDPID not."""
    text = "mov ecx, 0xc0000103; mov eax, 99; xor edx, edx; wrmsr; mov rcx, -1; mov rax, -1; mov rdx, -1; rdtscp"
    assert go(m, text).reason is Reason.UNTIL
    assert m.rcx == 99 and m.rax >> 32 == m.rdx >> 32 == 0
    m.cpu.cr4 |= 4
    assert go(m, "rdtsc; rdtscp").reason is Reason.UNTIL
    ring3(m)
    assert go(m, "rdtsc").vector == 13 and go(m, "rdtscp").vector == 13 and go(m, "rdpid rax").reason is Reason.UNTIL


def test_swapgs_is_for_ring_0_of_64_bit_mode(m):
    """#UD outside 64-bit mode; KERNEL_GS_BASE and the GS base change places, the selector stays."""
    m.cpu.cr4 |= 1 << 16
    m.rax = 0x1000
    assert go(m, "wrgsbase rax; swapgs; rdgsbase rbx; swapgs; rdgsbase rcx").reason is Reason.UNTIL
    assert (m.rbx, m.rcx, m.cpu.segment("gs")[0]) == (0, 0x1000, 16)
    ring3(m, 32)
    assert go(m, ".byte 0x0f, 0x01, 0xf8", bits=32).vector == 6


def test_a_16_bit_tss_is_none_in_ia_32e_mode(m):
    """LTR of one is #GP(selector)."""
    m.write(GDT + TSS_SEL, struct.pack("<Q", descriptor(1, base=TSS, limit=0x67, flags=0, system=True)))
    stop = go(m, f"mov ax, {TSS_SEL}; ltr ax")
    assert (stop.vector, stop.error) == (13, TSS_SEL)


@pytest.mark.parametrize("ist", [0, 3])
def test_stacks_of_interrupts_in_64_bit_mode(m, ist):
    """The stack is aligned to 16 bytes and SS:RSP pushed, whatever the ring; an IST entry is taken from the TSS."""
    m.write(TSS + 28 + 8 * 3, struct.pack("<Q", STACK0 - 0x100 + 9))
    low, high = gate(14, K_CODE, CODE + 0x100)
    m.write(IDT + 16 * 6, struct.pack("<QQ", low | ist << 32, high))
    m.cpu.set_table("idtr", IDT, 0x80F)
    m.write(CODE + 0x100, assemble("mov rbx, rsp; hlt"))
    m.rsp = STACK0 - 5
    assert go(m, "ud2").reason is Reason.HLT
    assert m.rbx == (STACK0 - 0x100 if ist else STACK0 - 16) - 40
    assert struct.unpack("<5Q", m.read(m.rbx, 40))[3:] == (STACK0 - 5, m.cpu.segment("ss")[0])


@pytest.mark.parametrize("text", ["sgdt [rsp - 16]", "sidt [rsp - 16]", "sldt ax", "str ax", "smsw ax"])
def test_umip(m, text):
    """CR4.UMIP keeps the addresses and selectors of the system from rings 1 to 3: #GP(0)."""
    m.cpu.cr4 |= 1 << 11
    assert go(m, text).reason is Reason.UNTIL
    ring3(m)
    stop = go(m, text)
    assert (stop.vector, stop.error) == (13, 0)
    m.cpu.cr4 &= ~(1 << 11)
    assert go(m, text).reason is Reason.UNTIL


@pytest.mark.parametrize("engine", ["interpreter", "auto"])
@pytest.mark.parametrize("text, at", [("sti; inc rdx; inc rdx", 4), ("pushfq; or dword ptr [rsp], 0x200; popfq; inc rdx", 9)])
def test_interrupts_come_through_the_window(m, engine, text, at):
    """In a loop that opens the window for an interrupt in each round, every one is taken at the first place there is, in every tier."""
    set_idt(m, 0x20, CODE + 0x200)
    m.write(CODE + 0x200, assemble("mov rbx, [rsp]; out 0x80, al; iretq"))
    m.cpu.exact, m.cpu.engine, m.cpu.hot_after = False, engine, 1
    m.write(CODE, assemble(f"again: cli; {text}; jmp again", 64, CODE))
    m.rip, m.rflags = CODE, 2
    m.cpu.run(1000)
    for _ in range(50):
        assert m.cpu.interrupt(0x20)
        assert m.run(100000).reason is Reason.PIO
        assert m.rbx == CODE + 1 + at


HOT = {  # what turns on what, in a loop that is translated by then; where it is seen, from the label there; the vector
    "single step": ("pushfq; or dword ptr [rsp], 0x100; popfq; there: nop; nop", 1, 1),
    "a breakpoint on data": (f"mov rax, {DATA}; mov dr0, rax; mov eax, 0x10001; mov dr7, rax; there: mov [{DATA}], al; nop", 7, 1),
    "a breakpoint on code": ("lea rax, [rip + there]; mov dr0, rax; mov eax, 1; mov dr7, rax; nop; there: nop", 0, 1),
    "alignment": (f"pushfq; or dword ptr [rsp], 0x40000; popfq; there: mov eax, [{DATA} + 1]", 0, 17),
}


@pytest.mark.parametrize("engine", ["interpreter", "auto"])
@pytest.mark.parametrize("what", HOT)
def test_debug_exceptions_in_hot_code(m, what, engine):
    """#DB and #AC come at the same instruction in every tier, when they are turned on in code that has run a hundred times without."""
    text, offset, vector = HOT[what]
    set_idt(m, vector, CODE + 0x200)
    m.write(CODE + 0x200, assemble(f"{'pop rbp; ' if vector == 17 else ''}mov rbx, [rsp]; hlt"))
    m.cpu.exact, m.cpu.engine, m.cpu.hot_after = False, engine, 1
    m.cpu.cr0 |= 1 << 18
    if vector == 17:
        ring3(m)
    loop = f"mov ecx, 100; again: mov [{DATA} + 1], ecx; nop; nop; nop; dec ecx; jnz again; "
    m.write(CODE, assemble(f"{loop} {text}; jmp again; lea rdx, [rip + there]", 64, CODE))
    m.rip = CODE
    there = CODE + len(assemble(f"{loop} {text.split('there:')[0]}; there: again2:", 64, CODE))
    assert m.run(100000).reason is Reason.HLT
    assert m.rbx == there + offset and m.rcx == 0


def test_syscall_is_for_64_bit_mode(m):
    """In compatibility mode SYSCALL is #UD on Intel processors."""
    ring3(m, 32)
    assert go(m, ".byte 0x0f, 0x05", bits=32).vector == 6


def test_sysenter_and_sysexit(m):
    """The SYSENTER MSRs give CS, RSP and RIP; SYSEXIT takes RIP and RSP from RDX and RCX."""
    m.write(CODE + 0x100, assemble("mov rbx, rsp; mov si, ss; mov rdx, rdi; mov rcx, rbp; rex.w sysexit"))
    msrs = ((0x174, K_CODE), (0x175, STACK0), (0x176, CODE + 0x100))
    setup = "".join(f"mov ecx, {nr}; mov eax, {v}; xor edx, edx; wrmsr;" for nr, v in msrs)
    assert go(m, setup).reason is Reason.UNTIL
    ring3(m)
    m.rdi, m.rbp = CODE + 2, STACK3
    stop = go(m, "sysenter; mov ax, cs")
    assert stop.reason is Reason.UNTIL and m.rbx == STACK0 and m.rsi & 0xFFFF == K_DATA
    assert (m.rax & 0xFFFF, m.cpu.segment("ss")[0], m.rsp) == (K_CODE + 32 | 3, K_CODE + 40 | 3, STACK3)


# -- system registers ------------------------------------------------------------------------------------------------------
def test_unknown_msrs_are_remembered(m):
    """RDMSR and WRMSR of a register that does not exist: #GP(0), once in the log."""
    assert go(m, "mov ecx, 0x12345; rdmsr").vector == 13
    assert go(m, "mov ecx, 0x12346; wrmsr").vector == 13
    assert m.cpu.unknown() == [("rdmsr", 0x12345), ("wrmsr", 0x12346)]


def test_fs_base_by_msr_and_by_instruction(m):
    """FS base counts in 64-bit mode at once; an address that is not canonical is #GP."""
    m.write(DATA + 8, b"\x2a")
    assert go(m, f"mov ecx, 0xc0000100; mov eax, {DATA}; xor edx, edx; wrmsr; mov bl, fs:[8]").reason is Reason.UNTIL
    assert m.rbx & 0xFF == 0x2A
    assert go(m, "rdfsbase rax").vector == 6                               # CR4.FSGSBASE
    m.cpu.cr4 |= 1 << 16
    assert go(m, "rdfsbase rax; wrgsbase rax; rdgsbase rdx; swapgs; rdgsbase rsi").reason is Reason.UNTIL
    assert (m.rax, m.rdx, m.rsi) == (DATA, DATA, 0)
    m.rax = 1 << 63
    assert go(m, "wrfsbase rax").vector == 13
    assert go(m, "mov ecx, 0xc0000100; mov edx, 0x80000000; wrmsr").vector == 13


@pytest.mark.parametrize("text", [
    "mov rax, cr0; btc eax, 31; mov cr0, rax", "mov eax, 0x80000000; mov cr0, rax", "mov rax, cr4; btc eax, 5; mov cr4, rax",
    "mov eax, 0x80000; mov cr4, rax", "mov eax, 16; mov cr8, rax", "mov rax, 1 << 63; mov cr3, rax", "mov rax, 1 << 32; mov dr7, rax",
    "mov ecx, 0xc0000080; rdmsr; btc eax, 8; wrmsr", "mov ecx, 0x277; mov eax, 2; xor edx, edx; wrmsr",
])
def test_impossible_control_register_values_are_refused(m, text):
    """PG off in 64-bit mode, PG without PE, PAE off in IA-32e mode, reserved bits, LME with paging on, a wrong PAT: #GP(0)."""
    stop = go(m, text)
    assert (stop.vector, stop.error) == (13, 0)


@pytest.mark.parametrize("text", [
    "mov rax, cr0", "mov cr3, rax", "mov rax, dr7", "hlt", "wrmsr", "rdmsr", "lgdt [rsp]", "lidt [rsp]", "lldt ax", "ltr ax", "lmsw ax",
    "clts", "invlpg [rsp]", "invd", "wbinvd", "swapgs", "sysretq", "cli", "sti", "in al, dx", "out 0x80, al", "rdpmc",
])
def test_ring_3_may_not(m, text):
    """Privileged instructions, and those IOPL guards, are #GP(0) in ring 3."""
    ring3(m)
    m.rdx = 0x3F8
    stop = go(m, text)
    assert (stop.reason, stop.vector, stop.error) == (Reason.EXCEPTION, 13, 0)


def test_descriptor_table_registers(m):
    """SGDT stores what LGDT loads; LTR marks the TSS busy and refuses one that is; LLDT and an LDT selector."""
    assert go(m, f"sgdt [{DATA}]; lidt [{DATA}]; sidt [{DATA} + 16]").reason is Reason.UNTIL
    assert m.read(DATA, 10) == m.read(DATA + 16, 10) == struct.pack("<HQ", 0x8F, GDT)
    m.cpu.set_table("idtr", 0, 0)
    assert go(m, f"mov ax, {TSS_SEL}; ltr ax; str bx").reason is Reason.UNTIL and m.rbx & 0xFFFF == TSS_SEL
    assert go(m, "ltr ax").error == TSS_SEL
    m.write(DATA, struct.pack("<QQ", TABLE[K_DATA], TABLE[READ_ONLY]))
    assert go(m, f"mov ax, {LDT_SEL}; lldt ax; mov ax, 4; mov ds, ax; mov ax, 0xf; mov fs, ax; sldt bx").reason is Reason.UNTIL
    assert m.cpu.segment("fs")[1] == 0x12345678 and m.rbx & 0xFFFF == LDT_SEL
    assert go(m, "mov ax, 0x14; mov ds, ax").error == 0x14


# -- ports -----------------------------------------------------------------------------------------------------------------
def test_ports_leave_the_machine(m):
    """IN and OUT end run() with what they want; the answer goes to AL, AX or EAX."""
    stop = go(m, "mov dx, 0x3f8; mov al, 0x41; out dx, al; in eax, dx; in al, 0x60; nop")
    assert (stop.reason, stop.port, stop.size, stop.is_write, stop.value) == (Reason.PIO, 0x3F8, 1, True, 0x41)
    stop = m.run()
    assert (stop.port, stop.size, stop.is_write) == (0x3F8, 4, False)
    m.cpu.pio_return(0x12345678)
    stop = m.run()
    assert m.rax == 0x12345678 and (stop.port, stop.size) == (0x60, 1)
    m.cpu.pio_return(0xAB)
    assert m.rax == 0x123456AB


def test_string_ports(m):
    """REP OUTS and REP INS exit for every element."""
    m.write(DATA, b"xy")
    stop = go(m, f"mov esi, {DATA}; mov edi, {DATA} + 16; mov ecx, 2; mov dx, 7; rep outsb; mov ecx, 2; rep insw; nop")
    seen = [stop.value]
    seen.append(m.run().value)
    for value in (0x1111, 0x2222):
        stop = m.run()
        assert (stop.size, stop.is_write) == (2, False)
        m.cpu.pio_return(value)
    assert m.run(until=m.rip + 1).reason is Reason.UNTIL
    assert bytes(seen) == b"xy" and m.read(DATA + 16, 4) == b"\x11\x11\x22\x22" and m.rcx == 0


def test_the_permission_bitmap_of_the_tss(m):
    """Ring 3 may use the ports whose bits are clear."""
    m.write(TSS + 0x68, bytes([0xFE]) + b"\xff" * 0x1F)
    ring3(m)
    assert go(m, "in al, 0").reason is Reason.PIO
    assert go(m, "in al, 1").vector == 13
    assert go(m, "in ax, 0").vector == 13


# -- from reset to 64-bit mode ---------------------------------------------------------------------------------------------
def test_from_real_mode_to_64_bit_mode():
    """What a boot loader does: GDT, PE, 32-bit code, PAE, page tables, LME, PG, a far jump to 64-bit code."""
    m = Machine(memory=1 << 20, mode=16)
    m.map(0, 0x20000)
    m.write(0x2000, struct.pack("<4Q", 0, descriptor(10), descriptor(2), descriptor(10, flags=0xA)))
    m.write(0x2100, struct.pack("<HI", 31, 0x2000))
    m.write(0x3000, struct.pack("<Q", 0x4003))
    m.write(0x4000, struct.pack("<Q", 0x5003))
    m.write(0x5000, struct.pack("<Q", 0x83))                               # 2 MiB page
    text = """
        .code16; xor ax, ax; mov ds, ax; lgdt [0x2100]; mov eax, cr0; or al, 1; mov cr0, eax; jmp 8:protected
        .code32; protected: mov ax, 0x10; mov ds, ax; mov ss, ax; mov esp, 0x9000
        mov eax, 0x20; mov cr4, eax; mov eax, 0x3000; mov cr3, eax
        mov ecx, 0xc0000080; rdmsr; or eax, 0x100; wrmsr; mov eax, cr0; or eax, 0x80000000; mov cr0, eax
        jmp 0x18:long
        .code64; long: mov rax, 0x1122334455667788; push rax; pop r15; mov ecx, 0xc0000080; rdmsr; hlt"""
    text = text.replace("jmp 8:protected", ".byte 0x66, 0xea; .long protected; .word 8")
    text = text.replace("jmp 0x18:long", ".byte 0xea; .long long; .word 24")
    m.write(0x1000, assemble(text, 64, 0x1000))
    m.rip = 0x1000
    assert m.run(1000).reason is Reason.HLT
    assert m.r15 == 0x1122334455667788 and m.rax == 0x500 and m.cpu.segment("cs")[0] == 0x18


# -- CPUID -----------------------------------------------------------------------------------------------------------------
def test_cpuid(m):
    """Vendor, family, features by name; a feature can be hidden; nothing of Xen on a bare machine."""
    go(m, "xor eax, eax; cpuid")
    assert struct.pack("<3I", m.rbx, m.rdx, m.rcx) == b"GenuineIntel"
    assert m.cpu.cpuid(1)[2] >> 23 & 1                                     # POPCNT
    m.cpu.set_cpuid("popcnt", False)
    assert not m.cpu.cpuid(1)[2] >> 23 & 1
    assert m.cpu.cpuid(0x40000000) == (0, 0, 0, 0) and not m.cpu.cpuid(1)[2] >> 31
