"""The local APIC: timer, priorities, messages between processors, modes; after SDM Vol. 3, ch. 8.4 and 10."""

import struct

import pytest

from tests.cpu.asm import assemble
from xenfast import _core
from xenfast.machine import Machine, Reason

CODE, TABLES, STACK, DATA = 0x10000, 0x20000, 0x41000, 0x50000
GDT, IDT = TABLES, TABLES + 0x1000
AP_FRAME, AP_DATA = 0xC0, 0xC1                  # frames of an application processor, below 1 MiB: SIPI vector C0h
ID, VERSION, TPR, PPR, EOI, LDR, DFR, SVR, ESR, ICR, ICR2 = (
    0x20, 0x30, 0x80, 0xA0, 0xB0, 0xD0, 0xE0, 0xF0, 0x280, 0x300, 0x310)
TIMER, LINT0, ERROR, INITIAL, CURRENT, DIVIDE = 0x320, 0x350, 0x370, 0x380, 0x390, 0x3E0

# Handlers: each appends its vector to the log at DATA (count in r15) and ends the interrupt.
PRELUDE = "\n".join(f"""
    .org {0x400 + 0x40 * i}
    push rax
    mov byte ptr [{DATA} + r15], {vector}
    inc r15
    mov dword ptr [rbx + {EOI}], 0
    pop rax
    iretq""" for i, vector in enumerate((0x31, 0x41, 0x51, 0xEE)))
HANDLERS = {vector: CODE + 0x400 + 0x40 * i for i, vector in enumerate((0x31, 0x41, 0x51, 0xEE))}
ENABLE = f"mov dword ptr [rbx + {SVR}], 0x1FF"
CODE64, DATA64 = 0x00AF9B000000FFFF, 0x00CF93000000FFFF


def gate(offset: int) -> bytes:
    return struct.pack("<QQ", offset & 0xFFFF | 8 << 16 | 0x8E << 40 | (offset >> 16 & 0xFFFF) << 48, offset >> 32)


@pytest.fixture
def m():
    """64-bit mode in virtual time, with an IDT whose vectors 31h, 41h, 51h and EEh log themselves."""
    machine = Machine(memory=1 << 20, lapic=True, virtual=True)
    for page in (CODE, GDT, IDT, STACK - 0x1000, DATA):
        machine.map(page, 0x1000)
    machine.write(GDT, struct.pack("<QQQ", 0, CODE64, DATA64))
    for vector, handler in HANDLERS.items():
        machine.write(IDT + 16 * vector, gate(handler))
    machine.cpu.set_table("gdtr", GDT, 23)
    machine.cpu.set_table("idtr", IDT, 0xFFF)
    machine.rsp, machine.rbx = STACK, 0xFEE00000
    return machine


def go(m: Machine, text: str, count: int = 10000):
    """Run 64-bit assembly, which ends in HLT with interrupts off or in a fault."""
    code = assemble(f"{text}\n cli\n hlt\n{PRELUDE}\n", 64, CODE)
    m.write(CODE, code)
    m.rip, m.r15 = CODE, 0
    return m.run(count)


def log(m: Machine) -> bytes:
    return m.read(DATA, m.r15)


def reg(offset: int, value: int) -> str:
    return f"mov dword ptr [rbx + {offset}], {value}\n"


# ---- registers -------------------------------------------------------------------------------------------------------
def test_after_reset(m):
    """The table of reset values: software disabled, everything masked, version 14h with 6 entries (10.4.7.1)."""
    regs = {SVR: 0xFF, DFR: 0xFFFFFFFF, LDR: 0, ID: 0, VERSION: 0x50014, TPR: 0, TIMER: 0x10000, LINT0: 0x10000, ERROR: 0x10000}
    for offset, value in regs.items():
        go(m, f"mov eax, [rbx + {offset}]")
        assert m.rax == value, hex(offset)


def test_a_machine_without_one():
    """Without lapic=True CPUID has no APIC, and its page is device memory as before."""
    m = Machine(memory=1 << 20)
    assert not {"apic", "x2apic", "tsc_deadline"} & m.cpu.features()
    assert m.cpu.cpuid(1)[3] >> 9 & 1 == 0
    m = Machine(memory=1 << 20, lapic=True)
    assert {"apic", "x2apic", "tsc_deadline"} <= m.cpu.features() and m.cpu.cpuid(1)[3] >> 9 & 1


def test_software_disabled_masks_entries(m):
    """While SVR bit 8 is clear, LVT entries are masked and cannot be unmasked (10.4.7.2)."""
    go(m, f"{ENABLE}\n {reg(TIMER, 0x41)} {reg(SVR, 0xFF)} {reg(LINT0, 0x700)} mov eax, [rbx + {TIMER}]\n mov ecx, [rbx + {LINT0}]")
    assert (m.rax, m.rcx) == (0x10041, 0x10700)


# ---- the timer -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("divide", "by"), [(0xB, 1), (0, 2), (3, 16), (0xA, 128)])
def test_one_shot(m, divide, by):
    """A one-shot count ends after count x divisor x 10 ns, once; HLT wakes for it, and in virtual time waiting costs nothing."""
    stop = go(m, f"{ENABLE}\n {reg(DIVIDE, divide)} {reg(TIMER, 0x41)} sti\n {reg(INITIAL, 1000)} hlt\n nop\n mov ecx, [rbx + {CURRENT}]")
    assert stop.reason is Reason.HLT and log(m) == b"\x41" and m.rcx == 0
    assert 10000 * by <= m.clock.now() < 10000 * by + 100


def test_periodic(m):
    """A periodic timer fires again and again, at exact intervals; the current count goes down in between."""
    text = f"""{ENABLE}
        {reg(DIVIDE, 0xB)} {reg(TIMER, 0x20041)} {reg(INITIAL, 100)}
        mov eax, [rbx + {CURRENT}]
        sti
    1:  cmp r15, 5
        jb 1b"""
    go(m, text, 100000)
    assert log(m) == b"\x41" * 5 and 90 <= m.rax <= 100
    assert 5000 <= m.clock.now() < 5200


def test_tsc_deadline(m):
    """In TSC-deadline mode the interrupt comes when the TSC gets there; the MSR then reads 0; 0 disarms (10.5.4.1)."""
    text = f"""{ENABLE}
        {reg(TIMER, 0x40041)} mov ecx, 0x10
        rdmsr
        add eax, 5000
        mov ecx, 0x6E0
        wrmsr
        rdmsr
        mov r8d, eax
        sti
        hlt
        cli
        rdmsr
        mov r9d, eax"""
    go(m, text)
    assert log(m) == b"\x41" and m.r8 > 5000 and m.r9 == 0 and 5000 <= m.clock.now() < 5200
    go(m, f"{ENABLE}\n {reg(TIMER, 0x41)} mov ecx, 0x6E0\n xor edx, edx\n mov eax, -1\n wrmsr\n rdmsr\n mov r8d, eax")
    assert m.r8 == 0                            # ignored in another mode


def test_a_masked_timer_counts_in_silence(m):
    """A masked timer reaches 0 and interrupts nobody; an HLT with interrupts off ends the run."""
    start = f"{reg(DIVIDE, 0xB)} {reg(TIMER, 0x10041)} {reg(INITIAL, 10)}"
    go(m, f"{ENABLE}\n {start} sti\n mov ecx, 300\n 1: loop 1b\n mov eax, [rbx + {CURRENT}]")
    assert log(m) == b"" and m.rax == 0


def test_timer_in_real_time():
    """By the host's clock, HLT sleeps until the timer fires."""
    m = Machine(memory=1 << 20, lapic=True)
    m.map(CODE, 0x1000)
    m.rbx = 0xFEE00000
    m.cpu.set_table("idtr", 0, 0)
    m.write(CODE, assemble(f"{ENABLE}\n {reg(DIVIDE, 0xB)} {reg(TIMER, 0x41)} {reg(INITIAL, 100000)} sti\n hlt", 64, CODE))
    m.rip = CODE
    stop = m.run()
    assert stop.reason is Reason.EXCEPTION and stop.vector == 0x41 and m.clock.now() >= 1_000_000


# ---- priorities ------------------------------------------------------------------------------------------------------
def test_the_highest_vector_first(m):
    """Of several pending interrupts the highest is taken first (10.8.3)."""
    go(m, ENABLE + "\n" + "".join(reg(ICR, 0x40000 | v) for v in (0x31, 0x51, 0x41)) + "sti\n nop\n nop\n nop")
    assert log(m) == b"\x51\x41\x31"


@pytest.mark.parametrize("how", ["mmio", "cr8"])
def test_tpr_holds_off_its_class_and_below(m, how):
    """Vectors of a class at or below TPR's wait until it is lowered; CR8 is TPR shifted by 4 (10.8.6)."""
    set_tpr = (lambda v: reg(TPR, v)) if how == "mmio" else (lambda v: f"mov eax, {v >> 4}\n mov cr8, rax\n")
    send = "".join(reg(ICR, 0x40000 | v) for v in (0x31, 0x51, 0x41))
    look = f"mov r14, r15\n mov rcx, cr8\n mov edx, [rbx + {PPR}]"
    go(m, f"{ENABLE}\n {set_tpr(0x40)} sti\n {send} nop\n {look}\n {set_tpr(0)} nop\n nop\n nop")
    assert m.r14 == 1 and log(m) == b"\x51\x41\x31" and m.rcx == 4 and m.rdx == 0x40


def test_an_interrupt_in_service_holds_off_its_class(m):
    """Until EOI, PPR is the class of what is in service: lower ones wait, higher ones nest (10.8.4)."""
    m.write(IDT + 16 * 0x42, gate(CODE + 0x300))
    text = f"""{ENABLE}
        sti
        {reg(ICR, 0x40042)}
        nop
        jmp 9f
        .org 0x300
        mov byte ptr [{DATA} + r15], 1
        inc r15
        sti
        {reg(ICR, 0x40031)} {reg(ICR, 0x40051)}
        nop
        mov byte ptr [{DATA} + r15], 2
        inc r15
        mov dword ptr [rbx + {EOI}], 0
        iretq
    9:  nop"""
    go(m, text)
    assert log(m) == b"\x01\x51\x02\x31" or log(m) == b"\x01\x51\x31\x02"


def test_the_shadow_of_sti(m):
    """An interrupt waits for the instruction behind STI; STI CLI takes none."""
    go(m, f"{ENABLE}\n {reg(ICR, 0x40041)} sti\n cli\n mov r14, r15\n sti\n mov r13, r15\n nop")
    assert m.r14 == 0 and m.r13 == 0 and log(m) == b"\x41"


def test_errors(m):
    """Illegal vectors and registers are in ESR after a write to it, and raise the error interrupt (10.5.3)."""
    go(m, f"{ENABLE}\n {reg(ERROR, 0xEE)} sti\n {reg(ICR, 0x40005)} nop\n mov eax, [rbx + 0x3F0]\n {reg(ESR, 0)} mov eax, [rbx + {ESR}]")
    assert m.rax == 0xA0 and log(m) == b"\xee\xee"


# ---- pins ------------------------------------------------------------------------------------------------------------
def test_extint(m):
    """INTR of a PIC comes through LINT0 in ExtINT mode: run() asks for the vector, which is then taken."""
    m.write(CODE, assemble(f"{ENABLE}\n {reg(LINT0, 0x700)} sti\n 1: jmp 1b\n {PRELUDE}", 64, CODE))
    m.rip, m.r15 = CODE, 0
    assert m.run(100).reason is Reason.BUDGET
    m.cpu.lint(0)
    assert m.run(100).reason is Reason.INTACK
    m.cpu.lint(0, False)
    m.cpu.interrupt(0x51)
    assert m.run(100).reason is Reason.BUDGET and log(m) == b"\x51"


def test_level_triggered(m):
    """The EOI of a level-triggered interrupt is told to the machine, for its I/O APIC."""
    m.apics.send(0, 0x41, level=True)
    stop = go(m, f"{ENABLE}\n sti\n nop\n nop")
    assert stop.reason is Reason.EOI and stop.vector == 0x41 and m.run(100).reason is Reason.HLT and log(m) == b"\x41"


# ---- messages between processors -------------------------------------------------------------------------------------
def ap(m: Machine, code: str) -> "_core.Vcpu":
    """An application processor that waits for SIPI, with real-mode code at C0000h."""
    second = _core.Vcpu(m.memory, m.physmap, m.clock)
    second.exact = True
    second.attach_lapic(m.apics, 1, bsp=False)
    m.memory.view(AP_FRAME)[:] = bytes(4096)
    image = assemble(code, 16, 0)
    m.memory.view(AP_FRAME)[:len(image)] = image
    return second


START = f"{reg(ICR2, 1 << 24)} {reg(ICR, 0x4500)} {reg(ICR, 0x4600 | AP_FRAME)}"
AP_CODE = f"mov ax, {AP_DATA << 8}\n mov ds, ax\n mov byte ptr [0], 0x77\n 1: hlt\n jmp 1b"


def test_init_and_sipi_start_a_processor(m):
    """A processor after INIT runs nothing until SIPI, then real-mode code at vector x 4096 (8.4.4)."""
    second = ap(m, AP_CODE)
    assert second.run(1000) == Reason.HLT and second.halted == 2 and second.instructions == 0
    go(m, f"{ENABLE}\n {START}")
    assert second.run(1000) == Reason.HLT and m.memory.view(AP_DATA)[0] == 0x77 and second.segment("cs")[0] == AP_FRAME << 8
    ran = second.instructions
    go(m, f"{ENABLE}\n {reg(ICR2, 1 << 24)} {reg(ICR, 0x4600 | AP_FRAME)}")
    assert second.run(1000) == Reason.HLT and second.instructions == ran      # SIPI means nothing to one that has started
    go(m, f"{ENABLE}\n {START}")
    m.memory.view(AP_DATA)[0] = 0
    assert second.run(1000) == Reason.HLT and m.memory.view(AP_DATA)[0] == 0x77       # INIT stops it, SIPI starts it again


def test_a_sipi_before_init_is_lost(m):
    """The second of two SIPIs may come when the processor is in HLT already: the next INIT has it wait for a new one all the same."""
    second = ap(m, AP_CODE)
    go(m, f"{ENABLE}\n {START}")
    assert second.run(1000) == Reason.HLT
    ran = second.instructions
    go(m, f"{ENABLE}\n {reg(ICR2, 1 << 24)} {reg(ICR, 0x4600 | AP_FRAME)} {reg(ICR, 0x4500)}")
    assert second.run(1000) == Reason.HLT and second.halted == 2 and second.instructions == ran


def test_who_sends_to_a_sleeper_leaves_run(m):
    """run() of the sender ends with WAKE, so that whoever runs vcpus runs the sleeper; a Machine goes on by itself."""
    second = ap(m, AP_CODE)
    m.write(CODE, assemble(f"{ENABLE}\n {reg(ICR2, 1 << 24)} {reg(ICR, 0x46C0)} hlt", 64, CODE))
    m.rip = CODE
    m.cpu.until = None
    assert m.cpu.run(100) == Reason.WAKE and m.cpu.run(100) == Reason.HLT and second.halted == 2


def test_ipi_and_nmi_between_processors(m):
    """A fixed IPI wakes the other processor from HLT when IF is set; an NMI does so always."""
    # real-mode vectors live at address 0: the handlers log at DS:1 and on
    code = f"""mov ax, {AP_DATA << 8}
        mov ds, ax
        mov ss, ax
        mov sp, 0x800
        mov byte ptr [0], 0x77
        sti
    1:  hlt
        jmp 1b
        .org 0x100
        inc byte ptr [1]
        iret
        .org 0x140
        inc byte ptr [2]
        iret"""
    second = ap(m, code)
    m.memory.view(0)[4 * 0x41:4 * 0x41 + 4] = struct.pack("<HH", 0x100, AP_FRAME << 8)
    m.memory.view(0)[8:12] = struct.pack("<HH", 0x140, AP_FRAME << 8)
    go(m, f"{ENABLE}\n {START}")
    assert second.run(1000) == Reason.HLT
    # the application processor's APIC is still software disabled: a fixed interrupt waits there, an NMI does not
    go(m, f"{ENABLE}\n {reg(ICR2, 1 << 24)} {reg(ICR, 0x41)} {reg(ICR, 0x400)}")
    assert second.run(1000) == Reason.HLT
    assert list(m.memory.view(AP_DATA)[:3]) == [0x77, 0, 1]


@pytest.mark.parametrize(("dest", "logical", "who"), [
    (0, False, {0}), (2, False, {2}), (7, False, set()), (0xFF, False, {0, 1, 2}),
    (0x01, True, {0}), (0x05, True, {0}), (0x02, True, set()), (0xFF, True, {0, 1, 2}),
])  # fmt: skip
def test_destinations(m, dest, logical, who):
    """Physical and flat logical destinations, and the broadcast (10.6.2); only the first APIC here has a logical ID."""
    cpus = [m.cpu, ap(m, AP_CODE), _core.Vcpu(m.memory, m.physmap, m.clock)]
    cpus[2].attach_lapic(m.apics, 2, bsp=False)
    go(m, reg(LDR, 1 << 24))
    m.apics.send(dest, 0x61, logical=logical)
    assert {i for i, cpu in enumerate(cpus) if cpu.lapic_register(0x23) >> 1 & 1} == who


def test_lowest_priority_goes_round(m):
    """Lowest priority delivery takes the processor with the lowest TPR, and among equals each in turn (10.6.2.4)."""
    second = ap(m, AP_CODE)
    for vector in (0x61, 0x62):
        m.apics.send(0xFF, vector, mode=1)
    assert [cpu.lapic_register(0x23) for cpu in (m.cpu, second)] in ([2, 4], [4, 2])
    go(m, reg(TPR, 0x80))
    for vector in (0x63, 0x64):
        m.apics.send(0xFF, vector, mode=1)
    assert second.lapic_register(0x23) & 0x18 == 0x18


# ---- x2APIC ----------------------------------------------------------------------------------------------------------
def set_base(value: int) -> str:
    return f"mov ecx, 0x1B\n mov eax, {0xFEE00100 | value}\n xor edx, edx\n wrmsr\n"


def msr(nr: int, value: int) -> str:
    return f"mov ecx, {nr}\n mov eax, {value & 0xFFFFFFFF}\n mov edx, {value >> 32}\n wrmsr\n"


@pytest.mark.parametrize(("steps", "legal"), [
    ((0xC00,), True), ((0x000,), True), ((0xC00, 0x000), True), ((0xC00, 0x000, 0x800), True), ((0x400,), False),
    ((0xC00, 0x800), False), ((0x000, 0xC00), False), ((0xC00, 0x400), False), ((0x801,), False),
])  # fmt: skip
def test_transitions_of_apic_base(m, steps, legal):
    """Off, xAPIC, x2APIC: only the transitions of figure 10-27 are allowed, the others are #GP; so are reserved bits."""
    m.cpu.set_table("idtr", 0, 0)
    stop = go(m, "".join(set_base(step) for step in steps))
    assert (stop.reason is Reason.HLT) == legal and (legal or stop.vector == 13)


@pytest.mark.parametrize(("text", "legal"), [
    ("mov ecx, 0x802\n rdmsr", True), ("mov ecx, 0x80B\n rdmsr", False), ("mov ecx, 0x80E\n rdmsr", False),
    ("mov ecx, 0x831\n rdmsr", False), ("mov ecx, 0x83F\n rdmsr", False), ("mov ecx, 0x8FF\n rdmsr", False),
    (msr(0x80B, 0), True), (msr(0x80B, 1), False), (msr(0x808, 0x20), True), (msr(0x808, 0x100), False), (msr(0x808, 1 << 32), False),
    (msr(0x802, 0), False), (msr(0x803, 0), False), (msr(0x80D, 0), False), (msr(0x828, 0), True), (msr(0x828, 1), False),
    (msr(0x83E, 0xB), True), (msr(0x83E, 4), False), (msr(0x83F, 0x141), False), (msr(0x832, 0x41), True),
    (msr(0x835, 0x5700), True), (msr(0x835, 0x800), False),
    (msr(0x830, 1 << 32 | 0x41), True),
])  # fmt: skip
def test_rules_of_x2apic_registers(m, text, legal):
    """Write-only and read-only registers, those that are no more, and reserved bits: #GP (10.12.1.2)."""
    m.cpu.set_table("idtr", 0, 0)
    stop = go(m, set_base(0xC00) + text)
    assert (stop.reason is Reason.HLT) == legal and (legal or stop.vector == 13)
    stop = go(m, text)
    assert m.cpu.cpuid(0)[0] >= 0xB and (stop.reason is Reason.HLT) == legal
    m.cpu.set_cpuid("x2apic", False)
    assert go(m, text).vector == 13


def test_x2apic_in_use(m):
    """Self-IPI, EOI, IDs and the logical ID that follows from them, through MSRs; memory is no longer the APIC's."""
    handler = assemble(f"mov byte ptr [{DATA} + r15], 0x61\n inc r15\n mov ecx, 0x80B\n xor eax, eax\n xor edx, edx\n wrmsr\n iretq", 64)
    m.write(CODE + 0x700, handler)
    m.write(IDT + 16 * 0x61, gate(CODE + 0x700))
    m.cpu.apic_id = 0x12
    code = assemble(f"{set_base(0xC00)} {msr(0x80F, 0x1FF)} sti\n {msr(0x83F, 0x61)} nop\n mov ecx, 0x802\n rdmsr\n mov r8d, eax\n"
                    f"mov ecx, 0x80D\n rdmsr\n mov r9d, eax\n {msr(0x830, 0x12 << 32 | 0x61)} nop\n cli\n hlt", 64, CODE)
    m.write(CODE, code)
    m.rip, m.r15 = CODE, 0
    assert m.run(1000).reason is Reason.HLT
    assert (m.r8, m.r9) == (0x12, 1 << 16 | 1 << 2) and log(m) == b"\x61\x61"
    m.write(CODE, assemble("mov eax, [rbx + 0x20]", 64, CODE))
    m.rip = CODE
    assert m.run(10).reason is Reason.MMIO


def test_x2apic_msrs_need_the_mode(m):
    """In xAPIC mode the x2APIC MSRs do not exist."""
    m.cpu.set_table("idtr", 0, 0)
    assert go(m, "mov ecx, 0x802\n rdmsr").vector == 13
