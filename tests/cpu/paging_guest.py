"""A guest of our own in one paging mode: memory mapped one to one, assembly to run, entries to change."""

from tests.cpu.asm import assemble
from tests.cpu.paging_machine import RW, US, P
from xenfast import _core

MEMORY, CODE, STACK, TABLES, DATA, OTHER = 16 << 20, 0x1000, 0x9000, 0x100000, 0x200000, 0x300000
PGE, LA57, PCIDE, SMEP, SMAP, PKE = 1 << 7, 1 << 12, 1 << 17, 1 << 20, 1 << 21, 1 << 22
WRITABLE = P | RW | US


class Guest:
    """16 MBytes mapped one to one with pages of 4 KBytes, ring 0, no IDT: an exception ends the run."""

    def __init__(self, mode, features=()):
        self.mode, self.bits = mode, 64 if "level" in mode else 32
        self.memory = _core.Memory(MEMORY >> 12)
        physmap = _core.GuestPhysMap(MEMORY >> 12)
        physmap.set(0, range(MEMORY >> 12))
        self.ram = self.memory.view(0, MEMORY >> 12)
        self.cpu = cpu = _core.Vcpu(self.memory, physmap)
        cpu.exact = True
        for name in features:
            cpu.set_cpuid(name, True)
        if mode == "5level":
            cpu.set_cpuid("la57", True)
        self.size = 4 if mode == "32" else 8
        self.levels = {"32": 2, "pae": 3, "4level": 4, "5level": 5}[mode]
        self.next_table = TABLES
        self.root = self.tables()
        cpu.set_table("idtr", 0, 0)
        cpu.cr4 = {"32": 0x10, "pae": 0x20, "4level": 0x20, "5level": 0x20 | LA57}[mode]
        cpu.efer = {"32": 0, "pae": 0x800}.get(mode, 0xD00)
        cpu.cr3 = self.root
        cpu.cr0 = 0x80010011
        cpu.set_segment("cs", 8, 0, 0xFFFFFFFF, 0xA09B if self.bits == 64 else 0xC09B)
        for name in ("ss", "ds", "es"):
            cpu.set_segment(name, 16, 0, 0xFFFFFFFF, 0xC093)
        cpu.rsp = STACK

    def put(self, address, value, size=None):
        size = size or self.size
        self.ram[address : address + size] = value.to_bytes(size, "little")

    def get(self, address, size=None):
        return int.from_bytes(self.ram[address : address + (size or self.size)], "little")

    def tables(self):
        """A new root over 16 MBytes; its address."""
        root = at = self.next_table
        for level in range(self.levels, 2, -1):
            self.put(at, at + 0x1000 | (P if level == 3 and self.mode == "pae" else WRITABLE))
            at += 0x1000
        per_table = 4096 // self.size
        for i in range(MEMORY // 4096 // per_table):
            table = at + (i + 1) * 0x1000
            self.put(at + i * self.size, table | WRITABLE)
            for k in range(per_table):
                self.put(table + k * self.size, (i * per_table + k) * 4096 | P | RW)
        self.directory = at
        self.next_table = at + 0x10000
        return root

    def pte(self, linear, root=None):
        """Address of the last entry for a linear address below 16 MBytes."""
        directory = self.directory if root is None else root + (self.levels - 2) * 0x1000
        per_table = 4096 // self.size
        page = linear >> 12
        return directory + (page // per_table + 1) * 0x1000 + page % per_table * self.size

    def flags(self, linear, flags, root=None, frame=None):
        self.put(self.pte(linear, root), (linear if frame is None else frame) & ~0xFFF | flags)

    def run(self, text, at=CODE, count=200):
        """Run assembly to its end; (vector, error code) of the exception that stopped it, or None."""
        code = assemble(text, self.bits, at)
        self.ram[at : at + len(code)] = code
        self.memory.wrote(at >> 12)
        cpu = self.cpu
        cpu.rip, cpu.until = at, at + len(code)
        reason = cpu.run(count)
        if reason == _core.ExitReason.EXIT_EXCEPTION:
            return cpu.exit_nr, cpu.exit_code
        assert reason == _core.ExitReason.EXIT_UNTIL, _core.ExitReason(reason)
        return None

    def ring3(self):
        self.cpu.set_segment("cs", 0x1B, 0, 0xFFFFFFFF, 0xA0FB if self.bits == 64 else 0xC0FB)
        for name in ("ss", "ds", "es"):
            self.cpu.set_segment(name, 0x23, 0, 0xFFFFFFFF, 0xC0F3)
        self.cpu.cpl = 3
