"""Hot loops that change their own page tables end alike in the translator, in the interpreter and in the reference.

Each program runs in 64-bit mode, as a kernel or in ring 3 with a small kernel under it (INT 80h to 83h): loads, stores
and read-modify-writes among changes of entries with INVLPG or INVPCID, MOV CR3 with and without PCIDs, STAC and CLAC,
WRPKRU and CR0.WP.  Its page-fault handler mixes error code and CR2 into a checksum and goes on behind the instruction.
The reference (paging_reference) has no TLB.  ``XENFAST_PAGING_SEED`` chooses the seed.
"""

import os
import random
import struct

import pytest

from tests.cpu.asm import assemble
from tests.cpu.paging_machine import NX, RW, US, A, D, G, P
from tests.cpu.paging_reference import READ, WRITE, Registers, translate
from xenfast import _core

SEED = int(os.environ.get("XENFAST_PAGING_SEED", "20241"))
MEMORY, CODE, HANDLER, STACK, GDT, TSS, IDT, DESCRIPTOR = (
    4 << 20,
    0x10000,
    0x3000,
    0x5000,
    0x6000,
    0x6800,
    0x7000,
    0x8000,
)
KERNEL_SEGMENTS = 0x00AF9B000000FFFF, 0x00CF93000000FFFF
USER_SEGMENTS = 0x00AFFB000000FFFF, 0x00CFF3000000FFFF
TABLES, DATA, FRAMES = 0x100000, 0x200000, 16
OWN, SHARED, PAGES, ROOTS, SLOT, ROUNDS = 0x40000000, 0x80000000, 3, 2, 32, 80
M64 = (1 << 64) - 1
SERVICES = ("mov cr3, rax", "invlpg [rbx]", "invpcid rcx, [rbx]", "hlt")


class Program:
    """The text of a loop body, one operation in each 32 bytes, and what it means."""

    def __init__(self, rng: random.Random, user: bool) -> None:
        self.rng, self.user, self.pcids, self.pke = rng, user, rng.random() < 0.6, rng.random() < 0.5
        self.smap, self.some_wp = not user and rng.random() < 0.6, not user and rng.random() < 0.3
        self.image, self.descriptors = bytearray(MEMORY), []
        self.build()
        self.operations = [self.operation() for _ in range(60)]
        self.text = "\n".join(f".balign {SLOT}, 0x90; {text}" for text, _ in self.operations)

    # -- page tables --------------------------------------------------------------------------------------------------
    def put(self, at: int, value: int, size: int = 8) -> None:
        self.image[at : at + size] = value.to_bytes(size, "little")

    def build(self) -> None:
        """Of each root a PML4, a PDPT and the tables of OWN; those of SHARED and of the low 4 MBytes once."""
        low, shared = TABLES + 0x20000, TABLES + 0x21000
        self.leaves = {}
        for root in range(ROOTS):
            top = TABLES + root * 0x4000
            self.put(top, top + 0x1000 | P | RW | US)
            for i, table in enumerate((low, top + 0x2000, shared)):
                self.put(top + 0x1000 + 8 * i, table | P | RW | US)
            self.put(top + 0x2000, top + 0x3000 | P | RW | US)
            for i in range(PAGES):
                self.leaves[root, OWN + i * 0x1000] = top + 0x3000 + 8 * i
                self.leaves[root, SHARED + i * 0x1000] = shared + 0x1000 + 8 * i
        for i in range(2):
            self.put(low + 8 * i, i << 21 | 0x83 | G | (US if self.user else 0))
        self.put(shared, shared + 0x1000 | P | RW | US)
        for (_, page), at in self.leaves.items():
            self.put(at, self.entry(page))

    def entry(self, page: int) -> int:
        rng = self.rng
        value = sum(
            flag
            for flag, p in ((P, 0.85), (RW, 0.75), (US, 0.8 if self.user else 0.4), (A, 0.5), (D, 0.5), (NX, 0.2))
            if rng.random() < p
        )
        return value | (DATA + rng.randrange(FRAMES) * 0x1000) | (G if page >= SHARED else 0) | rng.randrange(3) << 59

    def cr3(self, root: int) -> int:
        return TABLES + root * 0x4000 | (root + 1 if self.pcids else 0)

    # -- operations: (assembly, what it means to a Model) -------------------------------------------------------------
    def operation(self):
        rng = self.rng
        kinds = (
            ["load"] * 8
            + ["store"] * 7
            + ["rmw"] * 4
            + ["change"] * 5
            + ["switch"]
            + ["ac"] * 3 * self.smap
            + ["wp"] * self.some_wp
        )
        return getattr(self, rng.choice(kinds + ["pkru"] * self.pke))()

    def address(self) -> int:
        return self.rng.choice((OWN, SHARED)) + self.rng.randrange(PAGES) * 0x1000 + self.rng.randrange(0, 4096, 8)

    def load(self):
        at = self.address()
        return f"mov rbx, {at}; mov rax, [rbx]; rol r12, 7; add r12, rax", lambda m: m.load(at)

    def store(self):
        at = self.address()
        return f"mov rbx, {at}; inc r14; mov [rbx], r14", lambda m: m.store(at, lambda old: m.r14)

    def rmw(self):
        at = self.address()
        return f"mov rbx, {at}; inc r14; lock add [rbx], r14", lambda m: m.store(at, lambda old: old + m.r14)

    def kernel(self, text: str) -> str:
        """A privileged instruction, or the system call for it."""
        return f"int {0x80 + SERVICES.index(text)}" if self.user else text

    def change(self):
        """A new entry, and what forgets the old one: INVLPG, with PCIDs INVPCID of the address or of the PCID."""
        rng, (root, page) = self.rng, self.rng.choice(list(self.leaves))
        at, value = self.leaves[root, page], self.entry(page)
        forget = f"mov ebx, {page + rng.randrange(4096)}; {self.kernel('invlpg [rbx]')}"
        if self.pcids and page < SHARED:
            here = DESCRIPTOR + 16 * len(self.descriptors)
            self.descriptors.append(here)
            self.put(here, root + 1)
            self.put(here + 8, page)
            forget = f"mov ecx, {rng.randrange(2)}; mov ebx, {here}; {self.kernel('invpcid rcx, [rbx]')}"
        return f"mov rax, {value}; mov [{at}], rax; {forget}", lambda m: m.put(at, value)

    def switch(self):
        root = self.rng.randrange(ROOTS)
        keep = 1 << 63 if self.pcids and self.rng.random() < 0.8 else 0
        return f"mov rax, {self.cr3(root) | keep}; {self.kernel('mov cr3, rax')}", lambda m: m.change(
            cr3=self.cr3(root)
        )

    def ac(self):
        on = self.rng.random() < 0.5
        return ("stac" if on else "clac"), lambda m: m.change(ac=on)

    def wp(self):
        on = self.rng.random() < 0.7
        return f"mov rax, {0x80000011 | on << 16}; mov cr0, rax", lambda m: m.change(wp=on)

    def pkru(self):
        value = self.rng.getrandbits(6) & ~(3 if self.user else 0)  # key 0 is the code's
        return f"mov eax, {value}; xor ecx, ecx; xor edx, edx; wrpkru", lambda m: m.change(pkru=value)


class Model:
    """The loop body as the reference sees it."""

    def __init__(self, program: Program) -> None:
        self.ram = bytearray(program.image)
        self.r = Registers(pae=True, lma=True, nxe=True, smap=program.smap, pke=program.pke, cr3=program.cr3(0))
        self.r12 = self.r14 = 0
        self.user = program.user

    def get(self, at: int, size: int = 8) -> int:
        return int.from_bytes(self.ram[at : at + size], "little")

    def put(self, at: int, value: int) -> None:
        self.ram[at : at + 8] = value.to_bytes(8, "little")

    def change(self, **values) -> None:
        for name, value in values.items():
            setattr(self.r, name, value)

    def mix(self, value: int) -> None:
        self.r12 = ((self.r12 << 7 | self.r12 >> 57) + value) & M64

    def translate(self, at: int, kind: str) -> int | None:
        outcome = translate(self.get, self.r, at, kind, self.user)
        for entry, value in outcome.marks.items():
            self.put(entry, value)
        if outcome.error is not None:
            self.r12 ^= outcome.error
            self.mix(at)
        return outcome.physical

    def load(self, at: int) -> None:
        physical = self.translate(at, READ)
        if physical is not None:
            self.mix(self.get(physical))

    def store(self, at: int, value) -> None:
        self.r14 += 1
        physical = self.translate(at, WRITE)
        if physical is not None:
            self.put(physical, value(self.get(physical)) & M64)


def run(program: Program, engine: str):
    """(checksum, stores, what is left in memory) of the real thing."""
    memory = _core.Memory(MEMORY >> 12)
    physmap = _core.GuestPhysMap(MEMORY >> 12)
    physmap.set(0, range(MEMORY >> 12))
    ram = memory.view(0, MEMORY >> 12)
    ram[:] = program.image
    cpu = _core.Vcpu(memory, physmap)
    cpu.engine = engine
    if engine == "translator":
        cpu.hot_after = 2
    body = f"again: {program.text}\n.balign {SLOT}, 0x90; dec r13; jnz again; {program.kernel('hlt')}"
    handler = (
        "pop rax; xor r12, rax; mov rax, cr2; rol r12, 7; add r12, rax; or qword ptr [rsp], 31; inc qword ptr [rsp]"
    )
    services = [(HANDLER + 0x100 + 32 * i, f"{text}; iretq") for i, text in enumerate(SERVICES)]
    for i, (at, _) in enumerate(services):
        gate = struct.pack("<QQ", at | 8 << 16 | 0xEE00 << 32, 0)
        ram[IDT + (0x80 + i) * 16 : IDT + (0x81 + i) * 16] = gate
    ram[TSS + 4 : TSS + 12] = struct.pack("<Q", STACK)
    for at, text in ((CODE, body), (HANDLER, f"{handler}; iretq"), *services):
        code = assemble(text, 64, at)
        ram[at : at + len(code)] = code
    ram[GDT : GDT + 40] = struct.pack("<5Q", 0, *KERNEL_SEGMENTS, *USER_SEGMENTS)
    ram[IDT + 14 * 16 : IDT + 15 * 16] = struct.pack("<QQ", HANDLER | 8 << 16 | 0x8E00 << 32, 0)
    cpu.set_table("gdtr", GDT, 39)
    cpu.set_table("idtr", IDT, 0xFFF)
    cpu.set_segment("tr", 0x28, TSS, 0x67, 0x8B)
    cpu.cr4 = 0x20 | 1 << 7 | program.smap << 21 | program.pke << 22 | program.pcids << 17
    cpu.efer, cpu.cr3 = 0xD00, program.cr3(0)
    cpu.cr0 = 0x80010011
    cpu.set_segment("cs", 0x1B if program.user else 8, 0, 0xFFFFFFFF, 0xA0FB if program.user else 0xA09B)
    for name in ("ss", "ds", "es"):
        cpu.set_segment(name, 0x23 if program.user else 16, 0, 0xFFFFFFFF, 0xC0F3 if program.user else 0xC093)
    cpu.cpl = 3 if program.user else 0
    cpu.rsp, cpu.r13, cpu.rip = STACK - 0x800 * program.user, ROUNDS, CODE
    reason = cpu.run(1 << 24)
    assert reason == _core.ExitReason.EXIT_HLT, (_core.ExitReason(reason), cpu.exit_nr, hex(cpu.rip))
    return cpu.r12, cpu.r14, seen(program, ram)


def seen(program: Program, ram) -> tuple[list[int], bytes]:
    """The last entries, and the data; the tables above also serve the code."""
    leaves = [int.from_bytes(ram[at : at + 8], "little") for at in sorted(set(program.leaves.values()))]
    return leaves, bytes(ram[DATA : DATA + FRAMES * 0x1000])


def outcome(program: Program):
    model = Model(program)
    for _ in range(ROUNDS):
        for _, meaning in program.operations:
            meaning(model)
    return model.r12, model.r14, seen(program, model.ram)


@pytest.mark.parametrize("user", [False, True], ids=["ring0", "ring3"])
@pytest.mark.parametrize("number", range(8))
def test_programs(number, user):
    """Checksum of faults and loads, number of stores, data, and every A and D bit."""
    program = Program(random.Random(f"programs {SEED} {number}"), user)
    want = outcome(program)
    for engine in ("interpreter", "auto", "translator"):
        got = run(program, engine)
        assert got[:2] == want[:2], f"seed {SEED}: {engine}"
        assert got[2] == want[2], f"seed {SEED}: {engine}: memory differs"
