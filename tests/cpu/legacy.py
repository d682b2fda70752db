"""A machine in ring 0 of 32-bit protected mode, with a GDT, two tasks and no paging; and how to run assembly on it."""

import struct

from tests.cpu.asm import assemble
from xenfast.machine import Machine

CODE, OTHER, GDT, IDT, TSS0, TSS1 = 0x10000, 0x11000, 0x20000, 0x20800, 0x21000, 0x21800
STACK0, STACK1, STACK3, DATA = 0x32000, 0x34000, 0x36000, 0x40000
K_CODE, K_DATA, U_CODE, U_DATA, TR0, TR1, TASK_GATE, DOWN, GATE, SMALL = 8, 0x10, 0x1B, 0x23, 0x28, 0x30, 0x38, 0x40, 0x48, 0x50
VM, NT, TF, RF, IF, VIF, IOPL3 = 1 << 17, 1 << 14, 1 << 8, 1 << 16, 1 << 9, 1 << 19, 3 << 12


def descriptor(kind, dpl=0, base=0, limit=0xFFFFF, flags=0xC, system=False):
    """SDM Vol. 3, 3.4.5; flags are G D/B L AVL."""
    access = kind | (0 if system else 0x10) | dpl << 5 | 0x80
    return limit & 0xFFFF | (base & 0xFFFFFF) << 16 | access << 40 | (limit >> 16 & 15) << 48 | flags << 52 | (base >> 24 & 0xFF) << 56


def gate(kind, sel, offset=0, dpl=0, count=0):
    return offset & 0xFFFF | sel << 16 | count << 32 | (kind | dpl << 5 | 0x80) << 40 | (offset >> 16 & 0xFFFF) << 48


TABLE = {
    K_CODE: descriptor(10), K_DATA: descriptor(2), U_CODE: descriptor(10, 3), U_DATA: descriptor(2, 3),
    TR0: descriptor(11, base=TSS0, limit=0xFF, flags=0, system=True), TR1: descriptor(9, base=TSS1, limit=0x67, flags=0, system=True),
    TASK_GATE: gate(5, TR1), DOWN: descriptor(6, limit=0x40, flags=0xC), GATE: gate(12, K_CODE, OTHER, dpl=3, count=2),
    SMALL: descriptor(2, limit=0xFF, flags=4),
}


def protected():
    """Ring 0 of 32-bit protected mode with flat segments, two tasks and no paging."""
    machine = Machine(memory=1 << 20, mode=16)
    machine.map(0, 1 << 20)
    for sel, value in TABLE.items():
        machine.write(GDT + (sel & ~7), struct.pack("<Q", value))
    cpu = machine.cpu
    cpu.cr0 = 0x11
    cpu.set_table("gdtr", GDT, 0x7F)
    cpu.set_table("idtr", 0, 0)
    cpu.set_segment("cs", K_CODE, 0, 0xFFFFFFFF, 0xC09B)
    for name in ("ss", "ds", "es", "fs", "gs"):
        cpu.set_segment(name, K_DATA, 0, 0xFFFFFFFF, 0xC093)
    cpu.set_segment("tr", TR0, TSS0, 0xFF, 0x8B)
    cpu.set_segment("ldtr", 0, 0, 0, 0)
    machine.write(TSS0 + 4, struct.pack("<II", STACK0, K_DATA))
    machine.write(TSS0 + 0x66, struct.pack("<H", 0x88))
    machine.rsp = STACK0
    return machine


def ring3(m):
    m.cpu.set_segment("cs", U_CODE, 0, 0xFFFFFFFF, 0xC0FB)
    for name in ("ss", "ds", "es"):
        m.cpu.set_segment(name, U_DATA, 0, 0xFFFFFFFF, 0xC0F3)
    m.cpu.cpl = 3
    m.rsp = STACK3


def new_task(m, eip=OTHER, flags=2, cs=K_CODE, ss=K_DATA, ds=K_DATA, eax=0x1234):
    """Fill TSS1 with a task."""
    m.write(TSS1 + 4, struct.pack("<II", STACK1, K_DATA))
    m.write(TSS1 + 0x20, struct.pack("<10I", eip, flags, eax, 0, 0, 0, STACK1, 0, 0, 0))
    m.write(TSS1 + 0x48, struct.pack("<6I", K_DATA, cs, ss, ds, 0, 0))


def word(m, address, size=4):
    return int.from_bytes(m.read(address, size), "little")


def set_idt(m, vector, value):
    m.write(IDT + 8 * vector, struct.pack("<Q", value))
    m.cpu.set_table("idtr", IDT, 0x1FF)


def go(m, text, other="hlt", count=200, bits=32):
    """Run assembly at CODE, with more of it at OTHER, until HLT or until something else ends the run."""
    m.write(CODE, assemble(text + "\nhlt", bits, CODE))
    m.write(OTHER, assemble(other, 32, OTHER))
    m.rip = CODE
    return m.run(count)


def to_vm(m, text, flags=0, handler="hlt", vector=13, count=200):
    """IRET to 16-bit code at 4000:0000 in virtual-8086 mode; the handler is at OTHER."""
    m.write(0x40000, assemble(text, 16))
    set_idt(m, vector, gate(14, K_CODE, OTHER, dpl=3))
    enter = "".join(f"push {v}\n" for v in (0x77, 0x66, 0x55, 0x44, 0x3000, 0x100, flags | VM | 2, 0x4000, 0))
    return go(m, enter + "iretd", handler, count)


def paged(m):
    """32-bit paging, identity in the first 4 MiB but for the page at 70000h."""
    m.write(0x60000, struct.pack("<I", 0x61007))
    m.write(0x61000, b"".join(struct.pack("<I", i << 12 | 7) for i in range(256)))
    m.write(0x61000 + 4 * 0x70, bytes(4))
    m.cpu.cr3 = 0x60000
    m.cpu.cr0 = 0x80000011
